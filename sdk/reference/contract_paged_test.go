package reference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// poolKind is a type of pool: plain, or quantised to so many bits.
type poolKind struct {
	d    tensor.DType
	bits int64
}

var poolKinds = map[string]poolKind{
	"f32": {tensor.Float32, 0}, "bf16": {tensor.BFloat16, 0}, "f16": {tensor.Float16, 0}, "int8": {tensor.Int8, 8}, "4bit": {tensor.Uint8, 4},
}

// pagedCase is a ragged batch, and what attends to it how.
type pagedCase struct {
	hq, hkv, d, dv, pageSize int
	tokens, lengths          []int // by sequence
	padding                  int   // how many of the last sequences stand on page 0
	shared                   int   // pages that all sequences, but padding, begin with
	keys, values             string
	query                    tensor.DType
	scale, softcap           float64
	window, bias             int // 0: none
	causal, readOnly         bool
}

// pagedInputs are the tensors of a case.
type pagedInputs struct {
	q, k, v, kp, vp, slots, tables, lengths, starts, ks, vs, bias tensor.Tensor
}

func ofType(t tensor.Tensor, d tensor.DType) tensor.Tensor {
	out, err := tensor.New(d, t.Shape)
	if err != nil {
		panic(err)
	}
	for i := range t.Len() {
		putFloat(out, i, floatAt(t, i))
	}
	return out
}

// draw makes inputs: pages in random order, pools full of numbers.
func (c pagedCase) draw(r *rand.Rand) pagedInputs {
	var in pagedInputs
	total, width := 0, 1
	next := c.shared + 1
	pages := make([][]int, len(c.tokens))
	for b, length := range c.lengths {
		total += c.tokens[b]
		for i := range (length + c.pageSize - 1) / c.pageSize {
			switch {
			case b >= len(c.tokens)-c.padding:
				pages[b] = append(pages[b], 0)
			case i < c.shared:
				pages[b] = append(pages[b], i+1)
			default:
				pages[b] = append(pages[b], next)
				next++
			}
		}
		width = max(width, len(pages[b]))
	}
	count := next + 1 // one is nobody's
	order := append([]int{0}, r.Perm(count-1)...)
	for i := range order[1:] {
		order[i+1]++
	}
	in.tables = tensor.Ints(tensor.Shape{int64(len(pages)), int64(width)}, make([]int64, len(pages)*width)...)
	in.lengths = tensor.Ints(tensor.Shape{int64(len(pages))}, make([]int64, len(pages))...)
	in.starts = tensor.Ints(tensor.Shape{int64(len(pages) + 1)}, make([]int64, len(pages)+1)...)
	in.slots = tensor.Ints(tensor.Shape{int64(total)}, make([]int64, total)...)
	at := 0
	for b := range pages {
		for i, p := range pages[b] {
			putInt(in.tables, b*width+i, int64(order[p]))
		}
		putInt(in.lengths, b, int64(c.lengths[b]))
		for t := range c.tokens[b] {
			if c.readOnly {
				break
			}
			pos := c.lengths[b] - c.tokens[b] + t
			putInt(in.slots, at+t, int64(order[pages[b][pos/c.pageSize]]*c.pageSize+pos%c.pageSize))
		}
		at += c.tokens[b]
		putInt(in.starts, b+1, int64(at))
	}
	in.q = ofType(randomFloats(r, tensor.Shape{int64(total), int64(c.hq), int64(c.d)}), c.query)
	pool := func(kind string, size int) (p, s tensor.Tensor) {
		k := poolKinds[kind]
		shape := tensor.Shape{int64(count), int64(c.pageSize), int64(c.hkv), int64(size)}
		if k.bits == 0 {
			return ofType(randomFloats(r, shape), k.d), s
		}
		if k.bits == 4 {
			shape[3] /= 2
		}
		p, _ = tensor.New(k.d, shape)
		for i := range p.Data {
			p.Data[i] = byte(r.Uint32())
			switch {
			case k.bits == 8 && p.Data[i] == 0x80:
				p.Data[i] = 0
			case k.bits == 4:
				p.Data[i] = byte(1+r.IntN(15)) | byte(1+r.IntN(15))<<4
			}
		}
		s, _ = tensor.New(tensor.Float16, shape[:3])
		for i := range s.Len() {
			putFloat(s, i, r.Float64()*2/float64(int(1)<<k.bits))
		}
		return p, s
	}
	in.kp, in.ks = pool(c.keys, c.d)
	in.vp, in.vs = pool(c.values, c.dv)
	if c.readOnly {
		in.slots = tensor.Tensor{}
	} else {
		in.k = ofType(randomFloats(r, tensor.Shape{int64(total), int64(c.hkv), int64(c.d)}), c.query)
		in.v = ofType(randomFloats(r, tensor.Shape{int64(total), int64(c.hkv), int64(c.dv)}), c.query)
	}
	if c.bias > 0 {
		in.bias = ofType(randomFloats(r, tensor.Shape{int64(c.hq), int64(c.bias)}), c.query)
	}
	return in
}

