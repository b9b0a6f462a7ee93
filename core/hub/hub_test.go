package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/accelhq/accel/core/hub/hubtest"
)

// random is content that no other has.
func random(n int, seed uint64) []byte {
	out := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(out)
	return out
}

func model() map[string][]byte {
	return map[string][]byte{
		"config.json":           []byte(`{"model_type": "llama"}`),
		"tokenizer.json":        random(3000, 1),
		"model.safetensors":     random(1<<20, 2),
		"README.md":             []byte("hello"),
		"empty/of no use.md":    {},
		"tokenizer_config.json": {},
	}
}

// open makes a Hub that does not wait long.
func open(t *testing.T, cache string, endpoints ...string) *Hub {
	t.Helper()
	if cache == "" {
		cache = t.TempDir()
	}
	h := New(Options{Endpoints: endpoints, Cache: cache})
	h.limits = limits{rounds: 3, backoff: time.Millisecond, most: time.Second, stall: 300 * time.Millisecond}
	return h
}

var ref = Ref{Repo: "org/tiny", Revision: "main"}

// check holds a snapshot against the files that it should have.
func check(t *testing.T, s Snapshot, files map[string][]byte, names ...string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(s.Dir, path)
		got = append(got, filepath.ToSlash(name))
		if target, err := os.Readlink(path); err != nil || filepath.IsAbs(target) {
			t.Errorf("%s leads to %q, %v", name, target, err)
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, files[filepath.ToSlash(name)]) {
			t.Errorf("%s is wrong: %d bytes, %v", name, len(data), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("there are %q, want %q", got, names)
	}
	if n := leftovers(t, filepath.Dir(filepath.Dir(s.Dir))); n != 0 {
		t.Errorf("%d unfinished files were left", n)
	}
}

// leftovers counts files that are not whole, or in the way.
func leftovers(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, incomplete) || strings.HasPrefix(filepath.Base(path), ".accel-") {
			n++
		}
		return nil
	})
	return n
}

var taken = []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}

// TestPull pulls, and finds in the cache what huggingface_hub would have put there.
func TestPull(t *testing.T) {
	s := hubtest.New(t)
	files := model()
	commit := s.Add("org/tiny", hubtest.Repo{Files: files})
	h := open(t, "", s.URL)
	var progress []Progress
	got, err := h.Pull(t.Context(), ref, PullOptions{Progress: func(p Progress) { progress = append(progress, p) }})
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, files, taken...)
	total := int64(len(files["config.json"]) + 3000 + 1<<20)
	if got.Commit != commit || got.Files != 4 || got.Bytes != total || got.Loaded != total || got.Path != got.Dir {
		t.Errorf("got %+v", got)
	}
	last := progress[len(progress)-1]
	if last != (Progress{Files: 4, Done: 4, Bytes: total, Total: total}) || len(progress) < 6 {
		t.Errorf("the last of %d progresses is %+v", len(progress), last)
	}
	repo := filepath.Join(h.options.Cache, "models--org--tiny")
	if data, err := os.ReadFile(filepath.Join(repo, "refs", "main")); err != nil || string(data) != commit {
		t.Errorf("refs/main: %q, %v", data, err)
	}
	for link, want := range map[string]string{
		"snapshots/" + commit + "/model.safetensors": "../../blobs/" + hubtest.SHA256(files["model.safetensors"]),
		"snapshots/" + commit + "/config.json":       "../../blobs/" + hubtest.GitHash(files["config.json"]),
	} {
		if to, err := os.Readlink(filepath.Join(repo, link)); err != nil || to != want {
			t.Errorf("%s leads to %s, %v, want %s", link, to, err, want)
		}
	}
	// Again: nothing is loaded. And without anybody to ask.
	before := len(s.Requests())
	again, err := h.Pull(t.Context(), ref, PullOptions{})
	if err != nil || again.Loaded != 0 || again.Path != got.Path || len(s.Requests()) != before+1 {
		t.Errorf("again: %+v, %v, %d requests", again, err, len(s.Requests())-before)
	}
	h.options.Offline = true
	for _, r := range []Ref{ref, {Repo: "org/tiny", Revision: commit}} {
		located, err := h.Locate(r)
		if err != nil || located.Path != got.Path || located.Commit != commit || located.Bytes != total {
			t.Errorf("%v is at %+v, %v", r, located, err)
		}
		if pulled, err := h.Pull(t.Context(), r, PullOptions{}); err != nil || pulled.Path != got.Path {
			t.Errorf("%v offline: %+v, %v", r, pulled, err)
		}
	}
	if len(s.Requests()) != before+1 {
		t.Errorf("offline it asked: %v", s.Requests()[before+1:])
	}
}

