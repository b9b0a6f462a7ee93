package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxConfig bounds the JSON files of a checkpoint, in bytes. The longest real
// ones name each of tens of thousands of classes.
const maxConfig = 64 << 20

// Config is a JSON object, as config.json is one. The zero value is empty.
type Config struct {
	file   string
	path   string // of the object inside the file: "text_config."; empty: the file's own
	fields map[string]json.RawMessage
}

// ParseConfig reads an object. file is what errors call it. Errors are *Error.
func ParseConfig(file string, data []byte) (*Config, error) {
	c := &Config{file: file}
	if err := unmarshal(data, &c.fields); err != nil {
		return nil, &Error{File: file, Err: err, Remedy: "fetch or write the file again"}
	}
	return c, nil
}

// ReadConfig reads a JSON file that is an object. Errors are *Error.
func ReadConfig(file string) (*Config, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	return ParseConfig(file, data)
}

// Raw is what stands in the object, by field. It must not be changed.
func (c *Config) Raw() map[string]json.RawMessage { return c.fields }

// openRegular opens a file that is one: opening a pipe might never return.
func openRegular(file string) (*os.File, fs.FileInfo, error) {
	if info, err := os.Stat(file); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func readSmall(file string) ([]byte, error) {
	f, _, err := openRegular(file)
	if err != nil {
		return nil, &Error{File: file, Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, &Error{File: file, Err: err}
	}
	if len(data) > maxConfig {
		return nil, &Error{File: file, Found: fmt.Sprintf("more than %d bytes", maxConfig), Wanted: "a small JSON file"}
	}
	return data, nil
}

// unmarshal is json.Unmarshal with errors that say where, and null refused.
func unmarshal(data []byte, v any) error {
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return errors.New("found null")
	}
	err := json.Unmarshal(data, v)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("no valid JSON at byte %d: %w", syntax.Offset, err)
	case errors.As(err, &kind):
		where := ""
		if kind.Field != "" {
			where = kind.Field + ": "
		}
		return fmt.Errorf("%sfound a JSON %s at byte %d", where, kind.Value, kind.Offset)
	}
	return err
}

// Fields reads a config's values. It keeps the first error, after which every
// value is zero, so that a reader may ask for all it needs and look once. A field
// that is null counts as missing, as transformers writes defaults so.
type Fields struct {
	c   *Config
	err *error
}

// Fields begins to read. A nil config is empty.
func (c *Config) Fields() Fields {
	if c == nil {
		c = &Config{}
	}
	return Fields{c: c, err: new(error)}
}

// Err is the first error, of type *Error.
func (f Fields) Err() error { return *f.err }

// Fail records that a field can't be used.
func (f Fields) Fail(name, found, wanted, remedy string) {
	if *f.err == nil {
		*f.err = &Error{File: f.c.file, Field: f.c.path + name, Found: found, Wanted: wanted, Remedy: remedy}
	}
}

// Has reports whether a field is there and not null.
func (f Fields) Has(name string) bool {
	raw, ok := f.c.fields[name]
	return ok && !bytes.Equal(raw, []byte("null"))
}

// Null reports whether a field is there and null, for those where that says more
// than a missing one.
func (f Fields) Null(name string) bool {
	raw, ok := f.c.fields[name]
	return ok && bytes.Equal(raw, []byte("null"))
}

// IsObject reports whether a field is an object.
func (f Fields) IsObject(name string) bool { return f.Has(name) && f.c.fields[name][0] == '{' }

// IsList reports whether a field is a list.
func (f Fields) IsList(name string) bool { return f.Has(name) && f.c.fields[name][0] == '[' }

// get returns a field's JSON text; wanted is for the error where it is missing.
func (f Fields) get(name, wanted string) (json.RawMessage, bool) {
	if *f.err != nil {
		return nil, false
	}
	if !f.Has(name) {
		remedy := ""
		var names []string
		for n := range f.c.fields {
			names = append(names, n)
		}
		if alike := Alike(name, names, 1); len(alike) > 0 {
			remedy = "there is " + strconv.Quote(alike[0])
		}
		f.Fail(name, "it is missing", wanted, remedy)
		return nil, false
	}
	return f.c.fields[name], true
}

// found shows a field's value in an error.
func found(raw json.RawMessage) string {
	const most = 60
	if len(raw) > most {
		return "found " + strings.ToValidUTF8(string(raw[:most]), "") + "..."
	}
	return "found " + string(raw)
}

// Int reads a whole number from lo to hi.
func (f Fields) Int(name string, lo, hi int64) int64 {
	wanted := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	raw, ok := f.get(name, wanted)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < lo || n > hi {
		f.Fail(name, found(raw), wanted, "")
		return 0
	}
	return n
}

