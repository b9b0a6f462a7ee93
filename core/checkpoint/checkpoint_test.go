package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/tensor"
)

// weights is a safetensors file of one float32 a name.
func weights(t testing.TB, names ...string) string {
	t.Helper()
	tensors := map[string]tensor.Tensor{}
	for i, n := range names {
		tensors[n] = tensor.Floats(tensor.Shape{1}, float32(i))
	}
	var b bytes.Buffer
	if err := WriteSafetensors(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

const config = `{"model_type":"bert","architectures":["BertModel"]}`

func index(places ...string) string {
	var b strings.Builder
	for i := 0; i < len(places); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%q", places[i], places[i+1])
	}
	return `{"metadata":{"total_size":8},"weight_map":{` + b.String() + `}}`
}

func TestOpenShards(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"config.json":                  config,
		"model.safetensors.index.json": index("a", "1.safetensors", "b", "2.safetensors"),
		"1.safetensors":                weights(t, "a", "b"), // b's place is the other
		"2.safetensors":                weights(t, "x", "b", "c"),
	})
	c := open(t, dir)
	if c.Kind != HuggingFace || c.ModelType != "bert" || !reflect.DeepEqual(c.Architectures, []string{"BertModel"}) || c.Sentence != nil {
		t.Errorf("found %+v", c)
	}
	if got := c.Names(); !reflect.DeepEqual(got, []string{"a", "b", "c", "x"}) {
		t.Errorf("found the tensors %v", got)
	}
	e, err := c.Tensor("b")
	if err != nil || filepath.Base(e.File) != "2.safetensors" || !filepath.IsAbs(e.File) || e.DType != tensor.Float32 || e.Length != 4 {
		t.Errorf("found %+v, %v", e, err)
	}
	v, err := c.Data("b")
	if err != nil || tensor.View[float32](v.Aligned())[0] != 1 {
		t.Errorf("found %v, %v", v, err)
	}
	if !c.Has("c") || c.Has("d") {
		t.Error("Has is wrong")
	}
	for _, read := range []func(string) error{
		func(n string) error { _, err := c.Tensor(n); return err },
		func(n string) error { _, err := c.Data(n); return err },
	} {
		var e *Error
		if err := read("d"); !errors.As(err, &e) || !strings.Contains(err.Error(), `tensor "d"`) {
			t.Errorf("found %v", err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	const st = "sentence_transformers.models."
	modules := func(types ...string) string {
		var b strings.Builder
		for i, s := range types {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"idx":%d,"path":"%d","type":%q}`, i, i, s)
		}
		return "[" + b.String() + "]"
	}
	idx := "model.safetensors.index.json"
	cases := []struct {
		name  string
		files map[string]string
		want  []string // in the error
	}{
		{"empty folder", nil, []string{"holds no model", "config.json"}},
		{"config only", map[string]string{"config.json": config}, []string{"no weights", "model.safetensors"}},
		{"pickle", map[string]string{"config.json": config, "pytorch_model.bin": "x"}, []string{"pytorch_model.bin", "convert the model to safetensors"}},
		{"broken GGUF", map[string]string{"m.gguf": "GGUF"}, []string{"m.gguf: header: version", "the download is incomplete"}},
		{"two of GGUF", map[string]string{"a.gguf": "GGUF", "b.gguf": "GGUF"}, []string{"a.gguf, b.gguf, wanted one model", "name the file"}},
		{"weights only", map[string]string{"model.safetensors": weights(t, "a")}, []string{"config.json", "it does not exist"}},
		{"broken config", map[string]string{"config.json": `{"a"`, "model.safetensors": weights(t, "a")}, []string{"config.json", "no valid JSON at byte 4"}},
		{"model_type no string", map[string]string{"config.json": `{"model_type":3}`, "model.safetensors": weights(t, "a")}, []string{"model_type: found 3, wanted a string"}},
		{"architectures no list", map[string]string{"config.json": `{"architectures":"x"}`, "model.safetensors": weights(t, "a")}, []string{"architectures", "a list of strings"}},
		{"broken weights", map[string]string{"config.json": config, "model.safetensors": "x"}, []string{"model.safetensors", "1 bytes"}},
		{"shard missing", map[string]string{"config.json": config, idx: index("a", "1.safetensors")}, []string{"1.safetensors", "it does not exist", "fetch it"}},
		{"no weight_map", map[string]string{"config.json": config, idx: "{}"}, []string{"weight_map: it is missing"}},
		{"weight_map of numbers", map[string]string{"config.json": config, idx: `{"weight_map":{"a":1}}`}, []string{"weight_map", "an object of strings"}},
		{"tensor not in shard", map[string]string{"config.json": config, idx: index("a", "1.safetensors", "b", "1.safetensors"), "1.safetensors": weights(t, "a")}, []string{`weight_map."b"`, "not in \"1.safetensors\""}},
		{"tensor in other shard", map[string]string{"config.json": config, idx: index("a", "1.safetensors", "b", "2.safetensors"),
			"1.safetensors": weights(t, "a", "b"), "2.safetensors": weights(t, "c")}, []string{`weight_map."b"`, "not in \"2.safetensors\""}},
		{"tensor in two shards", map[string]string{"config.json": config, idx: index("a", "1.safetensors", "b", "2.safetensors"),
			"1.safetensors": weights(t, "a", "c"), "2.safetensors": weights(t, "b", "c")}, []string{`tensor "c"`, "1.safetensors too"}},
		{"shard of pickles", map[string]string{"config.json": config, idx: index("a", "1.bin")}, []string{"1.bin", "convert"}},
		{"path up", map[string]string{"config.json": config, idx: index("a", "../1.safetensors")}, []string{"../1.safetensors", "the plain name of a file"}},
		{"path down", map[string]string{"config.json": config, idx: index("a", "x/1.safetensors")}, []string{"the plain name"}},
		{"path absolute", map[string]string{"config.json": config, idx: index("a", "/etc/1.safetensors")}, []string{"the plain name"}},
		{"path of Windows", map[string]string{"config.json": config, idx: index("a", `C:\1.safetensors`)}, []string{"the plain name"}},
		{"no path", map[string]string{"config.json": config, idx: index("a", "")}, []string{"the plain name"}},
		{"modules no list", map[string]string{"modules.json": "{}"}, []string{"modules.json", "found a JSON object"}},
		{"modules null", map[string]string{"modules.json": "null"}, []string{"modules.json", "found null"}},
		{"modules empty", map[string]string{"modules.json": "[]"}, []string{"wanted Transformer, Pooling"}},
		{"module of others", map[string]string{"modules.json": modules("custom.Transformer")}, []string{"[0].type", "custom.Transformer", "code that comes with a model is not run"}},
		{"module not known", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling", st+"Dense")}, []string{"Transformer, Pooling, Dense"}},
		{"module path up", map[string]string{"modules.json": `[{"path":"../x","type":"sentence_transformers.models.Transformer"}]`}, []string{"[0].path", "../x"}},
		{"pooling without config", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling")}, []string{filepath.Join("1", "config.json"), "it does not exist"}},
		{"pooling not known", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling"), "1/config.json": `{"pooling_mode":"medoid"}`}, []string{"medoid", "one of cls, max, mean"}},
		{"pooling empty", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling"), "1/config.json": `{"pooling_mode":[]}`}, []string{"pooling_mode: found []"}},
		{"other task", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling"), "0/sentence_bert_config.json": `{"transformer_task":"fill-mask"}`}, []string{"transformer_task", "fill-mask"}},
		{"negative length", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling"), "0/sentence_bert_config.json": `{"max_seq_length":-1}`}, []string{"max_seq_length: found -1"}},
		{"normalising else", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling", st+"Normalize"), "1/config.json": `{}`, "2/config.json": `{"module_input_name":"token_embeddings"}`}, []string{"module_input_name"}},
		{"prompt not there", map[string]string{"modules.json": modules(st+"Transformer", st+"Pooling"), "1/config.json": `{}`,
			"config_sentence_transformers.json": `{"prompts":{"query":"q: "},"default_prompt_name":"doc"}`}, []string{"default_prompt_name", "doc"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			_, err := Open(dir)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("found %v, wanted an *Error", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q says nothing of %q", err, want)
				}
			}
		})
	}

	dir := t.TempDir()
	write(t, dir, map[string]string{"a.bin": "x", "model.safetensors": "x", "a.txt": "x"})
	for file, want := range map[string]string{
		"a.bin": "convert", "model.safetensors": "name the folder", "a.txt": "no model that is known", "b": "it does not exist",
	} {
		if _, err := Open(filepath.Join(dir, file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v, wanted an error with %q", file, err, want)
		}
	}
}

func TestOpenSentence(t *testing.T) {
	tensors := weights(t, "a")
	cases := []struct {
		name  string
		dir   string // of the transformer
		files map[string]string
		want  Sentence
	}{
		{"version 2", "", map[string]string{
			"modules.json":                      `[{"idx":0,"path":"","type":"sentence_transformers.models.Transformer"},{"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},{"idx":2,"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]`,
			"1_Pooling/config.json":             `{"word_embedding_dimension":8,"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":true}`,
			"sentence_bert_config.json":         `{"max_seq_length":128,"do_lower_case":true}`,
			"config_sentence_transformers.json": `{"__version__":{},"prompts":{"query":"query: "},"default_prompt_name":"query"}`,
		}, Sentence{Pooling: []Pooling{PoolMax, PoolMean}, Dimension: 8, Normalize: true, MaxTokens: 128, Lowercase: true,
			Prompts: map[string]string{"query": "query: "}, DefaultPrompt: "query", IncludePrompt: true}},
		{"version 6", "", map[string]string{
			"modules.json":              `[{"idx":0,"path":"","type":"sentence_transformers.base.modules.transformer.Transformer"},{"idx":1,"path":"1_Pooling","type":"sentence_transformers.sentence_transformer.modules.pooling.Pooling"}]`,
			"1_Pooling/config.json":     `{"embedding_dimension":8,"pooling_mode":["lasttoken","cls"],"include_prompt":false}`,
			"sentence_bert_config.json": `{"transformer_task":"feature-extraction","modality_config":{"text":{"method":"forward"}},"module_output_name":"token_embeddings"}`,
		}, Sentence{Pooling: []Pooling{PoolLast, PoolCLS}, Dimension: 8}},
		{"transformer in its own folder", "0_Transformer", map[string]string{
			"modules.json":                            `[{"idx":0,"path":"0_Transformer","type":"sentence_transformers.models.Transformer"},{"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]`,
			"1_Pooling/config.json":                   `{}`,
			"0_Transformer/sentence_bert_config.json": `{"max_seq_length":null}`,
		}, Sentence{Pooling: []Pooling{PoolMean}, IncludePrompt: true}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			files := maps.Clone(c.files)
			files[filepath.Join(c.dir, "config.json")] = config
			files[filepath.Join(c.dir, "model.safetensors")] = tensors
			write(t, dir, files)
			ck := open(t, dir)
			if !reflect.DeepEqual(*ck.Sentence, c.want) {
				t.Errorf("found %+v, wanted %+v", *ck.Sentence, c.want)
			}
			if ck.Path != dir || ck.Dir != filepath.Join(dir, c.dir) || !ck.Has("a") {
				t.Errorf("found path %s and folder %s", ck.Path, ck.Dir)
			}
		})
	}
}

// TestOpenLinks opens a folder as the cache of the Hugging Face hub lays it out:
// what is to be hard-linked must be the file, not the link.
func TestOpenLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"blobs/123": weights(t, "a"), "snapshots/main/config.json": config})
	link := filepath.Join(dir, "snapshots", "main", "model.safetensors")
	if err := os.Symlink(filepath.Join("..", "..", "blobs", "123"), link); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	c := open(t, filepath.Join(dir, "snapshots", "main"))
	want, err := filepath.EvalSymlinks(filepath.Join(dir, "blobs", "123"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Tensor("a"); err != nil || e.File != want {
		t.Errorf("found %+v, %v", e, err)
	}
}

func TestOpenONNX(t *testing.T) {
	dir := t.TempDir()
	// An empty graph named "g": ModelProto{ir_version: 10, graph: {name: "g"}}.
	write(t, dir, map[string]string{"model.onnx": "\x08\x0a\x3a\x03\x12\x01g", "config.json": config})
	for _, path := range []string{dir, filepath.Join(dir, "model.onnx")} {
		c := open(t, path)
		if c.Kind != ONNX || c.Path != filepath.Join(dir, "model.onnx") || c.Dir != dir || len(c.Names()) != 0 {
			t.Errorf("found %+v", c)
		}
		if id, err := c.Identity(); err != nil || len(id) != 64 {
			t.Errorf("found identity %q, %v", id, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	big := make([]byte, 1<<20)
	var b bytes.Buffer
	if err := WriteSafetensors(&b, map[string]tensor.Tensor{"w": tensor.Of(tensor.Uint8, tensor.Shape{1 << 20}, big)}, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "model.safetensors")
	write(t, dir, map[string]string{"config.json": config, "model.safetensors": b.String(), "README.md": "x"})
	identity := func() string {
		t.Helper()
		id, err := open(t, dir).Identity()
		if err != nil || len(id) != 64 {
			t.Fatalf("found %q, %v", id, err)
		}
		return id
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	setBack := func() {
		if err := os.Chtimes(file, time.Now(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(at int) {
		data := bytes.Clone(b.Bytes())
		if at >= 0 {
			data[at] ^= 1
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	first := identity()
	same := []struct {
		name string
		do   func()
	}{
		{"opened again", func() {}},
		{"another README", func() { write(t, dir, map[string]string{"README.md": "y"}) }},
		{"hard link to the weights", func() {
			if err := os.Link(file, filepath.Join(dir, "link")); err != nil {
				t.Logf("no hard links here: %v", err)
			}
		}},
	}
	for _, c := range same {
		if c.do(); identity() != first {
			t.Errorf("%s: the identity changed", c.name)
		}
	}
	states := map[string]string{"the beginning": first}
	changes := []struct {
		name string
		do   func()
		same string // state that this one equals; empty: a new one
	}{
		{"another config", func() { write(t, dir, map[string]string{"config.json": config + " "}) }, ""},
		{"another time of the weights", func() {
			if err := os.Chtimes(file, time.Now(), info.ModTime().Add(2*time.Second)); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"first byte of data changed and time set back", func() { patch(64 + 64); setBack() }, ""},
		{"last byte changed and time set back", func() { patch(b.Len() - 1); setBack() }, ""},
		{"bytes and time restored in place", func() { patch(-1); setBack() }, "another config"},
		{"replaced by a copy of the same time", func() {
			if runtime.GOOS == "js" {
				t.Skip("no inodes here")
			}
			write(t, dir, map[string]string{"copy": b.String()})
			if err := os.Rename(filepath.Join(dir, "copy"), file); err != nil {
				t.Fatal(err)
			}
			setBack()
		}, ""},
	}
	for _, c := range changes {
		c.do()
		id := identity()
		for state, before := range states {
			if (id == before) != (state == c.same) {
				t.Errorf("%s: the identity is that of %s", c.name, state)
			}
		}
		states[c.name] = id
	}
}

func TestOpenTiny(t *testing.T) {
	c := open(t, filepath.Join("..", "..", "testdata", "tiny", "bert"))
	if c.ModelType != "bert" || len(c.Names()) != 62 {
		t.Errorf("found %s with %d tensors", c.ModelType, len(c.Names()))
	}
	v, err := c.Data("bert.pooler.dense.weight")
	if err != nil || !v.Shape.Equal(tensor.Shape{48, 48}) || v.Check() != nil {
		t.Errorf("found %v, %v", v.Shape, err)
	}
}
