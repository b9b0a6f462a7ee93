package reference

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

var attentionOps = []spec{
	{"Attention", since(23), "Q T1:float, K T1, V T2:float, attn_mask? num|bool, past_key? T1, past_value? T2 -> Y T1, present_key? T1, present_value? T2, qk_matmul_output? T1",
		"is_causal int=0, kv_num_heads int, q_num_heads int, qk_matmul_output_mode int=0, scale float, softcap float=0, softmax_precision int", attention},
	{"Attention", since(24), "Q T1:float, K T1, V T2:float, attn_mask? num|bool, past_key? T1, past_value? T2, nonpad_kv_seqlen? i64 -> Y T1, present_key? T1, present_value? T2, qk_matmul_output? T1",
		"is_causal int=0, kv_num_heads int, q_num_heads int, qk_matmul_output_mode int=0, scale float, softcap float=0, softmax_precision int", attention},
	{"Attention", since(25), "Q T1:float, K T1, V T2:float, attn_mask? num|bool, past_key? T1, past_value? T2, nonpad_kv_seqlen? i64 -> Y T1, present_key? T1, present_value? T2, qk_matmul_output? T1",
		"is_causal int=0, kv_num_heads int, q_num_heads int, qk_matmul_output_mode int=0, scale float, softcap float=0, softmax_precision int, left_window_size int=-1, right_window_size int=-1", attention},
	{"RotaryEmbedding", since(23), "X T:float, cos_cache T, sin_cache T, position_ids? i64 -> Y T",
		"interleaved int=0, num_heads int=0, rotary_embedding_dim int=0", rotaryEmbedding},
	{"LinearAttention", since(27), "query T:float, key T, value T, past_state? S:float, decay? T, beta? T -> output T, present_state S",
		"chunk_size int=64, kv_num_heads int!, q_num_heads int!, scale float=0, update_rule string=gated_delta|linear|gated|delta", linearAttention},
}

var previewOps = []spec{
	{"FlexAttention", since(1), "Q T1:float, K T1, V T1 -> Y T1", "prob_mod graph, scale float, score_mod graph, softmax_precision int", flexAttention},
}

// heads is a tensor seen as [batch, heads, length, size], whatever its layout.
type heads struct {
	t                   tensor.Tensor
	batch, n, len, size int
	st                  [3]int // strides of batch, head and position; the size is dense
}

// headsOf sees input i as heads: [B,H,S,D], or [B,S,H*D] where the number of heads
// is given.
func (c *call) headsOf(i int, attr string) (heads, error) {
	t := c.tensor(i)
	s := t.Shape
	switch len(s) {
	case 4:
		h := heads{t: t, batch: int(s[0]), n: int(s[1]), len: int(s[2]), size: int(s[3])}
		h.st = [3]int{h.n * h.len * h.size, h.len * h.size, h.size}
		return h, nil
	case 3:
		if _, ok := c.op.attrs[attr]; !ok {
			break
		}
		n := c.int(attr)
		if n <= 0 || s[2]%n != 0 {
			return heads{}, badInput(i, "has shape %v, which attribute %s = %d does not divide", s, attr, n)
		}
		h := heads{t: t, batch: int(s[0]), n: int(n), len: int(s[1]), size: int(s[2] / n)}
		h.st = [3]int{h.len * h.n * h.size, h.size, h.n * h.size}
		return h, nil
	}
	return heads{}, badInput(i, "has shape %v, which is none of heads", s)
}

// headsLike are heads of another size at the places of h, with no tensor yet.
func headsLike(h heads, size int) heads {
	y := heads{batch: h.batch, n: h.n, len: h.len, size: size}
	if len(h.t.Shape) == 4 {
		y.st = [3]int{y.n * y.len * size, y.len * size, size}
	} else {
		y.st = [3]int{y.len * y.n * size, size, y.n * size}
	}
	return y
}

