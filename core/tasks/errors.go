package tasks

import "fmt"

// InputTooLongError says that an input has more tokens than the model takes.
type InputTooLongError struct {
	Model  string
	Input  int // which input of the request, from 0
	Tokens int // tokens it has, special ones included
	Limit  int // tokens the model takes
}

func (e *InputTooLongError) Error() string {
	return fmt.Sprintf("input %d has %d tokens, model %q takes %d; shorten it, or ask for truncation",
		e.Input, e.Tokens, e.Model, e.Limit)
}

// InvalidInputError says that a request can't be carried out as it stands.
type InvalidInputError struct {
	Field   string // the field of the request: input, dimensions, ...
	Input   int    // which input of the request, from 0; negative: none in particular
	Problem string // what was found
	Remedy  string // what to do; may be empty
}

func (e *InvalidInputError) Error() string {
	s := e.Field
	if e.Input >= 0 {
		s = fmt.Sprintf("%s[%d]", e.Field, e.Input)
	}
	s += ": " + e.Problem
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}
