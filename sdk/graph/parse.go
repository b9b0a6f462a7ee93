package graph

import (
	"fmt"
	"strconv"

	"github.com/accelhq/accel/sdk/tensor"
)

// decoder holds what is shared while one file is decoded.
type decoder struct {
	limits Limits
	nodes  int64
	values int64
	consts int64
	items  int64
	depth  int64
	dense  int64
	copied int64
	names  map[string]string
	extern []*Initializer
}

func newDecoder(l Limits) *decoder {
	return &decoder{limits: l.orDefaults(), names: map[string]string{}}
}

// Parse decodes a model. Tensors point into data, which must not change while
// the model is in use. Tensors whose bytes lie outside have External set and no
// Data; use Load to have them mapped.
//
// Everything that decides what the model computes is kept. Dropped are:
// denotations, quantization annotations, training information, device
// configurations and unknown fields. Operator domain "ai.onnx" is read as "".
// Errors are *FormatError and *LimitError.
func Parse(data []byte, opts ...Option) (*Model, error) {
	var o options
	for _, f := range opts {
		f(&o)
	}
	m, _, err := parse(data, o.limits)
	return m, err
}

func parse(data []byte, l Limits) (*Model, []*Initializer, error) {
	d := newDecoder(l)
	if int64(len(data)) > d.limits.Bytes {
		return nil, nil, &LimitError{What: "bytes", Limit: d.limits.Bytes, Found: int64(len(data))}
	}
	m, err := d.model(reader{b: data})
	if err != nil {
		return nil, nil, err
	}
	return m, d.extern, nil
}

// item counts one decoded message or name against the limit.
func (d *decoder) item(r *reader) bool {
	d.items++
	return r.within("items", d.items, d.limits.Items)
}

// str reads a name. Equal names share memory.
func (d *decoder) str(r *reader) string {
	b := r.text()
	if !r.within("bytes in one name", int64(len(b)), d.limits.Name) {
		return ""
	}
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	d.decoded(r, len(b))
	s := string(b)
	if len(s) <= 256 {
		d.names[s] = s
	}
	return s
}

func (d *decoder) strs(r *reader, dst []string) []string {
	d.item(r)
	return append(dst, d.str(r))
}

// domain reads an operator domain.
func (d *decoder) domain(r *reader) string {
	s := d.str(r)
	if s == "ai.onnx" {
		return DomainONNX
	}
	return s
}

// enter counts one level of nesting.
func (d *decoder) enter() error {
	d.depth++
	if d.depth > d.limits.Depth {
		return &LimitError{What: "levels of nesting", Limit: d.limits.Depth, Found: d.depth}
	}
	return nil
}

func (d *decoder) leave() { d.depth-- }

// each decodes one element of a repeated message field and appends it.
func each[T any](d *decoder, r *reader, dst []T, step string, f func(reader) (T, error)) []T {
	sub := r.msg()
	if !d.item(r) {
		return dst
	}
	v, err := f(sub)
	if err != nil {
		r.err = underIndex(err, step, len(dst))
		return dst
	}
	return append(dst, v)
}

// one decodes a singular message field, which protobuf would let occur twice.
func one[T any](d *decoder, r *reader, dst **T, step string, f func(reader) (*T, error)) {
	sub := r.msg()
	if !d.item(r) {
		return
	}
	if *dst != nil {
		r.fail("%s occurs twice", step)
		return
	}
	v, err := f(sub)
	if err != nil {
		r.err = under(err, step)
		return
	}
	*dst = v
}

