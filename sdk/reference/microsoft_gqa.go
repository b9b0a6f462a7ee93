package reference

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

// groupQuery is one use of GroupQueryAttention. Of each sequence the caches hold
// after[b] tokens in the end, the last valid[b] of which are the first rows of the
// chunk; its other rows are padding, whose outputs are zero.
type groupQuery struct {
	q, k, v      heads // the chunk
	room         int   // rows of the new caches
	valid, after []int
	prompt       bool
}

// groupQueryAttention attends to keys and values in caches [B,Hkv,_,D], which it
// extends. What of a cache lies behind a sequence's tokens is zero.
//
// total_sequence_length does not limit what a sequence attends to: it is how much
// the caches hold, and equal to the chunk's length it says that this is a first
// prompt, of whose position_ids the kernel reads only the first, as where all
// sequences begin.
func groupQueryAttention(c *call) error {
	g, err := c.groupQuery()
	if err != nil {
		return err
	}
	if c.flag("sliding_window_cache") {
		return errors.New("attribute sliding_window_cache 1 is not supported: caches hold the whole sequence")
	}
	causal, window := c.int("causal"), c.int("local_window_size")
	if causal != 0 && causal != 1 || window == 0 || window < -1 || causal == 0 && window != -1 {
		return fmt.Errorf("attributes causal %d and local_window_size %d: 1 and a positive window or -1, or 0 and -1, are wanted", causal, window)
	}
	keys, err := c.newCache(g, 3, 12, "k_quant_type")
	if err != nil {
		return err
	}
	values, err := c.newCache(g, 4, 13, "v_quant_type")
	if err != nil {
		return err
	}
	if err := c.prepare(g); err != nil {
		return err
	}
	longest := 0
	for _, n := range g.after {
		longest = max(longest, n)
	}
	k, err := c.extended(g, keys, g.k, 1, longest)
	if err != nil {
		return err
	}
	v, err := c.extended(g, values, g.v, 2, longest)
	if err != nil {
		return err
	}
	q := g.q
	bias, err := c.scoreBias(10, q, longest)
	if err != nil {
		return err
	}
	out, err := c.make(0, q.t.DType, tensor.Shape{int64(q.batch), int64(q.len), int64(q.n * q.size)})
	if err != nil {
		return err
	}
	a := scaledDot{q: q, k: k, v: v, out: rowMajor(out, q.batch, q.len, q.n, q.size), scale: c.scaleOf(q.size), softcap: c.float("softcap"), add: bias}
	switch smooth := c.int("smooth_softmax"); {
	case c.has(11):
		if a.sink, err = c.perChannel(11, int64(q.n)); err != nil {
			return err
		}
	case smooth == 1:
		a.sink = make([]float64, q.n)
	case smooth != 0 && smooth != -1:
		return fmt.Errorf("attribute smooth_softmax is %d, wants 0 or 1", smooth)
	}
	a.keys = func(b, i int) (int, int) {
		if i >= g.valid[b] {
			return 0, 0
		}
		if causal == 0 {
			return 0, g.after[b]
		}
		to := g.after[b] - g.valid[b] + i + 1
		if window > 0 && int64(to) > window {
			return to - int(window), to
		}
		return 0, to
	}
	if mode := c.int("qk_output"); mode != 0 {
		if mode != 1 && mode != 2 {
			return fmt.Errorf("attribute qk_output is %d, wants 0, 1 or 2", mode)
		}
		total := int(intAt(c.tensor(6), 0))
		scores, err := c.make(3, q.t.DType, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(total)})
		if err != nil {
			return err
		}
		a.record = func(s stage, b, h, i, from int, row []float64) {
			if s == stage(mode) {
				storeFloat(scores, ((b*q.n+h)*q.len+i)*total+from, row)
			}
		}
	} else if c.wants(3) {
		return errors.New("output_qk is wanted, attribute qk_output says that there is none")
	}
	return a.run(c)
}

