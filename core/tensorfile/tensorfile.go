// Package tensorfile reads and writes tensors in the files that people have:
// NumPy's .npy and .npz, ONNX's protobuf (.pb, as in ONNX test folders), and
// nested arrays in JSON.
//
// Files are not trusted: what a header says is held against the file's size, and
// against what the model declares, before memory is taken for it. Nothing is
// converted unless that was asked for.
package tensorfile

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Format is a kind of file.
type Format string

// Formats, by the end of a file's name.
const (
	NPY  Format = "npy"  // one tensor
	NPZ  Format = "npz"  // tensors by name
	PB   Format = "pb"   // one value, of any element type
	JSON Format = "json" // one tensor as nested arrays, or an object of them
)

// FormatOf tells a file's format by its name.
func FormatOf(path string) (Format, bool) {
	switch f := Format(strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")); f {
	case NPY, NPZ, PB, JSON:
		return f, true
	}
	return "", false
}

const knownFormats = "a tensor's file ends in .npy, .npz, .pb or .json"

// Named is a value with its name.
type Named struct {
	Name  string
	Value graph.Datum
}

// Bounds on what is read whole, or unpacked, from one file.
const (
	maxProto    = 2 << 30 // protobuf's own
	maxJSON     = 1 << 30
	maxUnpacked = 4 << 30 // of a compressed entry
)

// Error says what is wrong with a file.
type Error struct {
	File    string
	Entry   string // of an archive or object; empty: the file as a whole
	Problem string
	Remedy  string // empty where there is none
	Err     error  // the cause, where there is one
}

func (e *Error) Error() string {
	s := e.File
	if e.Entry != "" {
		s += ": " + e.Entry
	}
	switch {
	case errors.Is(e.Err, fs.ErrNotExist):
		s += ": there is no such file"
	case e.Problem != "":
		s += ": " + e.Problem
	default:
		var path *fs.PathError
		if errors.As(e.Err, &path) {
			s += ": " + path.Err.Error() // the path was said already
		} else if e.Err != nil {
			s += ": " + e.Err.Error()
		}
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// at puts the place into an error that does not know it.
func at(err error, file, entry string) error {
	var e *Error
	if errors.As(err, &e) {
		if e.File == "" {
			e.File = file
		}
		if e.Entry == "" {
			e.Entry = entry
		}
		return err
	}
	var bad *InputError
	if errors.As(err, &bad) {
		return err
	}
	return &Error{File: file, Entry: entry, Err: err}
}

// accept refuses a value by its type and shape, before its data is read.
type accept func(tensor.DType, tensor.Shape) error

// readWhole reads a file of bounded size.
func readWhole(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, &Error{Problem: "it is larger than " + mebibytes(most), Remedy: "write it as .npy"}
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// Create makes a file whole or not at all.
func Create(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".accel-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	if err = write(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
