package quantize

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func normals(rng *rand.Rand, n int, size float64) []float32 {
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64() * size)
	}
	return w
}

// TestFit holds fitted lines against rounding over the whole range, and codes against the
// nearest of all.
func TestFit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, bits := range []int64{2, 3, 4, 5, 6, 8} {
		for _, mins := range []bool{false, true} {
			for _, block := range []int64{32, 64, 128} {
				f := Format{Bits: bits, Block: block, Mins: mins}
				ft := newFitter(f)
				codes := make([]uint8, block)
				var nearest, fitted, whole float64
				for range 200 {
					w := normals(rng, int(block), 0.02)
					w[rng.IntN(len(w))] *= 4
					l := ft.nearest(w, codes)
					nearest += float64(squares(w, codes, l))
					l = ft.fit(w, nil, codes)
					fitted += float64(squares(w, codes, l))
					for i, x := range w {
						whole += float64(x * x)
						off := math.Abs(float64(x - (l.s*float32(codes[i]) + l.m)))
						for c := range 1 << bits {
							if o := math.Abs(float64(x - (l.s*float32(c) + l.m))); o < off-1e-6 {
								t.Fatalf("%+v: %g has the code %d, off by %g; %d is off by %g", f, x, codes[i], off, c, o)
							}
						}
					}
				}
				if !(fitted < nearest) {
					t.Errorf("%+v: fitted lines are off by %.4g of %.4g, rounding by %.4g", f, fitted, whole, nearest)
				}
				// A uniform grid leaves a fourth for every bit.
				if bound := 8 * math.Pow(0.25, float64(bits)); !(fitted < bound*whole) {
					t.Errorf("%+v: off by %.4f of the squares, expected less than %.4f", f, fitted/whole, bound)
				}
			}
		}
	}
}

// Blocks that are on a line already stay as they are; those of zeros and of one number too.
func TestFitExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, mins := range []bool{false, true} {
		g := gridOf(4, mins)
		ft := newFitter(Format{Bits: 4, Block: 32, Mins: mins})
		l := g.line(0.125, -0.75)
		w, codes := make([]float32, 32), make([]uint8, 32)
		for i := range w {
			w[i] = l.s*float32(rng.IntN(16)) + l.m
		}
		w[0], w[1] = l.m, 15*l.s+l.m
		if got := ft.fit(w, nil, codes); squares(w, codes, got) != 0 {
			t.Errorf("mins %v: off by %g", mins, squares(w, codes, got))
		}
		for _, v := range []float32{0, 0.25, -3} {
			for i := range w {
				w[i] = v
			}
			if got := ft.fit(w, nil, codes); squares(w, codes, got) != 0 {
				t.Errorf("mins %v: 32 times %g is off by %g", mins, v, squares(w, codes, got))
			}
		}
	}
}

