package reference

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func words(s tensor.Shape, list ...string) tensor.Tensor {
	return tensor.Tensor{DType: tensor.String, Shape: s, Strings: list}
}

func TestStringNormalizer(t *testing.T) {
	x := words(tensor.Shape{1, 3}, "Ärger", "ışık", "Ça")
	for _, c := range []struct {
		attrs []*graph.Attr
		want  []string
	}{
		{nil, []string{"Ärger", "ışık", "Ça"}},
		{[]*graph.Attr{graph.StringAttr("case_change_action", "UPPER")}, []string{"ÄRGER", "IŞIK", "ÇA"}},
		{[]*graph.Attr{graph.StringAttr("case_change_action", "LOWER"), {Name: "stopwords", Kind: graph.AttrStrings, Strings: []string{"ÄRGER"}}}, []string{"ışık", "ça"}},
		{[]*graph.Attr{graph.IntAttr("is_case_sensitive", 1), {Name: "stopwords", Kind: graph.AttrStrings, Strings: []string{"ÄRGER"}}}, []string{"Ärger", "ışık", "Ça"}},
		// Where capital I goes with dotless ı, IŞIK is a stop word.
		{[]*graph.Attr{graph.StringAttr("locale", "tr_TR"), {Name: "stopwords", Kind: graph.AttrStrings, Strings: []string{"IŞIK"}}}, []string{"Ärger", "Ça"}},
		{[]*graph.Attr{{Name: "stopwords", Kind: graph.AttrStrings, Strings: []string{"ärger", "ışık", "ça"}}}, []string{""}},
	} {
		out, err := evalOp(graph.DomainONNX, "StringNormalizer", values(x), 1, c.attrs...)
		if err != nil {
			t.Errorf("%v: %v", c.want, err)
			continue
		}
		got := out[0].Tensor
		if !slices.Equal(got.Strings, c.want) || !got.Shape.Equal(tensor.Shape{1, int64(len(c.want))}) {
			t.Errorf("got %q, want %q", got.Strings, c.want)
		}
	}
}

// Text counts: a loop that doubles it ends before the machine's memory does.
func TestTextMemory(t *testing.T) {
	x := words(tensor.Shape{1}, strings.Repeat("a", 1<<20))
	many := zeros(t, tensor.String, tensor.Shape{1024})
	o, _ := Lookup(graph.DomainONNX, "StringConcat", 20)
	in := values(x, many)
	_, err := o.Eval(t.Context(), node("StringConcat", in, 1), in, Env{MaxBytes: 512 << 20})
	var m *MemoryError
	if !errors.As(err, &m) {
		t.Errorf("1 GiB of text within 512 MiB: %v", err)
	}
	if _, err := o.Eval(t.Context(), node("StringConcat", in, 1), in, Env{MaxBytes: 2 << 30}); err != nil {
		t.Errorf("1 GiB of text within 2 GiB: %v", err)
	}
}

func TestRegexFullMatch(t *testing.T) {
	for pattern, want := range map[string][]byte{
		"a|ab":   {1, 1, 0}, // the whole string, not the first alternative
		"a":      {1, 0, 0},
		"(?m)a$": {1, 0, 0}, // what ends a line does not end the string
		"":       {0, 0, 0},
	} {
		out, err := evalOp(graph.DomainONNX, "RegexFullMatch", values(words(tensor.Shape{3}, "a", "ab", "a\n")), 1, graph.StringAttr("pattern", pattern))
		if err != nil || !slices.Equal(out[0].Tensor.Data, want) {
			t.Errorf("%q: %v, %v", pattern, out, err)
		}
	}
	for _, pattern := range []string{"(", "a)|(b", `\C`} {
		if _, err := evalOp(graph.DomainONNX, "RegexFullMatch", values(words(tensor.Shape{1}, "a")), 1, graph.StringAttr("pattern", pattern)); err == nil {
			t.Errorf("%q is no expression, and is taken", pattern)
		}
	}
}

func TestStringSplitEmpty(t *testing.T) {
	x := words(tensor.Shape{2}, "", "a")
	out, err := evalOp(graph.DomainONNX, "StringSplit", values(x), 2, graph.StringAttr("delimiter", "-"))
	if err != nil || intAt(out[1].Tensor, 0) != 1 || !slices.Equal(out[0].Tensor.Strings, []string{"", "a"}) {
		t.Errorf("by a delimiter: %v, %v", out, err)
	}
	if out, err = evalOp(graph.DomainONNX, "StringSplit", values(x), 2); err != nil || intAt(out[1].Tensor, 0) != 0 {
		t.Errorf("by white space: %v, %v", out, err)
	}
}
