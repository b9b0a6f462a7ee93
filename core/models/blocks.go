package models

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// net builds one graph of a checkpoint's weights. Its methods are the blocks that
// model classes are made of; scope is what the block is called in node names.
// Mistakes are kept until model.
type net struct {
	*graph.Builder
	name   string // of the component
	w      *weights
	o      Options
	placed map[string]bool            // initialisers that the graph has
	casts  map[string]string          // stored name -> its value as float32
	halves map[string]string          // value -> the same rounded to bfloat16, as float32
	bodies map[string]*graph.Function // of paged operators, by overload
}

func newNet(name string, w *weights, o Options) net {
	return net{Builder: graph.NewBuilder(name), name: name, w: w, o: o, placed: map[string]bool{}, casts: map[string]string{}, halves: map[string]string{}, bodies: map[string]*graph.Function{}}
}

func (n net) in(scope string) net {
	n.Builder = n.Builder.In(scope)
	return n
}

// model ends the building.
func (n net) model() (*graph.Model, error) {
	if n.w.err != nil {
		return nil, n.w.err
	}
	return n.Model()
}

// stored makes a tensor of the checkpoint an initialiser, as it is.
func (n net) stored(name string, shape ...int64) (string, tensor.DType) {
	name, e, ok := n.w.find(name, shape)
	if !ok {
		return "", tensor.Undefined
	}
	if !n.placed[name] {
		n.placed[name] = true
		n.Weight(name, e.DType, e.Shape, graph.External{Path: e.File, Offset: e.Offset, Length: e.Length})
	}
	return name, e.DType
}

// weight is a tensor of the checkpoint as float32.
func (n net) weight(name string, shape ...int64) string {
	name, d := n.stored(name, shape...)
	if d == tensor.Float32 || d == tensor.Undefined {
		return name
	}
	if _, ok := n.casts[name]; !ok {
		n.casts[name] = n.cast(name, tensor.Float32)
	}
	return n.casts[name]
}

func (n net) cast(x string, to tensor.DType) string {
	return n.Op("Cast", []string{x}, graph.IntAttr("to", int64(to)))
}

// embedding looks ids up in a table: [...] -> [..., width].
func (n net) embedding(scope, ids, name string, rows, width int64) string {
	n = n.in(scope)
	if parts, q, ok := n.quantized(name, rows, width); ok {
		x := n.gatherQuantized(ids, parts, q)
		n.w.matrix(n, parts[0], rows, width, x)
		return x
	}
	table, d := n.stored(name, rows, width)
	x := n.Op("Gather", []string{table, ids})
	n.w.matrix(n, table, rows, width, x)
	if d != tensor.Float32 {
		x = n.cast(x, tensor.Float32) // the rows, not the table
	}
	return x
}

// table is all rows of a stored table in order, [rows, width] float32.
func (n net) table(name string, rows, width int64) string {
	if parts, q, ok := n.quantized(name, rows, width); ok {
		ids := make([]int64, rows)
		for i := range ids {
			ids[i] = int64(i)
		}
		x := n.gatherQuantized(n.Ints(ids...), parts, q)
		n.w.matrix(n, parts[0], rows, width, x)
		return x
	}
	x := n.weight(name, rows, width)
	if stored, ok := n.w.name(name); ok {
		n.w.matrix(n, stored, rows, width, "table/Gather") // no node of the graph: all of it is read
	}
	return x
}

// linear multiplies by a stored matrix [out,in] and adds a stored bias:
// [..., in] -> [..., out].
func (n net) linear(scope, x, name string, in, out int64) string {
	return n.in(scope).affine(x, name+".weight", name+".bias", in, out)
}

// affine is linear with names of its own for the matrix and the bias.
func (n net) affine(x, matrix, bias string, in, out int64) string {
	return n.Op("Add", []string{n.times(x, matrix, in, out), n.weight(bias, out)})
}

