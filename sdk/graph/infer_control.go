package graph

import (
	"errors"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, ifOf, 1, "If")
	addRules(DomainONNX, loopOf, 0, "Loop")
	addRules(DomainONNX, scanOf, 0, "Scan")
	addRules(DomainONNX, sequenceConstruct, 1, "SequenceConstruct")
	addRules(DomainONNX, sequenceEmpty, 0, "SequenceEmpty")
	addRules(DomainONNX, sequenceChange, 1, "SequenceInsert", "SequenceErase")
	addRules(DomainONNX, sequenceAt, 2, "SequenceAt")
	addRules(DomainONNX, optionalGet, 1, "OptionalGetElement")
	addRules(DomainONNX, sequenceLength, 1, "SequenceLength")
	addRules(DomainONNX, concatFromSequence, 1, "ConcatFromSequence")
	addRules(DomainONNX, splitToSequence, 1, "SplitToSequence")
	addRules(DomainONNX, optionalOf, 0, "Optional")
	addRules(DomainONNX, optionalHas, 0, "OptionalHasElement")
	addRules(DomainONNX, sequenceMap, 1, "SequenceMap")
}

// body infers a graph inside the node and returns its outputs.
func (c *call) body(name string, args []*value) ([]*value, error) {
	a := c.attr(name)
	if a == nil || a.Graph == nil {
		return nil, fmt.Errorf("it has no graph %q", name)
	}
	s, err := c.f.graph(a.Graph, c.s, args)
	if err != nil {
		return nil, err
	}
	out := make([]*value, len(a.Graph.Outputs))
	for i, v := range a.Graph.Outputs {
		out[i] = s.get(v.Name)
	}
	return out, nil
}

func ifOf(c *call) error {
	// A branch that is never taken may contradict what it would be given.
	if data, ok := c.in(0).numbers(); ok && len(data) == 1 {
		name := "else_branch"
		if data[0] != 0 {
			name = "then_branch"
		}
		outs, err := c.body(name, nil)
		if err != nil {
			return err
		}
		copy(c.outs, outs)
		return nil
	}
	then, err := c.body("then_branch", nil)
	els, err2 := c.body("else_branch", nil)
	switch {
	case contradicts(err) && err2 == nil:
		then = els
	case contradicts(err2) && err == nil:
		els = then
	case err != nil || err2 != nil:
		return errors.Join(err, err2)
	}
	if len(then) != len(els) || len(then) < len(c.outs) {
		return fmt.Errorf("its branches give %d and %d values for %d outputs", len(then), len(els), len(c.outs))
	}
	for i := range c.outs {
		c.out(i, c.f.join(then[i], els[i]))
	}
	return nil
}

// contradicts reports whether a graph can't run on what it is given: a branch of
// which that holds is never taken.
func contradicts(err error) bool {
	var e *InferError
	return errors.As(err, &e)
}

// untilStable infers a loop's body. Carried values may change their shape from
// one round to the next: what changes is widened until nothing does.
func (c *call) untilStable(carried []*value, run func([]*value) ([]*value, error)) ([]*value, error) {
	write := c.f.write
	c.f.write = false // until it is stable, what is found of the body is a guess
	defer func() { c.f.write = write }()
	state := make([]*value, len(carried))
	for i, v := range carried {
		state[i] = like(v, tensor.Undefined)
		if v != nil && v.kind == KindTensor {
			state[i] = like(v, v.elem)
		} else if v != nil {
			state[i] = v
		}
	}
	for round := 0; ; round++ {
		outs, err := run(state)
		if err != nil {
			return nil, err
		}
		stable := true
		for i := range state {
			if i >= len(outs) {
				return nil, fmt.Errorf("its body gives %d values, fewer than the %d it carries", len(outs), len(state))
			}
			if s := state[i]; s != nil && (s.kind == KindSequence || s.kind == KindOptional) {
				// What it holds may change its shape as well.
				if o := outs[i]; round == 0 && (o == nil || o.kind != s.kind || !sameShape(s.of, o.of)) {
					stable = false
					state[i] = c.f.loose(s)
				}
				continue
			}
			wide := c.f.join(state[i], outs[i])
			if round > 0 && wide.ranked {
				wide = someTensor(wide.elem) // widening dimension by dimension may take for ever
			}
			if !sameShape(state[i], outs[i]) && state[i].ranked {
				stable = false
				state[i] = wide
			}
		}
		if stable && write {
			c.f.write = true
			return run(state)
		}
		if stable {
			return outs, nil
		}
	}
}

