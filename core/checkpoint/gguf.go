package checkpoint

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

// Bounds of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
const (
	ggufMagic        = "GGUF"
	ggufSuffix       = ".gguf"
	ggufMaxName      = 1<<16 - 1 // bytes of a key or of a tensor's name
	ggufMaxRank      = 4
	ggufAlign        = 32 // where the metadata says nothing
	ggufMaxAlign     = 1 << 20
	ggufAlignmentKey = "general.alignment"
)

// GGUF is an open GGUF file, or all files of a split one, mapped read-only. Its
// methods may be called from several goroutines. The files must not be shortened
// while they are open; replace them by renaming.
type GGUF struct {
	Path    string // absolute; of a split one the first file's
	Version uint32 // of the format: 2 or 3

	parts   []*ggufPart
	tensors map[string]GGUFTensor
	names   []string
}

// GGUFTensor says what a stored tensor is and where its bytes lie.
type GGUFTensor struct {
	Type   GGUFType
	Shape  tensor.Shape // outermost dimension first, as ONNX has it: the reverse of the file's
	Offset int64        // bytes into its file
	Length int64        // bytes

	part int
}

// ggufPart is one file.
type ggufPart struct {
	version uint32
	no      int64 // among the parts of a split file, from 0
	header  int64 // bytes of the file before the tensors' data
	meta    map[string]ggufValue
	tensors map[string]GGUFTensor
	mapped
}

