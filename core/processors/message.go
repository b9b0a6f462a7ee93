package processors

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/processors/jinja"
)

// Message is one of a conversation, in JSON as OpenAI's API has it (https://platform.openai.com/docs/api-reference/chat).
type Message struct {
	Role       string
	Content    *Content // nil: there is none
	Name       string
	ToolCalls  []ToolCall
	ToolCallID string // of the call that this is the result of
	Reasoning  string // "reasoning_content": thoughts before an answer
	// Extra are other fields, which a template may know.
	Extra map[string]json.RawMessage
}

// Content is what a message says: a text, or a list of parts.
type Content struct {
	Text  string
	Parts []Part // nil for a text
	Null  bool   // it is null in JSON
}

// TextContent returns a text as content.
func TextContent(text string) *Content { return &Content{Text: text} }

// Part is a part of a content: a text, a picture, a sound.
type Part struct {
	Type string // "text" and others
	Text string // of a part of type "text"
	// JSON is the whole part, nil if it is only a text.
	JSON json.RawMessage
}

// ToolCall is a model's wish that a function be called.
type ToolCall struct {
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type"` // "function"
	Function FunctionCall `json:"function"`
}

// FunctionCall names a function and its arguments.
type FunctionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // a JSON object, as text
}

// NewToolCallID returns a random id for a call. It has nine letters and digits, which is what Mistral's templates insist on.
func NewToolCallID() string { return rand.Text()[:9] }

// Tool is something that a model may call.
type Tool struct {
	Type     string // "function"
	Function Function
	json     json.RawMessage // as it came; templates see its keys in their order
}

// Function describes a function to a model.
type Function struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // a JSON schema
	Strict      *bool           `json:"strict,omitempty"`
}

// UnmarshalJSON reads a text, null, or a list of parts.
func (c *Content) UnmarshalJSON(raw []byte) error {
	*c = Content{}
	switch raw[0] {
	case 'n':
		c.Null = true
		return nil
	case '"':
		return json.Unmarshal(raw, &c.Text)
	case '[':
		c.Parts = []Part{}
		return json.Unmarshal(raw, &c.Parts)
	}
	return errors.New("content is neither a text, nor null, nor a list of parts")
}

// MarshalJSON writes what UnmarshalJSON reads.
func (c *Content) MarshalJSON() ([]byte, error) {
	switch {
	case c.Null:
		return []byte("null"), nil
	case c.Parts != nil:
		return json.Marshal(c.Parts)
	}
	return json.Marshal(c.Text)
}

