package reference

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/tensor"
)

var microsoftAttentionOps = []spec{
	{"MultiHeadAttention", since(1), "query T:f32|f16|bf16, key? T, value? T, bias? T, key_padding_mask? i32, attention_bias? T, past_key? T, past_value? T, " +
		"past_sequence_length? i32, cache_indirection? i32 -> output T, present_key? T, present_value? T, qk? f32|f16|bf16",
		"mask_filter_value float=-10000, num_heads int!, scale float=0, unidirectional int=0", multiHeadAttention},
	{"DecoderMaskedMultiHeadAttention", since(1), "query T:f32|f16, key? T, value? T, mask_index? i32, attention_bias? T, past_key? T, past_value? T, " +
		"past_sequence_length? i32, beam_width? i32, cache_indirection? i32, bias? T -> output T, present_key? T, present_value? T, qk? f32|f16",
		"mask_filter_value float=-10000, num_heads int!, output_qk int=0, past_present_share_buffer int=0, scale float=0", decoderMaskedMultiHeadAttention},
	{"Attention", since(1), "input T:f32|f16|bf16, weights T, bias? T, mask_index? i32, past? T, attention_bias? T, past_sequence_length? i32 -> output T, present? T",
		"do_rotary int=0, mask_filter_value float=-10000, num_heads int!, past_present_share_buffer int=0, qkv_hidden_sizes ints, rotary_embedding_dim int=0, " +
			"scale float=0, unidirectional int=0", microsoftAttention},
	{"QAttention", since(1), "input T1:i8|u8, weight T2:i8|u8, bias T3:f32|f16, input_scale T3, weight_scale T3, mask_index? i32, input_zero_point? T1, " +
		"weight_zero_point? T2, past? T3 -> output T3, present? T3",
		"do_rotary int=0, mask_filter_value float=-10000, num_heads int!, past_present_share_buffer int=0, scale float=0, unidirectional int=0", qAttention},
	{"GroupQueryAttention", since(1), "query T:f32|f16|bf16, key? T, value? T, past_key? C:f32|f16|bf16|i8|u8, past_value? C, seqlens_k i32, total_sequence_length i32, " +
		"cos_cache? T, sin_cache? T, position_ids? i64, attention_bias? T, head_sink? T, k_scale? f32, v_scale? f32, q_norm_weight? T, k_norm_weight? T, " +
		"query_seqlens? i32 -> output T, present_key? f32|f16|bf16|i8|u8, present_value? f32|f16|bf16|i8|u8, output_qk? T",
		"causal int=1, do_rotary int=0, k_norm_epsilon float, k_quant_type string=NONE|PER_TENSOR|PER_CHANNEL, kv_cache_bit_width int, kv_num_heads int!, " +
			"local_window_size int=-1, num_heads int!, q_norm_epsilon float, qk_norm_epsilon float=1e-6, qk_output int=0, rotary_interleaved int=0, scale float=0, " +
			"sliding_window_cache int=0, smooth_softmax int=-1, softcap float=0, v_quant_type string=NONE|PER_TENSOR|PER_CHANNEL", groupQueryAttention},
	{"RotaryEmbedding", since(1), "input T:f32|f16|bf16, position_ids i64, cos_cache T, sin_cache T -> output T",
		"interleaved int=0, is_packed_batching int=0, num_heads int=0, rotary_embedding_dim int=0, scale float=1", microsoftRotaryEmbedding},
}

// rowMajor is a dense tensor [batch,len,n*size] seen as heads.
func rowMajor(t tensor.Tensor, batch, length, n, size int) heads {
	return heads{t: t, batch: batch, n: n, len: length, size: size, st: [3]int{length * n * size, size, n * size}}
}

// headMajor is a dense tensor [batch,n,len,size] seen as heads.
func headMajor(t tensor.Tensor, batch, n, length, size int) heads {
	return heads{t: t, batch: batch, n: n, len: length, size: size, st: [3]int{n * length * size, length * size, size}}
}

