package jinja

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Values are nil (none), bool, int64, float64, string, *List, *Dict, and what only templates make: undefined, namespaces, functions.
// Lists and dictionaries are not changed once a template has them.

// List is a list or a tuple.
type List struct {
	items  []any
	tuple  bool
	fields []string // names of a tuple's items, or nil
}

// NewList returns a list of these values.
func NewList(items ...any) *List { return &List{items: items} }

// Append adds a value to a list that no template has yet.
func (l *List) Append(v any) { l.items = append(l.items, v) }

func newTuple(items ...any) *List { return &List{items: items, tuple: true} }

// Dict is a dictionary. It keeps its keys in the order in which they were first set.
type Dict struct {
	keys, values []any
	index        map[any]int
}

// NewDict returns an empty dictionary.
func NewDict() *Dict { return &Dict{index: make(map[any]int)} }

// Set sets the value of a key, which is none, a boolean, a number or a string.
func (d *Dict) Set(key, value any) {
	k := hashKey(key)
	if i, ok := d.index[k]; ok {
		d.values[i] = value
		return
	}
	d.index[k] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, value)
}

// Get returns the value of a key.
func (d *Dict) Get(key any) (any, bool) {
	i, ok := d.index[hashKey(key)]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// Len returns the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// All goes over keys and values in order.
func (d *Dict) All() iter.Seq2[any, any] {
	return func(yield func(any, any) bool) {
		for i, key := range d.keys {
			if !yield(key, d.values[i]) {
				return
			}
		}
	}
}

// hashKey makes keys that are equal the same: 1, 1.0 and true.
func hashKey(key any) any {
	switch k := key.(type) {
	case bool:
		if k {
			return int64(1)
		}
		return int64(0)
	case float64:
		if i := int64(k); float64(i) == k && math.Abs(k) < 1<<53 {
			return i
		}
	}
	return key
}

func hashable(key any) bool {
	switch key.(type) {
	case nil, bool, int64, float64, string, bigNumber:
		return true
	}
	return false
}

// bigNumber is an integer of more than 64 bits, as it was written. It is only passed on.
type bigNumber string

// undefined is what a name, attribute or key without a value gives. It prints as nothing; most other uses are errors.
type undefined struct{ what string }

// namespace is the one thing that templates may change.
type namespace struct{ vars *Dict }

// function is anything that can be called and has no other use.
type function struct {
	name string
	call func(e *evaluator, at position, a callArguments) (any, error)
	// attributes, for a macro or a cycler; may be nil
	attribute func(name string) (any, bool)
}

// FromJSON returns the value that a JSON text is. Objects keep the order of their keys.
func FromJSON(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := readJSON(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON value")
	}
	return v, nil
}

func readJSON(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			l := NewList()
			for d.More() {
				item, err := readJSON(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.items = append(l.items, item)
			}
			_, err := d.Token()
			return l, err
		}
		o := NewDict()
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := readJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			o.Set(key, value)
		}
		_, err := d.Token()
		return o, err
	case json.Number:
		if strings.ContainsAny(string(t), ".eE") {
			f, err := t.Float64()
			if err != nil && !math.IsInf(f, 0) {
				return nil, err
			}
			return f, nil
		}
		if i, err := t.Int64(); err == nil {
			return i, nil
		}
		return bigNumber(t), nil
	}
	return t, nil // nil, bool, string
}

// typeName is what Python calls the type of a value.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a boolean"
	case int64, bigNumber:
		return "an integer"
	case float64:
		return "a float"
	case string:
		return "a string"
	case *List:
		if v.tuple {
			return "a tuple"
		}
		return "a list"
	case *Dict:
		return "a mapping"
	case undefined:
		return "undefined"
	case *namespace:
		return "a namespace"
	case *loopState:
		return "a loop"
	}
	return "a function"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.items) > 0
	case *Dict:
		return v.Len() > 0
	}
	return true
}

// number returns an integer, or a float, if v is one of these; booleans count.
func number(v any) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, 1, true, true
		}
		return 0, 0, true, true
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	}
	return 0, 0, false, false
}

var errDeep = fmt.Errorf("values are nested more than %d deep", maxDepth)

