package graph

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

// call is one node under inference, as its rule sees it.
type call struct {
	f     *inferrer
	n     *Node
	s     *scope
	opset int64
	ins   []*value
	outs  []*value
}

// rule infers the outputs of a node. An error is a contradiction; what is not
// known is left out.
type rule func(c *call) error

// rules is filled in by init functions beside the rules, which call each other.
var rules = map[FunctionID]rule{}

// addRules gives operators a rule. Their first least inputs may not be left out.
func addRules(domain string, r rule, least int, ops ...string) {
	for _, op := range ops {
		rules[FunctionID{Domain: domain, Name: op}] = func(c *call) error {
			for i := range least {
				if c.in(i) == nil {
					return fmt.Errorf("input %d is missing, wants at least %d", i, least)
				}
			}
			return r(c)
		}
	}
}

// in is input i; nil where it is left out.
func (c *call) in(i int) *value {
	if i < len(c.ins) {
		return c.ins[i]
	}
	return nil
}

// out sets output i, if the node has it.
func (c *call) out(i int, v *value) {
	if i < len(c.outs) {
		c.outs[i] = v
	}
}

// dims is the shape of input i; false where it is absent or not known.
func (c *call) dims(i int) ([]expr, bool) {
	v := c.in(i)
	if v == nil || !v.ranked {
		return nil, false
	}
	return v.dims, true
}

// elem is the element type of input i.
func (c *call) elem(i int) tensor.DType {
	if v := c.in(i); v != nil {
		return v.elem
	}
	return tensor.Undefined
}

func (c *call) attr(name string) *Attr { return c.f.resolve(c.n.Attr(name)) }

func (c *call) int(name string, def int64) int64 {
	if a := c.attr(name); a != nil {
		return a.Int
	}
	return def
}

func (c *call) ints(name string) []int64 {
	if a := c.attr(name); a != nil {
		return a.Ints
	}
	return nil
}

func (c *call) str(name, def string) string {
	if a := c.attr(name); a != nil {
		return a.String
	}
	return def
}

// axis counts from the end where it is negative, and must lie in [-rank, rank).
func axis(a int64, rank int) (int, error) {
	n := a
	if n < 0 {
		n += int64(rank)
	}
	if n < 0 || n >= int64(rank) {
		return 0, fmt.Errorf("axis %d does not exist in a tensor of rank %d", a, rank)
	}
	return int(n), nil
}

// axes is a list of axes given as an attribute or, in later versions, as input
// i. given is false where neither is there, known where the list can't be told.
func (c *call) axes(i int) (list []int64, given, known bool) {
	if a := c.attr("axes"); a != nil {
		return a.Ints, true, true
	}
	if v := c.in(i); v != nil {
		list, known = v.numbers()
		return list, true, known
	}
	return nil, false, true
}

// tensorOf is a tensor of known rank.
func tensorOf(elem tensor.DType, dims ...expr) *value {
	return &value{kind: KindTensor, elem: elem, ranked: true, dims: dims}
}

// someTensor is a tensor of unknown rank.
func someTensor(elem tensor.DType) *value { return &value{kind: KindTensor, elem: elem} }

// like is a tensor of the shape of v, without its elements.
func like(v *value, elem tensor.DType) *value {
	if v == nil || v.kind != KindTensor {
		return someTensor(elem)
	}
	return &value{kind: KindTensor, elem: elem, ranked: v.ranked, dims: v.dims}
}

// sameElem fails if two inputs have different element types.
func (c *call) sameElem(ins ...int) error {
	first := tensor.Undefined
	for _, i := range ins {
		e := c.elem(i)
		switch {
		case e == tensor.Undefined:
		case first == tensor.Undefined:
			first = e
		case e != first:
			return fmt.Errorf("its inputs have element types %s and %s", first, e)
		}
	}
	return nil
}

// size makes an element of a shape a dimension.
func (c *call) size(e expr) expr {
	if e.size() && (!c.f.exact || e.positive()) {
		return e
	}
	return c.f.newDim()
}

// or is the result of arithmetic, or an unknown size if it grew too large.
func (c *call) or(e expr, ok bool) expr {
	if !ok {
		return c.f.newDim()
	}
	return e
}

// orInt is the same for integers that are no sizes.
func (c *call) orInt(e expr, ok bool) expr {
	if !ok {
		return c.f.newInt()
	}
	return e
}

// product multiplies sizes.
func (c *call) product(dims []expr) expr {
	p := num(1)
	for _, d := range dims {
		var ok bool
		if p, ok = p.mul(d); !ok {
			return c.f.newDim()
		}
	}
	return p
}

// broadcastDim joins two dimensions as ONNX broadcasts.
func (c *call) broadcastDim(a, b expr) (expr, error) {
	an, aok := a.value()
	bn, bok := b.value()
	switch {
	case a.eq(b) || bok && bn == 1:
		return a, nil
	case aok && an == 1:
		return b, nil
	case aok && bok:
		return expr{}, fmt.Errorf("dimensions %d and %d can't be broadcast", an, bn)
	case aok:
		return a, nil // b is the same, or 1
	case bok:
		return b, nil
	}
	return c.f.newDim(), nil
}

