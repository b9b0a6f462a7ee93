package kernels

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unsafe"

	native "github.com/accelhq/accel/native/cpu"
	"github.com/accelhq/accel/sdk/tensor"
)

// Every struct that crosses into C lies there as it lies here.
func TestLayout(t *testing.T) {
	l := testLibrary(t)
	mirrors := map[string]any{
		"ref": Ref{}, "buffer": Buffer{}, "config": cConfig{}, "result": cResult{}, "run_args": cRunArgs{},
		"pack": Pack{}, "gemm": Gemm{}, "matmul": MatMul{}, "attention": Attention{}, "norm": Norm{}, "softmax": Softmax{},
		"step": Step{}, "map_operand": MapOperand{}, "map": Map{}, "cast": Cast{}, "copy": Copy{}, "gather": Gather{},
		"embed": Embed{}, "reduce": Reduce{}, "conv": Conv{}, "pool": Pool{}, "resample": Resample{}, "groupnorm": GroupNorm{}, "gridsample": GridSample{},
		"paged": Paged{}, "rope": Rope{},
		"blocks": Blocks{}, "pack_blocks": PackBlocks{}, "quantize_rows": QuantizeRows{}, "gemm_blocks": GemmBlocks{}, "gather_blocks": GatherBlocks{},
	}
	for name, mirror := range mirrors {
		typ := reflect.TypeOf(mirror)
		if size := l.layout(name, ""); size != int64(typ.Size()) {
			t.Errorf("%s has %d bytes in C, %d in Go", name, size, typ.Size())
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Name == "_" || f.Name == "reserved" {
				continue
			}
			if offset := l.layout(name, cName(f.Name)); offset != int64(f.Offset) {
				t.Errorf("%s.%s is at %d in C, at %d in Go", name, cName(f.Name), offset, f.Offset)
			}
		}
	}
	if l.layout("gemm", "nothing") != -1 || l.layout("nothing", "") != -1 {
		t.Error("a field that does not exist has an offset")
	}
}