// from is h beginning at an element of its tensor.
func (h heads) from(at int) heads {
	h.t.Data = h.t.Data[min(at*h.t.DType.Bits()/8, len(h.t.Data)):]
	return h
}

// scaledDot is attention as com.microsoft has it: what its operators have in
// common. Scores, softmax and sums are in float64; only outputs are rounded.
type scaledDot struct {
	q, k, v, out heads
	scale        float64
	softcap      float64 // 0: none
	// keys says which keys [from,to) a query attends to; others get no weight.
	keys func(b, i int) (from, to int)
	// add adds masks and biases to scores, row[j] that of key from+j.
	add func(row []float64, b, h, i, from int)
	// sink, if any, is one more score a head, of a key whose value is zero.
	sink []float64
	// record, if any, sees the scores that go into the softmax, and the weights that
	// come out of it.
	record func(s stage, b, h, i, from int, row []float64)
}

type stage int

const (
	finalScores stage = iota + 1
	weights
)

func (a *scaledDot) run(c *call) error {
	q, k, v := a.q, a.k, a.v
	share := q.n / k.n
	scratch := int64(k.len*(k.size+v.size+1)+q.size+v.size) * 8
	if err := c.reserve(scratch * int64(min(q.batch*q.n, runtime.GOMAXPROCS(0)))); err != nil {
		return err
	}
	return c.parallel(q.batch*q.n, 1, func(item, _ int) error {
		b, h := item/q.n, item%q.n
		keys, values := make([]float64, k.len*k.size), make([]float64, k.len*v.size)
		k.load(keys, b, h/share)
		v.load(values, b, h/share)
		query, sum, scores := make([]float64, q.size), make([]float64, v.size), make([]float64, k.len+1)
		for i := range q.len {
			if i%64 == 0 {
				if err := c.ctx.Err(); err != nil {
					return err
				}
			}
			from, to := a.keys(b, i)
			if from >= to {
				continue // nothing to attend to: zero
			}
			loadFloat(query, q.t, q.offset(b, h, i))
			row := scores[:to-from]
			for j := range row {
				row[j] = a.scale * dot(query, keys[(from+j)*k.size:(from+j+1)*k.size])
				if a.softcap > 0 {
					row[j] = a.softcap * math.Tanh(row[j]/a.softcap)
				}
			}
			if a.add != nil {
				a.add(row, b, h, i, from)
			}
			if a.record != nil {
				a.record(finalScores, b, h, i, from, row)
			}
			if a.sink != nil {
				scores[to-from] = a.sink[h]
				softmax(scores[:to-from+1])
			} else {
				softmax(row)
			}
			if a.record != nil {
				a.record(weights, b, h, i, from, row)
			}
			weighted(sum, row, values[from*v.size:])
			storeFloat(a.out.t, a.out.offset(b, h, i), sum)
		}
		return nil
	})
}

// scaleOf is the attribute scale, where it is not zero, else 1/sqrt(size).
func (c *call) scaleOf(size int) float64 {
	if s := c.float("scale"); s != 0 {
		return s
	}
	return 1 / math.Sqrt(float64(size))
}

// moved copies rows [lo,hi) of head n of src to row at of dst.
func (h heads) moved(b, n, at int, src heads, lo, hi int) {
	for p := lo; p < hi; p++ {
		move(h.t, h.offset(b, n, at+p-lo), src.t, src.offset(b, n, p), h.size)
	}
}

// grown is past [B,N,P,D] with new rows after it, at place into of a tensor of
// [...,B,N,P+S,D].
func grown(into, past tensor.Tensor, at, pastAt, before int, now heads) heads {
	all := headMajor(into, now.batch, now.n, before+now.len, now.size).from(at)
	old := headMajor(past, now.batch, now.n, before, now.size)
	if before > 0 {
		old = old.from(pastAt)
	}
	for b := range now.batch {
		for n := range now.n {
			all.moved(b, n, 0, old, 0, before)
			all.moved(b, n, before, now, 0, now.len)
		}
	}
	return all
}