// broadcast joins shapes, aligned at their last dimensions.
func (c *call) broadcast(shapes ...[]expr) ([]expr, error) {
	var out []expr
	for _, s := range shapes {
		if len(s) > len(out) {
			out, s = s, out
		}
		if len(s) == 0 {
			continue
		}
		joined := append([]expr(nil), out...)
		lead := len(out) - len(s)
		for i, d := range s {
			var err error
			if joined[lead+i], err = c.broadcastDim(joined[lead+i], d); err != nil {
				return nil, fmt.Errorf("shapes %s and %s can't be broadcast", dimsText(out), dimsText(s))
			}
		}
		out = joined
	}
	return out, nil
}

// must fails if two dimensions are different numbers.
func must(what string, a, b expr) error {
	x, xok := a.value()
	y, yok := b.value()
	if xok && yok && x != y {
		return fmt.Errorf("%s is %d on one side and %d on the other", what, x, y)
	}
	return nil
}

// either is the dimension that says more.
func either(a, b expr) expr {
	if _, ok := a.value(); !ok {
		if _, ok := b.value(); ok || a.fresh() {
			return b
		}
	}
	return a
}

// rank fails if input i is known to have another rank.
func (c *call) rank(i, want int) error {
	if d, ok := c.dims(i); ok && len(d) != want {
		return fmt.Errorf("input %d has shape %s, wants rank %d", i, dimsText(d), want)
	}
	return nil
}

// elementwise broadcasts all inputs from first on.
func (c *call) elementwise(elem tensor.DType) (*value, error) {
	var shapes [][]expr
	for i, v := range c.ins {
		if v == nil {
			continue
		}
		d, ok := c.dims(i)
		if !ok {
			return someTensor(elem), nil
		}
		shapes = append(shapes, d)
	}
	dims, err := c.broadcast(shapes...)
	if err != nil {
		return nil, err
	}
	return tensorOf(elem, dims...), nil
}

// spread lays the elements of v out over a shape that v broadcasts to; nil where
// they are not known.
func (v *value) spread(to tensor.Shape) []expr {
	data := v.ints()
	shape, ok := v.shape()
	n, err := to.Elements()
	if data == nil || !ok || err != nil || n > maxData || len(shape) > len(to) {
		return nil
	}
	out := make([]expr, n)
	lead := len(to) - len(shape)
	at := make([]int64, len(to))
	for i := range out {
		flat := int64(0)
		for k, d := range shape {
			p := at[lead+k]
			if d == 1 {
				p = 0
			} else if p >= d {
				return nil
			}
			flat = flat*d + p
		}
		out[i] = data[flat]
		next(at, to)
	}
	return out
}

// each computes the elements of out from those of the inputs, where all are
// known.
func (c *call) each(out *value, f func(x []expr) (expr, bool)) {
	shape, ok := out.shape()
	if !ok {
		return
	}
	cols := make([][]expr, len(c.ins))
	for i, v := range c.ins {
		if v == nil {
			return
		}
		if cols[i] = v.spread(shape); cols[i] == nil {
			return
		}
	}
	if len(cols) == 0 {
		return
	}
	out.data = make([]expr, len(cols[0]))
	row := make([]expr, len(cols))
	for i := range out.data {
		for k := range cols {
			row[k] = cols[k][i]
		}
		out.data[i] = c.orInt(f(row))
	}
}

// map1 computes the elements of out, of the same shape, from those of input 0.
func (c *call) map1(out *value, f func(e expr) (expr, bool)) {
	data := c.in(0).ints()
	if data == nil {
		return
	}
	out.data = make([]expr, len(data))
	for i, e := range data {
		out.data[i] = c.orInt(f(e))
	}
}

// remap computes the elements of out from those of v: from gives, for the place
// at in out, the place in v. It does nothing where either is not known or large.
func (c *call) remap(v, out *value, from func(at, src []int64)) {
	shape, ok := v.shape()
	to, known := out.shape()
	if !ok || !known {
		return
	}
	n, err := to.Elements()
	data := v.ints()
	if data == nil || err != nil || n > maxData {
		return
	}
	out.data = make([]expr, n)
	at, src := make([]int64, len(to)), make([]int64, len(shape))
	for i := range out.data {
		from(at, src)
		flat := int64(0)
		for k, d := range shape {
			if src[k] < 0 || src[k] >= d {
				out.data = nil
				return
			}
			flat = flat*d + src[k]
		}
		out.data[i] = data[flat]
		next(at, to)
	}
}

// next steps to the next place of a shape, in row-major order.
func next(at []int64, shape tensor.Shape) {
	for k := len(shape) - 1; k >= 0; k-- {
		if at[k]++; at[k] < shape[k] {
			return
		}
		at[k] = 0
	}
}
