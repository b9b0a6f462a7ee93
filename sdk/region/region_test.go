package region

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestMain plays the peer when the tests start themselves as one.
func TestMain(m *testing.M) {
	if locator := os.Getenv("REGION_PEER"); locator != "" {
		if err := peer(locator); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// peer opens the region, says so, waits for a line, and adds one to every byte.
func peer(locator string) error {
	length, err := strconv.ParseInt(os.Getenv("REGION_LENGTH"), 10, 64)
	if err != nil {
		return err
	}
	r, err := Open(locator, length, ReadWrite)
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	data := r.Bytes()
	for i := range data {
		data[i]++
	}
	return r.Close()
}

var makers = map[string]func(int64) (*Region, error){"Create": Create, "CreateNamed": CreateNamed}

func TestAcrossProcesses(t *testing.T) {
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			const length = 3<<20 + 17
			r, err := create(length)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			data := r.Bytes()
			if len(data) != length {
				t.Fatalf("region has %d bytes, want %d", len(data), length)
			}
			if !bytes.Equal(data, make([]byte, length)) {
				t.Fatal("a new region is not zero")
			}
			for i := range data {
				data[i] = byte(i)
			}

			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "REGION_PEER="+r.Locator(), fmt.Sprint("REGION_LENGTH=", length))
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			if line, err := lines.ReadString('\n'); err != nil || line != "open\n" {
				t.Fatalf("peer said %q, %v", line, err)
			}
			if err := r.Unlink(); err != nil {
				t.Fatal(err)
			}
			if err := r.Unlink(); err != nil {
				t.Fatalf("second Unlink: %v", err)
			}
			if _, err := io.WriteString(in, "go\n"); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			for i, b := range data {
				if b != byte(i)+1 {
					t.Fatalf("byte %d is %d, want %d: the peer's write is not seen", i, b, byte(i)+1)
				}
			}
		})
	}
}

func TestLengths(t *testing.T) {
	for name, create := range makers {
		for _, length := range []int64{0, -1, math.MinInt64} {
			if _, err := create(length); !errors.Is(err, ErrLength) {
				t.Errorf("%s(%d): %v, want ErrLength", name, length, err)
			}
		}
		if r, err := create(1 << 62); err == nil {
			r.Close()
			t.Errorf("%s(1<<62) succeeded", name)
		}
	}
}

func TestOpen(t *testing.T) {
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			r, err := create(1 << 16)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()

			for _, length := range []int64{0, -1, 1<<16 + 1<<16, math.MaxInt64} {
				if o, err := Open(r.Locator(), length, Read); !errors.Is(err, ErrLength) {
					t.Errorf("Open with length %d: %v, %v, want ErrLength", length, o, err)
				}
			}
			if _, err := Open(r.Locator(), 1, Mode(0)); err == nil {
				t.Error("Open with no mode succeeded")
			}
			part, err := Open(r.Locator(), 100, Read)
			if err != nil {
				t.Fatal(err)
			}
			defer part.Close()
			if len(part.Bytes()) != 100 {
				t.Errorf("opened part has %d bytes, want 100", len(part.Bytes()))
			}
			r.Bytes()[99] = 42
			if part.Bytes()[99] != 42 {
				t.Error("a write of the creator is not seen through the opened part")
			}
		})
	}
}

func TestClose(t *testing.T) {
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			r, err := create(4096)
			if err != nil {
				t.Fatal(err)
			}
			o, err := Open(r.Locator(), 4096, ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			for _, c := range []*Region{r, o, r, o} {
				group.Go(func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if r.Bytes() != nil || o.Bytes() != nil {
				t.Error("Bytes after Close is not nil")
			}
			if _, err := Open(r.Locator(), 4096, Read); err == nil {
				t.Error("the locator still opens after Close")
			}
			if filepath.IsAbs(r.Locator()) && name == "CreateNamed" {
				if _, err := os.Stat(filepath.Dir(r.Locator())); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the region's folder is left behind: %v", err)
				}
			}
		})
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		if _, err := Open(`Local\somebody-elses`, 1, Read); err == nil {
			t.Error("a foreign section opened")
		}
		return
	}
	private, public := t.TempDir(), t.TempDir()
	for dir, mode := range map[string]os.FileMode{private: 0o700, public: 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string) string {
		if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 64), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write(filepath.Join(private, "good"))
	link := filepath.Join(private, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(good, 64, Read); err != nil {
		t.Errorf("a file in a private folder: %v", err)
	} else if err := r.Close(); err != nil {
		t.Error(err)
	}
	for what, locator := range map[string]string{
		"nothing":            "",
		"relative path":      "good",
		"unclean path":       private + "/../" + filepath.Base(private) + "/good",
		"absent file":        filepath.Join(private, "absent"),
		"symbolic link":      link,
		"public folder":      write(filepath.Join(public, "file")),
		"folder":             private,
		"device":             "/dev/zero",
		"NUL":                private + "/good\x00",
		"far descriptor":     "/proc/999999999/fd/3",
		"descriptor, ..":     "/proc/self/../self/fd/0",
		"descriptor of self": "/proc/self/fd/0",
	} {
		if r, err := Open(locator, 1, Read); err == nil {
			r.Close()
			t.Errorf("%s (%q) opened as a region", what, locator)
		} else if !strings.Contains(err.Error(), strconv.Quote(locator)) {
			t.Errorf("%s: the error does not name the locator: %v", what, err)
		}
	}
}
