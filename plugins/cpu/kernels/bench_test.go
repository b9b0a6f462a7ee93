package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/tensor"
)

// Shapes of BERT: one sequence of 128 tokens, and eight.
func BenchmarkGemm(b *testing.B) {
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, m := range []int64{1, 128, 1024} {
			for _, s := range [][2]int64{{1152, 384}, {384, 384}, {1536, 384}, {384, 1536}, {2304, 768}, {768, 768}, {3072, 768}, {768, 3072}} {
				n, k := s[0], s[1]
				b.Run(fmt.Sprintf("%s/%dthreads/%dx%dx%d", r.ISA(), threads, m, n, k), func(b *testing.B) {
					size, err := r.PackedBytes(PackF32, n, k)
					if err != nil {
						b.Fatal(err)
					}
					buffers := []Buffer{{}, BufferOf(fill(m*k, 1)), BufferOf(make([]byte, size)), BufferOf(make([]float32, m*n))}
					var p Program
					p.Add(&Gemm{A: Ref{Buffer: 1}, B: Ref{Buffer: 2}, C: Ref{Buffer: 3}, M: m, N: n, K: k, LDA: k, LDC: n, AType: f32, Alpha: 1})
					benchmark(b, r, &p, buffers, 2*m*n*k)
				})
			}
		}
	}
}

// Linears of SmolLM2-135M, of models of 0.5B and 1.1B, and the former's head: of one row how fast the weights go
// by, as they are stored; of more how many products.
func BenchmarkGemmBlocks(b *testing.B) {
	weights := []struct {
		name      string
		weight    Blocks
		quantized uint32
	}{
		{"q4-mins-int8", Blocks{4, 32, uint32(tensor.Float16), OffsetsMins}, 1},
		{"q4-int8", Blocks{4, 32, uint32(tensor.Float16), OffsetsNone}, 1},
		{"q8-int8", Blocks{8, 32, uint32(tensor.Float16), OffsetsNone}, 1},
		{"q6-16-int8", Blocks{6, 16, uint32(tensor.Float16), OffsetsNone}, 1},
		{"q5-mins-int8", Blocks{5, 32, uint32(tensor.Float16), OffsetsMins}, 1},
		{"q4-mins", Blocks{4, 32, uint32(tensor.Float16), OffsetsMins}, 0},
		{"q8", Blocks{8, 32, uint32(tensor.Float16), OffsetsNone}, 0},
	}
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, w := range weights {
			for _, m := range []int64{1, 4, 8, 128, 512} {
				for _, s := range [][2]int64{{576, 576}, {1536, 576}, {576, 1536}, {49152, 576}, {4864, 896}, {896, 4864}, {5632, 2048}, {2048, 5632}} {
					n, k := s[0], s[1]
					if n == 49152 && m > 8 {
						continue
					}
					b.Run(fmt.Sprintf("%s/%dthreads/%s/%dx%dx%d", r.ISA(), threads, w.name, m, n, k), func(b *testing.B) {
						size, err := r.PackedBlocksBytes(w.weight, n, k)
						if err != nil {
							b.Fatal(err)
						}
						buffers := []Buffer{{}, BufferOf(fill(m*k, 1)), BufferOf(make([]float32, size/4)), BufferOf(make([]float32, m*n)), BufferOf(make([]float32, QuantizedBytes(m, k, w.weight.Unit())/4))}
						var p Program
						g := &GemmBlocks{A: Ref{Buffer: 1}, B: Ref{Buffer: 2}, C: Ref{Buffer: 3}, M: m, N: n, K: k, LDA: k, LDC: n, Weight: w.weight, Quantized: w.quantized}
						if w.quantized == 1 {
							g.A = Ref{Buffer: 4}
							p.Add(&QuantizeRows{X: Ref{Buffer: 1}, Q: g.A, Rows: m, K: k, LDX: k, Unit: w.weight.Unit()})
						}
						p.Add(g)
						if m == 1 {
							b.SetBytes(size)
						}
						benchmark(b, r, &p, buffers, 2*m*n*k)
					})
				}
			}
		}
	}
}

