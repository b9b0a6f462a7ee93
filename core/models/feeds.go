package models

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

// textInput is an input of an encoder, int64 [batch, sequence].
type textInput struct {
	name string
	// below bounds the values, which begin at 0.
	below int64
	// what is wanted of a value, in an error, and what may have gone wrong.
	wanted, remedy string
	// fill makes the input where it is left out; nil: it must be given.
	fill func(out, ids []int64, sequence int64)
}

func ones(out, _ []int64, _ int64) {
	for i := range out {
		out[i] = 1
	}
}

func zeros(out, _ []int64, _ int64) { clear(out) }

// count numbers the tokens of each text from 0.
func count(out, _ []int64, sequence int64) {
	for i := range out {
		out[i] = int64(i) % sequence
	}
}

// countFromPad numbers the tokens of each text from pad+1 and leaves those that
// are padding at pad, as fairseq does.
func countFromPad(pad int64) func(out, ids []int64, sequence int64) {
	return func(out, ids []int64, sequence int64) {
		next := pad
		for i, id := range ids {
			if int64(i)%sequence == 0 {
				next = pad
			}
			out[i] = pad
			if id != pad {
				next++
				out[i] = next
			}
		}
	}
}

// inputs lists the inputs of the encoder's graphs.
func (c *encoderConfig) inputs() []textInput {
	positions := count
	if c.countFromPad {
		positions = countFromPad(c.pad)
	}
	list := []textInput{
		{"input_ids", c.vocab, fmt.Sprintf("a token below vocab_size, which is %d", c.vocab), "was the text tokenized for another model?", nil},
		{"attention_mask", 2, "0 or 1", "", ones},
	}
	if c.types > 0 {
		list = append(list, textInput{"token_type_ids", c.types, fmt.Sprintf("a type below type_vocab_size, which is %d", c.types), "", zeros})
	}
	return append(list, textInput{"position_ids", c.positions, fmt.Sprintf("a position below max_position_embeddings, which is %d", c.positions), "", positions})
}

// feeds is Model.Feeds.
func (c encoderConfig) feeds(given map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	inputs := c.inputs()
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(inputs, func(in textInput) bool { return in.name == name }) {
			var names []string
			for _, in := range inputs {
				names = append(names, in.name)
			}
			return nil, &InputError{Input: name, Found: "the model has no such input", Wanted: "one of " + strings.Join(names, ", ")}
		}
	}
	ids, ok := given["input_ids"]
	if !ok {
		return nil, &InputError{Input: "input_ids", Found: "it is missing"}
	}
	switch {
	case len(ids.Shape) != 2:
		return nil, &InputError{Input: "input_ids", Found: "its shape is " + ids.Shape.String(), Wanted: "[batch,sequence]"}
	case ids.Shape[0] == 0 || ids.Shape[1] == 0:
		return nil, &InputError{Input: "input_ids", Found: "its shape is " + ids.Shape.String(), Wanted: "at least one text of at least one token"}
	case ids.Shape[1] > c.maxTokens():
		return nil, &InputError{Input: "input_ids", Found: fmt.Sprintf("texts of %d tokens", ids.Shape[1]),
			Wanted: fmt.Sprintf("at most %d", c.maxTokens()), Remedy: "cut or split the text"}
	}
	full := make(map[string]tensor.Tensor, len(inputs))
	for _, in := range inputs {
		t, ok := given[in.name]
		if !ok {
			continue
		}
		if err := in.check(t, ids.Shape); err != nil {
			return nil, err
		}
		full[in.name] = t
	}
	for _, in := range inputs {
		if _, ok := full[in.name]; ok {
			continue
		}
		t, err := tensor.New(tensor.Int64, ids.Shape.Clone())
		if err != nil {
			return nil, &InputError{Input: in.name, Found: err.Error()}
		}
		in.fill(tensor.View[int64](t), tensor.View[int64](ids.Aligned()), ids.Shape[1])
		full[in.name] = t
	}
	if err := attends(full["attention_mask"]); err != nil {
		return nil, err
	}
	return full, nil
}

// check refuses a tensor that the input can't be.
func (in *textInput) check(t tensor.Tensor, shape tensor.Shape) error {
	if t.DType != tensor.Int64 {
		return &InputError{Input: in.name, Found: "its type is " + t.DType.String(), Wanted: "int64"}
	}
	if !t.Shape.Equal(shape) {
		return &InputError{Input: in.name, Found: "its shape is " + t.Shape.String(), Wanted: shape.String() + ", that of input_ids"}
	}
	if err := t.Check(); err != nil {
		return &InputError{Input: in.name, Found: err.Error()}
	}
	for i, v := range tensor.View[int64](t.Aligned()) {
		if v < 0 || v >= in.below {
			return &InputError{Input: in.name, Index: []int64{int64(i) / shape[1], int64(i) % shape[1]},
				Found: fmt.Sprintf("found %d", v), Wanted: in.wanted, Remedy: in.remedy}
		}
	}
	return nil
}

// attends refuses a mask that hides every token of a text: its softmax would be
// over nothing.
func attends(mask tensor.Tensor) error {
	values, sequence := tensor.View[int64](mask.Aligned()), int(mask.Shape[1])
	for row := 0; len(values) > 0; row++ {
		if !slices.Contains(values[:sequence], 1) {
			return &InputError{Input: "attention_mask", Index: []int64{int64(row)}, Found: "found only 0", Wanted: "a 1 for at least one token"}
		}
		values = values[sequence:]
	}
	return nil
}
