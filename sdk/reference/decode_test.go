package reference

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func decodePicture(data []byte, format string) (tensor.Tensor, error) {
	x := tensor.Tensor{DType: tensor.Uint8, Shape: tensor.Shape{int64(len(data))}, Data: data}
	out, err := evalOp(graph.DomainONNX, "ImageDecoder", values(x), 1, graph.StringAttr("pixel_format", format))
	if err != nil {
		return tensor.Tensor{}, err
	}
	return out[0].Tensor, nil
}

func TestPortableMaps(t *testing.T) {
	for _, c := range []struct {
		data string
		want []byte // RGB of 2 pixels, one row
	}{
		{"P1\n# black, white\n2 1\n10", []byte{0, 0, 0, 255, 255, 255}},
		{"P2 2 1 3 1 2", []byte{85, 85, 85, 170, 170, 170}},
		{"P3 2 1 255 1 2 3  4 5 6\n", []byte{1, 2, 3, 4, 5, 6}},
		{"P4\n2 1\n\x80", []byte{0, 0, 0, 255, 255, 255}},
		{"P5\n2 1\n65535\n\x00\x00\x80\x80", []byte{0, 0, 0, 128, 128, 128}},
		{"P6\n2 1 # a picture\n255\n\x01\x02\x03\x04\x05\x06", []byte{1, 2, 3, 4, 5, 6}},
	} {
		got, err := decodePicture([]byte(c.data), "RGB")
		if err != nil || !got.Shape.Equal(tensor.Shape{1, 2, 3}) || !bytes.Equal(got.Data, c.want) {
			t.Errorf("%q: %v %v, %v", c.data, got.Shape, got.Data, err)
		}
	}
}

// What can't be decoded is an empty picture, as ONNX says; what is too large or of a
// format that is known but not read is an error.
func TestBrokenPictures(t *testing.T) {
	for _, data := range []string{"", "no picture", "P6\n2 1\n255\n\x01", "P6\n-2 1", "P5 2 1 0 00", "\x89PNG\r\n\x1a\nxxxx", "\xff\xd8\xff", "BM", "II*\x00", "RIFF....WEBPVP8 "} {
		got, err := decodePicture([]byte(data), "Grayscale")
		if err != nil || !got.Shape.Equal(tensor.Shape{0, 0, 1}) {
			t.Errorf("%q: %v, %v", data, got.Shape, err)
		}
	}
	var m *MemoryError
	if _, err := decodePicture([]byte("P6 1000000 1000000 255 x"), "RGB"); !errors.As(err, &m) {
		t.Errorf("a picture of a million squared: %v", err)
	}
	if _, err := decodePicture([]byte("\xff\x4f\xff\x51\x00"), "RGB"); err == nil || !strings.Contains(err.Error(), "JPEG 2000") {
		t.Errorf("JPEG 2000: %v", err)
	}
}

// Colour that was sampled at every other place comes back where it was, whatever
// the size of the picture.
func TestUpsampling(t *testing.T) {
	for w := 1; w <= 9; w++ {
		for h := 1; h <= 5; h++ {
			m := image.NewNRGBA(image.Rect(0, 0, w, h))
			for y := range h {
				for x := range w {
					m.SetNRGBA(x, y, color.NRGBA{uint8(40 + 12*x), uint8(60 + 10*y), 100, 255})
				}
			}
			var b bytes.Buffer
			if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 100}); err != nil {
				t.Fatal(err)
			}
			got, err := decodePicture(b.Bytes(), "RGB")
			if err != nil || !got.Shape.Equal(tensor.Shape{int64(h), int64(w), 3}) {
				t.Fatalf("%d by %d: %v, %v", w, h, got.Shape, err)
			}
			for i := range w * h {
				p := m.NRGBAAt(i%w, i/w)
				for k, v := range []uint8{p.R, p.G, p.B} {
					if d := int(got.Data[i*3+k]) - int(v); d < -12 || d > 12 {
						t.Fatalf("%d by %d, pixel %d: %v, want %v", w, h, i, got.Data[i*3:i*3+3], p)
					}
				}
			}
		}
	}
}

// One row of light and colour by hand: libjpeg's and libwebp's rules.
func TestUpsamplingRules(t *testing.T) {
	near, far := []uint8{0, 100, 200}, []uint8{40, 40, 40}
	for _, c := range []struct {
		name string
		f    func(dst, near, far []uint8, half int)
		half int
		want []uint8
	}{
		{"across", jpegAcross, 0, []uint8{0, 25, 75, 125, 175, 200}},
		{"down, upper", jpegDown, 0, []uint8{10, 85, 160}},
		{"down, lower", jpegDown, 1, []uint8{10, 85, 160}},
		{"both", jpegBoth, 0, []uint8{10, 29, 66, 104, 141, 160}},
		{"four", webpBoth, 0, []uint8{10, 29, 66, 104, 141, 160}},
	} {
		dst := make([]uint8, len(c.want)+1)
		c.f(dst, near, far, c.half)
		if !bytes.Equal(dst[:len(c.want)], c.want) {
			t.Errorf("%s: %v, want %v", c.name, dst[:len(c.want)], c.want)
		}
	}
}
