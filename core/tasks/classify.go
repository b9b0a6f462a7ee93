package tasks

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/tensor"
)

// ClassifyRequest asks what is on pictures or videos, or in sounds.
type ClassifyRequest struct {
	Files []File
	// Labels are the classes to tell apart, for models that compare with texts; nil: the
	// model's own.
	Labels []string
	// Templates make a text of a label in place of their {}; nil: the model's. Where there
	// are several, a label is the mean of its texts.
	Templates []string
	Top       int // labels for each file, the likeliest first; 0: all
}

// Label is a class and how likely it is.
type Label struct {
	Name  string
	Index int // of the model's classes, or of the request's labels
	Score float32
}

// ClassifyResult holds the labels of each file, in the order of the request.
type ClassifyResult struct {
	Labels   [][]Label
	Decision route.Decision
}

// Classifier classifies with one model: by classes of its own, or by texts.
type Classifier struct {
	Model   string
	Sense   Sense
	Fetcher Fetcher // of files at URLs; nil: none is fetched

	Classes []string // its own; nil: it has none
	Own     *Part    // output logits [batch, classes]

	// Seen, Texts and Match are there where the model compares with texts: the outputs of
	// the first two are the inputs of the third, whose output is logits [batch, labels].
	Seen, Texts, Match *Part
	Encoder            Encoder
	Pad                int64 // id that fills shorter texts
	MaxTokens          int   // of a text
	Fixed              int   // tokens that every text is filled up to, without a mask; 0: those of the longest, with one
	Unit               bool  // the texts' rows have length 1
	Template           string
	Independent        bool // a label's probability does not depend on the others (SigLIP)
}

// Bounds on the texts of a request.
const (
	maxLabels    = 4096
	maxTemplates = 128
)

// Classify tells classes.
func (c *Classifier) Classify(ctx context.Context, req ClassifyRequest) (ClassifyResult, error) {
	res := ClassifyResult{Labels: make([][]Label, len(req.Files))}
	if len(req.Files) == 0 {
		return res, &InvalidInputError{Field: "input", Input: -1, Problem: "it holds no input"}
	}
	if req.Top < 0 {
		return res, &InvalidInputError{Field: "top", Input: -1, Problem: fmt.Sprintf("it is %d", req.Top), Remedy: "0 gives all labels"}
	}
	if len(req.Labels) > 0 {
		return res, c.byTexts(ctx, req, &res)
	}
	switch {
	case c.Own == nil:
		return res, &InvalidInputError{Field: "labels", Input: -1, Problem: fmt.Sprintf("there are none, and model %q has no classes of its own", c.Model), Remedy: "give the labels to tell apart"}
	case len(req.Templates) > 0:
		return res, &InvalidInputError{Field: "templates", Input: -1, Problem: "there are no labels to put into them"}
	}
	return res, perceive(ctx, &res.Decision, c.Sense, c.Fetcher, c.Own, req.Files, func(i int, _ Perceived, out map[string]tensor.Tensor) error {
		var err error
		res.Labels[i], err = c.rank(c.Classes, out["logits"], false, req.Top)
		return err
	})
}

// Ready classifies a sample, which brings all parts onto their devices.
func (c *Classifier) Ready(ctx context.Context) (route.Decision, error) {
	sample := *c
	sample.Sense = sampled{c.Sense}
	req := ClassifyRequest{Files: []File{{}}}
	if c.Own == nil {
		req.Labels = []string{"ready"}
	}
	res, err := sample.Classify(ctx, req)
	return res.Decision, err
}

// byTexts compares with texts.
func (c *Classifier) byTexts(ctx context.Context, req ClassifyRequest, res *ClassifyResult) error {
	if c.Match == nil {
		return &InvalidInputError{Field: "labels", Input: -1, Problem: fmt.Sprintf("model %q tells its own classes alone", c.Model), Remedy: "leave them out"}
	}
	texts, err := c.texts(ctx, req, &res.Decision)
	if err != nil {
		return err
	}
	return perceive(ctx, &res.Decision, c.Sense, c.Fetcher, c.Seen, req.Files, func(i int, _ Perceived, seen map[string]tensor.Tensor) error {
		for name, t := range texts {
			seen[name] = t
		}
		out, err := c.Match.run(ctx, &res.Decision, seen)
		if err != nil {
			return err
		}
		res.Labels[i], err = c.rank(req.Labels, out[c.Match.Outputs[0]], c.Independent, req.Top)
		return err
	})
}

