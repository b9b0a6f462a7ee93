package graph

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/accelhq/accel/sdk/tensor"
)

// DataAlign is the alignment in bytes of each tensor in the external data that
// Save writes.
const DataAlign = 64

// SaveOptions say how Save lays a model out.
type SaveOptions struct {
	// External puts initializers of at least so many bytes into a file of their
	// own; 0 keeps them inside the model file. Strings always stay inside.
	External int64
	// File is the name of that file; empty means "model.onnx.data".
	File string
}

// Marshal encodes a model. Equal models give equal bytes: maps are written in
// sorted order, all else in the order it has in memory. Initializers that are
// External keep their location, which must be relative.
func Marshal(m *Model) ([]byte, error) {
	e := encoder{}
	e.model(m)
	return e.bytes()
}

// Save writes dir/model.onnx and, if opts ask for it, an external data file.
// Each file is written beside its place, synced and renamed; the model comes
// last. dir must exist. The model in memory is not changed.
//
// Initializers with External set keep it: an absolute path inside dir is made
// relative, one outside is refused. To have such data written too, set External
// to nil on a loaded model.
func Save(m *Model, dir string, opts SaveOptions) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	e := encoder{dir: abs}
	if opts.External > 0 {
		name := opts.File
		if name == "" {
			name = ModelFile + ".data"
		}
		if name != filepath.Base(name) || !filepath.IsLocal(name) || name == ModelFile {
			return fmt.Errorf("save model: external data can't be named %q: want a plain file name", name)
		}
		if err := e.place(m, opts.External, name); err != nil {
			return err
		}
		if len(e.placed) > 0 {
			err := writeFile(filepath.Join(abs, name), func(w io.Writer) error { return e.writePlaced(w) })
			if err != nil {
				return fmt.Errorf("save model: %w", err)
			}
		}
	}
	e.model(m)
	data, err := e.bytes()
	if err != nil {
		return err
	}
	err = writeFile(filepath.Join(abs, ModelFile), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	return nil
}

// writeFile makes a file appear whole or not at all.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if err := errors.Join(write(w), w.Flush()); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// encoder appends protobuf to b; the first error stays in err.
type encoder struct {
	b   []byte
	dir string // absolute; empty where there is no folder
	err error

	placed []*Initializer // in the order of the external file
	where  map[*Initializer]*External
}

// bytes is the encoded message, unless it is larger than protobuf readers take.
func (e *encoder) bytes() ([]byte, error) {
	if e.err == nil && len(e.b) > math.MaxInt32 {
		e.err = fmt.Errorf("save model: %d bytes are more than a model file can hold (2^31-1): put initializers into external data", len(e.b))
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.b, nil
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// place decides which initializers go to the external file, and where.
func (e *encoder) place(m *Model, atLeast int64, name string) error {
	e.where = map[*Initializer]*External{}
	end := int64(0)
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			if in.External != nil {
				if rel, err := e.relative(in); err == nil && rel == name {
					return fmt.Errorf("save model: external data %q is in use by tensor %q: choose another name", name, in.Name)
				}
				continue
			}
			if in.Tensor.DType == tensor.String || int64(len(in.Tensor.Data)) < atLeast || e.where[in] != nil {
				continue
			}
			end = (end + DataAlign - 1) / DataAlign * DataAlign
			e.where[in] = &External{Path: name, Offset: end, Length: int64(len(in.Tensor.Data))}
			e.placed = append(e.placed, in)
			end += int64(len(in.Tensor.Data))
		}
	}
	return nil
}

func (e *encoder) writePlaced(w io.Writer) error {
	var zeros [DataAlign]byte
	at := int64(0)
	for _, in := range e.placed {
		if _, err := w.Write(zeros[:e.where[in].Offset-at]); err != nil {
			return err
		}
		if _, err := w.Write(in.Tensor.Data); err != nil {
			return err
		}
		at = e.where[in].Offset + e.where[in].Length
	}
	return nil
}

// relative is the location of external data as the model file gives it.
func (e *encoder) relative(in *Initializer) (string, error) {
	path := in.External.Path
	if filepath.IsAbs(path) {
		rel, err := filepath.Rel(e.dir, path)
		if e.dir == "" || err != nil || !filepath.IsLocal(rel) {
			return "", &ExternalError{Tensor: in.Name, Path: path, Reason: "the file lies outside the model's folder: link or copy it there, and set External.Path to its name"}
		}
		path = rel
	}
	path = filepath.ToSlash(path)
	if !filepath.IsLocal(filepath.FromSlash(path)) {
		return "", &ExternalError{Tensor: in.Name, Path: path, Reason: "the location must be a relative path inside the model's folder"}
	}
	return path, nil
}

