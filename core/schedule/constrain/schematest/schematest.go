// Package schematest makes random JSON schemas, and judges texts by another's validator, for
// tests of those who hold texts to schemas.
package schematest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Random is a schema of any depth up to four, perhaps recursive, of which constrain.Compile
// takes most.
func Random(r *rand.Rand) json.RawMessage {
	schema, err := json.Marshal(schemas{r, r.IntN(3)}.whole())
	if err != nil {
		panic(err) // it is made of maps, lists and constants
	}
	return schema
}

// Compile returns what says what is wrong with a text by a schema (2020-12; formats are asserted).
func Compile(schema json.RawMessage) (validate func(text string) error, err error) {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(schema)))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		return nil, err
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		return nil, err
	}
	return func(text string) error {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return err
		}
		return s.Validate(v)
	}, nil
}

// schemas makes random ones.
type schemas struct {
	*rand.Rand
	defs int
}

type members = map[string]any

func (r schemas) pick(list ...string) string { return list[r.IntN(len(list))] }

func (r schemas) schema(depth int) any {
	if depth <= 0 {
		return r.scalar()
	}
	switch r.IntN(14) {
	case 0:
		return r.choose(any(true), any(members{}), any(members{"title": "anything"}))
	case 1:
		list := []any{}
		for range 1 + r.IntN(3) {
			list = append(list, r.schema(depth-1))
		}
		return members{"anyOf": list}
	case 2:
		return members{"oneOf": []any{r.tagged(depth-1, "a"), r.tagged(depth-1, "b"), members{"type": "null"}}}
	case 3:
		if r.defs > 0 {
			return members{"$ref": fmt.Sprintf("#/$defs/d%d", r.IntN(r.defs))}
		}
		return r.scalar()
	case 4:
		return members{"allOf": []any{r.object(depth - 1), r.object(depth - 1)}}
	case 5:
		o := r.object(depth - 1)
		o["anyOf"] = []any{members{"required": []any{"a"}}, members{"required": []any{"né\""}, "properties": members{"b": r.schema(depth - 1)}}}
		return o
	case 6, 7, 8:
		return r.array(depth - 1)
	case 9:
		return r.scalar()
	}
	return r.object(depth - 1)
}

func (r schemas) choose(list ...any) any { return list[r.IntN(len(list))] }

func (r schemas) tagged(depth int, tag string) any {
	o := r.object(depth)
	o["properties"].(members)["tag"] = members{"const": tag}
	o["required"] = append(o["required"].([]any), "tag")
	return o
}

func (r schemas) object(depth int) members {
	properties, required := members{}, []any{}
	for _, name := range []string{"a", "b", "ab", "né\"", ""} {
		if r.IntN(2) == 0 {
			properties[name] = r.schema(depth)
		}
		if r.IntN(4) == 0 {
			required = append(required, name)
		}
	}
	o := members{"type": "object", "properties": properties, "required": required}
	switch r.IntN(4) {
	case 0:
		o["additionalProperties"] = false
	case 1:
		o["additionalProperties"] = r.schema(depth - 1)
	}
	if r.IntN(4) == 0 {
		o["patternProperties"] = members{r.pick("^x", "b$", "^a.*c"): r.schema(depth - 1)}
	}
	return o
}

func (r schemas) array(depth int) any {
	a := members{"type": "array"}
	if r.IntN(3) > 0 {
		a["items"] = r.schema(depth)
	}
	if r.IntN(3) == 0 {
		a["prefixItems"] = []any{r.schema(depth), r.schema(depth)}
	}
	if r.IntN(3) == 0 {
		a["minItems"] = r.IntN(4)
	}
	if r.IntN(3) == 0 {
		a["maxItems"] = 1 + r.IntN(4)
	}
	return a
}

func (r schemas) scalar() any {
	switch r.IntN(9) {
	case 0:
		return members{"type": r.choose("null", "boolean", "string", "number", "integer")}
	case 1:
		return members{"enum": []any{1, "a\u2028", nil, true, 2.5, members{"k": []any{"<>&\n"}}, "abc"}, "type": r.choose("string", []any{"integer", "object", "null"}, "number")}
	case 2:
		s := members{"type": "string", "minLength": r.IntN(5)}
		if r.IntN(2) == 0 {
			s["maxLength"] = 2 + r.IntN(20)
		}
		return s
	case 3:
		return members{"type": "string", "pattern": r.pick(`^[a-zé-ü]{2,5}$`, `\d+\.\d`, `^(foo|bar)*$`, `^[^x]*$`, `\s\S`, `^\W?.\w$`, `[:А-я]|\\$`, `a|^b`, `^\p{L}\P{L}`)}
	case 4:
		return members{"type": "string", "format": r.pick("date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri")}
	case 5, 6:
		n := members{"type": r.choose("integer", "number", []any{"number", "null"})}
		lo := float64(r.IntN(2000)-1000) / float64(r.choose(1.0, 8.0, 1024.0).(float64))
		if r.IntN(4) > 0 {
			n[r.pick("minimum", "exclusiveMinimum")] = lo
		}
		if r.IntN(4) > 0 {
			n[r.pick("maximum", "exclusiveMaximum")] = lo + float64(r.IntN(300))/4
		}
		return n
	case 7:
		return members{"type": "string", "pattern": `^[a-f\n"]*$`, "minLength": r.IntN(3), "maxLength": 3 + r.IntN(5)}
	}
	return members{"const": r.choose("x", 17, 1.25, []any{1, nil}, members{"b": 1, "a": "\\"}, false)}
}

func (r schemas) whole() members {
	defs := members{}
	for i := range r.defs {
		defs[fmt.Sprintf("d%d", i)] = members{"anyOf": []any{r.scalar(), r.object(1 + r.IntN(2))}}
	}
	return members{"$defs": defs, "allOf": []any{r.schema(3)}}
}
