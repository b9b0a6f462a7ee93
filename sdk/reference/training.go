package reference

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var trainingOps = []spec{
	{"Adagrad", since(1), "R f32|f64, T i64, inputs... f32|f64 -> outputs... f32|f64",
		"decay_factor float=0, epsilon float=1e-6, norm_coefficient float=0", adagrad},
	{"Adam", since(1), "R f32|f64, T i64, inputs... f32|f64 -> outputs... f32|f64",
		"alpha float=0.9, beta float=0.999, epsilon float=1e-6, norm_coefficient float=0, norm_coefficient_post float=0", adam},
	{"Momentum", since(1), "R f32|f64, T i64, inputs... f32|f64 -> outputs... f32|f64",
		"alpha float!, beta float!, mode string!=standard|nesterov, norm_coefficient float!", momentum},
}

// optimize updates tensors element by element. The inputs from 2 on are the
// variables X, their gradients and so many states of each, all of one kind together;
// the outputs are the variables and the states. update is given the rate R, the
// count of updates T, an element of X, its regularized gradient and its states,
// which it changes, and returns the new X.
func (c *call) optimize(states int, update func(rate, count, x, g float64, s []float64) float64) error {
	rate, err := c.floatOf(0)
	if err != nil {
		return err
	}
	n, err := c.intOf(1)
	if err != nil {
		return err
	}
	kinds := 2 + states
	vars := (len(c.in) - 2) / kinds
	if vars*kinds != len(c.in)-2 || len(c.out) > vars*(kinds-1) {
		return fmt.Errorf("%d inputs and %d outputs are not %d of each variable, with %d of each out", len(c.in), len(c.out), kinds, kinds-1)
	}
	norm := c.float("norm_coefficient")
	for v := range vars {
		x := c.tensor(2 + v)
		ins := make([]tensor.Tensor, kinds)
		outs := make([]tensor.Tensor, kinds-1)
		for k := range ins {
			at := 2 + k*vars + v
			if ins[k] = c.tensor(at); !ins[k].Shape.Equal(x.Shape) {
				return badInput(at, "has shape %v, its variable has %v", ins[k].Shape, x.Shape)
			}
		}
		for k := range outs {
			from := ins[0]
			if k > 0 {
				from = ins[k+1]
			}
			if outs[k], err = c.make(k*vars+v, from.DType, x.Shape); err != nil {
				return err
			}
		}
		err := c.parallel(x.Len(), 1<<13, func(lo, hi int) error {
			s := make([]float64, states)
			for i := lo; i < hi; i++ {
				for k := range s {
					s[k] = floatAt(ins[2+k], i)
				}
				now := floatAt(x, i)
				putFloat(outs[0], i, update(rate, float64(n), now, norm*now+floatAt(ins[1], i), s))
				for k := range s {
					putFloat(outs[1+k], i, s[k])
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func adagrad(c *call) error {
	decay, eps := c.float("decay_factor"), c.float("epsilon")
	return c.optimize(1, func(rate, count, x, g float64, s []float64) float64 {
		s[0] += g * g
		return x - rate/(1+count*decay)*g/(math.Sqrt(s[0])+eps)
	})
}

func adam(c *call) error {
	alpha, beta, eps, post := c.float("alpha"), c.float("beta"), c.float("epsilon"), c.float("norm_coefficient_post")
	return c.optimize(2, func(rate, count, x, g float64, s []float64) float64 {
		s[0] = alpha*s[0] + (1-alpha)*g
		s[1] = beta*s[1] + (1-beta)*g*g
		if count > 0 {
			rate *= math.Sqrt(1-math.Pow(beta, count)) / (1 - math.Pow(alpha, count))
		}
		return (1 - post) * (x - rate*s[0]/(math.Sqrt(s[1])+eps))
	})
}

func momentum(c *call) error {
	alpha, beta, nesterov := c.float("alpha"), c.float("beta"), c.str("mode") == "nesterov"
	return c.optimize(1, func(rate, count, x, g float64, s []float64) float64 {
		b := beta
		if count <= 0 {
			b = 1
		}
		s[0] = alpha*s[0] + b*g
		if nesterov {
			return x - rate*(g+alpha*s[0])
		}
		return x - rate*s[0]
	})
}
