package graph

import "google.golang.org/protobuf/encoding/protowire"

// Limits bound what a model that nobody vouches for may ask of its reader. A zero
// field means its default. What is past one is a *LimitError, before any memory is
// taken for it. docs/limits.md has the whole table, those of running a model included.
type Limits struct {
	Bytes        int64 // of the model file, external data not counted; default 2^31-1, protobuf's own limit
	Nodes        int64 // in all graphs and functions; default 1<<20
	Values       int64 // inputs, outputs and typed values of all graphs; default 1<<22
	Initializers int64 // in all graphs; default 1<<20
	Items        int64 // messages and names decoded; default 1<<23
	Depth        int64 // of graphs in graphs and types in types; default 32
	Rank         int64 // of a tensor or type; default 64
	List         int64 // elements of a list among the attributes; default 1<<24
	Name         int64 // bytes of a name, an operator or a domain; default 1<<16
	Text         int64 // bytes of a text: a string attribute or element, documentation, metadata; default 1<<26
	Decoded      int64 // bytes that are copied out of the file and not mapped: lists, texts, numbers that protobuf packs; default 1<<32
	Dense        int64 // bytes that sparse tensors may expand to; default 1<<28
	Files        int64 // with external data; default 1<<12
	External     int64 // bytes of these files; default 1<<43
}

func (l Limits) orDefaults() Limits {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.Bytes, 1<<31-1)
	def(&l.Nodes, 1<<20)
	def(&l.Values, 1<<22)
	def(&l.Initializers, 1<<20)
	def(&l.Items, 1<<23)
	def(&l.Depth, 32)
	def(&l.Rank, 64)
	def(&l.List, 1<<24)
	def(&l.Name, 1<<16)
	def(&l.Text, 1<<26)
	def(&l.Decoded, 1<<32)
	def(&l.Dense, 1<<28)
	def(&l.Files, 1<<12)
	def(&l.External, 1<<43)
	return l
}

// within counts one more of something against a limit.
func (r *reader) within(what string, found, limit int64) bool {
	if found > limit && r.err == nil {
		r.err = &LimitError{What: what, Limit: limit, Found: found}
	}
	return r.err == nil
}

// decoded counts bytes that are copied out of the file.
func (d *decoder) decoded(r *reader, n int) bool {
	d.copied += int64(n)
	return r.within("bytes decoded from lists and texts", d.copied, d.limits.Decoded)
}

// text reads a text that is no name.
func (d *decoder) text(r *reader) string {
	b := r.text()
	if !r.within("bytes in one text", int64(len(b)), d.limits.Text) || !d.decoded(r, len(b)) {
		return ""
	}
	return string(b)
}

// raw reads a string attribute or element, which need not be text.
func (d *decoder) raw(r *reader) string {
	b := r.bytes()
	if !r.within("bytes in one text", int64(len(b)), d.limits.Text) || !d.decoded(r, len(b)) {
		return ""
	}
	return string(b)
}

// ints appends a repeated integer attribute.
func (d *decoder) ints(r *reader, dst []int64) []int64 {
	n := int64(1)
	if r.typ == protowire.BytesType {
		n = varints(r.data)
	}
	if !d.list(r, int64(len(dst))+n) || !d.decoded(r, 8*int(n)) {
		return dst
	}
	return r.ints(dst)
}

// floats appends a repeated float attribute.
func (d *decoder) floats(r *reader, dst []float32) []float32 {
	n := int64(1)
	if r.typ == protowire.BytesType {
		n = int64(len(r.data) / 4)
	}
	if !d.list(r, int64(len(dst))+n) || !d.decoded(r, 4*int(n)) {
		return dst
	}
	return r.floats(dst)
}

func (d *decoder) list(r *reader, n int64) bool {
	return r.within("elements in one attribute", n, d.limits.List)
}

// varints counts the integers in a packed field.
func varints(b []byte) int64 {
	n := int64(0)
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}
