package constrain

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// types is a set of JSON's types. Integers and other numbers are apart.
type types uint8

const (
	isNull types = 1 << iota
	isBoolean
	isInteger
	isFraction
	isString
	isArray
	isObject
	allTypes types = 1<<7 - 1
)

var typeNames = map[string]types{
	"null": isNull, "boolean": isBoolean, "integer": isInteger, "number": isInteger | isFraction,
	"string": isString, "array": isArray, "object": isObject,
}

// node is one schema. All of what is set has to hold.
type node struct {
	id    int32
	path  string
	never bool // the schema false
	own   *keywords
	also  []*node   // allOf, $ref
	some  [][]*node // each anyOf or oneOf: one of these
	one   *oneOf

	alternatives [][]*node // of nodes with own keywords; see expand.go
	state        uint8     // of their making
}

// oneOf is a oneOf whose branches must be shown to exclude each other, beside the schema
// they stand in.
type oneOf struct {
	path     string
	beside   *node
	branches []*node
}

// keywords are those of one schema that speak of the value itself.
type keywords struct {
	types              types
	enum               []value
	enumerated         map[string]bool // the keys of enum; nil: none
	lo, hi             *bound
	minLength          int64
	maxLength          int64 // < 0: any
	pattern, format    string
	minItems, maxItems int64
	prefix             []*node
	items              *node // nil: anything
	properties         []property
	index              map[string]int // into properties
	required           []string
	patterns           []property // the name is a pattern
	additional         *node      // nil: anything
}

type property struct {
	name   string
	schema *node
}

// annotations say nothing about what is valid.
var annotations = []string{
	"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$comment",
	"$anchor", "$defs", "definitions", "contentMediaType", "contentEncoding", "contentSchema", "externalDocs", "xml", "discriminator",
}

// reader makes nodes of a schema's value.
type reader struct {
	root    value
	made    int32
	byPath  map[string]*node
	waiting []reference
	budget  *budget
}

type reference struct {
	from *node
	to   string
	path string
}

func readSchema(root value, b *budget) (*reader, *node, error) {
	r := &reader{root: root, byPath: map[string]*node{}, budget: b}
	n, err := r.schema(root, "#")
	for len(r.waiting) > 0 && err == nil {
		ref := r.waiting[0]
		r.waiting = r.waiting[1:]
		var to *node
		if to, err = r.resolve(ref); err == nil {
			ref.from.also = append(ref.from.also, to)
		}
	}
	return r, n, err
}

// resolve finds what a $ref names: a JSON pointer within the schema.
func (r *reader) resolve(ref reference) (*node, error) {
	fragment, ok := strings.CutPrefix(ref.to, "#")
	pointer, err := url.PathUnescape(fragment)
	if !ok || err != nil || pointer != "" && pointer[0] != '/' {
		return nil, &SchemaError{ref.path, fmt.Sprintf("%.100q is not a reference within the schema like #/$defs/name; others are not supported", ref.to)}
	}
	at, path := r.root, "#"
	if pointer != "" {
		for _, name := range strings.Split(pointer[1:], "/") {
			name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
			next, found := at.member(name)
			if i, err := strconv.Atoi(name); at.kind == array && err == nil && i >= 0 && i < len(at.list) {
				next, found = at.list[i], true
			}
			if !found {
				return nil, &SchemaError{ref.path, fmt.Sprintf("%.100q leads nowhere: %s has no %.100q", ref.to, path, name)}
			}
			at, path = next, join(path, name)
		}
	}
	return r.schema(at, path)
}

func (r *reader) node(path string) *node {
	r.made++
	return &node{id: r.made, path: path}
}

