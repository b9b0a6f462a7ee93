package graph

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, stringConcat, 2, "StringConcat")
	addRules(DomainONNX, stringNormalizer, 1, "StringNormalizer")
	addRules(DomainONNX, stringSplit, 1, "StringSplit")
	addRules(DomainONNX, regexFullMatch, 1, "RegexFullMatch")
	addRules(DomainONNX, tfIdfVectorizer, 1, "TfIdfVectorizer")
}

func stringConcat(c *call) error {
	v, err := c.elementwise(tensor.String)
	if err != nil {
		return err
	}
	c.out(0, v)
	return nil
}

// stringNormalizer leaves words out of [C] or [1,C].
func stringNormalizer(c *call) error {
	d, ok := c.dims(0)
	switch {
	case !ok:
		c.out(0, someTensor(tensor.String))
	case len(d) == 1:
		c.out(0, tensorOf(tensor.String, c.f.newDim()))
	case len(d) == 2:
		if err := must("the first of two dimensions", d[0], num(1)); err != nil {
			return err
		}
		c.out(0, tensorOf(tensor.String, num(1), c.f.newDim()))
	default:
		return fmt.Errorf("input 0 has shape %s, wants [C] or [1,C]", dimsText(d))
	}
	return nil
}

// stringSplit puts as many parts as the string of most parts has into a new last
// dimension.
func stringSplit(c *call) error {
	c.out(1, like(c.in(0), tensor.Int64))
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(tensor.String))
		return nil
	}
	c.out(0, tensorOf(tensor.String, append(d[:len(d):len(d)], c.f.newDim())...))
	return nil
}

func regexFullMatch(c *call) error {
	c.out(0, like(c.in(0), tensor.Bool))
	return nil
}

// tfIdfVectorizer has a place for each of the indexes.
func tfIdfVectorizer(c *call) error {
	width := int64(0)
	for _, i := range c.ints("ngram_indexes") {
		if i < 0 {
			return fmt.Errorf("ngram_indexes holds %d", i)
		}
		width = max(width, i+1)
	}
	d, ok := c.dims(0)
	switch {
	case !ok:
		c.out(0, someTensor(tensor.Float32))
	case len(d) < 2:
		c.out(0, tensorOf(tensor.Float32, num(width)))
	case len(d) == 2:
		c.out(0, tensorOf(tensor.Float32, d[0], num(width)))
	default:
		return fmt.Errorf("input 0 has shape %s, wants [C] or [N,C]", dimsText(d))
	}
	return nil
}
