package quantize

import (
	"archive/zip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/sdk/testfiles"
)

// folders is a store in memory of folders on disk.
type folders struct {
	dir     string
	written map[string]int
}

func (s *folders) Get(_ context.Context, key string, write func(dir string) error) (string, error) {
	dir := filepath.Join(s.dir, key)
	if s.written[key] > 0 {
		return dir, nil
	}
	s.written[key]++
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, write(dir)
}

// tinyFile is a folder of testdata/tiny as a GGUF file: tensors as they are, but for
// q and k of LLaMA's, whose rows are stored interleaved.
func tinyFile(t testing.TB, name, arch string) (*ggufFile, *checkpoint.Checkpoint) {
	t.Helper()
	ck, err := checkpoint.Open(filepath.Join("..", "..", "testdata", "tiny", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	c := ck.Config.Fields()
	heads, kv := c.Int("num_attention_heads", 1, 64), c.Int("num_key_value_heads", 1, 64)
	dim := c.IntOr("head_dim", c.Int("hidden_size", 1, 999)/max(heads, 1), 1, 64)
	meta := tokenizerMeta(t, filepath.Join(ck.Dir, "tokenizer.json"))
	meta["tokenizer.ggml.pre"] = map[string]string{"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}[arch]
	maps.Copy(meta, map[string]any{
		"general.architecture": arch, arch + ".block_count": int(c.Int("num_hidden_layers", 1, 64)), arch + ".attention.head_count": int(heads),
		arch + ".attention.head_count_kv": int(kv), arch + ".attention.key_length": int(dim), arch + ".embedding_length": int(c.Int("hidden_size", 1, 999)),
		arch + ".feed_forward_length": int(c.Int("intermediate_size", 1, 999)), arch + ".context_length": int(c.Int("max_position_embeddings", 1, 999)),
		arch + ".attention.layer_norm_rms_epsilon": c.FloatOr("rms_norm_eps", 0, 0, 1), arch + ".rope.freq_base": c.Object("rope_parameters").FloatOr("rope_theta", 0, 0, 1e9)})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	f := &ggufFile{meta: meta, tensors: map[string]ggufTensor{}}
	for _, stored := range ck.Names() {
		v, err := ck.Data(stored)
		if err != nil {
			t.Fatal(err)
		}
		data := v.Data
		turn := int64(0)
		switch {
		case arch != "llama":
		case strings.HasSuffix(stored, "q_proj.weight"):
			turn = heads
		case strings.HasSuffix(stored, "k_proj.weight"):
			turn = kv
		}
		if turn > 0 {
			row := int64(len(data)) / v.Shape[0]
			turned := make([]byte, 0, len(data))
			for h := range turn {
				for i := range dim / 2 {
					for j := range int64(2) {
						turned = append(turned, data[(h*dim+j*dim/2+i)*row:][:row]...)
					}
				}
			}
			data = turned
		}
		f.tensors[ggufName(t, stored)] = ggufTensor{typeF32, v.Shape, data}
	}
	return f, ck
}

// ggufName is GGUF's name of a tensor.
func ggufName(t testing.TB, stored string) string {
	t.Helper()
	base, end := stored[:strings.LastIndexByte(stored, '.')], stored[strings.LastIndexByte(stored, '.'):]
	for gguf, hf := range outerNames {
		if hf == base {
			return gguf + end
		}
	}
	rest, ok := strings.CutPrefix(base, "model.layers.")
	layer, part, _ := strings.Cut(rest, ".")
	for gguf, hf := range layerNames {
		if ok && hf == part {
			return "blk." + layer + "." + gguf + end
		}
	}
	t.Fatalf("%s has no name in GGUF", stored)
	return ""
}

// writeFolder writes the folder of a file and opens it.
func writeFolder(t testing.TB, g *checkpoint.GGUF) *checkpoint.Checkpoint {
	t.Helper()
	dir := t.TempDir()
	if err := Write(t.Context(), dir, g); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

// TestImportTiny: a model that went through a GGUF file is what it was.
func TestImportTiny(t *testing.T) {
	for name, arch := range map[string]string{"llama": "llama", "llama_rope3": "llama", "qwen2": "qwen2", "qwen3": "qwen3"} {
		t.Run(name, func(t *testing.T) {
			file, want := tinyFile(t, name, arch)
			got := writeFolder(t, file.open(t))
			if !slices.Equal(got.Names(), want.Names()) {
				t.Fatalf("found %v, wanted %v", got.Names(), want.Names())
			}
			for _, n := range want.Names() {
				a, err := got.Data(n)
				if err != nil {
					t.Fatal(err)
				}
				b, err := want.Data(n)
				if err != nil {
					t.Fatal(err)
				}
				if a.DType != b.DType || !a.Shape.Equal(b.Shape) || string(a.Data) != string(b.Data) {
					t.Errorf("%s is not what it was", n)
				}
			}
			a, b := got.Config.Fields(), want.Config.Fields()
			for _, k := range []string{"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "max_position_embeddings"} {
				if x, y := a.Int(k, 0, 1<<20), b.Int(k, 0, 1<<20); x != y {
					t.Errorf("%s is %d, wanted %d", k, x, y)
				}
			}
			if x, y := a.Int("head_dim", 1, 64), b.IntOr("head_dim", b.Int("hidden_size", 1, 999)/b.Int("num_attention_heads", 1, 64), 1, 64); x != y {
				t.Errorf("head_dim is %d, wanted %d", x, y)
			}
			if x, y := a.FloatOr("rms_norm_eps", 0, 0, 1), b.FloatOr("rms_norm_eps", 0, 0, 1); x != y {
				t.Errorf("rms_norm_eps is %g, wanted %g", x, y)
			}
			if x, y := a.FloatOr("rope_theta", 0, 0, 1e9), b.Object("rope_parameters").FloatOr("rope_theta", 0, 0, 1e9); x != y {
				t.Errorf("rope_theta is %g, wanted %g", x, y)
			}
			if x, y := a.BoolOr("tie_word_embeddings", false), b.BoolOr("tie_word_embeddings", false); x != y {
				t.Errorf("tie_word_embeddings is %v, wanted %v", x, y)
			}
			if got.ModelType != want.ModelType || !slices.Equal(got.Architectures, want.Architectures) || a.Err() != nil || b.Err() != nil {
				t.Errorf("found %s %v, %v, %v", got.ModelType, got.Architectures, a.Err(), b.Err())
			}
			var ids []int64
			for _, dir := range []string{want.Dir, got.Dir} {
				tok, err := processors.OpenTokenizer(dir)
				if err != nil {
					t.Fatal(err)
				}
				enc, err := tok.Encode("Hello wörld, it's 12345 \n\n x", processors.EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if ids == nil {
					ids = enc.IDs
				}
				if !slices.Equal(enc.IDs, ids) {
					t.Errorf("found %v, wanted %v", enc.IDs, ids)
				}
			}
		})
	}
}

// quantizedFile is tiny/llama with one matrix of another type.
func quantizedFile(t testing.TB, name string, kind uint32, size int) *ggufFile {
	f, _ := tinyFile(t, "llama", "llama")
	old := f.tensors[name]
	f.tensors[name] = ggufTensor{kind, []int64{old.shape[0], 64}, counted(old.shape[0] * int64(size))}
	return f
}

// TestImportQuantized: rows of q turn as codes too.
func TestImportQuantized(t *testing.T) {
	f := quantizedFile(t, "blk.0.attn_q.weight", typeQ4_0, 36)
	stored := f.tensors["blk.0.attn_q.weight"]
	ck := writeFolder(t, f.open(t))
	q, ok := ck.Quantized("model.layers.0.self_attn.q_proj.weight")
	if want := (checkpoint.Quantized{Operator: checkpoint.MatMulNBits, Bits: 4, Block: 32, N: stored.shape[0], K: 64}); !ok || q != want {
		t.Fatalf("found %+v, wanted %+v", q, want)
	}
	scales, err := ck.Data("model.layers.0.self_attn.q_proj.weight.scales")
	if err != nil {
		t.Fatal(err)
	}
	const dim = 8
	if stored.shape[0]%dim != 0 {
		t.Fatalf("%d rows", stored.shape[0])
	}
	for row := range int(stored.shape[0]) {
		head, at := row/dim, row%dim
		from := head*dim + 2*(at%(dim/2)) + at/(dim/2)
		if string(scales.Data[row*4:row*4+2]) != string(stored.data[from*36:from*36+2]) {
			t.Fatalf("row %d is not row %d of the file", row, from)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	llama := func(do func(f *ggufFile)) *ggufFile {
		f, _ := tinyFile(t, "llama", "llama")
		do(f)
		return f
	}
	set := func(key string, v any) *ggufFile { return llama(func(f *ggufFile) { f.meta[key] = v }) }
	add := func(name string, v ggufTensor) *ggufFile {
		return llama(func(f *ggufFile) { f.tensors[name] = v })
	}
	vector := ggufTensor{typeF32, []int64{1}, make([]byte, 4)}
	factors := func(v ...float32) ggufTensor { return ggufTensor{typeF32, []int64{int64(len(v))}, put(nil, v)} }
	for _, tt := range []struct {
		name string
		file *ggufFile
		want string
	}{
		{"architecture", set("general.architecture", "gemma3"), `general.architecture: found "gemma3", wanted one of llama, qwen2, qwen3`},
		{"experts", set("llama.expert_count", 8), "llama.expert_count: it is a mixture of experts"},
		{"type", quantizedFile(t, "blk.0.attn_v.weight", typeQ4_1, 40), ""},
		{"type not kept", llama(func(f *ggufFile) {
			f.tensors["blk.0.attn_v.weight"] = ggufTensor{typeIQ2S, []int64{1, 256}, make([]byte, 82)}
		}), `tensor "blk.0.attn_v.weight": it is of type IQ2_S, wanted F32, F16, BF16, Q4_0`},
		{"vector of blocks", add("output_norm.weight", ggufTensor{typeQ4_0, []int64{32}, make([]byte, 18)}), `tensor "output_norm.weight": it is Q4_0[32], wanted a matrix`},
		{"tensor not known", add("blk.0.attn_sinks.weight", vector), `tensor "blk.0.attn_sinks.weight": models of type llama have no such tensor`},
		{"outer tensor not known", add("cls.weight", vector), `tensor "cls.weight": models of type llama have no such tensor`},
		{"layer too many", add("blk.3.attn_v.weight", vector), `tensor "blk.3.attn_v.weight": there is no such layer, wanted 0 to 2`},
		{"layer written oddly", add("blk.00.attn_v.weight", vector), `tensor "blk.00.attn_v.weight": there is no such layer`},
		{"no embeddings", llama(func(f *ggufFile) { delete(f.tensors, "token_embd.weight") }), `tensor "token_embd.weight": it is not there`},
		{"no layers", llama(func(f *ggufFile) { delete(f.meta, "llama.block_count") }), "llama.block_count: it is missing"},
		{"heads of no size", set("llama.attention.head_count", 7), `tensor "blk.0.attn_q.weight": it has 48 rows, wanted 7 heads of 8`},
		{"heads that differ", set("llama.attention.head_count_kv", []int32{1, 2}), "llama.attention.head_count_kv: it differs by layer"},
		{"values of another size", set("llama.attention.value_length", 6), "llama.attention.value_length: found 6, wanted the size of a head"},
		{"part of heads turned", set("llama.rope.dimension_count", 6), "llama.rope.dimension_count: found 6"},
		{"scaling not known", set("llama.rope.scaling.type", "longrope"), "llama.rope.scaling.type: found longrope, wanted none, linear or yarn"},
		{"yarn with a factor not passed on", set("llama.rope.scaling.yarn_attn_factor", 0.5), "llama.rope.scaling.yarn_attn_factor: found 0.5"},
		{"factors of another size", add("rope_freqs.weight", factors(1, 2)), "tensor rope_freqs.weight: it is F32[2], wanted F32[4]"},
		{"factor of 0", add("rope_freqs.weight", factors(1, 1, 1, 0)), "element 3 is 0"},
		{"bias of q alone", add("blk.0.attn_q.bias", ggufTensor{typeF32, []int64{48}, make([]byte, 192)}), `tensor "blk.0.attn_q.bias": it is there, wanted a bias of attn_output too`},
		{"more tokens than embeddings", llama(func(f *ggufFile) {
			f.tensors["token_embd.weight"] = ggufTensor{typeF32, []int64{3, 48}, make([]byte, 3*48*4)}
		}), "wanted at most 3, the rows of token_embd.weight"},
		{"scale not finite", llama(func(f *ggufFile) {
			f.tensors["output.weight"] = ggufTensor{typeQ4_0, []int64{1, 32}, append([]byte{0, 0x7c}, make([]byte, 16)...)}
		}), `tensor "output.weight": the scale or min of block 0 is not finite`},
	} {
		store := &folders{t.TempDir(), map[string]int{}}
		_, err := Import(t.Context(), store, tt.file.open(t))
		var e *checkpoint.Error
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		} else if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "m.gguf: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: found %v, wanted %s", tt.name, err, tt.want)
		}
	}
}

// TestRopeScaling: the ways to reach beyond the length of training.
func TestRopeScaling(t *testing.T) {
	llama31 := make([]float32, 64)
	for i := range llama31 {
		// As LLaMA 3.1's converter writes them: by wave lengths, in float32.
		wave := 2 * math.Pi * math.Pow(500000, float64(i)/64)
		switch {
		case wave < 8192.0/4:
			llama31[i] = 1
		case wave > 8192:
			llama31[i] = 8
		default:
			smooth := (8192/wave - 1) / 3
			llama31[i] = float32(1 / ((1-smooth)/8 + smooth))
		}
	}
	odd := slices.Clone(llama31)
	odd[40] = 3
	for _, tt := range []struct {
		name    string
		meta    map[string]any
		factors []float32
		want    string
	}{
		{"none", nil, nil, "null"},
		{"linear", map[string]any{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, nil, `{"factor":4,"rope_type":"linear"}`},
		{"linear, as it was called first", map[string]any{"llama.rope.scale_linear": 2.0}, nil, `{"factor":2,"rope_type":"linear"}`},
		{"yarn", map[string]any{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0, "llama.rope.scaling.original_context_length": 4096,
			"llama.rope.scaling.yarn_beta_fast": 16.0}, nil, `{"beta_fast":16,"factor":4,"original_max_position_embeddings":4096,"rope_type":"yarn"}`},
		{"LLaMA 3.1", nil, llama31, `{"factor":8,"high_freq_factor":4,"low_freq_factor":1,"original_max_position_embeddings":8192,"rope_type":"llama3"}`},
		{"other factors", nil, odd, `"rope_type":"longrope"`},
	} {
		f := &ggufFile{meta: map[string]any{"llama.rope.freq_base": 500000.0}, tensors: map[string]ggufTensor{}}
		maps.Copy(f.meta, tt.meta)
		if tt.factors != nil {
			f.tensors[ropeFactors] = ggufTensor{typeF32, []int64{64}, put(nil, tt.factors)}
		}
		g := f.open(t)
		fields := g.Fields()
		got, err := json.Marshal(ropeScaling(g, fields, "llama", 128, 131072))
		if err != nil || fields.Err() != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%s: found %s, %v, %v, wanted %s", tt.name, got, err, fields.Err(), tt.want)
		}
	}
}

// TestImportKeeps: a file is imported once, and again when it has changed.
func TestImportKeeps(t *testing.T) {
	f, _ := tinyFile(t, "llama", "llama")
	store := &folders{t.TempDir(), map[string]int{}}
	first, err := Import(t.Context(), store, f.open(t))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Import(t.Context(), store, f.open(t)); err != nil || again != first || len(store.written) != 1 {
		t.Errorf("found %s, %v, wanted %s", again, err, first)
	}
	f.meta["llama.context_length"] = 100
	if other, err := Import(t.Context(), store, f.open(t)); err != nil || other == first {
		t.Errorf("found %s, %v, for another file", other, err)
	}
}

// TestImportSmolLM2 imports a real file: its weights mean what they meant bit for bit,
// and its tokenizer makes the recorded ids of a prompt.
func TestImportSmolLM2(t *testing.T) {
	if testing.Short() {
		t.Skip("135 million weights")
	}
	g, err := checkpoint.OpenGGUF(testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ck := writeFolder(t, g)
	weights, bits := int64(0), 0.0
	for _, stored := range []string{"token_embd.weight", "blk.0.attn_k.weight", "blk.29.ffn_down.weight"} {
		info, _ := g.Tensor(stored)
		data, err := g.Data(stored)
		if err != nil {
			t.Fatal(err)
		}
		name := map[string]string{"token_embd.weight": "model.embed_tokens.weight", "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
			"blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight"}[stored]
		q, ok := ck.Quantized(name)
		if !ok {
			t.Fatalf("%s is not quantised", name)
		}
		parts := map[string][]byte{}
		for _, suffix := range q.Suffixes() {
			v, err := ck.Data(name + suffix)
			if err != nil {
				t.Fatal(err)
			}
			parts[suffix] = v.Data
		}
		got := decode(q, parts[checkpoint.CodesSuffix], parts[checkpoint.ScalesSuffix], parts[checkpoint.MinsSuffix])
		for i, v := range got {
			row, col := int64(i)/q.K, int64(i)%q.K
			if stored == "blk.0.attn_k.weight" { // heads of 64
				row = row/64*64 + row%32*2 + row%64/32
			}
			at := row*q.K + col
			if want := meanings[info.Type.Name](data[at/32*info.Type.Bytes:], int(at%32)); math.Float32bits(v) != math.Float32bits(want) {
				t.Fatalf("%s: weight %d is %g, wanted %g", name, i, v, want)
			}
		}
	}
	for _, name := range ck.QuantizedNames() {
		q, _ := ck.Quantized(name)
		weights += q.N * q.K
		bits += q.BitsPerWeight() * float64(q.N*q.K)
	}
	t.Logf("%d weights in %d matrices of %.2f bits a weight", weights, len(ck.QuantizedNames()), bits/float64(weights))
	if got := bits / float64(weights); got < 5.5 || got > 6.2 {
		t.Errorf("found %.2f bits a weight, the file has Q8_0 embeddings and Q4_1 besides", got)
	}
	tok, err := processors.OpenTokenizer(ck.Dir)
	if err != nil {
		t.Fatal(err)
	}
	prompt, ids := recorded(t)
	if enc, err := tok.Encode(prompt, processors.EncodeOptions{}); err != nil || !slices.Equal(enc.IDs, ids) {
		t.Errorf("found %v, %v, wanted %v", enc.IDs, err, ids)
	}
	if eos := ck.Config.Fields().Ints("eos_token_id", 0, maxVocab); !slices.Equal(eos, []int64{0, 2}) {
		t.Errorf("generation ends at %v", eos)
	}
}

// recorded is the prompt of the recorded generation and its ids.
func recorded(t *testing.T) (string, []int64) {
	t.Helper()
	z, err := zip.OpenReader(testfiles.Shared(t, "real", "golden_smollm2_q4_1.npz"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	// data is an array's elements, which follow its header.
	data := func(name string) []byte {
		f, err := z.Open(name + ".npy")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil || len(b) < 10 {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		return b[10+binary.LittleEndian.Uint16(b[8:]):]
	}
	var prompt []rune // stored as UTF-32
	for b := data("prompt"); len(b) > 0; b = b[4:] {
		prompt = append(prompt, rune(binary.LittleEndian.Uint32(b)))
	}
	var ids []int64
	for b := data("input_ids"); len(b) > 0; b = b[8:] {
		ids = append(ids, int64(binary.LittleEndian.Uint64(b)))
	}
	return string(prompt), ids
}
