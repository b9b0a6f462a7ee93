package reference

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// call is one use of an operator: what its implementation sees. Implementations
// read inputs and attributes, ask for outputs, and fill them.
type call struct {
	ctx  context.Context
	op   *Operator
	node *graph.Node
	in   []graph.Datum // Kind 0 where left out
	out  []graph.Datum // one for each output of the node
	mem  *meter

	wide    widening
	scratch int64 // bytes reserved for the time of the call

	// For operators with graphs inside.
	run   *run
	frame *frame
	step  *step
	held  []graph.Datum // see hold
}

// eval checks the inputs, computes, and checks that every output was given.
// Errors are *NodeError, *MemoryError or the context's.
func (c *call) eval() (err error) {
	defer func() {
		c.mem.held -= c.scratch
		if r := recover(); r != nil {
			err = &InternalError{Panic: r, Stack: debug.Stack()}
		}
		err = c.explain(err)
	}()
	bound := map[string]tensor.DType{}
	for i, v := range c.in {
		if v.Kind == 0 {
			continue
		}
		p, _ := c.op.input(i)
		if why := p.accepts(v.Kind, c.declared(i), bound); why != "" {
			return badInput(i, "%s", why)
		}
		if err := checkEmpty(v.Tensor.Shape); err != nil {
			return badInput(i, "%w", err)
		}
	}
	for i, p := range c.op.inputs {
		if !p.optional && !p.variadic && !c.has(i) {
			return badInput(i, "is left out")
		}
	}
	if err := c.op.eval(c); err != nil {
		return err
	}
	for i, v := range c.out {
		if v.Kind == 0 && c.wants(i) {
			return fmt.Errorf("output %d (%s) is not computed", i, c.node.Outputs[i])
		}
	}
	return nil
}

// explain names node, operator and input in an error.
func (c *call) explain(err error) error {
	var nested *NodeError
	switch {
	case err == nil, errors.As(err, &nested), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	e := &NodeError{Node: nodeName(c.node), Domain: c.node.Domain, OpType: c.node.OpType, Input: -1, Err: err}
	var in *inputError
	if errors.As(err, &in) {
		e.Input = in.input
		if p, ok := c.op.input(in.input); ok {
			e.Name = p.name
		}
	}
	return e
}

func (c *call) has(i int) bool { return i < len(c.in) && c.in[i].Kind != 0 }

// tensor is input i, the zero tensor where it is left out.
func (c *call) tensor(i int) tensor.Tensor {
	if i >= len(c.in) {
		return tensor.Tensor{}
	}
	return c.in[i].Tensor
}

// tensors are the inputs from i on.
func (c *call) tensors(i int) []tensor.Tensor {
	var ts []tensor.Tensor
	for ; i < len(c.in); i++ {
		ts = append(ts, c.in[i].Tensor)
	}
	return ts
}

// wants reports whether output i is used.
func (c *call) wants(i int) bool { return i < len(c.node.Outputs) && c.node.Outputs[i] != "" }

func (c *call) attr(name string) *graph.Attr {
	s, ok := c.op.attrs[name]
	if !ok {
		panic("attribute " + name + " is not in the operator's table")
	}
	if a := c.node.Attr(name); a != nil {
		return a
	}
	return s.def
}

func (c *call) hasAttr(name string) bool { return c.attr(name) != nil }

// int, float, str and ints are the zero value for attributes that have neither a
// value nor a default.
func (c *call) int(name string) int64 {
	if a := c.attr(name); a != nil {
		return a.Int
	}
	return 0
}

func (c *call) flag(name string) bool { return c.int(name) != 0 }

func (c *call) float(name string) float64 {
	if a := c.attr(name); a != nil {
		return float64(a.Float)
	}
	return 0
}

func (c *call) str(name string) string {
	if a := c.attr(name); a != nil {
		return a.String
	}
	return ""
}

func (c *call) ints(name string) []int64 {
	if a := c.attr(name); a != nil {
		return a.Ints
	}
	return nil
}

// new makes a zeroed tensor that counts as long as a value refers to it.
func (c *call) new(d tensor.DType, s tensor.Shape) (tensor.Tensor, error) { return c.mem.tensor(d, s) }

// give sets output i. Nothing happens where the node has no such output.
func (c *call) give(i int, t tensor.Tensor) {
	c.giveValue(i, graph.Datum{Kind: graph.KindTensor, Tensor: t})
}

func (c *call) giveValue(i int, v graph.Datum) {
	if i < len(c.out) {
		c.out[i] = v
	}
}

// make makes a zeroed tensor and gives it as output i.
func (c *call) make(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	t, err := c.new(c.stored(i, d), s)
	if err == nil {
		c.give(i, t)
	}
	return t, err
}

// floats makes scratch space for the time of the call.
func (c *call) floats(n int) ([]float64, error) {
	if err := c.reserve(int64(n) * 8); err != nil {
		return nil, err
	}
	return make([]float64, n), nil
}

// reserve counts scratch space for the time of the call.
func (c *call) reserve(bytes int64) error {
	if err := c.mem.reserve(bytes); err != nil {
		return err
	}
	c.scratch += bytes
	return nil
}

// unreserve takes a reservation back before the call ends.
func (c *call) unreserve(bytes int64) {
	c.mem.held -= bytes
	c.scratch -= bytes
}

// widened is a whole floating-point (or other numeric) tensor as float64.
func (c *call) widened(t tensor.Tensor) ([]float64, error) {
	v, err := c.floats(t.Len())
	if err != nil {
		return nil, err
	}
	return v, c.parallel(len(v), 1<<16, func(lo, hi int) error {
		loadFloat(v[lo:hi], t, lo)
		return nil
	})
}

// intsOf is an integer input as a list; a scalar is a list of one.
func (c *call) intsOf(i int) ([]int64, error) {
	t := c.tensor(i)
	if len(t.Shape) > 1 {
		return nil, badInput(i, "has shape %v, wants a list", t.Shape)
	}
	v := make([]int64, t.Len())
	loadInt(v, t, 0)
	return v, nil
}

// intOf is an integer input of one element.
func (c *call) intOf(i int) (int64, error) {
	t := c.tensor(i)
	if t.Len() != 1 {
		return 0, badInput(i, "has shape %v, wants one element", t.Shape)
	}
	return intAt(t, 0), nil
}

// floatOf is a numeric input of one element.
func (c *call) floatOf(i int) (float64, error) {
	t := c.tensor(i)
	if t.Len() != 1 {
		return 0, badInput(i, "has shape %v, wants one element", t.Shape)
	}
	return floatAt(t, 0), nil
}

// parallel calls f for ranges of at most grain that make up [0,n), from several
// goroutines, and checks the context between them. Ranges do not depend on the
// number of goroutines; results must not depend on the order. grain is at least 1.
func (c *call) parallel(n, grain int, f func(lo, hi int) error) error {
	grain = max(grain, 1)
	parts := n / grain
	if n%grain != 0 {
		parts++
	}
	one := func(i int) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		return f(i*grain, min((i+1)*grain, n))
	}
	workers := min(parts, runtime.GOMAXPROCS(0))
	if workers <= 1 {
		for i := range parts {
			if err := one(i); err != nil {
				return err
			}
		}
		return nil
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() {
				if r := recover(); r != nil {
					errs[w] = &InternalError{Panic: r, Stack: debug.Stack()}
				}
			}()
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= parts {
					return
				}
				errs[w] = one(i)
			}
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
