package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Setting is one effective value.
type Setting struct {
	Key    string `json:"key"`   // dotted
	Value  any    `json:"value"` // secrets as marks
	Origin Origin `json:"origin"`

	path keyPath
}

// Settings returns every effective value of the configuration, in the order of
// the sections and, in tables, of the names.
func (l *Loaded) Settings() []Setting {
	var out []Setting
	configSpec.walk(reflect.ValueOf(l.Config), nil, func(key keyPath, s *spec, v reflect.Value) {
		o := l.Origin(key.String())
		out = append(out, Setting{Key: key.String(), Value: shown(v), Origin: o, path: key})
	})
	return out
}

// shown returns a value as JSON and YAML say it. The encoders know secrets,
// bytes and durations by their own methods or, for durations, not at all.
func shown(v reflect.Value) any {
	switch v.Type() {
	case durationType, bytesType, secretType:
		return fmt.Sprint(v.Interface())
	}
	switch v.Kind() {
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = shown(v.Index(i))
		}
		return out
	case reflect.Map:
		return map[string]any{} // walk goes into those that are not empty
	}
	return v.Interface()
}

// WriteYAML writes the effective configuration as a YAML file that says, after
// each value, where it comes from.
func (l *Loaded) WriteYAML(w io.Writer) error {
	type line struct{ text, origin string }
	var lines []line
	var at keyPath
	width := 0
	for _, s := range l.Settings() {
		parents := s.path[:len(s.path)-1]
		same := 0
		for same < len(parents) && same < len(at) && parents[same] == at[same] {
			same++
		}
		for depth := same; depth < len(parents); depth++ {
			name, err := yamlKey(parents[depth])
			if err != nil {
				return err
			}
			lines = append(lines, line{text: strings.Repeat("  ", depth) + name + ":"})
		}
		at = parents
		name, err := yamlKey(s.path[len(s.path)-1])
		if err != nil {
			return err
		}
		// JSON in one line is YAML too, and needs no indentation of its own.
		value, err := json.Marshal(s.Value)
		if err != nil {
			return err
		}
		if text, ok := s.Value.(string); ok && text != "" {
			if value, err = yaml.Marshal(text); err != nil {
				return err
			}
			if strings.Count(string(value), "\n") > 1 {
				value, _ = json.Marshal(text)
			}
		}
		text := strings.Repeat("  ", len(parents)) + name + ": " + strings.TrimSpace(string(value))
		lines = append(lines, line{text, s.Origin.String()})
		width = max(width, min(len(text), 60))
	}
	var b strings.Builder
	for _, ln := range lines {
		if ln.origin == "" {
			b.WriteString(ln.text + "\n")
			continue
		}
		fmt.Fprintf(&b, "%-*s  # %s\n", width, ln.text, ln.origin)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func yamlKey(name string) (string, error) {
	b, err := yaml.Marshal(name)
	s := strings.TrimSpace(string(b))
	if strings.Contains(s, "\n") {
		b, err = json.Marshal(name)
		s = string(b)
	}
	return s, err
}
