package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/shared"

	"github.com/accelhq/accel/core/schedule/constrain/schematest"
)

// asked is one request of a soak.
type asked struct {
	kind    string
	stream  bool
	params  openai.ChatCompletionNewParams
	options []option.RequestOption
	n, most int                     // choices, and tokens of each
	cancel  int                     // chunks (ms, if it isn't a stream) after which the client goes away; 0: it stays
	want    *known                  // the answer, if it is known
	valid   func(text string) error // what a schema says of each text; nil: there is none
	refused string                  // the code of the error that has to come
}

// answered is what came.
type answered struct {
	texts, finishes []string
	usage           openai.CompletionUsage
	cancelled       bool
	tokens          int // as far as they are known
	first           time.Duration
	between         []time.Duration
}

// known is a deterministic request's answer when nothing disturbs it.
type known struct {
	params openai.ChatCompletionNewParams
	most   int
	text   string
	tokens int64
}

var words = strings.Fields("the cold river runs past an old house where seven children read about stars and count every boat that comes home before rain")

func someWords(random *rand.Rand, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = words[random.IntN(len(words))]
	}
	return strings.Join(list, " ")
}

// messages begin like those of many other requests.
func (k *soak) messages(random *rand.Rand) []openai.ChatCompletionMessageParamUnion {
	prefix := rand.New(rand.NewPCG(7, random.Uint64N(4)))
	return []openai.ChatCompletionMessageParamUnion{
		openai.SystemMessage(someWords(prefix, min(48, k.room/32))),
		openai.UserMessage(someWords(random, 1+random.IntN(min(16, k.room/32)))),
	}
}

// length is how many tokens are asked for: mostly few.
func (k *soak) length(random *rand.Rand) int {
	most := min(64, k.room/4)
	return 1 + min(random.IntN(most), random.IntN(most))
}

// deterministic asks for logits that don't depend on what else is asked.
var deterministic = option.WithJSONSet("deterministic", true)

// prepare finds out what the model takes, and has some questions answered in peace.
func (k *soak) prepare(t *testing.T, s *serving) {
	t.Helper()
	var model struct {
		MaxTokens int `json:"max_tokens"`
	}
	s.getJSON(t, "/v1/models/"+k.model, &model)
	if k.room = model.MaxTokens; k.room < 64 {
		t.Fatalf("the model takes %d tokens", k.room)
	}
	random := rand.New(rand.NewPCG(*soakSeed, 1<<32))
	for range 8 {
		w := known{most: 8 + random.IntN(17)}
		w.params = openai.ChatCompletionNewParams{Model: k.model, Messages: k.messages(random), Temperature: openai.Float(0), MaxTokens: openai.Int(int64(w.most))}
		reply, err := k.client.Chat.Completions.New(t.Context(), w.params, deterministic)
		if err != nil {
			t.Fatal(err)
		}
		w.text, w.tokens = reply.Choices[0].Message.Content, reply.Usage.CompletionTokens
		if w.tokens == 0 {
			t.Fatalf("no answer: %s", reply.RawJSON())
		}
		k.known = append(k.known, w)
	}
}

var soakSchemas = []string{
	`{"type":"object","properties":{"n":{"type":"integer","minimum":0,"maximum":99},"color":{"enum":["red","blue"]}},"required":["n","color"],"additionalProperties":false}`,
	`{"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":4}`,
	`{"type":"object","properties":{"name":{"type":"string","maxLength":12},"day":{"type":"string","format":"date"}},"required":["name"],"additionalProperties":false}`,
}

// draw makes up a request.
func (k *soak) draw(random *rand.Rand) *asked {
	r := &asked{stream: random.IntN(2) == 0, n: 1, most: k.length(random)}
	r.params = openai.ChatCompletionNewParams{Model: k.model, Messages: k.messages(random), Temperature: openai.Float(0.8), Seed: openai.Int(random.Int64())}
	switch p := random.IntN(100); {
	case p < 15:
		r.kind, r.want = "deterministic", &k.known[random.IntN(len(k.known))]
		r.params, r.most = r.want.params, r.want.most
		r.options = append(r.options, deterministic)
	case p < 30:
		r.kind, r.n = "choices", 2+random.IntN(3)
		r.params.N = openai.Int(int64(r.n))
	case p < 45:
		schema := soakSchemas[random.IntN(len(soakSchemas))]
		r.kind, r.valid, r.most = "schema", soakValidators[schema], min(60, k.room/3)
		r.params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
			JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "answer", Schema: json.RawMessage(schema)}}
	case p < 47:
		r.kind, r.refused, r.most = "too long", "context_length_exceeded", k.room
	case p < 60:
		r.kind = "greedy"
		r.params.Temperature = openai.Float(0)
	case p < 70:
		r.kind = "penalties"
		r.params.TopP, r.params.FrequencyPenalty, r.params.PresencePenalty = openai.Float(0.9), openai.Float(0.5), openai.Float(0.2)
		r.params.Logprobs, r.params.TopLogprobs = openai.Bool(true), openai.Int(3)
	default:
		r.kind = "chat"
	}
	r.params.MaxTokens = openai.Int(int64(r.most))
	if r.stream {
		r.params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	}
	if r.refused == "" && random.IntN(7) == 0 {
		r.cancel = 1 + random.IntN(max(1, r.most))
		if !r.stream {
			r.cancel *= 10
		}
	}
	return r
}

