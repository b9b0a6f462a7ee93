package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
)

func (s *Server) chatCompletions(w http.ResponseWriter, r *http.Request) { s.generate(w, r, true) }
func (s *Server) completions(w http.ResponseWriter, r *http.Request)     { s.generate(w, r, false) }

// generate answers at once when all is there, or as it comes. Requests go to the model's
// scheduler, which has a queue of its own: they take no place at the engine.
func (s *Server) generate(w http.ResponseWriter, r *http.Request, chat bool) {
	r, body, finish, err := s.begin(w, r, s.config.Timeouts.Generate)
	defer finish()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := r.Context()
	req, err := parseGenerate(body, chat)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec := recordOf(ctx)
	req.ID = rec.id
	s.name(rec, req.model, 1)
	a := newReply(req)
	if req.stream {
		s.streamed(w, r, a)
		return
	}
	res, err := s.engine.Generate(ctx, req.model, req.GenerateRequest, a.add)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec.tokens, rec.decision = res.PromptTokens+res.CompletionTokens, &res.Decision
	setDecision(w.Header(), &res.Decision)
	if err := s.writeBefore(w); err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, a.whole(&res))
}

// writeBefore gives the client a while to take what is written next.
func (s *Server) writeBefore(w http.ResponseWriter) error {
	// Not every ResponseWriter has a connection to bound.
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.config.Timeouts.Write))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// errWrite marks an error of the connection.
type errWrite struct{ error }

func (e errWrite) Unwrap() error { return e.error }

// broke ends a stream that an error cut short: by a status where nothing was sent, else by an
// event, for the status has gone by.
func (s *Server) broke(w http.ResponseWriter, r *http.Request, rec *record, begun bool, send func(any) error, err error) {
	if gone := (errWrite{}); errors.As(err, &gone) {
		rec.err, rec.code = gone, "write"
		return
	}
	if !begun {
		s.fail(w, r, err)
		return
	}
	p := problemOf(r.Context(), rec.id, err)
	rec.err, rec.code = err, p.Code
	if p.Status == clientGone {
		rec.status = clientGone
		return
	}
	if err := send(p.body()); err != nil {
		rec.err = errors.Join(rec.err, err)
	}
}