// The same of weights that no cache holds: one operation after another, each with a weight of its own, as the layers of a
// model have them. Of one row or a few it is the memory's speed that counts: weights as they are stored, per second, each at its
// best, for the machine may be shared.
func BenchmarkGemmBlocksCold(b *testing.B) {
	const total = 400 << 20
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, bits := range []uint32{4, 8} {
			for _, m := range []int64{1, 2, 3, 4, 8, 12, 16, 64} {
				b.Run(fmt.Sprintf("%s/%dthreads/q%d/%d", r.ISA(), threads, bits, m), func(b *testing.B) {
					const n, k = 5632, 2048
					weight := Blocks{bits, 32, uint32(tensor.Float16), OffsetsNone}
					size, err := r.PackedBlocksBytes(weight, n, k)
					if err != nil {
						b.Fatal(err)
					}
					layers := total / size
					buffers := []Buffer{{}, BufferOf(fill(m*k, 1)), BufferOf(fill(layers*size/4, 1)), BufferOf(make([]float32, m*n)), BufferOf(make([]float32, QuantizedBytes(m, k, weight.Unit())/4))}
					var p Program
					for layer := range layers {
						p.Add(&QuantizeRows{X: Ref{Buffer: 1}, Q: Ref{Buffer: 4}, Rows: m, K: k, LDX: k, Unit: weight.Unit()})
						p.Add(&GemmBlocks{A: Ref{Buffer: 4}, B: Ref{Buffer: 2, Offset: layer * size}, C: Ref{Buffer: 3}, M: m, N: n, K: k, LDC: n, Weight: weight, Quantized: 1})
					}
					best, ns := slices.Repeat([]int64{math.MaxInt64}, p.Len()), make([]int64, p.Len())
					for b.Loop() {
						if err := r.RunTimed(&p, buffers, nil, ns); err != nil {
							b.Fatal(err)
						}
						for i, n := range ns {
							best[i] = min(best[i], n)
						}
					}
					all := int64(0)
					for _, n := range best {
						all += n
					}
					b.ReportMetric(float64(layers*size)/float64(all), "GB/s-best")
					b.ReportMetric(float64(layers*2*m*n*k)/float64(all), "GFLOP/s-best")
				})
			}
		}
	}
}

// Weights of bf16 of several layers, more than the caches hold, with rows of f32 and of bf16; the best of each, for the machine may be shared.
func BenchmarkGemmOfBF16(b *testing.B) {
	const n, k, layers = 2048, 2048, 16
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, m := range []int64{1, 8, 64, 512} {
			for _, rows := range []struct {
				name  string
				dtype uint32
			}{{"f32", f32}, {"bf16", bf16}} {
				b.Run(fmt.Sprintf("%s/%dthreads/%d rows of %s", r.ISA(), threads, m, rows.name), func(b *testing.B) {
					size, err := r.PackedBytes(PackBF16, n, k)
					if err != nil {
						b.Fatal(err)
					}
					var p Program
					buffers := []Buffer{{}, BufferOf(make([]float32, m*k)), BufferOf(make([]float32, m*n))}
					for layer := range layers {
						buffers = append(buffers, BufferOf(slices.Repeat([]uint16{0x3f80}, int(size/2))))
						p.Add(&Gemm{A: Ref{Buffer: 1}, B: Ref{Buffer: uint32(3 + layer)}, C: Ref{Buffer: 2}, M: m, N: n, K: k, LDA: k, LDC: n, AType: rows.dtype, Alpha: 1, Format: PackBF16})
					}
					best := time.Duration(math.MaxInt64)
					for b.Loop() {
						begin := time.Now()
						if err := r.Run(&p, buffers, nil); err != nil {
							b.Fatal(err)
						}
						best = min(best, time.Since(begin))
					}
					b.ReportMetric(float64(layers*size)/float64(best.Nanoseconds()), "GB/s-best")
					b.ReportMetric(float64(layers*2*m*n*k)/float64(best.Nanoseconds()), "GFLOP/s-best")
				})
			}
		}
	}
}

