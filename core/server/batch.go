package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// Generator generates texts; an engine does.
type Generator interface {
	Generate(ctx context.Context, model string, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error)
}

// Batch answers the lines of a file as the server answers requests.
type Batch struct {
	Model string // lines that name another are refused
	// Request are fields that each line has unless it gives its own.
	Request     map[string]json.RawMessage
	Concurrency int  // most lines at a time; at least 1
	InOrder     bool // answers are written as the input has their lines, else as they come
	// Progress is told after each line, by one goroutine at a time; it may be nil.
	Progress func(BatchResult)
}

// BatchResult counts what a batch did.
type BatchResult struct {
	Lines            int              `json:"lines"`            // of the input
	Before           int              `json:"before,omitempty"` // answered by an earlier run, errors included
	Answered         int              `json:"answered"`         // now
	Failed           int              `json:"failed"`           // now: lines whose answer is an error
	PromptTokens     int              `json:"prompt_tokens"`
	CachedTokens     int              `json:"cached_tokens"`
	CompletionTokens int              `json:"completion_tokens"`
	Replays          int              `json:"replays"`   // of lines whose device died
	Seconds          float64          `json:"seconds"`   // the model's start included
	Decisions        []route.Decision `json:"decisions"` // one for each way that lines went
}

// windows is how many times Concurrency lines may be ahead of the oldest that is not answered.
const windows = 8

// Check refuses fields of Request that no line may have. Its error is a *tasks.InvalidInputError.
func (b *Batch) Check() error {
	for _, name := range slices.Sorted(maps.Keys(b.Request)) {
		if !slices.Contains(batchFields, name) {
			p := unknownField(name, batchFields)
			return &tasks.InvalidInputError{Field: "request", Input: -1, Problem: p.Message}
		}
	}
	return nil
}

// Run answers the lines of in that have no answer yet, and writes each answer in one Write to out. A
// line that can't be answered gets an error for an answer. What concerns more than one line ends the
// batch with an error: what was written stays, and another run goes on from there.
func (b *Batch) Run(ctx context.Context, e Generator, in *BatchInput, out io.Writer) (BatchResult, error) {
	r := &batchRun{Batch: b, engine: e, out: out, begun: time.Now(), waiting: map[int][]byte{},
		result: BatchResult{Lines: in.Lines(), Before: len(in.done), Decisions: []route.Decision{}}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, b.Concurrency))
	// Only lines in order are kept for others: there the window bounds how many.
	r.window = make(chan struct{}, windows*max(1, b.Concurrency))
	at := 0
	err := in.each(func(n int, key string, line []byte) error {
		select {
		case r.window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		index := at
		at++
		g.Go(func() error { return r.answer(ctx, index, n, line) })
		return ctx.Err()
	})
	if gerr := g.Wait(); gerr != nil {
		err = gerr
	}
	r.result.Seconds = time.Since(r.begun).Seconds()
	return r.result, err
}

// batchRun is one call of Run.
type batchRun struct {
	*Batch
	engine Generator
	out    io.Writer
	begun  time.Time
	window chan struct{}

	mu      sync.Mutex
	result  BatchResult
	next    int            // index of the next line in order
	waiting map[int][]byte // answers that came before their turn
}

