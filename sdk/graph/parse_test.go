package graph

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/accelhq/accel/sdk/tensor"
)

// wire builds protobuf messages by hand.
type wire []byte

func (w wire) int(num protowire.Number, v ...int64) wire {
	for _, x := range v {
		w = protowire.AppendTag(w, num, protowire.VarintType)
		w = protowire.AppendVarint(w, uint64(x))
	}
	return w
}

func (w wire) bytes(num protowire.Number, v []byte) wire {
	w = protowire.AppendTag(w, num, protowire.BytesType)
	return protowire.AppendBytes(w, v)
}

func (w wire) str(num protowire.Number, v string) wire { return w.bytes(num, []byte(v)) }

func (w wire) f32(num protowire.Number, v ...float32) wire {
	for _, x := range v {
		w = protowire.AppendTag(w, num, protowire.Fixed32Type)
		w = protowire.AppendFixed32(w, math.Float32bits(x))
	}
	return w
}

func (w wire) f64(num protowire.Number, v ...float64) wire {
	for _, x := range v {
		w = protowire.AppendTag(w, num, protowire.Fixed64Type)
		w = protowire.AppendFixed64(w, math.Float64bits(x))
	}
	return w
}

func packedInts(v ...int64) []byte {
	var b []byte
	for _, x := range v {
		b = protowire.AppendVarint(b, uint64(x))
	}
	return b
}

func packedFloats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = protowire.AppendFixed32(b, math.Float32bits(x))
	}
	return b
}

// tensorWire begins a TensorProto.
func tensorWire(t tensor.DType, dims ...int64) wire {
	return wire(nil).int(1, dims...).int(2, int64(t)).str(8, "t")
}

