package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

// ct2File is where CTranslate2 keeps a model, and ct2Version the version of its form that is
// read: that of CTranslate2 2.0 to 4 (python/ctranslate2/specs/model_spec.py).
const (
	ct2File    = "model.bin"
	ct2Version = 6
	ct2MaxRank = 8
)

// ct2Types are the element types by their number in the file.
var ct2Types = []tensor.DType{tensor.Float32, tensor.Int8, tensor.Int16, tensor.Int32, tensor.Float16, tensor.BFloat16}

// CT2 is an open folder of CTranslate2: model.bin mapped read-only, and config.json. Its
// methods may be called from several goroutines.
type CT2 struct {
	Dir      string // absolute
	Spec     string // what kind of model it is, such as WhisperSpec
	Revision uint32 // of the spec
	Config   *Config

	tensors map[string]CT2Tensor
	names   []string
	header  []byte // all but the tensors' data
	mapped
}

// CT2Tensor says what a stored variable is and where its bytes lie, at any offset.
type CT2Tensor struct {
	DType  tensor.DType
	Shape  tensor.Shape
	Offset int64
	Length int64
}

// OpenCT2 maps a folder's model.bin and checks its header: lengths are of what is there, and
// no variable occurs twice. Errors are *Error.
func OpenCT2(dir string) (*CT2, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, &Error{File: dir, Err: err}
	}
	config, err := readSmall(filepath.Join(abs, configFile))
	if err != nil {
		return nil, err
	}
	m, err := mapWhole(filepath.Join(abs, ct2File))
	if err != nil {
		return nil, err
	}
	c, err := ParseCT2(m.file, m.data)
	if err == nil {
		c.Config, err = ParseConfig(filepath.Join(abs, configFile), config)
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	c.Dir, c.mapped = abs, m
	c.header = append(c.header, config...)
	return c, nil
}

