package quantize

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// parallel does f for 0 to n-1 on all processors.
func parallel(n int, f func(i int)) {
	var work sync.WaitGroup
	threads := runtime.GOMAXPROCS(0)
	var next, mu = 0, sync.Mutex{}
	for range min(threads, n) {
		work.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	work.Wait()
}

// gramBytes bounds the Gram matrices that one pass over a sample holds.
const gramBytes = 256 << 20

// gram is where the Gram matrix of a matrix' inputs lies: the sum of x xᵀ over all rows x
// that the sample gives it. Matrices with one input share it.
type gram struct {
	at, n int64 // element of the file, columns
}

// grams are Gram matrices in a file.
type grams struct {
	file  *os.File
	of    map[string]gram // by the name of the matrix
	bytes int64
}

func newGrams(dir string) (*grams, error) {
	f, err := os.CreateTemp(dir, "grams-")
	if err != nil {
		return nil, err
	}
	return &grams{file: f, of: map[string]gram{}}, nil
}

func (g *grams) close() error { return errors.Join(g.file.Close(), os.Remove(g.file.Name())) }

// read reads a Gram matrix [n, n]; ok: there is one.
func (g *grams) read(name string) (h []float32, ok bool, err error) {
	at, ok := g.of[name]
	if !ok {
		return nil, false, nil
	}
	raw := make([]byte, at.n*at.n*4)
	if _, err := io.ReadFull(io.NewSectionReader(g.file, at.at, int64(len(raw))), raw); err != nil {
		return nil, false, err
	}
	h = make([]float32, at.n*at.n)
	for i := range h {
		h[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return h, true, nil
}

// diagonal reads the diagonal of a Gram matrix.
func (g *grams) diagonal(name string) ([]float32, error) {
	at, ok := g.of[name]
	if !ok {
		return nil, nil
	}
	out := make([]float32, at.n)
	var b [4]byte
	for i := range at.n {
		if _, err := g.file.ReadAt(b[:], at.at+i*(at.n+1)*4); err != nil {
			return nil, err
		}
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[:]))
	}
	return out, nil
}

// input is a value that matrices are multiplied with.
type input struct {
	value   string
	columns int64
	names   []string // of the matrices
}

// inputsOf are the inputs of matrices in a component, in the order of the graph.
func (p *Plan) inputsOf(g *graph.Model, component string) []input {
	users := map[string]string{} // node -> matrix
	columns := map[string]int64{}
	for i := range p.Items {
		it := &p.Items[i]
		if it.matrix == nil || it.quant.Bits == 0 || it.quant == it.stored {
			continue
		}
		columns[it.Name] = it.Columns
		for _, u := range it.matrix.Uses {
			if u.Component == component && !u.Lookup {
				users[u.Node] = it.Name
			}
		}
	}
	var list []input
	at := map[string]int{}
	for _, n := range g.Graph.Nodes {
		name, ok := users[n.Name]
		if !ok {
			continue
		}
		x := n.Inputs[0]
		if i, ok := at[x]; ok {
			list[i].names = append(list[i].names, name)
			continue
		}
		at[x] = len(list)
		list = append(list, input{x, columns[name], []string{name}})
	}
	return list
}

// observe runs a sample through a component and keeps the Gram matrices of the inputs of
// its matrices. They are computed where the graph runs.
func (g *grams) observe(ctx context.Context, p *Plan, m *models.Model, s *sample, rt Runtime, tell func(Progress)) error {
	whole, err := m.Component(s.component)
	if err != nil {
		return err
	}
	all := p.inputsOf(whole, s.component)
	identity, err := p.ck.Identity()
	if err != nil {
		return err
	}
	for from := 0; from < len(all); {
		to, size := from, int64(0)
		for to < len(all) && (to == from || size+all[to].columns*all[to].columns*4 <= gramBytes) {
			size += all[to].columns * all[to].columns * 4
			to++
		}
		tell(Progress{Stage: "calibrating", Done: int64(from), Total: int64(len(all)), Name: all[from].names[0]})
		if err := g.pass(ctx, p, whole, all[from:to], s, rt, fmt.Sprintf("%s grams %d", identity, from)); err != nil {
			return fmt.Errorf("calibrate %s: %w", s.component, err)
		}
		from = to
	}
	return nil
}

// pass runs the sample for some inputs.
func (g *grams) pass(ctx context.Context, p *Plan, whole *graph.Model, inputs []input, s *sample, rt Runtime, identity string) (err error) {
	m := whole.Clone()
	defer m.Close()
	m.Graph.Outputs = nil
	var wanted []string
	sums := make([][]float32, len(inputs))
	for i, in := range inputs {
		name := fmt.Sprintf("gram/%d", i)
		shape := name + "/shape"
		m.Graph.Initializers = append(m.Graph.Initializers, &graph.Initializer{Name: shape, Tensor: tensor.Ints(tensor.Shape{2}, -1, in.columns)})
		m.Graph.Nodes = append(m.Graph.Nodes,
			&graph.Node{Name: name + "/Reshape", OpType: "Reshape", Inputs: []string{in.value, shape}, Outputs: []string{name + "/rows"}},
			&graph.Node{Name: name + "/Transpose", OpType: "Transpose", Inputs: []string{name + "/rows"}, Outputs: []string{name + "/columns"}, Attrs: []*graph.Attr{graph.IntsAttr("perm", 1, 0)}},
			&graph.Node{Name: name + "/MatMul", OpType: "MatMul", Inputs: []string{name + "/columns", name + "/rows"}, Outputs: []string{name}})
		m.Graph.Outputs = append(m.Graph.Outputs, &graph.Value{Name: name, Type: graph.TensorType(tensor.Float32, graph.Known(in.columns), graph.Known(in.columns))})
		wanted = append(wanted, name)
	}
	keepNeeded(m.Graph)
	run, err := rt.Open(ctx, m, p.ck.Dir, identity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	for _, f := range s.fit {
		out, err := run.Run(ctx, f.inputs, wanted)
		if err != nil {
			return err
		}
		for i, name := range wanted {
			v := tensor.View[float32](out[name].Aligned())
			if sums[i] == nil {
				sums[i] = append([]float32(nil), v...)
				continue
			}
			for j, x := range v {
				sums[i][j] += x
			}
		}
	}
	for i, in := range inputs {
		raw := make([]byte, 4*len(sums[i]))
		for j, x := range sums[i] {
			if x-x != 0 {
				return fmt.Errorf("the inputs of %s are not finite", in.names[0])
			}
			binary.LittleEndian.PutUint32(raw[4*j:], math.Float32bits(x))
		}
		if _, err := g.file.WriteAt(raw, g.bytes); err != nil {
			return err
		}
		for _, name := range in.names {
			if _, twice := g.of[name]; !twice {
				g.of[name] = gram{g.bytes, in.columns}
			}
		}
		g.bytes += int64(len(raw))
	}
	return nil
}

// keepNeeded drops the nodes that no output needs.
func keepNeeded(g *graph.Graph) {
	needed := map[string]bool{}
	for _, v := range g.Outputs {
		needed[v.Name] = true
	}
	var nodes []*graph.Node
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := g.Nodes[i]
		keep := false
		for _, out := range n.Outputs {
			keep = keep || needed[out]
		}
		if !keep {
			continue
		}
		for _, in := range n.Inputs {
			needed[in] = true
		}
		nodes = append(nodes, n)
	}
	for i, j := 0, len(nodes)-1; i < j; i, j = i+1, j-1 {
		nodes[i], nodes[j] = nodes[j], nodes[i]
	}
	g.Nodes = nodes
	var kept []*graph.Initializer
	for _, in := range g.Initializers {
		if needed[in.Name] {
			kept = append(kept, in)
		}
	}
	g.Initializers = kept
}

// scratchFile is a path for what need not stay.
func scratchFile(rt Runtime, name string) string { return filepath.Join(rt.Scratch(), name) }
