package tensorfile

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// A tensor in JSON is its nested arrays, a scalar a bare value: numbers, true and
// false, texts. JSON has no NaN and no infinity: they are written as the texts
// "NaN", "Infinity" and "-Infinity", and also read bare, as Python writes them.

// jsonScanner reads JSON in one pass, without building values.
type jsonScanner struct {
	data []byte
	at   int
}

func (s *jsonScanner) fail(format string, args ...any) error {
	line := 1
	for _, c := range s.data[:min(s.at, len(s.data))] {
		if c == '\n' {
			line++
		}
	}
	problem := fmt.Sprintf(format, args...)
	if line > 1 {
		problem = fmt.Sprintf("line %d: %s", line, problem)
	}
	return &Error{Problem: problem}
}

// peek is the next byte that is not blank; 0 at the end.
func (s *jsonScanner) peek() byte {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (s *jsonScanner) take(c byte) bool {
	if s.peek() != c || s.at == len(s.data) {
		return false
	}
	s.at++
	return true
}

func (s *jsonScanner) end() error {
	if s.peek(); s.at != len(s.data) {
		return s.fail("something follows the end of the value")
	}
	return nil
}

// text reads a quoted text.
func (s *jsonScanner) text() (string, error) {
	begin := s.at
	for i := begin + 1; i < len(s.data); i++ {
		switch s.data[i] {
		case '\\':
			i++
		case '"':
			s.at = i + 1
			var out string
			raw := s.data[begin : i+1]
			if err := json.Unmarshal(raw, &out); err != nil || !utf8.Valid(raw) {
				s.at = begin
				return "", s.fail("a text can't be read")
			}
			return out, nil
		}
	}
	return "", s.fail("a text does not end")
}

// word reads a number or a bare word.
func (s *jsonScanner) word() string {
	begin := s.at
	for s.at < len(s.data) {
		c := s.data[s.at]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '+' || c == '.' {
			s.at++
			continue
		}
		break
	}
	return string(s.data[begin:s.at])
}

// skip passes over one value.
func (s *jsonScanner) skip(depth int) error {
	if depth > maxRank+1 {
		return s.fail("arrays lie more than %d deep", maxRank)
	}
	switch s.peek() {
	case '[':
		s.at++
		if s.take(']') {
			return nil
		}
		for {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			if s.take(']') {
				return nil
			}
			if !s.take(',') {
				return s.fail("want , or ] in an array")
			}
		}
	case '"':
		_, err := s.text()
		return err
	case '{':
		return s.fail("a tensor is nested arrays, and holds no object")
	}
	if s.word() == "" {
		return s.fail("want a value")
	}
	return nil
}

// jsonObject finds the members of an object: where each lies in data.
func jsonObject(data []byte) ([]string, map[string][]byte, error) {
	s := &jsonScanner{data: data}
	var names []string
	values := map[string][]byte{}
	s.take('{')
	if s.take('}') {
		return nil, values, s.end()
	}
	for {
		if s.peek() != '"' {
			return nil, nil, s.fail("want a name in quotes")
		}
		name, err := s.text()
		if err != nil {
			return nil, nil, err
		}
		if values[name] != nil {
			return nil, nil, s.fail("%q is there twice", name)
		}
		if !s.take(':') {
			return nil, nil, s.fail("want : after %q", name)
		}
		s.peek()
		begin := s.at
		if err := s.skip(0); err != nil {
			return nil, nil, err
		}
		names, values[name] = append(names, name), data[begin:s.at]
		if s.take('}') {
			return names, values, s.end()
		}
		if !s.take(',') {
			return nil, nil, s.fail("want , or } after the value of %q", name)
		}
	}
}

// jsonTensor reads nested arrays as a tensor of the wanted type.
type jsonTensor struct {
	jsonScanner
	want   *graph.Type
	dims   tensor.Shape // -1: not seen yet
	leaf   int          // the depth that values lie at; -1: not seen yet
	floats []float64
	ints   []int64
	uints  []uint64 // instead of ints, for uint64
	bools  []bool
	texts  []string
}

// parseJSON reads a tensor of the element type that want says. Numbers become that
// type where it holds them: an integer may stand for a float, but neither may a
// fraction stand for an integer nor a number exceed its type.
func parseJSON(data []byte, want *graph.Type, ok accept) (tensor.Tensor, error) {
	if want == nil || want.Kind != graph.KindTensor {
		return tensor.Tensor{}, &Error{Problem: "JSON says tensors only", Remedy: "give this input as .pb"}
	}
	switch want.Elem {
	case tensor.Undefined:
		return tensor.Tensor{}, &Error{Problem: "the model does not say the input's element type, so JSON can't either", Remedy: "give it as .npy"}
	case tensor.Complex64, tensor.Complex128:
		return tensor.Tensor{}, &Error{Problem: "JSON has no complex numbers", Remedy: "give it as .npy"}
	}
	p := &jsonTensor{jsonScanner: jsonScanner{data: data}, want: want, leaf: -1}
	if err := p.value(0); err != nil {
		return tensor.Tensor{}, err
	}
	if err := p.end(); err != nil {
		return tensor.Tensor{}, err
	}
	// What an empty array would hold, only the model knows.
	for i := range p.dims {
		if p.dims[i] < 0 {
			p.dims[i] = 0
		}
	}
	if n, _ := p.dims.Elements(); n == 0 && want.HasShape && len(p.dims) > 0 {
		for i := len(p.dims); i < len(want.Dims); i++ {
			if want.Dims[i].Size < 0 {
				return tensor.Tensor{}, &Error{Problem: fmt.Sprintf("an empty array does not say dimension %d", i), Remedy: "give it as .npy"}
			}
			p.dims = append(p.dims, want.Dims[i].Size)
		}
	}
	if err := ok(want.Elem, p.dims); err != nil {
		return tensor.Tensor{}, err
	}
	return p.tensor()
}

func (p *jsonTensor) value(depth int) error {
	if p.peek() != '[' {
		if p.leaf >= 0 && p.leaf != depth || p.leaf < 0 && depth < len(p.dims) {
			return p.fail("arrays are not equally deep: a value %d deep, others deeper or less", depth)
		}
		p.leaf = depth
		return p.element()
	}
	if p.leaf >= 0 && depth >= p.leaf {
		return p.fail("arrays are not equally deep: an array stands where others have a value")
	}
	if depth == maxRank {
		return p.fail("arrays lie more than %d deep", maxRank)
	}
	if p.want.HasShape && depth == len(p.want.Dims) {
		return p.fail("arrays lie more than %d deep, as many dimensions as the model's input has", depth)
	}
	if depth == len(p.dims) {
		p.dims = append(p.dims, -1)
	}
	p.at++
	n := int64(0)
	for !p.take(']') {
		if n > 0 && !p.take(',') {
			return p.fail("want , or ] in an array")
		}
		if err := p.value(depth + 1); err != nil {
			return err
		}
		n++
	}
	if p.dims[depth] >= 0 && p.dims[depth] != n {
		return p.fail("an array has %d entries where others beside it have %d", n, p.dims[depth])
	}
	p.dims[depth] = n
	return nil
}

func (p *jsonTensor) element() error {
	t := p.want.Elem
	var text string
	quoted := p.peek() == '"'
	if quoted {
		var err error
		if text, err = p.text(); err != nil {
			return err
		}
	} else if text = p.word(); text == "" {
		return p.fail("want a value")
	}
	wrong := func() error {
		if quoted {
			text = strconv.Quote(text)
		}
		return p.fail("%s is no %s", text, t)
	}
	switch {
	case t == tensor.String:
		if !quoted {
			return wrong()
		}
		p.texts = append(p.texts, text)
	case t == tensor.Bool:
		if quoted || text != "true" && text != "false" {
			return wrong()
		}
		p.bools = append(p.bools, text == "true")
	case t.IsFloat():
		f, ok := specialFloats[text]
		if !ok {
			var err error
			if f, err = strconv.ParseFloat(text, 64); quoted || !jsonNumber(text) || err != nil {
				return wrong()
			}
			if t == tensor.Float32 && math.IsInf(float64(float32(f)), 0) {
				return p.fail("%s does not fit into %s", text, t)
			}
		}
		p.floats = append(p.floats, f)
	case t == tensor.Uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if quoted || !jsonNumber(text) || err != nil {
			return wrong()
		}
		p.uints = append(p.uints, n)
	default:
		n, err := strconv.ParseInt(text, 10, 64)
		if quoted || !jsonNumber(text) || err != nil {
			return wrong()
		}
		if low, high := intRange(t); n < low || n > high {
			return p.fail("%s does not fit into %s, which holds %d to %d", text, t, low, high)
		}
		p.ints = append(p.ints, n)
	}
	return nil
}

var specialFloats = map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}

