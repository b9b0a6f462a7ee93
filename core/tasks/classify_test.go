package tasks

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// lengths is a Sense of which a file is its length, and what it weighs.
type lengths struct{}

func (lengths) Prepare(file []byte) (Perceived, error) {
	if len(file) == 0 {
		return Perceived{}, errors.New("it is empty")
	}
	n := int64(len(file) / 10) // longer files have another shape
	return Perceived{map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, n + 1}, slices.Repeat([]float32{float32(len(file))}, int(n)+1)...)}, 100, 200}, nil
}

func (l lengths) Sample() (Perceived, error) { return l.Prepare([]byte{1}) }

// computed is a Runner that computes in Go.
type computed struct {
	f    func(in map[string]tensor.Tensor) map[string]tensor.Tensor
	runs []int64 // batches
}

func (c *computed) Run(_ context.Context, _ *route.Decision, in map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	given := map[string]tensor.Tensor{}
	for name, v := range in {
		given[name] = v.Tensor
		if name == "x" || name == "input_ids" {
			c.runs = append(c.runs, v.Tensor.Shape[0])
		}
	}
	out := graph.TensorData(c.f(given))
	for _, name := range wanted {
		if _, ok := out[name]; !ok {
			return nil, errors.New("there is no output " + name)
		}
	}
	return out, nil
}

func part(f func(in map[string]tensor.Tensor) map[string]tensor.Tensor, outputs ...string) (*Part, *computed) {
	r := &computed{f: f}
	return &Part{Runner: r, Feeds: func(in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) { return in, nil }, Outputs: outputs}, r
}

// letters encodes a text as its letters' numbers, and an end.
type letters struct{}

func (letters) Encode(text string, _ int) ([]int64, int, error) {
	var ids []int64
	for _, r := range text {
		ids = append(ids, int64(r))
	}
	return append(ids, 1), 0, nil
}

func floats(rows ...[]float32) tensor.Tensor {
	return tensor.Floats(tensor.Shape{int64(len(rows)), int64(len(rows[0]))}, slices.Concat(rows...)...)
}

func files(n ...int) []File {
	var out []File
	for _, k := range n {
		out = append(out, File{Data: make([]byte, k)})
	}
	return out
}

func names(list []Label) string {
	var s []string
	for _, l := range list {
		s = append(s, l.Name)
	}
	return strings.Join(s, " ")
}

func TestClassifyByClasses(t *testing.T) {
	own, runs := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		var rows [][]float32
		x := in["x"]
		for i := range x.Shape[0] {
			v := tensor.View[float32](x)[i*x.Shape[1]]
			rows = append(rows, []float32{0, v, 2})
		}
		return map[string]tensor.Tensor{"logits": floats(rows...)}
	}, "logits")
	c := &Classifier{Model: "m", Sense: lengths{}, Classes: []string{"a", "b", "c"}, Own: own}
	res, err := c.Classify(t.Context(), ClassifyRequest{Files: files(1, 3, 1, 12, 1, 1, 1, 1, 1, 1, 1, 1, 1), Top: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(res.Labels[0]) + ", " + names(res.Labels[1]) + ", " + names(res.Labels[3]); got != "c b, b c, b c" {
		t.Errorf("found %s", got)
	}
	want := math.Exp(2) / (1 + math.Exp(1) + math.Exp(2))
	if l := res.Labels[0][0]; math.Abs(float64(l.Score)-want) > 1e-6 || l.Index != 2 {
		t.Errorf("found %+v, wanted %v", l, want)
	}
	// Of one shape, at most eight together.
	if !slices.Equal(runs.runs, []int64{3, 1, 8, 1}) {
		t.Errorf("found batches of %v", runs.runs)
	}
}

// byTexts compares a file's length with the number of letters of a text.
func byTexts() *Classifier {
	seen, _ := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		x := in["x"]
		var rows [][]float32
		for i := range x.Shape[0] {
			rows = append(rows, []float32{tensor.View[float32](x)[i*x.Shape[1]], 1})
		}
		return map[string]tensor.Tensor{"image_embeds": floats(rows...)}
	}, "image_embeds")
	texts, _ := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		var rows [][]float32
		ids := in["input_ids"]
		mask, masked := in["attention_mask"]
		for b := range ids.Shape[0] {
			n := float32(0)
			for i := range ids.Shape[1] {
				at := b*ids.Shape[1] + i
				if masked && tensor.View[int64](mask)[at] == 1 || !masked && tensor.View[int64](ids)[at] != 9 {
					n++
				}
			}
			rows = append(rows, []float32{3, n})
		}
		return map[string]tensor.Tensor{"text_embeds": floats(rows...)}
	}, "text_embeds")
	match, _ := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		image, text := tensor.View[float32](in["image_embeds"]), in["text_embeds"]
		var row []float32
		for i := range text.Shape[0] {
			t := tensor.View[float32](text)[2*i:]
			row = append(row, -(image[0]-t[1])*(image[0]-t[1]))
		}
		return map[string]tensor.Tensor{"logits_per_image": floats(row)}
	}, "logits_per_image")
	return &Classifier{Model: "m", Sense: lengths{}, Seen: seen, Texts: texts, Match: match, Encoder: letters{}, Pad: 9, MaxTokens: 12, Template: "{}"}
}

