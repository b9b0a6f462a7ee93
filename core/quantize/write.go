package quantize

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// Names of what stands in a folder that is being written.
const (
	partialSuffix = ".partial"
	journalFile   = "quantize.journal"
	weightsFile   = "model.safetensors"
	configFile    = "config.json"
)

// writeVersion is part of what an unfinished folder is known by: raise it when what is
// written changes.
const writeVersion = 1

// syncEvery is how much time of work a run that is killed may lose.
const syncEvery = 2 * time.Second

// Progress is how far a run has come.
type Progress struct {
	Stage       string // such as "measuring" or "writing"
	Done, Total int64  // weights, or steps
	Name        string // of the tensor or step in hand
}

// Written is what was made of a tensor.
type Written struct {
	Name string `json:"name"`
	// Error is the sum of squares of what the weights are off by over that of the weights.
	Error float64 `json:"error"`
}

// ExistsError says that the folder to be written is there.
type ExistsError struct{ Dir string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s is there already: name another folder, or remove it", e.Dir)
}

// Write writes the folder of a plan. It is written beside under another name, and has
// its own once it is whole. A run that ended in between goes on where it was, if it was
// of the same model and plan. Errors are *ExistsError, *checkpoint.Error and those of
// the file system.
func (p *Plan) Write(ctx context.Context, dir string, progress func(Progress)) ([]Written, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &ExistsError{dir}
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	partial := dir + partialSuffix
	j, err := openJournal(partial, key)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := p.copyFiles(partial); err != nil {
		return nil, err
	}
	if err := p.writeWeights(ctx, filepath.Join(partial, weightsFile), j, progress); err != nil {
		return nil, err
	}
	var out []Written
	for i := range p.Items {
		out = append(out, j.done[p.Items[i].Name])
	}
	if err := errors.Join(j.close(), os.Remove(filepath.Join(partial, journalFile))); err != nil {
		return nil, err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty one
		return nil, err
	}
	return out, os.Rename(partial, dir)
}

