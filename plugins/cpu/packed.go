package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// packedWeights keeps a graph's weights as Gemm and GemmBlocks read them, in files beside the
// graph: packed/<layout>/<weight>. They are written once and mapped read-only, so
// that processes of the same layout share them. Packing does not wait for the disk more than it must: what will be
// read is read ahead; a file is mapped as soon as it is written, synced when nobody packs any more, and only
// then has its name.
type packedWeights struct {
	dir    string // of the layouts
	runner *kernels.Runner
	log    hclog.Logger

	mu   sync.Mutex
	open map[string][]byte
	size int64
	room []byte // that pieces of weights are packed in before they are written; it is used again for the next

	sources  []*graph.Initializer // in the order in which they are read
	total    int64                // bytes of sources
	progress func(stage string, fraction float64)
	ahead    sync.Once
	packing  bool     // since packed was called last
	found    [][]byte // mapped as they were since then, and perhaps on disk still
	written  []func() // sync what was written since then

	backlog    *backlog
	closing    chan struct{}
	background sync.WaitGroup
}

// backlog lets files wait to be synced while weights are packed: a disk that writes reads the less. All components of a process
// have one, for one is packed while the next is still to come.
type backlog struct {
	mu    sync.Mutex
	busy  int       // components that pack
	ended time.Time // when one of them did last
}

// quiet is how long nobody has packed before files are synced.
const quiet = 2 * time.Second

func (b *backlog) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy++
}

func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy--
	b.ended = time.Now()
}

// wait returns when nobody has packed for a while, or once hurry is closed.
func (b *backlog) wait(hurry <-chan struct{}) {
	for {
		b.mu.Lock()
		left := quiet
		if b.busy == 0 {
			left -= time.Since(b.ended)
		}
		b.mu.Unlock()
		if left <= 0 {
			return
		}
		select {
		case <-hurry:
			return
		case <-time.After(left):
		}
	}
}

func newPackedWeights(graphDir string, runner *kernels.Runner, log hclog.Logger) *packedWeights {
	return &packedWeights{
		dir:    filepath.Join(graphDir, "packed"),
		runner: runner, log: log, open: map[string][]byte{}, progress: func(string, float64) {},
		backlog: &backlog{}, closing: make(chan struct{}),
	}
}

// gathers read a few rows of their first input.
var gathers = map[string]bool{"Gather": true, "GatherBlocks": true}

// read says what the graph reads, before anything of it is planned. Where nothing was ever packed that is packed next.
func (p *packedWeights) read(g *graph.Graph) {
	index := graph.NewIndex(g)
	var tables []*graph.Initializer
	for _, in := range g.Initializers {
		_, packs := formats[in.Tensor.DType]
		switch {
		case in.External == nil || !packs && in.Tensor.DType != tensor.Uint8:
		case !slices.ContainsFunc(index.Uses(in.Name), func(u graph.Use) bool { return u.Input != 0 || !gathers[u.Node.OpType] }):
			tables = append(tables, in) // of which a run reads a few rows
		default:
			p.sources = append(p.sources, in)
			p.total += int64(len(in.Tensor.Data))
		}
	}
	p.sources = append(p.sources, tables...)
	if _, err := os.Stat(p.dir); errors.Is(err, fs.ErrNotExist) {
		p.ahead.Do(func() { p.background.Go(p.readAhead) })
	}
}

// key names a weight within its graph.
func (w weight) key() string {
	if w.transposed {
		return w.name + ":nk"
	}
	return w.name + ":kn"
}

// get is the packed form of an [n,k] weight.
func (p *packedWeights) get(w weight, n, k int64) (tensor.Tensor, error) {
	format := formats[w.init.Tensor.DType]
	size, err := p.runner.PackedBytes(format, n, k)
	if err != nil {
		return tensor.Tensor{}, err
	}
	panel, err := p.runner.PackedBytes(format, 1, k)
	if err != nil {
		return tensor.Tensor{}, err
	}
	var src tensor.Tensor
	return p.kept(format, w.key(), fmt.Sprintf("%d %d", n, k), size, panel, func(out []byte, from int64) error {
		if src.Data == nil {
			src = w.init.Tensor.Aligned()
		}
		if err := p.pack(w, src, n, k, panel, out, from); err != nil {
			return err
		}
		if from+int64(len(out)) == size {
			p.readOnce(w.init)
		}
		return nil
	})
}

// filters is the packed form of a convolution's weights, [groups*n, k] as source makes them: group after
// group. The key names what they are made of.
func (p *packedWeights) filters(key string, source func() (tensor.Tensor, error), groups, n, k int64) (tensor.Tensor, error) {
	size, err := p.runner.PackedBytes(kernels.PackF32, n, k)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return p.kept(kernels.PackF32, key, fmt.Sprintf("%d %d %d", groups, n, k), groups*size, groups*size, func(out []byte, _ int64) error {
		src, err := source()
		if err != nil {
			return err
		}
		prog := &kernels.Program{}
		for g := range groups {
			prog.Add(&kernels.Pack{Src: kernels.Ref{Buffer: 1, Offset: g * n * k * 4}, Dst: kernels.Ref{Buffer: 2, Offset: g * size}, N: n, K: k, NStride: k, KStride: 1, Format: kernels.PackF32})
		}
		return p.runner.Run(prog, []kernels.Buffer{{}, kernels.BufferOf(src.Data), kernels.BufferOf(out)}, nil)
	})
}

// packer writes a piece of a packed weight, every byte of it, that begins at a byte.
type packer func(out []byte, from int64) error