// plus is heads and a bias, a vector of all heads, in memory of their own.
func (c *call) plus(h heads, bias []float64) (heads, error) {
	t, err := c.new(h.t.DType, tensor.Shape{int64(h.batch), int64(h.len), int64(h.n * h.size)})
	if err != nil {
		return h, err
	}
	sum := rowMajor(t, h.batch, h.len, h.n, h.size)
	v := make([]float64, h.size)
	for b := range h.batch {
		for p := range h.len {
			for n := range h.n {
				loadFloat(v, h.t, h.offset(b, n, p))
				for i := range v {
					v[i] += bias[n*h.size+i]
				}
				storeFloat(t, sum.offset(b, n, p), v)
			}
		}
	}
	return sum, c.ctx.Err()
}

// paddingMask is what is added to scores of keys that are padding: the attribute
// mask_filter_value, not -Inf, so a row that is all padding attends evenly.
//
// Input i is [B], how many keys count; [2B], where keys end and, after all of
// those, where they begin; [B,T]; [B,S,T]; or [B,1,M,M] whose row is the query's
// position. In the latter three 0 means padding. It is nil where there is none.
func (c *call) paddingMask(i int, q heads, past, total int) (func(row []float64, b, at, from int), error) {
	if !c.has(i) {
		return nil, nil
	}
	m, filter := c.tensor(i), c.float("mask_filter_value")
	s, n := m.Shape, q.batch
	at := func(b, row, key int) int { return -1 }
	switch {
	case len(s) == 1 && s[0] == int64(n), len(s) == 1 && s[0] == int64(2*n) && c.op.Name == "Attention":
		starts := s[0] != int64(n)
		return func(row []float64, b, _, from int) {
			end, start := intAt(m, b), int64(0)
			if starts {
				start = intAt(m, n+b)
			}
			for j := range row {
				if key := int64(from + j); key >= end || key < start {
					row[j] += filter
				}
			}
		}, nil
	case s.Equal(tensor.Shape{int64(n), int64(total)}):
		at = func(b, _, key int) int { return b*total + key }
	case s.Equal(tensor.Shape{int64(n), int64(q.len), int64(total)}):
		at = func(b, row, key int) int { return (b*q.len+row)*total + key }
	case len(s) == 4 && s[0] == int64(n) && s[1] == 1 && s[2] == s[3] && s[2] >= int64(total):
		width := int(s[3])
		at = func(b, row, key int) int { return (b*width+past+row)*width + key }
	default:
		return nil, badInput(i, "has shape %v for %d sequences of %d queries and %d keys", s, n, q.len, total)
	}
	return func(row []float64, b, i, from int) {
		for j := range row {
			if intAt(m, at(b, i, from+j)) <= 0 {
				row[j] += filter
			}
		}
	}, nil
}

// scoreBias is input i, [B or 1,H or 1,S,T], added to scores. nil: there is
// none.
func (c *call) scoreBias(i int, q heads, total int) (func(row []float64, b, h, at, from int), error) {
	if i < 0 || !c.has(i) {
		return nil, nil
	}
	t := c.tensor(i)
	s := t.Shape
	if len(s) != 4 || s[0] != 1 && s[0] != int64(q.batch) || s[1] != 1 && s[1] != int64(q.n) || s[2] != int64(q.len) || s[3] < int64(total) {
		return nil, badInput(i, "has shape %v, wants [%d or 1,%d or 1,%d,%d]", s, q.batch, q.n, q.len, total)
	}
	st := broadcastStrides(s, tensor.Shape{int64(q.batch), int64(q.n), s[2], s[3]})
	width := int(s[3])
	return func(row []float64, b, h, at, from int) {
		for j := range row {
			row[j] += floatAt(t, b*st[0]+h*st[1]+at*width+from+j)
		}
	}, nil
}

