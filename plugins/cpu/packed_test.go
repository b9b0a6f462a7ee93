package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestBacklog: files wait until nobody has packed for a while, or until somebody closes.
func TestBacklog(t *testing.T) {
	for name, c := range map[string]struct {
		packs []time.Duration // one after another, with as long between them
		hurry time.Duration   // when the waiting one closes; 0: never
		want  time.Duration
	}{
		"nobody packed":            {want: 0},
		"one packs":                {packs: []time.Duration{3 * time.Second}, want: 3*time.Second + quiet},
		"two, with little between": {packs: []time.Duration{time.Second, time.Second}, want: 3*time.Second + quiet},
		"two, with much between":   {packs: []time.Duration{3 * time.Second, 3 * time.Second}, want: 3*time.Second + quiet},
		"closed meanwhile":         {packs: []time.Duration{time.Hour}, hurry: time.Second, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, hurry, begun := &backlog{}, make(chan struct{}), time.Now()
				var packs sync.WaitGroup
				defer packs.Wait()
				packs.Go(func() {
					for _, d := range c.packs {
						b.begin()
						time.Sleep(d)
						b.end()
						time.Sleep(d)
					}
				})
				synctest.Wait()
				if c.hurry > 0 {
					time.AfterFunc(c.hurry, func() { close(hurry) })
				}
				b.wait(hurry)
				if got := time.Since(begun); got != c.want {
					t.Errorf("it waited for %v, want %v", got, c.want)
				}
			})
		})
	}
}

// TestWeightsAreReadInOrder: what is packed comes first, then tables, and what lies in no file not at all.
func TestWeightsAreReadInOrder(t *testing.T) {
	external := func(in *graph.Initializer) *graph.Initializer {
		in.External = &graph.External{Path: "weights"}
		return in
	}
	floats := func(name string, n int64) *graph.Initializer {
		return &graph.Initializer{Name: name, Tensor: tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{n, 1}, Data: make([]byte, 4*n)}}
	}
	codes := external(floats("codes", 2))
	codes.Tensor.DType = tensor.Uint8
	ids := external(floats("ids", 2))
	ids.Tensor.DType = tensor.Int64
	g := &graph.Graph{
		Initializers: []*graph.Initializer{external(floats("table", 8)), external(floats("first", 4)), floats("inside", 4), ids, codes, external(floats("both", 4))},
		Nodes: []*graph.Node{
			{OpType: "Gather", Inputs: []string{"table", "ids"}, Outputs: []string{"a"}},
			{OpType: "Gather", Inputs: []string{"both", "ids"}, Outputs: []string{"b"}},
			{OpType: "MatMul", Inputs: []string{"a", "both"}, Outputs: []string{"c"}},
			{OpType: "MatMul", Inputs: []string{"a", "first"}, Outputs: []string{"d"}},
			{OpType: "MatMul", Inputs: []string{"a", "codes"}, Outputs: []string{"e"}},
		},
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "packed"), 0o700); err != nil { // so that nothing is read yet
		t.Fatal(err)
	}
	p := newPackedWeights(dir, runners(t)[0], hclog.NewNullLogger())
	p.read(g)
	var got []string
	for _, in := range p.sources {
		got = append(got, in.Name)
	}
	if want := []string{"first", "codes", "both", "table"}; !slices.Equal(got, want) || p.total != 16+8+16 {
		t.Errorf("%v are read, %d bytes to pack, want %v and %d", got, p.total, want, 16+8+16)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestPackedAtOnce: several pack one folder at the same time, as processes do; each has the right numbers, and one whole file
// stays, whatever somebody who died there left.
func TestPackedAtOnce(t *testing.T) {
	r := runners(t)[0]
	dir := t.TempDir()
	if err := graph.Save(buildTest(t, testGraphs[0]), dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(dir, "packed", r.PackedLayout(formats[tensor.Float32]))
	if err := os.MkdirAll(layout, 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(layout, ".writing-1")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := testGraphs[0].inputs(rand.New(rand.NewPCG(3, 4)))
	const times = 4
	var results [times]tensor.Tensor
	var stages [times][]string
	var errs [times]error
	var all sync.WaitGroup
	for i := range times {
		all.Go(func() {
			errs[i] = func() error {
				m, err := backend.LoadModel(dir)
				if err != nil {
					return err
				}
				w := newPackedWeights(dir, r, hclog.NewNullLogger())
				w.progress = func(stage string, fraction float64) {
					stages[i] = append(stages[i], fmt.Sprintf("%s %.1f", stage, fraction))
				}
				w.total = 1 << 20
				e, err := newExecutable(m, r, w)
				if err != nil {
					return err
				}
				out := &collected{got: map[int]tensor.Tensor{}}
				if err := e.Run(t.Context(), e.values(in), out); err != nil {
					return err
				}
				results[i] = out.got[0]
				return e.Close()
			}()
		})
	}
	all.Wait()
	for i := range times {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if !slices.Equal(results[i].Data, results[0].Data) {
			t.Errorf("process %d has other numbers", i)
		}
		if s := strings.Join(stages[i], ", "); s != "" && s != "pack 0.0, smoke run 1.0" {
			t.Errorf("process %d reported %q", i, s)
		}
	}
	files, err := os.ReadDir(layout)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if len(names) != 2 || names[0] != filepath.Base(left) {
		t.Errorf("%v are left, want one file and what was there before", names)
	}
}

// TestPackedInPieces: a weight of several pieces is the one that is packed at once, whether a file keeps it or not.
func TestPackedInPieces(t *testing.T) {
	r := runners(t)[0]
	const n, k = 2101, 1100
	for _, d := range []tensor.DType{tensor.BFloat16, tensor.Float32} {
		data := make([]byte, n*k*int64(d.Bits()/8))
		rand.NewChaCha8([32]byte{1}).Read(data)
		for _, transposed := range []bool{false, true} {
			for _, keep := range []bool{false, true} {
				w := weight{name: "w", transposed: transposed, init: &graph.Initializer{Name: "w", Tensor: tensor.Tensor{DType: d, Data: data}}}
				n1, k1 := int64(n), int64(k)
				size, err := r.PackedBytes(formats[d], n1, k1)
				if err != nil {
					t.Fatal(err)
				}
				if size <= pieceBytes {
					t.Fatalf("%d bytes are one piece", size)
				}
				op := &kernels.Pack{Src: kernels.Ref{Buffer: 1}, Dst: kernels.Ref{Buffer: 2}, N: n1, K: k1, NStride: 1, KStride: n1, Format: formats[d]}
				if transposed {
					op.NStride, op.KStride = k1, 1
				}
				prog, want := &kernels.Program{}, make([]byte, size)
				prog.Add(op)
				if err := r.Run(prog, []kernels.Buffer{{}, kernels.BufferOf(data), kernels.BufferOf(want)}, nil); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				if !keep {
					if err := os.WriteFile(filepath.Join(dir, "packed"), nil, 0o600); err != nil { // where a folder should be
						t.Fatal(err)
					}
				}
				p := newPackedWeights(dir, r, hclog.NewNullLogger())
				got, err := p.get(w, n1, k1)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got.Data, want) {
					t.Errorf("%s, transposed %v, kept %v: other bytes than at once", d, transposed, keep)
				}
				p.packed()
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
