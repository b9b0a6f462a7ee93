package checkpoint

import (
	"errors"
	"strings"
	"testing"
)

func TestFields(t *testing.T) {
	const text = `{"n": 12, "big": 9e9, "f": 1e-12, "s": "gelu", "b": true, "null": null, "list": ["a","b"], "map": {"k":"v"}, "sub": {"n": 3}, "hidden_size": 8}`
	c, err := ParseConfig("config.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		read func(f Fields) any
		want any    // where there is no error
		err  string // in the error, else
	}{
		{"int", func(f Fields) any { return f.Int("n", 1, 12) }, int64(12), ""},
		{"int too large", func(f Fields) any { return f.Int("n", 1, 11) }, nil, "config.json: n: found 12, wanted a whole number from 1 to 11"},
		{"int missing", func(f Fields) any { return f.Int("m", 1, 11) }, nil, "m: it is missing, wanted a whole number"},
		{"int misspelt", func(f Fields) any { return f.Int("hiden_size", 1, 11) }, nil, `there is "hidden_size"`},
		{"int null", func(f Fields) any { return f.Int("null", 1, 11) }, nil, "null: it is missing"},
		{"int null with default", func(f Fields) any { return f.IntOr("null", 5, 1, 11) }, int64(5), ""},
		{"int of exponent", func(f Fields) any { return f.Int("big", 1, 1<<40) }, nil, "big: found 9e9"},
		{"int of string", func(f Fields) any { return f.IntOr("s", 5, 1, 11) }, nil, `s: found "gelu"`},
		{"float", func(f Fields) any { return f.FloatOr("f", 1, 0, 1) }, 1e-12, ""},
		{"float of int", func(f Fields) any { return f.FloatOr("n", 1, 0, 100) }, 12.0, ""},
		{"float out of range", func(f Fields) any { return f.FloatOr("n", 1, 0, 1) }, nil, "wanted a number from 0 to 1"},
		{"float default", func(f Fields) any { return f.FloatOr("m", .5, 0, 1) }, .5, ""},
		{"bool", func(f Fields) any { return f.BoolOr("b", false) }, true, ""},
		{"bool of int", func(f Fields) any { return f.BoolOr("n", false) }, nil, "n: found 12, wanted true or false"},
		{"string", func(f Fields) any { return f.String("s") }, "gelu", ""},
		{"string of bool", func(f Fields) any { return f.StringOr("b", "x") }, nil, "b: found true, wanted a string"},
		{"strings", func(f Fields) any { return strings.Join(f.Strings("list"), " ") }, "a b", ""},
		{"strings of string", func(f Fields) any { return f.Strings("s") }, nil, "wanted a list of strings"},
		{"map", func(f Fields) any { return f.StringMap("map")["k"] }, "v", ""},
		{"map of ints", func(f Fields) any { return f.StringMap("sub") }, nil, `sub: found {"n": 3}`},
		{"object", func(f Fields) any { return f.Object("sub").Int("n", 1, 3) }, int64(3), ""},
		{"in object", func(f Fields) any { return f.Object("sub").Int("n", 4, 5) }, nil, "config.json: sub.n: found 3"},
		{"object missing", func(f Fields) any { return f.Object("m").Int("n", 1, 3) }, nil, "m: it is missing, wanted an object"},
		{"one string", func(f Fields) any { return strings.Join(f.oneOrMore("s"), " ") }, "gelu", ""},
		{"more strings", func(f Fields) any { return strings.Join(f.oneOrMore("list"), " ") }, "a b", ""},
		{"first error stays", func(f Fields) any { f.Int("m", 1, 2); return f.String("n") }, nil, "m: it is missing"},
	}
	for _, c2 := range cases {
		t.Run(c2.name, func(t *testing.T) {
			f := c.Fields()
			got := c2.read(f)
			if c2.err == "" {
				if f.Err() != nil || got != c2.want {
					t.Errorf("found %v and %v, wanted %v", got, f.Err(), c2.want)
				}
				return
			}
			var e *Error
			if !errors.As(f.Err(), &e) || !strings.Contains(e.Error(), c2.err) {
				t.Errorf("found %v, wanted an *Error with %q", f.Err(), c2.err)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, text := range []string{"", "null", "[]", "3", `{"a":`, `{"a":NaN}`, `{}x`} {
		_, err := ParseConfig("config.json", []byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "config.json: ") {
			t.Errorf("%q: found %v, wanted an *Error that names the file", text, err)
		}
	}
}

func TestAlike(t *testing.T) {
	names := []string{"encoder.layer.0.query.weight", "bert.encoder.layer.0.query.weight", "pooler.weight"}
	got := Alike("encoder.layers.0.query.weight", names, 2)
	if len(got) != 2 || got[0] != names[0] || got[1] != names[1] {
		t.Errorf("found %q", got)
	}
	if got := Alike("xyz", names, 2); len(got) != 0 {
		t.Errorf("found %q like xyz", got)
	}
}