// texts are the labels as the model reads them, one row each.
func (c *Classifier) texts(ctx context.Context, req ClassifyRequest, d *route.Decision) (map[string]tensor.Tensor, error) {
	templates := req.Templates
	if len(templates) == 0 {
		templates = []string{c.Template}
	}
	if len(req.Labels) > maxLabels {
		return nil, &InvalidInputError{Field: "labels", Input: -1, Problem: fmt.Sprintf("there are %d", len(req.Labels)), Remedy: fmt.Sprintf("give at most %d", maxLabels)}
	}
	if len(templates) > maxTemplates {
		return nil, &InvalidInputError{Field: "templates", Input: -1, Problem: fmt.Sprintf("there are %d", len(templates)), Remedy: fmt.Sprintf("give at most %d", maxTemplates)}
	}
	var sums map[string]tensor.Tensor
	for t, template := range templates {
		if !strings.Contains(template, "{}") {
			return nil, &InvalidInputError{Field: "templates", Input: t, Problem: fmt.Sprintf("%q has no place for a label", template), Remedy: "write {} where it is to stand"}
		}
		rows := make([][]int64, len(req.Labels))
		for i, label := range req.Labels {
			if strings.TrimSpace(label) == "" {
				return nil, &InvalidInputError{Field: "labels", Input: i, Problem: "it is empty"}
			}
			var err error
			if rows[i], _, err = c.Encoder.Encode(strings.ReplaceAll(template, "{}", label), 0); err != nil {
				return nil, &InvalidInputError{Field: "labels", Input: i, Problem: err.Error()}
			}
			if len(rows[i]) > c.MaxTokens {
				return nil, &InvalidInputError{Field: "labels", Input: i, Problem: fmt.Sprintf("with its template it has %d tokens, model %q takes %d", len(rows[i]), c.Model, c.MaxTokens)}
			}
		}
		read, err := c.read(ctx, d, rows)
		if err != nil {
			return nil, err
		}
		if sums == nil {
			sums = read
			continue
		}
		for name, t := range read {
			to := tensor.View[float32](sums[name])
			for i, v := range tensor.View[float32](t) {
				to[i] += v
			}
		}
	}
	if n := len(templates); n > 1 {
		for _, t := range sums {
			width := int(t.Shape[len(t.Shape)-1])
			for v := tensor.View[float32](t); len(v) > 0; v = v[width:] {
				for i := range v[:width] {
					v[i] /= float32(n)
				}
				copy(v, shorten(v[:width], width, c.Unit))
			}
		}
	}
	return sums, nil
}

// read runs Texts over rows of tokens, some at a time.
func (c *Classifier) read(ctx context.Context, d *route.Decision, rows [][]int64) (map[string]tensor.Tensor, error) {
	all := map[string]tensor.Tensor{}
	for from := 0; from < len(rows); from += maxBatchInputs {
		part := rows[from:min(from+maxBatchInputs, len(rows))]
		out, err := c.Texts.run(ctx, d, padded(part, c.Pad, c.Fixed))
		if err != nil {
			return nil, err
		}
		for name, t := range out {
			if len(t.Shape) == 0 || t.Shape[0] != int64(len(part)) {
				return nil, fmt.Errorf("output %s is %v for %d texts", name, t.Shape, len(part))
			}
			sum := all[name]
			if from == 0 {
				sum = tensor.Tensor{DType: t.DType, Shape: append(tensor.Shape{0}, t.Shape[1:]...)}
			}
			sum.Shape[0] += t.Shape[0]
			sum.Data = append(sum.Data, t.Data...)
			all[name] = sum
		}
	}
	for name, t := range all {
		all[name] = t.Aligned()
	}
	return all, nil
}

// rank makes probabilities of a row of logits [1, labels].
func (c *Classifier) rank(names []string, logits tensor.Tensor, independent bool, top int) ([]Label, error) {
	if !logits.Shape.Equal(tensor.Shape{1, int64(len(names))}) {
		return nil, fmt.Errorf("model %q gave logits %v for %d labels", c.Model, logits.Shape, len(names))
	}
	v := tensor.View[float32](logits)
	most := float64(slices.Max(v))
	if math.IsNaN(most) || math.IsInf(most, 0) {
		return nil, fmt.Errorf("model %q gave the logit %v: its weights or its backend are damaged", c.Model, most)
	}
	list, sum := make([]Label, len(v)), 0.0
	for i, x := range v {
		e := math.Exp(float64(x) - most)
		if independent {
			e = 1 / (1 + math.Exp(-float64(x)))
		}
		sum += e
		list[i] = Label{names[i], i, float32(e)}
	}
	if !independent {
		for i, x := range v {
			list[i].Score = float32(math.Exp(float64(x)-most) / sum)
		}
	}
	slices.SortStableFunc(list, func(a, b Label) int { return cmp.Compare(b.Score, a.Score) })
	if top > 0 && top < len(list) {
		list = list[:top]
	}
	return list, nil
}
