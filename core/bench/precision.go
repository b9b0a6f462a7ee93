// Package bench measures models: what precisions take and cost (`accel bench precision`),
// and, as benchmarks, Accel beside its peers, where both sides take turns in one run and
// ratios are of medians, for machines drift (`make bench`).
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/backend"
)

// Engine is what measuring needs of an engine.
type Engine interface {
	Open(path string, o engine.SessionOptions) (*engine.Session, error)
	Embed(ctx context.Context, name string, req tasks.EmbedRequest) (tasks.EmbedResult, error)
	Transcribe(ctx context.Context, name string, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error)
	Quantize(ctx context.Context, path, dir string, o quantize.Options) (quantize.Report, error)
	Machine() ([]hosts.BackendStatus, []hosts.DeviceStatus)
}

// PrecisionOptions say what is measured, and on what.
type PrecisionOptions struct {
	Model       string           // its path
	Precisions  []string         // see quantize.Precisions
	Platform    string           // or device; nothing falls back to another
	Activations string           // see models.Options
	Quantize    quantize.Options // but for Precision
	// Text is a file that a model is to predict, or whose lines are to be told apart.
	// Sounds is a folder of sounds NAME.wav and what is said in them, NAME.txt. Neither: what
	// is recorded in the model's folder (golden.safetensors) is computed.
	Text, Sounds string
	Tokens       int // of the text; 0: all
	Context      int // tokens that are predicted from at most
	Pairs        int // of lines, at least
	// Dir is where folders of quantised weights are written. Those of a run before are
	// used again.
	Dir string
	// With starts an engine, hands it to do, and ends it. It serves a model as "m", if its
	// path is given.
	With func(ctx context.Context, m config.Model, do func(Engine) error) error
	// Progress is told what is done.
	Progress func(what string)
}

// ServedName is the name of the model that an engine serves.
const ServedName = "m"

// Measured is one precision of a model.
type Measured struct {
	Precision string           `json:"precision"` // empty: as the model is stored
	Quantized *quantize.Report `json:"quantized,omitempty"`
	Device    string           `json:"device,omitempty"`
	Kind      backend.Kind     `json:"kind,omitempty"`
	// Resident are the bytes of the backend's memory when the work is done; 0: not known.
	Resident int64 `json:"resident_bytes,omitempty"`
	Outcome
	// Loss is how much worse than the model as it is stored, as Measure has it.
	Loss *float64 `json:"loss,omitempty"`
	// Accepted is what policy/precision.yaml asks for; nil: nothing.
	Accepted *quantize.Accepted `json:"accepted,omitempty"`
	Error    string             `json:"error,omitempty"` // why it was not measured

	backend string
}

// Within reports whether it is what is asked of it.
func (m *Measured) Within() bool {
	if m.Error != "" || m.Accepted == nil || m.Loss == nil {
		return m.Error == ""
	}
	return *m.Loss <= m.Accepted.Loss && m.Quantized.Smaller >= m.Accepted.Smaller
}

// Outcome is how a model did its work.
type Outcome struct {
	Measure    string  `json:"measure"` // "perplexity", "rank correlation", "words wrong", "cosine"
	Value      float64 `json:"value"`
	KL         float64 `json:"kl_divergence,omitempty"` // nats a token, from the model as it is stored
	Count      int     `json:"count"`                   // tokens, pairs, words or outputs that it is of
	Latency    float64 `json:"latency_seconds,omitempty"`
	LatencyOf  string  `json:"latency_of,omitempty"`
	Throughput float64 `json:"throughput,omitempty"`
	Unit       string  `json:"throughput_unit,omitempty"`
}

// judge has a model do something, and says how well and how fast.
type judge interface {
	// served reports whether it asks the engine's model, and does not open one itself.
	served() bool
	// measure is called first with the model as it is stored, and then with others. It calls
	// held when the work is done and the model still in memory, if it has a say in that.
	measure(ctx context.Context, e Engine, path string, held func() error) (Outcome, error)
	// loss is how much worse an outcome is than the first.
	loss(Outcome) float64
	close() error
}

