package graph_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestInferredTypesHold holds what is inferred of every value of ONNX's node tests
// and of the exports against the value that the reference computes: once with
// symbols, which must have one size each, and once with all of them bound.
func TestInferredTypesHold(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, set := range []struct {
		name string
		dirs []string
	}{
		{"node tests", testfiles.NodeTests(t)},
		{"exports", testfiles.Exports(t)},
	} {
		var free, bound tally
		ran := 0
		for _, dir := range set.dirs {
			f, b, err := holdInference(t, dir)
			if errors.Is(err, errNotRun) {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(dir), err)
				continue
			}
			ran++
			free.add(f)
			bound.add(b)
		}
		t.Logf("%s: %d of %d models ran", set.name, ran, len(set.dirs))
		t.Logf("%s, symbolic: %s", set.name, free)
		t.Logf("%s, bound:    %s", set.name, bound)
		var ops []string
		for op, n := range bound.unknown {
			ops = append(ops, fmt.Sprintf("%s %d", op, n))
		}
		slices.Sort(ops)
		t.Logf("%s: shapes not known though all symbols are, by operator: %s", set.name, strings.Join(ops, ", "))
	}
}

var errNotRun = errors.New("the reference does not compute it")

// tally counts shapes of values that nodes make.
type tally struct {
	known, symbolic, partly, rankless int
	unknown                           map[string]int // by operator
}

func (a *tally) add(b tally) {
	a.known += b.known
	a.symbolic += b.symbolic
	a.partly += b.partly
	a.rankless += b.rankless
	if a.unknown == nil {
		a.unknown = map[string]int{}
	}
	for op, n := range b.unknown {
		a.unknown[op] += n
	}
}

func (a tally) String() string {
	return fmt.Sprintf("%d shapes known, %d by symbols, %d in part, %d not even by rank", a.known, a.symbolic, a.partly, a.rankless)
}

func holdInference(t *testing.T, dir string) (free, bound tally, err error) {
	m, err := graph.Load(dir)
	if err != nil {
		return free, bound, err
	}
	defer m.Close()
	if err := graph.Infer(clone(t, m)); err != nil {
		return free, bound, fmt.Errorf("with what it declares: %w", err)
	}
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		return free, bound, fmt.Errorf("%w: %w", errNotRun, err)
	}
	inputs := map[string]graph.Datum{}
	for k, v := range m.Graph.Inputs {
		data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", fmt.Sprintf("input_%d.pb", k)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return free, bound, err
		}
		if _, inputs[v.Name], err = graph.ParseDatum(data, v.Type.Kind); err != nil {
			return free, bound, fmt.Errorf("%w: %w", errNotRun, err)
		}
	}
	var wanted []string
	for _, n := range m.Graph.Nodes {
		for _, out := range n.Outputs {
			if out != "" {
				wanted = append(wanted, out)
			}
		}
	}
	actual, err := p.RunValues(context.Background(), inputs, wanted)
	if err != nil {
		return free, bound, fmt.Errorf("%w: %w", errNotRun, err)
	}
	bare := clone(t, m)
	bare.Graph.Values = nil
	for _, v := range bare.Graph.Outputs {
		v.Type = nil
	}
	if err := graph.Infer(bare); err != nil {
		return free, bound, err
	}
	sizes := map[string]int64{}
	for _, v := range bare.Graph.Inputs {
		if in, ok := inputs[v.Name]; ok {
			if err := holds(v.Type, in, sizes); err != nil {
				return free, bound, fmt.Errorf("input %s: %w", v.Name, err)
			}
		}
	}
	given := map[string]int64{}
	for _, s := range bare.Symbols() {
		if n, ok := sizes[s]; ok {
			given[s] = n
		}
	}
	if free, err = hold(bare, actual, sizes); err != nil {
		return free, bound, err
	}
	whole := clone(t, bare)
	whole.Graph.Values = nil
	for _, v := range whole.Graph.Outputs {
		v.Type = nil
	}
	if err := graph.Bind(whole, given); err != nil {
		return free, bound, fmt.Errorf("bind %v: %w", given, err)
	}
	bound, err = hold(whole, actual, map[string]int64{})
	return free, bound, err
}

func clone(t *testing.T, m *graph.Model) *graph.Model {
	c := m.Clone()
	t.Cleanup(func() { c.Close() })
	return c
}

// hold compares the types of all values that nodes make with the values.
func hold(m *graph.Model, actual map[string]graph.Datum, sizes map[string]int64) (tally, error) {
	n := tally{unknown: map[string]int{}}
	types := m.Graph.Types()
	var errs []error
	for _, node := range m.Graph.Nodes {
		for _, name := range node.Outputs {
			if name == "" {
				continue
			}
			typ := types[name]
			if err := holds(typ, actual[name], sizes); err != nil {
				errs = append(errs, fmt.Errorf("%s of node %s: %w", name, node.Label(), err))
			}
			for typ != nil && typ.Kind != graph.KindTensor {
				typ = typ.Of
			}
			switch {
			case typ == nil || !typ.HasShape:
				n.rankless++
				n.unknown[node.OpType]++
			case slices.ContainsFunc(typ.Dims, func(d graph.Dim) bool { return d.Size < 0 && d.Param == "" }):
				n.partly++
				n.unknown[node.OpType]++
			case slices.ContainsFunc(typ.Dims, func(d graph.Dim) bool { return d.Size < 0 }):
				n.symbolic++
			default:
				n.known++
			}
		}
	}
	return n, errors.Join(errs...)
}

// holds fails where a value is not of the type. What a symbol or an expression
// stands for in one place it stands for in all.
func holds(typ *graph.Type, v graph.Datum, sizes map[string]int64) error {
	if typ == nil {
		return nil
	}
	if typ.Kind != v.Kind {
		return fmt.Errorf("it is of kind %d, inferred was %d", v.Kind, typ.Kind)
	}
	switch v.Kind {
	case graph.KindSequence:
		for _, e := range v.Sequence {
			// Elements may differ in what a symbol of the element type stands for.
			if err := holds(typ.Of, e, maps.Clone(sizes)); err != nil {
				return err
			}
		}
		return nil
	case graph.KindOptional:
		if v.Optional != nil {
			return holds(typ.Of, *v.Optional, sizes)
		}
		return nil
	}
	got := v.Tensor
	if typ.Elem != tensor.Undefined && typ.Elem != got.DType {
		return fmt.Errorf("it is of %s, inferred was %s", got.DType, typ.Elem)
	}
	if !typ.HasShape {
		return nil
	}
	fail := func() error { return fmt.Errorf("it has shape %v, inferred was %v", got.Shape, typ.Dims) }
	if len(typ.Dims) != len(got.Shape) {
		return fail()
	}
	for i, d := range typ.Dims {
		switch old, ok := sizes[d.Param]; {
		case d.Param == "" && d.Size >= 0 && d.Size != got.Shape[i]:
			return fail()
		case d.Param == "":
		case ok && old != got.Shape[i]:
			return fmt.Errorf("it has shape %v, inferred was %v, and %s is %d elsewhere", got.Shape, typ.Dims, d.Param, old)
		default:
			sizes[d.Param] = got.Shape[i]
		}
	}
	return nil
}