// attended reads inputs 0 to 2 as the heads of query, key and value. Groups of as
// many heads of the query share one of the others.
func (c *call) attended() (q, k, v heads, group int, err error) {
	for i, h := range []*heads{&q, &k, &v} {
		attr := "kv_num_heads"
		if i == 0 {
			attr = "q_num_heads"
		}
		if *h, err = c.headsOf(i, attr); err != nil {
			return q, k, v, 0, err
		}
	}
	switch {
	case k.batch != q.batch || v.batch != q.batch:
		err = fmt.Errorf("batches of %d, %d and %d do not fit", q.batch, k.batch, v.batch)
	case k.n == 0 || q.n%k.n != 0 || v.n != k.n:
		err = fmt.Errorf("%d query, %d key and %d value heads do not fit", q.n, k.n, v.n)
	case k.size != q.size:
		err = badInput(1, "has heads of size %d, the query of %d", k.size, q.size)
	case v.len != k.len:
		err = badInput(2, "has %d rows, the key has %d", v.len, k.len)
	default:
		group = q.n / k.n
	}
	return q, k, v, group, err
}

// offset is the element where a row begins.
func (h heads) offset(b, n, pos int) int { return b*h.st[0] + n*h.st[1] + pos*h.st[2] }

// load widens rows [0,len) of a head one after another.
func (h heads) load(dst []float64, b, n int) {
	for p := range h.len {
		loadFloat(dst[p*h.size:(p+1)*h.size], h.t, h.offset(b, n, p))
	}
}

// joined is past and new rows as one tensor [B,H,S,D], which output out is given.
func (c *call) joined(past int, now heads, out int) (heads, error) {
	if !c.has(past) && !c.wants(out) {
		return now, nil
	}
	length := int64(now.len)
	before := tensor.Tensor{}
	if c.has(past) {
		before = c.tensor(past)
		s := before.Shape
		if len(s) != 4 || s[0] != int64(now.batch) || s[1] != int64(now.n) || s[3] != int64(now.size) {
			return heads{}, badInput(past, "has shape %v, wants [%d,%d,_,%d]", s, now.batch, now.n, now.size)
		}
		length += s[2]
	}
	all, err := c.new(now.t.DType, tensor.Shape{int64(now.batch), int64(now.n), length, int64(now.size)})
	if err != nil {
		return heads{}, err
	}
	c.give(out, all)
	h := heads{t: all, batch: now.batch, n: now.n, len: int(length), size: now.size}
	h.st = [3]int{h.n * h.len * h.size, h.len * h.size, h.size}
	old := h.len - now.len
	for b := range h.batch {
		for n := range h.n {
			move(all, h.offset(b, n, 0), before, (b*h.n+n)*old*h.size, old*h.size)
			for p := range now.len {
				move(all, h.offset(b, n, old+p), now.t, now.offset(b, n, p), h.size)
			}
		}
	}
	return h, nil
}