func TestParseTensor(t *testing.T) {
	half := uint16(0x3c00)
	tests := []struct {
		name string
		in   wire
		want tensor.Tensor
	}{
		{"raw float", tensorWire(tensor.Float32, 2).bytes(9, packedFloats(1, -2)), tensor.Floats(tensor.Shape{2}, 1, -2)},
		{"packed float", tensorWire(tensor.Float32, 2).bytes(4, packedFloats(1, -2)), tensor.Floats(tensor.Shape{2}, 1, -2)},
		{"single floats", tensorWire(tensor.Float32, 2).f32(4, 1, -2), tensor.Floats(tensor.Shape{2}, 1, -2)},
		{"two packed runs", tensorWire(tensor.Float32, 3).bytes(4, packedFloats(1, -2)).bytes(4, packedFloats(3)), tensor.Floats(tensor.Shape{3}, 1, -2, 3)},
		{"packed dims", wire(nil).bytes(1, packedInts(1, 2)).int(2, 1).str(8, "t").f32(4, 5, 6), tensor.Floats(tensor.Shape{1, 2}, 5, 6)},
		{"scalar", tensorWire(tensor.Float32).f32(4, 5), tensor.Floats(nil, 5)},
		{"type after data", wire(nil).int(1, 2).bytes(5, packedInts(-1, 200)).int(2, int64(tensor.Int32)).str(8, "t"), tensor.Of(tensor.Int32, tensor.Shape{2}, []int32{-1, 200})},
		{"int64", tensorWire(tensor.Int64, 2).bytes(7, packedInts(-5, math.MaxInt64)), tensor.Ints(tensor.Shape{2}, -5, math.MaxInt64)},
		{"single int64", tensorWire(tensor.Int64, 2).int(7, -5, 6), tensor.Ints(tensor.Shape{2}, -5, 6)},
		{"int8", tensorWire(tensor.Int8, 2).bytes(5, packedInts(-128, 127)), tensor.Of(tensor.Int8, tensor.Shape{2}, []int8{-128, 127})},
		{"uint8", tensorWire(tensor.Uint8, 2).bytes(5, packedInts(0, 255)), tensor.Of(tensor.Uint8, tensor.Shape{2}, []uint8{0, 255})},
		{"int16", tensorWire(tensor.Int16, 1).bytes(5, packedInts(-2)), tensor.Of(tensor.Int16, tensor.Shape{1}, []int16{-2})},
		{"float16 bits", tensorWire(tensor.Float16, 1).bytes(5, packedInts(int64(half))), tensor.Of(tensor.Float16, tensor.Shape{1}, []uint16{half})},
		{"bool", tensorWire(tensor.Bool, 2).bytes(5, packedInts(1, 0)), tensor.Of(tensor.Bool, tensor.Shape{2}, []bool{true, false})},
		{"uint32", tensorWire(tensor.Uint32, 1).bytes(11, packedInts(math.MaxUint32)), tensor.Of(tensor.Uint32, tensor.Shape{1}, []uint32{math.MaxUint32})},
		{"uint64", tensorWire(tensor.Uint64, 1).bytes(11, packedInts(-1)), tensor.Of(tensor.Uint64, tensor.Shape{1}, []uint64{math.MaxUint64})},
		{"double", tensorWire(tensor.Float64, 1).f64(10, 0.5), tensor.Of(tensor.Float64, tensor.Shape{1}, []float64{0.5})},
		{"complex64", tensorWire(tensor.Complex64, 1).f32(4, 1, 2), tensor.Of(tensor.Complex64, tensor.Shape{1}, []complex64{1 + 2i})},
		{"complex128", tensorWire(tensor.Complex128, 1).f64(10, 1, 2), tensor.Of(tensor.Complex128, tensor.Shape{1}, []complex128{1 + 2i})},
		{"int4, two a byte", tensorWire(tensor.Int4, 3).bytes(5, packedInts(0x21, 0x0f)), tensor.Tensor{DType: tensor.Int4, Shape: tensor.Shape{3}, Data: []byte{0x21, 0x0f}}},
		{"raw uint2, four a byte", tensorWire(tensor.Uint2, 5).bytes(9, []byte{0xe4, 1}), tensor.Tensor{DType: tensor.Uint2, Shape: tensor.Shape{5}, Data: []byte{0xe4, 1}}},
		{"strings", tensorWire(tensor.String, 2).str(6, "a").str(6, ""), tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"a", ""}}},
		{"no elements", tensorWire(tensor.Float32, 0, 3), tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{0, 3}}},
		{"unknown fields", tensorWire(tensor.Float32, 1).int(99, 5).str(98, "x").f32(97, 1).f64(96, 1).f32(4, 5), tensor.Floats(tensor.Shape{1}, 5)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name, got, err := ParseTensor(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			mustEqual(t, "name", name, "t")
			if got.DType != tt.want.DType || !got.Shape.Equal(tt.want.Shape) || string(got.Data) != string(tt.want.Data) || !reflect.DeepEqual(got.Strings, tt.want.Strings) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			out, err := AppendTensor([]byte("before"), "t", got)
			if err != nil {
				t.Fatal(err)
			}
			_, again, err := ParseTensor(out[len("before"):])
			if err != nil || string(again.Data) != string(got.Data) || !again.Shape.Equal(got.Shape) || again.DType != got.DType {
				t.Errorf("written and read again: %+v, %v", again, err)
			}
		})
	}
}

func TestParseTensorIsZeroCopy(t *testing.T) {
	for _, num := range []protowire.Number{4, 9} {
		in := tensorWire(tensor.Float32, 2).bytes(num, packedFloats(1, -2))
		_, got, err := ParseTensor(in)
		if err != nil {
			t.Fatal(err)
		}
		if &got.Data[7] != &in[len(in)-1] {
			t.Errorf("field %d was copied", num)
		}
	}
}

