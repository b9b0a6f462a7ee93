package graph

import (
	"math"
	"testing"
)

func TestExprText(t *testing.T) {
	for in, want := range map[string]string{
		"N":                        "N",
		"seq-len":                  "seq-len",
		"a b":                      "a b",
		"batch*seq":                "batch*seq",
		"seq*batch":                "batch*seq",
		"past + seq":               "past + seq",
		"seq+past":                 "past + seq",
		"2*N+1":                    "2*N + 1",
		"N - 1":                    "N - 1",
		"1 - N":                    "-N + 1",
		"(N+1)*(N-1)":              "N*N - 1",
		"N*2 - N - N":              "0",
		"floor(S/2)":               "floor(S/2)",
		"floor((2*S + 3)/2)":       "S + 1",
		"floor((S + 5)/2)":         "floor((S + 1)/2) + 2",
		"floor(floor(S/2)/2)":      "floor(S/4)",
		"S//2":                     "floor(S/2)",
		"N/A":                      "N/A",
		"max(a, b)":                "max(a, b)",
		"unk__12 + 0":              "unk__12",
		"((((((((((((((((((a+b)))": "((((((((((((((((((a+b)))",
		"4*":                       "4*",
		"99999999999999999999*N":   "99999999999999999999*N",
	} {
		e := parseExpr(in)
		if got := e.String(); got != want {
			t.Errorf("%q reads as %q, want %q", in, got, want)
		}
		if again := parseExpr(e.String()); !again.eq(e) {
			t.Errorf("%q changes when read again: %q", e, again)
		}
	}
}

func TestExprBind(t *testing.T) {
	sizes := map[string]int64{"B": 3, "S": 7}
	for in, want := range map[string]string{
		"B": "3", "B*S + T": "T + 21", "floor((S + 1)/4)": "2", "floor((T + S)/4)": "floor((T + 3)/4) + 1",
		"S - B": "4", "floor(floor(S/2)/3)": "1", "X": "X",
	} {
		e, ok := parseExpr(in).bind(sizes)
		if !ok || e.String() != want {
			t.Errorf("%q bound is %q, want %q", in, e, want)
		}
	}
}

func TestExprArithmetic(t *testing.T) {
	n, m := atom("N"), atom("M")
	if d, ok := n.sub(n); !ok || !d.is(0) {
		t.Errorf("N - N is %v", d)
	}
	nm, _ := n.mul(m)
	nm4, _ := nm.mul(num(4))
	two, _ := n.mul(num(2))
	if q, ok := nm4.exact(two); !ok || q.String() != "2*M" {
		t.Errorf("4*M*N / 2*N is %v", q)
	}
	if _, ok := nm.exact(num(2)); ok {
		t.Error("M*N is divided by 2")
	}
	if _, ok := num(7).exact(num(2)); ok {
		t.Error("7 is divided by 2")
	}
	if q, _ := num(-7).floorDiv(2); !q.is(-4) {
		t.Errorf("floor(-7/2) is %v", q)
	}
	if _, ok := num(math.MaxInt64).add(num(1)); ok {
		t.Error("the sum overflows in silence")
	}
	if _, ok := num(math.MinInt64).add(num(-1)); ok {
		t.Error("the sum overflows in silence")
	}
	if _, ok := num(math.MaxInt64).mul(two); ok {
		t.Error("the product overflows in silence")
	}
	big, ok := n, true
	for i := 0; ok && i < 100; i++ {
		big, ok = big.mul(n)
	}
	if ok {
		t.Error("products grow without bound")
	}
	sum := n
	ok = true
	for i := 0; ok && i < 100; i++ {
		sum, ok = sum.add(atom(string(rune('a' + i))))
	}
	if ok {
		t.Error("sums grow without bound")
	}
}

func FuzzExpr(f *testing.F) {
	for _, s := range []string{"2*N + 1", "floor((S + 1)/2)*B", "a-b", "((x", "floor(floor(a/2)/3)", "-1*-2*q", "(0-A00)/2", "?.0", "(?x.1 + 3)/2",
		"(1+A)/2/2/2/2/2/2/2/2/2/2/2/2/2/2/2/2*10", "((((((((((A+B)/2+B)/2+B)/2+B)/2+B)/2+B)/2+B)/2+B)/2+B)/2+B)/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return // an unknown dimension, which is no expression
		}
		e := parseExpr(s)
		text, ok := e.text()
		if !ok || len(text) > maxExprText {
			return
		}
		if again := parseExpr(text); !again.eq(e) {
			t.Errorf("%q reads as %q, and that as %q", s, text, again)
		}
		if e.fresh() {
			return // sizes that only a run can tell have no names to bind
		}
		all := map[string]int64{}
		e.names(func(n string) { all[n] = 3 })
		if b, ok := e.bind(all); ok {
			if _, isNum := b.value(); !isNum {
				t.Errorf("%q with all names bound is %q", s, b)
			}
		}
	})
}

func TestNamesOfSizesOfData(t *testing.T) {
	for _, s := range []string{"?x.0", "2*?a_b.1 + 3", "floor((?k.0 + N)/2)", "?a.0*?b.12"} {
		e := parseExpr(s)
		if text, ok := e.text(); !e.fresh() || !ok || text != s {
			t.Errorf("%q is read as %q (%v, unknown %v)", s, text, ok, e.fresh())
		}
	}
	for _, s := range []string{"?", "?x", "x.0", "?x.y", "?x.-1", "?.0x"} {
		if e := parseExpr(s); e.fresh() {
			t.Errorf("the foreign name %q is taken for one of ours", s)
		}
	}
	if got := namedDim("/a b/NonZero(1)", 2); got != freshDim+"?_a_b_NonZero_1_.2" {
		t.Errorf("a name with operators in it becomes %q", got)
	}
}
