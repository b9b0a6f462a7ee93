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
	if x.model.Cross != nil {
		for out.crossEach = 8; out.crossEach < z.crossEach; {
			out.crossEach *= 2
		}
	}
	if x.model.Embeds > 0 {
		out.embeds = round(max(1, z.embeds))
	}
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
	ids, positions, slots, lengths, starts, selected []int64
	tables                                           pageTables
	cross                                            pageTables // of the sources
	crossLengths, embedIndex                         []int64
	embedRows                                        []float32

	narrow map[string][]int32
	named  []Named
}

// pageTables are rows of so many pages.
type pageTables struct {
	pages []int64
	width int64
}

func (t *pageTables) fill(pages []int64, width int) {
	t.pages = append(t.pages[:0], pages...)
	t.width = int64(width)
}

// resize brings the tables to so many rows of another width, from the rows there are.
func (t *pageTables) resize(rows, width int64) {
	var had int64
	if t.width > 0 {
		had = int64(len(t.pages)) / t.width
	}
	if was := t.width; was != width && had > 0 {
		t.pages = extend(t.pages, had*width)
		for r := had - 1; r >= 0; r-- {
			row := t.pages[r*width : (r+1)*width]
			copy(row, t.pages[r*was:(r+1)*was])
			clear(row[was:])
		}
	}
	t.width = width
	t.pages = extend(t.pages, rows*width)
}

// fill takes in a step as the scheduler has it.
func (f *frame) fill(s *schedule.Step) {
	f.ids = append(f.ids[:0], s.InputIDs...)
	f.positions = append(f.positions[:0], s.Positions...)
	f.slots = append(f.slots[:0], s.Slots...)
	f.tables.fill(s.PageTables, s.PageWidth)
	f.cross.fill(s.CrossTables, s.CrossWidth)
	f.crossLengths = append(f.crossLengths[:0], s.CrossLengths...)
	f.embedIndex = append(f.embedIndex[:0], s.EmbedIndex...)
	f.embedRows = append(f.embedRows[:0], s.EmbedRows...)
	f.lengths = append(f.lengths[:0], s.Lengths...)
	f.starts = append(f.starts[:0], s.Starts...)
	f.selected = append(f.selected[:0], s.Select...)
}

// pad brings the frame to the sizes of z.
func (f *frame) pad(z sizes, pageSize, embeds int64) {
	if len(f.starts) == 0 {
		f.starts = append(f.starts, 0)
	}
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
	f.tables.resize(z.sequences, z.pagesEach)
	f.selected = extend(f.selected, z.selected)
	if z.crossEach > 0 {
		f.cross.resize(z.sequences, z.crossEach)
		for int64(len(f.crossLengths)) < z.sequences {
			f.crossLengths = append(f.crossLengths, 1) // page 0's first row: attention to nothing is no number
		}
	}
	if embeds > 0 {
		for int64(len(f.embedIndex)) < z.tokens {
			f.embedIndex = append(f.embedIndex, -1)
		}
		for int64(len(f.embedRows)) < z.embeds*embeds {
			f.embedRows = append(f.embedRows, 0)
		}
	}
}

// extend lengthens with zeros.
func extend(s []int64, n int64) []int64 {
	for int64(len(s)) < n {
		s = append(s, 0)
	}
	return s
}

// inputs are the frame as inputs of Decode, those in narrow as int32. embeds is the width of
// rows that come as embeddings; 0: there are none.
func (f *frame) inputs(narrow map[string]bool, embeds int64) []Named {
	f.named = f.named[:0]
	add := func(name string, values []int64, shape ...int64) {
		t := tensor.Ints(shape, values...)
		if narrow[name] {
			if f.narrow == nil {
				f.narrow = map[string][]int32{}
			}
			small := f.narrow[name][:0]
			for _, v := range values {
				small = append(small, int32(v)) // tokens, positions and places are all far below 2^31
			}
			f.narrow[name] = small
			t = tensor.Of(tensor.Int32, shape, small)
		}
		f.named = append(f.named, Named{name, t})
	}
	tokens, sequences := int64(len(f.ids)), int64(len(f.lengths))
	add(models.InputIDs, f.ids, tokens)
	add(models.Positions, f.positions, tokens)
	add(models.Slots, f.slots, tokens)
	add(models.PageTables, f.tables.pages, sequences, f.tables.width)
	add(models.Lengths, f.lengths, sequences)
	add(models.Starts, f.starts, sequences+1)
	add(models.Select, f.selected, int64(len(f.selected)))
	if f.cross.width > 0 {
		add(models.CrossPageTables, f.cross.pages, sequences, f.cross.width)
		add(models.CrossLengths, f.crossLengths, sequences)
	}
	if embeds > 0 {
		add(models.EmbedIndex, f.embedIndex, tokens)
		f.named = append(f.named, Named{models.EmbedRows, tensor.Of(tensor.Float32, tensor.Shape{int64(len(f.embedRows)) / embeds, embeds}, f.embedRows)})
	}
	return f.named
}
