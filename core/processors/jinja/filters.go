package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// absent stands for an argument that was not given.
type absent struct{}

// given returns an argument, or its default.
func given(v, otherwise any) any {
	if _, ok := v.(absent); ok {
		return otherwise
	}
	return v
}

// bind brings arguments into the order of parameters, of which the first so many are required.
func bind(a callArguments, required int, parameters []string) ([]any, error) {
	if len(a.values) > len(parameters) {
		return nil, fmt.Errorf("%d arguments, but only %d are taken", len(a.values), len(parameters))
	}
	bound := make([]any, len(parameters))
	for i := range bound {
		bound[i] = absent{}
	}
	copy(bound, a.values)
	for _, k := range a.keywords {
		i := slices.Index(parameters, k.name)
		if i < 0 {
			return nil, fmt.Errorf("there is no parameter %s", k.name)
		}
		if i < len(a.values) {
			return nil, fmt.Errorf("argument %s is given twice", k.name)
		}
		bound[i] = k.value
	}
	for i, v := range bound[:required] {
		if _, missing := v.(absent); missing {
			return nil, fmt.Errorf("argument %s is missing", parameters[i])
		}
	}
	return bound, nil
}

// transform is a filter or a method: it makes one value of another.
type transform struct {
	required   int
	parameters []string
	apply      func(e *evaluator, v any, a []any) (any, error)
	// free is there instead where any arguments are taken, or they are another filter's or a test's.
	free func(e *evaluator, v any, a callArguments) (any, error)
}