func (d *decoder) model(r reader) (*Model, error) {
	m := &Model{}
	for r.next() {
		switch r.num {
		case 1:
			m.IRVersion = r.int64()
		case 2:
			m.ProducerName = d.str(&r)
		case 3:
			m.ProducerVersion = d.str(&r)
		case 4:
			m.Domain = d.str(&r)
		case 5:
			m.Version = r.int64()
		case 6:
			m.Doc = d.text(&r)
		case 7:
			one(d, &r, &m.Graph, "graph", d.graph)
		case 8:
			m.Opsets = d.opset(&r, m.Opsets)
		case 14:
			m.Metadata = d.entry(&r, m.Metadata)
		case 25:
			m.Functions = each(d, &r, m.Functions, "functions", d.function)
		}
	}
	if r.err == nil && m.Graph == nil {
		r.fail("the model has no graph: it is not an ONNX file, or it was cut short")
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

func (d *decoder) opset(r *reader, dst map[string]int64) map[string]int64 {
	s := r.msg()
	d.item(r)
	var domain string
	var version int64
	for s.next() {
		switch s.num {
		case 1:
			domain = d.domain(&s)
		case 2:
			version = s.int64()
		}
	}
	if s.err != nil {
		r.err = under(s.err, "opset_import")
		return dst
	}
	if old, ok := dst[domain]; ok && old != version {
		r.fail("domain %q is imported twice, in version %d and version %d", domain, old, version)
		return dst
	}
	if dst == nil {
		dst = map[string]int64{}
	}
	dst[domain] = version
	return dst
}

// pair decodes a StringStringEntryProto.
func (d *decoder) pair(r reader) (key, value string, err error) {
	for r.next() {
		switch r.num {
		case 1:
			key = d.str(&r)
		case 2:
			value = d.text(&r)
		}
	}
	return key, value, r.err
}

// entry decodes one entry of a metadata map.
func (d *decoder) entry(r *reader, dst map[string]string) map[string]string {
	d.item(r)
	k, v, err := d.pair(r.msg())
	if err != nil {
		r.err = under(err, "metadata_props")
		return dst
	}
	if _, ok := dst[k]; ok {
		r.fail("metadata key %q occurs twice", k)
		return dst
	}
	if dst == nil {
		dst = map[string]string{}
	}
	dst[k] = v
	return dst
}

func (d *decoder) graph(r reader) (*Graph, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	g := &Graph{}
	for r.next() {
		switch r.num {
		case 1:
			g.Nodes = each(d, &r, g.Nodes, "node", d.node)
		case 2:
			g.Name = d.str(&r)
		case 5:
			g.Initializers = each(d, &r, g.Initializers, "initializer", d.initializer)
		case 10:
			g.Doc = d.text(&r)
		case 11:
			g.Inputs = each(d, &r, g.Inputs, "input", d.value)
		case 12:
			g.Outputs = each(d, &r, g.Outputs, "output", d.value)
		case 13:
			g.Values = each(d, &r, g.Values, "value_info", d.value)
		case 15:
			g.Initializers = each(d, &r, g.Initializers, "sparse_initializer", d.sparseInitializer)
		case 16:
			g.Metadata = d.entry(&r, g.Metadata)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return g, nil
}

func (d *decoder) node(r reader) (*Node, error) {
	d.nodes++
	if d.nodes > d.limits.Nodes {
		return nil, &LimitError{What: "nodes", Limit: d.limits.Nodes, Found: d.nodes}
	}
	n := &Node{}
	for r.next() {
		switch r.num {
		case 1:
			n.Inputs = d.strs(&r, n.Inputs)
		case 2:
			n.Outputs = d.strs(&r, n.Outputs)
		case 3:
			n.Name = d.str(&r)
		case 4:
			n.OpType = d.str(&r)
		case 5:
			n.Attrs = each(d, &r, n.Attrs, "attribute", d.attr)
		case 6:
			n.Doc = d.text(&r)
		case 7:
			n.Domain = d.domain(&r)
		case 8:
			n.Overload = d.str(&r)
		case 9:
			n.Metadata = d.entry(&r, n.Metadata)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return n, nil
}

func (d *decoder) value(r reader) (*Value, error) {
	v := &Value{}
	if d.values++; !r.within("values with types", d.values, d.limits.Values) {
		return nil, r.err
	}
	for r.next() {
		switch r.num {
		case 1:
			v.Name = d.str(&r)
		case 2:
			one(d, &r, &v.Type, "type", d.typ)
		case 3:
			v.Doc = d.text(&r)
		case 4:
			v.Metadata = d.entry(&r, v.Metadata)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return v, nil
}

// dtype reads an element type; undefined is let through, for some exporters
// leave the type of values between nodes open.
func (d *decoder) dtype(r *reader) tensor.DType {
	v := r.int64()
	if r.err == nil && v != 0 && (v < 0 || v > 255 || !tensor.DType(v).Valid()) {
		r.fail("element type %d is not supported", v)
	}
	return tensor.DType(v)
}

func (d *decoder) typ(r reader) (*Type, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	t := &Type{}
	for r.next() {
		kind := TypeKind(0)
		switch r.num {
		case 1, 4, 5, 8, 9:
			kind = TypeKind(r.num)
		case 7:
			r.fail("opaque types are not supported")
			continue
		default:
			continue
		}
		s := r.msg()
		d.item(&r)
		if t.Kind != 0 {
			r.fail("a type is given twice")
			continue
		}
		t.Kind = kind
		for s.next() {
			tensorLike := kind == KindTensor || kind == KindSparse
			switch {
			case s.num == 1 && (tensorLike || kind == KindMap):
				t.Elem = d.dtype(&s)
			case s.num == 2 && tensorLike:
				if t.HasShape {
					s.fail("shape occurs twice")
					continue
				}
				t.HasShape = true
				t.Dims = d.shape(&s)
			case s.num == 1 || s.num == 2 && kind == KindMap:
				one(d, &s, &t.Of, "elem_type", d.typ)
			}
		}
		if r.err == nil && s.err != nil {
			r.err = s.err
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	if t.Kind == 0 {
		// A TypeProto with nothing in it says no more than its absence.
		return nil, nil
	}
	return t, nil
}

func (d *decoder) shape(r *reader) []Dim {
	s := r.msg()
	var dims []Dim
	for s.next() {
		if s.num == 1 {
			dims = each(d, &s, dims, "dim", d.dim)
			if int64(len(dims)) > d.limits.Rank && s.err == nil {
				s.err = &LimitError{What: "dimensions", Limit: d.limits.Rank, Found: int64(len(dims))}
			}
		}
	}
	if s.err != nil && r.err == nil {
		r.err = under(s.err, "shape")
	}
	return dims
}

// dim decodes a dimension. -1, which older exporters write for "unknown", is
// read as that.
func (d *decoder) dim(r reader) (Dim, error) {
	dim := Dim{Size: -1}
	for r.next() {
		switch r.num {
		case 1:
			dim = Dim{Size: r.int64()}
			if dim.Size < -1 {
				r.fail("dimension %d is negative", dim.Size)
			}
		case 2:
			dim = Dim{Size: -1, Param: d.str(&r)}
		}
	}
	return dim, r.err
}

func (d *decoder) attr(r reader) (*Attr, error) {
	a := &Attr{}
	var seen [AttrTypes + 1]bool
	var fields int
	see := func(k AttrKind) {
		if !seen[k] {
			seen[k] = true
			fields++
			if a.Kind == AttrUndefined {
				a.Kind = k
			}
		}
	}
	kind := AttrUndefined
	for r.next() {
		switch r.num {
		case 1:
			a.Name = d.str(&r)
		case 2:
			a.Float = r.float32()
			see(AttrFloat)
		case 3:
			a.Int = r.int64()
			see(AttrInt)
		case 4:
			a.String = d.raw(&r)
			see(AttrString)
		case 5:
			one(d, &r, &a.Tensor, "t", d.tensor)
			see(AttrTensor)
		case 6:
			one(d, &r, &a.Graph, "g", d.graph)
			see(AttrGraph)
		case 7:
			a.Floats = d.floats(&r, a.Floats)
			see(AttrFloats)
		case 8:
			a.Ints = d.ints(&r, a.Ints)
			see(AttrInts)
		case 9:
			d.item(&r)
			a.Strings = append(a.Strings, d.raw(&r))
			see(AttrStrings)
		case 10:
			a.Tensors = each(d, &r, a.Tensors, "tensors", d.tensor)
			see(AttrTensors)
		case 11:
			a.Graphs = each(d, &r, a.Graphs, "graphs", d.graph)
			see(AttrGraphs)
		case 13:
			a.Doc = d.text(&r)
		case 14:
			one(d, &r, &a.Type, "tp", d.typ)
			see(AttrType)
		case 15:
			a.Types = each(d, &r, a.Types, "type_protos", d.typ)
			see(AttrTypes)
		case 20:
			kind = AttrKind(r.enum("attribute type", int64(AttrTypes)+1))
		case 21:
			a.Ref = d.str(&r)
		case 22:
			d.item(&r)
			a.Raw = append(a.Raw, r.bytes())
			see(AttrSparse)
		case 23:
			d.item(&r)
			a.Raw = append(a.Raw, r.bytes())
			see(AttrSparses)
		}
	}
	if r.err != nil {
		return nil, under(r.err, quoteName(a.Name))
	}
	// Before IR 2 the field itself told the kind.
	if kind != AttrUndefined {
		a.Kind = kind
	}
	switch {
	case a.Name == "":
		r.fail("an attribute has no name")
	case a.Ref != "" && fields > 0:
		r.fail("attribute %q refers to %q and has a value as well", a.Name, a.Ref)
	case a.Kind == AttrUndefined:
		r.fail("attribute %q has neither type nor value", a.Name)
	case fields > 1 || fields == 1 && !seen[a.Kind]:
		r.fail("attribute %q of kind %d holds another kind of value", a.Name, a.Kind)
	case a.Ref == "" && (a.Kind == AttrTensor && a.Tensor == nil || a.Kind == AttrGraph && a.Graph == nil ||
		a.Kind == AttrType && a.Type == nil || a.Kind == AttrSparse && len(a.Raw) != 1):
		r.fail("attribute %q has no value", a.Name)
	}
	for _, t := range a.Types {
		if t == nil {
			r.fail("attribute %q holds an empty type", a.Name)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return a, nil
}

func quoteName(s string) string {
	if s == "" {
		return "?"
	}
	return strconv.Quote(s)
}

func (d *decoder) function(r reader) (*Function, error) {
	f := &Function{}
	for r.next() {
		switch r.num {
		case 1:
			f.Name = d.str(&r)
		case 4:
			f.Inputs = d.strs(&r, f.Inputs)
		case 5:
			f.Outputs = d.strs(&r, f.Outputs)
		case 6:
			f.Attrs = d.strs(&r, f.Attrs)
		case 7:
			f.Nodes = each(d, &r, f.Nodes, "node", d.node)
		case 8:
			f.Doc = d.text(&r)
		case 9:
			f.Opsets = d.opset(&r, f.Opsets)
		case 10:
			f.Domain = d.domain(&r)
		case 11:
			f.Defaults = each(d, &r, f.Defaults, "attribute_proto", d.attr)
		case 12:
			f.Values = each(d, &r, f.Values, "value_info", d.value)
		case 13:
			f.Overload = d.str(&r)
		case 14:
			f.Metadata = d.entry(&r, f.Metadata)
		}
	}
	if r.err != nil {
		return nil, under(r.err, fmt.Sprintf("%q", f.Name))
	}
	return f, nil
}
