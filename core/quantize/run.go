package quantize

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/accelhq/accel/core/checkpoint"
)

// Report is what was made of a model.
type Report struct {
	Class   string   `json:"class"`
	Dir     string   `json:"dir"`
	Method  string   `json:"method"`
	Size    Size     `json:"size"`
	Smaller float64  `json:"smaller"` // than with 16 bits, as a part
	Bits    float64  `json:"bits_per_weight"`
	Layers  []Layer  `json:"layers"`
	Loss    *Loss    `json:"loss,omitempty"`     // nil: it was not measured
	Left    []string `json:"left_out,omitempty"` // tensors that no graph reads
	Seconds float64  `json:"seconds"`
}

// Layer is what was made of one tensor.
type Layer struct {
	Name       string   `json:"name"`
	Components []string `json:"components,omitempty"`
	Role       string   `json:"role"`
	Layer      int64    `json:"layer"` // -1: of none
	Format     string   `json:"format"`
	Block      int64    `json:"block,omitempty"`
	Bits       float64  `json:"bits_per_weight"`
	Weights    int64    `json:"weights"`
	Bytes      int64    `json:"bytes"`
	Error      float64  `json:"error"` // sum of squares of what weights are off by over that of weights
	Why        string   `json:"why,omitempty"`
}

// Run quantises a checkpoint into a folder. With a sample it is calibrated by it and then
// held against the model. Errors are those of NewPlan and Plan.Write, *SampleError,
// *LossError and the runtime's.
func Run(ctx context.Context, ck *checkpoint.Checkpoint, dir string, o Options) (_ Report, err error) {
	begin := time.Now()
	p, err := NewPlan(ck, o)
	if err != nil {
		return Report{}, err
	}
	tell := o.Progress
	if tell == nil {
		tell = func(Progress) {}
	}
	var ref *original
	if o.Sample != "" {
		s, err := newSample(ck, p.model, o.Sample)
		if err != nil {
			return Report{}, err
		}
		tell(Progress{Stage: "running the model", Name: s.component})
		if ref, err = p.refer(ctx, s); err != nil {
			return Report{}, err
		}
		if p.options.Method == Calibrated {
			if p.grams, err = newGrams(o.Runtime.Scratch()); err != nil {
				return Report{}, err
			}
			defer func() { err = errors.Join(err, p.grams.close()) }()
			if err := p.grams.observe(ctx, p, p.model, s, o.Runtime, tell); err != nil {
				return Report{}, err
			}
		}
	}
	written, err := p.Write(ctx, dir, tell)
	if err != nil {
		return Report{}, err
	}
	r := p.report(written)
	if ref != nil {
		tell(Progress{Stage: "comparing", Name: ref.s.component})
		l, err := ref.measure(ctx, dir, o.Runtime)
		if err != nil {
			return Report{}, err
		}
		r.Loss = &l
		if l.Loss > p.accepts.Loss {
			return r, errors.Join(&LossError{Precision: p.options.Precision, Component: ref.s.component, Measured: l, Accepted: p.accepts.Loss}, os.RemoveAll(dir))
		}
	}
	r.Dir, r.Seconds = dir, time.Since(begin).Seconds()
	return r, nil
}

func (p *Plan) report(written []Written) Report {
	r := Report{Class: p.Class, Method: p.options.Method, Size: p.Size(), Left: p.Left}
	r.Smaller = r.Size.Smaller()
	r.Bits = 16 * (1 - r.Smaller)
	for i := range p.Items {
		it := &p.Items[i]
		l := Layer{Name: it.Name, Components: it.Components, Role: it.Role, Layer: it.Layer, Format: it.stands(), Block: it.quant.Block,
			Weights: it.Weights(), Bytes: it.Bytes(), Why: it.Why}
		l.Bits = 8 * float64(l.Bytes) / float64(max(l.Weights, 1))
		if i < len(written) {
			l.Error = written[i].Error
		}
		r.Layers = append(r.Layers, l)
	}
	return r
}

// stands is the name of how it is stored.
func (it *Item) stands() string {
	switch {
	case it.quant.Bits > 0 && it.Format.Bits == 0:
		return "as it was"
	case it.quant.Bits > 0:
		return it.Format.Name
	}
	return it.dtype.String()
}