// attention computes scaled dot product attention. Scores, softmax and sums are in
// float64; only the outputs are rounded.
func attention(c *call) error {
	q, k, v, group, err := c.attended()
	if err != nil {
		return err
	}
	switch {
	case c.has(4) != c.has(5):
		return errors.New("past_key and past_value must be given together")
	case c.has(6) && c.has(4):
		return badInput(6, "can't be used together with a past")
	}
	past := 0
	if c.has(4) {
		if s := c.tensor(4).Shape; len(s) == 4 {
			past = int(s[2])
		}
	}
	if k, err = c.joined(4, k, 1); err != nil {
		return err
	}
	if v, err = c.joined(5, v, 2); err != nil {
		return err
	}
	if v.len != k.len {
		return badInput(5, "has other rows than past_key")
	}
	mask, err := c.attentionMask(q, k.len)
	if err != nil {
		return err
	}
	mask.offset = make([]int, q.batch)
	for b := range mask.offset {
		mask.offset[b] = past
	}
	if c.has(6) {
		lens, err := c.intsOf(6)
		if err != nil {
			return err
		}
		if len(lens) != q.batch {
			return badInput(6, "has %d entries for a batch of %d", len(lens), q.batch)
		}
		for b, n := range lens {
			if n < 0 || n > int64(k.len) {
				return badInput(6, "is %d, there are %d keys", n, k.len)
			}
			mask.valid = append(mask.valid, int(n))
			mask.offset[b] = int(n) - q.len
		}
	}
	y := headsLike(q, v.size)
	outShape := q.t.Shape.Clone()
	outShape[len(outShape)-1] = int64(v.size)
	if len(outShape) == 3 {
		outShape[2] *= int64(q.n)
	}
	if y.t, err = c.make(0, q.t.DType, outShape); err != nil {
		return err
	}
	var scores tensor.Tensor
	if c.wants(3) {
		if scores, err = c.make(3, q.t.DType, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(k.len)}); err != nil {
			return err
		}
	}
	scale := 1 / math.Sqrt(float64(q.size))
	if c.hasAttr("scale") {
		scale = c.float("scale")
	}
	softcap := c.float("softcap")
	mode := c.int("qk_matmul_output_mode")
	if mode < 0 || mode > 3 {
		return fmt.Errorf("attribute qk_matmul_output_mode is %d", mode)
	}
	scratch := int64(k.len*(k.size+v.size+2)+q.size+v.size) * 8
	if err := c.reserve(scratch * int64(min(q.batch*q.n, runtime.GOMAXPROCS(0)))); err != nil {
		return err
	}
	return c.parallel(q.batch*q.n, 1, func(item, _ int) error {
		b, h := item/q.n, item%q.n
		keys := make([]float64, k.len*k.size)
		values := make([]float64, v.len*v.size)
		k.load(keys, b, h/group)
		v.load(values, b, h/group)
		row := make([]float64, q.size)
		s, bias := make([]float64, k.len), make([]float64, k.len)
		sum := make([]float64, v.size)
		record := func(m int64, i int, v []float64) {
			if mode == m && scores.DType != tensor.Undefined {
				storeFloat(scores, (item*q.len+i)*k.len, v)
			}
		}
		for i := range q.len {
			if i%64 == 0 {
				if err := c.ctx.Err(); err != nil {
					return err
				}
			}
			loadFloat(row, q.t, q.offset(b, h, i))
			for j := range s {
				s[j] = scale * dot(row, keys[j*k.size:(j+1)*k.size])
			}
			record(0, i, s)
			if softcap > 0 {
				for j := range s {
					s[j] = softcap * math.Tanh(s[j]/softcap)
				}
			}
			record(1, i, s)
			mask.bias(bias, b, h, i)
			attended := false
			for j := range s {
				s[j] += bias[j]
				attended = attended || !math.IsInf(bias[j], -1)
			}
			record(2, i, s)
			if attended {
				softmax(s)
			} else {
				clear(s)
			}
			record(3, i, s)
			weighted(sum, s, values)
			storeFloat(y.t, y.offset(b, h, i), sum)
		}
		return nil
	})
}

// weighted is the sum of the rows of values by weight. Rows of weight zero do not
// count, whatever they hold: they may be padding.
func weighted(sum, weights, values []float64) {
	clear(sum)
	n := len(sum)
	for j, w := range weights {
		if w == 0 {
			continue
		}
		for x, v := range values[j*n : (j+1)*n] {
			sum[x] += w * v
		}
	}
}

// attentionBias is what is added to scores: the mask, and -Inf where the causal
// frontier, the window or padding exclude a key.
type attentionBias struct {
	mask        tensor.Tensor // Undefined: none
	st          []int         // strides of the mask over batch, head and query
	step        int           // over keys
	width       int           // keys that the mask covers
	causal      bool
	left, right int64 // -1: unbounded
	offset      []int // position of the first query, by batch
	valid       []int // keys that are no padding, by batch; nil: all
}

