package kernels

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// blocksWeight is a random weight in blocks, and what it stands for.
type blocksWeight struct {
	Blocks
	n, k, stride           int64
	codes, scales, offsets []byte
	value                  []float64 // [n,k]
}

// half is x as a normal number of 16 bits, or zero, and its value.
func half(x float64) (uint16, float64) {
	fraction, exponent := math.Frexp(math.Abs(x)) // fraction within 0.5 and 1
	steps := math.Floor(fraction * 2048)
	if exponent < -13 {
		return 0, 0
	}
	bits := uint16(exponent+14)<<10 | (uint16(steps) - 1024)
	if x < 0 {
		return bits | 1<<15, -math.Ldexp(steps, exponent-11)
	}
	return bits, math.Ldexp(steps, exponent-11)
}

func (b *blocksWeight) blocks() int64 { return (b.k + int64(b.Block) - 1) / int64(b.Block) }

// putBits writes number i of a row of codes.
func putBits(row []byte, bits uint32, i int64, code uint32) {
	for bit := range int64(bits) {
		if code>>bit&1 != 0 {
			at := i*int64(bits) + bit
			row[at/8] |= 1 << (at % 8)
		}
	}
}

func newBlocksWeight(rng *rand.Rand, b Blocks, n, k int64) *blocksWeight {
	w := &blocksWeight{Blocks: b, n: n, k: k, value: make([]float64, n*k)}
	blocks := w.blocks()
	w.stride = (k*int64(b.Bits)+7)/8 + rng.Int64N(3)
	w.codes = make([]byte, n*w.stride)
	zeroBytes := (blocks*int64(b.Bits) + 7) / 8
	if b.Offsets == OffsetsZeros {
		w.offsets = make([]byte, n*zeroBytes)
	}
	number := func(to *[]byte, x float64) float64 {
		if tensor.DType(b.Scales) == tensor.Float16 {
			h, value := half(x)
			*to = append(*to, byte(h), byte(h>>8))
			return value
		}
		u := math.Float32bits(float32(x))
		*to = append(*to, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
		return float64(float32(x))
	}
	for row := range n {
		for block := range blocks {
			scale := number(&w.scales, rng.NormFloat64()/float64(int(1)<<b.Bits))
			zero, min := float64(int(1)<<(b.Bits-1)), 0.0
			switch b.Offsets {
			case OffsetsZeros:
				code := rng.Uint32N(1 << b.Bits)
				putBits(w.offsets[row*zeroBytes:], b.Bits, block, code)
				zero = float64(code)
			case OffsetsMins:
				zero, min = 0, number(&w.offsets, rng.NormFloat64())
			}
			for col := block * int64(b.Block); col < (block+1)*int64(b.Block) && col < k; col++ {
				code := rng.Uint32N(1 << b.Bits)
				if rng.IntN(20) == 0 {
					code = 1<<b.Bits - 1 // the largest, many together
				}
				putBits(w.codes[row*w.stride:(row+1)*w.stride], b.Bits, col, code)
				w.value[row*k+col] = scale*(float64(code)-zero) + min
			}
		}
	}
	return w
}

// pack puts the weight into memory, with the operation that packs it.
func (b *blocksWeight) pack(t testing.TB, r *Runner, mem *memory) (*PackBlocks, Ref) {
	t.Helper()
	size, err := r.PackedBlocksBytes(b.Blocks, b.n, b.k)
	if err != nil {
		t.Fatal(err)
	}
	p := &PackBlocks{N: b.n, K: b.k, CodesStride: b.stride, Weight: b.Blocks}
	p.Codes, _ = put(mem, b.codes)
	p.Scales, _ = put(mem, b.scales)
	if b.offsets != nil {
		p.Offsets, _ = put(mem, b.offsets)
	}
	p.Dst, _ = put(mem, make([]float32, size/4))
	return p, p.Dst
}

// rounded is x as QuantizeRows stores it.
func rounded(x []float32, unit int) []float64 {
	out := make([]float64, len(x))
	for at := 0; at < len(x); at += unit {
		end := min(at+unit, len(x))
		var largest float32
		for _, v := range x[at:end] {
			largest = max(largest, float32(math.Abs(float64(v))))
		}
		scale := largest / 127
		for i := at; i < end && scale > 0; i++ {
			out[i] = math.RoundToEven(float64(x[i]/scale)) * float64(scale)
		}
	}
	return out
}

func everyBlocks() []Blocks {
	var list []Blocks
	for _, bits := range []uint32{4, 8, 2, 3, 5, 6} {
		for offsets := OffsetsNone; offsets <= OffsetsMins; offsets++ {
			for i, block := range []uint32{16, 32, 64, 128} {
				scales := tensor.Float16
				if (i+int(offsets))%2 == 1 {
					scales = tensor.Float32
				}
				list = append(list, Blocks{Bits: bits, Block: block, Scales: uint32(scales), Offsets: offsets})
				// What `accel quantize` writes: scales, and mins, of float16.
				if scales == tensor.Float32 && block >= 32 && offsets != OffsetsZeros {
					list = append(list, Blocks{Bits: bits, Block: block, Scales: uint32(tensor.Float16), Offsets: offsets})
				}
			}
		}
	}
	return list
}

func TestGemmBlocks(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		rows := []int64{1, 2, 3, 4, 5, 6, 7, 8, 13, 17, 150}
		for i, b := range everyBlocks() {
			for try := range 6 / thin(testing.Short()) {
				m, n := rows[(i*5+try)%len(rows)], []int64{1, 7, 15, 16, 17, 33, 70}[rng.IntN(7)]
				k := []int64{1, 15, 16, 31, 32, 48, 100, 256, 300, 417}[rng.IntN(10)]
				if m == 150 {
					k = 1100 // more units than pass at a time
				}
				quantized := uint32(try % 2)
				act := Activation(try % 7)
				t.Run(fmt.Sprintf("%+v/%dx%dx%d/%d", b, m, n, k, quantized), func(t *testing.T) {
					mem := newMemory()
					w := newBlocksWeight(rng, b, n, k)
					pack, packed := w.pack(t, r, mem)
					g := &GemmBlocks{B: packed, M: m, N: n, K: k, LDA: k + rng.Int64N(3), LDC: n + rng.Int64N(3), LDR: n + rng.Int64N(3), Weight: b, Activation: act, Quantized: quantized}
					var av, bv, rv, cv []float32
					g.A, av = put(mem, randoms(rng, m*g.LDA))
					x := make([]float64, m*k)
					quantize := &QuantizeRows{X: g.A, Rows: m, K: k, LDX: g.LDA, Unit: b.Unit()}
					for row := range m {
						line := av[row*g.LDA:][:k]
						for j, v := range line {
							x[row*k+int64(j)] = float64(v)
						}
						if quantized == 1 {
							copy(x[row*k:], rounded(line, int(b.Unit())))
						}
					}
					if try%3 != 0 {
						g.Bias, bv = put(mem, randoms(rng, n))
					}
					g.C, cv = put(mem, randoms(rng, m*g.LDC))
					if try%3 == 1 {
						g.Residual, g.LDR, rv = g.C, g.LDC, append([]float32(nil), cv...)
					} else if try%3 == 2 {
						g.Residual, rv = put(mem, randoms(rng, m*g.LDR))
					}
					before := append([]float32(nil), cv...)
					if quantized == 1 {
						g.A, _ = put(mem, make([]float32, QuantizedBytes(m, k, b.Unit())/4))
						quantize.Q = g.A
						mem.run(t, r, pack, quantize, g)
					} else {
						mem.run(t, r, pack, g)
					}
					for i := range m {
						for j := range g.LDC {
							got := cv[i*g.LDC+j]
							if j >= n {
								if got != before[i*g.LDC+j] {
									t.Fatalf("element [%d,%d] between the rows was written", i, j)
								}
								continue
							}
							var sum, size float64
							for c := range k {
								p := x[i*k+c] * w.value[j*k+c]
								sum += p
								size += math.Abs(x[i*k+c]) * (math.Abs(w.value[j*k+c]) + 1)
							}
							if bv != nil {
								sum += float64(bv[j])
							}
							want := activate(act, sum)
							if rv != nil {
								want += float64(rv[i*g.LDR+j])
							}
							if !near(got, want, 1e-6*size+1e-6*math.Abs(want)+1e-6) {
								t.Fatalf("[%d,%d] = %g, want %g", i, j, got, want)
							}
						}
					}
				})
			}
		}
	})
}

