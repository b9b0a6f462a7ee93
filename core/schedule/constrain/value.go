package constrain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// value is a JSON value that keeps the order of names and the digits of numbers.
type value struct {
	kind  kind
	text  string   // of a string, or a number's or boolean's own
	names []string // of an object's members
	list  []value  // an array's items or an object's members
}

func (v value) member(name string) (value, bool) {
	for i, n := range v.names {
		if n == name {
			return v.list[i], true
		}
	}
	return value{}, false
}

const (
	maxSchemaBytes = 1 << 20
	maxSchemaDepth = 128
)

// parseValue reads a schema's text.
func parseValue(raw json.RawMessage) (value, error) {
	switch {
	case len(raw) > maxSchemaBytes:
		return value{}, &SchemaError{"#", fmt.Sprintf("%d bytes, more than the %d allowed", len(raw), maxSchemaBytes)}
	case !utf8.Valid(raw):
		return value{}, &SchemaError{"#", "not UTF-8"}
	case loneSurrogate(raw):
		return value{}, &SchemaError{"#", `a string has half of a pair of surrogates (\ud800 to \udfff), which is no character`}
	}
	var whole json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		return value{}, &SchemaError{"#", "not JSON: " + err.Error()}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		err.Path = "#" + err.Path
		return value{}, err
	}
	return v, nil
}

// loneSurrogate finds an escape that decoders would replace.
func loneSurrogate(raw []byte) bool {
	unit := func(at int) (uint64, bool) {
		if at+6 > len(raw) || raw[at] != '\\' || raw[at+1] != 'u' {
			return 0, false
		}
		u, err := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16)
		return u, err == nil
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		u, ok := unit(i)
		switch {
		case !ok || u>>11 != 0xd800>>11:
			i++
		case u>>10 == 0xd800>>10:
			if low, ok := unit(i + 6); !ok || low>>10 != 0xdc00>>10 {
				return true
			}
			i += 11
		default:
			return true
		}
	}
	return false
}

// readValue reads one value. Paths of errors begin at it.
func readValue(d *json.Decoder, depth int) (value, *SchemaError) {
	if depth > maxSchemaDepth {
		return value{}, &SchemaError{"", fmt.Sprintf("nested more than %d deep", maxSchemaDepth)}
	}
	token, err := d.Token()
	if err != nil {
		return value{}, &SchemaError{"", "not JSON: " + err.Error()}
	}
	switch t := token.(type) {
	case nil:
		return value{kind: null, text: "null"}, nil
	case bool:
		return value{kind: boolean, text: strconv.FormatBool(t)}, nil
	case json.Number:
		if _, err := parseDecimal(t.String()); err != nil {
			return value{}, &SchemaError{"", err.Error()}
		}
		return value{kind: number, text: t.String()}, nil
	case string:
		return value{kind: text, text: t}, nil
	}
	v := value{kind: array}
	if token == json.Delim('{') {
		v.kind = object
	}
	seen := map[string]bool{}
	for d.More() {
		if v.kind == object {
			name, err := d.Token()
			if err != nil {
				return value{}, &SchemaError{"", "not JSON: " + err.Error()}
			}
			n := name.(string)
			if seen[n] {
				return value{}, &SchemaError{join("", n), "given twice"}
			}
			seen[n] = true
			v.names = append(v.names, n)
		}
		item, err := readValue(d, depth+1)
		if err != nil {
			name := strconv.Itoa(len(v.list))
			if v.kind == object {
				name = v.names[len(v.list)]
			}
			err.Path = join("", name) + err.Path
			return value{}, err
		}
		v.list = append(v.list, item)
	}
	if _, err := d.Token(); err != nil {
		return value{}, &SchemaError{"", "not JSON: " + err.Error()}
	}
	return v, nil
}

