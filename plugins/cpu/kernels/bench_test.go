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
