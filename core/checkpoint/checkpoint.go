package checkpoint

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Kind says what a checkpoint is.
type Kind string

// Kinds of checkpoint.
const (
	HuggingFace Kind = "huggingface" // config.json with safetensors
	ONNX        Kind = "onnx"        // a model.onnx that is run as it is
	GGUFFile    Kind = "gguf"        // to be imported into a Hugging Face folder first (core/quantize)
	CTranslate2 Kind = "ctranslate2" // so is this
)

// Names of the files of a Hugging Face folder.
const (
	configFile     = "config.json"
	generationFile = "generation_config.json"
	weightsFile    = "model.safetensors"
	indexFile      = "model.safetensors.index.json"
)

// refusedFiles are weights and models that are not opened, by the end of their
// names.
var refusedFiles = []struct{ suffix, remedy string }{
	{".bin", pickleRemedy},
	{".pt", pickleRemedy},
	{".pth", pickleRemedy},
	{".ckpt", pickleRemedy},
	{".h5", "convert the model to safetensors"},
	{".msgpack", "convert the model to safetensors"},
	{".safetensors", "name the folder that holds it and config.json"},
}

// Checkpoint is an opened model. Its methods may be called from several
// goroutines, Close after all others.
type Checkpoint struct {
	Kind Kind
	// Path is what was opened, absolute. For ONNX and GGUF it is the model's file.
	Path string
	// Dir holds config.json, the weights and the tokenizer: Path, or the folder
	// inside it that modules.json names.
	Dir string

	// Config is config.json; nil for ONNX and GGUF.
	Config *Config
	// ModelType is its model_type; empty where there is none.
	ModelType string
	// Architectures are the classes that the weights were saved from, such as
	// BertForMaskedLM.
	Architectures []string
	// Sentence is what sentence-transformers says; nil without a modules.json.
	Sentence *Sentence
	// GGUF is the opened file; nil for other kinds. Such a checkpoint has no tensors
	// of its own.
	GGUF *GGUF
	// CT2 is the opened folder of CTranslate2; nil for other kinds. It has no tensors of its own either.
	CT2 *CT2

	shards    []*shard // in alphabetical order
	entries   map[string]*shard
	names     []string
	quantized map[string]Quantized
	small     []noted
	identity  func() (string, error)
}

// shard is a file of weights under its name in Dir.
type shard struct {
	name string
	*Safetensors
}

// noted is a small file that was read, for the identity.
type noted struct {
	name    string // relative to Path
	content []byte
}

// Open opens a Hugging Face folder, the folder of a sentence-transformers model,
// an ONNX file, a folder with a model.onnx, a GGUF file or a folder with one, or a folder
// of CTranslate2. It maps
// and checks headers; weights are read when they are used. Errors are *Error.
func Open(path string) (*Checkpoint, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{File: path, Err: err}
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, &Error{File: path, Err: err}
	}
	c := &Checkpoint{Path: abs, Dir: abs}
	c.identity = sync.OnceValues(c.identify)
	if !info.IsDir() {
		c.Dir = filepath.Dir(abs)
		switch filepath.Ext(abs) {
		case ".onnx":
			c.Kind = ONNX
			return c, nil
		case ggufSuffix:
			if err := c.openGGUF(abs); err != nil {
				return nil, err
			}
			return c, nil
		}
		return nil, &Error{File: path, Found: "the file is no model that is known",
			Wanted: "a folder with config.json and safetensors, or an .onnx or .gguf file", Remedy: refusal(abs)}
	}
	if err := c.openDir(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Checkpoint) openDir() error {
	if exists(filepath.Join(c.Path, modulesFile)) {
		s, dir, err := openSentence(c.Path, c.read)
		if err != nil {
			return err
		}
		c.Sentence, c.Dir = s, dir
	}
	config := filepath.Join(c.Dir, configFile)
	index := filepath.Join(c.Dir, indexFile)
	weights := filepath.Join(c.Dir, weightsFile)
	onnx := filepath.Join(c.Dir, graph.ModelFile)
	switch {
	case exists(config) && exists(weights):
		if err := c.openConfig(config); err != nil {
			return err
		}
		return c.openShards([]string{weightsFile}, nil)
	case exists(config) && exists(index):
		if err := c.openConfig(config); err != nil {
			return err
		}
		return c.openIndex(index)
	case exists(onnx):
		c.Kind, c.Path = ONNX, onnx
		return nil
	case exists(weights) || exists(index):
		return &Error{File: config, Err: fs.ErrNotExist, Remedy: "fetch the model's whole folder"}
	}
	if exists(config) && exists(filepath.Join(c.Dir, ct2File)) {
		ct2, err := OpenCT2(c.Dir)
		if err != nil {
			return err
		}
		c.Kind, c.CT2 = CTranslate2, ct2
		return nil
	}
	file, err := findGGUF(c.Dir)
	switch {
	case err != nil:
		return err
	case file != "":
		return c.openGGUF(file)
	}
	return c.nothingUsable(exists(config))
}

func (c *Checkpoint) openGGUF(file string) error {
	g, err := OpenGGUF(file)
	if err != nil {
		return err
	}
	c.Kind, c.Path, c.GGUF = GGUFFile, g.Path, g
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nothingUsable is the error for a folder without weights: it names those that
// are there but not opened.
func (c *Checkpoint) nothingUsable(config bool) error {
	e := &Error{File: c.Dir, Found: "the folder holds no model", Wanted: "config.json with " + weightsFile + " or " + indexFile + ", or " + graph.ModelFile + ", a GGUF file, or " + ct2File + " of CTranslate2"}
	if config {
		e.Found = "the folder holds config.json but no weights"
		e.Wanted = weightsFile + " or " + indexFile
	}
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		e.Err = err
		return e
	}
	for _, f := range files {
		if r := refusal(f.Name()); r != "" {
			e.Found += "; there is " + f.Name()
			e.Remedy = r
			break
		}
	}
	return e
}

