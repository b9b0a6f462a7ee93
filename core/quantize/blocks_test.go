package quantize

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// bit is bit i of bytes.
func bit(b []byte, i int) int { return int(b[i/8] >> (i % 8) & 1) }

// number is n bits of bytes from bit i.
func number(b []byte, i, n int) int {
	v := 0
	for j := range n {
		v |= bit(b, i+j) << j
	}
	return v
}

func halfAt(b []byte, i int) float32 { return fromHalf(binary.LittleEndian.Uint16(b[i:])) }

// meanings say what element i of a block means, by the format's definition, one
// element at a time.
var meanings = map[string]func(b []byte, i int) float32{
	"Q4_0": func(b []byte, i int) float32 { return float32(nibble(b[2:], 16, i)-8) * halfAt(b, 0) },
	"Q4_1": func(b []byte, i int) float32 { return float32(nibble(b[4:], 16, i))*halfAt(b, 0) + halfAt(b, 2) },
	"Q5_0": func(b []byte, i int) float32 {
		return float32(nibble(b[6:], 16, i)+16*bit(b[2:], i)-16) * halfAt(b, 0)
	},
	"Q5_1": func(b []byte, i int) float32 {
		return float32(nibble(b[8:], 16, i)+16*bit(b[4:], i))*halfAt(b, 0) + halfAt(b, 2)
	},
	"Q8_0": func(b []byte, i int) float32 { return float32(int8(b[2+i])) * halfAt(b, 0) },
	"Q4_K": func(b []byte, i int) float32 {
		scale, min := scaleMin(b, i/32)
		return scale*float32(nibble(b[16+i/64*32:], 32, i%64)) - min
	},
	"Q5_K": func(b []byte, i int) float32 {
		scale, min := scaleMin(b, i/32)
		return scale*float32(nibble(b[48+i/64*32:], 32, i%64)+16*bit(b[16+i%32:], i/32)) - min
	},
	"Q6_K": func(b []byte, i int) float32 {
		scale := halfAt(b, 208) * float32(int8(b[192+i/16]))
		low := number(b[i/128*64+i%64:], i%128/64*4, 4)
		high := number(b[128+i/128*32+i%32:], i%128/32*2, 2)
		return scale * float32(low+16*high-32)
	},
}

// nibble is half a byte: of n bytes the low halves come first.
func nibble(b []byte, n, i int) int { return number(b[i%n:], i/n*4, 4) }

// scaleMin are the scale and min of block j of a K type: 6 bits each, of the first
// four blocks side by side, of the others in pieces.
func scaleMin(b []byte, j int) (scale, min float32) {
	p := b[4:16]
	s, m := number(p[j%4:], 0, 6), number(p[j%4+4:], 0, 6)
	if j >= 4 {
		s = number(p[j+4:], 0, 4) | number(p[j-4:], 6, 2)<<4
		m = number(p[j+4:], 4, 4) | number(p[j:], 6, 2)<<4
	}
	return halfAt(b, 0) * float32(s), halfAt(b, 2) * float32(m)
}

// decode computes weights of codes as the contract says they mean, in float32.
func decode(q checkpoint.Quantized, codes, scales, mins []byte) []float32 {
	out := make([]float32, q.N*q.K)
	for i := range out {
		code := float32(number(codes, i*int(q.Bits), int(q.Bits)))
		g := i / int(q.Block) * 2
		if q.Mins {
			out[i] = code*halfAt(scales, g) + halfAt(mins, g)
		} else {
			out[i] = (code - float32(int(1)<<(q.Bits-1))) * halfAt(scales, g)
		}
	}
	return out
}

var exact = map[string]bool{"Q4_0": true, "Q8_0": true, "Q4_1": true, "Q5_0": true, "Q5_1": true}