// jsonNumber reports whether text begins and reads as a JSON number may: strconv
// takes more (hexadecimal, underscores, "inf").
func jsonNumber(text string) bool {
	for i, c := range text {
		if (c < '0' || c > '9') && (c != '-' && c != '.' || i == 0 && c == '.') && (c != 'e' && c != 'E' && c != '+' || i == 0) {
			return false
		}
	}
	return true
}

// intRange is what an integer type of at most 64 bits holds; uint64 only to the
// largest int64.
func intRange(t tensor.DType) (low, high int64) {
	bits := t.Bits()
	switch t {
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint4, tensor.Uint2:
		return 0, 1<<bits - 1
	case tensor.Uint64:
		return 0, math.MaxInt64
	}
	return math.MinInt64 >> (64 - bits), math.MaxInt64 >> (64 - bits)
}

func (p *jsonTensor) tensor() (tensor.Tensor, error) {
	t := p.want.Elem
	switch {
	case t == tensor.String:
		return tensor.Tensor{DType: t, Shape: p.dims, Strings: slices.Clip(p.texts)}, nil
	case t == tensor.Bool:
		return tensor.Of(t, p.dims, p.bools), nil
	case t == tensor.Float32:
		out, err := tensor.New(t, p.dims)
		if err != nil {
			return out, err
		}
		for i, f := range p.floats {
			tensor.View[float32](out)[i] = float32(f)
		}
		return out, nil
	case t.IsFloat():
		wide := tensor.Of(tensor.Float64, p.dims, p.floats)
		out, err := Cast(wide, t)
		if err != nil || t == tensor.Float64 {
			return out, err
		}
		back, err := Cast(out, tensor.Float64)
		if err != nil {
			return out, err
		}
		for i, f := range tensor.View[float64](back) {
			if was := p.floats[i]; !math.IsInf(was, 0) && !math.IsNaN(was) && (math.IsInf(f, 0) || math.IsNaN(f)) {
				return out, bad("%v does not fit into %s", was, t)
			}
		}
		return out, nil
	case t == tensor.Uint64:
		return tensor.Of(t, p.dims, p.uints), nil
	}
	return Cast(tensor.Of(tensor.Int64, p.dims, p.ints), t)
}

