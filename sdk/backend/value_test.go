package backend

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

var allFeatures = []string{FeatureStrings, FeatureSequences, FeatureOptionals}

func words(w ...string) graph.Datum {
	if w == nil {
		w = []string{}
	}
	return graph.TensorDatum(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(w))}, Strings: w})
}

func sequence(v ...graph.Datum) graph.Datum {
	return graph.Datum{Kind: graph.KindSequence, Sequence: v}
}

func optional(v *graph.Datum) graph.Datum {
	return graph.Datum{Kind: graph.KindOptional, Optional: v}
}

var (
	wordsType    = graph.TensorType(tensor.String, graph.Sym("n"))
	floatsType   = graph.TensorType(tensor.Float32, graph.Dim{Size: -1})
	sequenceType = &graph.Type{Kind: graph.KindSequence, Of: floatsType}
	optionalType = &graph.Type{Kind: graph.KindOptional, Of: sequenceType}
)

// echo gives its inputs back: words of the length of x, a sequence and an optional.
func (f *fake) echo() *fakeExecutable {
	in := []graph.Value{value("x", tensor.Float32, graph.Sym("n")), {Name: "w", Type: wordsType}, {Name: "s", Type: sequenceType}, {Name: "o", Type: optionalType}}
	out := []graph.Value{value("x2", tensor.Float32, graph.Sym("n")), {Name: "w2", Type: wordsType}, {Name: "s2", Type: sequenceType}, {Name: "o2", Type: optionalType}}
	return f.executable(in, out, func(_ context.Context, in []Value, out Outputs) error {
		for i, v := range in {
			if !out.Wanted(i) {
				continue
			}
			if err := out.Give(i, v.Datum); err != nil {
				return err
			}
		}
		return nil
	})
}

