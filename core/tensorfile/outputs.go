package tensorfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Written is a file that was written.
type Written struct {
	Name string `json:"name,omitempty"` // of the value; empty: it holds them all
	File string `json:"file"`
}

// Target is where values are written: to a file where the path's name ends in a
// format's, else to a folder that gets a file for each value, called as the value
// is. Format says which a folder gets; empty: .npy, and .pb for what NumPy lacks.
type Target struct {
	Path   string
	Format Format
}

// Check refuses, before anything is computed, what Write would refuse of values of
// these types. Errors are *Error.
func (t Target) Check(values []*graph.Value) error {
	fail := func(entry, remedy, format string, args ...any) error {
		return &Error{File: t.Path, Entry: entry, Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	f, isFile := FormatOf(t.Path)
	if info, err := os.Stat(filepath.Dir(t.Path)); isFile && (err != nil || !info.IsDir()) {
		return fail("", "make it, or name another", "there is no folder %s", filepath.Dir(t.Path))
	}
	switch {
	case !isFile:
		f = t.Format
	case t.Format != "" && t.Format != f:
		return fail("", "", "%s was asked for, and its name ends in .%s", t.Format, f)
	case (f == NPY || f == PB) && len(values) != 1:
		return fail("", "name a folder or an .npz, or choose one output", "a .%s holds one value, there are %d", f, len(values))
	}
	for _, v := range values {
		if v.Type == nil {
			continue
		}
		d := v.Type.Elem
		_, inNumPy := npyCode(d)
		switch {
		case v.Type.Kind != graph.KindTensor && f != "" && f != PB:
			return fail(v.Name, "write it as .pb", "it is %s, and a .%s holds tensors", kindName(v.Type.Kind), f)
		case (f == NPY || f == NPZ) && !inNumPy && d != tensor.String && d != tensor.Undefined:
			return fail(v.Name, "write it as .pb", "NumPy has no %s", d)
		case f == JSON && (d == tensor.Complex64 || d == tensor.Complex128):
			return fail(v.Name, "write .npy or .pb", "JSON has no complex numbers")
		}
	}
	return nil
}

// Write writes values. Errors are *Error.
func (t Target) Write(values []Named) ([]Written, error) {
	types := make([]*graph.Value, len(values))
	for i, v := range values {
		types[i] = &graph.Value{Name: v.Name, Type: &graph.Type{Kind: v.Value.Kind, Elem: v.Value.Tensor.DType}}
	}
	if err := t.Check(types); err != nil {
		return nil, err
	}
	format, isFile := FormatOf(t.Path)
	if !isFile {
		return writeFolder(t.Path, t.Format, values)
	}
	w := Written{File: t.Path}
	if format == NPY || format == PB {
		w.Name = values[0].Name
	}
	err := Create(t.Path, func(f io.Writer) error {
		switch format {
		case NPZ:
			return WriteNPZ(f, values)
		case JSON:
			return WriteJSON(f, values)
		}
		return writeValue(f, format, values[0])
	})
	if err != nil {
		return nil, at(err, t.Path, "")
	}
	return []Written{w}, nil
}

func writeFolder(dir string, format Format, values []Named) ([]Written, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, at(err, dir, "")
	}
	if format == NPZ || format == JSON {
		return Target{Path: filepath.Join(dir, "outputs."+string(format))}.Write(values)
	}
	var out []Written
	for _, v := range values {
		f := format
		if f == "" {
			f = NPY
			if _, ok := npyCode(v.Value.Tensor.DType); v.Value.Kind != graph.KindTensor || !ok && v.Value.Tensor.DType != tensor.String {
				f = PB
			}
		}
		path := filepath.Join(dir, fileName(v.Name)+"."+string(f))
		if err := Create(path, func(w io.Writer) error { return writeValue(w, f, v) }); err != nil {
			return out, at(err, path, "")
		}
		out = append(out, Written{Name: v.Name, File: path})
	}
	return out, nil
}

func writeValue(w io.Writer, f Format, v Named) error {
	if f == NPY {
		return WriteNPY(w, v.Value.Tensor)
	}
	data, err := graph.AppendDatum(nil, v.Name, v.Value)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// fileName makes a value's name, which is whatever the model's author liked, the
// plain name of a file. Reading a folder undoes it.
func fileName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' && i > 0
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 {
		return "%"
	}
	return b.String()
}

// WriteTestSet writes inputs and outputs as an ONNX test data set: input_0.pb,
// output_0.pb and so on, in the order given, which is the graph's.
func WriteTestSet(dir string, inputs, outputs []Named) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return at(err, dir, "")
	}
	for what, values := range map[string][]Named{"input": inputs, "output": outputs} {
		for i, v := range values {
			path := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", what, i))
			if err := Create(path, func(w io.Writer) error { return writeValue(w, PB, v) }); err != nil {
				return at(err, path, "")
			}
		}
	}
	return nil
}
