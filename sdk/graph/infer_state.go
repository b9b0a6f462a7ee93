package graph

import "fmt"

// Operators that carry a state from call to call, and losses.
func init() {
	addRules(DomainONNX, linearAttention, 3, "LinearAttention")
	addRules(DomainONNX, causalConv, 2, "CausalConvWithState")
	addRules(DomainONNX, classLoss, 2, "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
}

// linearAttention takes q [B,T,Hq*D], k [B,T,Hkv*D], v [B,T,Hkv*Dv] and gives
// [B,T,Hq*Dv] and the state [B,Hkv,D,Dv].
func linearAttention(c *call) error {
	for i := range 3 {
		if err := c.rank(i, 3); err != nil {
			return err
		}
	}
	out, state := c.f.newDims(3), c.f.newDims(4)
	hq, hkv := c.int("q_num_heads", 0), c.int("kv_num_heads", 0)
	q, qok := c.dims(0)
	if qok {
		copy(out, q[:2])
		state[0] = q[0]
		if _, err := c.heads(q, hq); err != nil {
			return err
		}
	}
	if k, ok := c.dims(1); ok {
		k, err := c.heads(k, hkv)
		if err != nil {
			return err
		}
		state[1], state[2] = k[1], k[3]
	}
	if v, ok := c.dims(2); ok {
		v, err := c.heads(v, hkv)
		if err != nil {
			return err
		}
		state[3] = v[3]
		if hq > 0 {
			out[2] = c.or(v[3].mul(num(hq)))
		}
	}
	stateElem := c.elem(0)
	if c.in(3) != nil {
		stateElem = c.elem(3)
	}
	c.out(0, tensorOf(c.elem(0), out...))
	c.out(1, tensorOf(stateElem, state...))
	return nil
}

// causalConv takes [B,C,T] and weights [C,1,K] and gives [B,C,T] and the last
// K-1 inputs.
func causalConv(c *call) error {
	for i := range 2 {
		if err := c.rank(i, 3); err != nil {
			return err
		}
	}
	state := c.f.newDims(3)
	d, dok := c.dims(0)
	if dok {
		copy(state, d[:2])
	}
	if w, ok := c.dims(1); ok {
		if dok {
			if err := must("the number of channels", d[1], w[0]); err != nil {
				return err
			}
		}
		if w[2].is(0) {
			return fmt.Errorf("its kernel is empty")
		}
		state[2] = c.or(w[2].add(num(-1)))
	}
	c.out(0, like(c.in(0), c.elem(0)))
	c.out(1, tensorOf(c.elem(0), state...))
	return nil
}

// classLoss gives a number, or without a reduction one for each target, and the
// logarithms of the softmax.
func classLoss(c *call) error {
	if c.str("reduction", "mean") == "none" {
		c.out(0, like(c.in(1), c.elem(0)))
	} else {
		c.out(0, tensorOf(c.elem(0)))
	}
	c.out(1, like(c.in(0), c.elem(0)))
	return nil
}