// WriteJSON writes an object of values by name, as nested arrays. Floats are
// written in as many digits as tell them apart.
func WriteJSON(w io.Writer, values []Named) error {
	b := bufio.NewWriter(w)
	b.WriteByte('{')
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(v.Name)
		if err != nil {
			return err
		}
		b.WriteString("\n  ")
		b.Write(name)
		b.WriteString(": ")
		if err := writeNested(b, v.Value); err != nil {
			return at(err, "", v.Name)
		}
	}
	b.WriteString("\n}\n")
	return b.Flush()
}

func writeNested(b *bufio.Writer, v graph.Datum) error {
	if v.Kind != graph.KindTensor {
		return &Error{Problem: "it is " + kindName(v.Kind) + ", which is not written as JSON"}
	}
	t := v.Tensor
	e, err := Elements(t)
	if err != nil {
		return err
	}
	if t.DType == tensor.Complex64 || t.DType == tensor.Complex128 {
		return &Error{Problem: "JSON has no complex numbers", Remedy: "write .npy or .pb"}
	}
	next := 0
	var buf []byte
	var nest func(depth int)
	nest = func(depth int) {
		if depth == len(t.Shape) {
			buf = e.appendJSON(buf[:0], next)
			b.Write(buf)
			next++
			return
		}
		b.WriteByte('[')
		for i := range t.Shape[depth] {
			if i > 0 {
				b.WriteByte(',')
			}
			nest(depth + 1)
		}
		b.WriteByte(']')
	}
	nest(0)
	return nil
}
