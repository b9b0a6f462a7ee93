package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// envProfile lists, separated by colons, folders with input_*.pb; the model.onnx is
// there or one above.
const envProfile = "ACCEL_CPU_PROFILE"

// BenchmarkProfile says where the time of models goes: which operations of a plan,
// and which nodes are left to the reference operators.
func BenchmarkProfile(b *testing.B) {
	dirs := filepath.SplitList(os.Getenv(envProfile))
	if len(dirs) == 0 {
		b.Skipf("%s names no folder", envProfile)
	}
	lib, err := kernels.Open("")
	if err != nil {
		b.Fatal(err)
	}
	r, err := lib.NewRunner(kernels.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for _, dir := range dirs {
		b.Run(filepath.Base(filepath.Dir(dir)), func(b *testing.B) { profile(b, r, dir) })
	}
}

func profile(b *testing.B, r *kernels.Runner, dir string) {
	model := dir
	if _, err := os.Stat(filepath.Join(dir, graph.ModelFile)); err != nil {
		model = filepath.Dir(dir)
	}
	m, err := backend.LoadModel(model)
	if err != nil {
		b.Fatal(err)
	}
	e, err := newExecutable(m, r, newPackedWeights(b.TempDir(), r, hclog.NewNullLogger()))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	files, err := filepath.Glob(filepath.Join(dir, "input_*.pb"))
	if err != nil {
		b.Fatal(err)
	}
	in := map[string]tensor.Tensor{}
	for i, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		name, t, err := graph.ParseTensor(data)
		if err != nil {
			b.Fatal(err)
		}
		if name == "" {
			name = e.info.Inputs[i].Name
		}
		in[name] = t.Aligned()
	}
	out := &collected{got: map[int]tensor.Tensor{}}
	if err := e.Run(b.Context(), e.values(in), out); err != nil {
		b.Fatal(err)
	}
	values := e.values(in)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Run(context.Background(), values, out); err != nil {
			b.Fatal(err)
		}
	}
	times := map[string]time.Duration{}
	counts := map[string]int{}
	p := e.plans[0].plan
	f := &frame{runner: r, buffers: p.buffers, heap: map[string]graph.Datum{}}
	total := time.Duration(0)
	const runs = 3
	for range runs {
		for _, s := range p.steps {
			switch s := s.(type) {
			case *nativeStep:
				ns := make([]int64, s.program.Len())
				if err := r.RunTimed(s.program, f.buffers, nil, ns); err != nil {
					b.Fatal(err)
				}
				for i, n := range ns {
					name, _, _ := strings.Cut(strings.Trim(s.labels[i], `"`), " ")
					name = strings.TrimRight(filepath.Base(name), "_0123456789")
					times[name] += time.Duration(n)
					counts[name]++
					total += time.Duration(n)
				}
			case *referenceStep:
				begin := time.Now()
				if err := s.run(b.Context(), f); err != nil {
					b.Fatal(err)
				}
				took := time.Since(begin)
				key := "reference: " + strings.Join(s.ops, " ")
				times[key] += took
				counts[key]++
				total += took
			}
		}
	}
	var text strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(times), func(x, y string) int { return int(times[y] - times[x]) }) {
		fmt.Fprintf(&text, "%8.3f ms %5d  %s\n", float64(times[name].Microseconds())/runs/1e3, counts[name]/runs, name)
	}
	slow := map[string]int{}
	for _, n := range p.nodes {
		if !n.Native {
			slow[n.OpType]++
		}
	}
	b.Logf("%s: %.3f ms, %d steps, %d nodes; on the reference %v\n%s", dir, float64(total.Microseconds())/runs/1e3, len(p.steps), len(p.nodes), slow, text.String())
}