// cName is the C spelling of a Go field name: QStride is q_stride, KVHeads kv_heads.
func cName(name string) string {
	special := map[string]string{"spin": "spin_us", "opNS": "op_ns", "opNSCount": "op_ns_count", "DType": "dtype", "VDim": "v_dim", "IDs": "ids", "IDsType": "ids_type", "LDX": "ldx", "KVHeads": "kv_heads"}
	if s, ok := special[name]; ok {
		return s
	}
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		// A capital begins a word after a small letter, or before one.
		if i > 0 && unicode.IsUpper(r) && (unicode.IsLower(runes[i-1]) || (i+1 < len(runes) && unicode.IsLower(runes[i+1]))) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func TestOpenErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "gone.so")
	if _, err := Open(missing); !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("opening a missing file: %v", err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage.so")
	if err := os.WriteFile(garbage, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(garbage); err == nil || !strings.Contains(err.Error(), garbage) {
		t.Errorf("opening garbage: %v", err)
	}
	if runtime.GOOS == "linux" {
		if _, err := Open("/lib/x86_64-linux-gnu/libm.so.6"); err != nil && !errors.Is(err, ErrNoLibrary) && !strings.Contains(err.Error(), "accelcpu_abi_version") {
			t.Errorf("opening another library: %v", err)
		}
	}
}

func TestOtherABI(t *testing.T) {
	err := checkABI("lib.so", "accelcpu 7 123", 7)
	for _, want := range []string{"lib.so", "ABI 7", "accelcpu 7 123", fmt.Sprint("needs ABI ", ABIVersion), "make build"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := checkABI("lib.so", "", ABIVersion); err != nil {
		t.Error(err)
	}
}

// Without a path, what the program carries is opened, if it carries anything.
func TestOpenDefault(t *testing.T) {
	l, err := Open("")
	if _, missing := fs.Stat(native.Libraries, "lib/"+runtime.GOOS+"_"+runtime.GOARCH+"/"+libraryFile()); missing != nil {
		if !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "embedded") || !strings.Contains(err.Error(), "make build") {
			t.Errorf("there is no library: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(l.ISAs()) == 0 || l.ISAs()[0].Name != "baseline" {
		t.Errorf("the embedded library has the instruction sets %v", l.ISAs())
	}
}

// The library that a program carries is loaded from memory, or from a file named by its content.
func TestOpenEmbedded(t *testing.T) {
	data, err := os.ReadFile(testLibrary(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	path, release, err := materialise(libraryFile(), data)
	if err != nil {
		t.Fatal(err)
	}
	l, err := open(path)
	release()
	if err != nil {
		t.Fatal(err)
	}
	if l.Version() != testLibrary(t).Version() {
		t.Errorf("the copy is %q, the library %q", l.Version(), testLibrary(t).Version())
	}
}

func TestForcedISA(t *testing.T) {
	l := testLibrary(t)
	for _, isa := range l.ISAs() {
		t.Setenv(EnvISA, isa.Name)
		r, err := l.NewRunner(Config{})
		switch {
		case !isa.Supported:
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeUnsupported || !strings.Contains(err.Error(), isa.Name) {
				t.Errorf("%s, which this machine lacks: %v", isa.Name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", isa.Name, err)
		default:
			if r.ISA() != isa.Name {
				t.Errorf("%s was asked for, %s is in use", isa.Name, r.ISA())
			}
			r.Close()
		}
	}
	t.Setenv(EnvISA, "mmx")
	if _, err := l.NewRunner(Config{}); err == nil || !strings.Contains(err.Error(), `"mmx" from `+EnvISA) {
		t.Errorf("an unknown instruction set: %v", err)
	}
	t.Setenv(EnvISA, "")
	r := newRunner(t, Config{})
	if strings.HasSuffix(r.ISA(), "-test") {
		t.Errorf("%s was chosen without being asked for", r.ISA())
	}
}

func TestBadPrograms(t *testing.T) {
	r := newRunner(t, Config{})
	size, err := r.PackedBytes(PackF32, 8, 8)
	if err != nil {
		t.Fatal(err)
	}
	buffers := []Buffer{{}, BufferOf(make([]float32, 64)), BufferOf(make([]float32, 64)), BufferOf(make([]byte, size)), BufferOf(make([]float32, 64)), BufferOf([]int32{3, 4})}
	at := func(b uint32) Ref { return Ref{Buffer: b} }
	gemm := func(change func(*Gemm)) *Gemm {
		g := &Gemm{A: at(1), B: at(3), C: at(4), M: 8, N: 8, K: 8, LDA: 8, LDC: 8, AType: f32, Alpha: 1}
		change(g)
		return g
	}
	ones := [Spatial]int64{1, 1, 1}
	conv := func(change func(*Conv)) *Conv {
		o := &Conv{X: at(1), W: at(3), Y: at(4), Batch: 1, Groups: 1, Channels: 8, Filters: 8, In: [Spatial]int64{1, 1, 8}, Out: [Spatial]int64{1, 1, 8},
			Kernel: ones, Stride: ones, Dilation: ones, YStride: [5]int64{64, 8, 8, 8, 1}}
		change(o)
		return o
	}
	cases := []struct {
		name string
		op   Op
		code Code
		text string
	}{
		{"good", gemm(func(g *Gemm) {}), 0, ""},
		{"good conv", conv(func(*Conv) {}), 0, ""},
		{"absent", gemm(func(g *Gemm) { g.A = Ref{} }), CodeInvalid, "a is absent"},
		{"no such buffer", gemm(func(g *Gemm) { g.A = at(9) }), CodeBounds, "buffer 9"},
		{"too many rows", gemm(func(g *Gemm) { g.M = 9 }), CodeBounds, "a takes bytes 0 to 288 of buffer 1, which has 256"},
		{"negative rows", gemm(func(g *Gemm) { g.M = -1 }), CodeInvalid, "m is -1"},
		{"absurd rows", gemm(func(g *Gemm) { g.M = math.MaxInt64 }), CodeInvalid, "m is"},
		{"product too large", gemm(func(g *Gemm) { g.M, g.LDA = 1<<40, 1<<40 }), CodeBounds, "a takes"},
		{"offset past the end", gemm(func(g *Gemm) { g.C.Offset = 4 }), CodeBounds, "c takes"},
		{"negative offset", gemm(func(g *Gemm) { g.C.Offset = -4 }), CodeBounds, "c takes"},
		{"huge offset", gemm(func(g *Gemm) { g.C.Offset = math.MaxInt64 }), CodeBounds, "c takes"},
		{"rows that overlap", gemm(func(g *Gemm) { g.LDC = 7 }), CodeInvalid, "ldc"},
		{"activation", gemm(func(g *Gemm) { g.Activation = 99 }), CodeUnsupported, "activation (99)"},
		{"format", gemm(func(g *Gemm) { g.Format = 7 }), CodeUnsupported, "format (7)"},
		{"rows of f16", gemm(func(g *Gemm) { g.AType = 10 }), CodeUnsupported, "type (10)"},
		{"rows of bf16 with weights of f32", gemm(func(g *Gemm) { g.AType = bf16 }), CodeUnsupported, "type (16)"},
		{"rows of no type", gemm(func(g *Gemm) { g.AType = 0 }), CodeUnsupported, "type (0)"},
		{"alignment", gemm(func(g *Gemm) { g.M, g.A.Offset = 1, 2 }), CodeInvalid, "not aligned"},
		{"heads", &Attention{Q: at(1), K: at(1), V: at(2), O: at(4), Heads: 3, KVHeads: 2, Batch: 1}, CodeInvalid, "heads"},
		{"wide heads", &Attention{Q: at(1), K: at(1), V: at(2), O: at(4), Heads: 1, KVHeads: 1, HeadDim: 2000}, CodeUnsupported, "1024"},
		{"map function", &Map{Compute: uint32(tensor.Int64), Steps: 1, Inputs: 1, Step: [MapSteps]Step{{Fn: FnExp}}}, CodeUnsupported, "function"},
		{"map operand", &Map{Compute: uint32(tensor.Float32), Steps: 1, Inputs: 1, Step: [MapSteps]Step{{Fn: FnAdd, A: 0, B: 1}}}, CodeInvalid, "operand"},
		{"map of its own result", &Map{Compute: uint32(tensor.Float32), Steps: 1, Inputs: 1, Step: [MapSteps]Step{{Fn: FnAbs, A: 8}}}, CodeInvalid, "operand"},
		{"map type", &Map{Compute: uint32(tensor.Float64), Steps: 1}, CodeUnsupported, "type"},
		{"map rank", &Map{Compute: uint32(tensor.Float32), Steps: 1, Rank: 7}, CodeInvalid, "dimensions"},
		{"cast", &Cast{Src: at(1), Dst: at(2), N: 1, SrcType: uint32(tensor.Complex64), DstType: 1}, CodeUnsupported, "type (14)"},
		{"copy", &Copy{Src: at(1), Dst: at(2), ElemBytes: 3}, CodeUnsupported, "(3)"},
		{"copy backwards out", &Copy{Src: at(1), Dst: at(2), ElemBytes: 4, Rank: 1, Dims: [8]int64{5}, SrcStride: [8]int64{-1}, DstStride: [8]int64{1}}, CodeBounds, "src"},
		{"weights of a max", &Reduce{X: at(1), Weight: at(2), Y: at(4), Reduce: ReduceMax}, CodeInvalid, "weights"},
		{"conv stride", conv(func(o *Conv) { o.Stride[1] = 0 }), CodeInvalid, "stride"},
		{"conv pad", conv(func(o *Conv) { o.Pad[2] = 1 << 31 }), CodeInvalid, "pad"},
		{"conv input", conv(func(o *Conv) { o.In[1] = 9 }), CodeBounds, "x takes"},
		{"conv output", conv(func(o *Conv) { o.Out[1] = 9 }), CodeBounds, "y takes"},
		{"conv filters", conv(func(o *Conv) { o.Filters = 1 << 30 }), CodeBounds, "w takes"},
		{"conv weights beyond counting", conv(func(o *Conv) { o.Kernel = [3]int64{1 << 30, 1 << 30, 1 << 30} }), CodeInvalid, "too large"},
		{"conv that overlaps itself", conv(func(o *Conv) { o.YStride[4] = 0 }), CodeInvalid, "y_stride"},
		{"conv activation", conv(func(o *Conv) { o.Activation = 11 }), CodeUnsupported, "activation (11)"},
		{"conv alone with activation", gemm(func(g *Gemm) { g.Activation = ActClip }), CodeUnsupported, "activation (7)"},
		{"pool kind", &Pool{X: at(1), Y: at(4), Kernel: ones, Stride: ones, Dilation: ones, Pool: 3}, CodeUnsupported, "pooling (3)"},
		{"pool window", &Pool{X: at(1), Y: at(4), Stride: ones, Dilation: ones}, CodeInvalid, "kernel"},
		{"pool planes", &Pool{X: at(1), Y: at(4), Planes: 65, In: ones, Out: ones, Kernel: ones, Stride: ones, Dilation: ones}, CodeBounds, "x takes"},
		{"resample index", &Resample{X: at(1), Index: at(5), Weight: at(2), Y: at(4), Outer: 1, In: 4, Out: 2, Inner: 1, Taps: 1}, CodeIndex, "index 4"},
		{"resample nothing", &Resample{X: at(1), Index: at(5), Weight: at(2), Y: at(4), Outer: 1, In: 4, Out: 2, Inner: 1}, CodeInvalid, "taps"},
		{"groups beyond counting", &GroupNorm{X: at(1), Y: at(4), Batch: 1 << 40, Groups: 1 << 40, Channels: 1, Inner: 1}, CodeBounds, "x takes"},
		{"grid of four dimensions", &GridSample{X: at(1), Grid: at(2), Y: at(4), In: ones, Rank: 4}, CodeInvalid, "rank"},
		{"grid over nothing", &GridSample{X: at(1), Grid: at(2), Y: at(4), Rank: 2, In: [Spatial]int64{1, 0, 1}}, CodeInvalid, "in is not"},
		{"grid too small", &GridSample{X: at(1), Grid: at(2), Y: at(4), Rank: 2, In: ones, Batch: 1, Channels: 1, Points: 33}, CodeBounds, "grid takes"},
		{"embed period", &Embed{Table: [4]Ref{at(1)}, Tables: 1, TableRows: [4]int64{4}, Width: 4, Count: 2, LDY: 4, IDsType: 7, Y: at(4), Norm: EmbedPlain}, CodeInvalid, "period"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var p Program
			p.Add(gemm(func(g *Gemm) {}))
			if i := p.Add(c.op); i != 1 {
				t.Fatalf("the second operation is number %d", i)
			}
			err := r.Run(&p, buffers, nil)
			if c.code == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code || e.Op != 1 || !strings.Contains(e.Text, c.text) {
				t.Fatalf("%v (%#v), want code %d and %q", err, e, c.code, c.text)
			}
		})
	}
	t.Run("bytes", func(t *testing.T) {
		var p Program
		p.Add(gemm(func(g *Gemm) {}))
		for cut := 1; cut < len(p.words); cut++ {
			if err := r.Run(&Program{words: p.words[:cut]}, buffers, nil); err == nil {
				t.Fatalf("a program of %d words runs", cut)
			}
		}
		p.words[0] = 77
		if err := r.Run(&p, buffers, nil); err == nil || !strings.Contains(err.Error(), "kind 77") {
			t.Fatalf("operation 77: %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	r := newRunner(t, Config{Threads: 2})
	var p Program
	x := make([]float32, 1<<16)
	buffers := []Buffer{{}, BufferOf(x)}
	for range 2000 {
		p.Add(&Softmax{X: Ref{Buffer: 1}, Y: Ref{Buffer: 1}, Outer: 64, Axis: 1024, Inner: 1})
	}
	var cancel atomic.Int32
	cancel.Store(1)
	var e *Error
	if err := r.Run(&p, buffers, &cancel); !errors.As(err, &e) || e.Code != CodeCancelled || e.Op != 0 {
		t.Fatalf("cancelled before: %v", err)
	}
	cancel.Store(0)
	done := make(chan error)
	go func() { done <- r.Run(&p, buffers, &cancel) }()
	time.Sleep(5 * time.Millisecond)
	cancel.Store(1)
	if err := <-done; err != nil && (!errors.As(err, &e) || e.Code != CodeCancelled) {
		t.Fatalf("cancelled under way: %v", err)
	}
}

func TestRunAllocatesNothing(t *testing.T) {
	r := newRunner(t, Config{Threads: 2})
	var p Program
	x := make([]float32, 4096)
	p.Add(&Softmax{X: Ref{Buffer: 1}, Y: Ref{Buffer: 1}, Outer: 4, Axis: 1024, Inner: 1})
	buffers := []Buffer{{}, BufferOf(x)}
	ns := make([]int64, 1)
	var cancel atomic.Int32
	if n := testing.AllocsPerRun(100, func() {
		if r.Run(&p, buffers, &cancel) != nil || r.RunTimed(&p, buffers, nil, ns) != nil {
			t.Error("the run failed")
		}
	}); n != 0 && !raceDetector {
		t.Errorf("a run allocates %g times", n)
	}
	if ns[0] <= 0 {
		t.Errorf("the operation took %d ns", ns[0])
	}
}

// Many goroutines share one runner: each gets its own right result, whoever has the threads.
func TestConcurrentRuns(t *testing.T) {
	const m, n, k = 40, 70, 300
	for _, c := range []Config{{Threads: 1}, {Threads: 2}, {Threads: 4, Spin: -1}, {Threads: 3, Pin: true}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			r := newRunner(t, c)
			w := randoms(newRand(), n*k)
			size, err := r.PackedBytes(PackF32, n, k)
			if err != nil {
				t.Fatal(err)
			}
			packed := make([]byte, size)
			var pack, p Program
			pack.Add(&Pack{Src: Ref{Buffer: 1}, Dst: Ref{Buffer: 2}, N: n, K: k, NStride: k, KStride: 1})
			if err := r.Run(&pack, []Buffer{{}, BufferOf(w), BufferOf(packed)}, nil); err != nil {
				t.Fatal(err)
			}
			p.Add(&Gemm{A: Ref{Buffer: 2}, B: Ref{Buffer: 1}, C: Ref{Buffer: 3}, M: m, N: n, K: k, LDA: k, LDC: n, AType: f32, Alpha: 1})
			p.Add(&Softmax{X: Ref{Buffer: 3}, Y: Ref{Buffer: 3}, Outer: m, Axis: n, Inner: 1})
			run := func(a, y []float32) error {
				return r.Run(&p, []Buffer{{}, BufferOf(packed), BufferOf(a), BufferOf(y)}, nil)
			}
			var wait sync.WaitGroup
			for g := range 8 {
				wait.Add(1)
				go func() {
					defer wait.Done()
					a := fill(m*k, float32(g+1))
					var first []float32
					for range 60 {
						y := make([]float32, m*n)
						if err := run(a, y); err != nil {
							t.Error(err)
							return
						}
						if first == nil {
							first = y
						}
						for i := range y {
							if y[i] != first[i] {
								t.Errorf("goroutine %d: element %d is %g, was %g", g, i, y[i], first[i])
								return
							}
						}
					}
				}()
			}
			wait.Wait()
		})
	}
}

// A runner that slept through many regions, or was never used, ends at once.
func TestRunnersComeAndGo(t *testing.T) {
	l := testLibrary(t)
	x := make([]float32, 1<<14)
	var p Program
	p.Add(&Softmax{X: Ref{Buffer: 1}, Y: Ref{Buffer: 1}, Outer: 16, Axis: 1024, Inner: 1})
	for i := range 50 {
		r, err := l.NewRunner(Config{Threads: 1 + i%4})
		if err != nil {
			t.Fatal(err)
		}
		if r.Threads() != 1+i%4 {
			t.Fatalf("%d threads were asked for, there are %d", 1+i%4, r.Threads())
		}
		for range i % 3 {
			if err := r.Run(&p, []Buffer{{}, BufferOf(x)}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i%2) * 200 * time.Microsecond)
		}
		r.Close()
	}
}

// Programs of arbitrary fields either run or are refused; they never reach outside their buffers.
func FuzzProgram(f *testing.F) {
	r := newRunner(f, Config{Threads: 2})
	for kind := range byte(19) {
		f.Add([]byte{kind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	}
	kinds := []func() Op{
		func() Op { return new(Pack) }, func() Op { return new(Gemm) }, func() Op { return new(MatMul) }, func() Op { return new(Attention) },
		func() Op { return new(Norm) }, func() Op { return new(Softmax) }, func() Op { return new(Map) }, func() Op { return new(Cast) },
		func() Op { return new(Copy) }, func() Op { return new(Gather) }, func() Op { return new(Embed) }, func() Op { return new(Reduce) },
		func() Op { return new(Conv) }, func() Op { return new(Pool) }, func() Op { return new(Resample) }, func() Op { return new(GroupNorm) }, func() Op { return new(GridSample) },
		func() Op { return new(Paged) }, func() Op { return new(Rope) },
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		op := kinds[int(data[0])%len(kinds)]()
		// Each word of the struct after its head is a small number taken from the data.
		_, size, head := op.raw()
		words := unsafe.Slice((*uint32)(unsafe.Pointer(head)), size/4)
		for i := 2; i < len(words); i++ {
			b := data[i%len(data)] ^ byte(i/len(data))
			words[i] = uint32(int32(int8(b)) >> (b & 3))
			if int32(words[i]) < 0 && b&4 != 0 { // negative numbers as 64-bit ones, now and then
				words[i] = uint32(b & 7)
			}
		}
		mem := newMemory()
		for range 4 {
			put(mem, make([]int64, 600))
		}
		if o, ok := op.(*Paged); ok { // what it writes overlaps nothing that it reads: the caller's duty
			for _, ref := range []*Ref{&o.KPages, &o.VPages, &o.KScales, &o.VScales, &o.O} {
				if ref.Buffer != 0 {
					own, _ := put(mem, make([]int64, 600))
					ref.Buffer = own.Buffer
				}
			}
		}
		var p Program
		p.Add(op)
		var e *Error
		if err := r.Run(&p, mem.buffers, nil); err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		for _, intact := range mem.intact {
			if err := intact(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
