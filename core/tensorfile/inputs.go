package tensorfile

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Inputs collects values for a graph's inputs. Each is held against what the
// graph declares before its data is read.
type Inputs struct {
	Declared []*graph.Value
	// Cast converts element types where they differ; without it they are refused.
	Cast bool

	given map[string]Given
}

// Given is a value for an input.
type Given struct {
	Value graph.Datum
	From  string       // the file, and the entry in it
	Was   tensor.DType // before it was cast; Undefined: it was not
}

// InputError says what is wrong with the value of one of the model's inputs.
type InputError struct {
	Input   string
	From    string // where the value comes from; may be empty
	Problem string
	Remedy  string // empty where there is none
}

func (e *InputError) Error() string {
	s := fmt.Sprintf("input %q", e.Input)
	if e.From != "" {
		s += fmt.Sprintf(" (%s)", e.From)
	}
	s += ": " + e.Problem
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Given returns what was given for an input.
func (in *Inputs) Given(name string) (Given, bool) {
	g, ok := in.given[name]
	return g, ok
}

// Add gives an input a value that comes from no file. from says where it does.
func (in *Inputs) Add(name string, v graph.Datum, from string) {
	if in.given == nil {
		in.given = map[string]Given{}
	}
	in.given[name] = Given{Value: v, From: from}
}

// Values are the values by input.
func (in *Inputs) Values() map[string]graph.Datum {
	out := make(map[string]graph.Datum, len(in.given))
	for name, g := range in.given {
		out[name] = g.Value
	}
	return out
}

// File takes an input from a file of one value, or from the entry of an archive
// that has the input's name, or from an archive's only entry.
func (in *Inputs) File(name, path string) error {
	v, err := in.declared(name, path)
	if err != nil {
		return err
	}
	s, err := open(path)
	if err != nil {
		return at(err, path, "")
	}
	defer s.Close()
	i := slices.IndexFunc(s.entries, func(e entry) bool { return e.name == name })
	if i < 0 && len(s.entries) == 1 {
		i = 0
	}
	if i < 0 {
		e := &Error{File: path, Problem: fmt.Sprintf("it holds nothing called %q", name)}
		if len(s.entries) > 0 {
			e.Remedy = "it holds " + quoteList(s.names())
		}
		return e
	}
	return in.take(v, s.entries[i], path)
}

// JSON takes an input from a JSON text. from says where the text stands.
func (in *Inputs) JSON(name, text, from string) error {
	v, err := in.declared(name, from)
	if err != nil {
		return err
	}
	err = in.take(v, entry{position: -1, read: func(want *graph.Type, ok accept) (graph.Datum, error) {
		t, err := parseJSON([]byte(text), want, ok)
		return graph.Datum{Kind: graph.KindTensor, Tensor: t}, err
	}}, from)
	var e *Error
	if errors.As(err, &e) {
		return &InputError{Input: name, From: from, Problem: e.Problem, Remedy: e.Remedy}
	}
	return err
}

// All takes inputs from an archive, a JSON object, an ONNX test folder
// (input_0.pb and so on), or a folder of files that are called as the inputs are.
// What it holds must be inputs. Entries without a name of their own (input_0.pb,
// arr_0) stand for the inputs in order.
func (in *Inputs) All(path string) error {
	s, err := openAll(path)
	if err != nil {
		return at(err, path, "")
	}
	defer s.Close()
	if len(s.entries) == 0 {
		return &Error{File: path, Problem: "it holds no tensors", Remedy: knownFormats}
	}
	for _, e := range s.entries {
		name := e.name
		if !slices.ContainsFunc(in.Declared, func(v *graph.Value) bool { return v.Name == name }) && e.position >= 0 {
			if e.position >= len(in.Declared) {
				return &Error{File: path, Entry: e.label, Problem: fmt.Sprintf("the model has %d inputs only: %s", len(in.Declared), quoteList(in.names()))}
			}
			name = in.Declared[e.position].Name
		}
		if name == "" {
			return &Error{File: path, Entry: e.label, Problem: "it does not say which input it is", Remedy: "give it as NAME=" + path}
		}
		v, err := in.declared(name, s.place(path, e))
		if err != nil {
			return err
		}
		if err := in.take(v, e, path); err != nil {
			return err
		}
	}
	return nil
}

func (in *Inputs) names() []string {
	var out []string
	for _, v := range in.Declared {
		out = append(out, v.Name)
	}
	return out
}

// declared finds an input by name.
func (in *Inputs) declared(name, from string) (*graph.Value, error) {
	for _, v := range in.Declared {
		if v.Name == name {
			return v, nil
		}
	}
	return nil, UnknownInput(name, from, in.names())
}

// UnknownInput is the error for a name that no input has.
func UnknownInput(name, from string, known []string) error {
	e := &InputError{Input: name, From: from, Problem: "the model has no such input"}
	switch near := config.Nearest(name, known); {
	case near != "":
		e.Remedy = fmt.Sprintf("did you mean %q?", near)
	case len(known) > 0:
		e.Remedy = "it has " + quoteList(known)
	default:
		e.Remedy = "it takes none"
	}
	return e
}

const mostQuoted = 12

func quoteList(names []string) string {
	var out []string
	for i, n := range names {
		if i == mostQuoted {
			return strings.Join(out, ", ") + fmt.Sprintf(" and %d more", len(names)-i)
		}
		out = append(out, strconv.Quote(n))
	}
	return strings.Join(out, ", ")
}

// take reads an entry as an input.
func (in *Inputs) take(v *graph.Value, e entry, path string) error {
	g := Given{From: path}
	if e.label != "" && e.label != path {
		g.From += ": " + e.label
	}
	var cast tensor.DType
	d, err := e.read(v.Type, func(t tensor.DType, s tensor.Shape) error {
		if in.Cast && v.Type != nil && v.Type.Kind == graph.KindTensor && t != v.Type.Elem && castable(t, v.Type.Elem) {
			cast = v.Type.Elem
			t = cast
		}
		return Check(v, t, s, g.From)
	})
	if err != nil {
		return at(err, path, e.label)
	}
	d.Tensor = d.Tensor.Aligned()
	if cast != tensor.Undefined {
		g.Was = d.Tensor.DType
		if d.Tensor, err = Cast(d.Tensor, cast); err != nil {
			return &InputError{Input: v.Name, From: g.From, Problem: err.Error()}
		}
	}
	in.Add(v.Name, d, g.From)
	if g.Was != tensor.Undefined {
		in.given[v.Name] = Given{Value: d, From: g.From, Was: g.Was}
	}
	return nil
}

// castable reports whether numbers of one type become numbers of the other.
func castable(from, to tensor.DType) bool {
	number := func(t tensor.DType) bool { return t == tensor.Bool || t.IsFloat() || t.IsInt() }
	return number(from) && number(to)
}

// Check holds a tensor's type and shape against what an input declares: element
// type, rank, and known dimensions. from says where it comes from; it may be
// empty. Errors are *InputError.
func Check(v *graph.Value, t tensor.DType, s tensor.Shape, from string) error {
	want := v.Type
	if want == nil {
		return nil
	}
	fail := func(remedy, problem string, args ...any) error {
		return &InputError{Input: v.Name, From: from, Problem: fmt.Sprintf(problem, args...), Remedy: remedy}
	}
	if want.Kind != graph.KindTensor {
		return fail("", "it is a tensor, the model takes %s", TypeText(want))
	}
	if want.Elem != tensor.Undefined && t != want.Elem {
		remedy := ""
		if castable(t, want.Elem) {
			remedy = "allow the conversion with --cast (in a run file `cast: true`)"
			if _, ok := npyCode(want.Elem); ok {
				remedy = fmt.Sprintf("convert it (NumPy: x.astype('%s')), or %s", want.Elem, remedy)
			}
		}
		return fail(remedy, "it is %s, the model takes %s", t, want.Elem)
	}
	if !want.HasShape {
		return nil
	}
	if len(s) != len(want.Dims) {
		return fail("", "its shape %v has %d dimensions, the model takes %s", s, len(s), TypeText(want))
	}
	for i, d := range want.Dims {
		if d.Size >= 0 && d.Param == "" && d.Size != s[i] {
			return fail("", "its shape is %v, the model takes %s: dimension %d is %d", s, TypeText(want), i, d.Size)
		}
	}
	return nil
}

// TypeText writes a type as people read it: float32 [batch,3,224,?].
func TypeText(t *graph.Type) string {
	if t == nil {
		return "?"
	}
	switch t.Kind {
	case graph.KindTensor, graph.KindSparse:
		s := t.Elem.String()
		if t.Elem == tensor.Undefined {
			s = "?"
		}
		if t.Kind == graph.KindSparse {
			s = "sparse " + s
		}
		return s + " " + ShapeText(t)
	case graph.KindSequence:
		return "sequence of " + TypeText(t.Of)
	case graph.KindOptional:
		return "optional " + TypeText(t.Of)
	case graph.KindMap:
		return fmt.Sprintf("map of %s to %s", t.Elem, TypeText(t.Of))
	}
	return "?"
}

// ShapeText writes a type's dimensions: [batch,3,?]; ? for one that is unknown,
// [...] where even their number is.
func ShapeText(t *graph.Type) string {
	if !t.HasShape {
		return "[...]"
	}
	dims := make([]string, len(t.Dims))
	for i, d := range t.Dims {
		switch {
		case d.Param != "":
			dims[i] = d.Param
		case d.Size >= 0:
			dims[i] = strconv.FormatInt(d.Size, 10)
		default:
			dims[i] = "?"
		}
	}
	return "[" + strings.Join(dims, ",") + "]"
}

// source is an opened file or folder of values.
type source struct {
	entries []entry
	close   func() error
}

// entry is one value of a source, not read yet.
type entry struct {
	name     string // empty: it says none
	position int    // among the inputs, where it has no name of theirs; -1: it says none
	label    string // of the entry, for messages
	read     func(*graph.Type, accept) (graph.Datum, error)
}

func (s *source) Close() {
	if s.close != nil {
		s.close() // of a file that was only read
	}
}

func (s *source) names() []string {
	var out []string
	for _, e := range s.entries {
		out = append(out, e.name)
	}
	return out
}

func (s *source) place(path string, e entry) string {
	if e.label == "" {
		return path
	}
	return path + ": " + e.label
}

// open opens a file.
func open(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, &Error{Problem: "it is a folder", Remedy: knownFormats}
	}
	if !info.Mode().IsRegular() {
		return nil, bad("it is no regular file")
	}
	f, ok := FormatOf(path)
	if !ok {
		return nil, &Error{Problem: "its format is not known", Remedy: knownFormats}
	}
	switch f {
	case NPZ:
		return openNPZ(path)
	case PB:
		return openPB(path)
	case JSON:
		return openJSON(path)
	}
	return &source{entries: []entry{{position: -1, read: func(_ *graph.Type, ok accept) (graph.Datum, error) {
		t, err := readFile(path, ok)
		return graph.Datum{Kind: graph.KindTensor, Tensor: t}, err
	}}}}, nil
}

