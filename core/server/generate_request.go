package server

import (
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/tasks"
)

// generateRequest is the body of POST /v1/chat/completions and /v1/completions.
type generateRequest struct {
	model  string
	chat   bool
	stream bool
	usage  bool // in the stream, at its end
	echo   bool
	tasks.GenerateRequest
}

// setter reads one field.
type setter func(r *generateRequest, name string, value json.RawMessage) error

// commonFields are those of both; fields below that are not OpenAI's are Accel's own.
var commonFields = map[string]setter{
	"model":             text(func(r *generateRequest) *string { return &r.model }),
	"stream":            yesNo(func(r *generateRequest) *bool { return &r.stream }),
	"stream_options":    setStreamOptions,
	"max_tokens":        whole(1, math.MaxInt32, func(r *generateRequest) *int { return &r.MaxTokens }),
	"n":                 whole(1, 128, func(r *generateRequest) *int { return &r.N }),
	"temperature":       number(0, 2, func(r *generateRequest) *float64 { return &r.Sampling.Temperature }),
	"top_p":             number(0, 1, func(r *generateRequest) *float64 { return &r.Sampling.TopP }),
	"top_k":             whole(0, math.MaxInt32, func(r *generateRequest) *int { return &r.Sampling.TopK }),
	"min_p":             number(0, 1, func(r *generateRequest) *float64 { return &r.Sampling.MinP }),
	"presence_penalty":  number(-2, 2, func(r *generateRequest) *float64 { return &r.Sampling.PresencePenalty }),
	"frequency_penalty": number(-2, 2, func(r *generateRequest) *float64 { return &r.Sampling.FrequencyPenalty }),
	"repetition_penalty": number(0.01, 100, func(r *generateRequest) *float64 {
		return &r.Sampling.RepetitionPenalty
	}),
	"logit_bias": setLogitBias,
	"seed":       setSeed,
	"stop":       setStop,
	"user":       text(func(r *generateRequest) *string { return &r.Salt }), // prefixes are shared within one user
	"priority":   whole(-1000, 1000, func(r *generateRequest) *int { return &r.Priority }),
	"beams":      whole(1, 16, func(r *generateRequest) *int { return &r.Beams }),
	"length_penalty": number(-10, 10, func(r *generateRequest) *float64 {
		return &r.LengthPenalty
	}),
	"deterministic": yesNo(func(r *generateRequest) *bool { return &r.Sampling.Deterministic }),
}

// chatFields and completionFields are all fields of each.
var chatFields = join(commonFields, map[string]setter{
	"messages":              setMessages,
	"max_completion_tokens": whole(1, math.MaxInt32, func(r *generateRequest) *int { return &r.MaxTokens }),
	"logprobs":              yesNo(func(r *generateRequest) *bool { return &r.Logprobs }),
	"top_logprobs":          whole(0, 20, func(r *generateRequest) *int { return &r.Sampling.TopLogprobs }),
	"tools":                 setTools,
	"tool_choice":           setToolChoice,
	"parallel_tool_calls":   yesNo(func(*generateRequest) *bool { return new(bool) }), // as many as the model makes
	"response_format":       setResponseFormat,
	"chat_template_kwargs":  setTemplate,
	"store":                 yesNo(func(*generateRequest) *bool { return new(bool) }), // nothing is ever stored
	"metadata":              skip,
	"prompt_cache_key":      skip, // prefixes are found by their content
	"safety_identifier":     skip,
	"service_tier":          among("auto", "default"),
	"modalities":            setModalities,
})

var completionFields = join(commonFields, map[string]setter{
	"prompt":          setPrompt,
	"echo":            yesNo(func(r *generateRequest) *bool { return &r.echo }),
	"logprobs":        setLogprobs,
	"response_format": setResponseFormat,
})

