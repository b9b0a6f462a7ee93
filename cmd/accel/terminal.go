package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// terminalWidth returns the columns of the terminal behind w, or 0 if there is none.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil {
		return width
	}
	return 80
}

// style colours text for people, where w is a terminal that shows colours.
type style struct{ on bool }

func styleOf(w io.Writer, environ []string) style {
	env := func(name string) string {
		for _, kv := range slices.Backward(environ) {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		return ""
	}
	// Windows' old console shows escapes as they are; its Terminal sets WT_SESSION.
	plain := env("NO_COLOR") != "" || env("TERM") == "dumb" || runtime.GOOS == "windows" && env("WT_SESSION") == ""
	return style{on: !plain && terminalWidth(w) > 0}
}

func (s style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string { return s.paint("1", t) }
func (s style) dim(t string) string  { return s.paint("2", t) }
func (s style) good(t string) string { return s.paint("32", t) }
func (s style) warn(t string) string { return s.paint("33", t) }
func (s style) bad(t string) string  { return s.paint("31", t) }

// table is rows of cells under a header, aligned for people.
type table struct {
	header []string
	rows   [][]string
	right  []bool                                    // columns that are set flush right
	paint  func(col int, cell, padded string) string // may be nil
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write sets the table. Where width is not 0 the widest columns are cut, visibly,
// until the table fits.
func (t *table) write(w io.Writer, s style, width int) error {
	widths := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], uniseg.StringWidth(oneLine(c)))
		}
	}
	const gap, least = 2, 8
	for width > 0 {
		total := gap * (len(widths) - 1)
		widest := 0
		for i, n := range widths {
			total += n
			if n > widths[widest] {
				widest = i
			}
		}
		if total <= width || widths[widest] <= least {
			break
		}
		// All the widest together, so that like columns stay alike.
		second, count := 0, 0
		for _, n := range widths {
			if n == widths[widest] {
				count++
			} else {
				second = max(second, n)
			}
		}
		cut := min((total-width+count-1)/count, widths[widest]-max(second, least))
		to := widths[widest] - max(1, cut)
		for i, n := range widths {
			if n > to && n == widths[widest] && i != widest {
				widths[i] = to
			}
		}
		widths[widest] = to
	}
	var b strings.Builder
	line := func(row []string, paint func(int, string, string) string) {
		var l strings.Builder
		for i, c := range row {
			cell := fit(oneLine(c), widths[i])
			pad := strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell))
			switch {
			case i < len(t.right) && t.right[i]:
				cell = pad + cell
			case i < len(row)-1:
				cell += pad
			}
			if i > 0 {
				l.WriteString(strings.Repeat(" ", gap))
			}
			l.WriteString(paint(i, c, cell))
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	line(t.header, func(_ int, _, cell string) string { return s.bold(cell) })
	for _, row := range t.rows {
		line(row, func(i int, c, cell string) string {
			if t.paint == nil || !s.on {
				return cell
			}
			return t.paint(i, c, cell)
		})
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine keeps a cell from breaking its table or steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0:
			return '\ufffd'
		}
		return r
	}, s)
}

// fit cuts text to a width in columns, with a sign where something is missing.
func fit(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if used+g.Width() > width-1 {
			break
		}
		used += g.Width()
		b.WriteString(g.Str())
	}
	return b.String() + "…"
}

// screen is standard error with, on a terminal, a last line that shows progress.
// What is written meanwhile stands above that line.
type screen struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex
	shown bool
	line  string
	atBOL bool
}

func newScreen(w io.Writer) *screen {
	return &screen{w: w, terminal: terminalWidth(w) > 0, atBOL: true}
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	n, err := s.w.Write(p)
	if len(p) > 0 {
		s.atBOL = p[len(p)-1] == '\n'
	}
	s.draw()
	return n, err
}

func (s *screen) erase() {
	if s.shown {
		io.WriteString(s.w, "\r\x1b[K")
		s.shown = false
	}
}

func (s *screen) draw() {
	if s.line != "" && s.atBOL {
		io.WriteString(s.w, fit(s.line, max(20, terminalWidth(s.w)-1)))
		s.shown = true
	}
}

func (s *screen) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.line = line
	s.draw()
}

// progress shows that something is under way, once it has taken a second.
type progress struct {
	screen *screen
	stop   chan struct{}
	done   sync.WaitGroup

	mu   sync.Mutex
	what string
}

// progress begins to show what is under way. end must be called.
func (a *app) progress(what string) *progress {
	p := &progress{screen: a.screen, what: what, stop: make(chan struct{})}
	if a.noProgress || a.json || !a.screen.terminal {
		return p
	}
	p.done.Go(func() {
		begin := time.Now()
		select {
		case <-time.After(time.Second):
		case <-p.stop:
			return
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		const wheel = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
		marks := []rune(wheel)
		for i := 0; ; i++ {
			p.mu.Lock()
			what := p.what
			p.mu.Unlock()
			p.screen.show(fmt.Sprintf("%c %s  %ds", marks[i%len(marks)], what, int(time.Since(begin).Seconds())))
			select {
			case <-tick.C:
			case <-p.stop:
				p.screen.show("")
				return
			}
		}
	})
	return p
}

// say changes what is shown.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = fmt.Sprintf(format, args...)
}

func (p *progress) end() {
	close(p.stop)
	p.done.Wait()
}

// number groups digits: 12 345.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// count says how many there are of something.
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + one + "s"
}

// memory is a number of bytes in the unit that people read.
func memory(n int64) string {
	if n <= 0 {
		return "-"
	}
	return scaled(n, 1024, 1, "B", "KiB", "MiB", "GiB", "TiB")
}

// scaled is a number in the largest of its units, each base times the one before, with so many decimals.
func scaled(n int64, base float64, decimals int, units ...string) string {
	f, i := float64(n), 0
	for f >= base && i < len(units)-1 {
		f /= base
		i++
	}
	if i == 0 {
		decimals = 0
	}
	return fmt.Sprintf("%.*f %s", decimals, f, units[i])
}

// seconds is a duration in the unit that people read.
func seconds(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d us", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// exact is a duration in three digits.
func exact(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}} {
		if d >= u.size {
			f := float64(d) / float64(u.size)
			digits := 2
			if f >= 100 {
				digits = 0
			} else if f >= 10 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, f, u.name)
		}
	}
	return fmt.Sprintf("%d ns", d)
}

// wrap joins parts by commas into lines of at most width columns.
func wrap(parts []string, width int) []string {
	var lines []string
	line, used := "", 0
	for i, p := range parts {
		if i < len(parts)-1 {
			p += ","
		}
		n := uniseg.StringWidth(escapes.ReplaceAllString(p, ""))
		if line != "" && used+1+n > width {
			lines, line, used = append(lines, line), "", 0
		}
		if line != "" {
			line, used = line+" ", used+1
		}
		line, used = line+p, used+n
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// escapes are the codes that paint adds.
var escapes = regexp.MustCompile("\x1b\\[[0-9]*m")
