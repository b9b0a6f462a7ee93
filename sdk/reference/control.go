package reference

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

var controlOps = []spec{
	{"If", since(1, 11, 13, 16, 19, 21, 23, 24, 25), "cond bool -> outputs... value", "then_branch graph!, else_branch graph!", ifOp},
	{"Loop", since(1, 11, 13, 16, 19, 21, 23, 24, 25), "M? i64, cond? bool, v_initial... value -> v_final_and_scan_outputs... value", "body graph!", loop},
	{"Scan", since(8), "sequence_lens? i64, initial_state_and_scan_inputs... any -> final_state_and_scan_outputs... any",
		"body graph!, directions ints, num_scan_inputs int!", scanBatches},
	{"Scan", since(9, 11, 16, 19, 21, 23, 24, 25), "initial_state_and_scan_inputs... any -> final_state_and_scan_outputs... any",
		"body graph!, num_scan_inputs int!, scan_input_axes ints, scan_input_directions ints, scan_output_axes ints, scan_output_directions ints", scan},

	{"SequenceEmpty", since(11), "-> output seq", "dtype int", func(c *call) error {
		c.giveValue(0, sequenceValue(nil))
		return nil
	}},
	{"SequenceConstruct", since(11), "inputs... any -> output_sequence seq", "", func(c *call) error {
		c.giveValue(0, sequenceValue(c.in))
		return nil
	}},
	{"SequenceAt", since(11), "input_sequence seq, position idx -> tensor value", "", sequenceAt},
	{"SequenceLength", since(11), "input_sequence seq -> length i64", "", sequenceLength},
	{"SequenceInsert", since(11), "input_sequence seq, tensor value, position? idx -> output_sequence seq", "", sequenceInsert},
	{"SequenceErase", since(11), "input_sequence seq, position? idx -> output_sequence seq", "", sequenceErase},
	{"SequenceMap", since(17), "input_sequence seq, additional_inputs... value -> out_sequence... seq", "body graph!", sequenceMap},
	{"ConcatFromSequence", since(11), "input_sequence seq -> concat_result any", "axis int!, new_axis int=0", concatFromSequence},
	{"SplitToSequence", since(11, 24), "input any, split? idx -> output_sequence seq", "axis int=0, keepdims int=1", splitToSequence},

	{"Optional", since(15, 28), "input? value -> output opt", "type type", func(c *call) error {
		v := graph.Datum{Kind: graph.KindOptional}
		if c.has(0) {
			v.Optional = &c.in[0]
		}
		c.giveValue(0, v)
		return nil
	}},
	{"OptionalHasElement", since(15, 18, 28), "input? value -> output bool", "", optionalHasElement},
	{"OptionalGetElement", since(15, 18, 28), "input value -> output value", "", optionalGetElement},
}

func sequenceValue(v []graph.Datum) graph.Datum {
	return graph.Datum{Kind: graph.KindSequence, Sequence: v}
}

// condition is a bool tensor of one element.
func condition(v graph.Datum) (bool, error) {
	if v.Kind != graph.KindTensor || v.Tensor.DType != tensor.Bool || v.Tensor.Len() != 1 {
		return false, fmt.Errorf("the condition is %s, wants one bool", describe(v))
	}
	return v.Tensor.Data[0] != 0, nil
}

func boolValue(b bool) graph.Datum {
	t := tensor.Tensor{DType: tensor.Bool, Shape: tensor.Shape{}, Data: []byte{0}}
	if b {
		t.Data[0] = 1
	}
	return tensorValue(t)
}

func ifOp(c *call) error {
	yes, err := condition(c.in[0])
	if err != nil {
		return badInput(0, "%v", err)
	}
	branch := "else_branch"
	if yes {
		branch = "then_branch"
	}
	values, err := c.subgraph(branch, nil)
	if err != nil {
		return err
	}
	c.hold(values...)
	if len(values) < len(c.out) {
		return fmt.Errorf("%s gives %d values, the node has %d outputs", branch, len(values), len(c.out))
	}
	copy(c.out, values)
	return nil
}

// DefaultMaxTrips is how many rounds the loops of a run make at most, where no
// other bound is given: more than any model needs, few enough to end.
const DefaultMaxTrips = int64(1) << 22

// trips counts the rounds of the loops of a run.
type trips struct{ limit, made int64 }

func newTrips(limit int64) trips {
	if limit <= 0 {
		limit = DefaultMaxTrips
	}
	return trips{limit: limit}
}

