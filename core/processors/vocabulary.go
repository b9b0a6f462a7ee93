package processors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// readMap reads a JSON object of ids by token.
func (v *vocabulary) readMap(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("an object of ids by token is expected here")
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		number, err := d.Token()
		if err != nil {
			return err
		}
		n, ok := number.(json.Number)
		if !ok {
			return fmt.Errorf("the id of token %s is not a number", shorten(token.(string)))
		}
		id, err := n.Int64()
		if err != nil {
			return fmt.Errorf("the id of token %s is %s, not a whole number", shorten(token.(string)), shorten(n.String()))
		}
		if err := v.add(token.(string), id); err != nil {
			return err
		}
	}
	return nil
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

// mergePair is two tokens that merge, in JSON an array of the two, or one string with a space between them.
type mergePair [2]string

func (m *mergePair) UnmarshalJSON(raw []byte) error {
	var pair []string
	var line string
	switch {
	case json.Unmarshal(raw, &pair) == nil && len(pair) == 2:
		*m = mergePair(pair)
		return nil
	case json.Unmarshal(raw, &line) == nil:
		return m.parse(line)
	}
	return fmt.Errorf("%s is not a pair of tokens", shorten(string(raw)))
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
