package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/tasks"
)

// sees is an engine that tells back what it was asked.
func sees(asked *tasks.ClassifyRequest, looked *tasks.DetectRequest) *fake {
	return &fake{
		classify: func(req tasks.ClassifyRequest) (tasks.ClassifyResult, error) {
			*asked = req
			res := tasks.ClassifyResult{Decision: decision()}
			for range req.Files {
				res.Labels = append(res.Labels, []tasks.Label{{Name: "cat", Index: 3, Score: 0.75}, {Name: "dog", Score: 0.25}})
			}
			return res, nil
		},
		detect: func(req tasks.DetectRequest) (tasks.DetectResult, error) {
			*looked = req
			res := tasks.DetectResult{Decision: decision()}
			for range req.Files {
				res.Pictures = append(res.Pictures, tasks.DetectedPicture{Height: 10, Width: 20, Things: []tasks.Thing{{Detection: pixels.Detection{Label: 1, Score: 0.5, Box: [4]float32{1, 2, 3, 4.5}}, Name: "dog"}}})
			}
			return res, nil
		},
	}
}

func ask(t *testing.T, h *harness, path, contentType, body string) (int, string, http.Header) {
	t.Helper()
	w := h.do(http.MethodPost, path, body, "Content-Type", contentType)
	return w.Code, w.Body.String(), w.Header()
}

func TestClassifyEndpoint(t *testing.T) {
	var asked tasks.ClassifyRequest
	var looked tasks.DetectRequest
	h := newServer(t, sees(&asked, &looked), nil)
	code, body, header := ask(t, h, "/v1/classify", "application/json",
		`{"model": "mini", "input": ["data:image/png;base64,AAAA", {"type": "image_url", "image_url": {"url": "https://x/y.png"}}], "labels": ["cat", "dog"], "templates": ["a {}"], "top": 2}`)
	want := `{"object":"list","model":"mini","data":[{"object":"classification","index":0,"labels":[{"label":"cat","index":3,"score":0.75},{"label":"dog","index":0,"score":0.25}]},{"object":"classification","index":1,`
	if code != 200 || !strings.HasPrefix(body, want) || header.Get("X-Accel-Platform") == "" {
		t.Errorf("found %d %s %v", code, body, header)
	}
	if len(asked.Files) != 2 || asked.Files[0].URL != "data:image/png;base64,AAAA" || asked.Files[1].URL != "https://x/y.png" || strings.Join(asked.Labels, "|") != "cat|dog" || asked.Templates[0] != "a {}" || asked.Top != 2 {
		t.Errorf("asked %+v", asked)
	}
	code, body, _ = ask(t, h, "/v1/classify", "application/json", `{"model": "mini", "input": {"type": "input_audio", "input_audio": {"data": "AQID", "format": "wav"}}}`)
	if code != 200 || string(asked.Files[0].Data) != "\x01\x02\x03" {
		t.Errorf("found %d %s, asked %+v", code, body, asked)
	}
}

func TestDetectEndpoint(t *testing.T) {
	var asked tasks.ClassifyRequest
	var looked tasks.DetectRequest
	h := newServer(t, sees(&asked, &looked), nil)
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	for name, value := range map[string]string{"model": "mini", "threshold": "0.25", "max_detections": "7"} {
		if err := form.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	f, err := form.CreateFormFile("file", "cat.png")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("png")); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	code, body, _ := ask(t, h, "/v1/detect", form.FormDataContentType(), b.String())
	want := `{"object":"list","model":"mini","data":[{"object":"detections","index":0,"width":20,"height":10,"detections":[{"label":"dog","index":1,"score":0.5,"box":{"xmin":1,"ymin":2,"xmax":3,"ymax":4.5}}]}]}`
	if code != 200 || strings.TrimSpace(body) != want {
		t.Errorf("found %d %s", code, body)
	}
	if string(looked.Files[0].Data) != "png" || looked.Threshold == nil || *looked.Threshold != 0.25 || looked.Most != 7 {
		t.Errorf("asked %+v", looked)
	}
	code, body, _ = ask(t, h, "/v1/detect", "application/json", `{"model": "mini", "input": "data:,", "threshold": null}`)
	if code != 200 || looked.Threshold != nil {
		t.Errorf("found %d %s, asked %+v", code, body, looked)
	}
}

