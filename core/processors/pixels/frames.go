package pixels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Frames reads a video: an animated GIF or PNG, or a picture of another kind as a video of
// one frame. Of its frames n are taken, evenly from the first to the last, each as often
// as it takes where there are fewer; n 0 takes all. Errors are *DecodeError.
func Frames(data []byte, n int, l Limits) ([]Picture, error) {
	f, _, err := inspect(data, l)
	if err != nil {
		return nil, err
	}
	l = l.orDefault()
	var frames []Picture
	switch {
	case f.name == "GIF":
		frames, err = gifFrames(data, l, l.Frames)
	case f.name == "PNG" && animated(data):
		frames, err = pngFrames(data, l)
	default:
		var p Picture
		p, err = Decode(data, l)
		frames = []Picture{p}
	}
	if err != nil {
		return nil, err
	}
	return sample(frames, n), nil
}

// FolderFrames reads a video whose frames are the pictures of a folder, in the order of
// their names; files whose names begin with a dot don't count. Only those that are taken
// are read. Errors of a picture are *DecodeError.
func FolderFrames(dir string, n int, l Limits) ([]Picture, error) {
	l = l.orDefault()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	if len(names) == 0 || len(names) > l.Frames {
		return nil, &DecodeError{Format: "folder", Found: fmt.Sprintf("%s has %d files", dir, len(names)), Wanted: fmt.Sprintf("1 to %d pictures", l.Frames)}
	}
	read := map[string]Picture{}
	var frames []Picture
	for _, name := range sample(names, n) {
		p, ok := read[name]
		if !ok {
			if p, err = File(name, l); err != nil {
				return nil, err
			}
			read[name] = p
		}
		frames = append(frames, p)
	}
	return frames, nil
}

// File is Decode of a file.
func File(name string, l Limits) (Picture, error) {
	data, err := ReadFile(name, l)
	if err != nil {
		return Picture{}, err
	}
	p, err := Decode(data, l)
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// ReadFile reads a file that is no larger than the limit.
func ReadFile(name string, l Limits) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &DecodeError{Found: name + " is no regular file"}
	case info.Size() > int64(l.orDefault().Bytes):
		return nil, &DecodeError{Found: fmt.Sprintf("%s has %d bytes", name, info.Size()), Wanted: fmt.Sprintf("at most %d", l.orDefault().Bytes)}
	}
	return os.ReadFile(name)
}

// sample takes n of a list, evenly from its first to its last.
func sample[T any](list []T, n int) []T {
	switch n {
	case 0:
		return list
	case 1:
		return list[len(list)/2 : len(list)/2+1]
	}
	out := make([]T, n)
	for i := range out {
		out[i] = list[(2*i*(len(list)-1)+n-1)/(2*(n-1))]
	}
	return out
}

// canvas is what the frames of an animation are drawn on.
type canvas struct {
	Picture
	before Picture // for frames that are taken away again
	frames []Picture
	limit  int // of the pixels of all frames
}

func (c *canvas) show(format string) error {
	if len(c.frames)+1 > c.limit/(c.Width*c.Height) {
		return &DecodeError{Format: format, Found: fmt.Sprintf("more than %d frames of %dx%d", len(c.frames), c.Width, c.Height), Wanted: fmt.Sprintf("at most %d pixels in all frames", c.limit)}
	}
	c.frames = append(c.frames, Picture{c.Width, c.Height, slices.Clone(c.Pix)})
	return nil
}

// clear paints a region.
func (c *canvas) clear(r image.Rectangle, with [3]byte) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			copy(c.row(y)[3*x:3*x+3], with[:])
		}
	}
}

// restore brings a region back to what it was before.
func (c *canvas) restore(r image.Rectangle) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(c.row(y)[3*r.Min.X:3*r.Max.X], c.before.row(y)[3*r.Min.X:3*r.Max.X])
	}
}

