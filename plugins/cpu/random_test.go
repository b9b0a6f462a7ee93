package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backendtest"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// What TestRandomModels does more than usual: ACCEL_RANDOM_SEEDS models, from seed
// ACCEL_RANDOM_FIRST on.
const (
	envSeeds = "ACCEL_RANDOM_SEEDS"
	envFirst = "ACCEL_RANDOM_FIRST"
)

// TestRandomModels: random small graphs come out as on the reference, on every
// instruction set that the machine has.
func TestRandomModels(t *testing.T) {
	seeds, first, until := uint64(1)<<62, uint64(0), time.Now().Add(4*time.Second)
	if s := os.Getenv(envSeeds); s != "" {
		var err error
		if seeds, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", envSeeds, err)
		}
		until = time.Now().Add(24 * time.Hour)
	}
	if s := os.Getenv(envFirst); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", envFirst, err)
		}
	}
	rs := testRunners(t)
	failures := 0
	seed := first
	for ; seed-first < seeds && time.Now().Before(until) && failures < 10; seed++ {
		m, in := backendtest.RandomModel(seed)
		want, err := onReference(t, m, in)
		if err != nil {
			t.Fatalf("seed %d: the reference: %v", seed, err)
		}
		for _, r := range rs {
			err := differs(t, r, m, in, want)
			if err == nil {
				continue
			}
			failures++
			small, with := backendtest.Shrink(m, in, func(m *graph.Model, in map[string]tensor.Tensor) bool {
				want, err := onReference(t, m, in)
				return err == nil && differs(t, r, m, in, want) != nil
			})
			t.Errorf("seed %d on %s: %v\nshrunk to\n%s", seed, r.ISA(), err, backendtest.ModelText(small))
			if want, err := onReference(t, small, with); err == nil {
				t.Logf("which fails with: %v", differs(t, r, small, with, want))
			}
			break
		}
	}
	t.Logf("%d models on %d instruction sets", seed-first, len(rs))
}

func onReference(t *testing.T, m *graph.Model, in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		return nil, err
	}
	return p.Run(t.Context(), in, nil)
}

// differs runs a model, twice, and compares.
func differs(t *testing.T, r *kernels.Runner, m *graph.Model, in, want map[string]tensor.Tensor) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	e, err := newExecutable(m.Clone(), r, newPackedWeights(t.TempDir(), r, hclog.NewNullLogger()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for range 2 {
		out := &collected{got: map[int]tensor.Tensor{}}
		if err := e.Run(t.Context(), e.values(in), out); err != nil {
			return err
		}
		got := map[string]tensor.Tensor{}
		for i, v := range e.info.Outputs {
			got[v.Name] = out.got[i]
		}
		if err := backendtest.Mismatch(m, got, want); err != nil {
			return err
		}
	}
	return nil
}

// testRunners are runners of every instruction set that this machine can run, those
// of the test library included where it is built.
func testRunners(t *testing.T) []*kernels.Runner {
	t.Helper()
	lib, err := kernels.Open(filepath.Join("..", "..", "build", "native", "libaccelcpu-test.so"))
	if err != nil {
		t.Logf("instruction sets for tests only are left out: %v", err)
		return runners(t)
	}
	return runnersOf(t, lib)
}
