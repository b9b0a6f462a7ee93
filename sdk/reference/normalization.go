package reference

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var normalizationOps = []spec{
	{"LayerNormalization", since(17), "X T:float, Scale T, B? T -> Y T, Mean? float, InvStdDev? float",
		"axis int=-1, epsilon float=1e-5, stash_type int=1", layerNormalization},
	{"RMSNormalization", since(23), "X float, scale V:float -> Y V", "axis int=-1, epsilon float=1e-5, stash_type int=1", rmsNormalization},
	{"BatchNormalization", since(7), "X T:float, scale T, B T, mean T, var T -> Y T, mean? T, var? T, saved_mean? T, saved_var? T",
		"epsilon float=1e-5, momentum float=0.9, spatial int=1", batchNormalization},
	{"BatchNormalization", since(9), "X T:float, scale T, B T, mean T, var T -> Y T, mean? T, var? T, saved_mean? T, saved_var? T",
		"epsilon float=1e-5, momentum float=0.9", batchNormalization},
	{"BatchNormalization", since(14, 15), "X T:float, scale T1:float, B T1, input_mean T2:float, input_var T2 -> Y T, running_mean? T2, running_var? T2",
		"epsilon float=1e-5, momentum float=0.9, training_mode int=0", batchNormalization},
	{"InstanceNormalization", since(6, 22), "input T:float, scale T, B T -> output T", "epsilon float=1e-5", func(c *call) error {
		if s := c.tensor(0).Shape; len(s) >= 2 {
			return groupsNormalized(c, s[1])
		}
		return badInput(0, "has shape %v, wants a batch of channels", c.tensor(0).Shape)
	}},
	{"GroupNormalization", since(18), "X T:float, scale T, bias T -> Y T", "epsilon float=1e-5, num_groups int!", func(c *call) error {
		return groupsNormalized(c, c.int("num_groups"))
	}},
	{"GroupNormalization", since(21), "X T:float, scale T, bias T -> Y T", "epsilon float=1e-5, num_groups int!, stash_type int=1", func(c *call) error {
		return groupsNormalized(c, c.int("num_groups"))
	}},
	{"LpNormalization", since(1, 22), "input T:float -> output T", "axis int=-1, p int=2", lpNormalization},
	{"MeanVarianceNormalization", since(9, 13), "X T:float -> Y T", "axes ints", meanVarianceNormalization},
	{"LRN", since(1, 13), "X T:float -> Y T", "alpha float=0.0001, beta float=0.75, bias float=1, size int!", lrn},
	{"Softmax", since(1, 11), "input T:float -> output T", "axis int=1", groupwise(softmax)},
	{"Softmax", since(13), "input T:float -> output T", "axis int=-1", groupwise(softmax)},
	{"LogSoftmax", since(1, 11), "input T:float -> output T", "axis int=1", groupwise(logSoftmax)},
	{"LogSoftmax", since(13), "input T:float -> output T", "axis int=-1", groupwise(logSoftmax)},
	{"Hardmax", since(1, 11), "input T:float -> output T", "axis int=1", groupwise(hardmax)},
	{"Hardmax", since(13), "input T:float -> output T", "axis int=-1", groupwise(hardmax)},
}

// softmax replaces v by its softmax. Rows of nothing but -Inf become NaN, as the
// formula has it.
func softmax(v []float64) {
	m := math.Inf(-1)
	for _, x := range v {
		m = max(m, x)
	}
	sum := 0.0
	for i, x := range v {
		v[i] = math.Exp(x - m)
		sum += v[i]
	}
	for i := range v {
		v[i] /= sum
	}
}

func logSoftmax(v []float64) {
	m := math.Inf(-1)
	for _, x := range v {
		m = max(m, x)
	}
	sum := 0.0
	for _, x := range v {
		sum += math.Exp(x - m)
	}
	sum = math.Log(sum)
	for i, x := range v {
		v[i] = x - m - sum
	}
}

func hardmax(v []float64) {
	best := 0
	for i, x := range v {
		if x > v[best] {
			best = i
		}
	}
	for i := range v {
		v[i] = 0
	}
	v[best] = 1
}

