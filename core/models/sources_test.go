package models

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// sources are cross pools and who reads which of their pages; pages are taken last first.
type sources struct {
	t        testing.TB
	m        *Model
	prepare  *reference.Program
	pageSize int64
	pools    map[string]tensor.Tensor
	free     []int64
	tables   [][]int64
	rows     []int64
}

func newSources(t testing.TB, m *Model, ck *checkpoint.Checkpoint, pages, pageSize int64) *sources {
	t.Helper()
	s := &sources{t: t, m: m, prepare: program(t, m, ck, Prepare), pageSize: pageSize, pools: map[string]tensor.Tensor{}}
	for _, p := range m.Decoder.Cross.Pools {
		v, err := tensor.New(p.DType, append(tensor.Shape{pages, pageSize}, p.Row...))
		if err != nil {
			t.Fatal(err)
		}
		s.pools[p.Name] = v
	}
	for p := pages - 1; p > 0; p-- {
		s.free = append(s.free, p)
	}
	return s
}

// add has a source of so many rows read; what pad adds to it is nobody's.
func (s *sources) add(inputs map[string]tensor.Tensor, rows, pad int64) {
	s.t.Helper()
	feeds, err := s.m.Feeds(Prepare, inputs)
	if err != nil {
		s.t.Fatal(err)
	}
	var table, slots []int64
	for r := range rows {
		if r%s.pageSize == 0 {
			table, s.free = append(table, s.free[0]), s.free[1:]
		}
		slots = append(slots, table[r/s.pageSize]*s.pageSize+r%s.pageSize)
	}
	slots = append(slots, make([]int64, pad)...)
	feeds[Slots] = tensor.Ints(tensor.Shape{rows + pad}, slots...)
	maps.Copy(feeds, s.pools)
	var wanted []string
	for _, p := range s.m.Decoder.Cross.Pools {
		wanted = append(wanted, p.Output)
	}
	out, err := s.prepare.Run(s.t.Context(), feeds, wanted)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.m.Decoder.Cross.Pools {
		s.pools[p.Name] = out[p.Output]
	}
	s.tables, s.rows = append(s.tables, table), append(s.rows, rows)
}

// inputs are what Decode reads of them, a source a sequence.
func (s *sources) inputs([][]int64) map[string]tensor.Tensor {
	width := 0
	for _, t := range s.tables {
		width = max(width, len(t))
	}
	var all []int64
	for _, t := range s.tables {
		all = append(append(all, t...), make([]int64, width-len(t))...)
	}
	in := maps.Clone(s.pools)
	n := int64(len(s.rows))
	in[CrossPageTables] = tensor.Ints(tensor.Shape{n, int64(width)}, all...)
	in[CrossLengths] = tensor.Ints(tensor.Shape{n}, s.rows...)
	return in
}

// sourceOf is one of a golden's sources without its padding, and its rows.
func sourceOf(m *Model, golden map[string]tensor.Tensor, prefix string, i int64) (map[string]tensor.Tensor, int64) {
	if sound, ok := golden[prefix+InputFeatures]; ok {
		each := int64(len(sound.Data)) / sound.Shape[0]
		return map[string]tensor.Tensor{InputFeatures: {DType: sound.DType, Shape: append(tensor.Shape{1}, sound.Shape[1:]...), Data: sound.Data[i*each : (i+1)*each]}}, m.Decoder.Cross.Rows
	}
	ids, mask := golden[prefix+InputIDs], golden[prefix+"attention_mask"]
	var text []int64
	for j := range ids.Shape[1] {
		if at := i*ids.Shape[1] + j; tensor.View[int64](mask)[at] != 0 {
			text = append(text, tensor.View[int64](ids)[at])
		}
	}
	n := int64(len(text))
	return map[string]tensor.Tensor{InputIDs: tensor.Ints(tensor.Shape{1, n}, text...)}, n
}