// rowsOf is a weight of rows of blocks.
func rowsOf(kind string, t checkpoint.GGUFType, rows int64, data []byte) weight {
	l := layouts[kind]
	return weight{name: "w", info: checkpoint.GGUFTensor{Type: t, Shape: tensor.Shape{rows, int64(len(data)) / rows / t.Bytes * t.Block}, Length: int64(len(data))},
		data: data, layout: &l}
}

// typeOf is a type as the reader of files knows it.
func typeOf(t *testing.T, name string) checkpoint.GGUFType {
	t.Helper()
	kind, ok := checkpoint.GGUFTypeNamed(name)
	if !ok {
		t.Fatalf("no type is called %s", name)
	}
	return kind
}

// compare holds repacked weights against what the blocks mean: equal bit for bit, or
// within 1e-3 of the block's range, which is what its largest code adds, or its min
// where that is larger.
func compare(t *testing.T, kind string, w weight, want []float32) {
	t.Helper()
	codes, scales, mins, bad := w.repack(0, w.rows())
	if bad >= 0 {
		t.Fatalf("%s: block %d is not finite", kind, bad)
	}
	q := w.quantized()
	got := decode(q, codes, scales, mins)
	if len(got) != len(want) {
		t.Fatalf("%s: %d weights, wanted %d", kind, len(got), len(want))
	}
	worst := 0.0
	for i := range want {
		if exact[kind] {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Fatalf("%s: weight %d is %g, wanted %g", kind, i, got[i], want[i])
			}
			continue
		}
		at := i / int(q.Block) * 2
		size := math.Abs(float64(halfAt(scales, at))) * float64(int(1)<<q.Bits-1)
		if q.Mins {
			size = max(size, math.Abs(float64(halfAt(mins, at))))
		}
		e := math.Abs(float64(got[i]) - float64(want[i]))
		if e > 1e-3*size {
			t.Fatalf("%s: weight %d is %g, wanted %g in a block of range %g", kind, i, got[i], want[i], size)
		}
		if e > 0 {
			worst = max(worst, e/size)
		}
	}
	if !exact[kind] {
		t.Logf("%s: at most %.2g of a block's range", kind, worst)
	}
}

// TestBlocks repacks random blocks of every type.
func TestBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for kind, mean := range meanings {
		info := typeOf(t, kind)
		const rows = 7
		data := make([]byte, rows*1024/info.Block*info.Bytes)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		// Of the float16 numbers at the start of blocks, or for Q6_K at the end, none
		// may be so large that a product is not finite.
		for b := int64(0); b < int64(len(data)); b += info.Bytes {
			at := []int64{0, 2}
			if kind == "Q6_K" {
				at = []int64{208}
			}
			for _, i := range at {
				data[b+i+1] &= 0xbf
			}
		}
		w := rowsOf(kind, info, rows, data)
		var want []float32
		for b := int64(0); b < int64(len(data)); b += info.Bytes {
			for i := range info.Block {
				want = append(want, mean(data[b:b+info.Bytes], int(i)))
			}
		}
		compare(t, kind, w, want)
		// Rows are the same wherever one begins.
		codes, scales, mins, _ := w.repack(0, rows)
		for row := range int64(rows) {
			c, s, m, _ := w.repack(row, row+1)
			if string(c) != string(codes[row*int64(len(c)):][:len(c)]) || string(s) != string(scales[row*int64(len(s)):][:len(s)]) ||
				mins != nil && string(m) != string(mins[row*int64(len(m)):][:len(m)]) {
				t.Errorf("%s: row %d alone differs", kind, row)
			}
		}
	}
	if len(meanings) != len(layouts) {
		t.Errorf("%d types are tested, there are %d", len(meanings), len(layouts))
	}
}

