package quantize

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// ct2Version is part of every key: raise it when what is written changes.
const ct2Version = 1

// ImportCT2 makes a Hugging Face folder of a CTranslate2 one, as Import does of a GGUF file.
func ImportCT2[F any](ctx context.Context, store Store[F], c *checkpoint.CT2) (F, error) {
	return keep(ctx, store, fmt.Sprint("ctranslate2 import ", ct2Version), c.Identity, func(dir string) error { return WriteCT2(ctx, dir, c) })
}

// whisperSpec is how CTranslate2 calls Whisper, the one kind of model that is read.
const whisperSpec = "WhisperSpec"

// WriteCT2 writes the folder that ImportCT2 keeps into an empty one. What can be refused is
// refused before anything is written.
func WriteCT2(ctx context.Context, dir string, c *checkpoint.CT2) error {
	if c.Spec != whisperSpec {
		return &checkpoint.Error{File: c.Dir, Field: "spec", Found: strconv.Quote(c.Spec), Wanted: strconv.Quote(whisperSpec), Remedy: "use the original model"}
	}
	tokenizer, err := readWhisperTokenizer(c.Dir)
	if err != nil {
		return err
	}
	w := &whisperImport{c: c, tokens: tokenizer.ids}
	if err := w.read(); err != nil {
		return err
	}
	generation, err := w.generation()
	if err != nil {
		return err
	}
	files := map[string]any{
		"config.json": w.config, "generation_config.json": generation, "preprocessor_config.json": w.processor(),
		"tokenizer.json": tokenizer.definition, "tokenizer_config.json": map[string]any{"tokenizer_class": "WhisperTokenizer"},
	}
	for name, content := range files {
		// What the folder has of its own counts.
		own, err := os.ReadFile(filepath.Join(c.Dir, name))
		switch {
		case name == "preprocessor_config.json" && err == nil:
			content = json.RawMessage(own)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return &checkpoint.Error{File: filepath.Join(c.Dir, name), Err: err}
		}
		if err := writeJSON(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return writeWeights(ctx, filepath.Join(dir, "model.safetensors"), filepath.Join(c.Dir, "model.bin"), w.weights)
}

// whisperTokenizer is a folder's tokenizer.json and the ids of its special tokens.
type whisperTokenizer struct {
	definition json.RawMessage
	ids        map[string]int64
}

// maxTokenizer bounds the file, in bytes.
const maxTokenizer = 256 << 20

func readWhisperTokenizer(dir string) (*whisperTokenizer, error) {
	file := filepath.Join(dir, "tokenizer.json")
	info, err := os.Stat(file)
	if err != nil {
		return nil, &checkpoint.Error{File: file, Err: err, Remedy: "fetch the model's whole folder; vocabulary.txt alone does not say how texts are cut"}
	}
	if info.Size() > maxTokenizer || !info.Mode().IsRegular() {
		return nil, &checkpoint.Error{File: file, Found: fmt.Sprintf("%d bytes", info.Size()), Wanted: fmt.Sprintf("a file of at most %d", maxTokenizer)}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &checkpoint.Error{File: file, Err: err}
	}
	var t struct {
		AddedTokens []struct {
			ID      int64  `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, &checkpoint.Error{File: file, Err: err}
	}
	out := &whisperTokenizer{definition: data, ids: map[string]int64{}}
	for _, a := range t.AddedTokens {
		out.ids[a.Content] = a.ID
	}
	return out, nil
}

// whisperImport is a Whisper model on its way into a folder.
type whisperImport struct {
	c         *checkpoint.CT2
	tokens    map[string]int64
	config    map[string]any
	weights   []weight
	quantized map[string]checkpoint.Quantized
	mels      int64
	used      map[string]bool
}

func (w *whisperImport) fail(name, found, wanted string) error {
	return &checkpoint.Error{File: w.c.Dir, Field: "variable " + strconv.Quote(name), Found: found, Wanted: wanted}
}

// shape is that of a variable that must be there.
func (w *whisperImport) shape(name string, rank int) (tensor.Shape, error) {
	if _, err := w.c.Data(name); err != nil {
		return nil, err
	}
	t, _ := w.c.Tensor(name)
	if len(t.Shape) != rank {
		return nil, w.fail(name, "its shape is "+t.Shape.String(), fmt.Sprintf("%d dimensions", rank))
	}
	return t.Shape, nil
}

// setting is a small number that is stored as a variable; def where it is not there.
func (w *whisperImport) setting(name string, def int64) int64 {
	w.used[name] = true
	data, err := w.c.Data(name)
	if err != nil {
		return def
	}
	switch t, _ := w.c.Tensor(name); {
	case t.DType == tensor.Int8 && len(data) == 1:
		return int64(int8(data[0]))
	case t.DType == tensor.Int16 && len(data) == 2:
		return int64(int16(binary.LittleEndian.Uint16(data)))
	case t.DType == tensor.Int32 && len(data) == 4:
		return int64(int32(binary.LittleEndian.Uint32(data)))
	}
	return def
}

// geluNumber is CTranslate2's ActivationType::GELU.
const geluNumber = 3

// token is the id of a special token that the tokenizer must have.
func (w *whisperImport) token(text string) (int64, error) {
	id, ok := w.tokens[text]
	if !ok {
		return 0, &checkpoint.Error{File: filepath.Join(w.c.Dir, "tokenizer.json"), Found: "it has no token " + text, Wanted: "Whisper's tokenizer"}
	}
	return id, nil
}

func (w *whisperImport) read() error {
	w.used, w.quantized = map[string]bool{}, map[string]checkpoint.Quantized{}
	conv, err := w.shape("encoder/conv1/weight", 3)
	if err != nil {
		return err
	}
	words, err := w.shape("decoder/embeddings/weight", 2)
	if err != nil {
		return err
	}
	width := words[1]
	w.mels = conv[1]
	positions := map[string]int64{}
	layers, heads, inner := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, side := range []string{"encoder", "decoder"} {
		p, err := w.shape(side+"/position_encodings/encodings", 2)
		if err != nil {
			return err
		}
		positions[side] = p[0]
		heads[side] = w.setting(side+"/num_heads", width/64) // Whisper's heads all have 64
		for ; ; layers[side]++ {
			if _, there := w.c.Tensor(fmt.Sprintf("%s/layer_%d/ffn/linear_0/weight", side, layers[side])); !there {
				break
			}
		}
		ffn, err := w.shape(side+"/layer_0/ffn/linear_0/weight", 2)
		if err != nil {
			return err
		}
		inner[side] = ffn[0]
		for i := range layers[side] {
			if err := w.layer(side, i, width); err != nil {
				return err
			}
		}
		if err := w.norm("model."+side+".layer_norm", side+"/layer_norm"); err != nil {
			return err
		}
		if err := w.whole("model."+side+".embed_positions.weight", side+"/position_encodings/encodings"); err != nil {
			return err
		}
	}
	for _, name := range []string{"conv1", "conv2"} {
		for _, part := range []string{"weight", "bias"} {
			if err := w.whole("model.encoder."+name+"."+part, "encoder/"+name+"/"+part); err != nil {
				return err
			}
		}
	}
	if err := w.matrix("model.decoder.embed_tokens.weight", "decoder/embeddings/weight", 0, words[0]); err != nil {
		return err
	}
	tied, err := w.head()
	if err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		want int64
	}{{"decoder/activation", geluNumber}, {"encoder/activation", geluNumber}, {"decoder/pre_norm", 1}, {"encoder/pre_norm", 1},
		{"decoder/alibi", 0}, {"decoder/start_from_zero_embedding", 0}} {
		if found := w.setting(s.name, s.want); found != s.want {
			return w.fail(s.name, strconv.FormatInt(found, 10), fmt.Sprintf("%d, as Whisper has it", s.want))
		}
	}
	w.used["decoder/alignment_heads"], w.used["decoder/alignment_layer"] = true, true
	end, err := w.token("<|endoftext|>")
	if err != nil {
		return err
	}
	start, err := w.token("<|startoftranscript|>")
	if err != nil {
		return err
	}
	w.config = map[string]any{
		"model_type": "whisper", "architectures": []string{"WhisperForConditionalGeneration"}, "activation_function": "gelu",
		"vocab_size": words[0], "d_model": width, "num_mel_bins": w.mels, "max_source_positions": positions["encoder"], "max_target_positions": positions["decoder"],
		"encoder_layers": layers["encoder"], "encoder_attention_heads": heads["encoder"], "encoder_ffn_dim": inner["encoder"],
		"decoder_layers": layers["decoder"], "decoder_attention_heads": heads["decoder"], "decoder_ffn_dim": inner["decoder"],
		"scale_embedding": w.setting("decoder/scale_embeddings", 0) != 0, "tie_word_embeddings": tied,
		"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start,
	}
	if len(w.quantized) > 0 {
		w.config["quantization_config"] = checkpoint.QuantizationConfig(w.quantized)
	}
	for _, name := range w.c.Names() {
		if !w.used[name] {
			return w.fail(name, "it is there", "the variables of a Whisper model alone")
		}
	}
	return nil
}

// head takes the matrix of the logits, where it is another than that of the embeddings.
func (w *whisperImport) head() (tied bool, err error) {
	const name = "decoder/projection/weight"
	w.used[name], w.used[name+"_scale"] = true, true
	own, ok := w.c.Tensor(name)
	words, _ := w.c.Tensor("decoder/embeddings/weight")
	if !ok || own.Offset == words.Offset {
		return true, nil
	}
	return false, w.matrix("proj_out.weight", name, 0, own.Shape[0])
}

// layer takes layer i of a side. CTranslate2 joins the matrices of q, k and v, and in cross attention
// those of k and v.
func (w *whisperImport) layer(side string, i, width int64) error {
	from, to := fmt.Sprintf("%s/layer_%d/", side, i), fmt.Sprintf("model.%s.layers.%d.", side, i)
	var errs []error
	norm := func(name, stored string) { errs = append(errs, w.norm(to+name, from+stored+"/layer_norm")) }
	linear := func(name, stored string, at, rows int64) {
		errs = append(errs, w.matrix(to+name+".weight", from+stored+"/weight", at, rows), w.bias(to+name, from+stored+"/bias", at, rows))
	}
	norm("self_attn_layer_norm", "self_attention")
	linear("self_attn.q_proj", "self_attention/linear_0", 0, width)
	linear("self_attn.k_proj", "self_attention/linear_0", width, width)
	linear("self_attn.v_proj", "self_attention/linear_0", 2*width, width)
	linear("self_attn.out_proj", "self_attention/linear_1", 0, width)
	if side == "decoder" {
		norm("encoder_attn_layer_norm", "attention")
		linear("encoder_attn.q_proj", "attention/linear_0", 0, width)
		linear("encoder_attn.k_proj", "attention/linear_1", 0, width)
		linear("encoder_attn.v_proj", "attention/linear_1", width, width)
		linear("encoder_attn.out_proj", "attention/linear_2", 0, width)
	}
	norm("final_layer_norm", "ffn")
	inner, err := w.shape(from+"ffn/linear_0/weight", 2)
	if err != nil {
		return err
	}
	linear("fc1", "ffn/linear_0", 0, inner[0])
	linear("fc2", "ffn/linear_1", 0, width)
	return errors.Join(errs...)
}

func (w *whisperImport) norm(name, stored string) error {
	return errors.Join(w.whole(name+".weight", stored+"/gamma"), w.whole(name+".bias", stored+"/beta"))
}

// keyBias is the part of a joined bias that is of the keys, for which Whisper has none.
var keyBias = regexp.MustCompile(`\.k_proj$`)

// bias takes rows of a bias. That of keys is zeros, and left out.
func (w *whisperImport) bias(name, stored string, from, rows int64) error {
	if !keyBias.MatchString(name) {
		return w.rows(name+".bias", stored, from, rows, 1)
	}
	w.used[stored] = true
	data, err := w.c.Data(stored)
	if err != nil {
		return err
	}
	t, _ := w.c.Tensor(stored)
	size := int64(t.DType.Bits() / 8)
	if len(t.Shape) != 1 || from+rows > t.Shape[0] {
		return w.fail(stored, "its shape is "+t.Shape.String(), fmt.Sprintf("a vector of at least %d", from+rows))
	}
	if slices.ContainsFunc(data[from*size:(from+rows)*size], func(b byte) bool { return b != 0 && b != 0x80 }) {
		return w.fail(stored, "keys have a bias", "none, as in Whisper")
	}
	return nil
}

// whole takes a variable of floats as it is.
func (w *whisperImport) whole(name, stored string) error {
	t, ok := w.c.Tensor(stored)
	if !ok {
		_, err := w.c.Data(stored)
		return err
	}
	if len(t.Shape) == 0 {
		return w.fail(stored, "it is one number", "a vector or matrix")
	}
	return w.rows(name, stored, 0, t.Shape[0], len(t.Shape))
}

// matrix takes rows of a matrix, of floats or of bytes with a scale a row.
func (w *whisperImport) matrix(name, stored string, from, rows int64) error {
	return w.rows(name, stored, from, rows, 2)
}

// rows takes rows of a variable of so many dimensions.
func (w *whisperImport) rows(name, stored string, from, rows int64, rank int) error {
	w.used[stored] = true
	data, err := w.c.Data(stored)
	if err != nil {
		return err
	}
	t, _ := w.c.Tensor(stored)
	if len(t.Shape) != rank || from+rows > t.Shape[0] || t.Length == 0 {
		return w.fail(stored, "its shape is "+t.Shape.String(), fmt.Sprintf("%d dimensions, of at least %d rows", rank, from+rows))
	}
	each := t.Length / t.Shape[0]
	shape := t.Shape.Clone()
	shape[0] = rows
	one := weight{name: name, stored: stored, data: data[from*each : (from+rows)*each]}
	one.info = checkpoint.GGUFTensor{Type: checkpoint.GGUFType{Name: t.DType.String(), DType: t.DType, Block: 1, Bytes: int64(t.DType.Bits() / 8)}, Shape: shape, Length: rows * each}
	switch {
	case t.DType == tensor.Float32 || t.DType == tensor.Float16 || t.DType == tensor.BFloat16:
	case t.DType == tensor.Int8 && rank == 2:
		if err := w.bytes(&one, stored+"_scale", from, rows); err != nil {
			return err
		}
		w.quantized[name] = one.quantized()
	default:
		return w.fail(stored, "it is of type "+t.DType.String(), "float32, float16, bfloat16, or a matrix of int8")
	}
	w.weights = append(w.weights, one)
	return nil
}

// bytes are a matrix of int8 with a scale a row by which numbers were multiplied: kept as blocks
// that all have their row's.
func (w *whisperImport) bytes(one *weight, scales string, from, rows int64) error {
	w.used[scales] = true
	data, err := w.c.Data(scales)
	if err != nil {
		return err
	}
	if t, _ := w.c.Tensor(scales); t.DType != tensor.Float32 || t.Length/4 < from+rows {
		return w.fail(scales, fmt.Sprintf("%s%v", t.DType, t.Shape), fmt.Sprintf("float32, at least %d", from+rows))
	}
	width := one.info.Shape[1]
	block := min(width&-width, 128)
	if block < 16 {
		return w.fail(one.stored, fmt.Sprintf("%d columns", width), "a multiple of 16")
	}
	one.info.Type.Block, one.info.Type.Bytes = block, block
	one.layout = &layout{checkpoint.Quantized{Operator: checkpoint.MatMulNBits, Bits: 8, Block: block}, func(b []byte, codes []uint8, _, _ []uint16) {
		for i, x := range b {
			codes[i] = x ^ 0x80
		}
	}}
	one.scale = func(row int64) uint16 {
		s := math.Float32frombits(binary.LittleEndian.Uint32(data[(from+row)*4:]))
		return toHalf(1 / s)
	}
	return nil
}

// whisperLanguage is a token that says which language is spoken.
var whisperLanguage = regexp.MustCompile(`^<\|([a-z]{2,3})\|>$`)

// generation is generation_config.json, from what config.json of CTranslate2 says and what tokens
// there are.
func (w *whisperImport) generation() (map[string]any, error) {
	f := w.c.Config.Fields()
	vocab := w.config["vocab_size"].(int64)
	suppress, begin := f.Ints("suppress_ids", 0, vocab), f.Ints("suppress_ids_begin", 0, vocab)
	spoken := f.Ints("lang_ids", 0, vocab)
	if err := f.Err(); err != nil {
		return nil, err
	}
	languages, tasks := map[string]int64{}, map[string]int64{}
	for text, id := range w.tokens {
		if whisperLanguage.MatchString(text) && (len(spoken) == 0 || slices.Contains(spoken, id)) {
			languages[text] = id
		}
		if text == "<|transcribe|>" || text == "<|translate|>" {
			tasks[strings.Trim(text, "<|>")] = id
		}
	}
	end := w.config["eos_token_id"]
	g := map[string]any{
		"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": w.config["decoder_start_token_id"],
		"is_multilingual": vocab >= 51865, "max_initial_timestamp_index": 50, "max_length": w.config["max_target_positions"],
	}
	if len(suppress) > 0 {
		g["suppress_tokens"] = suppress
	}
	if len(begin) > 0 {
		g["begin_suppress_tokens"] = begin
	}
	if g["is_multilingual"] == true {
		g["lang_to_id"], g["task_to_id"] = languages, tasks
	}
	none, err := w.token("<|notimestamps|>")
	if err != nil {
		return nil, err
	}
	g["no_timestamps_token_id"] = none
	for _, text := range []string{"<|startofprev|>", "<|nospeech|>", "<|nocaptions|>"} {
		if id, ok := w.tokens[text]; ok && text == "<|startofprev|>" {
			g["prev_sot_token_id"] = id
		}
	}
	return g, nil
}

// processor is preprocessor_config.json of Whisper models.
func (w *whisperImport) processor() map[string]any {
	return map[string]any{
		"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": w.mels, "chunk_length": 30, "hop_length": 160, "n_fft": 400,
		"n_samples": 480000, "nb_max_frames": 3000, "sampling_rate": 16000, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": false,
	}
}