func (r *reader) schema(v value, path string) (*node, error) {
	if n := r.byPath[path]; n != nil {
		return n, nil
	}
	if err := r.budget.spend(100 + 8*len(path)); err != nil {
		return nil, &SchemaError{"#", err.Error()}
	}
	n := r.node(path)
	r.byPath[path] = n
	switch {
	case v.kind == boolean:
		n.never = v.text == "false"
		return n, nil
	case v.kind != object:
		return nil, &SchemaError{path, fmt.Sprintf("%s, where a schema (an object, true or false) is wanted", v.kind)}
	}
	k := &keywords{types: allTypes, maxLength: -1, maxItems: -1}
	for i, name := range v.names {
		if err := r.keyword(n, k, name, v.list[i], join(path, name)); err != nil {
			return nil, err
		}
	}
	if k.types != allTypes || k.enumerated != nil || k.lo != nil || k.hi != nil || k.minLength > 0 || k.maxLength >= 0 || k.pattern != "" ||
		k.format != "" || k.minItems > 0 || k.maxItems >= 0 || len(k.prefix) > 0 || k.items != nil || len(k.properties) > 0 ||
		len(k.required) > 0 || len(k.patterns) > 0 || k.additional != nil {
		k.index = make(map[string]int, len(k.properties))
		for i, p := range k.properties {
			k.index[p.name] = i
		}
		n.own = k
	}
	if n.one != nil {
		// It stands before the branches, for the order of properties.
		n.one.beside = r.node(path)
		n.one.beside.id, n.id = n.id, n.one.beside.id
		n.one.beside.own, n.own = n.own, nil
		n.also = append(n.also, n.one.beside)
	}
	return n, nil
}

// keyword reads one keyword of a schema.
func (r *reader) keyword(n *node, k *keywords, name string, v value, path string) (err error) {
	wrong := func(want string) error {
		return &SchemaError{path, fmt.Sprintf("%s, where %s is wanted", v.kind, want)}
	}
	switch name {
	case "type":
		return readTypes(k, v, path)
	case "enum":
		if v.kind != array || len(v.list) == 0 {
			return &SchemaError{path, "an array of at least one value is wanted"}
		}
		k.restrict(v.list)
	case "const":
		k.restrict([]value{v})
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		if v.kind != number {
			return wrong("a number")
		}
		d, err := parseDecimal(v.text)
		if err != nil {
			return &SchemaError{path, err.Error()}
		}
		b := &bound{d, strings.HasPrefix(name, "exclusive")}
		if strings.HasSuffix(strings.ToLower(name), "minimum") {
			k.lo = tighter(k.lo, b, 1)
		} else {
			k.hi = tighter(k.hi, b, -1)
		}
	case "minLength":
		k.minLength, err = count(v, path)
	case "maxLength":
		k.maxLength, err = count(v, path)
	case "minItems":
		k.minItems, err = count(v, path)
	case "maxItems":
		k.maxItems, err = count(v, path)
	case "pattern", "format", "$ref", "$id":
		if v.kind != text {
			return wrong("a string")
		}
		switch {
		case name == "pattern":
			k.pattern = v.text
		case name == "format":
			if formats[v.text] != "" {
				k.format = v.text
			}
		case name == "$ref":
			r.waiting = append(r.waiting, reference{n, v.text, path})
		case n.path != "#":
			return &SchemaError{path, "schemas with an address of their own are not supported inside others"}
		}
	case "prefixItems":
		k.prefix, err = r.schemas(v, path)
	case "items":
		if v.kind == array {
			return &SchemaError{path, "a list of schemas is not supported here; say prefixItems"}
		}
		k.items, err = r.schema(v, path)
	case "properties":
		k.properties, err = r.properties(v, path)
	case "patternProperties":
		k.patterns, err = r.properties(v, path)
	case "additionalProperties":
		k.additional, err = r.schema(v, path)
	case "required":
		if v.kind != array {
			return wrong("an array of strings")
		}
		for _, item := range v.list {
			if item.kind != text {
				return wrong("an array of strings")
			}
			k.required = append(k.required, item.text)
		}
	case "allOf", "anyOf", "oneOf":
		list, err := r.schemas(v, path)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return &SchemaError{path, "an array of at least one schema is wanted"}
		}
		switch {
		case name == "allOf":
			n.also = append(n.also, list...)
		case name == "oneOf" && len(list) > 1:
			n.one = &oneOf{path: path, branches: list}
			fallthrough
		default:
			n.some = append(n.some, list)
		}
	default:
		return unsupported(name, v, path)
	}
	return err
}

