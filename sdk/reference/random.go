package reference

import (
	"errors"
	"math"
	"math/rand/v2"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Random operators draw from a PCG generator, element by element. With attribute
// seed a node draws the same numbers in every run, without it what Options.Seed
// says; a node that is evaluated again in the same run, as in a loop, goes on with
// its generator. Other runtimes draw other numbers: ONNX fixes none.
var randomOps = []spec{
	{"RandomUniform", since(1, 22), "-> output T:float", "dtype int=1, high float=1, low float=0, seed float, shape ints!", randomOf(uniform)},
	{"RandomNormal", since(1, 22), "-> output T:float", "dtype int=1, mean float=0, scale float=1, seed float, shape ints!", randomOf(normal)},
	{"RandomUniformLike", since(1, 22), "input any -> output T:float", "dtype int, high float=1, low float=0, seed float", randomLike(uniform)},
	{"RandomNormalLike", since(1, 22), "input any -> output T:float", "dtype int, mean float=0, scale float=1, seed float", randomLike(normal)},
	{"Bernoulli", since(15, 22), "input float -> output T:num|bool", "dtype int, seed float", bernoulli},
	{"Multinomial", since(7, 22), "input float -> output T:idx", "dtype int=6, sample_size int=1, seed float", multinomial},
}

// generators are what the random nodes of a run draw from.
type generators struct {
	seed  uint64 // of the run; 0: drawn at random
	drawn uint64 // nodes without a seed of their own so far
	nodes map[*graph.Node]*rand.Rand
}

// of is the generator of a node, which begins with the seed if it has one.
func (g *generators) of(n *graph.Node, seed *uint64) *rand.Rand {
	if r := g.nodes[n]; r != nil {
		return r
	}
	if g.nodes == nil {
		g.nodes = map[*graph.Node]*rand.Rand{}
	}
	if g.seed == 0 {
		g.seed = rand.Uint64()
	}
	var r *rand.Rand
	if seed != nil {
		r = rand.New(rand.NewPCG(*seed, 0))
	} else {
		g.drawn++
		r = rand.New(rand.NewPCG(g.seed, g.drawn))
	}
	g.nodes[n] = r
	return r
}

// generator is that of the call's node.
func (c *call) generator() *rand.Rand {
	var seed *uint64
	if _, ok := c.op.attrs["seed"]; ok && c.hasAttr("seed") {
		a := c.attr("seed")
		v := uint64(math.Float32bits(a.Float))
		if a.Kind == graph.AttrInt {
			v = uint64(a.Int)
		}
		seed = &v
	}
	return c.run.random.of(c.node, seed)
}

// draw fills a tensor with numbers one after another.
func (c *call) draw(t tensor.Tensor, next func(i int) float64) error {
	for i := range t.Len() {
		if i%(1<<16) == 0 {
			if err := c.ctx.Err(); err != nil {
				return err
			}
		}
		storeNumber(t, i, next(i))
	}
	return nil
}

// uniform draws from [low,high). Rounding to the output's type may give high.
func uniform(c *call, t tensor.Tensor) error {
	r, low, high := c.generator(), c.float("low"), c.float("high")
	return c.draw(t, func(int) float64 { return low + r.Float64()*(high-low) })
}

func normal(c *call, t tensor.Tensor) error {
	r, mean, scale := c.generator(), c.float("mean"), c.float("scale")
	return c.draw(t, func(int) float64 { return mean + scale*r.NormFloat64() })
}

func randomOf(fill func(*call, tensor.Tensor) error) func(*call) error {
	return func(c *call) error { return c.randomOutput(fill, tensor.Float32, c.ints("shape")) }
}

func randomLike(fill func(*call, tensor.Tensor) error) func(*call) error {
	return func(c *call) error { return c.randomOutput(fill, c.tensor(0).DType, c.tensor(0).Shape) }
}

func (c *call) randomOutput(fill func(*call, tensor.Tensor) error, def tensor.DType, s tensor.Shape) error {
	d, err := c.dtypeAttr("dtype", def)
	if err != nil {
		return err
	}
	out, err := c.make(0, d, s)
	if err != nil {
		return err
	}
	return fill(c, out)
}

func bernoulli(c *call) error {
	return c.randomOutput(func(c *call, out tensor.Tensor) error {
		r, x := c.generator(), c.tensor(0)
		for i := range x.Len() {
			if p := floatAt(x, i); !(p >= 0 && p <= 1) {
				return badInput(0, "holds %g, which is no probability", p)
			}
		}
		return c.draw(out, func(i int) float64 {
			if r.Float64() < floatAt(x, i) {
				return 1
			}
			return 0
		})
	}, c.tensor(0).DType, c.tensor(0).Shape)
}

// multinomial draws classes with probabilities in proportion to the exponential of
// the input.
func multinomial(c *call) error {
	x, n := c.tensor(0), c.int("sample_size")
	if len(x.Shape) != 2 || x.Shape[1] == 0 {
		return badInput(0, "has shape %v, wants [batch,classes]", x.Shape)
	}
	if n < 0 {
		return errors.New("attribute sample_size is negative")
	}
	d, err := c.dtypeAttr("dtype", tensor.Int32)
	if err != nil {
		return err
	}
	out, err := c.make(0, d, tensor.Shape{x.Shape[0], n})
	if err != nil {
		return err
	}
	p, err := c.floats(int(x.Shape[1]))
	if err != nil {
		return err
	}
	r := c.generator()
	for row := range int(x.Shape[0]) {
		loadFloat(p, x, row*len(p))
		softmax(p)
		for k := 1; k < len(p); k++ {
			p[k] += p[k-1]
		}
		if sum := p[len(p)-1]; !(sum > 0.5) {
			return badInput(0, "row %d has no probabilities", row)
		}
		line := out
		line.Shape = tensor.Shape{n}
		line.Data = out.Data[row*int(n)*d.Bits()/8:][:int(n)*d.Bits()/8]
		err := c.draw(line, func(int) float64 {
			// The first class whose sum is beyond the draw.
			u := r.Float64() * p[len(p)-1]
			lo, hi := 0, len(p)-1
			for lo < hi {
				if mid := (lo + hi) / 2; p[mid] > u {
					hi = mid
				} else {
					lo = mid + 1
				}
			}
			return float64(lo)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropped gives out as x with elements dropped at random, the others scaled up,
// and mask, where it is used, as which are kept.
func (c *call) dropped(x tensor.Tensor, ratio float64, mask tensor.Tensor) error {
	if !(ratio >= 0 && ratio < 1) {
		return badInput(1, "is %g, wants a number from 0 to less than 1", ratio)
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	r := c.generator()
	return c.draw(out, func(i int) float64 {
		if r.Float64() < ratio {
			return 0
		}
		if mask.DType != tensor.Undefined {
			storeNumber(mask, i, 1)
		}
		return floatAt(x, i) / (1 - ratio)
	})
}
