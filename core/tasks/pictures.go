package tasks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// Eyes make pictures rows that a decoder reads in its prompt.
type Eyes interface {
	// Token stands for a picture in a prompt of one token, and for each of its rows in what is run.
	Token() int64
	// Look decodes a picture's file and makes it what the model takes; nothing is run yet. Its
	// error says what is wrong with the picture.
	Look(data []byte) (Sight, error)
}

// Sight is a picture that was looked at.
type Sight interface {
	Rows() int // that it has in the prompt
	// Hash is that of what the model takes: pictures that are seen alike share their pages.
	Hash() [32]byte
	// See has the rows computed, [Rows, width], and writes into d where.
	See(ctx context.Context, d *route.Decision) ([]float32, error)
}

// Fetcher gets what a URL leads to, within the bounds that were configured.
type Fetcher interface {
	Fetch(ctx context.Context, url string) ([]byte, error)
}

// dataScheme begins the URLs that carry their content (RFC 2397).
const dataScheme = "data:"

// pictureTypes are the parts of messages that are pictures, by their type, and where their URL
// is: OpenAI's chat completions, its responses, and transformers' own.
var pictureTypes = map[string]func(json.RawMessage) (string, error){
	"image_url": func(raw json.RawMessage) (string, error) {
		var p struct {
			ImageURL json.RawMessage `json:"image_url"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || len(p.ImageURL) == 0 {
			return "", fmt.Errorf("it has no image_url")
		}
		var url string
		if p.ImageURL[0] == '"' {
			return url, json.Unmarshal(p.ImageURL, &url)
		}
		var in struct {
			URL string `json:"url"`
		}
		err := json.Unmarshal(p.ImageURL, &in)
		return in.URL, err
	},
	"input_image": func(raw json.RawMessage) (string, error) {
		var p struct {
			ImageURL string `json:"image_url"`
		}
		err := json.Unmarshal(raw, &p)
		return p.ImageURL, err
	},
	"image": func(raw json.RawMessage) (string, error) {
		var p struct{ URL, Image string }
		err := json.Unmarshal(raw, &p)
		if p.URL == "" {
			p.URL = p.Image
		}
		return p.URL, err
	},
}

// pictured is a conversation as a template sees it, and the URLs of its pictures in their order.
func pictured(messages []processors.Message) ([]processors.Message, []string, error) {
	var urls []string
	out := append([]processors.Message(nil), messages...)
	for i, m := range messages {
		if m.Content == nil {
			continue
		}
		var parts []processors.Part
		for j, p := range m.Content.Parts {
			if p.Type == "text" {
				parts = append(parts, p)
				continue
			}
			at := func(problem string) error {
				return &InvalidInputError{Field: fmt.Sprintf("messages[%d].content[%d]", i, j), Input: -1, Problem: problem}
			}
			read, known := pictureTypes[p.Type]
			if !known {
				return nil, nil, at(fmt.Sprintf("a part of type %q; texts and pictures (image_url) are taken", p.Type))
			}
			url, err := read(p.JSON)
			if err != nil || url == "" {
				return nil, nil, at("the picture has no URL")
			}
			urls = append(urls, url)
			parts = append(parts, processors.Part{Type: "image", JSON: json.RawMessage(`{"type":"image"}`)})
		}
		if parts != nil {
			content := *m.Content
			content.Parts = parts
			out[i].Content = &content
		}
	}
	return out, urls, nil
}

// fetch gets what a URL leads to; f nil: nothing but what URLs carry themselves.
func fetch(ctx context.Context, f Fetcher, url string) ([]byte, error) {
	if !strings.HasPrefix(url, dataScheme) {
		if f == nil {
			return nil, fmt.Errorf("the URL does not begin with %q, and files are not fetched from elsewhere", dataScheme)
		}
		return f.Fetch(ctx, url)
	}
	meta, data, ok := strings.Cut(url[len(dataScheme):], ",")
	if !ok || !strings.HasSuffix(meta, ";base64") {
		return nil, fmt.Errorf("the URL is not of the form data:TYPE;base64,DATA")
	}
	file, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, fmt.Errorf("its base64 does not decode: %w", err)
	}
	return file, nil
}

// look gets the pictures of a prompt and looks at them. A prompt's tokens have one for each picture;
// what is returned has one for each of their rows.
func (g *Completer) look(ctx context.Context, ids []int64, urls []string) ([]int64, []Sight, error) {
	invalid := func(i int, err error) error {
		return &InvalidInputError{Field: "messages", Input: -1, Problem: fmt.Sprintf("picture %d: %v", i+1, err)}
	}
	if len(urls) == 0 {
		if g.Eyes == nil {
			return ids, nil, nil
		}
		for _, id := range ids {
			if id == g.Eyes.Token() {
				return nil, nil, &InvalidInputError{Field: "messages", Input: -1, Problem: fmt.Sprintf("token %d stands for a picture, and there is none", id),
					Remedy: "give the picture as a part of type image_url"}
			}
		}
		return ids, nil, nil
	}
	if g.Eyes == nil {
		return nil, nil, &InvalidInputError{Field: "messages", Input: -1, Problem: fmt.Sprintf("there are %d pictures; model %q reads text only", len(urls), g.Model)}
	}
	var places []int
	for i, id := range ids {
		if id == g.Eyes.Token() {
			places = append(places, i)
		}
	}
	if len(places) != len(urls) {
		return nil, nil, &InvalidInputError{Field: "messages", Input: -1,
			Problem: fmt.Sprintf("there are %d pictures, and the prompt that the chat template makes has places for %d", len(urls), len(places))}
	}
	out := make([]int64, 0, len(ids))
	sights := make([]Sight, len(urls))
	from := 0
	for i, url := range urls {
		file, err := fetch(ctx, g.Fetcher, url)
		if err != nil {
			return nil, nil, invalid(i, err)
		}
		if sights[i], err = g.Eyes.Look(file); err != nil {
			return nil, nil, invalid(i, err)
		}
		out = append(out, ids[from:places[i]]...)
		for range sights[i].Rows() {
			out = append(out, g.Eyes.Token())
		}
		from = places[i] + 1
	}
	return append(out, ids[from:]...), sights, nil
}

// see has the rows of pictures computed for their places in a prompt.
func (g *Completer) see(ctx context.Context, d *[]route.Decision, ids []int64, sights []Sight) ([]schedule.Embed, error) {
	var embeds []schedule.Embed
	at := 0
	for _, s := range sights {
		for ids[at] != g.Eyes.Token() {
			at++
		}
		var where route.Decision
		rows, err := s.See(ctx, &where)
		if err != nil {
			return nil, err
		}
		*d = append(*d, where)
		embeds = append(embeds, schedule.Embed{At: at, Rows: rows, Hash: s.Hash()})
		at += s.Rows()
	}
	return embeds, nil
}
