package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/tasks"
)

// embeddingsRequest is the body of POST /v1/embeddings.
type embeddingsRequest struct {
	model  string
	embed  tasks.EmbedRequest
	base64 bool // vectors as little-endian float32 in base64 instead of numbers
}

// embeddingsFields are the names that the body may hold. `truncate` is Accel's own.
var embeddingsFields = []string{"input", "model", "encoding_format", "dimensions", "user", "truncate"}

func invalid(param, format string, args ...any) *problem {
	return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "invalid_value", Param: param,
		Message: fmt.Sprintf(format, args...)}
}

// parseEmbeddings reads a body strictly: unknown and doubled fields, values of
// another type, more than maxInputs inputs, and text that is not Unicode are
// refused, for encoding/json would pass or mend them in silence.
func parseEmbeddings(body []byte, maxInputs int) (embeddingsRequest, error) {
	var req embeddingsRequest
	fields, err := splitBody(body, embeddingsFields)
	if err != nil {
		return req, err
	}
	for _, f := range fields {
		if err := req.set(f.name, f.value, maxInputs); err != nil {
			return req, err
		}
	}
	if req.model == "" {
		return req, invalid("model", "model: it is missing; name one of GET /v1/models")
	}
	if inputsOf(req.embed) == 0 {
		return req, invalid("input", "input: it is missing; give a string, a list of strings or of token ids, or an object with image_url")
	}
	return req, nil
}

type field struct {
	name  string
	value json.RawMessage
}

// splitBody is splitObject for a body that has to be Unicode.
func splitBody(body []byte, known []string) ([]field, error) {
	if !utf8.Valid(body) {
		return nil, invalid("", "the body is not valid UTF-8")
	}
	if hasLoneSurrogate(body) {
		return nil, invalid("", `the body holds half of a surrogate pair (\ud800 to \udfff) without the other half; that is no character`)
	}
	return splitObject(body, known)
}

// splitObject returns the fields of a JSON object, each name known and given once.
func splitObject(body []byte, known []string) ([]field, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil {
		return nil, syntaxProblem(err, dec)
	} else if t != json.Delim('{') {
		return nil, invalid("", "the body is not a JSON object")
	}
	var fields []field
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, syntaxProblem(err, dec)
		}
		name := t.(string)
		if !slices.Contains(known, name) {
			return nil, unknownField(name, known)
		}
		if slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
			return nil, invalid(name, "%s: it is given twice", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntaxProblem(err, dec)
		}
		fields = append(fields, field{name, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, syntaxProblem(err, dec)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("", "something follows the JSON object, at byte %d", dec.InputOffset())
	}
	return fields, nil
}

func unknownField(name string, known []string) *problem {
	if len(name) > 64 {
		name = name[:64] + "..."
	}
	hint := "known are: " + strings.Join(known, ", ")
	if near := config.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	p := invalid(name, "unknown field %q; %s", name, hint)
	p.Code = "unknown_parameter"
	return p
}

func syntaxProblem(err error, dec *json.Decoder) *problem {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("", "the body is not JSON: it ends after byte %d, in the middle of a value", dec.InputOffset())
	}
	return invalid("", "the body is not JSON: at byte %d: %v", dec.InputOffset(), err)
}

func (req *embeddingsRequest) set(name string, value json.RawMessage, maxInputs int) error {
	if name != "input" && name != "model" && string(value) == "null" {
		return nil // as if it had not been given
	}
	switch name {
	case "model":
		return decode(name, value, "a string", &req.model)
	case "input":
		return req.setInput(value, maxInputs)
	case "truncate":
		return decode(name, value, "true or false", &req.embed.Truncate)
	case "dimensions":
		if err := decode(name, value, "a whole number", &req.embed.Dimensions); err != nil {
			return err
		}
		if req.embed.Dimensions < 1 {
			return invalid(name, "dimensions: %d was given; it must be 1 or more", req.embed.Dimensions)
		}
	case "encoding_format":
		var format string
		if err := decode(name, value, "a string", &format); err != nil {
			return err
		}
		if format != "float" && format != "base64" {
			return invalid(name, `encoding_format: %q was given; there are "float" and "base64"`, format)
		}
		req.base64 = format == "base64"
	case "user":
		var user string // taken for OpenAI's sake; nothing here depends on it
		return decode(name, value, "a string", &user)
	}
	return nil
}

// decode reads one value, of which the client is told in words what it should be.
func decode(name string, value json.RawMessage, want string, into any) error {
	if string(value) == "null" || json.Unmarshal(value, into) != nil {
		return invalid(name, "%s: want %s, found %s", name, want, describeJSON(value))
	}
	return nil
}

