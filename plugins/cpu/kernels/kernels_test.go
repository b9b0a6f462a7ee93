package kernels

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"unsafe"
)

// openTest opens what `make -C native/cpu test-lib` built, which has instruction sets for
// tests only; else the library itself.
var openTest = sync.OnceValues(func() (*Library, error) {
	dir := filepath.Join("..", "..", "..", "build", "native")
	name := libraryFile()
	ext := filepath.Ext(name)
	l, err := Open(filepath.Join(dir, name[:len(name)-len(ext)]+"-test"+ext))
	if errors.Is(err, ErrNoLibrary) {
		return Open(filepath.Join(dir, name))
	}
	return l, err
})

func testLibrary(t testing.TB) *Library {
	t.Helper()
	l, err := openTest()
	if errors.Is(err, ErrNoLibrary) {
		t.Skip("the native library is not built: run `make -C native/cpu all test-lib`")
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newRunner(t testing.TB, c Config) *Runner {
	t.Helper()
	r, err := testLibrary(t).NewRunner(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// onEveryISA runs f for each instruction set of the library, on two threads; those that
// this machine lacks are skipped, visibly.
func onEveryISA(t *testing.T, f func(t *testing.T, r *Runner)) {
	for _, isa := range testLibrary(t).ISAs() {
		t.Run(isa.Name, func(t *testing.T) {
			if !isa.Supported {
				t.Skipf("this machine does not have %s", isa.Name)
			}
			f(t, newRunner(t, Config{ISA: isa.Name, Threads: 2}))
		})
	}
}

// memory lays out a run's operands, each in a buffer of its own that begins 4 bytes (or an
// element) off every alignment and has canaries at both ends.
type memory struct {
	buffers []Buffer
	intact  []func() error
}

func newMemory() *memory { return &memory{buffers: make([]Buffer, 1)} }

// put makes a buffer that holds a copy of values and returns it with its name.
func put[T any](m *memory, values []T) (Ref, []T) {
	const guard = 64
	size := int(unsafe.Sizeof(*new(T)))
	back := make([]byte, len(values)*size+4*guard)
	start := 2*guard - int(uintptr(unsafe.Pointer(&back[0]))%64) + max(4, size)
	back = back[:start+len(values)*size+guard]
	for i := range back {
		back[i] = 0xA5
	}
	data := unsafe.Slice((*T)(unsafe.Pointer(&back[start])), len(values))
	copy(data, values)
	m.buffers = append(m.buffers, Buffer{unsafe.Pointer(&back[start]), int64(len(values) * size)})
	n := len(m.buffers) - 1
	m.intact = append(m.intact, func() error {
		for i, b := range back {
			if (i < start || i >= start+len(values)*size) && b != 0xA5 {
				return fmt.Errorf("buffer %d of %d bytes was written to at byte %d", n, len(values)*size, i-start)
			}
		}
		return nil
	})
	return Ref{Buffer: uint32(n)}, data
}

func (m *memory) run(t testing.TB, r *Runner, ops ...Op) {
	t.Helper()
	if err := m.try(t, r, ops...); err != nil {
		t.Fatal(err)
	}
}

func (m *memory) try(t testing.TB, r *Runner, ops ...Op) error {
	t.Helper()
	var p Program
	for _, op := range ops {
		p.Add(op)
	}
	err := r.Run(&p, m.buffers, nil)
	for _, intact := range m.intact {
		if err := intact(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.KeepAlive(m)
	return err
}

// thin: of so many cases of a long list one is run.
func thin(short bool) int {
	if short {
		return 8
	}
	return 1
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func randoms(rng *rand.Rand, n int64) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(rng.NormFloat64())
	}
	return s
}

func fill(n int64, v float32) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// near reports whether got is want within tolerance; NaN is near NaN only.
func near(got float32, want, tolerance float64) bool {
	if math.IsNaN(want) || math.IsInf(want, 0) {
		return float64(got) == want || (math.IsNaN(want) && got != got)
	}
	return math.Abs(float64(got)-want) <= tolerance
}

// ulps is the distance of got from want in units of the last place of want as a float32.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	if got == w || (got != got && w != w) {
		return 0
	}
	if math.IsInf(float64(w), 0) || math.IsNaN(float64(w)) || got != got || math.IsInf(float64(got), 0) {
		return math.Inf(1)
	}
	a := math.Abs(float64(w))
	ulp := math.Max(math.Ldexp(1, int(math.Floor(math.Log2(math.Max(a, 1e-300))))-23), math.Ldexp(1, -149))
	return math.Abs(float64(got)-want) / ulp
}

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" { // what is measured may be chosen so
		os.Unsetenv(EnvISA)
	}
	os.Exit(m.Run())
}
