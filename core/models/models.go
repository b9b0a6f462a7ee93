// Package models knows the classes of models: how a class's config.json becomes
// graphs over the checkpoint's own weights. One file a class; what they share is
// in blocks.go, weights.go, encoder.go, decoder.go and rope.go.
//
// Graphs are ONNX opset 23. Weights are external initialisers that point into the
// checkpoint's files, called as the checkpoint calls them, and kept as stored:
// linears [out,in] with a Transpose, other float types with a Cast to float32.
// Nodes are called SCOPE/Operator, where the scope ends with the layer's role, such
// as encoder.layer.0.attention.q.
package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Class is a kind of model that can be built.
type Class struct {
	Name      string // by which routes and policies know it, such as "bert"
	ModelType string // model_type of config.json, such as "roberta"

	load func(*checkpoint.Checkpoint, Options) (*Model, error)
}

// classes is the registry, by model_type.
var classes = []Class{
	{"bert", "bert", bert.load},
	{"bert", "camembert", roberta.load},
	{"clap", "clap", clap},
	{"clip", "clip", clip.load},
	{"vit", "deit", deit.load},
	{"detr", "detr", loadDETR},
	{"vit", "dinov2", dinov2.load},
	{"vit", "dinov2_with_registers", dinov2Registers.load},
	{"bert", "distilbert", distilbert.load},
	{"bert", "electra", electra.load},
	{"llama", "llama", llama.load},
	{"llava", "llava", llava},
	{"llava_next", "llava_next", llavaNext},
	{"llama", "mistral", mistral.load},
	{"t5", "mt5", t5{}.load},
	{"qwen2", "qwen2", qwen2.load},
	{"qwen3", "qwen3", qwen3.load},
	{"bert", "roberta", roberta.load},
	{"clip", "siglip", siglip.load},
	{"t5", "t5", t5{}.load},
	{"t5", "umt5", t5{perLayer: true}.load},
	{"vit", "vit", vit.load},
	{"wav2vec2", "wav2vec2", wav2vec2},
	{"whisper", "whisper", whisper},
	{"xclip", "xclip", loadXCLIP},
	{"bert", "xlm-roberta", roberta.load},
}

// Classes lists all classes by model_type.
func Classes() []Class { return slices.Clone(classes) }

// UnknownTypeError says that no class has a model_type.
type UnknownTypeError struct {
	ModelType string
	Known     []string // sorted
	Nearest   string   // the known one that looks most like it; empty: none does
}

func (e *UnknownTypeError) Error() string {
	s := fmt.Sprintf("model_type %q is not known", e.ModelType)
	if e.Nearest != "" {
		s += fmt.Sprintf("; did you mean %q?", e.Nearest)
	}
	return s + "; known are " + strings.Join(e.Known, ", ")
}

// Lookup finds the class of a model_type. The error is an *UnknownTypeError.
func Lookup(modelType string) (Class, error) {
	e := &UnknownTypeError{ModelType: modelType}
	for _, c := range classes {
		if c.ModelType == modelType {
			return c, nil
		}
		e.Known = append(e.Known, c.ModelType)
	}
	if alike := checkpoint.Alike(modelType, e.Known, 1); len(alike) > 0 {
		e.Nearest = alike[0]
	}
	return Class{}, e
}

