package quantize

import (
	"archive/zip"
	"encoding/binary"
	"io"
	"math"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestSmolLM2Decodes runs the graph of a real GGUF file's weights in plain Go: the
// logits after a prompt are the recorded ones, and so are the first tokens.
func TestSmolLM2Decodes(t *testing.T) {
	if testing.Short() {
		t.Skip("135 million weights in plain Go")
	}
	g, err := checkpoint.OpenGGUF(testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	file := testfiles.Shared(t, "real", "golden_smollm2_q4_1.npz")
	ck := writeFolder(t, g)
	m, err := models.Load(ck, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Decoder; len(m.Unused) > 0 || d.Layers != 30 || d.KVHeads != 3 || d.HeadDim != 64 || d.VocabSize != 49152 || d.MaxPositions != 8192 {
		t.Errorf("found %+v, unused %v", d, m.Unused)
	}
	graph, err := m.Component(models.Decode)
	if err != nil {
		t.Fatal(err)
	}
	graph = graph.Clone()
	for _, in := range graph.Graph.Initializers {
		if in.External != nil {
			v, err := ck.Data(in.Name)
			if err != nil {
				t.Fatal(err)
			}
			in.Tensor, in.External = v.Aligned(), nil
		}
	}
	p, err := reference.New(graph, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const pages, pageSize, tokens = 3, 16, 2
	pools := map[string]tensor.Tensor{}
	for _, pool := range m.Decoder.Pools {
		if pools[pool.Name], err = tensor.New(pool.DType, append(tensor.Shape{pages, pageSize}, pool.Row...)); err != nil {
			t.Fatal(err)
		}
	}
	length := int64(0)
	step := func(ids []int64) []float32 {
		t.Helper()
		n := int64(len(ids))
		var positions, slots []int64
		for i := range n {
			positions, slots = append(positions, length+i), append(slots, pageSize+length+i)
		}
		length += n
		list := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
		in := map[string]tensor.Tensor{models.InputIDs: list(ids...), models.Positions: list(positions...), models.Slots: list(slots...),
			models.Lengths: list(length), models.Starts: list(0, n), models.Select: list(n - 1), models.PageTables: tensor.Ints(tensor.Shape{1, 2}, 1, 2)}
		for name, v := range pools {
			in[name] = v
		}
		out, err := p.Run(t.Context(), in, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, pool := range m.Decoder.Pools {
			pools[pool.Name] = out[pool.Output]
		}
		return tensor.View[float32](out[models.Logits])
	}
	_, prompt := recorded(t)
	want, generated := recordedLogits(t, file)
	got := step(prompt)
	var worst, most float64
	for i, w := range want {
		worst, most = max(worst, math.Abs(float64(got[i]-w))), max(most, math.Abs(float64(w)))
	}
	t.Logf("logits are off by %g of %g", worst, most)
	if len(got) != len(want) || worst > 1e-4*most {
		t.Errorf("%d logits, off by %g of %g", len(got), worst, most)
	}
	for i, id := range generated[:tokens] {
		best := 0
		for k, v := range got {
			if v > got[best] {
				best = k
			}
		}
		if int64(best) != id {
			t.Fatalf("token %d is %d, wanted %d", i, best, id)
		}
		if i+1 < tokens {
			got = step([]int64{id})
		}
	}
}

// recordedLogits are those after the prompt, and the tokens that followed.
func recordedLogits(t *testing.T, file string) (logits []float32, generated []int64) {
	t.Helper()
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for name, take := range map[string]func([]byte){
		"last_logits": func(b []byte) {
			for ; len(b) >= 4; b = b[4:] {
				logits = append(logits, math.Float32frombits(binary.LittleEndian.Uint32(b)))
			}
		},
		"generated": func(b []byte) {
			for ; len(b) >= 8; b = b[8:] {
				generated = append(generated, int64(binary.LittleEndian.Uint64(b)))
			}
		},
	} {
		f, err := z.Open(name + ".npy")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || len(b) < 10 {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		take(b[10+binary.LittleEndian.Uint16(b[8:]):]) // the elements follow a header
	}
	if len(logits) != 49152 || len(generated) != 16 {
		t.Fatalf("%d logits and %d tokens are recorded", len(logits), len(generated))
	}
	return logits, generated
}
