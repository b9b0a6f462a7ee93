package lower

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

// contractVersion is part of every folder's name: it changes when folders of an
// older Accel must not be taken for today's.
const contractVersion = "accel graph contract 1"

// Source is a graph as a model class made it, or as an ONNX file holds it.
type Source struct {
	Graph *graph.Model
	// Dir is the folder that relative external data lies in.
	Dir string
	// Identity tells the contents of the external data files from all others.
	Identity string
}

// Target is the device that a graph is lowered for.
type Target struct {
	Device       string // platform[:id], for messages
	StaticShapes bool
	// Attention is the device's way; empty: the graph's PagedAttention stays as it is.
	Attention backend.AttentionWay
	// Assess asks the device for its verdict on a folder.
	Assess func(ctx context.Context, dir string) (backend.Assessment, error)
}

// Lowered is a graph that its device takes whole, in a folder that stays until
// Release.
type Lowered struct {
	*Folder
	Graph          *graph.Model      // as it stands in the folder, types inferred
	Verdicts       []backend.Verdict // on its nodes, none a refusal
	Simplified     []Simplification  // what was done to the whole graph, whatever the device
	Rewrites       []Rewrite
	MemoryEstimate int64 // bytes; 0: unknown
}

// Rewrite is one thing that was done to a graph for a device's sake.
type Rewrite struct {
	Node string `json:"node,omitempty"` // empty: the whole graph
	What string `json:"what"`
	Why  string `json:"why"` // the device's words
}

// NodeRefusal is a device's refusal of one node.
type NodeRefusal struct {
	Node    string          `json:"node"`
	OpType  string          `json:"op_type"`
	Refusal backend.Refusal `json:"refusal"`
	Reason  string          `json:"reason"`
}

// RefusedError says that a device does not take a graph, and nothing that
// lowering knows makes it do so.
type RefusedError struct {
	Device string
	Nodes  []NodeRefusal
	// Tried holds why the rewrites that might have helped did not apply.
	Tried []error
}

func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s refuses %d nodes", e.Device, len(e.Nodes))
	for i, n := range e.Nodes {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Nodes)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %s", n.Node, n.Reason)
	}
	for i, err := range e.Tried {
		if i == 3 {
			break
		}
		fmt.Fprintf(&b, "; %v", err)
	}
	return b.String()
}

// maxRounds bounds how often a graph is rewritten and assessed again: inline,
// decompose, cast, cast at the faces, and once more for what these brought up.
const maxRounds = 6

// Lower makes a folder that the target takes. dims gives sizes to symbolic
// dimensions; a target with static shapes needs all of them, and without them
// dimensions stay symbolic. For a device whose attention is rows, outputs k_out.N
// become k_new.N (see backend.WithPools). Errors are *RefusedError, *AttentionError,
// *StoreError, the assessing call's, or those of graph.ExpandGradients and graph.Bind.
func (s *Store) Lower(ctx context.Context, src Source, target Target, dims map[string]int64) (*Lowered, error) {
	m, attended, did, err := bound(ctx, src, target, dims)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	l, _, err := s.fit(ctx, src, m, target)
	if err != nil {
		return nil, err
	}
	l.Simplified, l.Rewrites = did, append(attended, l.Rewrites...)
	return l, nil
}

// bound is a source's graph with its gradients written out, attention in the
// target's way, sizes in the place of symbols, what follows from them computed, and
// simplified. Gradients come first: they name values that nothing else may need.
// Attention comes next: what its bodies share from layer to layer is then computed
// once.
func bound(ctx context.Context, src Source, target Target, dims map[string]int64) (*graph.Model, []Rewrite, []Simplification, error) {
	m := src.Graph.Clone()
	gradients, err := graph.ExpandGradients(m)
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("write out the gradients of %s: %w", m.Graph.Name, err), m.Close())
	}
	attended, err := attend(m, target)
	if err != nil {
		return nil, nil, nil, errors.Join(err, m.Close())
	}
	if err := graph.Bind(m, dims); err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("fix the shapes of %s: %w", m.Graph.Name, err), m.Close())
	}
	did, err := Simplify(ctx, m)
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("simplify %s: %w", m.Graph.Name, err), m.Close())
	}
	if gradients > 0 {
		did = slices.Insert(did, 0, Simplification{"expanded", gradients, "gradients into plain nodes"})
	}
	return m, attended, did, nil
}

