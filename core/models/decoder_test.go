package models

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// tinyDecoders are the folders in testdata/tiny that have Decode.
var tinyDecoders = []string{"llama", "llama_rope3", "qwen2", "qwen3"}

func tiny(name string) string { return filepath.Join("..", "..", "testdata", "tiny", name) }

// session decodes with pools of its own; sequences take pages as they need them, the
// last first.
type session struct {
	t        testing.TB
	d        *Decoder
	program  *reference.Program
	pageSize int64
	pools    map[string]tensor.Tensor
	free     []int64
	tables   [][]int64
	lengths  []int64
	more     func(tokens [][]int64) map[string]tensor.Tensor // inputs of models that read more than tokens; else nil
}

func newSession(t testing.TB, m *Model, ck *checkpoint.Checkpoint, pages, pageSize int64, sequences int) *session {
	t.Helper()
	s := &session{t: t, d: m.Decoder, program: program(t, m, ck, Decode), pageSize: pageSize, pools: map[string]tensor.Tensor{},
		tables: make([][]int64, sequences), lengths: make([]int64, sequences)}
	for _, p := range m.Decoder.Pools {
		v, err := tensor.New(p.DType, append(tensor.Shape{pages, pageSize}, p.Row...))
		if err != nil {
			t.Fatal(err)
		}
		s.pools[p.Name] = v
	}
	for p := pages - 1; p > 0; p-- { // page 0 is nobody's
		s.free = append(s.free, p)
	}
	return s
}

// step runs tokens of each sequence and returns the logits of all of them, a tensor
// of [tokens, vocabulary], and other values of the graph that are asked for.
func (s *session) step(tokens [][]int64, more ...string) map[string]tensor.Tensor {
	s.t.Helper()
	var ids, positions, slots, selected, table []int64
	starts := []int64{0}
	width := 1
	for i, list := range tokens {
		for _, id := range list {
			p := s.lengths[i]
			if p/s.pageSize == int64(len(s.tables[i])) {
				s.tables[i], s.free = append(s.tables[i], s.free[0]), s.free[1:]
			}
			ids, positions = append(ids, id), append(positions, p)
			slots = append(slots, s.tables[i][p/s.pageSize]*s.pageSize+p%s.pageSize)
			selected = append(selected, int64(len(selected)))
			s.lengths[i]++
		}
		starts = append(starts, int64(len(ids)))
		width = max(width, len(s.tables[i]))
	}
	for _, row := range s.tables {
		table = append(table, row...)
		table = append(table, make([]int64, width-len(row))...)
	}
	list := func(v []int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	in := map[string]tensor.Tensor{
		InputIDs: list(ids), Positions: list(positions), Slots: list(slots), Lengths: list(s.lengths), Starts: list(starts), Select: list(selected),
		PageTables: tensor.Ints(tensor.Shape{int64(len(s.tables)), int64(width)}, table...),
	}
	if s.more != nil {
		maps.Copy(in, s.more(tokens))
	}
	wanted := append([]string{Logits}, more...)
	for _, p := range s.d.Pools {
		in[p.Name] = s.pools[p.Name]
		wanted = append(wanted, p.Output)
	}
	out, err := s.program.Run(s.t.Context(), in, wanted)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.d.Pools {
		s.pools[p.Name] = out[p.Output]
	}
	return out
}

func rows(t tensor.Tensor, from, to int64) tensor.Tensor {
	width := t.Shape[len(t.Shape)-1]
	return tensor.Floats(tensor.Shape{to - from, width}, tensor.View[float32](t.Aligned())[from*width:to*width]...)
}

func argmax(row tensor.Tensor) int64 {
	v := tensor.View[float32](row)
	best := 0
	for i := range v {
		if v[i] > v[best] {
			best = i
		}
	}
	return int64(best)
}

func goldenTensors(t testing.TB, dir string) map[string]tensor.Tensor {
	t.Helper()
	golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { golden.Close() })
	out := map[string]tensor.Tensor{}
	for _, name := range golden.Names() {
		v, err := golden.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = v.Aligned()
	}
	return out
}

