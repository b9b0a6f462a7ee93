package processors

import "fmt"

// FormatError says that a tokenizer's file is not what it should be.
type FormatError struct {
	File   string // name of the file inside the tokenizer's folder
	Part   string // place inside the file, as in "model.merges[17]"; may be empty
	Reason string
}

func (e *FormatError) Error() string {
	if e.Part == "" {
		return fmt.Sprintf("tokenizer: %s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("tokenizer: %s: %s: %s", e.File, e.Part, e.Reason)
}

// UnsupportedError says that a tokenizer asks for a component, or a setting of one, that this package does not have.
type UnsupportedError struct {
	File string // name of the file inside the tokenizer's folder
	Part string // place inside the file, as in "normalizer.normalizers[1]"
	What string // the component's type, or the setting with its value
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("tokenizer: %s: %s: %s is not supported", e.File, e.Part, e.What)
}

// TextError says that a text can't be encoded.
type TextError struct {
	Offset int // in bytes from the start of the text; -1 where no single place is to blame
	Reason string
}

func (e *TextError) Error() string {
	if e.Offset < 0 {
		return "tokenizer: the text can't be encoded: " + e.Reason
	}
	return fmt.Sprintf("tokenizer: the text can't be encoded: at byte %d: %s", e.Offset, e.Reason)
}

// TruncationError says that a text can't be cut to the length that was asked for.
type TruncationError struct {
	MaxLength int    // what was asked for, in tokens
	Length    int    // the whole length, in tokens, special ones included
	Reason    string // what is in the way
}

func (e *TruncationError) Error() string {
	return fmt.Sprintf("tokenizer: %d tokens can't be cut to %d: %s", e.Length, e.MaxLength, e.Reason)
}

// IDError says that an id is not in the vocabulary.
type IDError struct {
	ID        int64
	Index     int // its place in what was to be decoded
	VocabSize int
}

func (e *IDError) Error() string {
	return fmt.Sprintf("tokenizer: id %d at index %d is not in the vocabulary, which has ids 0 to %d: was it made by another tokenizer?",
		e.ID, e.Index, e.VocabSize-1)
}
