package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// delim stands between keys inside koanf. Names of models hold dots and slashes,
// so it is one that no name may hold.
const delim = "\x1f"

// Sources is where a configuration comes from, in order of precedence: each is
// laid over the one before. Maps are merged name by name, lists replaced. Variables
// of other programs are defaults: they come before the files.
type Sources struct {
	Defaults Config
	File     string // YAML or JSON; empty: none
	RunFile  string // a file that also says what to run; empty: none
	Run      bool   // flags say what to run, with or without such a file
	Environ  []string
	Flags    []Flag
}

// Flag is a value that was given on the command line.
type Flag struct {
	Name  string   // as the user writes it, with its dashes
	Key   []string // of the configuration, or of a run file where there is one
	Value any      // string, bool, int, []string or map[string]any
}

// Loaded is a checked configuration that knows where each value came from.
type Loaded struct {
	Config Config
	Run    *Run // nil where nothing says what to run

	origins map[string]Origin
}

// layer is what one source says.
type layer struct {
	origin Origin
	dir    string
	root   *node
}

// Load reads, checks and merges the sources. Its error is of type Errors.
func Load(src Sources) (*Loaded, error) {
	var errs Errors
	layers := src.layers(&errs)

	root := configSpec
	defaults := any(src.Defaults)
	runs := src.Run || src.RunFile != ""
	if runs {
		root, defaults = runSpec, runFile{Config: src.Defaults, Run: defaultRun()}
	}
	k := koanf.New(delim)
	if err := k.Load(confmap.Provider(root.plain(reflect.ValueOf(defaults)), ""), nil); err != nil {
		return nil, fmt.Errorf("config: defaults: %w", err)
	}
	l := &Loaded{origins: map[string]Origin{}}
	for _, layer := range layers {
		c := &checker{origin: layer.origin, dir: layer.dir, origins: l.origins, errs: &errs}
		values := c.section(root, layer.root, nil)
		if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
			return nil, fmt.Errorf("config: %v: %w", layer.origin, err)
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	var out runFile
	strict := koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{ErrorUnused: true}}
	if err := k.UnmarshalWithConf("", &out, strict); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	l.Config = out.Config
	if runs {
		l.Run = &out.Run
		l.checkRun(src.RunFile, &errs)
	}
	l.checkWhole(&errs)
	if len(errs) > 0 {
		return nil, errs
	}
	return l, nil
}

func (src *Sources) layers(errs *Errors) []layer {
	layers := readForeign(src.Environ)
	for _, file := range []string{src.File, src.RunFile} {
		if file == "" {
			continue
		}
		origin := Origin{Kind: FromFile, Name: file}
		root, err := parseFile(file)
		if err != nil {
			*errs = append(*errs, fileError(origin, err))
			continue
		}
		layers = append(layers, layer{origin, filepath.Dir(file), root})
	}
	layers = append(layers, readEnv(src.Environ, errs)...)
	for _, f := range src.Flags {
		layers = append(layers, layer{origin: Origin{Kind: FromFlag, Name: f.Name}, root: wrap(f.Key, fromPlain(f.Value))})
	}
	return layers
}

func fileError(origin Origin, err error) *Error {
	e := &Error{Origin: origin, Problem: err.Error(), Remedy: "a configuration is a YAML or JSON file; `accel config schema` describes it"}
	var pe *parseError
	switch {
	case errors.As(err, &pe):
		e.Origin.Line = pe.line
		e.Remedy = ""
	case errors.Is(err, fs.ErrNotExist):
		e.Problem, e.Remedy = "there is no such file", "check the path"
	}
	return e
}

