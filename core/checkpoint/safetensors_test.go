package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// raw is a file with the given header and so many zero bytes of data.
func raw(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func length(n uint64, rest string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), rest...)
}

func TestHostileSafetensors(t *testing.T) {
	one := func(dtype, shape, offsets string) string {
		return `{"a":{"dtype":` + dtype + `,"shape":` + shape + `,"data_offsets":` + offsets + `}}`
	}
	two := func(a, b string) string {
		return `{"a":{"dtype":"U8","shape":[4],"data_offsets":` + a + `},"b":{"dtype":"U8","shape":[4],"data_offsets":` + b + `}}`
	}
	cases := []struct {
		name string
		data []byte
		want string // in the error
	}{
		{"empty", nil, "the file has 0 bytes"},
		{"seven bytes", []byte("1234567"), "the file has 7 bytes"},
		{"header beyond file", length(100, "{}"), "stated to end at byte 108, but the file ends at byte 10"},
		{"header of 10 GB", length(10<<30, "{}"), "stated as 10737418240 bytes, wanted at most 100000000"},
		{"header length with all bits", length(1<<64-1, "{}"), "18446744073709551615 bytes"},
		{"no header", raw("", 0), "not a JSON object"},
		{"text", raw("hello world", 0), "not a JSON object"},
		{"not UTF-8", raw("{\"\xff\":1}", 0), "not a JSON object in UTF-8"},
		{"array", raw("[]", 0), "not a JSON object"},
		{"cut short", raw(`{"a":{"dtype":"U8"`, 0), "it ends at byte 18, wanted '}'"},
		{"cut short in a string", raw(`{"a`, 0), "the string at byte 1 has no end"},
		{"cut short in an escape", raw(`{"a\`, 0), "the string at byte 1 has no end"},
		{"line feed in a string", raw("{\"a\n\":1}", 0), "wanted the rest of a string"},
		{"unknown escape", raw(`{"\q":1}`, 0), "the string at byte 1: invalid character"},
		{"no colon", raw(`{"a" {}}`, 0), "found { at byte 5, wanted ':'"},
		{"no comma", raw(`{"__metadata__":{} "b":{}}`, 0), "wanted '}'"},
		{"comma too many", raw(`{"__metadata__":{},}`, 0), "found } at byte 19, wanted a string"},
		{"text after object", raw("{}x", 0), "found x at byte 2, wanted nothing after the object"},
		{"padded with zeros", raw("{}\x00\x00", 0), "wanted nothing after the object"},
		{"tensor twice", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), `"a" occurs twice`},
		{"escaped twin", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), `"a" occurs twice`},
		{"field twice", raw(`{"a":{"dtype":"U8","dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 0), `"dtype" occurs twice`},
		{"metadata twice", raw(`{"__metadata__":{"x":"1","x":"2"}}`, 0), `"x" occurs twice`},
		{"metadata no strings", raw(`{"__metadata__":{"x":1}}`, 0), "found 1 at byte 21, wanted a string"},
		{"unknown field", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"compressed":true}}`, 0), `field "compressed" is not known`},
		{"unknown type", raw(one(`"F7"`, "[4]", "[0,4]"), 4), `dtype "F7" is not known`},
		{"type no string", raw(one("7", "[4]", "[0,4]"), 4), "dtype: found 7 at byte 14, wanted a string"},
		{"dtype missing", raw(`{"a":{"shape":[4],"data_offsets":[0,4]}}`, 4), "dtype is missing"},
		{"shape missing", raw(`{"a":{"dtype":"U8","data_offsets":[0,4]}}`, 4), "shape is missing"},
		{"offsets missing", raw(`{"a":{"dtype":"U8","shape":[4]}}`, 4), "data_offsets is missing"},
		{"negative dimension", raw(one(`"U8"`, "[-4]", "[0,4]"), 4), "shape: found -4"},
		{"fractional dimension", raw(one(`"U8"`, "[4.0]", "[0,4]"), 4), "shape: found 4.0"},
		{"nested shape", raw(one(`"U8"`, "[[4]]", "[0,4]"), 4), "shape: found [4 at byte 28, wanted a whole number"},
		{"leading zero", raw(one(`"U8"`, "[04]", "[0,4]"), 4), "shape: found 04"},
		{"empty element", raw(one(`"U8"`, "[4,]", "[0,4]"), 4), "shape: found ] at byte"},
		{"no number", raw(one(`"U8"`, "[null]", "[0,4]"), 4), "shape: found null"},
		{"digits without end", raw(one(`"U8"`, "["+strings.Repeat("1", 1000)+"]", "[0,4]"), 4), "shape: found 1111"},
		{"rank beyond limit", raw(one(`"U8"`, "["+strings.Repeat("1,", 64)+"1]", "[0,1]"), 1), "more than 64 numbers"},
		{"elements overflow", raw(one(`"U8"`, "[4294967296,4294967296]", "[0,0]"), 0), "more elements than an int64"},
		{"bytes overflow", raw(one(`"F64"`, "[2305843009213693952]", "[0,0]"), 0), "found 0 bytes"},
		{"offset overflow", raw(one(`"U8"`, "[1]", "[9223372036854775807,9223372036854775807]"), 1), "wanted a range"},
		{"offset beyond int64", raw(one(`"U8"`, "[1]", "[0,18446744073709551615]"), 1), "wanted a whole number"},
		{"negative offset", raw(one(`"U8"`, "[1]", "[-1,0]"), 1), "found -1"},
		{"offsets swapped", raw(one(`"U8"`, "[4]", "[4,0]"), 4), "wanted a range"},
		{"one offset", raw(one(`"U8"`, "[4]", "[0]"), 4), "found 1 numbers"},
		{"three offsets", raw(one(`"U8"`, "[4]", "[0,2,4]"), 4), "more than 2 numbers"},
		{"length and shape differ", raw(one(`"F32"`, "[4]", "[0,4]"), 4), "found 4 bytes for F32[4]"},
		{"half a byte", raw(one(`"F4"`, "[3]", "[0,2]"), 2), "found 2 bytes for F4[3]"},
		{"beyond the file", raw(one(`"U8"`, "[4]", "[0,4]"), 3), "but the file at byte"},
		{"bytes left over", raw(one(`"U8"`, "[4]", "[0,4]"), 6), "2 bytes follow the last tensor"},
		{"hole at the start", raw(one(`"U8"`, "[4]", "[4,8]"), 8), "a hole"},
		{"hole", raw(two("[0,4]", "[6,10]"), 10), "a hole"},
		{"overlap", raw(two("[0,4]", "[2,6]"), 6), "an overlap"},
		{"same bytes twice", raw(two("[0,4]", "[0,4]"), 4), "an overlap"},
		{"pickle", []byte("\x80\x02}q\x00."), "convert the model to safetensors"},
		{"zip", []byte("PK\x03\x04aaaaaaaa"), "convert the model to safetensors"},
		{"pointer of Git LFS", []byte("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"},
		{"web page", []byte("<!DOCTYPE html><html></html>"), "HTML page"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.safetensors")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := OpenSafetensors(path)
			var e *Error
			if !errors.As(err, &e) || s != nil {
				t.Fatalf("found %v, wanted an *Error", err)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "model.safetensors") {
				t.Errorf("error %q says nothing of %q", err, c.want)
			}
		})
	}
}

func TestSafetensorsRoundTrip(t *testing.T) {
	want := map[string]tensor.Tensor{
		"empty":  {DType: tensor.Float32, Shape: tensor.Shape{0, 3}},
		"scalar": tensor.Ints(nil, 7),
		"f32":    tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4),
		"bf16":   tensor.Of(tensor.BFloat16, tensor.Shape{3}, []uint16{1, 2, 3}),
		"f8":     tensor.Of(tensor.Float8E4M3, tensor.Shape{3}, []uint8{1, 2, 3}),
		"f4":     tensor.Of(tensor.Float4E2M1, tensor.Shape{2, 2}, []uint8{0x12, 0x34}),
		"c64":    tensor.Of(tensor.Complex64, tensor.Shape{1}, []complex64{1i}),
		`"odd"`:  tensor.Of(tensor.Bool, tensor.Shape{1}, []bool{true}),
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteSafetensors(f, want, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Names()) != len(want) || s.Metadata["format"] != "pt" {
		t.Errorf("found tensors %v and metadata %v", s.Names(), s.Metadata)
	}
	for name, w := range want {
		got, err := s.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if got.DType != w.DType || !got.Shape.Equal(w.Shape) || !bytes.Equal(got.Data, w.Data) {
			t.Errorf("%s: found %v, wanted %v", name, got, w)
		}
		e, _ := s.Entry(name)
		if len(w.Data) > 0 && s.header%dataAlign != 0 {
			t.Errorf("%s lies at byte %d of the file", name, e.Offset)
		}
	}
	if _, err := s.Tensor("f31"); err == nil || !strings.Contains(err.Error(), "names alike: f32") {
		t.Errorf("unknown tensor: found %v, wanted an error that names f32", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestSafetensorsSixBits(t *testing.T) {
	s, err := ParseSafetensors("x", raw(`{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}`, 3))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := s.Entry("a"); e.Stored != "F6_E2M3" || e.DType != tensor.Undefined || e.Length != 3 {
		t.Errorf("found %+v", e)
	}
	if _, err := s.Tensor("a"); err == nil || !strings.Contains(err.Error(), "F6_E2M3") {
		t.Errorf("found %v, wanted an error that names the type", err)
	}
}

// TestSafetensorsLikeAPickle: a header of 640 bytes makes a file begin as a pickle
// does.
func TestSafetensorsLikeAPickle(t *testing.T) {
	header := `{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`
	data := raw(header+strings.Repeat(" ", 640-len(header)), 0)
	if !bytes.HasPrefix(data, []byte("\x80\x02")) {
		t.Fatal("the file does not begin as a pickle")
	}
	if _, err := ParseSafetensors("x", data); err != nil {
		t.Error(err)
	}
}

func TestWriteSafetensorsRefuses(t *testing.T) {
	cases := map[string]struct {
		name string
		t    tensor.Tensor
	}{
		"reserved name":  {"__metadata__", tensor.Floats(nil, 1)},
		"no UTF-8":       {"\xff", tensor.Floats(nil, 1)},
		"strings":        {"a", tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{0}}},
		"type not there": {"a", tensor.Of(tensor.Int4, tensor.Shape{2}, []uint8{1})},
		"half a byte":    {"a", tensor.Of(tensor.Float4E2M1, tensor.Shape{3}, []uint8{1, 2})},
		"data too short": {"a", tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{2}, Data: make([]byte, 4)}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := WriteSafetensors(&b, map[string]tensor.Tensor{c.name: c.t}, nil); err == nil {
				t.Error("found no error")
			}
			if b.Len() != 0 {
				t.Errorf("%d bytes were written", b.Len())
			}
		})
	}
}

func FuzzSafetensors(f *testing.F) {
	var b bytes.Buffer
	err := WriteSafetensors(&b, map[string]tensor.Tensor{"a": tensor.Floats(tensor.Shape{2}, 1, 2), "b": tensor.Ints(nil, 1)}, map[string]string{"k": "v"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(raw(`{"a":{"dtype":"F4","shape":[2,0],"data_offsets":[0,0]},"b":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]}}`, 3))
	f.Add(raw("{}  ", 0))
	f.Add(length(1<<63, "{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSafetensors("x", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		// What opened tiles the file, and survives being written again.
		total := s.header
		tensors := map[string]tensor.Tensor{}
		for _, name := range s.Names() {
			e, ok := s.Entry(name)
			if !ok {
				t.Fatalf("no entry %q", name)
			}
			total += e.Length
			v, err := s.Tensor(name)
			if err != nil {
				continue // six bits
			}
			if err := v.Check(); err != nil {
				t.Fatal(err)
			}
			tensors[name] = v
		}
		if total != int64(len(data)) {
			t.Fatalf("the tensors fill %d bytes of %d", total, len(data))
		}
		var b bytes.Buffer
		if err := WriteSafetensors(&b, tensors, s.Metadata); err != nil {
			t.Fatal(err)
		}
		again, err := ParseSafetensors("y", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.Metadata, s.Metadata) || len(again.Names()) != len(tensors) {
			t.Fatalf("found %v, wanted %v", again.Names(), s.Names())
		}
		for name, v := range tensors {
			if w, err := again.Tensor(name); err != nil || w.DType != v.DType || !w.Shape.Equal(v.Shape) || !bytes.Equal(w.Data, v.Data) {
				t.Fatalf("%q came back as %v, %v", name, w, err)
			}
		}
	})
}
