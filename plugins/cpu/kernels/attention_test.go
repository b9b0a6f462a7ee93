package kernels

import (
	"math"
	"testing"
)

// attend is Attention in float64, one query at a time. A query that may attend to nothing
// gives zeros, as in the ONNX reference of Attention-23.
func attend(o *Attention, q, k, v []float32, mask func(b, h, i, j int64) float64, lengths []int64, y []float64) {
	for b := range o.Batch {
		for h := range o.Heads {
			kvh := h / (o.Heads / o.KVHeads)
			for i := range o.QLen {
				length := o.KVLen
				if lengths != nil {
					length = max(0, min(o.KVLen, lengths[b]))
				}
				scores := make([]float64, o.KVLen)
				top := math.Inf(-1)
				for j := range o.KVLen {
					scores[j] = math.Inf(-1)
					if j >= length || (o.Causal != 0 && j > i+o.Offset) || (o.Window > 0 && j <= i+o.Offset-o.Window) {
						continue
					}
					var s float64
					for d := range o.HeadDim {
						s += float64(q[b*o.QStride[0]+i*o.QStride[1]+h*o.QStride[2]+d]) * float64(k[b*o.KStride[0]+j*o.KStride[1]+kvh*o.KStride[2]+d])
					}
					s *= float64(o.Scale)
					if o.Softcap > 0 {
						s = float64(o.Softcap) * math.Tanh(s/float64(o.Softcap))
					}
					scores[j] = s + mask(b, h, i, j)
					top = math.Max(top, scores[j])
				}
				var total float64
				for j := range scores {
					if math.IsInf(top, -1) {
						scores[j] = 0
					} else {
						scores[j] = math.Exp(scores[j] - top)
					}
					total += scores[j]
				}
				for d := range o.VDim {
					var s float64
					for j, p := range scores {
						if p != 0 {
							s += p / total * float64(v[b*o.VStride[0]+int64(j)*o.VStride[1]+kvh*o.VStride[2]+d])
						}
					}
					y[((b*o.QLen+i)*o.Heads+h)*o.VDim+d] = s
				}
			}
		}
	}
}

