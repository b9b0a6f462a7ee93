package main_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// Sizes of every step: two sequences that take three tokens and one.
var stepDims = map[string]int64{
	models.Tokens: 4, models.Sequences: 2, models.SequencesOne: 3, models.PagesEach: 5, models.Selected: 4, models.Pages: 9, models.PageSize: 4,
}

// placedDecoder is a decoder on a device, with its pools in buffers there.
type placedDecoder struct {
	t       *testing.T
	exe     *hosts.Executable
	decoder *models.Decoder
	pools   []*hosts.Buffer
	narrow  bool // inputs are int32
	lengths []int64
}

// stepInputs are the inputs of step n. Sequences own pages 2, 4, 6, 8 and 1.
func (p *placedDecoder) stepInputs(prompt []int64, n int) map[string]tensor.Tensor {
	list := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	pages := [][]int64{{2, 4, 6, 8, 0}, {1, 0, 0, 0, 0}}
	var ids, positions, slots []int64
	for b, tokens := range []int{3, 1} {
		for range tokens {
			at := p.lengths[b]
			ids = append(ids, prompt[(int(at)+5*b)%len(prompt)])
			positions = append(positions, at)
			slots = append(slots, pages[b][at/4]*4+at%4)
			p.lengths[b]++
		}
	}
	return map[string]tensor.Tensor{
		models.InputIDs: list(ids...), models.Positions: list(positions...), models.Slots: list(slots...), models.Lengths: list(p.lengths...),
		models.Starts: list(0, 3, 4), models.Select: list(0, 1, 2, 3), models.PageTables: tensor.Ints(tensor.Shape{2, 5}, append(append([]int64{}, pages[0]...), pages[1]...)...),
	}
}

// step runs one step, pools bound as inputs and outputs to the same buffers.
func (p *placedDecoder) step(in map[string]tensor.Tensor) []float32 {
	p.t.Helper()
	q := hosts.Request{}
	for name, v := range in {
		if p.narrow {
			t, err := tensor.New(tensor.Int32, v.Shape)
			if err != nil {
				p.t.Fatal(err)
			}
			if err := lower.Narrow(tensor.View[int32](t), tensor.View[int64](v)); err != nil {
				p.t.Fatal(err)
			}
			v = t
		}
		q.Inputs = append(q.Inputs, hosts.Input{Name: name, Value: graph.TensorDatum(v)})
	}
	q.Outputs = []hosts.Output{{Name: models.Logits}}
	for i, pool := range p.decoder.Pools {
		shape := append(tensor.Shape{stepDims[models.Pages], stepDims[models.PageSize]}, pool.Row...)
		q.Inputs = append(q.Inputs, hosts.Input{Name: pool.Name, Buffer: p.pools[i], Value: graph.TensorDatum(tensor.Tensor{DType: pool.DType, Shape: shape})})
		q.Outputs = append(q.Outputs, hosts.Output{Name: pool.Output, Buffer: p.pools[i], Length: p.pools[i].Size()})
	}
	r, err := p.exe.Do(p.t.Context(), q)
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Release()
	return append([]float32(nil), tensor.View[float32](r.Outputs[0].Tensor)...)
}

// place lowers a decoder for a device and brings it there.
func place(t *testing.T, store *lower.Store, d *hosts.Device, ck *checkpoint.Checkpoint, m *models.Model, ref string) *placedDecoder {
	t.Helper()
	g, err := m.Component(models.Decode)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := ck.Identity()
	if err != nil {
		t.Fatal(err)
	}
	info := d.Status().Device
	var dims map[string]int64
	if info.StaticShapes {
		dims = stepDims
	}
	l, err := store.Lower(t.Context(), lower.Source{Graph: g, Dir: ck.Dir, Identity: identity}, lower.Target{Device: ref, StaticShapes: info.StaticShapes, Attention: info.Attention, Assess: d.Assess}, dims)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	for _, n := range l.Graph.Graph.Nodes {
		if n.OpType == "PagedAttention" && info.Attention != backend.AttentionFused {
			t.Fatalf("%s is left for a device whose way is %s", n.Label(), info.Attention)
		}
	}
	p := &placedDecoder{t: t, decoder: m.Decoder, lengths: make([]int64, 2)}
	// The smoke run is of one step with its pools in host memory.
	smoke := map[string]graph.Datum{}
	probe := &placedDecoder{lengths: make([]int64, 2)}
	for name, v := range probe.stepInputs([]int64{1}, 0) {
		smoke[name] = graph.TensorDatum(v)
	}
	for _, pool := range m.Decoder.Pools {
		v, err := tensor.New(pool.DType, append(tensor.Shape{stepDims[models.Pages], stepDims[models.PageSize]}, pool.Row...))
		if err != nil {
			t.Fatal(err)
		}
		smoke[pool.Name] = graph.TensorDatum(v)
	}
	for _, v := range l.Graph.Graph.Inputs {
		if x := smoke[v.Name].Tensor; v.Type.Elem == tensor.Int32 && x.DType == tensor.Int64 {
			n, err := tensor.New(tensor.Int32, x.Shape)
			if err != nil {
				t.Fatal(err)
			}
			if err := lower.Narrow(tensor.View[int32](n), tensor.View[int64](x)); err != nil {
				t.Fatal(err)
			}
			smoke[v.Name] = graph.TensorDatum(n)
			p.narrow = true
		}
	}
	if p.exe, err = d.Compile(t.Context(), backend.CompileSpec{Dir: l.Dir, SmokeInputs: smoke}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.exe.Close() })
	for _, pool := range m.Decoder.Pools {
		b, err := d.Alloc(t.Context(), stepDims[models.Pages]*pool.PageBytes(stepDims[models.PageSize]))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		p.pools = append(p.pools, b)
	}
	return p
}

