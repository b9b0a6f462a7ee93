package tasks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// ToolChoice says whether a model may, must or must not call tools.
type ToolChoice struct {
	Mode string // ToolsAuto (or empty), ToolsNone, ToolsRequired
	Name string // of the one that must be called; Mode is ToolsRequired then
}

// Modes of ToolChoice.
const (
	ToolsAuto     = "auto"
	ToolsNone     = "none"
	ToolsRequired = "required"
)

// GenerateRequest asks for what comes after a prompt. Exactly one of Messages, Prompt and
// Tokens is set.
type GenerateRequest struct {
	ID       string // for logs and errors
	Messages []processors.Message
	Prompt   string
	Tokens   []int64

	Tools      []processors.Tool // with Messages only
	ToolChoice ToolChoice
	// Template are more variables of the chat template, such as enable_thinking.
	Template map[string]any

	MaxTokens int // of each choice; 0: as many as there is room for
	N         int // choices; 0: 1
	Sampling  schedule.Sampling
	// Beams follows so many of the likeliest texts side by side and gives the N best at their end; 0 and 1
	// are off. LengthPenalty is the power of a text's length that its score is divided by.
	Beams         int
	LengthPenalty float64
	Stop          []string // texts that end a choice; they are not given out
	// Schema is a JSON schema that each choice's text satisfies when it ends by itself.
	Schema json.RawMessage
	// Logprobs asks for the tokens themselves in the events.
	Logprobs bool
	Salt     string // prefixes are shared with requests of the same salt only
	Priority int    // higher goes first
}

// field is the one that holds the prompt.
func (req *GenerateRequest) field() string {
	if len(req.Messages) > 0 {
		return "messages"
	}
	return "prompt"
}

// GenerateEvent is what is new of one choice.
type GenerateEvent struct {
	Choice int
	// Text never ends inside a character, and holds no part of a stop text or a tool call.
	Text   string
	Call   *processors.ToolCall
	Tokens []GeneratedToken // if Logprobs were asked for: those drawn since the last event
	Finish string           // of the choice's last event: FinishStop, FinishLength, FinishTools
	// First is what is known as the first event of all comes; else nil.
	First *GenerateResult
}

// Reasons for a choice to end.
const (
	FinishStop   = "stop"
	FinishLength = "length"
	FinishTools  = "tool_calls"
)

// GeneratedToken is a token with its probability.
type GeneratedToken struct {
	ID      int64
	Bytes   []byte // what it stands for; perhaps part of a character
	Logprob float32
	Top     []GeneratedToken // the most probable ones at its place
}

// GenerateResult counts what a request took.
type GenerateResult struct {
	PromptTokens, CachedTokens, CompletionTokens int
	Decision                                     route.Decision
}

// ContextError says that a prompt, with what is to be generated, does not fit the model.
type ContextError struct {
	Model     string
	Field     string // of the request, that holds the prompt: messages or prompt
	Prompt    int    // tokens
	MaxTokens int    // that were asked for; 0: any
	Limit     int    // tokens, both together
	Reads     bool   // the prompt alone is too long: an encoder reads it
}

func (e *ContextError) Error() string {
	if e.Reads {
		return fmt.Sprintf("the prompt has %d tokens; model %q reads %d: shorten the prompt", e.Prompt, e.Model, e.Limit)
	}
	if e.MaxTokens == 0 {
		return fmt.Sprintf("the prompt has %d tokens; model %q takes %d, what it generates included: shorten the prompt", e.Prompt, e.Model, e.Limit)
	}
	return fmt.Sprintf("the prompt has %d tokens and up to %d are asked for; model %q takes %d together: shorten the prompt, or ask for fewer",
		e.Prompt, e.MaxTokens, e.Model, e.Limit)
}

// Scheduler runs sequences of tokens; *schedule.Scheduler is one.
type Scheduler interface {
	Submit(ctx context.Context, r schedule.Request) (*schedule.Stream, error)
}

