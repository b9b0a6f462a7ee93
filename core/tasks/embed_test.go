package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// words gives each word the id of its length, between 100 and 101.
type words struct{}

func (words) Encode(text string, max int) ([]int64, int, error) {
	if strings.Contains(text, "\x00") {
		return nil, 0, errors.New("a null character")
	}
	ids := []int64{100}
	for _, w := range strings.Fields(text) {
		ids = append(ids, int64(len(w)))
	}
	cut := 0
	if max > 0 && len(ids)+1 > max {
		cut = len(ids) + 1 - max
		ids = ids[:max-1]
	}
	return append(ids, 101), cut, nil
}

// sums is a graph whose vector is (sum of the ids, count of the tokens, 1, 0).
type sums struct {
	batches []tensor.Shape
	err     error
	bad     float32
}

func (s *sums) Run(_ context.Context, d *route.Decision, in map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	if s.err != nil {
		return nil, s.err
	}
	ids, mask := in["input_ids"].Tensor, in["attention_mask"].Tensor
	s.batches = append(s.batches, ids.Shape)
	d.Chosen = route.Choice{Platform: "cpu", Device: "cpu"}
	n, l := ids.Shape[0], ids.Shape[1]
	out := make([]float32, n*4)
	for b := range n {
		for i := range l {
			m := tensor.View[int64](mask)[b*l+i]
			out[b*4] += float32(m * tensor.View[int64](ids)[b*l+i])
			out[b*4+1] += float32(m)
		}
		out[b*4+2] = 1 + s.bad
	}
	return map[string]graph.Datum{wanted[0]: graph.TensorDatum(tensor.Floats(tensor.Shape{n, 4}, out...))}, nil
}

func embedder(r tasks.Runner) *tasks.Embedder {
	return &tasks.Embedder{Model: "m", Encoder: words{}, Runner: r, MaxTokens: 6, Hidden: 4, Pad: 7, Output: "v",
		Feeds: func(in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
			for _, id := range tensor.View[int64](in["input_ids"]) {
				if id > 101 {
					return nil, fmt.Errorf("token id %d is out of range", id)
				}
			}
			return in, nil
		}}
}

func TestEmbedKeepsOrderAndMasksPadding(t *testing.T) {
	r := &sums{}
	res, err := embedder(r).Embed(t.Context(), tasks.EmbedRequest{Texts: []string{"a", "bb cc dd", "", "eeee ff"}})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]float32{{202, 3, 1, 0}, {207, 5, 1, 0}, {201, 2, 1, 0}, {207, 4, 1, 0}}
	if !reflect.DeepEqual(res.Vectors, want) {
		t.Errorf("vectors %v, want %v", res.Vectors, want)
	}
	if res.Tokens != 14 || res.Truncated != nil || res.Decision.Chosen.Device != "cpu" {
		t.Errorf("tokens %d, truncated %v, decision %+v", res.Tokens, res.Truncated, res.Decision)
	}
}

func TestEmbedBoundsItsBatches(t *testing.T) {
	r := &sums{}
	e := embedder(r)
	e.MaxTokens = 4096
	long := strings.Repeat("w ", 2000)
	texts := []string{long, long, long}
	for range 100 {
		texts = append(texts, "x")
	}
	res, err := e.Embed(t.Context(), tasks.EmbedRequest{Texts: texts})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.batches {
		if n, _ := s.Elements(); n > 4096 || s[0] > 64 {
			t.Errorf("a batch of %v", s)
		}
	}
	if got := res.Vectors[3][0]; got != 202 {
		t.Errorf("the first short text has sum %v, want 202", got)
	}
	if len(r.batches) != 4 {
		t.Errorf("%d batches %v, want 4", len(r.batches), r.batches)
	}
}

func TestEmbedTruncatesOnlyWhenAsked(t *testing.T) {
	req := tasks.EmbedRequest{Texts: []string{"a", "a b c d e f g"}}
	_, err := embedder(&sums{}).Embed(t.Context(), req)
	var long *tasks.InputTooLongError
	if !errors.As(err, &long) || long.Input != 1 || long.Tokens != 9 || long.Limit != 6 {
		t.Fatalf("got %v, want an InputTooLongError for input 1", err)
	}
	req.Truncate = true
	res, err := embedder(&sums{}).Embed(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(res.Truncated, []int{0, 3}) {
		t.Errorf("truncated %v, want [0 3]", res.Truncated)
	}
	res, err = embedder(&sums{}).Embed(t.Context(), tasks.EmbedRequest{Tokens: [][]int64{{1, 2, 3, 4, 5, 6, 7, 8}}, Truncate: true})
	if err != nil || res.Tokens != 6 || res.Truncated[0] != 2 {
		t.Errorf("tokens %d, truncated %v, %v; want 6 and 2 cut", res.Tokens, res.Truncated, err)
	}
}

func TestEmbedShortensVectors(t *testing.T) {
	e := embedder(&sums{})
	e.Normalize = true
	res, err := e.Embed(t.Context(), tasks.EmbedRequest{Texts: []string{"a"}, Dimensions: 2})
	if err != nil {
		t.Fatal(err)
	}
	v := res.Vectors[0]
	if len(v) != 2 || math.Abs(math.Hypot(float64(v[0]), float64(v[1]))-1) > 1e-6 {
		t.Errorf("got %v, want two components of length 1", v)
	}
}

func TestEmbedRefuses(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		req  tasks.EmbedRequest
		run  *sums
		want string
	}{
		{"nothing", tasks.EmbedRequest{}, &sums{}, "no input"},
		{"texts and tokens", tasks.EmbedRequest{Texts: []string{"a"}, Tokens: [][]int64{{1}}}, &sums{}, "no input"},
		{"no tokens", tasks.EmbedRequest{Tokens: [][]int64{{1}, {}}}, &sums{}, "input[1]: it has no tokens"},
		{"id out of range", tasks.EmbedRequest{Tokens: [][]int64{{1000}}}, &sums{}, "1000 is out of range"},
		{"text that can't be encoded", tasks.EmbedRequest{Texts: []string{"\x00"}}, &sums{}, "null character"},
		{"too many dimensions", tasks.EmbedRequest{Texts: []string{"a"}, Dimensions: 5}, &sums{}, "5 was asked for"},
		{"a failing run", tasks.EmbedRequest{Texts: []string{"a"}}, &sums{err: boom}, "boom"},
		{"not a number", tasks.EmbedRequest{Texts: []string{"a"}}, &sums{bad: float32(math.NaN())}, "NaN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := embedder(tt.run).Embed(t.Context(), tt.req)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