// trip counts one round of a loop, and ends it where the context or the limit does.
func (c *call) trip() error {
	t := &c.run.trips
	if t.made++; t.made > t.limit {
		return &graph.LimitError{What: "rounds of loops in one run", Limit: t.limit, Found: t.made}
	}
	return c.ctx.Err()
}

// loop follows the operator's pseudo code: up to M times, while the condition
// holds.
func loop(c *call) error {
	most := int64(math.MaxInt64)
	if c.has(0) {
		var err error
		if most, err = c.intOf(0); err != nil {
			return err
		}
	}
	going := true
	if c.has(1) {
		var err error
		if going, err = condition(c.in[1]); err != nil {
			return badInput(1, "%v", err)
		}
	}
	carried := append([]graph.Datum(nil), c.in[min(2, len(c.in)):]...)
	for _, v := range carried {
		c.mem.retain(v)
	}
	n := len(carried)
	outputs := len(c.step.subs["body"].outputs)
	scans := outputs - 1 - n
	if scans < 0 || len(c.out) > n+scans {
		return fmt.Errorf("the body gives %d values for %d carried ones and %d outputs", outputs, n, len(c.out))
	}
	stacks := make([][]tensor.Tensor, scans)
	for i := int64(0); i < most && going; i++ {
		if err := c.trip(); err != nil {
			return err
		}
		in := append([]graph.Datum{tensorValue(tensor.Ints(tensor.Shape{}, i)), boolValue(going)}, carried...)
		got, err := c.subgraph("body", in)
		if err != nil {
			return err
		}
		if going, err = condition(got[0]); err != nil {
			return err
		}
		c.drop(got[0])
		c.drop(carried...)
		carried = got[1 : 1+n]
		for k, v := range got[1+n:] {
			if v.Kind != graph.KindTensor {
				return fmt.Errorf("scan output %d of the body is %s, wants a tensor", k, describe(v))
			}
			stacks[k] = append(stacks[k], v.Tensor)
		}
	}
	c.hold(carried...)
	copy(c.out, carried)
	body := c.node.Attr("body").Graph
	for k, ts := range stacks {
		if !c.wants(n + k) {
			continue
		}
		all, err := c.stack(ts, body.Outputs[1+n+k].Type)
		if err != nil {
			return fmt.Errorf("scan output %d: %w", k, err)
		}
		c.give(n+k, all)
		for _, t := range ts {
			c.drop(tensorValue(t))
		}
	}
	return nil
}

// stack joins tensors along a new first axis; t says what they would be where
// there are none.
func (c *call) stack(ts []tensor.Tensor, t *graph.Type) (tensor.Tensor, error) {
	if len(ts) == 0 {
		s := tensor.Shape{0}
		if t == nil || t.Elem == tensor.Undefined {
			return tensor.Tensor{}, errors.New("nothing was computed, and the body declares no type")
		}
		for _, d := range t.Dims {
			s = append(s, max(d.Size, 0))
		}
		return c.new(t.Elem, s)
	}
	parts := make([]tensor.Tensor, len(ts))
	for i, t := range ts {
		if t.DType != ts[0].DType {
			return tensor.Tensor{}, fmt.Errorf("types %s and %s do not stack", ts[0].DType, t.DType)
		}
		parts[i] = reshaped(t, append(tensor.Shape{1}, t.Shape...))
	}
	return c.concat(parts, 0)
}

