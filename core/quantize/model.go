package quantize

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// architecture is a kind of model by the name that GGUF has for it.
type architecture struct {
	modelType string // of config.json
	class     string // of its architectures
	// interleaved: rows of q and k stand so that neighbours turn together, where
	// Hugging Face has the first half of a head turn with the second.
	interleaved bool
}

var architectures = map[string]architecture{
	"llama": {"llama", "LlamaForCausalLM", true}, // and Mistral, SmolLM
	"qwen2": {"qwen2", "Qwen2ForCausalLM", false},
	"qwen3": {"qwen3", "Qwen3ForCausalLM", false},
}

// Tensors outside layers, and those of a layer, by GGUF's name and by Hugging Face's.
var (
	outerNames = map[string]string{
		"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
	}
	layerNames = map[string]string{
		"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
		"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
		"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
	}
	layerName = regexp.MustCompile(`^blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)$`)
	outerName = regexp.MustCompile(`^([a-z_]+)\.(weight|bias)$`)
)

// ropeFactors is what the frequencies of rotary embeddings are divided by.
const ropeFactors = "rope_freqs.weight"

// model is a GGUF file in Hugging Face's terms.
type model struct {
	config  map[string]any
	weights []weight
}

// sizes are what the metadata says of the model's shape.
type sizes struct {
	layers, heads, kvHeads, headDim int64
}

