package engine

import (
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/tensor"
)

// padded are the sizes that a step is run at: few, so that a device compiles or plans
// few. What is added is a sequence of padding on page 0, which is nobody's, and
// sequences of nothing.
func (x *decoder) padded(z sizes) sizes {
	round := stepSize
	if x.static {
		round = bucket
	}
	out := sizes{tokens: round(max(1, z.tokens)), pagesEach: 8, selected: round(max(1, z.selected))}
	padding := out.tokens - z.tokens
	for out.pagesEach < z.pagesEach || out.pagesEach*x.o.PageSize < padding {
		out.pagesEach *= 2
	}
	if padding > 0 {
		z.sequences++
	}
	out.sequences = round(max(1, z.sequences))
	return out
}

// stepSize is a size that n is rounded up to where any is possible: exact for few, then
// with at most an eighth of padding.
func stepSize(n int64) int64 {
	step := int64(1)
	for n > 16*step {
		step *= 2
	}
	return (n + step - 1) / step * step
}

// frame is the inputs of a step while they are put together. Its memory is used again.
type frame struct {
	ids, positions, slots, tables, lengths, starts, selected []int64
	width                                                    int64 // of tables
	narrow                                                   [7][]int32
	named                                                    [7]Named
}

// fill takes in a step as the scheduler has it.
func (f *frame) fill(s *schedule.Step) {
	f.ids = append(f.ids[:0], s.InputIDs...)
	f.positions = append(f.positions[:0], s.Positions...)
	f.slots = append(f.slots[:0], s.Slots...)
	f.tables = append(f.tables[:0], s.PageTables...)
	f.width = int64(s.PageWidth)
	f.lengths = append(f.lengths[:0], s.Lengths...)
	f.starts = append(f.starts[:0], s.Starts...)
	f.selected = append(f.selected[:0], s.Select...)
}

// pad brings the frame to the sizes of z.
func (f *frame) pad(z sizes, pageSize int64) {
	if len(f.starts) == 0 {
		f.starts = append(f.starts, 0)
	}
	f.widen(z.pagesEach)
	if n := z.tokens - int64(len(f.ids)); n > 0 {
		// One sequence that attends to itself.
		for i := range n {
			f.ids = append(f.ids, 0)
			f.positions = append(f.positions, i)
			f.slots = append(f.slots, i%pageSize)
		}
		f.lengths = append(f.lengths, n)
		f.starts = append(f.starts, z.tokens)
	}
	for int64(len(f.lengths)) < z.sequences {
		f.lengths = append(f.lengths, 0)
		f.starts = append(f.starts, z.tokens)
	}
	f.tables = extend(f.tables, z.sequences*z.pagesEach)
	f.selected = extend(f.selected, z.selected)
}

// widen gives the rows of the page tables another width.
func (f *frame) widen(width int64) {
	rows := int64(len(f.lengths))
	was := f.width
	f.width = width
	if was == width || rows == 0 {
		return
	}
	f.tables = extend(f.tables, rows*width)
	for r := rows - 1; r >= 0; r-- {
		row := f.tables[r*width : (r+1)*width]
		copy(row, f.tables[r*was:(r+1)*was])
		clear(row[was:])
	}
}

// extend lengthens with zeros.
func extend(s []int64, n int64) []int64 {
	for int64(len(s)) < n {
		s = append(s, 0)
	}
	return s
}

// inputs are the frame as inputs of Decode, those in narrow as int32.
func (f *frame) inputs(narrow map[string]bool) []Named {
	sequences := int64(len(f.lengths))
	for i, in := range [...]struct {
		name   string
		values []int64
		shape  tensor.Shape
	}{
		{models.InputIDs, f.ids, tensor.Shape{int64(len(f.ids))}},
		{models.Positions, f.positions, tensor.Shape{int64(len(f.positions))}},
		{models.Slots, f.slots, tensor.Shape{int64(len(f.slots))}},
		{models.PageTables, f.tables, tensor.Shape{sequences, f.width}},
		{models.Lengths, f.lengths, tensor.Shape{sequences}},
		{models.Starts, f.starts, tensor.Shape{int64(len(f.starts))}},
		{models.Select, f.selected, tensor.Shape{int64(len(f.selected))}},
	} {
		t := tensor.Ints(in.shape, in.values...)
		if narrow[in.name] {
			f.narrow[i] = f.narrow[i][:0]
			for _, v := range in.values {
				f.narrow[i] = append(f.narrow[i], int32(v)) // tokens, positions and places are all far below 2^31
			}
			t = tensor.Of(tensor.Int32, in.shape, f.narrow[i])
		}
		f.named[i] = Named{in.name, t}
	}
	return f.named[:]
}