// groupwise applies f along an axis; before version 13 to all axes from it on as
// one.
func groupwise(f func([]float64)) func(*call) error {
	return func(c *call) error {
		x := c.tensor(0)
		axis, err := axisOf(c.int("axis"), len(x.Shape))
		if err != nil {
			return err
		}
		over := make([]bool, len(x.Shape))
		for i := range over {
			over[i] = i == axis || c.op.Version < 13 && i > axis
		}
		out, err := c.make(0, x.DType, x.Shape)
		if err != nil {
			return err
		}
		return c.mapGroups(out, x, over, f)
	}
}

// mapGroups replaces the elements of each group, which lie along the axes in
// over, by what f makes of them in place.
func (c *call) mapGroups(out, x tensor.Tensor, over []bool, f func([]float64)) error {
	if x.Len() == 0 {
		return nil
	}
	g := newGroups(x.Shape, over, true)
	if err := c.reserve(int64(g.n) * 8); err != nil {
		return err
	}
	return c.parallel(elements(g.out), max(1, 1<<13/g.n), func(lo, hi int) error {
		starts := make([]int, 0, hi-lo)
		g.outerEach(lo, hi, func(_, start int) { starts = append(starts, start) })
		eachGroup(g, x, floatLane, lo, hi, func(i int, v []float64) {
			f(v)
			start, at := starts[i-lo], 0
			g.inner.each(0, g.inner.rows, func(_ int, offs []int) {
				part := v[at : at+g.inner.inner]
				if g.inner.steps[0] == 1 {
					storeFloat(out, start+offs[0], part)
				} else {
					for k := range part {
						storeFloat(out, start+offs[0]+k*g.inner.steps[0], part[k:k+1])
					}
				}
				at += len(part)
			})
		})
		return nil
	})
}

// moments are mean and population variance.
func moments(v []float64) (mean, variance float64) {
	mean = sumOf(v) / float64(len(v))
	for _, x := range v {
		variance += (x - mean) * (x - mean)
	}
	return mean, variance / float64(len(v))
}

// affine is a tensor that broadcasts to another shape, widened for rows of its
// last dimensions.
type affine struct {
	data         []float64
	outer, inner []int
}

// affineInput reads input i, which must broadcast to s, split before an axis.
func (c *call) affineInput(i int, s tensor.Shape, axis int) (*affine, error) {
	t := c.tensor(i)
	if got, err := broadcast(t.Shape, s); err != nil || !got.Equal(s) {
		return nil, badInput(i, "has shape %v, which does not broadcast to %v", t.Shape, s)
	}
	st := broadcastStrides(t.Shape, s)
	data, err := c.widened(t)
	if err != nil {
		return nil, err
	}
	return &affine{data, offsetsOf(s[:axis], st[:axis]), offsetsOf(s[axis:], st[axis:])}, nil
}

// offsetsOf lists the offsets of all elements of a strided shape.
func offsetsOf(s tensor.Shape, st []int) []int {
	w := newWalk(s, st)
	out := make([]int, 0, elements(s))
	w.each(0, w.rows, func(_ int, offs []int) {
		for i := range w.inner {
			out = append(out, offs[0]+i*w.steps[0])
		}
	})
	return out
}

func (a *affine) at(row, i int) float64 { return a.data[a.outer[row]+a.inner[i]] }

// stash checks the type that the first stage is computed in: ours is never
// narrower than what is asked for.
func (c *call) stash() (tensor.DType, error) {
	d := tensor.DType(c.int("stash_type"))
	if !floatTypes.has(d) || int64(d) != c.int("stash_type") {
		return 0, fmt.Errorf("attribute stash_type is %d, wants a floating-point type", c.int("stash_type"))
	}
	return d, nil
}

// normalized reads what the normalisations over the last axes share: the type and
// the shape of their statistics, the first axis, and input 1, the scale.
func (c *call) normalized() (stash tensor.DType, axis int, scale *affine, stat tensor.Shape, err error) {
	x := c.tensor(0)
	if stash, err = c.stash(); err != nil {
		return
	}
	if axis, err = axisOf(c.int("axis"), len(x.Shape)); err != nil {
		return
	}
	if scale, err = c.affineInput(1, x.Shape, axis); err != nil {
		return
	}
	stat = x.Shape.Clone()
	for i := axis; i < len(stat); i++ {
		stat[i] = 1
	}
	return
}

