package processors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/core/processors/jinja"
)

// Files that have chat templates.
const (
	templateFile      = "chat_template.jinja"
	templateJSONFile  = "chat_template.json"
	moreTemplatesGlob = "additional_chat_templates/*.jinja"
)

// Names of templates, where a model has several.
const (
	DefaultTemplate = "default"
	ToolTemplate    = "tool_use"
)

// Template turns a conversation into the text that a model was trained on. It is immutable and may be used by many goroutines at once.
type Template struct {
	named  map[string]chatTemplate
	tokens map[string]string // special tokens by what templates call them
}

type chatTemplate struct {
	*jinja.Template
	parts  bool // contents may be lists
	format ToolFormat
}

// TemplateInput is what a template renders.
type TemplateInput struct {
	Messages            []Message
	Tools               []Tool
	AddGenerationPrompt bool   // ends the text where the answer begins
	Name                string // of the template; if empty, ToolTemplate where there are tools and it, else DefaultTemplate
	// Extra are further variables, for instance enable_thinking: anything that can be written as JSON.
	Extra map[string]any
	// Now is the time that templates tell the date by; if zero, it is the present.
	Now time.Time
}

// TemplateError says that a conversation can't be rendered: it, or the request, does not fit the template.
type TemplateError struct {
	Template string
	Message  int // number of the message that is to blame, counted from 0; -1 where none is
	Err      error
}

func (e *TemplateError) Error() string {
	if e.Message < 0 {
		return fmt.Sprintf("chat template %s: %v", shorten(e.Template), e.Err)
	}
	return fmt.Sprintf("chat template %s: message %d: %v", shorten(e.Template), e.Message, e.Err)
}

func (e *TemplateError) Unwrap() error { return e.Err }

