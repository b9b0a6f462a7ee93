package lower

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Worth is what a device must compute for values to be carried to it and back.
type Worth struct {
	FLOPs        int64 // at least so many, whatever is carried
	FLOPsPerByte int64 // and so many for each byte that goes to it or from it
}

// WorthDefault stands for what a run on another device costs: about 50 us a piece,
// in which a CPU core computes about a million operations, and about 4 operations in
// the time that a byte takes to be written on one side and read on the other.
var WorthDefault = Worth{FLOPs: 1 << 20, FLOPsPerByte: 4}

// WorthAnything splits wherever a device computes something at all.
var WorthAnything = Worth{FLOPs: 1}

// Piece is a part of a graph, lowered for one target. Its graph's inputs and
// outputs bear the names that the values have in the whole graph.
type Piece struct {
	*Lowered
	Rest  bool   // the rest's; else the device's
	Nodes []Node // of the split graph
	FLOPs int64  // at the sizes that Split was given
}

// Node is a node of a split graph and why it stands where it does.
type Node struct {
	Name   string `json:"name"`            // or that of its first output
	OpType string `json:"op_type"`         // with its domain
	FLOPs  int64  `json:"flops,omitempty"` // of a graph that was split
	Why    string `json:"why,omitempty"`   // the device's words against it; empty: it has the node
	// Implementation says what computes it there, in the backend's words.
	Implementation string `json:"implementation,omitempty"`
}

// Release lets go of the pieces' folders and graphs.
func (p *Piece) Release() error {
	return errors.Join(p.Lowered.Release(), p.Graph.Close())
}

// Split makes folders for a graph that its device does not take whole: the largest
// pieces that the device takes, and the rest's, in an order in which they can run.
// dims is as in Lower; hint gives sizes to what dims leaves open, to tell what is worth
// carrying over. Errors are Lower's; a *RefusedError of the device says that no node
// is worth running there, one of the rest that neither takes a node.
func (s *Store) Split(ctx context.Context, src Source, first, second Target, dims, hint map[string]int64, worth Worth) ([]*Piece, error) {
	m, attended, did, err := bound(ctx, src, first, dims)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	l, verdicts, err := s.fit(ctx, src, m, first)
	if err == nil {
		l.Simplified, l.Rewrites = did, append(attended, l.Rewrites...)
		return []*Piece{whole(l)}, nil
	}
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return nil, err
	}
	x := &splitter{store: s, src: src, model: m, flow: newFlow(m.Graph), first: first, second: second, worth: worth,
		where: make([]part, len(m.Graph.Nodes)), why: make([]string, len(m.Graph.Nodes)), done: map[string]*Lowered{}}
	if err := x.costs(hint); err != nil {
		return nil, err
	}
	x.begin(verdicts)
	pieces, err := x.run(ctx)
	if err != nil || pieces == nil {
		err = errors.Join(err, x.release(nil))
		if err == nil {
			refused.Tried = append(refused.Tried, errors.New("what it takes is too little to be worth splitting the graph"))
			err = refused
		}
		return nil, err
	}
	pieces[0].Simplified, pieces[0].Rewrites = did, append(attended, pieces[0].Rewrites...)
	return pieces, x.release(pieces)
}

// Whole is Lower, with the graph as one piece.
func (s *Store) Whole(ctx context.Context, src Source, target Target, dims map[string]int64) (*Piece, error) {
	l, err := s.Lower(ctx, src, target, dims)
	if err != nil {
		return nil, err
	}
	return whole(l), nil
}

func whole(l *Lowered) *Piece {
	p := &Piece{Lowered: l}
	for i, n := range l.Graph.Graph.Nodes {
		p.Nodes = append(p.Nodes, node(n, l.Verdicts[i].Implementation))
	}
	return p
}

func node(n *graph.Node, implementation string) Node {
	at := Node{Name: n.Name, OpType: n.OpType, Implementation: implementation}
	if at.Name == "" {
		at.Name = firstOutput(n)
	}
	if n.Domain != graph.DomainONNX {
		at.OpType = n.Domain + "." + n.OpType
	}
	return at
}