// streamed answers with server-sent events, as OpenAI does.
func (s *Server) streamed(w http.ResponseWriter, r *http.Request, a *reply) {
	rec := recordOf(r.Context())
	send := s.events(w)
	begun := false
	res, err := s.engine.Generate(r.Context(), a.req.model, a.req.GenerateRequest, func(e tasks.GenerateEvent) error {
		if e.First != nil {
			begun = true
			rec.decision = &e.First.Decision
			setDecision(w.Header(), &e.First.Decision)
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-cache")
			for _, c := range a.opening(e.First) {
				if err := send(c); err != nil {
					return err
				}
			}
		}
		for _, c := range a.chunks(e) {
			if err := send(c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.broke(w, r, rec, begun, send, err)
		return
	}
	rec.tokens, rec.decision = res.PromptTokens+res.CompletionTokens, &res.Decision
	for _, c := range a.closing(&res) {
		if err := send(c); err != nil {
			rec.err, rec.code = err, "write"
			return
		}
	}
	if _, err := fmt.Fprint(w, "data: [DONE]\n\n"); err != nil {
		rec.err, rec.code = err, "write"
	}
}

// reply builds OpenAI's objects of what a model generates.
type reply struct {
	req     *generateRequest
	id      string
	created int64
	choices []choice
	open    int         // choices of a stream that have not ended
	last    *completion // the end of the last of them
}

// choice is what one choice has so far.
type choice struct {
	text   string
	calls  []toolCall
	tokens []tasks.GeneratedToken
	finish string
}

func newReply(req *generateRequest) *reply {
	prefix := "cmpl-"
	if req.chat {
		prefix = "chatcmpl-"
	}
	a := &reply{req: req, id: prefix + rand.Text(), created: time.Now().Unix(), choices: make([]choice, max(1, req.N)), open: max(1, req.N)}
	if req.echo {
		for i := range a.choices {
			a.choices[i].text = req.Prompt
		}
	}
	return a
}

// toolCall is a call in an answer; Index is there in streams only.
type toolCall struct {
	Index *int `json:"index,omitempty"`
	processors.ToolCall
}

// add collects.
func (a *reply) add(e tasks.GenerateEvent) error {
	c := &a.choices[e.Choice]
	c.text += e.Text
	if e.Call != nil {
		c.calls = append(c.calls, toolCall{ToolCall: *e.Call})
	}
	c.tokens = append(c.tokens, e.Tokens...)
	if e.Finish != "" {
		c.finish = e.Finish
	}
	return nil
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func usageOf(r *tasks.GenerateResult) *usage {
	u := &usage{PromptTokens: r.PromptTokens, CompletionTokens: r.CompletionTokens, TotalTokens: r.PromptTokens + r.CompletionTokens}
	u.Details.CachedTokens = r.CachedTokens
	return u
}

// placed is where an answer comes from, for streams, whose headers have gone by when that changes.
type placed struct {
	Platform string `json:"platform"`
	Device   string `json:"device"`
	Kind     string `json:"kind"`
	Fallback string `json:"fallback,omitempty"`
	Replays  int    `json:"replays,omitempty"`
}

func placedAt(d *route.Decision) *placed {
	p := &placed{Platform: d.Chosen.Platform, Device: d.Chosen.Device, Kind: string(d.Chosen.Kind), Replays: len(d.Replays)}
	if d.Fallback() {
		p.Fallback = d.Summary()
	}
	return p
}

// completion is an answer, or a part of it.
type completion struct {
	ID      string      `json:"id"`
	Object  string      `json:"object"`
	Created int64       `json:"created"`
	Model   string      `json:"model"`
	Choices []completed `json:"choices"`
	Usage   *usage      `json:"usage,omitempty"`
	Accel   *placed     `json:"accel,omitempty"`
}

// completed is a choice in it: Message in a chat, Delta in a chat's stream, Text else.
type completed struct {
	Index    int      `json:"index"`
	Message  *message `json:"message,omitempty"`
	Delta    *message `json:"delta,omitempty"`
	Text     *string  `json:"text,omitempty"`
	Logprobs any      `json:"logprobs"`
	Finish   *string  `json:"finish_reason"`
}

type message struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Refusal   *string    `json:"refusal,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

func (a *reply) object(streamed bool) *completion {
	c := &completion{ID: a.id, Object: "text_completion", Created: a.created, Model: a.req.model, Choices: []completed{}}
	switch {
	case a.req.chat && streamed:
		c.Object = "chat.completion.chunk"
	case a.req.chat:
		c.Object = "chat.completion"
	}
	return c
}

// whole is the answer when all is there.
func (a *reply) whole(r *tasks.GenerateResult) *completion {
	out := a.object(false)
	for i := range a.choices {
		c := &a.choices[i]
		one := completed{Index: i, Finish: &c.finish}
		if a.req.chat {
			one.Message = &message{Role: "assistant", ToolCalls: c.calls}
			if c.text != "" || len(c.calls) == 0 {
				one.Message.Content = &c.text
			}
		} else {
			one.Text = &c.text
		}
		if a.req.Logprobs {
			one.Logprobs = a.logprobs(c.tokens)
		}
		out.Choices = append(out.Choices, one)
	}
	out.Usage, out.Accel = usageOf(r), placedAt(&r.Decision)
	return out
}

// opening is what a stream begins with.
func (a *reply) opening(*tasks.GenerateResult) []*completion {
	var out []*completion
	for i := range a.choices {
		c, empty := a.object(true), ""
		switch {
		case a.req.chat:
			c.Choices = append(c.Choices, completed{Index: i, Delta: &message{Role: "assistant", Content: &empty}})
		case a.req.echo:
			c.Choices = append(c.Choices, completed{Index: i, Text: &a.req.Prompt})
		default:
			continue
		}
		out = append(out, c)
	}
	return out
}

// chunks are what an event adds to a stream. The very end is kept for closing.
func (a *reply) chunks(e tasks.GenerateEvent) []*completion {
	var out []*completion
	push := func(one completed) {
		one.Index = e.Choice
		c := a.object(true)
		c.Choices = append(c.Choices, one)
		out = append(out, c)
	}
	var logprobs any
	if len(e.Tokens) > 0 {
		logprobs = a.logprobs(e.Tokens)
	}
	switch {
	case e.Call != nil:
		at := len(a.choices[e.Choice].calls)
		call := toolCall{Index: &at, ToolCall: *e.Call}
		a.choices[e.Choice].calls = append(a.choices[e.Choice].calls, call)
		push(completed{Delta: &message{ToolCalls: []toolCall{call}}, Logprobs: logprobs})
	case a.req.chat && (e.Text != "" || logprobs != nil):
		push(completed{Delta: &message{Content: &e.Text}, Logprobs: logprobs})
	case e.Text != "" || logprobs != nil:
		push(completed{Text: &e.Text, Logprobs: logprobs})
	}
	if e.Finish != "" {
		one, empty := completed{Finish: &e.Finish}, ""
		if a.req.chat {
			one.Delta = &message{}
		} else {
			one.Text = &empty
		}
		push(one)
		if a.open--; a.open == 0 {
			a.last = out[len(out)-1]
			out = out[:len(out)-1]
		}
	}
	return out
}

// closing is the end of a stream's last choice and, if asked for, a chunk with the usage and no
// choice, which only those expect who ask for it. The last of them says where the stream came from.
func (a *reply) closing(r *tasks.GenerateResult) []*completion {
	out := []*completion{a.last}
	if a.req.usage {
		c := a.object(true)
		c.Usage = usageOf(r)
		out = append(out, c)
	}
	out[len(out)-1].Accel = placedAt(&r.Decision)
	return out
}

// tokenLogprob is a token in a chat's logprobs.
type tokenLogprob struct {
	Token   string         `json:"token"`
	Logprob float32        `json:"logprob"`
	Bytes   []int          `json:"bytes"`
	Top     []tokenLogprob `json:"top_logprobs,omitempty"`
}

func logprobOf(t *tasks.GeneratedToken) tokenLogprob {
	out := tokenLogprob{Token: string(t.Bytes), Logprob: finite(t.Logprob), Bytes: []int{}}
	for _, b := range t.Bytes {
		out.Bytes = append(out.Bytes, int(b))
	}
	return out
}

// finite is a logarithm as JSON can hold it.
func finite(v float32) float32 { return max(v, -9999) }

// logprobs are those of a chat, or in the older form those of a completion.
func (a *reply) logprobs(tokens []tasks.GeneratedToken) any {
	if a.req.chat {
		list := struct {
			Content []tokenLogprob `json:"content"`
		}{[]tokenLogprob{}}
		for i := range tokens {
			t := logprobOf(&tokens[i])
			t.Top = []tokenLogprob{}
			for j := range tokens[i].Top {
				t.Top = append(t.Top, logprobOf(&tokens[i].Top[j]))
			}
			list.Content = append(list.Content, t)
		}
		return list
	}
	list := struct {
		Tokens   []string             `json:"tokens"`
		Logprobs []float32            `json:"token_logprobs"`
		Top      []map[string]float32 `json:"top_logprobs"`
	}{[]string{}, []float32{}, []map[string]float32{}}
	for i := range tokens {
		list.Tokens, list.Logprobs = append(list.Tokens, string(tokens[i].Bytes)), append(list.Logprobs, finite(tokens[i].Logprob))
		top := map[string]float32{}
		for _, t := range tokens[i].Top {
			top[string(t.Bytes)] = finite(t.Logprob)
		}
		list.Top = append(list.Top, top)
	}
	return list
}
