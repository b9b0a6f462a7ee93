package processors

import (
	"bytes"
	"encoding/json"
	"strings"
)

// ToolFormat is a form in which models write calls of tools.
type ToolFormat string

const (
	// NoTools: none that is known. What the model writes is text.
	NoTools ToolFormat = ""
	// HermesTools: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, as Hermes, Qwen 2.5 and Qwen 3 have it.
	HermesTools ToolFormat = "hermes"
	// LlamaTools: the whole answer is {"name": ..., "parameters": {...}}, after <|python_tag|> or not, as LLaMA 3.1 and later have it;
	// semicolons stand between several.
	LlamaTools ToolFormat = "llama3_json"
	// MistralTools: [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...} in newer models.
	MistralTools ToolFormat = "mistral"
)

// toolSyntax is what a format looks like.
type toolSyntax struct {
	marker string // begins calls
	end    string // ends a call, or is empty
	bare   bool   // an answer that begins with an object may be a call without a marker
	next   string // between calls after one marker, or empty
	list   bool   // calls may stand in brackets, and names before arguments
}

var toolSyntaxes = map[ToolFormat]toolSyntax{
	HermesTools:  {marker: "<tool_call>", end: "</tool_call>"},
	LlamaTools:   {marker: "<|python_tag|>", bare: true, next: ";"},
	MistralTools: {marker: "[TOOL_CALLS]", next: ",", list: true},
}

// argsMarker stands between a name and arguments in newer models of Mistral.
const argsMarker = "[ARGS]"

// DetectToolFormat says which form of tool calls a chat template asks a model for. Forms that look alike but are not JSON are none.
func DetectToolFormat(template string) ToolFormat {
	has := func(part string) bool { return strings.Contains(template, part) }
	switch {
	case has("<tool_call>") && !has("<function=") && !has("<arg_key>"):
		return HermesTools
	case has("[TOOL_CALLS]"):
		return MistralTools
	case has("<|python_tag|>"), has("<|start_header_id|>") && has(`"parameters"`):
		return LlamaTools
	}
	return NoTools
}

// Marker returns the text that begins tool calls. It may be a special token, which has to be kept in what is given to a ToolParser: see
// Tokenizer.Stream.
func (f ToolFormat) Marker() string { return toolSyntaxes[f].marker }

// ToolEvent is a stretch of text, or a call. The call's id is empty if the model gave none.
type ToolEvent struct {
	Text string
	Call *ToolCall
}

// ToolParser tells calls of tools from text, as the text comes. No part of a marker or a call is ever given out as text, but where it
// turns out that it is none: then it is text, all of it. White space after a call is left out unless text follows. It is used by one
// goroutine.
type ToolParser struct {
	syntax  toolSyntax
	active  bool // there is a format
	state   parserState
	buf     []byte // not given out yet
	opening string // taken from buf before it, but text if no call follows
	begun   bool   // the answer has begun
	bare    bool   // the object stands without a marker
	list    bool   // inside brackets
	name    string // that stood before the arguments
	events  []ToolEvent

	// Of the JSON object at the start of buf:
	scanned, depth    int
	quoted, backslash bool
}

type parserState int

const (
	inText     parserState = iota
	afterCall              // as inText, but white space waits
	atCall                 // behind a marker, or between calls
	inCall                 // in an object
	behindCall             // behind an object
)

// NewToolParser returns a parser of one answer.
func NewToolParser(f ToolFormat) *ToolParser {
	syntax, ok := toolSyntaxes[f]
	return &ToolParser{syntax: syntax, active: ok}
}

// Push takes more of the answer and returns what is certain now.
func (p *ToolParser) Push(text string) []ToolEvent {
	if !p.active {
		p.text(text)
		return p.take()
	}
	p.buf = append(p.buf, text...)
	for p.step(false) {
	}
	return p.take()
}

// Flush ends the answer and returns what was held back. A call that is not complete is text.
func (p *ToolParser) Flush() []ToolEvent {
	for p.active && p.step(true) {
	}
	return p.take()
}