// readModel names and checks everything of a file but the tokenizer. Errors are
// *checkpoint.Error.
func readModel(g *checkpoint.GGUF) (*model, error) {
	f := g.Fields()
	name := f.String("general.architecture")
	arch, ok := architectures[name]
	if !ok && f.Err() == nil {
		f.Fail("general.architecture", "found "+strconv.Quote(name), "one of "+strings.Join(slices.Sorted(maps.Keys(architectures)), ", "), "")
	}
	if f.Err() == nil && f.IntOr(name+".expert_count", 0, 0, math.MaxInt32) > 0 {
		f.Fail(name+".expert_count", "it is a mixture of experts", "a dense model", "")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &model{}
	s, err := m.readConfig(g, name, arch)
	if err != nil {
		return nil, err
	}
	quantized := map[string]checkpoint.Quantized{}
	for _, stored := range g.Names() {
		if stored == ropeFactors {
			continue
		}
		w, err := readWeight(g, stored, arch, s)
		if err != nil {
			return nil, err
		}
		if w.layout != nil {
			quantized[w.name] = w.quantized()
		}
		m.weights = append(m.weights, w)
	}
	if len(quantized) > 0 {
		m.config["quantization_config"] = checkpoint.QuantizationConfig(quantized)
	}
	return m, nil
}

// readWeight finds out what becomes of a tensor.
func readWeight(g *checkpoint.GGUF, stored string, arch architecture, s sizes) (weight, error) {
	fail := func(found, wanted string) (weight, error) {
		return weight{}, &checkpoint.Error{File: g.Path, Field: "tensor " + strconv.Quote(stored), Found: found, Wanted: wanted}
	}
	info, _ := g.Tensor(stored)
	data, err := g.Data(stored)
	if err != nil {
		return weight{}, err
	}
	w := weight{stored: stored, info: info, data: data}
	var part string
	if m := outerName.FindStringSubmatch(stored); m != nil && outerNames[m[1]] != "" {
		w.name = outerNames[m[1]] + "." + m[2]
	} else if m := layerName.FindStringSubmatch(stored); m != nil && layerNames[m[2]] != "" {
		part = m[2]
		if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n >= s.layers || strconv.FormatInt(n, 10) != m[1] {
			return fail("there is no such layer", fmt.Sprintf("0 to %d", s.layers-1))
		}
		w.name = "model.layers." + m[1] + "." + layerNames[part] + "." + m[3]
	} else {
		return fail("models of type "+arch.modelType+" have no such tensor", "")
	}
	if l, ok := layouts[info.Type.Name]; ok {
		if len(info.Shape) != 2 {
			return fail("it is "+info.Type.Name+info.Shape.String(), "a matrix of that type")
		}
		w.layout = &l
	} else if !slices.Contains([]tensor.DType{tensor.Float32, tensor.Float16, tensor.BFloat16}, info.Type.DType) {
		return fail("it is of type "+info.Type.Name, "F32, F16, BF16, "+strings.Join(slices.Sorted(maps.Keys(layouts)), ", "))
	}
	if arch.interleaved && (part == "attn_q" || part == "attn_k") {
		heads := s.heads
		if part == "attn_k" {
			heads = s.kvHeads
		}
		if w.rows() != heads*s.headDim {
			return fail(fmt.Sprintf("it has %d rows", w.rows()), fmt.Sprintf("%d heads of %d", heads, s.headDim))
		}
		// Row i of half j of a head was stored at 2i+j.
		w.row = func(row int64) int64 {
			head, at := row/s.headDim, row%s.headDim
			return head*s.headDim + at%(s.headDim/2)*2 + at/(s.headDim/2)
		}
	}
	return w, nil
}

// Bounds of what metadata may say, far beyond real models.
const (
	maxLayers = 1 << 12
	maxWidth  = 1 << 20
	maxTokens = 1 << 30
	maxVocab  = 1 << 26
)

// readConfig makes config.json.
func (m *model) readConfig(g *checkpoint.GGUF, name string, arch architecture) (sizes, error) {
	f := g.Fields()
	key := func(k string) string { return name + "." + k }
	// One that may differ by layer, as some architectures have it, must not.
	same := func(k string) int64 {
		if !f.IsArray(key(k)) {
			return f.Int(key(k), 1, maxWidth)
		}
		list := f.Ints(key(k))
		if len(list) == 0 || slices.Max(list) != slices.Min(list) || list[0] < 1 || list[0] > maxWidth {
			f.Fail(key(k), "it differs by layer", "one number for all layers", "")
			return 0
		}
		return list[0]
	}
	s := sizes{layers: f.Int(key("block_count"), 1, maxLayers), heads: same("attention.head_count")}
	s.kvHeads = s.heads
	if f.Has(key("attention.head_count_kv")) {
		s.kvHeads = same("attention.head_count_kv")
	}
	hidden := f.Int(key("embedding_length"), 1, maxWidth)
	if f.Err() != nil {
		return s, f.Err()
	}
	s.headDim = f.IntOr(key("attention.key_length"), hidden/s.heads, 1, maxWidth)
	for _, k := range []string{"attention.value_length", "rope.dimension_count"} {
		if n := f.IntOr(key(k), s.headDim, 1, maxWidth); n != s.headDim && f.Err() == nil {
			f.Fail(key(k), fmt.Sprintf("found %d", n), fmt.Sprintf("the size of a head, which is %d", s.headDim), "")
		}
	}
	if s.headDim%2 != 0 {
		f.Fail(key("attention.key_length"), fmt.Sprintf("heads of %d", s.headDim), "an even number", "")
	}
	table, ok := g.Tensor("token_embd.weight")
	if (!ok || len(table.Shape) != 2) && f.Err() == nil {
		f.Fail(`tensor "token_embd.weight"`, "it is not there, or no matrix", "one of [vocabulary, "+strconv.FormatInt(hidden, 10)+"]", "")
	}
	if f.Err() != nil {
		return s, f.Err()
	}
	has := func(tensor string) bool { _, ok := g.Tensor(tensor); return ok }
	positions := f.Int(key("context_length"), 1, maxTokens)
	m.config = map[string]any{
		"architectures": []string{arch.class}, "model_type": arch.modelType, "hidden_act": "silu",
		"vocab_size": table.Shape[0], "hidden_size": hidden, "num_hidden_layers": s.layers,
		"num_attention_heads": s.heads, "num_key_value_heads": s.kvHeads, "head_dim": s.headDim,
		"intermediate_size": same("feed_forward_length"), "max_position_embeddings": positions,
		"rms_norm_eps":        f.Float(key("attention.layer_norm_rms_epsilon"), 0, 1),
		"rope_theta":          f.FloatOr(key("rope.freq_base"), 10000, 1, 1e12),
		"tie_word_embeddings": !has("output.weight"),
	}
	// Biases: all of attention's, or all but the output's as Qwen2 has them.
	if has("blk.0.attn_output.bias") {
		m.config["attention_bias"] = true
	} else if arch.modelType != "qwen2" && has("blk.0.attn_q.bias") {
		f.Fail(`tensor "blk.0.attn_q.bias"`, "it is there", "a bias of attn_output too, or none", "")
	}
	if has("blk.0.ffn_up.bias") {
		m.config["mlp_bias"] = true
	}
	if window := f.IntOr(key("attention.sliding_window"), 0, 0, maxTokens); window > 0 {
		m.config["sliding_window"] = window
		switch arch.modelType {
		case "llama": // the class of LLaMA's with a window
			m.config["model_type"], m.config["architectures"] = "mistral", []string{"MistralForCausalLM"}
		default:
			m.config["use_sliding_window"], m.config["max_window_layers"] = true, 0
		}
	}
	bos, eos := ends(f)
	if bos >= 0 {
		m.config["bos_token_id"] = bos
	}
	if len(eos) > 0 {
		m.config["eos_token_id"] = eos
	}
	if pad := f.IntOr("tokenizer.ggml.padding_token_id", -1, 0, maxVocab); pad >= 0 {
		m.config["pad_token_id"] = pad
	}
	if scaling := ropeScaling(g, f, name, s.headDim, positions); scaling != nil {
		m.config["rope_scaling"] = scaling
	}
	return s, f.Err()
}

// endNames are tokens that end a turn or a text, which files do not always name among
// their ends.
var endNames = []string{"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "</s>"}

// ends are the token that begins a text, -1 where there is none, and those at which
// generation ends.
func ends(f checkpoint.GGUFFields) (bos int64, eos []int64) {
	bos = f.IntOr("tokenizer.ggml.bos_token_id", -1, 0, maxVocab)
	for _, k := range []string{"eos", "eot", "eom"} {
		if id := f.IntOr("tokenizer.ggml."+k+"_token_id", -1, 0, maxVocab); id >= 0 {
			eos = append(eos, id)
		}
	}
	kinds := f.Ints("tokenizer.ggml.token_type")
	for id, token := range f.Strings("tokenizer.ggml.tokens") {
		if id < len(kinds) && kinds[id] == tokenControl && slices.Contains(endNames, token) {
			eos = append(eos, int64(id))
		}
	}
	slices.Sort(eos)
	return bos, slices.Compact(eos)
}
