package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// spatial is three spatial dimensions; where there are fewer, they stand last.
type spatial = [kernels.Spatial]int64

// spatialOf puts the numbers of n dimensions last, behind def.
func spatialOf(list []int64, def int64) (s spatial) {
	for i := range s {
		s[i] = def
	}
	copy(s[len(s)-len(list):], list)
	return s
}

func volume(s spatial) int64 { return s[0] * s[1] * s[2] }

// windows is how a kernel slides over the spatial dimensions of an image.
type windows struct {
	in, out, kernel, stride, dilation, pad, padEnd spatial
}

// maxSpatial bounds what the kernels take for sizes, strides and paddings.
const maxSpatial = 1 << 30

// windows reads the attributes that convolutions and pools share. in and out are
// [N,C,...] shapes.
func (p *planner) windows(n *graph.Node, in, out tensor.Shape, kernel []int64) (w windows, ok bool) {
	rank := len(in) - 2
	if rank < 1 || rank > kernels.Spatial || len(kernel) != rank || len(out) != len(in) {
		return w, false
	}
	list := func(name string, count int, def int64) ([]int64, bool) {
		v := n.AttrInts(name)
		if v == nil {
			v = slices.Repeat([]int64{def}, count)
		}
		return v, len(v) == count && !slices.ContainsFunc(v, func(x int64) bool { return x < def || x > maxSpatial })
	}
	stride, ok1 := list("strides", rank, 1)
	dilation, ok2 := list("dilations", rank, 1)
	pads, ok3 := list("pads", 2*rank, 0)
	if !ok1 || !ok2 || !ok3 || slices.ContainsFunc(kernel, func(k int64) bool { return k < 1 || k > maxSpatial }) {
		return w, false
	}
	pads = slices.Clone(pads)
	for i := range rank {
		extent := (kernel[i]-1)*dilation[i] + 1
		switch auto := n.AttrString("auto_pad", "NOTSET"); auto {
		case "NOTSET", "":
		case "VALID":
			pads[i], pads[rank+i] = 0, 0
		case "SAME_UPPER", "SAME_LOWER":
			total := max(0, (out[2+i]-1)*stride[i]+extent-in[2+i])
			pads[i], pads[rank+i] = total/2, total-total/2
			if auto == "SAME_LOWER" {
				pads[i], pads[rank+i] = pads[rank+i], pads[i]
			}
		default:
			return w, false
		}
	}
	return windows{in: spatialOf(in[2:], 1), out: spatialOf(out[2:], 1), kernel: spatialOf(kernel, 1), stride: spatialOf(stride, 1),
		dilation: spatialOf(dilation, 1), pad: spatialOf(pads[:rank], 0), padEnd: spatialOf(pads[rank:], 0)}, true
}

// filters are the weights of a convolution, [groups*filters, channels*taps] as ONNX has them.
type filters struct {
	key                       string
	groups, filters, channels int64
	taps                      int64
	value                     string                        // the weight, used as it is
	make                      func() (tensor.Tensor, error) // else what makes it of constants, once
}

// depthwise: the kernel takes the filters as they are.
func (f *filters) depthwise() bool { return f.channels == 1 && f.groups > 1 }

// packed adds the place where a weight that is no constant is packed in every run.
func (f *filters) packed(p *planner, u *unit) (temporary string, err error) {
	if f.depthwise() || f.make != nil || p.constants[f.value] != nil {
		return "", nil
	}
	size, err := p.runner.PackedBytes(kernels.PackF32, f.filters, f.channels*f.taps)
	if err != nil {
		return "", err
	}
	return p.temporary(u, "filters", tensor.Uint8, tensor.Shape{f.groups * size}), nil
}

