package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/tensor"
)

// maxHeader is the longest header that is read, in bytes: the limit of the
// format's own library.
const maxHeader = 100_000_000

// maxRank bounds the shapes that a header may state.
const maxRank = 64

// storedType is an element type of the format.
type storedType struct {
	name  string
	dtype tensor.DType
	bits  int64
}

// storedTypes are the element types of the safetensors format, ordered as its
// writers order tensors: widest alignment last. The two 6 bit types have no
// counterpart in ONNX: files with them open, their tensors don't.
var storedTypes = []storedType{
	{"BOOL", tensor.Bool, 8},
	{"F4", tensor.Float4E2M1, 4},
	{"F6_E2M3", tensor.Undefined, 6},
	{"F6_E3M2", tensor.Undefined, 6},
	{"U8", tensor.Uint8, 8},
	{"I8", tensor.Int8, 8},
	{"F8_E5M2", tensor.Float8E5M2, 8},
	{"F8_E4M3", tensor.Float8E4M3, 8},
	{"F8_E8M0", tensor.Float8E8M0, 8},
	{"F8_E4M3FNUZ", tensor.Float8E4M3UZ, 8},
	{"F8_E5M2FNUZ", tensor.Float8E5M2UZ, 8},
	{"I16", tensor.Int16, 16},
	{"U16", tensor.Uint16, 16},
	{"F16", tensor.Float16, 16},
	{"BF16", tensor.BFloat16, 16},
	{"I32", tensor.Int32, 32},
	{"U32", tensor.Uint32, 32},
	{"F32", tensor.Float32, 32},
	{"C64", tensor.Complex64, 64},
	{"F64", tensor.Float64, 64},
	{"I64", tensor.Int64, 64},
	{"U64", tensor.Uint64, 64},
}

// strangers are files that people take for safetensors, by how they begin.
var strangers = []struct{ magic, what, remedy string }{
	{"version https://git-lfs", "a Git LFS pointer, not the file it points to", "fetch the file with `git lfs pull`"},
	{"PK\x03\x04", "a zip archive, most likely PyTorch's pickle format", pickleRemedy},
	{"\x80\x02", "a pickle", pickleRemedy},
	{"GGUF", "a GGUF file", "give it a name that ends in .gguf"},
	{"<!DOCTYPE", "an HTML page", "the download went wrong: fetch the file again"},
	{"<html", "an HTML page", "the download went wrong: fetch the file again"},
}

const (
	pickleRemedy   = "pickles can run code and are not opened: convert the model to safetensors"
	damagedRemedy  = "the file is damaged or not what it claims to be: fetch or write it again"
	downloadRemedy = "the download is incomplete or damaged: fetch the file again"
)

// Entry says what a stored tensor is and where its bytes lie.
type Entry struct {
	DType  tensor.DType // Undefined where ONNX has no such type
	Stored string       // the type as the file names it
	Shape  tensor.Shape
	File   string // absolute path with symbolic links resolved
	Offset int64  // bytes into File
	Length int64  // bytes
}

// Safetensors is an open safetensors file, mapped read-only. Its methods may be
// called from several goroutines. The file must not be shortened while it is open;
// replace it by renaming.
type Safetensors struct {
	Metadata map[string]string

	header  int64 // bytes of the file before the tensors' data
	entries map[string]Entry
	names   []string
	mapped
}

// OpenSafetensors maps a file and checks its header: every tensor lies inside the
// file, has the length that type and shape say, and together they fill the file
// without overlap or hole (https://huggingface.co/docs/safetensors). Errors are
// *Error.
func OpenSafetensors(path string) (*Safetensors, error) {
	m, err := mapWhole(path)
	if err != nil {
		return nil, err
	}
	s, err := ParseSafetensors(m.file, m.data)
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	s.mapped = m
	return s, nil
}

// ParseSafetensors reads a file that is already in memory; its tensors share data.
// file is only what entries and errors call it.
func ParseSafetensors(file string, data []byte) (*Safetensors, error) {
	header, err := headerOf(data)
	if err == nil {
		s := &Safetensors{mapped: mapped{file: file, data: data}, header: int64(8 + len(header))}
		if err = s.parse(header); err == nil {
			return s, nil
		}
	}
	err.File = file
	return nil, err
}

// headerOf cuts out the header: its length in 8 bytes little endian, then JSON.
func headerOf(data []byte) ([]byte, *Error) {
	var n uint64
	if len(data) >= 8 {
		n = binary.LittleEndian.Uint64(data)
	}
	var e *Error
	switch {
	case len(data) < 8:
		e = &Error{Found: fmt.Sprintf("the file has %d bytes", len(data)), Wanted: "the 8 bytes of the header's length at least", Remedy: downloadRemedy}
	case n > maxHeader:
		e = &Error{Field: "header", Found: fmt.Sprintf("its length is stated as %d bytes", n), Wanted: fmt.Sprintf("at most %d", maxHeader), Remedy: damagedRemedy}
	case n > uint64(len(data)-8):
		e = &Error{Field: "header", Found: fmt.Sprintf("it is stated to end at byte %d, but the file ends at byte %d", n+8, len(data)), Remedy: downloadRemedy}
	}
	if e != nil {
		// What is no safetensors file may be known by how it begins.
		for _, s := range strangers {
			if bytes.HasPrefix(data, []byte(s.magic)) {
				return nil, &Error{Found: "it is " + s.what, Wanted: "a safetensors file", Remedy: s.remedy}
			}
		}
		return nil, e
	}
	header := data[8 : 8+n]
	if !utf8.Valid(header) || len(header) == 0 || header[0] != '{' {
		return nil, &Error{Field: "header", Found: "it is not a JSON object in UTF-8", Remedy: damagedRemedy}
	}
	return header, nil
}

