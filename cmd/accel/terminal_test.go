package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"
)

func TestTable(t *testing.T) {
	tb := table{header: []string{"N", "LEFT", "RIGHT"}, right: []bool{true}}
	tb.add("1", "short", "日本語")
	tb.add("12345", "e\u0301 wide 😀 text", "line\nbreak \x1b[31m")
	var b bytes.Buffer
	if err := tb.write(&b, style{}, 0); err != nil {
		t.Fatal(err)
	}
	want := "    N  LEFT            RIGHT\n" +
		"    1  short           日本語\n" +
		"12345  e\u0301 wide 😀 text  line break \ufffd[31m\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestTableFitsItsWidth(t *testing.T) {
	tb := table{header: []string{"COSINE", "A", "B", "KIND"}}
	tb.add("0.1234", strings.Repeat("long text ", 10), strings.Repeat("日本", 40), "hardware")
	tb.add("0.1234", "short", "short", "hardware")
	for _, width := range []int{200, 120, 80, 61, 40} {
		var b bytes.Buffer
		if err := tb.write(&b, style{}, width); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := uniseg.StringWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%d columns in %d: %s", n, width, line)
			}
		}
		if width < 190 && !strings.Contains(b.String(), "…") {
			t.Errorf("nothing says that text is missing:\n%s", b.String())
		}
		if !strings.Contains(b.String(), "0.1234") || !strings.Contains(b.String(), "hardware") {
			t.Errorf("a narrow column was cut:\n%s", b.String())
		}
	}
	// Too narrow for anything: it must end, and show something.
	var b bytes.Buffer
	if err := tb.write(&b, style{}, 5); err != nil || b.Len() == 0 {
		t.Errorf("%v, %q", err, b.String())
	}
}

func TestStyle(t *testing.T) {
	on := style{on: true}
	if got := on.bad("x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("got %q", got)
	}
	if got := (style{}).bad("x"); got != "x" {
		t.Errorf("got %q", got)
	}
	if styleOf(&bytes.Buffer{}, nil).on {
		t.Error("a buffer is no terminal")
	}
}

// What is written while progress is shown stands above its line.
func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s := newScreen(&b)
	s.show("working")
	fmt.Fprint(s, "half ")
	fmt.Fprint(s, "line\n")
	s.show("")
	want := "working" + "\r\x1b[K" + "half " + "line\n" + "working" + "\r\x1b[K"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestProgressIsSilentWhereNobodyLooks(t *testing.T) {
	var b bytes.Buffer
	a := &app{screen: newScreen(&b)}
	p := a.progress("x")
	p.say("y %d", 1)
	p.end()
	if b.Len() != 0 {
		t.Errorf("got %q", b.String())
	}
}

func TestNumbersForPeople(t *testing.T) {
	for _, x := range []struct{ got, want string }{
		{number(0), "0"}, {number(999), "999"}, {number(1000), "1 000"}, {number(1234567), "1 234 567"}, {number(-1234), "-1 234"}, {number(-123), "-123"},
		{count(1, "token"), "1 token"}, {count(2, "token"), "2 tokens"},
		{memory(0), "-"}, {memory(5), "5 B"}, {memory(1536), "1.5 KiB"}, {memory(3 << 30), "3.0 GiB"},
		{seconds(250 * time.Microsecond), "250 us"}, {seconds(12 * time.Millisecond), "12 ms"}, {seconds(1234 * time.Millisecond), "1.23 s"},
	} {
		if x.got != x.want {
			t.Errorf("got %q, want %q", x.got, x.want)
		}
	}
}