func (c *call) attentionMask(q heads, keys int) (*attentionBias, error) {
	m := &attentionBias{causal: c.flag("is_causal"), left: -1, right: -1, width: keys}
	if _, ok := c.op.attrs["left_window_size"]; ok {
		m.left, m.right = c.int("left_window_size"), c.int("right_window_size")
		if m.left < -1 || m.right < -1 {
			return nil, fmt.Errorf("windows of %d and %d: -1 or more is wanted", m.left, m.right)
		}
	}
	if !c.has(3) {
		return m, nil
	}
	m.mask = c.tensor(3)
	s := m.mask.Shape
	want := tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(keys)}
	if len(s) > 0 && s[len(s)-1] < int64(keys) {
		// A shorter mask covers the first keys only.
		m.width = int(s[len(s)-1])
		want[3] = int64(m.width)
	}
	if got, err := broadcast(s, want); err != nil || !got.Equal(want) {
		return nil, badInput(3, "has shape %v, which does not broadcast to %v", s, want)
	}
	st := broadcastStrides(s, want)
	m.st, m.step = st[:3], st[3]
	return m, nil
}

// bias fills dst, one number a key, for a query.
func (m *attentionBias) bias(dst []float64, b, h, i int) {
	none := math.Inf(-1)
	clear(dst)
	if m.mask.DType != tensor.Undefined {
		at := b*m.st[0] + h*m.st[1] + i*m.st[2]
		for j := range dst {
			switch {
			case j >= m.width:
				dst[j] = none
			case m.mask.DType == tensor.Bool:
				if m.mask.Data[at+j*m.step] == 0 {
					dst[j] = none
				}
			default:
				loadFloat(dst[j:j+1], m.mask, at+j*m.step)
			}
		}
	}
	pos := int64(i + m.offset[b])
	for j := range dst {
		key := int64(j)
		if m.causal && key > pos || m.left >= 0 && pos-key > m.left || m.right >= 0 && key-pos > m.right ||
			m.valid != nil && j >= m.valid[b] {
			dst[j] = none
		}
	}
}

func rotaryEmbedding(c *call) error {
	x, err := c.headsOf(0, "num_heads")
	if err != nil {
		return err
	}
	dim := int(c.int("rotary_embedding_dim"))
	if dim == 0 {
		dim = x.size
	}
	if dim < 0 || dim > x.size || dim%2 != 0 {
		return fmt.Errorf("%d of %d elements can't be rotated", dim, x.size)
	}
	half := dim / 2
	row, err := c.rotaryRows(x, half)
	if err != nil {
		return err
	}
	out, err := c.make(0, x.t.DType, x.t.Shape)
	if err != nil {
		return err
	}
	interleaved := c.flag("interleaved")
	return c.parallel(x.batch*x.n, 1, func(item, _ int) error {
		b, h := item/x.n, item%x.n
		v := make([]float64, x.size)
		cos, sin := make([]float64, half), make([]float64, half)
		for p := range x.len {
			at := x.offset(b, h, p)
			loadFloat(v, x.t, at)
			loadFloat(cos, c.tensor(1), row[b*x.len+p]*half)
			loadFloat(sin, c.tensor(2), row[b*x.len+p]*half)
			for i := range half {
				r, s := i, i+half
				if interleaved {
					r, s = 2*i, 2*i+1
				}
				v[r], v[s] = cos[i]*v[r]-sin[i]*v[s], sin[i]*v[r]+cos[i]*v[s]
			}
			storeFloat(out, at, v)
		}
		return nil
	})
}

// rotaryRows are the rows of the caches, for each token of the batch.
func (c *call) rotaryRows(x heads, half int) ([]int, error) {
	cos, sin := c.tensor(1).Shape, c.tensor(2).Shape
	if !cos.Equal(sin) {
		return nil, badInput(2, "has shape %v, cos_cache has %v", sin, cos)
	}
	rows := make([]int, x.batch*x.len)
	if !c.has(3) {
		if !cos.Equal(tensor.Shape{int64(x.batch), int64(x.len), int64(half)}) {
			return nil, badInput(1, "has shape %v, wants [%d,%d,%d]", cos, x.batch, x.len, half)
		}
		for i := range rows {
			rows[i] = i
		}
		return rows, nil
	}
	if len(cos) != 2 || cos[1] != int64(half) {
		return nil, badInput(1, "has shape %v, wants [_,%d]", cos, half)
	}
	pos := c.tensor(3)
	if !pos.Shape.Equal(tensor.Shape{int64(x.batch), int64(x.len)}) {
		return nil, badInput(3, "has shape %v, wants [%d,%d]", pos.Shape, x.batch, x.len)
	}
	for i := range rows {
		p, err := wrapIndex(intAt(pos, i), cos[0], 3)
		if err != nil {
			return nil, err
		}
		rows[i] = int(p)
	}
	return rows, nil
}

