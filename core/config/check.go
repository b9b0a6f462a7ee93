package config

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker turns nodes of one source into values of the types that the struct
// wants, and notes where each comes from.
type checker struct {
	origin  Origin
	dir     string // relative paths are meant from here; empty: from the working folder
	origins map[string]Origin
	errs    *Errors
}

// keyPath leads to a value, from the root.
type keyPath []string

func (k keyPath) child(name string) keyPath { return append(k[:len(k):len(k)], name) }

// String joins with dots, quoting names that hold more than a key's usual letters.
func (k keyPath) String() string {
	parts := make([]string, len(k))
	for i, p := range k {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			p = strconv.Quote(p)
		}
		parts[i] = p
	}
	return strings.Join(parts, ".")
}

func (c *checker) at(line int) Origin {
	o := c.origin
	o.Line = line
	return o
}

func (c *checker) fail(key keyPath, s *spec, n *node, problem, remedy string) {
	e := &Error{Key: key.String(), Origin: c.at(n.line), Problem: problem, Remedy: remedy}
	if n.shape == scalar && n.value != nil {
		e.Value = fmt.Sprint(n.value)
		if v, ok := n.value.(string); ok {
			e.Value = strconv.Quote(v)
		}
	}
	if s != nil && s.kind == secret {
		e.Value = redacted
	}
	*c.errs = append(*c.errs, e)
}

// wrong reports a value of another type than is wanted.
func (c *checker) wrong(key keyPath, s *spec, n *node, remedy string) {
	found := n.describe()
	if s.kind == secret && n.shape == scalar {
		found = "something else"
	}
	c.fail(key, s, n, fmt.Sprintf("want %s, found %s", s.kind, found), remedy)
}

// section checks the names of a section and their values. What comes back holds
// the good ones only.
func (c *checker) section(s *spec, n *node, key keyPath) map[string]any {
	out := map[string]any{}
	if n.shape == scalar && n.value == nil {
		return out
	}
	if n.shape != mapping {
		c.wrong(key, s, n, "it holds: "+strings.Join(s.names(), ", "))
		return out
	}
	for _, p := range n.pairs {
		f := s.field(p.key)
		if f == nil {
			c.unknown(s, p, key)
			continue
		}
		if v, ok := c.value(f, p.node, key.child(p.key)); ok {
			out[p.key] = v
		}
	}
	return out
}

func (c *checker) unknown(s *spec, p pair, key keyPath) {
	remedy := ""
	if near := Nearest(p.key, s.names()); near != "" {
		remedy = fmt.Sprintf("did you mean %q?", key.child(near).String())
	} else {
		for _, root := range []*spec{configSpec, runSpec} {
			root.paths("", func(path string, f *spec) {
				if f.name == p.key && f.settable() && remedy == "" {
					remedy = fmt.Sprintf("did you mean %q?", path)
				}
			})
		}
	}
	if remedy == "" {
		remedy = "known here: " + strings.Join(s.names(), ", ")
	}
	c.fail(key.child(p.key), nil, &node{line: p.line}, "unknown key", remedy)
}

// value checks one value. ok is false where it was refused, or nothing was given.
func (c *checker) value(s *spec, n *node, key keyPath) (v any, ok bool) {
	before := len(*c.errs)
	switch {
	case s.kind == section:
		return c.section(s, n, key), true
	case n.shape == scalar && n.value == nil && (s.kind == table || s.kind == list):
		return nil, false // `models:` and nothing below it
	case s.kind == table:
		v = c.table(s, n, key)
	case s.kind == list:
		v = c.list(s, n, key)
	case s.kind == free:
		v = c.free(s, n, key)
	case n.shape != scalar:
		c.wrong(key, s, n, "")
	default:
		v = c.scalar(s, n, key)
	}
	if len(*c.errs) > before && s.kind != table {
		return nil, false
	}
	if s.kind != table {
		c.origins[key.String()] = c.at(n.line)
	}
	return v, true
}

func (c *checker) table(s *spec, n *node, key keyPath) any {
	if n.shape != mapping {
		c.wrong(key, s, n, "")
		return nil
	}
	out := map[string]any{}
	for _, p := range n.pairs {
		if strings.TrimSpace(p.key) == "" || strings.ContainsAny(p.key, delim+"\n\r\t") {
			c.fail(key.child(p.key), nil, &node{line: p.line}, "a name must be visible text in one line", "")
			continue
		}
		if v, ok := c.value(s.elem, p.node, key.child(p.key)); ok {
			out[p.key] = v
			if s.elem.kind == section {
				c.origins[key.child(p.key).String()] = c.at(p.line)
			}
		}
	}
	return out
}