// describeJSON says what a value is, without its content: texts are the client's.
func describeJSON(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "a string"
	case '[':
		return "a list"
	case '{':
		return "an object"
	case 'n':
		return "null"
	case 't', 'f':
		return string(value)
	}
	if len(value) > 32 {
		return "a number of " + strconv.Itoa(len(value)) + " characters"
	}
	return "the number " + string(value)
}

// inputsOf counts a request's inputs.
func inputsOf(r tasks.EmbedRequest) int { return len(r.Texts) + len(r.Tokens) + len(r.Files) }

// setInput takes a string, a list of strings, a list of token ids (which is one
// input), or a list of those; or a file, or a list of files.
func (req *embeddingsRequest) setInput(value json.RawMessage, maxInputs int) error {
	if value[0] == '"' {
		var text string
		if err := decode("input", value, "a string", &text); err != nil {
			return err
		}
		return req.addText("input", text)
	}
	if value[0] == '{' {
		f, err := fileOf("input", value)
		req.embed.Files = append(req.embed.Files, f)
		return err
	}
	if value[0] != '[' {
		return invalid("input", "input: want a string, or a list of strings or of token ids, found %s", describeJSON(value))
	}
	first := bytes.TrimLeft(value[1:], " \t\r\n")
	if first[0] == '-' || first[0] >= '0' && first[0] <= '9' {
		return req.addTokens("input", value)
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.Token() // the bracket; value is known to be valid JSON
	for i := 0; dec.More(); i++ {
		if i == maxInputs {
			return invalid("input", "input: it has more than %d entries; send them in several requests, or raise server.max_inputs", maxInputs)
		}
		var item json.RawMessage
		if err := dec.Decode(&item); err != nil {
			return syntaxProblem(err, dec)
		}
		at := fmt.Sprintf("input[%d]", i)
		var err error
		switch {
		case item[0] == '{' && len(req.embed.Texts)+len(req.embed.Tokens) == 0:
			var f tasks.File
			if f, err = fileOf(at, item); err == nil {
				req.embed.Files = append(req.embed.Files, f)
			}
		case len(req.embed.Files) > 0:
			err = invalid("input", "%s: %s among files; send them apart", at, describeJSON(item))
		case item[0] == '"' && len(req.embed.Tokens) == 0:
			var text string
			if err = decode("input", item, "a string", &text); err == nil {
				err = req.addText(at, text)
			}
		case item[0] == '[' && len(req.embed.Texts) == 0:
			err = req.addTokens(at, item)
		case item[0] == '"' || item[0] == '[' || item[0] == '{':
			err = invalid("input", "%s: %s among entries of the other kind; send strings and token ids apart", at, describeJSON(item))
		default:
			err = invalid("input", "%s: want a string or a list of token ids, found %s", at, describeJSON(item))
		}
		if err != nil {
			return err
		}
	}
	if inputsOf(req.embed) == 0 {
		return invalid("input", "input: the list is empty; give at least one string or list of token ids")
	}
	return nil
}

func (req *embeddingsRequest) addText(at, text string) error {
	if text == "" {
		return invalid("input", "%s: it is an empty string; leave it out", at)
	}
	req.embed.Texts = append(req.embed.Texts, text)
	return nil
}

func (req *embeddingsRequest) addTokens(at string, value json.RawMessage) error {
	var ids []int64
	if err := json.Unmarshal(value, &ids); err != nil || bytes.Contains(value, []byte("null")) {
		return invalid("input", "%s: want a list of token ids, which are whole numbers from 0", at)
	}
	if len(ids) == 0 {
		return invalid("input", "%s: the list of token ids is empty; leave it out", at)
	}
	for i, id := range ids {
		if id < 0 {
			return invalid("input", "%s: entry %d is %d; token ids are whole numbers from 0", at, i, id)
		}
	}
	req.embed.Tokens = append(req.embed.Tokens, ids)
	return nil
}

// hasLoneSurrogate looks for \ud800 to \udfff that are not two by two, high before
// low.
func hasLoneSurrogate(body []byte) bool {
	for i := 0; i+1 < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		if i++; body[i] != 'u' {
			continue // the escaped character is not looked at again
		}
		unit, ok := hex4(body, i+1)
		if i += 4; !ok || unit < 0xd800 || unit > 0xdfff {
			continue
		}
		if unit >= 0xdc00 || !bytes.HasPrefix(body[min(i+1, len(body)):], []byte(`\u`)) {
			return true
		}
		if low, ok := hex4(body, i+3); !ok || low < 0xdc00 || low > 0xdfff {
			return true
		}
		i += 6
	}
	return false
}

func hex4(b []byte, at int) (uint64, bool) {
	if at+4 > len(b) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[at:at+4]), 16, 16)
	return n, err == nil
}
