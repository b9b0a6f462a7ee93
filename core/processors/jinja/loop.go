package jinja

import (
	"errors"
	"math"
	"strings"
)

// loopState is the variable "loop". Items are taken as they are wanted, for whether one is taken may depend on what was done before.
type loopState struct {
	e          *evaluator
	at         position
	items      []any // not looked at yet
	wanted     func(item any) (bool, error)
	ahead      []any // taken, but not yet had
	before     any
	item       any
	after      int // number of the present item, counted from 0; -1 before the first
	depth      int
	changed    *List
	recurse    func(over any) (string, error) // or nil
	afterFirst bool
}

// peek takes items until n are ahead, or none is left.
func (l *loopState) peek(n int) error {
	for len(l.ahead) < n && len(l.items) > 0 {
		item := l.items[0]
		l.items = l.items[1:]
		ok, err := l.wanted(item)
		if err != nil {
			return err
		}
		if ok {
			l.ahead = append(l.ahead, item)
		}
	}
	return nil
}

func (l *loopState) next() (bool, error) {
	if err := l.peek(1); err != nil || len(l.ahead) == 0 {
		return false, err
	}
	if l.after >= 0 {
		l.before, l.afterFirst = l.item, true
	}
	l.item, l.ahead = l.ahead[0], l.ahead[1:]
	l.after++
	return true, nil
}

func (e *evaluator) loop(st *loop, over any, s *scope, depth int) error {
	items, err := e.elements(over)
	if err != nil {
		return err
	}
	l := &loopState{e: e, at: st.position, items: items, after: -1, depth: depth}
	l.wanted = func(item any) (bool, error) {
		if err := e.step(st.position); err != nil || st.test == nil {
			return true, err
		}
		inner := &scope{parent: s}
		if err := e.assign(st.target, item, inner); err != nil {
			return false, err
		}
		v, err := e.eval(st.test, inner)
		return truth(v), err
	}
	if st.recursive {
		l.recurse = func(over any) (string, error) {
			saved := e.out
			e.out = new(strings.Builder)
			err := e.loop(st, over, s, depth+1)
			text := e.out.String()
			e.out = saved
			return text, err
		}
	}
	for {
		ok, err := l.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		inner := &scope{vars: map[string]any{"loop": l}, parent: s}
		if err := e.assign(st.target, l.item, inner); err != nil {
			return err
		}
		j, err := e.run(st.body, inner)
		if err != nil {
			return err
		}
		if j == broken {
			return nil
		}
	}
	if l.after < 0 {
		_, err = e.run(st.otherwise, &scope{parent: s})
	}
	return err
}

// attribute returns an attribute of the variable "loop".
func (l *loopState) attribute(name string) (any, bool, error) {
	switch name {
	case "index":
		return int64(l.after + 1), true, nil
	case "index0":
		return int64(l.after), true, nil
	case "depth":
		return int64(l.depth + 1), true, nil
	case "depth0":
		return int64(l.depth), true, nil
	case "first":
		return l.after == 0, true, nil
	case "last":
		err := l.peek(1)
		return len(l.ahead) == 0, true, err
	case "length", "revindex", "revindex0":
		if err := l.peek(math.MaxInt); err != nil {
			return nil, false, err
		}
		left := int64(len(l.ahead))
		return map[string]int64{"length": int64(l.after) + 1 + left, "revindex": left + 1, "revindex0": left}[name], true, nil
	case "previtem":
		if !l.afterFirst {
			return undefined{"there is no previous item"}, true, nil
		}
		return l.before, true, nil
	case "nextitem":
		if err := l.peek(1); err != nil || len(l.ahead) == 0 {
			return undefined{"there is no next item"}, true, err
		}
		return l.ahead[0], true, nil
	case "cycle":
		return &function{name: "cycle", call: func(_ *evaluator, _ position, a callArguments) (any, error) {
			if len(a.values) == 0 || len(a.keywords) > 0 {
				return nil, errors.New("cycle wants values to cycle through")
			}
			return a.values[l.after%len(a.values)], nil
		}}, true, nil
	case "changed":
		return &function{name: "changed", call: func(e *evaluator, _ position, a callArguments) (any, error) {
			now := newTuple(a.values...)
			if l.changed != nil {
				if same, err := e.equal(l.changed, now, 0); same || err != nil {
					return false, err
				}
			}
			l.changed = now
			return true, nil
		}}, true, nil
	}
	return nil, false, nil
}
