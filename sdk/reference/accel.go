package reference

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

// Operators of Accel's own domain, version 1: docs/architecture.md, section 2.
var accelOps = []spec{
	{"PagedAttention", since(1),
		"q T:float, k? T, v? T, k_pages K:float|i8|u8, v_pages V:float|i8|u8, slots? i64, page_tables i64, lengths i64, starts i64, " +
			"k_scales? f16, v_scales? f16, bias? float -> o T, k_pages? K, v_pages? V, k_scales? f16, v_scales? f16",
		"scale float, softcap float=0, window int=0, causal int=1, k_bits int=0, v_bits int=0", pagedAttention},
	{"PagedWrite", since(1),
		"k T:float, v T, slots i64, k_pages K:float|i8|u8, v_pages V:float|i8|u8, k_scales? f16, v_scales? f16 -> " +
			"k_pages K, v_pages V, k_scales? f16, v_scales? f16",
		"k_bits int=0, v_bits int=0", pagedWrite},
	{"MatMulBlocks", since(1), "A T:float, codes u8, scales S:f32|f16, mins? S -> Y T", "bits int!, block int!, K int!, N int!, accuracy_level int=0", matMulBlocks},
	{"GatherBlocks", since(1), "codes u8, scales S:f32|f16, mins? S, ids idx -> rows f32", "bits int!, block int!, K int!", gatherBlocks},
}

// kvPool is the pages of keys or of values: [P,S,Hkv,D], or quantised with a scale
// [P,S,Hkv] for each token and head.
type kvPool struct {
	t, scales        tensor.Tensor
	bits             int // 0: the pool's own floating-point type
	places           int // P*S
	perPage          int // S
	heads, size, row int // row: elements of the tensor a head
}

// kvPool reads pages at input i, scales at input si, bits from an attribute.
func (c *call) kvPool(i, si int, attr string) (*kvPool, error) {
	t := c.tensor(i)
	if len(t.Shape) != 4 {
		return nil, badInput(i, "has shape %v, wants [P,S,H,D]", t.Shape)
	}
	p := &kvPool{t: t, bits: int(c.int(attr)), places: int(t.Shape[0] * t.Shape[1]), perPage: int(t.Shape[1]),
		heads: int(t.Shape[2]), size: int(t.Shape[3]), row: int(t.Shape[3])}
	switch {
	case t.DType.IsFloat() && p.bits == 0:
	case t.DType == tensor.Int8 && (p.bits == 0 || p.bits == 8):
		p.bits = 8
	case t.DType == tensor.Uint8 && p.bits == 4:
		p.size *= 2
	default:
		return nil, badInput(i, "is of type %s, which does not go with %s = %d", t.DType, attr, p.bits)
	}
	if (p.bits != 0) != c.has(si) {
		return nil, badInput(si, "must be given for quantised pools, and for them only")
	}
	if p.bits != 0 {
		p.scales = c.tensor(si)
		if !p.scales.Shape.Equal(t.Shape[:3]) {
			return nil, badInput(si, "has shape %v, wants %v", p.scales.Shape, t.Shape[:3])
		}
	}
	return p, nil
}

// like reports whether both have the same pages and heads.
func (p *kvPool) like(q *kvPool) bool { return p.t.Shape[:3].Equal(q.t.Shape[:3]) }

// updatable is the pool, given as outputs o and so, in memory that may be written to:
// its own where the run allows that, else a copy.
func (c *call) updatable(p *kvPool, o, so int) (*kvPool, error) {
	q := *p
	for _, x := range []struct {
		t   *tensor.Tensor
		out int
	}{{&q.t, o}, {&q.scales, so}} {
		if x.t.DType == tensor.Undefined {
			continue
		}
		if c.run != nil && len(x.t.Data) > 0 && slices.Contains(c.run.writable, &x.t.Data[0]) {
			c.give(x.out, *x.t)
			continue
		}
		t, err := c.new(x.t.DType, x.t.Shape)
		if err != nil {
			return nil, err
		}
		move(t, 0, *x.t, 0, t.Len())
		*x.t = t
		c.give(x.out, t)
	}
	return &q, nil
}

// write stores one head of one token.
func (p *kvPool) write(place, head int, v []float64) {
	at := place*p.heads + head
	if p.bits == 0 {
		storeFloat(p.t, at*p.row, v)
		return
	}
	largest := 0.0
	for _, x := range v {
		largest = max(largest, math.Abs(x))
	}
	limit := float64(int(1)<<(p.bits-1) - 1)
	// The scale is rounded to float16 first: it is what readers multiply with.
	putFloat(p.scales, at, float64(float32(largest)/float32(limit)))
	scale := floatAt(p.scales, at)
	for i, x := range v {
		n := math.RoundToEven(float64(float32(x) / float32(scale)))
		if scale == 0 || n != n {
			n = 0
		}
		n = min(max(n, -limit), limit)
		if p.bits == 8 {
			putInt(p.t, at*p.row+i, int64(n))
		} else {
			setPacked(p.t.Data[at*p.row:], 4, i, uint8(int64(n)+8))
		}
	}
}

