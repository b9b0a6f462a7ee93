package quantize

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// counted are bytes of small numbers, no two neighbours the same.
func counted(n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 59)
	}
	return b
}

// TestWriteWeights writes floats and codes, some with their rows turned around, in
// more than one chunk.
func TestWriteWeights(t *testing.T) {
	f16 := typeOf(t, "F16")
	float := weight{name: "norm", info: checkpoint.GGUFTensor{Type: f16, Shape: tensor.Shape{5}, Length: 10}, data: counted(10)}
	table := weight{name: "table", info: checkpoint.GGUFTensor{Type: f16, Shape: tensor.Shape{1000, 3, 512}, Length: 3072000}, data: counted(3072000)}
	turned := table
	turned.name, turned.row = "turned", func(i int64) int64 { return 999 - i }
	plain := rowsOf("Q4_1", typeOf(t, "Q4_1"), 6000, counted(6000*16*20))
	other := plain
	other.name, other.row = "other", func(i int64) int64 { return i ^ 1 }
	path := filepath.Join(t.TempDir(), "model.safetensors")
	weights := []weight{float, table, turned, plain, other}
	if err := writeWeights(t.Context(), path, "m.gguf", weights); err != nil {
		t.Fatal(err)
	}
	s, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	read := func(name string) []byte {
		v, err := s.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		return v.Data
	}
	if !bytes.Equal(read("norm"), float.data) || !bytes.Equal(read("table"), table.data) {
		t.Error("floats are not what they were")
	}
	for i := range 1000 {
		if !bytes.Equal(read("turned")[i*3072:][:3072], table.data[(999-i)*3072:][:3072]) {
			t.Fatalf("row %d is another", i)
		}
	}
	codes, scales, mins, _ := plain.repack(0, 6000)
	for suffix, want := range map[string][]byte{".codes": codes, ".scales": scales, ".mins": mins} {
		if !bytes.Equal(read("w"+suffix), want) {
			t.Errorf("%s are others than those of all rows at once", suffix)
		}
		size := len(want) / 6000
		for i := range 6000 {
			if !bytes.Equal(read("other" + suffix)[i*size:][:size], want[(i^1)*size:][:size]) {
				t.Fatalf("%s: row %d is another", suffix, i)
			}
		}
	}
	for _, name := range s.Names() {
		if e, _ := s.Entry(name); e.Length%64 == 0 && e.Offset%64 != 0 {
			t.Errorf("%s begins at byte %d", name, e.Offset)
		}
	}
}

func TestWriteWeightsRefuses(t *testing.T) {
	good := rowsOf("Q4_1", typeOf(t, "Q4_1"), 2, counted(2*20))
	bad := rowsOf("Q4_1", typeOf(t, "Q4_1"), 2, counted(2*20))
	bad.name, bad.stored = "bad", "blk.0.bad"
	binary.LittleEndian.PutUint16(bad.data[20:], 0x7c00)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		weights []weight
		want    string
	}{
		{"scale not finite", t.Context(), []weight{good, bad}, `m.gguf: tensor "blk.0.bad": the scale or min of block 1 is not finite`},
		{"name twice", t.Context(), []weight{good, good}, "another tensor becomes w."},
		{"cancelled", cancelled, []weight{good}, "context canceled"},
	} {
		err := writeWeights(tt.ctx, filepath.Join(t.TempDir(), "model.safetensors"), "m.gguf", tt.weights)
		var e *checkpoint.Error
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.ctx == t.Context() && !errors.As(err, &e) {
			t.Errorf("%s: found %v, wanted %s", tt.name, err, tt.want)
		}
	}
}
