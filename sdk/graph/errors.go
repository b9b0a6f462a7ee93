package graph

import (
	"fmt"
	"strings"
)

// FormatError says that bytes are no valid ONNX, or hold what this reader does
// not take.
type FormatError struct {
	File   string // empty when the bytes did not come from a file
	Path   string // the message, as "graph.node[3].attribute[0]"
	Offset int64  // of the offending field in the file
	Reason string
}

func (e *FormatError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteByte(' ')
	}
	fmt.Fprintf(&b, "(byte %d): %s", e.Offset, e.Reason)
	return b.String()
}

// LimitError says that a model is larger than the Limits allow.
type LimitError struct {
	File  string
	What  string // "bytes", "nodes", ...
	Limit int64
	Found int64 // at least this many
}

func (e *LimitError) Error() string {
	s := fmt.Sprintf("model has %d %s, more than the limit of %d", e.Found, e.What, e.Limit)
	if e.File != "" {
		s = e.File + ": " + s
	}
	return s
}

// ExternalError says why the data of a tensor that lies outside the model file
// can't be used.
type ExternalError struct {
	Model  string // path of the model file, where it is known
	Tensor string
	Path   string // the location as written in the model
	Reason string
	Err    error // the cause, where there is one
}

func (e *ExternalError) Error() string {
	s := fmt.Sprintf("external data %q of tensor %q: %s", e.Path, e.Tensor, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Model != "" {
		s = e.Model + ": " + s
	}
	return s
}

func (e *ExternalError) Unwrap() error { return e.Err }
