package kernels

import (
	"fmt"
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// dense gives the strides of a row-major tensor.
func dense(dims ...int64) (s [MapRank]int64) {
	n := int64(1)
	for i := len(dims) - 1; i >= 0; i-- {
		s[i] = n
		n *= dims[i]
	}
	return s
}

func mapOver(fn Fn, compute tensor.DType, in []Ref, out Ref, n int64) *Map {
	m := &Map{Compute: uint32(compute), Rank: 1, Inputs: uint32(len(in)), Steps: 1}
	m.Dims[0] = n
	m.Out = MapOperand{Data: out, DType: uint32(compute), Stride: dense(n)}
	for i, r := range in {
		m.In[i] = MapOperand{Data: r, DType: uint32(compute), Stride: dense(n)}
	}
	m.Step[0] = Step{Fn: fn, A: 0, B: uint8(min(1, len(in)-1)), C: uint8(min(2, len(in)-1))}
	return m
}

// Every unary function over a dense sample of all floats, against float64, within the errors that
// accelcpu.h states.
func TestUnaryErrors(t *testing.T) {
	gelu := func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	functions := []struct {
		name string
		fn   Fn
		want func(float64) float64
		ulps float64
		// absolute adds this share of |x| * 2^-24 to what is allowed.
		absolute float64
	}{
		{"sqrt", FnSqrt, math.Sqrt, 0.5, 0},
		{"rsqrt", FnRsqrt, func(x float64) float64 { return 1 / math.Sqrt(x) }, 1.5, 0},
		{"recip", FnRecip, func(x float64) float64 { return 1 / x }, 0.5, 0},
		{"exp", FnExp, math.Exp, 1, 0},
		{"log", FnLog, math.Log, 1, 0},
		{"tanh", FnTanh, math.Tanh, 2, 0},
		{"erf", FnErf, math.Erf, 2, 0},
		{"sigmoid", FnSigmoid, sigmoid, 2.5, 0},
		{"silu", FnSilu, func(x float64) float64 { return x * sigmoid(x) }, 3, 0x1p-100},
		{"gelu_erf", FnGeluErf, gelu, 4, 4},
		{"gelu_tanh", FnGeluTanh, func(x float64) float64 { return activate(ActGeluTanh, x) }, 4, 4},
		{"relu", FnRelu, func(x float64) float64 { return activate(ActRelu, x) }, 0, 0},
		{"floor", FnFloor, math.Floor, 0, 0},
		{"ceil", FnCeil, math.Ceil, 0, 0},
		{"round", FnRound, math.RoundToEven, 0, 0},
		{"neg", FnNeg, func(x float64) float64 { return -x }, 0, 0},
		{"abs", FnAbs, math.Abs, 0, 0},
		{"softplus", FnSoftplus, func(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }, 3, 0},
		{"sin", FnSin, math.Sin, 1, 0},
		{"cos", FnCos, math.Cos, 1, 0},
		{"tan", FnTan, math.Tan, 1.5, 0},
		{"asin", FnAsin, math.Asin, 1.5, 0},
		{"acos", FnAcos, math.Acos, 1.5, 0},
		{"atan", FnAtan, math.Atan, 1.5, 0},
		{"sinh", FnSinh, math.Sinh, 3, 0},
		{"cosh", FnCosh, math.Cosh, 3, 0},
		{"asinh", FnAsinh, math.Asinh, 3, 0},
		{"acosh", FnAcosh, math.Acosh, 3, 0},
		{"atanh", FnAtanh, math.Atanh, 3, 0},
	}
	var sample []float32
	for bits := uint32(0); bits < 0x7f800000; bits += 50021 * uint32(thin(testing.Short())) {
		sample = append(sample, math.Float32frombits(bits), -math.Float32frombits(bits))
	}
	for i := range 200001 / thin(testing.Short()) { // and finely where most functions bend
		sample = append(sample, float32(i*thin(testing.Short())-100000)/8192)
	}
	inf := float32(math.Inf(1))
	sample = append(sample, 0, float32(math.Copysign(0, -1)), 1, -1, inf, -inf, float32(math.NaN()), 1e-45, 88.7, 88.8, -87.4, -103.9, -104)
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for _, f := range functions {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				mem := newMemory()
				x, _ := put(mem, sample)
				y, got := put(mem, make([]float32, len(sample)))
				mem.run(t, r, mapOver(f.fn, tensor.Float32, []Ref{x}, y, int64(len(sample))))
				worst, at := 0.0, float32(0)
				for i, x := range sample {
					want := f.want(float64(x))
					if math.Abs(want) < 0x1p-126 && math.Abs(float64(got[i])) <= 0x1p-126 {
						continue // stated: may come out as zero
					}
					allowance := f.absolute * math.Abs(float64(x)) * 0x1p-24
					if x > -1 || (f.fn == FnSilu && x > -87) {
						allowance = 0
					}
					if allowance > 0 && math.Abs(float64(got[i])-want) <= allowance {
						continue
					}
					if e := ulps(got[i], want); e > worst {
						worst, at = e, x
					}
				}
				if worst > f.ulps+0.01 {
					t.Fatalf("%s(%g) is %.2f ulp off, allowed are %g", f.name, at, worst, f.ulps)
				}
				t.Logf("%s: %.2f ulp at worst, at %g", f.name, worst, at)
			})
		}
	})
}

