package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// evaluator renders a template once.
type evaluator struct {
	source string
	now    time.Time
	out    *strings.Builder
	looks  int // at bytes
	bytes  int // of texts and lists made so far
	calls  int // that are under way
}

// scope holds variables. Those of the scopes around it are seen too.
type scope struct {
	vars   map[string]any
	parent *scope
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	return nil, false
}

func (s *scope) set(name string, v any) {
	if s.vars == nil {
		s.vars = make(map[string]any)
	}
	s.vars[name] = v
}

var (
	errBytes = fmt.Errorf("it makes more than %d bytes", maxBytes)
	errSteps = fmt.Errorf("it takes more than %d steps", maxSteps)
)

// fail makes an error of any other, at a place. One that has a place keeps it.
func (e *evaluator) fail(at position, err error) error {
	var placed *Error
	if errors.As(err, &placed) {
		return placed
	}
	kind := Runtime
	if errors.Is(err, errBytes) || errors.Is(err, errSteps) || errors.Is(err, errDeep) {
		kind = Limit
	}
	return newError(e.source, kind, at, "%v", err)
}

// step counts one step of work.
func (e *evaluator) step(at position) error {
	if err := e.scan(scanned); err != nil {
		return newError(e.source, Limit, at, "%v", err)
	}
	return nil
}

// scanned is how many bytes are looked at in the time of a step.
const scanned = 256

// scan counts the looking at bytes, which is work too.
func (e *evaluator) scan(n int) error {
	if e.looks += n; e.looks > maxSteps*scanned {
		return errSteps
	}
	return nil
}

// grow counts bytes before they are made.
func (e *evaluator) grow(n int) error {
	if n < 0 || n > maxBytes-e.bytes {
		return errBytes
	}
	e.bytes += n
	return nil
}

// slot is what an item of a list counts for, in bytes.
const slot = 16

// jumped says how statements ended.
type jumped int

const (
	normally jumped = iota
	broken
	continued
)

func (e *evaluator) run(body []statement, s *scope) (jumped, error) {
	for _, st := range body {
		if err := e.step(st.at()); err != nil {
			return normally, err
		}
		j, err := e.execute(st, s)
		if err != nil {
			return normally, e.fail(st.at(), err)
		}
		if j != normally {
			return j, nil
		}
	}
	return normally, nil
}

func (e *evaluator) write(text string) error {
	if err := e.grow(len(text)); err != nil {
		return err
	}
	e.out.WriteString(text)
	return nil
}

// print writes a value as text.
func (e *evaluator) print(v any) error {
	text, err := e.str(v)
	if err != nil {
		return err
	}
	return e.write(text)
}

// capture runs statements and returns what they write.
func (e *evaluator) capture(body []statement, s *scope) (string, jumped, error) {
	saved := e.out
	e.out = new(strings.Builder)
	j, err := e.run(body, s)
	text := e.out.String()
	e.out = saved
	return text, j, err
}

func (e *evaluator) execute(st statement, s *scope) (jumped, error) {
	switch st := st.(type) {
	case *data:
		return normally, e.write(st.text)
	case *output:
		v, err := e.eval(st.value, s)
		if err != nil {
			return normally, err
		}
		return normally, e.print(v)
	case *branch:
		for i, condition := range st.tests {
			v, err := e.eval(condition, s)
			if err != nil {
				return normally, err
			}
			if truth(v) {
				return e.run(st.bodies[i], s)
			}
		}
		return e.run(st.otherwise, s)
	case *loop:
		over, err := e.eval(st.over, s)
		if err != nil {
			return normally, err
		}
		return normally, e.loop(st, over, s, 0)
	case *set:
		v, err := e.eval(st.value, s)
		if err != nil {
			return normally, err
		}
		return normally, e.assign(st.target, v, s)
	case *setBlock:
		text, _, err := e.capture(st.body, &scope{parent: s})
		if err != nil {
			return normally, err
		}
		v, err := e.filtered(st.filters, text, s)
		if err != nil {
			return normally, err
		}
		return normally, e.assign(st.target, v, s)
	case *macro:
		s.set(st.name, e.macro(st, s))
		return normally, nil
	case *callBlock:
		caller := e.macro(st.caller, s)
		v, err := e.call(st.call, s, &keywordValue{"caller", caller})
		if err != nil {
			return normally, err
		}
		return normally, e.print(v)
	case *filterBlock:
		text, _, err := e.capture(st.body, &scope{parent: s})
		if err != nil {
			return normally, err
		}
		v, err := e.filtered(st.filters, text, s)
		if err != nil {
			return normally, err
		}
		return normally, e.print(v)
	case *with:
		inner := &scope{parent: s}
		for i, target := range st.targets {
			v, err := e.eval(st.values[i], s)
			if err != nil {
				return normally, err
			}
			if err := e.assign(target, v, inner); err != nil {
				return normally, err
			}
		}
		return e.run(st.body, inner)
	case *jump:
		if st.leave {
			return broken, nil
		}
		return continued, nil
	}
	return normally, fmt.Errorf("statement of type %T", st)
}