// Reader is an encoder that reads prompts for a decoder.
type Reader interface {
	Start() int64 // the token that the decoder begins with
	Limit() int   // tokens of a prompt
	Source(ids []int64) (*schedule.Source, error)
}

// Completer answers with one decoder.
type Completer struct {
	Model     string
	Tokenizer *processors.Tokenizer
	Template  *processors.Template // nil: the model has none, and takes no messages
	Scheduler Scheduler
	MaxTokens int     // prompt and output together
	End       []int64 // tokens that end a text
	// Constrain makes the constraint of a schema; nil: schemas are refused.
	Constrain func(schema json.RawMessage) (func() schedule.Constraint, error)
	// Reader makes of a prompt the source that the decoder attends to, where it does; else nil.
	Reader Reader
	// Eyes see the pictures of messages; nil: the model reads text only. Fetcher gets those that
	// are not in the request; nil: they are refused.
	Eyes    Eyes
	Fetcher Fetcher
	// Private: the cache holds nothing that another request may share.
	Private bool
	// Deterministic is the default of Sampling.Deterministic.
	Deterministic bool

	once   sync.Once
	silent map[int64]bool // tokens that stand for no text
}

// prompt is what a request asks to be gone on with.
type prompt struct {
	tokens []int64
	sights []Sight               // in the order of their places among the tokens
	format processors.ToolFormat // in which the model would call tools
}

// prompt reads a request's prompt. Pictures are looked at, and not seen yet.
func (g *Completer) prompt(ctx context.Context, req *GenerateRequest) (prompt, error) {
	ids, urls, format, err := g.words(req)
	if err != nil {
		return prompt{}, err
	}
	ids, sights, err := g.look(ctx, ids, urls)
	return prompt{ids, sights, format}, err
}

// words are the tokens of a request's prompt, one for each picture, and the pictures' URLs.
func (g *Completer) words(req *GenerateRequest) ([]int64, []string, processors.ToolFormat, error) {
	invalid := func(field, problem, remedy string) error {
		return &InvalidInputError{Field: field, Input: -1, Problem: problem, Remedy: remedy}
	}
	given := 0
	for _, is := range []bool{len(req.Messages) > 0, req.Prompt != "", len(req.Tokens) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, nil, "", invalid("prompt", "it is empty, or given in more than one form", "give messages, a text, or token ids")
	}
	switch {
	case len(req.Messages) > 0:
		return g.chat(req)
	case len(req.Tools) > 0:
		return nil, nil, "", invalid("tools", "they go with messages", "")
	case len(req.Tokens) > 0:
		for i, id := range req.Tokens {
			if _, ok := g.Tokenizer.IDToToken(id); !ok {
				return nil, nil, "", invalid("prompt", fmt.Sprintf("token %d is %d, which model %q does not have", i, id, g.Model), "")
			}
		}
		return req.Tokens, nil, "", nil
	}
	e, err := g.Tokenizer.Encode(req.Prompt, processors.EncodeOptions{})
	if err != nil {
		return nil, nil, "", invalid("prompt", err.Error(), "")
	}
	return e.IDs, nil, "", nil
}