// masked is what MultiHeadAttention and Attention do with heads: padding mask and
// bias are inputs, past is how many keys came before the queries. scores, if any,
// takes the scores.
func (c *call) masked(q, k, v heads, maskInput, biasInput, past int, causal bool, scores tensor.Tensor) error {
	mask, err := c.paddingMask(maskInput, q, past, k.len)
	if err != nil {
		return err
	}
	bias, err := c.scoreBias(biasInput, q, k.len)
	if err != nil {
		return err
	}
	out, err := c.make(0, q.t.DType, tensor.Shape{int64(q.batch), int64(q.len), int64(q.n * v.size)})
	if err != nil {
		return err
	}
	a := scaledDot{q: q, k: k, v: v, out: rowMajor(out, q.batch, q.len, q.n, v.size), scale: c.scaleOf(q.size)}
	a.keys = func(_, i int) (int, int) {
		// The last query is left alone: where keys and past are as many as queries,
		// as exporters have it, it sees all of them anyway.
		if causal && i < q.len-1 {
			return 0, min(past+i+1, k.len)
		}
		return 0, k.len
	}
	a.add = func(row []float64, b, h, i, from int) {
		if bias != nil {
			bias(row, b, h, i, from)
		}
		if mask != nil {
			mask(row, b, i, from)
		}
	}
	if scores.DType != tensor.Undefined {
		// The schema calls them normalised, the kernel gives those before the softmax,
		// the lowest number where a key comes too late.
		lowest := map[tensor.DType]float64{tensor.Float32: -math.MaxFloat32, tensor.Float16: -65504, tensor.BFloat16: -0x1.fep127}[scores.DType]
		a.record = func(s stage, b, h, i, from int, row []float64) {
			if s == finalScores {
				at := ((b*q.n+h)*q.len + i) * k.len
				storeFloat(scores, at+from, row)
				for j := from + len(row); j < k.len; j++ {
					putFloat(scores, at+j, lowest)
				}
			}
		}
	}
	return a.run(c)
}

// headCount is the attribute num_heads, and the size of heads in a width.
func (c *call) headCount(i int, width int64) (n, size int, err error) {
	h := c.int("num_heads")
	if h < 1 || width < h || width%h != 0 {
		return 0, 0, badInput(i, "has shape %v, which does not split into %d heads", c.tensor(i).Shape, h)
	}
	return int(h), int(width / h), nil
}

