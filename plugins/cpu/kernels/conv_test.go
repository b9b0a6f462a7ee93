package kernels

import (
	"fmt"
	"math"
	"testing"
)

// convShape is a convolution to test; the output follows from it.
type convShape struct {
	name                             string
	batch, groups, channels, filters int64
	in, kernel                       [Spatial]int64
	stride, dilation, pad, padEnd    [Spatial]int64
}

func plane(h, w int64) [Spatial]int64 { return [Spatial]int64{1, h, w} }

func both(n int64) [Spatial]int64 { return [Spatial]int64{0, n, n} }

func (s convShape) out() (out [Spatial]int64) {
	for i := range out {
		out[i] = (s.in[i]+s.pad[i]+s.padEnd[i]-s.dilation[i]*(s.kernel[i]-1)-1)/s.stride[i] + 1
	}
	return out
}

func volume(s [Spatial]int64) int64 { return s[0] * s[1] * s[2] }

// eachTap calls f for the taps of a window that lie inside.
func eachTap(at, in, kernel, stride, dilation, pad [Spatial]int64, f func(tap, x int64)) {
	for t := range volume(kernel) {
		k := [Spatial]int64{t / kernel[2] / kernel[1], t / kernel[2] % kernel[1], t % kernel[2]}
		x, inside := int64(0), true
		for i := range at {
			p := at[i]*stride[i] - pad[i] + k[i]*dilation[i]
			inside = inside && p >= 0 && p < in[i]
			x = x*in[i] + p
		}
		if inside {
			f(t, x)
		}
	}
}

func place(p int64, out [Spatial]int64) [Spatial]int64 {
	return [Spatial]int64{p / out[2] / out[1], p / out[2] % out[1], p % out[2]}
}

var one = [Spatial]int64{1, 1, 1}

