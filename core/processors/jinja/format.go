package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// layout is how a value is written: what stands between % or : and the letter for its kind.
type layout struct {
	fill      rune
	align     byte // < > ^ =, or 0
	sign      byte // + or space, or 0
	alternate bool // 0x and the like
	width     int
	comma     bool
	precision int  // -1 where none is given
	kind      byte // or 0
}

const maxWidth = 10000

// natural reads digits. n is how many bytes they take.
func natural(s string) (v, n int, err error) {
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n == 0 {
		return 0, 0, nil
	}
	v, err = strconv.Atoi(s[:n])
	if err != nil || v > maxWidth {
		return 0, 0, fmt.Errorf("a width or precision is more than %d", maxWidth)
	}
	return v, n, nil
}

// write writes a value that is already text, or a number of the layout's kind.
func (l layout) write(v any) (string, error) {
	i, f, isInt, ok := number(v)
	var s, prefix string
	isNumber := true
	switch l.kind {
	case 'd', 'x', 'X', 'o', 'b':
		if !ok || !isInt {
			return "", fmt.Errorf("%s is not an integer", typeName(v))
		}
		base := map[byte]int{'d': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[l.kind]
		s = strconv.FormatInt(i, base)
		if l.kind == 'X' {
			s = strings.ToUpper(s)
		}
		if l.alternate && base != 10 {
			prefix = "0" + string(l.kind)
		}
	case 'f', 'F', 'e', 'E', 'g', 'G', '%':
		if !ok {
			return "", fmt.Errorf("%s is not a number", typeName(v))
		}
		precision := l.precision
		if precision < 0 {
			precision = 6
		}
		switch l.kind {
		case '%':
			s = strconv.FormatFloat(f*100, 'f', precision, 64) + "%"
		case 'g', 'G':
			s = fmt.Sprintf("%."+strconv.Itoa(max(precision, 1))+string(l.kind), f)
		case 'F':
			s = strconv.FormatFloat(f, 'f', precision, 64)
		default:
			s = strconv.FormatFloat(f, l.kind, precision, 64)
		}
	default:
		var isText bool
		if s, isText = v.(string); !isText {
			return "", fmt.Errorf("%s is not a string", typeName(v))
		}
		isNumber = false
		if l.precision >= 0 {
			if runes := []rune(s); len(runes) > l.precision {
				s = string(runes[:l.precision])
			}
		}
	}
	sign := ""
	if isNumber {
		if rest, negative := strings.CutPrefix(s, "-"); negative {
			sign, s = "-", rest
		} else if l.sign != 0 {
			sign = string(l.sign)
		}
		if l.comma {
			whole := len(s)
			if at := strings.IndexAny(s, ".e"); at >= 0 {
				whole = at
			}
			for at := whole - 3; at > 0; at -= 3 {
				s = s[:at] + "," + s[at:]
			}
		}
	}
	align := l.align
	if align == 0 {
		align = '<'
		if isNumber {
			align = '>'
		}
	}
	sign += prefix
	missing := max(0, l.width-utf8.RuneCountInString(sign+s))
	fill := func(n int) string { return strings.Repeat(string(l.fill), n) }
	switch align {
	case '<':
		return sign + s + fill(missing), nil
	case '^':
		return fill(missing/2) + sign + s + fill(missing-missing/2), nil
	case '=':
		return sign + fill(missing) + s, nil
	}
	return fill(missing) + sign + s, nil
}

// format is the filter of that name.
func format(e *evaluator, v any, a callArguments) (any, error) {
	s, err := e.str(v)
	if err != nil {
		return nil, err
	}
	if len(a.keywords) == 0 {
		return e.printf(s, newTuple(a.values...))
	}
	if len(a.values) > 0 {
		return nil, errors.New("filter format: arguments have names, or have none")
	}
	d := NewDict()
	for _, k := range a.keywords {
		d.Set(k.name, k.value)
	}
	return e.printf(s, d)
}

// printf is Python's % for strings.
func (e *evaluator) printf(s string, v any) (any, error) {
	values := []any{v}
	if t, ok := v.(*List); ok && t.tuple {
		values = t.items
	}
	named, _ := v.(*Dict)
	used := false // a mapping, by name
	next := func() (any, error) {
		if len(values) == 0 {
			return nil, errors.New("there are too few values to format")
		}
		v := values[0]
		values = values[1:]
		return v, nil
	}
	var b strings.Builder
	for {
		plain, rest, found := strings.Cut(s, "%")
		b.WriteString(plain)
		if !found {
			break
		}
		s = rest
		take := next
		if strings.HasPrefix(s, "(") {
			name, rest, closed := strings.Cut(s[1:], ")")
			if !closed || named == nil {
				return nil, errors.New("a name in % wants a mapping")
			}
			s, used = rest, true
			take = func() (any, error) {
				v, ok := named.Get(name)
				if !ok {
					return nil, fmt.Errorf("there is no value %s to format", name)
				}
				return v, nil
			}
		}
		l := layout{fill: ' ', align: '>', precision: -1}
	flags:
		for ; s != ""; s = s[1:] {
			switch s[0] {
			case '-':
				l.align = '<'
			case '0':
				if l.align != '<' {
					l.align, l.fill = '=', '0'
				}
			case '+', ' ':
				l.sign = s[0]
			case '#':
				l.alternate = true
			default:
				break flags
			}
		}
		var n int
		var err error
		if l.width, n, err = natural(s); err != nil {
			return nil, err
		}
		s = s[n:]
		if strings.HasPrefix(s, ".") {
			if l.precision, n, err = natural(s[1:]); err != nil {
				return nil, err
			}
			s = s[1+n:]
		}
		if s == "" {
			return nil, errors.New("a % at the end formats nothing")
		}
		kind := s[0]
		s = s[1:]
		if kind == '%' {
			b.WriteByte('%')
			continue
		}
		v, err := take()
		if err != nil {
			return nil, err
		}
		text, err := l.printed(e, kind, v)
		if err != nil {
			return nil, err
		}
		b.WriteString(text)
		if b.Len() > maxBytes {
			return nil, errBytes
		}
	}
	if len(values) > 0 && named == nil && !used {
		return nil, errors.New("there are too many values to format")
	}
	return b.String(), e.grow(b.Len())
}

// printed writes a value by the letter behind a %.
func (l layout) printed(e *evaluator, kind byte, v any) (string, error) {
	switch kind {
	case 's', 'r':
		var err error
		if kind == 'r' {
			var b []byte
			b, err = appendRepr(nil, v, 0)
			v = string(b)
		} else {
			v, err = e.str(v)
		}
		if err != nil {
			return "", err
		}
		if l.fill = ' '; l.align == '=' {
			l.align = '>'
		}
	case 'd', 'i', 'u':
		l.kind = 'd'
		if f, ok := v.(float64); ok {
			v = int64(f)
		}
	case 'x', 'X', 'o', 'e', 'E', 'f', 'F', 'g', 'G':
		l.kind = kind
	default:
		return "", fmt.Errorf("there is no format %%%c", kind)
	}
	return l.write(v)
}

// formatMethod is Python's str.format, with names and numbers for values, but nothing that leads into them.
func formatMethod(e *evaluator, self any, a callArguments) (any, error) {
	s := self.(string)
	var b strings.Builder
	next := 0
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		if i+1 < len(s) && s[i] == s[i+1] {
			b.WriteByte(s[i])
			s = s[i+2:]
			continue
		}
		field, rest, closed := strings.Cut(s[i+1:], "}")
		if s[i] == '}' || !closed || strings.Contains(field, "{") {
			return nil, errors.New("format: braces do not match, or are nested")
		}
		s = rest
		field, spec, _ := strings.Cut(field, ":")
		field, conversion, converted := strings.Cut(field, "!")
		if field == "" {
			field = strconv.Itoa(next)
			next++
		}
		v, err := argumentNamed(a, field)
		if err != nil {
			return nil, err
		}
		switch {
		case conversion == "r":
			var b []byte
			b, err = appendRepr(nil, v, 0)
			v = string(b)
		case conversion == "s":
			v, err = e.str(v)
		case converted:
			err = fmt.Errorf("format: there is no conversion !%s", conversion)
		}
		if err != nil {
			return nil, err
		}
		text, err := formatted(e, v, spec)
		if err != nil {
			return nil, fmt.Errorf("format: %w", err)
		}
		b.WriteString(text)
		if b.Len() > maxBytes {
			return nil, errBytes
		}
	}
	return b.String(), e.grow(b.Len())
}

