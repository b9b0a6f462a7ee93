package backendtest

import (
	"bytes"
	"reflect"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// passing is y = x for a value of any type, which a device with the feature for it
// takes.
func (c *conn) passing(ty *graph.Type) string {
	c.t.Helper()
	b := graph.NewBuilder("passing")
	b.Output("y", b.Op("Identity", []string{b.Input("x", ty)}), ty)
	return write(c.t, build(c.t, b))
}

func texts(shape tensor.Shape, s ...string) graph.Datum {
	if s == nil {
		s = []string{}
	}
	return graph.TensorDatum(tensor.Tensor{DType: tensor.String, Shape: shape, Strings: s})
}

func optionalOf(v graph.Datum) graph.Datum {
	return graph.Datum{Kind: graph.KindOptional, Optional: &v}
}

func sequenceOf(v ...graph.Datum) graph.Datum {
	return graph.Datum{Kind: graph.KindSequence, Sequence: v}
}

// checkValues passes strings, sequences and optionals through devices that say that
// they take them, and sees that all others refuse.
func checkValues(t T, c *conn) {
	floats := graph.TensorType(tensor.Float32, graph.Known(3))
	one, two := graph.TensorDatum(tensor.Floats(tensor.Shape{3}, 1, 2, 3)), graph.TensorDatum(tensor.Floats(tensor.Shape{3}, -1, 0.5, 7))
	bytes3, err := tensor.New(tensor.Float32, tensor.Shape{3 << 20})
	c.must("make a tensor", err)
	large := graph.TensorDatum(bytes3) // more than a message takes
	anyLength := graph.TensorType(tensor.Float32, graph.Dim{Size: -1})
	if c.device.StaticShapes {
		anyLength = graph.TensorType(tensor.Float32, graph.Known(3<<20))
	}
	ints := graph.TensorDatum(tensor.Ints(tensor.Shape{3}, 1, 2, 3))
	for _, k := range []struct {
		what  string
		ty    *graph.Type
		good  []graph.Datum
		wrong []graph.Datum
	}{
		{"strings", graph.TensorType(tensor.String, graph.Known(2)),
			[]graph.Datum{texts(tensor.Shape{2}, "accel", "žluťoučký"), texts(tensor.Shape{2}, "", ""), texts(tensor.Shape{2}, "\xff\x00", "a")},
			[]graph.Datum{texts(tensor.Shape{1}, "a"), texts(tensor.Shape{1, 2}, "a", "b"), graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 1, 2)), sequenceOf()}},
		{"a scalar of strings", graph.TensorType(tensor.String), []graph.Datum{texts(tensor.Shape{}, "one")}, nil},
		{"no strings", graph.TensorType(tensor.String, graph.Known(0)), []graph.Datum{texts(tensor.Shape{0})}, nil},
		{"a sequence", &graph.Type{Kind: graph.KindSequence, Of: floats},
			[]graph.Datum{sequenceOf(one, two, one), sequenceOf(two), sequenceOf()},
			[]graph.Datum{one, sequenceOf(ints), sequenceOf(sequenceOf(one)), optionalOf(one)}},
		{"a large sequence", &graph.Type{Kind: graph.KindSequence, Of: anyLength}, []graph.Datum{sequenceOf(large, large)}, nil},
		{"a sequence of strings", &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.String, graph.Known(1))},
			[]graph.Datum{sequenceOf(texts(tensor.Shape{1}, ""), texts(tensor.Shape{1}, "z")), sequenceOf()}, nil},
		{"an optional", &graph.Type{Kind: graph.KindOptional, Of: floats},
			[]graph.Datum{optionalOf(one), {Kind: graph.KindOptional}},
			[]graph.Datum{one, optionalOf(ints), sequenceOf(one)}},
		{"an optional sequence", &graph.Type{Kind: graph.KindOptional, Of: &graph.Type{Kind: graph.KindSequence, Of: floats}},
			[]graph.Datum{optionalOf(sequenceOf(one, two)), optionalOf(sequenceOf()), {Kind: graph.KindOptional}}, nil},
	} {
		dir := c.passing(k.ty)
		lacks, carried := c.device.Carries(k.ty)
		a, err := c.assess(dir)
		c.must("Assess of "+k.what, err)
		if len(a.Nodes) != 1 || a.Nodes[0].OK != carried || !carried && a.Nodes[0].Reason == "" {
			t.Errorf("%s: the verdict is %+v; it should be taken: %v (lacks %q)", k.what, a.Nodes, carried, lacks)
			continue
		}
		e, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: dir})
		if !carried {
			c.refused("Compile of "+k.what, err, backend.CodeUnsupported)
			continue
		}
		c.must("Compile of "+k.what, err)
		c.passValues(k.what, e, k.ty, k.good, k.wrong)
	}
}