// Rows of a decoder, rounded to 8 bits.
func BenchmarkQuantizeRows(b *testing.B) {
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, m := range []int64{1, 8, 512} {
			b.Run(fmt.Sprintf("%s/%dthreads/%dx2048", r.ISA(), threads, m), func(b *testing.B) {
				const k = 2048
				buffers := []Buffer{{}, BufferOf(fill(m*k, 1)), BufferOf(make([]float32, QuantizedBytes(m, k, 32)/4))}
				var p Program
				p.Add(&QuantizeRows{X: Ref{Buffer: 1}, Q: Ref{Buffer: 2}, Rows: m, K: k, LDX: k, Unit: 32})
				b.SetBytes(m * k * 4)
				benchmark(b, r, &p, buffers, 0)
			})
		}
	}
}

// Shapes of ResNet-50, ConvNeXt-T, MobileNetV2, ViT-B and Whisper-tiny.
func BenchmarkConv(b *testing.B) {
	row := func(n int64) [Spatial]int64 { return [Spatial]int64{0, 0, n} }
	shapes := []convShape{
		{"resnet-stem", 1, 1, 3, 64, plane(224, 224), plane(7, 7), plane(2, 2), one, both(3), both(3)},
		{"resnet-56-1x1", 1, 1, 64, 256, plane(56, 56), one, one, one, both(0), both(0)},
		{"resnet-56-3x3", 1, 1, 64, 64, plane(56, 56), plane(3, 3), one, one, both(1), both(1)},
		{"resnet-28-3x3", 1, 1, 128, 128, plane(28, 28), plane(3, 3), one, one, both(1), both(1)},
		{"resnet-14-3x3", 1, 1, 256, 256, plane(14, 14), plane(3, 3), one, one, both(1), both(1)},
		{"resnet-7-3x3", 1, 1, 512, 512, plane(7, 7), plane(3, 3), one, one, both(1), both(1)},
		{"convnext-56-7x7", 1, 96, 1, 1, plane(56, 56), plane(7, 7), one, one, both(3), both(3)},
		{"convnext-14-7x7", 1, 384, 1, 1, plane(14, 14), plane(7, 7), one, one, both(3), both(3)},
		{"mobilenet-112-3x3-stride2", 1, 96, 1, 1, plane(112, 112), plane(3, 3), plane(2, 2), one, both(1), both(1)},
		{"vit-patches", 1, 1, 3, 768, plane(224, 224), plane(16, 16), plane(16, 16), one, both(0), both(0)},
		{"whisper-1", 1, 1, 80, 384, plane(1, 3000), plane(1, 3), one, one, row(1), row(1)},
		{"whisper-2", 1, 1, 384, 384, plane(1, 3000), plane(1, 3), plane(1, 2), one, row(1), row(1)},
	}
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, s := range shapes {
			b.Run(fmt.Sprintf("%s/%dthreads/%s", r.ISA(), threads, s.name), func(b *testing.B) {
				out, depth := s.out(), s.channels*volume(s.kernel)
				size, err := r.PackedBytes(PackF32, s.filters, depth)
				if err != nil {
					b.Fatal(err)
				}
				filters := s.groups * s.filters
				buffers := []Buffer{{}, BufferOf(fill(s.groups*s.channels*volume(s.in), 1)), BufferOf(make([]byte, s.groups*size)), BufferOf(make([]float32, filters*volume(out)))}
				var p Program
				p.Add(&Conv{X: Ref{Buffer: 1}, W: Ref{Buffer: 2}, Y: Ref{Buffer: 3}, Batch: 1, Groups: s.groups, Channels: s.channels, Filters: s.filters, In: s.in, Kernel: s.kernel, Out: out,
					Stride: s.stride, Dilation: s.dilation, Pad: s.pad, YStride: [5]int64{filters * volume(out), volume(out), out[1] * out[2], out[2], 1}})
				benchmark(b, r, &p, buffers, 2*filters*volume(out)*depth)
			})
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, d := range []int64{32, 64} {
			for _, batch := range []int64{1, 8} {
				b.Run(fmt.Sprintf("%s/%dthreads/%dx128x12x%d", r.ISA(), threads, batch, d), func(b *testing.B) {
					const s, heads = 128, 12
					row := 3 * heads * d
					q, o := [3]int64{s * row, row, d}, [3]int64{s * heads * d, heads * d, d}
					buffers := []Buffer{{}, BufferOf(fill(batch*s*row, 0.1)), BufferOf(make([]float32, batch*s*heads*d))}
					var p Program
					p.Add(&Attention{Q: Ref{Buffer: 1}, K: Ref{Buffer: 1, Offset: heads * d * 4}, V: Ref{Buffer: 1, Offset: 2 * heads * d * 4}, O: Ref{Buffer: 2},
						Batch: batch, Heads: heads, KVHeads: heads, QLen: s, KVLen: s, HeadDim: d, VDim: d, QStride: q, KStride: q, VStride: q, OStride: o, Scale: 0.125})
					benchmark(b, r, &p, buffers, 4*batch*heads*s*s*d)
				})
			}
		}
	}
}

