package processors

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/accelhq/accel/core/processors/jinja"
)

// TestGoldenChats renders the conversations of the golden tokenizers, and encodes what comes out.
func TestGoldenChats(t *testing.T) {
	for name, format := range map[string]ToolFormat{"bpe_llama2_llava": NoTools, "bpe_llama3": NoTools, "bpe_qwen": NoTools} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(tokenizersDir, name)
			template, err := OpenTemplate(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := template.ToolFormat(""); got != format || err != nil {
				t.Errorf("tool calls in format %q, want %q; error %v", got, format, err)
			}
			data, err := os.ReadFile(filepath.Join(dir, "golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			var g struct {
				Chat []struct {
					Messages            []Message
					AddGenerationPrompt bool `json:"add_generation_prompt"`
					Rendered            string
					IDs                 []int64
				}
			}
			if err := json.Unmarshal(data, &g); err != nil {
				t.Fatal(err)
			}
			if len(g.Chat) < 2 {
				t.Fatalf("only %d chats", len(g.Chat))
			}
			tok := openGolden(t, name)
			for _, c := range g.Chat {
				got, err := template.Render(TemplateInput{Messages: c.Messages, AddGenerationPrompt: c.AddGenerationPrompt})
				if err != nil || got != c.Rendered {
					t.Errorf("rendered %q, want %q; error %v", got, c.Rendered, err)
				}
				if e, err := tok.Encode(got, EncodeOptions{NoSpecial: true}); err != nil || !slices.Equal(e.IDs, c.IDs) {
					t.Errorf("%q: ids %v, want %v; error %v", got, e.IDs, c.IDs, err)
				}
			}
		})
	}
}

// familyCase is one of the conversations that the templates of package jinja are tested with, as a client sends it.
type familyCase struct {
	file, data string
	rendered   *string
	input      TemplateInput
}