func TestPerceiveErrors(t *testing.T) {
	var asked tasks.ClassifyRequest
	var looked tasks.DetectRequest
	h := newServer(t, sees(&asked, &looked), func(c *config.Server) { c.MaxInputs = 2 })
	for _, c := range []struct{ path, kind, body, want string }{
		{"/v1/classify", "", `{"model": "mini"}`, "input: it is missing"},
		{"/v1/classify", "", `{"input": "data:,"}`, "model: it is missing"},
		{"/v1/classify", "", `{"model": "mini", "input": [1]}`, "input[0]: want a URL"},
		{"/v1/classify", "", `{"model": "mini", "input": [""]}`, "input[0]: want a URL"},
		{"/v1/classify", "", `{"model": "mini", "input": {"image_url": "a", "image": "b"}}`, "input: want a URL"},
		{"/v1/classify", "", `{"model": "mini", "input": {"picture": "a"}}`, `unknown field \"picture\"`},
		{"/v1/classify", "", `{"model": "mini", "input": {"input_audio": {"data": "?"}}}`, "is not base64"},
		{"/v1/classify", "", `{"model": "mini", "input": ["a", "b", "c"]}`, "input: it has more than 2 entries"},
		{"/v1/classify", "", `{"model": "mini", "input": "a", "labels": "cat"}`, "labels: want a list of strings, found a string"},
		{"/v1/classify", "", `{"model": "mini", "input": "a", "treshold": 1}`, `unknown field \"treshold\"`},
		{"/v1/detect", "", `{"model": "mini", "input": "a", "threshold": "high"}`, "threshold: want a number, found a string"},
		{"/v1/detect", "multipart/form-data; boundary=x", "--x\r\nbroken", "the form is malformed"},
		{"/v1/detect", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"a\"\r\n\r\na\r\n--x--\r\n", `\"picture\" is a file; files are called file`},
		{"/v1/detect", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"size\"\r\n\r\na\r\n--x--\r\n", `unknown field \"size\"`},
	} {
		code, body, _ := ask(t, h, c.path, c.kind, c.body)
		if code != http.StatusBadRequest || !strings.Contains(body, c.want) {
			t.Errorf("%s: found %d %s, wanted %q", c.body, code, body, c.want)
		}
	}
	code, body, _ := ask(t, newServer(t, &fake{}, nil), "/v1/detect", "", `{"model": "mini", "input": "a"}`)
	if code/100 != 4 || !strings.Contains(body, "does not detect") {
		t.Errorf("found %d %s", code, body)
	}
}

func TestEmbeddingsOfFiles(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	for body, want := range map[string]string{
		`{"model": "mini", "input": {"image_url": {"url": "data:,xy"}}}`:           `"embedding":[0,8]`,
		`{"model": "mini", "input": [{"image": "data:,"}, {"image_url": "http"}]}`: `"embedding":[1,4]`,
		`{"model": "mini", "input": [{"image": "data:,"}, "text"]}`:                "input[1]: a string among files; send them apart",
		`{"model": "mini", "input": ["text", {"image": "data:,"}]}`:                "input[1]: an object among entries of the other kind",
		`{"model": "mini", "input": [{"image": 5}]}`:                               "input[0]: want a URL",
	} {
		if _, got, _ := ask(t, h, "/v1/embeddings", "", body); !strings.Contains(got, want) {
			t.Errorf("%s: found %s, wanted %q", body, got, want)
		}
	}
}

// FuzzFiles: a body is refused as a *problem, or gives a model and at least one file.
func FuzzFiles(f *testing.F) {
	f.Add("application/json", []byte(`{"model": "m", "input": ["data:,", {"type": "image_url", "image_url": {"url": "a"}}, {"input_audio": {"data": "AAAA"}}], "threshold": 0.5}`))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\na\r\n--x--\r\n"))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"threshold\"\r\n\r\n1e9\r\n--x--"))
	s := &Server{config: config.Default().Server}
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := &http.Request{Header: http.Header{"Content-Type": {kind}}}
		req, err := s.readFiles(r, body, detectFields, func(_ string, value json.RawMessage) error {
			var v any
			return json.Unmarshal(value, &v)
		})
		var p *problem
		switch {
		case err != nil && !errors.As(err, &p):
			t.Fatalf("%T: %v", err, err)
		case err == nil && (req.model == "" || len(req.files) == 0):
			t.Fatalf("found %+v", req)
		}
	})
}