// message appends a sub-message. Its length is known only when it has been
// written, so it is moved up where the length needs more than one byte.
func (e *encoder) message(num protowire.Number, write func()) {
	e.b = protowire.AppendTag(e.b, num, protowire.BytesType)
	e.b = append(e.b, 0)
	start := len(e.b)
	write()
	n := uint64(len(e.b) - start)
	if size := protowire.SizeVarint(n); size > 1 {
		e.b = append(e.b, make([]byte, size-1)...)
		copy(e.b[start+size-1:], e.b[start:])
	}
	protowire.AppendVarint(e.b[:start-1], n)
}

func (e *encoder) int(num protowire.Number, v int64) {
	e.b = protowire.AppendTag(e.b, num, protowire.VarintType)
	e.b = protowire.AppendVarint(e.b, uint64(v))
}

func (e *encoder) bytesField(num protowire.Number, v []byte) {
	e.b = protowire.AppendTag(e.b, num, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, v)
}

func (e *encoder) str(num protowire.Number, v string) {
	e.b = protowire.AppendTag(e.b, num, protowire.BytesType)
	e.b = protowire.AppendString(e.b, v)
}

// opt writes a string that is not empty.
func (e *encoder) opt(num protowire.Number, v string) {
	if v != "" {
		e.str(num, v)
	}
}

func (e *encoder) strs(num protowire.Number, v []string) {
	for _, s := range v {
		e.str(num, s)
	}
}

func (e *encoder) pairs(num protowire.Number, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.pair(num, k, m[k])
	}
}

func (e *encoder) pair(num protowire.Number, k, v string) {
	e.message(num, func() {
		e.str(1, k)
		e.str(2, v)
	})
}

func (e *encoder) opsets(num protowire.Number, m map[string]int64) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.message(num, func() {
			e.str(1, k)
			e.int(2, m[k])
		})
	}
}

func (e *encoder) model(m *Model) {
	if m.Graph == nil {
		e.fail(errors.New("save model: it has no graph"))
		return
	}
	e.int(1, m.IRVersion)
	e.opt(2, m.ProducerName)
	e.opt(3, m.ProducerVersion)
	e.opt(4, m.Domain)
	if m.Version != 0 {
		e.int(5, m.Version)
	}
	e.opt(6, m.Doc)
	e.message(7, func() { e.graph(m.Graph) })
	e.opsets(8, m.Opsets)
	e.pairs(14, m.Metadata)
	for _, f := range m.Functions {
		e.message(25, func() { e.function(f) })
	}
}

func (e *encoder) graph(g *Graph) {
	for _, n := range g.Nodes {
		e.message(1, func() { e.node(n) })
	}
	e.opt(2, g.Name)
	for _, in := range g.Initializers {
		e.message(5, func() { e.tensor(in) })
	}
	e.opt(10, g.Doc)
	e.values(11, g.Inputs)
	e.values(12, g.Outputs)
	e.values(13, g.Values)
	e.pairs(16, g.Metadata)
}

func (e *encoder) node(n *Node) {
	e.strs(1, n.Inputs)
	e.strs(2, n.Outputs)
	e.opt(3, n.Name)
	e.opt(4, n.OpType)
	for _, a := range n.Attrs {
		e.message(5, func() { e.attr(a) })
	}
	e.opt(6, n.Doc)
	e.opt(7, n.Domain)
	e.opt(8, n.Overload)
	e.pairs(9, n.Metadata)
}

func (e *encoder) values(num protowire.Number, vs []*Value) {
	for _, v := range vs {
		e.message(num, func() {
			e.opt(1, v.Name)
			if v.Type != nil {
				e.message(2, func() { e.typ(v.Type) })
			}
			e.opt(3, v.Doc)
			e.pairs(4, v.Metadata)
		})
	}
}

func (e *encoder) typ(t *Type) {
	switch t.Kind {
	case KindTensor, KindSparse:
		e.message(protowire.Number(t.Kind), func() {
			e.int(1, int64(t.Elem))
			if t.HasShape {
				e.message(2, func() { e.dims(t.Dims) })
			}
		})
	case KindSequence, KindOptional:
		e.message(protowire.Number(t.Kind), func() { e.typeOf(1, t) })
	case KindMap:
		e.message(protowire.Number(t.Kind), func() {
			e.int(1, int64(t.Elem))
			e.typeOf(2, t)
		})
	default:
		e.fail(fmt.Errorf("save model: a type has kind %d, which ONNX does not know", t.Kind))
	}
}

func (e *encoder) typeOf(num protowire.Number, t *Type) {
	if t.Of != nil {
		e.message(num, func() { e.typ(t.Of) })
	}
}

func (e *encoder) dims(dims []Dim) {
	for _, d := range dims {
		e.message(1, func() {
			switch {
			case d.Param != "":
				e.str(2, d.Param)
			case d.Size >= 0:
				e.int(1, d.Size)
			}
		})
	}
}