// OpenGGUF maps a file and checks its header: lengths and counts are of what is
// there, no key or tensor occurs twice, every tensor lies inside the file at a
// multiple of the alignment, and none overlaps another. Of a split file
// (NAME-00001-of-0000N.gguf) it opens all parts, whichever is named. Errors are
// *Error.
func OpenGGUF(path string) (*GGUF, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{File: path, Err: err}
	}
	named, err := openGGUFPart(abs)
	if err != nil {
		return nil, err
	}
	g := &GGUF{parts: []*ggufPart{named}}
	if err := g.openSplit(abs); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := g.join(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// ParseGGUF reads a whole file that is already in memory; its tensors share data.
// path is only what errors call it.
func ParseGGUF(path string, data []byte) (*GGUF, error) {
	p, err := parseGGUFPart(path, data)
	if err != nil {
		return nil, err
	}
	g := &GGUF{parts: []*ggufPart{p}}
	if n := g.Fields().IntOr(splitCountKey, 1, 0, splitMax); n > 1 {
		return nil, &Error{File: path, Field: splitCountKey, Found: fmt.Sprintf("it is one of %d files", n), Wanted: "a whole file"}
	}
	if err := g.join(); err != nil {
		return nil, err
	}
	return g, nil
}

func openGGUFPart(path string) (*ggufPart, error) {
	m, err := mapWhole(path)
	if err != nil {
		return nil, err
	}
	p, err := parseGGUFPart(path, m.data)
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	p.mapped = m
	return p, nil
}

// Keys of a split file.
const (
	splitNoKey      = "split.no"
	splitCountKey   = "split.count"
	splitTensorsKey = "split.tensors.count"
	splitMax        = 99999
)

var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// findGGUF finds the one model in a folder; empty where there is none.
func findGGUF(dir string) (string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", &Error{File: dir, Err: err}
	}
	var found []string
	for _, f := range files {
		// Of a split file the first part stands for all.
		if m := splitName.FindStringSubmatch(f.Name()); filepath.Ext(f.Name()) == ggufSuffix && (m == nil || m[2] == "00001") {
			found = append(found, f.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return filepath.Join(dir, found[0]), nil
	}
	return "", &Error{File: dir, Found: "the folder holds " + strings.Join(found[:min(len(found), 20)], ", "), Wanted: "one model", Remedy: "name the file"}
}

// openSplit opens the other parts, where there are any.
func (g *GGUF) openSplit(path string) error {
	f := g.Fields()
	count := f.IntOr(splitCountKey, 1, 0, splitMax)
	if err := f.Err(); err != nil || count <= 1 {
		return err
	}
	dir, base := filepath.Split(path)
	m := splitName.FindStringSubmatch(base)
	if m == nil || m[3] != fmt.Sprintf("%05d", count) {
		return &Error{File: path, Found: fmt.Sprintf("it is one of %d files", count), Wanted: fmt.Sprintf("a name that ends in -00001-of-%05d.gguf", count),
			Remedy: "give the parts the names that they were made with"}
	}
	for i := range count {
		name := fmt.Sprintf("%s%s-%05d-of-%s.gguf", dir, m[1], i+1, m[3])
		if name == path {
			g.parts[0].no = i
			continue
		}
		p, err := openGGUFPart(name)
		if err != nil {
			return err
		}
		p.no = i
		g.parts = append(g.parts, p)
	}
	// By the names that were asked for: links may lead to files of any name.
	slices.SortStableFunc(g.parts, func(a, b *ggufPart) int { return cmp.Compare(a.no, b.no) })
	for i, p := range g.parts {
		f := p.fields()
		if no, of := f.Int(splitNoKey, 0, splitMax), f.Int(splitCountKey, 0, splitMax); no != int64(i) || of != count {
			f.Fail(splitNoKey, fmt.Sprintf("it says that it is number %d of %d", no, of), fmt.Sprintf("number %d of %d", i, count),
				"the parts are of different models: fetch them again")
		}
		if err := f.Err(); err != nil {
			return err
		}
	}
	return nil
}

// join gathers the tensors of all parts.
func (g *GGUF) join() error {
	g.Path, g.Version = g.parts[0].file, g.parts[0].version
	g.tensors = map[string]GGUFTensor{}
	for i, p := range g.parts {
		for name, t := range p.tensors {
			if other, twice := g.tensors[name]; twice {
				return &Error{File: p.file, Field: "tensor " + quote(name), Found: "it is in " + filepath.Base(g.parts[other.part].file) + " too",
					Remedy: "the parts are of different models: fetch them again"}
			}
			t.part = i
			g.tensors[name] = t
		}
	}
	g.names = slices.Sorted(maps.Keys(g.tensors))
	f := g.Fields()
	if n := f.IntOr(splitTensorsKey, int64(len(g.names)), 0, math.MaxInt32); n != int64(len(g.names)) && len(g.parts) > 1 && f.Err() == nil {
		f.Fail(splitTensorsKey, fmt.Sprintf("there are %d tensors", len(g.names)), strconv.FormatInt(n, 10), "the parts are of different models: fetch them again")
	}
	return f.Err()
}

// parseGGUFPart reads a header. Errors are *Error.
func parseGGUFPart(file string, data []byte) (*ggufPart, error) {
	r := &ggufReader{data: data}
	p := &ggufPart{mapped: mapped{file: file, data: data}}
	if err := p.parse(r); err != nil {
		e := err.(*Error)
		e.File = file
		return nil, e
	}
	return p, nil
}

func (p *ggufPart) parse(r *ggufReader) error {
	if !bytes.HasPrefix(p.data, []byte(ggufMagic)) {
		for _, s := range strangers {
			if bytes.HasPrefix(p.data, []byte(s.magic)) {
				return &Error{Found: "it is " + s.what, Wanted: "a GGUF file", Remedy: s.remedy}
			}
		}
		return &Error{Found: "it does not begin with GGUF", Wanted: "a GGUF file", Remedy: damagedRemedy}
	}
	r.at = len(ggufMagic)
	p.version = r.u32("version")
	switch v := p.version; {
	case r.err != nil:
		return r.err
	case v != 2 && v != 3 && bits.ReverseBytes32(v) <= 3:
		return &Error{Field: "version", Found: "the file is big endian", Wanted: "a little endian one", Remedy: "convert the model again"}
	case v != 2 && v != 3:
		return &Error{Field: "version", Found: fmt.Sprintf("found %d", v), Wanted: "2 or 3", Remedy: "convert the model again"}
	}
	// A tensor takes at least 32 bytes of the header and a key 13: more are not there.
	tensors := r.count("number of tensors", 32)
	keys := r.count("number of keys", 13)
	p.meta = map[string]ggufValue{}
	for range keys {
		key := r.name("a key")
		if r.err != nil {
			return r.err
		}
		if _, ok := p.meta[key]; ok {
			return &Error{Field: key, Found: "the key occurs twice", Remedy: damagedRemedy}
		}
		p.meta[key] = r.value(key)
	}
	if r.err != nil {
		return r.err
	}
	f := p.fields()
	align := f.IntOr(ggufAlignmentKey, ggufAlign, 1, ggufMaxAlign)
	if align&(align-1) != 0 {
		f.Fail(ggufAlignmentKey, fmt.Sprintf("found %d", align), "a power of two", damagedRemedy)
	}
	if err := f.Err(); err != nil {
		return err
	}
	p.tensors = map[string]GGUFTensor{}
	order := make([]string, 0, tensors)
	for range tensors {
		name := r.name("a tensor's name")
		if r.err != nil {
			return r.err
		}
		if _, ok := p.tensors[name]; ok {
			return &Error{Field: "tensor " + quote(name), Found: "it occurs twice", Remedy: damagedRemedy}
		}
		t := r.tensor(name, align)
		if r.err != nil {
			return r.err
		}
		p.tensors[name] = t
		order = append(order, name)
	}
	return p.place(order, (int64(r.at)+align-1)/align*align)
}

// place turns offsets into those of the file and checks that tensors lie inside it,
// side by side.
func (p *ggufPart) place(order []string, begin int64) error {
	p.header = min(begin, int64(len(p.data)))
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(p.tensors[a].Offset, p.tensors[b].Offset) })
	end, last := begin, "the header"
	for _, name := range order {
		t := p.tensors[name]
		field := "tensor " + quote(name)
		room := int64(len(p.data)) - begin
		if t.Length > room || t.Offset > room-t.Length {
			return &Error{Field: field, Found: fmt.Sprintf("its %d bytes begin at byte %d of the data, which has %d", t.Length, t.Offset, max(room, 0)), Remedy: downloadRemedy}
		}
		t.Offset += begin
		if t.Offset < end {
			return &Error{Field: field, Found: fmt.Sprintf("an overlap: it begins at byte %d, and %s ends at byte %d", t.Offset, last, end), Remedy: damagedRemedy}
		}
		end, last = t.Offset+t.Length, quote(name)
		p.tensors[name] = t
	}
	return nil
}