func join(a, b map[string]setter) map[string]setter {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// parseGenerate reads a body strictly, as parseEmbeddings does.
func parseGenerate(body []byte, chat bool) (*generateRequest, error) {
	known := completionFields
	if chat {
		known = chatFields
	}
	fields, err := splitBody(body, slices.Sorted(maps.Keys(known)))
	if err != nil {
		return nil, err
	}
	r := &generateRequest{chat: chat}
	r.Sampling.Temperature, r.Sampling.Seed = 1, rand.Uint64()
	r.LengthPenalty = 1
	if !chat {
		r.MaxTokens = 16 // OpenAI's default
	}
	for _, f := range fields {
		if string(f.value) == "null" && f.name != "model" && f.name != "messages" && f.name != "prompt" {
			continue // as if it had not been given
		}
		if err := known[f.name](r, f.name, f.value); err != nil {
			return nil, err
		}
	}
	given := func(name string) bool {
		return slices.ContainsFunc(fields, func(f field) bool { return f.name == name && string(f.value) != "null" })
	}
	if r.Beams > 1 && !given("temperature") {
		r.Sampling.Temperature = 0 // nothing is drawn
	}
	switch {
	case r.model == "":
		return nil, invalid("model", "model: it is missing; name one of GET /v1/models")
	case chat && len(r.Messages) == 0:
		return nil, invalid("messages", "messages: there is none; give at least one")
	case !chat && r.Prompt == "" && len(r.Tokens) == 0:
		return nil, invalid("prompt", "prompt: it is missing or empty; give a text, or a list of token ids")
	case given("max_tokens") && given("max_completion_tokens"):
		return nil, invalid("max_tokens", "max_tokens and max_completion_tokens are both given; they mean the same")
	case r.usage && !r.stream:
		return nil, invalid("stream_options", "stream_options: it goes with \"stream\": true")
	case r.Sampling.TopLogprobs > 0 && !r.Logprobs:
		return nil, invalid("top_logprobs", "top_logprobs: it goes with \"logprobs\": true")
	case r.ToolChoice.Mode != "" && r.ToolChoice.Mode != tasks.ToolsNone && len(r.Tools) == 0:
		return nil, invalid("tool_choice", "tool_choice: there are no tools to choose from")
	}
	return r, nil
}

func text(at func(*generateRequest) *string) setter {
	return func(r *generateRequest, name string, value json.RawMessage) error {
		return decode(name, value, "a string", at(r))
	}
}

func yesNo(at func(*generateRequest) *bool) setter {
	return func(r *generateRequest, name string, value json.RawMessage) error {
		return decode(name, value, "true or false", at(r))
	}
}

func whole(lo, hi int, at func(*generateRequest) *int) setter {
	return func(r *generateRequest, name string, value json.RawMessage) error {
		n := at(r)
		if err := decode(name, value, "a whole number", n); err != nil {
			return err
		}
		if *n < lo || *n > hi {
			return invalid(name, "%s: %d was given; it must be from %d to %d", name, *n, lo, hi)
		}
		return nil
	}
}

func number(lo, hi float64, at func(*generateRequest) *float64) setter {
	return func(r *generateRequest, name string, value json.RawMessage) error {
		n := at(r)
		if err := decode(name, value, "a number", n); err != nil {
			return err
		}
		if *n < lo || *n > hi {
			return invalid(name, "%s: %g was given; it must be from %g to %g", name, *n, lo, hi)
		}
		return nil
	}
}

// among takes one of some words, which all mean what is done anyway.
func among(words ...string) setter {
	return func(_ *generateRequest, name string, value json.RawMessage) error {
		var word string
		if err := decode(name, value, "a string", &word); err != nil {
			return err
		}
		if !slices.Contains(words, word) {
			return invalid(name, "%s: %q was given; there are %s", name, word, strings.Join(words, ", "))
		}
		return nil
	}
}

func setModalities(_ *generateRequest, name string, value json.RawMessage) error {
	var list []string
	if err := decode(name, value, "a list of strings", &list); err != nil {
		return err
	}
	if !slices.Equal(list, []string{"text"}) {
		return invalid(name, `%s: %q was given; models answer with ["text"]`, name, list)
	}
	return nil
}

func skip(*generateRequest, string, json.RawMessage) error { return nil }

func setStreamOptions(r *generateRequest, name string, value json.RawMessage) error {
	fields, err := splitObject(value, []string{"include_usage", "include_obfuscation"})
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.name == "include_usage" {
			err = decode(name+".include_usage", f.value, "true or false", &r.usage)
		}
	}
	return err
}

func setLogitBias(r *generateRequest, name string, value json.RawMessage) error {
	var given map[string]float64
	if err := decode(name, value, "an object of token ids and numbers", &given); err != nil {
		return err
	}
	r.Sampling.LogitBias = map[int64]float64{}
	for k, v := range given {
		id, err := strconv.ParseInt(k, 10, 64)
		if err != nil || id < 0 {
			return invalid(name, "%s: %s is no token id", name, strconv.Quote(k))
		}
		if v < -100 || v > 100 {
			return invalid(name, "%s: token %d has %g; it must be from -100 to 100", name, id, v)
		}
		if v == -100 {
			v = math.Inf(-1)
		}
		r.Sampling.LogitBias[id] = v
	}
	return nil
}

