// Package tasks holds what people ask of a model, one file a task. A task turns
// people's input into tensors, has them run, and turns tensors into answers.
package tasks

import (
	"github.com/accelhq/accel/core/route"
)

// EmbedRequest asks for one vector a text.
type EmbedRequest struct {
	Texts []string
	// Tokens are token ids instead of Texts, as OpenAI's API allows; special tokens
	// are taken as given. Exactly one of Texts and Tokens is set.
	Tokens [][]int64
	// Truncate cuts inputs that are longer than the model takes; without it they are
	// an *InputTooLongError.
	Truncate bool
	// Dimensions keeps the first so many components of each vector, normalised
	// again; 0 keeps all.
	Dimensions int
}

// EmbedResult holds the vectors in the order of the request.
type EmbedResult struct {
	Vectors   [][]float32
	Tokens    int   // tokens run, special ones included
	Truncated []int // tokens cut, by input; nil where none were
	Decision  route.Decision
}
