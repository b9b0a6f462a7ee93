package reference

import (
	"github.com/accelhq/accel/sdk/tensor"
)

const lossAttrs = "ignore_index int, reduction string=mean|none|sum"

var lossOps = []spec{
	{"NegativeLogLikelihoodLoss", since(12, 13, 22), "input T:float, target idx, weight? T -> loss T", lossAttrs, classLoss(false)},
	{"SoftmaxCrossEntropyLoss", since(12, 13), "scores T:float, labels idx, weights? T -> output T, log_prob? T", lossAttrs, classLoss(true)},
}

// classLoss is the weighted negative of the score of each target's class: of the
// input itself, which holds logarithms, or of its logarithmic softmax over the
// classes. The mean is over the sum of the weights; targets of ignore_index weigh
// nothing. The mean of nothing is NaN.
func classLoss(soft bool) func(*call) error {
	return func(c *call) error {
		x, target := c.tensor(0), c.tensor(1)
		if len(x.Shape) < 2 {
			return badInput(0, "has shape %v, wants a batch of classes", x.Shape)
		}
		if want := append(tensor.Shape{x.Shape[0]}, x.Shape[2:]...); !target.Shape.Equal(want) {
			return badInput(1, "has shape %v, wants %v", target.Shape, want)
		}
		classes, inner := int(x.Shape[1]), elements(x.Shape[2:])
		var weights []float64
		var err error
		if c.has(2) {
			if weights, err = c.perChannel(2, x.Shape[1]); err != nil {
				return err
			}
		}
		var logs tensor.Tensor
		if soft && c.wants(1) {
			if logs, err = c.make(1, x.DType, x.Shape); err != nil {
				return err
			}
		}
		losses, err := c.floats(target.Len())
		if err != nil {
			return err
		}
		weighs, err := c.floats(target.Len())
		if err != nil {
			return err
		}
		if err := c.reserve(int64(classes) * 8); err != nil {
			return err
		}
		ignore := c.attr("ignore_index")
		err = c.parallel(len(losses), max(1, 1<<13/max(1, classes)), func(lo, hi int) error {
			v := make([]float64, classes)
			for i := lo; i < hi; i++ {
				first := i/inner*classes*inner + i%inner
				for k := range v {
					loadFloat(v[k:k+1], x, first+k*inner)
				}
				if soft {
					logSoftmax(v)
				}
				if logs.DType != tensor.Undefined {
					for k := range v {
						storeFloat(logs, first+k*inner, v[k:k+1])
					}
				}
				class := intAt(target, i)
				if ignore != nil && class == ignore.Int {
					continue
				}
				if class < 0 || class >= int64(classes) {
					return badInput(1, "holds class %d of %d", class, classes)
				}
				weighs[i] = 1
				if weights != nil {
					weighs[i] = weights[class]
				}
				losses[i] = -v[class] * weighs[i]
			}
			return nil
		})
		if err != nil {
			return err
		}
		if c.str("reduction") == "none" {
			out, err := c.make(0, x.DType, target.Shape)
			if err == nil {
				storeFloat(out, 0, losses)
			}
			return err
		}
		out, err := c.make(0, x.DType, tensor.Shape{})
		if err != nil {
			return err
		}
		sum := sumOf(losses)
		if c.str("reduction") == "mean" {
			sum /= sumOf(weighs)
		}
		putFloat(out, 0, sum)
		return nil
	}
}