func (e *evaluator) filtered(filters []*filter, v any, s *scope) (any, error) {
	for _, f := range filters {
		var err error
		if v, err = e.filter(f, v, s); err != nil {
			return nil, e.fail(f.position, err)
		}
	}
	return v, nil
}

func (e *evaluator) assign(target expression, v any, s *scope) error {
	switch t := target.(type) {
	case *name:
		s.set(t.name, v)
		return nil
	case *namespaceAttribute:
		object, _ := s.get(t.name)
		ns, ok := object.(*namespace)
		if !ok {
			return e.fail(t.position, fmt.Errorf("%s is not a namespace: attributes of other things can't be set", t.name))
		}
		if strings.HasPrefix(t.attribute, "_") {
			return e.fail(t.position, fmt.Errorf("attribute %s begins with an underscore", t.attribute))
		}
		ns.vars.Set(t.attribute, v)
		return nil
	case *list:
		items, err := e.elements(v)
		if err != nil {
			return err
		}
		if len(items) != len(t.items) {
			return e.fail(t.position, fmt.Errorf("%d values for %d names", len(items), len(t.items)))
		}
		for i, item := range t.items {
			if err := e.assign(item, items[i], s); err != nil {
				return err
			}
		}
	}
	return nil
}

// eval evaluates an expression.
func (e *evaluator) eval(x expression, s *scope) (any, error) {
	if err := e.step(x.at()); err != nil {
		return nil, err
	}
	v, err := e.value(x, s)
	if err != nil {
		return nil, e.fail(x.at(), err)
	}
	return v, nil
}

func (e *evaluator) value(x expression, s *scope) (any, error) {
	switch x := x.(type) {
	case *constant:
		return x.value, nil
	case *name:
		if v, ok := s.get(x.name); ok {
			return v, nil
		}
		if f := globals[x.name]; f != nil {
			return f, nil
		}
		return undefined{"there is no variable " + x.name}, nil
	case *list:
		if err := e.grow(slot * len(x.items)); err != nil {
			return nil, err
		}
		l := &List{items: make([]any, len(x.items)), tuple: x.tuple}
		for i, item := range x.items {
			var err error
			if l.items[i], err = e.eval(item, s); err != nil {
				return nil, err
			}
		}
		return l, nil
	case *dict:
		if err := e.grow(4 * slot * len(x.keys)); err != nil {
			return nil, err
		}
		d := NewDict()
		for i := range x.keys {
			key, err := e.eval(x.keys[i], s)
			if err != nil {
				return nil, err
			}
			if !hashable(key) {
				return nil, fmt.Errorf("%s can't be a key", typeName(key))
			}
			v, err := e.eval(x.values[i], s)
			if err != nil {
				return nil, err
			}
			d.Set(key, v)
		}
		return d, nil
	case *unary:
		v, err := e.eval(x.operand, s)
		if err != nil {
			return nil, err
		}
		return negate(x.operator, v)
	case *binary:
		left, err := e.eval(x.left, s)
		if err != nil {
			return nil, err
		}
		right, err := e.eval(x.right, s)
		if err != nil {
			return nil, err
		}
		return e.arithmetic(x.operator, left, right)
	case *concat:
		var b strings.Builder
		for _, part := range x.parts {
			v, err := e.eval(part, s)
			if err != nil {
				return nil, err
			}
			text, err := e.str(v)
			if err != nil {
				return nil, err
			}
			if err := e.grow(len(text)); err != nil {
				return nil, err
			}
			b.WriteString(text)
		}
		return b.String(), nil
	case *logic:
		left, err := e.eval(x.left, s)
		if err != nil || truth(left) == x.or {
			return left, err
		}
		return e.eval(x.right, s)
	case *comparison:
		return e.comparison(x, s)
	case *conditional:
		condition, err := e.eval(x.test, s)
		switch {
		case err != nil:
			return nil, err
		case truth(condition):
			return e.eval(x.then, s)
		case x.otherwise == nil:
			return undefined{"the condition is false and there is no else"}, nil
		}
		return e.eval(x.otherwise, s)
	case *attribute:
		object, err := e.eval(x.object, s)
		if err != nil {
			return nil, err
		}
		return e.attribute(object, x.name)
	case *index:
		object, err := e.eval(x.object, s)
		if err != nil {
			return nil, err
		}
		i, err := e.eval(x.index, s)
		if err != nil {
			return nil, err
		}
		return e.index(object, i)
	case *slice:
		return e.slice(x, s)
	case *call:
		return e.call(x, s, nil)
	case *filter:
		input, err := e.eval(x.input, s)
		if err != nil {
			return nil, err
		}
		return e.filter(x, input, s)
	case *test:
		input, err := e.eval(x.input, s)
		if err != nil {
			return nil, err
		}
		a, err := e.arguments(&x.arguments, s)
		if err != nil {
			return nil, err
		}
		return e.applyTest(x.name, input, a)
	}
	return nil, fmt.Errorf("expression of type %T", x)
}