func TestBinary(t *testing.T) {
	bit := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	nan := math.NaN()
	either := func(f func(a, b float64) float64) func(a, b float64) float64 {
		return func(a, b float64) float64 {
			if a != a || b != b {
				return nan
			}
			return f(a, b)
		}
	}
	functions := map[Fn]func(a, b float64) float64{
		FnAdd: func(a, b float64) float64 { return a + b },
		FnSub: func(a, b float64) float64 { return a - b },
		FnMul: func(a, b float64) float64 { return a * b },
		FnDiv: func(a, b float64) float64 { return a / b },
		FnMin: either(math.Min),
		FnMax: either(math.Max),
		FnEq:  func(a, b float64) float64 { return bit(a == b) },
		FnNe:  func(a, b float64) float64 { return bit(a != b) },
		FnLt:  func(a, b float64) float64 { return bit(a < b) },
		FnLe:  func(a, b float64) float64 { return bit(a <= b) },
		FnGt:  func(a, b float64) float64 { return bit(a > b) },
		FnGe:  func(a, b float64) float64 { return bit(a >= b) },
		FnAnd: func(a, b float64) float64 { return bit(a != 0 && b != 0) },
		FnOr:  func(a, b float64) float64 { return bit(a != 0 || b != 0) },
		FnXor: func(a, b float64) float64 { return bit((a != 0) != (b != 0)) },
		FnFmod: func(a, b float64) float64 {
			return math.Mod(a, b)
		},
		FnMod: func(a, b float64) float64 {
			r := math.Mod(a, b)
			if r != 0 && (r < 0) != (b < 0) {
				r += b
			}
			return r
		},
		FnPow: math.Pow,
	}
	special := []float32{0, 1, -1, 2, 3, -2.5, 7, float32(nan), float32(math.Inf(1)), float32(math.Inf(-1)), 0.5, 1e30, -1e-30}
	onEveryISA(t, func(t *testing.T, r *Runner) {
		var as, bs []float32
		for _, a := range special {
			for _, b := range special {
				as, bs = append(as, a), append(bs, b)
			}
		}
		for fn, f := range functions {
			for _, scalar := range []string{"", "a", "b"} {
				mem := newMemory()
				a, av := put(mem, as)
				b, bv := put(mem, bs)
				y, got := put(mem, make([]float32, len(as)))
				op := mapOver(fn, tensor.Float32, []Ref{a, b}, y, int64(len(as)))
				at := func(i int, one bool) int {
					if one {
						return 0
					}
					return i
				}
				if scalar != "" {
					av[0], bv[0] = 3, 2
					op.In[map[string]int{"a": 0, "b": 1}[scalar]].Stride[0] = 0
				}
				mem.run(t, r, op)
				for i := range got {
					a, b := float64(av[at(i, scalar == "a")]), float64(bv[at(i, scalar == "b")])
					if want := f(a, b); ulps(got[i], want) > 1 && !(math.Abs(want) < 1e-37 && math.Abs(float64(got[i])) < 1e-37) {
						t.Fatalf("function %d of %g and %g (scalar %q) is %g, want %g", fn, a, b, scalar, got[i], want)
					}
				}
			}
		}
	})
}