// TestFeedback holds what comes out of a matrix that was rounded with feedback against
// plain fitting, and the errors that it tells against those that there are.
func TestFeedback(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const n, rows, samples = 96, 24, 400
	mix := normals(rng, n*n, 1/math.Sqrt(n))
	h := make([]float32, n*n)
	for range samples {
		z := normals(rng, n, 1)
		x := make([]float32, n)
		for i := range x {
			z[i] *= 1 / float32(1+i/4) // few directions have most of it
		}
		for i := range x {
			x[i] = dot(mix[i*n:(i+1)*n], z)
		}
		for i := range x {
			for j := range x {
				h[i*n+j] += x[i] * x[j]
			}
		}
	}
	plain := append([]float32(nil), h...)
	f, err := newFeedback(h, n)
	if err != nil {
		t.Fatal(err)
	}
	// (U+I) D (U+I)ᵀ is the damped matrix.
	var mean float64
	for i := range n {
		mean += float64(plain[i*n+i]) / n
	}
	for i := range n {
		for j := i; j < n; j++ {
			var sum float64
			for l := j; l < n; l++ {
				a, b := float64(f.u[i*n+l]), float64(f.u[j*n+l])
				if l == i {
					a = 1
				}
				if l == j {
					b = 1
				}
				sum += a * b * float64(f.d[l])
			}
			want := float64(plain[i*n+j])
			if i == j {
				want += damping * mean
			}
			if math.Abs(sum-want) > 1e-3*mean {
				t.Fatalf("element [%d,%d] of the product is %g, wanted %g", i, j, sum, want)
			}
		}
	}
	out := func(e []float32) float64 {
		var sum float64
		for i := range e {
			for j := range e {
				d := float64(plain[i*n+j])
				if i == j {
					d += damping * mean
				}
				sum += float64(e[i]) * d * float64(e[j])
			}
		}
		return sum
	}
	for _, bits := range []int64{2, 3, 4} {
		ft := newFitter(Format{Bits: bits, Block: 32, Mins: true})
		codes, lines, off, room := make([]uint8, n), make([]line, n/32), make([]float32, n), make([]float32, 32)
		var fed, fitted float64
		for range rows {
			w := normals(rng, n, 0.02)
			told := f.row(ft, w, codes, lines, off, room)
			real := out(off)
			if math.Abs(told-real) > 0.02*real {
				t.Fatalf("%d bits: told %g, found %g", bits, told, real)
			}
			for i, x := range w {
				l := lines[i/32]
				if e := x - (l.s*float32(codes[i]) + l.m); e != off[i] {
					t.Fatalf("weight %d is off by %g, told %g", i, e, off[i])
				}
			}
			fed += real
			for b := 0; b < n; b += 32 {
				l := ft.fit(w[b:b+32], nil, codes[b:b+32])
				for i := b; i < b+32; i++ {
					off[i] = w[i] - (l.s*float32(codes[i]) + l.m)
				}
			}
			fitted += out(off)
		}
		t.Logf("%d bits: what comes out is off by %.2f of what fitting alone leaves", bits, fed/fitted)
		if !(fed < 0.7*fitted) {
			t.Errorf("%d bits: with feedback off by %g, without by %g", bits, fed, fitted)
		}
	}
	if _, err := newFeedback(make([]float32, 4), 2); err == nil {
		t.Error("a matrix of zeros was factored")
	}
}

// Codes of all widths come back as they were packed, where they end within eight too.
func TestUnpack(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for bits := int64(2); bits <= 8; bits++ {
		for _, n := range []int{8, 36, 64, 100} {
			if int64(n)*bits%8 != 0 {
				continue
			}
			codes := make([]uint8, n)
			for i := range codes {
				codes[i] = uint8(rng.IntN(1 << bits))
			}
			packed := make([]byte, int64(n)*bits/8)
			pack(packed, codes, bits)
			got := make([]uint8, n)
			unpack(got, packed, bits)
			for i := range codes {
				if got[i] != codes[i] || number(packed, i*int(bits), int(bits)) != int(codes[i]) {
					t.Fatalf("%d codes of %d bits: code %d is %d, wanted %d", n, bits, i, got[i], codes[i])
				}
			}
		}
	}
}

// BenchmarkFit fits blocks of normal numbers, on one core.
func BenchmarkFit(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := normals(rng, 1<<16, 0.02)
	codes := make([]uint8, 64)
	for _, f := range []Format{{Bits: 8, Block: 64}, {Bits: 4, Block: 64}, {Bits: 4, Block: 64, Mins: true}, {Bits: 3, Block: 64, Mins: true}, {Bits: 2, Block: 64, Mins: true}} {
		for _, method := range []string{Nearest, Fit} {
			b.Run(fmt.Sprintf("%d,%v/%s", f.Bits, f.Mins, method), func(b *testing.B) {
				ft := newFitter(f)
				for b.Loop() {
					for i := 0; i < len(w); i += 64 {
						if method == Nearest {
							ft.nearest(w[i:i+64], codes)
						} else {
							ft.fit(w[i:i+64], nil, codes)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(w)), "ns/weight")
			})
		}
	}
}

// BenchmarkFeedback rounds rows of a matrix with feedback.
func BenchmarkFeedback(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 1024
	h := make([]float32, n*n)
	for i := range n {
		h[i*n+i] = 1
	}
	f, err := newFeedback(h, n)
	if err != nil {
		b.Fatal(err)
	}
	ft := newFitter(Format{Bits: 4, Block: 64, Mins: true})
	w, codes, lines, off, room := normals(rng, n, 0.02), make([]uint8, n), make([]line, n/64), make([]float32, n), make([]float32, 64)
	for b.Loop() {
		f.row(ft, w, codes, lines, off, room)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(n*n/2), "ns/product")
}