// TestSourceGoldens reads texts and sounds as transformers' encoders did, and goes on with what
// its decoders went on with: over pages of several sizes, side by side, and step by step.
func TestSourceGoldens(t *testing.T) {
	for _, name := range []string{"t5", "t5_gated", "whisper"} {
		t.Run(name, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", name)
			m, ck := load(t, dir)
			golden := goldenTensors(t, dir)

			given := map[string]tensor.Tensor{}
			for _, in := range m.Decoder.Cross.Inputs {
				given[in] = golden["in."+in]
			}
			const hidden = "encoder_last_hidden_state"
			got, want := run(t, m, ck, Encoder, given)[hidden], golden["out."+hidden]
			if mask, ok := given["attention_mask"]; ok { // what comes of padding means nothing
				width := int(want.Shape[2])
				for i, on := range tensor.View[int64](mask) {
					if on == 0 {
						copy(tensor.View[float32](got)[i*width:(i+1)*width], tensor.View[float32](want)[i*width:(i+1)*width])
					}
				}
			}
			compare(t, hidden, got, want)

			for _, pageSize := range []int64{1, 4, 16} {
				ids, logits := golden["in.decoder_input_ids"], golden["out.logits"]
				n, length := ids.Shape[0], ids.Shape[1]
				src := newSources(t, m, ck, 300, pageSize)
				var texts [][]int64
				for i := range n {
					in, rows := sourceOf(m, golden, "in.", i)
					src.add(in, rows, 0)
					texts = append(texts, tensor.View[int64](ids)[i*length:(i+1)*length])
				}
				s := newSession(t, m, ck, 64, pageSize, int(n))
				s.more = src.inputs
				flat := tensor.Tensor{DType: logits.DType, Shape: tensor.Shape{n * length, logits.Shape[2]}, Data: logits.Data}
				compare(t, Logits, s.step(texts)[Logits], flat.Aligned())

				src = newSources(t, m, ck, 300, pageSize)
				in, rows1 := sourceOf(m, golden, "in.gen.", 0)
				src.add(in, rows1, 0)
				s = newSession(t, m, ck, 64, pageSize, 1)
				s.more = src.inputs
				last := s.step([][]int64{tensor.View[int64](golden["in.gen.decoder_input_ids"])})[Logits]
				prefill := golden["out.gen.prefill_logits"]
				compare(t, "prefill", last, tensor.Tensor{DType: prefill.DType, Shape: prefill.Shape[1:], Data: prefill.Data})
				steps := golden["out.gen.step_logits"]
				for i, id := range tensor.View[int64](golden["out.gen.token_ids"]) {
					row := rows(last, last.Shape[0]-1, last.Shape[0])
					compare(t, "step", row, rows(steps, int64(i), int64(i)+1))
					if got := argmax(row); got != id {
						t.Fatalf("token %d is %d, wanted %d", i, got, id)
					}
					last = s.step([][]int64{{id}})[Logits]
				}
			}
		})
	}
}

// TestPreparePadded: a text padded to a size that a device was compiled for gives the keys and
// values of the text, and its padding goes to the page that is nobody's.
func TestPreparePadded(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "t5")
	m, ck := load(t, dir)
	text := []int64{31, 7, 400, 22, 85, 1}
	plain, padded := newSources(t, m, ck, 4, 4), newSources(t, m, ck, 4, 4)
	plain.add(map[string]tensor.Tensor{InputIDs: tensor.Ints(tensor.Shape{1, 6}, text...)}, 6, 0)
	padded.add(map[string]tensor.Tensor{
		InputIDs:         tensor.Ints(tensor.Shape{1, 8}, append(slices.Clone(text), 0, 0)...),
		"attention_mask": tensor.Ints(tensor.Shape{1, 8}, 1, 1, 1, 1, 1, 1, 0, 0),
	}, 6, 2)
	for _, p := range m.Decoder.Cross.Pools {
		page := int(p.PageBytes(4)) / 4
		a, b := tensor.View[float32](plain.pools[p.Name])[page:], tensor.View[float32](padded.pools[p.Name])[page:]
		compare(t, p.Name, tensor.Floats(tensor.Shape{int64(len(b))}, b...), tensor.Floats(tensor.Shape{int64(len(a))}, a...))
	}
}