func (g *Completer) chat(req *GenerateRequest) ([]int64, []string, processors.ToolFormat, error) {
	invalid := func(field, problem, remedy string) error {
		return &InvalidInputError{Field: field, Input: -1, Problem: problem, Remedy: remedy}
	}
	if g.Template == nil {
		return nil, nil, "", invalid("messages", fmt.Sprintf("model %q has no chat template", g.Model), "give a prompt instead, or a chat_template.jinja beside the model")
	}
	messages, urls, err := pictured(req.Messages)
	if err != nil {
		return nil, nil, "", err
	}
	in := processors.TemplateInput{Messages: messages, AddGenerationPrompt: true, Extra: req.Template}
	var format processors.ToolFormat
	if len(req.Tools) > 0 && req.ToolChoice.Mode != ToolsNone {
		in.Tools = req.Tools
		if format, err = g.Template.ToolFormat(""); err != nil {
			return nil, nil, "", invalid("tools", err.Error(), "")
		}
		if format == processors.NoTools {
			return nil, nil, "", invalid("tools", fmt.Sprintf("the chat template of model %q knows no tools", g.Model), "leave them out, or describe them in a message")
		}
	}
	text, err := g.Template.Render(in)
	if err != nil {
		return nil, nil, "", invalid("messages", err.Error(), "")
	}
	// The template writes the special tokens.
	e, err := g.Tokenizer.Encode(text, processors.EncodeOptions{NoSpecial: true})
	if err != nil {
		return nil, nil, "", invalid("messages", err.Error(), "")
	}
	if len(e.IDs) == 0 {
		return nil, nil, "", invalid("messages", "the chat template makes nothing of them", "")
	}
	return e.IDs, urls, format, nil
}

// Generate hands what comes to emit, in one goroutine; an error of emit ends it and is
// returned. Other errors: *InvalidInputError, *ContextError, and those of the scheduler.
func (g *Completer) Generate(ctx context.Context, req GenerateRequest, emit func(GenerateEvent) error) (GenerateResult, error) {
	if err := req.checkBeams(); err != nil {
		return GenerateResult{}, err
	}
	p, err := g.prompt(ctx, &req)
	if err != nil {
		return GenerateResult{}, err
	}
	r, err := g.request(&req, p)
	if err != nil {
		return GenerateResult{}, err
	}
	var sight []route.Decision
	if r.Embeds, err = g.see(ctx, &sight, p.tokens, p.sights); err != nil {
		return GenerateResult{}, err
	}
	res := GenerateResult{PromptTokens: len(r.Prompt), Decision: route.Decision{Parts: sight}}
	if r.Source != nil {
		res.PromptTokens = r.Source.Rows
	}
	if req.Beams > 1 {
		beams, err := g.search(ctx, &req, r, &res)
		if err != nil {
			return res, g.refused(&req, err)
		}
		return res, g.tell(&req, r, p, beams, &res, emit)
	}
	stream, err := g.Scheduler.Submit(ctx, r)
	if err != nil {
		return res, g.refused(&req, err)
	}
	defer stream.Close()
	choices := make([]*choice, max(1, r.N))
	for i := range choices {
		choices[i] = newChoice(g, &req, r.Prompt, p.format, i)
	}
	open, begun := len(choices), false
	for open > 0 {
		token, err := stream.Next(ctx)
		res.CachedTokens, res.Decision = stream.Cached(), stream.Decision()
		res.Decision.Parts = sight
		if errors.Is(err, io.EOF) {
			return res, errors.New("the scheduler ended a request before its choices had ended")
		}
		if err != nil {
			return res, err
		}
		c := choices[token.Choice]
		if c.ended {
			continue // its stop text came; the others go on
		}
		res.CompletionTokens++
		events, err := c.push(token)
		if err != nil {
			return res, err
		}
		for _, e := range events {
			if !begun {
				begun = true
				first := res
				e.First = &first
			}
			if err := emit(e); err != nil {
				return res, err
			}
		}
		if c.ended {
			open--
			stream.Drop(token.Choice)
		}
	}
	return res, nil
}

// refused is a scheduler's error in the request's terms.
func (g *Completer) refused(req *GenerateRequest, err error) error {
	if long := (*schedule.TooLongError)(nil); errors.As(err, &long) {
		return &ContextError{Model: g.Model, Field: req.field(), Prompt: long.Prompt, MaxTokens: long.MaxTokens, Limit: long.Limit, Reads: long.Source}
	}
	return err
}

