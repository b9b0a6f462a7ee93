package pixels

import "fmt"

// DecodeError says why bytes can't be read as a picture.
type DecodeError struct {
	Format string // such as "PNG"; empty where it is not known
	Found  string
	Wanted string // empty where Found says it all
	Err    error  // of the format's decoder, where there is one
}

func (e *DecodeError) Error() string {
	s := "picture"
	if e.Format != "" {
		s = e.Format + " picture"
	}
	s += ": " + e.Found
	if e.Wanted != "" {
		s += ", wanted " + e.Wanted
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DecodeError) Unwrap() error { return e.Err }

// InputError says which of the pictures handed to a processor can't be taken.
type InputError struct {
	Picture int // its number, from 0
	Found   string
	Wanted  string
}

func (e *InputError) Error() string {
	return fmt.Sprintf("picture %d: %s, wanted %s", e.Picture, e.Found, e.Wanted)
}