// OpenTemplate opens the chat templates of a Hugging Face folder: chat_template.jinja with those in additional_chat_templates; else
// chat_template in tokenizer_config.json, one template or a list of them with names; else chat_template.json.
//
// Errors wrap a *FormatError, a *jinja.Error or what the file system reports, fs.ErrNotExist if there is no template.
func OpenTemplate(dir string) (*Template, error) {
	t, err := openTemplate(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

func openTemplate(dir fs.FS) (*Template, error) {
	sources, file, err := readTemplates(dir)
	if err != nil {
		return nil, err
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("tokenizer: there is no chat template, neither as %s nor in %s: the model takes plain text only: %w",
			templateFile, configFile, fs.ErrNotExist)
	}
	cfg, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	t := &Template{make(map[string]chatTemplate), make(map[string]string)}
	for name, source := range sources {
		parsed, err := jinja.Parse(source)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: %s: chat template %s: %w", file, shorten(name), err)
		}
		t.named[name] = chatTemplate{parsed, parsed.LoopsOver("content"), DetectToolFormat(source)}
	}
	var unused SpecialTokens
	for _, r := range roles(&cfg.specialsJSON, &unused) {
		if *r.token != nil {
			t.tokens[r.name] = (*r.token).Content
		}
	}
	return t, nil
}

// readTemplates returns templates by name, and the file that they are from.
func readTemplates(dir fs.FS) (map[string]string, string, error) {
	sources := make(map[string]string)
	data, err := readFile(dir, templateFile)
	if err != nil {
		return nil, "", err
	}
	if data != nil {
		sources[DefaultTemplate] = string(data)
	}
	more, err := fs.Glob(dir, moreTemplatesGlob)
	if err != nil {
		return nil, "", err
	}
	for _, file := range more {
		if data, err = readFile(dir, file); err != nil {
			return nil, "", err
		}
		sources[strings.TrimSuffix(path.Base(file), ".jinja")] = string(data)
	}
	if len(sources) > 0 {
		return sources, templateFile, nil
	}
	for _, file := range []string{configFile, templateJSONFile} {
		if data, err = readFile(dir, file); err != nil {
			return nil, "", err
		}
		if data == nil {
			continue
		}
		var f struct {
			Template json.RawMessage `json:"chat_template"`
		}
		c := compiler{file: file}
		if err := c.decode("", data, &f); err != nil {
			return nil, "", err
		}
		if len(f.Template) == 0 || string(f.Template) == "null" {
			continue
		}
		var one string
		var list []struct{ Name, Template string }
		switch {
		case json.Unmarshal(f.Template, &one) == nil:
			sources[DefaultTemplate] = one
		case json.Unmarshal(f.Template, &list) == nil:
			for _, named := range list {
				if _, twice := sources[named.Name]; twice || named.Name == "" {
					return nil, "", c.bad("chat_template", "template %s has no name of its own", shorten(named.Name))
				}
				sources[named.Name] = named.Template
			}
		default:
			return nil, "", c.bad("chat_template", "it is neither a template nor a list of templates with names")
		}
		return sources, file, nil
	}
	return nil, "", nil
}

// Names returns the names of the templates in order.
func (t *Template) Names() []string { return slices.Sorted(maps.Keys(t.named)) }

// choose returns the template for a request.
func (t *Template) choose(name string, tools bool) (string, chatTemplate, error) {
	candidates := []string{name}
	if name == "" {
		candidates = []string{DefaultTemplate}
		if tools {
			candidates = []string{ToolTemplate, DefaultTemplate}
		}
	}
	for _, c := range candidates {
		if found, ok := t.named[c]; ok {
			return c, found, nil
		}
	}
	wanted := candidates[len(candidates)-1]
	return "", chatTemplate{}, &TemplateError{wanted, -1, fmt.Errorf("there is no such template: the model has %s", strings.Join(t.Names(), ", "))}
}

// ToolFormat says in what form calls of tools stand in what the model writes, by the template that Render takes for a request with tools
// of that name, which may be empty.
func (t *Template) ToolFormat(name string) (ToolFormat, error) {
	_, chosen, err := t.choose(name, true)
	return chosen.format, err
}

// Render renders a conversation. Errors are a *TemplateError, which wraps a *jinja.Error where the template itself fails: of kind
// jinja.Raised if it refuses the conversation.
func (t *Template) Render(in TemplateInput) (string, error) {
	name, chosen, err := t.choose(in.Name, len(in.Tools) > 0)
	if err != nil {
		return "", err
	}
	fail := func(message int, err error) (string, error) { return "", &TemplateError{name, message, err} }
	if len(in.Messages) == 0 {
		return fail(-1, errors.New("there is no message"))
	}
	messages := jinja.NewList()
	for i := range in.Messages {
		v, err := in.Messages[i].value(chosen.parts)
		if err != nil {
			return fail(i, err)
		}
		messages.Append(v)
	}
	variables := jinja.NewDict()
	for token, content := range t.tokens {
		variables.Set(token, content)
	}
	variables.Set("messages", messages)
	variables.Set("documents", nil)
	variables.Set("tools", nil)
	if len(in.Tools) > 0 {
		tools, err := asValue(in.Tools)
		if err != nil {
			return fail(-1, fmt.Errorf("tools: %w", err))
		}
		variables.Set("tools", tools)
	}
	variables.Set("add_generation_prompt", in.AddGenerationPrompt)
	for key, value := range in.Extra {
		if slices.Contains([]string{"messages", "tools", "add_generation_prompt"}, key) {
			return fail(-1, fmt.Errorf("variable %s can't be set beside what it stands for", key))
		}
		v, err := asValue(value)
		if err != nil {
			return fail(-1, fmt.Errorf("variable %s: %w", key, err))
		}
		variables.Set(key, v)
	}
	now := in.Now
	if now.IsZero() {
		now = time.Now()
	}
	text, err := chosen.Render(variables, now)
	if err != nil {
		return fail(-1, err)
	}
	return text, nil
}

// asValue turns what can be written as JSON into a template's value.
func asValue(v any) (any, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return jinja.FromJSON(b.Bytes())
}