var soakValidators = func() map[string]func(string) error {
	all := map[string]func(string) error{}
	for _, s := range soakSchemas {
		v, err := schematest.Compile([]byte(s))
		if err != nil {
			panic(err)
		}
		all[s] = v
	}
	return all
}()

// answer asks and reads, until the client goes away.
func (k *soak) answer(ctx context.Context, cancel func(), r *asked) (answered, error) {
	a := answered{texts: make([]string, r.n), finishes: make([]string, r.n)}
	if !r.stream {
		if r.cancel > 0 {
			defer time.AfterFunc(time.Duration(r.cancel)*time.Millisecond, cancel).Stop()
		}
		reply, err := k.client.Chat.Completions.New(ctx, r.params, r.options...)
		if err != nil {
			a.cancelled = r.cancel > 0 && errors.Is(err, context.Canceled)
			return a, err
		}
		a.usage, a.tokens = reply.Usage, int(reply.Usage.CompletionTokens)
		if len(reply.Choices) != r.n {
			return a, fmt.Errorf("%d choices, wants %d", len(reply.Choices), r.n)
		}
		for i, c := range reply.Choices {
			a.texts[i], a.finishes[i] = c.Message.Content, c.FinishReason
		}
		return a, nil
	}
	last := time.Now()
	stream := k.client.Chat.Completions.NewStreaming(ctx, r.params, r.options...)
	defer stream.Close()
	for n := 0; stream.Next(); n++ {
		if r.cancel > 0 && n == r.cancel {
			a.cancelled = true
			return a, nil
		}
		chunk := stream.Current()
		now := time.Now()
		if n == 0 {
			a.first = now.Sub(last)
		} else if len(chunk.Choices) > 0 && r.n == 1 {
			a.between = append(a.between, now.Sub(last))
		}
		last = now
		for _, c := range chunk.Choices {
			if c.Index < 0 || c.Index >= int64(r.n) {
				return a, fmt.Errorf("a chunk of choice %d", c.Index)
			}
			if a.finishes[c.Index] != "" {
				return a, fmt.Errorf("a chunk of choice %d, which had ended", c.Index)
			}
			a.texts[c.Index] += c.Delta.Content
			a.finishes[c.Index] = c.FinishReason
			a.tokens++
		}
		if chunk.Usage.TotalTokens > 0 {
			a.usage, a.tokens = chunk.Usage, int(chunk.Usage.CompletionTokens)
		}
	}
	return a, stream.Err()
}

// judge says what is wrong with an answer that was waited for.
func (r *asked) judge(a answered, err error) error {
	if r.refused != "" {
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != 400 || e.Code != r.refused {
			return fmt.Errorf("got %v, wants a 400 of code %s", err, r.refused)
		}
		return nil
	}
	lengths := 0
	for i, finish := range a.finishes {
		switch {
		case finish == "length" && r.valid == nil: // a text under a schema has the tokens to end
			lengths++
		case finish != "stop":
			return fmt.Errorf("choice %d ended by %q: %q", i, finish, a.texts[i])
		case r.valid != nil:
			if err := r.valid(a.texts[i]); err != nil {
				return fmt.Errorf("%q: %w", a.texts[i], err)
			}
		}
	}
	// A choice that was cut off has all its tokens, any other at least its end.
	u, least := a.usage, int64(lengths*r.most+r.n-lengths)
	if u.PromptTokens <= 0 || u.CompletionTokens < least || u.CompletionTokens > int64(r.n*r.most) || u.TotalTokens != u.PromptTokens+u.CompletionTokens {
		return fmt.Errorf("usage %+v of %d choices with up to %d tokens, that ended by %q", u, r.n, r.most, a.finishes)
	}
	if w := r.want; w != nil && (a.texts[0] != w.text || u.CompletionTokens != w.tokens) {
		return fmt.Errorf("%q (%d tokens), undisturbed it was %q (%d)", a.texts[0], u.CompletionTokens, w.text, w.tokens)
	}
	return nil
}
