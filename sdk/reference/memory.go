package reference

import (
	"unsafe"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// meter counts the memory that a run holds: tensors made by operators, until the
// last value that refers to them is dropped, and scratch space until its
// operator ends. Inputs and weights are the caller's and are not counted.
//
// It knows blocks by the address of their first byte: operators pass on a whole
// tensor's memory or none.
type meter struct {
	limit int64
	held  int64
	peak  int64
	live  map[uintptr]*block
	fresh []uintptr // made since the last sweep
}

type block struct {
	bytes int64
	refs  int
}

// DefaultMaxBytes is the memory limit of a run where none is given: an
// allocation that the machine can't satisfy ends a Go process, so there is always
// a limit.
const DefaultMaxBytes = int64(1) << (30 + 4*(^uint(0)>>63)) // 16 GiB; 1 GiB on machines of 32 bits

func newMeter(limit int64) *meter {
	if limit <= 0 {
		limit = DefaultMaxBytes
	}
	return &meter{limit: limit, live: map[uintptr]*block{}}
}

// reserve counts bytes, or refuses them.
func (m *meter) reserve(bytes int64) error {
	if bytes > m.limit-m.held {
		return &MemoryError{Needed: bytes, Held: m.held, Limit: m.limit}
	}
	m.held += bytes
	m.peak = max(m.peak, m.held)
	return nil
}

// stringBytes is what one string of a tensor counts; operators that make text count
// it with meter.text.
const stringBytes = int64(unsafe.Sizeof(""))

func (m *meter) tensor(d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	var bytes int64
	var err error
	if d == tensor.String {
		bytes, err = s.Elements()
		bytes = min(bytes, 1<<62/stringBytes) * stringBytes
	} else {
		bytes, err = tensor.ByteSize(d, s)
	}
	if err == nil {
		err = checkEmpty(s)
	}
	if err != nil {
		return tensor.Tensor{}, err
	}
	if err := m.reserve(bytes); err != nil {
		return tensor.Tensor{}, err
	}
	t, err := tensor.New(d, s)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if p := address(t); p != 0 {
		m.live[p] = &block{bytes: bytes}
		m.fresh = append(m.fresh, p)
	}
	return t, nil
}

// text counts what the strings of a tensor made here hold.
func (m *meter) text(t tensor.Tensor, bytes int64) error {
	b := m.live[address(t)]
	if b == nil {
		return nil
	}
	if err := m.reserve(bytes); err != nil {
		return err
	}
	b.bytes += bytes
	return nil
}

// address is that of a tensor's first byte, 0 where it has none.
func address(t tensor.Tensor) uintptr {
	if t.DType == tensor.String {
		return uintptr(unsafe.Pointer(unsafe.SliceData(t.Strings)))
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))
}

// retain counts one more value that refers to a block.
func (m *meter) retain(v graph.Datum) {
	m.each(v, func(b *block) { b.refs++ })
}

// release takes that back; what nobody refers to is no longer held.
func (m *meter) release(v graph.Datum) {
	m.each(v, func(b *block) { b.refs-- })
	m.eachAddress(v, m.collect)
}

func (m *meter) collect(p uintptr) {
	if b := m.live[p]; b != nil && b.refs <= 0 {
		m.held -= b.bytes
		delete(m.live, p)
	}
}

// sweep drops what was made since mark and was not retained.
func (m *meter) sweep(mark int) {
	for _, p := range m.fresh[mark:] {
		m.collect(p)
	}
	m.fresh = m.fresh[:mark]
}

func (m *meter) each(v graph.Datum, f func(*block)) {
	m.eachAddress(v, func(p uintptr) {
		if b := m.live[p]; b != nil {
			f(b)
		}
	})
}

func (m *meter) eachAddress(v graph.Datum, f func(uintptr)) {
	switch v.Kind {
	case graph.KindTensor:
		if p := address(v.Tensor); p != 0 {
			f(p)
		}
	case graph.KindSequence:
		for _, e := range v.Sequence {
			m.eachAddress(e, f)
		}
	case graph.KindOptional:
		if v.Optional != nil {
			m.eachAddress(*v.Optional, f)
		}
	}
}