// IntOr is Int with a default for a missing field.
func (f Fields) IntOr(name string, def, lo, hi int64) int64 {
	if !f.Has(name) {
		return def
	}
	return f.Int(name, lo, hi)
}

// FloatOr reads a number from lo to hi, with a default for a missing field.
func (f Fields) FloatOr(name string, def, lo, hi float64) float64 {
	if !f.Has(name) {
		return def
	}
	wanted := fmt.Sprintf("a number from %g to %g", lo, hi)
	raw, ok := f.get(name, wanted)
	if !ok {
		return 0
	}
	var v float64
	if err := json.Unmarshal(raw, &v); err != nil || v < lo || v > hi {
		f.Fail(name, found(raw), wanted, "")
		return 0
	}
	return v
}

// Float reads a number from lo to hi.
func (f Fields) Float(name string, lo, hi float64) float64 {
	if !f.Has(name) {
		f.get(name, fmt.Sprintf("a number from %g to %g", lo, hi))
		return 0
	}
	return f.FloatOr(name, 0, lo, hi)
}

// Floats reads a list of numbers; a missing field is an empty one.
func (f Fields) Floats(name string) []float64 {
	if !f.Has(name) {
		return nil
	}
	return read[[]float64](f, name, "a list of numbers")
}

// Ints reads a whole number from lo to hi, or a list of them; a missing field is an
// empty one.
func (f Fields) Ints(name string, lo, hi int64) []int64 {
	if !f.Has(name) {
		return nil
	}
	raw := f.c.fields[name]
	if raw[0] != '[' {
		return []int64{f.Int(name, lo, hi)}
	}
	wanted := fmt.Sprintf("whole numbers from %d to %d", lo, hi)
	list := read[[]int64](f, name, wanted)
	for _, n := range list {
		if n < lo || n > hi {
			f.Fail(name, found(raw), wanted, "")
			return nil
		}
	}
	return list
}

// IntLists reads a list of lists of whole numbers from lo to hi; a missing field is an
// empty one.
func (f Fields) IntLists(name string, lo, hi int64) [][]int64 {
	if !f.Has(name) {
		return nil
	}
	wanted := fmt.Sprintf("lists of whole numbers from %d to %d", lo, hi)
	lists := read[[][]int64](f, name, wanted)
	for _, list := range lists {
		for _, n := range list {
			if n < lo || n > hi {
				f.Fail(name, found(f.c.fields[name]), wanted, "")
				return nil
			}
		}
	}
	return lists
}

// Names lists the fields that are there and not null, sorted.
func (f Fields) Names() []string {
	var names []string
	for name := range f.c.fields {
		if f.Has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// BoolOr reads true or false, with a default for a missing field.
func (f Fields) BoolOr(name string, def bool) bool {
	if !f.Has(name) {
		return def
	}
	return read[bool](f, name, "true or false")
}

// String reads a string.
func (f Fields) String(name string) string {
	return read[string](f, name, "a string")
}

// StringOr is String with a default for a missing field.
func (f Fields) StringOr(name, def string) string {
	if !f.Has(name) {
		return def
	}
	return f.String(name)
}

// Strings reads a list of strings; a missing field is an empty one.
func (f Fields) Strings(name string) []string {
	if !f.Has(name) {
		return nil
	}
	return read[[]string](f, name, "a list of strings")
}

// StringMap reads an object of strings; a missing field is an empty one.
func (f Fields) StringMap(name string) map[string]string {
	if !f.Has(name) {
		return nil
	}
	return read[map[string]string](f, name, "an object of strings")
}

// ObjectOr is Object with an empty one for a missing field.
func (f Fields) ObjectOr(name string) Fields {
	if !f.Has(name) {
		return Fields{c: &Config{file: f.c.file, path: f.c.path + name + "."}, err: f.err}
	}
	return f.Object(name)
}

// Object reads a config inside the config. Its errors are f's.
func (f Fields) Object(name string) Fields {
	sub := &Config{file: f.c.file, path: f.c.path + name + "."}
	sub.fields = read[map[string]json.RawMessage](f, name, "an object")
	return Fields{c: sub, err: f.err}
}

func read[T any](f Fields, name, wanted string) (v T) {
	raw, ok := f.get(name, wanted)
	if !ok {
		return v
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		f.Fail(name, found(raw), wanted, "")
		var zero T
		return zero
	}
	return v
}

// oneOrMore reads a string or a list of at least one.
func (f Fields) oneOrMore(name string) []string {
	raw, ok := f.get(name, "a string or a list of strings")
	if !ok {
		return nil
	}
	if raw[0] == '"' {
		return []string{f.String(name)}
	}
	list := read[[]string](f, name, "a string or a list of strings")
	if len(list) == 0 {
		f.Fail(name, found(raw), "a string or a list of strings", "")
	}
	return list
}
