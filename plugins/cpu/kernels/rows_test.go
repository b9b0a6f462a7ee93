package kernels

import (
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

var widths = []int64{1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384, 1000, 5000}

func normalise(kind NormKind, eps float64, s []float64) []float64 {
	var mean, squares float64
	for _, x := range s {
		mean += x / float64(len(s))
	}
	if kind != NormLayer {
		mean = 0
	}
	for _, x := range s {
		squares += (x - mean) * (x - mean)
	}
	f := 1 / math.Sqrt(squares/float64(len(s))+eps)
	if kind == NormL2 {
		f = 1 / math.Max(math.Sqrt(squares), eps)
	}
	y := make([]float64, len(s))
	for i, x := range s {
		y[i] = (x - mean) * f
	}
	return y
}

func TestNorm(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, cols := range append(widths, widths...) {
			rows := int64(1 + i%5)
			o := &Norm{Rows: rows, Cols: cols, LDX: cols + 1, LDR: cols, LDS: cols + 2, LDY: cols + 1, Eps: 1e-5, Norm: NormKind(i % 3)}
			mem := newMemory()
			var x, res, gamma, beta, sum, y []float32
			o.X, x = put(mem, randoms(rng, rows*o.LDX))
			given := append([]float32(nil), x...)
			o.Y, y = put(mem, fill(rows*o.LDY, 3))
			if i%4 == 3 {
				o.Y, y = o.X, x
			}
			if i%2 == 0 {
				o.Residual, res = put(mem, randoms(rng, rows*cols))
			}
			if i%3 != 1 {
				o.Gamma, gamma = put(mem, randoms(rng, cols))
				o.Beta, beta = put(mem, randoms(rng, cols))
			}
			if i%5 < 2 {
				o.Sum, sum = put(mem, fill(rows*o.LDS, 4))
			}
			mem.run(t, r, o)
			for row := range rows {
				s := make([]float64, cols)
				for j := range cols {
					v := given[row*o.LDX+j]
					if res != nil {
						v += res[row*cols+j]
					}
					s[j] = float64(v)
					if sum != nil && sum[row*o.LDS+j] != v {
						t.Fatalf("cols %d: sum[%d,%d] = %g, want %g", cols, row, j, sum[row*o.LDS+j], v)
					}
				}
				for j, want := range normalise(o.Norm, 1e-5, s) {
					if gamma != nil {
						want = want*float64(gamma[j]) + float64(beta[j])
					}
					if got := y[row*o.LDY+int64(j)]; !near(got, want, 2e-6+2e-6*math.Abs(want)) {
						t.Fatalf("norm %d, cols %d: [%d,%d] = %g, want %g", o.Norm, cols, row, j, got, want)
					}
				}
			}
		}
	})
}

func TestSoftmax(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, axis := range append(widths, widths...) {
			o := &Softmax{Outer: int64(1 + i%3), Axis: axis, Inner: []int64{1, 1, 3, 17}[i%4], Log: uint32(i % 2)}
			mem := newMemory()
			var x, y []float32
			n := o.Outer * axis * o.Inner
			o.X, x = put(mem, randoms(rng, n))
			for j := range x {
				x[j] *= 20
			}
			given := append([]float32(nil), x...)
			if i%3 == 0 {
				o.Y, y = o.X, x
			} else {
				o.Y, y = put(mem, make([]float32, n))
			}
			mem.run(t, r, o)
			for a := range o.Outer {
				for c := range o.Inner {
					at := func(j int64) int64 { return (a*axis+j)*o.Inner + c }
					top, total := math.Inf(-1), 0.0
					for j := range axis {
						top = math.Max(top, float64(given[at(j)]))
					}
					for j := range axis {
						total += math.Exp(float64(given[at(j)]) - top)
					}
					for j := range axis {
						want := float64(given[at(j)]) - top - math.Log(total)
						tolerance := 1e-6 * math.Max(1, math.Abs(want))
						if o.Log == 0 {
							// The difference from the top is rounded before its exponential is taken.
							tolerance = (2e-6+1e-7*math.Abs(want))*math.Exp(want) + 1e-37
							want = math.Exp(want)
						}
						if !near(y[at(j)], want, tolerance) {
							t.Fatalf("axis %d inner %d log %d: [%d,%d,%d] = %g, want %g", axis, o.Inner, o.Log, a, j, c, y[at(j)], want)
						}
					}
				}
			}
		}
	})
}

func TestSoftmaxOfNothing(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for _, inner := range []int64{1, 3} {
			mem := newMemory()
			x, v := put(mem, fill(20*inner, float32(math.Inf(-1))))
			mem.run(t, r, &Softmax{X: x, Y: x, Outer: 1, Axis: 20, Inner: inner})
			for i, got := range v {
				if got == got {
					t.Fatalf("inner %d: element %d of a row of -inf is %g, want NaN", inner, i, got)
				}
			}
		}
	})
}

