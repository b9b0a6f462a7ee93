package config

import (
	stdbytes "bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// node is a value as somebody wrote it.
type node struct {
	line  int
	value any // string, int64, float64, bool, nil; or for a map or list:
	pairs []pair
	items []*node
	shape shape
}

type shape int

const (
	scalar shape = iota
	mapping
	sequence
)

type pair struct {
	key  string
	line int
	node *node
}

// What a configuration may be at most; more is somebody's mistake or malice.
const (
	maxFileBytes = 4 << 20
	maxNodes     = 200_000
	maxDepth     = 64
)

// parseError is a syntax error, with its line where one is known.
type parseError struct {
	line    int
	problem string
}

func (e *parseError) Error() string { return e.problem }

// parseFile reads a YAML or JSON file, told by its name.
func parseFile(path string) (*node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("it is longer than %v", Bytes(maxFileBytes))
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml":
		return parseYAML(data)
	case ".json":
		return parseJSON(data)
	}
	return nil, fmt.Errorf("its name ends neither in .yaml nor .yml nor .json")
}

// parseYAML reads one YAML document into nodes. Duplicate keys, tags of other
// types and more than one document are refused.
func parseYAML(data []byte) (*node, error) {
	if !utf8.Valid(data) {
		return nil, &parseError{problem: "it is not valid UTF-8"}
	}
	dec := yaml.NewDecoder(stdbytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return &node{shape: mapping}, nil
	} else if err != nil {
		return nil, yamlError(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		return nil, &parseError{more.Line, "a second document begins here; a file holds one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	left := maxNodes
	return fromYAML(doc.Content[0], 0, &left)
}

// yamlError takes the line out of the library's words.
func yamlError(err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if num, problem, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(num); err == nil {
				return &parseError{line, problem}
			}
		}
	}
	return &parseError{problem: msg}
}

func fromYAML(y *yaml.Node, depth int, left *int) (*node, error) {
	if *left--; *left < 0 {
		return nil, &parseError{y.Line, fmt.Sprintf("there are more than %d values", maxNodes)}
	}
	if depth > maxDepth {
		return nil, &parseError{y.Line, fmt.Sprintf("values lie more than %d deep", maxDepth)}
	}
	n := &node{line: y.Line}
	switch y.Kind {
	case yaml.AliasNode:
		a, err := fromYAML(y.Alias, depth+1, left)
		if err != nil {
			return nil, err
		}
		a.line = y.Line
		return a, nil
	case yaml.MappingNode:
		n.shape = mapping
		seen := map[string]int{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			k := y.Content[i]
			if k.Kind != yaml.ScalarNode {
				return nil, &parseError{k.Line, "a key is not plain text"}
			}
			if at, ok := seen[k.Value]; ok {
				return nil, &parseError{k.Line, fmt.Sprintf("key %q was already given in line %d", k.Value, at)}
			}
			seen[k.Value] = k.Line
			v, err := fromYAML(y.Content[i+1], depth+1, left)
			if err != nil {
				return nil, err
			}
			n.pairs = append(n.pairs, pair{k.Value, k.Line, v})
		}
	case yaml.SequenceNode:
		n.shape = sequence
		for _, c := range y.Content {
			v, err := fromYAML(c, depth+1, left)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, v)
		}
	case yaml.ScalarNode:
		var err error
		if n.value, err = yamlScalar(y); err != nil {
			return nil, err
		}
	default:
		return nil, &parseError{y.Line, "this is neither a value, a list nor a map"}
	}
	return n, nil
}

func yamlScalar(y *yaml.Node) (any, error) {
	var err error
	switch tag := y.ShortTag(); tag {
	case "!!str", "!!timestamp":
		return y.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if err = y.Decode(&b); err == nil {
			return b, nil
		}
	case "!!int":
		var i int64
		if err = y.Decode(&i); err == nil {
			return i, nil
		}
	case "!!float":
		var f float64
		if err = y.Decode(&f); err == nil {
			return f, nil
		}
	default:
		return nil, &parseError{y.Line, fmt.Sprintf("values of type %s are not taken", tag)}
	}
	return nil, &parseError{y.Line, fmt.Sprintf("%s can't be read: %v", y.Value, err)}
}

