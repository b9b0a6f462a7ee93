package models

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Names that whoever feeds sound to graphs must know.
const (
	Samples       = "samples" // symbolic dimension of InputValues
	Frames        = "frames"  // symbolic dimension of what a sound's encoder makes of it
	InputValues   = "input_values"
	AttentionMask = "attention_mask"
)

// FrameClock says which samples of a sound a frame is made of: frame i of those from
// i*Stride to i*Stride+Window-1.
type FrameClock struct{ Stride, Window int64 }

// Frames is how many frames there are of so many samples.
func (c FrameClock) Frames(samples int64) int64 {
	if samples < c.Window {
		return 0
	}
	return (samples-c.Window)/c.Stride + 1
}

// wav2vec2Config is the part of config.json that the graphs depend on.
type wav2vec2Config struct {
	vocab, hidden, layers, heads, inner int64
	channels, kernels, strides          []int64 // of the convolutions that make frames
	convBias, convNorm                  bool    // convNorm: every convolution has a layer norm; else the first a norm over time
	convAct, act                        string
	around, groups                      int64 // frames and groups of the convolution that knows positions
	stable                              bool  // layers are normalised before, not after
	eps                                 float32
	pad                                 int64
}

// convNormEps is what norms between convolutions add to the variance: PyTorch's default.
const convNormEps = 1e-5

func wav2vec2Fields(f checkpoint.Fields) wav2vec2Config {
	c := wav2vec2Config{
		vocab:    f.Int("vocab_size", 1, maxVocab),
		hidden:   f.Int("hidden_size", 1, maxWidth),
		layers:   f.Int("num_hidden_layers", 1, maxLayers),
		heads:    f.Int("num_attention_heads", 1, maxWidth),
		inner:    f.Int("intermediate_size", 1, maxInner),
		channels: f.Ints("conv_dim", 1, maxWidth),
		kernels:  f.Ints("conv_kernel", 1, maxWidth),
		strides:  f.Ints("conv_stride", 1, maxWidth),
		convBias: f.BoolOr("conv_bias", false),
		convAct:  activation(f, "feat_extract_activation", "gelu"),
		act:      activation(f, "hidden_act", "gelu"),
		around:   f.IntOr("num_conv_pos_embeddings", 128, 1, maxWidth),
		groups:   f.IntOr("num_conv_pos_embedding_groups", 16, 1, maxWidth),
		stable:   f.BoolOr("do_stable_layer_norm", false),
		eps:      float32(f.FloatOr("layer_norm_eps", 1e-5, 0, 1)),
		pad:      f.IntOr("pad_token_id", 0, 0, maxVocab),
	}
	if len(c.channels) == 0 && f.Err() == nil {
		c.channels = slices.Repeat([]int64{512}, 7)
		c.kernels = []int64{10, 3, 3, 3, 3, 2, 2}
		c.strides = []int64{5, 2, 2, 2, 2, 2, 2}
	}
	fail := func(field string, found any, wanted, remedy string) {
		if f.Err() == nil {
			f.Fail(field, fmt.Sprintf("found %v", found), wanted, remedy)
		}
	}
	norm := f.StringOr("feat_extract_norm", "group")
	switch n := len(c.channels); {
	case n > maxLayers:
		fail("conv_dim", fmt.Sprintf("%d layers", n), fmt.Sprintf("at most %d", maxLayers), "")
	case len(c.kernels) != n:
		fail("conv_kernel", c.kernels, fmt.Sprintf("%d numbers, as many as conv_dim has", n), "")
	case len(c.strides) != n:
		fail("conv_stride", c.strides, fmt.Sprintf("%d numbers, as many as conv_dim has", n), "")
	case norm != "group" && norm != "layer":
		fail("feat_extract_norm", strconv.Quote(norm), `"group" or "layer"`, "")
	case f.Err() == nil && c.hidden%c.heads != 0:
		fail("num_attention_heads", c.heads, fmt.Sprintf("a divisor of hidden_size, which is %d", c.hidden), "")
	case f.Err() == nil && c.hidden%c.groups != 0:
		fail("num_conv_pos_embedding_groups", c.groups, fmt.Sprintf("a divisor of hidden_size, which is %d", c.hidden), "")
	case f.BoolOr("add_adapter", false):
		fail("add_adapter", true, "false", "adapters after the encoder are not built")
	case f.Has("adapter_attn_dim"):
		fail("adapter_attn_dim", f.Int("adapter_attn_dim", 0, maxWidth), "null", "adapters in the layers, one a language, are not built")
	}
	c.convNorm = norm == "layer"
	if clock := c.clock(); f.Err() == nil && (clock.Window > maxSamples || clock.Stride > maxSamples) {
		fail("conv_stride", c.strides, fmt.Sprintf("frames of at most %d samples", maxSamples), "")
	}
	return c
}

// maxSamples bounds a sound that a graph takes at once: 17 minutes at 16 kHz.
const maxSamples = 1 << 24

