// Command poison is a backend for tests: the reference operators, on a device that
// dies of every request that holds the token id in $POISON.
package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

type poison struct{ id int64 }

func main() {
	id, err := strconv.ParseInt(os.Getenv("POISON"), 10, 64)
	if err != nil {
		os.Stderr.WriteString("POISON must be a token id: " + err.Error() + "\n")
		os.Exit(2)
	}
	backend.Serve(&poison{id})
}

func (p *poison) Describe(context.Context) (backend.Info, error) {
	return backend.Info{Name: "poison", Version: "1"}, nil
}

func (p *poison) Configure(context.Context, json.RawMessage) ([]string, error) { return nil, nil }

func (p *poison) Watch(ctx context.Context, update func([]backend.Device)) error {
	d := backend.Device{ID: "0", Platform: "cpu", Name: "a device that can be poisoned", Kind: backend.Simulated,
		Health: backend.Healthy, Attention: backend.AttentionBody, RuntimeVersion: "1"}
	for t := tensor.Float32; t.Valid(); t++ {
		d.ElementTypes = append(d.ElementTypes, t)
	}
	update([]backend.Device{d})
	<-ctx.Done()
	return ctx.Err()
}

func (p *poison) Assess(_ context.Context, _, dir string) (backend.Assessment, error) {
	m, err := backend.LoadModel(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	return backend.Assessment{Nodes: slices.Repeat([]backend.Verdict{backend.Accept}, len(m.Graph.Nodes))}, nil
}

func (p *poison) Compile(_ context.Context, spec backend.CompileSpec, _ func(string, float64)) (backend.Executable, error) {
	m, err := backend.LoadModel(spec.Dir)
	if err != nil {
		return nil, err
	}
	prog, err := reference.New(m, reference.Options{})
	if err != nil {
		return nil, err
	}
	x := &executable{id: p.id, model: m, program: prog}
	for _, v := range m.Graph.Inputs {
		x.info.Inputs = append(x.info.Inputs, *v)
	}
	for _, v := range m.Graph.Outputs {
		x.info.Outputs = append(x.info.Outputs, *v)
	}
	return x, nil
}

func (p *poison) Alloc(context.Context, string, int64) (backend.Buffer, error) {
	return nil, backend.Unsupported("this device has no buffers")
}

func (p *poison) Close() error { return nil }

type executable struct {
	id      int64
	model   *graph.Model
	program *reference.Program
	info    backend.ExecutableInfo
}

func (x *executable) Info() backend.ExecutableInfo { return x.info }
func (x *executable) Close() error                 { return x.model.Close() }

func (x *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) error {
	in := map[string]tensor.Tensor{}
	for i, v := range x.info.Inputs {
		in[v.Name] = inputs[i].Tensor
		if v.Name == "input_ids" && slices.Contains(tensor.View[int64](inputs[i].Tensor), x.id) {
			os.Stderr.WriteString("this token is more than I can take\n")
			os.Exit(3)
		}
	}
	var wanted []string
	for i, v := range x.info.Outputs {
		if out.Wanted(i) {
			wanted = append(wanted, v.Name)
		}
	}
	got, err := x.program.Run(ctx, in, wanted)
	if err != nil {
		return err
	}
	for i, v := range x.info.Outputs {
		if !out.Wanted(i) {
			continue
		}
		t, err := out.Place(i, got[v.Name].DType, got[v.Name].Shape)
		if err != nil {
			return err
		}
		copy(t.Data, got[v.Name].Data)
	}
	return nil
}