func TestIntegers(t *testing.T) {
	floorMod := func(a, b int64) int64 {
		r := a % b
		if r != 0 && (r < 0) != (b < 0) {
			r += b
		}
		return r
	}
	bit := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	functions := map[Fn]func(a, b int64) int64{
		FnAdd: func(a, b int64) int64 { return a + b }, FnSub: func(a, b int64) int64 { return a - b },
		FnMul: func(a, b int64) int64 { return a * b }, FnDiv: func(a, b int64) int64 { return a / b },
		FnMin: func(a, b int64) int64 { return min(a, b) }, FnMax: func(a, b int64) int64 { return max(a, b) },
		FnMod: floorMod, FnFmod: func(a, b int64) int64 { return a % b },
		FnLt: func(a, b int64) int64 { return bit(a < b) }, FnXor: func(a, b int64) int64 { return bit((a != 0) != (b != 0)) },
		FnPow: func(a, b int64) int64 {
			switch {
			case b < 0 && a == 1, b < 0 && a == -1 && b%2 == 0:
				return 1
			case b < 0 && a == -1:
				return -1
			case b < 0:
				return 0
			}
			r := int64(1)
			for range b {
				r *= a
			}
			return r
		},
		FnNeg: func(a, b int64) int64 { return -a }, FnAbs: func(a, b int64) int64 { return max(a, -a) },
		FnSign: func(a, b int64) int64 { return bit(a > 0) - bit(a < 0) }, FnNot: func(a, b int64) int64 { return bit(a == 0) },
	}
	values := []int64{1, -1, 2, -3, 7, 50, -64, 1 << 40, math.MaxInt64, math.MinInt64}
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for fn, f := range functions {
			var as, bs []int64
			for _, a := range values {
				for _, b := range values {
					if fn == FnPow && (b > 100 || b < -100) {
						continue
					}
					as, bs = append(as, a), append(bs, b)
				}
			}
			mem := newMemory()
			a, _ := put(mem, as)
			b, _ := put(mem, bs)
			y, got := put(mem, make([]int64, len(as)))
			mem.run(t, r, mapOver(fn, tensor.Int64, []Ref{a, b}, y, int64(len(as))))
			for i := range got {
				if want := f(as[i], bs[i]); got[i] != want {
					t.Fatalf("function %d of %d and %d is %d, want %d", fn, as[i], bs[i], got[i], want)
				}
			}
		}
		mem := newMemory()
		a, _ := put(mem, []int64{5, 6, 7})
		b, _ := put(mem, []int64{1, 0, 2})
		err := mem.try(t, r, mapOver(FnDiv, tensor.Int64, []Ref{a, b}, a, 3))
		if e, ok := err.(*Error); !ok || e.Code != CodeDivide || e.Value != 6 {
			t.Fatalf("6/0 gives %v", err)
		}
	})
}