func TestClassifyByTexts(t *testing.T) {
	c := byTexts()
	labels := []string{"one", "three", "elevenfold"}
	res, err := c.Classify(t.Context(), ClassifyRequest{Files: files(4, 6, 11), Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one three elevenfold", "three one elevenfold", "elevenfold three one"} {
		if got := names(res.Labels[i]); got != want {
			t.Errorf("%d: found %s, wanted %s", i, got, want)
		}
	}
	sum := float32(0)
	for _, l := range res.Labels[0] {
		sum += l.Score
	}
	if math.Abs(float64(sum)-1) > 1e-6 {
		t.Errorf("the scores are %v together", sum)
	}

	// A file may come as a URL.
	res, err = c.Classify(t.Context(), ClassifyRequest{Files: []File{{URL: "data:x/y;base64,AAAAAAA="}}, Labels: labels, Top: 1})
	if err != nil || res.Labels[0][0].Name != "three" && res.Labels[0][0].Name != "one" {
		t.Errorf("found %+v, %v", res.Labels, err)
	}

	// A template's letters count, two templates count as their mean.
	res, err = c.Classify(t.Context(), ClassifyRequest{Files: files(7), Labels: labels[:2], Templates: []string{"{}", "{}......"}, Top: 1})
	if err != nil || len(res.Labels[0]) != 1 || res.Labels[0][0].Name != "one" { // (4+10)/2 = 7
		t.Errorf("found %+v, %v", res.Labels, err)
	}

	// Without softmax a label stands for itself; texts of a fixed length have no mask.
	c.Independent, c.Fixed = true, 12
	res, err = c.Classify(t.Context(), ClassifyRequest{Files: files(4), Labels: []string{"one", "two"}})
	if err != nil || res.Labels[0][0].Score != 0.5 || res.Labels[0][1].Score != 0.5 || res.Labels[0][1].Index != 1 {
		t.Errorf("found %+v, %v", res.Labels, err)
	}
}

func TestClassifyErrors(t *testing.T) {
	own, _ := part(func(map[string]tensor.Tensor) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"logits": floats([]float32{float32(math.NaN())})}
	}, "logits")
	broken := &Classifier{Model: "m", Sense: lengths{}, Classes: []string{"a"}, Own: own}
	for _, c := range []struct {
		c    *Classifier
		req  ClassifyRequest
		want string
	}{
		{byTexts(), ClassifyRequest{}, "input: it holds no input"},
		{byTexts(), ClassifyRequest{Files: files(1)}, `labels: there are none, and model "m" has no classes of its own; give the labels`},
		{byTexts(), ClassifyRequest{Files: files(1), Top: -1}, "top: it is -1"},
		{byTexts(), ClassifyRequest{Files: files(1, 0), Labels: []string{"a"}}, "input[1]: it is empty"},
		{byTexts(), ClassifyRequest{Files: []File{{URL: "https://example.com/a.png"}}, Labels: []string{"a"}}, `input[0]: the URL does not begin with "data:"`},
		{byTexts(), ClassifyRequest{Files: []File{{URL: "data:image/png;base64,?"}}, Labels: []string{"a"}}, "input[0]: its base64 does not decode"},
		{byTexts(), ClassifyRequest{Files: files(1), Labels: []string{"a", " "}}, "labels[1]: it is empty"},
		{byTexts(), ClassifyRequest{Files: files(1), Labels: []string{"a"}, Templates: []string{"a photo"}}, `templates[0]: "a photo" has no place for a label`},
		{byTexts(), ClassifyRequest{Files: files(1), Labels: []string{"a long, long label"}}, "labels[0]: with its template it has 19 tokens, model \"m\" takes 12"},
		{byTexts(), ClassifyRequest{Files: files(1), Labels: make([]string, maxLabels+1)}, "labels: there are 4097"},
		{broken, ClassifyRequest{Files: files(1), Labels: []string{"a"}}, `labels: model "m" tells its own classes alone`},
		{broken, ClassifyRequest{Files: files(1), Templates: []string{"{}"}}, "templates: there are no labels"},
		{broken, ClassifyRequest{Files: files(1)}, "gave the logit NaN: its weights or its backend are damaged"},
	} {
		_, err := c.c.Classify(t.Context(), c.req)
		var e *InvalidInputError
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &e) == strings.Contains(c.want, "damaged") {
			t.Errorf("found %v, wanted %q", err, c.want)
		}
	}
}

