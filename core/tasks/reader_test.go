package tasks

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/tensor"
)

// reading is a script that reads its prompts.
type reading struct {
	script
	read [][]int64 // prompts that were encoded
}

func (r *reading) Open(ctx context.Context, d *route.Decision) (schedule.Pools, error) {
	p, err := r.script.Open(ctx, d)
	p.Cross = kvcache.Geometry{Pages: 16, PageSize: 4}
	return p, err
}

func (r *reading) Encode(_ context.Context, e *schedule.Encoding) error {
	r.read = append(r.read, slices.Clone(tensor.View[int64](e.Inputs["input_ids"])))
	return nil
}

// words is a Reader of at most 12 tokens that refuses prompts of two.
type words struct{}

const wordsStart = 7

func (words) Start() int64 { return wordsStart }
func (words) Limit() int   { return 12 }

func (words) Source(ids []int64) (*schedule.Source, error) {
	if len(ids) == 2 {
		return nil, errors.New("two words are no prompt")
	}
	return schedule.NewSource(map[string]tensor.Tensor{"input_ids": tensor.Ints(tensor.Shape{1, int64(len(ids))}, ids...)}, len(ids)), nil
}

func newReading(t *testing.T, says string) (*Completer, *reading) {
	t.Helper()
	g := testCompleter(t, "bpe_qwen", says, []int64{wordsStart})
	e, err := g.Tokenizer.Encode(says, processors.EncodeOptions{NoSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	x := &reading{script: script{vocab: g.Tokenizer.VocabSize(), prompt: 1, says: append(e.IDs, g.End[0])}}
	s, err := schedule.New(x, schedule.Options{Vocabulary: x.vocab, Sources: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	g.Scheduler, g.Reader = s, words{}
	return g, x
}

// TestPromptsAreRead: what an encoder reads is the prompt, and what a decoder writes begins with a
// token of its own.
func TestPromptsAreRead(t *testing.T) {
	g, x := newReading(t, "Es ist gut.")
	prompt := []int64{31, 7, 400, 22, 85}
	for range 2 { // the second time it has been read
		got, res, err := collect(t, g, GenerateRequest{Tokens: prompt, N: 2})
		if err != nil {
			t.Fatal(err)
		}
		if want := (collected{Text: "Es ist gut.", Finish: FinishStop}); !reflect.DeepEqual(got, []collected{want, want}) {
			t.Errorf("%+v", got)
		}
		if res.PromptTokens != len(prompt) || res.CompletionTokens != 2*len(x.says) {
			t.Errorf("counted are %d tokens of prompt and %d drawn", res.PromptTokens, res.CompletionTokens)
		}
	}
	if _, _, err := collect(t, g, GenerateRequest{Prompt: "one two three"}); err != nil {
		t.Error(err)
	}
	e, err := g.Tokenizer.Encode("one two three", processors.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := [][]int64{prompt, e.IDs}; !reflect.DeepEqual(x.read, want) {
		t.Errorf("read were %v, wanted %v", x.read, want)
	}
}

func TestPromptsThatCannotBeRead(t *testing.T) {
	g, x := newReading(t, "a")
	g.MaxTokens = 20
	for _, tt := range []struct {
		name string
		req  GenerateRequest
		want error
		says string
	}{
		{"too long", GenerateRequest{Tokens: make([]int64, 13)}, &ContextError{Model: "m", Field: "prompt", Prompt: 13, Limit: 12, Reads: true}, `model "m" reads 12`},
		{"too much to be written", GenerateRequest{Tokens: make([]int64, 12), MaxTokens: 20}, &ContextError{Model: "m", Field: "prompt", Prompt: 1, MaxTokens: 20, Limit: 20}, "takes 20 together"},
		{"refused by the reader", GenerateRequest{Tokens: make([]int64, 2)}, &InvalidInputError{Field: "prompt", Input: -1, Problem: "two words are no prompt"}, "two words"},
		{"not in the vocabulary", GenerateRequest{Tokens: []int64{1 << 40}}, nil, "does not have"},
		{"a conversation", GenerateRequest{Messages: []processors.Message{{Role: "user", Content: processors.TextContent("hi")}}}, nil, "no chat template"},
	} {
		_, _, err := collect(t, g, tt.req)
		if err == nil || !strings.Contains(err.Error(), tt.says) || tt.want != nil && !reflect.DeepEqual(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if len(x.read) > 0 {
		t.Errorf("read was %v", x.read)
	}
}

// TestTokensWithoutText: matrices of vocabularies are padded, and what is drawn of the padding
// says nothing.
func TestTokensWithoutText(t *testing.T) {
	g := testCompleter(t, "bpe_qwen", "Well", nil)
	n := g.Tokenizer.VocabSize()
	e, err := g.Tokenizer.Encode(testPrompt, processors.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	well, err := g.Tokenizer.Encode("Well", processors.EncodeOptions{NoSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	says := slices.Concat([]int64{int64(n)}, well.IDs, []int64{int64(n) + 5}, well.IDs, g.End)
	s, err := schedule.New(&script{vocab: n + 8, prompt: len(e.IDs), says: says}, schedule.Options{Vocabulary: n + 8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g.Scheduler = s
	for _, logprobs := range []bool{false, true} {
		got, res, err := collect(t, g, GenerateRequest{Prompt: testPrompt, Logprobs: logprobs})
		if err != nil || got[0].Text != "WellWell" || got[0].Finish != FinishStop || res.CompletionTokens != len(says) {
			t.Errorf("%+v, %+v, %v", got, res, err)
		}
	}
}