var convShapes = []convShape{
	{"point", 2, 1, 37, 45, plane(7, 9), one, one, one, both(0), both(0)},
	{"point in a plane of one", 3, 1, 70, 33, plane(1, 1), one, one, one, both(0), both(0)},
	{"point with stride", 1, 1, 20, 40, plane(14, 14), one, plane(2, 2), one, both(0), both(0)},
	{"3x3", 2, 1, 19, 35, plane(13, 17), plane(3, 3), one, one, both(1), both(1)},
	{"3x3 wide", 1, 1, 3, 70, plane(9, 90), plane(3, 3), one, one, both(1), both(1)},
	{"3x3 deep", 1, 1, 130, 20, plane(6, 6), plane(3, 3), one, one, both(1), both(1)},
	{"7x7 places", 1, 1, 90, 64, plane(7, 7), plane(3, 3), one, one, both(1), both(1)},
	{"stem", 1, 1, 3, 24, plane(33, 35), plane(7, 7), plane(2, 2), one, both(3), both(3)},
	{"stride 2 dilated", 1, 1, 5, 9, plane(24, 25), plane(3, 3), plane(2, 2), plane(2, 3), both(2), both(4)},
	{"patches", 1, 1, 3, 50, plane(32, 48), plane(16, 16), plane(16, 16), one, both(0), both(0)},
	{"patches beyond a block", 2, 1, 2, 20, plane(40, 60), plane(20, 20), plane(20, 20), one, both(0), both(0)},
	{"one row", 2, 1, 80, 40, plane(1, 150), plane(1, 3), one, one, [3]int64{0, 0, 1}, [3]int64{0, 0, 1}},
	{"one row, stride 5", 1, 1, 1, 40, plane(1, 400), plane(1, 10), plane(1, 5), one, both(0), both(0)},
	{"one row, stride 2", 1, 1, 12, 40, plane(1, 151), plane(1, 3), plane(1, 2), one, [3]int64{0, 0, 1}, [3]int64{0, 0, 1}},
	{"groups", 2, 4, 6, 5, plane(10, 11), plane(3, 3), one, one, both(1), both(1)},
	{"groups of long filters", 1, 2, 6, 10, plane(1, 60), plane(1, 128), one, one, [3]int64{0, 0, 64}, [3]int64{0, 0, 63}},
	{"volume", 1, 1, 4, 18, [3]int64{5, 6, 7}, [3]int64{3, 3, 3}, one, one, one, one},
	{"volume with stride", 1, 2, 3, 7, [3]int64{7, 8, 19}, [3]int64{2, 3, 2}, [3]int64{2, 1, 3}, [3]int64{1, 2, 1}, [3]int64{1, 0, 2}, [3]int64{0, 3, 1}},
	{"cropped", 1, 1, 3, 8, plane(12, 12), plane(3, 3), one, one, both(-2), both(-1)},
	{"nothing but padding", 1, 1, 2, 3, plane(2, 2), plane(2, 2), one, one, both(5), both(5)},
	{"no channels", 1, 1, 0, 3, plane(4, 4), plane(2, 2), one, one, both(0), both(0)},
	{"depthwise 3x3", 2, 20, 1, 1, plane(30, 31), plane(3, 3), one, one, both(1), both(1)},
	{"depthwise 5x5", 1, 6, 1, 1, plane(17, 70), plane(5, 5), one, one, both(2), both(2)},
	{"depthwise 7x7", 1, 9, 1, 1, plane(14, 14), plane(7, 7), one, one, both(3), both(3)},
	{"depthwise 7x7 in bands", 1, 2, 1, 1, plane(130, 1100), plane(7, 7), one, one, both(3), both(3)},
	{"depthwise 3x3, stride 2", 1, 7, 1, 1, plane(23, 60), plane(3, 3), plane(2, 2), one, both(0), both(1)},
	{"depthwise multiplied", 2, 5, 1, 3, plane(9, 9), plane(3, 3), one, plane(2, 2), both(2), both(2)},
	{"depthwise dilated, stride 3", 1, 4, 1, 1, plane(31, 97), plane(3, 4), plane(1, 3), plane(4, 5), both(6), both(7)},
	{"depthwise row", 1, 8, 1, 1, plane(1, 500), plane(1, 31), one, one, [3]int64{0, 0, 15}, [3]int64{0, 0, 15}},
	{"depthwise long row", 1, 2, 1, 1, plane(1, 5000), plane(1, 9), one, one, [3]int64{0, 0, 4}, [3]int64{0, 0, 4}},
	{"depthwise volume", 1, 3, 1, 1, [3]int64{6, 7, 8}, [3]int64{3, 3, 3}, one, one, one, one},
	{"depthwise beyond lines", 1, 2, 1, 1, plane(501, 205), plane(500, 2), one, plane(1, 200), both(1), both(1)},
	{"depthwise planes of padding", 1, 3, 1, 1, [3]int64{2, 9, 20}, [3]int64{1, 3, 3}, one, one, one, one},
	{"depthwise cropped", 1, 2, 1, 1, plane(12, 12), plane(3, 3), one, one, both(-2), both(-1)},
}