// linearAttention runs the recurrence token by token; chunk_size is a hint that
// changes no result.
func linearAttention(c *call) error {
	q, k, v, group, err := c.attended()
	if err != nil {
		return err
	}
	for i, h := range []heads{q, k, v} {
		if len(h.t.Shape) != 3 || h.len != q.len {
			return badInput(i, "has shape %v, wants [%d,%d,_]", h.t.Shape, q.batch, q.len)
		}
	}
	rule := c.str("update_rule")
	gated, delta := rule == "gated" || rule == "gated_delta", rule == "delta" || rule == "gated_delta"
	gate := func(i int, need bool, widths ...int) (width int, err error) {
		if !need {
			return 0, nil
		}
		s := c.tensor(i).Shape
		for _, w := range widths {
			if s.Equal(tensor.Shape{int64(q.batch), int64(q.len), int64(w)}) {
				return w, nil
			}
		}
		return 0, badInput(i, "has shape %v, rule %s wants [%d,%d,%v]", s, rule, q.batch, q.len, widths)
	}
	decayWidth, err := gate(4, gated, k.n*k.size, k.n)
	if err != nil {
		return err
	}
	betaWidth, err := gate(5, delta, k.n, 1)
	if err != nil {
		return err
	}
	stateShape := tensor.Shape{int64(k.batch), int64(k.n), int64(k.size), int64(v.size)}
	stateType := q.t.DType
	if c.has(3) {
		stateType = c.tensor(3).DType
		if !c.tensor(3).Shape.Equal(stateShape) {
			return badInput(3, "has shape %v, wants %v", c.tensor(3).Shape, stateShape)
		}
	}
	out, err := c.make(0, q.t.DType, tensor.Shape{int64(q.batch), int64(q.len), int64(q.n * v.size)})
	if err != nil {
		return err
	}
	final, err := c.make(1, stateType, stateShape)
	if err != nil {
		return err
	}
	scale := c.float("scale")
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(q.size))
	}
	return c.parallel(k.batch*k.n, 1, func(item, _ int) error {
		b, h := item/k.n, item%k.n
		n := k.size * v.size
		state := make([]float64, n)
		if c.has(3) {
			loadFloat(state, c.tensor(3), item*n)
		}
		query, key, value := make([]float64, q.size), make([]float64, k.size), make([]float64, v.size)
		decay, seen := make([]float64, k.size), make([]float64, v.size)
		for t := range q.len {
			loadFloat(key, k.t, k.offset(b, h, t))
			loadFloat(value, v.t, v.offset(b, h, t))
			if gated {
				at := (b*q.len + t) * decayWidth
				if decayWidth == k.n {
					g := floatAt(c.tensor(4), at+h)
					for i := range decay {
						decay[i] = g
					}
				} else {
					loadFloat(decay, c.tensor(4), at+h*k.size)
				}
				for i := range state {
					state[i] *= math.Exp(decay[i/v.size])
				}
			}
			beta := 1.0
			if delta {
				beta = floatAt(c.tensor(5), (b*q.len+t)*betaWidth+h%betaWidth)
				weighted(seen, key, state)
				for i := range value {
					value[i] -= seen[i]
				}
			}
			for i, kv := range key {
				for j, vv := range value {
					state[i*v.size+j] += beta * kv * vv
				}
			}
			for g := range group {
				head := h*group + g
				loadFloat(query, q.t, q.offset(b, head, t))
				weighted(seen, query, state)
				for i := range seen {
					seen[i] *= scale
				}
				storeFloat(out, ((b*q.len+t)*q.n+head)*v.size, seen)
			}
		}
		storeFloat(final, item*n, state)
		return nil
	})
}

