// Package kernels binds the native kernels of the CPU backend (native/cpu) without
// cgo. A Program, a list of operations over numbered buffers, is built once and
// executed by a Runner, which owns the native threads, in one call per run.
package kernels

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	native "github.com/accelhq/accel/native/cpu"
)

// ABIVersion is the version of accelcpu.h that this package mirrors. A library of
// another version is refused.
const ABIVersion = 3

// ISA is an instruction set that a library has code for.
type ISA struct {
	Name      string
	Supported bool // by this machine
}

// Library is an opened libaccelcpu. It stays loaded until the process ends.
type Library struct {
	path    string
	version string
	isas    []ISA
	fn      functions
}

type functions struct {
	abiVersion, version, isas, create, destroy, runnerISA, runnerThreads,
	packedBytes, packedBlocksBytes, packedLayout, run, layout uintptr
}

// ErrNoLibrary is what Open's error wraps when there is no library to open.
var ErrNoLibrary = errors.New("the CPU kernels' native library was not found")

// Open loads the native library: from file if that is not empty; else from beside
// the running executable; else the one embedded in it.
func Open(file string) (*Library, error) {
	name := libraryFile()
	if file != "" {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%w: %w; `make build` builds it", ErrNoLibrary, err)
		}
		return open(file)
	}
	var tried []string
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			beside := filepath.Join(filepath.Dir(exe), name)
			if _, err := os.Stat(beside); err == nil {
				return open(beside)
			}
			tried = append(tried, beside)
		}
	}
	embedded := path.Join("lib", runtime.GOOS+"_"+runtime.GOARCH, name)
	data, err := fs.ReadFile(native.Libraries, embedded)
	if err != nil {
		tried = append(tried, "embedded "+embedded)
		return nil, fmt.Errorf("%w: looked for %s; `make build` builds and embeds it", ErrNoLibrary, strings.Join(tried, " and "))
	}
	loaded, release, err := materialise(name, data)
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded %s: %w", name, err)
	}
	defer release()
	return open(loaded)
}

// libraryFile is the library's file name on this system.
func libraryFile() string {
	switch runtime.GOOS {
	case "windows":
		return "accelcpu.dll"
	case "darwin":
		return "libaccelcpu.dylib"
	}
	return "libaccelcpu.so"
}

// contentName is a file name for data that no other content shares.
func contentName(name string, data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]) + "-" + name
}

func open(file string) (*Library, error) {
	handle, err := loadLibrary(file)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", file, err)
	}
	l := &Library{path: file}
	for _, s := range []struct {
		name string
		to   *uintptr
	}{
		{"accelcpu_abi_version", &l.fn.abiVersion},
		{"accelcpu_version", &l.fn.version},
		{"accelcpu_isas", &l.fn.isas},
		{"accelcpu_create", &l.fn.create},
		{"accelcpu_destroy", &l.fn.destroy},
		{"accelcpu_runner_isa", &l.fn.runnerISA},
		{"accelcpu_runner_threads", &l.fn.runnerThreads},
		{"accelcpu_packed_bytes", &l.fn.packedBytes},
		{"accelcpu_packed_blocks_bytes", &l.fn.packedBlocksBytes},
		{"accelcpu_packed_layout", &l.fn.packedLayout},
		{"accelcpu_run", &l.fn.run},
		{"accelcpu_layout", &l.fn.layout},
	} {
		if *s.to, err = findSymbol(handle, s.name); err != nil {
			return nil, fmt.Errorf("%s is not this program's kernel library (ABI %d): %w; `make build` builds it", file, ABIVersion, err)
		}
		// A library of another version may lack later symbols: say so first.
		if s.to == &l.fn.version {
			l.version = cString(call(l.fn.version))
			if err := checkABI(file, l.version, int32(call(l.fn.abiVersion))); err != nil {
				return nil, err
			}
		}
	}
	var isas [16]struct {
		name                *byte
		supported, reserved int32
	}
	n := int(int32(call(l.fn.isas, uintptr(unsafe.Pointer(&isas)), uintptr(len(isas)))))
	for _, isa := range isas[:min(n, len(isas))] {
		l.isas = append(l.isas, ISA{Name: cString(uintptr(unsafe.Pointer(isa.name))), Supported: isa.supported != 0})
	}
	return l, nil
}

func checkABI(file, version string, abi int32) error {
	if abi == ABIVersion {
		return nil
	}
	return fmt.Errorf("%s has ABI %d (%s), this program needs ABI %d: run `make build` to build both from one tree", file, abi, version, ABIVersion)
}

// Path is the file that was loaded.
func (l *Library) Path() string { return l.path }

// Version names the library's ABI and build.
func (l *Library) Version() string { return l.version }

// ISAs lists the instruction sets that the library has code for, best last.
func (l *Library) ISAs() []ISA { return append([]ISA(nil), l.isas...) }

// layout is the offset of a field in the library's own struct, -1 if it has none;
// with an empty field the struct's size.
func (l *Library) layout(typ, field string) int64 {
	t := append([]byte(typ), 0)
	var f *byte
	if field != "" {
		f = &append([]byte(field), 0)[0]
	}
	return int64(call(l.fn.layout, uintptr(unsafe.Pointer(&t[0])), uintptr(unsafe.Pointer(f))))
}

//go:uintptrescapes
func call(fn uintptr, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(fn, args...)
	return r
}

// cString copies a C string that the library owns.
func cString(p uintptr) string {
	if p == 0 {
		return ""
	}
	s := *(*unsafe.Pointer)(unsafe.Pointer(&p)) // static memory of the library: the collector has no part in it
	n := 0
	for *(*byte)(unsafe.Add(s, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(s), n))
}