func (c *conn) passValues(what string, e *compiled, ty *graph.Type, good, wrong []graph.Datum) {
	c.t.Helper()
	if len(e.info.Inputs) != 1 || !sameKind(e.info.Inputs[0].Type, ty) || len(e.info.Outputs) != 1 || !sameKind(e.info.Outputs[0].Type, ty) {
		c.t.Errorf("%s: described as %+v", what, e.info)
	}
	s := c.execute()
	for i, v := range good {
		data, err := graph.AppendDatum(nil, "", v)
		c.must("encode", err)
		in := valueIn("x", v, data)
		out := &backendv1.Binding{Name: "y", Place: &backendv1.Binding_Inline{}}
		if i%2 == 1 || len(data) > backend.MaxInline {
			for part := range slices.Chunk(data, max(min(len(data)/3, backend.ChunkBytes), 1)) {
				s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "x", Data: part}}})
			}
			in.Place, out = chunkedAt("x", uint64(len(data))).Place, chunkedAt("y", 0)
		}
		r := s.wait(s.sendRun(e.id, bind(in), bind(out)))
		if r.err != nil {
			c.t.Errorf("%s, value %d: %v", what, i, r.err)
			continue
		}
		b := r.done.GetOutputs()[0]
		back := b.GetInline()
		if b.GetChunked() != nil {
			back = r.chunks["y"]
			if uint64(len(back)) != b.GetChunked().GetLength() {
				c.t.Errorf("%s, value %d: %d bytes came in chunks, %d are said to have", what, i, len(back), b.GetChunked().GetLength())
			}
		}
		got, err := backend.DecodeValue(ty, bytes.Clone(back))
		if err != nil || b.GetElementType() != 0 || len(b.GetDims()) != 0 || b.GetEncoding() != in.Encoding || !sameValue(got, v) {
			c.t.Errorf("%s, value %d: came back as %.100q (%v)", what, i, back, err)
		}
	}
	for i, v := range wrong {
		data, err := graph.AppendDatum(nil, "", v)
		c.must("encode", err)
		in := valueIn("x", v, data)
		if err := s.failed(what+", a wrong value", s.sendRun(e.id, bind(in), nil), backend.CodeInvalid); err.Argument != "x" {
			c.t.Errorf("%s, wrong value %d: the error blames %q: %v", what, i, err.Argument, err)
		}
	}
	mem := c.share(4096, readWrite)
	inRegion := regionAt("x", mem.id, 0, 8)
	inRegion.Encoding = backend.EncodingOf(ty)
	s.failed(what+" in a region", s.sendRun(e.id, bind(inRegion), nil), backend.CodeInvalid)
	data, err := graph.AppendDatum(nil, "", good[len(good)-1])
	c.must("encode", err)
	if len(data) <= backend.MaxInline {
		in := valueIn("x", good[len(good)-1], data)
		s.failed(what+" into a region", s.sendRun(e.id, bind(in), bind(regionAt("y", mem.id, 0, 4096))), backend.CodeInvalid)
		s.done(s.sendRun(e.id, bind(in), nil))
	}
}

// valueIn binds the encoding of a value.
func valueIn(name string, v graph.Datum, data []byte) *backendv1.Binding {
	encoding := backend.EncodingOf(&graph.Type{Kind: v.Kind, Elem: v.Tensor.DType})
	return &backendv1.Binding{Name: name, Encoding: encoding, Place: &backendv1.Binding_Inline{Inline: data}}
}

// sameKind compares types as far as names of dimensions do not matter.
func sameKind(a, b *graph.Type) bool {
	for ; a != nil && b != nil; a, b = a.Of, b.Of {
		if a.Kind != b.Kind || a.Elem != b.Elem {
			return false
		}
	}
	return a == b
}

func sameValue(a, b graph.Datum) bool {
	if a.Kind != b.Kind || len(a.Sequence) != len(b.Sequence) || (a.Optional == nil) != (b.Optional == nil) {
		return false
	}
	for i := range a.Sequence {
		if !sameValue(a.Sequence[i], b.Sequence[i]) {
			return false
		}
	}
	if a.Optional != nil {
		return sameValue(*a.Optional, *b.Optional)
	}
	return a.Tensor.DType == b.Tensor.DType && a.Tensor.Shape.Equal(b.Tensor.Shape) && bytes.Equal(a.Tensor.Data, b.Tensor.Data) &&
		(len(a.Tensor.Strings) == 0 && len(b.Tensor.Strings) == 0 || reflect.DeepEqual(a.Tensor.Strings, b.Tensor.Strings))
}
