package hub

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Selection says which files of a model are wanted. Empty: all that Accel reads, and nothing twice.
type Selection struct {
	Files []string // patterns as path.Match has them, of whole names or, without a slash, of last parts
	All   bool
}

// picks are files, and the one that stands for the model.
type picks struct {
	Files []File
	// Entry is the file to open, from the snapshot's folder; empty: the folder itself.
	Entry string
}

// textFiles are small files that Accel reads beside weights, by name.
var textFiles = []string{
	"config.json", "generation_config.json",
	"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
	"chat_template.jinja", "chat_template.json",
	"preprocessor_config.json", "processor_config.json",
	"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
}

// Names of weights.
const (
	wholeWeights = "model.safetensors"
	weightsIndex = "model.safetensors.index.json"
	wholeONNX    = "model.onnx"
	templates    = "additional_chat_templates/"
)

// notWeights are safetensors and GGUF files that are no model, or a second copy of one, by how
// their names begin.
var notWeights = []string{"consolidated", "adapter_model", "training_args", "optimizer", "mmproj", "imatrix"}

// pickles are weights that could run code, by the end of their names.
var pickles = []string{".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}

// otherWeights are forms that Accel does not read.
var otherWeights = []string{".h5", ".msgpack", ".tflite", ".mlmodel", ".nemo", ".ot", ".safetensors", ".gguf"}

// externalSuffixes follow an ONNX file's name, or replace its .onnx, in the names of the files
// that its tensors lie in.
var externalSuffixes = regexp.MustCompile(`^(\.onnx)?([._]data(_\d+)?|\.weights?|\.weights\.bin)$`)

var (
	moduleFolder = regexp.MustCompile(`^\d+_[A-Za-z0-9]+/`) // of sentence-transformers: 1_Pooling/
	splitPart    = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)
)

// pick chooses among a model's files. Errors: *ChoiceError, *NoModelError, *PatternError.
func pick(files []File, ref Ref, want Selection) (picks, error) {
	if want.All || len(want.Files) > 0 {
		chosen := files
		if !want.All {
			var err error
			if chosen, err = matching(files, ref, want.Files); err != nil {
				return picks{}, err
			}
		}
		p := picks{Files: chosen}
		// What was chosen by hand need not be a model.
		if model, err := pick(chosen, ref, Selection{}); err == nil {
			p.Entry = model.Entry
		}
		return p, nil
	}
	weights := safetensors(files)
	if ref.Variant == "" && len(weights) > 0 {
		return picks{Files: append(texts(files), weights...)}, nil
	}
	ggufs := models(files, ".gguf")
	if len(ggufs) > 0 && (ref.Variant == "" || len(models(files, ".onnx")) == 0 || fits(ggufs, ref.Variant) != nil) {
		one, err := choose(ggufs, ref, "GGUF")
		if err != nil {
			return picks{}, err
		}
		return picks{Files: parts(files, one.Name), Entry: one.Name}, nil
	}
	if onnx := models(files, ".onnx"); len(onnx) > 0 {
		one, err := choose(onnx, ref, "ONNX")
		if err != nil {
			return picks{}, err
		}
		return picks{Files: append(texts(files), append(external(files, one.Name), one)...), Entry: one.Name}, nil
	}
	if len(weights) > 0 {
		return picks{}, &ChoiceError{Ref: ref, Kind: "GGUF or ONNX", Files: weights}
	}
	e := &NoModelError{Ref: ref}
	for _, f := range files {
		pickle := hasSuffix(f.Name, pickles)
		if pickle || hasSuffix(f.Name, otherWeights) {
			e.Found, e.Pickles = append(e.Found, f.Name), e.Pickles || pickle
		}
	}
	return picks{}, e
}

func hasSuffix(name string, suffixes []string) bool {
	return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(strings.ToLower(name), s) })
}

func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(strings.ToLower(name), p) })
}

// atRoot returns a name without the folder of a module of sentence-transformers, and whether it
// then lies at the root.
func atRoot(name string, modules bool) (string, bool) {
	if modules {
		name = strings.TrimPrefix(name, moduleFolder.FindString(name))
	}
	return name, !strings.Contains(name, "/")
}

func hasModules(files []File) bool {
	return slices.ContainsFunc(files, func(f File) bool { return f.Name == "modules.json" })
}

func texts(files []File) []File {
	modules := hasModules(files)
	var out []File
	for _, f := range files {
		name, root := atRoot(f.Name, modules)
		if root && slices.Contains(textFiles, name) || strings.HasPrefix(f.Name, templates) && path.Ext(f.Name) == ".jinja" {
			out = append(out, f)
		}
	}
	return out
}