func (e *encoder) attr(a *Attr) {
	e.str(1, a.Name)
	if a.Ref == "" {
		e.attrValue(a)
	}
	e.opt(13, a.Doc)
	e.int(20, int64(a.Kind))
	e.opt(21, a.Ref)
}

func (e *encoder) attrValue(a *Attr) {
	missing := func() { e.fail(fmt.Errorf("save model: attribute %q of kind %d has no value", a.Name, a.Kind)) }
	switch a.Kind {
	case AttrFloat:
		e.b = protowire.AppendTag(e.b, 2, protowire.Fixed32Type)
		e.b = protowire.AppendFixed32(e.b, math.Float32bits(a.Float))
	case AttrInt:
		e.int(3, a.Int)
	case AttrString:
		e.str(4, a.String)
	case AttrTensor:
		if a.Tensor == nil {
			missing()
			return
		}
		e.message(5, func() { e.tensor(a.Tensor) })
	case AttrGraph:
		if a.Graph == nil {
			missing()
			return
		}
		e.message(6, func() { e.graph(a.Graph) })
	case AttrFloats:
		if len(a.Floats) > 0 {
			e.b = protowire.AppendTag(e.b, 7, protowire.BytesType)
			e.b = protowire.AppendVarint(e.b, uint64(4*len(a.Floats)))
			for _, f := range a.Floats {
				e.b = protowire.AppendFixed32(e.b, math.Float32bits(f))
			}
		}
	case AttrInts:
		for _, i := range a.Ints {
			e.int(8, i)
		}
	case AttrStrings:
		e.strs(9, a.Strings)
	case AttrTensors:
		for _, t := range a.Tensors {
			e.message(10, func() { e.tensor(t) })
		}
	case AttrGraphs:
		for _, g := range a.Graphs {
			e.message(11, func() { e.graph(g) })
		}
	case AttrType:
		if a.Type == nil {
			missing()
			return
		}
		e.message(14, func() { e.typ(a.Type) })
	case AttrTypes:
		for _, t := range a.Types {
			e.message(15, func() { e.typ(t) })
		}
	case AttrSparse:
		if len(a.Raw) != 1 {
			missing()
			return
		}
		e.bytesField(22, a.Raw[0])
	case AttrSparses:
		for _, b := range a.Raw {
			e.bytesField(23, b)
		}
	default:
		missing()
	}
}

func (e *encoder) tensor(in *Initializer) {
	t := in.Tensor
	ext := e.where[in]
	if in.External != nil {
		rel, err := e.relative(in)
		if err != nil {
			e.fail(err)
			return
		}
		ext = &External{Path: rel, Offset: in.External.Offset, Length: in.External.Length}
	}
	var err error
	if ext == nil {
		err = t.Check()
	} else {
		var size int64
		size, err = tensor.ByteSize(t.DType, t.Shape)
		if err == nil && size != ext.Length {
			err = fmt.Errorf("external data has %d bytes, %s%v wants %d", ext.Length, t.DType, t.Shape, size)
		}
	}
	if err != nil {
		e.fail(fmt.Errorf("save tensor %q: %w", in.Name, err))
		return
	}
	if len(t.Shape) > 0 {
		e.b = protowire.AppendTag(e.b, 1, protowire.BytesType)
		n := 0
		for _, d := range t.Shape {
			n += protowire.SizeVarint(uint64(d))
		}
		e.b = protowire.AppendVarint(e.b, uint64(n))
		for _, d := range t.Shape {
			e.b = protowire.AppendVarint(e.b, uint64(d))
		}
	}
	e.int(2, int64(t.DType))
	if t.DType == tensor.String {
		e.strs(6, t.Strings)
	}
	e.opt(8, in.Name)
	if ext == nil && t.DType != tensor.String {
		e.bytesField(9, t.Data)
	}
	e.opt(12, in.Doc)
	if ext != nil {
		e.pair(13, "location", ext.Path)
		e.pair(13, "offset", strconv.FormatInt(ext.Offset, 10))
		e.pair(13, "length", strconv.FormatInt(ext.Length, 10))
		e.int(14, 1)
	}
	e.pairs(16, in.Metadata)
}

func (e *encoder) function(f *Function) {
	e.str(1, f.Name)
	e.strs(4, f.Inputs)
	e.strs(5, f.Outputs)
	e.strs(6, f.Attrs)
	for _, n := range f.Nodes {
		e.message(7, func() { e.node(n) })
	}
	e.opt(8, f.Doc)
	e.opsets(9, f.Opsets)
	e.str(10, f.Domain)
	for _, a := range f.Defaults {
		e.message(11, func() { e.attr(a) })
	}
	e.values(12, f.Values)
	e.opt(13, f.Overload)
	e.pairs(14, f.Metadata)
}