func TestEmbed(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, width := range widths {
			const count, rows = 23, 50
			o := &Embed{Tables: uint32(1 + i%4), Count: count, Width: width, LDY: width + 1, IDsType: uint32(tensor.Int64), Eps: 1e-6, Norm: []NormKind{NormLayer, EmbedPlain}[i%2]}
			mem := newMemory()
			tables := make([][]float32, o.Tables)
			ids := make([][]int64, o.Tables)
			for n := range tables {
				o.Table[n], tables[n] = put(mem, randoms(rng, rows*width))
				o.TableRows[n] = rows
				for range count {
					ids[n] = append(ids[n], rng.Int64N(rows))
				}
				switch {
				case n == 1:
					o.Period[n] = 7
					for j := range ids[n] {
						ids[n][j] = int64(j % 7)
					}
				case i%3 == 0:
					o.IDsType = uint32(tensor.Int32)
					narrow := make([]int32, count)
					for j, id := range ids[n] {
						narrow[j] = int32(id)
					}
					o.IDs[n], _ = put(mem, narrow)
				default:
					o.IDs[n], _ = put(mem, ids[n])
				}
			}
			var y, gamma []float32
			o.Gamma, gamma = put(mem, randoms(rng, width))
			o.Y, y = put(mem, make([]float32, count*o.LDY))
			mem.run(t, r, o)
			for row := range int64(count) {
				s := make([]float64, width)
				for j := range s {
					for n := range tables {
						s[j] += float64(tables[n][ids[n][row]*width+int64(j)])
					}
				}
				if o.Norm == NormLayer {
					s = normalise(NormLayer, 1e-6, s)
					for j := range s {
						s[j] *= float64(gamma[j])
					}
				}
				for j, want := range s {
					// Two sums that nearly cancel are far apart once they are normalised.
					if got := y[row*o.LDY+int64(j)]; !near(got, want, 2e-5+2e-5*math.Abs(want)) {
						t.Fatalf("width %d: [%d,%d] = %g, want %g", width, row, j, got, want)
					}
				}
			}
		}
	})
}

func TestReduce(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, axis := range append(append([]int64{0}, widths...), widths...) {
			for kind := ReduceSum; kind <= ReduceL1; kind++ {
				o := &Reduce{Outer: int64(1 + i%3), Axis: axis, Inner: []int64{1, 3, 40, 1, 70}[i%5], Reduce: kind, Eps: 1e-9}
				weighted := kind <= ReduceMean && i%2 == 0
				mem := newMemory()
				var x, w, y []float32
				o.X, x = put(mem, randoms(rng, o.Outer*axis*o.Inner))
				o.Y, y = put(mem, make([]float32, o.Outer*o.Inner))
				if weighted {
					o.Weight, w = put(mem, randoms(rng, o.Outer*axis))
					for j := range w {
						w[j] = float32(j % 2)
					}
				}
				mem.run(t, r, o)
				for a := range o.Outer {
					for c := range o.Inner {
						acc, scale, weights := 0.0, 0.0, 0.0
						switch kind {
						case ReduceProd:
							acc = 1
						case ReduceMax:
							acc = math.Inf(-1)
						case ReduceMin:
							acc = math.Inf(1)
						}
						for j := range axis {
							v, f := float64(x[(a*axis+j)*o.Inner+c]), 1.0
							if weighted {
								f = float64(w[a*axis+j])
							}
							weights += f
							switch kind {
							case ReduceSum, ReduceMean:
								acc += v * f
							case ReduceMax:
								acc = math.Max(acc, v)
							case ReduceMin:
								acc = math.Min(acc, v)
							case ReduceProd:
								acc *= v
							case ReduceSumSq, ReduceL2:
								acc += v * v
							case ReduceL1:
								acc += math.Abs(v)
							}
							scale += math.Abs(v * f)
						}
						switch {
						case kind == ReduceMean && weighted:
							weights = math.Max(weights, 1e-9)
							acc, scale = acc/weights, scale/weights
						case kind == ReduceMean:
							acc, scale = acc/float64(axis), scale/float64(axis)
						case kind == ReduceL2:
							acc = math.Sqrt(acc)
						case kind == ReduceProd:
							scale = math.Abs(acc) * float64(axis)
						}
						if got := y[a*o.Inner+c]; !near(got, acc, 1e-6*scale+1e-6*math.Abs(acc)+1e-37) {
							t.Fatalf("kind %d axis %d inner %d: [%d,%d] = %g, want %g", kind, axis, o.Inner, a, c, got, acc)
						}
					}
				}
			}
		}
	})
}

func TestReduceMaxOfNaN(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for _, inner := range []int64{1, 5} {
			for at := range int64(33) {
				mem := newMemory()
				x, v := put(mem, fill(33*inner, 1))
				y, got := put(mem, fill(inner, 0))
				v[at*inner] = float32(math.NaN())
				mem.run(t, r, &Reduce{X: x, Y: y, Outer: 1, Axis: 33, Inner: inner, Reduce: ReduceMax})
				if got[0] == got[0] || (inner > 1 && got[1] != 1) {
					t.Fatalf("inner %d: the greatest of a row with NaN at %d is %v", inner, at, got)
				}
			}
		}
	})
}
