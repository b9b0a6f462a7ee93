package quantize

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
)

// ggufFile is a GGUF file to be written: its metadata, and tensors with dimensions
// outermost first.
type ggufFile struct {
	meta    map[string]any
	tensors map[string]ggufTensor
}

type ggufTensor struct {
	kind  uint32 // number of the type
	shape []int64
	data  []byte
}

// Numbers of types.
const (
	typeF32  = 0
	typeF16  = 1
	typeQ4_0 = 2
	typeQ4_1 = 3
	typeIQ2S = 22
)

func put[T any](b []byte, v T) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func text(b []byte, s string) []byte { return append(put(b, uint64(len(s))), s...) }

func (f *ggufFile) bytes() []byte {
	b := put(put(put([]byte("GGUF"), uint32(3)), uint64(len(f.tensors))), uint64(len(f.meta)))
	for _, key := range slices.Sorted(maps.Keys(f.meta)) {
		b = text(b, key)
		array := func(kind uint32, n int) { b = put(put(put(b, uint32(9)), kind), uint64(n)) }
		switch v := f.meta[key].(type) {
		case string:
			b = text(put(b, uint32(8)), v)
		case int:
			b = put(put(b, uint32(4)), uint32(v))
		case float64:
			b = put(put(b, uint32(6)), float32(v))
		case bool:
			b = put(put(b, uint32(7)), v)
		case []string:
			array(8, len(v))
			for _, s := range v {
				b = text(b, s)
			}
		case []int32:
			array(5, len(v))
			b = put(b, v)
		case []float32:
			array(6, len(v))
			b = put(b, v)
		default:
			panic(fmt.Sprintf("%s: no kind for %T", key, v))
		}
	}
	var data []byte
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		t := f.tensors[name]
		b = put(text(b, name), uint32(len(t.shape)))
		for _, d := range slices.Backward(t.shape) {
			b = put(b, uint64(d))
		}
		for len(data)%32 != 0 {
			data = append(data, 0)
		}
		b = put(put(b, t.kind), uint64(len(data)))
		data = append(data, t.data...)
	}
	for len(b)%32 != 0 {
		b = append(b, 0)
	}
	return append(b, data...)
}

func (f *ggufFile) open(t testing.TB) *checkpoint.GGUF {
	t.Helper()
	g, err := checkpoint.ParseGGUF("m.gguf", f.bytes())
	if err != nil {
		t.Fatal(err)
	}
	return g
}
