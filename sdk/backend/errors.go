package backend

import (
	"fmt"
	"strings"
)

// Code is what the core acts upon.
type Code string

// Codes, as in backend.proto.
const (
	CodeUnsupported Code = "UNSUPPORTED"
	CodeOutOfMemory Code = "OUT_OF_MEMORY"
	CodeDeviceLost  Code = "DEVICE_LOST"
	CodeBadState    Code = "BAD_STATE"
	CodeInvalid     Code = "INVALID"
	CodeCancelled   Code = "CANCELLED"
	CodeInternal    Code = "INTERNAL"
)

// Error is a failure that keeps its meaning across the process boundary.
type Error struct {
	Code     Code
	Message  string
	Nodes    []string // CodeUnsupported: names of the nodes
	Needed   int64    // CodeOutOfMemory, or CodeInvalid for an output's room: bytes
	Free     int64    // CodeOutOfMemory: bytes
	Argument string   // CodeInvalid: which
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Argument != "" {
		fmt.Fprintf(&b, " (%s)", e.Argument)
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	return b.String()
}

// Is makes errors.Is(err, &Error{Code: c}) compare codes only.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Unsupported says which nodes a device does not take.
func Unsupported(message string, nodes ...string) *Error {
	return &Error{Code: CodeUnsupported, Message: message, Nodes: nodes}
}

// OutOfMemory says how many bytes were needed and how many there were.
func OutOfMemory(what string, needed, free int64) *Error {
	return &Error{Code: CodeOutOfMemory, Needed: needed, Free: free,
		Message: fmt.Sprintf("%s needs %d bytes, %d are free", what, needed, free)}
}

// DeviceLost says that a device is gone, with all that was on it.
func DeviceLost(message string) *Error { return &Error{Code: CodeDeviceLost, Message: message} }

// BadState says that an id is stale or unknown, or that a call came out of order.
func BadState(format string, args ...any) *Error {
	return &Error{Code: CodeBadState, Message: fmt.Sprintf(format, args...)}
}

// Invalid says which argument of the caller's is wrong, and how.
func Invalid(argument, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Argument: argument, Message: fmt.Sprintf(format, args...)}
}

// Internal is the backend's own fault.
func Internal(format string, args ...any) *Error {
	return &Error{Code: CodeInternal, Message: fmt.Sprintf(format, args...)}
}

// CodeOf is the code that err has for the core, see AsError; empty for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}
