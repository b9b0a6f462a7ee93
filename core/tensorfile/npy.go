package tensorfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/tensor"
)

// NumPy's format, versions 1.0 to 3.0:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

const (
	npyMagic = "\x93NUMPY"
	// maxHeader bounds a header; NumPy itself refuses those over 10 000 bytes.
	maxHeader = 1 << 16
	npyAlign  = 64
	// maxRank is NumPy's.
	maxRank = 64
)

// npyTypes are NumPy's codes, less the byte order.
var npyTypes = map[string]tensor.DType{
	"b1": tensor.Bool, "i1": tensor.Int8, "u1": tensor.Uint8, "i2": tensor.Int16, "u2": tensor.Uint16,
	"i4": tensor.Int32, "u4": tensor.Uint32, "i8": tensor.Int64, "u8": tensor.Uint64,
	"f2": tensor.Float16, "f4": tensor.Float32, "f8": tensor.Float64, "c8": tensor.Complex64, "c16": tensor.Complex128,
}

// npyCode is NumPy's code of an element type, if it has one.
func npyCode(d tensor.DType) (string, bool) {
	for code, t := range npyTypes {
		if t == d {
			return code, true
		}
	}
	return "", false
}

// npyHeader is what stands before an array's data.
type npyHeader struct {
	dtype   tensor.DType
	width   int64 // bytes of an element
	utf32   bool  // strings as code points, not bytes
	big     bool  // big-endian
	fortran bool  // the first index runs fastest
	shape   tensor.Shape
	length  int64 // of the header itself
}

func bad(format string, args ...any) error { return &Error{Problem: fmt.Sprintf(format, args...)} }

// readHeader reads up to the array's data.
func readHeader(r io.Reader) (npyHeader, error) {
	var fixed [12]byte
	if _, err := io.ReadFull(r, fixed[:10]); err != nil || string(fixed[:6]) != npyMagic {
		return npyHeader{}, bad("it is no NumPy array")
	}
	length, skip := int64(binary.LittleEndian.Uint16(fixed[8:])), int64(10)
	switch fixed[6] {
	case 1:
	case 2, 3:
		if _, err := io.ReadFull(r, fixed[10:]); err != nil {
			return npyHeader{}, bad("its header is cut off")
		}
		length, skip = int64(binary.LittleEndian.Uint32(fixed[8:])), 12
	default:
		return npyHeader{}, bad("it is of NumPy's format %d.%d, known are 1.0 to 3.0", fixed[6], fixed[7])
	}
	if length > maxHeader {
		return npyHeader{}, bad("its header of %d bytes is longer than any of an array", length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return npyHeader{}, bad("its header is cut off")
	}
	h, err := parseHeader(text)
	h.length = skip + length
	return h, err
}

// parseHeader reads the Python literal of a header:
// {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
func parseHeader(text []byte) (npyHeader, error) {
	p := &literal{text: text}
	h := npyHeader{}
	seen := map[string]bool{}
	p.must('{')
	for !p.failed && !p.take('}') {
		key := p.str()
		p.must(':')
		if p.failed || seen[key] {
			return h, bad("its header can't be read")
		}
		seen[key] = true
		switch key {
		case "descr":
			if p.peek() == '[' {
				return h, &Error{Problem: "it holds records of several fields", Remedy: "save each field as an array of its own"}
			}
			if err := h.describe(p.str()); err != nil && !p.failed {
				return h, err
			}
		case "fortran_order":
			h.fortran = p.boolean()
		case "shape":
			h.shape = p.tuple()
		default:
			return h, bad("its header has the key %q, which no array has", key)
		}
		if !p.take(',') && p.peek() != '}' {
			p.failed = true
		}
	}
	if p.failed || strings.Trim(string(text[p.at:]), " \n") != "" || len(seen) != 3 {
		return h, bad("its header can't be read")
	}
	if _, err := h.shape.Elements(); err != nil {
		return h, bad("%v", err)
	}
	return h, nil
}

// describe takes a type's code, such as <f4.
func (h *npyHeader) describe(descr string) error {
	order, code := byte('|'), descr
	if descr != "" && strings.IndexByte("<>|=", descr[0]) >= 0 {
		order, code = descr[0], descr[1:]
	}
	h.big = order == '>'
	if t, ok := npyTypes[code]; ok {
		h.dtype, h.width = t, int64(t.Bits()/8)
		return nil
	}
	if code == "" {
		return bad("its header names no type")
	}
	n, err := strconv.ParseInt(code[1:], 10, 32)
	switch {
	case (code[0] == 'U' || code[0] == 'S') && err == nil && n > 0:
		h.dtype, h.width = tensor.String, n
		if h.utf32 = code[0] == 'U'; h.utf32 {
			h.width = 4 * n
		}
		return nil
	case code[0] == 'O':
		return &Error{Problem: "it holds pickled Python objects, which are not opened", Remedy: "save an array of numbers: x.astype('float32')"}
	case code[0] == 'V':
		return &Error{Problem: fmt.Sprintf("its type %q is opaque bytes; NumPy has no bfloat16, float8 or int4 of its own", descr),
			Remedy: "write such a tensor as .pb: onnx.numpy_helper.from_array(x).SerializeToString()"}
	}
	return &Error{Problem: fmt.Sprintf("its type %q has no counterpart in ONNX", descr), Remedy: "convert it: x.astype('float32')"}
}

// literal scans a Python literal.
type literal struct {
	text   []byte
	at     int
	failed bool
}

func (p *literal) peek() byte {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\n') {
		p.at++
	}
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *literal) take(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.at++
	return true
}

