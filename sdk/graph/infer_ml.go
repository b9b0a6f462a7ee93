package graph

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainML, arrayFeatureExtractor, 2, "ArrayFeatureExtractor")
	addRules(DomainML, binarizer, 1, "Binarizer")
	addRules(DomainML, labelEncoder, 1, "LabelEncoder")
	addRules(DomainML, treeEnsemble, 1, "TreeEnsemble")
	addRules(DomainPreview, flexAttention, 3, "FlexAttention")
	addRules(DomainTraining, gradient, 1, "Gradient")
	addRules(DomainTraining, optimizer(1), 2, "Adagrad", "Momentum")
	addRules(DomainTraining, optimizer(2), 2, "Adam")
	addRules(DomainONNX, determinant, 1, "Det")
	addRules(DomainONNX, multinomial, 1, "Multinomial")
	addRules(DomainONNX, imageDecoder, 1, "ImageDecoder")
}

// arrayFeatureExtractor takes entries of the last axis; a list becomes one row.
func arrayFeatureExtractor(c *call) error {
	d, ok := c.dims(0)
	index, iok := c.dims(1)
	if !ok || !iok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) == 0 {
		return fmt.Errorf("input 0 is a scalar")
	}
	dims := append(d[:len(d)-1:len(d)-1], c.product(index))
	if len(d) == 1 {
		dims = append([]expr{num(1)}, dims...)
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func binarizer(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	return nil
}

// labelEncoder has the type of the values that it maps to.
func labelEncoder(c *call) error {
	elem := tensor.Undefined
	switch {
	case c.attr("values_strings") != nil:
		elem = tensor.String
	case c.attr("values_int64s") != nil:
		elem = tensor.Int64
	case c.attr("values_floats") != nil:
		elem = tensor.Float32
	case c.attr("classes_strings") != nil: // version 1, both ways
		elem = tensor.String
		if c.elem(0) == tensor.String {
			elem = tensor.Int64
		}
	default:
		if a := c.attr("values_tensor"); a != nil && a.Tensor != nil {
			elem = a.Tensor.Tensor.DType
		}
	}
	c.out(0, like(c.in(0), elem))
	return nil
}

func treeEnsemble(c *call) error {
	if err := c.rank(0, 2); err != nil {
		return err
	}
	rows := c.f.newDim()
	if d, ok := c.dims(0); ok {
		rows = d[0]
	}
	targets := c.int("n_targets", 0)
	if targets < 0 {
		return fmt.Errorf("n_targets is %d", targets)
	}
	c.out(0, tensorOf(c.elem(0), rows, num(targets)))
	return nil
}

// flexAttention takes q, k and v as [B,H,S,D].
func flexAttention(c *call) error {
	var d [3][]expr
	for i := range d {
		if err := c.rank(i, 4); err != nil {
			return err
		}
		var ok bool
		if d[i], ok = c.dims(i); !ok {
			d[i] = c.f.newDims(4)
		}
	}
	q, k, v := d[0], d[1], d[2]
	for _, pair := range []struct {
		what string
		a, b expr
	}{
		{"the batch of q and k", q[0], k[0]}, {"the batch of k and v", k[0], v[0]}, {"the heads of k and v", k[1], v[1]},
		{"the length of k and v", k[2], v[2]}, {"the head size of q and k", q[3], k[3]},
	} {
		if err := must(pair.what, pair.a, pair.b); err != nil {
			return err
		}
	}
	c.out(0, tensorOf(c.elem(0), q[0], q[1], q[2], v[3]))
	return nil
}

// optimizer gives the new variables and their states. From input 2 on stand the
// variables, their gradients and so many states of each.
func optimizer(states int) rule {
	return func(c *call) error {
		kinds := 2 + states
		n := (len(c.ins) - 2) / kinds
		if n*kinds != len(c.ins)-2 {
			return fmt.Errorf("%d inputs are not %d for each variable", len(c.ins)-2, kinds)
		}
		for k := range kinds - 1 {
			for i := range n {
				from := 2 + i
				if k > 0 {
					from += (k + 1) * n
				}
				c.out(k*n+i, like(c.in(2+i), c.elem(from)))
			}
		}
		return nil
	}
}

// gradient gives derivatives, each of the type of what it is taken by.
func gradient(c *call) error {
	for i := range c.outs {
		c.out(i, like(c.in(i), c.elem(i)))
	}
	return nil
}

func determinant(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) < 2 {
		return fmt.Errorf("input 0 has shape %s, wants matrices", dimsText(d))
	}
	if err := must("the size of a square matrix", d[len(d)-2], d[len(d)-1]); err != nil {
		return err
	}
	c.out(0, tensorOf(c.elem(0), d[:len(d)-2]...))
	return nil
}

func multinomial(c *call) error {
	if err := c.rank(0, 2); err != nil {
		return err
	}
	rows := c.f.newDim()
	if d, ok := c.dims(0); ok {
		rows = d[0]
	}
	n := c.int("sample_size", 1)
	if n < 0 {
		return fmt.Errorf("sample_size is %d", n)
	}
	c.out(0, tensorOf(tensor.DType(c.int("dtype", int64(tensor.Int32))), rows, num(n)))
	return nil
}

// imageDecoder finds the size of the picture in the data.
func imageDecoder(c *call) error {
	if err := c.rank(0, 1); err != nil {
		return err
	}
	channels := num(3)
	if c.str("pixel_format", "RGB") == "Grayscale" {
		channels = num(1)
	}
	c.out(0, tensorOf(tensor.Uint8, c.f.newDim(), c.f.newDim(), channels))
	return nil
}
