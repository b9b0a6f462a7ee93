package verify

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReportCountsApart(t *testing.T) {
	var r Report
	for _, x := range []Result{
		{Status: Whole, OK: true}, {Status: Whole, OK: true, Parts: "text"}, {Status: Split, OK: true}, {Status: Split, OK: true, Parts: "text"},
		{Status: Wrong, Parts: "text"}, {Status: Refused}, {Status: Failed}, {Status: Split, OK: true, Ties: []Tie{{}}}, {Status: Wrong, Ties: []Tie{{}}},
	} {
		r.Add(x)
	}
	if r.Count != (Count{Passed: 5, Failed: 3, Refused: 1}) || r.Whole != 2 || r.Split != 3 || r.Tied != 1 || r.Parts["text"] != (Count{Passed: 2, Failed: 1}) {
		t.Errorf("%+v", r)
	}
}

func TestPartsOf(t *testing.T) {
	root := t.TempDir()
	index := `{"architectures": [{"arch": "bert", "parts": "whole"}, {"arch": "vl", "parts": "text"}]}`
	if err := os.WriteFile(filepath.Join(root, indexFile), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bert": "", "vl": "text", "unknown": ""} {
		if got := partsOf(filepath.Join(root, name) + "/"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := partsOf(filepath.Join(root, "vl", "deeper")); got != "" {
		t.Errorf("without an index: %q", got)
	}
}
