package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Pooling is a way to make one vector of a text's token vectors, by the name that
// sentence-transformers uses.
type Pooling string

// Ways of pooling. Only tokens whose attention mask is 1 count.
const (
	PoolCLS          Pooling = "cls"                  // the first token
	PoolMax          Pooling = "max"                  // the greatest, by component
	PoolMean         Pooling = "mean"                 // the mean
	PoolMeanSqrtLen  Pooling = "mean_sqrt_len_tokens" // the sum over the root of the number
	PoolWeightedMean Pooling = "weightedmean"         // the mean weighted by 1, 2, 3, ...
	PoolLast         Pooling = "lasttoken"            // the last token
)

// poolingFlags are the flags that sentence-transformers up to version 5 wrote, in
// the order in which it joins the vectors of several.
var poolingFlags = []struct {
	flag string
	mode Pooling
}{
	{"pooling_mode_cls_token", PoolCLS},
	{"pooling_mode_max_tokens", PoolMax},
	{"pooling_mode_mean_tokens", PoolMean},
	{"pooling_mode_mean_sqrt_len_tokens", PoolMeanSqrtLen},
	{"pooling_mode_weightedmean_tokens", PoolWeightedMean},
	{"pooling_mode_lasttoken", PoolLast},
}

// Sentence is what the folder of a sentence-transformers model says beyond its
// transformer: modules.json and the files it leads to.
type Sentence struct {
	Pooling   []Pooling // at least one; the vectors of several are joined in this order
	Dimension int64     // of a token's vector; 0: not said
	Normalize bool      // to length 1, after pooling
	MaxTokens int64     // what longer texts are cut to; 0: not said
	Lowercase bool      // texts are lowercased before the tokenizer sees them
	// Prompts are put before texts, by name. DefaultPrompt is the name of the one
	// that is used unless another is asked for; empty: none.
	Prompts       map[string]string
	DefaultPrompt string
	// IncludePrompt says whether the prompt's tokens count in pooling.
	IncludePrompt bool
}

const modulesFile = "modules.json"

// openSentence reads modules.json in dir and what it leads to, and says in which
// folder the transformer lies.
func openSentence(dir string, readFile func(file string) ([]byte, error)) (*Sentence, string, error) {
	file := filepath.Join(dir, modulesFile)
	data, err := readFile(file)
	if err != nil {
		return nil, "", err
	}
	var modules []struct{ Path, Type string }
	if err := unmarshal(data, &modules); err != nil {
		return nil, "", &Error{File: file, Err: err, Remedy: "fetch the file again"}
	}
	var kinds []string
	for i, m := range modules {
		field := "[" + strconv.Itoa(i) + "]"
		if m.Path != "" && !filepath.IsLocal(filepath.FromSlash(m.Path)) {
			return nil, "", &Error{File: file, Field: field + ".path", Found: "found " + quote(m.Path), Wanted: "a folder inside the model's"}
		}
		kind := m.Type[strings.LastIndexByte(m.Type, '.')+1:]
		if !strings.HasPrefix(m.Type, "sentence_transformers.") {
			return nil, "", &Error{File: file, Field: field + ".type", Found: "found " + quote(m.Type),
				Wanted: "a module of sentence-transformers itself", Remedy: "code that comes with a model is not run"}
		}
		kinds = append(kinds, kind)
	}
	if !slices.Equal(kinds, []string{"Transformer", "Pooling"}) && !slices.Equal(kinds, []string{"Transformer", "Pooling", "Normalize"}) {
		return nil, "", &Error{File: file, Found: "found the modules " + strings.Join(kinds, ", "), Wanted: "Transformer, Pooling and perhaps Normalize"}
	}
	at := func(i int, name string) string {
		return filepath.Join(dir, filepath.FromSlash(modules[i].Path), name)
	}

	s := &Sentence{Normalize: len(kinds) == 3}
	type part struct {
		file     string
		required bool
		read     func(Fields)
	}
	parts := []part{
		{at(0, "sentence_bert_config.json"), false, s.transformer},
		{at(1, configFile), true, s.pooling},
		{filepath.Join(dir, "config_sentence_transformers.json"), false, s.prompts},
	}
	if s.Normalize {
		parts = append(parts, part{at(2, configFile), false, normalize})
	}
	for _, p := range parts {
		data, err := readFile(p.file)
		if errors.Is(err, fs.ErrNotExist) && !p.required {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		c, err := ParseConfig(p.file, data)
		if err != nil {
			return nil, "", err
		}
		fields := c.Fields()
		p.read(fields)
		if err := fields.Err(); err != nil {
			return nil, "", err
		}
	}
	return s, at(0, ""), nil
}

// pooling reads the config of a Pooling module.
func (s *Sentence) pooling(f Fields) {
	s.IncludePrompt = f.BoolOr("include_prompt", true)
	for _, name := range []string{"embedding_dimension", "word_embedding_dimension"} {
		if s.Dimension == 0 {
			s.Dimension = f.IntOr(name, 0, 1, 1<<24)
		}
	}
	if f.Has("pooling_mode") {
		var known []string
		for _, p := range poolingFlags {
			known = append(known, string(p.mode))
		}
		for _, name := range f.oneOrMore("pooling_mode") {
			if !slices.Contains(known, name) {
				f.Fail("pooling_mode", "found "+quote(name), "one of "+strings.Join(known, ", "), "")
			}
			s.Pooling = append(s.Pooling, Pooling(name))
		}
		return
	}
	for _, p := range poolingFlags {
		if f.BoolOr(p.flag, false) {
			s.Pooling = append(s.Pooling, p.mode)
		}
	}
	if len(s.Pooling) == 0 {
		s.Pooling = []Pooling{PoolMean}
	}
}

// transformer reads sentence_bert_config.json.
func (s *Sentence) transformer(f Fields) {
	s.MaxTokens = f.IntOr("max_seq_length", 0, 1, 1<<24)
	s.Lowercase = f.BoolOr("do_lower_case", false)
	for _, want := range []struct{ name, value string }{
		{"transformer_task", "feature-extraction"},
		{"module_output_name", "token_embeddings"},
	} {
		if v := f.StringOr(want.name, want.value); v != want.value && f.Err() == nil {
			f.Fail(want.name, "found "+quote(v), quote(want.value), "")
		}
	}
}

// prompts reads config_sentence_transformers.json.
func (s *Sentence) prompts(f Fields) {
	s.Prompts = f.StringMap("prompts")
	s.DefaultPrompt = f.StringOr("default_prompt_name", "")
	if _, ok := s.Prompts[s.DefaultPrompt]; !ok && s.DefaultPrompt != "" {
		f.Fail("default_prompt_name", fmt.Sprintf("found %q", s.DefaultPrompt), "the name of one of the prompts", "")
	}
}

// normalize checks the config of a Normalize module, where it has one.
func normalize(f Fields) {
	for _, name := range []string{"module_input_name", "module_output_name"} {
		if v := f.StringOr(name, "sentence_embedding"); v != "sentence_embedding" && f.Err() == nil {
			f.Fail(name, "found "+quote(v), `"sentence_embedding"`, "")
		}
	}
}
