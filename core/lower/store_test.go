//go:build linux

package lower

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func open(t *testing.T, dir string, max int64) *Store {
	t.Helper()
	s, err := OpenStore(dir, max, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fill(size int) func(string) error {
	return func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "data"), make([]byte, size), 0o600)
	}
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestGetWritesOnce(t *testing.T) {
	dir := t.TempDir()
	var writes atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			// A store each, as separate processes have.
			s, err := OpenStore(dir, 0, hclog.NewNullLogger())
			if err != nil {
				t.Error(err)
				return
			}
			f, err := s.Get(t.Context(), "k", func(d string) error {
				writes.Add(1)
				time.Sleep(20 * time.Millisecond)
				return fill(10)(d)
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Release()
			if _, err := os.Stat(filepath.Join(f.Dir, "data")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := writes.Load(); n != 1 {
		t.Errorf("written %d times, want once", n)
	}
}

func TestEvictionTakesTheLongestUnusedThatNobodyHolds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 250)
	get := func(key string) *Folder {
		t.Helper()
		f, err := s.Get(t.Context(), key, fill(100))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	foreign := filepath.Join(dir, "verified") // no lock: it is not the store's
	if err := errors.Join(os.Mkdir(foreign, 0o700), os.WriteFile(filepath.Join(foreign, "f"), make([]byte, 1000), 0o600)); err != nil {
		t.Fatal(err)
	}
	held := get("a")
	defer held.Release()
	get("b").Release()
	get("c").Release() // now a (held), b, c: over the bound, b goes
	if got := strings.Join(folders(t, dir), " "); got != "a c verified" {
		t.Fatalf("after c: %s, want a c", got)
	}
	get("d").Release() // a is older but held: c goes
	if got := strings.Join(folders(t, dir), " "); got != "a d verified" {
		t.Fatalf("after d: %s, want a d", got)
	}
	held.Release()
	get("e").Release()
	if got := strings.Join(folders(t, dir), " "); got != "d e verified" {
		t.Errorf("after e: %s, want d e", got)
	}
}

func TestLinkedWeightsCostNothing(t *testing.T) {
	root := t.TempDir()
	weights := filepath.Join(root, "weights")
	if err := os.WriteFile(weights, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "link")
	if err := os.Symlink(weights, link); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	s := open(t, filepath.Join(root, "cache"), 0)
	f, err := s.Get(t.Context(), "k", func(d string) error { return place(link, d, "w.safetensors") })
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	info, err := os.Lstat(filepath.Join(f.Dir, "w.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if !info.Mode().IsRegular() {
		t.Errorf("placed as %v; runtimes refuse symbolic links", info.Mode())
	}
	if n, err := ownBytes(f.Dir); err != nil || (n != 0 && names(info) > 1) {
		t.Errorf("own bytes %d, %v; want 0 for a link", n, err)
	}
}

// names is how many names a file has.
func names(info os.FileInfo) uint64 {
	_, n := links(info)
	return n
}

// TestSharedFilesCount: what two folders of the store link and nobody else counts
// towards its bound, once.
func TestSharedFilesCount(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	first, err := s.Get(t.Context(), "first", fill(1000))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	list, err := files(first.Dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("found %v, %v", list, err)
	}
	file := filepath.Join(first.Dir, list[0].Name())
	second, err := s.Get(t.Context(), "second", func(d string) error { return place(file, d, "w") })
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	if info, err := os.Stat(file); err != nil || names(info) < 2 {
		t.Skip("no hard links here:", err)
	}
	check := func(want map[string]int64) {
		t.Helper()
		if got, err := s.sizes([]string{"first", "second", "gone"}); err != nil || !maps.Equal(got, want) {
			t.Errorf("found %v, %v, wanted %v", got, err, want)
		}
	}
	check(map[string]int64{"first": 500, "second": 500})
	if err := os.Link(file, filepath.Join(t.TempDir(), "elsewhere")); err != nil {
		t.Fatal(err)
	}
	check(map[string]int64{"first": 0, "second": 0})
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	_, err := s.Get(t.Context(), "k", func(d string) error {
		fill(10)(d)
		return syscall.ENOSPC
	})
	var se *StoreError
	if !errors.As(err, &se) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("got %v, want a StoreError with a remedy", err)
	}
	if got := folders(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	if _, err := s.Get(t.Context(), "k", fill(1)); err != nil {
		t.Errorf("the next write fails too: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("needs the right to mount a small file system:", err)
	}
	defer syscall.Unmount(dir, 0)
	s := open(t, dir, 0)
	_, err := s.Get(t.Context(), "k", fill(1<<20))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "cache.dir") {
		t.Errorf("got %v, want ENOSPC with the remedy", err)
	}
	if got := folders(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestInterruptedWriteIsRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, tmpPrefix+"k-012345")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, dir, 0)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

func TestWriterInProgressIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	_, err := s.Get(t.Context(), "k", func(d string) error {
		open(t, dir, 0)
		_, err := os.Stat(d)
		return err
	})
	if err != nil {
		t.Errorf("a second process removed a write in progress: %v", err)
	}
}

func TestGetEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Get(t.Context(), "k", func(string) error {
		_, err := s.Get(ctx, "k", fill(1)) // locked by us
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

// Backends are told folders of the cache, and have working folders of their own.
func TestStoreIsAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := OpenStore("cache", 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(s.dir) {
		t.Errorf("its folder is %s", s.dir)
	}
}
