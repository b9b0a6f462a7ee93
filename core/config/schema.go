package config

import (
	stdbytes "bytes"
	"encoding/json"
	"reflect"
)

// schema is the part of JSON Schema 2020-12 that a configuration needs.
type schema struct {
	Schema      string      `json:"$schema,omitempty"`
	Title       string      `json:"title,omitempty"`
	Description string      `json:"description,omitempty"`
	Type        any         `json:"type,omitempty"` // a name, or several
	Enum        []string    `json:"enum,omitempty"`
	Pattern     string      `json:"pattern,omitempty"`
	Minimum     *int64      `json:"minimum,omitempty"`
	MinItems    *int64      `json:"minItems,omitempty"`
	Default     any         `json:"default,omitempty"`
	Properties  *properties `json:"properties,omitempty"`
	Required    []string    `json:"required,omitempty"`
	Additional  any         `json:"additionalProperties,omitempty"` // false, or a schema
	Items       *schema     `json:"items,omitempty"`
}

// properties keep the order of the struct, which encoding/json's maps do not.
type properties []property

type property struct {
	name   string
	schema *schema
}

func (p *properties) MarshalJSON() ([]byte, error) {
	var b stdbytes.Buffer
	b.WriteByte('{')
	for i, prop := range *p {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(prop.name)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(prop.schema)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(body)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Schema returns the JSON Schema (2020-12) of a configuration file or, with run,
// of a run file. Defaults are those of def.
func Schema(def Config, run bool) ([]byte, error) {
	var root *schema
	if run {
		root = runSpec.schema(reflect.ValueOf(runFile{Config: def, Run: defaultRun()}))
		root.Title = "Accel run file"
		root.Required = []string{"task", "model", "inputs"}
	} else {
		root = configSpec.schema(reflect.ValueOf(def))
		root.Title = "Accel configuration"
	}
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	return json.MarshalIndent(root, "", "  ")
}

const (
	durationPattern = `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$`
	bytesPattern    = `^[0-9]+(\.[0-9]+)? *([kKMGT]?B|[KMGT]iB)?$`
)

// schema describes a key. def is its default; the zero Value where it has none.
func (s *spec) schema(def reflect.Value) *schema {
	out := &schema{Description: s.doc}
	switch s.kind {
	case section:
		out.Type, out.Additional = []string{"object", "null"}, false
		out.Properties = &properties{}
		for _, f := range s.fields {
			var d reflect.Value
			if def.IsValid() {
				d = def.FieldByIndex(f.index)
			}
			*out.Properties = append(*out.Properties, property{f.name, f.schema(d)})
		}
	case table:
		out.Type, out.Additional = []string{"object", "null"}, s.elem.schema(reflect.Value{})
		if def.IsValid() && def.Len() > 0 {
			out.Default = def.Interface()
		}
	case list:
		out.Type, out.Items, out.MinItems = []string{"array", "null"}, s.elem.schema(reflect.Value{}), s.min
		if s.min != nil && *s.min > 0 {
			out.Type = "array"
		}
	case text, secret:
		out.Type, out.Enum = "string", s.enum
		if s.format != "" {
			out.Pattern = formats[s.format].pattern
		}
	case boolean:
		out.Type = "boolean"
	case integer:
		out.Type, out.Minimum = "integer", s.min
	case duration:
		out.Type, out.Pattern = "string", durationPattern
	case bytes:
		out.Type, out.Pattern, out.Minimum = []string{"integer", "string"}, bytesPattern, s.min
	}
	if def.IsValid() && !def.IsZero() && s.kind != section && s.kind != table {
		out.Default = shown(def)
	}
	return out
}