func (in pagedInputs) list() []graph.Datum {
	all := values(in.q, in.k, in.v, in.kp, in.vp, in.slots, in.tables, in.lengths, in.starts, in.ks, in.vs, in.bias)
	for len(all) > 0 && all[len(all)-1].Kind == 0 {
		all = all[:len(all)-1]
	}
	return all
}

func (c pagedCase) attrs() []*graph.Attr {
	flag := int64(0)
	if c.causal {
		flag = 1
	}
	a := []*graph.Attr{graph.IntAttr("window", int64(c.window)), graph.IntAttr("causal", flag), graph.FloatAttr("softcap", float32(c.softcap)),
		graph.IntAttr("k_bits", poolKinds[c.keys].bits), graph.IntAttr("v_bits", poolKinds[c.values].bits)}
	if c.scale != 0 {
		a = append(a, graph.FloatAttr("scale", float32(c.scale)))
	}
	return a
}

// naivePool is a pool as the contract's text has it: at each place, for each head,
// numbers; codes and scales where it is quantised.
type naivePool struct {
	kind   poolKind
	size   int
	number map[[3]int]float64 // place, head, element: the number, or the code
	scale  map[[2]int]float64
}

func readPool(kind string, size int, t, scales tensor.Tensor) naivePool {
	p := naivePool{poolKinds[kind], size, map[[3]int]float64{}, map[[2]int]float64{}}
	places, heads := int(t.Shape[0]*t.Shape[1]), int(t.Shape[2])
	for at := range places {
		for h := range heads {
			if p.kind.bits > 0 {
				p.scale[[2]int{at, h}] = floatAt(scales, at*heads+h)
			}
			for i := range size {
				v := 0.0
				if p.kind.bits == 4 {
					b := t.Data[(at*heads+h)*size/2+i/2]
					if i%2 == 1 {
						b >>= 4
					}
					v = float64(b&15) - 8
				} else {
					v = floatAt(t, (at*heads+h)*size+i)
				}
				p.number[[3]int{at, h, i}] = v
			}
		}
	}
	return p
}

func (p naivePool) at(place, head, i int) float64 {
	v := p.number[[3]int{place, head, i}]
	if p.kind.bits > 0 {
		v *= p.scale[[2]int{place, head}]
	}
	return v
}

// write follows step 1 of the contract.
func (p naivePool) write(place, head int, row []float64) {
	if p.kind.bits == 0 {
		for i, v := range row {
			p.number[[3]int{place, head, i}] = rounded(v, p.kind.d)
		}
		return
	}
	limit := map[int64]float64{8: 127, 4: 7}[p.kind.bits]
	largest := 0.0
	for _, v := range row {
		largest = math.Max(largest, math.Abs(v))
	}
	scale := rounded(largest/limit, tensor.Float16)
	p.scale[[2]int{place, head}] = scale
	for i, v := range row {
		n := 0.0
		if scale != 0 {
			n = math.Max(-limit, math.Min(limit, math.RoundToEven(v/scale)))
		}
		p.number[[3]int{place, head, i}] = n
	}
}