// TestDecoderGoldens decodes 16 tokens after a prompt as transformers did, over
// pages of several sizes, with the prompt whole and in chunks, and beside
// strangers.
func TestDecoderGoldens(t *testing.T) {
	for _, name := range tinyDecoders {
		m, ck := load(t, tiny(name))
		golden := goldenTensors(t, tiny(name))
		prompt := tensor.View[int64](golden["in.gen.input_ids"])
		want := tensor.View[int64](golden["out.gen.token_ids"])
		prefill, steps := golden["out.gen.prefill_logits"], golden["out.gen.step_logits"]
		strangers := [][]int64{prompt[2:7], prompt[:1]}
		for _, pageSize := range []int64{1, 4, 16} {
			for _, chunk := range []int{len(prompt), 3} {
				for _, batched := range []bool{false, true} {
					if testing.Short() && (pageSize != 4 || chunk != 3 || !batched) {
						continue
					}
					t.Run(fmt.Sprintf("%s/pages of %d/chunks of %d/batched %v", name, pageSize, chunk, batched), func(t *testing.T) {
						sequences := 1
						if batched {
							sequences += len(strangers)
						}
						s := newSession(t, m, ck, 120, pageSize, sequences)
						step := func(tokens []int64) tensor.Tensor {
							if !batched {
								return s.step([][]int64{tokens})[Logits]
							}
							before := strangers[0]
							if s.lengths[0] > 0 {
								before = before[:1]
							}
							n := int64(len(before))
							return rows(s.step([][]int64{before, tokens, strangers[1]})[Logits], n, n+int64(len(tokens)))
						}
						var last tensor.Tensor
						at := int64(0)
						for part := range slices.Chunk(prompt, chunk) {
							last = step(part)
							n := int64(len(part))
							compare(t, fmt.Sprintf("prefill %d", at), last, rows(prefill, at, at+n))
							at += n
						}
						for i, id := range want {
							row := rows(last, last.Shape[0]-1, last.Shape[0])
							compare(t, fmt.Sprintf("step %d", i), row, rows(steps, int64(i), int64(i)+1))
							if got := argmax(row); got != id {
								t.Fatalf("token %d is %d, wanted %d", i, got, id)
							}
							last = step([]int64{id})
						}
					})
				}
			}
		}
	}
}

// TestDecoderCases runs the batches that transformers padded: padding is no token
// here.
func TestDecoderCases(t *testing.T) {
	for _, name := range tinyDecoders {
		m, ck := load(t, tiny(name))
		golden := goldenTensors(t, tiny(name))
		for _, c := range []string{"base", "rightpad", "leftpad", "long"} {
			ids, ok := golden["in."+c+".input_ids"]
			if !ok {
				continue
			}
			t.Run(name+"/"+c, func(t *testing.T) {
				mask, masked := golden["in."+c+".attention_mask"]
				want, ok := golden["out."+c+".logits"]
				value := Logits
				if !ok {
					want, value = golden["out."+c+".last_hidden_state"], "norm/RMSNormalization"
				}
				width := want.Shape[2]
				var tokens [][]int64
				var wanted []float32
				for i := range ids.Len() {
					if i%int(ids.Shape[1]) == 0 {
						tokens = append(tokens, nil)
					}
					if masked && tensor.View[int64](mask)[i] == 0 {
						continue
					}
					tokens[len(tokens)-1] = append(tokens[len(tokens)-1], tensor.View[int64](ids)[i])
					wanted = append(wanted, tensor.View[float32](want)[int64(i)*width:int64(i+1)*width]...)
				}
				s := newSession(t, m, ck, 32, 4, len(tokens))
				got := s.step(tokens, value)[value]
				compare(t, value, got, tensor.Floats(tensor.Shape{int64(len(wanted)) / width, width}, wanted...))
			})
		}
	}
}

