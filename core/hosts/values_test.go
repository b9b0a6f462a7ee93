//go:build unix

package hosts

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestValues passes what is no dense tensor through a backend, small and large.
func TestValues(t *testing.T) {
	long := strings.Repeat("word ", 2000)
	text := func(s ...string) graph.Datum {
		return graph.TensorDatum(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(s))}, Strings: s})
	}
	floats := graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 1, 2))
	large := graph.TensorDatum(ramp(1 << 20))
	sequence := func(v ...graph.Datum) graph.Datum { return graph.Datum{Kind: graph.KindSequence, Sequence: v} }
	words := graph.TensorType(tensor.String, graph.Sym("n"))
	list := &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.Float32, graph.Dim{Size: -1})}
	maybe := &graph.Type{Kind: graph.KindOptional, Of: list}
	some := sequence(floats)
	g := &graph.Graph{Name: "g"}
	for name, ty := range map[string]*graph.Type{"w": words, "s": list, "o": maybe, "x": graph.TensorType(tensor.Float32, graph.Sym("n"))} {
		g.Inputs = append(g.Inputs, &graph.Value{Name: name, Type: ty})
		g.Outputs = append(g.Outputs, &graph.Value{Name: name + "2", Type: ty})
		g.Nodes = append(g.Nodes, &graph.Node{OpType: "Identity", Inputs: []string{name}, Outputs: []string{name + "2"}})
	}
	for way, regions := range ways {
		t.Run(way, func(t *testing.T) {
			_, d := started(t, Options{Regions: regions})
			x := compile(t, d, folder(t, g))
			good := func() map[string]graph.Datum {
				return map[string]graph.Datum{"w": text("a", ""), "s": sequence(floats, floats), "o": {Kind: graph.KindOptional, Optional: &some}, "x": floats}
			}
			for _, in := range []map[string]graph.Datum{
				good(),
				{"w": text(), "s": sequence(), "o": {Kind: graph.KindOptional}, "x": graph.TensorDatum(tensor.Floats(tensor.Shape{0}))},
				{"w": text(long, long), "s": sequence(large, large, floats), "o": {Kind: graph.KindOptional, Optional: &some}, "x": floats},
				good(),
			} {
				out, _, err := x.Run(t.Context(), in, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				for name, want := range in {
					a, _ := graph.AppendDatum(nil, "", want)
					b, err := graph.AppendDatum(nil, "", out[name+"2"])
					if err != nil || !bytes.Equal(a, b) {
						t.Errorf("%s came back as %.200v (%v)", name, out[name+"2"], err)
					}
				}
			}
			for argument, v := range map[string]graph.Datum{"w": text("a", "b", "c"), "s": sequence(text("a")), "o": floats, "x": text("a", "b")} {
				in := good()
				in[argument] = v
				_, _, err := x.Run(t.Context(), in, nil, false)
				var e *backend.Error
				if e = backend.AsError(err); e == nil || e.Code != backend.CodeInvalid {
					t.Errorf("a wrong %s: %v", argument, err)
				}
			}
			buffer, err := d.Alloc(t.Context(), 64)
			if err != nil {
				t.Fatal(err)
			}
			defer buffer.Close()
			var inputs []Input
			for name, v := range good() {
				inputs = append(inputs, Input{Name: name, Value: v})
			}
			if _, err := x.Do(t.Context(), Request{Inputs: inputs, Outputs: []Output{{Name: "s2", Buffer: buffer, Length: 64}}}); !isCode(err, backend.CodeInvalid) {
				t.Errorf("a sequence into a buffer: %v", err)
			}
			r, err := x.Do(t.Context(), Request{Inputs: inputs, Outputs: []Output{{Name: "w2"}}})
			if err != nil || !reflect.DeepEqual(r.Outputs[0].Tensor.Strings, []string{"a", ""}) {
				t.Errorf("alone: %+v, %v", r, err)
			}
			r.Release()
		})
	}
}
