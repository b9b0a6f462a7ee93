package quantize

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// How sensitive layers are is measured in one graph: beside every product with a matrix
// stands one with what the matrix would be off by, times a number that is an input. So
// each part of the model can be disturbed alone, as its rounding would, without another
// graph.

// dials are the parts of a model that are disturbed together, and the graph to do it in.
type dials struct {
	parts []dialPart
	of    map[string]int // by the name of a matrix
}

// dialPart is a part of a layer, such as its attention.
type dialPart struct {
	Name  string
	items []*Item
	loss  float64 // with every matrix of it in the base format, by Fit
}

// Names of what the graph has more, and what differences are multiplied by, for float16
// has nothing left of small ones.
const (
	dialInput = "dials"
	dialScale = 1024
	dialFeeds = 8
	dialEvery = 4 // of a decoder's tokens, one is compared
)

// choices are the formats of a mixture that a tensor may have, the smallest first; nil: it
// is in none.
func (p *Plan) choices(it *Item) []Format {
	if it.matrix == nil || it.precision == "" {
		return nil
	}
	var list []Format
	for _, name := range p.policy.Precisions[it.precision].Choose {
		list = append(list, p.policy.Formats[name])
	}
	slices.SortStableFunc(list, func(a, b Format) int { return cmp.Compare(a.BitsPerWeight(), b.BitsPerWeight()) })
	return list
}

// newDials parts the matrices of a component that are in a mixture.
func (p *Plan) newDials(component string) *dials {
	d := &dials{of: map[string]int{}}
	at := map[string]int{}
	nodes := map[string]bool{}
	if g, err := p.model.Component(component); err == nil {
		for _, n := range g.Graph.Nodes {
			nodes[n.Name] = true
		}
	}
	for i := range p.Items {
		it := &p.Items[i]
		if p.choices(it) == nil || it.quant.Bits == 0 || !slices.Contains(it.Components, component) {
			continue
		}
		if !slices.ContainsFunc(it.matrix.Uses, func(u models.Use) bool { return u.Component == component && nodes[u.Node] }) {
			continue // a table that is read whole can't be disturbed
		}
		name := it.Name
		if it.Layer >= 0 {
			part, _, _ := strings.Cut(it.Role, ".")
			name = fmt.Sprintf("%s.layer.%d.%s", it.Stack, it.Layer, part)
		}
		k, ok := at[name]
		if !ok {
			k = len(d.parts)
			at[name] = k
			d.parts = append(d.parts, dialPart{Name: strings.TrimPrefix(name, ".")})
		}
		d.parts[k].items = append(d.parts[k].items, it)
		d.of[it.Name] = k
	}
	return d
}

