package lower

import (
	"fmt"
	"strconv"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

// AttentionError says that a graph's paged attention has no form that a device
// takes.
type AttentionError struct {
	Device, Node, Reason string
}

func (e *AttentionError) Error() string {
	return fmt.Sprintf("%s: node %s: %s", e.Device, e.Node, e.Reason)
}

// attend rewrites paged attention for a device that has no operator for it: as its
// body, or as rows (docs/architecture.md, section 2). It changes m.
func attend(m *graph.Model, target Target) ([]Rewrite, error) {
	if target.Attention != backend.AttentionBody && target.Attention != backend.AttentionRows {
		return nil, nil
	}
	r := &attender{target: target, model: m, overloads: map[*graph.Function]string{}}
	for _, n := range m.Graph.Nodes {
		if n.Domain != graph.DomainAccel || n.OpType != "PagedAttention" && n.OpType != "PagedWrite" {
			continue
		}
		if err := r.node(n); err != nil {
			return nil, err
		}
	}
	return r.did, r.inline()
}

// attender is the rewriting of one graph.
type attender struct {
	target    Target
	model     *graph.Model
	overloads map[*graph.Function]string // function -> overload that its calls have now
	attached  []*graph.Function
	did       []Rewrite
}

func (r *attender) fail(n *graph.Node, format string, args ...any) error {
	return &AttentionError{Device: r.target.Device, Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
}

func (r *attender) node(n *graph.Node) error {
	f, what := graph.ContractFunctionOf(n), "replaced "+n.OpType+" by its body"
	if r.target.Attention == backend.AttentionRows {
		f, what = graph.PagedRowsFunction(n), "replaced "+n.OpType+" by one that gives the new rows and leaves the pools as they are"
		if err := r.rows(n); err != nil {
			return err
		}
	}
	if f == nil {
		return r.fail(n, "this form of %s is not known as standard operators", n.OpType)
	}
	if r.overloads[f] == "" {
		own := f.Clone()
		own.Overload = "form" + strconv.Itoa(len(r.overloads))
		r.overloads[f] = own.Overload
		r.attached = append(r.attached, own)
	}
	n.Overload = r.overloads[f]
	r.did = append(r.did, Rewrite{Node: n.Label(), What: what, Why: fmt.Sprintf("its way of attention is %s", r.target.Attention)})
	return nil
}

// rows turns a node's updated pools, which are outputs k_out.N of the graph, into
// its rows, outputs k_new.N. What stands for the pools is known by name, for who
// runs the graph writes the rows into them.
func (r *attender) rows(n *graph.Node) error {
	if n.OpType == "PagedAttention" && n.Inputs[1] == "" { // it only reads: the pools stay as they are
		for _, name := range n.Outputs[1:] {
			if name != "" {
				return r.fail(n, "it only reads its pools, and %s is one of them", name)
			}
		}
		n.Outputs = n.Outputs[:1]
		return nil
	}
	slots, pools := 5, []int{-1, 3, 4, 9, 10} // inputs, those of the pools in the order of the outputs
	if n.OpType == "PagedWrite" {
		slots, pools = 2, []int{3, 4, 5, 6}
	}
	if n.Inputs[slots] != backend.RowSlots {
		return r.fail(n, "its slots are %s, wanted the input %s", n.Inputs[slots], backend.RowSlots)
	}
	for i, out := range n.Outputs {
		if pools[i] < 0 || out == "" {
			continue
		}
		pool := n.Inputs[pools[i]]
		updated, row, ok := backend.RowNames(pool)
		switch {
		case !ok || r.input(pool) == nil:
			return r.fail(n, "its pool %s is no input called as pools are", pool)
		case out != updated || r.output(out) == nil:
			return r.fail(n, "it updates pool %s as %s, wanted the output %s", pool, out, updated)
		}
		for _, other := range r.model.Graph.Nodes {
			for _, in := range other.Inputs {
				if in == out {
					return r.fail(n, "node %s reads %s: pools are updated after the run", other.Label(), out)
				}
			}
		}
		v := r.output(out)
		v.Name, v.Type = row, nil
		n.Outputs[i] = row
	}
	return nil
}

func (r *attender) input(name string) *graph.Value {
	return named(r.model.Graph.Inputs, name)
}

func (r *attender) output(name string) *graph.Value {
	return named(r.model.Graph.Outputs, name)
}

func named(values []*graph.Value, name string) *graph.Value {
	for _, v := range values {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// inline puts the bodies in the place of the calls.
func (r *attender) inline() error {
	if len(r.attached) == 0 {
		return nil
	}
	m := r.model
	ours := map[graph.FunctionID]bool{}
	for _, f := range r.attached {
		ours[f.ID()] = true
		if err := m.Attach(f); err != nil {
			return err
		}
	}
	m.Graph.Values = nil // inferred again
	if err := graph.Inline(m, func(id graph.FunctionID) bool { return !ours[id] }); err != nil {
		return fmt.Errorf("inline paged attention: %w", err)
	}
	// The bodies that the calls had are nobody's now.
	m.Prune()
	return nil
}
