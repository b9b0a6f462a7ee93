package quantize

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// plain is a Runtime in plain Go.
type plain struct{ dir string }

func (r plain) Scratch() string { return r.dir }

func (r plain) Open(_ context.Context, g *graph.Model, _, _ string) (Runnable, error) {
	g = g.Clone()
	for _, in := range g.Graph.Initializers {
		if in.External == nil {
			continue
		}
		f, err := os.Open(in.External.Path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data := make([]byte, in.External.Length)
		if _, err := f.ReadAt(data, in.External.Offset); err != nil {
			return nil, err
		}
		in.Tensor.Data, in.External = data, nil
		in.Tensor = in.Tensor.Aligned()
	}
	p, err := reference.New(g, reference.Options{})
	return program{p}, err
}

type program struct{ *reference.Program }

func (program) Close() error { return nil }

func open(t testing.TB, dir string) *checkpoint.Checkpoint {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

// once runs a component of a folder.
func once(t testing.TB, dir, component string, inputs map[string]tensor.Tensor, output string) tensor.Tensor {
	t.Helper()
	ck := open(t, dir)
	m, err := models.Load(ck, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Unused) > 0 {
		t.Errorf("nothing reads %v", m.Unused)
	}
	g, err := m.Component(component)
	if err != nil {
		t.Fatal(err)
	}
	if component != models.Decode {
		if inputs, err = m.Feeds(component, inputs); err != nil {
			t.Fatal(err)
		}
	}
	run, err := plain{t.TempDir()}.Open(t.Context(), g, "", "")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.Run(t.Context(), inputs, []string{output})
	if err != nil {
		t.Fatal(err)
	}
	return out[output]
}

func quantised(t testing.TB, dir string, o Options) (string, Report) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out")
	r, err := Run(t.Context(), open(t, dir), to, o)
	if err != nil {
		t.Fatal(err)
	}
	return to, r
}

// classCases are a component of each class, with the recorded inputs that it takes.
var classCases = []struct {
	dir, component, output string
	inputs                 map[string]string
}{
	{"bert", models.Full, "last_hidden_state", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask", "token_type_ids": "in.token_type_ids"}},
	{"bert", models.Full, "pooler_output", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask", "token_type_ids": "in.token_type_ids"}},
	{"clap", models.Text, "text_embeds", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask"}},
	{"clap", models.Audio, "audio_embeds", map[string]string{"input_features": "in.input_features"}},
	{"clip", models.Text, "text_embeds", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask"}},
	{"clip", models.Image, "image_embeds", map[string]string{"pixel_values": "in.pixel_values"}},
	{"detr", models.Detect, "logits", map[string]string{"pixel_values": "in.single.pixel_values"}},
	{"llama", models.Decode, "logits", nil},
	{"llava", models.Decode, "logits", nil},
	{"llava", models.See, "image_rows", map[string]string{"pixel_values": "in.pixel_values"}},
	{"llava_next", models.Decode, "logits", nil},
	{"qwen2", models.Decode, "logits", nil},
	{"qwen3", models.Decode, "logits", nil},
	{"t5", models.Encoder, "encoder_last_hidden_state", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask"}},
	{"t5_gated", models.Encoder, "encoder_last_hidden_state", map[string]string{"input_ids": "in.input_ids", "attention_mask": "in.attention_mask"}},
	{"vit", models.Classify, "logits", map[string]string{"pixel_values": "in.pixel_values"}},
	{"wav2vec2", models.CTCLogits, "logits", map[string]string{"input_values": "in.single.input_values"}},
	{"whisper", models.Encoder, "encoder_last_hidden_state", map[string]string{"input_features": "in.input_features"}},
	{"xclip", models.Video, "video_embeds", map[string]string{"pixel_values": "in.pixel_values"}},
}

// TestClasses quantises a model of every class, and holds what it makes of the recorded
// inputs against what the model makes of them.
func TestClasses(t *testing.T) {
	// These models have blocks of 12 to 48 weights and nothing to spare.
	least := map[string]float64{"f16": 0.99999, "bf16": 0.9998, "int8": 0.9995, "int4-mixed": 0.9, "int4": 0.9, "int3": 0.6, "int2": 0}
	for _, c := range classCases {
		t.Run(c.dir+"/"+c.component+"/"+c.output, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", c.dir)
			inputs := map[string]tensor.Tensor{}
			golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer golden.Close()
			for name, from := range c.inputs {
				v, err := golden.Tensor(from)
				if err != nil {
					t.Fatal(err)
				}
				inputs[name] = v.Aligned()
			}
			if c.component == models.Decode {
				m, err := models.Load(open(t, dir), models.Options{})
				if err != nil {
					t.Fatal(err)
				}
				f, err := window(m.Decoder, []int64{3, 9, 200, 41, 77, 5})
				if err != nil {
					t.Fatal(err)
				}
				inputs = f.inputs
			}
			want := once(t, dir, c.component, inputs, c.output)
			for name, bound := range least {
				to, r := quantised(t, dir, Options{Precision: name})
				got := once(t, to, c.component, inputs, c.output)
				cos := cosine(tensor.View[float32](want.Aligned()), tensor.View[float32](got.Aligned()))
				if !(cos >= bound) {
					t.Errorf("%s: the cosine is %.5f, wanted %.5f", name, cos, bound)
				}
				info, err := os.Stat(filepath.Join(to, weightsFile))
				if err != nil {
					t.Fatal(err)
				}
				// The header is all that is not counted.
				if over := info.Size() - r.Size.Bytes; over < 8 || over > 1<<17 {
					t.Errorf("%s: the file has %d bytes, counted are %d", name, info.Size(), r.Size.Bytes)
				}
				for _, l := range r.Layers {
					if len(l.Components) > 0 && l.Why == "" && strings.HasPrefix(name, "int") && l.Block == 0 {
						t.Errorf("%s: %s is %s and nothing says why", name, l.Name, l.Format)
					}
				}
				t.Logf("%-10s cosine %.5f, %.2f bits", name, cos, r.Bits)
			}
		})
	}
}

// What is stored is what the contract says codes mean, and as far off as was told.
func TestStored(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "llama")
	from := open(t, dir)
	for _, o := range []Options{{Precision: "8"}, {Precision: "4"}, {Precision: "3"}, {Precision: "2"}, {Precision: "4", Method: Nearest, Block: 16}} {
		to, r := quantised(t, dir, o)
		ck := open(t, to)
		if len(ck.QuantizedNames()) < 10 {
			t.Fatalf("%+v: only %v are quantised", o, ck.QuantizedNames())
		}
		for _, name := range ck.QuantizedNames() {
			q, _ := ck.Quantized(name)
			var parts [3][]byte
			for i, suffix := range q.Suffixes() {
				v, err := ck.Data(name + suffix)
				if err != nil {
					t.Fatal(err)
				}
				parts[i] = v.Data
			}
			x, err := from.Data(name)
			if err != nil {
				t.Fatal(err)
			}
			want := tensor.View[float32](x.Aligned())
			var off, whole float64
			for i, v := range decode(q, parts[0], parts[1], parts[2]) {
				off, whole = off+math.Pow(float64(v-want[i]), 2), whole+float64(want[i])*float64(want[i])
			}
			i := slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Name == name })
			if math.Abs(off/whole-r.Layers[i].Error) > 1e-3*off/whole {
				t.Errorf("%+v: %s is off by %g, told %g", o, name, off/whole, r.Layers[i].Error)
			}
		}
	}
}

// A folder that is quantised may be quantised again: it is decoded first, and where
// nothing changes its codes stay bit for bit.
func TestAgain(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "qwen2")
	eight, _ := quantised(t, dir, Options{Precision: "8"})
	same, _ := quantised(t, eight, Options{Precision: "8"})
	a, err1 := os.ReadFile(filepath.Join(eight, weightsFile))
	b, err2 := os.ReadFile(filepath.Join(same, weightsFile))
	if err := errors.Join(err1, err2); err != nil || string(a) != string(b) {
		t.Errorf("the weights differ: %v", err)
	}
	four, r := quantised(t, eight, Options{Precision: "4"})
	if r.Bits > 8 || len(open(t, four).QuantizedNames()) == 0 {
		t.Errorf("found %.2f bits", r.Bits)
	}
	whole, r := quantised(t, eight, Options{Precision: "f16"})
	if ck := open(t, whole); len(ck.QuantizedNames()) > 0 || r.Bits < 16 {
		t.Errorf("found %.2f bits, %v are quantised", r.Bits, ck.QuantizedNames())
	}
}

// TestComponents: LLaVA's eyes have 8 bits and its text 4, unless told otherwise.
func TestComponents(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "llava")
	for _, tt := range []struct {
		o         Options
		see, text string
	}{
		{Options{}, "int8", "int4"},
		{Options{Precision: "4"}, "int4", "int4"}, // whose eyes have rows of 36: 3 bits would end within a byte
		{Options{Components: map[string]string{"see": "f16"}}, "float16", "int4"},
	} {
		p, err := NewPlan(open(t, dir), tt.o)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.report(nil).Layers {
			want := tt.text
			if slices.Contains(l.Components, models.See) {
				want = tt.see
			}
			if len(l.Components) > 0 && l.Format != want {
				t.Errorf("%+v: %s of %v is %s, wanted %s", tt.o, l.Name, l.Components, l.Format, want)
			}
		}
	}
}

