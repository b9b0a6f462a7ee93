package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// ggufFile builds a file piece by piece, wrong ones too.
type ggufFile struct {
	version          uint32
	tensors, keys    uint64
	header, metadata []byte
	data             []byte
	align            int
}

func newGGUF() *ggufFile { return &ggufFile{version: 3, align: 32} }

func le[T any](v T) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func ggufText(s string) []byte { return append(le(uint64(len(s))), s...) }

// key adds a key with the bytes of its value.
func (f *ggufFile) key(name string, kind ggufKind, value []byte) *ggufFile {
	f.keys++
	f.metadata = append(append(append(f.metadata, ggufText(name)...), le(uint32(kind))...), value...)
	return f
}

func (f *ggufFile) array(name string, kind ggufKind, n int, values []byte) *ggufFile {
	return f.key(name, kindArray, append(append(le(uint32(kind)), le(uint64(n))...), values...))
}

// tensor adds a tensor of so many bytes behind those before.
func (f *ggufFile) tensor(name string, kind uint32, size int, shape ...uint64) *ggufFile {
	for len(f.data)%f.align != 0 {
		f.data = append(f.data, 0)
	}
	f.info(name, kind, uint64(len(f.data)), shape...)
	f.data = append(f.data, bytes.Repeat([]byte{byte(f.tensors)}, size)...)
	return f
}

func (f *ggufFile) info(name string, kind uint32, offset uint64, shape ...uint64) *ggufFile {
	f.tensors++
	f.header = append(append(f.header, ggufText(name)...), le(uint32(len(shape)))...)
	f.header = append(append(append(f.header, le(shape)...), le(kind)...), le(offset)...)
	return f
}

func (f *ggufFile) bytes() []byte {
	b := append([]byte("GGUF"), le(f.version)...)
	b = append(append(b, le(f.tensors)...), le(f.keys)...)
	b = append(append(b, f.metadata...), f.header...)
	for len(b)%f.align != 0 {
		b = append(b, 0)
	}
	return append(b, f.data...)
}

// ggufWhole is a file with a value of every kind.
func ggufWhole() *ggufFile {
	return newGGUF().
		key("general.architecture", kindString, ggufText("llama")).
		key("u8", kindUint8, []byte{200}).key("i8", kindInt8, []byte{0xff}).
		key("u16", kindUint16, le(uint16(60000))).key("i16", kindInt16, le(int16(-2))).
		key("u32", kindUint32, le(uint32(4e9))).key("i32", kindInt32, le(int32(-3))).
		key("u64", kindUint64, le(uint64(math.MaxUint64))).key("i64", kindInt64, le(int64(-4))).
		key("f32", kindFloat32, le(float32(1e-5))).key("f64", kindFloat64, le(0.1)).
		key("yes", kindBool, []byte{1}).
		array("words", kindString, 3, bytes.Join([][]byte{ggufText("a"), ggufText(""), ggufText("ü")}, nil)).
		array("numbers", kindInt32, 3, le([]int32{1, -2, 3})).
		array("factors", kindFloat32, 2, le([]float32{1, 0.1})).
		array("none", kindFloat32, 0, nil).
		tensor("norm", 0, 12, 3).
		tensor("q", 2, 4*18, 64, 2)
}