// key tells a run from all others whose unfinished folder would not do.
func (p *Plan) key() (string, error) {
	id, err := p.ck.Identity()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "quantize %d %s %s\n", writeVersion, id, p.options.Method)
	for i := range p.Items {
		it := &p.Items[i]
		fmt.Fprintf(h, "%q %s %+v\n", it.Name, it.dtype, it.quant)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// journal says which tensors of an unfinished folder are there.
type journal struct {
	dir  string
	file *os.File
	done map[string]Written

	mu      sync.Mutex
	waiting []Written // written, but not known to be on the disk
	last    time.Time
}

// openJournal makes the folder, or reads how far it had come. A folder of another run
// is begun anew.
func openJournal(dir, key string) (*journal, error) {
	j := &journal{dir: dir, done: map[string]Written{}, last: time.Now()}
	path := filepath.Join(dir, journalFile)
	if data, err := os.ReadFile(path); err == nil {
		j.read(data, key)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if _, err := os.Stat(dir); err == nil {
		return nil, &ExistsError{dir} // not one of ours
	}
	if len(j.done) == 0 {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if j.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	if len(j.done) == 0 {
		if _, err := fmt.Fprintln(j.file, key); err != nil {
			return nil, errors.Join(err, j.close())
		}
	}
	return j, nil
}

// read takes what another run has done; the last line may be cut short.
func (j *journal) read(data []byte, key string) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	if !lines.Scan() || lines.Text() != key {
		return
	}
	for lines.Scan() {
		var w Written
		if json.Unmarshal(lines.Bytes(), &w) == nil {
			j.done[w.Name] = w
		}
	}
}

// add notes a tensor whose data is written to f, and from time to time that it is on the
// disk.
func (j *journal) add(w Written, f *os.File) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.waiting = append(j.waiting, w)
	if time.Since(j.last) < syncEvery {
		return nil
	}
	return j.flush(f)
}

func (j *journal) flush(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, w := range j.waiting {
		line, err := json.Marshal(w)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
		j.done[w.Name] = w
	}
	j.waiting, j.last = nil, time.Now()
	if _, err := j.file.Write(b.Bytes()); err != nil {
		return err
	}
	return j.file.Sync()
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	return f.Close()
}

// weightEndings are files that hold weights, which are not copied.
var weightEndings = []string{".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".npz", ".ot", ".tflite"}

// copyFiles writes config.json and copies what else the folder holds beside its weights:
// tokenizer, processors, how to generate, what sentence-transformers adds.
func (p *Plan) copyFiles(dir string) error {
	inner, err := filepath.Rel(p.ck.Path, p.ck.Dir)
	if err != nil {
		return err
	}
	config := filepath.Join(inner, configFile)
	folders := []string{"."}
	if inner != "." {
		folders = append(folders, inner)
	}
	if p.ck.Sentence != nil {
		entries, err := os.ReadDir(p.ck.Path)
		if err != nil {
			return err
		}
		for _, e := range entries { // 1_Pooling and so on
			if e.IsDir() && strings.Contains(e.Name(), "_") && e.Name() != inner {
				folders = append(folders, e.Name())
			}
		}
	}
	for _, folder := range folders {
		entries, err := os.ReadDir(filepath.Join(p.ck.Path, folder))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(folder, e.Name())
			if name == config || strings.HasPrefix(e.Name(), ".") || slices.ContainsFunc(weightEndings, func(end string) bool { return strings.HasSuffix(e.Name(), end) }) {
				continue
			}
			if err := copyFile(filepath.Join(p.ck.Path, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	to := filepath.Join(dir, config)
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeJSON(to, p.config())
}

// copyFile copies a regular file; the hub's cache has links to such. Others are passed over.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// chunkWeights is about how many numbers a worker holds at a time.
const chunkWeights = 1 << 19

// writeWeights writes the safetensors file, several chunks at a time.
func (p *Plan) writeWeights(ctx context.Context, path string, j *journal, progress func(Progress)) (err error) {
	all := map[string]tensor.Tensor{}
	for i := range p.Items {
		for name, t := range p.Items[i].tensors() {
			if _, twice := all[name]; twice {
				return &checkpoint.Error{File: p.ck.Dir, Field: "tensor " + strconv.Quote(name), Found: "it would be written twice"}
			}
			all[name] = t
		}
	}
	layout, err := checkpoint.PlanSafetensors(all, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	source, err := p.openFiles()
	if err != nil {
		return err
	}
	defer source.close()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(layout.Size); err != nil {
		return err
	}
	if _, err := f.WriteAt(layout.Header, 0); err != nil {
		return err
	}
	w := &writer{plan: p, layout: layout, source: source, to: f, journal: j, progress: progress, factors: map[gram]*factor{}}
	for i := range p.Items {
		w.total += p.Items[i].Weights()
	}
	var missing []*Item
	for i := range p.Items {
		it := &p.Items[i]
		if _, ok := j.done[it.Name]; ok {
			w.tell(it.Weights(), it.Name)
			continue
		}
		missing = append(missing, it)
		if at, ok := p.gramOf(it); ok {
			if w.factors[at] == nil {
				w.factors[at] = &factor{}
			}
			w.factors[at].left++
		}
	}
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, it := range missing {
		t := &tally{item: it, left: it.Rows}
		step := max(1, chunkWeights/max(it.Columns, 1))
		for from := int64(0); from < it.Rows && working.Err() == nil; from += step {
			g.Go(func() error {
				if err := working.Err(); err != nil {
					return err
				}
				return w.write(t, from, min(from+step, it.Rows))
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.flush(f)
}

// writer writes tensors of a plan. Its methods are called from several goroutines.
type writer struct {
	plan     *Plan
	layout   *checkpoint.SafetensorsPlan
	source   files
	to       *os.File
	journal  *journal
	progress func(Progress)
	room     sync.Pool // of *scratch

	factors map[gram]*factor

	mu          sync.Mutex
	done, total int64
}

// factor is a Gram matrix factored, once it is needed and while it is.
type factor struct {
	mu   sync.Mutex
	f    *feedback
	left int // tensors
}

// gramOf is the Gram matrix that a tensor is rounded by; ok: there is one.
func (p *Plan) gramOf(it *Item) (gram, bool) {
	if p.grams == nil || it.quant.Bits == 0 || it.quant == it.stored {
		return gram{}, false
	}
	at, ok := p.grams.of[it.Name]
	return at, ok
}

// feedback is that of a tensor, nil where nothing is known of what it is multiplied with.
func (w *writer) feedback(it *Item) (*feedback, error) {
	at, ok := w.plan.gramOf(it)
	if !ok {
		return nil, nil
	}
	c := w.factors[at]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f != nil {
		return c.f, nil
	}
	h, _, err := w.plan.grams.read(it.Name)
	if err != nil {
		return nil, err
	}
	c.f, err = newFeedback(h, int(at.n))
	return c.f, err
}

// release lets go of what a tensor was rounded by.
func (w *writer) release(it *Item) {
	at, ok := w.plan.gramOf(it)
	if !ok {
		return
	}
	c := w.factors[at]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		c.f = nil
	}
}

func (w *writer) tell(weights int64, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += weights
	if w.progress != nil {
		w.progress(Progress{Stage: "writing", Done: w.done, Total: w.total, Name: name})
	}
}

// tally counts what is left of a tensor.
type tally struct {
	item       *Item
	mu         sync.Mutex
	left       int64
	off, whole float64 // sums of squares
}

// write writes rows [from, to) of a tensor.
func (w *writer) write(t *tally, from, to int64) error {
	s, _ := w.room.Get().(*scratch)
	if s == nil {
		s = &scratch{}
	}
	defer w.room.Put(s)
	off, whole, err := w.rows(t.item, from, to, s)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.left -= to - from
	t.off, t.whole = t.off+off, t.whole+whole
	last := t.left == 0
	t.mu.Unlock()
	w.tell((to-from)*t.item.Columns, t.item.Name)
	if !last {
		return nil
	}
	w.release(t.item)
	done := Written{Name: t.item.Name}
	if t.whole > 0 {
		done.Error = t.off / t.whole
	}
	return w.journal.add(done, w.to)
}

func (w *writer) rows(it *Item, from, to int64, s *scratch) (off, whole float64, err error) {
	put := func(suffix string, data []byte) error {
		_, err := w.to.WriteAt(data, w.layout.Offset(it.Name+suffix)+from*int64(len(data))/(to-from))
		return err
	}
	stay := w.plan.made(it)
	if it.quant.Bits == 0 && it.stored.Bits == 0 && it.dtype == it.entries[0].DType || it.quant.Bits > 0 && it.quant == it.stored {
		stay = it.entries
	}
	if stay != nil {
		for i, e := range stay { // as it is
			if s.raw, err = w.source.part(e, it.Rows, from, to, s.raw); err != nil {
				return 0, 0, err
			}
			suffix := ""
			if it.quant.Bits > 0 {
				suffix = it.quant.Suffixes()[i]
			}
			if err := put(suffix, s.raw); err != nil {
				return 0, 0, err
			}
		}
		return 0, 0, nil
	}
	values, err := it.rows(w.source, from, to, s)
	if err != nil {
		return 0, 0, err
	}
	if it.quant.Bits == 0 {
		s.packed = grown(s.packed, int64(len(values))*2)
		if err := it.narrow(values, s.packed); err != nil {
			return 0, 0, err
		}
		return 0, 0, put("", s.packed)
	}
	f, err := w.feedback(it)
	if err != nil {
		return 0, 0, err
	}
	off, whole, err = it.encode(values, from, w.plan.options.Method, f, s)
	if err != nil {
		return 0, 0, err
	}
	if err := put(checkpoint.CodesSuffix, s.packed); err != nil {
		return 0, 0, err
	}
	if err := put(checkpoint.ScalesSuffix, s.scale); err != nil || !it.quant.Mins {
		return off, whole, err
	}
	return off, whole, put(checkpoint.MinsSuffix, s.mins)
}

// encode makes codes, scales and mins of rows, into s, and says how much they are off. row
// is the number of the first; f may be nil.
func (it *Item) encode(values []float32, row int64, method string, f *feedback, s *scratch) (off, whole float64, err error) {
	q := it.quant
	blocks := int64(len(values)) / q.Block
	s.codes = grown(s.codes, int64(len(values)))
	s.packed = grown(s.packed, int64(len(values))*q.Bits/8)
	s.scale = grown(s.scale, 2*blocks)
	s.lines = grown(s.lines, blocks)
	if q.Mins {
		s.mins = grown(s.mins, 2*blocks)
	}
	ft := newFitter(it.Format)
	if f != nil {
		s.off, s.adjusted = grown(s.off, q.K), grown(s.adjusted, q.Block)
		each := q.K / q.Block
		for r := range int64(len(values)) / q.K {
			f.row(ft, values[r*q.K:(r+1)*q.K], s.codes[r*q.K:(r+1)*q.K], s.lines[r*each:(r+1)*each], s.off, s.adjusted)
		}
	}
	for b := range blocks {
		w, codes := values[b*q.Block:(b+1)*q.Block], s.codes[b*q.Block:(b+1)*q.Block]
		switch {
		case f != nil:
		case method == Nearest:
			s.lines[b] = ft.nearest(w, codes)
		default:
			s.lines[b] = ft.fit(w, nil, codes)
		}
		l := s.lines[b]
		var sum float32
		for _, x := range w {
			sum += x * x
		}
		if !l.finite() || sum-sum != 0 {
			return 0, 0, &checkpoint.Error{File: it.entries[0].File, Field: "tensor " + strconv.Quote(it.Name),
				Found: fmt.Sprintf("row %d holds numbers that are not finite, or whose scale float16 does not hold", row+b*q.Block/q.K), Remedy: "the model is damaged: fetch it again"}
		}
		off, whole = off+float64(squares(w, codes, l)), whole+float64(sum)
		putHalf(s.scale, b, l.scale)
		if q.Mins {
			putHalf(s.mins, b, l.min)
		}
	}
	pack(s.packed, s.codes, q.Bits)
	return off, whole, nil
}