// kept is what pack writes, from the file that keeps it if there is one. Pieces of whole steps are asked of pack one after another.
func (p *packedWeights) kept(format kernels.Format, key, sizes string, size, step int64, pack packer) (tensor.Tensor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, ok := p.open[key]
	if !ok {
		var err error
		if data, err = p.load(format, key, sizes, size, step, pack); err != nil {
			return tensor.Tensor{}, fmt.Errorf("pack weight %s: %w", key, err)
		}
		p.open[key] = data
		p.size += size
	}
	return tensor.Tensor{DType: tensor.Uint8, Shape: tensor.Shape{int64(len(data))}, Data: data}, nil
}

func (p *packedWeights) load(format kernels.Format, key, sizes string, size, step int64, pack packer) ([]byte, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s", key, sizes))
	path := filepath.Join(p.dir, p.runner.PackedLayout(format), hex.EncodeToString(sum[:12]))
	data, err := mapFile(path, size)
	if err == nil {
		p.found = append(p.found, data)
		return data, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("packing a weight again", "weight", key, "file", path, "because", err)
	}
	p.ahead.Do(func() { p.background.Go(p.readAhead) })
	if !p.packing {
		p.packing = true
		p.backlog.begin()
	}
	var failed error // of pack's
	data, err = p.keep(path, size, step, func(out []byte, from int64) error {
		failed = pack(out, from)
		return failed
	})
	switch {
	case failed != nil:
		return nil, failed
	case err != nil:
		p.log.Warn("packed weights can't be kept; they stay in this process alone", "file", path, "error", err)
		data = alignedBytes(size)
		if err := pack(data, 0); err != nil {
			return nil, err
		}
	}
	if p.total > 0 {
		p.progress("pack", float64(p.size+size)/float64(p.total))
	}
	return data, nil
}

// pieceBytes are packed before they are written: few enough to be in the processor's caches still, and enough for all threads.
const pieceBytes = 4 << 20

// keep writes a file that appears whole or not at all, and maps it. The disk is waited for in the background.
func (p *packedWeights) keep(path string, size, step int64, pack packer) (data []byte, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".writing-*")
	if err != nil {
		return nil, err
	}
	if err = p.write(f, size, step, pack); err == nil {
		data, err = mapFile(f.Name(), size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	p.written = append(p.written, func() {
		err := errors.Join(f.Sync(), f.Close())
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			p.log.Warn("packed weights can't be kept; the next process packs them again", "file", path, "error", errors.Join(err, os.Remove(f.Name())))
		}
	})
	return data, nil
}

func (p *packedWeights) write(f *os.File, size, step int64, pack packer) error {
	if size == 0 {
		return nil
	}
	each := min(size, max(1, pieceBytes/step)*step)
	if int64(len(p.room)) < each {
		p.room = alignedBytes(max(each, pieceBytes))
	}
	for from := int64(0); from < size; from += each {
		piece := p.room[:min(each, size-from)]
		if err := pack(piece, from); err != nil {
			return err
		}
		if _, err := f.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// readAhead has the weights read that are in the model's files, in their order.
func (p *packedWeights) readAhead() {
	for _, in := range p.sources {
		if p.closes() {
			return
		}
		if err := expect(in.Tensor.Data); err != nil {
			p.log.Debug("a weight is not read ahead", "weight", in.Name, "error", err)
		}
	}
}

func (p *packedWeights) closes() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// packed says that the weights of a plan are packed: what that took is given back, and what was written is synced in time. What
// was packed before is read by the first run.
func (p *packedWeights) packed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.packing {
		p.packing = false
		p.backlog.end()
		p.progress("smoke run", 1)
	}
	if p.room != nil {
		p.room = nil
		debug.FreeOSMemory() // as large as the largest weight that is packed in one piece
	}
	written, found := p.written, p.found
	p.written, p.found = nil, nil
	p.background.Go(func() {
		for _, data := range found {
			if p.closes() {
				break
			}
			if err := expect(data); err != nil {
				p.log.Debug("a packed weight is not read ahead", "error", err)
			}
		}
	})
	p.background.Go(func() {
		for _, sync := range written {
			p.backlog.wait(p.closing)
			sync()
		}
	})
}

// pack writes those panels of an [n,k] weight, src, that begin at byte `from` of its packed form.
func (p *packedWeights) pack(w weight, src tensor.Tensor, n, k, panel int64, out []byte, from int64) error {
	if len(out) == 0 {
		return nil
	}
	each := int64(src.DType.Bits() / 8)
	columns := panel / (k * each) // of a panel
	first := from / panel * columns
	op := &kernels.Pack{Src: kernels.Ref{Buffer: 1}, Dst: kernels.Ref{Buffer: 2}, N: min(int64(len(out))/panel*columns, n-first), K: k, NStride: 1, KStride: n, Format: formats[src.DType]}
	if w.transposed {
		op.NStride, op.KStride = k, 1
	}
	op.Src.Offset = first * op.NStride * each
	prog := &kernels.Program{}
	prog.Add(op)
	return p.runner.Run(prog, []kernels.Buffer{{}, kernels.BufferOf(src.Data), kernels.BufferOf(out)}, nil)
}

// readOnce says that a weight was read and never will be again: a file's pages need not stay in this process.
func (p *packedWeights) readOnce(in *graph.Initializer) {
	if in.External == nil {
		return
	}
	if err := forget(in.Tensor.Data); err != nil {
		p.log.Debug("the pages of a packed weight stay resident", "weight", in.Name, "error", err)
	}
}

// Close unmaps everything, once it is on disk.
func (p *packedWeights) Close() error {
	close(p.closing)
	p.background.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, data := range p.open {
		errs = append(errs, unmap(data))
	}
	p.open = map[string][]byte{}
	return errors.Join(errs...)
}