func (c *Checkpoint) openConfig(file string) error {
	config, err := c.readConfig(file)
	if err != nil {
		return err
	}
	f := config.Fields()
	c.Kind, c.Config = HuggingFace, config
	c.ModelType = f.StringOr("model_type", "")
	c.Architectures = f.Strings("architectures")
	return f.Err()
}

// Generation reads generation_config.json, how the model's authors would have it
// generate; nil where there is none. It is no part of the identity, for no graph
// depends on it.
func (c *Checkpoint) Generation() (*Config, error) {
	file := filepath.Join(c.Dir, generationFile)
	if !exists(file) {
		return nil, nil
	}
	return ReadConfig(file)
}

// read reads a small file and notes it for the identity.
func (c *Checkpoint) read(file string) ([]byte, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	name, err := filepath.Rel(c.Path, file)
	if err != nil {
		return nil, &Error{File: file, Err: err}
	}
	c.small = append(c.small, noted{filepath.ToSlash(name), data})
	return data, nil
}

func (c *Checkpoint) readConfig(file string) (*Config, error) {
	data, err := c.read(file)
	if err != nil {
		return nil, err
	}
	return ParseConfig(file, data)
}

// openIndex opens the shards that an index names.
func (c *Checkpoint) openIndex(index string) error {
	config, err := c.readConfig(index)
	if err != nil {
		return err
	}
	f := config.Fields()
	if !f.Has("weight_map") {
		f.Fail("weight_map", "it is missing", "an object of tensors and the files they lie in", "")
	}
	places := f.StringMap("weight_map")
	if err := f.Err(); err != nil {
		return err
	}
	var shards []string
	for _, name := range slices.Sorted(maps.Keys(places)) {
		field := "weight_map." + quote(name)
		file := places[name]
		// Only plain names: an index that came from elsewhere must not reach out
		// of its folder.
		if !filepath.IsLocal(file) || strings.ContainsAny(file, `/\:`) {
			return &Error{File: index, Field: field, Found: "found " + quote(file), Wanted: "the plain name of a file in the folder"}
		}
		if !strings.HasSuffix(file, ".safetensors") {
			return &Error{File: index, Field: field, Found: "found " + quote(file), Wanted: "a safetensors file", Remedy: refusal(file)}
		}
		shards = append(shards, file)
	}
	slices.Sort(shards)
	shards = slices.Compact(shards)
	for _, file := range shards {
		if path := filepath.Join(c.Dir, file); !exists(path) {
			return &Error{File: path, Err: fs.ErrNotExist, Remedy: "the index names this shard: fetch it"}
		}
	}
	if err := c.openShards(shards, places); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(places)) {
		if s, ok := c.entries[name]; !ok || s.name != places[name] {
			return &Error{File: index, Field: "weight_map." + quote(name), Found: "the tensor is not in " + quote(places[name]),
				Remedy: "the index and the shards are of different models: fetch both again"}
		}
	}
	return nil
}

// openShards opens the files of weights. Of a tensor that lies in two of them the
// one in places counts.
func (c *Checkpoint) openShards(files []string, places map[string]string) error {
	c.entries = map[string]*shard{}
	for _, file := range files {
		st, err := OpenSafetensors(filepath.Join(c.Dir, file))
		if err != nil {
			return err
		}
		s := &shard{file, st}
		c.shards = append(c.shards, s)
		for _, name := range st.Names() {
			other, twice := c.entries[name]
			switch place, placed := places[name]; {
			case !twice || placed && place == file:
				c.entries[name] = s
			case !placed:
				return &Error{File: st.file, Field: "tensor " + quote(name), Found: "it is in " + other.name + " too",
					Remedy: "the shards are of different models: fetch them again"}
			}
		}
	}
	c.names = slices.Sorted(maps.Keys(c.entries))
	return c.openQuantized()
}

// refusal is the remedy for a file that is not opened.
func refusal(file string) string {
	for _, r := range refusedFiles {
		if strings.HasSuffix(file, r.suffix) {
			return r.remedy
		}
	}
	return ""
}

// Names lists the tensors in alphabetical order; an ONNX or GGUF checkpoint has none.
func (c *Checkpoint) Names() []string { return c.names }

// Has reports whether there is a tensor of that name.
func (c *Checkpoint) Has(name string) bool {
	_, ok := c.entries[name]
	return ok
}

// Tensor says what the tensor of that name is and where it lies.
func (c *Checkpoint) Tensor(name string) (Entry, error) {
	s, ok := c.entries[name]
	if !ok {
		return Entry{}, missing(c.Dir, name, c.names)
	}
	e, _ := s.Entry(name)
	return e, nil
}

// Data returns a tensor without copying, see Safetensors.Tensor.
func (c *Checkpoint) Data(name string) (tensor.Tensor, error) {
	s, ok := c.entries[name]
	if !ok {
		return tensor.Tensor{}, missing(c.Dir, name, c.names)
	}
	return s.Safetensors.Tensor(name)
}

// Close unmaps the weights.
func (c *Checkpoint) Close() error {
	var errs []error
	if c.CT2 != nil {
		errs = append(errs, c.CT2.Close())
	}
	if c.GGUF != nil {
		errs = append(errs, c.GGUF.Close())
	}
	for _, s := range c.shards {
		errs = append(errs, s.Close())
	}
	c.shards, c.entries, c.names, c.quantized = nil, nil, nil, nil
	return errors.Join(errs...)
}
