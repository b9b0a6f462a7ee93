// Command protocoldoc writes the reference of the backend protocol, docs/protocol.md:
// what there is from the compiled description, what it means from the comments in
// backend.proto. `make generate` runs it:
//
//	protocoldoc accel/backend/v1/backend.proto > docs/protocol.md
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protocoldoc backend.proto")
		os.Exit(2)
	}
	source, err := os.ReadFile(os.Args[1])
	if err == nil {
		var text string
		if text, err = reference(string(source)); err == nil {
			_, err = os.Stdout.WriteString(text)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "protocoldoc:", err)
		os.Exit(1)
	}
}

var (
	opens  = regexp.MustCompile(`^(message|enum|service|oneof) (\w+) \{$`)
	method = regexp.MustCompile(`^rpc (\w+)\(`)
	member = regexp.MustCompile(`^(?:[\w.<>, ]+ )?(\w+) = \d+;(?:\s*//\s*(.*))?$`)
)

// comments are the comments of a proto file by full name, leading and trailing ones.
func comments(source string) (head string, by map[string]string) {
	by = map[string]string{}
	var scopes, block []string
	name := func(last string) string {
		var parts []string
		for _, s := range append(scopes, last) {
			if s != "" {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, ".")
	}
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "//"); ok {
			block = append(block, strings.TrimPrefix(text, " "))
			continue
		}
		said := strings.Join(block, "\n")
		if m := opens.FindStringSubmatch(line); m != nil {
			by[name(m[2])] = said
			if m[1] == "oneof" {
				m[2] = "" // its fields are the message's
			}
			scopes = append(scopes, m[2])
		} else if m := method.FindStringSubmatch(line); m != nil {
			by[name(m[1])] = said
		} else if m := member.FindStringSubmatch(line); m != nil {
			by[name(m[1])] = strings.TrimSpace(said + "\n" + m[2])
		} else if line == "}" && len(scopes) > 0 {
			scopes = scopes[:len(scopes)-1]
		} else if m := regexp.MustCompile(`^message (\w+) \{\}$`).FindStringSubmatch(line); m != nil {
			by[name(m[1])] = said
		} else if strings.HasPrefix(line, "syntax") {
			head = said
		}
		block = nil
	}
	return head, by
}

// writer makes the page.
type writer struct {
	strings.Builder
	said map[string]string
	used map[string]bool
}

func (w *writer) of(d protoreflect.Descriptor) string {
	name := strings.TrimPrefix(string(d.FullName()), string(d.ParentFile().Package())+".")
	if v, ok := d.(protoreflect.EnumValueDescriptor); ok { // whose full name leaves out the enum
		name = string(v.Parent().Name()) + "." + string(v.Name())
	}
	w.used[name] = true
	return w.said[name]
}

// reference is the page made of backend.proto's text.
func reference(source string) (string, error) {
	head, said := comments(source)
	file := backendv1.File_accel_backend_v1_backend_proto
	w := &writer{said: said, used: map[string]bool{}}
	fmt.Fprintf(w, "# The backend protocol: reference\n\nMade by `make generate` from [backend.proto](../sdk/proto/accel/backend/v1/backend.proto): change that.\n"+
		"[backends.md](backends.md) says how the parts work together.\n\n%s\n\n## Calls of `%s`\n\n| call | takes | answers | |\n|---|---|---|---|\n", head, file.Services().Get(0).FullName())
	methods := file.Services().Get(0).Methods()
	w.of(file.Services().Get(0))
	for i := range methods.Len() {
		m := methods.Get(i)
		stream := func(is bool, d protoreflect.MessageDescriptor) string {
			if is {
				return "stream of " + link(d)
			}
			return link(d)
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", m.Name(), stream(m.IsStreamingClient(), m.Input()), stream(m.IsStreamingServer(), m.Output()), cell(w.of(m)))
	}
	w.WriteString("\n## Messages\n")
	for i := range file.Messages().Len() {
		w.message(file.Messages().Get(i))
	}
	w.WriteString("\n## Words\n")
	for i := range file.Enums().Len() {
		e := file.Enums().Get(i)
		fmt.Fprintf(w, "\n### %s\n\n%s| | word | |\n|--:|---|---|\n", e.Name(), paragraph(w.of(e)))
		for k := range e.Values().Len() {
			v := e.Values().Get(k)
			fmt.Fprintf(w, "| %d | `%s` | %s |\n", v.Number(), v.Name(), cell(w.of(v)))
		}
	}
	for name, text := range said {
		if !w.used[name] && text != "" {
			return "", fmt.Errorf("backend.proto says something of %s, which the compiled description does not have; run `make generate`", name)
		}
	}
	return w.String(), nil
}

func (w *writer) message(m protoreflect.MessageDescriptor) {
	fmt.Fprintf(w, "\n### %s\n\n%s", m.Name(), paragraph(w.of(m)))
	if m.Fields().Len() == 0 {
		w.WriteString("It has no fields.\n")
		return
	}
	w.WriteString("| | field | type | |\n|--:|---|---|---|\n")
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		var kind string
		switch {
		case f.IsMap():
			kind = fmt.Sprintf("map of `%s` to `%s`", f.MapKey().Kind(), f.MapValue().Kind())
		case f.Message() != nil:
			kind = link(f.Message())
		case f.Enum() != nil:
			kind = link(f.Enum())
		default:
			kind = "`" + f.Kind().String() + "`"
		}
		if f.IsList() {
			kind = "list of " + kind
		}
		if o := f.ContainingOneof(); o != nil {
			kind += fmt.Sprintf(", one of `%s`", o.Name())
		}
		said := w.of(f)
		if o := f.ContainingOneof(); o != nil && o.Fields().Get(0) == f {
			said = strings.TrimSpace(w.of(o) + "\n" + said)
		}
		fmt.Fprintf(w, "| %d | `%s` | %s | %s |\n", f.Number(), f.Name(), kind, cell(said))
	}
}

func link(d protoreflect.Descriptor) string {
	return fmt.Sprintf("[%s](#%s)", d.Name(), strings.ToLower(string(d.Name())))
}

// cell is a comment in one line of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func paragraph(s string) string {
	if s == "" {
		return ""
	}
	return s + "\n\n"
}
