package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
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

// usage is what a process has used of the machine, or all of them.
type usage struct {
	processor time.Duration
	system    time.Duration // of it, in the kernel; counted in hundredths of a second
	read      int64         // bytes, from disks
	written   int64         // bytes, to files that are to be on disks
}

func (u usage) minus(v usage) usage {
	return usage{u.processor - v.processor, u.system - v.system, u.read - v.read, u.written - v.written}
}

// used is what some processes of ours have used together.
func used(b *testing.B, pids []int) (sum usage) {
	b.Helper()
	for _, pid := range pids {
		var now unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &now); err != nil { // of all threads: CPUCLOCK_SCHED
			b.Fatal(err)
		}
		sum.processor += time.Duration(now.Nano())
		stat := procFile(b, fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(stat, ") ")
		sum.system += ticks(b, strings.Fields(rest)[12:13])
		for line := range strings.Lines(procFile(b, fmt.Sprintf("/proc/%d/io", pid))) {
			name, value, _ := strings.Cut(line, ": ")
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			switch name {
			case "read_bytes":
				sum.read += n
			case "write_bytes":
				sum.written += n
			}
		}
	}
	return sum
}

// machineTime is what all processes have used of this machine's processors, waits for disks not counted, and what its host kept from it.
func machineTime(b *testing.B) (busy, stolen time.Duration) {
	b.Helper()
	first, _, _ := strings.Cut(procFile(b, "/proc/stat"), "\n")
	f := strings.Fields(first) // cpu, user, nice, system, idle, iowait, irq, softirq, steal
	return ticks(b, append(f[1:4:4], f[6:8]...)), ticks(b, f[8:9])
}

func procFile(b *testing.B, path string) string {
	b.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return string(data)
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

// settle waits until what was written is on disk, so that no run pays for the one before.
func settle(b *testing.B) {
	b.Helper()
	unix.Sync()
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		var waiting int64 // KiB
		for line := range strings.Lines(procFile(b, "/proc/meminfo")) {
			if f := strings.Fields(line); f[0] == "Dirty:" || f[0] == "Writeback:" {
				n, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				waiting += n
			}
		}
		if waiting < 32<<10 || time.Since(begun) > time.Minute {
			return
		}
	}
}

// touchMemory has the machine own so much free memory: the host of a virtual one may have taken back what nobody used, and gives it
// again page by page, on our processors' time. It tells how much of that went by.
func touchMemory(b *testing.B, bytes int) time.Duration {
	b.Helper()
	before := used(b, []int{os.Getpid()})
	m, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err == nil {
		err = unix.Munmap(m)
	}
	if err != nil {
		b.Fatal(err)
	}
	return used(b, []int{os.Getpid()}).minus(before).processor
}

// loading is how long components took to be ready.
type loading struct {
	wall   time.Duration
	own    usage         // of the engine and the backend
	busy   time.Duration // of processors, that whatever runs on this machine used
	stolen time.Duration // of processors, that the host gave to others
	stages []stage
}

// stage is a part of a component's loading, such as "see: pack".
type stage struct {
	name      string
	wall      time.Duration
	processor time.Duration // of the engine and the backend, whatever else they did
}

