package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// changing are methods that change what they belong to. As in transformers, templates don't have them.
var changing = []string{
	"append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update",
}

var stringMethods, listMethods, dictMethods map[string]transform

// methodOf returns a method, or nil.
func methodOf(self any, name string) *function {
	var methods map[string]transform
	switch self.(type) {
	case string:
		methods = stringMethods
	case *List:
		methods = listMethods
	case *Dict:
		methods = dictMethods
	}
	m, ok := methods[name]
	if !ok {
		return nil
	}
	return &function{name: name, call: func(e *evaluator, _ position, a callArguments) (any, error) {
		return m.of(e, self, a, name)
	}}
}

// callMethod calls a method of a string.
func callMethod(e *evaluator, s, name string, arguments ...any) (any, error) {
	m := stringMethods[name]
	bound, err := bind(callArguments{values: arguments}, m.required, m.parameters)
	if err != nil {
		return nil, err
	}
	return m.apply(e, s, bound)
}

func init() {
	// text is a method without arguments.
	text := func(f func(s string) any) transform {
		return transform{apply: func(e *evaluator, self any, _ []any) (any, error) {
			s := self.(string)
			return f(s), e.grow(len(s))
		}}
	}
	// all holds for strings that are not empty and whose characters are all of a kind.
	all := func(is func(r rune) bool) transform {
		return text(func(s string) any { return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !is(r) }) })
	}
	strip := func(trim func(s string, in func(r rune) bool) string) transform {
		return transform{0, []string{"chars"}, func(e *evaluator, self any, a []any) (any, error) {
			in := isSpace
			switch chars := given(a[0], nil).(type) {
			case nil:
			case string:
				in = func(r rune) bool { return strings.ContainsRune(chars, r) }
			default:
				return nil, fmt.Errorf("the characters are %s", typeName(chars))
			}
			return trim(self.(string), in), nil
		}, nil}
	}
	// find looks for a part between two characters.
	find := func(find func(s, part string) int, must bool) transform {
		return transform{1, []string{"sub", "start", "end"}, func(e *evaluator, self any, a []any) (any, error) {
			s, skipped, err := between(self.(string), a[1], a[2])
			if err != nil {
				return nil, err
			}
			part, err := asString(a[0])
			if err != nil {
				return nil, err
			}
			i := find(s, part)
			if i < 0 {
				if must {
					return nil, errors.New("it is not there")
				}
				return int64(-1), nil
			}
			return int64(skipped + utf8.RuneCountInString(s[:i])), nil
		}, nil}
	}
	affix := func(has func(s, part string) bool) transform {
		return transform{1, []string{"prefix", "start", "end"}, func(e *evaluator, self any, a []any) (any, error) {
			s, _, err := between(self.(string), a[1], a[2])
			if err != nil {
				return nil, err
			}
			parts := []any{a[0]}
			if l, ok := a[0].(*List); ok && l.tuple {
				parts = l.items
			}
			for _, p := range parts {
				part, err := asString(p)
				if err != nil {
					return nil, err
				}
				if has(s, part) {
					return true, nil
				}
			}
			return false, nil
		}, nil}
	}
	remove := func(cut func(s, part string) string) transform {
		return transform{1, []string{"part"}, func(e *evaluator, self any, a []any) (any, error) {
			part, err := asString(a[0])
			return cut(self.(string), part), err
		}, nil}
	}
	partition := func(find func(s, part string) int, last bool) transform {
		return transform{1, []string{"sep"}, func(e *evaluator, self any, a []any) (any, error) {
			s := self.(string)
			sep, err := asString(a[0])
			if err != nil {
				return nil, err
			}
			if sep == "" {
				return nil, errors.New("the separator is empty")
			}
			switch i := find(s, sep); {
			case i >= 0:
				return newTuple(s[:i], sep, s[i+len(sep):]), nil
			case last:
				return newTuple("", "", s), nil
			}
			return newTuple(s, "", ""), nil
		}, nil}
	}
	pad := func(shares func(missing, width int) (left, right int)) transform {
		return transform{1, []string{"width", "fillchar"}, func(e *evaluator, self any, a []any) (any, error) {
			s := self.(string)
			fill, err := asString(given(a[1], " "))
			if err != nil || utf8.RuneCountInString(fill) != 1 {
				return nil, errors.New("it fills with one character")
			}
			width, _, isInt, _ := number(a[0])
			if !isInt {
				return nil, fmt.Errorf("the width is %s", typeName(a[0]))
			}
			missing := int(min(max(width-int64(utf8.RuneCountInString(s)), 0), maxBytes))
			if err := e.grow(len(s) + missing*len(fill)); err != nil {
				return nil, err
			}
			left, right := shares(missing, int(min(width, maxBytes)))
			return strings.Repeat(fill, left) + s + strings.Repeat(fill, right), nil
		}, nil}
	}
	stringMethods = map[string]transform{
		"capitalize": text(func(s string) any { return capitalize(s) }),
		"casefold":   text(func(s string) any { return lower(s) }),
		"center":     pad(func(n, width int) (int, int) { left := n/2 + n&width&1; return left, n - left }),
		"count": {1, []string{"sub", "start", "end"}, func(e *evaluator, self any, a []any) (any, error) {
			s, _, err := between(self.(string), a[1], a[2])
			if err != nil {
				return nil, err
			}
			part, err := asString(a[0])
			return int64(strings.Count(s, part)), err
		}, nil},
		"endswith":  affix(strings.HasSuffix),
		"find":      find(strings.Index, false),
		"format":    {free: formatMethod},
		"index":     find(strings.Index, true),
		"isalnum":   all(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isalpha":   all(unicode.IsLetter),
		"isascii":   text(func(s string) any { return len(s) == utf8.RuneCountInString(s) }),
		"isdecimal": all(unicode.IsDigit),
		"isdigit":   all(unicode.IsDigit),
		"islower":   text(func(s string) any { return cased(s, unicode.IsLower, unicode.IsUpper) }),
		"isnumeric": all(unicode.IsNumber),
		"isspace":   all(isSpace),
		"istitle":   text(func(s string) any { return strings.ContainsFunc(s, unicode.IsLetter) && s == title(s) }),
		"isupper":   text(func(s string) any { return cased(s, unicode.IsUpper, unicode.IsLower) }),
		"join": {1, []string{"iterable"}, func(e *evaluator, self any, a []any) (any, error) {
			items, err := e.elements(a[0])
			if err != nil {
				return nil, err
			}
			for _, item := range items {
				if _, err := asString(item); err != nil {
					return nil, err
				}
			}
			return join(e, a[0], []any{self, absent{}})
		}, nil},
		"ljust":        pad(func(n, _ int) (int, int) { return 0, n }),
		"lower":        text(func(s string) any { return lower(s) }),
		"lstrip":       strip(strings.TrimLeftFunc),
		"partition":    partition(strings.Index, false),
		"removeprefix": remove(strings.TrimPrefix),
		"removesuffix": remove(strings.TrimSuffix),
		"replace": {2, []string{"old", "new", "count"}, func(e *evaluator, self any, a []any) (any, error) {
			s := self.(string)
			old, err := asString(a[0])
			if err != nil {
				return nil, err
			}
			by, err := asString(a[1])
			if err != nil {
				return nil, err
			}
			count, err := times(given(a[2], nil))
			if err != nil {
				return nil, err
			}
			n := strings.Count(s, old)
			if count >= 0 {
				n = min(n, count)
			}
			if len(by) > 0 && n > maxBytes/len(by) {
				return nil, errBytes
			}
			return strings.Replace(s, old, by, count), e.grow(len(s) + n*len(by))
		}, nil},
		"rfind":      find(strings.LastIndex, false),
		"rindex":     find(strings.LastIndex, true),
		"rjust":      pad(func(n, _ int) (int, int) { return n, 0 }),
		"rpartition": partition(strings.LastIndex, true),
		"rsplit":     {0, []string{"sep", "maxsplit"}, func(e *evaluator, self any, a []any) (any, error) { return split(e, self.(string), a, true) }, nil},
		"rstrip":     strip(strings.TrimRightFunc),
		"split":      {0, []string{"sep", "maxsplit"}, func(e *evaluator, self any, a []any) (any, error) { return split(e, self.(string), a, false) }, nil},
		"splitlines": {0, []string{"keepends"}, func(e *evaluator, self any, a []any) (any, error) {
			var lines []any
			for _, line := range splitLines(self.(string), truth(given(a[0], false))) {
				lines = append(lines, line)
			}
			return e.list(lines)
		}, nil},
		"startswith": affix(strings.HasPrefix),
		"strip":      strip(strings.TrimFunc),
		"swapcase": text(func(s string) any {
			return strings.Map(func(r rune) rune {
				if unicode.IsUpper(r) {
					return unicode.ToLower(r)
				}
				return unicode.ToUpper(r)
			}, s)
		}),
		"title": text(func(s string) any { return title(s) }),
		"upper": text(func(s string) any { return upper(s) }),
		"zfill": {1, []string{"width"}, func(e *evaluator, self any, a []any) (any, error) {
			s := self.(string)
			sign := ""
			if s != "" && (s[0] == '-' || s[0] == '+') {
				sign, s = s[:1], s[1:]
			}
			width, _, isInt, _ := number(a[0])
			if !isInt {
				return nil, fmt.Errorf("the width is %s", typeName(a[0]))
			}
			v, err := callMethod(e, s, "rjust", width-int64(len(sign)), "0")
			if err != nil {
				return nil, err
			}
			return sign + v.(string), nil
		}, nil},
	}
	listMethods = map[string]transform{
		"copy": {apply: func(_ *evaluator, self any, _ []any) (any, error) { return self, nil }},
		"count": {1, []string{"value"}, func(e *evaluator, self any, a []any) (any, error) {
			n := int64(0)
			for _, item := range self.(*List).items {
				same, err := e.equal(item, a[0], 0)
				if err != nil {
					return nil, err
				}
				if same {
					n++
				}
			}
			return n, nil
		}, nil},
		"index": {1, []string{"value"}, func(e *evaluator, self any, a []any) (any, error) {
			for i, item := range self.(*List).items {
				if same, err := e.equal(item, a[0], 0); same || err != nil {
					return int64(i), err
				}
			}
			return nil, errors.New("it is not there")
		}, nil},
	}
	dictMethods = map[string]transform{
		"copy": {apply: func(_ *evaluator, self any, _ []any) (any, error) { return self, nil }},
		"get": {1, []string{"key", "default"}, func(e *evaluator, self any, a []any) (any, error) {
			if !hashable(a[0]) {
				return nil, fmt.Errorf("%s can't be a key", typeName(a[0]))
			}
			if v, ok := self.(*Dict).Get(a[0]); ok {
				return v, nil
			}
			return given(a[1], nil), nil
		}, nil},
		"items":  {apply: items},
		"keys":   {apply: func(_ *evaluator, self any, _ []any) (any, error) { return NewList(self.(*Dict).keys...), nil }},
		"values": {apply: func(_ *evaluator, self any, _ []any) (any, error) { return NewList(self.(*Dict).values...), nil }},
	}
}