func setSeed(r *generateRequest, name string, value json.RawMessage) error {
	var seed int64
	if err := decode(name, value, "a whole number", &seed); err != nil {
		return err
	}
	r.Sampling.Seed = uint64(seed)
	return nil
}

func setStop(r *generateRequest, name string, value json.RawMessage) error {
	if value[0] == '"' {
		r.Stop = []string{""}
		return decode(name, value, "a string", &r.Stop[0])
	}
	if err := decode(name, value, "a string or a list of strings", &r.Stop); err != nil {
		return err
	}
	if len(r.Stop) > 16 {
		return invalid(name, "%s: %d texts are given; it takes 16", name, len(r.Stop))
	}
	return nil
}

func setMessages(r *generateRequest, name string, value json.RawMessage) error {
	if value[0] != '[' {
		return invalid(name, "%s: want a list of messages, found %s", name, describeJSON(value))
	}
	if err := json.Unmarshal(value, &r.Messages); err != nil {
		return invalid(name, "%s: %v", name, err)
	}
	return nil
}

func setPrompt(r *generateRequest, name string, value json.RawMessage) error {
	switch {
	case value[0] == '"':
		return decode(name, value, "a string", &r.Prompt)
	case value[0] == '[' && len(value) > 2 && strings.ContainsRune("-0123456789", rune(value[1])):
		return decode(name, value, "a list of token ids", &r.Tokens)
	case value[0] == '[':
		var texts []string
		if err := decode(name, value, "a string, or a list of token ids", &texts); err != nil {
			return err
		}
		if len(texts) != 1 {
			return invalid(name, "%s: %d texts are given; send them in requests of their own", name, len(texts))
		}
		r.Prompt = texts[0]
		return nil
	}
	return invalid(name, "%s: want a string, or a list of token ids, found %s", name, describeJSON(value))
}

// setLogprobs is the older form: a number of alternatives.
func setLogprobs(r *generateRequest, name string, value json.RawMessage) error {
	r.Logprobs = true
	return whole(0, 20, func(r *generateRequest) *int { return &r.Sampling.TopLogprobs })(r, name, value)
}

func setTools(r *generateRequest, name string, value json.RawMessage) error {
	if value[0] != '[' {
		return invalid(name, "%s: want a list of tools, found %s", name, describeJSON(value))
	}
	if err := json.Unmarshal(value, &r.Tools); err != nil {
		return invalid(name, "%s: %v", name, err)
	}
	var names []string
	for i, t := range r.Tools {
		if slices.Contains(names, t.Function.Name) {
			return invalid(name, "%s[%d]: there is another of the name %q", name, i, t.Function.Name)
		}
		names = append(names, t.Function.Name)
	}
	return nil
}

func setToolChoice(r *generateRequest, name string, value json.RawMessage) error {
	var mode string
	if json.Unmarshal(value, &mode) == nil {
		switch mode {
		case tasks.ToolsAuto, tasks.ToolsNone, tasks.ToolsRequired:
			r.ToolChoice.Mode = mode
			return nil
		}
		return invalid(name, `%s: %q was given; there are "auto", "none", "required", and an object that names a function`, name, mode)
	}
	var one struct {
		Type     string
		Function struct{ Name string }
	}
	if json.Unmarshal(value, &one) != nil || one.Type != "function" || one.Function.Name == "" {
		return invalid(name, `%s: want a word, or {"type": "function", "function": {"name": ...}}, found %s`, name, describeJSON(value))
	}
	r.ToolChoice = tasks.ToolChoice{Mode: tasks.ToolsRequired, Name: one.Function.Name}
	return nil
}

func setResponseFormat(r *generateRequest, name string, value json.RawMessage) error {
	var f struct {
		Type       string
		JSONSchema *struct {
			Name   string
			Schema json.RawMessage
			Strict *bool
		} `json:"json_schema"`
	}
	if json.Unmarshal(value, &f) != nil {
		return invalid(name, "%s: want an object, found %s", name, describeJSON(value))
	}
	switch f.Type {
	case "text":
	case "json_object":
		r.Schema = json.RawMessage(`{"type":"object"}`)
	case "json_schema":
		if f.JSONSchema == nil || len(f.JSONSchema.Schema) == 0 {
			return invalid(name, "%s: json_schema.schema is missing", name)
		}
		r.Schema = f.JSONSchema.Schema
	default:
		return invalid(name, `%s: type %q was given; there are "text", "json_object" and "json_schema"`, name, f.Type)
	}
	return nil
}

func setTemplate(r *generateRequest, name string, value json.RawMessage) error {
	return decode(name, value, "an object", &r.Template)
}