func TestGatherBlocks(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, b := range everyBlocks() {
			const n = 9
			k := []int64{16, 33, 100}[i%3]
			mem := newMemory()
			w := newBlocksWeight(rng, b, n, k)
			index := []int64{3, -1, 0, 8, -9}
			g := &GatherBlocks{N: n, K: k, CodesStride: w.stride, Count: int64(len(index)), Weight: b, IndexType: uint32(tensor.Int64)}
			g.Codes, _ = put(mem, w.codes)
			g.Scales, _ = put(mem, w.scales)
			if w.offsets != nil {
				g.Offsets, _ = put(mem, w.offsets)
			}
			var rows []float32
			var ids []int64
			g.Index, ids = put(mem, index)
			g.Y, rows = put(mem, make([]float32, g.Count*k))
			mem.run(t, r, g)
			for j, got := range rows {
				row := (index[int64(j)/k] + n) % n
				if want := w.value[row*k+int64(j)%k]; !near(got, want, 1e-6*math.Abs(want)+1e-6) {
					t.Fatalf("%+v: row %d, element %d is %g, want %g", b, row, int64(j)%k, got, want)
				}
			}
			ids[2] = n
			var e *Error
			if err := mem.try(t, r, g); !errors.As(err, &e) || e.Code != CodeIndex || e.Value != n || e.Limit != n {
				t.Fatalf("index %d of %d: %v", n, n, err)
			}
		}
	})
}