// groupQuery reads query, key and value, and how long the sequences are.
func (c *call) groupQuery() (*groupQuery, error) {
	g := &groupQuery{}
	x, y, z := c.tensor(0), c.tensor(1), c.tensor(2)
	s := x.Shape
	n, kv := c.int("num_heads"), c.int("kv_num_heads")
	if n < 1 || kv < 1 || n > maxSpatial || n%kv != 0 {
		return nil, fmt.Errorf("attributes num_heads %d and kv_num_heads %d: a multiple is wanted", n, kv)
	}
	if len(s) != 3 {
		return nil, badInput(0, "has shape %v, wants [B,S,_]", s)
	}
	batch, length, width := int(s[0]), int(s[1]), int(s[2])
	if c.has(1) != c.has(2) {
		return nil, errors.New("key and value must be given together")
	}
	if !c.has(1) {
		all := int(n + 2*kv)
		if width < all || width%all != 0 {
			return nil, badInput(0, "has shape %v, which does not split into %d heads", s, all)
		}
		d := width / all
		g.q = heads{t: x, batch: batch, n: int(n), len: length, size: d, st: [3]int{length * width, d, width}}
		g.k = g.q.from(int(n) * d)
		g.v = g.q.from(int(n+kv) * d)
		g.k.n, g.v.n = int(kv), int(kv)
	} else {
		if width < int(n) || width%int(n) != 0 {
			return nil, badInput(0, "has shape %v, which does not split into %d heads", s, n)
		}
		d := width / int(n)
		want := tensor.Shape{s[0], s[1], kv * int64(d)}
		for i, t := range []tensor.Tensor{y, z} {
			if !t.Shape.Equal(want) {
				return nil, badInput(1+i, "has shape %v, wants %v", t.Shape, want)
			}
		}
		g.q = rowMajor(x, batch, length, int(n), d)
		g.k, g.v = rowMajor(y, batch, length, int(kv), d), rowMajor(z, batch, length, int(kv), d)
	}
	return g, c.lengths(g)
}

// lengths reads the inputs that say how many tokens there are.
func (c *call) lengths(g *groupQuery) error {
	ends := c.tensor(5)
	if !ends.Shape.Equal(tensor.Shape{int64(g.q.batch)}) && !ends.Shape.Equal(tensor.Shape{int64(g.q.batch), 1}) {
		return badInput(5, "has shape %v, wants [%d]", ends.Shape, g.q.batch)
	}
	total, err := c.intOf(6)
	if err != nil {
		return badInput(6, "%w", err)
	}
	if total < int64(g.q.len) && !c.has(16) || total < 1 {
		return badInput(6, "is %d for a chunk of %d", total, g.q.len)
	}
	if c.has(16) && !c.tensor(16).Shape.Equal(tensor.Shape{int64(g.q.batch)}) {
		return badInput(16, "has shape %v, wants [%d]", c.tensor(16).Shape, g.q.batch)
	}
	if c.has(3) != c.has(4) {
		return errors.New("past_key and past_value must be given together")
	}
	past := 0
	if c.has(3) {
		if s := c.tensor(3).Shape; len(s) == 4 {
			past = int(s[2])
		}
	}
	g.room = max(int(total), past)
	g.prompt = total == int64(g.q.len) && !c.has(16)
	for b := range g.q.batch {
		n := intAt(ends, b) + 1
		if n < 1 || n > total {
			return badInput(5, "is %d, total_sequence_length is %d", n-1, total)
		}
		valid := min(int64(g.q.len), n)
		if c.has(16) {
			v := intAt(c.tensor(16), b)
			if v < 0 || v > valid {
				return badInput(16, "is %d for a chunk of %d and %d tokens in all", v, g.q.len, n)
			}
			valid = v
		}
		if n-valid > int64(past) {
			return badInput(5, "is %d, which with %d new tokens wants %d of the past; it has %d", n-1, valid, n-valid, past)
		}
		g.after, g.valid = append(g.after, int(n)), append(g.valid, int(valid))
	}
	return nil
}