// parse reads the header into entries and checks that they tile the data.
func (s *Safetensors) parse(header []byte) *Error {
	h := headerReader{text: header}
	s.entries = map[string]Entry{}
	type placed struct {
		name string
		Entry
	}
	var order []placed
	err := h.object(func(name string) error {
		if name == "__metadata__" {
			if s.Metadata != nil {
				return twice(name)
			}
			s.Metadata = map[string]string{}
			return h.object(func(key string) (err error) {
				if _, ok := s.Metadata[key]; ok {
					return twice(key)
				}
				s.Metadata[key], err = h.string()
				return err
			})
		}
		if _, ok := s.entries[name]; ok {
			return twice(name)
		}
		e, err := h.entry(s.header)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", quote(name), err)
		}
		e.File = s.file
		s.entries[name] = e
		order = append(order, placed{name, e})
		return nil
	})
	if h.next(); err == nil && h.at < len(header) {
		err = h.fail("nothing after the object")
	}
	if err != nil {
		return &Error{Field: "header", Err: err, Remedy: damagedRemedy}
	}

	slices.SortFunc(order, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length), cmp.Compare(a.name, b.name))
	})
	end, last := s.header, "the header"
	for _, e := range order {
		if e.Offset != end {
			what := "a hole"
			if e.Offset < end {
				what = "an overlap"
			}
			return &Error{Field: "tensor " + quote(e.name), Found: fmt.Sprintf("%s: it begins at byte %d, and %s ends at byte %d", what, e.Offset, last, end),
				Wanted: "tensors that follow one another", Remedy: damagedRemedy}
		}
		end, last = e.Offset+e.Length, quote(e.name)
		if end > int64(len(s.data)) {
			return &Error{Field: "tensor " + quote(e.name), Found: fmt.Sprintf("it ends at byte %d, but the file at byte %d", end, len(s.data)), Remedy: downloadRemedy}
		}
	}
	if end != int64(len(s.data)) {
		return &Error{Found: fmt.Sprintf("%d bytes follow the last tensor", int64(len(s.data))-end), Wanted: "none", Remedy: damagedRemedy}
	}
	s.names = slices.Sorted(maps.Keys(s.entries))
	return nil
}

func twice(key string) error { return fmt.Errorf("%s occurs twice", quote(key)) }

// headerReader reads the JSON of a header: objects, strings, and lists of whole
// numbers, which is all that one holds. Keys that occur twice must be seen and
// numbers kept whole, neither of which encoding/json does, and a hundred megabytes
// read in a second.
type headerReader struct {
	text []byte
	at   int
}

// fail says what stands where something else is wanted.
func (h *headerReader) fail(wanted string) error {
	if h.at >= len(h.text) {
		return fmt.Errorf("it ends at byte %d, wanted %s", h.at, wanted)
	}
	rest := h.text[h.at:min(len(h.text), h.at+40)]
	if end := bytes.IndexAny(rest[1:], ",:]}"); end >= 0 {
		rest = rest[:1+end]
	}
	return fmt.Errorf("found %s at byte %d, wanted %s", strings.Trim(quote(string(rest)), `"`), h.at, wanted)
}