func TestDecoderDescription(t *testing.T) {
	m, _ := load(t, tiny("qwen3"))
	d := m.Decoder
	if m.Class != "qwen3" || d.Layers != 3 || d.KVHeads != 2 || d.HeadDim != 16 || d.ValueHeadDim != 16 || d.VocabSize != 640 || d.MaxPositions != 128 ||
		!slices.Equal(d.EOS, []int64{639, 637}) || d.BOS != -1 || !slices.Equal(d.Windows, []int64{0, 0, 0}) || d.ByLength || len(m.Unused) != 0 {
		t.Errorf("found %+v of %+v", d, m)
	}
	ck := open(t, tiny("llama"))
	for _, c := range []struct {
		kv    KVTypes
		pools []string
		bytes int64 // of a page of 4
	}{
		{KVTypes{}, []string{"k.0", "v.0"}, 3 * 2 * 4 * 2 * 8 * 4},
		{KVTypes{Key: tensor.Float16, Value: tensor.BFloat16}, []string{"k.0", "v.0"}, 3 * 2 * 4 * 2 * 8 * 2},
		{KVTypes{Key: tensor.Int8, Value: tensor.Uint8, ValueBits: 4}, []string{"k.0", "v.0", "k_scales.0", "v_scales.0"}, 3 * 4 * 2 * (8 + 4 + 2 + 2)},
		{KVTypes{Key: tensor.Int8, KeyBits: 8}, []string{"k.0", "v.0", "k_scales.0"}, 3 * 4 * 2 * (8 + 32 + 2)},
	} {
		m, err := Load(ck, Options{KV: c.kv})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		var bytes int64
		for _, p := range m.Decoder.Pools {
			if p.Layer == 0 {
				names = append(names, p.Name)
			}
			bytes += p.PageBytes(4)
		}
		if !slices.Equal(names, c.pools) || bytes != c.bytes {
			t.Errorf("%+v: found pools %v, %d bytes a page", c.kv, names, bytes)
		}
	}
	for _, o := range []Options{{KV: KVTypes{Key: tensor.Int32}}, {KV: KVTypes{Value: tensor.Int8, ValueBits: 4}}, {KV: KVTypes{KeyBits: 8}}, {Activations: "int4"}} {
		if _, err := Load(ck, o); err == nil || !strings.Contains(err.Error(), "wanted") {
			t.Errorf("%+v: found %v", o, err)
		}
	}
}

// TestDecoderWithQuantisedPools is a sanity check of the graph: pools of fewer bits
// stay near.
func TestDecoderWithQuantisedPools(t *testing.T) {
	ck := open(t, tiny("llama"))
	golden := goldenTensors(t, tiny("llama"))
	want := golden["out.gen.prefill_logits"]
	for _, c := range []struct {
		kv  KVTypes
		tol float64 // of the largest
	}{
		{KVTypes{Key: tensor.Float16, Value: tensor.BFloat16}, 0.02},
		{KVTypes{Key: tensor.Int8, Value: tensor.Int8}, 0.05},
		{KVTypes{Key: tensor.Int8, Value: tensor.Uint8, ValueBits: 4}, 0.5},
	} {
		m, err := Load(ck, Options{KV: c.kv})
		if err != nil {
			t.Fatal(err)
		}
		got := newSession(t, m, ck, 20, 4, 1).step([][]int64{tensor.View[int64](golden["in.gen.input_ids"])})[Logits]
		g, w := tensor.View[float32](got), tensor.View[float32](want)
		var worst, most float64
		for i := range w {
			worst, most = max(worst, math.Abs(float64(g[i]-w[i]))), max(most, math.Abs(float64(w[i])))
		}
		if worst > c.tol*most || worst == 0 {
			t.Errorf("%+v: off by %g of %g", c.kv, worst, most)
		}
	}
}

