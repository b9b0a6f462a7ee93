package models

import (
	"fmt"
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