func TestDetect(t *testing.T) {
	p, _ := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		n := in["x"].Shape[0]
		logits := slices.Repeat([]float32{0, 5, 0, 3, 0, 0, 0, 0, 9}, int(n))
		boxes := slices.Repeat([]float32{0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.5, 0.5, 0, 0, 0, 0}, int(n))
		return map[string]tensor.Tensor{"logits": tensor.Floats(tensor.Shape{n, 3, 3}, logits...), "pred_boxes": tensor.Floats(tensor.Shape{n, 3, 4}, boxes...)}
	}, "logits", "pred_boxes")
	d := &Detector{Model: "m", Sense: lengths{}, Classes: []string{"cat", "dog"}, Part: p}
	res, err := d.Detect(t.Context(), DetectRequest{Files: files(1, 2)})
	if err != nil || len(res.Pictures) != 2 || len(res.Pictures[1].Things) != 2 {
		t.Fatalf("found %+v, %v", res.Pictures, err)
	}
	first := res.Pictures[1].Things[0]
	if first.Name != "dog" || first.Label != 1 || first.Box != [4]float32{50, 25, 150, 75} || res.Pictures[0].Width != 200 {
		t.Errorf("found %+v", first)
	}
	low, high := 0.0, 0.95
	for _, c := range []struct {
		req  DetectRequest
		want int
	}{{DetectRequest{Threshold: &low}, 3}, {DetectRequest{Threshold: &high}, 1}, {DetectRequest{Threshold: &low, Most: 2}, 2}} {
		c.req.Files = files(1)
		res, err := d.Detect(t.Context(), c.req)
		if err != nil || len(res.Pictures[0].Things) != c.want {
			t.Errorf("found %+v, %v, wanted %d", res.Pictures, err, c.want)
		}
	}
	nan := math.NaN()
	for want, req := range map[string]DetectRequest{
		"input: it holds no input": {},
		"threshold: it is NaN":     {Files: files(1), Threshold: &nan},
		"max_detections: it is -1": {Files: files(1), Most: -1},
		"input[0]: it is empty":    {Files: files(0)},
	} {
		_, err := d.Detect(t.Context(), req)
		var e *InvalidInputError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("found %v, wanted %q", err, want)
		}
	}
}

func TestEmbedFiles(t *testing.T) {
	p, runs := part(func(in map[string]tensor.Tensor) map[string]tensor.Tensor {
		x := in["x"]
		var rows [][]float32
		for i := range x.Shape[0] {
			rows = append(rows, []float32{tensor.View[float32](x)[i*x.Shape[1]], 4})
		}
		return map[string]tensor.Tensor{"image_embeds": floats(rows...)}
	}, "image_embeds")
	e := &Embedder{Model: "m", Sense: lengths{}, Perceive: p, Hidden: 2, Normalize: true}
	res, err := e.Embed(t.Context(), EmbedRequest{Files: files(3, 5)})
	if err != nil || !slices.Equal(res.Vectors[0], []float32{3, 4}) || !slices.Equal(res.Vectors[1], []float32{5, 4}) || !slices.Equal(runs.runs, []int64{2}) {
		t.Errorf("found %v, %v", res.Vectors, err)
	}
	res, err = e.Embed(t.Context(), EmbedRequest{Files: files(3), Dimensions: 1})
	if err != nil || !slices.Equal(res.Vectors[0], []float32{1}) {
		t.Errorf("found %v, %v", res.Vectors, err)
	}
	for want, req := range map[string]EmbedRequest{
		"several kinds":               {Files: files(1), Texts: []string{"a"}},
		`model "m" takes no texts`:    {Texts: []string{"a"}},
		"input[1]: it is empty":       {Files: files(1, 0)},
		"dimensions: 3 was asked for": {Files: files(1), Dimensions: 3},
	} {
		if _, err := e.Embed(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("found %v, wanted %q", err, want)
		}
	}
	if _, err := (&Embedder{Model: "m"}).Embed(t.Context(), EmbedRequest{Files: files(1)}); err == nil || !strings.Contains(err.Error(), "takes texts alone") {
		t.Errorf("found %v", err)
	}
}