func scan(c *call) error {
	n, states, err := c.scanned(0)
	if err != nil {
		return err
	}
	scans := len(c.step.subs["body"].outputs) - states
	inAxes, err := c.scanList("scan_input_axes", n)
	if err != nil {
		return err
	}
	inBack, err := c.scanList("scan_input_directions", n)
	if err != nil {
		return err
	}
	outAxes, err := c.scanList("scan_output_axes", scans)
	if err != nil {
		return err
	}
	outBack, err := c.scanList("scan_output_directions", scans)
	if err != nil {
		return err
	}
	axes := make([]int, n)
	length := int64(-1)
	for i := range n {
		s := c.tensor(states + i).Shape
		if axes[i], err = axisOf(inAxes[i], len(s)); err != nil {
			return badInput(states+i, "%v", err)
		}
		if d := s[axes[i]]; length >= 0 && d != length {
			return badInput(states+i, "has %d steps, another has %d", d, length)
		}
		length = s[axes[i]]
	}
	carried, stacks, err := c.scanSteps(c.in[:states], c.tensors(states), axes, inBack, length)
	if err != nil {
		return err
	}
	c.hold(carried...)
	copy(c.out, carried)
	body := c.node.Attr("body").Graph
	for k, ts := range stacks {
		if outBack[k] != 0 {
			reverse(ts)
		}
		all, err := c.stack(ts, body.Outputs[states+k].Type)
		if err != nil {
			return fmt.Errorf("scan output %d: %w", k, err)
		}
		for _, t := range ts {
			c.drop(tensorValue(t))
		}
		// From the first axis to the one that is asked for.
		axis, err := axisOf(outAxes[k], len(all.Shape))
		if err != nil {
			return err
		}
		if axis != 0 {
			perm := make([]int, 0, len(all.Shape))
			for i := range all.Shape[1:] {
				perm = append(perm, i+1)
			}
			perm = append(perm[:axis], append([]int{0}, perm[axis:]...)...)
			if all, err = c.transposed(all, perm); err != nil {
				return err
			}
		}
		c.give(states+k, all)
	}
	return nil
}

// scanned are the numbers of scanned inputs and of states of a Scan whose states
// begin at input first.
func (c *call) scanned(first int) (n, states int, err error) {
	given := len(c.in) - first
	sub := c.step.subs["body"]
	// Compared before they are made ints, which may be short.
	if v := c.int("num_scan_inputs"); v >= 1 && v <= int64(given) {
		n = int(v)
	}
	states = given - n
	if n == 0 || len(sub.inputs) != given || len(sub.outputs) < states || len(c.out) > len(sub.outputs) {
		return 0, 0, fmt.Errorf("%d inputs, %d of them scanned, do not fit a body of %d inputs and %d outputs",
			given, c.int("num_scan_inputs"), len(sub.inputs), len(sub.outputs))
	}
	return n, states, nil
}

// scanSteps runs the body of a Scan for each entry of an axis of the inputs xs,
// from the last one on where back says so. The final states and what the body gives
// at each step come back retained.
func (c *call) scanSteps(states []graph.Datum, xs []tensor.Tensor, axes []int, back []int64, length int64) (carried []graph.Datum, stacks [][]tensor.Tensor, err error) {
	carried = append([]graph.Datum(nil), states...)
	for _, v := range carried {
		c.mem.retain(v)
	}
	stacks = make([][]tensor.Tensor, len(c.step.subs["body"].outputs)-len(states))
	for t := range length {
		if err := c.trip(); err != nil {
			return nil, nil, err
		}
		in := append([]graph.Datum(nil), carried...)
		for i, x := range xs {
			at := t
			if back[i] != 0 {
				at = length - 1 - t
			}
			part, err := c.part(x, axes[i], at, 1)
			if err != nil {
				return nil, nil, err
			}
			s := append(x.Shape[:axes[i]:axes[i]].Clone(), x.Shape[axes[i]+1:]...)
			in = append(in, tensorValue(reshaped(part, s)))
			c.mem.retain(in[len(in)-1])
		}
		got, err := c.subgraph("body", in)
		if err != nil {
			return nil, nil, err
		}
		c.drop(in...)
		carried = got[:len(states)]
		for k, v := range got[len(states):] {
			if v.Kind != graph.KindTensor {
				return nil, nil, fmt.Errorf("scan output %d of the body is %s, wants a tensor", k, describe(v))
			}
			stacks[k] = append(stacks[k], v.Tensor)
		}
	}
	return carried, stacks, nil
}