// TestDecoderKinds runs decoders of every kind of positions, windows and biases, past
// the length that they were trained at (testdata/generate_decoders.py).
func TestDecoderKinds(t *testing.T) {
	configs, err := filepath.Glob(filepath.Join("testdata", "decoders", "*", "config.json"))
	if err != nil || len(configs) < 13 {
		t.Fatalf("found %v, %v", configs, err)
	}
	windows := map[string][]int64{"mistral": {4, 4}, "windows": {0, 5, 5}, "window_types": {3, 0}}
	reach := map[string]int64{"linear": 40, "dynamic": 48, "yarn": 48, "yarn_given": 32, "yarn_mscale": 72}
	for _, config := range configs {
		dir := filepath.Dir(config)
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			m, ck := load(t, dir)
			golden := goldenTensors(t, dir)
			prompt, next := tensor.View[int64](golden["in.input_ids"]), tensor.View[int64](golden["in.next_ids"])
			short := golden["out.short_logits"]
			compare(t, "beginning", newSession(t, m, ck, 8, 4, 1).step([][]int64{prompt[:short.Shape[0]]})[Logits], short)
			// Beside a short stranger, whose length is not this one's.
			s := newSession(t, m, ck, 16, 4, 2)
			got := s.step([][]int64{{5}, prompt})[Logits]
			compare(t, "prompt", rows(got, 1, got.Shape[0]), golden["out.logits"])
			for i, id := range next {
				got := s.step([][]int64{{7}, {id}})[Logits]
				compare(t, fmt.Sprintf("token %d", i), rows(got, 1, 2), rows(golden["out.next_logits"], int64(i), int64(i)+1))
			}
			d := m.Decoder
			wantWindows, wantReach := windows[name], reach[name]
			if wantWindows == nil {
				wantWindows = make([]int64, d.Layers)
			}
			if wantReach == 0 {
				wantReach = 16
			}
			byLength := name == "dynamic" || name == "longrope"
			if !slices.Equal(d.Windows, wantWindows) || d.MaxPositions != wantReach || d.ByLength != byLength || byLength != (len(m.Notes) > 0) || len(m.Unused) > 0 {
				t.Errorf("found windows %v, %d positions, by length %v, notes %q, unused %v", d.Windows, d.MaxPositions, d.ByLength, m.Notes, m.Unused)
			}
		})
	}
}

func TestDecoderConfigErrors(t *testing.T) {
	set := func(pairs ...any) func(map[string]any) {
		return func(c map[string]any) {
			for i := 0; i < len(pairs); i += 2 {
				c[pairs[i].(string)] = pairs[i+1]
			}
		}
	}
	rope := func(pairs ...any) func(map[string]any) {
		r := map[string]any{}
		set(pairs...)(r)
		return set("rope_parameters", r)
	}
	ones := func(n int) []float64 { return slices.Repeat([]float64{1}, n) }
	for _, c := range []struct {
		model  string
		change func(map[string]any)
		want   string
	}{
		{"llama", set("num_key_value_heads", 4), "num_key_value_heads: found 4, wanted a divisor of num_attention_heads, which is 6"},
		{"llama", set("head_dim", nil, "num_attention_heads", 5, "num_key_value_heads", 5), "num_attention_heads: found 5, wanted a divisor of hidden_size, which is 48"},
		{"llama", set("hidden_act", "geglu"), `hidden_act: found "geglu"`},
		{"llama", set("final_logit_softcapping", 30.0), "final_logit_softcapping: found 30, wanted it left out"},
		{"llama", set("residual_multiplier", 0.22), "residual_multiplier: found 0.22"},
		{"llama", set("head_dim", 16), "its shape is [48,48], wanted [96,48]"},
		{"llama", set("tie_word_embeddings", 1), "tie_word_embeddings: found 1"},
		{"llama", set("eos_token_id", []int{1, -2}), "eos_token_id: found [1,-2]"},
		{"llama", rope("rope_type", "ntk"), `rope_parameters.rope_type: found "ntk", wanted one of default, dynamic,`},
		{"llama", rope("rope_type", "linear"), "rope_parameters.factor: it is missing"},
		{"llama", rope("rope_type", "linear", "factor", 0.5), "rope_parameters.factor: found 0.5"},
		{"llama", rope("rope_type", "default", "mrope_section", []int{1}), `rope_parameters.mrope_section: it is no setting of rope_type "default"`},
		{"llama", rope("rope_type", "llama3", "factor", 2, "low_freq_factor", 4, "high_freq_factor", 4), "rope_parameters.high_freq_factor: found 4, wanted more than low_freq_factor"},
		{"llama", rope("rope_type", "longrope", "long_factor", ones(3), "short_factor", ones(4)), "rope_parameters.long_factor: it has 3 numbers, wanted 4"},
		{"llama", rope("rope_type", "longrope", "long_factor", ones(4), "short_factor", []float64{1, 0, 1, 1}), "rope_parameters.short_factor: found 0"},
		{"llama", rope("partial_rotary_factor", 0.4), "head_dim: 3 of its 8 elements would be turned"},
		{"llama", rope("full_attention", map[string]any{"rope_type": "default"}), "rope_parameters.full_attention: it is no setting"},
		{"qwen2", set("use_sliding_window", true, "sliding_window", 8, "layer_types", []string{"full_attention"}), "layer_types: it has 1 entries, wanted 2"},
		{"qwen2", set("layer_types", []string{"full_attention", "sliding_attention"}), `layer_types: found "sliding_attention", wanted use_sliding_window`},
		{"qwen2", set("layer_types", []string{"full_attention", "linear_attention"}), `layer_types: found "linear_attention"`},
	} {
		_, err := Load(open(t, copied(t, tiny(c.model), c.change, nil)), Options{})
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("found %v, wanted %q", err, c.want)
		}
	}
	extra := func(w map[string]tensor.Tensor) {
		w["model.layers.1.self_attn.q_proj.bias"] = tensor.Floats(tensor.Shape{1}, 1)
	}
	_, err := Load(open(t, copied(t, tiny("llama"), nil, extra)), Options{})
	if err == nil || !strings.Contains(err.Error(), `tensor "model.layers.1.self_attn.q_proj.bias": it is there`) {
		t.Errorf("found %v", err)
	}
	if m, err := Load(open(t, copied(t, tiny("llama"), set("num_hidden_layers", 2, "pad_token_id", -1), nil)), Options{}); err != nil || len(m.Unused) != 9 || m.PadToken != 0 {
		t.Errorf("a model cut short: %v", err)
	}
	_, err = Load(open(t, copied(t, filepath.Join("testdata", "decoders", "mistral"), set("layer_types", []string{"full_attention", "full_attention"}), nil)), Options{})
	if err == nil || !strings.Contains(err.Error(), "layer_types: it is there") {
		t.Errorf("found %v", err)
	}
}

