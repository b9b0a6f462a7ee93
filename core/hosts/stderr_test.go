package hosts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestSpeech(t *testing.T) {
	var out bytes.Buffer
	log := hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true, Level: hclog.Debug})
	var said tail
	s := &speech{tail: &said, log: log.With("backend", "x")}
	whole := `{"@level":"warn","@message":"low memory","@module":"cuda","free":12}` + "\n" +
		`{"@level":"trace","@message":"hidden"}` + "\n" +
		"plain line\r\n\n" +
		`{"not":"hclog"}` + "\n" +
		strings.Repeat("x", maxLine+10) + "\nlast"
	for i := 0; i < len(whole); i += 7 { // however the pipe cuts it
		s.Write([]byte(whole[i:min(i+7, len(whole))]))
	}
	s.flush()
	type entry struct {
		Level   string `json:"@level"`
		Message string `json:"@message"`
		Backend string `json:"backend"`
		Module  string `json:"module"`
		Free    int    `json:"free"`
	}
	var got []entry
	for dec := json.NewDecoder(&out); dec.More(); {
		var e entry
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []entry{
		{"warn", "low memory", "x", "cuda", 12},
		{"info", "plain line", "x", "", 0},
		{"info", `{"not":"hclog"}`, "x", "", 0},
		{"info", strings.Repeat("x", maxLine) + " ...", "x", "", 0},
		{"info", "last", "x", "", 0},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %v\nwant %v", got, want)
	}
	if kept := said.String(); !strings.HasSuffix(kept, "\nlast") || !strings.Contains(kept, "hidden") {
		t.Errorf("kept %q", kept)
	}
}

func TestTailIsBounded(t *testing.T) {
	var lines, bytes tail
	for i := range 1000 {
		lines.add(fmt.Sprint(i))
		bytes.add(fmt.Sprintf("%04d%s", i, strings.Repeat("y", 1000)))
	}
	got := strings.Split(lines.String(), "\n")
	if len(got) != tailLines || got[0] != "936" || got[63] != "999" {
		t.Errorf("kept %d lines, %s to %s", len(got), got[0], got[len(got)-1])
	}
	if kept := bytes.String(); len(kept) > tailBytes || !strings.Contains(kept, "0999y") || len(kept) < tailBytes/2 {
		t.Errorf("kept %d bytes", len(kept))
	}
}

func TestHandshakeVersion(t *testing.T) {
	for line, want := range map[string]int{
		"1|1|unix|/tmp/x|grpc|":   1,
		"1|77|unix|/tmp/x|grpc|":  77,
		"2|1|unix|/tmp/x|grpc":    -1,
		"Loading CUDA 1|1|unix|a": -1,
		"":                        -1,
		"1|one|unix|/tmp/x|grpc":  -1,
	} {
		got, ok := handshakeVersion(line)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v", line, got, ok)
		}
	}
}

// TestCrashIsKept says the reason of a crash, whatever stacks follow.
func TestCrashIsKept(t *testing.T) {
	var said tail
	for i := range 100 {
		said.add(fmt.Sprint("before ", i))
	}
	said.add("SIGSEGV: segmentation violation")
	said.add("signal arrived during cgo execution")
	for i := range 1000 {
		if !said.add(fmt.Sprint("stack ", i)) {
			t.Fatal("a stack is no part of the crash")
		}
	}
	kept := strings.Split(said.String(), "\n")
	if n := len(kept); n != tailLines+1 {
		t.Errorf("%d lines are kept", n)
	}
	for i, want := range map[int]string{0: "before 84", 16: "SIGSEGV: segmentation violation", 31: "stack 13", 32: "...", 33: "stack 968", 64: "stack 999"} {
		if i >= len(kept) || kept[i] != want {
			t.Errorf("line %d is not %q", i, want)
		}
	}
}