// project is linear whose bias may be missing.
func (n net) project(scope, x, name string, in, out int64, bias bool) string {
	n = n.in(scope)
	if bias {
		return n.affine(x, name+".weight", name+".bias", in, out)
	}
	return n.times(x, name+".weight", in, out)
}

// times multiplies by a stored matrix [out,in]: [..., in] -> [..., out].
func (n net) times(x, matrix string, in, out int64) string {
	if parts, q, ok := n.quantized(matrix, out, in); ok {
		y := n.timesQuantized(x, parts, q)
		n.w.matrix(n, parts[0], out, in, y)
		return y
	}
	w := n.weight(matrix, out, in)
	y := n.Op("MatMul", []string{n.rounded(x, matrix), n.Op("Transpose", []string{w}, graph.IntsAttr("perm", 1, 0))})
	if stored, ok := n.w.name(matrix); ok {
		n.w.matrix(n, stored, out, in, y)
	}
	return y
}

// rounded is what a stored matrix is multiplied with: a value as it is, or rounded to
// bfloat16 where the matrix is of that and the options say so. Products and sums stay
// float32: a MatMul of bfloat16 would round those too.
func (n net) rounded(x, matrix string) string {
	if n.o.Activations != "bf16" || n.w.dtype(matrix) != tensor.BFloat16 {
		return x
	}
	if _, ok := n.halves[x]; !ok {
		n.halves[x] = n.cast(n.cast(x, tensor.BFloat16), tensor.Float32)
	}
	return n.halves[x]
}

// rowLinear is linear for one row a text: [batch, in] -> [batch, out].
func (n net) rowLinear(scope, x, name string, in, out int64) string {
	n = n.in(scope)
	if n.w.isQuantized(name + ".weight") {
		return n.affine(x, name+".weight", name+".bias", in, out)
	}
	y := n.Op("Gemm", []string{n.rounded(x, name+".weight"), n.weight(name+".weight", out, in), n.weight(name+".bias", out)}, graph.IntAttr("transB", 1))
	if stored, ok := n.w.name(name + ".weight"); ok {
		n.w.matrix(n, stored, out, in, y)
	}
	return y
}