func TestDecoderFeeds(t *testing.T) {
	m, _ := load(t, tiny("llama"))
	good := func() map[string]tensor.Tensor {
		in := map[string]tensor.Tensor{}
		for _, name := range []string{InputIDs, Positions, Slots, Lengths, Select} {
			in[name] = tensor.Ints(tensor.Shape{1}, 0)
		}
		in[Starts], in[PageTables] = tensor.Ints(tensor.Shape{2}, 0, 1), tensor.Ints(tensor.Shape{1, 1}, 1)
		for _, p := range m.Decoder.Pools {
			v, err := tensor.New(p.DType, append(tensor.Shape{2, 4}, p.Row...))
			if err != nil {
				t.Fatal(err)
			}
			in[p.Name] = v
		}
		return in
	}
	if got, err := m.Feeds(Decode, good()); err != nil || len(got) != len(good()) {
		t.Errorf("found %d inputs, %v", len(got), err)
	}
	for _, c := range []struct {
		name  string
		value *tensor.Tensor // nil: left out
		want  string
	}{
		{InputIDs, ptr(tensor.Ints(tensor.Shape{1}, 660)), "input_ids[0]: found 660, wanted a token below vocab_size, which is 660"},
		{Positions, ptr(tensor.Ints(tensor.Shape{1}, 128)), "positions[0]: found 128"},
		{Select, ptr(tensor.Ints(tensor.Shape{1}, 1)), "select[0]: found 1, wanted a token of the step"},
		{"k.0", ptr(tensor.Ints(tensor.Shape{1}, 1)), "k.0: its type is int64, wanted float32"},
		{"pixels", ptr(tensor.Ints(tensor.Shape{1}, 1)), "pixels: the model has no such input"},
		{"v.2", nil, "v.2: it is missing"},
	} {
		in := good()
		delete(in, c.name)
		if c.value != nil {
			in[c.name] = *c.value
		}
		_, err := m.Feeds(Decode, in)
		var e *InputError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("found %v, wanted %q", err, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }
