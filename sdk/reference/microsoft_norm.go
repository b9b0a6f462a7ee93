package reference

import (
	"errors"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/tensor"
)

var microsoftNormOps = []spec{
	{"SimplifiedLayerNormalization", since(1), "X T:float, scale V:float -> Y V, inv_std_var? U:f32|f64",
		"axis int=-1, epsilon float=1e-5, stash_type int=1", simplifiedLayerNormalization},
	{"SkipLayerNormalization", since(1), "input T:float, skip T, gamma T, beta? T, bias? T -> output T, mean? f32, inv_std_var? f32, input_skip_bias_sum? T",
		"epsilon float=1e-12", skipNormalization(false)},
	{"SkipSimplifiedLayerNormalization", since(1), "input T:float, skip T, gamma T, bias? T -> output T, mean? f32, inv_std_var? f32, input_skip_bias_sum? T",
		"epsilon float=1e-12", skipNormalization(true)},
	{"EmbedLayerNormalization", since(1), "input_ids i32, segment_ids? i32, word_embedding T:f32|f16, position_embedding T, segment_embedding? T, " +
		"gamma T, beta T, mask? i32, position_ids? i32 -> output T, mask_index? i32, embedding_sum? T", "epsilon float=1e-12, mask_index_type int", embedLayerNormalization},
}

// simplifiedLayerNormalization is RMSNormalization under the name that it had in
// ONNX Runtime, which also gives the inverse of the root.
func simplifiedLayerNormalization(c *call) error {
	x := c.tensor(0)
	stash, axis, scale, stat, err := c.normalized()
	if err != nil {
		return err
	}
	out, err := c.make(0, c.tensor(1).DType, x.Shape)
	if err != nil {
		return err
	}
	inverses, err := c.make(1, stash, stat)
	if err != nil {
		return err
	}
	eps := c.float("epsilon")
	return c.eachRow(out, x, axis, func(row int, v []float64) {
		inv := 1 / math.Sqrt(sumSquare(v)/float64(len(v))+eps)
		putFloat(inverses, row, inv)
		for i := range v {
			v[i] *= inv * scale.at(row, i)
		}
	})
}

// skipNormalization normalises the sum of input, skip and bias over the last
// dimension: by its mean and variance, or, simplified, by its mean square.
//
// The schema wants three dimensions, the kernel takes two as well. Its mean and
// inverse deviation are for training; the kernel leaves them empty, so they are
// computed here as the schema says.
func skipNormalization(simplified bool) func(*call) error {
	return func(c *call) error {
		x, skip := c.tensor(0), c.tensor(1)
		rank := len(x.Shape)
		if rank != 2 && rank != 3 {
			return badInput(0, "has shape %v, wants [B,S,H] or [T,H]", x.Shape)
		}
		// A batch of one, or none, goes with every sequence.
		if !skip.Shape.Equal(x.Shape) && !(rank == 3 && (skip.Shape.Equal(x.Shape[1:]) || skip.Shape.Equal(tensor.Shape{1, x.Shape[1], x.Shape[2]}))) {
			return badInput(1, "has shape %v, the input has %v", skip.Shape, x.Shape)
		}
		hidden := x.Shape[rank-1]
		gamma, err := c.perChannel(2, hidden)
		if err != nil {
			return err
		}
		at := 3
		var beta, bias []float64
		if !simplified {
			if c.has(3) {
				if beta, err = c.perChannel(3, hidden); err != nil {
					return err
				}
			}
			at = 4
		}
		if c.has(at) {
			if bias, err = c.perChannel(at, hidden); err != nil {
				return err
			}
		}
		out, err := c.make(0, x.DType, x.Shape)
		if err != nil {
			return err
		}
		sum, err := c.make(3, x.DType, x.Shape)
		if err != nil {
			return err
		}
		stat := x.Shape.Clone()
		stat[rank-1] = 1
		means, err := c.make(1, tensor.Float32, stat)
		if err != nil {
			return err
		}
		inverses, err := c.make(2, tensor.Float32, stat)
		if err != nil || x.Len() == 0 {
			return err
		}
		n, eps := int(hidden), c.float("epsilon")
		skips := skip.Len() / n
		if err := c.reserve(int64(n) * 16 * int64(runtime.GOMAXPROCS(0))); err != nil {
			return err
		}
		return c.parallel(x.Len()/n, max(1, 1<<12/n), func(lo, hi int) error {
			v, s := make([]float64, n), make([]float64, n)
			for row := lo; row < hi; row++ {
				loadFloat(v, x, row*n)
				loadFloat(s, skip, row%skips*n)
				for i := range v {
					v[i] += s[i]
					if bias != nil {
						v[i] += bias[i]
					}
				}
				storeFloat(sum, row*n, v)
				mean, variance := moments(v)
				if simplified {
					mean, variance = 0, sumSquare(v)/float64(n)
				}
				inv := 1 / math.Sqrt(variance+eps)
				putFloat(means, row, mean)
				putFloat(inverses, row, inv)
				for i := range v {
					v[i] = (v[i] - mean) * inv * gamma[i]
					if beta != nil {
						v[i] += beta[i]
					}
				}
				storeFloat(out, row*n, v)
			}
			return nil
		})
	}
}

