package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// script is an executor that says the same ids after any prompt.
type script struct {
	vocab  int
	prompt int // tokens
	says   []int64
}

func (s *script) Open(_ context.Context, d *route.Decision) (schedule.Pools, error) {
	d.Chosen = route.Choice{Platform: "script", Device: "script:0"}
	return schedule.Pools{Own: kvcache.Geometry{Pages: 64, PageSize: 16}}, nil
}

func (s *script) Step(_ context.Context, st *schedule.Step) ([]float32, error) {
	logits := make([]float32, len(st.Select)*s.vocab)
	for i, row := range st.Select {
		next := int(st.Positions[row]) + 1 - s.prompt
		logits[i*s.vocab+int(s.says[min(max(0, next), len(s.says)-1)])] = 10
	}
	return logits, nil
}

func (s *script) Encode(context.Context, *schedule.Encoding) error {
	return errors.New("no sources here")
}
func (s *script) SwapOut(context.Context, []int64) (schedule.Swapped, error) {
	return nil, errors.New("no swap here")
}
func (s *script) SwapIn(context.Context, schedule.Swapped, []int64) error {
	return errors.New("no swap here")
}
func (s *script) Wanted() <-chan struct{} { return nil }
func (s *script) Close() error            { return nil }

const testPrompt = "Say it:"

