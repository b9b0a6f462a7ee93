package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// Types of a Gemm's rows.
const (
	f32  = uint32(tensor.Float32)
	bf16 = uint32(tensor.BFloat16)
)

func activate(a Activation, x float64) float64 {
	switch a {
	case ActRelu:
		if x < 0 {
			return 0
		}
	case ActGeluErf:
		return x / 2 * math.Erfc(-x/math.Sqrt2)
	case ActGeluTanh:
		return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case ActSilu:
		return x / (1 + math.Exp(-x))
	case ActTanh:
		return math.Tanh(x)
	case ActSigmoid:
		return 1 / (1 + math.Exp(-x))
	}
	return x
}

// The row and column counts lie around the tiles and panels of the instruction sets, the depths
// around the blocks.
func TestGemm(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		type shape struct{ m, n, k int64 }
		shapes := []shape{{0, 5, 3}, {5, 0, 3}, {5, 3, 0}, {129, 65, 257}, {257, 33, 31}, {300, 17, 513}}
		for _, m := range []int64{1, 2, 3, 5, 6, 7, 13, 15, 29} {
			for _, n := range []int64{1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 130} {
				shapes = append(shapes, shape{m, n, []int64{1, 2, 3, 4, 5, 7, 8, 31, 64, 65, 127, 255, 256, 257, 300}[rng.IntN(15)]})
			}
		}
		for i, s := range shapes {
			if i%thin(testing.Short()) != 0 {
				continue
			}
			act := Activation(i % 7)
			bias, residual, inPlace, transposed := i%2 == 0, i%3 == 0, i%6 == 0, i%5 == 0
			lda, ldc, ldr := s.k+int64(i%3), s.n+int64(i%4), s.n+int64(i%4)
			alpha := []float32{1, 0.5}[i%2]
			t.Run(fmt.Sprintf("%dx%dx%d", s.m, s.n, s.k), func(t *testing.T) {
				mem := newMemory()
				a, av := put(mem, randoms(rng, max(0, s.m*lda)))
				w, wv := put(mem, randoms(rng, s.n*s.k))
				size, err := r.PackedBytes(PackF32, s.n, s.k)
				if err != nil {
					t.Fatal(err)
				}
				packed, _ := put(mem, make([]float32, size/4))
				c, cv := put(mem, fill(s.m*ldc, 77))
				pack := &Pack{Src: w, Dst: packed, N: s.n, K: s.k, NStride: s.k, KStride: 1}
				at := func(j, k int64) int64 { return j*s.k + k }
				if transposed {
					pack.NStride, pack.KStride = 1, s.n
					at = func(j, k int64) int64 { return k*s.n + j }
				}
				g := &Gemm{A: a, B: packed, C: c, M: s.m, N: s.n, K: s.k, LDA: lda, LDC: ldc, LDR: ldr, AType: f32, Alpha: alpha, Activation: act}
				var bv, rv []float32
				if bias {
					g.Bias, bv = put(mem, randoms(rng, s.n))
				}
				if inPlace {
					copy(cv, randoms(rng, s.m*ldc))
					g.Residual, rv = c, append([]float32(nil), cv...)
				} else if residual {
					g.Residual, rv = put(mem, randoms(rng, s.m*ldr))
				}
				before := append([]float32(nil), cv...)
				mem.run(t, r, pack, g)
				for i := range s.m {
					for j := range ldc {
						if j >= s.n {
							if cv[i*ldc+j] != before[i*ldc+j] {
								t.Fatalf("element [%d,%d] between the rows was written", i, j)
							}
							continue
						}
						var sum, scale float64
						for k := range s.k {
							p := float64(av[i*lda+k]) * float64(wv[at(j, k)])
							sum += p
							scale += math.Abs(p)
						}
						sum *= float64(alpha)
						if bias {
							sum += float64(bv[j])
							scale++
						}
						want := activate(act, sum)
						if rv != nil {
							want += float64(rv[i*ldr+j])
						}
						if !near(cv[i*ldc+j], want, 1e-6*scale+4e-7*math.Abs(want)+1e-7) {
							t.Fatalf("[%d,%d] = %g, want %g", i, j, cv[i*ldc+j], want)
						}
					}
				}
			})
		}
	})
}

