package kernels

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// EnvISA names the environment variable that forces an instruction set where
// Config has none.
const EnvISA = "ACCEL_CPU_ISA"

// Config describes a Runner. The zero Config is a good one.
type Config struct {
	ISA     string        // an ISA's name; empty: $ACCEL_CPU_ISA, else the best of this machine
	Threads int           // threads working on one operation, the caller's included; 0: the physical cores
	Pin     bool          // bind each worker thread to a processor (Linux only)
	Spin    time.Duration // how long an idle worker spins before it sleeps; 0: 50 us; negative: not at all
}

// Runner executes programs on native threads. It may be used by any number of
// goroutines at once: its threads serve one operation at a time, and a caller that
// finds them busy runs that operation on its own thread.
type Runner struct {
	lib     *Library
	handle  uintptr
	isa     string
	threads int
	frames  sync.Pool
}

// Buffer is memory that a program's refs point into. It must stay where it is
// and alive until Run returns.
type Buffer struct {
	Data  unsafe.Pointer
	Bytes int64
}

// BufferOf is the memory of a slice.
func BufferOf[T any](s []T) Buffer {
	return Buffer{unsafe.Pointer(unsafe.SliceData(s)), int64(len(s)) * int64(unsafe.Sizeof(*new(T)))}
}

// Code classifies a failure of the native library.
type Code int32

// The codes of accelcpu.h.
const (
	CodeInvalid     Code = 1
	CodeUnsupported Code = 2
	CodeBounds      Code = 3
	CodeIndex       Code = 4
	CodeDivide      Code = 5
	CodeCancelled   Code = 6
	CodeMemory      Code = 7
)

// Error is a failure that the native library reports.
type Error struct {
	Code         Code
	Op           int   // index of the operation in its program, -1 if none
	Value, Limit int64 // CodeIndex: the index and the size; CodeBounds: bytes needed and there
	Text         string
}

func (e *Error) Error() string {
	if e.Op < 0 {
		return e.Text
	}
	return fmt.Sprintf("operation %d: %s", e.Op, e.Text)
}

type cConfig struct {
	isa                          *byte
	threads, pin, spin, reserved int32
}

type cResult struct {
	code, op     int32
	value, limit int64
	text         [160]byte
}

type cRunArgs struct {
	program      *uint64
	programBytes int64
	buffers      *Buffer
	bufferCount  int64
	cancel       *int32
	opNS         *int64
	opNSCount    int64
}

// frame is what one run hands to C; pooled, so that a run allocates nothing.
type frame struct {
	args   cRunArgs
	result cResult
	words  [3]uintptr // the call's arguments, here because a variadic list would be allocated
}

func (r *cResult) err() error {
	if r.code == 0 {
		return nil
	}
	text, _, _ := bytes.Cut(r.text[:], []byte{0})
	return &Error{Code: Code(r.code), Op: int(r.op), Value: r.value, Limit: r.limit, Text: string(text)}
}

// NewRunner starts a runner's threads. An instruction set that is not known, or
// that this machine can't run, is an error: never replaced by a lesser one.
func (l *Library) NewRunner(c Config) (*Runner, error) {
	isa, from := c.ISA, "the configuration"
	if isa == "" {
		isa, from = os.Getenv(EnvISA), EnvISA
	}
	name := append([]byte(isa), 0)
	conf := &cConfig{isa: &name[0], threads: int32(c.Threads), spin: -1}
	if c.Pin {
		conf.pin = 1
	}
	if c.Spin > 0 {
		conf.spin = int32(max(c.Spin.Microseconds(), 1))
	} else if c.Spin < 0 {
		conf.spin = 0
	}
	r := &Runner{lib: l}
	res := new(cResult)
	call(l.fn.create, uintptr(unsafe.Pointer(conf)), uintptr(unsafe.Pointer(&r.handle)), uintptr(unsafe.Pointer(res)))
	runtime.KeepAlive(name)
	if err := res.err(); err != nil {
		if isa != "" {
			var known []string
			for _, i := range l.isas {
				if i.Supported {
					known = append(known, i.Name)
				}
			}
			return nil, fmt.Errorf("start CPU kernels with instruction set %q from %s (this machine runs %s): %w", isa, from, strings.Join(known, ", "), err)
		}
		return nil, fmt.Errorf("start CPU kernels: %w", err)
	}
	r.isa = cString(call(l.fn.runnerISA, r.handle))
	r.threads = int(int32(call(l.fn.runnerThreads, r.handle)))
	r.frames.New = func() any { return new(frame) }
	return r, nil
}

// Close ends the threads. No Run may be under way; the Runner can't be used again.
func (r *Runner) Close() {
	if r.handle != 0 {
		call(r.lib.fn.destroy, r.handle)
		r.handle = 0
	}
}

// ISA is the instruction set in use.
func (r *Runner) ISA() string { return r.isa }

// Threads is the number of threads that work on one operation.
func (r *Runner) Threads() int { return r.threads }

// PackedBytes is the size of a packed [n,k] weight.
func (r *Runner) PackedBytes(f Format, n, k int64) (int64, error) {
	size := int64(call(r.lib.fn.packedBytes, r.handle, uintptr(f), uintptr(n), uintptr(k)))
	if size < 0 {
		return 0, fmt.Errorf("a weight of [%d,%d] can't be packed in format %d", n, k, f)
	}
	return size, nil
}

func (r *Runner) packedBlocksBytes(b *Blocks, n, k int64) int64 {
	return int64(call(r.lib.fn.packedBlocksBytes, r.handle, uintptr(unsafe.Pointer(b)), uintptr(n), uintptr(k)))
}

// PackedLayout names the arrangement of packed weights, fit for a file name: runners with the same
// layout read each other's. It is empty for an unknown format.
func (r *Runner) PackedLayout(f Format) string {
	return cString(call(r.lib.fn.packedLayout, r.handle, uintptr(f)))
}

// Run executes a program over buffers, of which number 0 is never read. Once cancel, which may be
// nil, is not zero, it stops before the next operation. It allocates nothing
// unless it fails; failures are *Error.
func (r *Runner) Run(p *Program, buffers []Buffer, cancel *atomic.Int32) error {
	return r.run(p, buffers, cancel, nil)
}

// RunTimed is Run, and fills ns[i] with the nanoseconds that operation i took.
func (r *Runner) RunTimed(p *Program, buffers []Buffer, cancel *atomic.Int32, ns []int64) error {
	return r.run(p, buffers, cancel, ns)
}

func (r *Runner) run(p *Program, buffers []Buffer, cancel *atomic.Int32, ns []int64) error {
	f := r.frames.Get().(*frame)
	f.args = cRunArgs{
		program:      unsafe.SliceData(p.words),
		programBytes: int64(len(p.words)) * 8,
		buffers:      unsafe.SliceData(buffers),
		bufferCount:  int64(len(buffers)),
		cancel:       (*int32)(unsafe.Pointer(cancel)),
		opNS:         unsafe.SliceData(ns),
		opNSCount:    int64(len(ns)),
	}
	f.result.code = 0
	f.words = [3]uintptr{r.handle, uintptr(unsafe.Pointer(&f.args)), uintptr(unsafe.Pointer(&f.result))}
	purego.SyscallN(r.lib.fn.run, f.words[:]...)
	err := f.result.err() // the frame has kept all that args point to alive until here
	f.args = cRunArgs{}
	r.frames.Put(f)
	return err
}