func TestConv(t *testing.T) {
	activations := []struct {
		act  Activation
		a, b float32
		f    func(float64) float64
	}{
		{ActNone, 0, 0, func(x float64) float64 { return x }},
		{ActRelu, 0, 0, func(x float64) float64 { return math.Max(x, 0) }},
		{ActSilu, 0, 0, func(x float64) float64 { return x / (1 + math.Exp(-x)) }},
		{ActClip, -0.5, 1.5, func(x float64) float64 { return math.Min(math.Max(x, -0.5), 1.5) }},
		{ActLeakyRelu, 0.25, 0, func(x float64) float64 { return math.Max(x, x/4) }},
		{ActHardSigmoid, 0.25, 0.5, func(x float64) float64 { return math.Min(math.Max(x/4+0.5, 0), 1) }},
		{ActHardSwish, 0.25, 0.5, func(x float64) float64 { return x * math.Min(math.Max(x/4+0.5, 0), 1) }},
	}
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, s := range convShapes {
			if i%thin(testing.Short()) != 0 {
				continue
			}
			t.Run(s.name, func(t *testing.T) {
				act := activations[i%len(activations)]
				out := s.out()
				taps, places, filters := volume(s.kernel), volume(out), s.groups*s.filters
				depth := s.channels * taps
				m := newMemory()
				op := &Conv{Batch: s.batch, Groups: s.groups, Channels: s.channels, Filters: s.filters, In: s.in, Kernel: s.kernel, Out: out,
					Stride: s.stride, Dilation: s.dilation, Pad: s.pad, Activation: act.act, ActA: act.a, ActB: act.b, ResidualLast: uint32(i / 2 % 2)}
				var x, w, bias, residual, y []float32
				op.X, x = put(m, randoms(rng, s.batch*s.groups*s.channels*volume(s.in)))
				plain, w := put(m, randoms(rng, filters*depth))
				for i := range w {
					w[i] /= float32(math.Sqrt(float64(depth)))
				}
				ops := []Op{}
				op.W = plain
				if s.channels != 1 || s.groups == 1 {
					size, err := r.PackedBytes(PackF32, s.filters, depth)
					if err != nil {
						t.Fatal(err)
					}
					op.W, _ = put(m, make([]float32, s.groups*size/4))
					for g := range s.groups {
						p := &Pack{Src: plain, Dst: op.W, N: s.filters, K: depth, NStride: depth, KStride: 1}
						p.Src.Offset, p.Dst.Offset = g*s.filters*depth*4, g*size
						ops = append(ops, p)
					}
				}
				// Dense, or with gaps in every dimension.
				gap := int64(1 + i%3/2)
				op.YStride[4] = gap
				for d, size := range []int64{out[2], out[1], out[0], filters} {
					op.YStride[3-d] = size*op.YStride[4-d] + gap - 1
				}
				span := s.batch * op.YStride[0]
				if i%4 != 1 {
					op.Bias, bias = put(m, randoms(rng, filters))
				}
				if i%2 == 0 {
					op.Residual, residual = put(m, randoms(rng, span))
				}
				op.Y, y = put(m, fill(span, 7))
				m.run(t, r, append(ops, op)...)
				written := map[int64]bool{}
				for at := range s.batch * filters * places {
					p, f, b := at%places, at/places%filters, at/places/filters
					group := f / s.filters
					sum, pos := 0.0, place(p, out)
					for c := range s.channels {
						plane := x[((b*s.groups+group)*s.channels+c)*volume(s.in):]
						eachTap(pos, s.in, s.kernel, s.stride, s.dilation, s.pad, func(tap, x int64) {
							sum += float64(w[f*depth+c*taps+tap]) * float64(plane[x])
						})
					}
					if bias != nil {
						sum += float64(bias[f])
					}
					to := b*op.YStride[0] + f*op.YStride[1] + pos[0]*op.YStride[2] + pos[1]*op.YStride[3] + pos[2]*op.YStride[4]
					before, after := 0.0, 0.0
					if residual != nil && op.ResidualLast == 0 {
						before = float64(residual[to])
					} else if residual != nil {
						after = float64(residual[to])
					}
					written[to] = true
					if want := act.f(sum+before) + after; !near(y[to], want, 2e-5) {
						t.Fatalf("image %d, filter %d, place %v: %g, want %g", b, f, pos, y[to], want)
					}
				}
				for i, v := range y {
					if !written[int64(i)] && v != 7 {
						t.Fatalf("element %d, which is none of y, was written", i)
					}
				}
			})
		}
	})
}

// A residual may be y itself, and the threads do not change a bit.
func TestConvInPlace(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		single := newRunner(t, Config{ISA: r.ISA(), Threads: 1})
		for _, s := range []convShape{convShapes[3], convShapes[5], convShapes[6], convShapes[21]} {
			rng := newRand()
			out, depth := s.out(), s.channels*volume(s.kernel)
			filters := s.groups * s.filters
			size, err := r.PackedBytes(PackF32, s.filters, depth)
			if err != nil {
				t.Fatal(err)
			}
			x, w, y := randoms(rng, s.batch*s.groups*s.channels*volume(s.in)), randoms(rng, max(size/4, filters*depth)), randoms(rng, s.batch*filters*volume(out))
			op := &Conv{Batch: s.batch, Groups: s.groups, Channels: s.channels, Filters: s.filters, In: s.in, Kernel: s.kernel, Out: out,
				Stride: s.stride, Dilation: s.dilation, Pad: s.pad, YStride: [5]int64{filters * volume(out), volume(out), out[1] * out[2], out[2], 1}}
			var results [3][]float32
			for i, runner := range []*Runner{r, single, single} {
				m := newMemory()
				op.X, _ = put(m, x)
				op.W, _ = put(m, w)
				op.Residual, results[i] = put(m, y)
				op.Y = op.Residual
				if i == 2 {
					op.Y, results[i] = put(m, make([]float32, len(y)))
				}
				m.run(t, runner, op)
			}
			for i := range y {
				if results[0][i] != results[1][i] || results[0][i] != results[2][i] {
					t.Fatalf("%s, element %d: %g on two threads, %g on one, %g elsewhere", s.name, i, results[0][i], results[1][i], results[2][i])
				}
			}
		}
	})
}

