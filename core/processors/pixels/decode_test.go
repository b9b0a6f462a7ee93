package pixels

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// expected are what testdata/generate.py recorded.
func expected(t testing.TB) map[string]tensor.Tensor {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(filepath.Join("testdata", "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	all := map[string]tensor.Tensor{}
	for _, name := range f.Names() {
		if all[name], err = f.Tensor(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "pictures", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// differ is the largest difference of two lists of bytes.
func differ(a, b []byte) int {
	worst := 0
	for i := range a {
		worst = max(worst, max(int(a[i])-int(b[i]), int(b[i])-int(a[i])))
	}
	return worst
}

func TestDecode(t *testing.T) {
	tested := 0
	for name, want := range expected(t) {
		if strings.HasPrefix(name, "resize.") {
			continue
		}
		tested++
		t.Run(name, func(t *testing.T) {
			frames, err := Frames(file(t, name), 0, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(frames)) != want.Shape[0] {
				t.Fatalf("found %d frames, wanted %d", len(frames), want.Shape[0])
			}
			most := 0
			switch filepath.Ext(name) {
			case ".jpg":
				most = 3
			}
			size := len(want.Data) / len(frames)
			for i, p := range frames {
				if err := p.Check(); err != nil || int64(p.Height) != want.Shape[1] || int64(p.Width) != want.Shape[2] {
					t.Fatalf("frame %d is %dx%d, wanted %v: %v", i, p.Width, p.Height, want.Shape, err)
				}
				if d := differ(p.Pix, want.Data[i*size:(i+1)*size]); d > most {
					t.Errorf("frame %d differs by %d", i, d)
				}
			}
			first, err := Decode(file(t, name), Limits{})
			if err != nil || filepath.Ext(name) == ".gif" && !slices.Equal(first.Pix, frames[0].Pix) {
				t.Errorf("Decode: %v", err)
			}
		})
	}
	if tested < 30 {
		t.Errorf("%d files were tested", tested)
	}
}

func TestResize(t *testing.T) {
	all := expected(t)
	in := all["resize.in"]
	p := Picture{int(in.Shape[1]), int(in.Shape[0]), in.Data}
	tested := 0
	for name, want := range all {
		parts := strings.Split(name, ".")
		if parts[0] != "resize" || len(parts) != 4 {
			continue
		}
		tested++
		by := map[string]Variant{"pil": PIL, "torchvision": Torchvision}[parts[1]]
		filter := Filter(parts[2][0] - '0')
		got := p.resized(int(want.Shape[1]), int(want.Shape[0]), filter, by)
		if !bytes.Equal(got.Pix, want.Data) {
			t.Errorf("%s, %s: off by %d", name, filter, differ(got.Pix, want.Data))
		}
	}
	if tested != 60 {
		t.Errorf("%d sizes and filters were tested", tested)
	}
}

func TestDecodeErrors(t *testing.T) {
	png := file(t, "rgb.png")
	huge := bytes.Clone(png)
	binary.BigEndian.PutUint32(huge[16:], 1<<30)
	for _, c := range []struct {
		name  string
		data  []byte
		limit Limits
		want  string
	}{
		{"nothing", nil, Limits{}, "its format is not known, wanted PNG, JPEG, WebP, GIF or BMP"},
		{"text", []byte("hello"), Limits{}, "its format is not known"},
		{"cut PNG", png[:200], Limits{}, "PNG picture: it is damaged"},
		{"cut header", png[:20], Limits{}, "PNG picture: its header is damaged"},
		{"huge", huge, Limits{}, "header is damaged"},
		{"too many pixels", png, Limits{Pixels: 390}, "PNG picture: it is 23x17, wanted 1 to 390 pixels"},
		{"too many bytes", png, Limits{Bytes: 100}, "bytes, wanted at most 100"},
		{"cut JPEG", file(t, "420.jpg")[:300], Limits{}, "JPEG picture: it"},
		{"cut GIF", file(t, "moving.gif")[:60], Limits{}, "GIF picture: it"},
		{"many frames", file(t, "moving.gif"), Limits{Frames: 4}, "GIF picture: it has 5 frames, wanted at most 4"},
		{"many frames of PNG", file(t, "moving_over.png"), Limits{Frames: 4}, "PNG picture: it has more than 4 frames"},
		{"many pixels in frames", file(t, "moving_over.png"), Limits{Pixels: 3 * W * H}, "at most 1173 pixels in all frames"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Frames(c.data, 0, c.limit)
			var e *DecodeError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || p != nil {
				t.Errorf("found %v, wanted %q", err, c.want)
			}
		})
	}
}

// W and H are the size of most pictures in testdata.
const W, H = 23, 17

func TestSample(t *testing.T) {
	list := []int{0, 1, 2, 3, 4, 5, 6, 7, 8}
	for n, want := range map[int][]int{0: list, 1: {4}, 2: {0, 8}, 3: {0, 4, 8}, 5: {0, 2, 4, 6, 8}, 4: {0, 3, 5, 8}} {
		if got := sample(list, n); !slices.Equal(got, want) {
			t.Errorf("%d: found %v, wanted %v", n, got, want)
		}
	}
	if got := sample([]int{7, 9}, 4); !slices.Equal(got, []int{7, 7, 9, 9}) {
		t.Errorf("found %v", got)
	}
}

func TestFolderFrames(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"rgb.png", "grey.png", "palette.png"} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.png", i)), file(t, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	frames, err := FolderFrames(dir, 2, Limits{})
	if err != nil || len(frames) != 2 {
		t.Fatalf("found %d frames, %v", len(frames), err)
	}
	last, err := Decode(file(t, "palette.png"), Limits{})
	if err != nil || !bytes.Equal(frames[1].Pix, last.Pix) {
		t.Errorf("the last frame is another: %v", err)
	}
	if _, err := FolderFrames(t.TempDir(), 2, Limits{}); err == nil || !strings.Contains(err.Error(), "has 0 files") {
		t.Errorf("found %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "99.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FolderFrames(dir, 2, Limits{}); err == nil || !strings.Contains(err.Error(), "99.txt") {
		t.Errorf("found %v", err)
	}
}