// differ writes what each matrix is off by in its smallest format into a file of float16,
// and notes how much it is off by in all of its formats, of a part of its rows. It returns
// where each matrix begins.
func (d *dials) differ(ctx context.Context, p *Plan, path string, tell func(Progress)) (map[string]int64, error) {
	source, err := p.openFiles()
	if err != nil {
		return nil, err
	}
	defer source.close()
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, size := map[string]int64{}, int64(0)
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, part := range d.parts {
		for _, it := range part.items {
			begin := size
			at[it.Name] = begin
			size += 2 * it.Weights()
			g.Go(func() error {
				if err := working.Err(); err != nil {
					return err
				}
				return it.differ(p, source, f, begin)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return at, ctx.Err()
}

// estimateRows is about how many rows of a matrix tell what a format costs it.
const estimateRows = 256

func (it *Item) differ(p *Plan, source files, to *os.File, begin int64) error {
	choices := p.choices(it)
	importance, err := p.importance(it)
	if err != nil {
		return err
	}
	s := &scratch{}
	it.costs = make([]float64, len(choices))
	var whole float64
	codes := make([]uint8, it.Columns)
	every := max(1, it.Rows/estimateRows)
	step := max(1, chunkWeights/it.Columns)
	for from := int64(0); from < it.Rows; from += step {
		end := min(from+step, it.Rows)
		values, err := it.rows(source, from, end, s)
		if err != nil {
			return err
		}
		s.packed = grown(s.packed, 2*int64(len(values)))
		for row := from; row < end; row++ {
			w := values[(row-from)*it.Columns : (row-from+1)*it.Columns]
			for c, format := range choices {
				if c > 0 && row%every != 0 {
					break
				}
				b := fitting(it.Columns, cmp.Or(p.options.Block, format.Block))
				ft := newFitter(format)
				for k := int64(0); k < it.Columns; k += b {
					l := ft.fit(w[k:k+b], nil, codes[:b])
					for j, x := range w[k : k+b] {
						e := l.s*float32(codes[j]) + l.m - x
						if c == 0 {
							binary.LittleEndian.PutUint16(s.packed[2*((row-from)*it.Columns+k+int64(j)):], toHalf(e*dialScale))
						}
						if row%every == 0 {
							it.costs[c] += float64(e*e) * importance[k+int64(j)]
							if c == 0 {
								whole += float64(x*x) * importance[k+int64(j)]
							}
						}
					}
				}
			}
		}
		if _, err := to.WriteAt(s.packed, begin+2*from*it.Columns); err != nil {
			return err
		}
	}
	for c := range it.costs {
		if it.costs[c] /= whole; whole == 0 {
			it.costs[c] = 0
		}
	}
	return nil
}

// importance is how much each column of a matrix counts.
func (p *Plan) importance(it *Item) ([]float64, error) {
	out := slices.Repeat([]float64{1}, int(it.Columns))
	if p.grams == nil {
		return out, nil
	}
	diagonal, err := p.grams.diagonal(it.Name)
	for i, x := range diagonal {
		out[i] = float64(x)
	}
	return out, err
}

// graph is a component with dials.
func (d *dials) graph(whole *graph.Model, component, file string, at map[string]int64) *graph.Model {
	m := whole.Clone()
	uses := map[string]*Item{}
	lookups := map[string]bool{}
	for _, part := range d.parts {
		for _, it := range part.items {
			for _, u := range it.matrix.Uses {
				if u.Component == component {
					uses[u.Node], lookups[u.Node] = it, u.Lookup
				}
			}
		}
	}
	m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: dialInput, Type: graph.TensorType(tensor.Float32, graph.Known(int64(len(d.parts))))})
	placed := map[string]bool{}
	var nodes []*graph.Node
	for i := range d.parts {
		name := fmt.Sprintf("dial/%d", i)
		m.Graph.Initializers = append(m.Graph.Initializers, &graph.Initializer{Name: name + "/index", Tensor: tensor.Ints(nil, int64(i))})
		nodes = append(nodes, &graph.Node{Name: name + "/Gather", OpType: "Gather", Inputs: []string{dialInput, name + "/index"}, Outputs: []string{name}})
	}
	for _, n := range m.Graph.Nodes {
		nodes = append(nodes, n)
		it := uses[n.Name]
		if it == nil {
			continue
		}
		weights, own := "off/"+it.Name, "off/"+n.Name
		if !placed[weights] {
			placed[weights] = true
			m.Graph.Initializers = append(m.Graph.Initializers, &graph.Initializer{Name: weights, Tensor: tensor.Tensor{DType: tensor.Float16, Shape: tensor.Shape{it.Rows, it.Columns}},
				External: &graph.External{Path: file, Offset: at[it.Name], Length: 2 * it.Weights()}})
			nodes = append(nodes, &graph.Node{Name: weights + "/Cast", OpType: "Cast", Inputs: []string{weights}, Outputs: []string{weights + "/f32"}, Attrs: []*graph.Attr{graph.IntAttr("to", int64(tensor.Float32))}},
				&graph.Node{Name: weights + "/Transpose", OpType: "Transpose", Inputs: []string{weights + "/f32"}, Outputs: []string{weights + "/T"}, Attrs: []*graph.Attr{graph.IntsAttr("perm", 1, 0)}})
		}
		out := n.Outputs[0]
		n.Outputs[0] = own + "/exact"
		product := &graph.Node{Name: own + "/MatMul", OpType: "MatMul", Inputs: []string{n.Inputs[0], weights + "/T"}, Outputs: []string{own + "/product"}}
		if lookups[n.Name] {
			ids := n.Inputs[len(n.Inputs)-1] // of Gather and of GatherBlocks
			product = &graph.Node{Name: own + "/Gather", OpType: "Gather", Inputs: []string{weights + "/f32", ids}, Outputs: []string{own + "/product"}}
		}
		nodes = append(nodes, product,
			&graph.Node{Name: own + "/Mul", OpType: "Mul", Inputs: []string{own + "/product", fmt.Sprintf("dial/%d", d.of[it.Name])}, Outputs: []string{own + "/dialled"}},
			&graph.Node{Name: own + "/Add", OpType: "Add", Inputs: []string{own + "/exact", own + "/dialled"}, Outputs: []string{out}})
	}
	m.Graph.Nodes = nodes
	return m
}

// measure finds the loss that each part alone brings.
func (d *dials) measure(ctx context.Context, p *Plan, s *sample, tell func(Progress)) (err error) {
	rt := p.options.Runtime
	path := scratchFile(rt, "off")
	tell(Progress{Stage: "rounding for a try"})
	at, err := d.differ(ctx, p, path, tell)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	whole, err := p.model.Component(s.component)
	if err != nil {
		return err
	}
	m := d.graph(whole, s.component, path, at)
	defer m.Close()
	id, err := p.ck.Identity()
	if err != nil {
		return err
	}
	run, err := rt.Open(ctx, m, p.ck.Dir, id+" dials")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	feeds := s.few()
	setting := func(part int) map[string]tensor.Tensor {
		v := make([]float32, len(d.parts))
		if part >= 0 {
			v[part] = 1.0 / dialScale
		}
		return map[string]tensor.Tensor{dialInput: tensor.Floats(tensor.Shape{int64(len(v))}, v...)}
	}
	var exact []tensor.Tensor
	if err := s.outputs(ctx, run, feeds, setting(-1), func(_ int, out tensor.Tensor) { exact = append(exact, out) }); err != nil {
		return err
	}
	for i := range d.parts {
		tell(Progress{Stage: "measuring sensitivity", Done: int64(i), Total: int64(len(d.parts)), Name: d.parts[i].Name})
		var c comparison
		if err := s.outputs(ctx, run, feeds, setting(i), func(k int, out tensor.Tensor) { c.add(exact[k], out, feeds[k]) }); err != nil {
			return err
		}
		d.parts[i].loss = c.result(s.logits).Loss
	}
	return nil
}

// few are feeds for measurements that are made many times.
func (s *sample) few() []feed {
	if !s.logits {
		return s.fit[:min(dialFeeds, len(s.fit))]
	}
	f := s.fit[0]
	in := map[string]tensor.Tensor{}
	for name, v := range f.inputs {
		in[name] = v
	}
	var at, next []int64
	for i := dialEvery - 1; i < len(f.next); i += dialEvery {
		at, next = append(at, int64(i)), append(next, f.next[i])
	}
	in[models.Select] = tensor.Ints(tensor.Shape{int64(len(at))}, at...)
	return []feed{{in, next}}
}