func (r *batchRun) answer(ctx context.Context, index, n int, data []byte) error {
	line, err := r.parse(n, data)
	var res tasks.GenerateResult
	if err == nil {
		a := newReply(line.request)
		if res, err = r.engine.Generate(ctx, r.Model, line.request.GenerateRequest, a.add); err == nil {
			line.reply = a
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var p *problem
	if err != nil {
		if p = ownProblem(err); p == nil {
			return err
		}
	}
	text, err := line.write(&res, p)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(&res, p)
	if !r.InOrder {
		<-r.window
		_, err := r.out.Write(text)
		return err
	}
	r.waiting[index] = text
	for text, ok := r.waiting[r.next]; ok; text, ok = r.waiting[r.next] {
		if _, err := r.out.Write(text); err != nil {
			return err
		}
		delete(r.waiting, r.next)
		r.next++
		<-r.window
	}
	return nil
}

func (r *batchRun) count(res *tasks.GenerateResult, p *problem) {
	to := &r.result
	to.Answered++
	if p != nil {
		to.Failed++
	} else {
		to.PromptTokens += res.PromptTokens
		to.CachedTokens += res.CachedTokens
		to.CompletionTokens += res.CompletionTokens
		d := res.Decision
		to.Replays += len(d.Replays)
		if !slices.ContainsFunc(to.Decisions, func(known route.Decision) bool { return known.Chosen == d.Chosen && known.Summary() == d.Summary() }) {
			to.Decisions = append(to.Decisions, d)
		}
	}
	to.Seconds = time.Since(r.begun).Seconds()
	if r.Progress != nil {
		r.Progress(*to)
	}
}

// ownProblem translates an error that is a line's own; nil where it would be the next line's, too.
func ownProblem(err error) *problem {
	var own *problem
	if errors.As(err, &own) {
		return own
	}
	var logits *schedule.LogitsError
	var constraint *schedule.ConstraintError
	if errors.As(err, &logits) || errors.As(err, &constraint) {
		return &problem{Status: http.StatusInternalServerError, Type: serverError, Code: "INTERNAL", Message: err.Error(), Final: true}
	}
	for _, translate := range translations {
		p := translate(err)
		if p == nil {
			continue
		}
		if whole := p.Code == "model_not_found" || p.Code == "wrong_task" || p.Status == http.StatusTooManyRequests; whole {
			return nil
		}
		if p.Status < 500 || p.Code == "BACKEND_CRASHED" {
			return p
		}
		return nil
	}
	return nil
}

// batchLine is a line of the input, and its answer.
type batchLine struct {
	id      json.RawMessage
	openai  bool // OpenAI's batch form: custom_id and body
	request *generateRequest
	reply   *reply
}

// batchFields are the fields that a line may have, but for its id.
var batchFields = func() []string {
	all := join(chatFields, completionFields)
	delete(all, "stream")
	delete(all, "stream_options")
	return slices.Sorted(maps.Keys(all))
}()

// paths of OpenAI's batch form; true for chats.
var batchPaths = map[string]bool{"/v1/chat/completions": true, "/v1/completions": false}

// parse reads line n, counted from 1. What it returns has an id, error or not.
func (r *batchRun) parse(n int, data []byte) (*batchLine, error) {
	l := &batchLine{}
	var err error
	l.id, l.openai, err = lineID(n, data)
	if err != nil {
		return l, err
	}
	known := append([]string{"id"}, batchFields...)
	if l.openai {
		known = []string{"custom_id", "method", "url", "body"}
	}
	fields, err := splitBody(data, known)
	if err != nil {
		return l, err
	}
	url := ""
	if l.openai {
		body := json.RawMessage(nil)
		for _, f := range fields {
			switch f.name {
			case "body":
				body = f.value
			case "url":
				if err := decode(f.name, f.value, "a string", &url); err != nil {
					return l, err
				}
				if _, ok := batchPaths[url]; !ok {
					return l, invalid("url", `url: %q was given; there are "/v1/chat/completions" and "/v1/completions"`, url)
				}
			case "method":
				if string(f.value) != `"POST"` {
					return l, invalid("method", "method: want \"POST\", found %s", describeJSON(f.value))
				}
			}
		}
		if body == nil {
			return l, invalid("body", "body: it is missing")
		}
		if fields, err = splitObject(body, batchFields); err != nil {
			return l, err
		}
	}
	l.request, err = r.request(fields, url)
	return l, err
}

// insteadOf are fields that exclude one another: a line's goes over what all lines have.
var insteadOf = map[string]string{"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens", "messages": "prompt", "prompt": "messages"}

// request completes a line's fields with those that all have, and reads them as the server does.
func (r *batchRun) request(fields []field, url string) (*generateRequest, error) {
	all := maps.Clone(r.Request)
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	for _, f := range fields {
		delete(all, insteadOf[f.name])
	}
	for _, f := range fields {
		all[f.name] = f.value
	}
	delete(all, "id")
	_, chat := all["messages"]
	_, prompt := all["prompt"]
	switch {
	case chat == prompt:
		return nil, invalid("prompt", "want either prompt or messages")
	case url != "" && batchPaths[url] != chat:
		return nil, invalid("url", "url: %s does not go with what the body holds", url)
	}
	name, err := json.Marshal(r.Model)
	if err != nil {
		return nil, err
	}
	if given, ok := all["model"]; ok && !bytes.Equal(given, name) {
		return nil, invalid("model", "model: the batch runs %q; leave the field out", r.Model)
	}
	all["model"] = name
	body, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	req, err := parseGenerate(body, chat)
	if err != nil {
		return nil, err
	}
	req.ID = "batch-" + rand.Text()
	return req, nil
}

// batchAnswer is a line of the output.
type batchAnswer struct {
	ID json.RawMessage `json:"id"`
	*batchChoice
	Choices []completed `json:"choices,omitempty"` // of several
	Usage   *usage      `json:"usage,omitempty"`
	*batchPlaced
	Error any `json:"error,omitempty"`
}

// batchChoice is the only choice.
type batchChoice struct {
	Text     *string  `json:"text,omitempty"`
	Message  *message `json:"message,omitempty"`
	Finish   *string  `json:"finish_reason"`
	Logprobs any      `json:"logprobs,omitempty"`
}

// batchPlaced is placed with nothing left out.
type batchPlaced struct {
	Platform string `json:"platform"`
	Device   string `json:"device"`
	Kind     string `json:"kind"`
	Fallback string `json:"fallback,omitempty"`
	Replays  int    `json:"replays"`
}

// openaiAnswer is a line of the output in OpenAI's batch form
// (https://platform.openai.com/docs/api-reference/batch/request-output).
type openaiAnswer struct {
	ID       string          `json:"id"`
	CustomID json.RawMessage `json:"custom_id"`
	Response struct {
		Status    int    `json:"status_code"`
		RequestID string `json:"request_id"`
		Body      any    `json:"body"`
	} `json:"response"`
	Error any `json:"error"`
}

// write is the answer as a line.
func (l *batchLine) write(res *tasks.GenerateResult, p *problem) ([]byte, error) {
	var v any
	switch {
	case l.openai:
		a := openaiAnswer{ID: "batch_req_" + rand.Text(), CustomID: l.id}
		a.Response.Status = http.StatusOK
		if l.request != nil {
			a.Response.RequestID = l.request.ID
		}
		if p != nil {
			a.Response.Status, a.Response.Body = p.Status, p.body()
		} else {
			a.Response.Body = l.reply.whole(res)
		}
		v = a
	case p != nil:
		v = batchAnswer{ID: l.id, Error: p.body().Error}
	default:
		whole := l.reply.whole(res)
		a := batchAnswer{ID: l.id, Usage: whole.Usage}
		at := whole.Accel
		a.batchPlaced = &batchPlaced{at.Platform, at.Device, at.Kind, at.Fallback, at.Replays}
		if len(whole.Choices) == 1 {
			c := whole.Choices[0]
			a.batchChoice = &batchChoice{c.Text, c.Message, c.Finish, c.Logprobs}
		} else {
			a.Choices = whole.Choices
		}
		v = a
	}
	text, err := json.Marshal(v)
	return append(text, '\n'), err
}
