//go:build linux

package lower

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/backendtest"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// whimsical is a device that refuses a share of the nodes, each time the same by
// what they make, and if told all that works on int64, and graphs with bool at
// their faces.
func whimsical(seed uint64, percent int, picky bool) Target {
	return Target{Device: "whimsical", Assess: func(_ context.Context, dir string) (backend.Assessment, error) {
		m, err := graph.Load(dir)
		if err != nil {
			return backend.Assessment{}, err
		}
		defer m.Close()
		if err := graph.Infer(m); err != nil {
			return backend.Assessment{}, err
		}
		types := m.Graph.Types()
		face := map[string]bool{}
		for _, v := range slices.Concat(m.Graph.Inputs, m.Graph.Outputs) {
			face[v.Name] = true
		}
		constants := m.Graph.Constants()
		a := backend.Assessment{}
		for _, n := range m.Graph.Nodes {
			v := backend.AcceptAs("whim")
			for _, name := range slices.Concat(n.Inputs, n.Outputs) {
				t := types[name]
				_, constant := constants[name]
				switch {
				case !picky || t == nil || t.Kind != graph.KindTensor:
				case t.Elem == tensor.Int64 && !constant, t.Elem == tensor.Bool && face[name]:
					v = backend.Refuse(backend.RefusedElementType, name+" is "+t.Elem.String())
				}
			}
			h := fnv.New32()
			fmt.Fprint(h, seed, firstOutput(n))
			if int(h.Sum32()%100) < percent {
				v = backend.Refuse(backend.RefusedOperator, "a whim")
			}
			a.Nodes = append(a.Nodes, v)
		}
		return a, nil
	}}
}

// accepting takes everything.
var accepting = whimsical(0, 0, false)

// runSplit runs pieces one after another on the reference, as engine does.
func runSplit(pieces []*Piece, m *graph.Model, in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	values := map[string]tensor.Tensor{}
	for k, v := range in {
		values[k] = v
	}
	for i, p := range pieces {
		prog, err := reference.New(p.Graph, reference.Options{})
		if err != nil {
			return nil, fmt.Errorf("piece %d: %w", i, err)
		}
		feeds := map[string]tensor.Tensor{}
		for _, v := range p.Graph.Graph.Inputs {
			t, ok := values[v.Name]
			if !ok {
				return nil, fmt.Errorf("piece %d reads %s, which is not there yet", i, v.Name)
			}
			if feeds[v.Name], err = as(t, v.Type.Elem); err != nil {
				return nil, fmt.Errorf("piece %d, %s: %w", i, v.Name, err)
			}
		}
		var wanted []string
		for _, v := range p.Graph.Graph.Outputs {
			wanted = append(wanted, v.Name)
		}
		out, err := prog.Run(context.Background(), feeds, wanted)
		if err != nil {
			return nil, fmt.Errorf("piece %d: %w", i, err)
		}
		for k, v := range out {
			values[k] = v
		}
	}
	out := map[string]tensor.Tensor{}
	for _, v := range m.Graph.Outputs {
		t, err := as(values[v.Name], v.Type.Elem)
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", v.Name, err)
		}
		out[v.Name] = t
	}
	return out, nil
}

// as converts between what lowering makes int32 and what it was.
func as(t tensor.Tensor, to tensor.DType) (tensor.Tensor, error) {
	if t.DType == to {
		return t, nil
	}
	read := func(i int) int64 {
		switch t.DType {
		case tensor.Int64:
			return tensor.View[int64](t)[i]
		case tensor.Int32:
			return int64(tensor.View[int32](t)[i])
		}
		return int64(t.Data[i])
	}
	out, err := tensor.New(to, t.Shape)
	if err != nil {
		return t, err
	}
	for i := range t.Len() {
		switch to {
		case tensor.Int64:
			tensor.View[int64](out)[i] = read(i)
		case tensor.Int32:
			tensor.View[int32](out)[i] = int32(read(i))
		case tensor.Bool:
			out.Data[i] = byte(min(read(i), 1))
		default:
			return t, fmt.Errorf("%s came where %s was wanted", t.DType, to)
		}
	}
	return out, nil
}

func sizesOf(m *graph.Model, in map[string]tensor.Tensor) map[string]int64 {
	out := map[string]int64{}
	for _, v := range m.Graph.Inputs {
		for i, d := range v.Type.Dims {
			if d.Param != "" {
				out[d.Param] = in[v.Name].Shape[i]
			}
		}
	}
	return out
}

// TestSplitKeepsTheNumbers splits random models at random places.
func TestSplitKeepsTheNumbers(t *testing.T) {
	models := uint64(80)
	if testing.Short() {
		models = 25
	}
	s := open(t, t.TempDir(), 0)
	split, most := 0, 0
	for seed := range models {
		m, in := backendtest.RandomModel(seed)
		want := evaluate(t, m, in)
		first := whimsical(seed, int(seed*7%60)+5, seed%3 == 0)
		var dims map[string]int64
		if seed%2 == 0 {
			dims = sizesOf(m, in)
		}
		pieces, err := s.Split(t.Context(), Source{Graph: m}, first, accepting, dims, sizesOf(m, in), WorthAnything)
		var refused *RefusedError
		if errors.As(err, &refused) && refused.Device == first.Device {
			continue // nothing that computes is left for the device
		}
		if err != nil {
			t.Fatalf("model %d: %v\n%s", seed, err, backendtest.ModelText(m))
		}
		got, err := runSplit(pieces, m, in)
		if err == nil {
			err = backendtest.Mismatch(m, got, want)
		}
		if err != nil {
			t.Errorf("model %d in %d pieces: %v\n%s", seed, len(pieces), err, backendtest.ModelText(m))
		}
		for i, p := range pieces {
			for _, n := range p.Nodes {
				if p.Rest != (n.Why != "") || !p.Rest && n.Implementation != "whim" {
					t.Errorf("model %d, piece %d: %+v", seed, i, n)
				}
			}
			if i > 0 && p.Rest == pieces[i-1].Rest {
				t.Errorf("model %d: pieces %d and %d could be one", seed, i-1, i)
			}
			if err := p.Release(); err != nil {
				t.Error(err)
			}
		}
		if len(pieces) > 1 {
			split++
		}
		most = max(most, len(pieces))
	}
	t.Logf("%d of %d models were split, into %d pieces at most", split, models, most)
	if split < int(models)/4 || most < 4 {
		t.Error("too little was split for this to say anything")
	}
}

