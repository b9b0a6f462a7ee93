package tasks

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Generator makes up inputs, the same ones for the same seed.
type Generator struct {
	Kind string // zeros, ones or random
	Seed uint64
}

// ParseGenerator reads zeros, ones, random or random:SEED.
func ParseGenerator(text string) (*Generator, error) {
	kind, seed, seeded := strings.Cut(text, ":")
	g := &Generator{Kind: kind}
	switch kind {
	case "zeros", "ones":
		if !seeded {
			return g, nil
		}
	case "random":
		if !seeded {
			return g, nil
		}
		var err error
		if g.Seed, err = strconv.ParseUint(seed, 10, 64); err == nil {
			return g, nil
		}
	}
	return nil, &InvalidInputError{Field: "generate", Input: -1, Problem: fmt.Sprintf("%q is unknown", text), Remedy: "it takes zeros, ones, random or random:SEED"}
}

// value makes up an input of known shape, and says how.
func (g *Generator) value(m *graph.Model, name string, t *graph.Type) (graph.Datum, string, error) {
	no := func(why string) (graph.Datum, string, error) {
		return graph.Datum{}, "", &InvalidInputError{Field: "generate", Input: -1, Problem: fmt.Sprintf("input %q %s", name, why), Remedy: "give it as " + name + "=FILE"}
	}
	switch {
	case t == nil || t.Kind != graph.KindTensor || t.Elem == tensor.Undefined:
		return no("is " + tensorfile.TypeText(t) + ", which is not made up")
	case !t.HasShape:
		return no("may have any number of dimensions, so it can't be made up")
	case t.Elem == tensor.String:
		return no("is text, which is not made up")
	}
	shape := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		shape[i] = d.Size
	}
	size, err := tensor.ByteSize(t.Elem, shape)
	if err != nil {
		return no(err.Error())
	}
	if n, _ := shape.Elements(); n > maxMadeUp {
		return no(fmt.Sprintf("would have %d elements at these sizes, %d bytes", n, size))
	}
	how := g.Kind
	wide, err := tensor.New(tensor.Float64, shape)
	if err != nil {
		return no(err.Error())
	}
	values := tensor.View[float64](wide)
	switch {
	case g.Kind == "zeros":
	case g.Kind == "ones":
		fill(values, 1)
	case t.Elem.IsInt():
		r := rangeOf(m, name)
		_, most := limits(t.Elem)
		r.below = min(r.below, most)
		if how = fmt.Sprintf("random in [%d, %d)", r.low, r.below); r.below == r.low+1 {
			how = fmt.Sprintf("%d everywhere", r.low)
		}
		if r.why != "" {
			how += ": " + r.why
		}
		rng := g.source(name)
		for i := range values {
			values[i] = float64(r.low + rng.Int64N(r.below-r.low))
		}
	case t.Elem == tensor.Bool:
		how = "random"
		rng := g.source(name)
		for i := range values {
			values[i] = float64(rng.IntN(2))
		}
	default:
		how = "random in [0, 1)"
		rng := g.source(name)
		for i := range values {
			values[i] = rng.Float64()
		}
	}
	out, err := tensorfile.Cast(wide, t.Elem)
	if complexType(t.Elem) {
		out, err = toComplex(values, t.Elem, shape)
	}
	if err != nil {
		return no(err.Error())
	}
	return graph.Datum{Kind: graph.KindTensor, Tensor: out}, how, nil
}

// maxMadeUp bounds the elements of one input.
const maxMadeUp = 1 << 29

func fill(values []float64, with float64) {
	for i := range values {
		values[i] = with
	}
}

func complexType(t tensor.DType) bool { return t == tensor.Complex64 || t == tensor.Complex128 }

func toComplex(values []float64, t tensor.DType, shape tensor.Shape) (tensor.Tensor, error) {
	out, err := tensor.New(t, shape)
	if err != nil {
		return out, err
	}
	for i, v := range values {
		if t == tensor.Complex64 {
			tensor.View[complex64](out)[i] = complex(float32(v), 0)
		} else {
			tensor.View[complex128](out)[i] = complex(v, 0)
		}
	}
	return out, nil
}

// source is the random numbers of one input: an input more or less in the model
// leaves those of the others as they are.
func (g *Generator) source(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(g.Seed, h.Sum64()))
}

// limits are the least integer and one more than the largest that a type holds,
// as far as a float64 counts them.
func limits(t tensor.DType) (low, below int64) {
	bits := t.Bits()
	switch t {
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int4, tensor.Int2:
		return -1 << (bits - 1), 1 << (bits - 1)
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint4, tensor.Uint2:
		return 0, 1 << bits
	}
	return -1 << 53, 1 << 53
}

// intRange bounds the integers that an input may hold: low <= n < below.
type intRange struct {
	low, below int64
	why        string
}