// TestBlocksVectors repacks what another implementation has dequantised
// (testdata/vectors.py).
func TestBlocksVectors(t *testing.T) {
	s, err := checkpoint.OpenSafetensors(filepath.Join("testdata", "blocks.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for kind, mean := range meanings {
		blocks, err := s.Tensor(kind + ".blocks")
		if err != nil {
			t.Fatal(err)
		}
		values, err := s.Tensor(kind + ".values")
		if err != nil {
			t.Fatal(err)
		}
		info := typeOf(t, kind)
		want := tensor.View[float32](values.Aligned())
		for i := range want {
			b := blocks.Data[int64(i)/info.Block*info.Bytes:][:info.Bytes]
			if got := mean(b, i%int(info.Block)); got != want[i] {
				t.Fatalf("%s: element %d means %g, wanted %g", kind, i, got, want[i])
			}
		}
		compare(t, kind, rowsOf(kind, info, blocks.Shape[0], blocks.Data), want)
	}
}

// TestBlocksRefuse: what no float16 holds is not written.
func TestBlocksRefuse(t *testing.T) {
	for kind, at := range map[string][]int{"Q4_0": {0}, "Q8_0": {0}, "Q4_1": {0, 2}, "Q5_0": {0}, "Q5_1": {0, 2}, "Q4_K": {0, 2}, "Q5_K": {0, 2}, "Q6_K": {208}} {
		info := typeOf(t, kind)
		for _, i := range at {
			values := []uint16{0x7c00, 0xfc00, 0x7e00}
			if !exact[kind] {
				values = append(values, 0x7bff) // 65504 times a scale
			}
			for _, v := range values {
				data := make([]byte, 4*info.Bytes)
				for j := range data {
					data[j] = 0x11
				}
				binary.LittleEndian.PutUint16(data[3*int(info.Bytes)+i:], v)
				w := rowsOf(kind, info, 2, data)
				if _, _, _, bad := w.repack(1, 2); bad != 3 {
					t.Errorf("%s: %#x at byte %d of block 3: found block %d", kind, v, i, bad)
				}
				if _, _, _, bad := w.repack(0, 1); bad != -1 {
					t.Errorf("%s: block %d of a good row is bad", kind, bad)
				}
			}
		}
	}
}

// TestHalf: every float16 comes back as it was, and what lies between two goes to
// the nearer, or the even one.
func TestHalf(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		f := fromHalf(h)
		if back := toHalf(f); back != h && f == f {
			t.Fatalf("%#x came back as %#x", h, back)
		}
		if f != f {
			if back := fromHalf(toHalf(f)); back == back {
				t.Fatalf("%#x is NaN and came back as %g", h, back)
			}
			continue
		}
		if h&0x7fff >= 0x7bff {
			continue
		}
		next := fromHalf(h + 1)
		middle := f + (next-f)/2
		even := h + h&1
		for _, tt := range []struct {
			f    float32
			want uint16
		}{{middle, even}, {math.Nextafter32(middle, f), h}, {math.Nextafter32(middle, next), h + 1}} {
			if got := toHalf(tt.f); got != tt.want {
				t.Fatalf("%g became %#x, wanted %#x", tt.f, got, tt.want)
			}
		}
	}
	for f, want := range map[float32]uint16{65519: 0x7bff, 65520: 0x7c00, -1e30: 0xfc00, 1e-30: 0, float32(math.Inf(1)): 0x7c00} {
		if got := toHalf(f); got != want {
			t.Errorf("%g became %#x, wanted %#x", f, got, want)
		}
	}
}

// TestPack: all widths, one after another, the least significant bit first.
func TestPack(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for bits := int64(1); bits <= 8; bits++ {
		codes := make([]uint8, 64)
		for i := range codes {
			codes[i] = uint8(rng.Uint32() & (1<<bits - 1))
		}
		dst := make([]byte, 64*bits/8)
		pack(dst, codes, bits)
		for i, c := range codes {
			if got := number(dst, i*int(bits), int(bits)); got != int(c) {
				t.Fatalf("%d bits: code %d is %d, wanted %d", bits, i, got, c)
			}
		}
	}
}