// next skips white space and gives the next byte without taking it; 0 at the end.
func (h *headerReader) next() byte {
	for ; h.at < len(h.text); h.at++ {
		switch c := h.text[h.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (h *headerReader) take(c byte) error {
	if h.next() != c {
		return h.fail(strconv.QuoteRune(rune(c)))
	}
	h.at++
	return nil
}

// object reads an object, calling value for each key. value must read the value,
// and refuse a key that it has seen.
func (h *headerReader) object(value func(key string) error) error {
	return h.members('{', '}', func() error {
		key, err := h.string()
		if err != nil {
			return err
		}
		if err := h.take(':'); err != nil {
			return err
		}
		return value(key)
	})
}

// members reads what stands between two brackets, with commas between.
func (h *headerReader) members(begin, end byte, member func() error) error {
	if err := h.take(begin); err != nil {
		return err
	}
	if h.next() == end {
		return h.take(end)
	}
	for {
		if err := member(); err != nil {
			return err
		}
		if h.next() != ',' {
			return h.take(end)
		}
		h.at++
	}
}

func (h *headerReader) string() (string, error) {
	if h.next() != '"' {
		return "", h.fail("a string")
	}
	start, escaped := h.at, false
	for i := start + 1; i < len(h.text); i++ {
		switch c := h.text[i]; {
		case c == '"':
			h.at = i + 1
			if !escaped {
				return string(h.text[start+1 : i]), nil
			}
			var s string
			if err := json.Unmarshal(h.text[start:h.at], &s); err != nil {
				return "", fmt.Errorf("the string at byte %d: %w", start, err)
			}
			return s, nil
		case c == '\\':
			escaped = true
			i++ // whatever it escapes
		case c < ' ':
			h.at = i
			return "", h.fail("the rest of a string")
		}
	}
	return "", fmt.Errorf("the string at byte %d has no end", start)
}

// numbers reads a list of at most most whole numbers that are not negative.
func (h *headerReader) numbers(most int) ([]int64, error) {
	list := []int64{}
	return list, h.members('[', ']', func() error {
		h.next()
		end := h.at
		for end < len(h.text) && '0' <= h.text[end] && h.text[end] <= '9' {
			end++
		}
		const wanted = "a whole number from 0 to 2^63-1"
		v, err := strconv.ParseUint(string(h.text[h.at:min(end, h.at+20)]), 10, 63)
		if err != nil || h.text[h.at] == '0' && end > h.at+1 || end > h.at+20 {
			return h.fail(wanted)
		}
		if len(list) == most {
			return fmt.Errorf("found more than %d numbers", most)
		}
		list = append(list, int64(v))
		start := h.at
		h.at = end
		if c := h.next(); c != ',' && c != ']' {
			h.at = start
			return h.fail(wanted)
		}
		return nil
	})
}

// entry reads what the header says of one tensor; base is where data begins.
func (h *headerReader) entry(base int64) (Entry, error) {
	var e Entry
	var bits, begin, end int64
	fields := [...]string{"dtype", "shape", "data_offsets"}
	var given [len(fields)]bool
	err := h.object(func(key string) (err error) {
		i := slices.Index(fields[:], key)
		switch {
		case i < 0:
			return fmt.Errorf("field %s is not known", quote(key))
		case given[i]:
			return twice(key)
		}
		given[i] = true
		switch key {
		case "dtype":
			if e.Stored, err = h.string(); err != nil {
				break
			}
			i := slices.IndexFunc(storedTypes, func(t storedType) bool { return t.name == e.Stored })
			if i < 0 {
				return fmt.Errorf("dtype %s is not known", quote(e.Stored))
			}
			e.DType, bits = storedTypes[i].dtype, storedTypes[i].bits
		case "shape":
			e.Shape, err = h.numbers(maxRank)
		case "data_offsets":
			var list []int64
			list, err = h.numbers(2)
			if err == nil && len(list) != 2 {
				err = fmt.Errorf("found %d numbers, wanted 2", len(list))
			}
			if err == nil {
				begin, end = list[0], list[1]
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return Entry{}, err
	}
	if i := slices.Index(given[:], false); i >= 0 {
		return Entry{}, fmt.Errorf("%s is missing", fields[i])
	}
	e.Length = end - begin
	if e.Length < 0 || end > 1<<62 {
		return Entry{}, fmt.Errorf("data_offsets: found [%d,%d], wanted a range", begin, end)
	}
	e.Offset = base + begin
	n, err := e.Shape.Elements()
	if err != nil {
		return Entry{}, err
	}
	if n > 1<<56 || n*bits%8 != 0 || n*bits/8 != e.Length {
		return Entry{}, fmt.Errorf("data_offsets: found %d bytes for %s%v of %d elements of %d bits", e.Length, e.Stored, e.Shape, n, bits)
	}
	return e, nil
}

// Names lists the tensors in alphabetical order.
func (s *Safetensors) Names() []string { return s.names }

// Entry says what the tensor of that name is and where it lies.
func (s *Safetensors) Entry(name string) (Entry, bool) {
	e, ok := s.entries[name]
	return e, ok
}

// Tensor returns a tensor without copying: its data is valid until Close, must not
// be written, and may be unaligned for its element type (tensor.Tensor.Aligned).
func (s *Safetensors) Tensor(name string) (tensor.Tensor, error) {
	e, ok := s.entries[name]
	if !ok {
		return tensor.Tensor{}, missing(s.file, name, s.names)
	}
	if e.DType == tensor.Undefined {
		return tensor.Tensor{}, &Error{File: s.file, Field: "tensor " + quote(name), Found: "it is of type " + e.Stored,
			Wanted: "a type that ONNX has", Remedy: "convert the weights"}
	}
	return tensor.Tensor{DType: e.DType, Shape: e.Shape.Clone(), Data: s.data[e.Offset : e.Offset+e.Length : e.Offset+e.Length]}, nil
}

// Close unmaps the file.
func (s *Safetensors) Close() error {
	s.entries, s.names = nil, nil
	return s.close()
}

// missing is the error for a tensor that is not there; it names those like it.
func missing(file, name string, names []string) *Error {
	e := &Error{File: file, Field: "tensor " + quote(name), Found: "it is not there"}
	if alike := Alike(name, names, 3); len(alike) > 0 {
		e.Remedy = "there are names alike: " + strings.Join(alike, ", ")
	}
	return e
}
