package graph

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// externalModel has one float32[4] initializer whose place is given.
func externalModel(location, offset string) wire {
	in := tensorWire(tensor.Float32, 4).int(14, 1).bytes(13, wire(nil).str(1, "location").str(2, location))
	if offset != "" {
		in = in.bytes(13, wire(nil).str(1, "offset").str(2, offset))
	}
	return modelWire(wire(nil).bytes(5, in))
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoadExternal(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "model")
	weights := packedFloats(0, 1, 2, 3, 4)
	write(t, filepath.Join(outside, "w.bin"), weights)
	write(t, filepath.Join(dir, "w.bin"), weights)
	write(t, filepath.Join(dir, "sub", "w.bin"), weights)
	write(t, filepath.Join(dir, "empty.bin"), nil)
	links := os.Symlink(filepath.Join("..", "w.bin"), filepath.Join(dir, "link.bin")) == nil

	tests := []struct {
		name, location, offset string
		opts                   []Option
		err                    string
	}{
		{name: "plain", location: "w.bin", offset: "4"},
		{name: "in a folder", location: "sub/w.bin", offset: "4"},
		{name: "parent", location: "../w.bin", offset: "4", err: "relative path inside"},
		{name: "parent in the middle", location: "sub/../../w.bin", offset: "4", err: "relative path inside"},
		{name: "absolute", location: filepath.Join(outside, "w.bin"), offset: "4", err: "relative path inside"},
		{name: "absent", location: "none.bin", err: "can't be opened"},
		{name: "a folder", location: "sub", err: "no regular file"},
		{name: "past the end", location: "w.bin", offset: "8", err: "ends at byte 24, the file at byte 20"},
		{name: "far past the end", location: "w.bin", offset: "9223372036854775000", err: "ends at byte"},
		{name: "empty file", location: "empty.bin", err: "the file at byte 0"},
		{name: "link that leads out", location: "link.bin", offset: "4", err: "can't be opened"},
		{name: "link that leads out, trusted", location: "link.bin", offset: "4", opts: []Option{WithLinks()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "link") && !links {
				t.Skip("symbolic links can't be made here")
			}
			write(t, filepath.Join(dir, ModelFile), externalModel(tt.location, tt.offset))
			m, err := Load(dir, tt.opts...)
			if tt.err != "" {
				var ee *ExternalError
				if !errors.As(err, &ee) || !strings.Contains(err.Error(), tt.err) || ee.Tensor != "t" || ee.Model == "" {
					t.Fatalf("got %v, want an external error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			in := m.Graph.Initializers[0]
			mustEqual(t, "data", tensor.View[float32](in.Tensor), []float32{1, 2, 3, 4})
			if !filepath.IsAbs(in.External.Path) {
				t.Errorf("path %q is not absolute", in.External.Path)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	path := filepath.Join(dir, "x.onnx")
	write(t, path, []byte("garbage"))
	var fe *FormatError
	if _, err := Load(path); !errors.As(err, &fe) || fe.File != path {
		t.Errorf("garbage: %v", err)
	}
	write(t, path, nil)
	if _, err := Load(path); !errors.As(err, &fe) {
		t.Errorf("an empty file: %v", err)
	}
	write(t, path, make([]byte, 1000))
	var le *LimitError
	if _, err := Load(path, WithLimits(Limits{Bytes: 999})); !errors.As(err, &le) || le.File != path {
		t.Errorf("past the limit: %v", err)
	}
}

func TestCloseIsShared(t *testing.T) {
	dir := t.TempDir()
	if err := Save(small(t), dir, SaveOptions{External: 1}); err != nil {
		t.Fatal(err)
	}
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Clone()
	files := m.files
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "element of the clone", tensor.View[float32](c.Graph.Initializers[0].Tensor)[7], float32(8))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if files.refs.Load() != 0 || files.unmap != nil {
		t.Error("the files are still mapped")
	}
}

func TestLoadExports(t *testing.T) {
	for _, dir := range exports(t) {
		m := mustLoad(t, dir)
		if err := m.Check(); err != nil {
			t.Errorf("%s: %v", filepath.Base(dir), err)
		}
		for _, file := range []string{"input_0.pb", "output_0.pb"} {
			data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", file))
			if err != nil {
				t.Fatal(err)
			}
			if _, v, err := ParseTensor(data); err != nil || v.Check() != nil {
				t.Errorf("%s/%s: %v", filepath.Base(dir), file, err)
			}
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, name := range []string{"bert", "rwkv"} {
		dir := shared(b, "onnx", name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := Load(dir)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(m.Graph.Nodes)), "nodes")
				m.Close()
			}
		})
	}
}

func TestMapping(t *testing.T) {
	if runtime.GOOS == "plan9" {
		t.Skip("no mapping here")
	}
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("bytes"))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &fileSet{}
	s.retain()
	data, err := s.add(f)
	f.Close()
	if err != nil || string(data) != "bytes" || len(s.unmap) != 1 {
		t.Fatalf("%q, %v, %d mappings", data, err, len(s.unmap))
	}
	if err := s.release(); err != nil {
		t.Error(err)
	}
}