// join adds a name to a JSON pointer (RFC 6901).
func join(path, name string) string {
	return path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// append writes the value as constrained text has it: no spaces, characters as they are
// wherever JSON allows it.
func (v value) append(b []byte) []byte {
	switch v.kind {
	case text:
		return append(appendCharacters(append(b, '"'), v.text), '"')
	case array, object:
		open, end := byte('['), byte(']')
		if v.kind == object {
			open, end = '{', '}'
		}
		b = append(b, open)
		for i, item := range v.list {
			if i > 0 {
				b = append(b, ',')
			}
			if v.kind == object {
				b = append(appendCharacters(append(b, '"'), v.names[i]), '"', ':')
			}
			b = item.append(b)
		}
		return append(b, end)
	}
	return append(b, v.text...)
}

// appendCharacters writes a string's characters, in the one form that automata know.
func appendCharacters(b []byte, s string) []byte {
	for _, r := range s {
		if e := escape(r); e != "" {
			b = append(b, e...)
		} else {
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

// escape is how a character is written that can't stand in a string as it is.
func escape(r rune) string {
	switch r {
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	if r < 0x20 {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return ""
}

// key is the same text for values that JSON Schema holds equal: numbers by value, objects in any order.
func (v value) key() string { return string(v.appendKey(nil)) }

func (v value) appendKey(b []byte) []byte {
	switch v.kind {
	case number:
		d, _ := parseDecimal(v.text) // was checked when it was read
		return fmt.Append(b, d.negative, d.digits, "e", d.exponent)
	case array, object:
		members := make([]string, len(v.list))
		for i, item := range v.list {
			if v.kind == object {
				members[i] = strconv.Quote(v.names[i]) + ":"
			}
			members[i] += item.key()
		}
		open := byte('[')
		if v.kind == object {
			open = '{'
			slices.Sort(members)
		}
		b = append(b, open)
		for _, m := range members {
			b = append(append(b, m...), ',')
		}
		return append(b, '.')
	}
	return v.append(b)
}

// decimal is a number 0.digits * 10^exponent, exactly. Equal numbers are equal structs.
type decimal struct {
	negative bool
	digits   string // neither begins nor ends with 0; empty for zero
	exponent int
}

const maxExponent = 9999

func parseDecimal(s string) (decimal, error) {
	var d decimal
	s, d.negative = strings.TrimPrefix(s, "-"), strings.HasPrefix(s, "-")
	mantissa := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		e, err := strconv.Atoi(s[i+1:])
		if err != nil || e > maxExponent || e < -maxExponent {
			return d, problem(fmt.Sprintf("the number's exponent %.20s is not within ±%d", s[i+1:], maxExponent))
		}
		d.exponent = e
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	d.exponent += len(whole)
	digits := strings.TrimLeft(whole+fraction, "0")
	d.exponent -= len(whole) + len(fraction) - len(digits)
	if d.digits = strings.TrimRight(digits, "0"); d.digits == "" {
		return decimal{}, nil
	}
	return d, nil
}

func (d decimal) integer() bool { return len(d.digits) <= d.exponent }

// parts returns the digits before and after the point, "0" and "" for zero.
func (d decimal) parts() (whole, fraction string) {
	switch {
	case d.digits == "":
		return "0", ""
	case d.exponent <= 0:
		return "0", strings.Repeat("0", -d.exponent) + d.digits
	case d.integer():
		return d.digits + strings.Repeat("0", d.exponent-len(d.digits)), ""
	}
	return d.digits[:d.exponent], d.digits[d.exponent:]
}

// compare is -1 if d is less than e, 0 if equal, 1 if greater.
func (d decimal) compare(e decimal) int {
	if d.negative != e.negative {
		if d.negative {
			return -1
		}
		return 1
	}
	c := 0
	switch {
	case d == e:
		return 0
	case d.digits == "":
		c = -1
	case e.digits == "":
		c = 1
	case d.exponent != e.exponent:
		c = 1
		if d.exponent < e.exponent {
			c = -1
		}
	default:
		c = strings.Compare(d.digits, e.digits)
	}
	if d.negative {
		return -c
	}
	return c
}
