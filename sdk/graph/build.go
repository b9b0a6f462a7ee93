package graph

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/accelhq/accel/sdk/tensor"
)

// Versions that Builder writes: the newest that the vendor runtimes read whole.
const (
	DefaultOpset     = 23
	DefaultIRVersion = 10
)

// Builder writes a model node by node. Values are known by name; operators get
// names that are unique and tell where they stand:
//
//	b := graph.NewBuilder("mlp")
//	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("N"), graph.Known(64)))
//	w := b.Weight("w", tensor.Float32, tensor.Shape{32, 64}, graph.External{Path: file, Offset: 1024, Length: 8192})
//	h := b.Op("Gemm", []string{x, w}, graph.IntAttr("transB", 1))
//	b.Output("y", b.Op("Relu", []string{h}), nil)
//	m, err := b.Model()
//
// Mistakes are kept until Model, which reports them all.
type Builder struct {
	s     *buildState
	scope string
}

// buildState is shared by a builder and those that In makes of it.
type buildState struct {
	m         *Model
	used      map[string]bool // names of values and nodes
	counts    map[string]int  // nodes by scope and operator
	made      map[string]bool // values that nodes make
	constants map[string]string
	outputs   map[string]string // value -> output name it takes
	errs      []error
}

// NewBuilder begins a model of opset 23 of the standard operators and version 1
// of ai.accel and com.microsoft where they are used.
func NewBuilder(name string) *Builder {
	return &Builder{s: &buildState{
		m: &Model{
			IRVersion:    DefaultIRVersion,
			ProducerName: "accel",
			Opsets:       map[string]int64{DomainONNX: DefaultOpset},
			Graph:        &Graph{Name: name},
		},
		used:      map[string]bool{},
		counts:    map[string]int{},
		made:      map[string]bool{},
		constants: map[string]string{},
		outputs:   map[string]string{},
	}}
}

// In is a builder of the same model that puts scope and a "/" before the names
// of nodes.
func (b *Builder) In(scope string) *Builder {
	return &Builder{s: b.s, scope: b.scope + scope + "/"}
}

func (b *Builder) fail(format string, args ...any) {
	b.s.errs = append(b.s.errs, fmt.Errorf("build %q: "+format, append([]any{b.s.m.Graph.Name}, args...)...))
}

// claim takes a name that the caller chose.
func (b *Builder) claim(name string) string {
	switch {
	case name == "":
		b.fail("a value has no name")
	case b.s.used[name]:
		b.fail("the name %q is used twice", name)
	}
	b.s.used[name] = true
	return name
}

// unique makes a name for a node.
func (b *Builder) unique(op string) string {
	base := b.scope + op
	for {
		n := b.s.counts[base]
		b.s.counts[base]++
		name := base
		if n > 0 {
			name += "_" + strconv.Itoa(n)
		}
		if !b.s.used[name] {
			b.s.used[name] = true
			return name
		}
	}
}

// Import sets the operator set version of a domain.
func (b *Builder) Import(domain string, version int64) { b.s.m.Opsets[domain] = version }

// Meta adds a metadata entry to the model.
func (b *Builder) Meta(key, value string) {
	if b.s.m.Metadata == nil {
		b.s.m.Metadata = map[string]string{}
	}
	b.s.m.Metadata[key] = value
}

// Input declares an input of the graph.
func (b *Builder) Input(name string, t *Type) string {
	b.s.m.Graph.Inputs = append(b.s.m.Graph.Inputs, &Value{Name: b.claim(name), Type: t})
	return name
}

// Tensor adds an initializer whose bytes are in memory.
func (b *Builder) Tensor(name string, t tensor.Tensor) string {
	if err := t.Check(); err != nil {
		b.fail("initializer %q: %w", name, err)
	}
	return b.initializer(&Initializer{Name: name, Tensor: t})
}

// Weight adds an initializer whose bytes lie in a file.
func (b *Builder) Weight(name string, t tensor.DType, s tensor.Shape, at External) string {
	size, err := tensor.ByteSize(t, s)
	if err != nil {
		b.fail("initializer %q: %w", name, err)
	} else if size != at.Length {
		b.fail("initializer %q: %s%v wants %d bytes, %s gives %d", name, t, s, size, at.Path, at.Length)
	}
	return b.initializer(&Initializer{Name: name, Tensor: tensor.Tensor{DType: t, Shape: s}, External: &at})
}

func (b *Builder) initializer(in *Initializer) string {
	b.claim(in.Name)
	b.s.m.Graph.Initializers = append(b.s.m.Graph.Initializers, in)
	return in.Name
}

// Const adds an initializer with a name of its own; equal constants are shared.
// Meant for small ones.
func (b *Builder) Const(t tensor.Tensor) string {
	if err := t.Check(); err != nil || t.DType == tensor.String {
		b.fail("a constant of type %s: %w", t.DType, errors.Join(err, errors.ErrUnsupported))
		return ""
	}
	key := t.DType.String() + t.Shape.String() + string(t.Data)
	name, ok := b.s.constants[key]
	if !ok {
		root := Builder{s: b.s}
		name = root.unique("const")
		b.s.constants[key] = name
		b.s.m.Graph.Initializers = append(b.s.m.Graph.Initializers, &Initializer{Name: name, Tensor: t})
	}
	return name
}