// gifFrames draws the first frames of a GIF. What no frame has painted is of the first
// frame's transparent colour, or of its first one.
func gifFrames(data []byte, l Limits, most int) ([]Picture, error) {
	fail := func(found string, err error) ([]Picture, error) {
		return nil, &DecodeError{Format: "GIF", Found: found, Err: err}
	}
	tables, pixels, err := gifContent(data)
	if err != nil {
		return nil, err
	}
	if n := len(tables); n > l.Frames {
		return nil, &DecodeError{Format: "GIF", Found: fmt.Sprintf("it has %d frames", n), Wanted: fmt.Sprintf("at most %d", l.Frames)}
	}
	if pixels > l.Pixels {
		return nil, &DecodeError{Format: "GIF", Found: fmt.Sprintf("its frames have %d pixels", pixels), Wanted: fmt.Sprintf("at most %d", l.Pixels)}
	}
	g, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil {
		return fail("it is damaged", err)
	}
	if len(g.Image) > len(tables) {
		return fail("its frames can't be told apart", nil)
	}
	c := canvas{Picture: Black(g.Config.Width, g.Config.Height), limit: l.Pixels}
	ground := gifPalette(g.Image[0], tables[0])[max(transparent(g.Image[0]), 0)]
	whole := image.Rect(0, 0, c.Width, c.Height)
	c.clear(whole, ground)
	for i, m := range g.Image[:min(most, len(g.Image))] {
		region := m.Bounds().Intersect(whole)
		if g.Disposal[i] == gif.DisposalPrevious {
			c.before = Picture{c.Width, c.Height, slices.Clone(c.Pix)}
		}
		palette, skip := gifPalette(m, tables[i]), transparent(m)
		for y := region.Min.Y; y < region.Max.Y; y++ {
			for x := region.Min.X; x < region.Max.X; x++ {
				v := int(m.ColorIndexAt(x, y))
				if v >= len(m.Palette) {
					return fail(fmt.Sprintf("a pixel has color %d of %d", v, len(m.Palette)), nil)
				}
				if v != skip || i == 0 {
					copy(c.row(y)[3*x:3*x+3], palette[v][:])
				}
			}
		}
		if err := c.show("GIF"); err != nil {
			return nil, err
		}
		switch g.Disposal[i] {
		case gif.DisposalBackground:
			c.clear(region, ground)
		case gif.DisposalPrevious:
			c.restore(region)
		}
	}
	return c.frames, nil
}

// gifPalette are a frame's colours as the file has them: the decoder forgets that of the
// transparent one.
func gifPalette(m *image.Paletted, table []byte) [256][3]byte {
	palette := rgbPalette(m.Palette)
	if i := transparent(m); i >= 0 && 3*i+3 <= len(table) {
		palette[i] = [3]byte(table[3*i : 3*i+3])
	}
	return palette
}

// transparent is the colour of a frame that lets the one before through; -1: none does.
func transparent(m *image.Paletted) int {
	return slices.IndexFunc(m.Palette, func(c color.Color) bool { _, _, _, a := c.RGBA(); return a == 0 })
}

// gifContent finds the colour tables of a GIF's frames and counts the frames' pixels,
// without decoding any.
func gifContent(data []byte) (tables [][]byte, pixels int, err error) {
	short := &DecodeError{Format: "GIF", Found: "it ends too soon"}
	// table cuts the table behind a header of n bytes off, as the header's flags say.
	table := func(b []byte, n int, flags byte) (table, rest []byte) {
		b = b[min(n, len(b)):]
		if flags&0x80 == 0 {
			return nil, b
		}
		n = min(3<<(flags&7+1), len(b))
		return b[:n], b[n:]
	}
	blocks := func(b []byte) []byte { // behind a list of sub-blocks
		for len(b) > 0 && b[0] != 0 {
			b = b[min(1+int(b[0]), len(b)):]
		}
		return b[min(1, len(b)):]
	}
	if len(data) < 13 {
		return nil, 0, short
	}
	global, b := table(data, 13, data[10])
	for len(b) > 0 && b[0] != 0x3b {
		switch b[0] {
		case 0x21: // extension
			b = blocks(b[min(2, len(b)):])
		case 0x2c: // frame
			if len(b) < 11 {
				return nil, 0, short
			}
			pixels += int(binary.LittleEndian.Uint16(b[5:])) * int(binary.LittleEndian.Uint16(b[7:]))
			var own []byte
			if own, b = table(b, 10, b[9]); own == nil {
				own = global
			}
			tables = append(tables, own)
			b = blocks(b[min(1, len(b)):]) // behind the size of codes
		default:
			return nil, 0, &DecodeError{Format: "GIF", Found: fmt.Sprintf("a block begins with %#x", b[0])}
		}
	}
	if len(tables) == 0 {
		return nil, 0, &DecodeError{Format: "GIF", Found: "it has no frame"}
	}
	return tables, pixels, nil
}

// chunk is one of a PNG.
type chunk struct {
	kind string
	data []byte
}

// chunks walks a PNG as far as it is whole.
func chunks(data []byte) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		for b := data[min(8, len(data)):]; len(b) >= 12; {
			n := binary.BigEndian.Uint32(b)
			if uint64(n)+12 > uint64(len(b)) || !yield(chunk{string(b[4:8]), b[8 : 8+n]}) {
				return
			}
			b = b[12+n:]
		}
	}
}

