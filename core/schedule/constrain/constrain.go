// Package constrain narrows what a model may say next.
package constrain

// Constraint narrows the next token of one text. It is used by one goroutine at a time.
type Constraint interface {
	// Mask overwrites allowed: bit i%32 of word i/32 says whether token i may come
	// next. The slice covers the vocabulary. End tokens are set where the text may end.
	Mask(allowed []uint32)
	// Accept takes the token that came. End tokens are not passed on.
	Accept(token int64) error
	// Clone returns a constraint in the same state that goes on by itself.
	Clone() Constraint
}