// scanBatches is Scan of version 8: axis 0 of all values is a batch, whose members
// are scanned one by one along axis 1, each as far as sequence_lens says. What lies
// beyond is zero.
func scanBatches(c *call) error {
	n, states, err := c.scanned(1)
	if err != nil {
		return err
	}
	back, err := c.scanList("directions", n)
	if err != nil {
		return err
	}
	values := c.tensors(1)
	longest := values[states].Shape
	if len(longest) < 2 {
		return badInput(1+states, "has shape %v, wants [batch,steps,...]", longest)
	}
	batch, steps := longest[0], longest[1]
	for i, t := range values {
		if len(t.Shape) < 1 || t.Shape[0] != batch || i >= states && (len(t.Shape) < 2 || t.Shape[1] != steps) {
			return badInput(1+i, "has shape %v, wants a batch of %d with %d steps", t.Shape, batch, steps)
		}
	}
	lens := make([]int64, batch)
	for i := range lens {
		lens[i] = steps
	}
	if c.has(0) {
		if lens, err = c.intsOf(0); err != nil {
			return err
		}
		if int64(len(lens)) != batch {
			return badInput(0, "has %d entries for a batch of %d", len(lens), batch)
		}
	}
	results := make([][]tensor.Tensor, len(c.step.subs["body"].outputs))
	for b, length := range lens {
		if length < 0 || length > steps {
			return badInput(0, "holds %d, there are %d steps", length, steps)
		}
		members := make([]tensor.Tensor, len(values))
		for i, t := range values {
			part, err := c.part(t, 0, int64(b), 1)
			if err != nil {
				return err
			}
			members[i] = reshaped(part, t.Shape[1:])
			c.mem.retain(tensorValue(members[i]))
		}
		var first []graph.Datum
		for _, t := range members[:states] {
			first = append(first, tensorValue(t))
		}
		xs := slices.Clone(members[states:])
		for i, x := range xs {
			if length < steps {
				if xs[i], err = c.part(x, 0, 0, length); err != nil {
					return err
				}
			}
		}
		carried, stacks, err := c.scanSteps(first, xs, make([]int, n), back, length)
		if err != nil {
			return err
		}
		for _, t := range members {
			c.drop(tensorValue(t))
		}
		c.hold(carried...)
		for k, v := range carried {
			if v.Kind != graph.KindTensor {
				return fmt.Errorf("state %d of the body is %s, wants a tensor", k, describe(v))
			}
			results[k] = append(results[k], v.Tensor)
		}
		for k, ts := range stacks {
			one, err := c.stack(ts, c.node.Attr("body").Graph.Outputs[states+k].Type)
			if err != nil {
				return fmt.Errorf("scan output %d: %w", k, err)
			}
			for _, t := range ts {
				c.drop(tensorValue(t))
			}
			if one.Shape[0] < steps {
				s := one.Shape.Clone()
				s[0] = steps
				padded, err := c.new(one.DType, s)
				if err != nil {
					return err
				}
				move(padded, 0, one, 0, one.Len())
				one = padded
			}
			results[states+k] = append(results[states+k], one)
		}
	}
	for k := range c.out {
		all, err := c.stack(results[k], c.node.Attr("body").Graph.Outputs[k].Type)
		if err != nil {
			return fmt.Errorf("output %d: %w", k, err)
		}
		c.give(k, all)
	}
	return nil
}

// scanList is an attribute with one number for each scanned value, zeros where it
// is left out.
func (c *call) scanList(name string, n int) ([]int64, error) {
	if !c.hasAttr(name) {
		return make([]int64, n), nil
	}
	if v := c.ints(name); len(v) == n {
		return v, nil
	}
	return nil, fmt.Errorf("attribute %s has %d numbers, wants %d", name, len(c.ints(name)), n)
}

func sequenceAt(c *call) error {
	seq := c.in[0].Sequence
	at, err := c.intOf(1)
	if err != nil {
		return err
	}
	if at, err = wrapIndex(at, int64(len(seq)), 1); err != nil {
		return err
	}
	c.giveValue(0, seq[at])
	return nil
}

func sequenceLength(c *call) error {
	c.give(0, tensor.Ints(tensor.Shape{}, int64(len(c.in[0].Sequence))))
	return nil
}

func sequenceInsert(c *call) error {
	seq := c.in[0].Sequence
	at := int64(len(seq))
	if c.has(2) {
		v, err := c.intOf(2)
		if err != nil {
			return err
		}
		if v != at {
			if at, err = wrapIndex(v, at, 2); err != nil {
				return err
			}
		}
	}
	if len(seq) > 0 && (seq[0].Kind != c.in[1].Kind || seq[0].Tensor.DType != c.in[1].Tensor.DType) {
		return badInput(1, "is %s, the sequence holds %s", describe(c.in[1]), describe(seq[0]))
	}
	out := append(append(append([]graph.Datum(nil), seq[:at]...), c.in[1]), seq[at:]...)
	c.giveValue(0, sequenceValue(out))
	return nil
}

