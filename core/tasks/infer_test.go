package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// lookup is a model of an embedding: ids index a table of 50 rows of 4, and mask
// zeroes rows; past makes a dimension that is a sum.
func lookup(t *testing.T) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("lookup")
	rows := make([]float32, 200)
	for i := range rows {
		rows[i] = float32(i)
	}
	table := b.Tensor("table", tensor.Floats(tensor.Shape{50, 4}, rows...))
	ids := b.Input("ids", graph.TensorType(tensor.Int64, graph.Sym("batch"), graph.Sym("seq")))
	mask := b.Input("attention_mask", graph.TensorType(tensor.Int64, graph.Sym("batch"), graph.Sym("past + seq")))
	e := b.Op("Gather", []string{table, ids})
	b.Output("rows", e, graph.TensorType(tensor.Float32, graph.Sym("batch"), graph.Sym("seq"), graph.Known(4)))
	b.Output("seen", b.Op("ReduceSum", []string{b.Op("Cast", []string{mask}, graph.IntAttr("to", int64(tensor.Float32)))}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func inputs(m *graph.Model, values map[string]tensor.Tensor) *tensorfile.Inputs {
	in := &tensorfile.Inputs{Declared: tasks.FeedInputs(m.Graph)}
	for name, v := range values {
		in.Add(name, graph.Datum{Kind: graph.KindTensor, Tensor: v}, "")
	}
	return in
}

func ids(shape tensor.Shape) tensor.Tensor {
	x, err := tensor.New(tensor.Int64, shape)
	if err != nil {
		panic(err)
	}
	return x
}

func TestPrepareRefuses(t *testing.T) {
	m := lookup(t)
	for name, tt := range map[string]struct {
		given map[string]tensor.Tensor
		dims  map[string]int64
		only  []string
		want  string
	}{
		"nothing given":        {nil, nil, nil, "missing: ids (int64 [batch,seq]), attention_mask (int64 [batch,past + seq])"},
		"one missing":          {map[string]tensor.Tensor{"ids": ids(tensor.Shape{1, 2})}, nil, nil, "missing: attention_mask"},
		"contradicting inputs": {map[string]tensor.Tensor{"ids": ids(tensor.Shape{1, 2}), "attention_mask": ids(tensor.Shape{3, 2})}, nil, nil, `"batch", is 3 where input "ids" has 1`},
		"contradicting sum":    {map[string]tensor.Tensor{"ids": ids(tensor.Shape{1, 2}), "attention_mask": ids(tensor.Shape{1, 2})}, map[string]int64{"past": 3}, nil, "dimension 1 is 5"},
		"contradicting dim":    {map[string]tensor.Tensor{"ids": ids(tensor.Shape{1, 2}), "attention_mask": ids(tensor.Shape{1, 2})}, map[string]int64{"seq": 3}, nil, "it was said to be 3"},
		"unknown dim":          {map[string]tensor.Tensor{"ids": ids(tensor.Shape{1, 2})}, map[string]int64{"bach": 3}, nil, `did you mean "batch"?`},
		"negative dim":         {nil, map[string]int64{"batch": -1}, nil, "can't be -1"},
		"unknown output":       {nil, nil, []string{"row"}, `did you mean "rows"?`},
	} {
		req := tasks.InferRequest{Inputs: inputs(m, tt.given), Dims: tt.dims, Outputs: tt.only}
		if name == "negative dim" || name == "unknown dim" {
			req.Generate = &tasks.Generator{Kind: "zeros"}
		}
		_, err := tasks.Prepare(m, req)
		var invalid *tasks.InvalidInputError
		var bad *tensorfile.InputError
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &invalid) && !errors.As(err, &bad) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestGenerated(t *testing.T) {
	m := lookup(t)
	prepare := func(how string, dims map[string]int64) *tasks.Feed {
		g, err := tasks.ParseGenerator(how)
		if err != nil {
			t.Fatal(err)
		}
		f, err := tasks.Prepare(m, tasks.InferRequest{Inputs: inputs(m, nil), Generate: g, Dims: dims})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := prepare("random:7", map[string]int64{"batch": 3, "past": 100})
	if !slices.Equal(f.Assumed, []string{"seq"}) || f.Dims["seq"] != 1 {
		t.Errorf("dims %v, assumed %v", f.Dims, f.Assumed)
	}
	x, mask := f.Inputs[0], f.Inputs[1]
	if x.Made != "random in [0, 50): it indexes table" || mask.Made != "1 everywhere: a mask" || !mask.Value.Tensor.Shape.Equal(tensor.Shape{3, 101}) {
		t.Errorf("ids: %s; mask: %s %v", x.Made, mask.Made, mask.Value.Tensor.Shape)
	}
	same, other := prepare("random:7", map[string]int64{"batch": 3, "past": 1}), prepare("random:8", map[string]int64{"batch": 3, "past": 1})
	if !slices.Equal(same.Inputs[0].Value.Tensor.Data, x.Value.Tensor.Data) || slices.Equal(other.Inputs[0].Value.Tensor.Data, x.Value.Tensor.Data) {
		t.Error("the seed alone should tell the numbers")
	}
	if got := tensor.View[int64](prepare("ones", nil).Inputs[0].Value.Tensor); !slices.Equal(got, []int64{1}) {
		t.Errorf("ones are %v", got)
	}
	for _, how := range []string{"", "noise", "zeros:1", "random:", "random:-1", "random:x"} {
		if _, err := tasks.ParseGenerator(how); err == nil {
			t.Errorf("%q was taken", how)
		}
	}
}

// TestGeneratedRanges: indexes stay inside what they index, through the operators
// between.
func TestGeneratedRanges(t *testing.T) {
	i64 := func(dims ...int64) *graph.Type {
		typ := graph.TensorType(tensor.Int64)
		for _, d := range dims {
			typ.Dims = append(typ.Dims, graph.Known(d))
		}
		return typ
	}
	table := func(b *graph.Builder, name string, rows int64) string {
		return b.Tensor(name, tensor.Floats(tensor.Shape{rows, 1}, make([]float32, rows)...))
	}
	for name, tt := range map[string]struct {
		build func(b *graph.Builder, x string) string
		want  string
	}{
		"through reshape and cast": {func(b *graph.Builder, x string) string {
			y := b.Op("Cast", []string{b.Op("Reshape", []string{x, b.Ints(-1)})}, graph.IntAttr("to", int64(tensor.Int32)))
			return b.Op("Gather", []string{table(b, "w", 9), y})
		}, "random in [0, 9): it indexes w"},
		"after an offset": {func(b *graph.Builder, x string) string {
			return b.Op("Gather", []string{table(b, "w", 9), b.Op("Add", []string{x, b.Int(2)})})
		}, "random in [0, 7): it indexes w"},
		"the smaller of two": {func(b *graph.Builder, x string) string {
			return b.Op("Add", []string{b.Op("Gather", []string{table(b, "w", 9), x}), b.Op("Gather", []string{table(b, "v", 5), x})})
		}, "random in [0, 5): it indexes v"},
		"one-hot": {func(b *graph.Builder, x string) string {
			return b.Op("OneHot", []string{x, b.Int(6), b.Tensor("values", tensor.Floats(tensor.Shape{2}, 0, 1))})
		}, "random in [0, 6): of OneHot's depth"},
		"a size": {func(b *graph.Builder, x string) string {
			return b.Op("Expand", []string{b.Float(1), x})
		}, "1 everywhere: a size"},
		"nobody bounds it": {func(b *graph.Builder, x string) string {
			return b.Op("Neg", []string{x})
		}, "random in [0, 2)"},
	} {
		b := graph.NewBuilder(name)
		x := b.Input("x", i64(40))
		b.Output("y", tt.build(b, x), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		f, err := tasks.Prepare(m, tasks.InferRequest{Inputs: inputs(m, nil), Generate: &tasks.Generator{Kind: "random"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.Inputs[0].Made != tt.want {
			t.Errorf("%s: %s, want %s", name, f.Inputs[0].Made, tt.want)
		}
		if name == "a size" {
			continue // forty dimensions are more than the operator makes
		}
		if _, err := runOnReference(m)(t.Context(), f.Values(), f.Outputs); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGeneratedTypes makes up every element type there is.
func TestGeneratedTypes(t *testing.T) {
	for d := tensor.Float32; d.Valid(); d++ {
		for _, kind := range []string{"zeros", "ones", "random"} {
			b := graph.NewBuilder("identity")
			b.Output("y", b.Op("Identity", []string{b.Input("x", graph.TensorType(d, graph.Known(5)))}), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			f, err := tasks.Prepare(m, tasks.InferRequest{Inputs: inputs(m, nil), Generate: &tasks.Generator{Kind: kind}})
			if d == tensor.String {
				var invalid *tasks.InvalidInputError
				if !errors.As(err, &invalid) {
					t.Errorf("texts: %v", err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", kind, d, err)
				continue
			}
			v := f.Inputs[0].Value.Tensor
			if err := v.Check(); err != nil || v.DType != d {
				t.Errorf("%s %s: %s, %v", kind, d, v.DType, err)
			}
			e, err := tensorfile.Elements(v)
			if err != nil {
				t.Fatal(err)
			}
			if x, ok := e.Number(0); ok && kind == "ones" && x != 1 {
				t.Errorf("a one of %s is %v", d, x)
			}
		}
	}
}

func runOnReference(m *graph.Model) func(context.Context, map[string]graph.Datum, []string) (map[string]graph.Datum, error) {
	return func(ctx context.Context, in map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
		p, err := reference.New(m, reference.Options{})
		if err != nil {
			return nil, err
		}
		return p.RunValues(ctx, in, wanted)
	}
}

func TestInfer(t *testing.T) {
	m := lookup(t)
	f, err := tasks.Prepare(m, tasks.InferRequest{Inputs: inputs(m, map[string]tensor.Tensor{
		"ids": tensor.Ints(tensor.Shape{1, 2}, 3, 0), "attention_mask": tensor.Ints(tensor.Shape{1, 3}, 1, 1, 1)}),
		Dims: map[string]int64{"past": 1}, Outputs: []string{"rows"}})
	if err != nil {
		t.Fatal(err)
	}
	run, runs, told := runOnReference(m), 0, 0
	res, err := tasks.Infer(t.Context(), func(ctx context.Context, in map[string]graph.Datum, wanted []string) (map[string]graph.Datum, route.Decision, error) {
		runs++
		out, err := run(ctx, in, wanted)
		return out, route.Decision{Chosen: route.Choice{Device: "simulation:0", Kind: backend.Simulated}}, err
	}, f, 4, func(int) { told++ })
	if err != nil || runs != 5 || told != 4 || len(res.Times) != 4 || res.First <= 0 || res.Decision.Chosen.Device != "simulation:0" {
		t.Fatalf("%d runs, %d told: %+v, %v", runs, told, res, err)
	}
	if len(res.Outputs) != 1 || !slices.Equal(tensor.View[float32](res.Outputs[0].Value.Tensor), []float32{12, 13, 14, 15, 0, 1, 2, 3}) {
		t.Errorf("got %+v", res.Outputs)
	}
	if _, err := tasks.Infer(t.Context(), func(context.Context, map[string]graph.Datum, []string) (map[string]graph.Datum, route.Decision, error) {
		return nil, route.Decision{}, nil
	}, f, 0, nil); err == nil || !strings.Contains(err.Error(), `did not give the output "rows"`) {
		t.Errorf("an output that is not there: %v", err)
	}
}

func TestSpread(t *testing.T) {
	var times []time.Duration
	for i := range 10 {
		times = append(times, time.Duration(10-i))
	}
	if got, want := tasks.SpreadOf(times), (tasks.Spread{Runs: 10, Median: 5, P10: 1, P90: 9, Least: 1, Most: 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := tasks.SpreadOf(nil); got != (tasks.Spread{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestSummarize(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, tt := range map[string]struct {
		t    tensor.Tensor
		want string
	}{
		"floats":     {tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, -0.5), `{"name":"x","type":"float32","shape":[2,2],"elements":4,"min":-0.5,"mean":1.375,"max":3,"first":[1,2,3,-0.5]}`},
		"odd floats": {tensor.Floats(tensor.Shape{3}, nan, 2, -inf), `{"name":"x","type":"float32","shape":[3],"elements":3,"min":2,"mean":2,"max":2,"nan":1,"infinite":1,"first":["NaN",2,"-Infinity"]}`},
		"nothing":    {tensor.Floats(tensor.Shape{0}), `{"name":"x","type":"float32","shape":[0],"elements":0,"min":null,"mean":null,"max":null,"first":[]}`},
		"a scalar":   {tensor.Ints(nil, math.MaxInt64), `{"name":"x","type":"int64","shape":[],"elements":1,"min":9223372036854776000,"mean":9223372036854776000,"max":9223372036854776000,"first":[9223372036854775807]}`},
		"booleans":   {tensor.Of(tensor.Bool, tensor.Shape{2}, []bool{true, false}), `{"name":"x","type":"bool","shape":[2],"elements":2,"min":null,"mean":null,"max":null,"first":[true,false]}`},
		"texts":      {tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"1", `a"b`}}, `{"name":"x","type":"string","shape":[2],"elements":2,"min":null,"mean":null,"max":null,"first":["1","a\"b"]}`},
		"complex":    {tensor.Of(tensor.Complex64, tensor.Shape{1}, []complex64{1 - 2i}), `{"name":"x","type":"complex64","shape":[1],"elements":1,"min":null,"mean":null,"max":null,"first":["(1-2i)"]}`},
	} {
		s, err := tasks.Summarize(tensorfile.Named{Name: "x", Value: graph.Datum{Kind: graph.KindTensor, Tensor: tt.t}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := json.Marshal(s); err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v\nwant %s", name, got, err, tt.want)
		}
	}
}

func TestInspect(t *testing.T) {
	m := lookup(t)
	x, err := tasks.Inspect(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if x.Cost != nil || x.Nodes != 3 || x.Parameters != 200 || x.WeightBytes != 800 || x.Opsets["ai.onnx"] == 0 ||
		!slices.Equal(x.Symbols, []string{"batch", "past", "seq"}) || !slices.Equal(x.Inputs[1].Shape, []string{"batch", "past + seq"}) {
		t.Errorf("got %+v", x)
	}
	if got := fmt.Sprint(x.Operators); got != "[{ Cast 1} { Gather 1} { ReduceSum 1}]" {
		t.Errorf("operators %s", got)
	}
	if x, err = tasks.Inspect(m, map[string]int64{"batch": 2, "seq": 3}); err != nil {
		t.Fatal(err)
	}
	// Inputs: 6 and 8 int64; rows: 24 floats, which are an output; the mask as 8
	// floats, and their sum.
	want := tasks.CostInfo{Dims: map[string]int64{"batch": 2, "seq": 3, "past": 1}, Assumed: []string{"past"}, FLOPs: 8, Activations: 6*8 + 8*8 + 24*4 + 8*4 + 4}
	want.Memory = 800 + want.Activations
	if got := *x.Cost; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("cost %+v, want %+v", got, want)
	}
	if _, err = tasks.Inspect(m, map[string]int64{"bach": 2}); err == nil || !strings.Contains(err.Error(), `did you mean "batch"?`) {
		t.Errorf("an unknown dimension: %v", err)
	}
}