// load opens a LLaVA and brings its components onto a CPU backend of its own, which has been started before: all at once, or each
// in turn, with so many bytes of free memory touched just before.
func load(b *testing.B, cache, dir string, together bool, memory int) loading {
	b.Helper()
	e, end := openEngine(b, cache)
	defer end()
	if memory > 0 {
		touchMemory(b, memory)
	}
	var out loading
	pids := []int{os.Getpid()}
	for _, h := range e.Hosts().Backends() {
		if h.PID > 0 {
			pids = append(pids, h.PID)
		}
	}
	busy, stolen := machineTime(b)
	before, begun := used(b, pids), time.Now()
	var mu sync.Mutex
	// A watch notes stages as one ends and the next begins.
	watch := func(component string) (next func(to string)) {
		var now string
		var since time.Time
		var from usage
		return func(to string) {
			mu.Lock()
			defer mu.Unlock()
			if to == now {
				return
			}
			at := used(b, pids)
			if now != "" {
				out.stages = append(out.stages, stage{component + now, time.Since(since), at.minus(from).processor})
			}
			now, since, from = to, time.Now(), at
		}
	}
	next := watch("")
	next("open")
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
	next("")
	bring := func(name string, s *engine.Session, do func() error) {
		next := watch(name + ": ")
		next("lower")
		s.OnProgress(func(to string, _ float64) { next(to) })
		if err := do(); err != nil {
			b.Error(err)
		}
		next("")
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
	out.wall, out.own = time.Since(begun), used(b, pids).minus(before)
	busyThen, stolenThen := machineTime(b)
	out.busy, out.stolen = busyThen-busy, stolenThen-stolen
	return out
}

// loadPairs is how often the components are loaded in turn and side by side; which comes first alternates.
var loadPairs = flag.Int("load.pairs", 8, "how often BenchmarkLoad loads the components in turn and side by side")

// loadMemory is more than loading takes, the model's file included.
const loadMemory = 5 << 29

// loadings are the states of a machine that loading is measured in.
var loadings = []struct {
	name    string
	prepare func(b *testing.B, file string)
	memory  int  // bytes of free memory that are touched
	kept    bool // all was lowered and packed before
}{
	{name: "cold", prepare: forgetFile, memory: loadMemory}, // the file is not in memory
	{name: "unpacked", prepare: inMemory, memory: loadMemory},
	{name: "untouched", prepare: func(b *testing.B, file string) { // a host had time to take back what is free
		inMemory(b, file)
		time.Sleep(5 * time.Second)
	}},
	{name: "warm", prepare: inMemory, kept: true},
}

func inMemory(b *testing.B, file string) { reading(b, file) }

// BenchmarkLoad measures how long a LLaVA of random weights takes to be ready, its components brought side by side and one after
// the other, each with all processors.
func BenchmarkLoad(b *testing.B) {
	dir, total, vision := randomLlava(b)
	if part := float64(vision) / float64(total); total < 1<<30 || part < llavaVisionLeast || part > llavaVision {
		b.Fatalf("the model has %d bytes, %.2f of them the vision side's", total, part)
	}
	file := filepath.Join(dir, "model.safetensors")
	b.Logf("%d bytes, %.0f %% of them the vision side's", total, 100*float64(vision)/float64(total))
	for _, way := range loadings {
		b.Run(way.name, func(b *testing.B) {
			f := figures{}
			kept := b.TempDir()
			if way.kept {
				load(b, kept, dir, true, 0)
			}
			for i := range *loadPairs * b.N {
				if way.name == "cold" {
					forgetFile(b, file)
					f.add("the file alone, read", true, reading(b, file).Seconds())
				}
				for j := range 2 {
					together := (i+j)%2 == 1
					cache := kept
					if !way.kept {
						var err error
						if cache, err = os.MkdirTemp(kept, ""); err != nil {
							b.Fatal(err)
						}
					}
					settle(b)
					way.prepare(b, file)
					f.note(load(b, cache, dir, together, way.memory), together)
					if !way.kept {
						if err := os.RemoveAll(cache); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			settle(b)
			f.report(b)
			b.ReportMetric(touchMemory(b, 1<<30).Seconds(), "s-to-touch-GiB")
		})
	}
}

// figures are what runs of a benchmark found, by name and by whether components were loaded side by side.
type figures map[string]*[2][]float64

func (f figures) add(name string, together bool, v float64) {
	if f[name] == nil {
		f[name] = &[2][]float64{}
	}
	way := 0
	if together {
		way = 1
	}
	f[name][way] = append(f[name][way], v)
}

const (
	ready     = "ready"
	ownTime   = "processor time, own" // of the engine and its backend
	allTime   = "processor time, all" // of whatever ran on the machine
	busyIn    = "busy in "            // processors, own, in a stage
	megabytes = 1e6
)

func (f figures) note(l loading, together bool) {
	stages, processor := map[string]time.Duration{}, map[string]time.Duration{}
	for _, s := range l.stages {
		stages[s.name] += s.wall
		processor[s.name] += s.processor
	}
	for name, d := range stages {
		f.add(name, together, d.Seconds())
		if !together {
			f.add(busyIn+name, together, processor[name].Seconds()/d.Seconds())
		}
	}
	f.add(ready, together, l.wall.Seconds())
	f.add(ownTime, together, l.own.processor.Seconds())
	f.add("- in the kernel", together, l.own.system.Seconds())
	f.add(allTime, together, l.busy.Seconds())
	f.add("- kept by the host", together, l.stolen.Seconds())
	f.add("MB read", together, float64(l.own.read)/megabytes)
	f.add("MB written", together, float64(l.own.written)/megabytes)
	f.add("processors busy, own", together, l.own.processor.Seconds()/l.wall.Seconds())
	f.add("processors busy, all", together, l.busy.Seconds()/l.wall.Seconds())
}

// report logs quartiles, and how much less side by side takes: of each pair, and at best, with all processors at work on what they
// did in turn.
func (f figures) report(b *testing.B) {
	var table strings.Builder
	row := func(name string, v []float64) string {
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f (%.2f %.2f)", median(v), quantile(v, 0.25), quantile(v, 0.75))
	}
	fmt.Fprintf(&table, "%-24s %22s %22s %10s\n", "seconds (quartiles)", "in turn", "side by side", "busy")
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if strings.HasPrefix(name, busyIn) {
			continue
		}
		busy := ""
		if v := f[busyIn+name]; v != nil {
			busy = fmt.Sprintf("%.2f", median(v[0]))
		}
		fmt.Fprintf(&table, "%-24s %22s %22s %10s\n", name, row(name, f[name][0]), row(name, f[name][1]), busy)
	}
	var less []float64
	for i, turn := range f[ready][0] {
		less = append(less, 100*(1-f[ready][1][i]/turn))
	}
	one, all := median(f[ready][0]), median(f[ready][1])
	best := 100 * (1 - median(f[ownTime][0])/float64(runtime.NumCPU())/one)
	fmt.Fprintf(&table, "side by side takes %.1f %% less (%.1f %.1f), %.1f %% by medians; with %d processors always at work it would be %.1f %%",
		median(less), quantile(less, 0.25), quantile(less, 0.75), 100*(1-all/one), runtime.NumCPU(), best)
	b.Log("\n" + table.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(one, "in-turn-s")
	b.ReportMetric(all, "side-by-side-s")
	b.ReportMetric(median(less), "%-less")
	b.ReportMetric(best, "%-less-at-best")
}

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[int(q*float64(len(v)-1)+0.5)]
}
