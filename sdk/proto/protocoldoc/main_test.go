package main

import (
	"os"
	"strings"
	"testing"
)

const proto = "../accel/backend/v1/backend.proto"

// TestCurrent: docs/protocol.md is what backend.proto says today.
func TestCurrent(t *testing.T) {
	source, err := os.ReadFile(proto)
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference(string(source))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(got), "\r\n", "\n") != want {
		t.Error("docs/protocol.md is not what backend.proto says: run `make generate`, or `go run ./sdk/proto/protocoldoc sdk/proto/accel/backend/v1/backend.proto > docs/protocol.md`")
	}
}

// TestComments finds each kind of comment, and misses none.
func TestComments(t *testing.T) {
	head, said := comments(`// The head.
syntax = "proto3";
// About S.
service S {
  // About R,
  // in two lines.
  rpc R(A) returns (stream B);
}
// About A.
message A {
  string a = 1;  // a's
  // b's
  map<string, int64> b = 2;
  oneof place {
    bytes c = 3;  // c's
  }
  repeated B d = 4;
}
// About B.
message B {}
enum E {
  // none
  E_NONE = 0;
  E_ONE = 1;  // one
}
`)
	if head != "The head." {
		t.Errorf("head %q", head)
	}
	for name, want := range map[string]string{
		"S": "About S.", "S.R": "About R,\nin two lines.", "A": "About A.", "A.a": "a's", "A.b": "b's", "A.c": "c's", "A.d": "",
		"B": "About B.", "E.E_NONE": "none", "E.E_ONE": "one",
	} {
		if said[name] != want {
			t.Errorf("%s: %q, want %q", name, said[name], want)
		}
	}
	if _, err := reference("// odd\nmessage Tomorrow {\n}\n"); err == nil || !strings.Contains(err.Error(), "Tomorrow") {
		t.Errorf("a message that is not compiled: %v", err)
	}
}