// Precision measures a model as it is stored and in each precision, and hands over every
// row as it comes. A precision that can't be had is a row with an error; what keeps all
// from being measured is returned.
func Precision(ctx context.Context, o PrecisionOptions, each func(Measured)) error {
	return o.With(ctx, config.Model{}, func(base Engine) (err error) {
		j, err := o.judge(ctx, base)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, j.close()) }()
		for i, name := range append([]string{""}, o.Precisions...) {
			row := Measured{Precision: name}
			if a, ok := quantize.AcceptedOf(name); ok {
				row.Accepted = &a
			}
			if err := o.one(ctx, base, j, &row); err != nil {
				if ctx.Err() != nil || i == 0 {
					return cmp.Or(ctx.Err(), err)
				}
				row.Error = err.Error()
			}
			each(row)
		}
		return nil
	})
}

// one measures a model in an engine of its own: what its backend takes is then the model's.
func (o *PrecisionOptions) one(ctx context.Context, base Engine, j judge, row *Measured) error {
	path, name := o.Model, "as it is"
	if row.Precision != "" {
		q := o.Quantize
		q.Precision, name = row.Precision, row.Precision
		o.Progress("quantising to " + name)
		path = filepath.Join(o.Dir, name)
		r, err := base.Quantize(ctx, o.Model, path, q)
		if r.Size.Bytes > 0 { // one that is refused has a size too
			row.Quantized = &r
		}
		if err != nil {
			return err
		}
	}
	m := config.Model{}
	if j.served() {
		m = config.Model{Path: path, Platform: o.Platform, Fallback: string(route.Deny), Activations: o.Activations}
	}
	return o.With(ctx, m, func(e Engine) (err error) {
		o.Progress("measuring " + filepath.Base(o.Model) + " " + name)
		if err := row.place(e, o.Platform); err != nil {
			return err
		}
		if row.Outcome, err = j.measure(ctx, e, path, func() error { return row.weigh(e) }); err != nil {
			return err
		}
		loss := j.loss(row.Outcome)
		row.Loss = &loss
		return nil
	})
}

// place says where it runs.
func (m *Measured) place(e Engine, platform string) error {
	_, devices := e.Machine()
	for _, d := range devices {
		if d.Ref == platform || d.Platform == platform {
			m.Device, m.Kind, m.backend = d.Ref, d.Kind, d.Backend
			return nil
		}
	}
	return fmt.Errorf("%s is no device of this machine", platform)
}

// weigh says in how much memory.
func (m *Measured) weigh(e Engine) error {
	backends, _ := e.Machine()
	for _, b := range backends {
		if b.PID == 0 || b.Name != m.backend {
			continue
		}
		n, err := resident(b.PID)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		m.Resident += n
	}
	return nil
}

// JudgeError says that a model can't be judged by what there is.
type JudgeError struct{ Model, Found, Remedy string }

func (e *JudgeError) Error() string {
	return fmt.Sprintf("%s can't be measured: %s; %s", e.Model, e.Found, e.Remedy)
}

// judge is what the model can be measured by.
func (o *PrecisionOptions) judge(ctx context.Context, e Engine) (judge, error) {
	s, err := e.Open(o.Model, engine.SessionOptions{Component: models.Full, Preferred: o.Platform, Policy: route.Deny})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.Model == nil {
		return nil, &JudgeError{o.Model, "it is an ONNX model", "give a model of a class that `accel classes` lists"}
	}
	can := map[string]bool{}
	for _, t := range engine.Tasks(s.Model) {
		can[t] = true
	}
	_, err = os.Stat(filepath.Join(o.Model, "golden.safetensors"))
	switch {
	case o.Sounds != "" && can["transcribe"]:
		return newListening(o)
	case o.Text != "" && can["generate"] && s.Model.Decoder.Cross == nil && s.Model.Pictures == nil:
		return newPredicting(ctx, o, e, s.Dir)
	case o.Text != "" && can["embed"]:
		return newComparing(o)
	case o.Text != "" || o.Sounds != "":
		return nil, &JudgeError{o.Model, "it does none of what is measured with a text or sounds", "leave them out, and outputs are compared that are recorded in its folder"}
	case err == nil:
		return &recorded{o: o}, nil
	}
	remedy := "give --text FILE"
	if can["transcribe"] {
		remedy = "give --sounds DIR, of NAME.wav and NAME.txt"
	}
	return nil, &JudgeError{o.Model, "its folder has no golden.safetensors, and no sample is given", remedy}
}

// timed is the seconds that f takes.
func timed(f func() error) (float64, error) {
	begun := time.Now()
	err := f()
	return time.Since(begun).Seconds(), err
}