// Chains with broadcasting, strides and conversions, over shapes that fall into one row, many
// short rows, or gaps.
func TestMapChain(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		shapes := [][]int64{{1}, {7}, {513}, {2000}, {3, 5}, {300, 3}, {2, 3, 4}, {4, 1, 600}, {2, 3, 2, 2, 3, 2}, {5, 0, 3}, {1, 1, 1}, {17, 511}}
		for i, dims := range shapes {
			t.Run(fmt.Sprint(dims), func(t *testing.T) {
				n, rank := int64(1), len(dims)
				for _, d := range dims {
					n *= d
				}
				last := dims[rank-1]
				mem := newMemory()
				// y = where(mask, (x - 1) * scale, -5) with x in a layout of its own,
				// a scale per last dimension, an int64 mask, and an f16 or f32 result.
				xs := dense(dims...)
				if rank > 1 && i%2 == 0 { // the first two dimensions swapped in memory
					swapped := append([]int64{dims[1], dims[0]}, dims[2:]...)
					s := dense(swapped...)
					xs = s
					xs[0], xs[1] = s[1], s[0]
				}
				x, xv := put(mem, randoms(rng, n))
				scale, sv := put(mem, randoms(rng, last))
				masks := make([]int64, max(n, 1))
				for j := range masks {
					masks[j] = rng.Int64N(2) * 256
				}
				mask, mv := put(mem, masks)
				gap := int64(i % 3)
				ys := dense(append(append([]int64(nil), dims[:rank-1]...), last+gap)...)
				total := n / max(last, 1) * (last + gap)
				y, yv := put(mem, fill(total+1, 42))
				op := &Map{Compute: uint32(tensor.Float32), Rank: uint32(rank), Inputs: 3, Steps: 5}
				copy(op.Dims[:], dims)
				op.In[0] = MapOperand{Data: x, DType: uint32(tensor.Float32), Stride: xs}
				op.In[1] = MapOperand{Data: scale, DType: uint32(tensor.Float32)}
				op.In[1].Stride[rank-1] = 1
				op.In[2] = MapOperand{Data: mask, DType: uint32(tensor.Int64), Stride: dense(dims...)}
				op.Out = MapOperand{Data: y, DType: uint32(tensor.Float32), Stride: ys}
				op.Step = [MapSteps]Step{
					{Fn: FnConst, Imm: int64(math.Float32bits(1))},
					{Fn: FnSub, A: 0, B: StepResult(0)},
					{Fn: FnMul, A: StepResult(1), B: 1},
					{Fn: FnConst, Imm: int64(math.Float32bits(-5))},
					{Fn: FnWhere, A: 2, B: StepResult(2), C: StepResult(3)},
				}
				mem.run(t, r, op)
				index := make([]int64, rank)
				written := make(map[int64]bool)
				for linear := range n {
					rest := linear
					var xi, yi int64
					for d := rank - 1; d >= 0; d-- {
						index[d] = rest % dims[d]
						rest /= dims[d]
						xi += index[d] * xs[d]
						yi += index[d] * ys[d]
					}
					want := float32(-5)
					if mv[linear] != 0 {
						want = (xv[xi] - 1) * sv[index[rank-1]]
					}
					written[yi] = true
					if yv[yi] != want {
						t.Fatalf("%v = %g, want %g", index, yv[yi], want)
					}
				}
				for j, v := range yv {
					if !written[int64(j)] && v != 42 {
						t.Fatalf("element %d between the rows was written", j)
					}
				}
			})
		}
	})
}

// A constant alone fills; a comparison is stored as bool; the output may be an input.
func TestMapOutputs(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		mem := newMemory()
		x, xv := put(mem, randoms(newRand(), 1000))
		before := append([]float32(nil), xv...)
		flags, fv := put(mem, make([]uint8, 1000))
		ones, ov := put(mem, make([]int32, 1000))
		positive := mapOver(FnGt, tensor.Float32, []Ref{x, x}, flags, 1000)
		positive.Steps = 2
		positive.Step[0] = Step{Fn: FnConst}
		positive.Step[1] = Step{Fn: FnGt, A: 0, B: StepResult(0)}
		positive.Out.DType = uint32(tensor.Bool)
		constant := mapOver(FnConst, tensor.Int64, nil, ones, 1000)
		constant.Step[0] = Step{Fn: FnConst, Imm: -7}
		constant.Out.DType = uint32(tensor.Int32)
		mem.run(t, r, positive, constant, mapOver(FnAbs, tensor.Float32, []Ref{x}, x, 1000))
		for i, v := range before {
			if (fv[i] == 1) != (v > 0) || fv[i] > 1 || ov[i] != -7 || xv[i] != float32(math.Abs(float64(v))) {
				t.Fatalf("element %d, %g: %d %d %g", i, v, fv[i], ov[i], xv[i])
			}
		}
	})
}