// layerNorm normalises the last dimension.
func (n net) layerNorm(scope, x, name string, width int64, eps float32) string {
	n = n.in(scope)
	return n.Op("LayerNormalization", []string{x, n.weight(name+".weight", width), n.weight(name+".bias", width)},
		graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", eps))
}

// rmsNorm divides the last dimension by its root mean square and multiplies with
// stored weights.
func (n net) rmsNorm(scope, x, name string, width int64, eps float32) string {
	return n.in(scope).Op("RMSNormalization", []string{x, n.weight(name+".weight", width)},
		graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", eps))
}

// residualNorm is layerNorm(x + residual), as post-norm transformers have it.
func (n net) residualNorm(scope, x, residual, name string, width int64, eps float32) string {
	return n.layerNorm(scope, n.in(scope).Op("Add", []string{x, residual}), name, width, eps)
}

// activations are the element-wise functions that configs name.
var activations = map[string]func(net, string) string{
	"gelu":              gelu("none"),
	"gelu_python":       gelu("none"),
	"gelu_new":          gelu("tanh"),
	"gelu_fast":         gelu("tanh"),
	"gelu_accurate":     gelu("tanh"),
	"gelu_pytorch_tanh": gelu("tanh"),
	"gelu_python_tanh":  gelu("tanh"),
	"quick_gelu":        func(n net, x string) string { return n.gate(x, n.Op("Mul", []string{x, n.Float(1.702)})) },
	"relu":              func(n net, x string) string { return n.Op("Relu", []string{x}) },
	"silu":              func(n net, x string) string { return n.gate(x, x) },
	"swish":             func(n net, x string) string { return n.gate(x, x) },
	"tanh":              func(n net, x string) string { return n.Op("Tanh", []string{x}) },
}

func gelu(approximate string) func(net, string) string {
	return func(n net, x string) string {
		return n.Op("Gelu", []string{x}, graph.StringAttr("approximate", approximate))
	}
}

// gate is x * sigmoid(by).
func (n net) gate(x, by string) string {
	return n.Op("Mul", []string{x, n.Op("Sigmoid", []string{by})})
}

// activation reads the name of one of the activations.
func activation(f checkpoint.Fields, field, def string) string {
	name := f.StringOr(field, def)
	if _, ok := activations[name]; !ok && f.Err() == nil {
		f.Fail(field, "found "+strconv.Quote(name), "one of "+strings.Join(slices.Sorted(maps.Keys(activations)), ", "), "")
	}
	return name
}

func (n net) activate(scope, kind, x string) string { return activations[kind](n.in(scope), x) }

// attentionNames are the tensors of an attention block.
type attentionNames struct {
	q, k, v, out string
	bare         bool // q, k and v have no biases
}

// under puts a stem before the names.
func (a attentionNames) under(stem string) attentionNames {
	a.q, a.k, a.v, a.out = stem+a.q, stem+a.k, stem+a.v, stem+a.out
	return a
}

// selfAttention attends where mask is true: x [batch, sequence, width], mask
// [batch, 1, 1, sequence] bool, or "" to attend everywhere.
func (n net) selfAttention(scope, x, mask string, names attentionNames, width, heads int64, attrs ...*graph.Attr) string {
	return n.attend(scope, x, x, x, mask, names, width, heads, attrs...)
}

// attend is attention of queries to keys and values of the same width:
// [batch, queries, width], [batch, keys, width] twice -> [batch, queries, width].
func (n net) attend(scope, query, key, value, mask string, names attentionNames, width, heads int64, attrs ...*graph.Attr) string {
	q := n.project(scope+".q", query, names.q, width, width, !names.bare)
	k := n.project(scope+".k", key, names.k, width, width, !names.bare)
	v := n.project(scope+".v", value, names.v, width, width, !names.bare)
	inputs := []string{q, k, v}
	if mask != "" {
		inputs = append(inputs, mask)
	}
	o := n.in(scope).Op("Attention", inputs, append(attrs, graph.IntAttr("q_num_heads", heads), graph.IntAttr("kv_num_heads", heads))...)
	return n.linear(scope+".o", o, names.out, width, width)
}

// mlp is two linears with an activation between them.
func (n net) mlp(scope, x, up, down, act string, width, inner int64) string {
	x = n.linear(scope+".up", x, up, width, inner)
	return n.linear(scope+".down", n.activate(scope+".act", act, x), down, inner, width)
}

// first is the first token's row: [batch, sequence, width] -> [batch, width].
func (n net) first(scope, x string) string {
	return n.in(scope).Op("Gather", []string{x, n.Int(0)}, graph.IntAttr("axis", 1))
}

// rest is all rows but the first ones: [batch, sequence, width] ->
// [batch, sequence-skip, width].
func (n net) rest(scope, x string, skip int64) string {
	return n.in(scope).Op("Slice", []string{x, n.Ints(skip), n.Ints(math.MaxInt64), n.Ints(1)})
}

// unit divides the last dimension by its length.
func (n net) unit(scope, x string) string {
	n = n.in(scope)
	length := n.Op("ReduceL2", []string{x, n.Ints(-1)}, graph.IntAttr("keepdims", 1))
	return n.Op("Div", []string{x, n.atLeast(length, 1e-12)})
}

// result makes a float32 value an output.
func (n net) result(name, value string, dims ...graph.Dim) {
	n.Output(name, value, graph.TensorType(tensor.Float32, dims...))
}

// keyMask is an attention mask [batch, sequence] int64 as selfAttention takes it.
func (n net) keyMask(mask string) string {
	n = n.in("mask")
	return n.Op("Unsqueeze", []string{n.cast(mask, tensor.Bool), n.Ints(1, 2)})
}
