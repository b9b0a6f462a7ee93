package processors

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
)

// TestComponents compares each component by itself with what the Hugging Face library makes of it: see testdata/components.py.
func TestComponents(t *testing.T) {
	data, err := os.ReadFile("testdata/components.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name      string
		Source    string // the tokenizer whose model it is, but for what is given
		Tokenizer map[string]any
		Texts     []struct {
			Text    string
			IDs     []int64
			Offsets []int
			Decoded *string
		}
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 100 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			if c.Source != "" {
				model := readModel(t, c.Source)
				maps.Copy(model, c.Tokenizer["model"].(map[string]any))
				c.Tokenizer["model"] = model
			}
			tok, err := openTokenizer(fstest.MapFS{tokenizerFile: {Data: marshal(c.Tokenizer)}})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.Texts {
				e, err := tok.Encode(want.Text, EncodeOptions{NoSpecial: true})
				if err != nil {
					t.Errorf("%+q: %v", want.Text, err)
					continue
				}
				offsets := []int{}
				for _, o := range e.Offsets {
					offsets = append(offsets, o.Start, o.End)
				}
				if !slices.Equal(e.IDs, want.IDs) || !slices.Equal(offsets, want.Offsets) {
					t.Errorf("%+q:\nids  %v\nwant %v\noffsets %v\nwant    %v", want.Text, e.IDs, want.IDs, offsets, want.Offsets)
				}
				if want.Decoded == nil {
					continue
				}
				if got, err := tok.Decode(want.IDs, false); err != nil || got != *want.Decoded {
					t.Errorf("%v decoded: %+q, want %+q; error %v", want.IDs, got, *want.Decoded, err)
				}
				checkStream(t, tok, want.IDs, false)
			}
		})
	}
}

// readModel reads the model of one of the golden tokenizers.
func readModel(t testing.TB, name string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tokenizersDir, name, tokenizerFile))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Model map[string]any }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Model
}