// flexAttention computes attention with a graph between scores and softmax, and one
// after it. Scores and weights have the type that softmax_precision names.
func flexAttention(c *call) error {
	q, k, v, group, err := c.attended()
	if err != nil {
		return err
	}
	d := tensor.Float32
	if q.t.DType == tensor.Float64 {
		d = tensor.Float64
	}
	if a := c.attr("softmax_precision"); a != nil {
		if d = tensor.DType(a.Int); int64(d) != a.Int || !floatTypes.has(d) {
			return fmt.Errorf("attribute softmax_precision is %d, wants a floating-point type", a.Int)
		}
	}
	scale := 1 / math.Sqrt(float64(q.size))
	if c.hasAttr("scale") {
		scale = c.float("scale")
	}
	y := headsLike(q, v.size)
	if y.t, err = c.make(0, q.t.DType, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(v.size)}); err != nil {
		return err
	}
	scores, err := c.new(d, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(k.len)})
	if err != nil {
		return err
	}
	p := product[float64]{batches: q.batch * q.n, m: q.len, k: q.size, n: k.len}
	p.rows = func(dst []float64, batch, lo, hi int) {
		loadFloat(dst, q.t, q.offset(batch/q.n, batch%q.n, lo))
	}
	p.cols = func(dst []float64, batch, lo, hi int) {
		loadFloat(dst, k.t, k.offset(batch/q.n, batch%q.n/group, lo))
	}
	p.store = func(block []float64, batch, rlo, rhi, clo, chi int) {
		for i := range block {
			block[i] *= scale
		}
		for i := rlo; i < rhi; i++ {
			storeFloat(scores, (batch*p.m+i)*p.n+clo, block[(i-rlo)*(chi-clo):(i-rlo+1)*(chi-clo)])
		}
	}
	if err := p.run(c); err != nil {
		return err
	}
	if scores, err = c.modified("score_mod", scores); err != nil {
		return err
	}
	// The graph may have passed on a tensor that is not ours to change.
	weights, err := c.new(d, scores.Shape)
	if err != nil {
		return err
	}
	if err := c.eachRow(weights, scores, 3, func(_ int, v []float64) { softmax(v) }); err != nil {
		return err
	}
	if weights, err = c.modified("prob_mod", weights); err != nil {
		return err
	}
	w := product[float64]{batches: q.batch * q.n, m: q.len, k: k.len, n: v.size}
	w.rows = func(dst []float64, batch, lo, hi int) { loadFloat(dst, weights, (batch*w.m+lo)*w.k) }
	w.cols = func(dst []float64, batch, lo, hi int) {
		loadCols(dst, floatLane, v.t, v.offset(batch/q.n, batch%q.n/group, 0), w.k, w.n, lo, hi)
	}
	w.store = func(block []float64, batch, rlo, rhi, clo, chi int) {
		for i := rlo; i < rhi; i++ {
			storeFloat(y.t, y.offset(batch/q.n, batch%q.n, i)+clo, block[(i-rlo)*(chi-clo):(i-rlo+1)*(chi-clo)])
		}
	}
	return w.run(c)
}

// modified is what a graph of one input and one output makes of a tensor, or the
// tensor itself where there is no graph. It lives until the call ends.
func (c *call) modified(attr string, x tensor.Tensor) (tensor.Tensor, error) {
	if !c.hasAttr(attr) {
		return x, nil
	}
	v := tensorValue(x)
	c.mem.retain(v)
	got, err := c.subgraph(attr, []graph.Datum{v})
	c.drop(v)
	if err != nil {
		return x, err
	}
	c.hold(got...)
	if len(got) != 1 || got[0].Kind != graph.KindTensor || got[0].Tensor.DType != x.DType || !got[0].Tensor.Shape.Equal(x.Shape) {
		return x, fmt.Errorf("graph %s does not make one %s", attr, describeTensor(x))
	}
	return got[0].Tensor, nil
}