func argumentNamed(a callArguments, name string) (any, error) {
	if i, err := strconv.Atoi(name); err == nil {
		if i < 0 || i >= len(a.values) {
			return nil, fmt.Errorf("format: there is no value %d", i)
		}
		return a.values[i], nil
	}
	for _, k := range a.keywords {
		if k.name == name {
			return k.value, nil
		}
	}
	return nil, fmt.Errorf("format: there is no value %s", name)
}

// formatted writes a value as the text behind the colon of a format's field says.
func formatted(e *evaluator, v any, spec string) (string, error) {
	l := layout{fill: ' ', precision: -1}
	if r, n := utf8.DecodeRuneInString(spec); n < len(spec) && n > 0 && strings.IndexByte("<>^=", spec[n]) >= 0 {
		l.fill, l.align, spec = r, spec[n], spec[n+1:]
	} else if spec != "" && strings.IndexByte("<>^=", spec[0]) >= 0 {
		l.align, spec = spec[0], spec[1:]
	}
	if spec != "" && (spec[0] == '+' || spec[0] == ' ' || spec[0] == '-') {
		if spec[0] != '-' {
			l.sign = spec[0]
		}
		spec = spec[1:]
	}
	if rest, ok := strings.CutPrefix(spec, "#"); ok {
		l.alternate, spec = true, rest
	}
	if strings.HasPrefix(spec, "0") && l.align == 0 {
		l.fill, l.align = '0', '='
	}
	var n int
	var err error
	if l.width, n, err = natural(spec); err != nil {
		return "", err
	}
	spec = spec[n:]
	if rest, ok := strings.CutPrefix(spec, ","); ok {
		l.comma, spec = true, rest
	}
	if strings.HasPrefix(spec, ".") {
		if l.precision, n, err = natural(spec[1:]); err != nil {
			return "", err
		}
		spec = spec[1+n:]
	}
	switch {
	case len(spec) == 1 && strings.Contains("sdxXobfFeEgG%", spec):
		l.kind = spec[0]
	case spec != "":
		return "", fmt.Errorf("%q is no format", spec)
	}
	_, isText := v.(string)
	_, _, isInt, isNumber := number(v)
	switch {
	case l.kind != 0 && l.kind != 's' || isText:
	case isInt && l.kind == 0 && l.precision < 0:
		if b, isBool := v.(bool); !isBool {
			l.kind = 'd'
		} else if v, err = e.str(b); err != nil {
			return "", err
		}
	case isNumber && l.kind == 0 && l.precision >= 0:
		l.kind = 'g'
	default:
		if v, err = e.str(v); err != nil {
			return "", err
		}
		if isNumber && l.align == 0 {
			l.align = '>'
		}
	}
	return l.write(v)
}
