package processors

import (
	"encoding/json"
	"os"
	"testing"
	"unicode"
)

// TestClasses compares the classes of all code points with what the Hugging Face library takes them to be: see testdata/classes.py. A newer
// Unicode version of Go's may put more code points into a class than that library does.
func TestClasses(t *testing.T) {
	data, err := os.ReadFile("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	bits := map[string]class{
		"letter": letter, "number": number, "space": space, "punct": punct, "control": control, "accent": accent, "combining": combining,
		"ideograph": ideograph,
	}
	if len(want) != len(bits) {
		t.Fatalf("classes.json has %d classes, want %d", len(want), len(bits))
	}
	classes := unicodeClasses()
	for name, bit := range bits {
		in := make(map[rune]bool)
		for _, r := range parseRanges(want[name]) {
			for c := r[0]; c <= r[1]; c++ {
				in[c] = true
			}
		}
		if len(in) < 20 {
			t.Fatalf("%s: only %d code points", name, len(in))
		}
		for c := range rune(unicode.MaxRune + 1) {
			if 0xD800 <= c && c <= 0xDFFF {
				continue
			}
			if got := classes.of(c)&bit != 0; got != in[c] && (unicode.Version == "15.0.0" || !got) {
				t.Errorf("%U: %s %v, want %v", c, name, got, in[c])
			}
		}
	}
}

func TestParseRanges(t *testing.T) {
	rs := parseRanges("9-a d 10ffff")
	for r, want := range map[rune]bool{8: false, 9: true, 0xA: true, 0xB: false, 0xD: true, unicode.MaxRune: true} {
		if rs.contain(r) != want {
			t.Errorf("%U: %v, want %v", r, !want, want)
		}
	}
}
