// Package tasks holds what people ask of a model, one file a task. A task turns
// people's input into tensors, has them run, and turns tensors into answers.
package tasks

import (
	"context"
	"fmt"
	"math"
	"sort"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// EmbedRequest asks for one vector an input.
type EmbedRequest struct {
	Texts []string
	// Tokens are token ids instead of Texts, as OpenAI's API allows; special tokens
	// are taken as given. Exactly one of Texts, Tokens and Files is set.
	Tokens [][]int64
	// Files are pictures, videos or sounds, for models whose vectors of them can be
	// held against those of texts, or against each other.
	Files []File
	// Truncate cuts inputs that are longer than the model takes; without it they are
	// an *InputTooLongError.
	Truncate bool
	// Dimensions keeps the first so many components of each vector, normalised
	// again; 0 keeps all.
	Dimensions int
}

// EmbedResult holds the vectors in the order of the request.
type EmbedResult struct {
	Vectors   [][]float32
	Tokens    int   // tokens run, special ones included
	Truncated []int // tokens cut, by input; nil where none were
	Decision  route.Decision
}

// Runner runs a graph somewhere and says in d where and why; d is handed on
// through all runs of a request.
type Runner interface {
	Run(ctx context.Context, d *route.Decision, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error)
}

// Encoder turns text into token ids, special tokens included, cut to max tokens
// if max is not 0. cut says how many tokens were left out.
type Encoder interface {
	Encode(text string, max int) (ids []int64, cut int, err error)
}

// Embedder embeds with one model: texts, where it has an Encoder, and files, where it has
// a Sense.
type Embedder struct {
	Model     string
	Encoder   Encoder
	Runner    Runner
	Sense     Sense
	Fetcher   Fetcher // of files at URLs; nil: none is fetched
	Perceive  *Part   // what makes vectors of files: output [batch, hidden]
	MaxTokens int     // of one input
	Hidden    int     // components of a vector
	Pad       int64   // id that fills a batch's shorter inputs
	Fixed     int     // tokens that every text is filled up to, without a mask; 0: those of the longest of a batch, with one
	Output    string  // the graph's output, [batch, hidden] float32
	Normalize bool    // whether the vectors have length 1
	// Feeds completes input_ids and attention_mask, both int64 [batch, sequence],
	// with what else the model takes, and refuses ids it does not know.
	Feeds func(map[string]tensor.Tensor) (map[string]tensor.Tensor, error)
}

// Batches are bounded in padded tokens, so that memory is bounded whatever the
// request; inputs of like length share one, so that little is padding.
const (
	maxBatchTokens = 4096
	maxBatchInputs = 64
)

// Embed computes one vector an input.
func (e *Embedder) Embed(ctx context.Context, req EmbedRequest) (EmbedResult, error) {
	if req.Dimensions < 0 || req.Dimensions > e.Hidden {
		return EmbedResult{}, &InvalidInputError{Field: "dimensions", Input: -1,
			Problem: fmt.Sprintf("%d was asked for, model %q has %d", req.Dimensions, e.Model, e.Hidden)}
	}
	if len(req.Files) > 0 && len(req.Texts)+len(req.Tokens) == 0 {
		return e.perceive(ctx, req)
	}
	rows, truncated, err := e.tokenize(req)
	if err != nil {
		return EmbedResult{}, err
	}
	res := EmbedResult{Vectors: make([][]float32, len(rows)), Truncated: truncated}
	order := make([]int, len(rows))
	for i := range order {
		order[i] = i
		res.Tokens += len(rows[i])
	}
	sort.SliceStable(order, func(a, b int) bool { return len(rows[order[a]]) > len(rows[order[b]]) })
	for len(order) > 0 {
		n := min(len(order), maxBatchInputs, max(1, maxBatchTokens/len(rows[order[0]])))
		if err := e.batch(ctx, &res, rows, order[:n]); err != nil {
			return EmbedResult{}, err
		}
		order = order[n:]
	}
	return e.shortened(res, req), nil
}

// shortened keeps the components that were asked for.
func (e *Embedder) shortened(res EmbedResult, req EmbedRequest) EmbedResult {
	if req.Dimensions > 0 && req.Dimensions < e.Hidden {
		for i, v := range res.Vectors {
			res.Vectors[i] = shorten(v, req.Dimensions, e.Normalize)
		}
	}
	return res
}

// perceive computes one vector a file.
func (e *Embedder) perceive(ctx context.Context, req EmbedRequest) (EmbedResult, error) {
	if e.Sense == nil {
		return EmbedResult{}, &InvalidInputError{Field: "input", Input: -1, Problem: fmt.Sprintf("model %q takes texts alone", e.Model)}
	}
	res := EmbedResult{Vectors: make([][]float32, len(req.Files))}
	err := perceive(ctx, &res.Decision, e.Sense, e.Fetcher, e.Perceive, req.Files, func(i int, _ Perceived, out map[string]tensor.Tensor) error {
		return e.take(&res, out[e.Perceive.Outputs[0]], []int{i})
	})
	if err != nil {
		return EmbedResult{}, err
	}
	return e.shortened(res, req), nil
}

// Ready embeds a sample of all that the model takes, which brings it onto its devices.
func (e *Embedder) Ready(ctx context.Context) (route.Decision, error) {
	var res EmbedResult
	var err error
	if e.Sense != nil {
		sample := *e
		sample.Sense = sampled{e.Sense}
		res, err = sample.Embed(ctx, EmbedRequest{Files: []File{{}}})
	}
	if e.Encoder != nil && err == nil {
		res, err = e.Embed(ctx, EmbedRequest{Texts: []string{"ready"}})
	}
	return res.Decision, err
}

func (e *Embedder) tokenize(req EmbedRequest) (rows [][]int64, truncated []int, err error) {
	if (len(req.Texts) == 0) == (len(req.Tokens) == 0) || len(req.Files) > 0 {
		return nil, nil, &InvalidInputError{Field: "input", Input: -1, Problem: "it holds no input, or inputs of several kinds", Remedy: "give at least one text, or one list of token ids, or one file"}
	}
	if e.Encoder == nil {
		return nil, nil, &InvalidInputError{Field: "input", Input: -1, Problem: fmt.Sprintf("model %q takes no texts", e.Model), Remedy: "give it files"}
	}
	n := max(len(req.Texts), len(req.Tokens))
	rows = make([][]int64, n)
	for i := range rows {
		var cut int
		if len(req.Texts) > 0 {
			limit := 0
			if req.Truncate {
				limit = e.MaxTokens
			}
			if rows[i], cut, err = e.Encoder.Encode(req.Texts[i], limit); err != nil {
				return nil, nil, &InvalidInputError{Field: "input", Input: i, Problem: err.Error()}
			}
		} else {
			rows[i] = req.Tokens[i]
			if req.Truncate && len(rows[i]) > e.MaxTokens {
				rows[i], cut = rows[i][:e.MaxTokens], len(rows[i])-e.MaxTokens
			}
		}
		if len(rows[i]) == 0 {
			return nil, nil, &InvalidInputError{Field: "input", Input: i, Problem: "it has no tokens"}
		}
		if len(rows[i]) > e.MaxTokens {
			return nil, nil, &InputTooLongError{Model: e.Model, Input: i, Tokens: len(rows[i]), Limit: e.MaxTokens}
		}
		if cut > 0 {
			if truncated == nil {
				truncated = make([]int, n)
			}
			truncated[i] = cut
		}
	}
	return rows, truncated, nil
}

func (e *Embedder) batch(ctx context.Context, res *EmbedResult, rows [][]int64, which []int) error {
	batch := make([][]int64, len(which))
	for b, i := range which {
		batch[b] = rows[i]
	}
	feeds, err := e.Feeds(padded(batch, e.Pad, e.Fixed))
	if err != nil {
		return &InvalidInputError{Field: "input", Input: -1, Problem: err.Error()}
	}
	out, err := e.Runner.Run(ctx, &res.Decision, graph.TensorData(feeds), []string{e.Output})
	if err != nil {
		return err
	}
	return e.take(res, out[e.Output].Tensor, which)
}

// take hands each of the inputs its vector.
func (e *Embedder) take(res *EmbedResult, t tensor.Tensor, which []int) error {
	if want := (tensor.Shape{int64(len(which)), int64(e.Hidden)}); t.DType != tensor.Float32 || !t.Shape.Equal(want) {
		return fmt.Errorf("model %q gave vectors %s%v, wants float32%v", e.Model, t.DType, t.Shape, want)
	}
	values := tensor.View[float32](t.Aligned())
	for b, i := range which {
		v := values[b*e.Hidden : (b+1)*e.Hidden : (b+1)*e.Hidden]
		for j, x := range v {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return fmt.Errorf("model %q gave %v as component %d of the vector of input %d on %s: its weights or its backend are damaged", e.Model, x, j, i, res.Decision.Chosen.Device)
			}
		}
		res.Vectors[i] = v
	}
	return nil
}

