package quantize

import (
	"context"
	"errors"
	"fmt"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/tensor"
)

// LossError says that a quantised model is further from the one it was made of than is
// accepted.
type LossError struct {
	Precision string
	Component string
	Measured  Loss
	Accepted  float64
	Promoted  int // tensors that were given more bits before it was given up
}

func (e *LossError) Error() string {
	what := fmt.Sprintf("outputs have a mean cosine of %.5f to those of the model", e.Measured.Cosine)
	if e.Measured.KL > 0 {
		what = fmt.Sprintf("predictions diverge by %.4f nats a token", e.Measured.KL)
	}
	s := fmt.Sprintf("precision %s is refused: the loss of %s is %.2f %%, accepted are %.2f %% (%s)", e.Precision, e.Component, 100*e.Measured.Loss, 100*e.Accepted, what)
	if e.Promoted > 0 {
		s += fmt.Sprintf("; %d tensors were given more bits already, as far as the size allows", e.Promoted)
	}
	return s + "; choose a precision of more bits, or accept more with --max-loss"
}

// original is what the model itself makes of the sample.
type original struct {
	s    *sample
	outs []tensor.Tensor // of s.test
}

// open opens the sample's component of a checkpoint.
func (s *sample) open(ctx context.Context, ck *checkpoint.Checkpoint, m *models.Model, rt Runtime) (Runnable, error) {
	g, err := m.Component(s.component)
	if err != nil {
		return nil, err
	}
	id, err := ck.Identity()
	if err != nil {
		return nil, err
	}
	return rt.Open(ctx, g, ck.Dir, id)
}

// refer runs the model itself.
func (p *Plan) refer(ctx context.Context, s *sample) (r *original, err error) {
	run, err := s.open(ctx, p.ck, p.model, p.options.Runtime)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	r = &original{s: s}
	return r, s.outputs(ctx, run, s.test, nil, func(_ int, out tensor.Tensor) { r.outs = append(r.outs, out) })
}

// measure runs the folder that was written.
func (r *original) measure(ctx context.Context, dir string, rt Runtime) (l Loss, err error) {
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	m, err := models.Load(ck, models.Options{})
	if err != nil {
		return l, err
	}
	run, err := r.s.open(ctx, ck, m, rt)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	var c comparison
	err = r.s.outputs(ctx, run, r.s.test, nil, func(i int, out tensor.Tensor) { c.add(r.outs[i], out, r.s.test[i]) })
	return c.result(r.s.logits), err
}
