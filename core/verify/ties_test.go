package verify

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// detector chooses the 4 best of the rows of x by scores:
//
//	scores, x -> best [L,4], ids [L,4], boxes [L,4,2] = 3 * rows, stages [L,2,4,2], sum [L,2]; encoded [L,N,2]
func detector(t *testing.T, lists, n int64) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("detector")
	scores := b.Input("scores", graph.TensorType(tensor.Float32, graph.Known(lists), graph.Known(n)))
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Known(lists), graph.Known(n), graph.Known(2)))
	top := b.Node(&graph.Node{Name: "choose", OpType: "TopK", Inputs: []string{scores, b.Ints(4)}}, 2)
	at := b.Op("Expand", []string{b.Op("Unsqueeze", []string{top[1], b.Ints(2)}), b.Ints(lists, 4, 2)})
	boxes := b.Op("Mul", []string{b.Op("GatherElements", []string{x, at}, graph.IntAttr("axis", 1)), b.Float(3)})
	one := b.Op("Unsqueeze", []string{boxes, b.Ints(1)})
	b.Output("best", top[0], nil)
	b.Output("ids", top[1], nil)
	b.Output("boxes", boxes, nil)
	b.Output("stages", b.Op("Concat", []string{b.Op("Neg", []string{one}), one}, graph.IntAttr("axis", 1)), nil)
	b.Output("sum", b.Op("ReduceSum", []string{boxes, b.Ints(1)}, graph.IntAttr("keepdims", 0)), nil)
	b.Output("encoded", b.Op("Relu", []string{x}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exchange moves rows of a tensor's axis: the result's row i is row order[i].
func exchange(t tensor.Tensor, axis int, order ...int) tensor.Tensor {
	inner := t.DType.Bits() / 8
	for _, d := range t.Shape[axis+1:] {
		inner *= int(d)
	}
	k := len(order)
	out := t
	out.Data = slices.Clone(t.Data)
	for at := 0; at < len(t.Data); at += k * inner {
		for i, from := range order {
			copy(out.Data[at+i*inner:at+(i+1)*inner], t.Data[at+from*inner:])
		}
	}
	return out
}

// above is so many units in the last place above 3.
func above(units int) float32 { return math.Float32frombits(math.Float32bits(3) + uint32(units)) }

func TestTies(t *testing.T) {
	all := func(order ...int) func(map[string]tensor.Tensor) {
		return func(out map[string]tensor.Tensor) {
			for name, axis := range map[string]int{"best": 1, "ids": 1, "boxes": 1, "stages": 2} {
				out[name] = exchange(out[name], axis, order...)
			}
		}
	}
	add := func(name string, i int, v float32) func(map[string]tensor.Tensor) {
		return func(out map[string]tensor.Tensor) {
			x := out[name].Aligned()
			x.Data = slices.Clone(x.Data)
			tensor.View[float32](x)[i] += v
			out[name] = x
		}
	}
	both := func(a, b func(map[string]tensor.Tensor)) func(map[string]tensor.Tensor) {
		return func(out map[string]tensor.Tensor) { a(out); b(out) }
	}
	inf := float32(math.Inf(1))
	for _, tt := range []struct {
		name      string
		scores    []float32 // of 6 rows
		record    func(out map[string]tensor.Tensor)
		exchanged [][]int64 // nil: refused
		units     float64
		outputs   string
	}{
		{"as they are", []float32{1, 9, 3, 0, 0, 3.5}, func(map[string]tensor.Tensor) {}, nil, 0, ""},
		{"equal", []float32{1, 9, 3, 0, 0, above(1)}, all(0, 2, 1, 3), [][]int64{{5, 2}}, 1, "ids boxes stages"},
		{"at the limit", []float32{1, 9, 3, 0, 0, above(TieUnits)}, all(0, 2, 1, 3), [][]int64{{5, 2}}, TieUnits, "ids boxes stages"},
		{"beyond it", []float32{1, 9, 3, 0, 0, above(TieUnits + 1)}, all(0, 2, 1, 3), nil, 0, ""},
		{"far apart", []float32{1, 9, 3, 0, 0, 3.5}, all(0, 2, 1, 3), nil, 0, ""},
		{"three", []float32{3, above(2), 3, 0, 0, above(1)}, all(2, 0, 1, 3), [][]int64{{1, 5, 0}}, 2, "ids boxes stages"},
		{"two pairs", []float32{1, above(1), 1, 0, 0, 3}, all(1, 0, 3, 2), [][]int64{{1, 5}, {0, 2}}, 1, "ids boxes stages"},
		{"neighbours tie, the ends do not", []float32{0.5, above(2 * TieUnits), 3, 0, 0, above(TieUnits)}, all(2, 0, 1, 3), nil, 0, ""},
		{"rows of one pair and scores of another", []float32{1, 9, 3, 0, 0, above(1)}, all(1, 0, 2, 3), nil, 0, ""},
		{"infinite", []float32{1, inf, 3, 0, 0, inf}, all(1, 0, 2, 3), nil, 0, ""},
		{"one output in another order", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), func(out map[string]tensor.Tensor) { out["stages"] = exchange(out["stages"], 2, 0, 2, 1, 3) }), nil, 0, ""},
		{"one output in an order of its own", []float32{3, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), func(out map[string]tensor.Tensor) { out["stages"] = exchange(out["stages"], 2, 0, 1, 3, 2) }), nil, 0, ""},
		{"part of an output", []float32{1, 9, 3, 0, 0, 3}, func(out map[string]tensor.Tensor) {
			all(0, 2, 1, 3)(out)
			s := out["stages"]
			s.Data = append(slices.Clone(s.Data[:len(s.Data)/2]), exchange(s, 2, 0, 2, 1, 3).Data[len(s.Data)/2:]...)
			out["stages"] = s
		}, nil, 0, ""},
		{"a value of an exchanged row", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("boxes", 2, 0.01)), nil, 0, ""},
		{"a value of another row", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("boxes", 0, 0.01)), nil, 0, ""},
		{"within the tolerance", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("boxes", 2, 1e-5)), [][]int64{{2, 5}}, 0, "ids boxes stages"},
		{"an output without rows", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("sum", 0, 1)), nil, 0, ""},
		{"an output before the choice", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("encoded", 0, 1)), nil, 0, ""},
		{"chosen or not", []float32{1, 9, 3, 1, 0, 4}, func(out map[string]tensor.Tensor) {
			// Row 3 ties with row 0, which is chosen, and is recorded in its place.
			ids := slices.Clone(tensor.View[int64](out["ids"]))
			ids[3] = 3
			out["ids"] = tensor.Ints(out["ids"].Shape, ids...)
		}, nil, 0, ""},
		{"NaN recorded", []float32{1, 9, 3, 0, 0, 3}, both(all(0, 2, 1, 3), add("boxes", 0, float32(math.NaN()))), nil, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := detector(t, 1, 6)
			feeds := graph.TensorData(map[string]tensor.Tensor{
				"scores": tensor.Floats(tensor.Shape{1, 6}, tt.scores...),
				"x":      tensor.Floats(tensor.Shape{1, 6, 2}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
			})
			ties, outs := settled(t, m, feeds, tt.record)
			var exchanged [][]int64
			for _, tie := range ties {
				exchanged = append(exchanged, tie.Exchanged...)
				if tie.Node != "choose" || tie.Units != tt.units || strings.Join(tie.Outputs, " ") != tt.outputs {
					t.Errorf("%+v, want %v units, outputs %s", tie, tt.units, tt.outputs)
				}
			}
			if fmt.Sprint(exchanged) != fmt.Sprint(tt.exchanged) {
				t.Errorf("exchanged %v, want %v", exchanged, tt.exchanged)
			}
			for _, o := range outs {
				tied := strings.Contains(" "+tt.outputs+" ", " "+o.Name+" ")
				if ties != nil && (!o.OK || o.Tied != tied) || ties == nil && o.Tied {
					t.Errorf("%+v", o)
				}
			}
		})
	}
}