// loose is a container of which only the element type is known.
func (f *inferrer) loose(v *value) *value {
	if v == nil || v.kind == 0 {
		return &value{}
	}
	if v.kind == KindTensor {
		return someTensor(v.elem)
	}
	return &value{kind: v.kind, elem: v.elem, typ: v.typ, of: f.loose(v.of)}
}

func sameShape(a, b *value) bool {
	if a == nil || b == nil || a.kind != KindTensor || b.kind != KindTensor {
		return true // nothing to widen
	}
	return a.ranked == b.ranked && slices.EqualFunc(a.dims, b.dims, expr.eq)
}

func loopOf(c *call) error {
	var carried []*value
	for i := 2; i < len(c.ins); i++ {
		carried = append(carried, c.in(i))
	}
	n := len(carried)
	outs, err := c.untilStable(carried, func(state []*value) ([]*value, error) {
		args := append([]*value{tensorOf(tensor.Int64), tensorOf(tensor.Bool)}, state...)
		outs, err := c.body("body", args)
		if err != nil {
			return nil, err
		}
		if len(outs) == 0 {
			return nil, fmt.Errorf("its body gives no condition")
		}
		return outs[1:], nil
	})
	if err != nil {
		return err
	}
	trips := c.f.newDim()
	for i := range c.outs {
		switch {
		case i >= len(outs):
			return fmt.Errorf("its body gives %d values for %d outputs", len(outs), len(c.outs))
		case i < n:
			// No round at all gives what came in.
			c.out(i, c.f.join(carried[i], outs[i]))
		default:
			c.out(i, stacked(outs[i], trips, 0))
		}
	}
	return nil
}

// stacked puts a dimension into a value that is collected round by round.
func stacked(v *value, n expr, at int) *value {
	if v == nil || v.kind != KindTensor {
		return nil
	}
	if !v.ranked || at > len(v.dims) {
		return someTensor(v.elem)
	}
	return tensorOf(v.elem, slices.Insert(slices.Clone(v.dims), at, n)...)
}

func scanOf(c *call) error {
	if c.opset < 9 {
		return nil
	}
	scans := int(c.int("num_scan_inputs", 0))
	n := len(c.ins) - scans
	if scans < 1 || n < 0 {
		return fmt.Errorf("num_scan_inputs is %d for %d inputs", scans, len(c.ins))
	}
	along := func(attr string, i int, rank int) (int, error) {
		list := c.ints(attr)
		if i >= len(list) {
			return 0, nil
		}
		return axis(list[i], rank)
	}
	trips := c.f.newDim()
	slicesOf := make([]*value, scans)
	for i := range slicesOf {
		v := c.in(n + i)
		d, ok := c.dims(n + i)
		if !ok {
			slicesOf[i] = someTensor(c.elem(n + i))
			continue
		}
		at, err := along("scan_input_axes", i, len(d))
		if err != nil || len(d) == 0 {
			return fmt.Errorf("scan input %d has shape %s: %w", i, dimsText(d), err)
		}
		if err := must("the number of rounds", trips, d[at]); err != nil {
			return err
		}
		trips = either(trips, d[at])
		slicesOf[i] = tensorOf(v.elem, slices.Delete(slices.Clone(d), at, at+1)...)
	}
	outs, err := c.untilStable(c.ins[:n], func(state []*value) ([]*value, error) {
		return c.body("body", slices.Concat(state, slicesOf))
	})
	if err != nil {
		return err
	}
	for i := range c.outs {
		switch {
		case i >= len(outs):
			return fmt.Errorf("its body gives %d values for %d outputs", len(outs), len(c.outs))
		case i < n:
			c.out(i, c.f.join(c.in(i), outs[i]))
		default:
			at := 0
			if v := outs[i]; v != nil && v.ranked {
				if at, err = along("scan_output_axes", i-n, len(v.dims)+1); err != nil {
					return err
				}
			}
			c.out(i, stacked(outs[i], trips, at))
		}
	}
	return nil
}