// TestMixedRoles: attention keeps 8 bits in a mixture that is not measured.
func TestMixedRoles(t *testing.T) {
	p, err := NewPlan(open(t, testfiles.Shared(t, "tiny", "llama")), Options{Precision: "4-mixed"})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, l := range p.report(nil).Layers {
		if len(l.Components) > 0 {
			found[l.Role] = l.Format
		}
	}
	want := map[string]string{"attention.q": "int8", "attention.k": "int8", "attention.v": "int8", "attention.o": "int8", "mlp.up": "int4", "mlp.gate": "int4", "mlp.down": "int4", "embedding": "int8", "head": "int8"}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %v, wanted %v", found, want)
	}
}

// A run that is stopped goes on where it was and ends in the same bytes.
func TestResume(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "bert")
	want, _ := quantised(t, dir, Options{Precision: "4"})
	to := filepath.Join(t.TempDir(), "out")
	ck := open(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	count := 0
	_, err := Run(ctx, ck, to, Options{Precision: "4", Progress: func(Progress) {
		if count++; count == 5 {
			stop()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("found %v", err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Fatal("an unfinished folder has its name")
	}
	// As if some tensors had been synced, the last line being cut short.
	p, err := NewPlan(ck, Options{Precision: "4"})
	if err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(to+partialSuffix, journalFile)
	data, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(want, weightsFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to+partialSuffix, weightsFile), whole, 0o644); err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{}
	for i := range p.Items[:20] {
		line, _ := json.Marshal(Written{Name: p.Items[i].Name, Error: 7})
		data = append(append(data, line...), '\n')
		done[p.Items[i].Name] = true
	}
	if err := os.WriteFile(journal, append(data, `{"name":"x`...), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), ck, to, Options{Precision: "4"})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range r.Layers {
		if done[l.Name] != (l.Error == 7) {
			t.Errorf("%s was written again: %v", l.Name, done[l.Name])
		}
	}
	got, err := os.ReadFile(filepath.Join(to, weightsFile))
	if err != nil || string(got) != string(whole) {
		t.Errorf("the weights are others: %v", err)
	}
	if _, err := os.Stat(filepath.Join(to, journalFile)); err == nil {
		t.Error("the journal is still there")
	}
	// What is there is not written over, nor is a stranger's folder.
	var exists *ExistsError
	if _, err := Run(t.Context(), ck, to, Options{Precision: "4"}); !errors.As(err, &exists) {
		t.Errorf("found %v", err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.MkdirAll(other+partialSuffix, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), ck, other, Options{Precision: "4"}); !errors.As(err, &exists) {
		t.Errorf("found %v", err)
	}
}

// texts is a file of lines of words.
func texts(t testing.TB, n int) string {
	rng := rand.New(rand.NewPCG(9, 9))
	words := strings.Fields("the quick brown fox jumps over a lazy dog while seven wizards box with one liquid jug of ink near my old quay")
	var b strings.Builder
	for range n {
		for range 6 + rng.IntN(8) {
			b.WriteString(words[rng.IntN(len(words))] + " ")
		}
		b.WriteString("\n")
	}
	file := filepath.Join(t.TempDir(), "texts.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestCalibrated: calibration brings the result nearer to the model, for encoders and for
// decoders.
func TestCalibrated(t *testing.T) {
	for _, name := range []string{"bert", "llama", "llava", "clip", "t5"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "bert" {
				t.Skip("graphs in plain Go")
			}
			dir := testfiles.Shared(t, "tiny", name)
			o := Options{Components: map[string]string{models.Decode: "3", models.Encode: "3", models.Text: "3", models.Encoder: "3"}, Precision: "3", Sample: texts(t, 60), MaxLoss: 99, Runtime: plain{t.TempDir()}}
			loss := map[string]float64{}
			for _, o.Method = range []string{Fit, Calibrated} {
				_, r := quantised(t, dir, o)
				loss[o.Method] = r.Loss.Loss
				if o.Method == Calibrated && len(r.Sensitivity) == 0 {
					t.Error("no sensitivity was measured")
				}
			}
			t.Logf("loss %.4f with calibration, %.4f without", loss[Calibrated], loss[Fit])
			if !(loss[Calibrated] < loss[Fit]) {
				t.Errorf("loss %g with calibration, %g without", loss[Calibrated], loss[Fit])
			}
		})
	}
}

// TestCalibratedMedia: so do pictures and sounds for what sees and hears.
func TestCalibratedMedia(t *testing.T) {
	for name, component := range map[string]string{"vit": models.Classify, "llava": models.See, "clip": models.Image, "wav2vec2": models.CTCLogits, "whisper": models.Encoder} {
		t.Run(name, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", name)
			media := t.TempDir()
			// Two files are a sample, one of which the gate has.
			names := []string{"a.png", "b.png"}
			if component == models.CTCLogits || component == models.Encoder {
				names = []string{"audio.wav"}
			}
			for i, from := range append(names, names...) {
				data, err := os.ReadFile(filepath.Join(dir, from))
				if err != nil {
					t.Skip(err)
				}
				if err := os.WriteFile(filepath.Join(media, fmt.Sprint(i)+filepath.Ext(from)), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			o := Options{Precision: "4", Sample: media, MaxLoss: 99, Runtime: plain{t.TempDir()}}
			loss := map[string]float64{}
			for _, o.Method = range []string{Fit, Calibrated} {
				_, r := quantised(t, dir, o)
				if loss[o.Method] = r.Loss.Loss; r.Component != component {
					t.Errorf("measured was %s", r.Component)
				}
			}
			t.Logf("loss %.5f with calibration, %.5f without", loss[Calibrated], loss[Fit])
			if !(loss[Calibrated] < loss[Fit]) {
				t.Errorf("loss %g with calibration, %g without", loss[Calibrated], loss[Fit])
			}
		})
	}
}

// TestGate: a mixture keeps to the loss that is accepted, by more bits; what can't is
// refused with the figure, and no folder is left.
func TestGate(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "bert")
	o := Options{Precision: "4-mixed", Sample: texts(t, 40), Runtime: plain{t.TempDir()}, MaxBytes: 1 << 30}
	var bits []float64
	for _, o.MaxLoss = range []float64{0.02, 0.0005} {
		_, r := quantised(t, dir, o)
		if r.Loss.Loss > o.MaxLoss {
			t.Errorf("accepted is %g, found %g", o.MaxLoss, r.Loss.Loss)
		}
		bits = append(bits, r.Bits)
		t.Logf("loss %.5f of %.5f at %.2f bits, %d attempts", r.Loss.Loss, o.MaxLoss, r.Bits, r.Attempts)
	}
	if !(bits[1] > bits[0]) {
		t.Errorf("found %v bits", bits)
	}
	// A size is made the best of, or can't be had.
	o.MaxLoss = 0
	_, small := quantised(t, dir, o)
	o.MaxBytes = small.Size.Bytes * 3 / 4
	if _, r := quantised(t, dir, o); r.Size.Bytes > o.MaxBytes || r.Size.Bytes < o.MaxBytes*9/10 || !(r.Loss.Loss > small.Loss.Loss) {
		t.Errorf("%d bytes of %d, loss %g, with more bytes %g", r.Size.Bytes, o.MaxBytes, r.Loss.Loss, small.Loss.Loss)
	}
	o.MaxBytes /= 4
	var size *SizeError
	if _, err := Run(t.Context(), open(t, dir), filepath.Join(t.TempDir(), "x"), o); !errors.As(err, &size) {
		t.Errorf("found %v", err)
	}
	o.MaxBytes = 0
	to := filepath.Join(t.TempDir(), "out")
	o.Precision, o.MaxLoss = "2", 1e-6
	_, err := Run(t.Context(), open(t, dir), to, o)
	var past *LossError
	if !errors.As(err, &past) || past.Measured.Loss <= past.Accepted || past.Measured.Cosine == 0 || !strings.Contains(err.Error(), "%") {
		t.Errorf("found %v", err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("what was refused is there")
	}
}

// TestDials: all dials at zero are the model, and one turned up is the model with that
// part rounded.
func TestDials(t *testing.T) {
	for _, name := range []string{"bert", "qwen2"} {
		dir := testfiles.Shared(t, "tiny", name)
		ck := open(t, dir)
		o := Options{Precision: "4-mixed", Method: Fit, Sample: texts(t, 60), Runtime: plain{t.TempDir()}}
		p, err := NewPlan(ck, o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSample(ck, p.model, o.Sample)
		if err != nil {
			t.Fatal(err)
		}
		d := p.newDials(s.component)
		if err := d.measure(t.Context(), p, s, func(Progress) {}); err != nil {
			t.Fatal(err)
		}
		for k, part := range d.parts {
			// The folder with this part alone in its smallest format.
			q, err := NewPlan(ck, Options{Precision: "f16", Method: Fit})
			if err != nil {
				t.Fatal(err)
			}
			for i := range q.Items {
				it := &q.Items[i]
				if it.dtype = it.entries[0].DType; d.of[it.Name] == k && slices.ContainsFunc(part.items, func(x *Item) bool { return x.Name == it.Name }) {
					q.give(it, p.choices(part.items[0])[0])
				}
			}
			to := filepath.Join(t.TempDir(), "out")
			if _, err := q.Write(t.Context(), to, nil); err != nil {
				t.Fatal(err)
			}
			few := &sample{component: s.component, output: s.output, logits: s.logits, test: s.few()}
			p.options.Runtime = o.Runtime
			ref, err := p.refer(t.Context(), few)
			if err != nil {
				t.Fatal(err)
			}
			l, err := ref.measure(t.Context(), to, o.Runtime)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(l.Loss-part.loss) > 0.05*l.Loss+1e-6 {
				t.Errorf("%s: %s alone loses %g, measured was %g", name, part.Name, l.Loss, part.loss)
			}
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	ck := open(t, testfiles.Shared(t, "tiny", "bert"))
	vit := open(t, testfiles.Shared(t, "tiny", "vit"))
	few := filepath.Join(t.TempDir(), "few.txt")
	if err := os.WriteFile(few, []byte("one text alone that is not enough\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, run := range map[string]func() error{
		`precision: found "7"`: func() error { _, err := NewPlan(ck, Options{Precision: "7"}); return err },
		"component see":        func() error { _, err := NewPlan(ck, Options{Components: map[string]string{"see": "x"}}); return err },
		"block: found 48":      func() error { _, err := NewPlan(ck, Options{Block: 48}); return err },
		"method: found":        func() error { _, err := NewPlan(ck, Options{Method: "best"}); return err },
		"a sample with it":     func() error { _, err := NewPlan(ck, Options{Method: Calibrated}); return err },
		"there is too little": func() error {
			_, err := Run(t.Context(), ck, filepath.Join(t.TempDir(), "x"), Options{Sample: few, Runtime: plain{}})
			return err
		},
		"tokenizer": func() error {
			_, err := Run(t.Context(), vit, filepath.Join(t.TempDir(), "x"), Options{Sample: few, Runtime: plain{}})
			return err
		},
	} {
		if err := run(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("found %v, wanted %q", err, want)
		}
	}
}

func TestPolicyRefused(t *testing.T) {
	const head = "formats: {a: {bits: 4, block: 64}}\nroles: {head: [head]}\n"
	for want, text := range map[string]string{
		"there are none":    "classes: {}",
		"blocks of 48":      "formats: {a: {bits: 4, block: 48}}",
		`"b" is no format`:  head + "precisions: {x: {rest: b}}",
		`"tail" is no role`: head + "precisions: {x: {rest: a, roles: {tail: a}}}",
		`"y" is no preci`:   head + "precisions: {x: {rest: a}}\naccepted: {y: {loss: 1}}",
		"there is no rest":  head + "precisions: {x: {rest: a}}\nclasses: {bert: {}}",
		"not found in type": head + "precision: {}",
	} {
		if _, err := readPolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("found %v, wanted %q", err, want)
		}
	}
}