// Of rows in 8 bits no result depends on the rows beside, nor on the threads.
func TestGemmBlocksRowsAreAlone(t *testing.T) {
	onEveryISA(t, func(t *testing.T, two *Runner) {
		rng := newRand()
		for _, b := range []Blocks{{4, 32, uint32(tensor.Float16), OffsetsMins}, {8, 64, uint32(tensor.Float16), OffsetsNone}, {6, 16, uint32(tensor.Float32), OffsetsZeros}} {
			const n, k = 70, 333
			w, a := newBlocksWeight(rng, b, n, k), randoms(rng, 29*k)
			one := newRunner(t, Config{ISA: two.ISA(), Threads: 1})
			product := func(r *Runner, m int64) []float32 {
				mem := newMemory()
				pack, packed := w.pack(t, r, mem)
				x, _ := put(mem, a)
				q, _ := put(mem, make([]float32, QuantizedBytes(m, k, b.Unit())/4))
				c, cv := put(mem, make([]float32, m*n))
				mem.run(t, r, pack, &QuantizeRows{X: x, Q: q, Rows: m, K: k, LDX: k, Unit: b.Unit()},
					&GemmBlocks{A: q, B: packed, C: c, M: m, N: n, K: k, LDC: n, Weight: b, Quantized: 1})
				return cv
			}
			all := product(two, 29)
			for m := int64(1); m < 29; m += 3 {
				for i, v := range product(one, m) {
					if v != all[i] {
						t.Fatalf("%+v: with %d rows [%d,%d] is %g, with 29 %g", b, m, i/n, i%n, v, all[i])
					}
				}
			}
		}
	})
}

func TestQuantizeRowsOfOddValues(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		inf := float32(math.Inf(1))
		for name, x := range map[string]float32{"nan": float32(math.NaN()), "infinity": inf, "-infinity": -inf, "zero": 0, "subnormal": 1e-44, "largest": math.MaxFloat32} {
			t.Run(name, func(t *testing.T) {
				mem := newMemory()
				const k = 64
				line := make([]float32, k)
				line[5] = x
				line[40] = 3
				from, _ := put(mem, line)
				q, got := put(mem, make([]float32, QuantizedBytes(1, k, 32)/4))
				mem.run(t, r, &QuantizeRows{X: from, Q: q, Rows: 1, K: k, LDX: k, Unit: 32})
				scale, sum := got[k/4], got[k/4+1]
				if finite := !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0); finite != (scale == scale) || finite != (sum == sum) {
					t.Errorf("scale is %g, sum %g", scale, sum)
				}
				if scale == scale && scale != x/127 {
					t.Errorf("scale is %g, want %g", scale, x/127)
				}
				if got[k/4+2] != float32(3)/127 || got[k/4+3] != 127*(float32(3)/127) {
					t.Errorf("the other unit has scale %g, sum %g", got[k/4+2], got[k/4+3])
				}
			})
		}
	})
}

func TestBlocksRefused(t *testing.T) {
	r := newRunner(t, Config{})
	good := Blocks{4, 32, uint32(tensor.Float16), OffsetsNone}
	for name, change := range map[string]func(b *Blocks, g *GemmBlocks){
		"bits":      func(b *Blocks, _ *GemmBlocks) { b.Bits = 7 },
		"block":     func(b *Blocks, _ *GemmBlocks) { b.Block = 24 },
		"small":     func(b *Blocks, _ *GemmBlocks) { b.Block = 8 },
		"scales":    func(b *Blocks, _ *GemmBlocks) { b.Scales = uint32(tensor.BFloat16) },
		"offsets":   func(b *Blocks, _ *GemmBlocks) { b.Offsets = 3 },
		"a missing": func(_ *Blocks, g *GemmBlocks) { g.A = Ref{} },
		"a short":   func(_ *Blocks, g *GemmBlocks) { g.M = 3 },
		"b short":   func(_ *Blocks, g *GemmBlocks) { g.N = 1000 },
		"level":     func(_ *Blocks, g *GemmBlocks) { g.Quantized = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			mem := newMemory()
			const m, n, k = 2, 8, 64
			size, err := r.PackedBlocksBytes(good, n, k)
			if err != nil {
				t.Fatal(err)
			}
			g := &GemmBlocks{M: m, N: n, K: k, LDA: k, LDC: n, Weight: good}
			g.A, _ = put(mem, make([]float32, m*k))
			g.B, _ = put(mem, make([]float32, size/4))
			g.C, _ = put(mem, make([]float32, 3*1000))
			change(&g.Weight, g)
			var e *Error
			if err := mem.try(t, r, g); !errors.As(err, &e) || e.Text == "" {
				t.Errorf("refused with %v", err)
			}
			if g.Weight != good {
				if _, err := r.PackedBlocksBytes(g.Weight, n, k); err == nil {
					t.Error("such blocks have a size")
				}
			}
		})
	}
}
