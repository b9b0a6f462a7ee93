package reference

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Operators of ONNX Runtime's domain com.microsoft, version 1, as exporters and its
// optimisers write them. Its schemas say what they are, its CPU kernels what
// they mean (testdata/microsoft.py): where the two differ, the kernels are
// followed and a comment says so.

// microsoftOps are all of com.microsoft.
var microsoftOps = slices.Concat(microsoftFusedOps, microsoftNormOps, microsoftAttentionOps, microsoftQuantOps, microsoftMoEOps)

// extraOps are operators that ONNX Runtime keeps in the default domain, where
// ONNX has no such version of them.
var extraOps = []spec{
	{"SimplifiedLayerNormalization", since(1), "X T:float, scale V:float -> Y V, inv_std_var? U:f32|f64",
		"axis int=-1, epsilon float=1e-5, stash_type int=1", simplifiedLayerNormalization},
	{"LayerNormalization", since(1), "X T:float, Scale T, B? T -> Y T, Mean? float, InvStdDev? float",
		"axis int=-1, epsilon float=1e-5, stash_type int=1", layerNormalization},
}

const poolAttrs = "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, ceil_mode int=0, kernel_shape ints!, pads ints, strides ints"

var microsoftFusedOps = []spec{
	{"Gelu", since(1), "X T:float -> Y T", "", float(gelu)},
	{"FastGelu", since(1), "X T:float, bias? T -> Y T", "", shifted(geluTanh)},
	{"BiasGelu", since(1), "A T:float, B T -> C T", "", shifted(gelu)},
	{"QuickGelu", since(1), "X T:float -> Y T", "alpha float=1.702", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 { return x * sigmoid(alpha*x) }
	})},
	{"FusedMatMul", since(1), "A T:float, B T -> Y T", "alpha float=1, transA int=0, transB int=0, transBatchA int=0, transBatchB int=0", fusedMatMul},
	{"TransposeMatMul", since(1), "A T:float, B T -> Y T", "alpha float=1, transA int=0, transB int=0", fusedMatMul},
	{"FusedGemm", since(1), "A T:f16|f32|f64|i32|i64|u32|u64, B T, C? T -> Y T", "activation string, activation_alpha float, activation_beta float, activation_gamma float, " +
		"alpha float=1, beta float=1, transA int=0, transB int=0", fusedGemm},
	{"FusedConv", since(1), "X T:f16|f32|f64, W T, B? T, Z? T -> Y T", "activation string, activation_params floats, " + convAttrs, fusedConv},
	{"NhwcMaxPool", since(1), "x T:i8|u8 -> y T", poolAttrs + ", dilations ints", func(c *call) error {
		return c.channelsLast(0, func(x tensor.Tensor) (tensor.Tensor, error) { return c.sub("", "MaxPool", c.givenAttrs(), x) })
	}},
	{"Trilu", since(1), "X T:float|int|bool, k? i64 -> Y T", "upper int=1", trilu},
	{"CropAndResize", since(1), "X T:f16|f32|f64, rois T, batch_indices i32, crop_size i32 -> Y T",
		"extrapolation_value float=0, mode string=bilinear|nearest", cropAndResize},
	{"ExpandDims", since(1), "X T:any, axis i32 -> Y T", "", expandDims},
	{"UnfoldTensor", since(1), "input T:any -> output T", "dim int=-1, size int!, step int=1", unfoldTensor},
}