func encoded(t testing.TB, v graph.Datum) []byte {
	t.Helper()
	data, err := graph.AppendDatum(nil, "", v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func inlineValue(t testing.TB, name string, v graph.Datum) *backendv1.Binding {
	return &backendv1.Binding{
		Name: name, Place: &backendv1.Binding_Inline{Inline: encoded(t, v)},
		Encoding: EncodingOf(&graph.Type{Kind: v.Kind, Elem: v.Tensor.DType}),
	}
}

func TestValuesThatAreNoDenseTensors(t *testing.T) {
	f := &fake{features: allFeatures}
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) { return f.echo(), nil }
	c := serve(t, f)
	compiled := compile(t, c)
	if info, err := ExecutableFromProto(compiled); err != nil || !reflect.DeepEqual(info.Inputs[3].Type, optionalType) {
		t.Errorf("described as %+v, %v", info, err)
	}
	s := started(t, c)
	floats := graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 3, 4))
	some := sequence(floats)
	chunkedOut := func(name string) *backendv1.Binding {
		return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{}}}
	}
	for _, w := range []struct {
		what    string
		w, s, o graph.Datum
	}{
		{"something", words("a", "", "\xff\x00"), sequence(floats, floats), optional(&some)},
		{"nothing", words(), sequence(), optional(nil)},
		{"empty inside", words("", ""), sequence(graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{0}})), optional(&graph.Datum{Kind: graph.KindSequence})},
	} {
		x := make([]float32, len(w.w.Tensor.Strings))
		seq := s.run(compiled.Executable,
			[]*backendv1.Binding{inlineIn("x", x...), inlineValue(t, "w", w.w), inlineValue(t, "s", w.s), inlineValue(t, "o", w.o)},
			[]*backendv1.Binding{inlineOut("w2"), chunkedOut("s2"), inlineOut("o2")})
		var chunks []byte
		var done *backendv1.Done
		for done == nil {
			r := s.next()
			if r.GetError() != nil || r.Seq != seq {
				t.Fatalf("%s: %v", w.what, r)
			}
			chunks = append(chunks, r.GetChunk().GetData()...)
			done = r.GetDone()
		}
		for i, want := range []graph.Datum{w.w, w.s, w.o} {
			b := done.Outputs[i]
			data := b.GetInline()
			if i == 1 {
				data = chunks
			}
			got, err := DecodeValue([]*graph.Type{wordsType, sequenceType, optionalType}[i], data)
			if err != nil || b.ElementType != 0 || len(b.Dims) != 0 || b.Encoding != inlineValue(t, "", want).Encoding || !reflect.DeepEqual(encoded(t, got), encoded(t, want)) {
				t.Errorf("%s: %s came as %+v (%v), want %+v", w.what, b.Name, got, err, want)
			}
		}
	}

	// In chunks, and what does not fit.
	data := encoded(t, words("a", "b"))
	for _, part := range [][]byte{data[:3], data[3:]} {
		s.send(&execRequest{Seq: s.seq + 1, Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "w", Data: part}}})
	}
	in := func(change func(w, s, o *backendv1.Binding)) []*backendv1.Binding {
		w, q, o := inlineValue(t, "w", words("a", "b")), inlineValue(t, "s", sequence()), inlineValue(t, "o", optional(nil))
		change(w, q, o)
		return []*backendv1.Binding{inlineIn("x", 1, 2), w, q, o}
	}
	d := s.done(s.run(compiled.Executable, in(func(w, _, _ *backendv1.Binding) {
		w.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: uint64(len(data))}}
	}), []*backendv1.Binding{inlineOut("w2")}))
	if got, err := DecodeValue(wordsType, d.Outputs[0].GetInline()); err != nil || got.Tensor.Strings[1] != "b" {
		t.Errorf("from chunks came %+v, %v", got, err)
	}
	p := makePlaces(t, c, readWrite)
	ints := graph.TensorDatum(tensor.Ints(tensor.Shape{1}, 1))
	for what, w := range map[string]struct {
		in       func(w, s, o *backendv1.Binding)
		out      *backendv1.Binding
		argument string
	}{
		"garbage":                {func(w, _, _ *backendv1.Binding) { w.Place = &backendv1.Binding_Inline{Inline: []byte("garbage")} }, nil, "w"},
		"a dense tensor":         {func(w, _, _ *backendv1.Binding) { w.Place = inlineValue(t, "", floats).Place }, nil, "w"},
		"a sequence as such":     {func(w, _, _ *backendv1.Binding) { w.Encoding = backendv1.Encoding_ENCODING_SEQUENCE }, nil, "w"},
		"dense":                  {func(_, s, _ *backendv1.Binding) { s.Encoding = 0 }, nil, "s"},
		"an element type":        {func(w, _, _ *backendv1.Binding) { w.ElementType = 8 }, nil, "w"},
		"another length":         {func(w, _, _ *backendv1.Binding) { w.Place = inlineValue(t, "", words("a")).Place }, nil, "w"},
		"integers in a sequence": {func(_, s, _ *backendv1.Binding) { s.Place = inlineValue(t, "", sequence(ints)).Place }, nil, "s"},
		"no sequence inside":     {func(_, _, o *backendv1.Binding) { o.Place = inlineValue(t, "", optional(&floats)).Place }, nil, "o"},
		"in a region":            {func(w, _, _ *backendv1.Binding) { w.Place = regionAt("w", p.region, 0, 8).Place }, nil, "w"},
		"no place":               {func(w, _, _ *backendv1.Binding) { w.Place = nil }, nil, "w"},
		"chunks that are not there": {func(w, _, _ *backendv1.Binding) {
			w.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: 9}}
		}, nil, "w"},
		"too large": {func(w, _, _ *backendv1.Binding) {
			w.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: MaxValue + 1}}
		}, nil, "w"},
		"an output in a region": {func(_, _, _ *backendv1.Binding) {}, regionAt("w2", p.region, 0, 64), "w2"},
	} {
		var out []*backendv1.Binding
		if w.out != nil {
			out = append(out, w.out)
		}
		if e := s.failed(s.run(compiled.Executable, in(w.in), out), CodeInvalid); e.Argument != w.argument {
			t.Errorf("%s: %v, want %s to be blamed", what, e, w.argument)
		}
	}
	s.done(s.run(compiled.Executable, in(func(_, _, _ *backendv1.Binding) {}), nil))
}

// TestWrongValues meets backends whose outputs are not what they said.
func TestWrongValues(t *testing.T) {
	floats := graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 3, 4))
	for what, give := range map[string]func(Outputs) error{
		"a tensor for words":      func(o Outputs) error { return o.Give(0, floats) },
		"placed words":            func(o Outputs) error { _, err := o.Place(0, tensor.String, tensor.Shape{2}); return err },
		"words short":             func(o Outputs) error { w := words("a"); w.Tensor.Shape[0] = 2; return o.Give(0, w) },
		"a sequence of a kind":    func(o Outputs) error { return o.Give(1, sequence(words())) },
		"a sequence for floats":   func(o Outputs) error { return o.Give(2, sequence(floats)) },
		"floats short":            func(o Outputs) error { f := floats; f.Tensor.Shape = tensor.Shape{3}; return o.Give(2, f) },
		"words twice":             func(o Outputs) error { _ = o.Give(0, words()); return o.Give(0, words()) },
		"words in a buffer":       func(o Outputs) error { return o.Filled(0, tensor.String, tensor.Shape{1}) },
		"nothing":                 func(o Outputs) error { return o.Give(1, graph.Datum{}) },
		"overlooks what is wrong": func(o Outputs) error { _ = o.Give(0, floats); return nil },
	} {
		f := &fake{features: allFeatures}
		f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
			out := []graph.Value{{Name: "w", Type: wordsType}, {Name: "s", Type: sequenceType}, value("x", tensor.Float32, graph.Sym("n"))}
			return f.executable(nil, out, func(_ context.Context, _ []Value, o Outputs) error { return give(o) }), nil
		}
		_, err := tryCompile(t, serve(t, f), &backendv1.CompileRequest{Device: "0", GraphDir: folder(t)})
		if CodeOf(err) != CodeInternal {
			t.Errorf("%s: %v, want INTERNAL", what, err)
		}
	}
}

