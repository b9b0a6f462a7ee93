package models

import (
	"path/filepath"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

func TestWhisperEncoder(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "whisper")
	ck := open(t, dir)
	f := ck.Config.Fields()
	c := whisperFields(f)
	if err := f.Err(); err != nil {
		t.Fatal(err)
	}
	n := newNet("encoder", &weights{ck: ck, prefix: "model.", used: map[string]bool{}}, Options{})
	x := n.Input("input_features", graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Known(c.mels), graph.Known(2*c.sources)))
	n.Output("encoder_last_hidden_state", n.whisperEncoder(c, x), graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Known(c.sources), graph.Known(c.width)))
	m := &Model{}
	if err := m.add("encoder", inputs{}, n); err != nil {
		t.Fatal(err)
	}
	golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	value := func(name string) tensor.Tensor {
		v, err := golden.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		return v.Aligned()
	}
	p := program(t, m, ck, "encoder")
	got, err := p.Run(t.Context(), map[string]tensor.Tensor{x: value("in.input_features")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const name = "encoder_last_hidden_state"
	compare(t, name, got[name], value("out."+name))
}