// sub computes the newest version of another operator inside of this one and
// gives its first output. What it makes counts until this call ends.
func (c *call) sub(domain, name string, attrs []*graph.Attr, in ...tensor.Tensor) (tensor.Tensor, error) {
	op, ok := Lookup(domain, name, newest[domain])
	if !ok {
		return tensor.Tensor{}, fmt.Errorf("%s is not registered", opName(domain, name))
	}
	inner := &call{ctx: c.ctx, op: op, node: &graph.Node{Domain: domain, OpType: name, Attrs: attrs, Outputs: []string{"y"}}, mem: c.mem}
	for _, t := range in {
		v := graph.Datum{}
		if t.DType != tensor.Undefined {
			v = tensorValue(t)
		}
		inner.in = append(inner.in, v)
		inner.node.Inputs = append(inner.node.Inputs, "x")
	}
	inner.out = make([]graph.Datum, max(1, len(op.outputs)))
	err := inner.eval()
	if n := (*NodeError)(nil); errors.As(err, &n) {
		// The inputs to blame are the inner operator's: only what is wrong is kept.
		err = n.Err
		if in := (*inputError)(nil); errors.As(err, &in) {
			err = in.err
		}
		return tensor.Tensor{}, fmt.Errorf("as %s: %w", name, err)
	}
	return inner.out[0].Tensor, err
}

// givenAttrs are the attributes of the node but those named.
func (c *call) givenAttrs(but ...string) []*graph.Attr {
	return slices.DeleteFunc(slices.Clone(c.node.Attrs), func(a *graph.Attr) bool { return slices.Contains(but, a.Name) })
}

// channelsLast runs f, which works on [N,C,...], on input i of [N,...,C], and gives
// what it makes as output 0 of that layout too.
func (c *call) channelsLast(i int, f func(x tensor.Tensor) (tensor.Tensor, error)) error {
	x := c.tensor(i)
	rank := len(x.Shape)
	if rank < 3 {
		return badInput(i, "has shape %v, wants pictures", x.Shape)
	}
	there, back := []int{0, rank - 1}, []int{0}
	for k := 1; k < rank-1; k++ {
		there, back = append(there, k), append(back, k+1)
	}
	x, err := c.transposed(x, there)
	if err != nil {
		return err
	}
	y, err := f(x)
	if err != nil {
		return err
	}
	if len(y.Shape) != rank {
		return fmt.Errorf("shape %v is not of the input's rank %d", y.Shape, rank)
	}
	if y, err = c.transposed(y, append(back, 1)); err != nil {
		return err
	}
	c.give(0, y)
	return nil
}

// shifted is f of the sum of input 0 and a vector along its last dimension, input 1.
func shifted(f func(float64) float64) func(*call) error {
	return func(c *call) error {
		x, b := c.tensor(0), c.tensor(1)
		if !c.has(1) {
			return same(c, floatLane, each1(f))
		}
		if len(x.Shape) == 0 || !b.Shape.Equal(x.Shape[len(x.Shape)-1:]) {
			return badInput(1, "has shape %v, the input has %v", b.Shape, x.Shape)
		}
		out, err := c.make(0, x.DType, x.Shape)
		if err != nil {
			return err
		}
		return lanes(c, out, floatLane, floatLane, each2(func(x, b float64) float64 { return f(x + b) }), x, b)
	}
}

func fusedMatMul(c *call) error {
	operand := func(i int, trans, transBatch string) (tensor.Tensor, error) {
		x := c.tensor(i)
		rank := len(x.Shape)
		batch := false
		if _, ok := c.op.attrs[transBatch]; ok {
			batch = c.flag(transBatch)
		}
		// Vectors have nothing to transpose.
		if rank < 2 || !batch && !c.flag(trans) {
			return x, nil
		}
		perm := make([]int, rank)
		for k := range perm {
			perm[k] = k
		}
		if batch {
			// The matrices' rows come first, then the batch: [M,B...,K] is [B...,M,K].
			if rank < 3 {
				return x, badInput(i, "has shape %v, attribute %s wants a batch", x.Shape, transBatch)
			}
			copy(perm, perm[1:rank-1])
			perm[rank-2] = 0
		}
		if c.flag(trans) {
			perm[rank-1], perm[rank-2] = perm[rank-2], perm[rank-1]
		}
		return c.transposed(x, perm)
	}
	a, err := operand(0, "transA", "transBatchA")
	if err != nil {
		return err
	}
	b, err := operand(1, "transB", "transBatchB")
	if err != nil {
		return err
	}
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	out, err := c.make(0, a.DType, s.out)
	if err != nil {
		return err
	}
	alpha := c.float("alpha")
	return multiply(c, s, out, a, b, floatLane, floatLane, lane[float64]{store: func(t tensor.Tensor, at int, v []float64) {
		for i := range v {
			v[i] *= alpha
		}
		storeFloat(t, at, v)
	}})
}