// Ints is a constant int64 tensor of one dimension.
func (b *Builder) Ints(v ...int64) string {
	return b.Const(tensor.Ints(tensor.Shape{int64(len(v))}, v...))
}

// Int is a constant int64 scalar.
func (b *Builder) Int(v int64) string { return b.Const(tensor.Ints(nil, v)) }

// Float is a constant float32 scalar.
func (b *Builder) Float(v float32) string { return b.Const(tensor.Floats(nil, v)) }

// Op adds a node of a standard operator with one output and returns that
// output. An input that is left out is "".
func (b *Builder) Op(op string, inputs []string, attrs ...*Attr) string {
	return b.Node(&Node{OpType: op, Inputs: inputs, Attrs: attrs}, 1)[0]
}

// Node adds any node. Where it has no name or outputs, they are made: an output
// is called as its node, or as the node, a dot and its number if there are
// several. It returns the outputs.
func (b *Builder) Node(n *Node, outputs int) []string {
	for _, in := range n.Inputs {
		if in != "" && !b.s.used[in] {
			b.fail("node %s reads %q, which nothing has made yet", n.Label(), in)
		}
	}
	named := n.Name != ""
	if !named {
		n.Name = b.unique(n.OpType)
	}
	if n.Outputs == nil {
		for i := range outputs {
			out := n.Name
			if outputs > 1 {
				out += "." + strconv.Itoa(i)
			}
			if outputs > 1 || named {
				b.claim(out)
			}
			n.Outputs = append(n.Outputs, out)
		}
	} else {
		for _, out := range n.Outputs {
			if out != "" {
				b.claim(out)
			}
		}
	}
	for _, out := range n.Outputs {
		b.s.made[out] = true
	}
	if _, ok := b.s.m.Opsets[n.Domain]; !ok {
		b.s.m.Opsets[n.Domain] = 1
	}
	b.s.m.Graph.Nodes = append(b.s.m.Graph.Nodes, n)
	return n.Outputs
}

// Function attaches a model-local function, once however often it is given.
func (b *Builder) Function(f *Function) {
	if err := b.s.m.Attach(f); err != nil {
		b.fail("%w", err)
	}
}

// Output makes a value an output of the graph under the given name. The type may
// be nil; Infer fills it.
func (b *Builder) Output(name, value string, t *Type) {
	b.s.m.Graph.Outputs = append(b.s.m.Graph.Outputs, &Value{Name: name, Type: t})
	if name == value && b.s.made[value] {
		b.s.outputs[value] = value
		return
	}
	if _, taken := b.s.outputs[value]; b.s.made[value] && !taken {
		// The node that makes it gets the name, once all nodes are there.
		b.s.outputs[value] = b.claim(name)
		return
	}
	b.Node(&Node{OpType: "Identity", Inputs: []string{value}, Outputs: []string{name}}, 1)
}

// Model ends the building. The model is valid, as Check has it. The builder must
// not be used afterwards.
func (b *Builder) Model() (*Model, error) {
	m := b.s.m
	if err := errors.Join(b.s.errs...); err != nil {
		return nil, err
	}
	rename(m.Graph.Nodes, b.s.outputs)
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}

// FloatAttr makes a float attribute.
func FloatAttr(name string, v float32) *Attr { return &Attr{Name: name, Kind: AttrFloat, Float: v} }

// IntAttr makes an integer attribute.
func IntAttr(name string, v int64) *Attr { return &Attr{Name: name, Kind: AttrInt, Int: v} }

// StringAttr makes a string attribute.
func StringAttr(name, v string) *Attr { return &Attr{Name: name, Kind: AttrString, String: v} }

// IntsAttr makes a list attribute.
func IntsAttr(name string, v ...int64) *Attr { return &Attr{Name: name, Kind: AttrInts, Ints: v} }

// FloatsAttr makes a list attribute.
func FloatsAttr(name string, v ...float32) *Attr {
	return &Attr{Name: name, Kind: AttrFloats, Floats: v}
}

// TensorAttr makes a tensor attribute.
func TensorAttr(name string, t tensor.Tensor) *Attr {
	return &Attr{Name: name, Kind: AttrTensor, Tensor: &Initializer{Tensor: t}}
}

// GraphAttr makes a graph attribute.
func GraphAttr(name string, g *Graph) *Attr { return &Attr{Name: name, Kind: AttrGraph, Graph: g} }

// RefAttr makes an attribute, inside a function, that takes the value of the
// function's attribute ref.
func RefAttr(name string, kind AttrKind, ref string) *Attr {
	return &Attr{Name: name, Kind: kind, Ref: ref}
}
