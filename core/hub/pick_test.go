package hub

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	for text, want := range map[string]Ref{
		"org/name":                       {"org/name", "main", ""},
		"hub:org/name":                   {"org/name", "main", ""},
		"gpt2":                           {"gpt2", "main", ""},
		"org/na.me-v2_x@v1.0":            {"org/na.me-v2_x", "v1.0", ""},
		"org/name@refs/pr/1:Q4_K_M":      {"org/name", "refs/pr/1", "Q4_K_M"},
		"org/name:model.Q8_0.gguf":       {"org/name", "main", "model.Q8_0.gguf"},
		"o/n@" + strings.Repeat("a", 40): {"o/n", strings.Repeat("a", 40), ""},
	} {
		got, err := ParseRef(text)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
		if again, err := ParseRef(got.String()); err != nil || again != got {
			t.Errorf("%q: %q is read as %+v, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{"", "hub:", "a/b/c", "/a", "a/", "..", "../x", "a/..", "a--b/c", "a/b--c", "-a/b", "a/b.", "a\\b", "a b", "a/b@", "a/b@..", "a/b@x/../y",
		"a/b@/x", "a/b@-x", "a/b@x y", "a/b:", "a/b:../x", "a/b:x/y", "a/b:\x00", "a/" + strings.Repeat("n", 97), "a/b@x:y:z"} {
		var re *RefError
		if got, err := ParseRef(text); !errors.As(err, &re) {
			t.Errorf("%q was taken as %+v, %v", text, got, err)
		}
	}
}

func TestPick(t *testing.T) {
	const text = "config.json tokenizer.json tokenizer_config.json"
	for _, x := range []struct {
		name  string
		files string // that there are, of 10 bytes each
		ref   string
		want  Selection
		takes string // without the text above; "+" first: with it
		entry string
		err   string // part of it
	}{
		{name: "one file", files: text + " model.safetensors pytorch_model.bin README.md .gitattributes onnx/model.onnx", takes: "+ model.safetensors"},
		{name: "sharded", files: text + " model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json consolidated.safetensors original/x.safetensors",
			takes: "+ model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json"},
		{name: "sharded and whole", files: text + " model-00001-of-00001.safetensors model.safetensors.index.json model.safetensors", takes: "+ model.safetensors"},
		{name: "sentence-transformers", files: text + " model.safetensors modules.json 1_Pooling/config.json config_sentence_transformers.json sentence_bert_config.json openvino/config.json 1_Pooling/notes.md",
			takes: "+ 1_Pooling/config.json config_sentence_transformers.json model.safetensors modules.json sentence_bert_config.json"},
		{name: "its transformer in a folder", files: "modules.json 0_Transformer/config.json 0_Transformer/model.safetensors 0_Transformer/tokenizer.json 1_Pooling/config.json",
			takes: "0_Transformer/config.json 0_Transformer/model.safetensors 0_Transformer/tokenizer.json 1_Pooling/config.json modules.json"},
		{name: "templates", files: "config.json model.safetensors chat_template.jinja additional_chat_templates/tools.jinja additional_chat_templates/x.py",
			takes: "additional_chat_templates/tools.jinja chat_template.jinja config.json model.safetensors"},
		{name: "one GGUF", files: "config.json m-Q4_0.gguf mmproj-m.gguf README.md", takes: "m-Q4_0.gguf", entry: "m-Q4_0.gguf"},
		{name: "several GGUF", files: "m-Q4_0.gguf m-Q8_0.gguf", err: "o/n has several GGUF files; name one, as o/n:VARIANT or by --file PATTERN:\n        10 B  m-Q4_0.gguf\n        10 B  m-Q8_0.gguf"},
		{name: "a variant", files: "m-Q4_K_M.gguf m-Q4_K.gguf m-IQ4_K_M.gguf", ref: "o/n:q4_k_m", takes: "m-Q4_K_M.gguf", entry: "m-Q4_K_M.gguf"},
		{name: "a variant after a dot", files: "m.Q4_0.gguf m.Q8_0.gguf", ref: "o/n:Q8_0", takes: "m.Q8_0.gguf", entry: "m.Q8_0.gguf"},
		{name: "a variant's whole name", files: "m-Q8_0.gguf m-UD-Q8_0.gguf", ref: "o/n:m-Q8_0", takes: "m-Q8_0.gguf", entry: "m-Q8_0.gguf"},
		{name: "a variant that fits two", files: "m-Q8_0.gguf m-UD-Q8_0.gguf", ref: "o/n:Q8_0", err: `"Q8_0" fits several GGUF files`},
		{name: "a variant that is not there", files: "m-Q8_0.gguf", ref: "o/n:Q2_K", err: "no GGUF file of o/n is called Q2_K; there are:\n        10 B  m-Q8_0.gguf"},
		{name: "a split variant in a folder", files: "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf Q4_0/m-Q4_0-00001-of-00001.gguf", ref: "o/n:BF16",
			takes: "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf", entry: "BF16/m-BF16-00001-of-00002.gguf"},
		{name: "sizes of split ones", files: "m-Q4_0.gguf x-00001-of-00002.gguf x-00002-of-00002.gguf", err: "      20 B  x-00001-of-00002.gguf"},
		{name: "a variant beside safetensors", files: text + " model.safetensors m-Q8_0.gguf", ref: "o/n:Q8_0", takes: "m-Q8_0.gguf", entry: "m-Q8_0.gguf"},
		{name: "a variant of safetensors", files: text + " model.safetensors", ref: "o/n:Q8_0", err: "there are:\n        10 B  model.safetensors"},
		{name: "ONNX", files: text + " onnx/model.onnx onnx/model.onnx_data onnx/model.onnx_data_1 onnx/model_fp16.onnx onnx/model_fp16.onnx_data",
			takes: "+ onnx/model.onnx onnx/model.onnx_data onnx/model.onnx_data_1", entry: "onnx/model.onnx"},
		{name: "a variant of ONNX", files: "onnx/model.onnx onnx/model_q4.onnx onnx/model_q4f16.onnx", ref: "o/n:q4", takes: "onnx/model_q4.onnx", entry: "onnx/model_q4.onnx"},
		{name: "several ONNX", files: "a.onnx b.onnx", err: "several ONNX files"},
		{name: "data beside ONNX", files: "a.onnx a.data a.onnx.data ab.data", takes: "a.data a.onnx a.onnx.data", entry: "a.onnx"},
		{name: "pickles", files: text + " pytorch_model.bin", err: "there is pytorch_model.bin; pickles can run code"},
		{name: "another form", files: "tf_model.h5", err: "no safetensors, GGUF or ONNX; there is tf_model.h5"},
		{name: "an adapter", files: "adapter_config.json adapter_model.safetensors", err: "there is adapter_model.safetensors"},
		{name: "an index without shards", files: "config.json model.safetensors.index.json", err: "nothing that Accel reads"},
		{name: "nothing", files: "", err: "nothing that Accel reads"},
		{name: "all", files: "README.md model.safetensors config.json x.bin", want: Selection{All: true}, takes: "README.md config.json model.safetensors x.bin"},
		{name: "patterns", files: "README.md a/x.md model.safetensors m-Q4_0.gguf m-Q8_0.gguf", want: Selection{Files: []string{"*.md", "m-Q8*"}},
			takes: "README.md a/x.md m-Q8_0.gguf", entry: "m-Q8_0.gguf"},
		{name: "a pattern of a part", files: "x-00001-of-00002.gguf x-00002-of-00002.gguf y.gguf", want: Selection{Files: []string{"x-00002*"}},
			takes: "x-00001-of-00002.gguf x-00002-of-00002.gguf", entry: "x-00001-of-00002.gguf"},
		{name: "a pattern that fits nothing", files: "a b", want: Selection{Files: []string{"c"}}, err: `no file of o/n fits "c"; there are: a, b`},
		{name: "no pattern", files: "a b", want: Selection{Files: []string{"["}}, err: `"[" is no pattern`},
	} {
		t.Run(x.name, func(t *testing.T) {
			var files []File
			for _, name := range strings.Fields(x.files) {
				files = append(files, File{Name: name, Size: 10})
			}
			if x.ref == "" {
				x.ref = "o/n"
			}
			ref, err := ParseRef(x.ref)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pick(files, ref, x.want)
			if x.err != "" {
				if err == nil || !strings.Contains(err.Error(), x.err) {
					t.Fatalf("got %v, %v, want an error with %q", got, err, x.err)
				}
				return
			}
			want := strings.Fields(x.takes)
			if len(want) > 0 && want[0] == "+" {
				want = append(strings.Fields(text), want[1:]...)
			}
			slices.Sort(want)
			var names []string
			for _, f := range byName(got.Files) {
				names = append(names, f.Name)
				if f.Size != 10 {
					t.Errorf("%s has %d bytes", f.Name, f.Size)
				}
			}
			if err != nil || !slices.Equal(names, want) || got.Entry != x.entry {
				t.Errorf("got %v, entry %q, %v\nwant %v, entry %q", names, got.Entry, err, want, x.entry)
			}
		})
	}
}

func FuzzParseModel(f *testing.F) {
	f.Add([]byte(`{"sha":"` + strings.Repeat("a", 40) + `","siblings":[{"rfilename":"a/b.json","size":3,"blobId":"` + strings.Repeat("b", 40) + `"}]}`))
	f.Add([]byte(`{"sha":"` + strings.Repeat("a", 40) + `","siblings":[{"rfilename":"x.gguf","lfs":{"sha256":"` + strings.Repeat("c", 64) + `","size":9}},{"rfilename":"../x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		sha, files, err := parseModel(data)
		if err != nil {
			return
		}
		if !hexSHA1.MatchString(sha) {
			t.Fatalf("commit %q", sha)
		}
		for _, file := range files {
			if e := file.etag(); nameProblem(file.Name) != "" || e != "" && !hexSHA1.MatchString(e) && !hexSHA256.MatchString(e) || file.Size < -1 {
				t.Fatalf("%+v was taken", file)
			}
		}
		for _, ref := range []Ref{{Repo: "o/n"}, {Repo: "o/n", Variant: "q4"}} {
			p, err := pick(files, ref, Selection{})
			if err == nil && len(p.Files) == 0 {
				t.Fatal("nothing was picked, without an error")
			}
			if err != nil && err.Error() == "" {
				t.Fatal("an error says nothing")
			}
		}
	})
}

func FuzzParseRef(f *testing.F) {
	f.Add("hub:org/name@refs/pr/1:Q4_K_M")
	f.Add("a/b@../../x")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseRef(text)
		if err != nil {
			return
		}
		if again, err := ParseRef(Scheme + ref.String()); err != nil || again != ref {
			t.Fatalf("%+v is written %q and read as %+v, %v", ref, ref.String(), again, err)
		}
		for _, part := range strings.Split(ref.Repo+"/"+ref.Revision, "/") {
			if nameProblem(part) != "" {
				t.Fatalf("%q has a part %q", text, part)
			}
		}
	})
}