// checkRun checks what a run file must say.
func (l *Loaded) checkRun(file string, errs *Errors) {
	origin := Origin{Kind: FromFile, Name: file}
	if file == "" {
		origin = Origin{Kind: FromDefault}
	}
	l.required(runOnlySpec, reflect.ValueOf(*l.Run), origin, errs)
	for _, key := range taskKeys {
		if !slices.Contains(strings.Split(key.task, " or "), l.Run.Task) && key.given(l.Run) {
			*errs = append(*errs, &Error{Key: key.name, Origin: l.Origin(key.name), Problem: fmt.Sprintf("it is for the task %s, this is %s", key.task, l.Run.Task), Remedy: "leave it out"})
		}
	}
	if of, ok := taskFormats[l.Run.Output.Format]; ok && !slices.Contains(of, l.Run.Task) {
		*errs = append(*errs, &Error{Key: "output.format", Origin: l.Origin("output.format"),
			Problem: fmt.Sprintf("%s is for the task %s, this is %s", l.Run.Output.Format, strings.Join(of, " or "), l.Run.Task)})
	}
	l.checkBatch(origin, errs)
	if l.Run.Task == "transcribe" && l.Run.Inputs.File == "" {
		*errs = append(*errs, &Error{Key: "inputs.file", Origin: origin, Problem: "it is required and not set", Remedy: "name a sound"})
	}
	if in := l.Run.Inputs; l.Run.Task == "embed" && (in.File == "") == (len(in.Texts) == 0) {
		*errs = append(*errs, &Error{Key: "inputs", Origin: origin,
			Problem: "want either a file or texts", Remedy: "give `file: FILE`, one text a line, or `texts: [...]`"})
	}
	if in := l.Run.Inputs; (l.Run.Task == "classify" || l.Run.Task == "detect") && (in.File == "") == (in.Frames == "") {
		*errs = append(*errs, &Error{Key: "inputs", Origin: origin, Problem: "there is no file", Remedy: "give `file: FILE`, or a folder of files"})
	}
	if l.Run.Model != "" {
		l.nameRunModel(filepath.Dir(file))
	}
}

// checkBatch checks what the task generate must say.
func (l *Loaded) checkBatch(origin Origin, errs *Errors) {
	r := l.Run
	if r.Task != "generate" {
		return
	}
	if r.Inputs.File == "" {
		*errs = append(*errs, &Error{Key: "inputs.file", Origin: origin, Problem: "it is required and not set", Remedy: "name a file of JSON lines"})
	}
	if r.Output.Resume && r.Output.File == "" {
		*errs = append(*errs, &Error{Key: "output.resume", Origin: l.Origin("output.resume"), Problem: "there is no file to go on with", Remedy: "set output.file"})
	}
	if most := l.Config.Generate.MaxWaiting; r.Concurrency > most {
		*errs = append(*errs, &Error{Key: "concurrency", Value: strconv.Itoa(r.Concurrency), Origin: l.Origin("concurrency"),
			Problem: fmt.Sprintf("no more than generate.max_waiting (%d) requests may wait for a model", most), Remedy: "lower it, or raise the other"})
	}
}

// taskKeys are those keys of a run that only some tasks have.
var taskKeys = []struct {
	name, task string
	given      func(*Run) bool
}{
	{"inputs.texts", "embed", func(r *Run) bool { return len(r.Inputs.Texts) > 0 }},
	{"inputs.truncate", "embed", func(r *Run) bool { return r.Inputs.Truncate }},
	{"inputs.tensors", "infer", func(r *Run) bool { return len(r.Inputs.Tensors) > 0 }},
	{"inputs.generate", "infer", func(r *Run) bool { return r.Inputs.Generate != "" }},
	{"inputs.dims", "infer", func(r *Run) bool { return len(r.Inputs.Dims) > 0 }},
	{"inputs.cast", "infer", func(r *Run) bool { return r.Inputs.Cast }},
	{"output.only", "infer", func(r *Run) bool { return len(r.Output.Only) > 0 }},
	{"output.record", "infer", func(r *Run) bool { return r.Output.Record != "" }},
	{"output.order", "generate", func(r *Run) bool { return r.Output.Order != "" }},
	{"output.resume", "generate", func(r *Run) bool { return r.Output.Resume }},
	{"inputs.frames", "classify", func(r *Run) bool { return r.Inputs.Frames != "" }},
	{"output.pictures", "classify or detect", func(r *Run) bool { return r.Output.Pictures != "" }},
	{"request", "generate or transcribe or classify or detect", func(r *Run) bool { return len(r.Request) > 0 }},
	{"concurrency", "generate", func(r *Run) bool { return r.Concurrency > 0 }},
	{"repeat", "infer", func(r *Run) bool { return r.Repeat > 0 }},
}