func familyCases(t *testing.T) []familyCase {
	t.Helper()
	raw, err := os.ReadFile("jinja/testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Now   time.Time
		Data  map[string]map[string]json.RawMessage
		Cases []struct {
			File, Data string
			Rendered   *string
		}
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	var all []familyCase
	for _, c := range g.Cases {
		// Left out: contents that are mappings, which OpenAI's API does not have, and parts, which are joined here.
		if c.File == "" || c.Data == "built in" || c.Data == "parts" {
			continue
		}
		in := TemplateInput{Now: g.Now, Extra: map[string]any{}}
		for key, v := range g.Data[c.Data] {
			var err error
			switch key {
			case "messages":
				err = json.Unmarshal(v, &in.Messages)
			case "tools":
				err = json.Unmarshal(v, &in.Tools)
			case "add_generation_prompt":
				err = json.Unmarshal(v, &in.AddGenerationPrompt)
			case "bos_token", "eos_token", "documents":
			default:
				in.Extra[key] = v
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, familyCase{c.File, c.Data, c.Rendered, in})
	}
	return all
}

const sOfBOS = `{"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}}`

func openFamily(t *testing.T, file string) *Template {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("jinja/testdata/templates", file))
	if err != nil {
		t.Fatal(err)
	}
	template, err := openTemplate(fstest.MapFS{templateFile: {Data: source}, configFile: {Data: []byte(sOfBOS)}})
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// TestTemplateFamilies renders messages and tools as they come from clients with templates of many families. Order of keys, arguments of
// calls, special tokens: all come out as transformers has them.
func TestTemplateFamilies(t *testing.T) {
	cases := familyCases(t)
	if len(cases) < 50 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.file+" "+c.data, func(t *testing.T) {
			template := openFamily(t, c.file)
			for range 2 {
				got, err := template.Render(c.input)
				if c.rendered == nil {
					var refused *TemplateError
					if !errors.As(err, &refused) || !errors.As(err, new(*jinja.Error)) {
						t.Fatalf("rendered %q, error %v", got, err)
					}
				} else if err != nil || got != *c.rendered {
					t.Fatalf("rendered %q\nwant     %q\nerror %v", got, *c.rendered, err)
				}
				// Once more as the API has it: arguments of calls as text.
				raw, err := json.Marshal(c.input.Messages)
				if err != nil {
					t.Fatal(err)
				}
				c.input.Messages = nil
				if err := json.Unmarshal(raw, &c.input.Messages); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestTemplateToolFormats(t *testing.T) {
	for file, want := range map[string]ToolFormat{
		"llama3.jinja": LlamaTools, "qwen2.jinja": HermesTools, "qwen3.jinja": HermesTools, "mistral.jinja": MistralTools, "smollm2.jinja": NoTools,
	} {
		if got, err := openFamily(t, file).ToolFormat(""); got != want || err != nil {
			t.Errorf("%s: %q, want %q; error %v", file, got, want, err)
		}
	}
}

// TestToolsRoundTrip has each family read back the call that its template writes.
func TestToolsRoundTrip(t *testing.T) {
	call := ToolCall{"abcdefghi", "function", FunctionCall{"weather", `{"place": "Zürich \"]}", "days": [1, 2]}`}}
	ask := Message{Role: "user", Content: TextContent("Weather?")}
	for _, file := range []string{"llama3.jinja", "qwen2.jinja", "qwen3.jinja", "mistral.jinja"} {
		template := openFamily(t, file)
		tools := []Tool{{Type: "function", Function: Function{Name: "weather"}}}
		before, err := template.Render(TemplateInput{Messages: []Message{ask}, Tools: tools, AddGenerationPrompt: true})
		if err != nil {
			t.Fatal(err)
		}
		after, err := template.Render(TemplateInput{Messages: []Message{ask, {Role: "assistant", ToolCalls: []ToolCall{call}}}, Tools: tools})
		if err != nil {
			t.Fatal(err)
		}
		// What templates write of past answers may differ from what begins an answer by an empty thought.
		answer := after[strings.LastIndex(after, "Weather?"):]
		format, err := template.ToolFormat("")
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(after, before); ok {
			answer = rest
		}
		for _, end := range []string{"<|eot_id|>", "<|im_end|>\n", "</s>"} {
			answer = strings.TrimSuffix(answer, end)
		}
		var calls []ToolCall
		for _, e := range parsed(format, answer, 5) {
			if e.Call != nil {
				calls = append(calls, *e.Call)
			}
		}
		want := call
		if format != MistralTools {
			want.ID = ""
		}
		if len(calls) != 1 || calls[0] != want {
			t.Errorf("%s: %q read as %+v, want %+v", file, answer, calls, want)
		}
	}
}

func TestTemplateFiles(t *testing.T) {
	config := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	list := config(`{"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]}`)
	tool := []Tool{{Type: "function", Function: Function{Name: "f"}}}
	for name, tt := range map[string]struct {
		files fstest.MapFS
		in    TemplateInput
		want  string // or, if it begins with "!", part of the error
	}{
		"string":            {fstest.MapFS{configFile: config(`{"chat_template": "S{{ bos_token }}", "bos_token": "<s>"}`)}, TemplateInput{}, "S<s>"},
		"file before":       {fstest.MapFS{configFile: list, templateFile: config("F\n")}, TemplateInput{}, "F"},
		"processor's":       {fstest.MapFS{templateJSONFile: config(`{"chat_template": "P"}`), configFile: config(`{"chat_template": null}`)}, TemplateInput{}, "P"},
		"default":           {fstest.MapFS{configFile: list}, TemplateInput{}, "D"},
		"tools":             {fstest.MapFS{configFile: list}, TemplateInput{Tools: tool}, "T"},
		"named":             {fstest.MapFS{configFile: list}, TemplateInput{Tools: tool, Name: "rag"}, "R"},
		"more files":        {fstest.MapFS{templateFile: config("F"), "additional_chat_templates/rag.jinja": config("M")}, TemplateInput{Name: "rag"}, "M"},
		"no tool template":  {fstest.MapFS{templateFile: config("F"), "additional_chat_templates/rag.jinja": config("M")}, TemplateInput{Tools: tool}, "F"},
		"unknown name":      {fstest.MapFS{configFile: list}, TemplateInput{Name: "x"}, "!the model has default, rag, tool_use"},
		"no default":        {fstest.MapFS{configFile: config(`{"chat_template": [{"name": "rag", "template": "R"}]}`)}, TemplateInput{}, `!chat template "default"`},
		"none":              {fstest.MapFS{configFile: config(`{}`)}, TemplateInput{}, "!there is no chat template"},
		"malformed":         {fstest.MapFS{templateFile: config("a\n{{ b")}, TemplateInput{}, "!line 2, column 1"},
		"number":            {fstest.MapFS{configFile: config(`{"chat_template": 5}`)}, TemplateInput{}, "!neither a template nor a list"},
		"same name":         {fstest.MapFS{configFile: config(`{"chat_template": [{"name": "a", "template": ""}, {"name": "a", "template": ""}]}`)}, TemplateInput{}, "!has no name of its own"},
		"reserved variable": {fstest.MapFS{templateFile: config("F")}, TemplateInput{Extra: map[string]any{"messages": 1}}, "!variable messages"},
		"extra variable":    {fstest.MapFS{templateFile: config("{{ x | tojson }}")}, TemplateInput{Extra: map[string]any{"x": json.RawMessage(`{"b":1,"a":"<"}`)}}, `{"b": 1, "a": "<"}`},
		"raised":            {fstest.MapFS{templateFile: config("{{ raise_exception('no way') }}")}, TemplateInput{}, "!no way"},
	} {
		t.Run(name, func(t *testing.T) {
			template, err := openTemplate(tt.files)
			var got string
			if err == nil {
				tt.in.Messages = []Message{{Role: "user", Content: TextContent("x")}}
				got, err = template.Render(tt.in)
			}
			if part, fails := strings.CutPrefix(tt.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("rendered %q, error %v; want one with %q", got, err, part)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("rendered %q, want %q; error %v", got, tt.want, err)
			}
		})
	}
	if _, err := openTemplate(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: error %v", err)
	}
	template, err := openTemplate(fstest.MapFS{templateFile: config("F")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := template.Render(TemplateInput{}); err == nil {
		t.Error("no message is no error")
	}
}

func TestMessages(t *testing.T) {
	const asParts = `{% for m in messages %}{% for p in m.content %}{{ p | tojson }}{% endfor %}{% endfor %}`
	for name, tt := range map[string]struct{ messages, template, want string }{
		"null":            {`[{"role": "assistant", "content": null}]`, "{{ messages[0].content is none }}", "True"},
		"nothing":         {`[{"role": "assistant"}]`, "{{ 'content' in messages[0] }}", "False"},
		"joined parts":    {`[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]`, "{{ messages[0].content }}", "a\nb"},
		"kept parts":      {`[{"role": "user", "content": [{"text": "a", "type": "text"}, {"type": "image", "u": 1.0}]}]`, asParts, `{"text": "a", "type": "text"}{"type": "image", "u": 1.0}`},
		"picture":         {`[{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]`, "{{ messages[0].content }}", "!message 1: it has a part of type \"image_url\""},
		"extra":           {`[{"role": "user", "content": "a", "weight": 2, "name": "Ann"}]`, "{{ messages[0] }}", "{'role': 'user', 'content': 'a', 'name': 'Ann', 'weight': 2}"},
		"thoughts":        {`[{"role": "assistant", "content": "a", "reasoning_content": "b"}]`, "{{ messages[0].reasoning_content }}", "b"},
		"arguments":       {`[{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2.0}"}}]}]`, "{{ messages[0].tool_calls[0] | tojson }}", `{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2.0}}}`},
		"bad arguments":   {`[{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{"}}]}]`, "", "!message 0: arguments of tool call 0"},
		"other arguments": {`[{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "[1]"}}]}]`, "", "!are not a JSON object"},
		"result":          {`[{"role": "tool", "content": "r", "tool_call_id": "1"}]`, "{{ messages[0].tool_call_id }}", "1"},
		"no role":         {`[{"content": "a"}]`, "", "!it has no role"},
		"bad content":     {`[{"role": "user", "content": 5}]`, "", "!content is neither"},
		"bad part":        {`[{"role": "user", "content": [{"text": "a"}]}]`, "", `!no "type"`},
	} {
		t.Run(name, func(t *testing.T) {
			var in TemplateInput
			err := json.Unmarshal([]byte(tt.messages), &in.Messages)
			var got string
			if err == nil {
				var template *Template
				if template, err = openTemplate(fstest.MapFS{templateFile: {Data: []byte(tt.template)}}); err == nil {
					got, err = template.Render(in)
				}
			}
			if part, fails := strings.CutPrefix(tt.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("rendered %q, error %v; want one with %q", got, err, part)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("rendered %q, want %q; error %v", got, tt.want, err)
			}
		})
	}
	for _, bad := range []string{`{"type": "other", "function": {"name": "f"}}`, `{"type": "function", "function": {}}`, `{"type": "function"}`, `5`} {
		if err := json.Unmarshal([]byte(bad), new(Tool)); err == nil {
			t.Errorf("%s is taken as a tool", bad)
		}
	}
}
