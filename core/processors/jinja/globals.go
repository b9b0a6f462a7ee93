package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// globals are the functions that every template has.
var globals map[string]*function

func init() {
	globals = make(map[string]*function)
	for name, call := range map[string]func(e *evaluator, at position, a callArguments) (any, error){
		"range": rangeFunction,
		"dict": func(e *evaluator, _ position, a callArguments) (any, error) {
			return e.newDict(a)
		},
		"namespace": func(e *evaluator, _ position, a callArguments) (any, error) {
			d, err := e.newDict(a)
			if err != nil {
				return nil, err
			}
			for key := range d.All() {
				if name, ok := key.(string); ok && strings.HasPrefix(name, "_") {
					return nil, fmt.Errorf("attribute %s begins with an underscore", name)
				}
			}
			return &namespace{d}, nil
		},
		"joiner": func(_ *evaluator, _ position, a callArguments) (any, error) {
			bound, err := bind(a, 0, []string{"sep"})
			if err != nil {
				return nil, err
			}
			used := false
			return &function{name: "joiner", call: func(*evaluator, position, callArguments) (any, error) {
				if !used {
					used = true
					return "", nil
				}
				return given(bound[0], ", "), nil
			}}, nil
		},
		"cycler": cycler,
		"raise_exception": func(e *evaluator, at position, a callArguments) (any, error) {
			bound, err := bind(a, 1, []string{"message"})
			if err != nil {
				return nil, err
			}
			message, err := e.str(bound[0])
			if err != nil {
				return nil, err
			}
			return nil, newError(e.source, Raised, at, "%s", message)
		},
		"strftime_now": func(e *evaluator, _ position, a callArguments) (any, error) {
			bound, err := bind(a, 1, []string{"format"})
			if err != nil {
				return nil, err
			}
			format, err := asString(bound[0])
			if err != nil {
				return nil, err
			}
			return strftime(e.now, format)
		},
	} {
		globals[name] = &function{name: name, call: call}
	}
}

func rangeFunction(e *evaluator, _ position, a callArguments) (any, error) {
	n := []int64{0, 0, 1}
	if len(a.keywords) > 0 || len(a.values) < 1 || len(a.values) > 3 {
		return nil, errors.New("range takes one to three numbers")
	}
	for i, v := range a.values {
		k, _, isInt, _ := number(v)
		if !isInt || k > 1<<53 || k < -1<<53 {
			return nil, fmt.Errorf("range takes integers, not %s", typeName(v))
		}
		n[i] = k
	}
	if len(a.values) == 1 {
		n[0], n[1] = 0, n[0]
	}
	start, stop, step := n[0], n[1], n[2]
	var count int64
	switch {
	case step == 0:
		return nil, errors.New("the step of range is 0")
	case step > 0 && stop > start:
		count = (stop - start + step - 1) / step
	case step < 0 && stop < start:
		count = (start - stop - step - 1) / -step
	}
	if count > maxRange {
		return nil, fmt.Errorf("range has %d numbers, more than the %d allowed", count, maxRange)
	}
	l := &List{items: make([]any, count)}
	for i := range l.items {
		l.items[i] = start + int64(i)*step
	}
	return l, e.grow(slot * int(count))
}

// newDict makes a mapping of a mapping or of pairs, and of arguments with names.
func (e *evaluator) newDict(a callArguments) (*Dict, error) {
	d := NewDict()
	if len(a.values) > 1 {
		return nil, errors.New("a mapping is made of one value at most")
	}
	set := func(key, v any) error {
		if !hashable(key) {
			return fmt.Errorf("%s can't be a key", typeName(key))
		}
		d.Set(key, v)
		return e.grow(4 * slot)
	}
	if len(a.values) == 1 {
		if from, ok := a.values[0].(*Dict); ok {
			for key, v := range from.All() {
				if err := set(key, v); err != nil {
					return nil, err
				}
			}
		} else {
			pairs, err := e.elements(a.values[0])
			if err != nil {
				return nil, err
			}
			for _, pair := range pairs {
				items, err := e.elements(pair)
				if err != nil {
					return nil, err
				}
				if len(items) != 2 {
					return nil, fmt.Errorf("a mapping is made of pairs, not of %d items", len(items))
				}
				if err := set(items[0], items[1]); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, k := range a.keywords {
		if err := set(k.name, k.value); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func cycler(_ *evaluator, _ position, a callArguments) (any, error) {
	if len(a.values) == 0 || len(a.keywords) > 0 {
		return nil, errors.New("cycler takes values to cycle through")
	}
	at := 0
	next := &function{name: "next", call: func(*evaluator, position, callArguments) (any, error) {
		v := a.values[at]
		at = (at + 1) % len(a.values)
		return v, nil
	}}
	reset := &function{name: "reset", call: func(*evaluator, position, callArguments) (any, error) {
		at = 0
		return nil, nil
	}}
	return &function{name: "cycler", call: next.call, attribute: func(name string) (any, bool) {
		switch name {
		case "next":
			return next, true
		case "reset":
			return reset, true
		case "current":
			return a.values[at], true
		}
		return nil, false
	}}, nil
}

// strftimes are the parts of a date by the letter behind %, as C's strftime has them in English.
var strftimes = map[string]func(t time.Time) string{}

func init() {
	for letters, layout := range map[string]string{
		"a": "Mon", "A": "Monday", "b": "Jan", "h": "Jan", "B": "January", "d": "02", "-d": "2", "e": "_2", "m": "01", "-m": "1", "y": "06", "Y": "2006",
		"H": "15", "I": "03", "-I": "3", "M": "04", "-M": "4", "S": "05", "-S": "5", "p": "PM", "Z": "MST", "z": "-0700",
		"F": "2006-01-02", "T": "15:04:05", "R": "15:04", "D": "01/02/06", "c": "Mon Jan _2 15:04:05 2006", "x": "01/02/06", "X": "15:04:05",
	} {
		strftimes[letters] = func(t time.Time) string { return t.Format(layout) }
	}
	for letters, format := range map[string]func(t time.Time) string{
		"-H": func(t time.Time) string { return fmt.Sprint(t.Hour()) },
		"j":  func(t time.Time) string { return fmt.Sprintf("%03d", t.YearDay()) },
		"-j": func(t time.Time) string { return fmt.Sprint(t.YearDay()) },
		"f":  func(t time.Time) string { return fmt.Sprintf("%06d", t.Nanosecond()/1000) },
		"s":  func(t time.Time) string { return fmt.Sprint(t.Unix()) },
		"u":  func(t time.Time) string { return fmt.Sprint((int(t.Weekday())+6)%7 + 1) },
		"w":  func(t time.Time) string { return fmt.Sprint(int(t.Weekday())) },
		"n":  func(time.Time) string { return "\n" },
		"t":  func(time.Time) string { return "\t" },
		"%":  func(time.Time) string { return "%" },
	} {
		strftimes[letters] = format
	}
}

func strftime(t time.Time, format string) (any, error) {
	var b strings.Builder
	for {
		plain, rest, found := strings.Cut(format, "%")
		b.WriteString(plain)
		if !found {
			return b.String(), nil
		}
		n := 1
		if strings.HasPrefix(rest, "-") {
			n = 2
		}
		if len(rest) < n || strftimes[rest[:n]] == nil {
			return nil, fmt.Errorf("strftime_now has no %%%s", rest[:min(n, len(rest))])
		}
		b.WriteString(strftimes[rest[:n]](t))
		format = rest[n:]
	}
}