func TestGemmPropagatesNaN(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		const m, n, k = 7, 19, 9
		mem := newMemory()
		a, av := put(mem, fill(m*k, 1))
		w, _ := put(mem, fill(n*k, 1))
		size, _ := r.PackedBytes(PackF32, n, k)
		packed, _ := put(mem, make([]float32, size/4))
		c, cv := put(mem, fill(m*n, 0))
		av[2*k+3] = float32(math.NaN())
		av[4*k+1] = float32(math.Inf(1))
		mem.run(t, r, &Pack{Src: w, Dst: packed, N: n, K: k, NStride: k, KStride: 1},
			&Gemm{A: a, B: packed, C: c, M: m, N: n, K: k, LDA: k, LDC: n, AType: f32, Alpha: 1, Activation: ActRelu})
		for i, v := range cv {
			want := 9.0
			switch i / n {
			case 2:
				want = math.NaN()
			case 4:
				want = math.Inf(1)
			}
			if !near(v, want, 0) {
				t.Fatalf("[%d,%d] = %g, want %g", i/n, i%n, v, want)
			}
		}
	})
}

// Weights of 16 bits are those of f32 that they stand for: the same sums, but for a row or two, in the same order.
// What is packed stands in panels, each k after k, of bf16 pair after pair of k, filled up with zeros.
func TestPack(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		one, err := r.PackedBytes(PackF32, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		panel := one / 4
		for f, of := range map[Format]struct{ each, together int64 }{PackBF16: {2, 2}, PackF16: {2, 1}, PackF32: {4, 1}} {
			each := of.each
			for _, s := range [][2]int64{{1, 1}, {3, 64}, {8, 32}, {16, 16}, {17, 33}, {32, 64}, {33, 31}, {40, 65}, {64, 160}, {71, 100}, {100, 7}, {5, 0}} {
				n, k := s[0], s[1]
				for name, strides := range map[string][2]int64{"nk": {k, 1}, "nk apart": {k + 3, 1}, "kn": {1, n}, "kn apart": {1, n + 5}} {
					mem := newMemory()
					length := (n-1)*strides[0] + max(k-1, 0)*strides[1] + 1
					size, err := r.PackedBytes(f, n, k)
					if err != nil {
						t.Fatal(err)
					}
					from := make([]uint32, length)
					for i := range from {
						from[i] = rng.Uint32()
					}
					var src, dst Ref
					var at func(j, i int64) uint32  // of the weight
					var got func(word int64) uint32 // of what was packed
					if each == 2 {
						short := make([]uint16, length)
						for i := range short {
							short[i] = uint16(from[i])
						}
						var out []uint16
						src, _ = put(mem, short)
						dst, out = put(mem, make([]uint16, size/each))
						at = func(j, i int64) uint32 { return uint32(short[j*strides[0]+i*strides[1]]) }
						got = func(word int64) uint32 { return uint32(out[word]) }
						for i := range out {
							out[i] = 0x7777
						}
					} else {
						var out []uint32
						src, _ = put(mem, from)
						dst, out = put(mem, make([]uint32, size/each))
						at = func(j, i int64) uint32 { return from[j*strides[0]+i*strides[1]] }
						got = func(word int64) uint32 { return out[word] }
						for i := range out {
							out[i] = 0x77777777
						}
					}
					mem.run(t, r, &Pack{Src: src, Dst: dst, N: n, K: k, NStride: strides[0], KStride: strides[1], Format: f})
					depth := size / each / ((n + panel - 1) / panel * panel)
					if depth < k || depth > k && of.together == 1 {
						t.Fatalf("format %d, %dx%d takes %d bytes", f, n, k, size)
					}
					for word := range size / each {
						p, in := word/(panel*depth), word%(panel*depth)
						i, j := in/(panel*of.together)*of.together+in%of.together, in/of.together%panel
						want := uint32(0)
						if column := p*panel + j; column < n && i < k {
							want = at(column, i)
						}
						if g := got(word); g != want {
							t.Fatalf("format %d, %dx%d %s: panel %d, k %d, column %d is %#x, want %#x", f, n, k, name, p, i, j, g, want)
						}
					}
				}
			}
		}
	})
}

