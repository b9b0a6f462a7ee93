package backend

import (
	"context"
	"errors"
	"math"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// statusCodes are the gRPC codes that the codes travel as. What counts is the
// detail; these are for logs and for tools that know gRPC only.
var statusCodes = map[Code]codes.Code{
	CodeUnsupported: codes.Unimplemented,
	CodeOutOfMemory: codes.ResourceExhausted,
	CodeDeviceLost:  codes.Aborted,
	CodeBadState:    codes.FailedPrecondition,
	CodeInvalid:     codes.InvalidArgument,
	CodeCancelled:   codes.Canceled,
	CodeInternal:    codes.Internal,
}

// AsError gives any error its code: an *Error in its chain keeps it and the
// chain's whole text, a context's end is CodeCancelled, all else CodeInternal.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if error(e) == err {
			return e
		}
		c := *e
		c.Message = err.Error()
		return &c
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: CodeCancelled, Message: err.Error()}
	}
	return &Error{Code: CodeInternal, Message: err.Error()}
}

// ToStatus makes the gRPC status of a call's error; nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	e := AsError(err)
	code, ok := statusCodes[e.Code]
	if !ok {
		code = codes.Internal
	}
	s, derr := status.New(code, text(e.Message)).WithDetails(ToProto(e))
	if derr != nil {
		return status.Error(code, text(e.Message))
	}
	return s.Err()
}

// FromStatus is the inverse of ToStatus: an *Error where the status has one as
// its detail, else err as it is (the process is gone, the call was cancelled by
// its caller).
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if p, ok := d.(*backendv1.Error); ok {
			return FromProto(p)
		}
	}
	return err
}

// ToProto converts an error for the wire.
func ToProto(e *Error) *backendv1.Error {
	code, err := codesOfErrors.number(e.Code)
	if err != nil {
		code = backendv1.Code_CODE_INTERNAL
	}
	nodes := make([]string, len(e.Nodes))
	for i, n := range e.Nodes {
		nodes[i] = text(n)
	}
	return &backendv1.Error{
		Code: code, Message: text(e.Message), Nodes: nodes, Argument: text(e.Argument),
		Needed: uint64(max(e.Needed, 0)), Free: uint64(max(e.Free, 0)),
	}
}

// FromProto converts an error from the wire. A code of a later version is read
// as CodeInternal.
func FromProto(p *backendv1.Error) *Error {
	code, err := codesOfErrors.word(p.GetCode())
	if err != nil {
		code = CodeInternal
	}
	return &Error{
		Code: code, Message: p.GetMessage(), Nodes: p.GetNodes(), Argument: p.GetArgument(),
		Needed: clamp(p.GetNeeded()), Free: clamp(p.GetFree()),
	}
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// text makes a vendor library's words fit for protobuf, which refuses a message
// with strings that are not UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