func (p *ToolParser) take() []ToolEvent {
	events := p.events
	p.events = nil
	return events
}

// text gives text out.
func (p *ToolParser) text(s string) {
	if s == "" {
		return
	}
	if n := len(p.events); n > 0 && p.events[n-1].Call == nil {
		p.events[n-1].Text += s
		return
	}
	p.events = append(p.events, ToolEvent{Text: s})
}

// drop takes n bytes off the buffer.
func (p *ToolParser) drop(n int) { p.buf = p.buf[n:] }

// enter begins a state. What was taken since the last text or call is kept, in case it is text.
func (p *ToolParser) enter(s parserState, taken int) {
	p.opening += string(p.buf[:taken])
	p.drop(taken)
	p.state = s
}

// refuse says that what was taken is no call.
func (p *ToolParser) refuse() {
	p.text(p.opening)
	p.opening, p.name, p.bare, p.list, p.state, p.begun = "", "", false, false, inText, true
}

// step goes on by one piece of the answer. It says no when it wants more text, or at the end, when nothing is left.
func (p *ToolParser) step(end bool) bool {
	switch p.state {
	case inText, afterCall:
		return p.stepText(end)
	case inCall:
		return p.stepCall(end)
	}
	spaces := len(p.buf) - len(bytes.TrimLeft(p.buf, " \t\r\n"))
	if p.state == behindCall {
		return p.stepBehind(end, spaces)
	}
	rest := p.buf[spaces:]
	switch {
	case len(rest) == 0:
		if end {
			p.refuse()
		}
		return end
	case rest[0] == '{':
		p.enter(inCall, spaces)
		p.scanned, p.depth, p.quoted, p.backslash = 0, 0, false, false
		return true
	case p.syntax.list && !p.list && p.name == "" && rest[0] == '[':
		p.enter(atCall, spaces+1)
		p.list = true
		return true
	case p.syntax.list && !p.list && p.name == "":
		return p.stepName(end, spaces)
	}
	p.refuse()
	return true
}

// stepText gives text out up to a marker.
func (p *ToolParser) stepText(end bool) bool {
	spaces := len(p.buf) - len(bytes.TrimLeft(p.buf, " \t\r\n"))
	if spaces == len(p.buf) && (p.state == afterCall || !p.begun && p.syntax.bare) {
		if end {
			if p.state == inText {
				p.text(string(p.buf))
			}
			p.drop(len(p.buf))
		}
		return false
	}
	if !p.begun && p.syntax.bare && p.buf[spaces] == '{' {
		p.begun, p.bare = true, true
		p.enter(atCall, 0)
		return true
	}
	marker := []byte(p.syntax.marker)
	if i := bytes.Index(p.buf, marker); i >= 0 {
		if i > spaces || p.state == inText {
			p.text(string(p.buf[:i]))
		} // else only white space stands between calls
		p.drop(i)
		p.begun = true
		p.enter(atCall, len(marker))
		return true
	}
	held := 0 // at the end of the text, which may begin a marker
	if !end {
		for held = min(len(marker)-1, len(p.buf)); !bytes.HasSuffix(p.buf, marker[:held]); held-- {
		}
	}
	if p.state == afterCall && len(p.buf)-held <= spaces {
		return false // it may be a marker behind white space
	}
	p.text(string(p.buf[:len(p.buf)-held]))
	p.drop(len(p.buf) - held)
	p.begun, p.state = true, inText
	return false
}

// maxToolName is the length of a function's name, in bytes, past which it is none.
const maxToolName = 256

// stepName reads a name before arguments.
func (p *ToolParser) stepName(end bool, spaces int) bool {
	rest := p.buf[spaces:]
	n := bytes.IndexFunc(rest, func(r rune) bool {
		return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("_-.", r))
	})
	switch {
	case n == 0 || n > maxToolName || n < 0 && (end || len(rest) > maxToolName):
		p.refuse()
		return true
	case n < 0:
		return false
	}
	after := rest[n:]
	switch {
	case bytes.HasPrefix(after, []byte(argsMarker)):
		p.name = string(rest[:n])
		p.enter(atCall, spaces+n+len(argsMarker))
	case after[0] == '{':
		p.name = string(rest[:n])
		p.enter(atCall, spaces+n)
	case !end && bytes.HasPrefix([]byte(argsMarker), after):
		return false
	default:
		p.refuse()
	}
	return true
}