// taskFormats are those formats of a run's output that only some tasks have.
var taskFormats = map[string][]string{"jsonl": {"embed", "generate", "classify", "detect"}, "npy": {"embed", "infer"}, "npz": {"infer"}, "pb": {"infer"},
	"text": {"transcribe"}, "srt": {"transcribe"}, "vtt": {"transcribe"}, "verbose_json": {"transcribe"}}

// nameRunModel gives the run's model a name under models where a path was given,
// so that there is one way for a model to be known.
func (l *Loaded) nameRunModel(dir string) {
	r := l.Run
	m, named := l.Config.Models[r.Model]
	if !named {
		from := l.origins["model"]
		c := checker{}
		if from.Kind == FromFile {
			c.dir = dir
		}
		m = Model{Path: c.resolve(r.Model)}
		name := filepath.Base(m.Path)
		if _, taken := l.Config.Models[name]; taken {
			name = m.Path
		}
		l.origins[keyPath{"models", name, "path"}.String()] = from
		r.Model = name
	}
	if r.Platform != "" {
		m.Platform = r.Platform
		l.origins[keyPath{"models", r.Model, "platform"}.String()] = l.origins["platform"]
	}
	if r.Precision != "" {
		m.Precision = r.Precision
		l.origins[keyPath{"models", r.Model, "precision"}.String()] = l.origins["precision"]
	}
	if l.Config.Models == nil {
		l.Config.Models = map[string]Model{}
	}
	l.Config.Models[r.Model] = m
}

// checkWhole checks what no single source can know: that nothing required is
// missing, and values that bound each other.
func (l *Loaded) checkWhole(errs *Errors) {
	l.required(configSpec, reflect.ValueOf(l.Config), Origin{Kind: FromDefault}, errs)
	if b := l.Config.Hosts.Backoff; b.First > b.Max {
		*errs = append(*errs, &Error{Key: "hosts.backoff.first", Value: b.First.String(), Origin: l.Origin("hosts.backoff.first"),
			Problem: fmt.Sprintf("it is longer than hosts.backoff.max (%v)", b.Max), Remedy: "lower it, or raise the other"})
	}
}

// required reports what is required and empty. otherwise is where it should have
// been given, for keys that nobody gave.
func (l *Loaded) required(root *spec, v reflect.Value, otherwise Origin, errs *Errors) {
	root.walk(v, nil, func(key keyPath, s *spec, v reflect.Value) {
		if !s.required || !v.IsZero() {
			return
		}
		e := &Error{Key: key.String(), Origin: otherwise, Problem: "it is required and not set", Remedy: "set it"}
		if s.env != "" {
			e.Remedy = "set it, or $" + s.env
		}
		// An entry of a table that lacks a key has a place of its own.
		if o, ok := l.origins[key.String()]; ok {
			e.Origin = o
		} else if o, ok := l.origins[key[:len(key)-1].String()]; ok {
			e.Origin = o
		}
		*errs = append(*errs, e)
	})
}

// walk calls visit with every value below a section, in the order of the struct
// and, in tables, of the names. Sections themselves are not visited.
func (s *spec) walk(v reflect.Value, key keyPath, visit func(keyPath, *spec, reflect.Value)) {
	for _, f := range s.fields {
		f.walkValue(v.FieldByIndex(f.index), key.child(f.name), visit)
	}
}

func (s *spec) walkValue(v reflect.Value, key keyPath, visit func(keyPath, *spec, reflect.Value)) {
	switch {
	case s.kind == section:
		s.walk(v, key, visit)
	case s.kind == table && v.Len() > 0:
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, n := range names {
			s.elem.walkValue(v.MapIndex(n), key.child(n.String()), visit)
		}
	default:
		visit(key, s, v)
	}
}

// Origin returns where the value of a dotted key comes from.
func (l *Loaded) Origin(key string) Origin {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return Origin{Kind: FromDefault}
}

// plain returns a section's values as nested maps, empty tables left out.
func (s *spec) plain(v reflect.Value) map[string]any {
	out := map[string]any{}
	s.walk(v, nil, func(key keyPath, f *spec, v reflect.Value) {
		if f.kind == table {
			return
		}
		m := out
		for _, k := range key[:len(key)-1] {
			next, ok := m[k].(map[string]any)
			if !ok {
				next = map[string]any{}
				m[k] = next
			}
			m = next
		}
		m[key[len(key)-1]] = v.Interface()
	})
	return out
}