func (e *evaluator) comparison(x *comparison, s *scope) (any, error) {
	left, err := e.eval(x.first, s)
	if err != nil {
		return nil, err
	}
	for i, operator := range x.operators {
		right, err := e.eval(x.operands[i], s)
		if err != nil {
			return nil, err
		}
		ok, err := e.compare(operator, left, right)
		if !ok || err != nil {
			return false, err
		}
		left = right
	}
	return true, nil
}

func (e *evaluator) slice(x *slice, s *scope) (any, error) {
	object, err := e.eval(x.object, s)
	if err != nil {
		return nil, err
	}
	var parts [3]*int64
	for i, part := range []expression{x.start, x.stop, x.step} {
		if part == nil {
			continue
		}
		v, err := e.eval(part, s)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		n, _, isInt, _ := number(v)
		if !isInt {
			return nil, fmt.Errorf("%s is no bound of a slice", typeName(v))
		}
		parts[i] = &n
	}
	if u, ok := object.(undefined); ok {
		return nil, errors.New(u.what)
	}
	size, err := length(object)
	if err != nil {
		return nil, err
	}
	if err := e.grow(size); err != nil {
		return nil, err
	}
	return sliced(object, parts[0], parts[1], parts[2])
}

// attribute returns what stands behind a dot: a method or, in mappings, a key.
func (e *evaluator) attribute(object any, name string) (any, error) {
	switch o := object.(type) {
	case undefined:
		return nil, errors.New(o.what)
	case *namespace:
		if v, ok := o.vars.Get(name); ok {
			return v, nil
		}
	case *loopState:
		if v, ok, err := o.attribute(name); ok || err != nil {
			return v, err
		}
	case *function:
		if o.attribute != nil {
			if v, ok := o.attribute(name); ok {
				return v, nil
			}
		}
	case *List:
		if i := slices.Index(o.fields, name); i >= 0 {
			return o.items[i], nil
		}
	}
	if m := methodOf(object, name); m != nil {
		return m, nil
	}
	if d, ok := object.(*Dict); ok && !slices.Contains(changing, name) {
		if v, ok := d.Get(name); ok {
			return v, nil
		}
	}
	return undefined{fmt.Sprintf("%s has no attribute %s", typeName(object), name)}, nil
}

// index returns what stands in brackets: a key or an item, else a method.
func (e *evaluator) index(object, key any) (any, error) {
	n, _, isInt, _ := number(key)
	switch o := object.(type) {
	case undefined:
		return nil, errors.New(o.what)
	case *Dict:
		if !hashable(key) {
			break
		}
		if v, ok := o.Get(key); ok {
			return v, nil
		}
	case *List:
		if n < 0 {
			n += int64(len(o.items))
		}
		if isInt && 0 <= n && n < int64(len(o.items)) {
			return o.items[n], nil
		}
	case string:
		if isInt {
			return character(o, n), e.scan(len(o))
		}
	}
	if name, ok := key.(string); ok {
		return e.attribute(object, name)
	}
	shown, err := appendRepr(nil, key, 0)
	if err != nil {
		return nil, err
	}
	return undefined{fmt.Sprintf("%s has no item %s", typeName(object), shown)}, nil
}

// character returns character n of a string, counted from its end if negative.
func character(s string, n int64) any {
	count := int64(utf8.RuneCountInString(s))
	if n < 0 {
		n += count
	}
	if n < 0 || n >= count {
		return undefined{fmt.Sprintf("the string has no character %d", n)}
	}
	if count == int64(len(s)) {
		return s[n : n+1]
	}
	for i := range s {
		if n == 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			return s[i : i+size]
		}
		n--
	}
	return ""
}