func layerNormalization(c *call) error {
	x := c.tensor(0)
	stash, axis, scale, stat, err := c.normalized()
	if err != nil {
		return err
	}
	var bias *affine
	if c.has(2) {
		if bias, err = c.affineInput(2, x.Shape, axis); err != nil {
			return err
		}
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	means, err := c.make(1, stash, stat)
	if err != nil {
		return err
	}
	inverses, err := c.make(2, stash, stat)
	if err != nil {
		return err
	}
	eps := c.float("epsilon")
	return c.eachRow(out, x, axis, func(row int, v []float64) {
		mean, variance := moments(v)
		inv := 1 / math.Sqrt(variance+eps)
		putFloat(means, row, mean)
		putFloat(inverses, row, inv)
		for i := range v {
			v[i] = (v[i] - mean) * inv * scale.at(row, i)
			if bias != nil {
				v[i] += bias.at(row, i)
			}
		}
	})
}

// eachRow replaces each row of the dimensions from axis on by what f makes of it.
func (c *call) eachRow(out, x tensor.Tensor, axis int, f func(row int, v []float64)) error {
	if x.Len() == 0 {
		return nil
	}
	n := elements(x.Shape[axis:])
	if err := c.reserve(int64(n) * 8); err != nil {
		return err
	}
	return c.parallel(x.Len()/n, max(1, 1<<13/n), func(lo, hi int) error {
		v := make([]float64, n)
		for row := lo; row < hi; row++ {
			loadFloat(v, x, row*n)
			f(row, v)
			storeFloat(out, row*n, v)
		}
		return nil
	})
}

func rmsNormalization(c *call) error {
	x := c.tensor(0)
	_, axis, scale, _, err := c.normalized()
	if err != nil {
		return err
	}
	out, err := c.make(0, c.tensor(1).DType, x.Shape)
	if err != nil {
		return err
	}
	eps := c.float("epsilon")
	return c.eachRow(out, x, axis, func(row int, v []float64) {
		inv := 1 / math.Sqrt(sumSquare(v)/float64(len(v))+eps)
		for i := range v {
			v[i] *= inv * scale.at(row, i)
		}
	})
}

// perChannel reads input i as one number for each of n channels.
func (c *call) perChannel(i int, n int64) ([]float64, error) {
	t := c.tensor(i)
	if !t.Shape.Equal(tensor.Shape{n}) {
		return nil, badInput(i, "has shape %v, wants [%d]", t.Shape, n)
	}
	return c.widened(t)
}

func batchNormalization(c *call) error {
	x := c.tensor(0)
	channels := int64(1)
	if len(x.Shape) > 1 {
		channels = x.Shape[1]
	}
	if _, ok := c.op.attrs["spatial"]; ok && !c.flag("spatial") {
		return errors.New("attribute spatial 0 is not supported")
	}
	var p [4][]float64 // scale, bias, mean, variance
	for i := range p {
		var err error
		if p[i], err = c.perChannel(i+1, channels); err != nil {
			return err
		}
	}
	training := false
	if _, ok := c.op.attrs["training_mode"]; ok {
		training = c.flag("training_mode")
	}
	for i := 1; i < len(c.node.Outputs); i++ {
		if c.wants(i) && !training {
			return fmt.Errorf("output %d exists in training only", i)
		}
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	eps := c.float("epsilon")
	over := make([]bool, len(x.Shape))
	for i := range over {
		over[i] = i != 1
	}
	if training {
		if err := c.trainedMoments(x, over, p[2], p[3]); err != nil {
			return err
		}
	}
	if x.Len() == 0 {
		return nil
	}
	inner := 1
	if len(x.Shape) > 1 {
		inner = elements(x.Shape[2:])
	}
	return c.parallel(x.Len()/inner, max(1, 1<<13/inner), func(lo, hi int) error {
		v := make([]float64, inner)
		for row := lo; row < hi; row++ {
			ch := row % int(channels)
			f := p[0][ch] / math.Sqrt(p[3][ch]+eps)
			loadFloat(v, x, row*inner)
			for i := range v {
				v[i] = (v[i]-p[2][ch])*f + p[1][ch]
			}
			storeFloat(out, row*inner, v)
		}
		return nil
	})
}

// trainedMoments gives the running statistics as outputs and replaces mean and
// variance by those of the batch.
func (c *call) trainedMoments(x tensor.Tensor, over []bool, mean, variance []float64) error {
	d, s := c.tensor(3).DType, c.tensor(3).Shape
	runMean, err := c.make(1, d, s)
	if err != nil {
		return err
	}
	runVar, err := c.make(2, d, s)
	if err != nil {
		return err
	}
	momentum := c.float("momentum")
	g := newGroups(x.Shape, over, false)
	if err := c.reserve(int64(g.n) * 8); err != nil {
		return err
	}
	eachGroup(g, x, floatLane, 0, len(mean), func(i int, v []float64) {
		m, s := moments(v)
		putFloat(runMean, i, mean[i]*momentum+m*(1-momentum))
		putFloat(runVar, i, variance[i]*momentum+s*(1-momentum))
		mean[i], variance[i] = m, s
	})
	return nil
}

// groupsNormalized normalizes each of so many groups of channels of each picture.
// Scale and bias are given for each channel or for each group.
func groupsNormalized(c *call, groups int64) error {
	x := c.tensor(0)
	if len(x.Shape) < 2 {
		return badInput(0, "has shape %v, wants a batch of channels", x.Shape)
	}
	n, channels := x.Shape[0], x.Shape[1]
	if groups <= 0 || channels%groups != 0 {
		return fmt.Errorf("%d channels can't be put into %d groups", channels, groups)
	}
	count := channels
	if c.op.Name == "GroupNormalization" && c.op.Version < 21 {
		count = groups
	}
	scale, err := c.perChannel(1, count)
	if err != nil {
		return err
	}
	bias, err := c.perChannel(2, count)
	if err != nil {
		return err
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil || x.Len() == 0 {
		return err
	}
	eps := c.float("epsilon")
	rest := x.Len() / int(n*channels)
	per := int(channels / groups)
	rows := reshaped(x, tensor.Shape{n * groups, int64(per * rest)})
	return c.eachRow(out, rows, 1, func(row int, v []float64) {
		mean, variance := moments(v)
		inv := 1 / math.Sqrt(variance+eps)
		for i := range v {
			ch := row%int(groups)*per + i/rest
			if count != channels {
				ch = row % int(groups)
			}
			v[i] = (v[i]-mean)*inv*scale[ch] + bias[ch]
		}
	})
}

func lpNormalization(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	p := c.int("p")
	if p != 1 && p != 2 {
		return fmt.Errorf("attribute p is %d, wants 1 or 2", p)
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	over := make([]bool, len(x.Shape))
	over[axis] = true
	return c.mapGroups(out, x, over, func(v []float64) {
		norm := sumAbs(v)
		if p == 2 {
			norm = math.Sqrt(sumSquare(v))
		}
		for i := range v {
			if norm != 0 {
				v[i] /= norm
			}
		}
	})
}

func meanVarianceNormalization(c *call) error {
	x := c.tensor(0)
	axes := c.ints("axes")
	if !c.hasAttr("axes") {
		axes = []int64{0, 2, 3}
	}
	_, over, err := axesOf(axes, len(x.Shape))
	if err != nil {
		return err
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	return c.mapGroups(out, x, over, func(v []float64) {
		mean, variance := moments(v)
		for i := range v {
			v[i] = (v[i] - mean) / (math.Sqrt(variance) + 1e-9)
		}
	})
}

func lrn(c *call) error {
	x := c.tensor(0)
	size := c.int("size")
	if len(x.Shape) < 2 || size <= 0 {
		return fmt.Errorf("shape %v and size %d: a batch of channels and a positive size are wanted", x.Shape, size)
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	alpha, beta, bias := c.float("alpha"), c.float("beta"), c.float("bias")
	over := make([]bool, len(x.Shape))
	over[1] = true
	return c.mapGroups(out, x, over, func(v []float64) {
		in := append([]float64(nil), v...)
		for i := range v {
			lo := max(0, int64(i)-(size-1)/2)
			hi := min(int64(len(v)), int64(i)+size/2+1)
			v[i] /= math.Pow(bias+alpha/float64(size)*sumSquare(in[lo:hi]), beta)
		}
	})
}