// safetensors returns the weights in each folder that may hold some: the whole file where there is
// one, else the shards with their index.
func safetensors(files []File) []File {
	modules := hasModules(files)
	folders := map[string][]File{}
	for _, f := range files {
		name, root := atRoot(f.Name, modules)
		if root && (name == weightsIndex || strings.HasSuffix(name, ".safetensors") && !hasPrefix(name, notWeights)) {
			folder := path.Dir(f.Name)
			folders[folder] = append(folders[folder], f)
		}
	}
	var out []File
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		in := folders[folder]
		named := func(name string) int {
			return slices.IndexFunc(in, func(f File) bool { return path.Base(f.Name) == name })
		}
		if i := named(wholeWeights); i >= 0 {
			out = append(out, in[i])
		} else if named(weightsIndex) >= 0 && len(in) > 1 {
			out = append(out, in...)
		}
	}
	return out
}

// models are the files of a form that could be a model, in any folder: of a split one the first
// part, with the size of all.
func models(files []File, ext string) []File {
	var out []File
	sizes := map[string]int64{}
	for _, f := range files {
		if path.Ext(f.Name) != ext || hasPrefix(path.Base(f.Name), notWeights) || strings.HasSuffix(f.Name, ".imatrix.gguf") {
			continue
		}
		if m := splitPart.FindStringSubmatch(f.Name); m != nil {
			sizes[m[1]+m[3]] += f.Size
			if m[2] != "00001" {
				continue
			}
		}
		out = append(out, f)
	}
	for i, f := range out {
		if m := splitPart.FindStringSubmatch(f.Name); m != nil {
			out[i].Size = sizes[m[1]+m[3]]
		}
	}
	slices.SortFunc(out, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// choose returns the one model that is meant.
func choose(of []File, ref Ref, kind string) (File, error) {
	fit := of
	if ref.Variant != "" {
		fit = fits(of, ref.Variant)
	} else if i := slices.IndexFunc(of, func(f File) bool { return f.Name == wholeONNX || f.Name == "onnx/"+wholeONNX }); i >= 0 {
		fit = of[i : i+1] // the others are the same in other precisions
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return File{}, &ChoiceError{Ref: ref, Kind: kind, Files: of}
	}
	return File{}, &ChoiceError{Ref: ref, Kind: kind, Files: fit, Matched: true}
}

// fits are the files that a variant means: by the whole name, else by its end after one of -._, or by folder.
func fits(of []File, variant string) []File {
	variant = strings.ToLower(variant)
	var exact, out []File
	for _, f := range of {
		name := strings.ToLower(f.Name)
		if m := splitPart.FindStringSubmatch(name); m != nil {
			name = m[1] + path.Ext(name)
		}
		base := path.Base(name)
		stem := strings.TrimSuffix(base, path.Ext(base))
		end, ended := strings.CutSuffix(stem, variant)
		switch {
		case variant == base || variant == stem:
			exact = append(exact, f)
		case ended && strings.ContainsAny(end[len(end)-1:], "-._"), slices.Contains(strings.Split(path.Dir(name), "/"), variant):
			out = append(out, f)
		}
	}
	if exact != nil {
		return exact
	}
	return out
}

// parts are all parts of the GGUF file that a name belongs to.
func parts(files []File, name string) []File {
	m := splitPart.FindStringSubmatch(name)
	var out []File
	for _, f := range files {
		p := splitPart.FindStringSubmatch(f.Name)
		if f.Name == name || m != nil && p != nil && p[1] == m[1] && p[3] == m[3] {
			out = append(out, f)
		}
	}
	return out
}

// external are the files that an ONNX file's tensors lie in, by how they are usually called.
func external(files []File, name string) []File {
	stem := strings.TrimSuffix(name, ".onnx")
	var out []File
	for _, f := range files {
		if rest, ok := strings.CutPrefix(f.Name, stem); ok && externalSuffixes.MatchString(rest) {
			out = append(out, f)
		}
	}
	return out
}

// matching are the files that patterns fit, and all parts of split ones.
func matching(files []File, ref Ref, patterns []string) ([]File, error) {
	wanted := map[string]File{}
	for _, p := range patterns {
		found := false
		for _, f := range files {
			name := f.Name
			if !strings.Contains(p, "/") {
				name = path.Base(name)
			}
			ok, err := path.Match(p, name)
			if err != nil {
				return nil, &PatternError{Pattern: p}
			}
			if ok {
				found = true
				for _, part := range parts(files, f.Name) {
					wanted[part.Name] = part
				}
			}
		}
		if !found {
			e := &PatternError{Pattern: p, Ref: ref, Files: []string{}}
			for _, f := range files {
				e.Files = append(e.Files, f.Name)
			}
			return nil, e
		}
	}
	var out []File
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		out = append(out, wanted[name])
	}
	return out, nil
}
