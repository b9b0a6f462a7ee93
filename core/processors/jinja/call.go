package jinja

import (
	"errors"
	"fmt"
	"slices"
)

// callArguments are the values of a call's arguments.
type callArguments struct {
	values   []any
	keywords []keywordValue
}

type keywordValue struct {
	name  string
	value any
}

// enter bounds how deep calls are nested. Each enter has a leave.
func (e *evaluator) enter() error {
	if e.calls++; e.calls > maxCalls {
		return &deepCalls
	}
	return nil
}

var deepCalls = Error{Kind: Limit, Reason: fmt.Sprintf("calls are nested more than %d deep", maxCalls)}

func (e *evaluator) macro(m *macro, s *scope) *function {
	return &function{
		name: m.name,
		call: func(e *evaluator, at position, a callArguments) (any, error) { return e.callMacro(m, s, a) },
		attribute: func(name string) (any, bool) {
			switch name {
			case "name":
				return m.name, true
			case "arguments":
				names := newTuple()
				for _, p := range m.parameters {
					names.items = append(names.items, p)
				}
				return names, true
			case "catch_kwargs":
				return m.catches.keywords, true
			case "catch_varargs":
				return m.catches.values, true
			case "caller":
				return m.catches.caller, true
			}
			return nil, false
		},
	}
}

func (e *evaluator) callMacro(m *macro, s *scope, a callArguments) (any, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer func() { e.calls-- }()
	inner := &scope{vars: make(map[string]any), parent: s}
	more := newTuple()
	for i, v := range a.values {
		if i < len(m.parameters) {
			inner.vars[m.parameters[i]] = v
		} else {
			more.items = append(more.items, v)
		}
	}
	others := NewDict()
	for _, k := range a.keywords {
		_, twice := inner.vars[k.name]
		switch {
		case twice:
			return nil, fmt.Errorf("macro %s: argument %s is given twice", m.name, k.name)
		case slices.Contains(m.parameters, k.name):
			inner.vars[k.name] = k.value
		case k.name == "caller" && m.catches.caller:
			inner.vars["caller"] = k.value
		default:
			others.Set(k.name, k.value)
		}
	}
	if len(more.items) > 0 && !m.catches.values {
		return nil, fmt.Errorf("macro %s takes %d arguments, not %d", m.name, len(m.parameters), len(a.values))
	}
	if others.Len() > 0 && !m.catches.keywords {
		return nil, fmt.Errorf("macro %s has no parameter %v", m.name, others.keys[0])
	}
	for i, p := range m.parameters {
		if _, ok := inner.vars[p]; ok {
			continue
		}
		inner.vars[p] = undefined{"parameter " + p + " was not given"}
		if d := i - (len(m.parameters) - len(m.defaults)); d >= 0 {
			v, err := e.eval(m.defaults[d], inner)
			if err != nil {
				return nil, err
			}
			inner.vars[p] = v
		}
	}
	if m.catches.values {
		inner.vars["varargs"] = more
	}
	if m.catches.keywords {
		inner.vars["kwargs"] = others
	}
	if _, ok := inner.vars["caller"]; m.catches.caller && !ok {
		inner.vars["caller"] = undefined{"there is no caller"}
	}
	text, _, err := e.capture(m.body, inner)
	return text, err
}

// arguments evaluates those of a call.
func (e *evaluator) arguments(a *arguments, s *scope) (callArguments, error) {
	var c callArguments
	for _, x := range a.values {
		v, err := e.eval(x, s)
		if err != nil {
			return c, err
		}
		c.values = append(c.values, v)
	}
	for _, k := range a.keywords {
		v, err := e.eval(k.value, s)
		if err != nil {
			return c, err
		}
		c.keywords = append(c.keywords, keywordValue{k.name, v})
	}
	if a.moreValues != nil {
		v, err := e.eval(a.moreValues, s)
		if err != nil {
			return c, err
		}
		items, err := e.elements(v)
		if err != nil {
			return c, err
		}
		c.values = append(c.values, items...)
	}
	if a.moreKeywords != nil {
		v, err := e.eval(a.moreKeywords, s)
		if err != nil {
			return c, err
		}
		d, ok := v.(*Dict)
		if !ok {
			return c, fmt.Errorf("%s stands for arguments with names", typeName(v))
		}
		for key, v := range d.All() {
			name, ok := key.(string)
			if !ok || slices.ContainsFunc(c.keywords, func(k keywordValue) bool { return k.name == name }) {
				return c, fmt.Errorf("%v is no name of an argument, or given twice", key)
			}
			c.keywords = append(c.keywords, keywordValue{name, v})
		}
	}
	return c, nil
}

func (e *evaluator) call(c *call, s *scope, extra *keywordValue) (any, error) {
	f, err := e.eval(c.function, s)
	if err != nil {
		return nil, err
	}
	a, err := e.arguments(&c.arguments, s)
	if err != nil {
		return nil, err
	}
	if extra != nil {
		a.keywords = append(a.keywords, *extra)
	}
	switch f := f.(type) {
	case *function:
		v, err := f.call(e, c.position, a)
		if err != nil {
			if errors.Is(err, error(&deepCalls)) {
				return nil, newError(e.source, Limit, c.position, "%s", deepCalls.Reason)
			}
			return nil, err
		}
		return v, nil
	case *loopState:
		if f.recurse == nil || len(a.values) != 1 || len(a.keywords) > 0 {
			return nil, errors.New("loop is called with one argument, in a loop that is marked as recursive")
		}
		if err := e.enter(); err != nil {
			return nil, newError(e.source, Limit, c.position, "%s", deepCalls.Reason)
		}
		defer func() { e.calls-- }()
		return f.recurse(a.values[0])
	case undefined:
		return nil, errors.New(f.what)
	}
	return nil, fmt.Errorf("%s can't be called", typeName(f))
}