// stepCall reads an object to its end.
func (p *ToolParser) stepCall(end bool) bool {
	for ; p.scanned < len(p.buf); p.scanned++ {
		c := p.buf[p.scanned]
		switch {
		case p.backslash:
			p.backslash = false
		case p.quoted:
			p.backslash, p.quoted = c == '\\', c != '"'
		case c == '"':
			p.quoted = true
		case c == '{' || c == '[':
			p.depth++
		case c == '}' || c == ']':
			p.depth--
		}
		if p.depth > 0 {
			continue
		}
		call := parseCall(p.buf[:p.scanned+1], p.name, p.bare)
		if call == nil || p.bare && !begins(p.buf) {
			p.refuse()
			return true
		}
		p.drop(p.scanned + 1)
		p.events = append(p.events, ToolEvent{Call: call})
		p.opening, p.name, p.bare, p.state = "", "", false, behindCall
		return true
	}
	if p.bare && !begins(p.buf) || end { // an answer in JSON is no call
		p.refuse()
		return true
	}
	return false
}

// callKeys are keys that a call may begin with.
var callKeys = []string{"name", "type", "function", "parameters", "arguments", "id"}

// begins says whether an object without a marker may yet be a call, by its first key.
func begins(object []byte) bool {
	rest := bytes.TrimLeft(object[1:], " \t\r\n")
	if len(rest) == 0 {
		return true
	}
	for _, key := range callKeys {
		quoted := `"` + key + `"`
		if n := min(len(rest), len(quoted)); string(rest[:n]) == quoted[:n] {
			return true
		}
	}
	return false
}

// parseCall reads a call, or returns nil if it is none. Without a marker it has to have arguments.
func parseCall(object []byte, name string, bare bool) *ToolCall {
	if !json.Valid(object) {
		return nil
	}
	call := &ToolCall{Type: "function", Function: FunctionCall{Name: name, Arguments: string(object)}}
	if name != "" {
		return call
	}
	var fields map[string]json.RawMessage // a struct would take keys in letters of either case
	if json.Unmarshal(object, &fields) != nil || json.Unmarshal(fields["name"], &name) != nil || name == "" {
		return nil
	}
	arguments, ok := fields["arguments"]
	if !ok {
		arguments, ok = fields["parameters"]
	}
	if bare && !ok {
		return nil
	}
	var text string
	if json.Unmarshal(arguments, &text) == nil && text != "" { // an object as text
		arguments = json.RawMessage(text)
	}
	switch {
	case len(arguments) == 0 || string(arguments) == "null":
		arguments = json.RawMessage("{}")
	case arguments[0] != '{' || !json.Valid(arguments):
		return nil
	}
	if id := fields["id"]; len(id) > 0 && id[0] == '"' && json.Unmarshal(id, &call.ID) != nil { // some models count calls instead
		return nil
	}
	call.Function = FunctionCall{name, string(arguments)}
	return call
}

// stepBehind reads what may follow an object.
func (p *ToolParser) stepBehind(end bool, spaces int) bool {
	rest := string(p.buf[spaces:])
	mark := p.syntax.end
	switch {
	case p.list:
		mark = "]"
	case p.syntax.list:
		mark = ""
	}
	switch {
	case !end && (rest == "" || len(rest) < len(mark) && strings.HasPrefix(mark, rest)):
		return false
	case p.syntax.next != "" && p.list == p.syntax.list && strings.HasPrefix(rest, p.syntax.next):
		p.enter(atCall, spaces+len(p.syntax.next))
		return true
	case mark != "" && strings.HasPrefix(rest, mark):
		p.drop(spaces + len(mark))
	case end && strings.HasPrefix(mark, rest):
		p.drop(len(p.buf)) // the answer was cut in the mark
	}
	p.list, p.state = false, afterCall
	return true
}