func sequenceConstruct(c *call) error {
	of := c.in(0)
	for _, v := range c.ins {
		of = c.f.join(of, v)
	}
	c.out(0, &value{kind: KindSequence, of: of})
	return nil
}

func sequenceEmpty(c *call) error {
	c.out(0, &value{kind: KindSequence, of: someTensor(c.dtype(tensor.Float32))})
	return nil
}

func sequenceChange(c *call) error {
	v := c.in(0)
	if v == nil || v.kind != KindSequence || v.of == nil {
		return nil
	}
	of := v.of
	if c.n.OpType == "SequenceInsert" {
		of = c.f.join(of, c.in(1))
		if of.kind == 0 {
			of = someTensor(v.of.elem)
		}
	}
	c.out(0, &value{kind: KindSequence, of: of})
	return nil
}

func sequenceAt(c *call) error {
	if v := c.in(0); v != nil && v.kind == KindSequence && v.of != nil {
		c.out(0, c.element(v.of))
	}
	return nil
}

// element is one of a sequence of v: what is not known of its sizes may be
// different for each.
func (c *call) element(v *value) *value {
	if v == nil || v.kind != KindTensor || !v.ranked {
		return v
	}
	out := like(v, v.elem)
	out.dims = slices.Clone(v.dims)
	for i, d := range out.dims {
		if d.fresh() {
			out.dims[i] = c.f.newDim()
		}
	}
	return out
}

// optionalGet passes on what is no optional, from opset 18 on.
func optionalGet(c *call) error {
	if v := c.in(0); v != nil && v.kind == KindOptional {
		c.out(0, v.of)
	} else {
		c.out(0, v)
	}
	return nil
}

func sequenceLength(c *call) error {
	c.out(0, tensorOf(tensor.Int64))
	return nil
}

func concatFromSequence(c *call) error {
	v := c.in(0)
	if v == nil || v.of == nil || v.of.kind != KindTensor {
		return nil
	}
	if !v.of.ranked {
		c.out(0, someTensor(v.of.elem))
		return nil
	}
	rank := len(v.of.dims)
	stack := c.int("new_axis", 0) != 0
	if stack {
		rank++
	}
	at, err := axis(c.int("axis", 0), rank)
	if err != nil {
		return err
	}
	dims := slices.Clone(v.of.dims)
	if stack {
		dims = slices.Insert(dims, at, c.f.newDim())
	} else {
		dims[at] = c.f.newDim()
	}
	c.out(0, tensorOf(v.of.elem, dims...))
	return nil
}

func splitToSequence(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, &value{kind: KindSequence, of: someTensor(c.elem(0))})
		return nil
	}
	at, err := axis(c.int("axis", 0), len(d))
	if err != nil {
		return err
	}
	dims := slices.Clone(d)
	if c.in(1) == nil && c.int("keepdims", 1) == 0 {
		dims = slices.Delete(dims, at, at+1)
	} else {
		dims[at] = c.f.newDim()
	}
	c.out(0, &value{kind: KindSequence, of: tensorOf(c.elem(0), dims...)})
	return nil
}

func optionalOf(c *call) error {
	if v := c.in(0); v != nil {
		c.out(0, &value{kind: KindOptional, of: v})
	} else if a := c.attr("type"); a != nil && a.Type != nil {
		c.out(0, &value{kind: KindOptional, of: c.f.fromType(a.Type)})
	}
	return nil
}

func optionalHas(c *call) error {
	c.out(0, tensorOf(tensor.Bool))
	return nil
}

// sequenceMap runs its body on the elements of sequences; what is no sequence is
// the same for all.
func sequenceMap(c *call) error {
	args := make([]*value, len(c.ins))
	for i, v := range c.ins {
		if args[i] = v; v != nil && v.kind == KindSequence {
			args[i] = c.element(v.of)
		}
	}
	outs, err := c.body("body", args)
	if err != nil {
		return err
	}
	for i, v := range outs {
		if v != nil && v.kind != 0 {
			c.out(i, &value{kind: KindSequence, of: c.element(v)})
		}
	}
	return nil
}