// multiHead reads query, key, value and bias, as they stand for both operators.
// cross says that key and value are those of another sequence, as [B,H,L,D].
func (c *call) multiHead(biasInput int) (q, k, v heads, cross bool, err error) {
	x, y, z := c.tensor(0), c.tensor(1), c.tensor(2)
	s := x.Shape
	fail := func(i int, want string) (heads, heads, heads, bool, error) {
		return q, k, v, false, badInput(i, "has shape %v, wants %s", c.tensor(i).Shape, want)
	}
	packed := len(s) == 5
	if packed && (s[3] != 3 || c.has(1) || c.has(2) || s[2] != c.int("num_heads")) || !packed && len(s) != 3 {
		return fail(0, fmt.Sprintf("[B,S,H*D], or [B,S,%d,3,D] without key and value", c.int("num_heads")))
	}
	if packed {
		b, l, n, d := int(s[0]), int(s[1]), int(s[2]), int(s[4])
		q = heads{t: x, batch: b, n: n, len: l, size: d, st: [3]int{l * n * 3 * d, 3 * d, n * 3 * d}}
		k, v = q.from(d), q.from(2*d)
	} else {
		n, d, err := c.headCount(0, s[2])
		if err != nil {
			return q, k, v, false, err
		}
		b := int(s[0])
		q = rowMajor(x, b, int(s[1]), n, d)
		ks, vs := y.Shape, z.Shape
		switch {
		case !c.has(1):
			return q, k, v, false, badInput(1, "is left out, and the query is not packed")
		case !ks[:min(1, len(ks))].Equal(s[:1]):
			return fail(1, fmt.Sprintf("a batch of %d", b))
		case len(ks) == 5 && ks[2] == int64(n) && ks[3] == 2 && ks[4] == int64(d) && !c.has(2):
			l := int(ks[1])
			k = heads{t: y, batch: b, n: n, len: l, size: d, st: [3]int{l * n * 2 * d, 2 * d, n * 2 * d}}
			v = k.from(d)
		case len(ks) == 3 && ks[2] == s[2]:
			if len(vs) != 3 || vs[0] != ks[0] || vs[1] != ks[1] || vs[2]%int64(n) != 0 {
				return fail(2, fmt.Sprintf("[%d,%d,_] that %d heads divide", ks[0], ks[1], n))
			}
			k, v = rowMajor(y, b, int(ks[1]), n, d), rowMajor(z, b, int(ks[1]), n, int(vs[2])/n)
		case len(ks) == 4 && ks[1] == int64(n) && ks[3] == int64(d):
			if len(vs) != 4 || vs[0] != ks[0] || vs[1] != ks[1] || vs[2] != ks[2] {
				return fail(2, fmt.Sprintf("[%d,%d,%d,_]", ks[0], ks[1], ks[2]))
			}
			cross = true
			k, v = headMajor(y, b, n, int(ks[2]), d), headMajor(z, b, n, int(ks[2]), int(vs[3]))
		default:
			return fail(1, fmt.Sprintf("[%d,L,%d], [%d,L,%d,2,%d] or [%d,%d,L,%d]", b, s[2], b, n, d, b, n, d))
		}
	}
	if !c.has(biasInput) {
		return q, k, v, cross, nil
	}
	n := q.n
	bias, err := c.perChannel(biasInput, int64(n*(q.size+k.size+v.size)))
	if err != nil {
		return q, k, v, cross, err
	}
	if q, err = c.plus(q, bias[:n*q.size]); err != nil || cross {
		return q, k, v, cross, err // the keys and values of a cross attention have theirs already
	}
	if k, err = c.plus(k, bias[n*q.size:n*(q.size+k.size)]); err != nil {
		return q, k, v, cross, err
	}
	v, err = c.plus(v, bias[n*(q.size+k.size):])
	return q, k, v, cross, err
}

// pastLength checks past keys and values, inputs i and i+1, against heads.
func (c *call) pastLength(i int, k, v heads) (int, error) {
	if c.has(i) != c.has(i+1) {
		return 0, errors.New("past_key and past_value must be given together")
	}
	if !c.has(i) {
		return 0, nil
	}
	for at, h := range []heads{k, v} {
		s := c.tensor(i + at).Shape
		if len(s) != 4 || s[0] != int64(h.batch) || s[1] != int64(h.n) || s[2] != c.tensor(i).Shape[2] || s[3] != int64(h.size) {
			return 0, badInput(i+at, "has shape %v, wants [%d,%d,P,%d]", s, h.batch, h.n, h.size)
		}
	}
	return int(c.tensor(i).Shape[2]), nil
}

func multiHeadAttention(c *call) error {
	q, k, v, cross, err := c.multiHead(3)
	if err != nil {
		return err
	}
	for _, i := range []int{8, 9} {
		if c.has(i) {
			return badInput(i, "is for beams over shared buffers, which are not supported")
		}
	}
	past, err := c.pastLength(6, k, v)
	if err != nil {
		return err
	}
	if cross && past > 0 {
		return badInput(6, "can't be used together with keys of shape %v", c.tensor(1).Shape)
	}
	if past > 0 || c.wants(1) || c.wants(2) {
		for i, h := range []*heads{&k, &v} {
			t, err := c.make(1+i, h.t.DType, tensor.Shape{int64(h.batch), int64(h.n), int64(past + h.len), int64(h.size)})
			if err != nil {
				return err
			}
			*h = grown(t, c.tensor(6+i), 0, 0, past, *h)
		}
	}
	var scores tensor.Tensor
	if c.wants(3) {
		if scores, err = c.make(3, q.t.DType, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(k.len)}); err != nil {
			return err
		}
	}
	return c.masked(q, k, v, 4, 5, past, c.flag("unidirectional"), scores)
}