// padded are rows of tokens as input_ids and attention_mask, both int64 [rows, longest];
// or, where a length is fixed, as input_ids of that length alone.
func padded(rows [][]int64, pad int64, fixed int) map[string]tensor.Tensor {
	longest := fixed
	for _, r := range rows {
		longest = max(longest, len(r))
	}
	shape := tensor.Shape{int64(len(rows)), int64(longest)}
	ids, mask := make([]int64, len(rows)*longest), make([]int64, len(rows)*longest)
	for b, r := range rows {
		row := ids[b*longest : (b+1)*longest]
		n := copy(row, r)
		for j := range row {
			if j < n {
				mask[b*longest+j] = 1
			} else {
				row[j] = pad
			}
		}
	}
	in := map[string]tensor.Tensor{"input_ids": tensor.Ints(shape, ids...)}
	if fixed == 0 {
		in["attention_mask"] = tensor.Ints(shape, mask...)
	}
	return in
}

// shorten keeps the first n components; vectors of length 1 get that length again.
func shorten(v []float32, n int, normalize bool) []float32 {
	out := append([]float32(nil), v[:n]...)
	if !normalize {
		return out
	}
	var sum float64
	for _, x := range out {
		sum += float64(x) * float64(x)
	}
	if sum == 0 {
		return out
	}
	k := float32(1 / math.Sqrt(sum))
	for i := range out {
		out[i] *= k
	}
	return out
}