// settled runs a model, changes what is recorded, and settles.
func settled(t *testing.T, m *graph.Model, feeds map[string]graph.Datum, change func(map[string]tensor.Tensor)) ([]Tie, []Output) {
	t.Helper()
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.RunValues(context.Background(), feeds, nil)
	if err != nil {
		t.Fatal(err)
	}
	record := map[string]tensor.Tensor{}
	for name, v := range got {
		record[name] = v.Tensor
	}
	change(record)
	var recorded []named
	var outs []Output
	for _, v := range m.Graph.Outputs {
		n := named{v.Name, graph.TensorDatum(record[v.Name])}
		o := compareValues(got[v.Name], n.value, tensor.Tensor{}, DefaultTolerance)
		o.Name = v.Name
		recorded, outs = append(recorded, n), append(outs, o)
	}
	before := fmt.Sprintf("%+v", outs)
	ties, err := settle(context.Background(), m, feeds, recorded, got, tensor.Tensor{}, outs)
	if err != nil {
		t.Fatal(err)
	}
	if ties == nil && fmt.Sprintf("%+v", outs) != before {
		t.Errorf("refused, but outputs changed from %s to %+v", before, outs)
	}
	return ties, outs
}

// TestTiesOfLists has two lists of scores, each with an order of its own.
func TestTiesOfLists(t *testing.T) {
	m := detector(t, 2, 5)
	feeds := func(second float32) map[string]graph.Datum {
		return graph.TensorData(map[string]tensor.Tensor{
			"scores": tensor.Floats(tensor.Shape{2, 5}, 9, 3, 3, 1, 0, 4, second, 1, 1, 0),
			"x":      tensor.Floats(tensor.Shape{2, 5, 2}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20),
		})
	}
	change := func(out map[string]tensor.Tensor) {
		for name, axis := range map[string]int{"ids": 1, "boxes": 1, "stages": 2} {
			x := out[name]
			half := len(x.Data) / 2
			x.Data = append(slices.Clone(exchange(x, axis, 0, 2, 1, 3).Data[:half]), exchange(x, axis, 1, 0, 3, 2).Data[half:]...)
			out[name] = x
		}
	}
	ties, _ := settled(t, m, feeds(4), change)
	if len(ties) != 2 || ties[0].Batch != 0 || fmt.Sprint(ties[0].Exchanged) != "[[1 2]]" || ties[1].Batch != 1 || fmt.Sprint(ties[1].Exchanged) != "[[0 1] [2 3]]" {
		t.Errorf("%+v", ties)
	}
	if ties, _ := settled(t, m, feeds(3.9), change); ties != nil {
		t.Errorf("the second list has no tie at its head: %+v", ties)
	}
}

func TestAssign(t *testing.T) {
	for _, tt := range []struct {
		fits []string // by row, the places that fit
		want []int
	}{
		{nil, []int{}},
		{[]string{"0", "1"}, []int{0, 1}},
		{[]string{"01", "01"}, []int{0, 1}},
		{[]string{"1", "0"}, []int{1, 0}},
		{[]string{"01", "0"}, []int{1, 0}},
		{[]string{"012", "01", "1"}, []int{2, 0, 1}},
		{[]string{"0", "0"}, nil},
		{[]string{"", "01"}, nil},
	} {
		got := assign(len(tt.fits), func(row, place int) bool { return strings.Contains(tt.fits[row], fmt.Sprint(place)) })
		if !slices.Equal(got, tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%q: %v, want %v", tt.fits, got, tt.want)
		}
	}
}

func TestTieSaysItself(t *testing.T) {
	tie := Tie{Node: "choose", Batch: 1, Exchanged: [][]int64{{31, 47}, {1, 2, 3}}, Units: 0.5}
	want := "rows 31 and 47, rows 1, 2 and 3 of list 1 change places: their scores tie at choose, 0.5 units in the last place apart of at most 8"
	if got := tie.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