// clock is what the convolutions come to.
func (c *wav2vec2Config) clock() FrameClock {
	clock := FrameClock{Stride: 1, Window: 1}
	for i := range min(len(c.kernels), len(c.strides)) {
		if clock.Stride > maxSamples {
			break // too much already; no overflow
		}
		clock.Window += (c.kernels[i] - 1) * clock.Stride
		clock.Stride *= c.strides[i]
	}
	return clock
}

// CTC says how the logits of the component CTC are read as text (Graves et al. 2006,
// "Connectionist Temporal Classification").
type CTC struct {
	FrameClock
	VocabSize int64
	Blank     int64 // the token of frames that say nothing
}

// wav2vec2 is Wav2Vec 2.0 (arXiv:2006.11477).
func wav2vec2(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := wav2vec2Fields(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &Model{VocabSize: c.vocab, PadToken: c.pad}
	w := &weights{ck: ck, prefix: "wav2vec2.", used: map[string]bool{}}
	w.skip("masked_spec_embed") // what training puts in place of frames

	n := newNet(Full, w, o)
	x := n.wav2vec2(c)
	n.frames("extract_features", x.features, c.channels[len(c.channels)-1])
	n.frames("last_hidden_state", x.hidden, c.hidden)
	head := slices.Contains(ck.Architectures, "Wav2Vec2ForCTC")
	if head {
		logits := n.linear("lm_head", x.hidden, "lm_head", c.hidden, c.vocab)
		n.frames(Logits, logits, c.vocab)
		ids := n.in("lm_head").Op("ArgMax", []string{logits}, graph.IntAttr("axis", -1), graph.IntAttr("keepdims", 0))
		n.Output("argmax_ids", ids, graph.TensorType(tensor.Int64, graph.Sym(Batch), graph.Sym(Frames)))
	} else {
		for _, a := range ck.Architectures {
			if !strings.HasSuffix(a, "Model") {
				m.Notes = append(m.Notes, fmt.Sprintf("the architecture %s is not known: its outputs beyond the encoder's are left out", a))
			}
		}
	}
	if err := m.add(Full, c.inputs(), n); err != nil {
		return nil, err
	}
	if head {
		if c.pad >= c.vocab {
			f.Fail("pad_token_id", fmt.Sprintf("found %d", c.pad), fmt.Sprintf("a token below vocab_size, which is %d", c.vocab), "it is CTC's blank")
			return nil, f.Err()
		}
		n := newNet(CTCLogits, w, o)
		n.frames(Logits, n.linear("lm_head", n.wav2vec2(c).hidden, "lm_head", c.hidden, c.vocab), c.vocab)
		if err := m.add(CTCLogits, c.inputs(), n); err != nil {
			return nil, err
		}
		m.CTC = &CTC{FrameClock: c.clock(), VocabSize: c.vocab, Blank: c.pad}
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// inputs are a sound, and which of its samples are not padding.
func (c *wav2vec2Config) inputs() inputs {
	dims := symbols(Batch, Samples)
	return inputs{list: []input{
		{name: InputValues, dtype: tensor.Float32, dims: dims},
		{name: AttentionMask, dtype: tensor.Int32, dims: dims, below: 2, wanted: "0 or 1", fill: ones},
	}, sizes: map[string]size{Samples: {least: c.clock().Window, most: maxSamples, remedy: "a frame is made of the least; split a sound that is longer than the most"}},
		also: c.padsBehind}
}

// padsBehind refuses a mask that is not ones, enough of them for a frame, and zeros
// behind.
func (c *wav2vec2Config) padsBehind(given feeds) error {
	mask := given[AttentionMask]
	values, samples := tensor.View[int32](mask.Aligned()), int(mask.Shape[1])
	for row := 0; len(values) > 0; row++ {
		here := values[:samples]
		end := slices.Index(here, 0)
		if end < 0 {
			end = samples
		}
		if int64(end) < c.clock().Window {
			return &InputError{Input: AttentionMask, Index: []int64{int64(row)}, Found: fmt.Sprintf("%d samples that count at its start", end),
				Wanted: fmt.Sprintf("at least %d, of which a frame is made", c.clock().Window)}
		}
		if i := slices.Index(here[end:], 1); i >= 0 {
			return &InputError{Input: AttentionMask, Index: []int64{int64(row), int64(end + i)}, Found: "found 1 behind a 0", Wanted: "padding behind the sound alone"}
		}
		values = values[samples:]
	}
	return nil
}

// frames makes a float32 value [batch, frames, width] an output.
func (n net) frames(name, value string, width int64) {
	n.Output(name, value, graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Sym(Frames), graph.Known(width)))
}

// wav2vec2Values are what the encoder makes.
type wav2vec2Values struct {
	features string // normalised, [batch, frames, channels]
	hidden   string // [batch, frames, hidden]
}

// wav2vec2 builds the inputs and the encoder.
func (n net) wav2vec2(c wav2vec2Config) wav2vec2Values {
	c.inputs().declare(n.Builder)
	x := n.in("features").Op("Unsqueeze", []string{InputValues, n.Ints(1)})
	in := int64(1)
	for i, out := range c.channels {
		x = n.frameConv(i, x, c, in, out)
		in = out
	}
	x = n.in("features").Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
	features := n.layerNorm("projection.norm", x, "feature_projection.layer_norm", in, c.eps)
	x = n.linear("projection", features, "feature_projection.projection", in, c.hidden)

	// A frame counts if its last sample does, so the masks of frames are every Stride-th
	// of samples. Frames that don't count are zero before positions are mixed in.
	clock := c.clock()
	e := n.in("mask")
	counts := e.Op("Slice", []string{AttentionMask, n.Ints(clock.Window - 1), n.Ints(maxSamples), n.Ints(1), n.Ints(clock.Stride)})
	x = e.Op("Mul", []string{x, e.Op("Unsqueeze", []string{e.cast(counts, tensor.Float32), n.Ints(-1)})})
	mask := n.keyMask(counts)

	x = n.in("positions").Op("Add", []string{x, n.around(x, c)})
	norm := func(scope, x, name string) string { return n.layerNorm(scope, x, name, c.hidden, c.eps) }
	add := func(scope, x, y string) string { return n.in(scope).Op("Add", []string{x, y}) }
	if !c.stable {
		x = norm("encoder.norm", x, "encoder.layer_norm")
	}
	for i := range c.layers {
		scope, name := fmt.Sprintf("encoder.layer.%d", i), fmt.Sprintf("encoder.layers.%d.", i)
		attend := func(x string) string {
			return n.selfAttention(scope+".attention", x, mask, attentionNames{q: name + "attention.q_proj", k: name + "attention.k_proj", v: name + "attention.v_proj", out: name + "attention.out_proj"}, c.hidden, c.heads)
		}
		mlp := func(x string) string {
			return n.mlp(scope+".mlp", x, name+"feed_forward.intermediate_dense", name+"feed_forward.output_dense", c.act, c.hidden, c.inner)
		}
		first, last := name+"layer_norm", name+"final_layer_norm"
		if c.stable {
			x = add(scope+".attention", x, attend(norm(scope+".attention.norm", x, first)))
			x = add(scope+".mlp", x, mlp(norm(scope+".mlp.norm", x, last)))
		} else {
			x = n.residualNorm(scope+".attention.norm", attend(x), x, first, c.hidden, c.eps)
			x = n.residualNorm(scope+".mlp.norm", mlp(x), x, last, c.hidden, c.eps)
		}
	}
	if c.stable {
		x = norm("encoder.norm", x, "encoder.layer_norm")
	}
	return wav2vec2Values{features: features, hidden: x}
}

// frameConv is one of the convolutions that make frames of samples: [batch, in, time]
// -> [batch, out, less time].
func (n net) frameConv(i int, x string, c wav2vec2Config, in, out int64) string {
	name := fmt.Sprintf("feature_extractor.conv_layers.%d.", i)
	scope := fmt.Sprintf("features.conv.%d", i)
	n = n.in(scope)
	inputs := []string{x, n.weight(name+"conv.weight", out, in, c.kernels[i])}
	if c.convBias {
		inputs = append(inputs, n.weight(name+"conv.bias", out))
	}
	x = n.Op("Conv", inputs, graph.IntsAttr("kernel_shape", c.kernels[i]), graph.IntsAttr("strides", c.strides[i]))
	switch {
	case c.convNorm:
		x = n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
		x = n.layerNorm("norm", x, name+"layer_norm", out, convNormEps)
		x = n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
	case i == 0:
		// One group a channel.
		x = n.Op("InstanceNormalization", []string{x, n.weight(name+"layer_norm.weight", out), n.weight(name+"layer_norm.bias", out)},
			graph.FloatAttr("epsilon", convNormEps))
	}
	return activations[c.convAct](n, x)
}

// around is the convolution that tells frames where they are: x [batch, frames,
// hidden] -> the same. Its weights are stored as directions and lengths, one length for
// each place of the kernel (Salimans and Kingma 2016, arXiv:1602.07868).
func (n net) around(x string, c wav2vec2Config) string {
	n = n.in("positions")
	const name = "encoder.pos_conv_embed.conv."
	length, direction := name+"parametrizations.weight.original0", name+"parametrizations.weight.original1"
	if old := name + "weight_g"; n.w.has(old) {
		length, direction = old, name+"weight_v"
	}
	v := n.weight(direction, c.hidden, c.hidden/c.groups, c.around)
	norm := n.Op("ReduceL2", []string{v, n.Ints(0, 1)}, graph.IntAttr("keepdims", 1))
	kernel := n.Op("Mul", []string{v, n.Op("Div", []string{n.weight(length, 1, 1, c.around), norm})})
	x = n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
	x = n.Op("Conv", []string{x, kernel, n.weight(name+"bias", c.hidden)}, graph.IntsAttr("kernel_shape", c.around),
		graph.IntsAttr("pads", c.around/2, (c.around-1)/2), graph.IntAttr("group", c.groups))
	x = activations[c.convAct](n, x)
	return n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
}
