package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Origin says where a value comes from.
type Origin struct {
	Kind OriginKind `json:"kind"`
	Name string     `json:"name,omitempty"` // the file, variable or flag
	Line int        `json:"line,omitempty"` // of the file; 0: unknown
}

// OriginKind is a kind of source.
type OriginKind string

// Kinds of source, in order of precedence.
const (
	FromDefault OriginKind = "default"
	FromFile    OriginKind = "file"
	FromEnv     OriginKind = "env"
	FromFlag    OriginKind = "flag"
)

func (o Origin) String() string {
	switch o.Kind {
	case FromFile:
		if o.Line > 0 {
			return o.Name + ":" + strconv.Itoa(o.Line)
		}
		return o.Name
	case FromEnv:
		return "$" + o.Name
	case FromFlag:
		return "flag " + o.Name
	}
	return string(FromDefault)
}

// Error is one thing that is wrong with a configuration.
type Error struct {
	Key     string // dotted; empty where none is concerned
	Value   string // as given; a mark for secrets; empty where none is concerned
	Origin  Origin
	Problem string
	Remedy  string // may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Origin.Kind != "" {
		b.WriteString(e.Origin.String() + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key)
		if e.Value != "" {
			fmt.Fprintf(&b, " = %s", e.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Errors is all that is wrong with a configuration, in the order of its sources.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find an *Error.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, err := range e {
		out[i] = err
	}
	return out
}
