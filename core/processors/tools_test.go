package processors

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func callOf(id, name, arguments string) ToolEvent {
	return ToolEvent{Call: &ToolCall{id, "function", FunctionCall{name, arguments}}}
}

// parsed pushes text in pieces of so many bytes, 0 for one piece, and joins what is text.
func parsed(f ToolFormat, text string, pieces int) []ToolEvent {
	p := NewToolParser(f)
	var all []ToolEvent
	add := func(events []ToolEvent) {
		for _, e := range events {
			if n := len(all); e.Call == nil && n > 0 && all[n-1].Call == nil {
				all[n-1].Text += e.Text
			} else {
				all = append(all, e)
			}
		}
	}
	if pieces == 0 {
		pieces = len(text) + 1
	}
	for piece := range slices.Chunk([]byte(text), pieces) {
		add(p.Push(string(piece)))
	}
	add(p.Flush())
	return all
}

func TestToolParser(t *testing.T) {
	text := func(s string) ToolEvent { return ToolEvent{Text: s} }
	f := callOf("", "f", `{"a": 1}`)
	for _, tt := range []struct {
		format ToolFormat
		text   string
		want   []ToolEvent
	}{
		{HermesTools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", []ToolEvent{f}},
		{HermesTools, "Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n<tool_call>\n{\"arguments\": {\"s\": \"</tool_call> \\\" }\"}, \"name\": \"g\"}</tool_call>\n",
			[]ToolEvent{text("Let me see.\n"), f, callOf("", "g", `{"s": "</tool_call> \" }"}`)}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\n Done <b>", []ToolEvent{f, text("\n Done <b>")}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}", []ToolEvent{f}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool", []ToolEvent{f}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", []ToolEvent{f}},
		{HermesTools, "<tool_call>{\"name\": \"f\"}</tool_call>", []ToolEvent{callOf("", "f", "{}")}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"argum", []ToolEvent{text("<tool_call>{\"name\": \"f\", \"argum")}},
		{HermesTools, "a <tool_call> b </tool_call>", []ToolEvent{text("a <tool_call> b </tool_call>")}},
		{HermesTools, "<tool_call>{name: f}</tool_call> <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>",
			[]ToolEvent{text("<tool_call>{name: f}</tool_call> "), f}},
		{HermesTools, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", []ToolEvent{text("<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>")}},
		{HermesTools, "1 < 2 <tool", []ToolEvent{text("1 < 2 <tool")}},
		{HermesTools, "{\"name\": \"f\", \"arguments\": {}}", []ToolEvent{text("{\"name\": \"f\", \"arguments\": {}}")}},
		{LlamaTools, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", []ToolEvent{f}},
		{LlamaTools, " \n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}} ", []ToolEvent{f}},
		{LlamaTools, "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}", []ToolEvent{f, callOf("", "g", "{}")}},
		{LlamaTools, "Well <|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}", []ToolEvent{text("Well "), f}},
		{LlamaTools, "<|python_tag|>print(1)", []ToolEvent{text("<|python_tag|>print(1)")}},
		{LlamaTools, " {\"answer\": 42}", []ToolEvent{text(" {\"answer\": 42}")}},
		{LlamaTools, "{\"name\": \"Ann\", \"age\": 3, \"parameters\": 4}", []ToolEvent{text("{\"name\": \"Ann\", \"age\": 3, \"parameters\": 4}")}},
		{LlamaTools, "{\"name\": \"Ann\"}", []ToolEvent{text("{\"name\": \"Ann\"}")}},
		{LlamaTools, "{\"nAme\": \"f\", \"parameters\": {}}", []ToolEvent{text("{\"nAme\": \"f\", \"parameters\": {}}")}},
		{LlamaTools, "It is {\"name\": \"f\", \"parameters\": {}}", []ToolEvent{text("It is {\"name\": \"f\", \"parameters\": {}}")}},
		{LlamaTools, "  ", []ToolEvent{text("  ")}},
		{LlamaTools, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; no", []ToolEvent{f, text("; no")}},
		{MistralTools, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"g\", \"arguments\": {}}]",
			[]ToolEvent{callOf("abcdefghi", "f", `{"a": 1}`), callOf("", "g", "{}")}},
		{MistralTools, "So: [TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]my_tool-2{\"b\": \"]\"}", []ToolEvent{text("So: "), f, callOf("", "my_tool-2", `{"b": "]"}`)}},
		{MistralTools, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, oops]", []ToolEvent{f, text(", oops]")}},
		{MistralTools, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}", []ToolEvent{f}},
		{MistralTools, "[TOOL_CALLS] two words", []ToolEvent{text("[TOOL_CALLS] two words")}},
		{MistralTools, "[TOOL_CALLS]f[AR", []ToolEvent{text("[TOOL_CALLS]f[AR")}},
		{MistralTools, "[TOOL] [TOOL_CALLS", []ToolEvent{text("[TOOL] [TOOL_CALLS")}},
		{NoTools, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", []ToolEvent{text("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>")}},
		{HermesTools, "", nil},
	} {
		for pieces := range 8 {
			if got := parsed(tt.format, tt.text, pieces); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%s in pieces of %d: %q: %s, want %s", tt.format, pieces, tt.text, shown(got), shown(tt.want))
			}
		}
	}
}

func shown(events []ToolEvent) string {
	var b strings.Builder
	for _, e := range events {
		if e.Call != nil {
			fmt.Fprintf(&b, " call %+v", *e.Call)
		} else {
			fmt.Fprintf(&b, " %q", e.Text)
		}
	}
	return b.String()
}

// TestToolParserIsPrompt pins that text is not held back longer than need be.
func TestToolParserIsPrompt(t *testing.T) {
	for _, tt := range []struct {
		format ToolFormat
		pieces []string
		want   []string // text after each piece
	}{
		{HermesTools, []string{"Hel", "lo <", "b> <tool", "box>"}, []string{"Hel", "lo ", "<b> ", "<toolbox>"}},
		{LlamaTools, []string{"\n", "{", "\"an", "swer\": 1"}, []string{"", "", "\n{\"an", "swer\": 1"}},
		{LlamaTools, []string{"{\"name", "s\": 1"}, []string{"", "{\"names\": 1"}},
		{MistralTools, []string{"[", "TOOL_", "BOX]"}, []string{"", "", "[TOOL_BOX]"}},
	} {
		p := NewToolParser(tt.format)
		for i, piece := range tt.pieces {
			got := ""
			for _, e := range p.Push(piece) {
				got += e.Text
			}
			if got != tt.want[i] {
				t.Errorf("%s: %q: piece %d gives %q, want %q", tt.format, tt.pieces, i, got, tt.want[i])
			}
		}
	}
}

func TestDetectToolFormat(t *testing.T) {
	for template, want := range map[string]ToolFormat{
		`{{ '<tool_call>\n{"name": ' }}`:                   HermesTools,
		`{{ '<tool_call>\n<function=' + name }}`:           NoTools,
		`{{ '[TOOL_CALLS] [' }}`:                           MistralTools,
		`<|start_header_id|>{{ '"parameters": ' }}`:        LlamaTools,
		`<|start_header_id|>{{ "<|python_tag|>" + name }}`: LlamaTools,
		`{{ '<|im_start|>' + message.role }}`:              NoTools,
		`<|start_header_id|>{{ message.role }}`:            NoTools,
		`{{ '<tool_call>' + name + '<arg_key>' + key }}`:   NoTools,
	} {
		if got := DetectToolFormat(template); got != want {
			t.Errorf("%s: %q, want %q", template, got, want)
		}
	}
}

func TestToolCallIDs(t *testing.T) {
	a, b := NewToolCallID(), NewToolCallID()
	if len(a) != 9 || a == b {
		t.Errorf("ids %s and %s", a, b)
	}
}

// FuzzToolParser holds that pieces do not matter, and that text without a call comes out as it is.
func FuzzToolParser(f *testing.F) {
	for _, s := range []string{
		"a <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}</tool_call>\n<tool_call>x", "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": 1}",
		"{\"name\": \"f\", \"parameters\": {}} x", "[TOOL_CALLS] [{\"name\": \"f\"}, {\"name\": \"g\"}] [TOOL_CALLS]f[ARGS]{}",
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, pieces uint8) {
		for _, format := range []ToolFormat{NoTools, HermesTools, LlamaTools, MistralTools} {
			whole := parsed(format, text, 0)
			if got := parsed(format, text, 1+int(pieces%16)); !reflect.DeepEqual(got, whole) {
				t.Fatalf("%s: %q in pieces of %d: %s, want %s", format, text, 1+pieces%16, shown(got), shown(whole))
			}
			if len(whole) == 0 && text != "" || len(whole) == 1 && whole[0].Call == nil && whole[0].Text != text {
				t.Fatalf("%s: %q comes out as %s", format, text, shown(whole))
			}
		}
	})
}
