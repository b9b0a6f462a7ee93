package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// The LLaVA that loading is measured on: CLIP's large tower of 20 layers, at 224 pixels, and a decoder
// of 16 layers, in bfloat16.
const (
	llavaWidth, llavaInner        = 1024, 4096
	llavaTower, llavaLayers       = 20, 16
	llavaVocabulary               = 32000
	llavaImage, llavaPatch        = 224, 14
	llavaTokens                   = (llavaImage/llavaPatch)*(llavaImage/llavaPatch) + 1
	llavaVisionLeast, llavaVision = 0.4, 0.5 // part of the bytes that the vision side has, at least and at most
)

// randomLlava writes a Hugging Face folder of random weights, once, and tells the bytes of all weights and of the
// vision side's.
func randomLlava(b *testing.B) (dir string, total, vision int64) {
	b.Helper()
	tensors := map[string]tensor.Tensor{}
	add := func(name string, shape ...int64) {
		t := tensor.Tensor{DType: tensor.BFloat16, Shape: shape}
		n, err := tensor.ByteSize(t.DType, t.Shape)
		if err != nil {
			b.Fatal(err)
		}
		total += n
		if !strings.HasPrefix(name, "language_model.") {
			vision += n
		}
		tensors[name] = t
	}
	norm := func(name string) { add(name+".weight", llavaWidth); add(name+".bias", llavaWidth) }
	linear := func(name string, out, in int64) { add(name+".weight", out, in); add(name+".bias", out) }
	const tower = "vision_tower.vision_model."
	add(tower+"embeddings.class_embedding", llavaWidth)
	add(tower+"embeddings.patch_embedding.weight", llavaWidth, 3, llavaPatch, llavaPatch)
	add(tower+"embeddings.position_embedding.weight", llavaTokens, llavaWidth)
	norm(tower + "pre_layrnorm")
	norm(tower + "post_layernorm")
	for i := range llavaTower {
		l := tower + "encoder.layers." + strconv.Itoa(i) + "."
		norm(l + "layer_norm1")
		norm(l + "layer_norm2")
		for _, p := range []string{"q", "k", "v", "out"} {
			linear(l+"self_attn."+p+"_proj", llavaWidth, llavaWidth)
		}
		linear(l+"mlp.fc1", llavaInner, llavaWidth)
		linear(l+"mlp.fc2", llavaWidth, llavaInner)
	}
	linear("multi_modal_projector.linear_1", llavaWidth, llavaWidth)
	linear("multi_modal_projector.linear_2", llavaWidth, llavaWidth)
	const text = "language_model.model."
	add(text+"embed_tokens.weight", llavaVocabulary, llavaWidth)
	add(text+"norm.weight", llavaWidth)
	add("language_model.lm_head.weight", llavaVocabulary, llavaWidth)
	for i := range llavaLayers {
		l := text + "layers." + strconv.Itoa(i) + "."
		add(l+"input_layernorm.weight", llavaWidth)
		add(l+"post_attention_layernorm.weight", llavaWidth)
		for _, p := range []string{"q", "k", "v", "o"} {
			add(l+"self_attn."+p+"_proj.weight", llavaWidth, llavaWidth)
		}
		add(l+"mlp.gate_proj.weight", llavaInner, llavaWidth)
		add(l+"mlp.up_proj.weight", llavaInner, llavaWidth)
		add(l+"mlp.down_proj.weight", llavaWidth, llavaInner)
	}
	dir, err := filepath.Abs(filepath.Join(repository(), "build", "bench", "llava"))
	if err != nil {
		b.Fatal(err)
	}
	plan, err := checkpoint.PlanSafetensors(tensors, nil)
	if err != nil {
		b.Fatal(err)
	}
	weights := filepath.Join(dir, "model.safetensors")
	if info, err := os.Stat(weights); err == nil && info.Size() == plan.Size {
		return dir, total, vision
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	config := map[string]any{
		"model_type": "llava", "image_token_index": llavaVocabulary - 1, "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
		"text_config": map[string]any{"model_type": "llama", "hidden_size": llavaWidth, "intermediate_size": llavaInner, "num_hidden_layers": llavaLayers, "num_attention_heads": 16,
			"num_key_value_heads": 16, "vocab_size": llavaVocabulary, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2},
		"vision_config": map[string]any{"model_type": "clip_vision_model", "hidden_size": llavaWidth, "intermediate_size": llavaInner, "num_hidden_layers": llavaTower,
			"num_attention_heads": 16, "image_size": llavaImage, "patch_size": llavaPatch, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 768},
	}
	data, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
	}
	if err == nil {
		err = writeRandom(weights, plan)
	}
	if err != nil {
		b.Fatal(err)
	}
	return dir, total, vision
}

