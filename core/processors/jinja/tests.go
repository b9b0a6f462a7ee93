package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// testFunction is a test of a value against other values.
type testFunction struct {
	arguments int
	holds     func(e *evaluator, v any, a []any) (bool, error)
}

var tests map[string]testFunction

func init() {
	is := func(f func(v any) bool) testFunction {
		return testFunction{0, func(_ *evaluator, v any, _ []any) (bool, error) { return f(v), nil }}
	}
	operator := func(name string) testFunction {
		return testFunction{1, func(e *evaluator, v any, a []any) (bool, error) { return e.compare(name, v, a[0]) }}
	}
	parity := func(rest int64) testFunction {
		return testFunction{0, func(e *evaluator, v any, _ []any) (bool, error) {
			r, err := e.arithmetic("%", v, int64(2))
			if err != nil {
				return false, err
			}
			return e.equal(r, rest, 0)
		}}
	}
	letters := func(f func(s string) bool) testFunction {
		return testFunction{0, func(e *evaluator, v any, _ []any) (bool, error) {
			s, err := e.str(v)
			return f(s), err
		}}
	}
	tests = map[string]testFunction{
		"defined":   is(func(v any) bool { _, ok := v.(undefined); return !ok }),
		"undefined": is(func(v any) bool { _, ok := v.(undefined); return ok }),
		"none":      is(func(v any) bool { return v == nil }),
		"boolean":   is(func(v any) bool { _, ok := v.(bool); return ok }),
		"true":      is(func(v any) bool { return v == true }),
		"false":     is(func(v any) bool { return v == false }),
		"integer":   is(func(v any) bool { return typeName(v) == "an integer" }),
		"float":     is(func(v any) bool { _, ok := v.(float64); return ok }),
		"number": is(func(v any) bool {
			_, big := v.(bigNumber)
			_, _, _, ok := number(v)
			return ok || big
		}),
		"string":  is(func(v any) bool { _, ok := v.(string); return ok }),
		"mapping": is(func(v any) bool { _, ok := v.(*Dict); return ok }),
		"sequence": is(func(v any) bool {
			switch v.(type) {
			case string, *List, *Dict, undefined:
				return true
			}
			return false
		}),
		"iterable": is(func(v any) bool {
			switch v.(type) {
			case string, *List, *Dict, undefined:
				return true
			}
			return false
		}),
		"callable": is(func(v any) bool { _, ok := v.(*function); return ok }),
		"escaped":  is(func(v any) bool { return false }),
		"lower":    letters(func(s string) bool { return cased(s, unicode.IsLower, unicode.IsUpper) }),
		"upper":    letters(func(s string) bool { return cased(s, unicode.IsUpper, unicode.IsLower) }),
		"odd":      parity(1),
		"even":     parity(0),
		"divisibleby": {1, func(e *evaluator, v any, a []any) (bool, error) {
			r, err := e.arithmetic("%", v, a[0])
			if err != nil {
				return false, err
			}
			return e.equal(r, int64(0), 0)
		}},
		"sameas": {1, func(e *evaluator, v any, a []any) (bool, error) {
			if typeName(v) != typeName(a[0]) {
				return false, nil
			}
			switch v := v.(type) {
			case *List, *Dict, *namespace, *function, *loopState:
				return v == a[0], nil
			}
			return e.equal(v, a[0], 0)
		}},
		"filter": {0, func(_ *evaluator, v any, _ []any) (bool, error) {
			name, _ := v.(string)
			_, ok := filters[name]
			return ok, nil
		}},
		"test": {0, func(_ *evaluator, v any, _ []any) (bool, error) {
			name, _ := v.(string)
			_, ok := tests[name]
			return ok, nil
		}},
		"in": operator("in"),
	}
	for name, same := range map[string][]string{
		"==": {"eq", "equalto"}, "!=": {"ne"}, "<": {"lt", "lessthan"}, "<=": {"le"}, ">": {"gt", "greaterthan"}, ">=": {"ge"},
	} {
		tests[name] = operator(name)
		for _, s := range same {
			tests[s] = operator(name)
		}
	}
}

// cased says whether there are letters of one case and none of the other.
func cased(s string, want, not func(r rune) bool) bool {
	return strings.ContainsFunc(s, want) && !strings.ContainsFunc(s, func(r rune) bool { return not(r) || unicode.IsTitle(r) })
}

func (e *evaluator) applyTest(name string, v any, a callArguments) (bool, error) {
	t, ok := tests[name]
	if !ok {
		return false, fmt.Errorf("there is no test %q", name)
	}
	if len(a.keywords) > 0 {
		return false, errors.New("arguments of tests have no names")
	}
	if len(a.values) != t.arguments {
		return false, fmt.Errorf("test %s takes %d arguments, not %d", name, t.arguments, len(a.values))
	}
	return t.holds(e, v, a.values)
}