func TestParseTensorRefuses(t *testing.T) {
	external := func(kv ...string) wire {
		w := tensorWire(tensor.Float32, 2).int(14, 1)
		for i := 0; i < len(kv); i += 2 {
			w = w.bytes(13, wire(nil).str(1, kv[i]).str(2, kv[i+1]))
		}
		return w
	}
	tests := []struct {
		name string
		in   wire
		want string // part of the message
	}{
		{"cut short", tensorWire(tensor.Float32, 2).bytes(9, packedFloats(1, 2))[:15], "truncated"},
		{"no type", wire(nil).int(1, 2), "no element type"},
		{"unknown type", tensorWire(99, 1), "element type 99"},
		{"6-bit floats", tensorWire(27, 1).bytes(9, []byte{0}), "element type 27"},
		{"segment", tensorWire(tensor.Float32, 2).bytes(3, wire(nil).int(1, 0)), "segmented"},
		{"too little", tensorWire(tensor.Float32, 2).bytes(9, packedFloats(1)), "holds 4 bytes, wants 8"},
		{"too much", tensorWire(tensor.Float32, 2).bytes(9, packedFloats(1, 2, 3)), "holds 12 bytes, wants 8"},
		{"nothing", tensorWire(tensor.Float32, 2), "holds 0 bytes, wants 8"},
		{"negative dimension", tensorWire(tensor.Float32, -2), "negative"},
		{"overflow", tensorWire(tensor.Float32, math.MaxInt64, 2, 2), "more elements"},
		{"byte overflow", tensorWire(tensor.Float64, math.MaxInt64), "too large"},
		{"two fields", tensorWire(tensor.Float32, 1).f32(4, 1).bytes(9, packedFloats(1)), "both float_data and raw_data"},
		{"wrong field", tensorWire(tensor.Float32, 1).int(7, 1), "can't lie in int64_data"},
		{"raw strings", tensorWire(tensor.String, 1).bytes(9, []byte("a")), "raw_data can't hold strings"},
		{"int8 range", tensorWire(tensor.Int8, 1).int(5, 256), "does not fit int8"},
		{"int32 range", tensorWire(tensor.Int32, 1).int(5, 1<<40), "does not fit int32"},
		{"bool range", tensorWire(tensor.Bool, 1).bytes(9, []byte{2}), "no bool"},
		{"half a float", tensorWire(tensor.Float32, 1).bytes(4, []byte{1, 2, 3}), "holds 3 bytes"},
		{"wire type", tensorWire(tensor.Float32, 1).int(9, 1), "wire type"},
		{"name not UTF-8", wire(nil).bytes(8, []byte{0xff}), "UTF-8"},
		{"group", append(wire(nil), 0x0b, 0x08), "malformed"},
		{"field 0", append(wire(nil), 0x00, 0x00), "tag"},
		{"external", external("location", "f"), "hold its own data"},
		{"external without place", external(), "names no file"},
		{"external length", external("location", "f", "length", "4"), "wants 8"},
		{"external offset", external("location", "f", "offset", "-4"), "want a number"},
		{"external offset overflow", external("location", "f", "offset", "9223372036854775807"), "overflows"},
		{"external twice", external("location", "f", "location", "g"), "twice"},
		{"external and inside", external("location", "f").f32(4, 1, 2), "float_data holds some too"},
		{"external strings", wire(nil).int(1, 1).int(2, int64(tensor.String)).int(14, 1), "no fixed size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got, err := ParseTensor(tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %+v, %v, want an error with %q", got, err, tt.want)
			}
			var fe *FormatError
			var ee *ExternalError
			if !errors.As(err, &fe) && !errors.As(err, &ee) {
				t.Errorf("error is a %T", err)
			}
		})
	}
	var le *LimitError
	if _, _, err := ParseTensor(tensorWire(tensor.Float32, make([]int64, 65)...)); !errors.As(err, &le) || le.What != "dimensions" {
		t.Errorf("rank 65: %v", err)
	}
}