// activations are those that fused operators name, with the names of their
// parameters in the order in which FusedConv lists them.
var activations = map[string][]string{
	"": nil, "Relu": nil, "Tanh": nil, "Sigmoid": nil, "Softplus": nil, "Softsign": nil,
	"LeakyRelu": {"alpha"}, "Elu": {"alpha"}, "ThresholdedRelu": {"alpha"}, "HardSigmoid": {"alpha", "beta"}, "Selu": {"alpha", "gamma"},
	"Clip": {"min", "max"},
}

// activated gives f's activation of x as output 0. param is the value of a
// parameter, nil where it has none.
func (c *call) activated(x tensor.Tensor, param func(i int, name string) *graph.Attr) error {
	name := c.str("activation")
	params, ok := activations[name]
	if !ok {
		return fmt.Errorf("attribute activation is %q, which is not known", name)
	}
	var attrs []*graph.Attr
	for i, p := range params {
		if a := param(i, p); a != nil {
			attrs = append(attrs, graph.FloatAttr(p, a.Float))
		}
	}
	switch name {
	case "":
	case "Clip": // the newest takes its limits as inputs
		limits := [2]tensor.Tensor{}
		for i, a := range attrs {
			limits[i] = tensor.Tensor{}
			t, err := c.new(x.DType, nil)
			if err != nil {
				return err
			}
			putFloat(t, 0, float64(a.Float))
			limits[i] = t
		}
		var err error
		if x, err = c.sub("", name, nil, x, limits[0], limits[1]); err != nil {
			return err
		}
	default:
		var err error
		if x, err = c.sub("", name, attrs, x); err != nil {
			return err
		}
	}
	c.give(0, x)
	return nil
}

func fusedGemm(c *call) error {
	y, err := c.sub("", "Gemm", c.givenAttrs("activation", "activation_alpha", "activation_beta", "activation_gamma"), c.tensor(0), c.tensor(1), c.tensor(2))
	if err != nil {
		return err
	}
	return c.activated(y, func(_ int, name string) *graph.Attr { return c.node.Attr("activation_" + name) })
}

// fusedConv is a convolution, plus input Z, then an activation.
func fusedConv(c *call) error {
	y, err := c.sub("", "Conv", c.givenAttrs("activation", "activation_params"), c.tensor(0), c.tensor(1), c.tensor(2))
	if err != nil {
		return err
	}
	if c.has(3) {
		if !c.tensor(3).Shape.Equal(y.Shape) {
			return badInput(3, "has shape %v, the convolution gives %v", c.tensor(3).Shape, y.Shape)
		}
		if y, err = c.sub("", "Add", nil, y, c.tensor(3)); err != nil {
			return err
		}
	}
	var params []float32
	if a := c.attr("activation_params"); a != nil {
		params = a.Floats
	}
	if want := activations[c.str("activation")]; len(params) != len(want) {
		return fmt.Errorf("attribute activation_params has %d numbers, %s wants %d", len(params), c.str("activation"), len(want))
	}
	return c.activated(y, func(i int, name string) *graph.Attr { return graph.FloatAttr(name, params[i]) })
}

