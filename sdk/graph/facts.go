package graph

import "github.com/accelhq/accel/sdk/tensor"

// Facts are what holds of the values of a graph in every run that ends without an
// error, whatever the sizes of its symbols.
type Facts struct {
	// Types of values, those of inputs and initializers included, as far as known.
	Types map[string]*Type
	// Constants are integers and truth values that nodes make and that are known
	// without running them: parts of known shapes, and what is computed from those.
	Constants map[string]tensor.Tensor
}

// FindFacts infers the types of all values, as Infer does, but believes only what
// the model's inputs and constants declare, which is checked when it runs, and takes
// no liberties with symbols. It does not change the model. Rewrites that rely on
// it, and on nothing else, keep what the model computes. Errors are Infer's.
func FindFacts(m *Model) (map[*Graph]Facts, error) {
	f := newInferrer(m, maxVisits)
	f.exact = true
	if m.Graph == nil {
		return nil, &CheckError{Where: "model", Reason: "it has no graph"}
	}
	if err := m.withinBudget(maxVisits); err != nil {
		return nil, err
	}
	if _, err := f.graph(m.Graph, nil, nil); err != nil {
		return nil, err
	}
	out := make(map[*Graph]Facts, len(f.all))
	for g, values := range f.all {
		facts := Facts{Types: make(map[string]*Type, len(values)), Constants: map[string]tensor.Tensor{}}
		for name, v := range values {
			if t := v.toType(); t != nil {
				facts.Types[name] = t
			}
		}
		for _, n := range g.Nodes {
			if n.OpType == "Constant" && n.Domain == DomainONNX {
				continue
			}
			for _, name := range n.Outputs {
				if t, ok := values[name].constant(); ok && name != "" {
					facts.Constants[name] = t
				}
			}
		}
		out[g] = facts
	}
	return out, nil
}
