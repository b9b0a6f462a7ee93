package hosts

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// What is kept of a backend's stderr for the errors that people see.
const (
	tailLines = 64
	tailBytes = 16 << 10
	maxLine   = 8 << 10 // of one line; the rest is cut
)

// tail keeps the last lines of a stream.
type tail struct {
	mu    sync.Mutex
	lines []string
	bytes int
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	t.bytes += len(line) + 1
	drop := 0
	for len(t.lines)-drop > tailLines || t.bytes > tailBytes && len(t.lines)-drop > 1 {
		t.bytes -= len(t.lines[drop]) + 1
		drop++
	}
	t.lines = slices.Delete(t.lines, 0, drop)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
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
		s.tail.add(text)
		logLine(s.log, text)
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