func TestGemmOf16Bits(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, s := range [][3]int64{{1, 17, 65}, {2, 40, 31}, {3, 70, 129}, {5, 16, 256}, {6, 33, 300}, {7, 9, 100}, {31, 65, 513}, {150, 33, 700}, {4, 3, 0}} {
			m, n, k := s[0], s[1], s[2]
			for _, kind := range []struct {
				format  Format
				widened func(uint16) float32
			}{
				{PackF16, func(b uint16) float32 { return float32(math.Ldexp(float64(b&0x3ff|0x400), int(b>>10&31)-25)) }},
				{PackBF16, func(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }},
			} {
				format, widened := kind.format, kind.widened
				bits := make([]uint16, n*k)
				wide := make([]float32, n*k)
				for j := range bits {
					bits[j] = 0x3800 + uint16(rng.IntN(0x800)) // near 1, or 2^-15
					wide[j] = widened(bits[j])
				}
				mem := newMemory()
				a, av := put(mem, randoms(rng, m*(k+1)))
				w, _ := put(mem, bits)
				v, _ := put(mem, wide)
				bias, biases := put(mem, randoms(rng, n))
				sums := map[Format][]float32{}
				for _, f := range []Format{format, PackF32} {
					size, err := r.PackedBytes(f, n, k)
					if err != nil {
						t.Fatal(err)
					}
					packed, _ := put(mem, make([]float32, size/4))
					c, cv := put(mem, make([]float32, m*n))
					pack := &Pack{Src: w, Dst: packed, N: n, K: k, NStride: k, KStride: 1, Format: f}
					if f == PackF32 {
						pack.Src = v
					}
					if i%2 == 1 {
						pack.NStride, pack.KStride = 1, n
					}
					mem.run(t, r, pack, &Gemm{A: a, B: packed, Bias: bias, C: c, M: m, N: n, K: k, LDA: k + 1, LDC: n, AType: f32, Alpha: 2, Activation: ActRelu, Format: f})
					sums[f] = cv
				}
				for j, want := range sums[PackF32] {
					row, column := int64(j)/n, int64(j)%n
					scale := math.Abs(float64(biases[column])) // of what was summed: sums that cancel keep its rounding
					for l := range k {
						at := column*k + l
						if i%2 == 1 {
							at = l*n + column
						}
						scale += 2 * math.Abs(float64(av[row*(k+1)+l])*float64(wide[at]))
					}
					if got := sums[format][j]; !near(got, float64(want), 2e-7*scale) {
						t.Fatalf("format %d, %v: [%d,%d] = %g, in f32 %g", format, s, row, column, got, want)
					}
				}
			}
		}
	})
}

// halved are numbers as bf16, cut off: their bits, and what these stand for.
func halved(v []float32) (bits []uint16, wide []float32) {
	for _, x := range v {
		b := math.Float32bits(x) >> 16
		bits, wide = append(bits, uint16(b)), append(wide, math.Float32frombits(b<<16))
	}
	return bits, wide
}

