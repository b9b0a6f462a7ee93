// Package region is memory that the core and a backend process share. The core
// alone creates regions; a backend opens them by their locator. Nothing in a
// region is ever a lock or a pointer: who writes when is settled by messages.
//
// On Linux a region is a memfd, sealed against shrinking, whose locator is
// /proc/PID/fd/N and opens for the same user only. Elsewhere on Unix, and where
// memfd is refused, it is a file in a folder of its own, of mode 0700, which
// Unlink removes once the peer has opened it. On Windows it is a section backed by
// the page file. /dev/shm is not used: containers make it 64 MB by default.
package region

import (
	"errors"
	"fmt"
	"math"
	"sync"
)

// Mode says what a peer may do with a region that it opens.
type Mode int

// Modes. Writing to memory that was opened with Read is a memory fault.
const (
	Read Mode = iota + 1
	ReadWrite
)

func (m Mode) String() string {
	switch m {
	case Read:
		return "read"
	case ReadWrite:
		return "read-write"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// ErrLength is wrapped by errors that say that a length cannot be, or that what
// the locator names is shorter than was said.
var ErrLength = errors.New("wrong length")

// Region is shared memory mapped into this process.
type Region struct {
	locator string

	mu     sync.Mutex
	data   []byte
	remove func() error // takes the name away; nil where there is none
	close  func() error // nil once closed
}

// Create makes a zeroed region of length bytes, at least 1. Memory is taken as
// its pages are first touched.
func Create(length int64) (*Region, error) {
	if err := checkLength(length); err != nil {
		return nil, fmt.Errorf("create region: %w", err)
	}
	r, err := create(length)
	if err != nil {
		return nil, fmt.Errorf("create region of %d bytes: %w", length, err)
	}
	return r, nil
}

// CreateNamed is Create for a peer that could not open what Create made, as where
// /proc hides other processes: the region always has a name in the file system
// (on Windows: in the session). The space is taken at once.
func CreateNamed(length int64) (*Region, error) {
	if err := checkLength(length); err != nil {
		return nil, fmt.Errorf("create region: %w", err)
	}
	r, err := createNamed(length)
	if err != nil {
		return nil, fmt.Errorf("create named region of %d bytes: %w", length, err)
	}
	return r, nil
}

// Open maps the first length bytes of the region that another process of the same
// user created. It refuses what is shorter, belongs to another user or is not of
// the kind that Create makes.
func Open(locator string, length int64, mode Mode) (*Region, error) {
	if err := checkLength(length); err != nil {
		return nil, fmt.Errorf("open region %q: %w", locator, err)
	}
	if mode != Read && mode != ReadWrite {
		return nil, fmt.Errorf("open region %q: mode %v is neither read nor read-write", locator, mode)
	}
	r, err := open(locator, length, mode)
	if err != nil {
		return nil, fmt.Errorf("open region %q: %w", locator, err)
	}
	return r, nil
}

func checkLength(n int64) error {
	if n < 1 || n > math.MaxInt {
		return fmt.Errorf("%w: %d bytes, wants 1 to %d", ErrLength, n, math.MaxInt)
	}
	return nil
}

// Locator is what a peer on this machine opens the region by.
func (r *Region) Locator() string { return r.locator }

// Bytes is the memory, or nil after Close. It must not be used after Close.
func (r *Region) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data
}

// Unlink takes the region's name away, so that nothing is left behind when both
// processes die. It is called once every peer has opened the region; it may be
// repeated, and does nothing where regions have no name.
func (r *Region) Unlink() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unlink()
}

func (r *Region) unlink() error {
	if r.remove == nil {
		return nil
	}
	err := r.remove()
	r.remove = nil
	return err
}

// Close unmaps the region, and on the creator's side takes its name away. The
// memory is free when every process has closed it. Close may be repeated.
func (r *Region) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.close == nil {
		return nil
	}
	err := errors.Join(r.close(), r.unlink())
	r.close, r.data = nil, nil
	return err
}
