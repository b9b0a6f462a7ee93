package hosts

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// What is kept of a backend's stderr for the errors that people see. Where there
// is a crash, it takes half: a quarter what was said before, a quarter its
// beginning.
const (
	tailLines = 64
	tailBytes = 16 << 10
	maxLine   = 8 << 10 // of one line; the rest is cut
	crashLine = 256     // of one line of a crash's beginning
)

// crash begins what the Go runtime says of a panic or a fault, in C code too. The
// reason is in its first lines, and stacks of any length follow.
var crash = regexp.MustCompile(`^(panic: |fatal error: |SIG[A-Z]+: |unexpected fault address )`)

// tail keeps the last lines of a stream, and the first of a crash.
type tail struct {
	mu      sync.Mutex
	head    []string // of a crash, with what was said before
	missing int      // lines of the crash that head still takes
	last    lastLines
}

// lastLines are lines of bounded number and size.
type lastLines struct {
	lines []string
	bytes int
}

func (l *lastLines) add(line string) {
	l.lines = append(l.lines, line)
	l.bytes += len(line) + 1
}

// keep drops what is beyond the bounds, and reports whether something was.
func (l *lastLines) keep(lines, bytes int) bool {
	drop := 0
	for len(l.lines)-drop > lines || l.bytes > bytes {
		l.bytes -= len(l.lines[drop]) + 1
		drop++
	}
	l.lines = slices.Delete(l.lines, 0, drop)
	return drop > 0
}

// add takes a line and reports whether it is of a crash.
func (t *tail) add(line string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.head == nil && crash.MatchString(line) {
		t.last.keep(tailLines/4, tailBytes/4)
		t.head, t.last, t.missing = t.last.lines, lastLines{}, tailLines/4
	}
	if t.missing > 0 {
		t.head = append(t.head, line[:min(len(line), crashLine)])
		t.missing--
		return true
	}
	t.last.add(line)
	if t.head == nil {
		t.last.keep(tailLines, tailBytes)
		return false
	}
	if t.last.keep(tailLines/2, tailBytes/2) && t.head[len(t.head)-1] != "..." {
		t.head = append(t.head, "...")
	}
	return true
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(slices.Concat(t.head, t.last.lines), "\n")
}

// speech takes what a backend says, keeps the tail and logs each line: those that
// hclog wrote as JSON at their level with their fields, others as they are.
type speech struct {
	tail *tail
	log  hclog.Logger
	line []byte // begun, without its end; what goes beyond maxLine is dropped
	cut  bool
}

func (s *speech) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		if room := maxLine - len(s.line); len(part) > room {
			part, s.cut = part[:room], true
		}
		s.line = append(s.line, part...)
		if ended {
			s.flush()
		}
	}
	return len(p), nil
}

// flush ends the line, as at the end of the stream.
func (s *speech) flush() {
	text := strings.TrimRight(string(s.line), "\r")
	if s.cut {
		text += " ..."
	}
	if text != "" {
		if s.tail.add(text) {
			s.log.Error(text)
		} else {
			logLine(s.log, text)
		}
	}
	s.line, s.cut = s.line[:0], false
}

func logLine(log hclog.Logger, text string) {
	var fields map[string]any
	if text[0] != '{' || json.Unmarshal([]byte(text), &fields) != nil {
		log.Info(text)
		return
	}
	message, _ := fields["@message"].(string)
	name, _ := fields["@level"].(string)
	level := hclog.LevelFromString(name)
	if message == "" || level == hclog.NoLevel {
		log.Info(text)
		return
	}
	if level < log.GetLevel() {
		return
	}
	if module, ok := fields["@module"].(string); ok && module != "" {
		fields["module"] = module
	}
	var args []any
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if !strings.HasPrefix(k, "@") {
			args = append(args, k, fields[k])
		}
	}
	log.Log(level, message, args...)
}