// pagedBench is a batch over pools of one type, with the heads of a model: 9 over 3 of 64 is SmolLM2-135M, 32 over 8 of 128 LLaMA 3 8B.
type pagedBench struct {
	heads, kv, d      int64
	sequences, length int64
	tokens            int64 // new ones of each sequence
	dtype             uint32
}

// program lays out the batch; bytes are those of keys and values that it reads.
func (p pagedBench) program() (prog *Program, buffers []Buffer, bytes int64) {
	const size = 16
	width := (p.length + size - 1) / size
	pages := p.sequences*width + 1
	row := map[uint32]int64{1: 4 * p.d, 10: 2 * p.d, 16: 2 * p.d, 3: p.d, 2: p.d / 2}[p.dtype]
	tokens := p.sequences * p.tokens
	var tables, lengths, slots []int64
	starts := []int64{0}
	for s := range p.sequences {
		for i := range width {
			tables = append(tables, 1+(s*width+i)*37%(pages-1)) // out of order
		}
		lengths = append(lengths, p.length)
		starts = append(starts, starts[s]+p.tokens)
		for t := range p.tokens {
			at := p.length - p.tokens + t
			slots = append(slots, tables[s*width+at/size]*size+at%size)
		}
	}
	buffers = []Buffer{{}, BufferOf(fill(tokens*p.heads*p.d, 0.1)), BufferOf(fill(tokens*p.kv*p.d, 0.1)), BufferOf(make([]byte, pages*size*p.kv*row)), BufferOf(make([]byte, pages*size*p.kv*row)),
		BufferOf(slots), BufferOf(tables), BufferOf(lengths), BufferOf(starts), BufferOf(make([]float32, tokens*p.heads*p.d)), BufferOf(make([]uint16, pages*size*p.kv)), BufferOf(make([]uint16, pages*size*p.kv))}
	op := &Paged{Q: Ref{Buffer: 1}, K: Ref{Buffer: 2}, V: Ref{Buffer: 2}, KPages: Ref{Buffer: 3}, VPages: Ref{Buffer: 4}, Slots: Ref{Buffer: 5}, PageTables: Ref{Buffer: 6}, Lengths: Ref{Buffer: 7},
		Starts: Ref{Buffer: 8}, O: Ref{Buffer: 9}, Tokens: tokens, Heads: p.heads, KVHeads: p.kv, HeadDim: p.d, VDim: p.d, PageSize: size, LDQ: p.heads * p.d, LDK: p.kv * p.d, LDV: p.kv * p.d,
		Pages: AsMany, Sequences: AsMany, TableWidth: AsMany, Scale: 0.1, KType: p.dtype, VType: p.dtype, Causal: 1}
	bytes = p.sequences * p.length * p.kv * row * 2
	if p.dtype == 2 || p.dtype == 3 {
		op.KScales, op.VScales = Ref{Buffer: 10}, Ref{Buffer: 11}
		bytes += p.sequences * p.length * p.kv * 4
	}
	prog = &Program{}
	prog.Add(op)
	return prog, buffers, bytes
}