func asString(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		if u, missing := v.(undefined); missing {
			return "", errors.New(u.what)
		}
		return "", fmt.Errorf("a string is wanted, not %s", typeName(v))
	}
	return s, nil
}

// times returns how often something is done at most, -1 for no bound.
func times(v any) (int, error) {
	if v == nil {
		return -1, nil
	}
	n, _, isInt, _ := number(v)
	if !isInt {
		return 0, fmt.Errorf("a number is wanted, not %s", typeName(v))
	}
	return int(min(max(n, -1), maxBytes)), nil
}

// between returns the part of a string from one character to another, and how many come before.
func between(s string, start, end any) (part string, before int, err error) {
	var limits [2]*int64
	for i, v := range []any{given(start, nil), given(end, nil)} {
		if v == nil {
			continue
		}
		n, _, isInt, _ := number(v)
		if !isInt {
			return "", 0, fmt.Errorf("a number is wanted, not %s", typeName(v))
		}
		limits[i] = &n
	}
	if limits == [2]*int64{} {
		return s, 0, nil
	}
	before, _, _, err = bounds(utf8.RuneCountInString(s), limits[0], limits[1], nil)
	if err != nil {
		return "", 0, err
	}
	v, err := sliced(s, limits[0], limits[1], nil)
	if err != nil {
		return "", 0, err
	}
	return v.(string), before, nil
}