// of applies t; name is for its errors.
func (t *transform) of(e *evaluator, v any, a callArguments, name string) (any, error) {
	if s, ok := v.(string); ok {
		if err := e.scan(len(s)); err != nil {
			return nil, err
		}
	}
	if t.free != nil {
		return t.free(e, v, a)
	}
	bound, err := bind(a, t.required, t.parameters)
	if err == nil {
		v, err = t.apply(e, v, bound)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func (e *evaluator) filter(f *filter, input any, s *scope) (any, error) {
	a, err := e.arguments(&f.arguments, s)
	if err != nil {
		return nil, err
	}
	return e.applyFilter(f.name, input, a)
}

func (e *evaluator) applyFilter(name string, v any, a callArguments) (any, error) {
	f, ok := filters[name]
	if !ok {
		return nil, fmt.Errorf("there is no filter %q", name)
	}
	return f.of(e, v, a, "filter "+name)
}

var filters map[string]transform

func init() {
	text := func(f func(s string) any) transform {
		return transform{apply: func(e *evaluator, v any, _ []any) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return f(s), e.grow(len(s))
		}}
	}
	count := transform{apply: func(_ *evaluator, v any, _ []any) (any, error) {
		n, err := length(v)
		return int64(n), err
	}}
	otherwise := transform{0, []string{"default_value", "boolean"}, func(_ *evaluator, v any, a []any) (any, error) {
		if _, ok := v.(undefined); ok || truth(given(a[1], false)) && !truth(v) {
			return given(a[0], ""), nil
		}
		return v, nil
	}, nil}
	escape := text(func(s string) any {
		return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(s)
	})
	extreme := func(sign int) transform {
		return transform{0, []string{"case_sensitive", "attribute"}, func(e *evaluator, v any, a []any) (any, error) {
			items, err := e.elements(v)
			if err != nil || len(items) == 0 {
				return undefined{"there are no items"}, err
			}
			keys, err := e.keys(items, given(a[1], nil), truth(given(a[0], false)))
			if err != nil {
				return nil, err
			}
			best := 0
			for i := range items {
				order, err := e.order(keys[i], keys[best], 0)
				if err != nil {
					return nil, err
				}
				if order*sign > 0 {
					best = i
				}
			}
			return items[best], nil
		}, nil}
	}
	filters = map[string]transform{
		"abs": {apply: func(e *evaluator, v any, _ []any) (any, error) {
			if order, err := e.order(v, int64(0), 0); err != nil || order >= 0 {
				return v, err
			}
			return negate("-", v)
		}},
		"attr": {1, []string{"name"}, func(e *evaluator, v any, a []any) (any, error) {
			if _, mapping := v.(*Dict); mapping { // keys are no attributes
				v = newTuple()
			}
			return e.attribute(v, fmt.Sprint(a[0]))
		}, nil},
		"batch":      {1, []string{"linecount", "fill_with"}, batch, nil},
		"capitalize": text(func(s string) any { return capitalize(s) }),
		"center": {0, []string{"width"}, func(e *evaluator, v any, a []any) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return callMethod(e, s, "center", given(a[0], int64(80)))
		}, nil},
		"count":      count,
		"d":          otherwise,
		"default":    otherwise,
		"dictsort":   {0, []string{"case_sensitive", "by", "reverse"}, dictsort, nil},
		"e":          escape,
		"escape":     escape,
		"first":      {apply: func(e *evaluator, v any, _ []any) (any, error) { return e.end(v, true) }},
		"float":      {0, []string{"default"}, toFloat, nil},
		"format":     {free: format},
		"groupby":    {1, []string{"attribute", "default", "case_sensitive"}, groupby, nil},
		"indent":     {0, []string{"width", "first", "blank"}, indent, nil},
		"int":        {0, []string{"default", "base"}, toInt, nil},
		"items":      {apply: items},
		"join":       {0, []string{"d", "attribute"}, join, nil},
		"last":       {apply: func(e *evaluator, v any, _ []any) (any, error) { return e.end(v, false) }},
		"length":     count,
		"list":       {apply: toList},
		"lower":      text(func(s string) any { return lower(s) }),
		"map":        {free: mapFilter},
		"max":        extreme(1),
		"min":        extreme(-1),
		"reject":     {free: func(e *evaluator, v any, a callArguments) (any, error) { return e.selected(v, a, false, false) }},
		"rejectattr": {free: func(e *evaluator, v any, a callArguments) (any, error) { return e.selected(v, a, true, false) }},
		"replace": {2, []string{"old", "new", "count"}, func(e *evaluator, v any, a []any) (any, error) {
			var s [3]string
			for i, v := range []any{v, a[0], a[1]} {
				var err error
				if s[i], err = e.str(v); err != nil {
					return nil, err
				}
			}
			return callMethod(e, s[0], "replace", s[1], s[2], given(a[2], nil))
		}, nil},
		"reverse": {apply: func(e *evaluator, v any, _ []any) (any, error) {
			back := int64(-1)
			if s, ok := v.(string); ok {
				v, err := sliced(s, nil, nil, &back)
				return v, errors.Join(err, e.grow(len(s)))
			}
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			return e.list(reversed(items))
		}},
		"round":      {0, []string{"precision", "method"}, round, nil},
		"safe":       text(func(s string) any { return s }),
		"select":     {free: func(e *evaluator, v any, a callArguments) (any, error) { return e.selected(v, a, false, true) }},
		"selectattr": {free: func(e *evaluator, v any, a callArguments) (any, error) { return e.selected(v, a, true, true) }},
		"slice":      {1, []string{"slices", "fill_with"}, slicesOf, nil},
		"sort":       {0, []string{"reverse", "case_sensitive", "attribute"}, sortFilter, nil},
		"string":     text(func(s string) any { return s }),
		"sum": {0, []string{"attribute", "start"}, func(e *evaluator, v any, a []any) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			sum := given(a[1], int64(0))
			for _, item := range items {
				if attribute := given(a[0], nil); attribute != nil {
					if item, err = e.path(item, attribute, nil); err != nil {
						return nil, err
					}
				}
				if sum, err = e.arithmetic("+", sum, item); err != nil {
					return nil, err
				}
			}
			return sum, nil
		}, nil},
		"title":  text(func(s string) any { return titleWords(s) }),
		"tojson": {0, []string{"ensure_ascii", "indent", "separators", "sort_keys"}, toJSON, nil},
		"trim": {0, []string{"chars"}, func(e *evaluator, v any, a []any) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return callMethod(e, s, "strip", given(a[0], nil))
		}, nil},
		"truncate": {0, []string{"length", "killwords", "end", "leeway"}, truncate, nil},
		"unique": {0, []string{"case_sensitive", "attribute"}, func(e *evaluator, v any, a []any) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			keys, err := e.keys(items, given(a[1], nil), truth(given(a[0], false)))
			if err != nil {
				return nil, err
			}
			seen := NewDict()
			var once []any
			for i, item := range items {
				if !hashable(keys[i]) {
					return nil, fmt.Errorf("%s can't be a key", typeName(keys[i]))
				}
				if _, ok := seen.Get(keys[i]); !ok {
					seen.Set(keys[i], true)
					once = append(once, item)
				}
			}
			return e.list(once)
		}, nil},
		"upper": text(func(s string) any { return upper(s) }),
		"wordcount": text(func(s string) any {
			return int64(len(strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) && r != '_' })))
		}),
	}
}

func indent(e *evaluator, v any, a []any) (any, error) {
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	by, ok := given(a[0], int64(4)).(string)
	if !ok {
		n, err := size(given(a[0], int64(4)), 0)
		if err != nil {
			return nil, err
		}
		if n > 1000 {
			return nil, errors.New("it is more than 1000")
		}
		by = strings.Repeat(" ", n)
	}
	lines := splitLines(s+"\n", false)
	if err := e.grow(len(s) + len(by)*len(lines)); err != nil {
		return nil, err
	}
	for i, line := range lines {
		if i > 0 && (line != "" || truth(given(a[2], false))) || i == 0 && truth(given(a[1], false)) {
			lines[i] = by + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

func truncate(e *evaluator, v any, a []any) (any, error) {
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	end, err := e.str(given(a[2], "..."))
	if err != nil {
		return nil, err
	}
	n, err := size(given(a[0], int64(255)), int64(utf8.RuneCountInString(end)))
	if err != nil {
		return nil, err
	}
	leeway, err := size(given(a[3], int64(5)), 0)
	if err != nil {
		return nil, err
	}
	runes := []rune(s)
	if err := e.grow(len(s)); err != nil || len(runes) <= n+leeway {
		return s, err
	}
	head := string(runes[:n-utf8.RuneCountInString(end)])
	if !truth(given(a[1], false)) {
		if i := strings.LastIndexByte(head, ' '); i >= 0 {
			head = head[:i]
		}
	}
	return head + end, nil
}