// Decoding one token of each of some sequences: what is read of keys and values in the best run, for the machine may be shared.
func BenchmarkPagedDecode(b *testing.B) {
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, m := range []struct {
			name         string
			heads, kv, d int64
		}{{"smollm2-135m", 9, 3, 64}, {"llama3-8b", 32, 8, 128}} {
			for _, shape := range [][2]int64{{1, 2048}, {1, 8192}, {8, 2048}} {
				for name, dtype := range map[string]uint32{"f32": 1, "f16": 10, "bf16": 16, "int8": 3, "int4": 2} {
					b.Run(fmt.Sprintf("%s/%dthreads/%s/%dx%d/%s", r.ISA(), threads, m.name, shape[0], shape[1], name), func(b *testing.B) {
						p, buffers, bytes := pagedBench{m.heads, m.kv, m.d, shape[0], shape[1], 1, dtype}.program()
						best := time.Duration(math.MaxInt64)
						for b.Loop() {
							begin := time.Now()
							if err := r.Run(p, buffers, nil); err != nil {
								b.Fatal(err)
							}
							best = min(best, time.Since(begin))
						}
						b.ReportMetric(float64(bytes)/float64(best.Nanoseconds()), "GB/s-best")
					})
				}
			}
		}
	}
}

// A prompt of 512 tokens.
func BenchmarkPagedPrompt(b *testing.B) {
	r := newRunner(b, Config{Threads: 2})
	for name, dtype := range map[string]uint32{"f32": 1, "f16": 10, "int8": 3, "int4": 2} {
		b.Run(fmt.Sprintf("%s/%s", r.ISA(), name), func(b *testing.B) {
			const n = 512
			p, buffers, _ := pagedBench{9, 3, 64, 1, n, n, dtype}.program()
			benchmark(b, r, p, buffers, 4*9*64*n*(n+1)/2)
		})
	}
}

func BenchmarkNorm(b *testing.B) {
	r := newRunner(b, Config{Threads: 2})
	for _, cols := range []int64{384, 768} {
		b.Run(fmt.Sprintf("%s/1024x%d", r.ISA(), cols), func(b *testing.B) {
			const rows = 1024
			buffers := []Buffer{{}, BufferOf(fill(rows*cols, 1)), BufferOf(make([]float32, rows*cols)), BufferOf(fill(cols, 1))}
			var p Program
			p.Add(&Norm{X: Ref{Buffer: 1}, Residual: Ref{Buffer: 1}, Gamma: Ref{Buffer: 3}, Beta: Ref{Buffer: 3}, Y: Ref{Buffer: 2}, Rows: rows, Cols: cols, LDX: cols, LDR: cols, LDY: cols, Eps: 1e-12})
			b.SetBytes(3 * rows * cols * 4)
			benchmark(b, r, &p, buffers, 0)
		})
	}
}

// Weights of a decoder as checkpoints store them, in bytes packed a second.
func BenchmarkPack(b *testing.B) {
	for _, threads := range []int{1, 2} {
		r := newRunner(b, Config{Threads: threads})
		for _, f := range []Format{PackBF16, PackF32} {
			for _, s := range [][2]int64{{1024, 1024}, {4096, 1024}, {1024, 4096}} {
				n, k := s[0], s[1]
				b.Run(fmt.Sprintf("%s/%dthreads/%s/%dx%d", r.ISA(), threads, r.PackedLayout(f), n, k), func(b *testing.B) {
					size, err := r.PackedBytes(f, n, k)
					if err != nil {
						b.Fatal(err)
					}
					var p Program
					p.Add(&Pack{Src: Ref{Buffer: 1}, Dst: Ref{Buffer: 2}, N: n, K: k, NStride: k, KStride: 1, Format: f})
					b.SetBytes(size)
					benchmark(b, r, &p, []Buffer{{}, BufferOf(make([]byte, size)), BufferOf(make([]byte, size))}, 0)
				})
			}
		}
	}
}

// An operation over one element: what a run costs beside its work.
func BenchmarkRun(b *testing.B) {
	r := newRunner(b, Config{Threads: 2})
	var p Program
	p.Add(&Softmax{X: Ref{Buffer: 1}, Y: Ref{Buffer: 1}, Outer: 1, Axis: 1, Inner: 1})
	benchmark(b, r, &p, []Buffer{{}, BufferOf(make([]float32, 1))}, 0)
}

func benchmark(b *testing.B, r *Runner, p *Program, buffers []Buffer, flops int64) {
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Run(p, buffers, nil); err != nil {
			b.Fatal(err)
		}
	}
	if flops > 0 {
		b.ReportMetric(float64(flops)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	}
}