// animated reports whether a PNG says, before its picture, that it is an animation.
func animated(data []byte) bool {
	for c := range chunks(data) {
		switch c.kind {
		case "acTL":
			return true
		case "IDAT":
			return false
		}
	}
	return false
}

// pngFrames draws the frames of an animated PNG (the extension of PNG's third edition).
// Each is decoded as a PNG of its own. Transparency over nothing is black.
func pngFrames(data []byte, l Limits) ([]Picture, error) {
	fail := func(format string, args ...any) ([]Picture, error) {
		return nil, &DecodeError{Format: "PNG", Found: fmt.Sprintf(format, args...)}
	}
	config, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, &DecodeError{Format: "PNG", Found: "its header is damaged", Err: err}
	}
	c := canvas{Picture: Black(config.Width, config.Height), limit: l.Pixels}
	whole := image.Rect(0, 0, c.Width, c.Height)
	var header []byte   // IHDR
	var common []chunk  // of all frames: palette and such
	var control []byte  // fcTL of the frame
	var content []chunk // IDAT of the frame
	draw := func() error {
		if control == nil || len(content) == 0 {
			return nil
		}
		n := func(at int) int { return int(binary.BigEndian.Uint32(control[at:])) }
		region := image.Rect(n(12), n(16), n(12)+n(4), n(16)+n(8))
		if region.Empty() || !region.In(whole) {
			return &DecodeError{Format: "PNG", Found: fmt.Sprintf("a frame covers %v of %v", region, whole)}
		}
		own := slices.Clone(header)
		copy(own, control[4:12])
		file := assemble(append(append([]chunk{{"IHDR", own}}, common...), content...))
		m, err := png.Decode(bytes.NewReader(file))
		if err != nil {
			return &DecodeError{Format: "PNG", Found: fmt.Sprintf("frame %d is damaged", len(c.frames)), Err: err}
		}
		p, err := rgb(m, "PNG", file)
		if err != nil {
			return err
		}
		const background, previous = 1, 2
		dispose, over := control[24], control[25] == 1
		if dispose == previous {
			c.before = Picture{c.Width, c.Height, slices.Clone(c.Pix)}
		}
		for y := range p.Height {
			for x := range p.Width {
				to := c.row(region.Min.Y + y)[3*(region.Min.X+x):][:3]
				alpha := uint32(0xffff)
				if over {
					_, _, _, alpha = m.At(m.Bounds().Min.X+x, m.Bounds().Min.Y+y).RGBA()
				}
				for i, v := range p.row(y)[3*x : 3*x+3] {
					to[i] = byte((uint32(v)*alpha + uint32(to[i])*(0xffff-alpha) + 0x7fff) / 0xffff)
				}
			}
		}
		if err := c.show("PNG"); err != nil {
			return err
		}
		switch dispose {
		case background:
			c.clear(region, [3]byte{})
		case previous:
			c.restore(region)
		}
		return nil
	}
	for ch := range chunks(data) {
		switch ch.kind {
		case "IHDR":
			header = ch.data
		case "PLTE", "tRNS":
			common = append(common, ch)
		case "fcTL":
			if err := draw(); err != nil {
				return nil, err
			}
			if len(ch.data) != 26 || ch.data[24] > 2 || ch.data[25] > 1 {
				return fail("a frame's control chunk is damaged")
			}
			if len(c.frames) >= l.Frames {
				return nil, &DecodeError{Format: "PNG", Found: fmt.Sprintf("it has more than %d frames", l.Frames), Wanted: fmt.Sprintf("at most %d", l.Frames)}
			}
			control, content = ch.data, nil
		case "IDAT":
			content = append(content, ch) // of no frame, where no control came before
		case "fdAT":
			if len(ch.data) < 4 {
				return fail("a frame's data chunk is damaged")
			}
			content = append(content, chunk{"IDAT", ch.data[4:]})
		}
	}
	if err := draw(); err != nil {
		return nil, err
	}
	if len(c.frames) == 0 {
		return fail("it is animated and has no frame")
	}
	return c.frames, nil
}

// assemble writes a PNG.
func assemble(list []chunk) []byte {
	out := []byte("\x89PNG\r\n\x1a\n")
	for _, c := range append(list, chunk{kind: "IEND"}) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(c.data)))
		from := len(out)
		out = append(append(out, c.kind...), c.data...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[from:]))
	}
	return out
}