func (c *checker) list(s *spec, n *node, key keyPath) any {
	if n.shape != sequence {
		c.wrong(key, s, n, "write [a, b] even for one entry")
		return nil
	}
	if s.min != nil && int64(len(n.items)) < *s.min {
		c.fail(key, s, n, fmt.Sprintf("want %d entries or more, found %d", *s.min, len(n.items)), "")
		return nil
	}
	out := make([]any, 0, len(n.items))
	for i, item := range n.items {
		if v, ok := c.value(s.elem, item, key.child(strconv.Itoa(i))); ok {
			out = append(out, v)
		}
		delete(c.origins, key.child(strconv.Itoa(i)).String())
	}
	return out
}

// free takes anything that JSON can say; a text may be a path.
func (c *checker) free(s *spec, n *node, key keyPath) any {
	v := n.plain()
	if path, ok := v.(string); ok && s.path {
		return c.resolve(path)
	}
	if _, err := json.Marshal(v); err != nil {
		c.fail(key, nil, n, "it is handed on as JSON, which can't say this", "")
	}
	return v
}

func (c *checker) scalar(s *spec, n *node, key keyPath) any {
	switch s.kind {
	case text, secret:
		v, ok := n.value.(string)
		if !ok {
			remedy := ""
			if n.value != nil {
				remedy = "quote it"
			}
			c.wrong(key, s, n, remedy)
			return nil
		}
		if v == "" {
			return v
		}
		if len(s.enum) > 0 && !slices.Contains(s.enum, v) {
			remedy := "it takes: " + strings.Join(s.enum, ", ")
			if near := Nearest(v, s.enum); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			c.fail(key, s, n, "unknown value", remedy)
			return nil
		}
		if s.format != "" {
			if err := formats[s.format].check(v); err != nil {
				c.fail(key, s, n, err.Error(), "")
				return nil
			}
		}
		if s.path {
			return c.resolve(v)
		}
		return v
	case boolean:
		if v, ok := n.value.(bool); ok {
			return v
		}
		c.wrong(key, s, n, "")
	case integer:
		v, ok := n.value.(int64)
		if !ok || v > math.MaxInt32 || v < math.MinInt32 {
			c.wrong(key, s, n, "")
			return nil
		}
		return c.atLeast(key, s, n, v, int(v))
	case duration:
		v, ok := n.value.(string)
		d, err := time.ParseDuration(v)
		if !ok || err != nil {
			c.wrong(key, s, n, "write it with its unit, such as 500ms, 30s or 2m")
			return nil
		}
		return c.atLeast(key, s, n, int64(d), d)
	case bytes:
		switch v := n.value.(type) {
		case int64:
			return c.atLeast(key, s, n, v, Bytes(v))
		case string:
			b, err := ParseBytes(v)
			if err != nil {
				c.fail(key, s, n, err.Error(), "")
				return nil
			}
			return c.atLeast(key, s, n, int64(b), b)
		}
		c.wrong(key, s, n, "such as 1048576, 512MB or 20GiB")
	}
	return nil
}

// atLeast returns v where n is not below the smallest that the key takes.
func (c *checker) atLeast(key keyPath, s *spec, at *node, n int64, v any) any {
	least := int64(0)
	if s.kind == integer {
		least = math.MinInt64
	}
	if s.min != nil {
		least = *s.min
	}
	if n >= least {
		return v
	}
	want := strconv.FormatInt(least, 10)
	if s.kind == duration {
		want = "0s"
		if least > 0 {
			c.fail(key, s, at, "want more than 0s", "")
			return nil
		}
	}
	c.fail(key, s, at, "want "+want+" or more", "")
	return nil
}

// hubScheme begins paths of models in the hub's cache, which no folder can be joined to.
const hubScheme = "hub:"

// resolve makes a path of a file mean the same from every working folder.
func (c *checker) resolve(path string) string {
	if strings.HasPrefix(path, hubScheme) {
		return path
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, filepath.FromSlash(rest))
		}
	}
	path = filepath.FromSlash(path)
	if c.dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.dir, path)
}