func (p *literal) must(c byte) { p.failed = p.failed || !p.take(c) }

// str reads a quoted text without escapes, which no header of an array needs.
func (p *literal) str() string {
	q := p.peek()
	if q != '\'' && q != '"' {
		p.failed = true
		return ""
	}
	rest := p.text[p.at+1:]
	end := bytes.IndexByte(rest, q)
	if end < 0 || bytes.IndexByte(rest[:end], '\\') >= 0 {
		p.failed = true
		return ""
	}
	p.at += end + 2
	return string(rest[:end])
}

func (p *literal) boolean() bool {
	p.peek()
	for _, word := range []string{"True", "False"} {
		if bytes.HasPrefix(p.text[p.at:], []byte(word)) {
			p.at += len(word)
			return word == "True"
		}
	}
	p.failed = true
	return false
}

func (p *literal) tuple() tensor.Shape {
	s := tensor.Shape{}
	p.must('(')
	for !p.failed && !p.take(')') {
		begin := p.at
		for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
			p.at++
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(p.text[begin:p.at])), 10, 64)
		p.take('L') // as Python 2 wrote
		if err != nil || len(s) == maxRank {
			p.failed = true
		}
		s = append(s, n)
		if !p.take(',') && p.peek() != ')' {
			p.failed = true
		}
	}
	return s
}

// readNPY reads an array of a file or entry of size bytes.
func readNPY(r io.Reader, size int64, ok accept) (tensor.Tensor, error) {
	h, err := readHeader(r)
	if err != nil {
		return tensor.Tensor{}, err
	}
	n, _ := h.shape.Elements()
	if n > math.MaxInt64/h.width {
		return tensor.Tensor{}, bad("%s%v is too large to address", h.dtype, h.shape)
	}
	if have, want := size-h.length, n*h.width; have != want {
		return tensor.Tensor{}, bad("its header says %s%v, which is %d bytes; it holds %d", h.dtype, h.shape, want, have)
	}
	if err := ok(h.dtype, h.shape); err != nil {
		return tensor.Tensor{}, err
	}
	if h.dtype == tensor.String {
		return h.readStrings(r, n)
	}
	t, err := tensor.New(h.dtype, h.shape)
	if err != nil {
		return t, err
	}
	if _, err := io.ReadFull(r, t.Data); err != nil {
		return t, err
	}
	if h.big {
		component := int(h.width)
		if h.dtype == tensor.Complex64 || h.dtype == tensor.Complex128 {
			component /= 2
		}
		for b := t.Data; len(b) > 0; b = b[component:] {
			slices.Reverse(b[:component])
		}
	}
	if h.dtype == tensor.Bool {
		if i := slices.IndexFunc(t.Data, func(b byte) bool { return b > 1 }); i >= 0 {
			return t, bad("element %d of a bool array is the byte %d", i, t.Data[i])
		}
	}
	if h.fortran {
		return rowMajor(t)
	}
	return t, nil
}