// Names of components that are graphs for a purpose.
const (
	// Encode makes one vector of a text: output sentence_embedding
	// [batch, Embedding.Dimension] float32.
	Encode = "encode"
	// Full has every output that the checkpoint's weights allow, called as
	// transformers calls them. A decoder's is Decode.
	Full = "full"
	// Decode is one step of a decoder over its paged pools of keys and values; see
	// Decoder.
	Decode = "decode"
	// Hidden is Decode without its head: output last_hidden_state [Selected, Decoder.Hidden]
	// float32, in the place of the logits. Only decoders without a source have it.
	Hidden = "hidden"
	// Encoder is an encoder whose output a decoder attends to: output
	// encoder_last_hidden_state [batch, rows, hidden] float32.
	Encoder = "encoder"
	// Prepare is Encoder for a batch of one that writes what Decode attends to into the
	// cross pools, at the places slots [rows]; see Cross.
	Prepare = "prepare"
	// See makes the rows of pictures that a decoder reads: pixel_values in, output
	// image_rows [images, Pictures.Rows, Decoder.Embeds] float32.
	See = "see"
	// CTCLogits says of each frame of a sound which token it may be: outputs logits
	// [batch, frames, CTC.VocabSize] float32; see CTC.
	CTCLogits = "ctc"
	// Image, Audio and Text make one vector of length 1 of a picture, a sound or a text:
	// outputs image_embeds, audio_embeds and text_embeds [batch, dimension] float32.
	// Their products are cosines.
	Image = "image"
	Audio = "audio"
	Text  = "text"
	// Video makes of a video what Match holds against texts: outputs video_embeds
	// [batch, Vision.Dimension], of length 1, and video_features
	// [batch, patches, Vision.Dimension], float32. Text's output is then text_features
	// [batch, Vision.Dimension], which depends on no video yet and has no length of 1.
	Video = "video"
	// Match holds pictures (or videos, or sounds) and texts against each other: the
	// outputs of Image (or Video, or Audio) and Text in, logits_per_image (or
	// logits_per_video, or logits_per_audio) [batch, labels] float32 out. A softmax over
	// the labels makes probabilities of them, or a sigmoid where Vision.Independent.
	Match = "match"
	// Classify tells classes of pictures: output logits [batch, classes] float32.
	Classify = "classify"
	// Detect finds things in pictures: outputs logits [batch, queries, classes+1], the
	// last class being no thing, and pred_boxes.
	Detect = "detect"
)

// Names that whoever runs the graphs must know: symbolic dimensions that may be
// padded with zeros, which the mask then leaves out, and the output of Encode.
const (
	Batch             = "batch"
	Sequence          = "sequence"
	SentenceEmbedding = "sentence_embedding"
	ImageEmbeds       = "image_embeds"
	TextEmbeds        = "text_embeds"
	VideoEmbeds       = "video_embeds"
	VideoFeatures     = "video_features"
	TextFeatures      = "text_features"
)

// Model is a checkpoint's graphs and what must be known to feed them.
type Model struct {
	Class      string
	ModelType  string
	Components []Component

	VocabSize int64
	MaxTokens int64 // of one text, special tokens included
	PadToken  int64
	Embedding *Embedding // how Encode makes its vector; nil where there is no Encode
	Decoder   *Decoder   // what drives Decode; nil where there is none
	CTC       *CTC       // how CTCLogits' output is read; nil where there is no CTCLogits
	Vision    *Vision    // of a model that sees; nil for others
	Pictures  *Pictures  // how Decode reads what See makes; nil where there is no See

	// Notes say what was assumed or left out, a sentence each.
	Notes []string
	// Unused are tensors of the checkpoint that no graph reads, sorted.
	Unused []string
	// Matrices are the weights that may be stored quantised, by name.
	Matrices []Matrix
}

// Component is one graph of a model.
type Component struct {
	Name  string
	Graph *graph.Model

	feeder feeder
}

// feeder completes and checks what a component is fed with.
type feeder interface {
	feeds(given feeds) (feeds, error)
}

// Embedding says how a text's vector is made of its tokens'.
type Embedding struct {
	Dimension int64
	Pooling   []checkpoint.Pooling
	Normalize bool
	MaxTokens int64 // at which texts are cut; at most the model's MaxTokens
	// Prompt is put before every text, after Lowercase lowercased it.
	Prompt    string
	Lowercase bool
	// Assumed: the checkpoint has no modules.json to say any of it.
	Assumed bool
}

// Options are what may be chosen when graphs are built. The zero value is float32
// throughout. Classes without pools and quantised weights have nothing to choose.
type Options struct {
	KV KVTypes
	// Activations that weights of fewer bits are multiplied with: "f32" (or empty);
	// "bf16", with weights of bfloat16 and quantised ones; or "int8" with one scale a
	// block, with quantised ones.
	Activations string
}

// KVTypes are the element types of the pools of keys and of values: Float32 (or
// zero), Float16, BFloat16, Int8 with 8 bits, or Uint8 with 4, two to a byte.
type KVTypes struct {
	Key, Value         tensor.DType
	KeyBits, ValueBits int // 0 for floating point
}

// OptionError says that an option has no such value.
type OptionError struct{ Option, Found, Wanted string }

func (e *OptionError) Error() string {
	return fmt.Sprintf("%s: found %s, wanted %s", e.Option, e.Found, e.Wanted)
}

