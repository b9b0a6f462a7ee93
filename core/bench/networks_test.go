package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// The networks are written as exporters of PyTorch write them, in operator set 17,
// at real sizes with random weights: ResNet-50 with its batch normalisations folded
// into convolutions (torchvision), ViT-B/16 and BERT-base with attention in pieces
// and GELU by Erf (transformers), ConvNeXt-T with its transpositions, Whisper-tiny's
// encoder, and a decoder of LLaMA's kind with rotary positions, shared key heads and
// RMS norms in pieces.

// network is a model that is timed.
type network struct {
	name    string
	build   func(*net)
	inputs  func(batch int64, rng *rand.Rand) map[string]tensor.Tensor
	batches []int64
}

var networks = []network{
	{"ResNet-50", resnet50, picture(224), []int64{1, 8}},
	{"ViT-B16", vitB16, picture(224), []int64{1}},
	{"ConvNeXt-T", convnextT, picture(224), []int64{1, 8}},
	{"BERT-base", bertBaseONNX, sentences(30522, 128), []int64{1, 8}},
	{"Whisper-tiny-encoder", whisperTiny, func(batch int64, rng *rand.Rand) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"input_features": normal(rng, 1, batch, 80, 3000)}
	}, []int64{1}},
	{"LLaMA-6-layers", llama6, func(batch int64, rng *rand.Rand) map[string]tensor.Tensor {
		in := sentences(32000, 128)(batch, rng)
		delete(in, "attention_mask")
		return in
	}, []int64{1}},
}

func picture(size int64) func(int64, *rand.Rand) map[string]tensor.Tensor {
	return func(batch int64, rng *rand.Rand) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"pixel_values": normal(rng, 1, batch, 3, size, size)}
	}
}

func sentences(vocab, length int64) func(int64, *rand.Rand) map[string]tensor.Tensor {
	return func(batch int64, rng *rand.Rand) map[string]tensor.Tensor {
		ids, mask := make([]int64, batch*length), make([]int64, batch*length)
		for i := range ids {
			ids[i], mask[i] = rng.Int64N(vocab), 1
		}
		s := tensor.Shape{batch, length}
		return map[string]tensor.Tensor{"input_ids": tensor.Ints(s, ids...), "attention_mask": tensor.Ints(s, mask...)}
	}
}

// normal is a tensor of about normal numbers: sums of four uniform ones, which are cheap.
func normal(rng *rand.Rand, scale float64, shape ...int64) tensor.Tensor {
	t, err := tensor.New(tensor.Float32, shape)
	if err != nil {
		panic(err) // a shape of this file
	}
	v := tensor.View[float32](t)
	unit := float32(scale * math.Sqrt(3) / 65536)
	for i := range v {
		r := rng.Uint64()
		v[i] = unit * (float32(r&0xffff) + float32(r>>16&0xffff) + float32(r>>32&0xffff) + float32(r>>48) - 2*65535)
	}
	return t
}

// net is a network as it is written.
type net struct {
	*graph.Builder
	rng *rand.Rand
}

func (n *net) op(op string, inputs []string, attrs ...*graph.Attr) string {
	return n.Op(op, inputs, attrs...)
}

func (n *net) weight(name string, scale float64, shape ...int64) string {
	return n.Tensor(name, normal(n.rng, scale, shape...))
}

func (n *net) vector(name string, mean float32, scale float64, size int64) string {
	t := normal(n.rng, scale, size)
	for i := range tensor.View[float32](t) {
		tensor.View[float32](t)[i] += mean
	}
	return n.Tensor(name, t)
}

func (n *net) add(a, b string) string { return n.op("Add", []string{a, b}) }
func (n *net) mul(a, b string) string { return n.op("Mul", []string{a, b}) }

func (n *net) transpose(x string, perm ...int64) string {
	return n.op("Transpose", []string{x}, graph.IntsAttr("perm", perm...))
}

func (n *net) reshape(x string, dims ...int64) string {
	return n.op("Reshape", []string{x, n.Ints(dims...)})
}

// linear is MatMul by an [in, out] weight and Add, as the exporter writes torch.nn.Linear.
func (n *net) linear(x, name string, in, out int64, bias bool) string {
	y := n.op("MatMul", []string{x, n.weight(name+".weight", 1/math.Sqrt(float64(in)), in, out)})
	if bias {
		y = n.add(n.vector(name+".bias", 0, 0.02, out), y)
	}
	return y
}