func TestPool(t *testing.T) {
	shapes := []convShape{
		{"3x3, stride 2", 5, 1, 0, 0, plane(17, 40), plane(3, 3), plane(2, 2), one, both(1), both(1)},
		{"2x2", 3, 1, 0, 0, plane(12, 71), plane(2, 2), plane(2, 2), one, both(0), both(1)},
		{"dilated", 2, 1, 0, 0, plane(20, 21), plane(3, 2), one, plane(3, 4), both(2), both(1)},
		{"stride 3", 2, 1, 0, 0, plane(20, 50), plane(3, 5), plane(3, 3), one, both(1), both(2)},
		{"row", 4, 1, 0, 0, plane(1, 2100), plane(1, 4), plane(1, 2), one, both(0), both(0)},
		{"all", 3, 1, 0, 0, plane(9, 10), plane(9, 10), one, one, both(0), both(0)},
		{"volume", 2, 1, 0, 0, [3]int64{5, 6, 7}, [3]int64{2, 3, 3}, [3]int64{2, 1, 1}, one, one, one},
		{"beyond lines", 1, 1, 0, 0, plane(501, 205), plane(500, 2), one, plane(1, 200), both(1), both(1)},
		{"windows of nothing", 1, 1, 0, 0, plane(2, 3), plane(2, 2), one, one, both(3), both(3)},
	}
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for _, s := range shapes {
			for _, kind := range []PoolKind{PoolMax, PoolAverage, PoolAveragePadded} {
				t.Run(fmt.Sprintf("%s/%d", s.name, kind), func(t *testing.T) {
					out := s.out()
					m := newMemory()
					op := &Pool{Planes: s.batch, In: s.in, Kernel: s.kernel, Out: out, Stride: s.stride, Dilation: s.dilation, Pad: s.pad, PadEnd: s.padEnd, Pool: kind}
					var x, y []float32
					op.X, x = put(m, randoms(rng, s.batch*volume(s.in)))
					x[len(x)/2] = float32(math.NaN())
					op.Y, y = put(m, fill(s.batch*volume(out), 7))
					m.run(t, r, op)
					padded := s.in
					for i := range padded {
						padded[i] += s.pad[i] + s.padEnd[i]
					}
					for i := range y {
						pos := place(int64(i)%volume(out), out)
						plane := x[int64(i)/volume(out)*volume(s.in):]
						sum, best, n := 0.0, math.Inf(-1), 0.0
						eachTap(pos, s.in, s.kernel, s.stride, s.dilation, s.pad, func(_, at int64) {
							sum += float64(plane[at])
							best = math.Max(best, float64(plane[at]))
							n++
						})
						if kind == PoolAveragePadded {
							n = 0
							eachTap(pos, padded, s.kernel, s.stride, s.dilation, [3]int64{}, func(_, _ int64) { n++ })
						}
						want := sum / n
						if kind == PoolMax {
							want = best
						}
						if !near(y[i], want, 1e-5) {
							t.Fatalf("place %v of plane %d: %g, want %g", pos, int64(i)/volume(out), y[i], want)
						}
					}
				})
			}
		}
	})
}

func TestResample(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for _, s := range []struct{ outer, in, out, inner, taps int64 }{{3, 7, 11, 1, 2}, {2, 9, 4, 37, 4}, {1, 5, 5, 16, 1}, {300, 20, 90, 1, 1}, {0, 1, 1, 1, 1}} {
			m := newMemory()
			op := &Resample{Outer: s.outer, In: s.in, Out: s.out, Inner: s.inner, Taps: s.taps}
			var x, weight, y []float32
			var index []int32
			op.X, x = put(m, randoms(rng, s.outer*s.in*s.inner))
			op.Weight, weight = put(m, randoms(rng, s.out*s.taps))
			op.Index, index = put(m, make([]int32, s.out*s.taps))
			for i := range index {
				index[i] = int32(rng.Int64N(s.in))
			}
			op.Y, y = put(m, make([]float32, s.outer*s.out*s.inner))
			m.run(t, r, op)
			for i := range y {
				o, j, k := int64(i)/s.inner/s.out, int64(i)/s.inner%s.out, int64(i)%s.inner
				want := 0.0
				for n := range s.taps {
					want += float64(weight[j*s.taps+n]) * float64(x[(o*s.in+int64(index[j*s.taps+n]))*s.inner+k])
				}
				if !near(y[i], want, 1e-5) {
					t.Fatalf("%+v, element %d: %g, want %g", s, i, y[i], want)
				}
			}
		}
	})
}

