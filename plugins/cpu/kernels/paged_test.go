package kernels

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// pagedRun is a batch in f16 pages of 4, with 6 heads over 2 of 16: for what the kernel promises beside its numbers, which
// plugins/cpu compares with the reference.
type pagedRun struct {
	tables, lengths, starts, slots []int64
	width                          int64
}

const (
	pagedHeads, pagedKV, pagedDim, pagedSize = 6, 2, 16, 4
	pagedPages                               = 300
)

// pagedRunOf lays sequences of so many tokens, of which so many are new, on pages of their own.
func pagedRunOf(rng *rand.Rand, tokens, lengths []int64) *pagedRun {
	run := &pagedRun{lengths: lengths, starts: []int64{0}}
	for _, n := range lengths {
		run.width = max(run.width, (n+pagedSize-1)/pagedSize)
	}
	free := rng.Perm(pagedPages)
	for i, n := range lengths {
		table := make([]int64, run.width)
		for j := range (n + pagedSize - 1) / pagedSize {
			table[j], free = int64(free[0]), free[1:]
		}
		for t := range tokens[i] {
			at := n - tokens[i] + t
			run.slots = append(run.slots, table[at/pagedSize]*pagedSize+at%pagedSize)
		}
		run.tables = append(run.tables, table...)
		run.starts = append(run.starts, run.starts[i]+tokens[i])
	}
	return run
}

// op puts the batch into memory. What a token and a place hold hangs on the place alone, not on the batch.
func (p *pagedRun) op(mem *memory) (op *Paged, keys, values []uint16, out []float32) {
	tokens := int64(len(p.slots))
	op = &Paged{Tokens: tokens, Heads: pagedHeads, KVHeads: pagedKV, HeadDim: pagedDim, VDim: pagedDim, PageSize: pagedSize, LDQ: pagedHeads * pagedDim, LDK: pagedKV * pagedDim,
		LDV: pagedKV * pagedDim, Pages: AsMany, Sequences: AsMany, TableWidth: AsMany, Scale: 0.25, KType: 10, VType: 10, Causal: 1}
	rng := newRand()
	pool := func() []uint16 {
		s := make([]uint16, pagedPages*pagedSize*pagedKV*pagedDim)
		for i := range s {
			s[i] = 0x3800 | uint16(rng.IntN(1<<10)) | uint16(rng.IntN(2))<<15
		}
		return s
	}
	rows := func(seed uint64, heads int64) []float32 {
		var s []float32
		for _, slot := range p.slots {
			s = append(s, randoms(rand.New(rand.NewPCG(seed, uint64(slot))), heads*pagedDim)...)
		}
		return s
	}
	op.KPages, keys = put(mem, pool())
	op.VPages, values = put(mem, pool())
	op.Q, _ = put(mem, rows(1, pagedHeads))
	op.K, _ = put(mem, rows(2, pagedKV))
	op.V, _ = put(mem, rows(3, pagedKV))
	op.Slots, _ = put(mem, p.slots)
	op.PageTables, _ = put(mem, p.tables)
	op.Lengths, _ = put(mem, p.lengths)
	op.Starts, _ = put(mem, p.starts)
	op.O, out = put(mem, fill(tokens*pagedHeads*pagedDim, 9))
	return op, keys, values, out
}

// Neither threads nor the rest of the batch change a sequence's numbers, in a single bit.
func TestPagedIsTheSameOnAnyThreadsInAnyBatch(t *testing.T) {
	for _, isa := range testLibrary(t).ISAs() {
		if !isa.Supported {
			continue
		}
		p := pagedRunOf(newRand(), []int64{1, 90, 1, 3}, []int64{700, 90, 5, 290})
		var want []float32
		for threads := 1; threads <= 4; threads++ {
			mem := newMemory()
			op, _, _, out := p.op(mem)
			mem.run(t, newRunner(t, Config{ISA: isa.Name, Threads: threads}), op)
			if want == nil {
				want = slices.Clone(out)
			}
			if !slices.Equal(out, want) {
				t.Errorf("%s: %d threads give other numbers than 1", isa.Name, threads)
			}
		}
		for i := range p.lengths {
			first, last := p.starts[i], p.starts[i+1]
			alone := &pagedRun{tables: p.tables[int64(i)*p.width:][:p.width], lengths: p.lengths[i : i+1], starts: []int64{0, last - first}, slots: p.slots[first:last], width: p.width}
			mem := newMemory()
			op, _, _, out := alone.op(mem)
			mem.run(t, newRunner(t, Config{ISA: isa.Name, Threads: 2}), op)
			const row = pagedHeads * pagedDim
			if !slices.Equal(out, want[first*row:last*row]) {
				t.Errorf("%s: sequence %d alone has other numbers than in the batch", isa.Name, i)
			}
		}
	}
}

// What the data have wrong is told before anything is written.
func TestPagedRefusesBeforeItWrites(t *testing.T) {
	r := newRunner(t, Config{Threads: 2})
	for _, c := range []struct {
		name   string
		change func(*pagedRun)
		says   string
	}{
		{"a slot beyond the pools", func(p *pagedRun) { p.slots[2] = pagedPages * pagedSize }, "slots[2]"},
		{"a negative slot", func(p *pagedRun) { p.slots[0] = -1 }, "slots[0]"},
		{"a page that is not there", func(p *pagedRun) { p.tables[p.width] = pagedPages }, "page_tables"},
		{"a length beyond the table", func(p *pagedRun) { p.lengths[0] = p.width*pagedSize + 1 }, "lengths[0]"},
		{"fewer tokens in all than new ones", func(p *pagedRun) { p.lengths[1] = 3 }, "lengths[1]"},
		{"starts that go back", func(p *pagedRun) { p.starts[1] = 9 }, "starts[1]"},
		{"starts that do not begin at 0", func(p *pagedRun) { p.starts[0] = 1 }, "starts[0]"},
		{"starts that end early", func(p *pagedRun) { p.starts[2] = 4 }, "starts[2]"},
		{"starts of another batch", func(p *pagedRun) { p.starts = append(p.starts, p.starts[2]) }, "starts"},
		{"a table of another batch", func(p *pagedRun) { p.tables = p.tables[1:] }, "page_tables"},
	} {
		p := pagedRunOf(newRand(), []int64{1, 4}, []int64{30, 8})
		c.change(p)
		mem := newMemory()
		op, keys, values, _ := p.op(mem)
		keysBefore, valuesBefore := slices.Clone(keys), slices.Clone(values)
		var e *Error
		if err := mem.try(t, r, op); !errors.As(err, &e) || e.Code != CodeIndex || !strings.Contains(e.Text, c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(keys, keysBefore) || !slices.Equal(values, valuesBefore) {
			t.Errorf("%s: the pools were written to", c.name)
		}
	}
}