// TestPullSelection: nested files, everything, a mirror without hashes, a branch with a slash.
func TestPullSelection(t *testing.T) {
	s := hubtest.New(t)
	files := model()
	files["onnx/deep er/a+b.txt"] = []byte("odd")
	s.AddAt("org/tiny", "refs/pr/1", hubtest.Repo{Files: files, Bare: true})
	r := Ref{Repo: "org/tiny", Revision: "refs/pr/1"}
	h := open(t, "", s.URL)
	got, err := h.Pull(t.Context(), r, PullOptions{Selection: Selection{All: true}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	check(t, got, files, names...)
	if located, err := h.Locate(r); err != nil || located.Path != got.Path {
		t.Errorf("it is at %+v, %v", located, err)
	}
	h = open(t, "", s.URL)
	got, err = h.Pull(t.Context(), r, PullOptions{Selection: Selection{Files: []string{"*.md", "config.json"}}})
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, files, "README.md", "empty/of no use.md", "config.json")
	var missing *NotCachedError
	if _, err := h.Locate(r); !errors.As(err, &missing) || !strings.Contains(err.Error(), "accel pull org/tiny@refs/pr/1") {
		t.Errorf("got %v", err)
	}
}

// TestPullVariants puts two quantisations beside one another.
func TestPullVariants(t *testing.T) {
	s := hubtest.New(t)
	files := map[string][]byte{"m-Q4_0.gguf": random(5000, 3), "m-Q8_0.gguf": random(9000, 4), "config.json": []byte("{}"), "README.md": []byte("x")}
	s.Add("org/tiny", hubtest.Repo{Files: files})
	h := open(t, "", s.URL)
	var choice *ChoiceError
	if _, err := h.Pull(t.Context(), ref, PullOptions{}); !errors.As(err, &choice) || !strings.Contains(err.Error(), "8.8 KiB  m-Q8_0.gguf") {
		t.Fatalf("got %v", err)
	}
	if entries, _ := os.ReadDir(h.options.Cache); len(entries) != 0 {
		t.Error("something was written")
	}
	q4, q8 := ref, ref
	q4.Variant, q8.Variant = "Q4_0", "Q8_0"
	got, err := h.Pull(t.Context(), q4, PullOptions{})
	if err != nil || got.Path != filepath.Join(got.Dir, "m-Q4_0.gguf") || got.Loaded != 5000 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if one, err := h.Locate(ref); err != nil || one.Path != got.Path {
		t.Errorf("the only one there: %+v, %v", one, err)
	}
	var missing *NotCachedError
	if _, err := h.Locate(q8); !errors.As(err, &missing) || !strings.Contains(err.Error(), "m-Q4_0.gguf") || !strings.Contains(err.Error(), "accel pull org/tiny:Q8_0") {
		t.Errorf("got %v", err)
	}
	if got, err = h.Pull(t.Context(), q8, PullOptions{}); err != nil || got.Loaded != 9000 {
		t.Fatalf("got %+v, %v", got, err)
	}
	check(t, got, files, "m-Q4_0.gguf", "m-Q8_0.gguf")
	if _, err := h.Locate(ref); !errors.As(err, &choice) {
		t.Errorf("got %v", err)
	}
}

// TestPullGoesOn breaks the connection in the middle of files, and ends a pull in its middle.
func TestPullGoesOn(t *testing.T) {
	s := hubtest.New(t)
	files := model()
	s.Add("org/tiny", hubtest.Repo{Files: files})
	weights := files["model.safetensors"]
	s.Cut(weights, 300_000)
	s.Cut(files["tokenizer.json"], 1000)
	h := open(t, "", s.URL)
	got, err := h.Pull(t.Context(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, files, taken...)
	if n := got.Bytes - got.Loaded; n != 0 {
		t.Errorf("%d bytes came twice", -n)
	}
	lfs := "GET /lfs/" + hubtest.SHA256(weights) + " bytes="
	if !slices.ContainsFunc(s.Requests(), func(r string) bool { return strings.HasPrefix(r, lfs) }) {
		t.Errorf("nothing was asked from the middle: %q", s.Requests())
	}

	// Ended by its context, and pulled again by another process.
	h = open(t, "", s.URL)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/lfs/") {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(weights)))
		w.Write(weights[:500_000])
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	_, err = h.Pull(ctx, ref, PullOptions{Progress: func(p Progress) {
		if p.Bytes >= 500_000 {
			cancel(enough)
		}
	}})
	if !errors.Is(err, enough) {
		t.Fatalf("got %v", err)
	}
	part := filepath.Join(h.options.Cache, "models--org--tiny", "blobs", hubtest.SHA256(weights)+incomplete)
	info, err := os.Stat(part)
	if err != nil || info.Size() < 400_000 {
		t.Fatalf("what came is not there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.options.Cache, "models--org--tiny", "refs", "main")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the revision was noted before its files were there")
	}
	var missing *NotCachedError
	if _, err := h.Locate(ref); !errors.As(err, &missing) {
		t.Errorf("half a model is found: %v", err)
	}
	s.SetFault(nil)
	if got, err = h.Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	check(t, got, files, taken...)
	if got.Loaded > got.Bytes-400_000 {
		t.Errorf("%d of %d bytes were loaded again", got.Loaded, got.Bytes)
	}
}

// TestPullResumesWithCare: what lies there from before may be wrong, too long, or no file; and a
// server need not know ranges.
func TestPullResumesWithCare(t *testing.T) {
	weights := model()["model.safetensors"]
	for name, x := range map[string]struct {
		there  []byte
		fault  func(http.ResponseWriter, *http.Request) bool
		loaded int64 // of the weights
	}{
		"right":    {there: weights[:1000], loaded: 1<<20 - 1000},
		"wrong":    {there: bytes.Repeat([]byte("x"), 1000), loaded: 2<<20 - 1000},
		"too long": {there: append(bytes.Clone(weights), 1), loaded: 1 << 20},
		"whole":    {there: weights, loaded: 0},
		"no ranges": {there: weights[:1000], loaded: 1 << 20, fault: func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			return false
		}},
		"416": {there: weights[:1000], loaded: 1 << 20, fault: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := hubtest.New(t)
			files := model()
			s.Add("org/tiny", hubtest.Repo{Files: files})
			s.SetFault(x.fault)
			h := open(t, "", s.URL)
			blobs := filepath.Join(h.options.Cache, "models--org--tiny", "blobs")
			if err := os.MkdirAll(blobs, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(blobs, hubtest.SHA256(weights)+incomplete), x.there, 0o600); err != nil {
				t.Fatal(err)
			}
			var last Progress
			got, err := h.Pull(t.Context(), ref, PullOptions{Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			check(t, got, files, taken...)
			if loaded := got.Loaded - (got.Bytes - 1<<20); loaded != x.loaded {
				t.Errorf("%d bytes were loaded, want %d", loaded, x.loaded)
			}
			if last.Bytes != last.Total {
				t.Errorf("progress ends at %+v", last)
			}
		})
	}
	t.Run("another range", func(t *testing.T) {
		s := hubtest.New(t)
		s.Add("org/tiny", hubtest.Repo{Files: model()})
		s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(weights)-1, len(weights)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(weights)
			return true
		})
		h := open(t, "", s.URL)
		blobs := filepath.Join(h.options.Cache, "models--org--tiny", "blobs")
		if err := errors.Join(os.MkdirAll(blobs, 0o755), os.WriteFile(filepath.Join(blobs, hubtest.SHA256(weights)+incomplete), weights[:1000], 0o600)); err != nil {
			t.Fatal(err)
		}
		var odd *AnswerError
		if _, err := h.Pull(t.Context(), ref, PullOptions{}); !errors.As(err, &odd) || !strings.Contains(err.Error(), `byte 1000 of 1048576 was asked for and "bytes 0-1048575/1048576" came`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a link", func(t *testing.T) {
		s := hubtest.New(t)
		files := model()
		s.Add("org/tiny", hubtest.Repo{Files: files})
		h := open(t, "", s.URL)
		blobs := filepath.Join(h.options.Cache, "models--org--tiny", "blobs")
		precious := filepath.Join(t.TempDir(), "precious")
		if err := errors.Join(os.MkdirAll(blobs, 0o755), os.WriteFile(precious, []byte("x"), 0o600),
			os.Symlink(precious, filepath.Join(blobs, hubtest.SHA256(weights)+incomplete))); err != nil {
			t.Fatal(err)
		}
		got, err := h.Pull(t.Context(), ref, PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, got, files, taken...)
		if data, _ := os.ReadFile(precious); string(data) != "x" {
			t.Error("a file outside the cache was written to")
		}
	})
}

// TestMirrors: one that fails passes on to the next; one that says no does not.
func TestMirrors(t *testing.T) {
	good, bad := hubtest.New(t), hubtest.New(t)
	files := model()
	good.Add("org/tiny", hubtest.Repo{Files: files})
	bad.Add("org/tiny", hubtest.Repo{Files: files})
	bad.Add("org/gated", hubtest.Repo{Files: files, Gated: true})
	good.Add("org/gated", hubtest.Repo{Files: files})
	gone := "http://127.0.0.1:1"
	h := open(t, "", gone, bad.URL, good.URL)
	// The second gives the list, and fails at the files.
	bad.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/resolve/") {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	})
	var notes []string
	got, err := h.Pull(t.Context(), ref, PullOptions{Note: func(n string) { notes = append(notes, n) }})
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, files, taken...)
	all := strings.Join(notes, "\n")
	if !strings.Contains(all, gone+" failed (dial tcp") || !strings.Contains(all, bad.URL+" failed (502 Bad Gateway); asking "+good.URL) {
		t.Errorf("it was told %s", all)
	}
	bad.SetFault(nil)
	if _, err := open(t, "", bad.URL, good.URL).Pull(t.Context(), Ref{Repo: "org/gated", Revision: "main"}, PullOptions{}); !isA[*GatedError](err) {
		t.Errorf("got %v", err)
	}
	var lost *UnreachableError
	if _, err := open(t, "", gone, gone).Pull(t.Context(), ref, PullOptions{}); !errors.As(err, &lost) || len(lost.Failures) != 2 {
		t.Errorf("got %v", err)
	}
}