type splitter struct {
	store         *Store
	src           Source
	model         *graph.Model
	flow          *flow
	first, second Target
	worth         Worth
	where         []part
	why           []string // why a node is not the device's
	flops         []int64
	bytes         map[string]int64    // of values that may cross; 0 where it isn't known
	done          map[string]*Lowered // pieces that their target takes
}

// costs counts what nodes compute and how large values are, at the given sizes.
func (x *splitter) costs(hint map[string]int64) error {
	m := x.model.Clone()
	defer m.Close()
	open := map[string]int64{}
	for _, v := range m.Graph.Inputs {
		if v.Type == nil {
			continue
		}
		for _, d := range v.Type.Dims {
			if n, ok := hint[d.Param]; ok && d.Param != "" {
				open[d.Param] = n
			}
		}
	}
	if err := graph.Bind(m, open); err != nil {
		return fmt.Errorf("count the cost of %s: %w", m.Graph.Name, err)
	}
	types := m.Graph.Types()
	alive := make(map[string]*graph.Node, len(m.Graph.Nodes))
	for _, n := range m.Graph.Nodes {
		alive[firstOutput(n)] = n
	}
	x.flops = make([]int64, len(x.model.Graph.Nodes))
	for i, n := range x.model.Graph.Nodes {
		if alive[firstOutput(n)] == nil {
			continue // it computes what the sizes tell
		}
		f, ok := graph.FLOPs(n, types)
		if !ok {
			f = x.worth.FLOPs // a loop, or a function: it may be long
		}
		x.flops[i] = f
	}
	x.bytes = map[string]int64{}
	for name, t := range types {
		if !crosses(t) {
			continue
		}
		shape := make(tensor.Shape, len(t.Dims))
		for i, d := range t.Dims {
			shape[i] = max(d.Size, 0)
		}
		if n, err := tensor.ByteSize(t.Elem, shape); err == nil {
			x.bytes[name] = n
		}
	}
	return nil
}

// begin gives the device the nodes that it takes, and those that it refuses for
// int64 or bool alone where these can be made int32.
func (x *splitter) begin(verdicts []backend.Verdict) {
	w := newNarrower(x.model.Graph, x.flow.types)
	for i, n := range x.model.Graph.Nodes {
		v := verdicts[i]
		switch {
		case isConstant(n):
			x.where[i] = anywhere
		case v.OK || v.Refusal == backend.RefusedElementType:
			x.where[i] = device
			if touched, _, err := w.node(n); !v.OK && (err != nil || !touched && !x.hasBool(n)) {
				x.refuse(i, v.Reason)
			}
		default:
			x.refuse(i, v.Reason)
		}
	}
}

func (x *splitter) hasBool(n *graph.Node) bool {
	return slices.ContainsFunc(slices.Concat(n.Inputs, n.Outputs), func(name string) bool {
		t := x.flow.types[name]
		return t != nil && t.Elem == tensor.Bool
	})
}

func (x *splitter) refuse(i int, why string) {
	x.where[i] = rest
	if x.why[i] == "" {
		x.why[i] = why
	}
}

// run partitions, assesses each piece, gives the rest what is refused, and so on:
// in each round the device loses a node, or it is the last.
func (x *splitter) run(ctx context.Context) ([]*Piece, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pieces := partition(x.flow, x.where)
		if x.sink(pieces) {
			continue
		}
		again, any := false, false
		for _, nodes := range pieces {
			if x.where[nodes[0]] != device {
				continue
			}
			any = true
			lost, err := x.assess(ctx, nodes)
			if err != nil {
				return nil, err
			}
			again = again || lost
		}
		switch {
		case again:
			continue
		case !any:
			return nil, nil
		}
		return x.finish(ctx, pieces)
	}
}