func TestGroupNorm(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i, s := range []struct{ batch, groups, channels, inner int64 }{{2, 4, 3, 35}, {1, 5, 1, 100}, {1, 2, 16, 1}, {3, 1, 40, 900}} {
			act := []Activation{ActNone, ActSilu}[i%2]
			m := newMemory()
			op := &GroupNorm{Batch: s.batch, Groups: s.groups, Channels: s.channels, Inner: s.inner, Eps: 1e-5, Activation: act}
			var x, scale, bias, y []float32
			length := s.channels * s.inner
			op.X, x = put(m, randoms(rng, s.batch*s.groups*length))
			for i := range x {
				x[i] += 30
			}
			if i != 1 {
				op.Scale, scale = put(m, randoms(rng, s.groups*s.channels))
				op.Bias, bias = put(m, randoms(rng, s.groups*s.channels))
			}
			op.Y, y = put(m, make([]float32, len(x)))
			if i == 2 {
				op.Y, y = op.X, x
				x = append([]float32(nil), x...)
			}
			m.run(t, r, op)
			for row := range s.batch * s.groups {
				v := x[row*length : (row+1)*length]
				mean, variance := 0.0, 0.0
				for _, e := range v {
					mean += float64(e) / float64(length)
				}
				for _, e := range v {
					variance += (float64(e) - mean) * (float64(e) - mean) / float64(length)
				}
				for j := range v {
					channel := row%s.groups*s.channels + int64(j)/s.inner
					want := (float64(v[j]) - mean) / math.Sqrt(variance+1e-5)
					if scale != nil {
						want = want*float64(scale[channel]) + float64(bias[channel])
					}
					if act == ActSilu {
						want /= 1 + math.Exp(-want)
					}
					if got := y[row*length+int64(j)]; !near(got, want, 1e-4) {
						t.Fatalf("%+v, row %d, element %d: %g, want %g", s, row, j, got, want)
					}
				}
			}
		}
	})
}

// What a point is made of is judged by the reference backend; here, that every coordinate is borne, and that a
// grid of the places themselves gives the image.
func TestGridSample(t *testing.T) {
	inf := float32(math.Inf(1))
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for mode := SampleNearest; mode <= SampleCubic; mode++ {
			for padding := SampleZeros; padding <= SampleReflection; padding++ {
				m := newMemory()
				op := &GridSample{Batch: 2, Channels: 3, Points: 5 * 7, In: plane(5, 7), Rank: 2, Mode: mode, Padding: padding, AlignCorners: 1}
				var x, grid, y []float32
				op.X, x = put(m, randoms(rng, 2*3*5*7))
				op.Grid, grid = put(m, make([]float32, 2*5*7*2))
				op.Y, y = put(m, fill(2*3*5*7, 9))
				for i := range 2 * 5 * 7 {
					grid[2*i], grid[2*i+1] = float32(i%7)/3-1, float32(i/7%5)/2-1
				}
				m.run(t, r, op)
				for i := range y {
					if !near(y[i], float64(x[i]), 1e-5) {
						t.Fatalf("mode %d, padding %d: element %d is %g, want %g", mode, padding, i, y[i], x[i])
					}
				}
				for i, v := range []float32{inf, -inf, float32(math.NaN()), 1e30, -1e30, 1e9, 3, -3} {
					grid[i], grid[70+i] = v, v
				}
				m.run(t, r, op)
				if padding == SampleZeros && (y[0] != 0 || y[35] != 0) {
					t.Fatalf("mode %d: %g and %g of what lies outside", mode, y[0], y[35])
				}
			}
		}
	})
}