// TestPullsAtOnce: of several that want the same, one loads it.
func TestPullsAtOnce(t *testing.T) {
	s := hubtest.New(t)
	files := model()
	s.Add("org/tiny", hubtest.Repo{Files: files})
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/lfs/") {
			time.Sleep(200 * time.Millisecond)
		}
		return false
	})
	cache := t.TempDir()
	var loaded atomic.Int64
	var each sync.WaitGroup
	for range 5 {
		each.Go(func() {
			got, err := open(t, cache, s.URL).Pull(t.Context(), ref, PullOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			loaded.Add(got.Loaded)
		})
	}
	each.Wait()
	got, err := open(t, cache).Locate(ref)
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, files, taken...)
	if loaded.Load() != got.Bytes {
		t.Errorf("%d bytes were loaded, there are %d", loaded.Load(), got.Bytes)
	}
}

// TestEndedPullHoldsNoLock: a pull that ends before it loads leaves no lock to wait for.
func TestEndedPullHoldsNoLock(t *testing.T) {
	h := open(t, "")
	to, err := h.repo(ref.Repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to.locks, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &pull{Hub: h, ref: ref, to: to}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.fetch(ended, File{Name: "x", Size: 1, SHA256: strings.Repeat("a", 64)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock, err := to.seize()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
