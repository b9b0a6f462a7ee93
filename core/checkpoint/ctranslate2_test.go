package checkpoint

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

func ct2Text(s string) []byte { return append(append(le(uint16(len(s)+1)), s...), 0) }

// ct2Variable is a variable as the file has it.
func ct2Variable(name string, kind uint8, data []byte, shape ...uint32) []byte {
	b := append(ct2Text(name), uint8(len(shape)))
	for _, n := range shape {
		b = append(b, le(n)...)
	}
	return append(append(append(b, kind), le(uint32(len(data)))...), data...)
}

func ct2Model(version uint32, variables [][]byte, aliases ...string) []byte {
	b := append(append(le(version), ct2Text("TestSpec")...), le(uint32(3))...)
	b = append(b, le(uint32(len(variables)))...)
	for _, v := range variables {
		b = append(b, v...)
	}
	b = append(b, le(uint32(len(aliases)/2))...)
	for _, a := range aliases {
		b = append(b, ct2Text(a)...)
	}
	return b
}

func TestCT2(t *testing.T) {
	numbers := append(le(float32(1.5)), le(float32(-2))...)
	c, err := ParseCT2("model.bin", ct2Model(6, [][]byte{
		ct2Variable("a/weight", 0, numbers, 1, 2), ct2Variable("a/heads", 2, le(int16(8))), ct2Variable("b", 1, []byte{1, 2, 3}, 3),
	}, "c", "a/weight"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Spec != "TestSpec" || c.Revision != 3 || strings.Join(c.Names(), " ") != "a/heads a/weight b c" {
		t.Errorf("found %s revision %d with %v", c.Spec, c.Revision, c.Names())
	}
	for _, name := range []string{"a/weight", "c"} {
		x, ok := c.Tensor(name)
		data, err := c.Data(name)
		if !ok || err != nil || x.DType != tensor.Float32 || !x.Shape.Equal(tensor.Shape{1, 2}) || string(data) != string(numbers) {
			t.Errorf("%s: found %+v %v, %v", name, x, data, err)
		}
	}
	if data, err := c.Data("a/heads"); err != nil || binary.LittleEndian.Uint16(data) != 8 {
		t.Errorf("found %v, %v", data, err)
	}
	if _, err := c.Data("a/weigth"); err == nil || !strings.Contains(err.Error(), "a/weight") {
		t.Errorf("found %v, wanted a name alike", err)
	}
}

func TestCT2Refused(t *testing.T) {
	good := ct2Model(6, [][]byte{ct2Variable("a", 1, []byte{1, 2}, 2)}, "c", "a")
	for _, c := range []struct {
		data []byte
		want string
	}{
		{nil, "the version"},
		{ct2Model(4, nil), "version 4"},
		{good[:len(good)-1], "file ends"},
		{append(good[:len(good):len(good)], 7), "1 bytes behind the last variable"},
		{ct2Model(6, [][]byte{ct2Variable("a", 9, []byte{1, 2}, 2)}), "type 9"},
		{ct2Model(6, [][]byte{ct2Variable("a", 1, []byte{1, 2}, 3)}), "2 bytes"},
		{ct2Model(6, [][]byte{ct2Variable("a", 0, []byte{1, 2, 3, 4}, 1<<31, 1<<31, 1<<31)}), "variable a"},
		{ct2Model(6, [][]byte{ct2Variable("a", 1, nil, 1, 1, 1, 1, 1, 1, 1, 1, 0)}), "9 dimensions"},
		{ct2Model(6, [][]byte{ct2Variable("a", 1, []byte{1}, 1), ct2Variable("a", 1, []byte{1}, 1)}), "twice"},
		{ct2Model(6, [][]byte{ct2Variable("a", 1, []byte{1}, 1)}, "a", "a"), "alias a"},
		{ct2Model(6, nil, "b", "a"), "alias b"},
		{append(append(le(uint32(6)), ct2Text("S")...), append(le(uint32(1)), le(uint32(1<<31))...)...), "there is room for"},
		{append(le(uint32(6)), []byte{3, 0, 'a', 0xff, 0}...), "text in UTF-8"},
	} {
		_, err := ParseCT2("model.bin", c.data)
		var e *Error
		if !errors.As(err, &e) || e.File != "model.bin" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("found %v, wanted %q", err, c.want)
		}
	}
}

func FuzzCT2(f *testing.F) {
	f.Add(ct2Model(6, [][]byte{ct2Variable("a/weight", 4, []byte{1, 2, 3, 4}, 1, 2), ct2Variable("n", 2, le(int16(8)))}, "c", "n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCT2("model.bin", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%v is no *Error", err)
			}
			return
		}
		for _, name := range c.Names() {
			x, _ := c.Tensor(name)
			data, err := c.Data(name)
			if size, sizeErr := tensor.ByteSize(x.DType, x.Shape); err != nil || sizeErr != nil || size != int64(len(data)) {
				t.Errorf("%s: %d bytes for %+v, %v, %v", name, len(data), x, err, sizeErr)
			}
		}
	})
}