func TestParseDatum(t *testing.T) {
	one := tensorWire(tensor.Float32).f32(4, 1)
	seq := wire(nil).str(1, "s").int(2, 1).bytes(3, one).bytes(3, one)
	tests := []struct {
		name string
		in   wire
		kind TypeKind
		want Datum
		err  string
	}{
		{"tensor", one, KindTensor, Datum{Kind: KindTensor, Tensor: tensor.Floats(nil, 1)}, ""},
		{"sequence", seq, KindSequence, Datum{Kind: KindSequence, Sequence: []Datum{{Kind: KindTensor, Tensor: tensor.Floats(nil, 1)}, {Kind: KindTensor, Tensor: tensor.Floats(nil, 1)}}}, ""},
		{"empty sequence", wire(nil).int(2, 1), KindSequence, Datum{Kind: KindSequence}, ""},
		{"nested", wire(nil).int(2, 3).bytes(5, wire(nil).int(2, 1).bytes(3, one)), KindSequence, Datum{Kind: KindSequence, Sequence: []Datum{{Kind: KindSequence, Sequence: []Datum{{Kind: KindTensor, Tensor: tensor.Floats(nil, 1)}}}}}, ""},
		{"optional", wire(nil).int(2, 1).bytes(3, one), KindOptional, Datum{Kind: KindOptional, Optional: &Datum{Kind: KindTensor, Tensor: tensor.Floats(nil, 1)}}, ""},
		{"empty optional", wire(nil).int(2, 1), KindOptional, Datum{Kind: KindOptional}, ""},
		{"two in an optional", wire(nil).int(2, 1).bytes(3, one).bytes(3, one), KindOptional, Datum{}, "two values"},
		{"kinds differ", wire(nil).int(2, 3).bytes(3, one), KindSequence, Datum{}, "kind"},
		{"map", wire(nil).int(2, 4).bytes(6, one), KindSequence, Datum{}, "maps"},
		{"map kind", nil, KindMap, Datum{}, "can't be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got, err := ParseDatum(tt.in, tt.kind)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			again, err := AppendDatum(nil, "again", got)
			if err != nil {
				t.Fatal(err)
			}
			if name, back, err := ParseDatum(again, tt.kind); err != nil || name != "again" || !reflect.DeepEqual(back, tt.want) {
				t.Errorf("written and read it is %q %+v (%v), want %+v", name, back, err, tt.want)
			}
		})
	}
	words := TensorDatum(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"", "\xff"}})
	for _, tt := range []struct {
		name string
		v    Datum
		err  string
	}{
		{"strings in a sequence", Datum{Kind: KindSequence, Sequence: []Datum{words, words}}, ""},
		{"an optional in an optional", Datum{Kind: KindOptional, Optional: &Datum{Kind: KindOptional}}, ""},
		{"nothing", Datum{}, "can't be written"},
		{"mixed", Datum{Kind: KindSequence, Sequence: []Datum{words, {Kind: KindOptional}}}, "kinds 1 and 9"},
		{"short", Datum{Kind: KindSequence, Sequence: []Datum{TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{2}})}}, "holds 0 bytes"},
	} {
		data, err := AppendDatum(nil, "", tt.v)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.err)
			}
			continue
		}
		if _, back, perr := ParseDatum(data, tt.v.Kind); err != nil || perr != nil || !reflect.DeepEqual(back, tt.v) {
			t.Errorf("%s: written and read it is %+v (%v, %v), want %+v", tt.name, back, err, perr, tt.v)
		}
	}
	deep := wire(nil).int(2, 1)
	for range 100 {
		deep = wire(nil).int(2, 3).bytes(5, deep)
	}
	var le *LimitError
	if _, _, err := ParseDatum(deep, KindSequence); !errors.As(err, &le) {
		t.Errorf("100 sequences in each other: %v", err)
	}
}

// modelWire wraps a graph.
func modelWire(graph wire) wire {
	return wire(nil).int(1, 10).bytes(8, wire(nil).str(1, "ai.onnx").int(2, 23)).bytes(7, graph)
}

