package graph

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

// Rules for the contract's own operators (docs/architecture.md, "The graph
// contract") and for those of com.microsoft that it takes.
func init() {
	addRules(DomainMicrosoft, matMulNBits, 3, "MatMulNBits")
	addRules(DomainAccel, matMulNBits, 3, "MatMulBlocks")
	addRules(DomainAccel, pagedAttention, 1, "PagedAttention")
	addRules(DomainAccel, pagedWrite, 5, "PagedWrite")
	addRules(DomainMicrosoft, skipNormalization, 3, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
}

// matMulNBits multiplies [..., K] by quantised weights of [N, K].
func matMulNBits(c *call) error {
	k, n := c.int("K", 0), c.int("N", 0)
	if k <= 0 || n <= 0 {
		return fmt.Errorf("attribute K is %d and N %d, want sizes", k, n)
	}
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) == 0 {
		return fmt.Errorf("its input is a scalar")
	}
	if err := must("K", num(k), d[len(d)-1]); err != nil {
		return err
	}
	dims := append([]expr(nil), d[:len(d)-1]...)
	c.out(0, tensorOf(c.elem(0), append(dims, num(n))...))
	return nil
}

// Inputs of PagedAttention, version 1.
const (
	pagedQ = iota
	pagedK
	pagedV
	pagedKPages
	pagedVPages
	_ // slots
	pagedTables
)

// pagedAttention gives o [T,Hq,Dv] and the pools.
func pagedAttention(c *call) error {
	for _, i := range []int{pagedQ, pagedK, pagedV} {
		if err := c.rank(i, 3); err != nil {
			return err
		}
	}
	for _, i := range []int{pagedKPages, pagedVPages} {
		if err := c.rank(i, 4); err != nil {
			return err
		}
	}
	o := c.f.newDims(3)
	if q, ok := c.dims(pagedQ); ok {
		copy(o, q[:2])
	}
	if v, ok := c.dims(pagedV); ok {
		o[2] = v[2]
	} else if pages, ok := c.dims(pagedVPages); ok {
		o[2] = pages[3]
		if c.int("v_bits", 0) == 4 {
			o[2] = c.or(o[2].mul(num(2))) // two to a byte
		}
	}
	q, qok := c.dims(pagedQ)
	k, kok := c.dims(pagedK)
	if qok && kok {
		if err := must("the head size of q and k", q[2], k[2]); err != nil {
			return err
		}
		if err := must("the number of tokens of q and k", q[0], k[0]); err != nil {
			return err
		}
	}
	c.out(0, tensorOf(c.elem(pagedQ), o...))
	c.out(1, like(c.in(pagedKPages), c.elem(pagedKPages)))
	c.out(2, like(c.in(pagedVPages), c.elem(pagedVPages)))
	return nil
}

// pagedWrite takes k, v, slots, k_pages, v_pages and gives the pools.
func pagedWrite(c *call) error {
	c.out(0, like(c.in(3), c.elem(3)))
	c.out(1, like(c.in(4), c.elem(4)))
	return nil
}

// skipNormalization gives the normalized sum, mean, inverse deviation, the sum.
func skipNormalization(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	c.out(1, someTensor(tensor.Float32))
	c.out(2, someTensor(tensor.Float32))
	c.out(3, like(c.in(0), c.elem(0)))
	return nil
}