// parseJSON reads one JSON value into nodes. Duplicate keys and anything after
// the value are refused.
func parseJSON(data []byte) (*node, error) {
	if !utf8.Valid(data) {
		return nil, &parseError{problem: "it is not valid UTF-8"}
	}
	p := &jsonParser{data: data, dec: json.NewDecoder(stdbytes.NewReader(data)), left: maxNodes}
	p.dec.UseNumber()
	n, err := p.value(0)
	if err != nil {
		return nil, p.error(err)
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &parseError{p.line(), "something follows the end of the object"}
	}
	return n, nil
}

type jsonParser struct {
	data    []byte
	dec     *json.Decoder
	left    int
	counted int64 // bytes of data whose line ends are in lines
	lines   int
}

// line is that of the token read last.
func (p *jsonParser) line() int {
	at := p.dec.InputOffset()
	p.lines += stdbytes.Count(p.data[p.counted:at], []byte("\n"))
	p.counted = at
	return 1 + p.lines
}

func (p *jsonParser) error(err error) error {
	var pe *parseError
	if errors.As(err, &pe) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &parseError{p.line(), "it ends in the middle of a value"}
	}
	return &parseError{p.line(), err.Error()}
}

func (p *jsonParser) value(depth int) (*node, error) {
	if p.left--; p.left < 0 {
		return nil, &parseError{p.line(), fmt.Sprintf("there are more than %d values", maxNodes)}
	}
	if depth > maxDepth {
		return nil, &parseError{p.line(), fmt.Sprintf("values lie more than %d deep", maxDepth)}
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &node{line: p.line()}
	switch t := tok.(type) {
	case json.Delim:
		if t == '{' {
			n.shape = mapping
			seen := map[string]bool{}
			for p.dec.More() {
				tok, err := p.dec.Token()
				if err != nil {
					return nil, err
				}
				key, line := tok.(string), p.line()
				if seen[key] {
					return nil, &parseError{line, fmt.Sprintf("key %q is given twice", key)}
				}
				seen[key] = true
				v, err := p.value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.pairs = append(n.pairs, pair{key, line, v})
			}
		} else {
			n.shape = sequence
			for p.dec.More() {
				v, err := p.value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.items = append(n.items, v)
			}
		}
		_, err = p.dec.Token()
		return n, err
	case json.Number:
		if i, err := t.Int64(); err == nil {
			n.value = i
		} else if n.value, err = t.Float64(); err != nil {
			return nil, &parseError{n.line, fmt.Sprintf("the number %s can't be held", t)}
		}
	default:
		n.value = t
	}
	return n, nil
}

// plain returns what a node holds as Go's own types.
func (n *node) plain() any {
	switch n.shape {
	case mapping:
		m := make(map[string]any, len(n.pairs))
		for _, p := range n.pairs {
			m[p.key] = p.node.plain()
		}
		return m
	case sequence:
		l := make([]any, len(n.items))
		for i, v := range n.items {
			l[i] = v.plain()
		}
		return l
	}
	return n.value
}

// fromPlain is the reverse of plain.
func fromPlain(v any) *node {
	switch t := v.(type) {
	case map[string]any:
		n := &node{shape: mapping}
		for k, v := range t {
			n.pairs = append(n.pairs, pair{key: k, node: fromPlain(v)})
		}
		return n
	case []string:
		n := &node{shape: sequence}
		for _, s := range t {
			n.items = append(n.items, &node{value: s})
		}
		return n
	case int:
		return &node{value: int64(t)}
	}
	return &node{value: v}
}

// describe says what a node is, for errors.
func (n *node) describe() string {
	switch n.shape {
	case mapping:
		return "a map"
	case sequence:
		return "a list"
	}
	switch v := n.value.(type) {
	case nil:
		return "nothing"
	case string:
		return "the text " + strconv.Quote(v)
	case bool:
		return fmt.Sprintf("%v", v)
	default:
		return fmt.Sprintf("the number %v", v)
	}
}
