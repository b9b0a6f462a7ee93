package engine

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// lengthBuckets are the sizes that a padded dimension is rounded up to on devices
// with static shapes; beyond the last, multiples of it. They trade compilations
// for padding: at most a third of a bucket is padding, save for tiny ones.
var lengthBuckets = []int64{1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512}

func bucket(n int64) int64 {
	i := sort.Search(len(lengthBuckets), func(i int) bool { return lengthBuckets[i] >= n })
	if i < len(lengthBuckets) {
		return lengthBuckets[i]
	}
	last := lengthBuckets[len(lengthBuckets)-1]
	return (n + last - 1) / last * last
}

// dims is the size of every symbolic dimension.
type dims map[string]int64

func (d dims) key() string {
	names := make([]string, 0, len(d))
	for n := range d {
		names = append(names, n)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, n := range names {
		b.WriteString(n + "=" + strconv.FormatInt(d[n], 10) + " ")
	}
	return b.String()
}

// bind holds inputs against the graph's inputs and returns the sizes of its
// symbolic dimensions. It refuses what does not fit before anything runs.
func bind(g *graph.Graph, inputs map[string]graph.Datum) (dims, error) {
	d := dims{}
	known := map[string]bool{}
	for _, v := range g.Inputs {
		known[v.Name] = true
		given, ok := inputs[v.Name]
		if !ok {
			return nil, fmt.Errorf("input %s is missing", v.Name)
		}
		if v.Type != nil && given.Kind != v.Type.Kind {
			return nil, fmt.Errorf("input %s is not of the kind that the model takes", v.Name)
		}
		if given.Kind != graph.KindTensor {
			continue // the backend checks what is inside
		}
		t := given.Tensor
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("input %s: %w", v.Name, err)
		}
		if v.Type == nil {
			continue
		}
		if t.DType != v.Type.Elem {
			return nil, fmt.Errorf("input %s is %s, the model takes %s", v.Name, t.DType, v.Type.Elem)
		}
		if !v.Type.HasShape {
			continue
		}
		if len(t.Shape) != len(v.Type.Dims) {
			return nil, fmt.Errorf("input %s has shape %v, the model takes %d dimensions", v.Name, t.Shape, len(v.Type.Dims))
		}
		for i, dim := range v.Type.Dims {
			n := t.Shape[i]
			switch {
			case dim.Size >= 0 && dim.Size != n:
				return nil, fmt.Errorf("input %s has shape %v, the model takes %d in dimension %d", v.Name, t.Shape, dim.Size, i)
			case dim.Size < 0 && dim.Param != "":
				if was, ok := d[dim.Param]; ok && was != n {
					return nil, fmt.Errorf("input %s has %d in dimension %s, another input %d", v.Name, n, dim.Param, was)
				}
				d[dim.Param] = n
			}
		}
	}
	for name := range inputs {
		if !known[name] {
			return nil, fmt.Errorf("the model has no input %s", name)
		}
	}
	return d, nil
}

// fit is how inputs are brought to the shapes of a compiled graph, and its outputs
// back.
type fit struct {
	asked  dims         // what the request has
	padded dims         // what the compiled graph has; equal to asked without padding
	source *graph.Graph // as the class made it
}

// inputs pads. Padding is zeros: the class has promised that zeros are masked out.
func (f fit) inputs(in map[string]graph.Datum) (map[string]graph.Datum, error) {
	out := make(map[string]graph.Datum, len(f.source.Inputs))
	for _, v := range f.source.Inputs {
		x := in[v.Name]
		if v.Type != nil && x.Kind == graph.KindTensor {
			var err error
			if x.Tensor, err = resize(x.Tensor, sized(v.Type.Dims, x.Tensor.Shape, f.padded)); err != nil {
				return nil, fmt.Errorf("input %s: %w", v.Name, err)
			}
		}
		out[v.Name] = x
	}
	return out, nil
}

// feed picks the inputs of a lowered graph from values, in the types that it has.
func feed(g *graph.Graph, values map[string]graph.Datum) (map[string]graph.Datum, error) {
	out := make(map[string]graph.Datum, len(g.Inputs))
	for _, v := range g.Inputs {
		x, ok := values[v.Name]
		if !ok {
			return nil, fmt.Errorf("value %s was not computed", v.Name)
		}
		if v.Type != nil && x.Kind == graph.KindTensor {
			var err error
			if x.Tensor, err = convert(x.Tensor, v.Type.Elem); err != nil {
				return nil, fmt.Errorf("input %s: %w", v.Name, err)
			}
		}
		out[v.Name] = x
	}
	return out, nil
}

