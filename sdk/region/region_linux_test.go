package region

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "accel-region")
}

func TestNothingLeaks(t *testing.T) {
	fds, maps := descriptors(t), mappings(t)
	for name, create := range makers {
		for range 50 {
			r, err := create(1 << 16)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			o, err := Open(r.Locator(), 1<<16, ReadWrite)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := Open(r.Locator(), 1<<30, Read); err == nil {
				t.Fatal("a lie about the length went through")
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := descriptors(t); got != fds {
		t.Errorf("%d descriptors are open, %d were before", got, fds)
	}
	if got := mappings(t); got != maps {
		t.Errorf("%d regions are mapped, %d were before", got, maps)
	}
}

func TestDescriptorsThatAreNoRegions(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "memfd:accel-region"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	unsealed, err := unix.MemfdCreate(memfdName, unix.MFD_CLOEXEC)
	if err != nil {
		t.Skipf("memfd is refused here: %v", err)
	}
	defer unix.Close(unsealed)
	if err := unix.Ftruncate(unsealed, 4096); err != nil {
		t.Fatal(err)
	}
	for what, fd := range map[string]int{"a file": int(file.Fd()), "an unsealed memfd": unsealed} {
		r, err := Open(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), 4096, Read)
		if err == nil {
			r.Close()
			t.Errorf("%s opened as a region", what)
		}
	}
}

func TestPeerCannotShrink(t *testing.T) {
	r, err := Create(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !isDescriptor(r.Locator()) {
		t.Skip("memfd is refused here")
	}
	if err := os.Truncate(r.Locator(), 0); err == nil {
		t.Error("the region was truncated by its locator")
	}
	r.Bytes()[len(r.Bytes())-1] = 1
}

// Where files cannot be reserved by a system call, they are filled.
func TestFill(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const length = 3<<20 + 5
	if err := fill(f, length); err != nil {
		t.Fatal(err)
	}
	if err := fill(f, 1<<62); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filling more than the disk holds: %v, want ENOSPC", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != length {
		t.Errorf("the file has %v bytes, %v, want %d", st.Size(), err, length)
	}
}
