package tensorfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
)

// Written is a file that was written.
type Written struct {
	Name string `json:"name,omitempty"` // of the value; empty: it holds them all
	File string `json:"file"`
}

// Write writes values to path: a file where its name ends in a format's, else a
// folder with a file for each value, called as the value is. format says which a
// folder gets; empty: .npy, and .pb for element types that NumPy lacks. Errors are
// *Error.
func Write(path string, format Format, values []Named) ([]Written, error) {
	named, isFile := FormatOf(path)
	if !isFile {
		return writeFolder(path, format, values)
	}
	if format != "" && format != named {
		return nil, &Error{File: path, Problem: fmt.Sprintf("%s was asked for, and its name ends in .%s", format, named)}
	}
	if (named == NPY || named == PB) && len(values) != 1 {
		return nil, &Error{File: path, Problem: fmt.Sprintf("a .%s holds one value, there are %d", named, len(values)),
			Remedy: "name a folder or an .npz, or choose one output"}
	}
	w := Written{File: path}
	if len(values) == 1 && named != NPZ && named != JSON {
		w.Name = values[0].Name
	}
	err := Create(path, func(f io.Writer) error {
		switch named {
		case NPZ:
			return WriteNPZ(f, values)
		case JSON:
			return WriteJSON(f, values)
		}
		return writeValue(f, named, values[0])
	})
	if err != nil {
		return nil, at(err, path, "")
	}
	return []Written{w}, nil
}

func writeFolder(dir string, format Format, values []Named) ([]Written, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, at(err, dir, "")
	}
	if format == NPZ || format == JSON {
		return Write(filepath.Join(dir, "outputs."+string(format)), format, values)
	}
	var out []Written
	for _, v := range values {
		f := format
		if f == "" {
			f = NPY
			if _, ok := npyCode(v.Value.Tensor.DType); v.Value.Kind != graph.KindTensor || !ok && !isString(v) {
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

func isString(v Named) bool { return v.Value.Tensor.DType.Valid() && v.Value.Tensor.DType.Bits() == 0 }

func writeValue(w io.Writer, f Format, v Named) error {
	if v.Value.Kind != graph.KindTensor {
		return bad("%q is %s, which can't be written yet", v.Name, kindName(v.Value.Kind))
	}
	if f == NPY {
		return WriteNPY(w, v.Value.Tensor)
	}
	data, err := graph.AppendTensor(nil, v.Name, v.Value.Tensor)
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