func TestGGUF(t *testing.T) {
	for _, version := range []uint32{2, 3} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		file := ggufWhole()
		file.version = version
		if err := os.WriteFile(path, file.bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := OpenGGUF(path)
		if err != nil {
			t.Fatal(err)
		}
		if g.Version != version || g.Path != path || !reflect.DeepEqual(g.Names(), []string{"norm", "q"}) {
			t.Errorf("found version %d of %s with %v", g.Version, g.Path, g.Names())
		}
		f := g.Fields()
		const low, high = math.MinInt64, math.MaxInt64
		got := []any{f.String("general.architecture"), f.Int("u8", low, high), f.Int("i8", low, high), f.Int("u16", low, high), f.Int("i16", low, high),
			f.Int("u32", low, high), f.Int("i32", low, high), f.Int("i64", low, high), f.Float("f32", 0, 1), f.Float("f64", 0, 1), f.BoolOr("yes", false),
			f.Strings("words"), f.Ints("numbers"), f.Floats("factors"), f.Floats("none"), f.IntOr("absent", 7, 0, 9), f.Strings("absent"),
			f.IsArray("words"), f.IsArray("u8"), f.Has("none"), f.Has("absent")}
		want := []any{"llama", int64(200), int64(-1), int64(60000), int64(-2), int64(4e9), int64(-3), int64(-4), 1e-5, 0.1, true,
			[]string{"a", "", "ü"}, []int64{1, -2, 3}, []float64{1, 0.1}, []float64{}, int64(7), []string(nil), true, false, true, false}
		if err := f.Err(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("found %v, %v, wanted %v", got, err, want)
		}
		q, ok := g.Tensor("q")
		if !ok || q.Type.Name != "Q4_0" || !q.Shape.Equal(tensor.Shape{2, 64}) || q.Length != 72 || q.Offset%32 != 0 {
			t.Errorf("found %+v", q)
		}
		if data, err := g.Data("q"); err != nil || !bytes.Equal(data, bytes.Repeat([]byte{2}, 72)) {
			t.Errorf("found %x, %v", data, err)
		}
		if _, err := g.Data("norn"); err == nil || !strings.Contains(err.Error(), "names alike: norm") {
			t.Errorf("found %v", err)
		}
		id, err := g.Identity()
		if err != nil || len(id) != 64 {
			t.Errorf("found identity %q, %v", id, err)
		}
		if err := errors.Join(g.Close(), g.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestGGUFValues: a value of another kind, or out of bounds, is refused and named.
func TestGGUFValues(t *testing.T) {
	file := ggufWhole().key("bad", kindString, ggufText("\xff")).array("worse", kindString, 1, ggufText("\xff")).array("huge", kindUint64, 1, le(uint64(1<<63)))
	g, err := ParseGGUF("m.gguf", file.bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		read func(GGUFFields)
		want string
	}{
		{func(f GGUFFields) { f.Int("u33", 0, 1) }, `u33: it is missing, wanted a whole number from 0 to 1 (there is "u32")`},
		{func(f GGUFFields) { f.Int("u8", 0, 100) }, "u8: found 200, wanted a whole number from 0 to 100"},
		{func(f GGUFFields) { f.Int("u64", 0, math.MaxInt64) }, "u64: found 18446744073709551615"},
		{func(f GGUFFields) { f.Int("f32", 0, 1) }, "f32: found a float32, wanted a whole number"},
		{func(f GGUFFields) { f.Int("numbers", 0, 1) }, "numbers: found an array of int32, wanted a whole number"},
		{func(f GGUFFields) { f.Float("f64", 1, 2) }, "f64: found 0.1, wanted a number from 1 to 2"},
		{func(f GGUFFields) { f.Float("u8", 1, 2) }, "u8: found a uint8"},
		{func(f GGUFFields) { f.BoolOr("u8", true) }, "u8: found a uint8, wanted true or false"},
		{func(f GGUFFields) { f.String("words") }, "words: found an array of string, wanted a string"},
		{func(f GGUFFields) { f.String("bad") }, `bad: found "\xff", wanted text in UTF-8`},
		{func(f GGUFFields) { f.Strings("worse") }, `worse[0]: found "\xff", wanted text in UTF-8`},
		{func(f GGUFFields) { f.Strings("numbers") }, "numbers: found an array of int32, wanted an array of strings"},
		{func(f GGUFFields) { f.Ints("words") }, "words: found an array of string"},
		{func(f GGUFFields) { f.Ints("huge") }, "huge[0]: found 9223372036854775808"},
		{func(f GGUFFields) { f.Floats("f32") }, "f32: found a float32, wanted an array of numbers"},
	} {
		f := g.Fields()
		tt.read(f)
		var e *Error
		if err := f.Err(); !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "m.gguf: "+tt.want) {
			t.Errorf("found %v, wanted %s", err, tt.want)
		}
	}
}

func TestHostileGGUF(t *testing.T) {
	file := func(do func(*ggufFile)) []byte {
		f := newGGUF()
		do(f)
		return f.bytes()
	}
	cut := func(n int) []byte { b := ggufWhole().bytes(); return b[:len(b)-n] }
	long := strings.Repeat("k", 1<<16)
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "does not begin with GGUF"},
		{"three bytes", []byte("GGU"), "does not begin with GGUF"},
		{"other file", []byte("PK\x03\x04"), "a zip archive"},
		{"pointer of Git LFS", []byte("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"},
		{"magic only", []byte("GGUF"), "version at byte 4 needs 4 bytes, but the file ends 0 bytes on"},
		{"version 1", file(func(f *ggufFile) { f.version = 1 }), "version: found 1, wanted 2 or 3"},
		{"version 4", file(func(f *ggufFile) { f.version = 4 }), "version: found 4"},
		{"big endian", file(func(f *ggufFile) { f.version = 3 << 24 }), "the file is big endian"},
		{"counts cut short", []byte("GGUF\x03\x00\x00\x00\x00"), "number of tensors at byte 8 needs 8 bytes"},
		{"tensors beyond the file", file(func(f *ggufFile) { f.tensors = 1 << 40 }), "the number of tensors is stated as 1099511627776, but there is room for 0"},
		{"keys beyond the file", file(func(f *ggufFile) { f.keys = math.MaxUint64 }), "the number of keys is stated as 18446744073709551615"},
		{"key of 64 KiB", file(func(f *ggufFile) { f.key(long, kindBool, []byte{1}) }), "the length of a key at byte 24 is stated as 65536, wanted at most 65535"},
		{"key without a name", file(func(f *ggufFile) { f.key("", kindUint64, le(uint64(1))) }), `is "", wanted text`},
		{"key no UTF-8", file(func(f *ggufFile) { f.key("\xff", kindUint64, le(uint64(1))) }), `"\xff", wanted text in UTF-8`},
		{"key twice", file(func(f *ggufFile) { f.key("a", kindBool, []byte{1}).key("a", kindBool, []byte{1}) }), "a: the key occurs twice"},
		{"kind not known", file(func(f *ggufFile) { f.key("a", 13, []byte{1}) }), "a: its type is number 13"},
		{"bool of 2", file(func(f *ggufFile) { f.key("a", kindBool, []byte{2}) }), "a: found 2, wanted 0 or 1"},
		{"string beyond the file", file(func(f *ggufFile) { f.key("a", kindString, le(uint64(1<<62))) }), "a at byte 45 needs 4611686018427387904 bytes"},
		{"string with all bits", file(func(f *ggufFile) { f.key("a", kindString, le(uint64(math.MaxUint64))) }), "needs 18446744073709551615 bytes"},
		{"array beyond the file", file(func(f *ggufFile) { f.array("a", kindUint64, 1<<60, nil) }), "the length of a is stated as 1152921504606846976"},
		{"array of strings beyond", file(func(f *ggufFile) { f.array("a", kindString, 1, le(uint64(99))) }), "a at byte"},
		{"array of arrays", file(func(f *ggufFile) { f.array("a", kindArray, 1, make([]byte, 12)) }), "a: it is an array of arrays"},
		{"array of nothing known", file(func(f *ggufFile) { f.array("a", 99, 1, make([]byte, 12)) }), "a: its type is number 99"},
		{"array of bools of 3", file(func(f *ggufFile) { f.array("a", kindBool, 2, []byte{1, 3}) }), "a: found 3, wanted 0 or 1"},
		{"alignment of 0", file(func(f *ggufFile) { f.key("general.alignment", kindUint32, le(uint32(0))) }), "general.alignment: found 0"},
		{"alignment of 24", file(func(f *ggufFile) { f.key("general.alignment", kindUint32, le(uint32(24))) }), "general.alignment: found 24, wanted a power of two"},
		{"alignment of 2 GiB", file(func(f *ggufFile) { f.key("general.alignment", kindUint32, le(uint32(1<<31))) }), "general.alignment: found 2147483648"},
		{"alignment no number", file(func(f *ggufFile) { f.key("general.alignment", kindString, ggufText("32")) }), "general.alignment: found a string"},
		{"tensor twice", file(func(f *ggufFile) { f.tensor("a", 0, 4, 1).tensor("a", 0, 4, 1) }), `tensor "a": it occurs twice`},
		{"tensor without dimensions", file(func(f *ggufFile) { f.tensor("a", 0, 4) }), `tensor "a": it has 0 dimensions`},
		{"five dimensions", file(func(f *ggufFile) { f.tensor("a", 0, 4, 1, 1, 1, 1, 1) }), "it has 5 dimensions, wanted 1 to 4"},
		{"four billion dimensions", file(func(f *ggufFile) {
			f.header = append(append(ggufText("a"), le(uint32(math.MaxUint32))...), make([]byte, 40)...)
			f.tensors = 1
		}), "it has 4294967295 dimensions"},
		{"dimension of 0", file(func(f *ggufFile) { f.tensor("a", 0, 4, 3, 0) }), "dimension 1 is stated as 0"},
		{"elements overflow", file(func(f *ggufFile) { f.tensor("a", 0, 4, 1<<32, 1<<32) }), "dimension 1 is stated as 4294967296"},
		{"elements overflow twice", file(func(f *ggufFile) { f.tensor("a", 0, 4, 1<<32, 1<<32, 1<<32, 1<<32) }), "dimension 1"},
		{"more elements than bytes", file(func(f *ggufFile) { f.tensor("a", 28, 4, 1<<56) }), "its 576460752303423488 bytes begin at byte 0 of the data, which has 4"},
		{"type not known", file(func(f *ggufFile) { f.tensor("a", 4, 4, 1) }), "its type is number 4"},
		{"row in parts of blocks", file(func(f *ggufFile) { f.tensor("a", 12, 144, 128, 2) }), "its rows have 128 elements, wanted whole blocks of 256, as Q4_K has them"},
		{"not aligned", file(func(f *ggufFile) { f.tensor("b", 0, 64, 16).info("a", 0, 16, 1) }), "begin at byte 16 of the data, wanted a multiple of 32"},
		{"offset overflow", file(func(f *ggufFile) { f.tensor("b", 0, 64, 16).info("a", 0, 1<<63, 1) }), "begin at byte 9223372036854775808"},
		{"beyond the file", file(func(f *ggufFile) { f.tensor("b", 0, 64, 16).info("a", 0, 64, 1) }), "its 4 bytes begin at byte 64 of the data, which has 64"},
		{"overlap", file(func(f *ggufFile) { f.tensor("b", 0, 64, 16).info("a", 0, 32, 8) }), "an overlap: it begins at byte"},
		{"same bytes twice", file(func(f *ggufFile) { f.tensor("b", 0, 64, 16).info("a", 0, 0, 16) }), "an overlap"},
		{"data cut short", cut(1), "which has 103"},
		{"data missing", cut(104), "which has 0"},
		{"one of a split", file(func(f *ggufFile) { f.key("split.count", kindUint16, le(uint16(2))) }), "split.count: it is one of 2 files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := ParseGGUF("m.gguf", tt.data)
			var e *Error
			if !errors.As(err, &e) || g != nil {
				t.Fatalf("found %v, wanted an *Error", err)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "m.gguf") {
				t.Errorf("error %q says nothing of %q", err, tt.want)
			}
		})
	}
	// Wherever the header ends too early, that is an error.
	b := ggufWhole().bytes()
	for n := range len(b) - 1 {
		if _, err := ParseGGUF("m.gguf", b[:n]); err == nil {
			t.Fatalf("%d bytes of %d were opened", n, len(b))
		}
	}
}

