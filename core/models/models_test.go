package models

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// folders are the tiny models that the tests build; testdata/generate.py made those
// in testdata.
func folders(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join("testdata", "*", "config.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("testdata: %v, %v", dirs, err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return append(dirs, filepath.Join("..", "..", "testdata", "tiny", "bert"))
}

func open(t testing.TB, dir string) *checkpoint.Checkpoint {
	t.Helper()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck
}

func load(t testing.TB, dir string) (*Model, *checkpoint.Checkpoint) {
	t.Helper()
	ck := open(t, dir)
	m, err := Load(ck, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m, ck
}

// with changes a field of a config, by its path: "text_config.hidden_size".
func with(path string, value any) func(map[string]any) {
	return func(c map[string]any) {
		for {
			name, rest, nested := strings.Cut(path, ".")
			if !nested {
				c[name] = value
				return
			}
			c, path = c[name].(map[string]any), rest
		}
	}
}

// copied is a copy of a folder's model, with config and tensors changed.
func copied(t testing.TB, dir string, config func(map[string]any), weights func(map[string]tensor.Tensor)) string {
	t.Helper()
	ck := open(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	tensors := map[string]tensor.Tensor{}
	for _, name := range ck.Names() {
		if tensors[name], err = ck.Data(name); err != nil {
			t.Fatal(err)
		}
	}
	if config != nil {
		config(c)
	}
	if weights != nil {
		weights(tensors)
	}
	to := t.TempDir()
	if data, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := checkpoint.WriteSafetensors(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"config.json": data, "model.safetensors": b.Bytes()} {
		if err := os.WriteFile(filepath.Join(to, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestLookup(t *testing.T) {
	for _, c := range Classes() {
		got, err := Lookup(c.ModelType)
		if err != nil || got.Name != c.Name || got.ModelType != c.ModelType {
			t.Errorf("%s: found %+v, %v", c.ModelType, got, err)
		}
	}
	for asked, nearest := range map[string]string{"robeta": "roberta", "xlm_roberta": "xlm-roberta", "mamba": ""} {
		_, err := Lookup(asked)
		var e *UnknownTypeError
		if !errors.As(err, &e) {
			t.Fatalf("%s: found %v, wanted an *UnknownTypeError", asked, err)
		}
		if e.ModelType != asked || e.Nearest != nearest || !slices.Contains(e.Known, "bert") || !slices.IsSorted(e.Known) {
			t.Errorf("%s: found %+v", asked, e)
		}
		if !strings.Contains(err.Error(), asked) || !strings.Contains(err.Error(), "distilbert") {
			t.Errorf("%s: the error is %q", asked, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	set := func(key string, value any) func(map[string]any) {
		return func(c map[string]any) {
			if value == nil {
				delete(c, key)
				return
			}
			c[key] = value
		}
	}
	const bert, roberta, distil, electra = "bert_bare_old", "roberta_mlm", "distilbert_mlm", "electra_generator"
	cases := []struct {
		dir    string
		change func(map[string]any)
		want   []string // in the error, beside config.json
	}{
		{bert, set("model_type", nil), []string{"model_type: it is missing"}},
		{bert, set("model_type", 3), []string{"model_type: found 3"}},
		{bert, set("hidden_size", nil), []string{"hidden_size: it is missing, wanted a whole number from 1 to 65536"}},
		{bert, set("hidden_size", "8"), []string{`hidden_size: found "8"`}},
		{bert, set("hidden_size", 8.5), []string{"hidden_size: found 8.5"}},
		{bert, set("hidden_size", 1<<40), []string{"hidden_size: found 1099511627776"}},
		{bert, set("num_attention_heads", 3), []string{"num_attention_heads: found 3, wanted a divisor of hidden_size, which is 8"}},
		{bert, set("num_attention_heads", 0), []string{"num_attention_heads: found 0"}},
		{bert, set("num_hidden_layers", -1), []string{"num_hidden_layers: found -1"}},
		{bert, set("num_hidden_layers", 1<<30), []string{"num_hidden_layers: found 1073741824, wanted a whole number from 1 to 1024"}},
		{bert, set("vocab_size", 0), []string{"vocab_size: found 0"}},
		{bert, set("intermediate_size", nil), []string{"intermediate_size: it is missing"}},
		{bert, set("max_position_embeddings", []int{1}), []string{"max_position_embeddings: found [1]"}},
		{bert, set("type_vocab_size", -2), []string{"type_vocab_size: found -2"}},
		{bert, set("hidden_act", "geglu"), []string{`hidden_act: found "geglu", wanted one of gelu,`, "tanh"}},
		{bert, set("hidden_act", 1), []string{"hidden_act: found 1, wanted a string"}},
		{bert, set("layer_norm_eps", -1), []string{"layer_norm_eps: found -1"}},
		{bert, set("pad_token_id", 24), []string{"pad_token_id: found 24, wanted a token below vocab_size, which is 24"}},
		{bert, set("is_decoder", true), []string{"is_decoder: found true, wanted an encoder"}},
		{bert, set("add_cross_attention", true), []string{"add_cross_attention: found true"}},
		{bert, set("tie_word_embeddings", "yes"), []string{"tie_word_embeddings: found \"yes\""}},
		{bert, set("position_embedding_type", "relative_key_query"), []string{`position_embedding_type: found "relative_key_query", wanted "absolute"`}},
		{roberta, set("max_position_embeddings", 2), []string{"max_position_embeddings: found 2, wanted more than pad_token_id + 1, which is 2"}},
		{distil, set("dim", nil), []string{"dim: it is missing"}},
		{distil, set("n_heads", 5), []string{"n_heads: found 5, wanted a divisor of dim, which is 8"}},
		{distil, set("activation", "mish"), []string{`activation: found "mish"`}},
		{electra, set("embedding_size", nil), []string{"embedding_size: it is missing"}},
	}
	for _, c := range cases {
		t.Run(c.dir+" "+c.want[0], func(t *testing.T) {
			dir := copied(t, filepath.Join("testdata", c.dir), c.change, nil)
			ck, err := checkpoint.Open(dir)
			if err == nil {
				defer ck.Close()
				_, err = Load(ck, Options{})
			}
			var e *checkpoint.Error
			if !errors.As(err, &e) {
				t.Fatalf("found %v, wanted a *checkpoint.Error", err)
			}
			for _, want := range append(c.want, "config.json: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q says nothing of %q", err, want)
				}
			}
		})
	}

	dir := copied(t, filepath.Join("testdata", bert), set("model_type", "bart"), nil)
	_, err := Load(open(t, dir), Options{})
	var e *UnknownTypeError
	if !errors.As(err, &e) || e.Nearest != "bert" || !strings.Contains(err.Error(), dir) {
		t.Errorf("found %v", err)
	}
}

func TestWeightErrors(t *testing.T) {
	const name = "encoder.layer.1.attention.self.query.weight"
	cases := []struct {
		name   string
		config func(map[string]any)
		change func(map[string]tensor.Tensor)
		want   []string // in the error
	}{
		{"missing", nil, func(w map[string]tensor.Tensor) { delete(w, name) },
			[]string{name, "not there", "wanted one of shape [8,8]", "encoder.layer.0.attention.self.query.weight"}},
		{"misspelt", nil, func(w map[string]tensor.Tensor) {
			w["encoder.layers.1.attention.self.query.weight"] = w[name]
			delete(w, name)
		},
			[]string{name, "names alike", "encoder.layers.1.attention.self.query.weight"}},
		{"more layers than there are", func(c map[string]any) { c["num_hidden_layers"] = 3 }, nil,
			[]string{"encoder.layer.2.attention.self.query.weight", "not there"}},
		{"other shape", nil, func(w map[string]tensor.Tensor) { w[name] = tensor.Floats(tensor.Shape{8, 1}, 1, 2, 3, 4, 5, 6, 7, 8) },
			[]string{name, "its shape is [8,1], wanted [8,8]", "of different models"}},
		{"other vocabulary", func(c map[string]any) { c["vocab_size"] = 25 }, nil,
			[]string{"embeddings.word_embeddings.weight", "its shape is [24,8], wanted [25,8]"}},
		{"quantised", nil, func(w map[string]tensor.Tensor) {
			w[name] = tensor.Of(tensor.Int8, tensor.Shape{8, 8}, make([]int8, 64))
		}, []string{name, "of type I8", "wanted F32, BF16, F16 or F64"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(open(t, copied(t, filepath.Join("testdata", "bert_bare_old"), c.config, c.change)), Options{})
			var e *checkpoint.Error
			if !errors.As(err, &e) {
				t.Fatalf("found %v, wanted a *checkpoint.Error", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q says nothing of %q", err, want)
				}
			}
		})
	}
}

// TestEmbedding reads what sentence-transformers says of the vector.
func TestEmbedding(t *testing.T) {
	const modules = `[{"path":"","type":"sentence_transformers.models.Transformer"},{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]`
	const prompts = `{"prompts":{"query":"query: "},"default_prompt_name":"query"}`
	cases := []struct {
		name  string
		files map[string]string
		want  Embedding
		err   string // in the error, where there is one
	}{
		{"no modules", nil, Embedding{Dimension: 8, Pooling: []checkpoint.Pooling{"mean"}, Normalize: true, MaxTokens: 14, Assumed: true}, ""},
		{"all said", map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"embedding_dimension":8,"pooling_mode":["max","cls"]}`,
			"sentence_bert_config.json": `{"max_seq_length":9,"do_lower_case":true}`, "config_sentence_transformers.json": prompts},
			Embedding{Dimension: 16, Pooling: []checkpoint.Pooling{"max", "cls"}, MaxTokens: 9, Prompt: "query: ", Lowercase: true}, ""},
		{"longer than the model takes", map[string]string{"modules.json": modules, "1_Pooling/config.json": `{}`, "sentence_bert_config.json": `{"max_seq_length":512}`},
			Embedding{Dimension: 8, Pooling: []checkpoint.Pooling{"mean"}, MaxTokens: 14}, ""},
		{"of another model", map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"embedding_dimension":16}`},
			Embedding{}, "its dimension is 16, wanted 8"},
		{"pooling without prompt", map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"include_prompt":false}`, "config_sentence_transformers.json": prompts},
			Embedding{}, `include_prompt is false and the default prompt is "query: "`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := copied(t, filepath.Join("testdata", "sentence_mean"), nil, nil)
			for name, content := range c.files {
				path := filepath.Join(dir, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m, err := Load(open(t, dir), Options{})
			if c.err != "" {
				var e *checkpoint.Error
				if !errors.As(err, &e) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("found %v, wanted a *checkpoint.Error with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*m.Embedding, c.want) {
				t.Errorf("found %+v, wanted %+v", *m.Embedding, c.want)
			}
		})
	}
}

func TestLoadRefusesONNX(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.onnx")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var e *checkpoint.Error
	if _, err := Load(open(t, file), Options{}); !errors.As(err, &e) || !strings.Contains(err.Error(), "x.onnx") {
		t.Errorf("found %v", err)
	}
}

// TestGraphs looks at every graph as those who lower it will.
func TestGraphs(t *testing.T) {
	for _, dir := range folders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, ck := load(t, dir)
			if len(m.Unused) != 0 {
				t.Errorf("unused: %v", m.Unused)
			}
			if m.Class != "bert" || m.ModelType != ck.ModelType {
				t.Errorf("found class %s and type %s", m.Class, m.ModelType)
			}
			for _, c := range m.Components {
				checkGraph(t, c, ck)
				checkText(t, c, ck)
			}
			g, err := m.Component(Encode)
			if err != nil {
				t.Fatal(err)
			}
			out := g.Graph.Outputs[0]
			if len(g.Graph.Outputs) != 1 || out.Name != "sentence_embedding" || out.Type.Dims[1].Size != m.Embedding.Dimension {
				t.Errorf("encode gives %s %v", out.Name, out.Type.Dims)
			}
			if _, err := m.Component("decode"); err == nil || !strings.Contains(err.Error(), "full, encode") {
				t.Errorf("found %v", err)
			}
		})
	}
}

// checkText looks at what is special of an encoder of texts.
func checkText(t *testing.T, c Component, ck *checkpoint.Checkpoint) {
	t.Helper()
	var inputs []string
	for _, in := range c.Graph.Graph.Inputs {
		inputs = append(inputs, in.Name)
		if in.Type.Elem != tensor.Int64 || len(in.Type.Dims) != 2 || in.Type.Dims[0].Param != "batch" || in.Type.Dims[1].Param != "sequence" {
			t.Errorf("%s: input %s has type %+v", c.Name, in.Name, in.Type)
		}
	}
	want := []string{"input_ids", "attention_mask", "token_type_ids", "position_ids"}
	if ck.ModelType == "distilbert" {
		want = slices.Delete(want, 2, 3)
	}
	if !slices.Equal(inputs, want) {
		t.Errorf("%s: found the inputs %v, wanted %v", c.Name, inputs, want)
	}
	for _, out := range c.Graph.Graph.Outputs {
		if out.Type.Dims[0].Param != "batch" {
			t.Errorf("%s: output %s has type %+v", c.Name, out.Name, out.Type)
		}
	}
}

func checkGraph(t *testing.T, c Component, ck *checkpoint.Checkpoint) {
	t.Helper()
	g := c.Graph.Graph
	if err := c.Graph.Check(); err != nil {
		t.Error(err)
	}
	// What the graph declares of its outputs is what comes out, and no shape in
	// between is unknown.
	inferred := c.Graph.Clone()
	if err := graph.Infer(inferred); err != nil {
		t.Error(err)
	}
	if len(inferred.Graph.Values) < len(g.Nodes)-len(g.Outputs) {
		t.Errorf("%s: the types of %d values of %d nodes are known", c.Name, len(inferred.Graph.Values), len(g.Nodes))
	}
	for _, v := range inferred.Graph.Values {
		for _, d := range v.Type.Dims {
			if d.Size < 0 && d.Param == "" {
				t.Errorf("%s: the shape of %s is not known", c.Name, v.Name)
			}
		}
	}
	if c.Graph.Opsets[""] != 23 || len(c.Graph.Opsets) != 1 || g.Name != c.Name {
		t.Errorf("%s: graph %s has operator sets %v", c.Name, g.Name, c.Graph.Opsets)
	}
	for _, out := range g.Outputs {
		if out.Type.Elem != tensor.Float32 {
			t.Errorf("%s: output %s has type %+v", c.Name, out.Name, out.Type)
		}
	}
	for _, n := range g.Nodes {
		scope, op, ok := strings.Cut(n.Name, "/")
		if !ok || scope == "" || !strings.HasPrefix(op[strings.LastIndexByte(op, '/')+1:], n.OpType) {
			t.Errorf("%s: a node is called %q", c.Name, n.Name)
		}
	}
	for _, in := range g.Initializers {
		if in.External == nil {
			if len(in.Tensor.Data) > 64 {
				t.Errorf("%s: %s has %d bytes in the graph", c.Name, in.Name, len(in.Tensor.Data))
			}
			continue
		}
		e, err := ck.Tensor(in.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if *in.External != (graph.External{Path: e.File, Offset: e.Offset, Length: e.Length}) || in.Tensor.DType != e.DType || !in.Tensor.Shape.Equal(e.Shape) {
			t.Errorf("%s: %s lies at %+v, wanted %+v", c.Name, in.Name, in.External, e)
		}
	}
}

func TestNodeNames(t *testing.T) {
	m, _ := load(t, filepath.Join("..", "..", "testdata", "tiny", "bert"))
	g, err := m.Component(Full)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, n := range g.Graph.Nodes {
		names[n.Name] = true
	}
	for _, want := range []string{
		"embeddings.word/Gather", "embeddings.norm/LayerNormalization",
		"encoder.layer.2.attention.q/MatMul", "encoder.layer.2.attention/Attention", "encoder.layer.2.attention.norm/LayerNormalization",
		"encoder.layer.2.mlp.up/MatMul", "encoder.layer.2.mlp.act/Gelu", "encoder.layer.2.mlp.down/Add", "pooler/Gemm", "cls.predictions.decoder/MatMul",
	} {
		if !names[want] {
			t.Errorf("no node is called %s", want)
		}
	}
	// 11 nodes a layer and linear of four: what is more would be waste.
	if n := len(g.Graph.Nodes); n > 100 {
		t.Errorf("%d nodes for three layers", n)
	}
}

func TestNotes(t *testing.T) {
	dir := copied(t, filepath.Join("testdata", "bert_nsp"), func(c map[string]any) {
		c["architectures"] = []string{"ColBERT"}
	}, func(w map[string]tensor.Tensor) {
		w["linear.weight"] = tensor.Floats(tensor.Shape{1}, 1)
		w["bert.embeddings.position_ids"] = tensor.Ints(tensor.Shape{1, 1}, 0)
	})
	m, _ := load(t, dir)
	if notes := strings.Join(m.Notes, "\n"); !strings.Contains(notes, "ColBERT") || !strings.Contains(notes, "no modules.json") {
		t.Errorf("found the notes %q", notes)
	}
	want := []string{"cls.seq_relationship.bias", "cls.seq_relationship.weight", "linear.weight"}
	if !slices.Equal(m.Unused, want) {
		t.Errorf("found unused %v, wanted %v", m.Unused, want)
	}
}

// TestBias: the bias of a head over the vocabulary is stored under one name or two.
func TestBias(t *testing.T) {
	const own, decoder = "cls.predictions.bias", "cls.predictions.decoder.bias"
	for _, c := range []struct {
		tied bool
		drop string
		want string
	}{{true, decoder, own}, {true, own, decoder}, {true, "", own}, {false, "", decoder}, {false, decoder, own}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			m, _ := load(t, copied(t, filepath.Join("testdata", "bert_mlm_untied"),
				func(cfg map[string]any) { cfg["tie_word_embeddings"] = c.tied },
				func(w map[string]tensor.Tensor) { delete(w, c.drop) }))
			g, err := m.Component(Full)
			if err != nil {
				t.Fatal(err)
			}
			has := map[string]bool{}
			for _, in := range g.Graph.Initializers {
				has[in.Name] = true
			}
			if !has[c.want] || has[own] && has[decoder] || has["cls.predictions.decoder.weight"] == c.tied || len(m.Unused) != 0 {
				t.Errorf("found %v, unused %v", slices.Sorted(maps.Keys(has)), m.Unused)
			}
		})
	}
}

func TestFeeds(t *testing.T) {
	ids := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{2, 3}, v...) }
	bert, _ := load(t, filepath.Join("testdata", "bert_nsp"))       // 24 tokens, pad 0
	roberta, _ := load(t, filepath.Join("testdata", "roberta_mlm")) // pad 1
	distil, _ := load(t, filepath.Join("testdata", "distilbert_mlm"))

	good := []struct {
		name  string
		m     *Model
		given map[string]tensor.Tensor
		want  map[string][]int64
	}{
		{"BERT completed", bert, map[string]tensor.Tensor{"input_ids": ids(5, 6, 7, 8, 0, 0)}, map[string][]int64{
			"input_ids": {5, 6, 7, 8, 0, 0}, "attention_mask": {1, 1, 1, 1, 1, 1}, "token_type_ids": {0, 0, 0, 0, 0, 0}, "position_ids": {0, 1, 2, 0, 1, 2}}},
		{"BERT as given", bert, map[string]tensor.Tensor{"input_ids": ids(5, 6, 7, 8, 0, 0), "attention_mask": ids(1, 1, 1, 1, 0, 0),
			"token_type_ids": ids(0, 1, 1, 0, 0, 0), "position_ids": ids(3, 2, 1, 3, 2, 1)}, map[string][]int64{
			"input_ids": {5, 6, 7, 8, 0, 0}, "attention_mask": {1, 1, 1, 1, 0, 0}, "token_type_ids": {0, 1, 1, 0, 0, 0}, "position_ids": {3, 2, 1, 3, 2, 1}}},
		{"RoBERTa", roberta, map[string]tensor.Tensor{"input_ids": ids(5, 6, 7, 1, 8, 1)}, map[string][]int64{
			"input_ids": {5, 6, 7, 1, 8, 1}, "attention_mask": {1, 1, 1, 1, 1, 1}, "token_type_ids": {0, 0, 0, 0, 0, 0}, "position_ids": {2, 3, 4, 1, 2, 1}}},
		{"DistilBERT", distil, map[string]tensor.Tensor{"input_ids": ids(5, 6, 7, 8, 0, 0)}, map[string][]int64{
			"input_ids": {5, 6, 7, 8, 0, 0}, "attention_mask": {1, 1, 1, 1, 1, 1}, "position_ids": {0, 1, 2, 0, 1, 2}}},
	}
	for _, c := range good {
		t.Run(c.name, func(t *testing.T) {
			before := maps.Clone(c.given)
			got, err := c.m.Feeds(Full, c.given)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) || len(c.given) != len(before) {
				t.Errorf("found %v", slices.Sorted(maps.Keys(got)))
			}
			for name, want := range c.want {
				v := got[name]
				if !v.Shape.Equal(tensor.Shape{2, 3}) || v.DType != tensor.Int64 || !slices.Equal(tensor.View[int64](v), want) {
					t.Errorf("%s: found %v, wanted %v", name, tensor.View[int64](v), want)
				}
			}
		})
	}

	long := func(n int64) tensor.Tensor { return tensor.Ints(tensor.Shape{1, n}, make([]int64, n)...) }
	bad := []struct {
		name  string
		m     *Model
		given map[string]tensor.Tensor
		want  []string // in the error
	}{
		{"nothing", bert, nil, []string{"input_ids: it is missing"}},
		{"unknown input", bert, map[string]tensor.Tensor{"input_ids": ids(1, 1, 1, 1, 1, 1), "pixels": ids(1, 1, 1, 1, 1, 1)}, []string{"pixels", "one of input_ids, attention_mask, token_type_ids, position_ids"}},
		{"no token types", distil, map[string]tensor.Tensor{"input_ids": ids(1, 1, 1, 1, 1, 1), "token_type_ids": ids(0, 0, 0, 0, 0, 0)}, []string{"token_type_ids", "no such input"}},
		{"one dimension", bert, map[string]tensor.Tensor{"input_ids": tensor.Ints(tensor.Shape{2}, 1, 2)}, []string{"its shape is [2], wanted [batch,sequence]"}},
		{"no text", bert, map[string]tensor.Tensor{"input_ids": {DType: tensor.Int64, Shape: tensor.Shape{0, 3}}}, []string{"[0,3], batch 0", "at least 1"}},
		{"no token", bert, map[string]tensor.Tensor{"input_ids": {DType: tensor.Int64, Shape: tensor.Shape{2, 0}}}, []string{"[2,0], sequence 0", "at least 1"}},
		{"too long", bert, map[string]tensor.Tensor{"input_ids": long(15)}, []string{"sequence 15, wanted at most 14", "cut or split"}},
		{"too long for RoBERTa", roberta, map[string]tensor.Tensor{"input_ids": long(13)}, []string{"sequence 13, wanted at most 12"}},
		{"int32", bert, map[string]tensor.Tensor{"input_ids": tensor.Of(tensor.Int32, tensor.Shape{1, 1}, []int32{1})}, []string{"its type is int32, wanted int64"}},
		{"data too short", bert, map[string]tensor.Tensor{"input_ids": {DType: tensor.Int64, Shape: tensor.Shape{1, 2}, Data: make([]byte, 8)}}, []string{"holds 8 bytes"}},
		{"token out of range", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 24, 6)}, []string{"input_ids[1,1]: found 24, wanted a token below vocab_size, which is 24", "another model"}},
		{"negative token", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, -3, 4, 5, 6)}, []string{"input_ids[0,2]: found -3"}},
		{"mask of another shape", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 5, 6), "attention_mask": tensor.Ints(tensor.Shape{3, 2}, 1, 1, 1, 1, 1, 1)}, []string{"attention_mask: its shape is [3,2], wanted [2,3]"}},
		{"mask of weights", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 5, 6), "attention_mask": ids(1, 1, 1, 2, 1, 1)}, []string{"attention_mask[1,0]: found 2, wanted 0 or 1"}},
		{"mask of zeros", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 5, 6), "attention_mask": ids(1, 1, 1, 0, 0, 0)}, []string{"attention_mask[1]: found only 0"}},
		{"type out of range", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 5, 6), "token_type_ids": ids(0, 0, 2, 0, 0, 0)}, []string{"token_type_ids[0,2]: found 2", "type_vocab_size, which is 2"}},
		{"position out of range", bert, map[string]tensor.Tensor{"input_ids": ids(1, 2, 3, 4, 5, 6), "position_ids": ids(0, 0, 2, 0, 0, 14)}, []string{"position_ids[1,2]: found 14", "max_position_embeddings, which is 14"}},
	}
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.m.Feeds(Full, c.given)
			var e *InputError
			if !errors.As(err, &e) || got != nil {
				t.Fatalf("found %v and %v, wanted an *InputError", got, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q says nothing of %q", err, want)
				}
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("testdata", "bert_bare_old", "config.json"))
	if err != nil {
		f.Fatal(err)
	}
	weights, err := os.ReadFile(filepath.Join("testdata", "bert_bare_old", "model.safetensors"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, old := range []string{`"bert"`, "8", "12"} {
		f.Add(bytes.Replace(data, []byte(old), []byte("3"), 1))
	}
	decoders, err := filepath.Glob(filepath.Join("testdata", "decoders", "*", "config.json"))
	if err != nil {
		f.Fatal(err)
	}
	vision, err := filepath.Glob(filepath.Join("testdata", "vision", "*", "config.json"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"vit", "clip", "xclip", "detr"} {
		vision = append(vision, filepath.Join(tiny(name), "config.json"))
	}
	for _, file := range append(decoders, vision...) {
		config, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), weights, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
			t.Fatal(err)
		}
		ck, err := checkpoint.Open(dir)
		if err == nil {
			defer ck.Close()
			_, err = Load(ck, Options{})
		}
		var bad *checkpoint.Error
		var unknown *UnknownTypeError
		if err != nil && !errors.As(err, &bad) && !errors.As(err, &unknown) {
			t.Fatalf("%T: %v", err, err)
		}
	})
}
