package graph

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

func TestSaveExternal(t *testing.T) {
	m := small(t)
	dir := t.TempDir()
	before := marshal(t, m)
	if err := Save(m, dir, SaveOptions{External: 16, File: "w.bin"}); err != nil {
		t.Fatal(err)
	}
	mustEqualBytes(t, "the model in memory after Save", marshal(t, m), before)
	got := mustLoad(t, dir)
	places := map[string]*External{}
	for _, in := range got.Graph.Initializers {
		places[in.Name] = in.External
		if in.External != nil && (in.External.Offset%DataAlign != 0 || filepath.Base(in.External.Path) != "w.bin") {
			t.Errorf("%s lies at %+v", in.Name, in.External)
		}
	}
	if places["w"] == nil || places["b"] != nil || places["unused"] != nil {
		t.Errorf("at a threshold of 16 bytes these are outside: %v", places)
	}
	inline(got)
	mustEqualBytes(t, "loaded model", marshal(t, got), before)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("folder holds %v, %v, want two files", left, err)
	}
}

func TestSaveKeepsExternal(t *testing.T) {
	m := small(t)
	dir := t.TempDir()
	if err := Save(m, dir, SaveOptions{External: 1, File: "a.bin"}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, ModelFile))
	if err != nil {
		t.Fatal(err)
	}
	loaded := mustLoad(t, dir)
	if err := Save(loaded, dir, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, ModelFile))
	if err != nil {
		t.Fatal(err)
	}
	mustEqualBytes(t, "saved again in place", second, first)

	var ee *ExternalError
	other := t.TempDir()
	if err := Save(loaded, other, SaveOptions{}); !errors.As(err, &ee) || !strings.Contains(err.Error(), "link or copy") {
		t.Errorf("data outside the folder: %v", err)
	}
	if left, _ := os.ReadDir(other); len(left) != 0 {
		t.Errorf("a refused Save left %v", left)
	}
	if _, err := Marshal(loaded); !errors.As(err, &ee) {
		t.Errorf("marshal with absolute paths: %v", err)
	}
	extra := loaded.Clone()
	defer extra.Close()
	extra.Graph.Initializers = append(extra.Graph.Initializers, &Initializer{Name: "new", Tensor: tensor.Ints(nil, 1)})
	if err := Save(extra, dir, SaveOptions{External: 1, File: "a.bin"}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("writing over the file in use: %v", err)
	}
	if err := Save(extra, dir, SaveOptions{External: 1, File: "b.bin"}); err != nil {
		t.Fatal(err)
	}
	again := mustLoad(t, dir)
	inline(again)
	inline(extra)
	mustEqualBytes(t, "with two files", marshal(t, again), marshal(t, extra))
	for _, in := range loaded.Graph.Initializers {
		in.External.Path = filepath.Base(in.External.Path)
	}
	mustEqualBytes(t, "relative paths", marshal(t, loaded), first)
}

func TestMarshalRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *Model)
		want   string
	}{
		{"no graph", func(m *Model) { m.Graph = nil }, "no graph"},
		{"tensor without data", func(m *Model) { m.Graph.Initializers[0].Tensor.Data = nil }, `"w"`},
		{"external of another size", func(m *Model) { m.Graph.Initializers[0].External = &External{Path: "f", Length: 5} }, "5 bytes"},
		{"external parent", func(m *Model) { m.Graph.Initializers[0].External = &External{Path: "../f", Length: 32} }, "relative path"},
		{"attribute without kind", func(m *Model) { m.Graph.Nodes[0].Attrs = []*Attr{{Name: "a"}} }, `"a"`},
		{"attribute without graph", func(m *Model) { m.Graph.Nodes[0].Attrs = []*Attr{GraphAttr("a", nil)} }, `"a"`},
		{"type without kind", func(m *Model) { m.Graph.Inputs[0].Type = &Type{} }, "kind 0"},
	} {
		m := small(t)
		tt.change(m)
		if _, err := Marshal(m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	for _, name := range []string{"../x", "a/b", ModelFile} {
		if err := Save(small(t), t.TempDir(), SaveOptions{External: 1, File: name}); err == nil {
			t.Errorf("external file %q is accepted", name)
		}
	}
	if err := Save(small(t), filepath.Join(t.TempDir(), "none"), SaveOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// full uses every field of a model.
func full() *Model {
	sub := &Graph{Name: "then", Doc: "d", Outputs: []*Value{{Name: "so"}},
		Nodes: []*Node{{OpType: "Identity", Inputs: []string{"x"}, Outputs: []string{"so"}}}}
	tn := &Initializer{Name: "t", Doc: "doc", Metadata: map[string]string{"a": "b"}, Tensor: tensor.Floats(tensor.Shape{1, 2}, 1, 2)}
	str := &Initializer{Tensor: tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"a", "\xff"}}}
	seq := &Type{Kind: KindSequence, Of: TensorType(tensor.Int64, Sym("n"))}
	attrs := []*Attr{
		FloatAttr("f", 1.5), IntAttr("i", -1), StringAttr("s", "x\xff"), {Name: "t", Kind: AttrTensor, Tensor: tn}, GraphAttr("g", sub),
		FloatsAttr("fs", 1, 2), IntsAttr("is", 1, -2), IntsAttr("none"), {Name: "ss", Kind: AttrStrings, Strings: []string{"", "b"}, Doc: "doc"},
		{Name: "ts", Kind: AttrTensors, Tensors: []*Initializer{tn, str}}, {Name: "gs", Kind: AttrGraphs, Graphs: []*Graph{sub, sub}},
		{Name: "ty", Kind: AttrType, Type: seq}, {Name: "tys", Kind: AttrTypes, Types: []*Type{seq, TensorType(tensor.Bool)}},
		{Name: "sp", Kind: AttrSparse, Raw: [][]byte{{1}}}, {Name: "sps", Kind: AttrSparses, Raw: [][]byte{{1}, {}}},
	}
	return &Model{
		IRVersion: 11, ProducerName: "p", ProducerVersion: "v", Domain: "d", Version: 3, Doc: "doc",
		Opsets: map[string]int64{"": 23, "z": 1, "a": 2}, Metadata: map[string]string{"z": "1", "a": ""},
		Graph: &Graph{
			Name: "g", Doc: "doc", Metadata: map[string]string{"m": "n"},
			Nodes:        []*Node{{Name: "n", Domain: "z", OpType: "Op", Overload: "o", Inputs: []string{"x", "", "t"}, Outputs: []string{"", "y"}, Attrs: attrs, Doc: "doc", Metadata: map[string]string{"k": "v"}}},
			Inputs:       []*Value{{Name: "x", Type: TensorType(tensor.Float32, Sym("n"), Known(0), Dim{Size: -1}), Doc: "doc", Metadata: map[string]string{"k": "v"}}},
			Outputs:      []*Value{{Name: "y", Type: &Type{Kind: KindOptional, Of: seq}}},
			Values:       []*Value{{Name: "v", Type: &Type{Kind: KindTensor, Elem: tensor.Int4}}, {Name: "m", Type: &Type{Kind: KindMap, Elem: tensor.String, Of: seq}}, {Name: "s", Type: &Type{Kind: KindSparse, Elem: tensor.Float16}}},
			Initializers: []*Initializer{tn, {Name: "e", Tensor: tensor.Tensor{DType: tensor.Int8, Shape: tensor.Shape{3}}, External: &External{Path: "sub/f.bin", Offset: 7, Length: 3}}},
		},
		Functions: []*Function{{Domain: "z", Name: "Op", Overload: "o", Inputs: []string{"a"}, Outputs: []string{"b"}, Attrs: []string{"p"}, Defaults: []*Attr{IntAttr("q", 1)},
			Nodes:  []*Node{{OpType: "Elu", Inputs: []string{"a"}, Outputs: []string{"b"}, Attrs: []*Attr{RefAttr("alpha", AttrFloat, "p")}}},
			Opsets: map[string]int64{"": 23}, Values: []*Value{{Name: "b", Type: TensorType(tensor.Float32)}}, Doc: "doc", Metadata: map[string]string{"k": "v"}}},
	}
}

func TestRoundTripKeepsEverything(t *testing.T) {
	m := full()
	data := marshal(t, m)
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the model", got, m)
	mustEqual(t, "its clone", m.Clone(), m)
	for range 5 {
		mustEqualBytes(t, "marshalled again", marshal(t, got.Clone()), data)
	}
}

func TestRoundTripExports(t *testing.T) {
	dir := t.TempDir()
	for i, path := range testfiles.Exports(t) {
		m := mustLoad(t, path)
		want := marshal(t, m)
		if i%8 != 0 { // syncing files is slow
			got, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			mustEqualBytes(t, filepath.Base(path), marshal(t, got), want)
			continue
		}
		if err := Save(m, dir, SaveOptions{External: int64(i % 3 * 500)}); err != nil {
			t.Fatal(err)
		}
		got, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		inline(got)
		mustEqualBytes(t, filepath.Base(path), marshal(t, got), want)
		if err := got.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
