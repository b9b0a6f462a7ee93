package tasks

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/schedule"
)

// choice turns one choice's tokens into text and calls.
type choice struct {
	g        *Completer
	req      *GenerateRequest
	index    int
	decoder  *processors.StreamDecoder
	stop     stopper
	tools    *processors.ToolParser // nil: all is text
	marker   string                 // of calls, kept though it be special
	required *strings.Builder       // what must be a call; nil: nothing must
	called   bool
	tokens   []GeneratedToken // not given out
	ended    bool
}

func newChoice(g *Completer, req *GenerateRequest, prompt []int64, format processors.ToolFormat, index int) *choice {
	c := &choice{g: g, req: req, index: index, decoder: g.Tokenizer.Stream(false), stop: stopper{stops: req.Stop}}
	switch {
	case req.ToolChoice.Mode == ToolsRequired:
		c.required = &strings.Builder{}
	case format != processors.NoTools:
		c.tools, c.marker = processors.NewToolParser(format), format.Marker()
	}
	// The text goes on after the prompt's last word: with a space, if it has one.
	if last := prompt[len(prompt)-1]; !g.special(last) && utf8.Valid(g.Tokenizer.TokenBytes(last)) {
		if _, err := c.decoder.Push(last); err != nil {
			c.decoder = g.Tokenizer.Stream(false)
		}
	}
	return c
}

// special reports whether a token stands for no text.
func (g *Completer) special(id int64) bool {
	g.once.Do(func() {
		g.silent = map[int64]bool{}
		for _, t := range g.Tokenizer.AddedTokens() {
			g.silent[t.ID] = t.Special
		}
		for _, id := range g.End {
			g.silent[id] = true
		}
	})
	_, known := g.Tokenizer.IDToToken(id)
	return g.silent[id] || !known // matrices of vocabularies are padded
}

// push takes the next token and returns what is certain by it.
func (c *choice) push(token schedule.Token) ([]GenerateEvent, error) {
	text := ""
	if !c.g.special(token.ID) || c.marker != "" && string(c.g.Tokenizer.TokenBytes(token.ID)) == c.marker {
		var err error
		if text, err = c.decoder.Push(token.ID); err != nil {
			return nil, fmt.Errorf("model %q: %w", c.g.Model, err)
		}
		if c.req.Logprobs {
			c.tokens = append(c.tokens, c.g.token(token))
		}
	}
	last := token.Finish != ""
	if last {
		text += c.decoder.Flush()
	}
	text, stopped := c.stop.push(text, last)
	finish := ""
	switch {
	case stopped || token.Finish == schedule.Stop:
		finish = FinishStop
	case token.Finish != "":
		finish = FinishLength
	}
	c.ended = finish != ""
	events := c.parse(text)
	if c.called && finish == FinishStop {
		finish = FinishTools
	}
	if len(events) == 0 && (c.ended || len(c.tokens) > 0) {
		events = append(events, GenerateEvent{})
	}
	for i := range events {
		events[i].Choice = c.index
	}
	if n := len(events); n > 0 {
		events[n-1].Finish, events[0].Tokens = finish, slices.Clone(c.tokens)
		c.tokens = c.tokens[:0]
	}
	return events, nil
}

// parse tells text from calls.
func (c *choice) parse(text string) []GenerateEvent {
	var parts []processors.ToolEvent
	switch {
	case c.required != nil:
		c.required.WriteString(text)
		if !c.ended {
			return nil
		}
		parts = []processors.ToolEvent{requiredCall(c.required.String())}
	case c.tools != nil:
		parts = c.tools.Push(text)
		if c.ended {
			parts = append(parts, c.tools.Flush()...)
		}
	default:
		parts = []processors.ToolEvent{{Text: text}}
	}
	var events []GenerateEvent
	for _, p := range parts {
		if p.Call != nil {
			c.called = true
			if p.Call.ID == "" {
				p.Call.ID = processors.NewToolCallID()
			}
			events = append(events, GenerateEvent{Call: p.Call})
		} else if p.Text != "" {
			events = append(events, GenerateEvent{Text: p.Text})
		}
	}
	return events
}

// requiredCall reads what callSchema holds a model to; a call that was cut off stays text.
func requiredCall(text string) processors.ToolEvent {
	var call struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if json.Unmarshal([]byte(text), &call) != nil || call.Name == "" {
		return processors.ToolEvent{Text: text}
	}
	return processors.ToolEvent{Call: &processors.ToolCall{Type: "function", Function: processors.FunctionCall{Name: call.Name, Arguments: string(call.Arguments)}}}
}

// token is a token with what it stands for.
func (g *Completer) token(t schedule.Token) GeneratedToken {
	out := GeneratedToken{ID: t.ID, Bytes: g.Tokenizer.TokenBytes(t.ID), Logprob: t.Logprob}
	for _, x := range t.Top {
		out.Top = append(out.Top, GeneratedToken{ID: x.ID, Bytes: g.Tokenizer.TokenBytes(x.ID), Logprob: x.Logprob})
	}
	return out
}

// stopper looks for texts that end a choice, and keeps back what may begin one.
type stopper struct {
	stops []string
	held  string
}

// push takes more text, and returns what is certain to stand before any stop. last: no
// more will come.
func (s *stopper) push(text string, last bool) (out string, stopped bool) {
	if len(s.stops) == 0 {
		return text, false
	}
	all := s.held + text
	s.held = ""
	first := -1
	for _, stop := range s.stops {
		if at := strings.Index(all, stop); at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	if first >= 0 {
		return all[:first], true
	}
	if last {
		return all, false
	}
	keep := 0
	for _, stop := range s.stops {
		for n := min(len(stop)-1, len(all)); n > keep; n-- {
			if strings.HasSuffix(all, stop[:n]) {
				keep = n
			}
		}
	}
	s.held = all[len(all)-keep:]
	return all[:len(all)-keep], false
}