func (n *net) layerNorm(x, name string, size int64, eps float32) string {
	return n.op("LayerNormalization", []string{x, n.vector(name+".weight", 1, 0.02, size), n.vector(name+".bias", 0, 0.02, size)},
		graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", eps))
}

// gelu by the error function, in pieces.
func (n *net) gelu(x string) string {
	e := n.op("Erf", []string{n.op("Div", []string{x, n.Float(math.Sqrt2)})})
	return n.mul(n.mul(x, n.add(e, n.Float(1))), n.Float(0.5))
}

func (n *net) conv(x, name string, in, out, kernel, stride, pad, groups int64, relu bool) string {
	fan := float64(in / groups * kernel * kernel)
	y := n.op("Conv", []string{x, n.weight(name+".weight", math.Sqrt(2/fan), out, in/groups, kernel, kernel), n.vector(name+".bias", 0, 0.02, out)},
		graph.IntsAttr("dilations", 1, 1), graph.IntAttr("group", groups), graph.IntsAttr("kernel_shape", kernel, kernel),
		graph.IntsAttr("pads", pad, pad, pad, pad), graph.IntsAttr("strides", stride, stride))
	if relu {
		y = n.op("Relu", []string{y})
	}
	return y
}

func (n *net) classifier(x, name string, in int64) string {
	return n.op("Gemm", []string{x, n.weight(name+".weight", 1/math.Sqrt(float64(in)), 1000, in), n.vector(name+".bias", 0, 0.02, 1000)},
		graph.FloatAttr("alpha", 1), graph.FloatAttr("beta", 1), graph.IntAttr("transB", 1))
}

// like is a type of float32 with a symbolic batch before the given dimensions.
func like(d tensor.DType, dims ...any) *graph.Type {
	t := graph.TensorType(d)
	for _, v := range dims {
		switch v := v.(type) {
		case string:
			t.Dims = append(t.Dims, graph.Sym(v))
		case int:
			t.Dims = append(t.Dims, graph.Known(int64(v)))
		}
	}
	return t
}

func resnet50(n *net) {
	x := n.Input("pixel_values", like(tensor.Float32, "batch", 3, 224, 224))
	h := n.conv(x, "stem", 3, 64, 7, 2, 3, 1, true)
	h = n.op("MaxPool", []string{h}, graph.IntAttr("ceil_mode", 0), graph.IntsAttr("kernel_shape", 3, 3), graph.IntsAttr("pads", 1, 1, 1, 1), graph.IntsAttr("strides", 2, 2))
	in := int64(64)
	for stage, blocks := range []int{3, 4, 6, 3} {
		mid := int64(64) << stage
		for i := range blocks {
			name := fmt.Sprintf("layer%d.%d", stage+1, i)
			stride := int64(1)
			if i == 0 && stage > 0 {
				stride = 2
			}
			y := n.conv(h, name+".conv1", in, mid, 1, 1, 0, 1, true)
			y = n.conv(y, name+".conv2", mid, mid, 3, stride, 1, 1, true)
			y = n.conv(y, name+".conv3", mid, 4*mid, 1, 1, 0, 1, false)
			if i == 0 {
				h = n.conv(h, name+".downsample", in, 4*mid, 1, stride, 0, 1, false)
			}
			h, in = n.op("Relu", []string{n.add(y, h)}), 4*mid
		}
	}
	h = n.op("Flatten", []string{n.op("GlobalAveragePool", []string{h})}, graph.IntAttr("axis", 1))
	n.Output("logits", n.classifier(h, "fc", 2048), like(tensor.Float32, "batch", 1000))
}

// attention in pieces, as scaled_dot_product_attention is exported: q and k each by the
// root of the scale. mask may be "".
func (n *net) attention(q, k, v string, heads, dim int64, mask string) string {
	split := func(x string, perm ...int64) string { return n.transpose(n.reshape(x, 0, -1, heads, dim), perm...) }
	root := n.Float(float32(math.Pow(float64(dim), -0.25)))
	s := n.op("MatMul", []string{n.mul(split(q, 0, 2, 1, 3), root), n.mul(split(k, 0, 2, 3, 1), root)})
	if mask != "" {
		s = n.add(s, mask)
	}
	o := n.op("MatMul", []string{n.op("Softmax", []string{s}, graph.IntAttr("axis", -1)), split(v, 0, 2, 1, 3)})
	return n.reshape(n.transpose(o, 0, 2, 1, 3), 0, -1, heads*dim)
}

func vitB16(n *net) {
	const hidden, heads, layers, inter = 768, 12, 12, 3072
	x := n.Input("pixel_values", like(tensor.Float32, "batch", 3, 224, 224))
	batch := n.op("Gather", []string{n.op("Shape", []string{x}), n.Int(0)}, graph.IntAttr("axis", 0))
	h := n.conv(x, "patch", 3, hidden, 16, 16, 0, 1, false)
	h = n.transpose(n.reshape(h, 0, hidden, -1), 0, 2, 1)
	shape := n.op("Concat", []string{n.op("Unsqueeze", []string{batch, n.Ints(0)}), n.Ints(-1), n.Ints(-1)}, graph.IntAttr("axis", 0))
	wanted := n.op("Where", []string{n.op("Equal", []string{shape, n.Ints(-1, -1, -1)}), n.Ints(1, 1, 1), shape})
	token := n.op("Expand", []string{n.weight("cls_token", 0.02, 1, 1, hidden), wanted})
	h = n.op("Concat", []string{token, h}, graph.IntAttr("axis", 1))
	h = n.add(h, n.weight("position_embeddings", 0.02, 1, 197, hidden))
	for i := range layers {
		p := "layer." + strconv.Itoa(i)
		y := n.layerNorm(h, p+".norm1", hidden, 1e-12)
		q, k, v := n.linear(y, p+".query", hidden, hidden, true), n.linear(y, p+".key", hidden, hidden, true), n.linear(y, p+".value", hidden, hidden, true)
		h = n.add(n.linear(n.attention(q, k, v, heads, hidden/heads, ""), p+".output", hidden, hidden, true), h)
		y = n.gelu(n.linear(n.layerNorm(h, p+".norm2", hidden, 1e-12), p+".intermediate", hidden, inter, true))
		h = n.add(n.linear(y, p+".mlp", inter, hidden, true), h)
	}
	h = n.op("Gather", []string{n.layerNorm(h, "norm", hidden, 1e-12), n.Int(0)}, graph.IntAttr("axis", 1))
	n.Output("logits", n.classifier(h, "classifier", hidden), like(tensor.Float32, "batch", 1000))
}

func convnextT(n *net) {
	x := n.Input("pixel_values", like(tensor.Float32, "batch", 3, 224, 224))
	// Channels go last for a norm, and back.
	norm := func(h, name string, size int64) string {
		return n.transpose(n.layerNorm(n.transpose(h, 0, 2, 3, 1), name, size, 1e-6), 0, 3, 1, 2)
	}
	h := norm(n.conv(x, "stem", 3, 96, 4, 4, 0, 1, false), "stem.norm", 96)
	in := int64(96)
	for stage, blocks := range []int{3, 3, 9, 3} {
		size := int64(96) << stage
		if stage > 0 {
			h = n.conv(norm(h, fmt.Sprintf("down%d.norm", stage), in), fmt.Sprintf("down%d", stage), in, size, 2, 2, 0, 1, false)
			in = size
		}
		for i := range blocks {
			p := fmt.Sprintf("stage%d.%d", stage, i)
			y := n.transpose(n.conv(h, p+".dw", size, size, 7, 1, 3, size, false), 0, 2, 3, 1)
			y = n.gelu(n.linear(n.layerNorm(y, p+".norm", size, 1e-6), p+".fc1", size, 4*size, true))
			y = n.mul(n.vector(p+".gamma", 0.3, 0.02, size), n.linear(y, p+".fc2", 4*size, size, true))
			h = n.add(h, n.transpose(y, 0, 3, 1, 2))
		}
	}
	h = n.op("Flatten", []string{n.op("GlobalAveragePool", []string{h})}, graph.IntAttr("axis", 1))
	n.Output("logits", n.classifier(n.layerNorm(h, "norm", 768, 1e-6), "head", 768), like(tensor.Float32, "batch", 1000))
}

func bertBaseONNX(n *net) {
	const hidden, heads, layers, inter, vocab = 768, 12, 12, 3072, 30522
	ids, mask := n.Input("input_ids", like(tensor.Int64, "batch", "sequence")), n.Input("attention_mask", like(tensor.Int64, "batch", "sequence"))
	m := n.op("Cast", []string{n.op("Unsqueeze", []string{mask, n.Ints(1, 2)})}, graph.IntAttr("to", int64(tensor.Float32)))
	m = n.mul(n.op("Sub", []string{n.Float(1), m}), n.Float(-math.MaxFloat32))
	length := n.op("Gather", []string{n.op("Shape", []string{ids}), n.Int(1)}, graph.IntAttr("axis", 0))
	places := n.op("Slice", []string{n.Const(counting(512)), n.Ints(0), n.op("Unsqueeze", []string{length, n.Ints(0)}), n.Ints(1), n.Ints(1)})
	row := func(name string, size int64, at string) string {
		return n.op("Gather", []string{n.weight(name, 0.05, size, hidden), at}, graph.IntAttr("axis", 0))
	}
	zeros := n.op("Sub", []string{ids, ids})
	h := n.add(n.add(row("word_embeddings", vocab, ids), row("token_type_embeddings", 2, zeros)), row("position_embeddings", 512, places))
	h = n.layerNorm(h, "embeddings.norm", hidden, 1e-12)
	for i := range layers {
		p := "layer." + strconv.Itoa(i)
		q, k, v := n.linear(h, p+".query", hidden, hidden, true), n.linear(h, p+".key", hidden, hidden, true), n.linear(h, p+".value", hidden, hidden, true)
		h = n.layerNorm(n.add(n.linear(n.attention(q, k, v, heads, hidden/heads, m), p+".output", hidden, hidden, true), h), p+".norm1", hidden, 1e-12)
		y := n.linear(n.gelu(n.linear(h, p+".intermediate", hidden, inter, true)), p+".dense", inter, hidden, true)
		h = n.layerNorm(n.add(y, h), p+".norm2", hidden, 1e-12)
	}
	n.Output("last_hidden_state", h, like(tensor.Float32, "batch", "sequence", hidden))
}

// counting is [1, size]: 0, 1, 2, ...
func counting(size int64) tensor.Tensor {
	v := make([]int64, size)
	for i := range v {
		v[i] = int64(i)
	}
	return tensor.Ints(tensor.Shape{1, size}, v...)
}

func whisperTiny(n *net) {
	const hidden, heads, layers, inter = 384, 6, 4, 1536
	x := n.Input("input_features", like(tensor.Float32, "batch", 80, 3000))
	conv := func(x, name string, in, stride int64) string {
		w := n.weight(name+".weight", math.Sqrt(2/float64(3*in)), hidden, in, 3)
		return n.gelu(n.op("Conv", []string{x, w, n.vector(name+".bias", 0, 0.02, hidden)}, graph.IntsAttr("dilations", 1), graph.IntAttr("group", 1),
			graph.IntsAttr("kernel_shape", 3), graph.IntsAttr("pads", 1, 1), graph.IntsAttr("strides", stride)))
	}
	h := n.transpose(conv(conv(x, "conv1", 80, 1), "conv2", hidden, 2), 0, 2, 1)
	h = n.add(h, n.weight("embed_positions", 0.05, 1500, hidden))
	for i := range layers {
		p := "layers." + strconv.Itoa(i)
		y := n.layerNorm(h, p+".norm1", hidden, 1e-5)
		q, k, v := n.linear(y, p+".q", hidden, hidden, true), n.linear(y, p+".k", hidden, hidden, false), n.linear(y, p+".v", hidden, hidden, true)
		h = n.add(h, n.linear(n.attention(q, k, v, heads, hidden/heads, ""), p+".out", hidden, hidden, true))
		y = n.gelu(n.linear(n.layerNorm(h, p+".norm2", hidden, 1e-5), p+".fc1", hidden, inter, true))
		h = n.add(h, n.linear(y, p+".fc2", inter, hidden, true))
	}
	n.Output("last_hidden_state", n.layerNorm(h, "norm", hidden, 1e-5), like(tensor.Float32, "batch", 1500, hidden))
}

func llama6(n *net) {
	const hidden, heads, kv, dim, layers, inter, vocab = 768, 12, 4, 64, 6, 2048, 32000
	ids := n.Input("input_ids", like(tensor.Int64, "batch", "sequence"))
	norm := func(x, name string) string {
		mean := n.op("ReduceMean", []string{n.op("Pow", []string{x, n.Float(2)})}, graph.IntsAttr("axes", -1), graph.IntAttr("keepdims", 1))
		root := n.op("Sqrt", []string{n.add(mean, n.Float(1e-5))})
		return n.mul(n.vector(name, 1, 0.02, hidden), n.mul(x, n.op("Div", []string{n.Float(1), root})))
	}
	shape := n.op("Shape", []string{ids})
	length := n.op("Gather", []string{shape, n.Int(1)}, graph.IntAttr("axis", 0))
	places := n.op("Range", []string{n.Int(0), length, n.Int(1)})
	column := n.op("Unsqueeze", []string{places, n.Ints(1)})
	// Query i attends to key j up to i.
	later := n.op("Greater", []string{n.op("Unsqueeze", []string{places, n.Ints(0)}), column})
	mask := n.op("Unsqueeze", []string{n.op("Where", []string{later, n.Float(-math.MaxFloat32), n.Float(0)}), n.Ints(0, 1)})
	frequency := make([]float32, dim/2)
	for i := range frequency {
		frequency[i] = float32(math.Pow(10000, -2*float64(i)/dim))
	}
	angles := n.op("MatMul", []string{n.op("Cast", []string{column}, graph.IntAttr("to", int64(tensor.Float32))), n.Const(tensor.Floats(tensor.Shape{1, dim / 2}, frequency...))})
	angles = n.op("Concat", []string{angles, angles}, graph.IntAttr("axis", -1))
	cos, sin := n.op("Unsqueeze", []string{n.op("Cos", []string{angles}), n.Ints(0, 1)}), n.op("Unsqueeze", []string{n.op("Sin", []string{angles}), n.Ints(0, 1)})
	turn := func(x string) string {
		part := func(from, to int64) string {
			return n.op("Slice", []string{x, n.Ints(from), n.Ints(to), n.Ints(3), n.Ints(1)})
		}
		turned := n.op("Concat", []string{n.op("Neg", []string{part(dim/2, math.MaxInt64)}), part(0, dim/2)}, graph.IntAttr("axis", -1))
		return n.add(n.mul(x, cos), n.mul(turned, sin))
	}
	split := func(x string, heads int64) string { return n.transpose(n.reshape(x, 0, -1, heads, dim), 0, 2, 1, 3) }
	batch := n.op("Unsqueeze", []string{n.op("Gather", []string{shape, n.Int(0)}, graph.IntAttr("axis", 0)), n.Ints(0)})
	rows := n.op("Unsqueeze", []string{length, n.Ints(0)})
	each := n.op("Concat", []string{batch, n.Ints(kv), n.Ints(heads / kv), rows, n.Ints(dim)}, graph.IntAttr("axis", 0))
	all := n.op("Concat", []string{batch, n.Ints(heads), rows, n.Ints(dim)}, graph.IntAttr("axis", 0))
	repeat := func(x string) string {
		return n.op("Reshape", []string{n.op("Expand", []string{n.op("Unsqueeze", []string{x, n.Ints(2)}), each}), all})
	}
	h := n.op("Gather", []string{n.weight("embed_tokens", 1, vocab, hidden), ids}, graph.IntAttr("axis", 0))
	root := n.Float(float32(math.Pow(dim, -0.25)))
	for i := range layers {
		p := "layers." + strconv.Itoa(i)
		y := norm(h, p+".input_norm")
		q := turn(split(n.linear(y, p+".q", hidden, heads*dim, false), heads))
		k := repeat(turn(split(n.linear(y, p+".k", hidden, kv*dim, false), kv)))
		v := repeat(split(n.linear(y, p+".v", hidden, kv*dim, false), kv))
		s := n.op("MatMul", []string{n.mul(q, root), n.mul(n.transpose(k, 0, 1, 3, 2), root)})
		o := n.op("MatMul", []string{n.op("Softmax", []string{n.add(s, mask)}, graph.IntAttr("axis", -1)), v})
		o = n.reshape(n.transpose(o, 0, 2, 1, 3), 0, -1, heads*dim)
		h = n.add(h, n.linear(o, p+".o", heads*dim, hidden, false))
		y = norm(h, p+".post_norm")
		gate := n.linear(y, p+".gate", hidden, inter, false)
		gate = n.mul(gate, n.op("Sigmoid", []string{gate}))
		h = n.add(h, n.linear(n.mul(gate, n.linear(y, p+".up", hidden, inter, false)), p+".down", inter, hidden, false))
	}
	n.Output("logits", n.linear(norm(h, "norm"), "lm_head", hidden, vocab, false), like(tensor.Float32, "batch", "sequence", vocab))
}
