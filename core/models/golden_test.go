package models

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// tolerance is on max abs error / max abs value, ten times the noise of float32.
const tolerance = 1e-5

// program is a component ready to run in plain Go.
func program(t testing.TB, m *Model, ck *checkpoint.Checkpoint, component string) *reference.Program {
	t.Helper()
	g, err := m.Component(component)
	if err != nil {
		t.Fatal(err)
	}
	g = g.Clone()
	for _, in := range g.Graph.Initializers {
		if in.External != nil {
			v, err := ck.Data(in.Name)
			if err != nil {
				t.Fatal(err)
			}
			in.Tensor, in.External = v.Aligned(), nil
		}
	}
	p, err := reference.New(g, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run executes a component; wanted are values of it, none for its outputs.
func run(t testing.TB, m *Model, ck *checkpoint.Checkpoint, component string, inputs map[string]tensor.Tensor, wanted ...string) map[string]tensor.Tensor {
	t.Helper()
	p := program(t, m, ck, component)
	feeds, err := m.Feeds(component, inputs)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Run(t.Context(), feeds, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compare fails where an output is not what it should be.
func compare(t testing.TB, name string, got, want tensor.Tensor) {
	t.Helper()
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		t.Errorf("%s: found %s%v, wanted %s%v", name, got.DType, got.Shape, want.DType, want.Shape)
		return
	}
	g, w := tensor.View[float32](got.Aligned()), tensor.View[float32](want.Aligned())
	var worst, most float64
	for i := range w {
		worst = max(worst, math.Abs(float64(g[i])-float64(w[i])))
		most = max(most, math.Abs(float64(w[i])))
		if math.IsNaN(float64(g[i])) {
			t.Errorf("%s: element %d is NaN", name, i)
			return
		}
	}
	if worst > tolerance*most {
		t.Errorf("%s: off by %g of %g", name, worst, most)
	}
}

func TestGolden(t *testing.T) {
	for _, dir := range folders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, ck := load(t, dir)
			golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer golden.Close()
			inputs, wanted := map[string]tensor.Tensor{}, map[string]tensor.Tensor{}
			for _, name := range golden.Names() {
				v, err := golden.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				if in, ok := strings.CutPrefix(name, "in."); ok {
					inputs[in] = v.Aligned()
				} else {
					wanted[strings.TrimPrefix(name, "out.")] = v
				}
			}
			component := Full
			if _, ok := wanted["sentence_embedding"]; ok {
				component = Encode
			}
			got := run(t, m, ck, component, inputs)
			if len(wanted) == 0 || len(got) != len(wanted) {
				t.Errorf("found %d outputs, wanted %d", len(got), len(wanted))
			}
			for name, want := range wanted {
				v, ok := got[name]
				if !ok {
					t.Errorf("there is no output %s", name)
					continue
				}
				compare(t, name, v, want)
			}
		})
	}
}

// TestMiniLM runs the real all-MiniLM-L6-v2 where it is: in the folder that
// ACCEL_MINILM names, or where `make demo` puts it.
func TestMiniLM(t *testing.T) {
	root := filepath.Join("..", "..")
	dir := os.Getenv("ACCEL_MINILM")
	if dir == "" {
		dir = filepath.Join(root, ".cache", "models", "all-MiniLM-L6-v2")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("all-MiniLM-L6-v2 is not in %s: run `make demo`, or name its folder in ACCEL_MINILM", dir)
	}
	file := testfiles.Shared(t, "real", "golden_minilm.npz")
	m, ck := load(t, dir)
	if m.Embedding.Dimension != 384 || m.Embedding.MaxTokens != 256 || m.MaxTokens != 512 || m.Embedding.Assumed || len(m.Unused) != 0 {
		t.Errorf("found %+v with the embedding %+v", m, m.Embedding)
	}
	golden := npz(t, file, "input_ids", "attention_mask", "token_type_ids", "last_hidden_state", "embeddings")
	inputs := map[string]tensor.Tensor{}
	for _, name := range []string{"input_ids", "attention_mask", "token_type_ids"} {
		inputs[name] = golden[name]
	}
	const hidden = "encoder.layer.5.mlp.norm/LayerNormalization"
	got := run(t, m, ck, Encode, inputs, hidden, SentenceEmbedding)
	compare(t, hidden, got[hidden], golden["last_hidden_state"])
	compare(t, SentenceEmbedding, got[SentenceEmbedding], golden["embeddings"])
}

var npyHeader = regexp.MustCompile(`'descr': '<([if][48])', 'fortran_order': False, 'shape': \(([0-9, ]*)\)`)

// npz reads arrays of NumPy's .npz, of the types that the goldens have.
func npz(t testing.TB, file string, names ...string) map[string]tensor.Tensor {
	t.Helper()
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]tensor.Tensor{}
	for _, name := range names {
		f, err := z.Open(name + ".npy")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		// Magic, version 1.0, length of the header, header, data.
		if !bytes.HasPrefix(data, []byte("\x93NUMPY\x01\x00")) {
			t.Fatalf("%s is no array of version 1.0", name)
		}
		end := 10 + int(binary.LittleEndian.Uint16(data[8:]))
		h := npyHeader.FindSubmatch(data[:end])
		if h == nil {
			t.Fatalf("%s has the header %q", name, data[10:end])
		}
		v := tensor.Tensor{DType: map[string]tensor.DType{"i8": tensor.Int64, "f4": tensor.Float32}[string(h[1])], Data: data[end:]}
		for _, s := range strings.FieldsFunc(string(h[2]), func(r rune) bool { return r == ',' || r == ' ' }) {
			var d int64
			if _, err := fmt.Sscan(s, &d); err != nil {
				t.Fatal(err)
			}
			v.Shape = append(v.Shape, d)
		}
		if err := v.Check(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = v.Aligned()
	}
	return out
}
