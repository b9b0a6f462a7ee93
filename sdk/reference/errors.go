package reference

import (
	"fmt"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Cause is why an operator can't be computed. The values are those of
// backend.Refusal.
type Cause string

// Causes.
const (
	UnknownOperator Cause = "operator"
	WrongType       Cause = "element_type"
	WrongAttribute  Cause = "attribute"
)

// UnsupportedNode is a node that this package does not compute.
type UnsupportedNode struct {
	Name   string // of the node, or of its first output where it has none
	Domain string
	OpType string
	Opset  int64
	Cause  Cause
	Reason string
}

func (u UnsupportedNode) String() string {
	return fmt.Sprintf("node %q (%s, opset %d): %s", u.Name, opName(u.Domain, u.OpType), u.Opset, u.Reason)
}

// UnsupportedError lists the nodes of a model that this package does not compute.
type UnsupportedError struct {
	Nodes []UnsupportedNode
}

func (e *UnsupportedError) Error() string {
	const shown = 5
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes are not supported", len(e.Nodes))
	for i, n := range e.Nodes {
		if i == shown {
			fmt.Fprintf(&b, "; and %d more", len(e.Nodes)-shown)
			break
		}
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep)
		b.WriteString(n.String())
	}
	return b.String()
}

// InputError says that an input of a run is not what the model declares.
type InputError struct {
	Input  string
	Reason string
}

func (e *InputError) Error() string { return fmt.Sprintf("input %q: %s", e.Input, e.Reason) }

// NodeError says that a node can't be computed with the values it was given.
type NodeError struct {
	Node   string
	Domain string
	OpType string
	Input  int    // position of the input to blame, -1 for none
	Name   string // name of that input in the operator's signature
	Err    error
}

func (e *NodeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %q (%s)", e.Node, opName(e.Domain, e.OpType))
	if e.Input >= 0 {
		fmt.Fprintf(&b, ", input %d (%s)", e.Input, e.Name)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *NodeError) Unwrap() error { return e.Err }

// MemoryError says that a run would hold more memory than it may.
type MemoryError struct {
	Needed int64 // bytes of the allocation that was refused
	Held   int64 // bytes that the run held by then
	Limit  int64
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%d bytes are needed beside %d held, the limit is %d", e.Needed, e.Held, e.Limit)
}

// InternalError is a mistake in this package: an operator that panicked.
type InternalError struct {
	Panic any
	Stack []byte
}

func (e *InternalError) Error() string {
	return fmt.Sprintf("internal error: %v\n%s", e.Panic, e.Stack)
}

// inputError blames an input of an operator; eval fills in the node.
type inputError struct {
	input int
	err   error
}

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

func badInput(i int, format string, args ...any) error {
	return &inputError{input: i, err: fmt.Errorf(format, args...)}
}

// opName is an operator's name with its domain, where that is not ONNX's.
func opName(domain, op string) string {
	if domain == graph.DomainONNX {
		return op
	}
	return domain + "." + op
}

// nodeName is what a node is called in errors: its name, or what it makes.
func nodeName(n *graph.Node) string {
	if n.Name != "" {
		return n.Name
	}
	for _, o := range n.Outputs {
		if o != "" {
			return o
		}
	}
	return ""
}

// describe is a value's type and shape, for errors.
func describe(v graph.Datum) string {
	switch v.Kind {
	case graph.KindTensor:
		return describeTensor(v.Tensor)
	case graph.KindSequence:
		return fmt.Sprintf("sequence of %d", len(v.Sequence))
	case graph.KindOptional:
		if v.Optional == nil {
			return "empty optional"
		}
		return "optional " + describe(*v.Optional)
	}
	return "nothing"
}

func describeTensor(t tensor.Tensor) string { return t.DType.String() + t.Shape.String() }