// decoderMaskedMultiHeadAttention attends with one query a sequence; its keys and
// values are written into buffers that hold more than the past. Buffers are
// [B,H,M,D], as the kernels of processors have them: the reordering of keys that
// the schema speaks of is CUDA's.
func decoderMaskedMultiHeadAttention(c *call) error {
	q, k, v, cross, err := c.multiHead(10)
	if err != nil {
		return err
	}
	if q.len != 1 {
		return badInput(0, "has shape %v, wants one query a sequence", c.tensor(0).Shape)
	}
	for _, i := range []int{8, 9} {
		if c.has(i) {
			return badInput(i, "is for beams, which are not supported")
		}
	}
	past := 0
	if !cross {
		if !c.flag("past_present_share_buffer") || !c.has(5) || !c.has(7) {
			return errors.New("attribute past_present_share_buffer 1, past_key, past_value and past_sequence_length are wanted for a self attention")
		}
		room, err := c.pastLength(5, k, v)
		if err != nil {
			return err
		}
		n, err := c.intOf(7)
		if err != nil {
			return err
		}
		if n < 0 || n+int64(k.len) > int64(room) {
			return badInput(7, "is %d, the buffers hold %d", n, room)
		}
		past = int(n)
		for i, h := range []*heads{&k, &v} {
			t, err := c.make(1+i, h.t.DType, c.tensor(5+i).Shape)
			if err != nil {
				return err
			}
			move(t, 0, c.tensor(5+i), 0, t.Len())
			all := headMajor(t, h.batch, h.n, room, h.size)
			for b := range h.batch {
				for n := range h.n {
					all.moved(b, n, past, *h, 0, h.len)
				}
			}
			all.len = past + h.len
			*h = all
		}
	}
	var scores tensor.Tensor
	if c.wants(3) {
		if scores, err = c.make(3, q.t.DType, tensor.Shape{int64(q.batch), int64(q.n), int64(q.len), int64(k.len)}); err != nil {
			return err
		}
	}
	return c.masked(q, k, v, 3, 4, past, false, scores)
}

func microsoftAttention(c *call) error {
	x, w := c.tensor(0), c.tensor(1)
	if len(x.Shape) != 3 || len(w.Shape) != 2 || w.Shape[0] != x.Shape[2] {
		return fmt.Errorf("shapes %v and %v do not fit: [B,S,I] and [I,3*H*D] are wanted", x.Shape, w.Shape)
	}
	sizes := c.ints("qkv_hidden_sizes")
	if sizes == nil {
		if w.Shape[1]%3 != 0 {
			return badInput(1, "has shape %v, whose columns are not three times as many", w.Shape)
		}
		sizes = []int64{w.Shape[1] / 3, w.Shape[1] / 3, w.Shape[1] / 3}
	}
	if len(sizes) != 3 || sizes[0] < 0 || sizes[0] != sizes[1] || sizes[2] < 0 || sizes[0] > w.Shape[1] || sizes[0]*2+sizes[2] != w.Shape[1] {
		return fmt.Errorf("attribute qkv_hidden_sizes is %v for weights %v", sizes, w.Shape)
	}
	y, err := c.sub("", "MatMul", nil, x, w)
	if err != nil {
		return err
	}
	if c.has(2) {
		if !c.tensor(2).Shape.Equal(w.Shape[1:]) {
			return badInput(2, "has shape %v, wants [%d]", c.tensor(2).Shape, w.Shape[1])
		}
		if y, err = c.sub("", "Add", nil, y, c.tensor(2)); err != nil {
			return err
		}
	}
	if c.has(6) {
		return badInput(6, "is for shared buffers, which are not supported")
	}
	return c.selfAttention(y, sizes, 3, 4, 5)
}