// sink gives the rest what is not worth carrying to the device, and reports whether
// there was any.
func (x *splitter) sink(pieces [][]int) bool {
	did := false
	for _, nodes := range pieces {
		if x.where[nodes[0]] != device {
			continue
		}
		for _, island := range x.flow.islands(nodes) {
			flops, bytes := x.weigh(island)
			if flops >= x.worth.FLOPs && flops/max(bytes, 1) >= x.worth.FLOPsPerByte {
				continue
			}
			did = true
			for _, i := range island {
				x.refuse(i, fmt.Sprintf("it stands alone with %d nodes, %d operations: carrying %d bytes costs more", len(island)-1, flops, bytes))
			}
		}
	}
	return did
}

// weigh counts what an island computes and what is carried to it and from it: the
// graph's own inputs and outputs come and go wherever it runs.
func (x *splitter) weigh(island []int) (flops, bytes int64) {
	inside := make(map[int]bool, len(island))
	for _, i := range island {
		inside[i] = true
		flops += x.flops[i]
	}
	carried := map[string]bool{}
	for _, e := range x.flow.edges {
		if inside[e.from] != inside[e.to] && !carried[e.value] {
			carried[e.value] = true
			bytes += x.bytes[e.value]
		}
	}
	return flops, bytes
}

// assess lowers a piece for the device, and reports whether it lost nodes: those
// that are refused where only the piece is seen.
func (x *splitter) assess(ctx context.Context, nodes []int) (lost bool, err error) {
	_, m, verdicts, err := x.lower(ctx, nodes, x.first)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return false, err
	}
	defer m.Close()
	for k, v := range verdicts {
		if v.OK {
			continue
		}
		for _, o := range m.Graph.Nodes[k].Outputs {
			if i, ok := x.flow.producer[o]; ok && o != "" && x.where[i] == device {
				x.refuse(i, v.Reason)
				lost = true
			}
		}
	}
	if !lost { // what was refused is of the rewrites' making
		for _, i := range nodes {
			x.refuse(i, refused.Error())
		}
	}
	return true, nil
}

// lower brings a piece into a folder, once. With a *RefusedError come the piece as
// rewritten, to be closed, and the verdicts on it.
func (x *splitter) lower(ctx context.Context, nodes []int, target Target) (*Lowered, *graph.Model, []backend.Verdict, error) {
	key := []byte(target.Device + "\x00")
	for _, i := range nodes {
		key = binary.AppendUvarint(key, uint64(i))
	}
	if l := x.done[string(key)]; l != nil {
		return l, nil, nil, nil
	}
	m := x.flow.piece(x.model, nodes)
	l, verdicts, err := x.store.fit(ctx, x.src, m, target)
	if err != nil {
		var refused *RefusedError
		if errors.As(err, &refused) {
			return nil, m, verdicts, err
		}
		return nil, nil, nil, errors.Join(err, m.Close())
	}
	x.done[string(key)] = l
	return l, nil, nil, m.Close()
}

func (x *splitter) finish(ctx context.Context, pieces [][]int) ([]*Piece, error) {
	var out []*Piece
	for _, nodes := range pieces {
		p := &Piece{Rest: x.where[nodes[0]] == rest}
		target := x.first
		if p.Rest {
			target = x.second
		}
		l, m, _, err := x.lower(ctx, nodes, target)
		if err != nil {
			if m != nil {
				err = errors.Join(err, m.Close())
			}
			return nil, err
		}
		p.Lowered = l
		how := map[string]string{}
		for k, n := range l.Graph.Graph.Nodes {
			for _, o := range n.Outputs {
				how[o] = l.Verdicts[k].Implementation
			}
		}
		for _, i := range nodes {
			n := x.model.Graph.Nodes[i]
			p.FLOPs += x.flops[i]
			at := node(n, how[firstOutput(n)])
			at.FLOPs, at.Why = x.flops[i], x.why[i]
			p.Nodes = append(p.Nodes, at)
		}
		out = append(out, p)
	}
	return out, nil
}

// release lets go of all folders but those of the pieces.
func (x *splitter) release(pieces []*Piece) error {
	var errs []error
	for _, l := range x.done {
		if !slices.ContainsFunc(pieces, func(p *Piece) bool { return p.Lowered == l }) {
			errs = append(errs, l.Release(), l.Graph.Close())
		}
	}
	return errors.Join(errs...)
}