// tell gives out whole texts, the best as the first choice.
func (g *Completer) tell(req *GenerateRequest, r schedule.Request, p prompt, beams []beam, res *GenerateResult, emit func(GenerateEvent) error) error {
	begun := false
	for i, b := range beams {
		c := newChoice(g, req, r.Prompt, p.format, i)
		for _, token := range b.tokens {
			if c.ended {
				break // a stop text came
			}
			events, err := c.push(token)
			if err != nil {
				return err
			}
			for _, e := range events {
				if !begun {
					begun = true
					first := *res
					e.First = &first
				}
				if err := emit(e); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// request is what the scheduler is asked for.
func (g *Completer) request(req *GenerateRequest, p prompt) (schedule.Request, error) {
	var err error
	prompt := p.tokens
	var source *schedule.Source
	if g.Reader != nil {
		if len(prompt) > g.Reader.Limit() {
			return schedule.Request{}, &ContextError{Model: g.Model, Field: req.field(), Prompt: len(prompt), Limit: g.Reader.Limit(), Reads: true}
		}
		if source, err = g.Reader.Source(prompt); err != nil {
			return schedule.Request{}, &InvalidInputError{Field: req.field(), Input: -1, Problem: err.Error()}
		}
		prompt = []int64{g.Reader.Start()}
	}
	if len(prompt)+max(1, req.MaxTokens) > g.MaxTokens {
		return schedule.Request{}, &ContextError{Model: g.Model, Field: req.field(), Prompt: len(prompt), MaxTokens: req.MaxTokens, Limit: g.MaxTokens}
	}
	r := schedule.Request{Source: source, ID: req.ID, Prompt: prompt, MaxTokens: req.MaxTokens, N: req.N, Sampling: req.Sampling, Salt: g.Model + "\x00" + req.Salt, Priority: req.Priority}
	if g.Private {
		r.Salt += "\x00" + rand.Text()
	}
	r.Sampling.Logprobs = r.Sampling.Logprobs || req.Logprobs
	r.Sampling.Deterministic = r.Sampling.Deterministic || g.Deterministic
	for _, id := range g.End {
		r.Stop = append(r.Stop, []int64{id})
	}
	for i, s := range req.Stop {
		if s == "" {
			return r, &InvalidInputError{Field: "stop", Input: i, Problem: "it is empty"}
		}
	}
	schema := req.Schema
	if req.ToolChoice.Mode == ToolsRequired {
		if schema != nil {
			return r, &InvalidInputError{Field: "tool_choice", Input: -1, Problem: "a call of a tool can't be required together with a schema for the answer"}
		}
		if schema, err = callSchema(req); err != nil {
			return r, err
		}
	}
	if schema != nil {
		if g.Constrain == nil {
			return r, &InvalidInputError{Field: "response_format", Input: -1, Problem: fmt.Sprintf("model %q can't be held to a schema", g.Model)}
		}
		if r.Constraint, err = g.Constrain(schema); err != nil {
			return r, &InvalidInputError{Field: "response_format", Input: -1, Problem: err.Error()}
		}
	}
	return r, nil
}

// callSchema is the schema of a call of one of the tools: what a model that must call one is held to.
func callSchema(req *GenerateRequest) (json.RawMessage, error) {
	type object = map[string]any
	var any []object
	var names []string
	for _, t := range req.Tools {
		names = append(names, t.Function.Name)
		if req.ToolChoice.Name != "" && t.Function.Name != req.ToolChoice.Name {
			continue
		}
		arguments := t.Function.Parameters
		if arguments == nil {
			arguments = json.RawMessage(`{"type":"object"}`)
		}
		any = append(any, object{"type": "object", "additionalProperties": false, "required": []string{"name", "arguments"},
			"properties": object{"name": object{"const": t.Function.Name}, "arguments": arguments}})
	}
	if len(any) == 0 {
		return nil, &InvalidInputError{Field: "tool_choice", Input: -1, Problem: fmt.Sprintf("a call of %q is required", req.ToolChoice.Name),
			Remedy: "the tools are " + strings.Join(names, ", ")}
	}
	return json.Marshal(object{"anyOf": any})
}