// selfAttention is the rest of Attention: qkv holds the three projections side by
// side, sizes their widths. past and present are [2,B,H,_,D].
func (c *call) selfAttention(qkv tensor.Tensor, sizes []int64, maskInput, pastInput, biasInput int) error {
	if c.flag("do_rotary") || c.flag("past_present_share_buffer") {
		return errors.New("attributes do_rotary and past_present_share_buffer are not supported")
	}
	n, d, err := c.headCount(1, sizes[0])
	if err != nil {
		return err
	}
	_, dv, err := c.headCount(1, sizes[2])
	if err != nil {
		return err
	}
	batch, length, width := int(qkv.Shape[0]), int(qkv.Shape[1]), int(qkv.Shape[2])
	q := heads{t: qkv, batch: batch, n: n, len: length, size: d, st: [3]int{length * width, d, width}}
	k, v := q.from(n*d), q.from(2*n*d)
	v.size, v.st[1] = dv, dv
	past := 0
	if c.has(pastInput) || c.wants(1) {
		var before tensor.Tensor
		if dv != d {
			return errors.New("past and present want keys and values of one size")
		}
		if c.has(pastInput) {
			before = c.tensor(pastInput)
			if s := before.Shape; len(s) != 5 || s[0] != 2 || s[1] != int64(batch) || s[2] != int64(n) || s[4] != int64(d) {
				return badInput(pastInput, "has shape %v, wants [2,%d,%d,P,%d]", s, batch, n, d)
			}
			past = int(before.Shape[3])
		}
		t, err := c.make(1, qkv.DType, tensor.Shape{2, int64(batch), int64(n), int64(past + length), int64(d)})
		if err != nil {
			return err
		}
		k = grown(t, before, 0, 0, past, k)
		v = grown(t, before, batch*n*(past+length)*d, batch*n*past*d, past, v)
	}
	return c.masked(q, k, v, maskInput, biasInput, past, c.flag("unidirectional"), tensor.Tensor{})
}

// qAttention is Attention of integers: the projections are MatMulIntegerToFloat.
func qAttention(c *call) error {
	x, w := c.tensor(0), c.tensor(1)
	if len(x.Shape) != 3 || len(w.Shape) != 2 || w.Shape[0] != x.Shape[2] || w.Shape[1]%3 != 0 {
		return fmt.Errorf("shapes %v and %v do not fit: [B,S,I] and [I,3*H*D] are wanted", x.Shape, w.Shape)
	}
	y, err := c.sub(c.op.Domain, "MatMulIntegerToFloat", nil, x, w, c.tensor(3), c.tensor(4), c.tensor(6), c.tensor(7), c.tensor(2))
	if err != nil {
		return err
	}
	width := w.Shape[1] / 3
	return c.selfAttention(y, []int64{width, width, width}, 5, 8, -1)
}

// rotation turns pairs of elements by angles from caches [M,half].
type rotation struct {
	cos, sin    tensor.Tensor
	half        int
	interleaved bool
}

// newRotation reads caches, inputs i and i+1, for heads of a size.
func (c *call) newRotation(i, size int, interleaved bool) (*rotation, error) {
	r := &rotation{cos: c.tensor(i), sin: c.tensor(i + 1), interleaved: interleaved}
	s := r.cos.Shape
	if len(s) != 2 || s[1] < 1 || s[1] > int64(size/2) {
		return nil, badInput(i, "has shape %v, wants [M,%d] or fewer columns", s, size/2)
	}
	if !r.sin.Shape.Equal(s) {
		return nil, badInput(i+1, "has shape %v, cos_cache has %v", r.sin.Shape, s)
	}
	r.half = int(s[1])
	return r, nil
}