// unsupported refuses keywords that would narrow what is valid.
func unsupported(name string, v value, path string) error {
	if slices.Contains(annotations, name) || strings.HasPrefix(name, "x-") {
		return nil
	}
	idle := false
	switch name {
	case "uniqueItems", "nullable":
		idle = v.kind == boolean && v.text == "false"
	case "minProperties", "minContains":
		idle = v.kind == number && v.text == "0"
	case "unevaluatedProperties", "unevaluatedItems", "propertyNames":
		idle = v.kind == boolean && v.text == "true" || v.kind == object && len(v.list) == 0
	case "dependentRequired", "dependentSchemas", "dependencies":
		idle = v.kind == object && len(v.list) == 0
	}
	if idle {
		return nil
	}
	hint := ""
	switch name {
	case "nullable":
		hint = `; say "type": [..., "null"]`
	case "additionalItems":
		hint = "; say prefixItems and items"
	}
	return &SchemaError{path, fmt.Sprintf("the keyword %.50q is not supported%s", name, hint)}
}

func (r *reader) schemas(v value, path string) ([]*node, error) {
	if v.kind != array {
		return nil, &SchemaError{path, fmt.Sprintf("%s, where an array of schemas is wanted", v.kind)}
	}
	list := make([]*node, 0, len(v.list))
	for i, item := range v.list {
		n, err := r.schema(item, fmt.Sprintf("%s/%d", path, i))
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

func (r *reader) properties(v value, path string) ([]property, error) {
	if v.kind != object {
		return nil, &SchemaError{path, fmt.Sprintf("%s, where an object of schemas is wanted", v.kind)}
	}
	list := make([]property, 0, len(v.list))
	for i, name := range v.names {
		n, err := r.schema(v.list[i], join(path, name))
		if err != nil {
			return nil, err
		}
		list = append(list, property{name, n})
	}
	return list, nil
}

func readTypes(k *keywords, v value, path string) error {
	list := []value{v}
	if v.kind == array {
		list = v.list
	}
	k.types = 0
	for _, item := range list {
		t, ok := typeNames[item.text]
		if item.kind != text || !ok {
			return &SchemaError{path, fmt.Sprintf("%.50q is no type; they are null, boolean, integer, number, string, array, object", item.text)}
		}
		k.types |= t
	}
	if k.types == 0 {
		return &SchemaError{path, "a type, or an array of at least one, is wanted"}
	}
	return nil
}

// restrict narrows the enumeration: enum and const may stand together.
func (k *keywords) restrict(list []value) {
	before := k.enumerated
	k.enum, k.enumerated = nil, map[string]bool{}
	for _, v := range list {
		key := v.key()
		if !k.enumerated[key] && (before == nil || before[key]) {
			k.enum, k.enumerated[key] = append(k.enum, v), true
		}
	}
}

// tighter is the narrower of two bounds: the greater one for side 1, the less for side -1.
func tighter(a, b *bound, side int) *bound {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	c := side * a.compare(b.decimal)
	if c < 0 || c == 0 && b.exclusive {
		return b
	}
	return a
}

// count reads a keyword's number of things. Nothing has 2^31 of them.
func count(v value, path string) (int64, error) {
	if v.kind == number {
		if d, err := parseDecimal(v.text); err == nil && d.integer() && !d.negative {
			whole, _ := d.parts()
			n, err := strconv.ParseInt(whole, 10, 64)
			if err != nil || n > math.MaxInt32 {
				n = math.MaxInt32
			}
			return n, nil
		}
	}
	return 0, &SchemaError{path, "a whole number, 0 or more, is wanted"}
}