// testCompleter answers testPrompt with a text, special tokens in it included.
func testCompleter(t *testing.T, family, says string, prompt []int64) *Completer {
	t.Helper()
	tok, err := processors.OpenTokenizer(filepath.Join("..", "..", "testdata", "tiny", "tokenizers", family))
	if err != nil {
		t.Fatal(err)
	}
	ids := func(text string, o processors.EncodeOptions) []int64 {
		e, err := tok.Encode(text, o)
		if err != nil {
			t.Fatal(err)
		}
		return e.IDs
	}
	if prompt == nil {
		prompt = ids(testPrompt, processors.EncodeOptions{})
	}
	end, ok := tok.TokenToID(map[string]string{"bpe_qwen": "<|im_end|>", "bpe_llama2_llava": "</s>"}[family])
	if !ok {
		t.Fatal("the tokenizer has no end token")
	}
	s, err := schedule.New(&script{vocab: tok.VocabSize(), prompt: len(prompt), says: append(ids(says, processors.EncodeOptions{NoSpecial: true}), end)},
		schedule.Options{Vocabulary: tok.VocabSize()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Completer{Model: "m", Tokenizer: tok, Scheduler: s, MaxTokens: 512, End: []int64{end}}
}

// collected is what a choice's events make together.
type collected struct {
	Text, Finish string
	Calls        []string
	events       int
}

func collect(t *testing.T, c *Completer, req GenerateRequest) ([]collected, GenerateResult, error) {
	t.Helper()
	out := make([]collected, max(1, req.N))
	res, err := c.Generate(t.Context(), req, func(e GenerateEvent) error {
		at := &out[e.Choice]
		if at.Finish != "" {
			t.Errorf("choice %d goes on after its end: %+v", e.Choice, e)
		}
		at.Text += e.Text
		at.Finish = e.Finish
		if e.Call != nil {
			if e.Call.ID == "" {
				t.Error("a call has no id")
			}
			at.Calls = append(at.Calls, e.Call.Function.Name+" "+e.Call.Function.Arguments)
		}
		at.events++
		return nil
	})
	for i := range out {
		out[i].events = 0
	}
	return out, res, err
}

func TestGenerate(t *testing.T) {
	const says = "Grüße, 東京! One. Two. Three."
	for _, tt := range []struct {
		name   string
		req    GenerateRequest
		want   []collected
		tokens bool // all that it says were drawn, and the end
	}{
		{"to the end", GenerateRequest{}, []collected{{Text: says, Finish: FinishStop}}, true},
		{"a stop text", GenerateRequest{Stop: []string{"nope", " Two"}}, []collected{{Text: "Grüße, 東京! One.", Finish: FinishStop}}, false},
		{"a stop text that only begins", GenerateRequest{Stop: []string{"Three.x"}}, []collected{{Text: says, Finish: FinishStop}}, true},
		{"two choices", GenerateRequest{N: 2}, []collected{{Text: says, Finish: FinishStop}, {Text: says, Finish: FinishStop}}, false},
		{"two choices with a stop text", GenerateRequest{N: 2, Stop: []string{"!"}}, []collected{{Text: "Grüße, 東京", Finish: FinishStop}, {Text: "Grüße, 東京", Finish: FinishStop}}, false},
	} {
		for _, family := range []string{"bpe_qwen", "bpe_llama2_llava"} {
			t.Run(tt.name+"/"+family, func(t *testing.T) {
				c := testCompleter(t, family, says, nil)
				tt.req.Prompt = testPrompt
				got, res, err := collect(t, c, tt.req)
				if err != nil {
					t.Fatal(err)
				}
				for i := range got {
					got[i].Text = strings.TrimPrefix(got[i].Text, " ") // SentencePiece begins a text with a space
				}
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
				if res.Decision.Chosen.Device != "script:0" || res.PromptTokens == 0 || res.CompletionTokens == 0 {
					t.Errorf("the result is %+v", res)
				}
			})
		}
	}
}

func TestGenerateLength(t *testing.T) {
	c := testCompleter(t, "bpe_qwen", "東京 and more", nil)
	for n := 1; n < 6; n++ {
		got, res, err := collect(t, c, GenerateRequest{Prompt: testPrompt, MaxTokens: n})
		if err != nil || got[0].Finish != FinishLength || res.CompletionTokens != n {
			t.Fatalf("%d tokens: got %+v, %+v, %v", n, got, res, err)
		}
		// What was cut inside a character is shown as such when the text ends, and not before.
		if whole := strings.TrimRight(got[0].Text, "\uFFFD"); !strings.HasPrefix("東京 and more", whole) {
			t.Errorf("%d tokens: %q", n, got[0].Text)
		}
	}
}

func TestGenerateLogprobs(t *testing.T) {
	c := testCompleter(t, "bpe_qwen", "One two", nil)
	var text strings.Builder
	var tokens []byte
	_, err := c.Generate(t.Context(), GenerateRequest{Prompt: testPrompt, Logprobs: true, Sampling: schedule.Sampling{TopLogprobs: 2}}, func(e GenerateEvent) error {
		text.WriteString(e.Text)
		for _, x := range e.Tokens {
			tokens = append(tokens, x.Bytes...)
			if x.Logprob >= 0 || x.Logprob < -1 || len(x.Top) != 2 || x.Top[0].ID != x.ID || x.Top[1].Logprob >= x.Logprob {
				t.Errorf("token %+v", x)
			}
		}
		return nil
	})
	if err != nil || text.String() != "One two" || string(tokens) != "One two" {
		t.Errorf("the text is %q, its tokens %q, %v", text.String(), tokens, err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	c := testCompleter(t, "bpe_qwen", "x", nil)
	tool := processors.Tool{Type: "function", Function: processors.Function{Name: "f"}}
	for _, tt := range []struct {
		name string
		req  GenerateRequest
		want string
	}{
		{"nothing", GenerateRequest{}, "prompt: it is empty"},
		{"two prompts", GenerateRequest{Prompt: "a", Tokens: []int64{1}}, "more than one form"},
		{"an unknown token", GenerateRequest{Tokens: []int64{1, 1 << 40}}, "token 1 is 1099511627776"},
		{"messages without a template", GenerateRequest{Messages: []processors.Message{{Role: "user"}}}, "no chat template"},
		{"tools without messages", GenerateRequest{Prompt: "a", Tools: []processors.Tool{tool}}, "tools: they go with messages"},
		{"too long", GenerateRequest{Tokens: make([]int64, 600)}, "600 tokens"},
		{"too much asked for", GenerateRequest{Prompt: "a", MaxTokens: 512}, "512 are asked for"},
		{"an empty stop", GenerateRequest{Prompt: "a", Stop: []string{""}}, "stop[0]: it is empty"},
		{"a schema", GenerateRequest{Prompt: "a", Schema: json.RawMessage(`{}`)}, "can't be held to a schema"},
		{"a tool that is not there", GenerateRequest{Prompt: "a", ToolChoice: ToolChoice{Mode: ToolsRequired, Name: "g"}}, `"g" is required`},
	} {
		_, _, err := collect(t, c, tt.req)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	stop := errors.New("the client is gone")
	if _, err := c.Generate(t.Context(), GenerateRequest{Prompt: "a"}, func(GenerateEvent) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of emit became %v", err)
	}
}

func TestStopper(t *testing.T) {
	for _, tt := range []struct {
		stops, text []string
		want        string
		stopped     bool
	}{
		{nil, []string{"a", "b"}, "a|b", false},
		{[]string{"END"}, []string{"xE", "ND", "y"}, "x|", true},
		{[]string{"END"}, []string{"xE", "N", "x", ""}, "x||ENx|", false},
		{[]string{"aab"}, []string{"a", "a", "a", "b"}, "||a|", true},
		{[]string{"b", "ab"}, []string{"xab"}, "x", true},
		{[]string{"END"}, []string{"xEN", ""}, "x|EN", false},
	} {
		s := stopper{stops: tt.stops}
		var got []string
		stopped := false
		for i, text := range tt.text {
			var out string
			if out, stopped = s.push(text, i == len(tt.text)-1); true {
				got = append(got, out)
			}
			if stopped {
				break
			}
		}
		if strings.Join(got, "|") != tt.want || stopped != tt.stopped {
			t.Errorf("stops %q in %q: got %q, %v, want %q, %v", tt.stops, tt.text, strings.Join(got, "|"), stopped, tt.want, tt.stopped)
		}
	}
}