// prepare normalises and rotates new queries and keys, in memory of their own.
func (c *call) prepare(g *groupQuery) error {
	if c.has(14) != c.has(15) {
		return errors.New("q_norm_weight and k_norm_weight must be given together")
	}
	var turn *rotation
	if c.flag("do_rotary") {
		if !c.has(7) || !c.has(8) {
			return errors.New("attribute do_rotary wants cos_cache and sin_cache")
		}
		var err error
		if turn, err = c.newRotation(7, g.q.size, c.flag("rotary_interleaved")); err != nil {
			return err
		}
	}
	ids := c.tensor(9)
	if c.has(9) && !ids.Shape.Equal(tensor.Shape{int64(g.q.batch), int64(g.q.len)}) {
		return badInput(9, "has shape %v, wants [%d,%d]", ids.Shape, g.q.batch, g.q.len)
	}
	position := func(b, p int) int64 {
		switch {
		case !c.has(9):
			return int64(g.after[b] - g.valid[b] + p)
		case g.prompt && g.q.len > 1:
			return intAt(ids, 0) + int64(p)
		}
		return intAt(ids, b*g.q.len+p)
	}
	if turn != nil {
		for b := range g.q.batch {
			for p := range g.valid[b] {
				if at := position(b, p); at < 0 || at >= turn.cos.Shape[0] || c.has(9) && intAt(ids, 0) < 0 {
					return badInput(7, "has %d rows, position %d is wanted", turn.cos.Shape[0], at)
				}
			}
		}
	}
	for i, h := range []*heads{&g.q, &g.k} {
		var weight []float64
		if c.has(14) {
			var err error
			if weight, err = c.perChannel(14+i, int64(h.size)); err != nil {
				return err
			}
		}
		if weight == nil && turn == nil {
			continue
		}
		eps := c.float("qk_norm_epsilon")
		if name := [2]string{"q_norm_epsilon", "k_norm_epsilon"}[i]; c.hasAttr(name) {
			eps = c.float(name)
		}
		t, err := c.new(h.t.DType, tensor.Shape{int64(h.batch), int64(h.len), int64(h.n * h.size)})
		if err != nil {
			return err
		}
		to := rowMajor(t, h.batch, h.len, h.n, h.size)
		v := make([]float64, h.size)
		for b := range h.batch {
			for p := range g.valid[b] {
				for n := range h.n {
					loadFloat(v, h.t, h.offset(b, n, p))
					if weight != nil {
						inv := 1 / math.Sqrt(sumSquare(v)/float64(len(v))+eps)
						for k := range v {
							v[k] *= inv * weight[k]
						}
					}
					if turn != nil {
						turn.turn(v, int(position(b, p)))
					}
					storeFloat(t, to.offset(b, n, p), v)
				}
			}
		}
		*h = to
	}
	return c.ctx.Err()
}

// cache is how keys or values are kept.
type cache struct {
	past   tensor.Tensor // Undefined: none
	dtype  tensor.DType
	bits   int // 0: not quantised
	width  int // of a row, in elements of the tensor
	scales []float64
	st     [3]int // strides of the scales over batch, head and element
}

// newCache reads a cache, input i, and its scale, input si.
func (c *call) newCache(g *groupQuery, i, si int, mode string) (*cache, error) {
	k := &cache{past: c.tensor(i), dtype: g.q.t.DType, width: g.q.size}
	if quantised := c.str(mode) != "NONE"; quantised {
		k.bits = int(c.int("kv_cache_bit_width"))
		switch k.bits {
		case 8:
			k.dtype = tensor.Int8
		case 4:
			k.dtype, k.width = tensor.Uint8, (g.q.size+1)/2
		default:
			return nil, fmt.Errorf("attribute kv_cache_bit_width is %d, wants 8 or 4", k.bits)
		}
		if !c.has(si) {
			return nil, badInput(si, "is left out, attribute %s is %s", mode, c.str(mode))
		}
		want := tensor.Shape{int64(g.q.batch), int64(g.k.n), 1, int64(g.q.size)}
		s := c.tensor(si).Shape
		if got, err := broadcast(s, want); err != nil || !got.Equal(want) {
			return nil, badInput(si, "has shape %v, which does not broadcast to %v", s, want)
		}
		st := broadcastStrides(s, want)
		k.st = [3]int{st[0], st[1], st[3]}
		var err error
		if k.scales, err = c.widened(c.tensor(si)); err != nil {
			return nil, err
		}
	} else if c.has(si) {
		return nil, badInput(si, "is given, attribute %s is NONE", mode)
	}
	if !c.has(i) {
		return k, nil
	}
	s := k.past.Shape
	if len(s) != 4 || s[0] != int64(g.q.batch) || s[1] != int64(g.k.n) || s[2] != c.tensor(3).Shape[2] || s[3] != int64(k.width) {
		return nil, badInput(i, "has shape %v, wants [%d,%d,P,%d]", s, g.q.batch, g.k.n, k.width)
	}
	if k.past.DType != k.dtype {
		return nil, badInput(i, "is of type %s, wants %s", k.past.DType, k.dtype)
	}
	return k, nil
}