func TestAttention(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		rng := newRand()
		for i := range 90 / thin(testing.Short()) {
			pick := func(v ...int64) int64 { return v[rng.IntN(len(v))] }
			o := &Attention{
				Batch: pick(1, 2, 3), KVHeads: pick(1, 2), QLen: pick(1, 2, 5, 13, 40, 129), KVLen: pick(0, 1, 7, 16, 31, 33, 128, 129, 300),
				HeadDim: pick(1, 3, 8, 16, 17, 32, 64), VDim: pick(1, 5, 16, 24, 32, 64),
				MaskKind: MaskKind(i % 3), Causal: uint32(i / 3 % 2),
			}
			o.Heads = o.KVHeads * pick(1, 3)
			switch i % 10 {
			case 3:
				o.Softcap = 2
			case 5:
				o.Window = 9
			case 7: // wider than the blocks that narrow heads go through
				o.HeadDim, o.VDim = 300, 260
			}
			o.Scale = float32(1 / math.Sqrt(float64(o.HeadDim)))
			o.Offset = o.KVLen - o.QLen // negative where queries outnumber keys: some see nothing
			gap := pick(0, 3)
			strides := func(length, heads, dim int64) [3]int64 {
				row := heads*dim + gap
				return [3]int64{length * row, row, dim}
			}
			o.QStride, o.KStride = strides(o.QLen, o.Heads, o.HeadDim), strides(o.KVLen, o.KVHeads, o.HeadDim)
			o.VStride, o.OStride = strides(o.KVLen, o.KVHeads, o.VDim), strides(o.QLen, o.Heads, o.VDim)
			if i%4 == 2 { // [batch, heads, tokens, dim]
				o.QStride = [3]int64{o.Heads * o.QLen * o.HeadDim, o.HeadDim, o.QLen * o.HeadDim}
			}
			mem := newMemory()
			var q, k, v, y []float32
			var lengths []int64
			o.Q, q = put(mem, randoms(rng, o.Batch*o.QLen*(o.Heads*o.HeadDim+gap)))
			o.K, k = put(mem, randoms(rng, o.Batch*o.KVLen*(o.KVHeads*o.HeadDim+gap)))
			o.V, v = put(mem, randoms(rng, o.Batch*o.KVLen*(o.KVHeads*o.VDim+gap)))
			o.O, y = put(mem, fill(o.Batch*o.QLen*(o.Heads*o.VDim+gap), 9))
			if i%5 == 1 {
				lengths = make([]int64, o.Batch)
				for b := range lengths {
					lengths[b] = rng.Int64N(o.KVLen+3) - 1
				}
				o.KVLengths, lengths = put(mem, lengths)
			}
			mask := func(b, h, i, j int64) float64 { return 0 }
			// Either one row a batch, as padding masks are, or all dimensions.
			var size int64
			if i%2 == 0 {
				o.MaskStride = [4]int64{o.KVLen, 0, 0, 1}
				size = o.Batch * o.KVLen
			} else {
				o.MaskStride = [4]int64{o.Heads * o.QLen * o.KVLen, o.QLen * o.KVLen, o.KVLen, 1}
				size = o.Batch * o.Heads * o.QLen * o.KVLen
			}
			index := func(b, h, i, j int64) int64 {
				return b*o.MaskStride[0] + h*o.MaskStride[1] + i*o.MaskStride[2] + j*o.MaskStride[3]
			}
			switch o.MaskKind {
			case MaskAdd:
				values := randoms(rng, size)
				for j := range values {
					if rng.IntN(3) == 0 {
						values[j] = float32(math.Inf(-1))
					}
				}
				var m []float32
				o.Mask, m = put(mem, values)
				mask = func(b, h, i, j int64) float64 { return float64(m[index(b, h, i, j)]) }
			case MaskBool:
				values := make([]uint8, size)
				for j := range values {
					values[j] = uint8(rng.IntN(3))
				}
				var m []uint8
				o.Mask, m = put(mem, values)
				mask = func(b, h, i, j int64) float64 {
					if m[index(b, h, i, j)] != 0 {
						return 0
					}
					return math.Inf(-1)
				}
			}
			mem.run(t, r, o)
			want := make([]float64, o.Batch*o.QLen*o.Heads*o.VDim)
			attend(o, q, k, v, mask, lengths, want)
			for b := range o.Batch {
				for qi := range o.QLen {
					for h := range o.Heads {
						for d := range o.VDim {
							got := y[b*o.OStride[0]+qi*o.OStride[1]+h*o.OStride[2]+d]
							if w := want[((b*o.QLen+qi)*o.Heads+h)*o.VDim+d]; !near(got, w, 3e-6+3e-6*math.Abs(w)) {
								t.Fatalf("case %d %+v: [%d,%d,%d,%d] = %g, want %g", i, o, b, qi, h, d, got, w)
							}
						}
					}
				}
			}
		}
	})
}

// Masked keys may hold anything at all if a mask by position hides them; a NaN that is
// attended to reaches its own rows only.
func TestAttentionAndNaN(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		const s, d = 20, 8
		mem := newMemory()
		o := &Attention{Batch: 1, Heads: 1, KVHeads: 1, QLen: s, KVLen: s, HeadDim: d, VDim: d, Scale: 1,
			QStride: [3]int64{0, d, d}, KStride: [3]int64{0, d, d}, VStride: [3]int64{0, d, d}, OStride: [3]int64{0, d, d}}
		rng := newRand()
		var q, k, v, y []float32
		o.Q, q = put(mem, randoms(rng, s*d))
		o.K, k = put(mem, randoms(rng, s*d))
		o.V, v = put(mem, randoms(rng, s*d))
		o.O, y = put(mem, make([]float32, s*d))
		o.KVLengths, _ = put(mem, []int64{12})
		nan := float32(math.NaN())
		for j := 12 * d; j < s*d; j++ {
			k[j], v[j] = nan, nan
		}
		q[5*d] = nan
		mem.run(t, r, o)
		for i, x := range y {
			if isNaN := x != x; isNaN != (i/d == 5) {
				t.Fatalf("[%d,%d] = %g", i/d, i%d, x)
			}
		}
		// Where the query with the NaN may see nothing, zeros.
		m := make([]float32, s*s)
		for j := range s {
			m[5*s+j] = float32(math.Inf(-1))
		}
		o.Mask, _ = put(mem, m)
		o.MaskKind, o.MaskStride = MaskAdd, [4]int64{0, 0, s, 1}
		mem.run(t, r, o)
		for i, x := range y {
			if x != x || (i/d == 5 && x != 0) {
				t.Fatalf("masked: [%d,%d] = %g", i/d, i%d, x)
			}
		}
	})
}