// Rows of bf16 with weights of bf16: products and sums of f32. The row counts lie around the tiles of the instruction sets and their
// blocks, the depths around pairs, tiles and blocks; what stands between the rows is not a number.
func TestGemmOfBF16Rows(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		type shape struct{ m, n, k int64 }
		shapes := []shape{{0, 5, 3}, {5, 0, 3}, {5, 3, 0}, {40, 3, 0}, {129, 65, 1056}, {257, 40, 544}, {300, 33, 1025}, {128, 64, 2048}}
		for _, m := range []int64{1, 2, 3, 4, 5, 7, 13, 14, 15, 16, 17, 29, 31, 32, 33, 63, 65} {
			for _, n := range []int64{1, 8, 17, 31, 33, 65, 130} {
				shapes = append(shapes, shape{m, n, []int64{1, 2, 3, 31, 32, 33, 64, 65, 96, 255, 256, 512, 544, 1030}[rng.IntN(14)]})
			}
		}
		for i, s := range shapes {
			if i%thin(testing.Short()) != 0 {
				continue
			}
			act, residual, lda := Activation(i%7), i%3 == 0, s.k+int64(i%4)
			t.Run(fmt.Sprintf("%dx%dx%d", s.m, s.n, s.k), func(t *testing.T) {
				mem := newMemory()
				bits, av := halved(randoms(rng, s.m*lda))
				for j := range bits {
					if int64(j)%lda >= s.k {
						bits[j] = 0x7fc1
					}
				}
				a, _ := put(mem, bits)
				bits, wv := halved(randoms(rng, s.n*s.k))
				w, _ := put(mem, bits)
				size, err := r.PackedBytes(PackBF16, s.n, s.k)
				if err != nil {
					t.Fatal(err)
				}
				packed, _ := put(mem, slices.Repeat([]uint16{0x7fc1}, int(size/2)))
				pack := &Pack{Src: w, Dst: packed, N: s.n, K: s.k, NStride: s.k, KStride: 1, Format: PackBF16}
				at := func(j, k int64) int64 { return j*s.k + k }
				if i%2 == 1 {
					pack.NStride, pack.KStride = 1, s.n
					at = func(j, k int64) int64 { return k*s.n + j }
				}
				bias, bv := put(mem, randoms(rng, s.n))
				c, cv := put(mem, fill(s.m*s.n, 77))
				g := &Gemm{A: a, B: packed, Bias: bias, C: c, M: s.m, N: s.n, K: s.k, LDA: lda, LDC: s.n, LDR: s.n, AType: bf16, Alpha: 0.5, Activation: act, Format: PackBF16}
				var rv []float32
				if residual {
					g.Residual, rv = put(mem, randoms(rng, s.m*s.n))
				}
				mem.run(t, r, pack, g)
				for i := range s.m {
					for j := range s.n {
						var sum, scale float64
						for k := range s.k {
							p := float64(av[i*lda+k]) * float64(wv[at(j, k)]) / 2
							sum += p
							scale += math.Abs(p)
						}
						want := activate(act, sum+float64(bv[j]))
						if residual {
							want += float64(rv[i*s.n+j])
						}
						if !near(cv[i*s.n+j], want, 1e-6*(scale+1)+4e-7*math.Abs(want)) {
							t.Fatalf("[%d,%d] = %g, want %g", i, j, cv[i*s.n+j], want)
						}
					}
				}
			})
		}
	})
}

// Infinity and what is not a number stay in their row.
func TestGemmOfBF16RowsPropagatesNaN(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		const n, k = 19, 33
		for _, m := range []int64{7, 40} {
			mem := newMemory()
			rows := slices.Repeat([]uint16{0x3f80}, int(m*k))
			rows[2*k+32], rows[4*k+1] = 0x7fc0, 0x7f80
			a, _ := put(mem, rows)
			w, _ := put(mem, slices.Repeat([]uint16{0x3f80}, n*k))
			size, _ := r.PackedBytes(PackBF16, n, k)
			packed, _ := put(mem, make([]uint16, size/2))
			c, cv := put(mem, fill(m*n, 0))
			mem.run(t, r, &Pack{Src: w, Dst: packed, N: n, K: k, NStride: k, KStride: 1, Format: PackBF16},
				&Gemm{A: a, B: packed, C: c, M: m, N: n, K: k, LDA: k, LDC: n, AType: bf16, Alpha: 1, Format: PackBF16})
			for i, v := range cv {
				want := float64(k)
				switch i / n {
				case 2:
					want = math.NaN()
				case 4:
					want = math.Inf(1)
				}
				if !near(v, want, 0) {
					t.Fatalf("%d rows: [%d,%d] = %g, want %g", m, i/n, i%n, v, want)
				}
			}
		}
	})
}

