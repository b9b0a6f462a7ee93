package reference

import (
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

var smallFormats = map[string]*smallFloat{
	"float16": float16Format, "bfloat16": bfloat16Format, "e4m3fn": e4m3fnFormat, "e4m3fnuz": e4m3uzFormat,
	"e5m2": e5m2Format, "e5m2fnuz": e5m2uzFormat, "e2m1": e2m1Format,
}

// Every value of every format reads back as itself, and between two neighbours the
// nearer one is chosen, the even one of two.
func TestSmallFloats(t *testing.T) {
	for name, f := range smallFormats {
		width := f.exp + f.man
		for b := range uint16(f.max + 1) {
			x := f.decode(b)
			if got := f.encode(x, false); got != b {
				t.Fatalf("%s: %#x is %g, which is written %#x", name, b, x, got)
			}
			if neg := f.encode(-x, false); b > 0 && neg != b|1<<width {
				t.Fatalf("%s: %g is written %#x", name, -x, neg)
			}
			if b == f.max {
				break
			}
			next := f.decode(b + 1)
			if !(x < next) {
				t.Fatalf("%s: %#x and the next are %g and %g", name, b, x, next)
			}
			mid := (x + next) / 2
			even := b + b&1
			for _, c := range []struct {
				x    float64
				want uint16
			}{{mid, even}, {math.Nextafter(mid, x), b}, {math.Nextafter(mid, next), b + 1}} {
				if got := f.encode(c.x, false); got != c.want {
					t.Fatalf("%s: %g between %#x and %#x is written %#x, want %#x", name, c.x, b, b+1, got, c.want)
				}
			}
		}
	}
}

func TestSmallFloatLimits(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	cases := []struct {
		format   string
		x        float64
		saturate bool
		want     float64
	}{
		{"float16", 65519.99, false, 65504}, {"float16", 65520, false, inf}, {"float16", -inf, false, -inf},
		{"bfloat16", math.MaxFloat64, false, inf}, {"bfloat16", math.MaxFloat32, false, inf},
		{"e4m3fn", 449, false, 448}, {"e4m3fn", 465, false, nan}, {"e4m3fn", 465, true, 448}, {"e4m3fn", inf, true, 448}, {"e4m3fn", -inf, false, nan},
		{"e5m2", 61440, false, inf}, {"e5m2", inf, true, 57344}, {"e5m2fnuz", inf, false, nan}, {"e4m3fnuz", -300, true, -240},
		{"e2m1", 100, false, 6}, {"e2m1", -inf, false, -6}, {"float16", nan, false, nan}, {"e5m2fnuz", nan, true, nan},
		{"float16", 0x1p-25, false, 0}, {"float16", 0x1.8p-25, false, 0x1p-24}, {"float16", 5e-324, false, 0},
	}
	for _, c := range cases {
		f := smallFormats[c.format]
		got := f.decode(f.encode(c.x, c.saturate))
		if got != c.want && !(got != got && c.want != c.want) {
			t.Errorf("%s: %g (saturate %v) becomes %g, want %g", c.format, c.x, c.saturate, got, c.want)
		}
	}
	for b := range 1 << 16 {
		x, y := float16From(uint16(b)), float16Format.decode(uint16(b))
		if x != y && !(x != x && y != y) {
			t.Fatalf("%#x is %g and %g", b, x, y)
		}
	}
}

// What is stored is what is loaded, at any place of a packed tensor.
func TestStoreLoad(t *testing.T) {
	for d := tensor.Undefined + 1; d.Valid(); d++ {
		cl := classOf(d)
		if cl == classNone {
			continue
		}
		x := zeros(t, d, tensor.Shape{7})
		for i := range 7 {
			v := float64(i % 2)
			if d == tensor.Float8E8M0 {
				v = math.Ldexp(1, i)
			}
			storeNumber(x, i, v)
		}
		for i := range 7 {
			want := float64(i % 2)
			if d == tensor.Float8E8M0 {
				want = math.Ldexp(1, i)
			}
			if got := floatAt(x, i); got != want {
				t.Errorf("%s: element %d is %g, want %g", d, i, got, want)
			}
		}
	}
}