// embedLayerNormalization looks tokens, positions and segments up, adds and
// normalises. mask_index is how many entries of each row of the mask are 1, zero
// where there is no mask.
func embedLayerNormalization(c *call) error {
	ids := c.tensor(0)
	if len(ids.Shape) != 2 {
		return badInput(0, "has shape %v, wants [B,S]", ids.Shape)
	}
	batch, length := ids.Shape[0], ids.Shape[1]
	if c.has(1) != c.has(4) {
		return errors.New("segment_ids and segment_embedding must be given together")
	}
	gamma := c.tensor(5)
	if len(gamma.Shape) != 1 || gamma.Shape[0] == 0 {
		return badInput(5, "has shape %v, wants [H]", gamma.Shape)
	}
	hidden := gamma.Shape[0]
	for _, i := range []int{2, 3, 4} {
		if t := c.tensor(i); c.has(i) && (len(t.Shape) != 2 || t.Shape[1] != hidden) {
			return badInput(i, "has shape %v, wants [_,%d]", t.Shape, hidden)
		}
	}
	for _, i := range []int{1, 7} {
		if c.has(i) && !c.tensor(i).Shape.Equal(ids.Shape) {
			return badInput(i, "has shape %v, input_ids has %v", c.tensor(i).Shape, ids.Shape)
		}
	}
	scale, err := c.perChannel(5, hidden)
	if err != nil {
		return err
	}
	shift, err := c.perChannel(6, hidden)
	if err != nil {
		return err
	}
	rows := func(i int, d int64) ([]int64, error) {
		v, err := c.indices(i, d)
		for k := range v {
			if intAt(c.tensor(i), k) < 0 {
				return nil, badInput(i, "holds %d", intAt(c.tensor(i), k))
			}
		}
		return v, err
	}
	words, err := rows(0, c.tensor(2).Shape[0])
	if err != nil {
		return err
	}
	var segments, positions []int64
	if c.has(1) {
		if segments, err = rows(1, c.tensor(4).Shape[0]); err != nil {
			return err
		}
	}
	if c.has(8) {
		if s := c.tensor(8).Shape; !s.Equal(ids.Shape) && !s.Equal(tensor.Shape{1, length}) {
			return badInput(8, "has shape %v, wants %v or [1,%d]", s, ids.Shape, length)
		}
		if positions, err = rows(8, c.tensor(3).Shape[0]); err != nil {
			return err
		}
	} else if length > c.tensor(3).Shape[0] {
		return badInput(3, "has %d positions, the sequence %d", c.tensor(3).Shape[0], length)
	}
	shape := tensor.Shape{batch, length, hidden}
	out, err := c.make(0, gamma.DType, shape)
	if err != nil {
		return err
	}
	index, err := c.make(1, tensor.Int32, tensor.Shape{batch})
	if err != nil {
		return err
	}
	sum, err := c.make(2, gamma.DType, shape)
	if err != nil {
		return err
	}
	if c.has(7) {
		for i := range ids.Len() {
			b := i / int(length)
			if intAt(c.tensor(7), i) == 1 {
				putInt(index, b, intAt(index, b)+1)
			}
		}
	}
	n, eps := int(hidden), c.float("epsilon")
	if err := c.reserve(hidden * 16 * int64(runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	return c.parallel(ids.Len(), max(1, 1<<12/n), func(lo, hi int) error {
		v, add := make([]float64, n), make([]float64, n)
		plus := func(t tensor.Tensor, row int) {
			loadFloat(add, t, row*n)
			for i := range v {
				v[i] += add[i]
			}
		}
		for i := lo; i < hi; i++ {
			loadFloat(v, c.tensor(2), int(words[i])*n)
			position := i % int(length)
			if positions != nil {
				position = int(positions[i%len(positions)])
			}
			plus(c.tensor(3), position)
			if segments != nil {
				plus(c.tensor(4), int(segments[i]))
			}
			storeFloat(sum, i*n, v)
			mean, variance := moments(v)
			inv := 1 / math.Sqrt(variance+eps)
			for k := range v {
				v[k] = (v[k]-mean)*inv*scale[k] + shift[k]
			}
			storeFloat(out, i*n, v)
		}
		return nil
	})
}