func (p *kvPool) read(dst []float64, place, head int) {
	at := place*p.heads + head
	if p.bits != 4 {
		loadFloat(dst, p.t, at*p.row)
	} else {
		for i := range dst {
			dst[i] = float64(packed(p.t.Data[at*p.row:], 4, i)) - 8
		}
	}
	if p.bits != 0 {
		scale := floatAt(p.scales, at)
		for i := range dst {
			dst[i] *= scale
		}
	}
}

// writePools stores tokens, inputs k and v [T,H,D], into the places that input
// slots names.
func (c *call) writePools(k, v, slots int, keys, values *kvPool) error {
	s := c.tensor(slots)
	tokens := int64(s.Len())
	for _, x := range []struct {
		input int
		pool  *kvPool
	}{{k, keys}, {v, values}} {
		t := c.tensor(x.input)
		want := tensor.Shape{tokens, int64(x.pool.heads), int64(x.pool.size)}
		if len(s.Shape) != 1 || !t.Shape.Equal(want) {
			return badInput(x.input, "has shape %v, wants %v", t.Shape, want)
		}
	}
	for i := range s.Len() {
		if at := intAt(s, i); at < 0 || at >= int64(min(keys.places, values.places)) {
			return badInput(slots, "holds %d, the pools have %d places", at, min(keys.places, values.places))
		}
	}
	for _, x := range []struct {
		input int
		pool  *kvPool
	}{{k, keys}, {v, values}} {
		t := c.tensor(x.input)
		row := make([]float64, x.pool.size)
		for i := range s.Len() {
			for h := range x.pool.heads {
				loadFloat(row, t, (i*x.pool.heads+h)*x.pool.size)
				x.pool.write(int(intAt(s, i)), h, row)
			}
		}
	}
	return c.ctx.Err()
}

func pagedWrite(c *call) error {
	keys, err := c.kvPool(3, 5, "k_bits")
	if err != nil {
		return err
	}
	values, err := c.kvPool(4, 6, "v_bits")
	if err != nil {
		return err
	}
	if !keys.like(values) {
		return badInput(4, "has shape %v, the keys have %v", values.t.Shape, keys.t.Shape)
	}
	if keys, err = c.updatable(keys, 0, 2); err != nil {
		return err
	}
	if values, err = c.updatable(values, 1, 3); err != nil {
		return err
	}
	return c.writePools(0, 1, 2, keys, values)
}

func pagedAttention(c *call) error {
	q := c.tensor(0)
	keys, err := c.kvPool(3, 9, "k_bits")
	if err != nil {
		return err
	}
	values, err := c.kvPool(4, 10, "v_bits")
	if err != nil {
		return err
	}
	if len(q.Shape) != 3 || q.Shape[2] != int64(keys.size) || keys.heads == 0 || q.Shape[1]%int64(keys.heads) != 0 {
		return badInput(0, "has shape %v, wants [T,H,%d] with a multiple of %d heads", q.Shape, keys.size, keys.heads)
	}
	if !keys.like(values) {
		return badInput(4, "has shape %v, the keys have %v", values.t.Shape, keys.t.Shape)
	}
	seqs, err := c.sequences(int(q.Shape[0]), keys)
	if err != nil {
		return err
	}
	switch given := [3]bool{c.has(1), c.has(2), c.has(5)}; given {
	case [3]bool{true, true, true}:
		if !c.wants(1) || !c.wants(2) {
			return errors.New("the pools are written, and outputs k_pages or v_pages left out")
		}
		if keys, err = c.updatable(keys, 1, 3); err != nil {
			return err
		}
		if values, err = c.updatable(values, 2, 4); err != nil {
			return err
		}
		if c.tensor(5).Len() != int(q.Shape[0]) {
			return badInput(5, "has shape %v for %d tokens", c.tensor(5).Shape, q.Shape[0])
		}
		if err := c.writePools(1, 2, 5, keys, values); err != nil {
			return err
		}
	case [3]bool{}:
		for i, t := range []tensor.Tensor{keys.t, values.t, keys.scales, values.scales} {
			if t.DType != tensor.Undefined {
				c.give(i+1, t)
			}
		}
	default:
		return errors.New("k, v and slots must be given together, or none of them")
	}
	return c.attendPages(seqs, keys, values)
}

// sequence is one of the ragged batch: its tokens and its pages.
type sequence struct {
	first, tokens int
	length        int   // tokens in the cache
	pages         []int // those that the length reaches
}