// UnmarshalJSON reads a part and keeps all of it.
func (p *Part) UnmarshalJSON(raw []byte) error {
	var f struct {
		Type string
		Text *string
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if f.Type == "" || f.Type == "text" && f.Text == nil {
		return errors.New(`a part of a content has no "type", or is of type "text" without one`)
	}
	*p = Part{Type: f.Type, JSON: bytes.Clone(raw)}
	if f.Text != nil {
		p.Text = *f.Text
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (p Part) MarshalJSON() ([]byte, error) {
	if p.JSON != nil {
		return p.JSON, nil
	}
	return json.Marshal(struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}{p.Type, p.Text})
}

// fields are those of a message that have a meaning here, in the order in which they are written.
func (m *Message) fields() []struct {
	name  string
	value any
	empty bool
} {
	return []struct {
		name  string
		value any
		empty bool
	}{
		{"role", &m.Role, false}, {"content", &m.Content, m.Content == nil}, {"name", &m.Name, m.Name == ""},
		{"reasoning_content", &m.Reasoning, m.Reasoning == ""}, {"tool_calls", &m.ToolCalls, len(m.ToolCalls) == 0},
		{"tool_call_id", &m.ToolCallID, m.ToolCallID == ""},
	}
}

// UnmarshalJSON reads a message. Fields that it does not know are kept.
func (m *Message) UnmarshalJSON(raw []byte) error {
	*m = Message{}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	for _, f := range m.fields() {
		value, ok := all[f.name]
		delete(all, f.name)
		if !ok {
			continue
		}
		if f.name == "content" {
			m.Content = new(Content) // null is not the same as nothing
			f.value = m.Content
		}
		if err := json.Unmarshal(value, f.value); err != nil {
			return fmt.Errorf("message: %s: %w", f.name, err)
		}
		if f.name == "content" && string(value) == "null" {
			m.Content.Null = true
		}
	}
	if m.Role == "" {
		return errors.New("message: it has no role")
	}
	if len(all) > 0 {
		m.Extra = all
	}
	return nil
}

// MarshalJSON writes a message.
func (m *Message) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	write := func(name string, value any) error {
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		b.WriteByte("{,"[min(b.Len(), 1)])
		b.Write(key)
		b.WriteByte(':')
		b.Write(raw)
		return nil
	}
	for _, f := range m.fields() {
		if f.empty {
			continue
		}
		if err := write(f.name, f.value); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Extra)) {
		if err := write(name, m.Extra[name]); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads a function's name and its arguments: a text, or, as templates have them, an object.
func (f *FunctionCall) UnmarshalJSON(raw []byte) error {
	var g struct {
		Name      string
		Arguments json.RawMessage
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		return err
	}
	f.Name, f.Arguments = g.Name, string(g.Arguments)
	if strings.HasPrefix(f.Arguments, `"`) {
		return json.Unmarshal(g.Arguments, &f.Arguments)
	}
	return nil
}

// UnmarshalJSON reads a tool. It is refused if its function has no name.
func (t *Tool) UnmarshalJSON(raw []byte) error {
	var f struct {
		Type     string
		Function Function
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if f.Type != "function" {
		return fmt.Errorf("a tool is of type %s: only \"function\" is supported", shorten(f.Type))
	}
	if f.Function.Name == "" {
		return errors.New("a tool's function has no name")
	}
	*t = Tool{f.Type, f.Function, bytes.Clone(raw)}
	return nil
}

// MarshalJSON writes a tool, as it came if it was read.
func (t Tool) MarshalJSON() ([]byte, error) {
	if t.json != nil {
		return t.json, nil
	}
	return json.Marshal(struct {
		Type     string   `json:"type"`
		Function Function `json:"function"`
	}{t.Type, t.Function})
}

// value returns what templates see of a message: the fields that it has, arguments of calls as mappings. Where they take no parts, the
// texts of parts are joined by newlines; parts of other kinds are refused then.
func (m *Message) value(parts bool) (any, error) {
	shown := *m
	if m.Content != nil && m.Content.Parts != nil && !parts {
		var texts []string
		for _, p := range m.Content.Parts {
			if p.Type != "text" {
				return nil, fmt.Errorf("it has a part of type %s, but the template takes texts only", shorten(p.Type))
			}
			texts = append(texts, p.Text)
		}
		shown.Content = TextContent(strings.Join(texts, "\n"))
	}
	raw, err := json.Marshal(&shown)
	if err != nil {
		return nil, err
	}
	v, err := jinja.FromJSON(raw)
	if err != nil || len(m.ToolCalls) == 0 {
		return v, err
	}
	calls := jinja.NewList()
	for i, c := range m.ToolCalls {
		arguments, err := jinja.FromJSON([]byte(c.Function.Arguments))
		if err != nil {
			return nil, fmt.Errorf("arguments of tool call %d: %w", i, err)
		}
		if _, ok := arguments.(*jinja.Dict); !ok {
			return nil, fmt.Errorf("arguments of tool call %d are not a JSON object", i)
		}
		function, call := jinja.NewDict(), jinja.NewDict()
		function.Set("name", c.Function.Name)
		function.Set("arguments", arguments)
		if c.ID != "" {
			call.Set("id", c.ID)
		}
		call.Set("type", c.Type)
		call.Set("function", function)
		calls.Append(call)
	}
	v.(*jinja.Dict).Set("tool_calls", calls)
	return v, nil
}