// split splits at a separator, or at white space where there is none, at most so often, from the left or the right.
func split(e *evaluator, s string, a []any, right bool) (any, error) {
	most, err := times(given(a[1], nil))
	if err != nil {
		return nil, err
	}
	var parts []string
	if sep := given(a[0], nil); sep != nil {
		at, err := asString(sep)
		if err != nil {
			return nil, err
		}
		if at == "" {
			return nil, errors.New("the separator is empty")
		}
		parts = splitAt(s, most, right, func(s string) (int, int) {
			i := strings.Index(s, at)
			if right {
				i = strings.LastIndex(s, at)
			}
			return i, i + len(at)
		})
	} else {
		s = strings.TrimFunc(s, isSpace)
		if s == "" {
			return NewList(), nil
		}
		parts = splitAt(s, most, right, func(s string) (int, int) {
			if right {
				i := strings.LastIndexFunc(s, isSpace)
				if i < 0 {
					return -1, -1
				}
				_, n := utf8.DecodeRuneInString(s[i:])
				return len(strings.TrimRightFunc(s[:i], isSpace)), i + n
			}
			i := strings.IndexFunc(s, isSpace)
			if i < 0 {
				return -1, -1
			}
			return i, len(s) - len(strings.TrimLeftFunc(s[i:], isSpace))
		})
	}
	list := NewList()
	for _, p := range parts {
		list.items = append(list.items, p)
	}
	return list, e.grow(slot * len(parts))
}

func splitAt(s string, most int, right bool, find func(s string) (start, end int)) []string {
	var parts []string
	for most < 0 || len(parts) < most {
		start, end := find(s)
		if start < 0 {
			break
		}
		if right {
			parts, s = append(parts, s[end:]), s[:start]
		} else {
			parts, s = append(parts, s[:start]), s[end:]
		}
	}
	parts = append(parts, s)
	if right {
		slices.Reverse(parts)
	}
	return parts
}

// splitLines splits where Python sees the end of a line.
func splitLines(s string, keep bool) []string {
	var lines []string
	for start, i := 0, 0; i < len(s) || start < len(s); {
		if i == len(s) {
			return append(lines, s[start:])
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		end := i
		i += n
		switch r {
		case '\r':
			if strings.HasPrefix(s[i:], "\n") {
				i++
			}
		case '\n', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
		default:
			continue
		}
		if keep {
			end = i
		}
		lines = append(lines, s[start:end])
		start = i
	}
	return lines
}