func (c *call) sequences(tokens int, p *kvPool) ([]sequence, error) {
	table, lengths, starts := c.tensor(6), c.tensor(7), c.tensor(8)
	if len(lengths.Shape) != 1 {
		return nil, badInput(7, "has shape %v, wants [B]", lengths.Shape)
	}
	b := lengths.Len()
	if !starts.Shape.Equal(tensor.Shape{int64(b + 1)}) {
		return nil, badInput(8, "has shape %v, wants [%d]", starts.Shape, b+1)
	}
	if len(table.Shape) != 2 || table.Shape[0] != int64(b) {
		return nil, badInput(6, "has shape %v, wants [%d,M]", table.Shape, b)
	}
	if intAt(starts, 0) != 0 || intAt(starts, b) != int64(tokens) {
		return nil, badInput(8, "runs from %d to %d for %d tokens", intAt(starts, 0), intAt(starts, b), tokens)
	}
	width := int(table.Shape[1])
	ordered := c.has(5) || c.flag("causal") || c.int("window") > 0
	seqs := make([]sequence, b)
	for i := range seqs {
		first, next, length := intAt(starts, i), intAt(starts, i+1), intAt(lengths, i)
		if next < first || next > int64(tokens) {
			return nil, badInput(8, "goes from %d to %d for %d tokens", first, next, tokens)
		}
		// Where positions do not matter, as in cross attention, queries are not among
		// the cache's tokens and may be more than those.
		if length < 0 || length < next-first && ordered || length > int64(width*p.perPage) {
			return nil, badInput(7, "is %d for %d tokens and %d pages of %d", length, next-first, width, p.perPage)
		}
		s := sequence{first: int(first), tokens: int(next - first), length: int(length)}
		for k := 0; k*p.perPage < s.length; k++ {
			page := intAt(table, i*width+k)
			if page < 0 || page >= int64(p.places/p.perPage) {
				return nil, badInput(6, "holds page %d, there are %d", page, p.places/p.perPage)
			}
			s.pages = append(s.pages, int(page))
		}
		seqs[i] = s
	}
	return seqs, nil
}

func (c *call) attendPages(seqs []sequence, keys, values *kvPool) error {
	q := c.tensor(0)
	heads := int(q.Shape[1])
	out, err := c.make(0, q.DType, tensor.Shape{q.Shape[0], q.Shape[1], int64(values.size)})
	if err != nil {
		return err
	}
	window, causal, softcap := c.int("window"), c.flag("causal"), c.float("softcap")
	if window < 0 {
		return fmt.Errorf("attribute window is %d", window)
	}
	scale := 1 / math.Sqrt(float64(keys.size))
	if c.hasAttr("scale") {
		scale = c.float("scale")
	}
	bias := c.tensor(11)
	if c.has(11) {
		if len(bias.Shape) != 2 || bias.Shape[0] != int64(heads) || bias.Shape[1] < 1 {
			return badInput(11, "has shape %v, wants [%d,R]", bias.Shape, heads)
		}
		if !causal {
			return badInput(11, "goes by the distance to earlier tokens: attribute causal must be 1")
		}
	}
	longest := 0
	for _, s := range seqs {
		longest = max(longest, s.length)
	}
	scratch := (int64(longest)*int64(keys.size+values.size+1) + int64(keys.size+values.size)) * 8
	if err := c.reserve(scratch * int64(min(len(seqs)*heads, runtime.GOMAXPROCS(0)))); err != nil {
		return err
	}
	return c.parallel(len(seqs)*heads, 1, func(item, _ int) error {
		s, h := seqs[item/heads], item%heads
		kv := h / (heads / keys.heads)
		ks, vs := make([]float64, s.length*keys.size), make([]float64, s.length*values.size)
		for j := range s.length {
			place := s.pages[j/keys.perPage]*keys.perPage + j%keys.perPage
			keys.read(ks[j*keys.size:(j+1)*keys.size], place, kv)
			values.read(vs[j*values.size:(j+1)*values.size], place, kv)
		}
		query, sum := make([]float64, keys.size), make([]float64, values.size)
		scores := make([]float64, s.length)
		for t := range s.tokens {
			if t%64 == 0 {
				if err := c.ctx.Err(); err != nil {
					return err
				}
			}
			pos := s.length - s.tokens + t
			from, to := 0, s.length
			if causal {
				to = pos + 1
			}
			if window > 0 {
				from = max(0, pos-int(min(window, int64(s.length)+1))+1)
			}
			at := (s.first+t)*heads + h
			loadFloat(query, q, at*keys.size)
			row := scores[:max(0, to-from)]
			for i := range row {
				j := from + i
				row[i] = scale * dot(query, ks[j*keys.size:(j+1)*keys.size])
				if bias.DType != tensor.Undefined {
					r := int(bias.Shape[1])
					row[i] += floatAt(bias, h*r+min(pos-j, r-1))
				}
				if softcap > 0 {
					row[i] = softcap * math.Tanh(row[i]/softcap)
				}
			}
			softmax(row)
			weighted(sum, row, vs[from*values.size:])
			storeFloat(out, at*values.size, sum)
		}
		return nil
	})
}