func TestSplitGGUF(t *testing.T) {
	part := func(no, count uint16, tensors ...string) string {
		f := newGGUF().key("split.no", kindUint16, le(no)).key("split.count", kindUint16, le(count)).key("split.tensors.count", kindInt32, le(int32(3)))
		if no == 0 {
			f.key("general.architecture", kindString, ggufText("llama"))
		}
		for i, name := range tensors {
			f.tensor(name, 0, 4*(i+1), uint64(i+1))
		}
		return string(f.bytes())
	}
	name := func(i, n int) string { return fmt.Sprintf("m-%05d-of-%05d.gguf", i, n) }
	whole := map[string]string{name(1, 2): part(0, 2, "a"), name(2, 2): part(1, 2, "b", "c")}
	for _, named := range []string{name(1, 2), name(2, 2)} {
		dir := t.TempDir()
		write(t, dir, whole)
		g, err := OpenGGUF(filepath.Join(dir, named))
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Names(); !reflect.DeepEqual(got, []string{"a", "b", "c"}) || filepath.Base(g.Path) != name(1, 2) {
			t.Errorf("found %v of %s", got, g.Path)
		}
		f := g.Fields()
		if got := f.String("general.architecture"); got != "llama" {
			t.Errorf("found %q, %v", got, f.Err())
		}
		if data, err := g.Data("c"); err != nil || !bytes.Equal(data, bytes.Repeat([]byte{2}, 8)) {
			t.Errorf("found %v, %v", data, err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	// In the hub's cache the parts are links to files that are named by their hash.
	dir := t.TempDir()
	write(t, dir, map[string]string{"z": whole[name(1, 2)], "a": whole[name(2, 2)]})
	for target, link := range map[string]string{"z": name(1, 2), "a": name(2, 2)} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := OpenGGUF(filepath.Join(dir, name(1, 2))); err != nil || len(g.Names()) != 3 {
		t.Errorf("through links: %v", err)
	} else if err := g.Close(); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		open  string
		want  string
	}{
		{"another name", map[string]string{"m.gguf": part(0, 2, "a")}, "m.gguf", "wanted a name that ends in -00001-of-00002.gguf"},
		{"another number", map[string]string{name(1, 3): part(0, 2, "a")}, name(1, 3), "-of-00002.gguf"},
		{"part missing", map[string]string{name(1, 2): part(0, 2, "a")}, name(1, 2), name(2, 2) + ": it does not exist"},
		{"part twice", map[string]string{name(1, 2): part(0, 2, "a"), name(2, 2): part(0, 2, "b")}, name(1, 2), "it says that it is number 0 of 2, wanted number 1 of 2"},
		{"part of another", map[string]string{name(1, 2): part(0, 2, "a"), name(2, 2): part(1, 3, "b")}, name(1, 2), "it says that it is number 1 of 3"},
		{"tensor twice", map[string]string{name(1, 2): part(0, 2, "a"), name(2, 2): part(1, 2, "a", "b")}, name(1, 2), `tensor "a": it is in ` + name(1, 2) + " too"},
		{"tensor missing", map[string]string{name(1, 2): part(0, 2, "a"), name(2, 2): part(1, 2, "b")}, name(1, 2), "split.tensors.count: there are 2 tensors, wanted 3"},
	} {
		dir := t.TempDir()
		write(t, dir, tt.files)
		_, err := OpenGGUF(filepath.Join(dir, tt.open))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: found %v, wanted %s", tt.name, err, tt.want)
		}
	}
}

func FuzzGGUF(f *testing.F) {
	f.Add(ggufWhole().bytes())
	f.Add(newGGUF().bytes())
	f.Add(newGGUF().key("general.alignment", kindUint32, le(uint32(1))).tensor("a", 30, 2, 1).bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := ParseGGUF("x", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		// Whatever opened can be read, to the last value and byte.
		total := 0
		for _, name := range g.Names() {
			b, err := g.Data(name)
			if err != nil {
				t.Fatal(err)
			}
			if info, ok := g.Tensor(name); !ok || int64(len(b)) != info.Length || info.Shape[len(info.Shape)-1]%info.Type.Block != 0 {
				t.Fatalf("tensor %q is %+v with %d bytes", name, info, len(b))
			}
			total += len(b)
		}
		if total > len(data) {
			t.Fatalf("the tensors have %d bytes, the file %d", total, len(data))
		}
		for _, key := range g.Fields().Keys() {
			f := g.Fields()
			f.StringOr(key, "")
			g.Fields().Strings(key)
			g.Fields().Ints(key)
			g.Fields().Floats(key)
			g.Fields().BoolOr(key, false)
			g.Fields().IntOr(key, 0, math.MinInt64, math.MaxInt64)
			g.Fields().FloatOr(key, 0, -1, 1)
		}
		if _, err := g.Identity(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOpenGGUF: a file, a folder with one, and a folder with the parts of one.
func TestOpenGGUF(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"m.gguf": string(ggufWhole().bytes()), "config.json": config})
	for _, path := range []string{dir, filepath.Join(dir, "m.gguf")} {
		c := open(t, path)
		if c.Kind != GGUFFile || c.Path != filepath.Join(dir, "m.gguf") || c.Dir != dir || c.Config != nil || len(c.Names()) != 0 {
			t.Errorf("found %+v", c)
		}
		id, err := c.Identity()
		want, err2 := c.GGUF.Identity()
		if err != nil || err2 != nil || id != want {
			t.Errorf("found identity %s, %v, %v, wanted %s", id, err, err2, want)
		}
	}
	split := t.TempDir()
	for i := range 2 {
		f := newGGUF().key("split.no", kindUint16, le(uint16(i))).key("split.count", kindUint16, le(uint16(2))).tensor(string(rune('a'+i)), 0, 4, 1)
		write(t, split, map[string]string{fmt.Sprintf("m-%05d-of-00002.gguf", i+1): string(f.bytes())})
	}
	if c := open(t, split); len(c.GGUF.Names()) != 2 {
		t.Errorf("found %v", c.GGUF.Names())
	}
}