// extended gives output out, the past with the chunk's valid rows behind it, and
// returns its first longest rows of each sequence as numbers. What is attended to
// is what the cache holds.
func (c *call) extended(g *groupQuery, k *cache, chunk heads, out, longest int) (heads, error) {
	t, err := c.make(out, k.dtype, tensor.Shape{int64(chunk.batch), int64(chunk.n), int64(g.room), int64(k.width)})
	if err != nil {
		return heads{}, err
	}
	all := headMajor(t, chunk.batch, chunk.n, g.room, k.width)
	old := heads{}
	if k.past.DType != tensor.Undefined {
		old = headMajor(k.past, chunk.batch, chunk.n, int(k.past.Shape[2]), k.width)
	}
	v := make([]float64, chunk.size)
	for b := range chunk.batch {
		before := g.after[b] - g.valid[b]
		for n := range chunk.n {
			if before > 0 {
				all.moved(b, n, 0, old, 0, before)
			}
			if k.bits == 0 {
				all.moved(b, n, before, chunk, 0, g.valid[b])
				continue
			}
			for p := range g.valid[b] {
				loadFloat(v, chunk.t, chunk.offset(b, n, p))
				k.store(t, all.offset(b, n, before+p), b, n, v)
			}
		}
	}
	all.len = longest
	if k.bits == 0 {
		return all, c.ctx.Err()
	}
	plain, err := c.new(tensor.Float32, tensor.Shape{int64(chunk.batch), int64(chunk.n), int64(longest), int64(chunk.size)})
	if err != nil {
		return heads{}, err
	}
	rows := headMajor(plain, chunk.batch, chunk.n, longest, chunk.size)
	for b := range chunk.batch {
		for n := range chunk.n {
			for p := range g.after[b] {
				k.load(v, t, all.offset(b, n, p), b, n)
				storeFloat(plain, rows.offset(b, n, p), v)
			}
		}
	}
	return rows, c.ctx.Err()
}

func (k *cache) scale(b, n, i int) float64 { return k.scales[b*k.st[0]+n*k.st[1]+i*k.st[2]] }

// store quantises a row: round(x/scale), 4 bit ones two to a byte, low nibble first,
// offset by 8.
func (k *cache) store(t tensor.Tensor, at, b, n int, v []float64) {
	lo, hi := float64(int(-1)<<(k.bits-1)), float64(int(1)<<(k.bits-1)-1)
	for i, x := range v {
		q := 0.0
		if s := k.scale(b, n, i); s != 0 {
			q = min(max(math.RoundToEven(float64(float32(x)/float32(s))), lo), hi)
		}
		if q != q {
			q = 0
		}
		if k.bits == 8 {
			putInt(t, at+i, int64(q))
		} else {
			setPacked(t.Data[at:], 4, i, uint8(int64(q)+8))
		}
	}
}

func (k *cache) load(dst []float64, t tensor.Tensor, at, b, n int) {
	for i := range dst {
		q := 0.0
		if k.bits == 8 {
			q = float64(intAt(t, at+i))
		} else {
			q = float64(packed(t.Data[at:], 4, i)) - 8
		}
		dst[i] = q * k.scale(b, n, i)
	}
}
