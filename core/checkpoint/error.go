// Package checkpoint opens what users have: a Hugging Face folder (config.json
// with safetensors, whole or in shards, as written by transformers or by
// sentence-transformers), an ONNX file or folder, or a GGUF file. It reads and checks;
// it never writes beside what it opened.
package checkpoint

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

// Error says what of a checkpoint can't be used.
type Error struct {
	File   string // path
	Field  string // what of the file: a key, a tensor, "header"; empty: all of it
	Found  string
	Wanted string // empty where Found says it all
	Remedy string // empty where there is none
	Err    error  // the cause, where there is one
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Field != "" {
		b.WriteString(": ")
		b.WriteString(e.Field)
	}
	if e.Found != "" {
		b.WriteString(": ")
		b.WriteString(e.Found)
	}
	if e.Wanted != "" {
		b.WriteString(", wanted ")
		b.WriteString(e.Wanted)
	}
	if err := e.Err; err != nil {
		text := err.Error()
		var path *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			text = "it does not exist"
		case errors.As(err, &path):
			text = path.Err.Error() // the path was said already
		}
		b.WriteString(": ")
		b.WriteString(text)
	}
	if e.Remedy != "" {
		b.WriteString(" (")
		b.WriteString(e.Remedy)
		b.WriteString(")")
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// quote quotes a name out of a file, which may be a hundred megabytes long.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
