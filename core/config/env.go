package config

import (
	stdbytes "bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// reserved are ACCEL_ variables that are not keys of the configuration. One that
// ends in an underscore stands for all that begin so.
var reserved = []string{
	"ACCEL_BACKEND",     // between the core and its backend processes
	"ACCEL_BIN",         // tests: the built programs
	"ACCEL_CONFIG",      // the configuration file, read by the command line
	"ACCEL_CPU_ISA",     // forces the CPU backend's instruction set
	"ACCEL_OPENVINO",    // where the OpenVINO backend finds its runtime
	"ACCEL_PARENT_PIPE", // between the core and its backend processes
	"ACCEL_PEER_PYTHON", // benchmarks: what to measure against
	"ACCEL_SHARED",      // test data
	"ACCEL_TEST_",       // tests
}

// foreign are variables of huggingface_hub (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables)
// and freedesktop.org, and the keys that they are defaults of: a file goes over them. Later ones go over earlier ones.
var foreign = []struct {
	name, key string
	value     func(string) any // nil: as it stands
}{
	{"XDG_CACHE_HOME", "hub.cache", below("huggingface", "hub")},
	{"XDG_DATA_HOME", "hosts.installed", below("accel", "backends")}, // freedesktop.org's
	{"HF_HOME", "hub.cache", below("hub")},
	{"HUGGINGFACE_HUB_CACHE", "hub.cache", nil},
	{"HF_HUB_CACHE", "hub.cache", nil},
	{"HF_ENDPOINT", "hub.endpoints", func(v string) any { return []string{strings.TrimRight(v, "/")} }},
	{"HUGGING_FACE_HUB_TOKEN", "hub.token", nil},
	{"HF_TOKEN", "hub.token", nil},
	{"HF_HUB_OFFLINE", "hub.offline", func(v string) any { return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(v)) }},
}

func below(folders ...string) func(string) any {
	return func(v string) any { return filepath.Join(append([]string{v}, folders...)...) }
}

// readForeign makes a tree of each foreign variable that is set.
func readForeign(environ []string) []layer {
	var layers []layer
	for _, f := range foreign {
		for _, kv := range environ {
			name, value, _ := strings.Cut(kv, "=")
			if name != f.name || value == "" {
				continue
			}
			var v any = value
			if f.value != nil {
				v = f.value(value)
			}
			layers = append(layers, layer{origin: Origin{Kind: FromEnv, Name: name}, root: wrap(strings.Split(f.key, "."), fromPlain(v))})
		}
	}
	return layers
}

// envNames maps each variable to its key.
var envNames = func() map[string]string {
	names := map[string]string{}
	configSpec.paths("", func(path string, f *spec) {
		if f.settable() {
			if other, ok := names[f.env]; ok {
				panic(fmt.Sprintf("config: %s and %s share %s", other, path, f.env))
			}
			names[f.env] = path
		}
	})
	return names
}()

// readEnv picks the ACCEL_ variables out of an environment and makes one tree of
// each. Empty ones count as not set.
func readEnv(environ []string, errs *Errors) []layer {
	var layers []layer
	sorted := append([]string(nil), environ...)
	sort.Strings(sorted)
	for _, kv := range sorted {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || !strings.HasPrefix(name, "ACCEL_") || value == "" || isReserved(name) {
			continue
		}
		origin := Origin{Kind: FromEnv, Name: name}
		key, ok := envNames[name]
		if !ok {
			known := make([]string, 0, len(envNames))
			for k := range envNames {
				known = append(known, k)
			}
			sort.Strings(known)
			remedy := "`accel config schema` lists the keys; a variable is ACCEL_ and the key in capitals, dots as underscores"
			if near := Nearest(name, known); near != "" {
				remedy = fmt.Sprintf("did you mean %s?", near)
			}
			*errs = append(*errs, &Error{Origin: origin, Problem: "no key has this variable", Remedy: remedy})
			continue
		}
		path := strings.Split(key, ".")
		leaf := configSpec
		for _, p := range path {
			leaf = leaf.field(p)
		}
		n, err := fromEnv(leaf, value)
		if err != nil {
			*errs = append(*errs, &Error{Key: key, Origin: origin, Problem: err.Error(), Remedy: "write it as JSON"})
			continue
		}
		layers = append(layers, layer{origin: origin, root: wrap(path, n)})
	}
	return layers
}

func isReserved(name string) bool {
	for _, r := range reserved {
		if name == r || strings.HasSuffix(r, "_") && strings.HasPrefix(name, r) {
			return true
		}
	}
	return false
}

// fromEnv reads a variable's text as the key wants it: lists as a, b or as JSON,
// tables as JSON, all else as it stands.
func fromEnv(s *spec, value string) (*node, error) {
	switch s.kind {
	case table:
		return parseJSON([]byte(value))
	case list:
		if s.pathList {
			return fromPlain(filepath.SplitList(value)), nil
		}
		if stdbytes.HasPrefix([]byte(strings.TrimSpace(value)), []byte("[")) {
			return parseJSON([]byte(value))
		}
		var parts []string
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				parts = append(parts, part)
			}
		}
		return fromPlain(parts), nil
	case boolean:
		if b, err := strconv.ParseBool(value); err == nil {
			return &node{value: b}, nil
		}
	case integer:
		var n json.Number
		if json.Unmarshal([]byte(value), &n) == nil {
			if i, err := n.Int64(); err == nil {
				return &node{value: i}, nil
			}
		}
	}
	return &node{value: value}, nil
}

// wrap puts a node below the keys that lead to it.
func wrap(path []string, n *node) *node {
	for i := len(path) - 1; i >= 0; i-- {
		n = &node{shape: mapping, line: n.line, pairs: []pair{{key: path[i], line: n.line, node: n}}}
	}
	return n
}
