package lower

import (
	"fmt"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxKeyTensor is how many bytes of a tensor among the attributes are compared.
const maxKeyTensor = 4 << 10

// mergeEqual lets nodes that do the same to the same values be one: exporters
// compute the same shapes and masks for every layer.
func mergeEqual(s *simplifier) (int, error) {
	seen := map[string]*graph.Node{}
	to := map[string]string{}
	gone := map[*graph.Node]bool{}
	for _, n := range s.g.Nodes {
		key, ok := s.key(n, to)
		if !ok {
			continue
		}
		twin := seen[key]
		if twin == nil {
			seen[key] = n
			continue
		}
		if s.givenOut(n) {
			continue
		}
		for i, o := range n.Outputs {
			if o != "" {
				to[o] = twin.Outputs[i]
			}
		}
		gone[n] = true
	}
	if len(gone) == 0 {
		return 0, nil
	}
	s.g.Nodes = slices.DeleteFunc(s.g.Nodes, func(n *graph.Node) bool { return gone[n] })
	s.g.Redirect(to)
	return len(gone), nil
}

// key is the same for nodes that compute the same; false for those that differ
// from run to run, hold graphs, are functions, or unknown.
func (s *simplifier) key(n *graph.Node, to map[string]string) (string, bool) {
	if notFolded[n.OpType] && n.OpType != "Constant" || s.m.Function(n.ID()) != nil || n.Domain == graph.DomainAccel {
		return "", false
	}
	if _, known := reference.Lookup(n.Domain, n.OpType, s.m.Opsets[n.Domain]); !known {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", n.Domain, n.OpType)
	for _, in := range n.Inputs {
		if t, ok := to[in]; ok {
			in = t
		}
		fmt.Fprintf(&b, " %q", in)
	}
	b.WriteString(" ->")
	for _, o := range n.Outputs {
		fmt.Fprintf(&b, " %v", o != "")
	}
	attrs := slices.Clone(n.Attrs)
	slices.SortFunc(attrs, func(x, y *graph.Attr) int { return strings.Compare(x.Name, y.Name) })
	for _, a := range attrs {
		fmt.Fprintf(&b, " %q %d", a.Name, a.Kind)
		switch a.Kind {
		case graph.AttrFloat:
			fmt.Fprintf(&b, " %x", a.Float)
		case graph.AttrInt:
			fmt.Fprintf(&b, " %d", a.Int)
		case graph.AttrString:
			fmt.Fprintf(&b, " %q", a.String)
		case graph.AttrFloats:
			fmt.Fprintf(&b, " %x", a.Floats)
		case graph.AttrInts:
			fmt.Fprintf(&b, " %d", a.Ints)
		case graph.AttrStrings:
			fmt.Fprintf(&b, " %q", a.Strings)
		case graph.AttrTensor:
			t := a.Tensor
			if t.External != nil || t.Tensor.DType == tensor.String || len(t.Tensor.Data) > maxKeyTensor {
				return "", false
			}
			fmt.Fprintf(&b, " %d %v %x", t.Tensor.DType, t.Tensor.Shape, t.Tensor.Data)
		default:
			return "", false
		}
		if a.Ref != "" {
			return "", false
		}
	}
	return b.String(), true
}