func sequenceErase(c *call) error {
	seq := c.in[0].Sequence
	at := int64(-1)
	var err error
	if c.has(1) {
		if at, err = c.intOf(1); err != nil {
			return err
		}
	}
	if at, err = wrapIndex(at, int64(len(seq)), 1); err != nil {
		return err
	}
	c.giveValue(0, sequenceValue(append(append([]graph.Datum(nil), seq[:at]...), seq[at+1:]...)))
	return nil
}

// sequenceMap runs the body for each entry of the sequences; what is no sequence
// is the same each time.
func sequenceMap(c *call) error {
	sub := c.step.subs["body"]
	n := len(c.in[0].Sequence)
	if len(c.out) > len(sub.outputs) {
		return fmt.Errorf("the body gives %d values for %d outputs", len(sub.outputs), len(c.out))
	}
	outs := make([][]graph.Datum, len(sub.outputs))
	for i := range n {
		if err := c.trip(); err != nil {
			return err
		}
		in := make([]graph.Datum, len(c.in))
		for k, v := range c.in {
			in[k] = v
			if v.Kind == graph.KindSequence {
				if len(v.Sequence) != n {
					return badInput(k, "has %d entries, the first sequence has %d", len(v.Sequence), n)
				}
				in[k] = v.Sequence[i]
			}
		}
		got, err := c.subgraph("body", in)
		if err != nil {
			return err
		}
		c.hold(got...)
		for k, v := range got {
			outs[k] = append(outs[k], v)
		}
	}
	for k := range c.out {
		c.giveValue(k, sequenceValue(outs[k]))
	}
	return nil
}

func concatFromSequence(c *call) error {
	var ts []tensor.Tensor
	for i, v := range c.in[0].Sequence {
		if v.Kind != graph.KindTensor || v.Tensor.DType != c.in[0].Sequence[0].Tensor.DType {
			return badInput(0, "holds %s at %d", describe(v), i)
		}
		ts = append(ts, v.Tensor)
	}
	if len(ts) == 0 {
		return badInput(0, "is empty")
	}
	rank := len(ts[0].Shape)
	fresh := c.flag("new_axis")
	if fresh {
		rank++
	}
	axis, err := axisOf(c.int("axis"), rank)
	if err != nil {
		return err
	}
	if fresh {
		for i, t := range ts {
			if len(t.Shape) != rank-1 {
				return badInput(0, "holds shapes %v and %v", ts[0].Shape, t.Shape)
			}
			ts[i] = reshaped(t, append(append(t.Shape[:axis:axis].Clone(), 1), t.Shape[axis:]...))
		}
	}
	out, err := c.concat(ts, axis)
	var in *inputError
	if errors.As(err, &in) {
		return badInput(0, "entry %d %w", in.input, in.err)
	}
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

func splitToSequence(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	d := x.Shape[axis]
	var sizes []int64
	if c.has(1) {
		if sizes, err = c.intsOf(1); err != nil {
			return err
		}
	}
	if len(c.tensor(1).Shape) == 0 {
		// One size for all; the last may be smaller.
		part := int64(1)
		if c.has(1) {
			part = sizes[0]
		}
		if part < 1 {
			return badInput(1, "is %d", part)
		}
		sizes = nil
		for rest := d; rest > 0; rest -= part {
			sizes = append(sizes, min(part, rest))
		}
	}
	keep := c.has(1) || c.flag("keepdims")
	var seq []graph.Datum
	at := int64(0)
	for _, n := range sizes {
		if n < 0 || n > d-at {
			return badInput(1, "is %v, axis %d has %d entries", sizes, axis, d)
		}
		part, err := c.part(x, axis, at, n)
		if err != nil {
			return err
		}
		if !keep {
			part = reshaped(part, append(x.Shape[:axis:axis].Clone(), x.Shape[axis+1:]...))
		}
		seq = append(seq, tensorValue(part))
		at += n
	}
	if at != d {
		return badInput(1, "is %v, axis %d has %d entries", sizes, axis, d)
	}
	c.giveValue(0, sequenceValue(seq))
	return nil
}

func optionalHasElement(c *call) error {
	has := c.has(0)
	if has && c.in[0].Kind == graph.KindOptional {
		has = c.in[0].Optional != nil
	}
	v := boolValue(has)
	c.giveValue(0, v)
	return nil
}

func optionalGetElement(c *call) error {
	v := c.in[0]
	if v.Kind == graph.KindOptional {
		if v.Optional == nil {
			return badInput(0, "is empty")
		}
		v = *v.Optional
	}
	c.giveValue(0, v)
	return nil
}
