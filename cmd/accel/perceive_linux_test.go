package main_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/processors/pixels"
)

func tinyModel(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "testdata", "tiny", name))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// perceived is what `accel run --json` says of the tasks classify and detect.
type perceived struct {
	Files []struct {
		File   string
		Labels []struct {
			Label string
			Index int
			Score float64
		}
		Width, Height int
		Detections    []struct {
			Label string
			Index int
			Score float64
			Box   [4]float64
		}
		Picture string
	}
}

// alike reports whether two numbers are as near as float32 and another order of sums let
// them be.
func alike(a, b float64) bool { return math.Abs(a-b) <= 1e-4*max(1, math.Abs(b)) }

// TestRunPerceives: what transformers 5.23 makes of the same pictures by the same
// models.
func TestRunPerceives(t *testing.T) {
	found := t.TempDir()
	status, out, errs := accel(t, ".", "run", tinyModel(t, "detr"), "--task", "detect", "--inputs", filepath.Join(tinyModel(t, "detr"), "a.png"),
		"--threshold", "0.2", "--max-detections", "2", "--pictures", found, "--json")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	var p perceived
	if err := json.Unmarshal([]byte(out), &p); err != nil || len(p.Files) != 1 || len(p.Files[0].Detections) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	f := p.Files[0]
	for i, want := range [][5]float64{{0.35308, 53.9782, 18.8469, 55.3288, 68.9670}, {0.35303, 53.9234, 19.0092, 55.2279, 69.1356}} {
		d := f.Detections[i]
		if !alike(d.Score, want[0]) || d.Index != 4 || d.Label != "LABEL_4" || !alike(d.Box[0], want[1]) || !alike(d.Box[1], want[2]) || !alike(d.Box[2], want[3]) || !alike(d.Box[3], want[4]) {
			t.Errorf("found %+v, wanted %v", d, want)
		}
	}
	drawn, err := pixels.File(f.Picture, pixels.Limits{})
	if err != nil || f.Width != 97 || f.Height != 64 || drawn.Width != 97 || drawn.Height != 64 {
		t.Errorf("found %+v, %v", f, err)
	}
	before, err := pixels.File(f.File, pixels.Limits{})
	if err != nil || bytes.Equal(before.Pix, drawn.Pix) {
		t.Errorf("nothing is drawn: %v", err)
	}

	status, out, errs = accel(t, ".", "run", tinyModel(t, "clip"), "--task", "classify", "--inputs", filepath.Join(tinyModel(t, "clip"), "a.png"),
		"--label", "a cat", "--label", "a dog", "--json", "--platform", "simulation")
	p = perceived{}
	if err := json.Unmarshal([]byte(out), &p); status != 0 || err != nil {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
	}
	if l := p.Files[0].Labels; len(l) != 2 || l[0].Label != "a cat" || !alike(l[0].Score, 0.5553) || !alike(l[1].Score, 0.4447) {
		t.Errorf("found %+v", l)
	}

	frames := t.TempDir()
	for i, name := range []string{"a.png", "b.png"} {
		data, err := os.ReadFile(filepath.Join(tinyModel(t, "xclip"), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(frames, string(rune('0'+i))+".png"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{"xclip", "--task", "classify", "--frames", frames, "--label", "running", "--label", "standing", "--top", "1"}, 0, []string{frames, "0.", "1 file in"}},
		{[]string{"vit", "--task", "classify", "--inputs", frames, "--top", "2", "--format", "jsonl"}, 0, []string{`0.png","labels":[{"label":"LABEL_1","index":1,"score":0.512`, `1.png","labels":[{"label":"LABEL_1","index":1,"score":0.604`}},
		{[]string{"vit", "--task", "classify", "--frames", frames}, 2, []string{"input[0]: it is a folder of frames, and the model sees no videos"}},
		{[]string{"vit", "--task", "classify", "--inputs", frames, "--label", "cat"}, 2, []string{`labels: model "vit" tells its own classes alone`}},
		{[]string{"vit", "--task", "detect", "--inputs", frames}, 1, []string{`model "vit", of class "vit", does not detect: it can classify, embed`}},
		{[]string{"clip", "--task", "classify", "--inputs", frames}, 2, []string{"labels: there are none"}},
		{[]string{"clip", "--task", "classify", "--inputs", filepath.Join(tinyModel(t, "clip"), "config.json"), "--label", "x"}, 2, []string{"input[0]: picture: its format is not known"}},
		{[]string{"detr", "--task", "detect", "--inputs", frames, "--label", "x"}, 2, []string{"request.labels: the task detect has no such field"}},
		{[]string{"detr", "--task", "detect"}, 2, []string{"inputs: there is no file"}},
		{[]string{"detr", "--task", "detect", "--inputs", "nowhere"}, 2, []string{"inputs.file: stat nowhere"}},
		{[]string{"detr", "--task", "detect", "--inputs", frames, "--threshold", "2"}, 2, []string{"threshold: it is 2"}},
	} {
		args := append([]string{"run", tinyModel(t, c.args[0])}, c.args[1:]...)
		status, out, errs := accel(t, ".", args...)
		if status != c.status {
			t.Errorf("%v: status %d: %s%s", c.args, status, out, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%v: found %s%s, wanted %q", c.args, out, errs, want)
			}
		}
	}
	for _, file := range []string{"../../configs/classify.yaml", "../../configs/detect.yaml"} {
		if status, out, errs := accel(t, ".", "run", file); status != 0 || !strings.Contains(out, "start included") {
			t.Errorf("%s: status %d: %s%s", file, status, out, errs)
		}
	}
}

// TestServePerceives asks a server in the ways that people do.
func TestServePerceives(t *testing.T) {
	models := map[string]any{}
	for _, name := range []string{"vit", "clip", "detr"} {
		models[name] = map[string]any{"path": tinyModel(t, name)}
	}
	s := serve(t, map[string]any{"models": models})
	picture, err := os.ReadFile(filepath.Join(tinyModel(t, "vit"), "a.png"))
	if err != nil {
		t.Fatal(err)
	}
	post := func(path string, fields map[string]string) map[string]any {
		var b bytes.Buffer
		form := multipart.NewWriter(&b)
		for name, value := range fields {
			if err := form.WriteField(name, value); err != nil {
				t.Fatal(err)
			}
		}
		f, err := form.CreateFormFile("file", "a.png")
		if err == nil {
			_, err = f.Write(picture)
		}
		if err == nil {
			err = form.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(s.url+path, form.FormDataContentType(), &b)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		var out map[string]any
		if err != nil || json.Unmarshal(data, &out) != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s, %v", path, res.StatusCode, data, err)
		}
		if res.Header.Get("X-Accel-Platform") != "cpu" {
			t.Errorf("%s: found the headers %v", path, res.Header)
		}
		return out["data"].([]any)[0].(map[string]any)
	}
	first := func(entry map[string]any, list string) map[string]any {
		return entry[list].([]any)[0].(map[string]any)
	}
	if l := first(post("/v1/classify", map[string]string{"model": "clip", "labels": "a cat\na dog"}), "labels"); l["label"] != "a cat" || !alike(l["score"].(float64), 0.5553) {
		t.Errorf("found %v", l)
	}
	if l := first(post("/v1/classify", map[string]string{"model": "vit", "top": "1"}), "labels"); l["label"] != "LABEL_1" || !alike(l["score"].(float64), 0.51205) {
		t.Errorf("found %v", l)
	}
	if d := first(post("/v1/detect", map[string]string{"model": "detr", "threshold": "0.2"}), "detections"); d["label"] != "LABEL_4" || !alike(d["box"].(map[string]any)["xmin"].(float64), 53.9782) {
		t.Errorf("found %v", d)
	}
}
