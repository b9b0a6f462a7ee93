package hub

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/hub/hubtest"
)

// TestListAndRemove keeps two revisions that share a file.
func TestListAndRemove(t *testing.T) {
	s := hubtest.New(t)
	old, files := model(), model()
	files["model.safetensors"] = random(2<<20, 9)
	first := s.AddAt("org/tiny", "v1", hubtest.Repo{Files: old})
	second := s.Add("org/tiny", hubtest.Repo{Files: files})
	s.Add("gpt0", hubtest.Repo{Files: map[string][]byte{"m.gguf": random(100, 5)}})
	h := open(t, "", s.URL)
	if list, err := h.List(); err != nil || len(list) != 0 {
		t.Errorf("of nothing: %v, %v", list, err)
	}
	v1 := Ref{Repo: "org/tiny", Revision: "v1"}
	for _, r := range []Ref{ref, v1, {Repo: "org/tiny", Revision: first}, {Repo: "gpt0", Revision: "main"}} {
		if _, err := h.Pull(t.Context(), r, PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begun := filepath.Join(h.options.Cache, "models--org--begun", "blobs")
	if err := errors.Join(os.MkdirAll(begun, 0o755), os.WriteFile(filepath.Join(begun, "x"+incomplete), make([]byte, 77), 0o600),
		os.MkdirAll(filepath.Join(h.options.Cache, "datasets--org--d"), 0o755)); err != nil {
		t.Fatal(err)
	}
	list, err := h.List()
	if err != nil || len(list) != 4 {
		t.Fatalf("got %+v, %v", list, err)
	}
	if c := list[0]; c.Repo != "gpt0" || c.Class != "gguf" || c.Files != 1 || c.Bytes != 100 || time.Since(c.LastUsed) > time.Hour {
		t.Errorf("got %+v", c)
	}
	if c := list[1]; c.Repo != "org/begun" || c.Commit != "" || c.Unfinished != 77 {
		t.Errorf("got %+v", c)
	}
	for _, c := range list[2:] {
		want, size := []string{"main"}, int64(2<<20)
		if c.Commit == first {
			want, size = []string{"v1"}, 1<<20
		}
		if c.Repo != "org/tiny" || c.Class != "llama" || c.Files != 4 || c.Bytes < size || c.Bytes > size+4000 || !slices.Equal(c.Revisions, want) || !isFolder(c.Path) {
			t.Errorf("got %+v", c)
		}
	}

	// A model in use by a pull stays, by ours and by others' locks alike.
	to, _ := h.repo("org/tiny")
	unlock, err := to.hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Remove(ref, true); !isA[*BusyError](err) {
		t.Errorf("got %v", err)
	}
	unlock()

	gone, err := h.Remove(v1, false)
	if err != nil || gone.Freed != 1<<20 || !slices.Equal(gone.Revisions, []string{first}) {
		t.Errorf("got %+v, %v", gone, err)
	}
	if _, err := h.Locate(v1); !isA[*NotCachedError](err) {
		t.Errorf("got %v", err)
	}
	located, err := h.Locate(ref)
	if err != nil {
		t.Fatal(err)
	}
	check(t, located, files, taken...)
	if _, err := h.Remove(v1, false); !isA[*NotCachedError](err) || !strings.Contains(err.Error(), "there are "+second+" main") {
		t.Errorf("got %v", err)
	}
	// A file that something else has a link to is gone from here, and frees nothing.
	blob, err := filepath.EvalSymlinks(filepath.Join(located.Dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(blob, filepath.Join(t.TempDir(), "linked")); err != nil {
		t.Fatal(err)
	}
	gone, err = h.Remove(ref, true)
	if err != nil || gone.Linked != 2<<20 || gone.Freed < 3000 || gone.Freed > 4000 || isFolder(filepath.Dir(filepath.Dir(located.Dir))) {
		t.Errorf("got %+v, %v", gone, err)
	}
	if gone, err = h.Remove(Ref{Repo: "org/begun", Revision: "main"}, true); err != nil || gone.Freed != 77 {
		t.Errorf("got %+v, %v", gone, err)
	}
	if _, err := h.Remove(ref, true); !isA[*NotCachedError](err) {
		t.Errorf("got %v", err)
	}
	if list, err := h.List(); err != nil || len(list) != 1 {
		t.Errorf("there is %+v, %v", list, err)
	}
}
