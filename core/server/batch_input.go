package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// maxLine is the longest line of a batch, in bytes.
const maxLine = 32 << 20

// BatchInput is a file of JSON lines, each with an id: the line's own (`id` or `custom_id`), else its
// number, counted from 1. Empty lines don't count as lines, but are numbered.
type BatchInput struct {
	path  string
	lines map[string]int // numbers by id
	done  map[string]bool
}

// BatchFileError says what of a batch's file can't be used.
type BatchFileError struct {
	File    string
	Line    int // 0: none in particular
	Problem string
}

func (e *BatchFileError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Problem
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem)
}

// OpenBatch reads the ids of a file's lines. Two lines of one id are an error, for their answers
// could not be told apart; what else is wrong with a line becomes its answer.
func OpenBatch(path string) (*BatchInput, error) {
	in := &BatchInput{path: path, lines: map[string]int{}, done: map[string]bool{}}
	_, err := eachLine(path, func(n int, line []byte, _ bool) error {
		id, _, _ := lineID(n, line)
		if first, twice := in.lines[string(id)]; twice {
			return &BatchFileError{path, n, fmt.Sprintf("line %d has the id %s, too; give each its own", first, short(id))}
		}
		in.lines[string(id)] = n
		return nil
	})
	if err == nil && len(in.lines) == 0 {
		err = &BatchFileError{path, 0, `it holds no line; put one into it, such as {"prompt": "Once upon a time"}`}
	}
	return in, err
}

// Lines is the number of lines.
func (in *BatchInput) Lines() int { return len(in.lines) }

// Left is the number of lines without an answer.
func (in *BatchInput) Left() int { return len(in.lines) - len(in.done) }

// Resume reads the answers that are in a file already: their lines are not asked for again. failed
// of them are errors. The file is whole up to the byte that keep says: what follows is a line that
// an interrupted run had not ended.
func (in *BatchInput) Resume(path string) (failed int, keep int64, err error) {
	keep, err = eachLine(path, func(n int, line []byte, ended bool) error {
		if !ended {
			return nil
		}
		var a struct {
			ID       json.RawMessage `json:"id"`
			CustomID json.RawMessage `json:"custom_id"`
			Error    json.RawMessage `json:"error"`
			Response *struct {
				Status int `json:"status_code"`
			} `json:"response"`
		}
		if err := json.Unmarshal(line, &a); err != nil {
			return &BatchFileError{path, n, "it is no answer of a batch: " + err.Error()}
		}
		if a.CustomID != nil {
			a.ID = a.CustomID
		}
		id := string(canonicalID(a.ID))
		switch {
		case in.lines[id] == 0:
			return &BatchFileError{path, n, fmt.Sprintf("its id %s is of no line of %s: the file is of another batch", short(a.ID), in.path)}
		case in.done[id]:
			return &BatchFileError{path, n, fmt.Sprintf("the id %s was answered before", short(a.ID))}
		}
		in.done[id] = true
		if a.Response == nil && a.Error != nil && string(a.Error) != "null" || a.Response != nil && a.Response.Status >= 400 {
			failed++
		}
		return nil
	})
	return failed, keep, err
}

// each hands out the lines without an answer, in order.
func (in *BatchInput) each(do func(n int, key string, line []byte) error) error {
	_, err := eachLine(in.path, func(n int, line []byte, _ bool) error {
		id, _, _ := lineID(n, line)
		key := string(id)
		if in.lines[key] != n {
			return &BatchFileError{in.path, n, "the file changed while it was read"}
		}
		if in.done[key] {
			return nil
		}
		return do(n, key, bytes.Clone(line))
	})
	return err
}

// eachLine hands out the lines of a file that are not empty, with their numbers and whether they end
// as lines do. whole is the number of bytes of those that do.
func eachLine(path string, do func(n int, line []byte, ended bool) error) (whole int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	var line []byte
	for n := 1; ; n++ {
		line = line[:0]
		err := bufio.ErrBufferFull
		for errors.Is(err, bufio.ErrBufferFull) {
			var part []byte
			part, err = r.ReadSlice('\n')
			if line = append(line, part...); len(line) > maxLine {
				return whole, &BatchFileError{path, n, fmt.Sprintf("it is longer than %d bytes", maxLine)}
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return whole, err
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if err := do(n, text, err == nil); err != nil {
				return whole, err
			}
		}
		if err != nil {
			return whole, nil
		}
		whole += int64(len(line))
	}
}

// lineID returns the id of line n, and whether it is in OpenAI's batch form. Where there is none, or
// none that can be used, it is the number.
func lineID(n int, line []byte) (id json.RawMessage, openai bool, err error) {
	number := json.RawMessage(strconv.Itoa(n))
	var l struct {
		ID       json.RawMessage `json:"id"`
		CustomID json.RawMessage `json:"custom_id"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return number, false, invalid("", "the line is not a JSON object: %v", err)
	}
	name, raw := "id", l.ID
	if l.CustomID != nil {
		name, raw, openai = "custom_id", l.CustomID, true
	}
	if raw == nil || string(raw) == "null" {
		return number, openai, nil
	}
	if id = canonicalID(raw); id == nil {
		return number, openai, invalid(name, "%s: want a string or a whole number, found %s", name, describeJSON(raw))
	}
	return id, openai, nil
}

// canonicalID is an id as answers have it; nil for what is none.
func canonicalID(raw json.RawMessage) json.RawMessage {
	var text string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		if out, err := json.Marshal(text); err == nil {
			return out
		}
	}
	var n int64
	if json.Unmarshal(raw, &n) == nil && string(raw) != "null" {
		return json.RawMessage(strconv.FormatInt(n, 10))
	}
	return nil
}

func short(id []byte) string {
	if len(id) > 100 {
		return string(id[:100]) + "..."
	}
	return string(id)
}