// writeRandom fills a planned file with bfloat16 numbers of either sign from 2^-7 to 2^-5. It appears whole or not at all.
func writeRandom(path string, plan *checkpoint.SafetensorsPlan) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".writing-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := w.Write(plan.Header); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(21, 22))
	var word [8]byte
	for left := plan.Size - int64(len(plan.Header)); left > 0; left -= 8 {
		binary.LittleEndian.PutUint64(word[:], rng.Uint64()&0x80ff80ff80ff80ff|0x3c003c003c003c00)
		if _, err := w.Write(word[:min(left, 8)]); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// forgetFile drops a file from the page cache.
func forgetFile(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

// reading is how long it takes to read a file from first to last.
func reading(b *testing.B, path string) time.Duration {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	begun := time.Now()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, f, make([]byte, 1<<20)); err != nil {
		b.Fatal(err)
	}
	return time.Since(begun)
}

// processorTime is what a process has used of processors.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return ticks(b, strings.Fields(rest)[11:13]) // utime and stime
}

// machineTime is what all processes have used of this machine's processors, waits for disks not counted.
func machineTime(b *testing.B) time.Duration {
	b.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	f := strings.Fields(first) // cpu, user, nice, system, idle, iowait, irq, softirq, steal
	return ticks(b, append(f[1:4:4], f[6:9]...))
}

func ticks(b *testing.B, fields []string) time.Duration {
	b.Helper()
	var sum int64
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / 100) // USER_HZ
}

// loading is how long components took to be ready.
type loading struct {
	wall      time.Duration
	processor time.Duration            // of processors, that the engine and the backend used
	busy      time.Duration            // of processors, that whatever runs on this machine used
	stages    map[string]time.Duration // of each component, one after another: "see: pack"
}

// load opens a LLaVA and brings its components onto a CPU backend of its own, which has been started before: all at once, or each in turn.
func load(b *testing.B, cache, dir string, together bool) loading {
	b.Helper()
	e, end := openEngine(b, cache)
	defer end()
	out := loading{stages: map[string]time.Duration{}}
	pids := []int{os.Getpid()}
	for _, h := range e.Hosts().Backends() {
		if h.PID > 0 {
			pids = append(pids, h.PID)
		}
	}
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			sum += processorTime(b, pid)
		}
		return sum
	}
	before, others, begun := used(), machineTime(b), time.Now()
	decode, err := e.Open(dir, engine.SessionOptions{Component: models.Decode, Preferred: "cpu", Policy: route.Deny})
	if err != nil {
		b.Fatal(err)
	}
	see, err := decode.Part(models.See)
	if err != nil {
		b.Fatal(err)
	}
	x, err := decode.Decoder(engine.PoolOptions{PageSize: pageSize, Pages: 64})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			b.Error(err)
		}
		if err := decode.Close(); err != nil {
			b.Error(err)
		}
	}()
	out.stages["open"] = time.Since(begun)
	var mu sync.Mutex
	bring := func(name string, s *engine.Session, do func() error) {
		stage, since := "lower", time.Now()
		next := func(to string, _ float64) {
			mu.Lock()
			defer mu.Unlock()
			out.stages[name+": "+stage] += time.Since(since)
			stage, since = to, time.Now()
		}
		s.OnProgress(next)
		if err := do(); err != nil {
			b.Error(err)
		}
		next("", 1)
	}
	parts := []func(){
		func() {
			bring(models.See, see, func() error {
				pixels := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{1, 3, llavaImage, llavaImage}, Data: make([]byte, 4*3*llavaImage*llavaImage)}
				var d route.Decision
				return see.Bring(b.Context(), &d, graph.TensorData(map[string]tensor.Tensor{models.PixelValues: pixels}))
			})
		},
		func() {
			bring(models.Decode, decode, func() error {
				var d route.Decision
				_, err := x.Open(b.Context(), &d)
				return err
			})
		},
	}
	var all sync.WaitGroup
	for _, p := range parts {
		if together {
			all.Go(p)
		} else {
			p()
		}
	}
	all.Wait()
	out.wall, out.processor, out.busy = time.Since(begun), used()-before, machineTime(b)-others
	return out
}