// rangeOf looks at who reads an integer input: indexes stay within the tables
// that they point into, sizes are 1. What nobody bounds is 0 or 1, and masks are 1
// throughout, for a model may not like that nothing is left.
func rangeOf(m *graph.Model, name string) intRange {
	r := reader{types: m.Graph.Types(), index: graph.NewIndex(m.Graph), constants: m.Graph.Constants(),
		found: intRange{0, math.MaxInt64, ""}, seen: map[string]bool{}}
	r.follow(name, 0)
	switch {
	case r.found.below != math.MaxInt64:
		if r.found.below <= r.found.low {
			r.found.below = r.found.low + 1
		}
		return r.found
	case strings.Contains(strings.ToLower(name), "mask"):
		return intRange{1, 2, "a mask"}
	}
	return intRange{0, 2, ""}
}

// reader follows a value through the graph to the operators that bound it.
type reader struct {
	types     map[string]*graph.Type
	index     *graph.Index
	constants map[string]tensor.Tensor
	found     intRange
	seen      map[string]bool
}

// movers hand on some or all elements of their first input (Concat: of any) as
// they are.
var movers = []string{"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Slice", "Concat",
	"Gather", "GatherElements", "GatherND", "Split", "Tile", "Where", "Trilu", "Dropout"}

// sizeInputs are inputs of operators that say sizes.
var sizeInputs = map[string]int{"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0, "TopK": 1}

// follow looks at the readers of a value to which offset was added.
func (r *reader) follow(value string, offset int64) {
	if r.seen[value] {
		return
	}
	r.seen[value] = true
	for _, use := range r.index.Uses(value) {
		n := use.Node
		if n == nil {
			continue
		}
		for at, in := range n.Inputs {
			if in != value {
				continue
			}
			if bound, why, ok := r.bound(n, at); ok {
				if below := bound - offset; below < r.found.below {
					r.found = intRange{max(0, -offset), below, why}
				}
				continue
			}
			if size, ok := sizeInputs[n.OpType]; ok && size == at && n.Domain == graph.DomainONNX {
				r.found = intRange{1, 2, "a size"}
				continue
			}
			moved := n.Domain == graph.DomainONNX && slices.Contains(movers, n.OpType) &&
				(at == 0 || n.OpType == "Concat" || n.OpType == "Where") && !(n.OpType == "Where" && at == 0)
			more := offset
			if n.Domain == graph.DomainONNX && n.OpType == "Add" && len(n.Inputs) == 2 {
				if c, ok := r.scalar(n.Inputs[1-at]); ok {
					moved, more = true, offset+c
				}
			}
			if moved {
				for _, out := range n.Outputs {
					r.follow(out, more)
				}
			}
		}
	}
}

// bound says how many rows a node's input may index.
func (r *reader) bound(n *graph.Node, at int) (int64, string, bool) {
	axis := func(table string, axis int64) (int64, string, bool) {
		t := r.types[table]
		if t == nil || !t.HasShape {
			return 0, "", false
		}
		if axis < 0 {
			axis += int64(len(t.Dims))
		}
		if axis < 0 || axis >= int64(len(t.Dims)) || t.Dims[axis].Size <= 0 {
			return 0, "", false
		}
		return t.Dims[axis].Size, "it indexes " + table, true
	}
	switch id := n.ID(); {
	case n.Domain == graph.DomainONNX && (n.OpType == "Gather" || n.OpType == "GatherElements" || n.OpType == "ScatterElements") && at == 1:
		return axis(n.Inputs[0], n.AttrInt("axis", 0))
	case n.Domain == graph.DomainONNX && (n.OpType == "GatherND" || n.OpType == "ScatterND") && at == 1:
		return axis(n.Inputs[0], n.AttrInt("batch_dims", 0))
	case n.Domain == graph.DomainONNX && n.OpType == "OneHot" && at == 0:
		depth, ok := r.scalar(n.Inputs[1])
		return depth, "of OneHot's depth", ok && depth > 0
	case id == graph.FunctionID{Domain: graph.DomainMicrosoft, Name: "GatherBlockQuantized"} && at == 1:
		return axis(n.Inputs[0], n.AttrInt("gather_axis", 0))
	case id == graph.FunctionID{Domain: graph.DomainAccel, Name: "GatherBlocks"} && at == 3:
		return axis(n.Inputs[0], 0)
	case id == graph.FunctionID{Domain: graph.DomainMicrosoft, Name: "EmbedLayerNormalization"} && at < 2 && len(n.Inputs) > 4:
		return axis(n.Inputs[2+2*at], 0)
	}
	return 0, "", false
}

// scalar is a constant integer of one element.
func (r *reader) scalar(name string) (int64, bool) {
	c, ok := r.constants[name]
	if !ok || c.Len() != 1 {
		return 0, false
	}
	switch c = c.Aligned(); c.DType {
	case tensor.Int64:
		return tensor.View[int64](c)[0], true
	case tensor.Int32:
		return int64(tensor.View[int32](c)[0]), true
	}
	return 0, false
}