// ref is where the kernel finds the filters; it adds the packing of those that are no constant.
func (f *filters) ref(p *planner, prog *kernels.Program, temporary string) (kernels.Ref, error) {
	depth := f.channels * f.taps
	switch {
	case temporary != "":
		size, err := p.runner.PackedBytes(kernels.PackF32, f.filters, depth)
		if err != nil {
			return kernels.Ref{}, err
		}
		for g := range f.groups {
			op := &kernels.Pack{Src: p.ref(f.value), Dst: p.ref(temporary), N: f.filters, K: depth, NStride: depth, KStride: 1, Format: kernels.PackF32}
			op.Src.Offset += g * f.filters * depth * 4
			op.Dst.Offset += g * size
			prog.Add(op)
		}
		return p.ref(temporary), nil
	case f.depthwise() && f.make == nil:
		return p.ref(f.value), nil
	case f.depthwise():
		t, err := f.make()
		if err != nil {
			return kernels.Ref{}, err
		}
		return kernels.Ref{Buffer: p.open(f.key, t)}, nil
	}
	source := f.make
	if source == nil {
		source = func() (tensor.Tensor, error) { return p.constants[f.value].Tensor.Aligned(), nil }
	}
	t, err := p.weights.filters(f.key, source, f.groups, f.filters, depth)
	if err != nil {
		return kernels.Ref{}, err
	}
	return kernels.Ref{Buffer: p.open(f.key, t)}, nil
}

// temporary gives a unit memory of its own while it runs.
func (p *planner) temporary(u *unit, what string, d tensor.DType, s tensor.Shape) string {
	name := u.writes[0] + ":" + what
	dims := make([]graph.Dim, len(s))
	for i, n := range s {
		dims[i] = graph.Known(n)
	}
	p.types[name] = graph.TensorType(d, dims...)
	u.writes = append(slices.Clone(u.writes), name)
	return name
}

// floats are the values of an f32 constant; nil if it is none.
func (p *planner) floats(name string) []float32 {
	c := p.constants[name]
	if c == nil || c.Tensor.DType != tensor.Float32 {
		return nil
	}
	return tensor.View[float32](c.Tensor.Aligned())
}

