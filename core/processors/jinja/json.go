package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonWriter writes values as Python's json.dumps does.
type jsonWriter struct {
	e         *evaluator
	b         []byte
	ascii     bool
	indented  bool
	indent    string
	separator string // of items
	colon     string
	sorted    bool
}

func (w *jsonWriter) value(v any, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	if len(w.b) > maxBytes {
		return errBytes
	}
	if err := w.e.scan(scanned / 4); err != nil { // one value may stand in many places
		return err
	}
	switch v := v.(type) {
	case nil:
		w.b = append(w.b, "null"...)
	case bool:
		w.b = fmt.Append(w.b, v)
	case string:
		w.string(v)
	case float64:
		w.b = append(w.b, jsonFloat(v)...)
	case int64, bigNumber:
		w.b = fmt.Append(w.b, v)
	case *List:
		return w.items('[', ']', len(v.items), depth, func(i int) error { return w.value(v.items[i], depth+1) })
	case *Dict:
		order := make([]int, v.Len())
		names := make([]string, v.Len())
		for i, key := range v.keys {
			order[i] = i
			switch k := key.(type) {
			case string:
				names[i] = k
			case nil:
				names[i] = "null"
			case float64:
				names[i] = jsonFloat(k)
			default:
				names[i] = fmt.Sprint(k)
			}
		}
		if w.sorted {
			var failed error
			slices.SortStableFunc(order, func(i, j int) int {
				c, err := w.e.order(v.keys[i], v.keys[j], 0)
				failed = errors.Join(failed, err)
				return c
			})
			if failed != nil {
				return failed
			}
		}
		return w.items('{', '}', v.Len(), depth, func(i int) error {
			w.string(names[order[i]])
			w.b = append(w.b, w.colon...)
			return w.value(v.values[order[i]], depth+1)
		})
	default:
		return fmt.Errorf("%s can't be written as JSON", typeName(v))
	}
	return nil
}

func (w *jsonWriter) items(open, end byte, n, depth int, item func(i int) error) error {
	w.b = append(w.b, open)
	for i := range n {
		if i > 0 {
			w.b = append(w.b, w.separator...)
		}
		w.line(depth + 1)
		if err := item(i); err != nil {
			return err
		}
	}
	if n > 0 {
		w.line(depth)
	}
	w.b = append(w.b, end)
	return nil
}

func (w *jsonWriter) line(depth int) {
	if w.indented {
		w.b = append(w.b, '\n')
		for range depth {
			w.b = append(w.b, w.indent...)
		}
	}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case math.IsNaN(f):
		return "NaN"
	}
	return formatFloat(f)
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

func (w *jsonWriter) string(s string) {
	w.b = append(w.b, '"')
	for _, r := range s {
		switch escape := jsonEscapes[r]; {
		case escape != "":
			w.b = append(w.b, escape...)
		case r < 0x20, w.ascii && 0x7f <= r && r < 0x10000 && r != 0x7f:
			w.b = fmt.Appendf(w.b, `\u%04x`, r)
		case w.ascii && r >= 0x10000:
			high, low := utf16.EncodeRune(r)
			w.b = fmt.Appendf(w.b, `\u%04x\u%04x`, high, low)
		default:
			w.b = utf8.AppendRune(w.b, r)
		}
	}
	w.b = append(w.b, '"')
}

// toJSON is the filter of that name, as transformers has it: nothing is escaped for HTML.
func toJSON(e *evaluator, input any, a []any) (any, error) {
	w := &jsonWriter{e: e, ascii: truth(given(a[0], false)), separator: ", ", colon: ": ", sorted: truth(given(a[3], false))}
	switch indent := given(a[1], nil).(type) {
	case nil:
	case string:
		w.indented, w.indent = true, indent
	default:
		n, _, isInt, _ := number(indent)
		if !isInt || n > 1000 {
			return nil, fmt.Errorf("%s is no indent", typeName(indent))
		}
		w.indented, w.indent = true, strings.Repeat(" ", int(max(n, 0)))
	}
	if w.indented {
		w.separator = ","
	}
	if pair, ok := given(a[2], nil).(*List); ok {
		if len(pair.items) != 2 {
			return nil, errors.New("separators are two strings")
		}
		var first, second bool
		w.separator, first = pair.items[0].(string)
		w.colon, second = pair.items[1].(string)
		if !first || !second {
			return nil, errors.New("separators are two strings")
		}
	} else if v := given(a[2], nil); v != nil {
		return nil, fmt.Errorf("separators are two strings, not %s", typeName(v))
	}
	if err := w.value(input, 0); err != nil {
		return nil, err
	}
	return string(w.b), e.grow(len(w.b))
}
