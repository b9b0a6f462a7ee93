package jinja

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestBounds has templates that would take a machine down.
func TestBounds(t *testing.T) {
	if testing.Short() {
		t.Skip("it goes up to the bounds of time")
	}
	d := variables(t, []byte(`{"n": 7, "s": "text"}`))
	deep := func(n int, open, inner, end string) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for name, source := range map[string]string{
		"loops":           deep(4, "{% for x in range(100000) %}", "x", "{% endfor %}"),
		"empty loops":     "{% for x in range(100000) if false %}{% endfor %}" + deep(3, "{% for x in range(100000) if false or x %}", "", "{% endfor %}"),
		"long text":       "{{ 'x' * 1000000000000 }}",
		"long list":       "{{ ([1] * 1000000000) | length }}",
		"doubling":        "{% set ns = namespace(x='x') %}{% for i in range(1000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
		"doubling list":   "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
		"replacing":       "{% set ns = namespace(x='xx') %}{% for i in range(1000) %}{% set ns.x = ns.x.replace('x', 'xxxxxxxx') %}{% endfor %}",
		"joining":         "{% set ns = namespace(x='xx') %}{% for i in range(1000) %}{% set ns.x = (range(1000) | list) | join(ns.x) %}{% endfor %}",
		"recursion":       "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"wide recursion":  "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
		"loop recursion":  "{% for x in [[]] recursive %}{{ loop([[x]]) }}{% endfor %}",
		"caller":          "{% macro m() %}{% call m() %}{{ caller }}{% endcall %}{{ 0 and caller() }}{% endmacro %}{{ m() }}",
		"default":         "{% macro m(a=m()) %}{% endmacro %}{{ m() }}",
		"deep value":      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
		"deep JSON":       "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
		"deep equality":   "{% set ns = namespace(x=[], y=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
		"deep order":      "{% set ns = namespace(x=[1], y=[2]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x < ns.y }}",
		"looking":         "{% set s = 'x' * 2000000 %}{% for x in range(100000) %}{{ 'y' in s }}{% endfor %}",
		"comparing":       "{% set s = 'x' * 2000000 %}{% set z = s ~ 'y' %}{% set s = s ~ 'z' %}{% for x in range(100000) %}{{ s == z }}{% endfor %}",
		"counting":        "{% set s = 'é' * 900000 %}{% for x in range(100000) %}{{ s | length }}{{ s[1] }}{{ s.strip() }}{% endfor %}",
		"adding":          "{% set s = [1] * 200000 %}{% for x in range(100000) %}{{ s | sum }}{% endfor %}",
		"printing":        "{% set s = [1] * 200000 %}{% for x in range(100000) %}{{ s is lower }}{{ '%.1s' | format(s) }}{% endfor %}",
		"equal in pairs":  "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
		"printed pairs":   "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
		"JSON in pairs":   "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
		"empty pairs":     "{% set ns = namespace(x=()) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x in [ns.x, 1] or ns.x == [ns.x] }}",
		"cycle":           "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
		"nested brackets": "{{ " + deep(100000, "[", "", "]") + " }}",
		"nested signs":    "{{ " + strings.Repeat("-", 100000) + "1 }}",
		"nested nots":     "{{ " + strings.Repeat("not ", 100000) + "1 }}",
		"nested ifs":      deep(50000, "{% if n %}", "", "{% endif %}"),
		"nested else":     "{{ " + strings.Repeat("1 if n else ", 50000) + "1 }}",
		"long sum":        "{{ 1" + strings.Repeat(" + 1", 100000) + " }}",
		"long or":         "{{ 0" + strings.Repeat(" or 0", 100000) + " }}",
		"long path":       "{{ n" + strings.Repeat(".n", 100000) + " }}",
		"long filters":    "{{ n" + strings.Repeat("|string", 100000) + " }}",
		"nested targets":  "{% set " + deep(100000, "(", "a,", "),") + " = 1 %}",
		"much text":       strings.Repeat("x", maxSource+1),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			var got string
			template, err := Parse(source)
			if err == nil { // most of what is allowed is used up already
				got, err = template.render(&evaluator{
					source: source, out: new(strings.Builder), looks: maxSteps * scanned / 10 * 9, bytes: maxBytes / 10 * 9,
				}, d)
			}
			var e *Error
			if !errors.As(err, &e) || e.Kind != Limit {
				t.Errorf("%.20q, error %v; want one of kind Limit", got, err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestErrorsHavePlaces(t *testing.T) {
	for _, tt := range []struct {
		source string
		want   Error
	}{
		{"a\nbé {{ x.y }}", Error{Runtime, 2, 8, "there is no variable x"}},
		{"{% if x %}\n\n{% endfor %}", Error{Syntax, 3, 4, `there is no statement "endfor"`}},
		{"{% macro m() %}\n{{ raise_exception('no ' ~ 1) }}\n{% endmacro %}\n{{ m() }}", Error{Raised, 2, 19, "no 1"}},
		{"\r\n\r{{ 'abc }}", Error{Syntax, 3, 4, "the string is not closed"}},
		{"{{ 1 | nope }}", Error{Runtime, 1, 8, `there is no filter "nope"`}},
		{"{% for x in [1] %}{{ x + 'a' }}{% endfor %}", Error{Runtime, 1, 24, "an integer + a string is not possible"}},
	} {
		_, err := render(tt.source, NewDict(), time.Time{})
		var e *Error
		if !errors.As(err, &e) || *e != tt.want {
			t.Errorf("%q: error %#v, want %#v", tt.source, e, tt.want)
		}
	}
}

func TestFromJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"b": 1, "a": [1.0, 1e400, -0, true, null, "é\ud83d\udc4d"], "b": 2}`: "{'b': 2, 'a': [1.0, inf, 0, True, None, 'é👍']}",
		`123456789012345678901`: "123456789012345678901",
		`"x" 1`:                 "",
		`{"a"}`:                 "",
		`[1,`:                   "",
		``:                      "",
		strings.Repeat("[", 600) + strings.Repeat("]", 600): "",
	} {
		v, err := FromJSON([]byte(text))
		if want == "" {
			if err == nil {
				t.Errorf("%.20s: %v, want an error", text, v)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := new(evaluator).str(v); err != nil || got != want {
			t.Errorf("%s: %s, want %s; error %v", text, got, want, err)
		}
	}
}

func TestLoopsOver(t *testing.T) {
	for source, want := range map[string]bool{
		"{% for m in messages %}{{ m.content }}{% endfor %}":                                           false,
		"{% for m in messages %}{% for c in m['content'] | list %}{{ c }}{% endfor %}{% endfor %}":     true,
		"{% macro f(content) %}{% for c in content %}{{ c }}{% endfor %}{% endmacro %}":                true,
		"{% if a %}{% set x %}{% for c in m.content %}{% endfor %}{% endset %}{% endif %}":             true,
		"{% for m in messages if m.content is string %}{{ m.content | upper }}{% endfor %}":            false,
		"{% call f() %}{% for c in m.get('content') %}{% endfor %}{% endcall %}":                       true,
		"{% with a = content %}{% for x in a %}{% endfor %}{% endwith %}{# for x in content #}":        false,
		"{% generation %}{% for p in (message.content if x else []) %}{% endfor %}{% endgeneration %}": true,
	} {
		template, err := Parse(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := template.LoopsOver("content"); got != want {
			t.Errorf("%s: %v", source, got)
		}
	}
}

// FuzzParse parses any text, and says where it is wrong.
func FuzzParse(f *testing.F) {
	for _, c := range readGoldens(f).Cases {
		f.Add(c.Source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		if _, err := Parse(source); err != nil {
			checkError(t, source, err)
		}
	})
}

func checkError(t *testing.T, source string, err error) {
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error of type %T: %v", err, err)
	}
	if lines := 1 + strings.Count(source, "\n") + strings.Count(source, "\r"); e.Line < 0 || e.Line > lines || e.Column > len(source)+1 || e.Reason == "" {
		t.Fatalf("error %+v in %d lines", e, lines)
	}
}

// FuzzRender renders any text with any variables.
func FuzzRender(f *testing.F) {
	g := readGoldens(f)
	for _, c := range g.Cases {
		f.Add(c.Source, []byte(g.Data[c.Data]))
	}
	f.Fuzz(func(t *testing.T, source string, data []byte) {
		v, err := FromJSON(data)
		if err != nil {
			return
		}
		d, ok := v.(*Dict)
		if !ok {
			return
		}
		template, err := Parse(source)
		if err != nil {
			return
		}
		template.LoopsOver("content")
		first, err := template.Render(d, g.Now)
		if err != nil {
			checkError(t, source, err)
			return
		}
		if second, err := template.Render(d, g.Now); err != nil || second != first {
			t.Fatalf("the second time it renders %q, error %v; the first time %q", second, err, first)
		}
	})
}

func BenchmarkRender(b *testing.B) {
	g := readGoldens(b)
	for _, c := range g.Cases {
		if c.File == "" || c.Data != "tools" || c.Rendered == nil {
			continue
		}
		b.Run(c.File, func(b *testing.B) {
			template, err := Parse(c.Source)
			if err != nil {
				b.Fatal(err)
			}
			d := variables(b, g.Data[c.Data])
			b.ReportAllocs()
			for b.Loop() {
				if _, err := template.Render(d, g.Now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