// turn rotates the first elements of v by the angles of a position, which must be
// one of the caches'.
func (r *rotation) turn(v []float64, position int) {
	for i := range r.half {
		a, b := i, i+r.half
		if r.interleaved {
			a, b = 2*i, 2*i+1
		}
		cos, sin := floatAt(r.cos, position*r.half+i), floatAt(r.sin, position*r.half+i)
		v[a], v[b] = cos*v[a]-sin*v[b], sin*v[a]+cos*v[b]
	}
}

// microsoftRotaryEmbedding rotates [B,S,H*D] or [B,H,S,D]. position_ids are one
// for each token, or where the sequences begin, [1]. The kernel takes no notice of
// the attribute scale, nor on processors of is_packed_batching but that it
// allows sequences longer than the caches.
func microsoftRotaryEmbedding(c *call) error {
	x := c.tensor(0)
	s := x.Shape
	dim, n := c.int("rotary_embedding_dim"), c.int("num_heads")
	if dim < 0 || n < 0 || dim > 0 && n == 0 {
		return fmt.Errorf("attributes rotary_embedding_dim %d and num_heads %d: both must be given where one is", dim, n)
	}
	cos := c.tensor(2).Shape
	if len(cos) != 2 {
		return badInput(2, "has shape %v, wants [M,D/2]", cos)
	}
	var h, out heads
	var err error
	switch {
	case len(s) == 4:
		if n > 0 && n != s[1] {
			return badInput(0, "has shape %v, attribute num_heads is %d", s, n)
		}
		h = headMajor(x, int(s[0]), int(s[1]), int(s[2]), int(s[3]))
	case len(s) == 3:
		// Without a number of heads the caches are as wide as half of one.
		if n == 0 {
			if cos[1] == 0 || s[2]%(2*cos[1]) != 0 {
				return badInput(2, "has shape %v, which heads of %v can't have", cos, s)
			}
			n = s[2] / (2 * cos[1])
		}
		if n == 0 || s[2] < n || s[2]%n != 0 {
			return badInput(0, "has shape %v, which does not split into %d heads", s, n)
		}
		h = rowMajor(x, int(s[0]), int(s[1]), int(n), int(s[2]/n))
	default:
		return badInput(0, "has shape %v, wants [B,S,H*D] or [B,H,S,D]", s)
	}
	r, err := c.newRotation(2, h.size, c.flag("interleaved"))
	if err != nil {
		return err
	}
	want := int64(h.size)
	if dim > 0 {
		want = dim
	}
	if 2*cos[1] != want {
		return badInput(2, "has shape %v, wants %d elements to turn", cos, want)
	}
	ids := c.tensor(1)
	offset := ids.Shape.Equal(tensor.Shape{1})
	if !offset && !ids.Shape.Equal(tensor.Shape{int64(h.batch), int64(h.len)}) {
		return badInput(1, "has shape %v, wants [1] or [%d,%d]", ids.Shape, h.batch, h.len)
	}
	position := func(b, p int) int64 {
		if offset {
			return intAt(ids, 0) + int64(p)
		}
		return intAt(ids, b*h.len+p)
	}
	for b := range h.batch {
		for p := range h.len {
			if at := position(b, p); at < 0 || at >= cos[0] || offset && intAt(ids, 0) < 0 {
				return badInput(1, "gives position %d, the caches have %d", at, cos[0])
			}
		}
	}
	if err := c.reserve(int64(h.size) * 8 * int64(runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	out = h
	if out.t, err = c.make(0, x.DType, s); err != nil {
		return err
	}
	return c.parallel(h.batch*h.n, 1, func(item, _ int) error {
		b, n := item/h.n, item%h.n
		v := make([]float64, h.size)
		for p := range h.len {
			loadFloat(v, h.t, h.offset(b, n, p))
			r.turn(v, int(position(b, p)))
			storeFloat(out.t, out.offset(b, n, p), v)
		}
		return nil
	})
}