// layers is n times a product and an operator, on x[batch, 64].
func layers(t *testing.T, ops ...string) *graph.Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 5))
	b := graph.NewBuilder("layers")
	x := b.Input("x", f32(graph.Sym("batch"), graph.Known(64)))
	for i, op := range ops {
		if op == "MatMul" {
			x = b.Op(op, []string{x, b.Tensor(fmt.Sprintf("w%d", i), random(rng, 64, 64))})
		} else {
			x = b.Op(op, []string{x})
		}
	}
	b.Output("y", x, f32(graph.Sym("batch"), graph.Known(64)))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSplitWeighsWhatItCarries: what computes less than it costs to carry goes to the
// rest, and joins the pieces around it.
func TestSplitWeighsWhatItCarries(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ops   []string
		batch int64
		worth Worth
		want  string // D and R with their nodes; empty: refused
	}{
		{"a sum alone between two refused", []string{"Sin", "Neg", "Sin", "MatMul"}, 256, WorthDefault, "R3 D1"},
		{"the same where anything is worth it", []string{"Sin", "Neg", "Sin", "MatMul"}, 256, WorthAnything, "R1 D1 R1 D1"},
		{"a product of few rows", []string{"Sin", "MatMul", "Sin", "MatMul", "MatMul"}, 1, Worth{FLOPs: 10000}, "R3 D2"},
		{"a product of many rows", []string{"Sin", "MatMul", "Sin", "MatMul", "MatMul"}, 256, Worth{FLOPs: 10000}, "R1 D1 R1 D2"},
		{"more bytes than operations", []string{"Sin", "MatMul", "Sin"}, 256, Worth{FLOPs: 1, FLOPsPerByte: 1000}, ""},
		{"nothing but what is refused", []string{"Sin", "Sin"}, 1, WorthAnything, ""},
		{"nothing refused", []string{"Neg", "MatMul"}, 1, WorthDefault, "D2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := layers(t, tt.ops...)
			pieces, err := open(t, t.TempDir(), 0).Split(t.Context(), Source{Graph: m}, refusing(false, "Sin"), accepting, nil, map[string]int64{"batch": tt.batch}, tt.worth)
			var refused *RefusedError
			if tt.want == "" {
				if !errors.As(err, &refused) || refused.Device != "test:0" || len(refused.Nodes) == 0 {
					t.Fatalf("got %v, want the device's refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range pieces {
				side := "D"
				if p.Rest {
					side = "R"
				}
				got = append(got, fmt.Sprint(side, len(p.Nodes)))
				p.Release()
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

// TestSplitHearsTheRest: what neither takes is refused in the rest's words.
func TestSplitHearsTheRest(t *testing.T) {
	_, err := open(t, t.TempDir(), 0).Split(t.Context(), Source{Graph: layers(t, "MatMul", "Sin")}, refusing(false, "Sin"), whimsical(1, 100, false), nil, nil, WorthAnything)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Device != "whimsical" || refused.Nodes[0].OpType != "Sin" {
		t.Errorf("got %v, want whimsical to refuse Sin", err)
	}
}

// TestPiecesLookAgain: a device that takes a node of the whole graph and refuses it
// in its piece loses it, and the rest still comes out.
func TestPiecesLookAgain(t *testing.T) {
	whole := true
	fickle := Target{Device: "fickle", Assess: func(ctx context.Context, dir string) (backend.Assessment, error) {
		a, err := refusing(false, "Sin").Assess(ctx, dir)
		if err != nil {
			return a, err
		}
		m, err := graph.Load(dir)
		if err != nil {
			return a, err
		}
		defer m.Close()
		for i, n := range m.Graph.Nodes {
			if !whole && n.OpType == "Neg" {
				a.Nodes[i] = backend.Refuse(backend.RefusedDynamicShape, "not as an input")
			}
		}
		whole = false
		return a, nil
	}}
	pieces, err := open(t, t.TempDir(), 0).Split(t.Context(), Source{Graph: layers(t, "Sin", "Neg", "MatMul")}, fickle, accepting, nil, map[string]int64{"batch": 1}, WorthAnything)
	if err != nil {
		t.Fatal(err)
	}
	if len(pieces) != 2 || !pieces[0].Rest || len(pieces[0].Nodes) != 2 || pieces[0].Nodes[1].Why != "not as an input" || len(pieces[1].Nodes) != 1 {
		t.Errorf("got %+v", pieces)
	}
	for _, p := range pieces {
		p.Release()
	}
}