// check fills in what was left out.
func (o *Options) check() error {
	for _, p := range []struct {
		name string
		elem *tensor.DType
		bits *int
	}{{"KV.Key", &o.KV.Key, &o.KV.KeyBits}, {"KV.Value", &o.KV.Value, &o.KV.ValueBits}} {
		if *p.elem == tensor.Undefined && *p.bits == 0 {
			*p.elem = tensor.Float32
		}
		if *p.elem == tensor.Int8 && *p.bits == 0 {
			*p.bits = 8
		}
		switch (KVTypes{Key: *p.elem, KeyBits: *p.bits}) {
		case KVTypes{Key: tensor.Float32}, KVTypes{Key: tensor.Float16}, KVTypes{Key: tensor.BFloat16},
			KVTypes{Key: tensor.Int8, KeyBits: 8}, KVTypes{Key: tensor.Uint8, KeyBits: 4}:
		default:
			return &OptionError{p.name, fmt.Sprintf("%s with %d bits", *p.elem, *p.bits), "float32, float16, bfloat16, int8 with 8 bits, or uint8 with 4"}
		}
	}
	switch o.Activations {
	case "", "f32":
		o.Activations = "f32"
	case "bf16", "int8":
	default:
		return &OptionError{"Activations", fmt.Sprintf("%q", o.Activations), `"f32", "bf16" or "int8"`}
	}
	return nil
}

// Load builds the graphs of a checkpoint. It reads no weights. Errors are
// *checkpoint.Error, *UnknownTypeError and *OptionError.
func Load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if ck.Kind != checkpoint.HuggingFace {
		return nil, &checkpoint.Error{File: ck.Path, Found: "it is an ONNX model", Wanted: "a Hugging Face folder",
			Remedy: "an ONNX model is run as it is, without a model class"}
	}
	f := ck.Config.Fields()
	modelType := f.String("model_type")
	if err := f.Err(); err != nil {
		return nil, err
	}
	class, err := Lookup(modelType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Dir, err)
	}
	m, err := class.load(ck, o)
	if err != nil {
		return nil, err
	}
	m.Class, m.ModelType = class.Name, class.ModelType
	if o.Activations != "f32" && !slices.ContainsFunc(m.Components, func(c Component) bool { return rounds(c.Graph, o.Activations) }) {
		m.Notes = append(m.Notes, fmt.Sprintf("activations stay f32: there are no weights that those of %s are multiplied with", o.Activations))
	}
	return m, nil
}

// Serving is the component that requests are answered with; empty: none is known.
func (m *Model) Serving() string {
	switch {
	case m.Embedding != nil:
		return Encode
	case m.Decoder != nil:
		return Decode
	case m.CTC != nil:
		return CTCLogits
	}
	for _, name := range []string{Classify, Detect, Image, Video, Audio} {
		if m.Has(name) {
			return name
		}
	}
	return ""
}

// Has reports whether there is a component of that name.
func (m *Model) Has(component string) bool {
	return slices.ContainsFunc(m.Components, func(c Component) bool { return c.Name == component })
}

// Hears reports whether the model's decoder attends to a sound.
func (m *Model) Hears() bool {
	return m.Decoder != nil && m.Decoder.Cross != nil && m.Decoder.Cross.Rows > 0
}

// Component returns the graph of that name.
func (m *Model) Component(name string) (*graph.Model, error) {
	c, err := m.component(name)
	return c.Graph, err
}

func (m *Model) component(name string) (Component, error) {
	if name == Full && m.Decoder != nil {
		name = Decode
	}
	var names []string
	for _, c := range m.Components {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Component{}, fmt.Errorf("a model of type %s has no component %q; it has %s", m.ModelType, name, strings.Join(names, ", "))
}

// Feeds completes and checks the inputs of a component: it makes those that may be
// left out, and refuses before anything runs what the graph can't take. The given
// map and tensors stay as they are. Errors about inputs are *InputError.
func (m *Model) Feeds(component string, inputs map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	c, err := m.component(component)
	if err != nil {
		return nil, err
	}
	return c.feeder.feeds(inputs)
}

// InputError says what is wrong with an input of a model.
type InputError struct {
	Input  string
	Index  []int64 // of the element; nil: the input as a whole
	Found  string
	Wanted string
	Remedy string // empty where there is none
}

func (e *InputError) Error() string {
	s := e.Input
	if e.Index != nil {
		s += tensor.Shape(e.Index).String()
	}
	s += ": " + e.Found
	if e.Wanted != "" {
		s += ", wanted " + e.Wanted
	}
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}
