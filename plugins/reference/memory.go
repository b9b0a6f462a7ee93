package main

import (
	"io"
	"sync"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
)

// memory counts what is held on a device: weights and activations of executables,
// and buffers.
type memory struct {
	limit   int64
	changed func() // called after each change; may be nil

	mu   sync.Mutex
	held int64
}

func (m *memory) state() (total, free int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit, m.limit - m.held
}

// reserve counts bytes, or refuses them. budget, if not 0, is what the caller
// allows.
func (m *memory) reserve(what string, bytes, budget int64) error {
	m.mu.Lock()
	free := m.limit - m.held
	if budget > 0 {
		free = min(free, budget)
	}
	if bytes > free {
		m.mu.Unlock()
		return backend.OutOfMemory(what, bytes, free)
	}
	m.held += bytes
	m.mu.Unlock()
	m.notify()
	return nil
}

func (m *memory) release(bytes int64) {
	m.mu.Lock()
	m.held -= bytes
	m.mu.Unlock()
	m.notify()
}

func (m *memory) notify() {
	if m.changed != nil {
		m.changed()
	}
}

// buffer is device memory, which is the host's.
type buffer struct {
	data   []byte
	memory *memory
}

func newBuffer(m *memory, bytes int64) (*buffer, error) {
	if bytes <= 0 {
		return nil, backend.Invalid("length", "a buffer of %d bytes can't be made", bytes)
	}
	if err := m.reserve("a buffer", bytes, 0); err != nil {
		return nil, err
	}
	// A tensor's memory is aligned for every element type.
	t, err := tensor.New(tensor.Uint8, tensor.Shape{bytes})
	if err != nil {
		m.release(bytes)
		return nil, backend.Internal("%v", err)
	}
	return &buffer{data: t.Data, memory: m}, nil
}

func (b *buffer) Size() int64 { return int64(len(b.data)) }

func (b *buffer) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset > b.Size()-int64(len(p)) {
		return 0, io.EOF
	}
	return copy(p, b.data[offset:]), nil
}

func (b *buffer) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset > b.Size()-int64(len(p)) {
		return 0, io.ErrShortWrite
	}
	return copy(b.data[offset:], p), nil
}

func (b *buffer) Close() error {
	b.memory.release(b.Size())
	b.data = nil
	return nil
}
