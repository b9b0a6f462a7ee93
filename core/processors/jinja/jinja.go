// Package jinja renders chat templates: the part of the Jinja2 language that they are written in, as transformers sets it up (blocks'
// newlines trimmed, white space before blocks stripped, loop controls, generation blocks, nothing escaped, nothing changed in place).
//
// Templates come with models, from strangers. They see the values they are given and nothing of Go; how long they work, how deep and how
// much text they make is bounded. (https://jinja.palletsprojects.com/en/stable/templates, https://huggingface.co/docs/transformers/chat_templating)
package jinja

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds on what a template may cost.
const (
	maxSource = 1 << 20 // bytes of a template
	maxNested = 200     // expressions and blocks inside each other
	maxChain  = 1000    // operators, filters or subscripts one after another
	maxCalls  = 200     // macros and loops that call each other
	maxSteps  = 2000000 // expressions and statements
	maxBytes  = 1 << 26 // of all texts and lists on the way, together
	maxRange  = 100000  // numbers of one range
	maxDepth  = 500     // values inside each other
)

// Template is a parsed template. It is immutable and may be used by many goroutines at once.
type Template struct {
	source string // that positions count in
	body   []statement
}

// Kind says what kind of error one is.
type Kind int

const (
	Syntax  Kind = iota // the template is not well-formed
	Runtime             // it can't do what it wants with the values that it has
	Raised              // it refuses what it was given, by raise_exception
	Limit               // it costs more than is allowed
)

// Error is what goes wrong in a template, and where.
type Error struct {
	Kind         Kind
	Line, Column int // counted from 1; columns in characters; 0 where no single place is to blame
	Reason       string
}

func (e *Error) Error() string {
	what := [...]string{"not well-formed", "failed", "refused", "costs too much"}[e.Kind]
	if e.Line == 0 {
		return fmt.Sprintf("template %s: %s", what, e.Reason)
	}
	return fmt.Sprintf("template %s: line %d, column %d: %s", what, e.Line, e.Column, e.Reason)
}

// Parse reads a template. Errors are an *Error.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, &Error{Kind: Limit, Reason: fmt.Sprintf("it has %d bytes, more than the %d allowed", len(source), maxSource)}
	}
	if !utf8.ValidString(source) {
		return nil, &Error{Kind: Syntax, Reason: "it is not UTF-8"}
	}
	tokens, source, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{source: source, tokens: tokens}
	body, err := p.template()
	if err != nil {
		return nil, err
	}
	return &Template{source, body}, nil
}

// Render renders the template with these variables. now is what it takes for the present time. Errors are an *Error.
func (t *Template) Render(variables *Dict, now time.Time) (string, error) {
	return t.render(&evaluator{source: t.source, now: now, out: new(strings.Builder)}, variables)
}

func (t *Template) render(e *evaluator, variables *Dict) (string, error) {
	root := &scope{vars: make(map[string]any, variables.Len())}
	for key, v := range variables.All() {
		if name, ok := key.(string); ok {
			root.vars[name] = v
		}
	}
	if _, err := e.run(t.body, root); err != nil {
		return "", err
	}
	return e.out.String(), nil
}

// LoopsOver says whether the template has a loop over something that mentions a variable, attribute or key of that name.
func (t *Template) LoopsOver(name string) bool {
	return loopsOver(t.body, name)
}