// readFile reads an .npy file.
func readFile(path string, ok accept) (tensor.Tensor, error) {
	f, err := os.Open(path)
	if err != nil {
		return tensor.Tensor{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return tensor.Tensor{}, err
	}
	return readNPY(f, info.Size(), ok)
}

// openPB opens a TensorProto, SequenceProto or OptionalProto; which of them, only
// the input's type says.
func openPB(path string) (*source, error) {
	data, err := readWhole(path, maxProto)
	if err != nil {
		return nil, err
	}
	e := entry{position: -1, read: func(want *graph.Type, ok accept) (graph.Datum, error) {
		kind := graph.KindTensor
		if want != nil {
			kind = want.Kind
		}
		_, d, err := graph.ParseDatum(data, kind)
		if err != nil {
			return d, err
		}
		if d.Kind != graph.KindTensor {
			return d, nil
		}
		return d, ok(d.Tensor.DType, d.Tensor.Shape)
	}}
	for _, kind := range []graph.TypeKind{graph.KindTensor, graph.KindSequence, graph.KindOptional} {
		if name, _, err := graph.ParseDatum(data, kind); err == nil {
			e.name = name
			break
		}
	}
	return &source{entries: []entry{e}}, nil
}

func openJSON(path string) (*source, error) {
	data, err := readWhole(path, maxJSON)
	if err != nil {
		return nil, err
	}
	reader := func(text []byte) func(*graph.Type, accept) (graph.Datum, error) {
		return func(want *graph.Type, ok accept) (graph.Datum, error) {
			t, err := parseJSON(text, want, ok)
			return graph.Datum{Kind: graph.KindTensor, Tensor: t}, err
		}
	}
	scan := jsonScanner{data: data}
	if scan.peek() != '{' {
		return &source{entries: []entry{{position: -1, read: reader(data)}}}, nil
	}
	names, values, err := jsonObject(data)
	if err != nil {
		return nil, err
	}
	s := &source{}
	for _, name := range names {
		s.entries = append(s.entries, entry{name: name, position: -1, label: name, read: reader(values[name])})
	}
	return s, nil
}

// openAll opens what holds several values: a file, or a folder of files.
func openAll(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return open(path)
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	all := &source{}
	for _, f := range files {
		format, ok := FormatOf(f.Name())
		if !ok || f.IsDir() || strings.HasPrefix(f.Name(), "output_") || format == NPZ {
			continue
		}
		s, err := open(filepath.Join(path, f.Name()))
		if err != nil {
			return nil, at(err, path, f.Name())
		}
		if len(s.entries) != 1 || s.entries[0].label != "" {
			return nil, &Error{Entry: f.Name(), Problem: "in a folder each file holds one tensor"}
		}
		e := s.entries[0]
		stem := strings.TrimSuffix(f.Name(), filepath.Ext(f.Name()))
		e.label = f.Name()
		if n, ok := strings.CutPrefix(stem, "input_"); ok {
			if at, err := strconv.Atoi(n); err == nil && at >= 0 && format == PB {
				e.position = at
			}
		}
		if e.position < 0 {
			if e.name, err = url.PathUnescape(stem); err != nil {
				e.name = stem
			}
		}
		all.entries = append(all.entries, e)
	}
	return all, nil
}