// cropAndResize cuts boxes [y1,x1,y2,x2], in parts of the picture's height and width
// less one, out of pictures and samples each at crop_size points, corners included.
func cropAndResize(c *call) error {
	x, boxes := c.tensor(0), c.tensor(1)
	if len(x.Shape) != 4 {
		return badInput(0, "has shape %v, wants [N,C,H,W]", x.Shape)
	}
	if len(boxes.Shape) != 2 || boxes.Shape[1] != 4 {
		return badInput(1, "has shape %v, wants [R,4]", boxes.Shape)
	}
	batch, err := c.intsOf(2)
	if err != nil {
		return err
	}
	size, err := c.intsOf(3)
	if err != nil {
		return err
	}
	if int64(len(batch)) != boxes.Shape[0] {
		return badInput(2, "has %d entries for %d boxes", len(batch), boxes.Shape[0])
	}
	for _, b := range batch {
		if b < 0 || b >= x.Shape[0] {
			return badInput(2, "holds %d, there are %d pictures", b, x.Shape[0])
		}
	}
	if len(size) != 2 || size[0] < 1 || size[1] < 1 {
		return badInput(3, "is %v, wants a positive height and width", size)
	}
	out, err := c.make(0, x.DType, tensor.Shape{boxes.Shape[0], x.Shape[1], size[0], size[1]})
	if err != nil || out.Len() == 0 {
		return err
	}
	channels, height, width := int(x.Shape[1]), int(x.Shape[2]), int(x.Shape[3])
	nearest, outside := c.str("mode") == "nearest", c.float("extrapolation_value")
	// A point that lies outside of the picture is the extrapolation value.
	point := func(i, n int, from, to float64, length int) (float64, bool) {
		p := 0.5 * (from + to) * float64(length-1)
		if n > 1 {
			p = from*float64(length-1) + float64(i)*((to-from)*float64(length-1)/float64(n-1))
		}
		// The kernel computes places in float32, which decides about the border.
		p = float64(float32(p))
		return p, p >= 0 && p <= float64(length-1)
	}
	ch, cw := int(size[0]), int(size[1])
	return c.parallel(int(boxes.Shape[0])*ch, max(1, 1<<10/(cw*channels)), func(lo, hi int) error {
		var box [4]float64
		for item := lo; item < hi; item++ {
			r, i := item/ch, item%ch
			loadFloat(box[:], boxes, r*4)
			y, yIn := point(i, ch, box[0], box[2], height)
			for j := range cw {
				u, xIn := point(j, cw, box[1], box[3], width)
				for k := range channels {
					v := outside
					if yIn && xIn {
						at := func(row, col int) float64 { return floatAt(x, ((int(batch[r])*channels+k)*height+row)*width+col) }
						if nearest {
							v = at(int(math.Round(y)), int(math.Round(u)))
						} else {
							y0, x0 := int(math.Floor(y)), int(math.Floor(u))
							y1, x1 := int(math.Ceil(y)), int(math.Ceil(u))
							dy, dx := y-float64(y0), u-float64(x0)
							top := at(y0, x0) + (at(y0, x1)-at(y0, x0))*dx
							bottom := at(y1, x0) + (at(y1, x1)-at(y1, x0))*dx
							v = top + (bottom-top)*dy
						}
					}
					putFloat(out, ((r*channels+k)*ch+i)*cw+j, v)
				}
			}
		}
		return nil
	})
}

func expandDims(c *call) error {
	x := c.tensor(0)
	axis, err := c.intOf(1)
	if err != nil {
		return err
	}
	a, err := axisOf(axis, len(x.Shape)+1)
	if err != nil {
		return badInput(1, "is wrong: %w", err)
	}
	c.give(0, reshaped(x, slices.Insert(x.Shape.Clone(), a, 1)))
	return nil
}

// unfoldTensor slides a window over a dimension and puts its elements last.
func unfoldTensor(c *call) error {
	x := c.tensor(0)
	dim, err := axisOf(c.int("dim"), len(x.Shape))
	if err != nil {
		return err
	}
	size, step := c.int("size"), c.int("step")
	if size < 1 || step < 1 || size > x.Shape[dim] {
		return fmt.Errorf("windows of %d, %d apart, do not fit dimension %d of %v", size, step, dim, x.Shape)
	}
	s, st := x.Shape.Clone(), strides(x.Shape)
	s[dim] = (x.Shape[dim]-size)/step + 1
	inner := st[dim]
	if s[dim] > 1 {
		st[dim] = inner * int(step)
	}
	out, err := c.make(0, x.DType, append(s, size))
	if err != nil {
		return err
	}
	return c.moveView(out, x, 0, append(st, inner))
}
