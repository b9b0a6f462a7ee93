package backendtest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// operatorCase is a small graph with inputs. Its results are the reference's.
type operatorCase struct {
	name  string
	build func(*gen) []string // makes the graph, returns the values that are its outputs
	tol   *Tolerance          // instead of the outputs' types'
}

// gen builds a case's graph and its inputs.
type gen struct {
	*graph.Builder
	rand    *rand.Rand
	inputs  map[string]tensor.Tensor
	dynamic bool // dimensions of inputs are symbols
}

// in declares an input with its value.
func (g *gen) in(t tensor.Tensor) string {
	name := fmt.Sprintf("in%d", len(g.inputs))
	ty := graph.TensorType(t.DType)
	for i, n := range t.Shape {
		d := graph.Known(n)
		if g.dynamic {
			d = graph.Sym(fmt.Sprintf("%s_%d", name, i))
		}
		ty.Dims = append(ty.Dims, d)
	}
	g.inputs[name] = t
	return g.Input(name, ty)
}

// model builds the case, and runs the reference on it.
func (k operatorCase) model(t T, dynamic bool) (*graph.Model, map[string]tensor.Tensor, map[string]tensor.Tensor) {
	t.Helper()
	seed := fnv.New64()
	seed.Write([]byte(k.name))
	g := &gen{
		Builder: graph.NewBuilder(k.name), inputs: map[string]tensor.Tensor{}, dynamic: dynamic,
		rand: rand.New(rand.NewPCG(seed.Sum64(), 1)),
	}
	for i, v := range k.build(g) {
		// What type an output has, the reference tells below.
		g.Output(fmt.Sprintf("out%d", i), v, &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32})
	}
	m := build(t, g.Builder)
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatalf("%s: the reference refuses the case: %v", k.name, err)
	}
	want, err := p.Run(t.Context(), g.inputs, nil)
	if err != nil {
		t.Fatalf("%s: the reference fails: %v", k.name, err)
	}
	for _, v := range m.Graph.Outputs {
		o := want[v.Name]
		v.Type = graph.TensorType(o.DType)
		for _, n := range o.Shape {
			if dynamic {
				n = -1
			}
			v.Type.Dims = append(v.Type.Dims, graph.Known(n))
		}
	}
	return m, g.inputs, want
}

// maxDeaths is how often a backend may die of an operator before the check gives up.
const maxDeaths = 5

// checkOperators runs those cases that Assess takes, with known shapes and, where
// the device takes them, with symbolic ones.
func checkOperators(t T, c *conn) {
	ways := map[string]bool{"known shapes": false}
	if !c.device.StaticShapes {
		ways["symbolic shapes"] = true
	}
	deaths := 0
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		var refused []string
		s := c.execute()
		for _, k := range operatorCases {
			taken, err := c.operator(s, k, ways[way])
			if err != nil {
				t.Errorf("%s, %s: %v", k.name, way, err)
			}
			if e := (*backend.Error)(nil); err != nil && !errors.As(err, &e) && c.p.WaitExit(time.Second) == nil {
				t.Logf("the backend has died of it; its standard error:\n%s", c.p.Stderr())
				if deaths++; deaths == maxDeaths {
					t.Fatalf("the backend has died %d times", deaths)
				}
				c = c.suite.connect(t, c.device.ID)
				s = c.execute()
			}
			if !taken {
				refused = append(refused, k.name)
			}
		}
		t.Logf("%s: Assess takes %d of %d operator cases; not %s", way,
			len(operatorCases)-len(refused), len(operatorCases), strings.Join(refused, ", "))
	}
}

// operator runs one case if the device takes it.
func (c *conn) operator(s *stream, k operatorCase, dynamic bool) (taken bool, err error) {
	c.t.Helper()
	m, inputs, want := k.model(c.t, dynamic)
	dir := write(c.t, m)
	a, err := c.assess(dir)
	if err != nil {
		return true, fmt.Errorf("assess: %w", err)
	}
	if len(a.Nodes) != len(m.Graph.Nodes) {
		return true, fmt.Errorf("%d verdicts on %d nodes", len(a.Nodes), len(m.Graph.Nodes))
	}
	for _, v := range a.Nodes {
		if !v.OK {
			return false, nil
		}
	}
	q := &backendv1.CompileRequest{GraphDir: dir, SmokeDims: map[string]int64{}}
	for name, t := range inputs {
		for i, n := range t.Shape {
			q.SmokeDims[fmt.Sprintf("%s_%d", name, i)] = n
		}
	}
	e, err := c.tryCompile(q)
	if err != nil {
		return true, fmt.Errorf("the device takes it, and does not compile it: %w", err)
	}
	defer c.release(e.id)
	got, failed := s.runInline(e, inputs)
	if failed != nil {
		return true, fmt.Errorf("run: %w", failed)
	}
	var errs []error
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			errs = append(errs, fmt.Errorf("output %s did not come", name))
			continue
		}
		if err := compare(g, w, c.tolerance(k, w.DType)); err != nil {
			errs = append(errs, fmt.Errorf("output %s: %w", name, err))
		}
	}
	return true, errors.Join(errs...)
}

func (c *conn) tolerance(k operatorCase, d tensor.DType) Tolerance {
	tol, own := c.suite.target.Tolerances[d]
	if !own {
		tol = tolerances[d]
	}
	if k.tol != nil {
		tol.Abs, tol.Rel = max(tol.Abs, k.tol.Abs), max(tol.Rel, k.tol.Rel)
	}
	return tol
}