// ParseCT2 reads a model.bin that is in memory; its tensors share data. file is only what errors
// call it.
func ParseCT2(file string, data []byte) (*CT2, error) {
	r := &ct2Reader{ggufReader{data: data}}
	c := &CT2{tensors: map[string]CT2Tensor{}, mapped: mapped{file: file, data: data}}
	err := c.parse(r)
	var e *Error
	if err == nil {
		err = r.err
	}
	if errors.As(err, &e) {
		e.File = file
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *CT2) parse(r *ct2Reader) error {
	if v := r.u32("the version"); r.err == nil && v != ct2Version {
		return &Error{Field: "header", Found: fmt.Sprintf("version %d", v), Wanted: fmt.Sprintf("version %d of CTranslate2's form", ct2Version),
			Remedy: "convert the model again with CTranslate2 2.0 or newer"}
	}
	c.Spec, c.Revision = r.text("the kind of model"), r.u32("its revision")
	// A name of one letter, no dimension, a type and a length.
	for range r.countOf("number of variables", 9) {
		begin := r.at
		name := r.text("the name of a variable")
		var t CT2Tensor
		rank := r.byte("the rank of " + name)
		if rank > ct2MaxRank {
			return &Error{Field: "variable " + name, Found: fmt.Sprintf("%d dimensions", rank), Wanted: fmt.Sprintf("at most %d", ct2MaxRank), Remedy: damagedRemedy}
		}
		t.Shape = tensor.Shape{}
		for range rank {
			t.Shape = append(t.Shape, int64(r.u32("a dimension of "+name)))
		}
		kind := r.byte("the type of " + name)
		t.Length = int64(r.u32("the length of " + name))
		if r.err != nil {
			return r.err
		}
		if int(kind) >= len(ct2Types) {
			return &Error{Field: "variable " + name, Found: fmt.Sprintf("type %d", kind), Wanted: fmt.Sprintf("0 to %d", len(ct2Types)-1), Remedy: damagedRemedy}
		}
		t.DType = ct2Types[kind]
		if size, err := tensor.ByteSize(t.DType, t.Shape); err != nil || size != t.Length {
			return &Error{Field: "variable " + name, Found: fmt.Sprintf("%d bytes", t.Length), Wanted: fmt.Sprintf("those of %s%v", t.DType, t.Shape), Remedy: damagedRemedy}
		}
		if _, twice := c.tensors[name]; twice {
			return &Error{Field: "variable " + name, Found: "it is there twice", Remedy: damagedRemedy}
		}
		c.header = append(c.header, r.data[begin:r.at]...)
		t.Offset = int64(r.at)
		r.take(uint64(t.Length), "variable "+name)
		c.tensors[name] = t
	}
	begin := r.at
	for range r.countOf("number of aliases", 4) {
		alias, name := r.text("an alias"), r.text("what it stands for")
		if r.err != nil {
			return r.err
		}
		t, there := c.tensors[name]
		if _, twice := c.tensors[alias]; twice || !there {
			return &Error{Field: "alias " + alias, Found: "it stands for " + quote(name), Wanted: "a name of its own for a variable that is there", Remedy: damagedRemedy}
		}
		c.tensors[alias] = t
	}
	if r.err == nil && r.at != len(r.data) {
		return &Error{Field: "header", Found: fmt.Sprintf("%d bytes behind the last variable", len(r.data)-r.at), Remedy: damagedRemedy}
	}
	c.header = append(c.header, r.data[begin:r.at]...)
	for name := range c.tensors {
		c.names = append(c.names, name)
	}
	slices.Sort(c.names)
	return r.err
}

// Names lists all variables and aliases in alphabetical order.
func (c *CT2) Names() []string { return c.names }

// Tensor describes a variable.
func (c *CT2) Tensor(name string) (CT2Tensor, bool) {
	t, ok := c.tensors[name]
	return t, ok
}

// Data is a variable's bytes, which are the file's own.
func (c *CT2) Data(name string) ([]byte, error) {
	t, ok := c.tensors[name]
	if !ok {
		e := &Error{File: c.file, Field: "variable " + quote(name), Found: "it is not there"}
		if alike := Alike(name, c.names, 3); len(alike) > 0 {
			e.Remedy = "there are names alike: " + strings.Join(alike, ", ")
		}
		return nil, e
	}
	return c.data[t.Offset : t.Offset+t.Length : t.Offset+t.Length], nil
}

// Identity is 64 hex digits that name what the folder holds, as Checkpoint.Identity does.
func (c *CT2) Identity() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "ctranslate2 %d\nweights header %d\n", identityVersion, len(c.header))
	h.Write(c.header)
	if err := stamp(h, int64(len(c.data)), c.mtime, c.inode, bytes.NewReader(c.data)); err != nil {
		return "", &Error{File: c.file, Err: err}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Close unmaps the file.
func (c *CT2) Close() error {
	c.tensors, c.names = nil, nil
	return c.close()
}

// ct2Reader reads a header as ggufReader does.
type ct2Reader struct{ ggufReader }

func (r *ct2Reader) byte(what string) uint8 {
	if b := r.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

// text reads a text that ends in a zero, with its length before it.
func (r *ct2Reader) text(what string) string {
	at := r.at
	var n uint16
	if b := r.take(2, what); b != nil {
		n = binary.LittleEndian.Uint16(b)
	}
	b := r.take(uint64(n), what)
	if r.err != nil {
		return ""
	}
	if n < 2 || bytes.IndexByte(b, 0) != int(n)-1 || strings.ToValidUTF8(string(b), "") != string(b) {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("%s at byte %d is %s", what, at, quote(string(b))), Wanted: "text in UTF-8 that ends in a zero", Remedy: damagedRemedy})
		return ""
	}
	return string(b[:n-1])
}

// countOf reads how many things follow, each of at least size bytes.
func (r *ct2Reader) countOf(what string, size int) int {
	n := r.u32(what)
	if most := (len(r.data) - r.at) / size; int64(n) > int64(most) {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("the %s is stated as %d, but there is room for %d", what, n, most), Remedy: damagedRemedy})
		return 0
	}
	return int(n)
}