// convolution: Conv and ConvTranspose, with what follows: a normalisation by
// constants, an activation, a residual before or after it.
func (p *planner) convolution(n *graph.Node) *unit {
	if !is(n, "Conv") && !is(n, "ConvTranspose") || !p.fixed(n.Inputs) || !p.fixed(n.Outputs) {
		return nil
	}
	x, weight, bias, y := n.Inputs[0], n.Inputs[1], attrInput(n, 2), n.Outputs[0]
	u := &unit{nodes: []*graph.Node{n}, reads: []string{x}, writes: []string{y}}
	if p.dtype(x) != tensor.Float32 || p.dtype(weight) != tensor.Float32 || bias != "" && p.dtype(bias) != tensor.Float32 ||
		hasEmpty(p, &unit{reads: n.Inputs, writes: n.Outputs}) {
		return nil
	}
	xs, ws, ys := mustShape(p, x), mustShape(p, weight), mustShape(p, y)
	groups := n.AttrInt("group", 1)
	if len(xs) < 3 || len(ws) != len(xs) || len(ys) != len(xs) || groups < 1 || xs[1]%groups != 0 || ys[1]%groups != 0 {
		return nil
	}
	w, ok := p.windows(n, xs, ys, ws[2:])
	if kernel := n.AttrInts("kernel_shape"); !ok || kernel != nil && !slices.Equal(kernel, ws[2:]) {
		return nil
	}
	if bias != "" && p.elements(bias) != ys[1] {
		return nil
	}
	f := filters{key: "conv:" + weight, groups: groups, filters: ys[1] / groups, channels: xs[1] / groups, taps: volume(w.kernel), value: weight}
	transposed := is(n, "ConvTranspose")
	if extra := n.AttrInts("output_padding"); extra != nil && len(extra) != len(xs)-2 {
		return nil
	}
	if !transposed && (ws[0] != ys[1] || ws[1] != f.channels) || transposed && (ws[0] != xs[1] || ws[1] != f.filters || p.constants[weight] == nil) {
		return nil
	}

	// What follows. A normalisation by constants is folded into the filters and the bias.
	var shift []float32
	if bn := p.next(y); bn != nil && p.constants[weight] != nil && (bias == "" || p.constants[bias] != nil) {
		if scale, offset, ok := p.batchNormalization(bn); ok && int64(len(scale)) == ys[1] && p.sameShape(bn.Outputs[0], y) && bn.Inputs[0] == y {
			shift = slices.Clone(offset)
			for i, b := range p.floats(bias) {
				shift[i] += b * scale[i]
			}
			plain, per := weight, f.channels*f.taps
			f.key += ":" + bn.Outputs[0]
			f.make = func() (tensor.Tensor, error) {
				source := p.floats(plain)
				t, err := tensor.New(tensor.Float32, tensor.Shape{int64(len(source))})
				if err != nil {
					return t, err
				}
				out := tensor.View[float32](t)
				for i, v := range source {
					filter := int64(i) / per
					if transposed { // [groups*channels, filters, taps]
						filter = int64(i)/(f.channels*f.filters*f.taps)*f.filters + int64(i)/f.taps%f.filters
					}
					out[i] = v * scale[filter]
				}
				return t, nil
			}
			u.nodes = append(u.nodes, bn)
			y = bn.Outputs[0]
		}
	}
	op := kernels.Conv{Batch: xs[0], Groups: groups, Channels: f.channels, Filters: f.filters, In: w.in, Kernel: w.kernel, Out: w.out,
		Stride: w.stride, Dilation: w.dilation, Pad: w.pad}
	residual := ""
	takeResidual := func(last uint32) {
		add := p.next(y)
		if !is(add, "Add") || add.Inputs[0] == add.Inputs[1] {
			return
		}
		r := other(add, y)
		if residual != "" || !p.sameShape(r, y) || !p.sameShape(add.Outputs[0], y) || p.dtype(r) != tensor.Float32 || p.feedsNormalization(add) {
			return
		}
		residual, op.ResidualLast = r, last
		u.nodes = append(u.nodes, add)
		y = add.Outputs[0]
	}
	takeActivation := func() {
		nodes, act, a, b := p.activationAfter(y)
		if nodes == nil {
			return
		}
		op.Activation, op.ActA, op.ActB = act, a, b
		u.nodes = append(u.nodes, nodes...)
		y = nodes[len(nodes)-1].Outputs[0]
	}
	takeResidual(0)
	takeActivation()
	if op.Activation != kernels.ActNone {
		takeResidual(1)
	}
	u.writes = []string{y}
	for _, r := range []string{residual, bias} {
		if r != "" && !slices.Contains(u.reads, r) && (r != bias || shift == nil) {
			u.reads = append(u.reads, r)
		}
	}
	if p.constants[weight] == nil {
		u.reads = append(u.reads, weight)
	}
	temporary, err := f.packed(p, u)
	if err != nil {
		return nil
	}
	phases := []phase{{}}
	if transposed {
		padTransposed(n, &w)
		if phases = phasesOf(w); phases == nil {
			return nil
		}
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Residual, o.Y, o.Bias = p.ref(x), p.ref(residual), p.ref(y), p.ref(bias)
		if shift != nil {
			o.Bias = kernels.Ref{Buffer: p.open(y+":shift", tensor.Floats(tensor.Shape{int64(len(shift))}, shift...))}
		}
		o.YStride = [5]int64{ys[1] * volume(w.out), volume(w.out), w.out[1] * w.out[2], w.out[2], 1}
		if !transposed {
			var err error
			if o.W, err = f.ref(p, prog, temporary); err != nil {
				return err
			}
			prog.Add(&o)
			return nil
		}
		for _, ph := range phases {
			if err := p.emitPhase(prog, o, f, w, ph); err != nil {
				return err
			}
		}
		return nil
	}
	return u
}