func (h *npyHeader) readStrings(r io.Reader, n int64) (tensor.Tensor, error) {
	t, err := tensor.New(tensor.String, h.shape)
	if err != nil {
		return t, err
	}
	raw := make([]byte, h.width)
	for i := range t.Strings {
		if _, err := io.ReadFull(r, raw); err != nil {
			return t, err
		}
		if !h.utf32 {
			t.Strings[i] = string(bytes.TrimRight(raw, "\x00"))
			continue
		}
		var b strings.Builder
		order := binary.ByteOrder(binary.LittleEndian)
		if h.big {
			order = binary.BigEndian
		}
		last := len(raw)
		for last > 0 && order.Uint32(raw[last-4:]) == 0 {
			last -= 4
		}
		for at := 0; at < last; at += 4 {
			c := order.Uint32(raw[at:])
			if c > utf8.MaxRune || !utf8.ValidRune(rune(c)) {
				return t, bad("element %d holds %#x, which is no character", i, c)
			}
			b.WriteRune(rune(c))
		}
		t.Strings[i] = b.String()
	}
	if h.fortran {
		return rowMajor(t)
	}
	return t, nil
}

// rowMajor turns a tensor whose first index runs fastest.
func rowMajor(t tensor.Tensor) (tensor.Tensor, error) {
	out, err := tensor.New(t.DType, t.Shape)
	if err != nil {
		return t, err
	}
	rank, size := len(t.Shape), t.DType.Bits()/8
	stride := make([]int64, rank)
	step := int64(1)
	for i, d := range t.Shape {
		stride[i] = step
		step *= d
	}
	index := make([]int64, rank)
	from := int64(0)
	for to := range t.Len() {
		if t.DType == tensor.String {
			out.Strings[to] = t.Strings[from]
		} else {
			copy(out.Data[to*size:(to+1)*size], t.Data[int(from)*size:])
		}
		for d := rank - 1; d >= 0; d-- {
			index[d]++
			from += stride[d]
			if index[d] < t.Shape[d] {
				break
			}
			from -= stride[d] * t.Shape[d]
			index[d] = 0
		}
	}
	return out, nil
}

// WriteNPY writes a tensor as NumPy does. Element types that NumPy lacks are an
// *Error.
func WriteNPY(w io.Writer, t tensor.Tensor) error {
	if err := t.Check(); err != nil {
		return err
	}
	width := 1
	var code string
	if t.DType == tensor.String {
		for _, s := range t.Strings {
			width = max(width, utf8.RuneCountInString(s))
		}
		code = "<U" + strconv.Itoa(width)
	} else {
		c, ok := npyCode(t.DType)
		if !ok {
			return &Error{Problem: fmt.Sprintf("NumPy has no %s", t.DType), Remedy: "write it as .pb"}
		}
		code = "<" + c
		if t.DType.Bits() == 8 {
			code = "|" + c
		}
	}
	dims := make([]string, len(t.Shape))
	for i, d := range t.Shape {
		dims[i] = strconv.FormatInt(d, 10)
	}
	shape := strings.Join(dims, ", ")
	if len(dims) == 1 {
		shape += ","
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", code, shape)
	const preamble = 10
	header += strings.Repeat(" ", npyAlign-1-(preamble+len(header))%npyAlign) + "\n"
	b := append([]byte(npyMagic+"\x01\x00"), byte(len(header)), byte(len(header)>>8))
	if _, err := w.Write(append(b, header...)); err != nil {
		return err
	}
	if t.DType != tensor.String {
		_, err := w.Write(t.Data)
		return err
	}
	cell := make([]byte, 4*width)
	for _, s := range t.Strings {
		clear(cell)
		i := 0
		for _, r := range s {
			binary.LittleEndian.PutUint32(cell[4*i:], uint32(r))
			i++
		}
		if _, err := w.Write(cell); err != nil {
			return err
		}
	}
	return nil
}