// fit rewrites m until the target takes it. With a *RefusedError come the verdicts
// on the nodes that m then has.
func (s *Store) fit(ctx context.Context, src Source, m *graph.Model, target Target) (*Lowered, []backend.Verdict, error) {
	if err := graph.Infer(m); err != nil {
		return nil, nil, err
	}
	var rewrites []Rewrite
	for round := 0; ; round++ {
		folder, err := s.save(ctx, src, m)
		if err != nil {
			return nil, nil, err
		}
		a, err := target.Assess(ctx, folder.Dir)
		if err == nil && len(a.Nodes) != len(m.Graph.Nodes) {
			err = fmt.Errorf("%s gave %d verdicts on %d nodes", target.Device, len(a.Nodes), len(m.Graph.Nodes))
		}
		if err != nil {
			return nil, nil, errors.Join(err, folder.Release())
		}
		refused := refusals(m.Graph, a)
		if len(refused) == 0 {
			return &Lowered{Folder: folder, Graph: m.Clone(), Verdicts: a.Nodes, Rewrites: rewrites, MemoryEstimate: a.MemoryEstimate}, nil, nil
		}
		if err := folder.Release(); err != nil {
			return nil, nil, err
		}
		if round == maxRounds {
			return nil, a.Nodes, &RefusedError{Device: target.Device, Nodes: refused,
				Tried: []error{fmt.Errorf("after %d rounds of rewriting it still refuses nodes", maxRounds)}}
		}
		did, tried, err := rewrite(m, a)
		if err != nil {
			return nil, nil, err
		}
		if len(did) == 0 {
			return nil, a.Nodes, &RefusedError{Device: target.Device, Nodes: refused, Tried: tried}
		}
		rewrites = append(rewrites, did...)
	}
}

func refusals(g *graph.Graph, a backend.Assessment) []NodeRefusal {
	var out []NodeRefusal
	for i, v := range a.Nodes {
		if !v.OK {
			n := g.Nodes[i]
			out = append(out, NodeRefusal{Node: n.Label(), OpType: n.OpType, Refusal: v.Refusal, Reason: v.Reason})
		}
	}
	return out
}

