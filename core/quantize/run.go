package quantize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/accelhq/accel/core/checkpoint"
)

// Report is what was made of a model.
type Report struct {
	Class     string  `json:"class"`
	Dir       string  `json:"dir"`
	Method    string  `json:"method"`
	Size      Size    `json:"size"`
	Smaller   float64 `json:"smaller"` // than with 16 bits, as a part
	Bits      float64 `json:"bits_per_weight"`
	Layers    []Layer `json:"layers"`
	Loss      *Loss   `json:"loss,omitempty"`      // nil: it was not measured
	Component string  `json:"component,omitempty"` // that the loss is of
	// Sensitivity is what each part of the model loses where it alone is in the smallest
	// format, unless it was not measured.
	Sensitivity []Sensitivity `json:"sensitivity,omitempty"`
	Attempts    int           `json:"attempts,omitempty"`
	Left        []string      `json:"left_out,omitempty"` // tensors that no graph reads
	Seconds     float64       `json:"seconds"`
}

// Sensitivity is the loss by one part of a model alone.
type Sensitivity struct {
	Part string  `json:"part"`
	Loss float64 `json:"loss"`
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
		if o.Precision == "" && o.MaxLoss == 0 {
			if a, ok := p.policy.Accepted[p.precision(s.component)]; ok {
				p.accepts = a
			}
		}
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
	if ref == nil {
		if err := p.checkSize(); err != nil {
			return Report{}, err
		}
		written, err := p.Write(ctx, dir, tell)
		if err != nil {
			return Report{}, err
		}
		r := p.report(written)
		r.Dir, r.Seconds = dir, time.Since(begin).Seconds()
		return r, nil
	}
	r, err := p.settle(ctx, ref, dir, tell)
	r.Dir, r.Seconds = dir, time.Since(begin).Seconds()
	return r, err
}

// Bounds of the attempts to stay within a loss.
const (
	maxAttempts = 4
	lossMargin  = 0.8 // of what is accepted, which a mixture is to keep to
)

// settle writes the folder and holds it against the model. Where the precision is a
// mixture the formats are chosen by how sensitive layers are, and what loses too much gets
// more bits where they bring most, as long as the size allows.
func (p *Plan) settle(ctx context.Context, ref *original, dir string, tell func(Progress)) (Report, error) {
	var mix *mixture
	var parts []dialPart
	if d := p.newDials(ref.s.component); p.options.Method == Calibrated && len(d.parts) > 0 {
		if err := d.measure(ctx, p, ref.s, tell); err != nil {
			return Report{}, err
		}
		mix, parts = d.newMixture(p.options.Method), d.parts
		mix.solve(p, p.target(), p.maxBytes())
	}
	if err := p.checkSize(); err != nil {
		return Report{}, err
	}
	promoted := 0
	for attempt := 1; ; attempt++ {
		to := dir
		written, err := p.Write(ctx, to, tell)
		if err != nil {
			return Report{}, err
		}
		tell(Progress{Stage: "comparing", Name: ref.s.component})
		l, err := ref.measure(ctx, to, p.options.Runtime)
		if err != nil {
			return Report{}, err
		}
		r := p.report(written)
		r.Loss, r.Component, r.Attempts = &l, ref.s.component, attempt
		for _, part := range parts {
			r.Sensitivity = append(r.Sensitivity, Sensitivity{part.Name, part.loss})
		}
		if l.Loss <= p.accepts.Loss {
			return r, nil
		}
		refused := &LossError{Precision: p.precision(ref.s.component), Component: ref.s.component, Measured: l, Accepted: p.accepts.Loss, Promoted: promoted}
		more := false
		if mix != nil && attempt < maxAttempts {
			mix.learn(l.Loss)
			before := map[*Item]int{}
			for _, it := range mix.items {
				before[it] = it.chosen
			}
			more = mix.solve(p, p.target(), p.maxBytes())
			for _, it := range mix.items {
				if it.chosen > before[it] {
					promoted++
				}
			}
		}
		if !more {
			return r, errors.Join(refused, os.RemoveAll(dir))
		}
		if err := p.supersede(dir); err != nil {
			return r, err
		}
		defer p.forget()
	}
}

// target is the loss that a mixture is to keep to. Within a size that was asked for, and no
// loss, it is to lose as little as it can.
func (p *Plan) target() float64 {
	if p.options.MaxBytes > 0 && p.options.MaxLoss == 0 {
		return 0
	}
	return lossMargin * p.accepts.Loss
}

// SizeError says that weights take more than was asked for.
type SizeError struct{ Found, Wanted int64 } // bytes

func (e *SizeError) Error() string {
	return fmt.Sprintf("the weights take %d bytes, wanted %d at most: choose a precision of fewer bits, or a mixture and a sample", e.Found, e.Wanted)
}

func (p *Plan) checkSize() error {
	if size := p.Size().Bytes; p.options.MaxBytes > 0 && size > p.options.MaxBytes {
		return &SizeError{size, p.options.MaxBytes}
	}
	return nil
}

// supersede moves a folder out of the way; what stays the same is taken from it.
func (p *Plan) supersede(dir string) error {
	if err := p.forget(); err != nil {
		return err
	}
	aside := filepath.Join(p.options.Runtime.Scratch(), "attempt")
	if err := os.Rename(dir, aside); err != nil {
		// Another file system: what stays the same is made again.
		return os.RemoveAll(dir)
	}
	ck, err := checkpoint.Open(aside)
	p.before = ck
	return err
}

// forget removes what supersede moved.
func (p *Plan) forget() error {
	if p.before == nil {
		return nil
	}
	ck := p.before
	p.before = nil
	return errors.Join(ck.Close(), os.RemoveAll(ck.Path))
}

// made are the tensors of an item in an earlier attempt, if they are as they will be now.
func (p *Plan) made(it *Item) []checkpoint.Entry {
	if p.before == nil || it.quant.Bits == 0 {
		return nil
	}
	if q, ok := p.before.Quantized(it.Name); !ok || q != it.quant {
		return nil
	}
	var list []checkpoint.Entry
	for _, suffix := range it.quant.Suffixes() {
		e, err := p.before.Tensor(it.Name + suffix)
		if err != nil {
			return nil
		}
		list = append(list, e)
	}
	return list
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