func TestSourceDescriptions(t *testing.T) {
	for _, tt := range []struct {
		name          string
		maxRows, rows int64
		start         int64
		hears         bool
		pools         []string
		bytes         int64 // of a page of 4 rows
	}{
		{"t5", t5MaxTokens, 0, 0, false, []string{"cross_k.0", "cross_v.0", "cross_k.1", "cross_v.1", "cross_k.2", "cross_v.2"}, 3 * 2 * 4 * 3 * 12 * 4},
		{"whisper", 100, 100, 560, true, []string{"cross_k.0", "cross_v.0", "cross_k.1", "cross_v.1", "cross_k.2", "cross_v.2"}, 3 * 2 * 4 * 48 * 4},
	} {
		m, _ := load(t, testfiles.Shared(t, "tiny", tt.name))
		c := m.Decoder.Cross
		var names []string
		var bytes int64
		for _, p := range c.Pools {
			names = append(names, p.Name)
			bytes += p.PageBytes(4)
		}
		if c.MaxRows != tt.maxRows || c.Rows != tt.rows || c.Start != tt.start || m.Hears() != tt.hears || bytes != tt.bytes || len(m.Unused) != 0 {
			t.Errorf("%s: found %+v, %d bytes a page, unused %v", tt.name, c, bytes, m.Unused)
		}
		if !slices.Equal(names, tt.pools) {
			t.Errorf("%s: found pools %v", tt.name, names)
		}
	}
}

func TestSourceConfigErrors(t *testing.T) {
	for _, c := range []struct {
		model  string
		change func(map[string]any)
		want   string
	}{
		{"t5", with("feed_forward_proj", "gated-mish"), `feed_forward_proj: found "gated-mish"`},
		{"t5", with("relative_attention_num_buckets", 18), "relative_attention_num_buckets: found 18 with distances up to 32, wanted a multiple of 4"},
		{"t5", with("relative_attention_max_distance", 8), "relative_attention_num_buckets: found 16 with distances up to 8"},
		{"t5", with("decoder_start_token_id", 816), "decoder_start_token_id: found 816, wanted a token below vocab_size, which is 816"},
		{"t5", with("num_layers", 0), "num_layers: found 0"},
		{"t5", with("d_kv", "12"), "d_kv: "},
		{"t5", with("d_ff", 73), "shape"},
		{"t5", with("num_decoder_layers", 4), "decoder.block.3"},
		{"t5", with("layer_norm_epsilon", -1), "layer_norm_epsilon: found -1"},
		{"t5_gated", with("feed_forward_proj", "relu"), "tensor"},
		{"t5_gated", with("tie_word_embeddings", 1), "tie_word_embeddings: "},
		{"whisper", with("decoder_attention_heads", 5), "decoder_attention_heads: found 5, wanted a divisor of d_model, which is 48"},
		{"whisper", with("encoder_attention_heads", 7), "encoder_attention_heads: found 7, wanted a divisor of d_model"},
		{"whisper", with("decoder_start_token_id", 620), "decoder_start_token_id: found 620, wanted a token below vocab_size, which is 620"},
		{"whisper", func(c map[string]any) { delete(c, "pad_token_id") }, "pad_token_id: "},
		{"whisper", with("max_source_positions", 101), "shape"},
		{"whisper", with("num_mel_bins", 128), "shape"},
		{"whisper", with("activation_function", "mish"), `activation_function: found "mish"`},
		{"whisper", with("max_target_positions", 0), "max_target_positions: found 0"},
		{"whisper", with("encoder_layers", 3), "encoder.layers.2"},
		{"whisper", with("vocab_size", 619), "shape"},
	} {
		dir := copied(t, testfiles.Shared(t, "tiny", c.model), c.change, nil)
		_, err := Load(open(t, dir), Options{})
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: found %v, wanted %q", c.model, err, c.want)
		}
	}
}