// rewrite answers refusals with what may help: a function's body, a decomposition,
// int32 for int64. It changes m and says what it did, and what it could not do.
func rewrite(m *graph.Model, a backend.Assessment) (did []Rewrite, tried []error, err error) {
	types := m.Graph.Types()
	functions := map[graph.FunctionID]bool{}
	for _, f := range m.Functions {
		functions[f.ID()] = true
	}
	inline := map[graph.FunctionID]bool{}
	wide := ""
	var nodes []*graph.Node
	for i, n := range m.Graph.Nodes {
		v := a.Nodes[i]
		id := graph.FunctionID{Domain: n.Domain, Name: n.OpType, Overload: n.Overload}
		switch {
		case v.OK:
		case functions[id]:
			if !inline[id] {
				inline[id] = true
				did = append(did, Rewrite{Node: n.Label(), What: "inlined the body of " + n.OpType, Why: v.Reason})
			}
		case v.Refusal == backend.RefusedElementType && !onlyWide(n):
			if wide == "" {
				wide = v.Reason
			}
		case v.Refusal == backend.RefusedOperator || v.Refusal == backend.RefusedAttribute || v.Refusal == backend.RefusedElementType:
			d := decompositions[n.OpType]
			if d == nil || n.Domain != graph.DomainONNX {
				break
			}
			e := &emitter{types: types, opset: m.Opsets[graph.DomainONNX], prefix: n.Label()}
			if err := d(e, n); err != nil {
				tried = append(tried, err)
				break
			}
			nodes = append(nodes, e.nodes...)
			m.Graph.Initializers = append(m.Graph.Initializers, e.initializers...)
			did = append(did, Rewrite{Node: n.Label(), What: "decomposed " + n.OpType, Why: v.Reason})
			continue
		}
		nodes = append(nodes, n)
	}
	m.Graph.Nodes = nodes
	if len(inline) > 0 {
		err := graph.Inline(m, func(id graph.FunctionID) bool { return !inline[id] })
		if err != nil {
			return nil, nil, fmt.Errorf("inline functions: %w", err)
		}
	}
	if wide != "" && len(did) == 0 {
		// Narrowing needs every operator in its simplest form, so it comes last.
		n := m.Clone()
		defer n.Close()
		switch err := narrow(n.Graph, types); {
		case err == nil:
			*m.Graph = *n.Graph
			did = append(did, Rewrite{What: "made int64 values int32", Why: wide})
		case errors.Is(err, errNothingWide):
			if widenFaces(m.Graph) {
				did = append(did, Rewrite{What: "made bool inputs and outputs int32", Why: wide})
			}
		default:
			tried = append(tried, err)
		}
	}
	if len(did) == 0 {
		return nil, tried, nil
	}
	m.Prune()
	m.Graph.Values = nil
	return did, tried, graph.Infer(m)
}

// onlyWide reports whether an operator gives int64 whatever it takes, though what it
// decomposes into does not.
func onlyWide(n *graph.Node) bool {
	return n.Domain == graph.DomainONNX && (n.OpType == "ArgMax" || n.OpType == "ArgMin")
}

// save writes m into the store with its external data beside it. Its name is the
// hash of the model as written and of what the external files are: whatever led
// to the same folder (code, policy, device) shares it.
func (s *Store) save(ctx context.Context, src Source, m *graph.Model) (*Folder, error) {
	flat := m.Clone()
	defer flat.Close()
	files, err := flatten(flat, src.Dir)
	if err != nil {
		return nil, err
	}
	model, err := graph.Marshal(flat)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	io.WriteString(h, contractVersion+"\x00"+src.Identity+"\x00")
	h.Write(model)
	key := hex.EncodeToString(h.Sum(nil))
	return s.Get(ctx, key, func(dir string) error {
		for name, path := range files {
			if err := place(path, dir, name); err != nil {
				return fmt.Errorf("place %s: %w", path, err)
			}
		}
		return graph.Save(flat, dir, graph.SaveOptions{})
	})
}

// flatten gives external data plain file names, and says which file each means.
func flatten(m *graph.Model, dir string) (map[string]string, error) {
	names := map[string]string{} // path -> name
	files := map[string]string{} // name -> path
	var externals []*graph.External
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			if in.External == nil {
				continue
			}
			path := in.External.Path
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			in.External.Path = path
			in.Tensor.Data = nil
			externals = append(externals, in.External)
			names[path] = ""
		}
	}
	paths := make([]string, 0, len(names))
	for p := range names {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		name := filepath.Base(p)
		for i := 1; files[name] != "" || name == graph.ModelFile; i++ {
			name = strconv.Itoa(i) + "-" + filepath.Base(p)
		}
		names[p], files[name] = name, p
	}
	for _, e := range externals {
		e.Path = names[e.Path]
	}
	return files, nil
}

// Symbols are the symbolic dimensions of a graph's inputs, sorted.
func Symbols(g *graph.Graph) []string {
	var out []string
	for _, v := range g.Inputs {
		if v.Type == nil {
			continue
		}
		for _, d := range v.Type.Dims {
			if d.Param != "" && !slices.Contains(out, d.Param) {
				out = append(out, d.Param)
			}
		}
	}
	slices.Sort(out)
	return out
}
