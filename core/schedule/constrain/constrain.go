// Package constrain narrows what a model may say next: output that follows a JSON
// schema, by masks over the vocabulary's tokens.
//
// A schema (JSON Schema 2020-12, what Compile lists) becomes a recursive transition
// network over bytes: objects and arrays call rules for their values, strings, numbers
// and enumerations are deterministic automata. A text's state is the set of places where
// the network may stand, with shared stacks (Tomita 1985), so that ambiguous schemas
// cost no more than their alternatives. A mask is found by walking the trie of all tokens
// with that state. The walk through strings and numbers, which nearly all tokens survive,
// depends on the automaton's state only and is remembered, with the places where it left
// the automaton, from which the walk goes on as the stack says (as in XGrammar, Dong et al. 2024).
//
// No state is a dead end: automata have only states from which they can finish, and what
// a token leads to must be able to finish with tokens of single bytes, within the number of
// tokens that are left.
package constrain

import "fmt"

// Constraint narrows the next token of one text. It is used by one goroutine at a time.
type Constraint interface {
	// Mask overwrites allowed: bit i%32 of word i/32 says whether token i may come
	// next. The slice covers the vocabulary. End tokens are set where the text may end. left is how many
	// tokens may still come, the end token included: what is allowed leaves enough of them
	// to finish the text or, where they are too few already, comes nearer to its end.
	Mask(allowed []uint32, left int)
	// Accept takes the token that came. End tokens are not passed on.
	Accept(token int64) error
	// Clone returns a constraint in the same state that goes on by itself.
	Clone() Constraint
}

// SchemaError says that a schema is malformed, can't be satisfied, or asks for what is
// not supported.
type SchemaError struct {
	Path    string // of the schema or keyword: "#" is the whole, "#/properties/a/type" a part
	Problem string // what was found and what is allowed
}

func (e *SchemaError) Error() string { return "JSON schema, " + e.Path + ": " + e.Problem }

// VocabularyError says that a schema can't be followed with the tokens of a model.
type VocabularyError struct{ Problem string }

func (e *VocabularyError) Error() string { return "constrained output: " + e.Problem }

// TokenError says that a token came which the constraint doesn't allow. The
// constraint's state has not changed.
type TokenError struct {
	Token int64
	Text  []byte // nil for a token without text, or one that doesn't exist
}

func (e *TokenError) Error() string {
	return fmt.Sprintf("token %d (%q) is not allowed here; choose one of the mask", e.Token, e.Text)
}

// problem is what is wrong with a part of a schema whose path the caller knows.
type problem string

func (p problem) Error() string { return string(p) }

const errTooComplex problem = "the schema is too complex: its automata would take too much time or memory; use fewer alternatives, shorter enumerations or simpler patterns"

// budget bounds what one Compile may use.
type budget struct {
	work   int // elementary steps
	states int // of all automata
}

func (b *budget) spend(work int) error {
	if b.work -= work; b.work < 0 {
		return errTooComplex
	}
	return nil
}
