// Package graph holds an ONNX model in memory: load, save, shape inference,
// function bodies and the rewrites that lowering needs.
//
// The structures mirror onnx.proto (ONNX IR 14): what a field means is said
// there. Names are the only links between nodes, as in ONNX.
package graph

import "github.com/accelhq/accel/sdk/tensor"

// Domains of operators. The default domain is written "" ("ai.onnx" is read as "").
const (
	DomainONNX      = ""
	DomainML        = "ai.onnx.ml"
	DomainPreview   = "ai.onnx.preview"
	DomainTraining  = "ai.onnx.preview.training"
	DomainAccel     = "ai.accel"
	DomainMicrosoft = "com.microsoft"
)

// Model is an ONNX ModelProto.
type Model struct {
	IRVersion       int64
	ProducerName    string
	ProducerVersion string
	Domain          string
	Version         int64
	Doc             string
	Opsets          map[string]int64 // operator set version by domain
	Metadata        map[string]string
	Graph           *Graph
	Functions       []*Function

	files *fileSet // mapped files that tensors point into; nil for none
}

// Graph is an ONNX GraphProto: nodes in topological order.
type Graph struct {
	Name         string
	Doc          string
	Metadata     map[string]string
	Nodes        []*Node
	Inputs       []*Value
	Outputs      []*Value
	Values       []*Value // types of values between nodes, where known
	Initializers []*Initializer
}

// Node is one use of an operator. An optional input or output that is left out
// is the empty string.
type Node struct {
	Name     string
	Domain   string
	OpType   string
	Overload string
	Inputs   []string
	Outputs  []string
	Attrs    []*Attr
	Doc      string
	Metadata map[string]string
}

// AttrKind says which field of an Attr holds the value; numbers as in
// AttributeProto.AttributeType.
type AttrKind uint8

// Kinds of attribute.
const (
	AttrUndefined AttrKind = 0
	AttrFloat     AttrKind = 1
	AttrInt       AttrKind = 2
	AttrString    AttrKind = 3
	AttrTensor    AttrKind = 4
	AttrGraph     AttrKind = 5
	AttrFloats    AttrKind = 6
	AttrInts      AttrKind = 7
	AttrStrings   AttrKind = 8
	AttrTensors   AttrKind = 9
	AttrGraphs    AttrKind = 10
	AttrSparse    AttrKind = 11
	AttrSparses   AttrKind = 12
	AttrType      AttrKind = 13
	AttrTypes     AttrKind = 14
)

// Attr is a named attribute of a node, or inside a function a reference to an
// attribute of the function (Ref not empty).
type Attr struct {
	Name    string
	Kind    AttrKind
	Ref     string
	Doc     string
	Float   float32
	Int     int64
	String  string
	Tensor  *Initializer
	Graph   *Graph
	Type    *Type
	Floats  []float32
	Ints    []int64
	Strings []string
	Tensors []*Initializer
	Graphs  []*Graph
	Types   []*Type
	// Raw keeps the encoded sparse tensors, which no operator of Accel reads.
	Raw [][]byte
}

// Initializer is a constant tensor. Its data is Tensor.Data, or lies in a file
// beside the model when External is set (then Tensor.Data is nil until loaded).
type Initializer struct {
	Name     string
	Doc      string
	Metadata map[string]string
	Tensor   tensor.Tensor
	External *External
}

// External says where a tensor's bytes lie. A relative Path is relative to the
// folder that the model is saved into; an absolute one is any file, which must
// be linked or copied into that folder (and Path set to its name there) before
// Save. Load makes paths absolute.
type External struct {
	Path   string
	Offset int64
	Length int64
}

// Value is a named value with its type.
type Value struct {
	Name     string
	Type     *Type
	Doc      string
	Metadata map[string]string
}

// TypeKind tells tensors from the container types.
type TypeKind uint8

// Kinds of type; numbers as the oneof field numbers of TypeProto.
const (
	KindTensor   TypeKind = 1
	KindSequence TypeKind = 4
	KindMap      TypeKind = 5
	KindSparse   TypeKind = 8
	KindOptional TypeKind = 9
)

// Type is an ONNX TypeProto. For tensors Dims is nil with HasShape false when
// even the rank is unknown.
type Type struct {
	Kind     TypeKind
	Elem     tensor.DType // tensors, sparse tensors; key type of maps
	HasShape bool
	Dims     []Dim
	Of       *Type // element of sequence, optional; value of map
}

// Dim is a dimension: known (Size >= 0 and Param empty), symbolic (Param not
// empty, Size -1) or unknown (Size -1, Param empty). Param is a name or an
// arithmetic expression of names, such as "2*seq + 1".
type Dim struct {
	Size  int64
	Param string
}

// Function is a model-local function: an operator with a body.
type Function struct {
	Domain   string
	Name     string
	Overload string
	Inputs   []string
	Outputs  []string
	Attrs    []string // names of required attributes
	Defaults []*Attr  // attributes with default values
	Nodes    []*Node
	Opsets   map[string]int64
	Values   []*Value
	Doc      string
	Metadata map[string]string
}

// Known makes a known dimension.
func Known(n int64) Dim { return Dim{Size: n} }

// Sym makes a symbolic dimension.
func Sym(name string) Dim { return Dim{Size: -1, Param: name} }

// TensorType makes a tensor type with the given dimensions.
func TensorType(e tensor.DType, dims ...Dim) *Type {
	return &Type{Kind: KindTensor, Elem: e, HasShape: true, Dims: dims}
}

// Attr returns the attribute of that name, or nil.
func (n *Node) Attr(name string) *Attr {
	for _, a := range n.Attrs {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// AttrInt returns an integer attribute, or def where it is absent.
func (n *Node) AttrInt(name string, def int64) int64 {
	if a := n.Attr(name); a != nil {
		return a.Int
	}
	return def
}

// AttrFloat returns a float attribute, or def where it is absent.
func (n *Node) AttrFloat(name string, def float32) float32 {
	if a := n.Attr(name); a != nil {
		return a.Float
	}
	return def
}

// AttrString returns a string attribute, or def where it is absent.
func (n *Node) AttrString(name, def string) string {
	if a := n.Attr(name); a != nil {
		return a.String
	}
	return def
}

// AttrInts returns a list attribute, or nil where it is absent.
func (n *Node) AttrInts(name string) []int64 {
	if a := n.Attr(name); a != nil {
		return a.Ints
	}
	return nil
}
