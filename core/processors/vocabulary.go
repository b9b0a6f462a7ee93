package processors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on vocabularies. The largest in use have about 260,000 tokens of up to a few hundred bytes.
const (
	maxTokens     = 1 << 22
	maxTokenBytes = 4096
	// Ids may have gaps, but no more than so many for each token, and some.
	maxGaps    = 4
	minGapRoom = 1 << 16
)

// vocabulary gathers tokens and their ids.
type vocabulary struct {
	ids    map[string]int32 // the model's tokens
	extra  map[string]int32 // tokens that are only found by being added
	tokens []string         // by id, with holes; made by index
}

func newVocabulary() *vocabulary {
	return &vocabulary{ids: make(map[string]int32), extra: make(map[string]int32)}
}

// add notes a token of the model. It refuses one that is there already.
func (v *vocabulary) add(token string, id int64) error {
	if err := v.check(token, id); err != nil {
		return err
	}
	if other, ok := v.ids[token]; ok {
		return fmt.Errorf("token %s is there twice, with ids %d and %d", shorten(token), other, id)
	}
	v.ids[token] = int32(id)
	return nil
}

func (v *vocabulary) check(token string, id int64) error {
	switch {
	case id < 0 || id >= maxTokens*maxGaps:
		return fmt.Errorf("token %s has id %d, which is not in 0 to %d", shorten(token), id, maxTokens*maxGaps-1)
	case len(v.ids)+len(v.extra) >= maxTokens:
		return fmt.Errorf("there are more than %d tokens", maxTokens)
	case len(token) > maxTokenBytes:
		return fmt.Errorf("token %s is %d bytes long, more than the %d allowed", shorten(token), len(token), maxTokenBytes)
	case !utf8.ValidString(token):
		return fmt.Errorf("token %s is not UTF-8", shorten(token))
	}
	return nil
}

// index orders the model's tokens by their ids. It refuses two with the same id.
func (v *vocabulary) index() error {
	if len(v.ids) == 0 {
		return errors.New("it is empty")
	}
	for token, id := range v.ids {
		if err := v.grow(token, id); err != nil {
			return err
		}
		if other := v.tokens[id]; other != hole {
			first, second := min(other, token), max(other, token)
			return fmt.Errorf("tokens %s and %s have the same id %d", shorten(first), shorten(second), id)
		}
		v.tokens[id] = token
	}
	return nil
}

// grow makes room for an id.
func (v *vocabulary) grow(token string, id int32) error {
	if n := len(v.ids) + len(v.extra); int(id) >= maxGaps*n+minGapRoom {
		return fmt.Errorf("token %s has id %d, far out of the range of %d tokens", shorten(token), id, n)
	}
	for int(id) >= len(v.tokens) {
		v.tokens = append(v.tokens, hole)
	}
	return nil
}

// addExtra notes an added token, which may be one of the model's, after index.
func (v *vocabulary) addExtra(token string, id int64) error {
	if err := v.check(token, id); err != nil {
		return err
	}
	if token == "" {
		return fmt.Errorf("the token with id %d is empty", id)
	}
	if known := v.get(token); known != none {
		if int64(known) != id {
			return fmt.Errorf("token %s is to have id %d, but has id %d", shorten(token), id, known)
		}
		return nil
	}
	if err := v.grow(token, int32(id)); err != nil {
		return err
	}
	if other := v.tokens[id]; other != hole {
		return fmt.Errorf("tokens %s and %s have the same id %d", shorten(other), shorten(token), id)
	}
	v.tokens[id] = token
	v.extra[token] = int32(id)
	return nil
}

// get returns the id of a token, or none.
func (v *vocabulary) get(token string) int32 {
	if id, ok := v.ids[token]; ok {
		return id
	}
	if id, ok := v.extra[token]; ok {
		return id
	}
	return none
}

