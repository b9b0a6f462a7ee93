package graph

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
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
		{name: "absent", location: "none.bin", err: "can't be used"},
		{name: "a folder", location: "sub", err: "no regular file"},
		{name: "past the end", location: "w.bin", offset: "8", err: "ends at byte 24, the file at byte 20"},
		{name: "far past the end", location: "w.bin", offset: "9223372036854775000", err: "ends at byte"},
		{name: "empty file", location: "empty.bin", err: "the file at byte 0"},
		{name: "link that leads out", location: "link.bin", offset: "4", err: "can't be used"},
		{name: "link that leads out of what is no snapshot", location: "link.bin", offset: "4", opts: []Option{WithLinks()}, err: "can't be used"},
		{name: "the model itself", location: "model.onnx", err: "the model file itself"},
		{name: "hard link to the model", location: "again.bin", err: "the model file itself"},
		{name: "too many files", location: "w.bin", offset: "4", opts: []Option{WithLimits(Limits{Files: -1})}, err: "limit"},
		{name: "too many bytes", location: "w.bin", offset: "4", opts: []Option{WithLimits(Limits{External: 19})}, err: "limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "link") && !links {
				t.Skip("symbolic links can't be made here")
			}
			write(t, filepath.Join(dir, ModelFile), externalModel(tt.location, tt.offset))
			if tt.location == "again.bin" {
				if err := os.Link(filepath.Join(dir, ModelFile), filepath.Join(dir, "again.bin")); err != nil {
					t.Skip(err)
				}
			}
			m, err := Load(dir, tt.opts...)
			if tt.err == "limit" {
				if le := (*LimitError)(nil); !errors.As(err, &le) || le.File == "" || !strings.Contains(le.What, "external data") {
					t.Fatalf("got %v, want a limit error on external data", err)
				}
				return
			}
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

// TestLoadFollowsHubLinks lays files out as the cache of the Hugging Face hub does.
func TestLoadFollowsHubLinks(t *testing.T) {
	top := t.TempDir()
	repo := filepath.Join(top, "models--a--b")
	weights := packedFloats(0, 1, 2, 3, 4)
	write(t, filepath.Join(top, "secret.bin"), weights)
	write(t, filepath.Join(top, "other", "w.bin"), weights)
	write(t, filepath.Join(repo, "blobs", "1234"), weights)
	dir := filepath.Join(repo, "snapshots", "main", "onnx")
	write(t, filepath.Join(repo, "blobs", "5678"), externalModel("w.bin", "4"))
	write(t, filepath.Join(repo, "blobs", "bad"), externalModel("out.bin", "4"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	up := filepath.Join("..", "..", "..")
	for name, to := range map[string]string{
		"model.onnx": filepath.Join(up, "blobs", "5678"), "w.bin": filepath.Join(up, "blobs", "1234"),
		"bad.onnx": filepath.Join(up, "blobs", "bad"), "out.bin": filepath.Join(up, "..", "secret.bin"),
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(top, "short")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, ModelFile), filepath.Join(top, "short")} {
		m, err := Load(path, WithLinks())
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "data", tensor.View[float32](m.Graph.Initializers[0].Tensor), []float32{1, 2, 3, 4})
		m.Close()
		var ee *ExternalError
		if _, err := Load(path); !errors.As(err, &ee) {
			t.Errorf("without the option: %v", err)
		}
	}
	var ee *ExternalError
	if _, err := Load(filepath.Join(dir, "bad.onnx"), WithLinks()); !errors.As(err, &ee) {
		t.Errorf("a link out of the repository: %v", err)
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
	for _, dir := range testfiles.Exports(t) {
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
		dir := testfiles.Shared(b, "onnx", name)
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