// naive computes a case in float64, as the contract's text says it.
func (c pagedCase) naive(in pagedInputs) (o []float64, keys, values naivePool) {
	keys, values = readPool(c.keys, c.d, in.kp, in.ks), readPool(c.values, c.dv, in.vp, in.vs)
	tokens := int(in.q.Shape[0])
	if !c.readOnly {
		for t := range tokens {
			for h := range c.hkv {
				k, v := make([]float64, c.d), make([]float64, c.dv)
				loadFloat(k, in.k, (t*c.hkv+h)*c.d)
				loadFloat(v, in.v, (t*c.hkv+h)*c.dv)
				keys.write(int(intAt(in.slots, t)), h, k)
				values.write(int(intAt(in.slots, t)), h, v)
			}
		}
	}
	scale := 1 / math.Sqrt(float64(c.d))
	if c.scale != 0 {
		scale = float64(float32(c.scale))
	}
	width := int(in.tables.Shape[1])
	for b := range len(c.tokens) {
		start := int(intAt(in.starts, b))
		for t := start; t < int(intAt(in.starts, b+1)); t++ {
			p := c.lengths[b] - c.tokens[b] + t - start
			for h := range c.hq {
				kv := h / (c.hq / c.hkv)
				var scores []float64
				var places []int
				for j := range c.lengths[b] {
					if c.causal && j > p || c.window > 0 && j <= p-c.window {
						continue
					}
					place := int(intAt(in.tables, b*width+j/c.pageSize))*c.pageSize + j%c.pageSize
					x := 0.0
					for i := range c.d {
						x += floatAt(in.q, (t*c.hq+h)*c.d+i) * keys.at(place, kv, i)
					}
					x *= scale
					if c.bias > 0 {
						x += floatAt(in.bias, h*c.bias+min(p-j, c.bias-1))
					}
					if c.softcap > 0 {
						x = float64(float32(c.softcap)) * math.Tanh(x/float64(float32(c.softcap)))
					}
					scores, places = append(scores, x), append(places, place)
				}
				sum := 0.0
				for i := range scores {
					scores[i] = math.Exp(scores[i])
					sum += scores[i]
				}
				for i := range c.dv {
					y := 0.0
					for k, place := range places {
						y += scores[k] / sum * values.at(place, kv, i)
					}
					o = append(o, y)
				}
			}
		}
	}
	return o, keys, values
}

func (c pagedCase) check(in pagedInputs, out []graph.Datum) error {
	want, keys, values := c.naive(in)
	got := out[0].Tensor
	if !got.Shape.Equal(tensor.Shape{in.q.Shape[0], int64(c.hq), int64(c.dv)}) || got.DType != c.query {
		return fmt.Errorf("o is %s", describeTensor(got))
	}
	tolerance := map[tensor.DType]float64{tensor.Float32: 1e-6, tensor.Float16: 1e-3, tensor.BFloat16: 8e-3}[c.query]
	for i, w := range want {
		if g := floatAt(got, i); math.Abs(g-w) > tolerance*(1+math.Abs(w)) {
			return fmt.Errorf("element %d of o is %g, want %g", i, g, w)
		}
	}
	for i, p := range []naivePool{keys, values} {
		scales := tensor.Tensor{}
		if p.kind.bits > 0 {
			scales = out[3+i].Tensor
		}
		name := map[int]string{0: c.keys, 1: c.values}[i]
		now := readPool(name, p.size, out[1+i].Tensor, scales)
		for at, w := range p.number {
			if g := now.number[at]; g != w {
				return fmt.Errorf("pool %d holds %g at %v, want %g", i, g, at, w)
			}
		}
		for at, w := range p.scale {
			if g := now.scale[at]; g != w {
				return fmt.Errorf("pool %d has scale %g at %v, want %g", i, g, at, w)
			}
		}
	}
	return nil
}

func (c pagedCase) outputs() int {
	if poolKinds[c.keys].bits+poolKinds[c.values].bits > 0 {
		return 5
	}
	return 3
}

// eval runs the operator.
func (c pagedCase) eval(in pagedInputs) ([]graph.Datum, error) {
	o, _ := Lookup(graph.DomainAccel, "PagedAttention", 1)
	return o.Eval(context.Background(), c.node(in), in.list(), Env{})
}

// hasBody reports whether a function covers the case: not a bias with a cap.
func (c pagedCase) hasBody() bool { return c.bias == 0 || c.softcap == 0 }

// node is the call; outputs of scales that there are none of are left out.
func (c pagedCase) node(in pagedInputs) *graph.Node {
	n := node("PagedAttention", in.list(), c.outputs(), c.attrs()...)
	n.Domain = graph.DomainAccel
	if c.outputs() == 5 {
		for i, name := range []string{c.keys, c.values} {
			if poolKinds[name].bits == 0 {
				n.Outputs[3+i] = ""
			}
		}
	}
	return n
}

