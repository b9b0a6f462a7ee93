package tasks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
)

// testEyes see a picture as as many rows as its file has bytes, of one number each.
type testEyes struct{ token int64 }

func (e testEyes) Token() int64 { return e.token }

func (e testEyes) Look(data []byte) (Sight, error) {
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	return testSight(data), nil
}

type testSight []byte

func (s testSight) Rows() int      { return len(s) }
func (s testSight) Hash() [32]byte { return [32]byte{s[0]} }
func (s testSight) See(_ context.Context, d *route.Decision) ([]float32, error) {
	d.First, d.Chosen = "cuda", route.Choice{Platform: "cpu", Device: "cpu:0"}
	d.Component, d.Refused = "see", []route.Refusal{{Platform: "cuda", Reason: "no device"}}
	var rows []float32
	for _, b := range s {
		rows = append(rows, float32(b))
	}
	return rows, nil
}

type testFetcher map[string]string

func (f testFetcher) Fetch(_ context.Context, url string) ([]byte, error) {
	if data, ok := f[url]; ok {
		return []byte(data), nil
	}
	return nil, fmt.Errorf("%s is not there", url)
}

func picturesCompleter(t *testing.T) *Completer {
	t.Helper()
	c := testCompleter(t, "bpe_llama2_llava", "yes", []int64{1})
	dir := filepath.Join("..", "..", "..", "shared", "tiny", "llava")
	template, err := processors.OpenTemplate(dir)
	if err != nil {
		t.Skipf("the shared test data is not there: %v", err)
	}
	token, ok := c.Tokenizer.TokenToID("<image>")
	if !ok {
		t.Fatal("the tokenizer has no token for pictures")
	}
	c.Template, c.Eyes = template, testEyes{token}
	return c
}

func messages(t *testing.T, parts string) []processors.Message {
	t.Helper()
	var m []processors.Message
	if err := json.Unmarshal([]byte(`[{"role":"user","content":`+parts+`}]`), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func dataURL(data string) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString([]byte(data))
}

// Each picture of a conversation takes as many places as it has rows, in its order.
func TestPicturesInPrompt(t *testing.T) {
	c := picturesCompleter(t)
	c.Fetcher = testFetcher{"http://pictures/b": "bb"}
	plain, err := c.prompt(t.Context(), &GenerateRequest{Messages: messages(t, `[{"type":"text","text":"What is it?"}]`)})
	if err != nil || len(plain.sights) != 0 {
		t.Fatal(plain, err)
	}
	p, err := c.prompt(t.Context(), &GenerateRequest{Messages: messages(t, `[{"type":"image_url","image_url":{"url":"`+dataURL("aaa")+`"}},
		{"type":"text","text":"What is it?"},{"type":"image","url":"http://pictures/b"}]`)})
	if err != nil {
		t.Fatal(err)
	}
	var d []route.Decision
	embeds, err := c.see(t.Context(), &d, p.tokens, p.sights)
	if err != nil || len(embeds) != 2 || len(d) != 2 {
		t.Fatal(embeds, d, err)
	}
	token := c.Eyes.Token()
	count := 0
	for _, id := range p.tokens {
		if id == token {
			count++
		}
	}
	if count != 5 || !slices.Equal(embeds[0].Rows, []float32{'a', 'a', 'a'}) || !slices.Equal(embeds[1].Rows, []float32{'b', 'b'}) || embeds[0].Hash == embeds[1].Hash {
		t.Errorf("%d places in %v for %+v", count, p.tokens, embeds)
	}
	for _, e := range embeds {
		for i := range e.Rows {
			if p.tokens[e.At+i] != token {
				t.Errorf("row %d of the run at %d stands at token %d", i, e.At, p.tokens[e.At+i])
			}
		}
	}
	whole := route.Decision{First: "cpu", Chosen: route.Choice{Platform: "cpu", Device: "cpu:0"}, Parts: d}
	if !whole.Fallback() || !strings.Contains(whole.Summary(), "see: cpu:0 answered instead of cuda") {
		t.Errorf("a picture that was seen elsewhere is not told of: %q", whole.Summary())
	}
}

func TestPicturesRefused(t *testing.T) {
	c := picturesCompleter(t)
	blind := picturesCompleter(t)
	blind.Eyes = nil
	for _, x := range []struct {
		c           *Completer
		parts, want string
	}{
		{blind, `[{"type":"image_url","image_url":"` + dataURL("a") + `"}]`, "reads text only"},
		{c, `[{"type":"image_url","image_url":{}}]`, "the picture has no URL"},
		{c, `[{"type":"input_audio","input_audio":{}}]`, `a part of type "input_audio"`},
		{c, `[{"type":"image_url","image_url":"` + dataURL("") + `"}]`, "picture 1: it is empty"},
		{c, `[{"type":"image_url","image_url":"data:image/png;base64,%%"}]`, "base64"},
		{c, `[{"type":"image_url","image_url":"data:image/png,abc"}]`, "data:TYPE;base64,DATA"},
		{c, `[{"type":"image_url","image_url":"http://elsewhere/x.png"}]`, "not fetched from elsewhere"},
		{c, `[{"type":"text","text":"an <image> of words"}]`, "stands for a picture, and there is none"},
		{c, `[{"type":"text","text":"<image>"},{"type":"image_url","image_url":"` + dataURL("a") + `"}]`, "places for 2"},
	} {
		_, err := x.c.prompt(t.Context(), &GenerateRequest{Messages: messages(t, x.parts)})
		var e *InvalidInputError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: found %v, wanted %q", x.parts, err, x.want)
		}
	}
}