func TestParseModel(t *testing.T) {
	sparse := func(dims []int64, indices ...wire) wire {
		w := wire(nil).bytes(1, tensorWire(tensor.Float32, 2).f32(4, 3, 4)).int(3, dims...)
		for _, ix := range indices {
			w = w.bytes(2, ix)
		}
		return w
	}
	linear := tensorWire(tensor.Int64, 2).int(7, 1, 5)
	coords := tensorWire(tensor.Int64, 2, 2).int(7, 0, 1, 1, 2)
	m, err := Parse(modelWire(wire(nil).
		bytes(1, wire(nil).str(1, "x").str(1, "").str(2, "y").str(4, "Foo").str(7, "ai.onnx").
			bytes(5, wire(nil).str(1, "ints").int(8, 1, 2).int(20, 7)).
			bytes(5, wire(nil).str(1, "old").int(3, 5))). // no type, as in IR 1
		bytes(11, wire(nil).str(1, "x").bytes(2, wire(nil).bytes(1, wire(nil).int(1, 1).bytes(2, wire(nil).
			bytes(1, wire(nil).str(2, "N")).bytes(1, wire(nil).int(1, 3)).bytes(1, nil).bytes(1, wire(nil).int(1, -1)))))).
		bytes(12, wire(nil).str(1, "y").bytes(2, nil)).
		bytes(15, sparse([]int64{2, 3}, linear)).
		bytes(15, sparse([]int64{2, 3}, coords)).
		bytes(14, wire(nil).str(1, "annotation"))).bytes(20, wire(nil).str(1, "training")))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "opsets", m.Opsets, map[string]int64{"": 23})
	n := m.Graph.Nodes[0]
	mustEqual(t, "domain", n.Domain, "")
	mustEqual(t, "inputs", n.Inputs, []string{"x", ""})
	mustEqual(t, "ints", n.AttrInts("ints"), []int64{1, 2})
	mustEqual(t, "attribute without a type", *n.Attr("old"), Attr{Name: "old", Kind: AttrInt, Int: 5})
	mustEqual(t, "input", m.Graph.Inputs[0].Type, TensorType(tensor.Float32, Sym("N"), Known(3), Dim{Size: -1}, Dim{Size: -1}))
	mustEqual(t, "type of the output", m.Graph.Outputs[0].Type, (*Type)(nil))
	want := tensor.Floats(tensor.Shape{2, 3}, 0, 3, 0, 0, 0, 4)
	for _, in := range m.Graph.Initializers {
		mustEqual(t, "dense of sparse", in.Tensor, want)
	}

	for _, tt := range []struct {
		name  string
		graph wire
		want  string
	}{
		{"sparse outside", wire(nil).bytes(15, sparse([]int64{2, 2}, linear)), "index 5"},
		{"sparse outside a dimension", wire(nil).bytes(15, sparse([]int64{3, 2}, coords)), "index 2"},
		{"sparse without indices", wire(nil).bytes(15, sparse([]int64{2, 2})), "lacks"},
		{"sparse huge", wire(nil).bytes(15, sparse([]int64{1 << 20, 1 << 20}, linear)), "limit"},
		{"graph in graph attribute twice", wire(nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "g").bytes(6, nil).bytes(6, nil))), "twice"},
		{"attribute with two values", wire(nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "g").int(3, 1).f32(2, 1).int(20, 1))), "another kind"},
		{"attribute of another kind", wire(nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "g").int(3, 1).int(20, 1))), "another kind"},
		{"attribute without value", wire(nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "g").int(20, 5))), "no value"},
		{"attribute of unknown kind", wire(nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "g").int(20, 77))), "attribute type 77"},
		{"opaque", wire(nil).bytes(11, wire(nil).bytes(2, wire(nil).bytes(7, nil))), "opaque"},
		{"metadata twice", wire(nil).bytes(16, wire(nil).str(1, "k")).bytes(16, wire(nil).str(1, "k")), "twice"},
	} {
		if _, err := Parse(modelWire(tt.graph)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	_, err = Parse(modelWire(wire(nil).bytes(1, nil).bytes(1, wire(nil).bytes(5, wire(nil).str(1, "value").bytes(5, tensorWire(tensor.Float32, 1))))))
	var fe *FormatError
	if !errors.As(err, &fe) || fe.Path != `graph.node[1].attribute[0]."value".t."t"` || fe.Offset == 0 {
		t.Errorf("the path of the error is wrong: %v", err)
	}
	for _, junk := range []string{"", "not a model", "{\"a\": 1}"} {
		if _, err := Parse([]byte(junk)); !errors.As(err, &fe) {
			t.Errorf("%q: %v", junk, err)
		}
	}
}

func TestLimits(t *testing.T) {
	graph := wire(nil)
	for range 50 {
		graph = wire(nil).bytes(1, wire(nil).str(4, "If").bytes(5, wire(nil).str(1, "g").bytes(6, graph).int(20, 5)))
	}
	data := modelWire(graph)
	for _, tt := range []struct {
		limits Limits
		what   string // "" for none
	}{
		{Limits{}, "levels of nesting"},
		{Limits{Depth: 60}, ""},
		{Limits{Depth: 60, Nodes: 49}, "nodes"},
		{Limits{Depth: 60, Items: 100}, "items"},
		{Limits{Depth: 60, Bytes: 100}, "bytes"},
	} {
		_, err := Parse(data, WithLimits(tt.limits))
		var le *LimitError
		switch {
		case tt.what == "" && err != nil:
			t.Errorf("%+v: %v", tt.limits, err)
		case tt.what != "" && (!errors.As(err, &le) || le.What != tt.what || le.Found <= le.Limit):
			t.Errorf("%+v: got %v, want a limit on %s", tt.limits, err, tt.what)
		}
	}
}