func (e *evaluator) equal(a, b any, depth int) (bool, error) {
	if depth > maxDepth {
		return false, errDeep
	}
	if err := e.scan(scanned); err != nil { // one thing may stand in many places
		return false, err
	}
	if i, f, isInt, ok := number(a); ok {
		j, g, bothInt, ok := number(b)
		if isInt && bothInt {
			return ok && i == j, nil
		}
		return ok && f == g, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case string:
		return a == b, e.scan(len(a))
	case bigNumber:
		return a == b, nil
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case *List:
		l, ok := b.(*List)
		if !ok || a.tuple != l.tuple || len(a.items) != len(l.items) {
			return false, nil
		}
		for i, item := range a.items {
			if same, err := e.equal(item, l.items[i], depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *Dict:
		d, ok := b.(*Dict)
		if !ok || a.Len() != d.Len() {
			return false, nil
		}
		for key, v := range a.All() {
			w, ok := d.Get(key)
			if !ok {
				return false, nil
			}
			if same, err := e.equal(v, w, depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return a == b, nil // pointers
}

// compare orders two values, if their types have an order.
func (e *evaluator) order(a, b any, depth int) (int, error) {
	if depth > maxDepth {
		return 0, errDeep
	}
	if err := e.scan(scanned); err != nil {
		return 0, err
	}
	if i, f, isInt, ok := number(a); ok {
		if j, g, bothInt, ok := number(b); ok {
			if isInt && bothInt {
				return cmp.Compare(i, j), nil
			}
			return cmp.Compare(f, g), nil
		}
	}
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			return strings.Compare(a, b), e.scan(len(a))
		}
	case *List:
		if b, ok := b.(*List); ok && a.tuple == b.tuple {
			for i := range min(len(a.items), len(b.items)) {
				if same, err := e.equal(a.items[i], b.items[i], depth+1); err != nil {
					return 0, err
				} else if !same {
					return e.order(a.items[i], b.items[i], depth+1)
				}
			}
			return cmp.Compare(len(a.items), len(b.items)), nil
		}
	}
	return 0, fmt.Errorf("%s and %s have no order", typeName(a), typeName(b))
}

// str is what a value prints as.
func (e *evaluator) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	b, err := appendRepr(nil, v, 0)
	if err != nil {
		return "", err
	}
	return string(b), e.grow(len(b))
}

// appendRepr appends a value as Python writes it inside another one.
func appendRepr(b []byte, v any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	if len(b) > maxBytes {
		return nil, errBytes
	}
	switch v := v.(type) {
	case nil:
		return append(b, "None"...), nil
	case bool:
		if v {
			return append(b, "True"...), nil
		}
		return append(b, "False"...), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case bigNumber:
		return append(b, v...), nil
	case float64:
		return append(b, formatFloat(v)...), nil
	case string:
		return quote(b, v), nil
	case undefined:
		return append(b, "Undefined"...), nil
	case *List:
		brackets := "[]"
		if v.tuple {
			brackets = "()"
		}
		b = append(b, brackets[0])
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ", "...)
			}
			var err error
			if b, err = appendRepr(b, item, depth+1); err != nil {
				return nil, err
			}
		}
		if v.tuple && len(v.items) == 1 {
			b = append(b, ',')
		}
		return append(b, brackets[1]), nil
	case *Dict:
		b = append(b, '{')
		for i, key := range v.keys {
			if i > 0 {
				b = append(b, ", "...)
			}
			var err error
			if b, err = appendRepr(b, key, depth+1); err != nil {
				return nil, err
			}
			b = append(b, ": "...)
			if b, err = appendRepr(b, v.values[i], depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case *namespace:
		b, err := appendRepr(append(b, "<Namespace "...), v.vars, depth+1)
		return append(b, '>'), err
	}
	return nil, fmt.Errorf("%s can't be printed", typeName(v))
}

// formatFloat writes a float as Python does: with a point or an exponent, and as few digits as tell it apart.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote appends a string in quotes, as Python does.
func quote(b []byte, s string) []byte {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b = append(b, q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return append(b, q)
}

// characters returns a string's characters as strings.
func characters(s string) []any {
	all := make([]any, 0, len(s))
	for len(s) > 0 {
		_, n := utf8.DecodeRuneInString(s)
		all = append(all, s[:n])
		s = s[n:]
	}
	return all
}

// elements returns what a loop over a value goes through.
func (e *evaluator) elements(v any) ([]any, error) {
	switch v := v.(type) {
	case *List:
		return v.items, e.scan(4 * slot * len(v.items))
	case *Dict:
		return v.keys, e.scan(4 * slot * v.Len())
	case string:
		if err := e.grow(slot * len(v)); err != nil {
			return nil, err
		}
		return characters(v), nil
	case undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("%s has no elements to go through", typeName(v))
}

// bounds returns, as Python counts, where a slice begins and how many items it has.
func bounds(n int, start, stop, step *int64) (from, by, count int, err error) {
	by = 1
	if step != nil {
		if *step == 0 {
			return 0, 0, 0, errors.New("the step of a slice is 0")
		}
		by = int(max(min(*step, math.MaxInt32), -math.MaxInt32))
	}
	low, high := 0, n
	if by < 0 {
		low, high = -1, n-1
	}
	clamp := func(i *int64, otherwise int) int {
		if i == nil {
			return otherwise
		}
		at := *i
		if at < 0 {
			at += int64(n)
		}
		return int(max(min(at, int64(high)), int64(low)))
	}
	if by > 0 {
		from = clamp(start, low)
		to := clamp(stop, high)
		return from, by, max(0, (to-from+by-1)/by), nil
	}
	from = clamp(start, high)
	to := clamp(stop, low)
	return from, by, max(0, (from-to-by-1)/-by), nil
}

// sliced returns a part of a string, list or tuple.
func sliced(v any, start, stop, step *int64) (any, error) {
	switch v := v.(type) {
	case string:
		if len(v) == utf8.RuneCountInString(v) {
			from, by, count, err := bounds(len(v), start, stop, step)
			if err != nil || by == 1 {
				return v[from : from+count], err
			}
		}
		runes := []rune(v)
		from, by, count, err := bounds(len(runes), start, stop, step)
		if err != nil {
			return nil, err
		}
		if by == 1 {
			return string(runes[from : from+count]), nil
		}
		part := make([]rune, count)
		for i := range part {
			part[i] = runes[from+i*by]
		}
		return string(part), nil
	case *List:
		from, by, count, err := bounds(len(v.items), start, stop, step)
		if err != nil {
			return nil, err
		}
		if by == 1 {
			return &List{items: slices.Clip(v.items[from : from+count]), tuple: v.tuple}, nil
		}
		part := make([]any, count)
		for i := range part {
			part[i] = v.items[from+i*by]
		}
		return &List{items: part, tuple: v.tuple}, nil
	}
	return nil, fmt.Errorf("%s has no parts", typeName(v))
}

// length counts what is in a value.
func length(v any) (int, error) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), nil
	case *List:
		return len(v.items), nil
	case *Dict:
		return v.Len(), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("%s has no length", typeName(v))
}