func TestMatMul(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i := range 120 / thin(testing.Short()) {
			pick := func(v ...int64) int64 { return v[rng.IntN(len(v))] }
			m, n, k := pick(1, 2, 3, 4, 5, 7, 12, 17, 65, 150), pick(1, 2, 7, 8, 15, 16, 17, 33, 64, 130), pick(0, 1, 2, 3, 8, 16, 31, 64, 257, 300)
			batch := [2]int64{pick(1, 2, 3), pick(1, 2)}
			if i == 0 && !testing.Short() {
				m, n, k, batch = 300, 170, 520, [2]int64{1, 1}
			}
			op := &MatMul{M: m, N: n, K: k, ARow: k + pick(0, 3), ACol: 1, BRow: n + pick(0, 1), BCol: 1, CRow: n + pick(0, 2), Rank: 2, Alpha: 1}
			aSize, bSize := m*op.ARow, k*op.BRow
			if i%3 == 1 { // A transposed
				op.ARow, op.ACol = 1, m
				aSize = m * k
			}
			if i%2 == 1 { // B transposed
				op.BRow, op.BCol = 1, k
				bSize = n * k
			}
			cSize := m * op.CRow
			op.Batch = [MatMulRank]int64{batch[0], batch[1]}
			op.CBatch = [MatMulRank]int64{cSize * batch[1], cSize}
			op.ABatch = [MatMulRank]int64{aSize * batch[1], aSize}
			op.BBatch = [MatMulRank]int64{bSize, 0} // broadcast along the second
			op.Activation = Activation(i % 7)
			op.Alpha = float32(pick(1, 2))
			mem := newMemory()
			var av, bv, cv, biases []float32
			op.A, av = put(mem, randoms(rng, aSize*batch[0]*batch[1]))
			op.B, bv = put(mem, randoms(rng, bSize*batch[0]))
			op.C, cv = put(mem, fill(cSize*batch[0]*batch[1], 5))
			if i%4 == 0 {
				op.Bias, biases = put(mem, randoms(rng, n))
			}
			mem.run(t, r, op)
			for b0 := range batch[0] {
				for b1 := range batch[1] {
					for i := range m {
						for j := range n {
							var sum, scale float64
							for x := range k {
								p := float64(av[b0*op.ABatch[0]+b1*op.ABatch[1]+i*op.ARow+x*op.ACol]) * float64(bv[b0*op.BBatch[0]+x*op.BRow+j*op.BCol])
								sum += p
								scale += math.Abs(p)
							}
							sum *= float64(op.Alpha)
							if biases != nil {
								sum += float64(biases[j])
							}
							want := activate(op.Activation, sum)
							got := cv[b0*op.CBatch[0]+b1*op.CBatch[1]+i*op.CRow+j]
							if !near(got, want, 2e-6*scale+1e-6*math.Abs(want)+1e-6) {
								t.Fatalf("%+v: [%d,%d,%d,%d] = %g, want %g", op, b0, b1, i, j, got, want)
							}
						}
					}
				}
			}
		}
	})
}

// What comes out may not depend on who computed it, nor on how many rows there are beside.
func TestGemmDoesNotDependOnThreads(t *testing.T) {
	const m, n, k = 131, 200, 600
	rng := newRand()
	a, w := randoms(rng, m*k), randoms(rng, n*k)
	halfA, _ := halved(a)
	halfW, _ := halved(w)
	for _, isa := range testLibrary(t).ISAs() {
		if !isa.Supported {
			continue
		}
		for name, g := range map[string]Gemm{"f32": {AType: f32, Format: PackF32}, "bf16": {AType: bf16, Format: PackBF16}} {
			t.Run(isa.Name+"/"+name, func(t *testing.T) {
				var first []float32
				for _, threads := range []int{1, 2, 5} {
					r := newRunner(t, Config{ISA: isa.Name, Threads: threads})
					mem := newMemory()
					var from Ref
					if g.AType == bf16 {
						g.A, _ = put(mem, halfA)
						from, _ = put(mem, halfW)
					} else {
						g.A, _ = put(mem, a)
						from, _ = put(mem, w)
					}
					size, _ := r.PackedBytes(g.Format, n, k)
					g.B, _ = put(mem, make([]float32, size/4))
					var cv []float32
					g.C, cv = put(mem, make([]float32, m*n))
					g.M, g.N, g.K, g.LDA, g.LDC, g.Alpha = m, n, k, k, n, 1
					mem.run(t, r, &Pack{Src: from, Dst: g.B, N: n, K: k, NStride: k, KStride: 1, Format: g.Format}, &g)
					if first == nil {
						first = cv
					}
					for i := range cv {
						if cv[i] != first[i] {
							t.Fatalf("%d threads give %g at %d, one gives %g", threads, cv[i], i, first[i])
						}
					}
				}
			})
		}
	}
}