// loadRounds is how often each way of loading is measured; the two take turns, and medians are compared.
const loadRounds = 5

const (
	ownTime = "processor time, own" // of the engine and its backend
	allTime = "processor time, all" // of whatever ran on the machine
)

// BenchmarkLoad measures how long a LLaVA of random weights takes to be ready, its components brought side by side and one after
// the other. Cold: nothing of it was lowered or packed before, and its file is not in memory. Unpacked: the file is. Warm: all is.
func BenchmarkLoad(b *testing.B) {
	dir, total, vision := randomLlava(b)
	if part := float64(vision) / float64(total); total < 1<<30 || part < llavaVisionLeast || part > llavaVision {
		b.Fatalf("the model has %d bytes, %.2f of them the vision side's", total, part)
	}
	file := filepath.Join(dir, "model.safetensors")
	b.Logf("%d bytes, %.0f %% of them the vision side's", total, 100*float64(vision)/float64(total))
	for _, way := range []string{"cold", "unpacked", "warm"} {
		b.Run(way, func(b *testing.B) {
			figures := map[bool]map[string][]float64{false: {}, true: {}}
			cache := b.TempDir()
			if way == "warm" {
				load(b, cache, dir, true)
			}
			for range loadRounds * b.N {
				for _, together := range []bool{false, true} {
					note := func(name string, d time.Duration) {
						figures[together][name] = append(figures[together][name], d.Seconds())
					}
					if way == "cold" {
						cache = b.TempDir()
						forgetFile(b, file)
						note("the file alone, read", reading(b, file))
						forgetFile(b, file)
					}
					if way == "unpacked" {
						cache = b.TempDir()
						reading(b, file)
					}
					l := load(b, cache, dir, together)
					note("ready", l.wall)
					note(ownTime, l.processor)
					note(allTime, l.busy)
					for name, d := range l.stages {
						note(name, d)
					}
				}
			}
			turn, side := figures[false], figures[true]
			var table strings.Builder
			fmt.Fprintf(&table, "%-22s %9s %12s\n", "seconds", "in turn", "side by side")
			for _, name := range slices.Sorted(maps.Keys(turn)) {
				fmt.Fprintf(&table, "%-22s %9.2f %12.2f\n", name, median(turn[name]), median(side[name]))
			}
			one, all := median(turn["ready"]), median(side["ready"])
			fmt.Fprintf(&table, "%-22s %9.2f %12.2f\n", "processors busy, own", median(turn[ownTime])/one, median(side[ownTime])/all)
			fmt.Fprintf(&table, "%-22s %9.2f %12.2f of %d", "processors busy, all", median(turn[allTime])/one, median(side[allTime])/all, runtime.NumCPU())
			b.Log("\n" + table.String())
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(one, "in-turn-s")
			b.ReportMetric(all, "side-by-side-s")
			b.ReportMetric(100*(1-all/one), "%-less")
		})
	}
}
