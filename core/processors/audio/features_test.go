package audio

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// readAll decodes a sound and gives it a rate; 0: its own.
func readAll(t testing.TB, r io.Reader, rate int) []float32 {
	t.Helper()
	s, err := Open(r)
	if err != nil {
		t.Fatal(err)
	}
	var src Source = s
	if rate != 0 {
		if src, err = Resample(s, rate); err != nil {
			t.Fatal(err)
		}
	}
	all, err := collect(src)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func collect(src Source) ([]float32, error) {
	var all []float32
	block := make([]float32, 777)
	for {
		n, err := src.Read(block)
		all = append(all, block[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

func TestProcessorGoldens(t *testing.T) {
	for _, tt := range []struct {
		model     string
		waveforms []string
		outputs   map[string]string // of the extractor -> recorded
		tolerance float64           // max abs error / max abs value
	}{
		{"wav2vec2", []string{"proc.waveform_0"}, map[string]string{"input_values": "proc.single.input_values"}, 1e-6},
		{"wav2vec2", []string{"proc.waveform_0", "proc.waveform_1"}, map[string]string{"input_values": "proc.input_values"}, 1e-6},
		{"wav2vec2_stable", []string{"proc.waveform_0"}, map[string]string{"input_values": "proc.single.input_values"}, 1e-6},
		{"wav2vec2_stable", []string{"proc.waveform_0", "proc.waveform_1"}, map[string]string{"input_values": "proc.input_values", "attention_mask": "proc.attention_mask"}, 1e-6},
		{"clap", []string{"proc.waveform"}, map[string]string{"input_features": "proc.input_features"}, 1e-6},
		{"whisper", []string{"proc.waveform"}, map[string]string{"input_features": "proc.input_features"}, 2e-5},
	} {
		t.Run(tt.model, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", tt.model)
			golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer golden.Close()
			recorded := func(name string) tensor.Tensor {
				v, err := golden.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				return v.Aligned()
			}
			x, err := OpenExtractor(dir)
			if err != nil {
				t.Fatal(err)
			}
			var sounds [][]float32
			for _, name := range tt.waveforms {
				sounds = append(sounds, tensor.View[float32](recorded(name)))
			}
			f, err := os.Open(filepath.Join(dir, "audio.wav"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			heard := readAll(t, f, x.Rate())
			if len(heard) != len(sounds[0]) {
				t.Fatalf("audio.wav has %d samples, recorded are %d", len(heard), len(sounds[0]))
			}
			for i, v := range heard {
				if math.Abs(float64(v-sounds[0][i])) > 1.0/(1<<15) { // it was rounded to 16 bits
					t.Fatalf("sample %d of audio.wav is %v, recorded is %v", i, v, sounds[0][i])
				}
			}
			got, err := x.Extract(sounds)
			if err != nil {
				t.Fatal(err)
			}
			for name, golden := range tt.outputs {
				g, w := got[name], recorded(golden)
				if g.DType != w.DType || !g.Shape.Equal(w.Shape) {
					t.Errorf("%s: %s%v, recorded is %s%v", name, g.DType, g.Shape, w.DType, w.Shape)
					continue
				}
				if g.DType == tensor.Int32 {
					if string(g.Data) != string(w.Data) {
						t.Errorf("%s: %v, recorded is %v", name, g.Data, w.Data)
					}
					continue
				}
				var worst, most float64
				a, b := tensor.View[float32](g), tensor.View[float32](w)
				for i := range b {
					worst, most = max(worst, math.Abs(float64(a[i]-b[i]))), max(most, math.Abs(float64(b[i])))
				}
				t.Logf("%s: off by %.2g of %.3g", name, worst, most)
				if !(worst <= tt.tolerance*most) {
					t.Errorf("%s: off by %g of %g", name, worst, most)
				}
			}
		})
	}
}

func TestExtractorErrors(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{`{}`, `feature_extractor_type: found ""`},
		{`{"feature_extractor_type":"EncodecFeatureExtractor"}`, `found "EncodecFeatureExtractor", wanted ClapFeatureExtractor`},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","dither":0.1}`, "dither: found 0.1, wanted 0"},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","hop_length":161}`, "hop_length: found 161, wanted a divisor"},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","hop_length":0}`, "hop_length: found 0"},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","chunk_length":4096,"sampling_rate":1000000}`, "chunk_length: found 4096"},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","feature_size":4097}`, "feature_size: found 4097"},
		{`{"feature_extractor_type":"WhisperFeatureExtractor","padding_side":"left"}`, `padding_side: found "left"`},
		{`{"feature_extractor_type":"Wav2Vec2FeatureExtractor","feature_size":2}`, "feature_size: found 2, wanted 1"},
		{`{"feature_extractor_type":"Wav2Vec2FeatureExtractor","sampling_rate":10}`, "sampling_rate: found 10"},
		{`{"feature_extractor_type":"ClapFeatureExtractor"}`, `truncation: found "fusion"`},
		{`{"feature_extractor_type":"ClapFeatureExtractor","truncation":"begin"}`, `truncation: found "begin"`},
		{`{"feature_extractor_type":"ClapFeatureExtractor","truncation":"rand_trunc","padding":"mirror"}`, `padding: found "mirror"`},
		{`{"feature_extractor_type":"ClapFeatureExtractor","truncation":"rand_trunc","top_db":80}`, "top_db: found 80"},
		{`{"feature_extractor_type":"ClapFeatureExtractor","truncation":"rand_trunc","frequency_min":15000}`, "frequency_max: found 14000"},
	} {
		c, err := checkpoint.ParseConfig("preprocessor_config.json", []byte(tt.config))
		if err != nil {
			t.Fatal(err)
		}
		var bad *checkpoint.Error
		if _, err := NewExtractor(c.Fields()); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: found %v, wanted %q", tt.config, err, tt.want)
		}
	}
}

func TestOpenExtractor(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenExtractor(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	const nested = `{"feature_extractor":{"feature_extractor_type":"WhisperFeatureExtractor","feature_size":128},"processor_class":"WhisperProcessor"}`
	if err := os.WriteFile(filepath.Join(dir, processorFile), []byte(nested), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := OpenExtractor(dir)
	if err != nil {
		t.Fatal(err)
	}
	if w, ok := x.(*Whisper); !ok || len(w.filters) != 128 || x.Rate() != 16000 || x.MostSamples() != 480000 {
		t.Errorf("found %+v", x)
	}
	sound := make([]float32, 16000)
	for i := range sound {
		sound[i] = float32(math.Sin(float64(i) / 5))
	}
	a, err := x.Extract([][]float32{sound})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewWhisper(128).Extract([][]float32{sound})
	if err != nil || string(a["input_features"].Data) != string(b["input_features"].Data) {
		t.Errorf("NewWhisper differs from what the folder says: %v", err)
	}
	var bad *InputError
	for _, sounds := range [][][]float32{nil, {{}}, {sound, make([]float32, 480001)}} {
		if _, err := x.Extract(sounds); !errors.As(err, &bad) {
			t.Errorf("%d sounds: %v", len(sounds), err)
		}
	}
}

// TestClapWindows holds how sounds of other lengths fill a window.
func TestClapWindows(t *testing.T) {
	for _, tt := range []struct {
		fill clapFill
		in   int
		want []float32
	}{
		{fillPad, 3, []float32{1, 2, 3}},
		{fillRepeat, 3, []float32{1, 2, 3, 1, 2, 3, 1, 2}},
		{fillRepeatPad, 3, []float32{1, 2, 3, 1, 2, 3}},
		{fillRepeatPad, 8, []float32{1, 2, 3, 4, 5, 6, 7, 8}},
		{fillRepeat, 10, []float32{2, 3, 4, 5, 6, 7, 8, 9}},
	} {
		x := make([]float32, tt.in)
		for i := range x {
			x[i] = float32(i + 1)
		}
		if got := (&Clap{samples: 8, fill: tt.fill}).window(x); !slices.Equal(got, tt.want) {
			t.Errorf("%s of %d: %v, wanted %v", tt.fill, tt.in, got, tt.want)
		}
	}
}

// FuzzExtractor reads any configuration and, if that works, extracts from a short sound.
func FuzzExtractor(f *testing.F) {
	for _, kind := range []string{"WhisperFeatureExtractor", "Wav2Vec2FeatureExtractor", "ClapFeatureExtractor"} {
		f.Add([]byte(`{"feature_extractor_type":"` + kind + `","truncation":"rand_trunc","chunk_length":1,"max_length_s":1,"return_attention_mask":true}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := checkpoint.ParseConfig("preprocessor_config.json", data)
		var x Extractor
		if err == nil {
			x, err = NewExtractor(c.Fields())
		}
		if err != nil {
			if !errors.As(err, new(*checkpoint.Error)) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if x.MostSamples() > 1<<12 {
			return // right, but slow
		}
		inputs, err := x.Extract([][]float32{make([]float32, 100)})
		if err != nil && !errors.As(err, new(*InputError)) {
			t.Fatalf("%T: %v", err, err)
		}
		for name, in := range inputs {
			if err := in.Check(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