// padTransposed works out the padding of a ConvTranspose whose output has a given size.
func padTransposed(n *graph.Node, w *windows) {
	auto := n.AttrString("auto_pad", "NOTSET")
	same := auto == "SAME_UPPER" || auto == "SAME_LOWER"
	if n.Attr("output_shape") == nil && !same {
		return
	}
	extra := spatialOf(n.AttrInts("output_padding"), 0)
	for d := range w.pad {
		full := (w.in[d]-1)*w.stride[d] + extra[d] + (w.kernel[d]-1)*w.dilation[d] + 1
		total := max(0, full-w.out[d])
		w.pad[d] = total - total/2
		if auto == "SAME_UPPER" {
			w.pad[d] = total / 2
		}
	}
}

// phase is the part of a ConvTranspose that computes each stride-th place of y: a
// convolution of stride 1 with every so many-th tap.
type phase struct {
	first              spatial // place of y
	tap, step, count   spatial // taps of the kernel, from the last to the first
	out, dilation, pad spatial
}

// maxPhases bounds the operations that one ConvTranspose becomes.
const maxPhases = 256

// phasesOf divides a transposed convolution; nil if there would be too many parts.
func phasesOf(w windows) []phase {
	if w.stride[0] > maxPhases || w.stride[1] > maxPhases || w.stride[2] > maxPhases || volume(w.stride) > maxPhases {
		return nil
	}
	var phases []phase
	for i := range volume(w.stride) {
		ph := phase{first: spatial{i / w.stride[2] / w.stride[1], i / w.stride[2] % w.stride[1], i % w.stride[2]}}
		empty := false
		for d, s := range w.stride {
			ph.out[d] = (w.out[d] - ph.first[d] + s - 1) / s
			empty = empty || ph.out[d] <= 0
			// y at first + j*s is met by tap t of x at (first + j*s + pad - t*dilation) / s.
			g := gcd(s, w.dilation[d])
			ph.tap[d], ph.step[d], ph.dilation[d] = -1, s/g, w.dilation[d]/g
			for t := range min(ph.step[d], w.kernel[d]) {
				if (ph.first[d]+w.pad[d]-t*w.dilation[d])%s == 0 {
					ph.tap[d] = t
					break
				}
			}
			if ph.tap[d] < 0 {
				continue // count 0: no tap meets it
			}
			ph.count[d] = (w.kernel[d] - ph.tap[d] + ph.step[d] - 1) / ph.step[d]
			ph.pad[d] = (ph.count[d]-1)*ph.dilation[d] - (ph.first[d]+w.pad[d]-ph.tap[d]*w.dilation[d])/s
		}
		if !empty {
			phases = append(phases, ph)
		}
	}
	return phases
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// emitPhase adds one phase of a transposed convolution, whose weight is [groups*channels, filters, taps].
func (p *planner) emitPhase(prog *kernels.Program, o kernels.Conv, f filters, w windows, ph phase) error {
	offset := int64(0)
	for d := range ph.first {
		offset += ph.first[d] * o.YStride[2+d] * 4
		o.YStride[2+d] *= w.stride[d]
	}
	o.Y.Offset += offset
	if o.Residual.Buffer != 0 {
		o.Residual.Offset += offset
	}
	o.Out, o.Kernel, o.Dilation, o.Pad, o.Stride = ph.out, ph.count, ph.dilation, ph.pad, spatial{1, 1, 1}
	taps := volume(ph.count)
	if taps == 0 { // nothing but the bias
		o.Kernel = spatial{1, 1, 1}
		o.Groups, o.Filters, o.Channels = 1, o.Groups*o.Filters, 0
		o.W = o.X
		prog.Add(&o)
		return nil
	}
	source := f.make
	if source == nil {
		source = func() (tensor.Tensor, error) { return p.constants[f.value].Tensor.Aligned(), nil }
	}
	part := f
	part.taps = taps
	part.key = fmt.Sprintf("%s:phase %v every %v of %v", f.key, ph.tap, ph.step, ph.count)
	part.make = func() (tensor.Tensor, error) {
		t, err := source()
		if err != nil {
			return t, err
		}
		all := tensor.View[float32](t)
		out, err := tensor.New(tensor.Float32, tensor.Shape{f.groups * f.filters, f.channels * taps})
		if err != nil {
			return out, err
		}
		to := tensor.View[float32](out)
		i := 0
		for filter := range f.groups * f.filters {
			for c := range f.channels {
				row := all[((filter/f.filters*f.channels+c)*f.filters+filter%f.filters)*f.taps:]
				for k := range taps {
					at := spatial{k / ph.count[2] / ph.count[1], k / ph.count[2] % ph.count[1], k % ph.count[2]}
					tap := int64(0)
					for d := range at {
						tap = tap*w.kernel[d] + ph.tap[d] + (ph.count[d]-1-at[d])*ph.step[d]
					}
					to[i] = row[tap]
					i++
				}
			}
		}
		return out, nil
	}
	var err error
	if o.W, err = part.ref(p, prog, ""); err != nil {
		return err
	}
	prog.Add(&o)
	return nil
}

// activationAfter finds the activation that alone follows a value; for convolutions,
// which have more of them than linears.
func (p *planner) activationAfter(y string) (nodes []*graph.Node, act kernels.Activation, a, b float32) {
	// x * sigmoid(x), as exporters write it.
	if uses := p.index.Uses(y); len(uses) == 2 && !p.index.IsOutput(y) && uses[0].Node != nil && uses[1].Node != nil {
		s, m := uses[0].Node, uses[1].Node
		if is(m, "Sigmoid") {
			s, m = m, s
		}
		if (is(s, "Sigmoid") || is(s, "HardSigmoid")) && is(m, "Mul") && p.next(s.Outputs[0]) == m && !p.done[s] && !p.done[m] && other(m, y) == s.Outputs[0] {
			if is(s, "Sigmoid") {
				return []*graph.Node{s, m}, kernels.ActSilu, 0, 0
			}
			return []*graph.Node{s, m}, kernels.ActHardSwish, s.AttrFloat("alpha", 0.2), s.AttrFloat("beta", 0.5)
		}
	}
	n := p.next(y)
	if n == nil || n.Domain != graph.DomainONNX {
		return nil, 0, 0, 0
	}
	if act, ok := activation(n); ok {
		return []*graph.Node{n}, act, 0, 0
	}
	one := []*graph.Node{n}
	switch n.OpType {
	case "LeakyRelu":
		return one, kernels.ActLeakyRelu, n.AttrFloat("alpha", 0.01), 0
	case "HardSigmoid":
		return one, kernels.ActHardSigmoid, n.AttrFloat("alpha", 0.2), n.AttrFloat("beta", 0.5)
	case "HardSwish":
		return one, kernels.ActHardSwish, 1.0 / 6, 0.5
	case "Clip":
		low, high := n.AttrFloat("min", -math.MaxFloat32), n.AttrFloat("max", math.MaxFloat32)
		for i, limit := range []*float32{&low, &high} {
			name := attrInput(n, 1+i)
			if name == "" {
				continue
			}
			v := p.floats(name)
			if len(v) != 1 {
				return nil, 0, 0, 0
			}
			*limit = v[0]
		}
		// Where the limits cross, the operator sets have not always agreed.
		if low <= high {
			return one, kernels.ActClip, low, high
		}
	}
	return nil, 0, 0, 0
}

// batchNormalization is the scale and the offset of each channel, if a node is a
// BatchNormalization by constants.
func (p *planner) batchNormalization(n *graph.Node) (scale, offset []float32, ok bool) {
	if !is(n, "BatchNormalization") || n.AttrInt("training_mode", 0) != 0 || p.model.Opsets[graph.DomainONNX] < 9 {
		return nil, nil, false
	}
	for _, out := range n.Outputs[1:] {
		if out != "" {
			return nil, nil, false
		}
	}
	var in [4][]float32
	for i := range in {
		if in[i] = p.floats(attrInput(n, 1+i)); in[i] == nil || len(in[i]) != len(in[0]) {
			return nil, nil, false
		}
	}
	epsilon := float64(n.AttrFloat("epsilon", 1e-5))
	for i := range in[0] {
		s := float64(in[0][i]) / math.Sqrt(float64(in[3][i])+epsilon)
		scale = append(scale, float32(s))
		offset = append(offset, float32(float64(in[1][i])-float64(in[2][i])*s))
	}
	return scale, offset, true
}

// batchNorm on its own: a scale and an offset for each channel.
func batchNorm(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	scale, offset, ok := p.batchNormalization(n)
	xs := mustShape(p, x)
	if !ok || len(xs) < 2 || int64(len(scale)) != xs[1] || p.dtype(x) != tensor.Float32 {
		return
	}
	u.reads = []string{x}
	inner, _ := xs[2:].Elements()
	u.emit = func(p *planner, prog *kernels.Program) error {
		channels := tensor.Shape{xs[1]}
		op := &kernels.Map{Compute: uint32(tensor.Float32), Rank: 3, Inputs: 3, Steps: 2}
		copy(op.Dims[:], []int64{xs[0], xs[1], inner})
		dense := [kernels.MapRank]int64{xs[1] * inner, inner, 1}
		of := func(r kernels.Ref, stride [kernels.MapRank]int64) kernels.MapOperand {
			return kernels.MapOperand{Data: r, DType: uint32(tensor.Float32), Stride: stride}
		}
		op.In[0], op.Out = of(p.ref(x), dense), of(p.ref(y), dense)
		for i, values := range [][]float32{scale, offset} {
			b := p.open(fmt.Sprintf("%s:channels %d", y, i), tensor.Floats(channels, values...))
			op.In[1+i] = of(kernels.Ref{Buffer: b}, [kernels.MapRank]int64{0, 1, 0})
		}
		op.Step[0] = kernels.Step{Fn: kernels.FnMul, A: 0, B: 1}
		op.Step[1] = kernels.Step{Fn: kernels.FnAdd, A: kernels.StepResult(0), B: 2}
		prog.Add(op)
		return nil
	}
}

// groupNorm: GroupNormalization and InstanceNormalization, whose groups are the channels.
func groupNorm(p *planner, n *graph.Node, u *unit) {
	x, scale, bias, y := n.Inputs[0], n.Inputs[1], n.Inputs[2], n.Outputs[0]
	xs := mustShape(p, x)
	if p.dtype(x) != tensor.Float32 || p.dtype(scale) != tensor.Float32 || p.dtype(bias) != tensor.Float32 || len(xs) < 3 || n.AttrInt("stash_type", 1) != 1 {
		return
	}
	groups := n.AttrInt("num_groups", xs[1])
	if groups < 1 || xs[1]%groups != 0 || p.elements(bias) != p.elements(scale) {
		return
	}
	inner, _ := xs[2:].Elements()
	op := kernels.GroupNorm{Batch: xs[0], Groups: groups, Channels: xs[1] / groups, Inner: inner, Eps: n.AttrFloat("epsilon", 1e-5)}
	spread := p.elements(scale) == groups && op.Channels > 1 // one number for a group, until operator set 21
	if spread && (p.floats(scale) == nil || p.floats(bias) == nil) || !spread && p.elements(scale) != xs[1] {
		return
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Y = p.ref(x), p.ref(y)
		if !spread {
			o.Scale, o.Bias = p.ref(scale), p.ref(bias)
			prog.Add(&o)
			return nil
		}
		for i, to := range []*kernels.Ref{&o.Scale, &o.Bias} {
			var all []float32
			for _, v := range p.floats([]string{scale, bias}[i]) {
				all = append(all, slices.Repeat([]float32{v}, int(op.Channels))...)
			}
			*to = kernels.Ref{Buffer: p.open(fmt.Sprintf("%s:channels %d", y, i), tensor.Floats(tensor.Shape{xs[1]}, all...))}
		}
		prog.Add(&o)
		return nil
	}
}