// Names lists the tensors in alphabetical order.
func (g *GGUF) Names() []string { return g.names }

// Tensor says what the tensor of that name is.
func (g *GGUF) Tensor(name string) (GGUFTensor, bool) {
	t, ok := g.tensors[name]
	return t, ok
}

// Data returns a tensor's bytes as they are stored, without copying: they are valid
// until Close and must not be written.
func (g *GGUF) Data(name string) ([]byte, error) {
	t, ok := g.tensors[name]
	if !ok {
		return nil, missing(g.Path, name, g.names)
	}
	return g.parts[t.part].data[t.Offset : t.Offset+t.Length : t.Offset+t.Length], nil
}

// Identity is 64 hex digits that name what the files hold, as Checkpoint.Identity
// does: of every file its size, time of last change, inode, whole header and
// samples of its data.
func (g *GGUF) Identity() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "gguf %d\n", identityVersion)
	for _, p := range g.parts {
		fmt.Fprintf(h, "weights %q header %d\n", filepath.Base(p.file), p.header)
		h.Write(p.data[:p.header])
		if err := stamp(h, int64(len(p.data)), p.mtime, p.inode, bytes.NewReader(p.data)); err != nil {
			return "", &Error{File: p.file, Err: err}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Close unmaps the files.
func (g *GGUF) Close() error {
	var errs []error
	for _, p := range g.parts {
		errs = append(errs, p.close())
	}
	g.tensors, g.names = nil, nil
	return errors.Join(errs...)
}

// ggufReader reads a header. After its first error, an *Error without the file, it
// gives zeros.
type ggufReader struct {
	data []byte
	at   int
	err  error
}

func (r *ggufReader) fail(e *Error) {
	if r.err == nil {
		r.err = e
	}
}

// take gives the next n bytes.
func (r *ggufReader) take(n uint64, what string) []byte {
	if left := uint64(len(r.data) - r.at); n > left && r.err == nil {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("%s at byte %d needs %d bytes, but the file ends %d bytes on", what, r.at, n, left), Remedy: downloadRemedy})
	}
	if r.err != nil {
		return nil
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *ggufReader) u32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *ggufReader) u64(what string) uint64 {
	if b := r.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads how many things follow, each of at least size bytes.
func (r *ggufReader) count(what string, size int) int {
	n := r.u64(what)
	if most := uint64(len(r.data)-r.at) / uint64(size); n > most {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("the %s is stated as %d, but there is room for %d", what, n, most), Remedy: damagedRemedy})
		return 0
	}
	return int(n)
}