// body runs a function of a call on the inputs, as another domain's, and inlined,
// which must give the same.
func body(f *graph.Function, n *graph.Node, in []graph.Datum) ([]graph.Datum, error) {
	if f == nil {
		return nil, errors.New("there is no function")
	}
	f, n = f.Clone(), n.Clone()
	f.Domain, n.Domain = "test", "test"
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 23, "test": 1}, Graph: &graph.Graph{Name: "g"}, Functions: []*graph.Function{f}}
	inputs := map[string]graph.Datum{}
	for i, v := range in {
		if v.Kind != 0 {
			m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: n.Inputs[i], Type: &graph.Type{Kind: graph.KindTensor, Elem: v.Tensor.DType}})
			inputs[n.Inputs[i]] = v
		}
	}
	for _, o := range n.Outputs {
		if o != "" {
			m.Graph.Outputs = append(m.Graph.Outputs, &graph.Value{Name: o})
		}
	}
	m.Graph.Nodes = []*graph.Node{n}
	flat := m.Clone()
	if err := graph.Inline(flat, nil); err != nil {
		return nil, err
	}
	var out []graph.Datum
	for _, m := range []*graph.Model{m, flat} {
		p, err := New(m, Options{})
		if err != nil {
			return nil, err
		}
		got, err := p.RunValues(context.Background(), inputs, nil)
		if err != nil {
			return nil, err
		}
		for i, o := range n.Outputs {
			if m == flat {
				if o == "" {
					continue
				}
				if err := sameTensor(got[o].Tensor, out[i].Tensor, 0, 0); err != nil {
					return nil, fmt.Errorf("output %d of the inlined body %w", i, err)
				}
				continue
			}
			out = append(out, got[o])
		}
	}
	return out, nil
}

// try compares operator and, where it has one, body with the plain computation.
func (c pagedCase) try(r *rand.Rand) error {
	in := c.draw(r)
	out, err := c.eval(in)
	if err != nil {
		return err
	}
	if err := c.check(in, out); err != nil {
		return err
	}
	if err := c.poolsLeftOut(in, out[0].Tensor); err != nil {
		return err
	}
	if !c.hasBody() {
		return nil
	}
	whole := out[0].Tensor
	n := c.node(in)
	if out, err = body(graph.ContractFunctionOf(n), n, in.list()); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if err := c.check(in, out); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if out, err = c.rows(in); err != nil {
		return fmt.Errorf("rows: %w", err)
	}
	// Padding on one page writes over its neighbours, whose rows still see their own.
	kept := 0
	for _, n := range c.tokens[:len(c.tokens)-c.padding] {
		kept += n
	}
	if at := kept * len(whole.Data) / max(int(whole.Shape[0]), 1); at < len(whole.Data) {
		copy(out[0].Tensor.Data[at:], whole.Data[at:])
	}
	if err := c.check(in, out); err != nil {
		return fmt.Errorf("rows: %w", err)
	}
	return nil
}