// readMap reads an object of ids by token, which is known to be JSON. (Large vocabularies make the general decoder too slow here.)
func (v *vocabulary) readMap(raw []byte) error {
	raw = skipSpace(raw)
	if raw[0] != '{' {
		return errors.New("an object of ids by token is expected here")
	}
	for raw = skipSpace(raw[1:]); raw[0] != '}'; {
		token, rest, err := cutString(raw)
		if err != nil {
			return err
		}
		raw = skipSpace(rest[1:]) // after the colon
		n := bytes.IndexAny(raw, ",}] \t\r\n")
		id, err := strconv.ParseInt(string(raw[:n]), 10, 64)
		if err != nil {
			return fmt.Errorf("the id of token %s is %s, not a whole number", shorten(token), shorten(string(raw[:n])))
		}
		if err := v.add(token, id); err != nil {
			return err
		}
		if raw = skipSpace(raw[n:]); raw[0] == ',' {
			raw = skipSpace(raw[1:])
		}
	}
	return nil
}

// skipSpace returns what comes after white space.
func skipSpace(raw []byte) []byte { return bytes.TrimLeft(raw, " \t\r\n") }

// cutString reads the string that raw, known to be JSON, begins with. It returns what comes after it and white space.
func cutString(raw []byte) (s string, rest []byte, err error) {
	end := 1
	for raw[end] != '"' {
		if raw[end] == '\\' {
			end++
		}
		end++
	}
	end++
	if literal := raw[:end]; bytes.IndexByte(literal, '\\') < 0 {
		s = string(literal[1 : end-1])
	} else if err := json.Unmarshal(literal, &s); err != nil {
		return "", nil, err
	}
	return s, skipSpace(raw[end:]), nil
}

// readLines reads a vocab.txt: a token in each line, with the number of the line as its id.
func (v *vocabulary) readLines(text string) error {
	var id int64
	for line := range strings.Lines(text) {
		if err := v.add(strings.TrimRight(line, "\r\n"), id); err != nil {
			return err
		}
		id++
	}
	return nil
}

// scored is a token with the logarithm of its probability, in JSON an array of the two.
type scored struct {
	token string
	score float64
}

func (s *scored) UnmarshalJSON(raw []byte) error {
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 ||
		json.Unmarshal(pair[0], &s.token) != nil || json.Unmarshal(pair[1], &s.score) != nil {
		return fmt.Errorf("%s is not a token with its score", shorten(string(raw)))
	}
	return nil
}

// mergePair is two tokens that merge.
type mergePair [2]string

// mergeList are merges, in JSON a list of arrays of two tokens, or of strings with a space between the two.
type mergeList []mergePair

// UnmarshalJSON is called with valid JSON only.
func (l *mergeList) UnmarshalJSON(raw []byte) error {
	if raw[0] == 'n' { // null
		return nil
	}
	if raw[0] != '[' {
		return errors.New("model.merges: a list of merges is expected here")
	}
	*l = mergeList{}
	for raw = skipSpace(raw[1:]); raw[0] != ']'; {
		var m mergePair
		start := raw
		bad := func() error {
			return fmt.Errorf("model.merges[%d]: %s is not a pair of tokens", len(*l), shorten(string(start[:min(len(start), 80)])))
		}
		var err error
		switch raw[0] {
		case '"':
			var line string
			if line, raw, err = cutString(raw); err == nil {
				err = m.parse(line)
			}
			if err != nil {
				return fmt.Errorf("model.merges[%d]: %w", len(*l), err)
			}
		case '[':
			raw = skipSpace(raw[1:])
			for i := range m {
				if raw[0] != '"' {
					return bad()
				}
				if m[i], raw, err = cutString(raw); err != nil {
					return err
				}
				if raw[0] != ",]"[i] {
					return bad()
				}
				raw = skipSpace(raw[1:])
			}
		default:
			return bad()
		}
		if raw[0] == ',' {
			raw = skipSpace(raw[1:])
		}
		*l = append(*l, m)
	}
	return nil
}

func (m *mergePair) parse(line string) error {
	left, right, ok := strings.Cut(line, " ")
	if !ok || left == "" || right == "" || strings.Contains(right, " ") {
		return fmt.Errorf("%s is not two tokens with a space between them", shorten(line))
	}
	*m = mergePair{left, right}
	return nil
}

// readMerges reads a merges.txt: a merge in each line, after a line that says the version.
func readMerges(text string) ([]mergePair, error) {
	var merges []mergePair
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.HasPrefix(line, "#version") {
			continue
		}
		var m mergePair
		if err := m.parse(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		merges = append(merges, m)
	}
	return merges, nil
}