// name reads a key or a tensor's name.
func (r *ggufReader) name(what string) string {
	at := r.at
	n := r.u64(what)
	if n > ggufMaxName {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("the length of %s at byte %d is stated as %d", what, at, n), Wanted: fmt.Sprintf("at most %d", ggufMaxName), Remedy: damagedRemedy})
	}
	s := string(r.take(n, what))
	if r.err == nil && (s == "" || strings.ToValidUTF8(s, "") != s) {
		r.fail(&Error{Field: "header", Found: fmt.Sprintf("%s at byte %d is %s", what, at, quote(s)), Wanted: "text in UTF-8", Remedy: damagedRemedy})
	}
	return s
}

// tensor reads what the header says of one tensor; its offset is from where the
// data begins.
func (r *ggufReader) tensor(name string, align int64) GGUFTensor {
	field := "tensor " + quote(name)
	bad := func(found, wanted string) GGUFTensor {
		r.fail(&Error{Field: field, Found: found, Wanted: wanted, Remedy: damagedRemedy})
		return GGUFTensor{}
	}
	rank := r.u32(field)
	if rank < 1 || rank > ggufMaxRank {
		return bad(fmt.Sprintf("it has %d dimensions", rank), fmt.Sprintf("1 to %d", ggufMaxRank))
	}
	t := GGUFTensor{Shape: make(tensor.Shape, rank)}
	elements := uint64(1)
	for i := range rank {
		d := r.u64(field)
		hi, lo := bits.Mul64(elements, d)
		if r.err == nil && (d == 0 || hi != 0 || lo > 1<<56) {
			return bad(fmt.Sprintf("dimension %d is stated as %d", i, d), "positive ones, of at most 2^56 elements together")
		}
		elements = lo
		t.Shape[rank-1-i] = int64(d)
	}
	number, offset := r.u32(field), r.u64(field)
	if r.err != nil {
		return GGUFTensor{}
	}
	var ok bool
	if t.Type, ok = ggufTypes[number]; !ok {
		return bad(fmt.Sprintf("its type is number %d", number), "a type that is known")
	}
	if row := t.Shape[rank-1]; row%t.Type.Block != 0 {
		return bad(fmt.Sprintf("its rows have %d elements", row), fmt.Sprintf("whole blocks of %d, as %s has them", t.Type.Block, t.Type.Name))
	}
	t.Length = int64(elements) / t.Type.Block * t.Type.Bytes
	if offset > math.MaxInt64/2 || offset%uint64(align) != 0 {
		return bad(fmt.Sprintf("it is stated to begin at byte %d of the data", offset), fmt.Sprintf("a multiple of %d", align))
	}
	t.Offset = int64(offset)
	return t
}
