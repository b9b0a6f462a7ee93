package kernels

import (
	"fmt"
	"testing"
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
					p.Add(&Gemm{A: Ref{Buffer: 1}, B: Ref{Buffer: 2}, C: Ref{Buffer: 3}, M: m, N: n, K: k, LDA: k, LDC: n, Alpha: 1})
					benchmark(b, r, &p, buffers, 2*m*n*k)
				})
			}
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