// TestWaysOfAttention decodes on devices that run PagedAttention fused, as rows and
// as its body, in a process of their own: all give the same logits, step by step.
func TestWaysOfAttention(t *testing.T) {
	program := filepath.Join(bin, "backends", "accel-backend-reference")
	settings := `{"devices":[
		{"name":"rows","attention":"rows","no_functions":true},
		{"name":"body","attention":"body","no_functions":true},
		{"name":"static_rows","attention":"rows","static_shapes":true,"no_functions":true}]}`
	backends := map[string]hosts.Backend{"reference": {Path: program, Settings: json.RawMessage(settings)}}
	refs := []string{"simulation:plain", "simulation:rows", "simulation:body", "simulation:static", "simulation:static_rows", "simulation:picky"}
	if dir, ok := testfiles.FindOpenVINO(t); ok {
		backends["openvino"] = hosts.Backend{Path: filepath.Join(bin, "backends", "accel-backend-openvino"), Env: map[string]string{"ACCEL_OPENVINO": dir}}
		refs = append(refs, "openvino:CPU")
	}
	m, err := hosts.New(hosts.Options{Logger: hclog.NewNullLogger(), Backends: backends})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(t.Context()) })
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	wayOf := map[string]backend.AttentionWay{
		"simulation:plain": backend.AttentionFused, "simulation:rows": backend.AttentionRows, "simulation:body": backend.AttentionBody,
		"simulation:static": backend.AttentionBody, "simulation:static_rows": backend.AttentionRows, "simulation:picky": backend.AttentionRows,
		"openvino:CPU": backend.AttentionRows,
	}
	kinds := []struct {
		name string
		kv   models.KVTypes
	}{
		{"f32", models.KVTypes{}},
		{"f16", models.KVTypes{Key: tensor.Float16, Value: tensor.Float16}},
		{"bf16", models.KVTypes{Key: tensor.BFloat16, Value: tensor.BFloat16}},
		{"int8", models.KVTypes{Key: tensor.Int8, Value: tensor.Int8}},
		{"int8 and 4 bit", models.KVTypes{Key: tensor.Int8, Value: tensor.Uint8, ValueBits: 4}},
		{"4 bit", models.KVTypes{Key: tensor.Uint8, KeyBits: 4, Value: tensor.Uint8, ValueBits: 4}},
		{"f16 and int8", models.KVTypes{Key: tensor.Float16, Value: tensor.Int8}},
	}
	for _, name := range []string{"llama", "qwen2"} {
		for _, kind := range kinds {
			if name != "llama" && kind.name != "f32" {
				continue
			}
			t.Run(name+"/"+kind.name, func(t *testing.T) {
				dir := filepath.Join("..", "..", "testdata", "tiny", name)
				if name == "qwen2" {
					dir = windowed(t, dir)
				}
				ck, err := checkpoint.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer ck.Close()
				model, err := models.Load(ck, models.Options{KV: kind.kv})
				if err != nil {
					t.Fatal(err)
				}
				prompt := []int64{31, 7, 400, 22, 85, 613, 9, 120, 77, 5, 333, 2}
				var want [][]float32
				for _, ref := range refs {
					if (ref == "simulation:picky" || ref == "openvino:CPU") && kind.name != "f32" {
						continue // it takes no other types
					}
					d, err := m.Device(ref)
					if err != nil {
						t.Fatal(err)
					}
					if way := d.Status().Device.Attention; way != wayOf[ref] {
						t.Fatalf("the way of %s is %s", ref, way)
					}
					p := place(t, store, d, ck, model, ref)
					for n := range 5 {
						got := p.step(p.stepInputs(prompt, n))
						if ref == "simulation:plain" {
							want = append(want, got)
							continue
						}
						if err := near(got, want[n], 1e-5); err != nil {
							t.Fatalf("%s, step %d: %v", ref, n, err)
						}
					}
				}
			})
		}
	}
}

// windowed is a copy of a Qwen2 folder whose second layer looks back 3 tokens.
func windowed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(to, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := strings.NewReplacer(`"use_sliding_window": false`, `"use_sliding_window": true`, `"sliding_window": null`, `"sliding_window": 3`,
		"\"full_attention\"\n", "\"sliding_attention\"\n").Replace(string(data))
	if !strings.Contains(s, "sliding_attention") || os.WriteFile(file, []byte(s), 0o600) != nil {
		t.Fatalf("no window in %s", s)
	}
	return to
}

func near(got, want []float32, tolerance float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("found %d numbers, wanted %d", len(got), len(want))
	}
	var worst, most float64
	for i := range want {
		worst, most = max(worst, math.Abs(float64(got[i]-want[i]))), max(most, math.Abs(float64(want[i])))
		if math.IsNaN(float64(got[i])) {
			return fmt.Errorf("number %d is NaN", i)
		}
	}
	if worst > tolerance*most || most == 0 {
		return fmt.Errorf("off by %g of %g", worst, most)
	}
	return nil
}