// TestDevicesOfDenseTensors sees that a backend that knows tensors only meets nothing else.
func TestDevicesOfDenseTensors(t *testing.T) {
	for what, w := range map[string]struct {
		features []string
		lacks    string // of the one node, whose input is a sequence of strings and whose output is strings
	}{
		"none":    {nil, FeatureSequences},
		"strings": {[]string{FeatureStrings}, FeatureSequences},
		"all":     {allFeatures, ""},
	} {
		f := &fake{features: w.features}
		f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) { return f.echo(), nil }
		c := serve(t, f)
		dir := folder(t)
		r, err := c.Assess(t.Context(), &backendv1.AssessRequest{Device: "0", GraphDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if v := r.Nodes[0]; v.Ok != (w.lacks == "") || !v.Ok && (v.Refusal != backendv1.Refusal_REFUSAL_OPERATOR || v.Reason == "") {
			t.Errorf("%s: verdict %v", what, v)
		}
		_, err = tryCompile(t, c, &backendv1.CompileRequest{Device: "0", GraphDir: dir})
		if w.lacks == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if CodeOf(err) != CodeUnsupported || !strings.Contains(err.Error(), "values:") {
			t.Errorf("%s: %v, want UNSUPPORTED for want of a feature", what, err)
		}
	}
}

func TestSmokeInputs(t *testing.T) {
	var seen []Value
	f := &fake{features: allFeatures}
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		e := f.echo()
		run := e.run
		e.run = func(ctx context.Context, in []Value, out Outputs) error {
			seen = in
			if len(in[2].Sequence) == 0 {
				return Invalid("inputs", "there is nothing in the sequence")
			}
			return run(ctx, in, out)
		}
		return e, nil
	}
	c := serve(t, f)
	q := &backendv1.CompileRequest{Device: "0", GraphDir: folder(t), SmokeDims: map[string]int64{"n": 3}}
	_, err := tryCompile(t, c, q)
	wantCode(t, "a smoke run on nothing", err, CodeInvalid)
	if seen[0].Tensor.Shape[0] != 3 || len(seen[1].Tensor.Strings) != 3 || seen[1].Kind != graph.KindTensor || seen[2].Kind != graph.KindSequence || seen[3].Kind != graph.KindOptional {
		t.Errorf("the smoke run was on %+v", seen)
	}
	p := makePlaces(t, c, readWrite)
	floats := graph.TensorDatum(tensor.Floats(tensor.Shape{1}, 7))
	x := typed(regionAt("x", p.region, 64, 8), 1, 2)
	q.SmokeInputs = []*backendv1.Binding{x, inlineValue(t, "w", words("a", "b")), inlineValue(t, "s", sequence(floats)), inlineValue(t, "o", optional(nil))}
	if _, err := tryCompile(t, c, q); err != nil || seen[1].Tensor.Strings[1] != "b" || len(seen[2].Sequence) != 1 {
		t.Errorf("a smoke run on %+v: %v", seen, err)
	}
	for what, change := range map[string]func(){
		"one missing":       func() { q.SmokeInputs = q.SmokeInputs[:3] },
		"in a buffer":       func() { q.SmokeInputs[0] = typed(bufferAt("x", p.buffer, 0, 8), 1, 2) },
		"in another region": func() { q.SmokeInputs[0] = typed(regionAt("x", p.buffer, 0, 8), 1, 2) },
	} {
		old := append([]*backendv1.Binding(nil), q.SmokeInputs...)
		change()
		_, err := tryCompile(t, c, q)
		if code := CodeOf(err); code != CodeInvalid && code != CodeBadState {
			t.Errorf("%s: %v", what, err)
		}
		q.SmokeInputs = old
	}
}

func TestValuesTooLarge(t *testing.T) {
	// One tensor twenty times: the limit is met before memory is.
	big, err := tensor.New(tensor.Uint8, tensor.Shape{64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var many []graph.Datum
	for range 20 {
		many = append(many, graph.TensorDatum(big))
	}
	ty := &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.Uint8, graph.Sym("n"))}
	_, err = EncodeValue("s", ty, sequence(many...))
	e := AsError(err)
	if e.Code != CodeInvalid || e.Argument != "s" || e.Needed < 20*64<<20 || !strings.Contains(e.Message, "1073741824") {
		t.Errorf("1.25 GiB: %v (needed %d)", err, e.Needed)
	}
	if _, err := DecodeValue(wordsType, make([]byte, 9)); err == nil {
		t.Error("zeros were taken")
	}
}