// outputs widens and crops.
func (f fit) outputs(out map[string]graph.Datum) (map[string]graph.Datum, error) {
	for _, v := range f.source.Outputs {
		x, ok := out[v.Name]
		if !ok || v.Type == nil || x.Kind != graph.KindTensor {
			continue
		}
		t := x.Tensor
		var err error
		if v.Type.HasShape && len(v.Type.Dims) == len(t.Shape) {
			if t, err = resize(t, sized(v.Type.Dims, t.Shape, f.asked)); err != nil {
				return nil, fmt.Errorf("output %s: %w", v.Name, err)
			}
		}
		if t, err = convert(t, v.Type.Elem); err != nil {
			return nil, fmt.Errorf("output %s: %w", v.Name, err)
		}
		out[v.Name] = graph.TensorDatum(t)
	}
	return out, nil
}

// sized is shape with its symbolic dimensions as d has them.
func sized(types []graph.Dim, shape tensor.Shape, d dims) tensor.Shape {
	out := shape.Clone()
	for i, dim := range types {
		if n, ok := d[dim.Param]; ok && dim.Param != "" && i < len(out) {
			out[i] = n
		}
	}
	return out
}

// resize pads with zeros at the end of each dimension, or crops there.
func resize(t tensor.Tensor, to tensor.Shape) (tensor.Tensor, error) {
	if t.Shape.Equal(to) {
		return t, nil
	}
	bits := t.DType.Bits()
	if bits == 0 || bits%8 != 0 {
		return t, fmt.Errorf("%s can't be padded", t.DType)
	}
	out, err := tensor.New(t.DType, to)
	if err != nil {
		return t, err
	}
	copyCommon(out.Data, t.Data, to, t.Shape, bits/8)
	return out, nil
}

// copyCommon copies the corner that two dense arrays of the same rank share.
func copyCommon(dst, src []byte, to, from tensor.Shape, size int) {
	if len(to) == 0 {
		copy(dst, src)
		return
	}
	n := int(min(to[0], from[0]))
	if len(to) == 1 {
		copy(dst[:n*size], src[:n*size])
		return
	}
	stride := func(s tensor.Shape) int {
		c := size
		for _, d := range s[1:] {
			c *= int(d)
		}
		return c
	}
	ds, ss := stride(to), stride(from)
	for i := range n {
		copyCommon(dst[i*ds:(i+1)*ds], src[i*ss:(i+1)*ss], to[1:], from[1:], size)
	}
}

// convert between int64 or bool and the int32 that lowering makes of them.
func convert(t tensor.Tensor, to tensor.DType) (tensor.Tensor, error) {
	switch {
	case t.DType == to || to == tensor.Undefined:
		return t, nil
	case t.DType == tensor.Int64 && to == tensor.Int32:
		out, err := tensor.New(to, t.Shape)
		if err != nil {
			return t, err
		}
		return out, lower.Narrow(tensor.View[int32](out), tensor.View[int64](t.Aligned()))
	case t.DType == tensor.Int32 && to == tensor.Int64:
		out, err := tensor.New(to, t.Shape)
		if err != nil {
			return t, err
		}
		dst := tensor.View[int64](out)
		for i, v := range tensor.View[int32](t.Aligned()) {
			dst[i] = int64(v)
		}
		return out, nil
	case t.DType == tensor.Bool && to == tensor.Int32:
		out, err := tensor.New(to, t.Shape)
		if err != nil {
			return t, err
		}
		dst := tensor.View[int32](out)
		for i, v := range t.Data {
			if v != 0 {
				dst[i] = 1
			}
		}
		return out, nil
	case t.DType == tensor.Int32 && to == tensor.Bool:
		out, err := tensor.New(to, t.Shape)
		if err != nil {
			return t, err
		}
		for i, v := range tensor.View[int32](t.Aligned()) {
			if v != 0 {
				out.Data[i] = 1
			}
		}
		return out, nil
	}
	return t, fmt.Errorf("it is %s where %s was expected", t.DType, to)
}