// poolsLeftOut asks for o alone, which a call gives that only reads.
func (c pagedCase) poolsLeftOut(in pagedInputs, o tensor.Tensor) error {
	op, _ := Lookup(graph.DomainAccel, "PagedAttention", 1)
	n := c.node(in)
	n.Outputs = n.Outputs[:1]
	out, err := op.Eval(context.Background(), n, in.list(), Env{})
	if !c.readOnly {
		if err == nil || !strings.Contains(err.Error(), "left out") {
			return fmt.Errorf("pools that are written were left out: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return sameTensor(out[0].Tensor, o, 0, 0)
}

// rows runs the form that only reads pools, and writes its rows into them.
func (c pagedCase) rows(in pagedInputs) ([]graph.Datum, error) {
	n := c.node(in)
	f := graph.PagedRowsFunction(n)
	pools := []tensor.Tensor{in.kp, in.vp, in.ks, in.vs}
	if c.readOnly {
		n.Outputs = n.Outputs[:1]
	}
	out, err := body(f, n, in.list())
	if err != nil {
		return nil, err
	}
	full := []graph.Datum{out[0]}
	for i, p := range pools {
		if p.DType == tensor.Undefined {
			full = append(full, graph.Datum{})
			continue
		}
		now := tensor.Tensor{DType: p.DType, Shape: p.Shape, Data: slices.Clone(p.Data)}
		if !c.readOnly {
			rows := out[1+i].Tensor
			if rows.DType != p.DType || !rows.Shape[1:].Equal(p.Shape[2:]) {
				return nil, fmt.Errorf("rows of pool %d are %s", i, describeTensor(rows))
			}
			width := len(rows.Data) / max(int(rows.Shape[0]), 1)
			for t := range int(rows.Shape[0]) {
				copy(now.Data[int(intAt(in.slots, t))*width:], rows.Data[t*width:(t+1)*width])
			}
		}
		full = append(full, graph.TensorDatum(now))
	}
	return full, nil
}

func TestPagedAttention(t *testing.T) {
	base := pagedCase{hq: 4, hkv: 2, d: 8, dv: 8, pageSize: 4, tokens: []int{5, 1, 3}, lengths: []int{5, 9, 7}, keys: "f32", values: "f32",
		query: tensor.Float32, causal: true}
	cases := map[string]func(*pagedCase){
		"plain":                 func(*pagedCase) {},
		"bf16 pools":            func(c *pagedCase) { c.keys, c.values = "bf16", "bf16" },
		"f16 pools":             func(c *pagedCase) { c.keys, c.values = "f16", "f16" },
		"f16 throughout":        func(c *pagedCase) { c.keys, c.values, c.query = "f16", "f16", tensor.Float16 },
		"bf16 throughout":       func(c *pagedCase) { c.keys, c.values, c.query = "bf16", "bf16", tensor.BFloat16 },
		"int8":                  func(c *pagedCase) { c.keys, c.values = "int8", "int8" },
		"4 bit":                 func(c *pagedCase) { c.keys, c.values = "4bit", "4bit" },
		"int8 keys, 4 bit":      func(c *pagedCase) { c.keys, c.values = "int8", "4bit" },
		"plain keys, int8":      func(c *pagedCase) { c.keys, c.values = "f16", "int8" },
		"4 bit keys, plain":     func(c *pagedCase) { c.keys, c.values = "4bit", "f32" },
		"read only":             func(c *pagedCase) { c.readOnly = true },
		"read only, int8":       func(c *pagedCase) { c.readOnly, c.keys, c.values = true, "int8", "int8" },
		"cross":                 func(c *pagedCase) { c.readOnly, c.causal = true, false },
		"cross, short keys":     func(c *pagedCase) { c.readOnly, c.causal, c.lengths = true, false, []int{3, 1, 2} },
		"cross, no keys":        func(c *pagedCase) { c.readOnly, c.causal, c.lengths = true, false, []int{3, 0, 2} },
		"not causal":            func(c *pagedCase) { c.causal = false },
		"softcap":               func(c *pagedCase) { c.softcap = 0.7 },
		"window":                func(c *pagedCase) { c.window = 3 },
		"window of one":         func(c *pagedCase) { c.window = 1 },
		"window, not causal":    func(c *pagedCase) { c.window, c.causal = 2, false },
		"window, softcap, int8": func(c *pagedCase) { c.window, c.softcap, c.keys, c.values = 4, 2, "int8", "int8" },
		"bias":                  func(c *pagedCase) { c.bias = 6 },
		"bias of one":           func(c *pagedCase) { c.bias = 1 },
		"bias, softcap":         func(c *pagedCase) { c.bias, c.softcap, c.scale = 3, 1, 1 },
		"scale":                 func(c *pagedCase) { c.scale = 0.1 },
		"values of other size":  func(c *pagedCase) { c.dv = 12 },
		"values smaller":        func(c *pagedCase) { c.dv, c.keys, c.values = 4, "4bit", "int8" },
		"one key head":          func(c *pagedCase) { c.hkv = 1 },
		"all heads":             func(c *pagedCase) { c.hkv = 4 },
		"pages of one":          func(c *pagedCase) { c.pageSize = 1 },
		"a large page":          func(c *pagedCase) { c.pageSize = 64 },
		"shared pages":          func(c *pagedCase) { c.shared, c.lengths = 2, []int{13, 9, 12} },
		"empty sequences":       func(c *pagedCase) { c.tokens, c.lengths = []int{0, 3, 0, 1, 0}, []int{0, 3, 6, 4, 0} },
		"no tokens":             func(c *pagedCase) { c.tokens, c.lengths = []int{0, 0}, []int{0, 5} },
		"padding":               func(c *pagedCase) { c.tokens, c.lengths, c.padding = []int{2, 1, 1, 2}, []int{6, 1, 1, 2}, 2 },
		"padding, int8": func(c *pagedCase) {
			c.tokens, c.lengths, c.padding, c.keys, c.values = []int{2, 1, 1, 2}, []int{6, 1, 1, 2}, 2, "int8", "int8"
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			c := base
			change(&c)
			if err := c.try(rand.New(rand.NewPCG(uint64(len(name)), 9))); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		})
	}
}

// Any combination gives what the contract's text says.
func TestPagedAttentionAtRandom(t *testing.T) {
	draws := 400
	if testing.Short() {
		draws = 40
	}
	bodies := 0
	kinds := []string{"f32", "bf16", "f16", "int8", "4bit"}
	for seed := range draws {
		r := rand.New(rand.NewPCG(uint64(seed), 10))
		c := pagedCase{hkv: 1 + r.IntN(3), d: 2 + 2*r.IntN(8), pageSize: 1 + r.IntN(5), causal: r.IntN(4) > 0, readOnly: r.IntN(4) == 0,
			keys: kinds[r.IntN(5)], values: kinds[r.IntN(5)], query: []tensor.DType{tensor.Float32, tensor.Float32, tensor.Float16, tensor.BFloat16}[r.IntN(4)]}
		if r.IntN(2) == 0 {
			c.keys, c.values = kinds[r.IntN(3)], kinds[r.IntN(3)]
			if c.keys != c.values { // a body casts both
				c.values = c.keys
			}
		}
		c.hq, c.dv = c.hkv*(1+r.IntN(3)), c.d
		if r.IntN(3) == 0 {
			c.dv = 2 + 2*r.IntN(8)
		}
		for range 1 + r.IntN(4) {
			n := r.IntN(5)
			c.tokens, c.lengths = append(c.tokens, n), append(c.lengths, n+r.IntN(9))
		}
		if r.IntN(3) == 0 {
			c.window = 1 + r.IntN(6)
		}
		if r.IntN(3) == 0 {
			c.softcap = 0.5 + 3*r.Float64()
		}
		if r.IntN(3) == 0 {
			c.scale = 0.1 + r.Float64()
		}
		if r.IntN(3) == 0 && c.causal {
			c.bias = 1 + r.IntN(8)
		}
		if c.hasBody() {
			bodies++
		}
		if err := c.try(r); err != nil {
			t.Errorf("seed %d: %+v: %v", seed, c, err)
		}
	}
	t.Logf("%d draws, %d of them against the body too", draws, bodies)
	if bodies == 0 {
		t.Error("no body ran")
	}
}

// What is written by PagedWrite is what PagedAttention writes, whatever the pools are of.
func TestPagedWrite(t *testing.T) {
	for keyName, keyKind := range poolKinds {
		for valueName, valueKind := range poolKinds {
			t.Run(keyName+" and "+valueName, func(t *testing.T) {
				c := pagedCase{hq: 2, hkv: 2, d: 8, dv: 4, pageSize: 3, tokens: []int{5, 2}, lengths: []int{7, 2}, keys: keyName, values: valueName, query: tensor.Float32, causal: true}
				in := c.draw(rand.New(rand.NewPCG(3, 11)))
				_, keys, values := c.naive(in)
				list := []graph.Datum{tensorValue(in.k), tensorValue(in.v), tensorValue(in.slots), tensorValue(in.kp), tensorValue(in.vp)}
				outputs := 2
				pools := []tensor.Tensor{in.kp, in.vp, in.ks, in.vs}
				var attrs []*graph.Attr
				if keyKind.bits+valueKind.bits > 0 {
					outputs = 4
					attrs = append(attrs, graph.IntAttr("k_bits", keyKind.bits), graph.IntAttr("v_bits", valueKind.bits))
				}
				for _, scales := range pools[2:outputs] {
					if scales.DType == tensor.Undefined {
						list = append(list, graph.Datum{})
					} else {
						list = append(list, tensorValue(scales))
					}
				}
				n := node("PagedWrite", list, outputs, attrs...)
				n.Domain = graph.DomainAccel
				for i, scales := range pools[2:outputs] {
					if scales.DType == tensor.Undefined {
						n.Outputs[2+i] = ""
					}
				}
				ways := map[string]func() ([]graph.Datum, error){
					"operator": func() ([]graph.Datum, error) {
						o, _ := Lookup(graph.DomainAccel, "PagedWrite", 1)
						return o.Eval(context.Background(), n, list, Env{})
					},
					"body": func() ([]graph.Datum, error) { return body(graph.ContractFunctionOf(n), n, list) },
					// As the pools store them, for who runs the graph to write them.
					"rows": func() ([]graph.Datum, error) {
						rows, err := body(graph.PagedRowsFunction(n), n, list)
						if err != nil {
							return nil, err
						}
						for i, pool := range pools[:outputs] {
							if pool.DType == tensor.Undefined {
								continue
							}
							r := rows[i].Tensor
							if r.DType != pool.DType || !r.Shape.Equal(append(tensor.Shape{7}, pool.Shape[2:]...)) {
								return nil, fmt.Errorf("rows of pool %d are %s", i, describeTensor(r))
							}
							now := tensor.Tensor{DType: pool.DType, Shape: pool.Shape, Data: slices.Clone(pool.Data)}
							width := len(r.Data) / 7
							for at := range 7 {
								copy(now.Data[int(intAt(in.slots, at))*width:], r.Data[at*width:(at+1)*width])
							}
							rows[i] = graph.TensorDatum(now)
						}
						return rows, nil
					},
				}
				for way, run := range ways {
					out, err := run()
					if err != nil {
						t.Errorf("%s: %v", way, err)
						continue
					}
					for i, p := range []naivePool{keys, values} {
						scales := tensor.Tensor{}
						if p.kind.bits > 0 {
							scales = out[2+i].Tensor
						}
						now := readPool([]string{keyName, valueName}[i], p.size, out[i].Tensor, scales)
						for at, w := range p.number {
							if g := now.number[at]; g != w {
								t.Fatalf("%s: pool %d holds %g at %v, want %g", way, i, g, at, w)
							}
						}
						for at, w := range p.scale {
							if g := now.scale[at]; g != w {
								t.Fatalf("%s: pool %d has scale %g at %v, want %g", way, i, g, at, w)
							}
						}
					}
				}
				// The inputs are as they were.
				if err := sameTensor(in.kp, c.draw(rand.New(rand.NewPCG(3, 11))).kp, 0, 0); err != nil {
					t.Errorf("the input has changed: %v", err)
				}
			})
		}
	}
}

// Rows of zeros, and of what no number is.
func TestQuantisedExtremes(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for name, row := range map[string][]float32{"zero": {0, 0, 0, 0}, "tiny": {1e-9, 0, -1e-9, 0}, "infinite": {inf, 1, -inf, 0}, "nan": {nan, 1, 2, 3}, "huge": {3e38, 1, -3e38, 0}} {
		for _, kind := range []string{"int8", "4bit"} {
			c := pagedCase{hq: 1, hkv: 1, d: 4, dv: 4, pageSize: 1, tokens: []int{1}, lengths: []int{1}, keys: kind, values: kind, query: tensor.Float32, causal: true}
			in := c.draw(rand.New(rand.NewPCG(4, 12)))
			in.k = tensor.Of(tensor.Float32, tensor.Shape{1, 1, 4}, row)
			out, err := c.eval(in)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			p := readPool(kind, 4, out[1].Tensor, out[3].Tensor)
			place := int(intAt(in.slots, 0))
			limit := map[string]float64{"int8": 127, "4bit": 7}[kind]
			for i := range 4 {
				if v := p.number[[3]int{place, 0, i}]; math.Abs(v) > limit || name != "huge" && v != 0 && name != "tiny" {
					t.Errorf("%s, %s: code %d is %g", name, kind, i, v)
				}
			}
		}
	}
}

// What contradicts the contract is refused, and the input blamed.
func TestPagedAttentionRefuses(t *testing.T) {
	base := pagedCase{hq: 2, hkv: 1, d: 4, dv: 4, pageSize: 2, tokens: []int{2, 1}, lengths: []int{2, 3}, keys: "f32", values: "f32", query: tensor.Float32, causal: true}
	ints := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	for _, tt := range []struct {
		name   string
		input  int // to blame, -1 for none
		change func(*pagedCase, *pagedInputs)
	}{
		{"a query of another size", 0, func(_ *pagedCase, in *pagedInputs) { in.q = randomTensor(3, 2, 5) }},
		{"heads that do not share", 0, func(_ *pagedCase, in *pagedInputs) { in.kp, in.vp = randomTensor(5, 2, 3, 4), randomTensor(5, 2, 3, 4) }},
		{"keys without values", -1, func(_ *pagedCase, in *pagedInputs) { in.v = tensor.Tensor{} }},
		{"keys without slots", -1, func(_ *pagedCase, in *pagedInputs) { in.slots = tensor.Tensor{} }},
		{"keys of another shape", 1, func(_ *pagedCase, in *pagedInputs) { in.k = randomTensor(3, 1, 5) }},
		{"pools of another shape", 4, func(_ *pagedCase, in *pagedInputs) { in.vp = randomTensor(4, 3, 1, 4) }},
		{"flat pools", 3, func(_ *pagedCase, in *pagedInputs) { in.kp = randomTensor(10, 1, 4) }},
		{"a slot beyond the pool", 5, func(_ *pagedCase, in *pagedInputs) { in.slots = ints(2, 3, 99) }},
		{"a negative slot", 5, func(_ *pagedCase, in *pagedInputs) { in.slots = ints(2, -1, 4) }},
		{"few slots", 5, func(_ *pagedCase, in *pagedInputs) { in.slots = ints(2, 3) }},
		{"a page beyond the pool", 6, func(_ *pagedCase, in *pagedInputs) { in.tables = tensor.Ints(tensor.Shape{2, 2}, 99, 0, 2, 3) }},
		{"tables of one sequence", 6, func(_ *pagedCase, in *pagedInputs) { in.tables = tensor.Ints(tensor.Shape{1, 2}, 1, 2) }},
		{"a length beyond the pages", 7, func(_ *pagedCase, in *pagedInputs) { in.lengths = ints(2, 9) }},
		{"a length below the tokens", 7, func(_ *pagedCase, in *pagedInputs) { in.lengths = ints(1, 3) }},
		{"a negative length", 7, func(_ *pagedCase, in *pagedInputs) { in.lengths = ints(2, -3) }},
		{"starts that fall", 8, func(_ *pagedCase, in *pagedInputs) { in.starts = ints(0, 5, 3) }},
		{"starts that end early", 8, func(_ *pagedCase, in *pagedInputs) { in.starts = ints(0, 1, 2) }},
		{"starts that begin late", 8, func(_ *pagedCase, in *pagedInputs) { in.starts = ints(1, 2, 3) }},
		{"few starts", 8, func(_ *pagedCase, in *pagedInputs) { in.starts = ints(0, 3) }},
		{"scales of a plain pool", 9, func(_ *pagedCase, in *pagedInputs) { in.ks = ofType(randomTensor(5, 2, 1), tensor.Float16) }},
		{"a quantised pool without scales", 9, func(c *pagedCase, in *pagedInputs) { in.kp = zeros(t, tensor.Int8, in.kp.Shape); c.keys = "int8" }},
		{"bytes without bits", 3, func(_ *pagedCase, in *pagedInputs) { in.kp = zeros(t, tensor.Uint8, in.kp.Shape) }},
		{"a bias of other heads", 11, func(_ *pagedCase, in *pagedInputs) { in.bias = randomTensor(3, 4) }},
		{"an empty bias", 11, func(_ *pagedCase, in *pagedInputs) { in.bias = randomTensor(2, 0) }},
		{"a bias that looks ahead", 11, func(c *pagedCase, in *pagedInputs) { in.bias = randomTensor(2, 4); c.causal = false }},
		{"a negative window", -1, func(c *pagedCase, _ *pagedInputs) { c.window = -1 }},
	} {
		c := base
		in := c.draw(rand.New(rand.NewPCG(5, 13)))
		tt.change(&c, &in)
		_, err := c.eval(in)
		var n *NodeError
		if !errors.As(err, &n) || n.Input != tt.input {
			t.Errorf("%s: got %v, want input %d to be blamed", tt.name, err, tt.input)
		}
	}
}

func randomTensor(s ...int64) tensor.Tensor {
	return randomFloats(rand.New(rand.NewPCG(6, 14)), s)
}

// Pools that may be written to are updated where they lie, all others in a copy.
func TestRunInPlace(t *testing.T) {
	c := pagedCase{hq: 2, hkv: 2, d: 4, dv: 4, pageSize: 2, tokens: []int{3}, lengths: []int{3}, keys: "int8", values: "f32", query: tensor.Float32, causal: true}
	in := c.draw(rand.New(rand.NewPCG(5, 5)))
	n := c.node(in)
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 23, graph.DomainAccel: 1}, Graph: &graph.Graph{Name: "g", Nodes: []*graph.Node{n}}}
	inputs := map[string]graph.Datum{}
	for i, v := range in.list() {
		if v.Kind != 0 {
			m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: n.Inputs[i], Type: &graph.Type{Kind: graph.KindTensor, Elem: v.Tensor.DType}})
			inputs[n.Inputs[i]] = v
		}
	}
	for _, o := range n.Outputs {
		if o != "" {
			m.Graph.Outputs = append(m.Graph.Outputs, &graph.Value{Name: o})
		}
	}
	p, err := New(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(writable ...string) []graph.Datum {
		t.Helper()
		got, err := p.RunInPlace(t.Context(), inputs, nil, writable)
		if err != nil {
			t.Fatal(err)
		}
		var out []graph.Datum
		for _, o := range n.Outputs {
			out = append(out, got[o])
		}
		if err := c.check(c.draw(rand.New(rand.NewPCG(5, 5))), out); err != nil {
			t.Error(err)
		}
		return out
	}
	places := map[int]int{3: 1, 4: 2, 9: 3} // inputs and the outputs that update them
	for i, o := range places {
		before := slices.Clone(inputs[n.Inputs[i]].Tensor.Data)
		if out := run(); &out[o].Tensor.Data[0] == &inputs[n.Inputs[i]].Tensor.Data[0] || !slices.Equal(before, inputs[n.Inputs[i]].Tensor.Data) {
			t.Errorf("input %d was written to", i)
		}
	}
	for i, o := range places {
		if out := run(n.Inputs[i]); &out[o].Tensor.Data[0] != &inputs[n.Inputs[i]].Tensor.Data[0] {
			t.Errorf("output %d lies in memory of its own", o)
		}
	}
}
