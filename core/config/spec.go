package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// spec describes one key: what the tags of the struct say.
type spec struct {
	name     string
	doc      string
	kind     kind
	typ      reflect.Type
	index    []int   // of the struct field within its section
	fields   []*spec // of a section, in the order of the struct
	elem     *spec   // of a list or table
	enum     []string
	min      *int64
	format   string
	env      string // variable; empty within tables and lists
	pathList bool   // the variable is split as PATH is
	path     bool
	required bool
}

// kind is what a key holds, as people would call it.
type kind string

const (
	section  kind = "a section"
	table    kind = "a map of names"
	list     kind = "a list"
	text     kind = "text"
	secret   kind = "secret text"
	boolean  kind = "true or false"
	integer  kind = "a whole number"
	duration kind = "a duration"
	bytes    kind = "a number of bytes"
	free     kind = "anything"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	secretType   = reflect.TypeFor[Secret]()
)

// runFile is what a run file may hold.
type runFile struct {
	Run    `koanf:",squash"`
	Config `koanf:",squash"`
}

var (
	configSpec  = newSpec(reflect.TypeFor[Config](), "", true)
	runOnlySpec = newSpec(reflect.TypeFor[Run](), "", false)
	runSpec     = newSpec(reflect.TypeFor[runFile](), "", true)
)

// newSpec reads the tags of a type. It panics on a tag or type that it does not
// know: both are this package's own.
func newSpec(t reflect.Type, prefix string, env bool) *spec {
	s := &spec{typ: t}
	switch {
	case t == durationType:
		s.kind = duration
	case t == bytesType:
		s.kind = bytes
	case t == secretType:
		s.kind = secret
	default:
		switch t.Kind() {
		case reflect.Struct:
			s.kind = section
			s.addFields(t, nil, prefix, env)
		case reflect.Map:
			s.kind, s.elem = table, newSpec(t.Elem(), "", false)
		case reflect.Slice:
			s.kind, s.elem = list, newSpec(t.Elem(), "", false)
		case reflect.String:
			s.kind = text
		case reflect.Bool:
			s.kind = boolean
		case reflect.Int:
			s.kind = integer
		case reflect.Interface:
			s.kind = free
		default:
			panic(fmt.Sprintf("config: no key may be of type %v", t))
		}
	}
	return s
}

func (s *spec) addFields(t reflect.Type, index []int, prefix string, env bool) {
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(append([]int(nil), index...), i)
		name := sf.Tag.Get("koanf")
		if name == ",squash" {
			// Of a run file only the sections have variables.
			s.addFields(sf.Type, at, prefix, sf.Type == reflect.TypeFor[Config]())
			continue
		}
		f := newSpec(sf.Type, prefix+name+"_", env)
		f.name, f.index, f.doc = name, at, sf.Tag.Get("doc")
		f.required = sf.Tag.Get("required") == "true"
		f.pathList = sf.Tag.Get("list") == "path"
		if env {
			if f.env = sf.Tag.Get("env"); f.env == "" {
				f.env = "ACCEL_" + strings.ToUpper(prefix+name)
			}
		}
		leaf := f
		for leaf.elem != nil && leaf.elem.kind != section {
			if leaf.kind == list {
				f.setMin(sf.Tag.Get("min"), leaf)
			}
			leaf = leaf.elem
		}
		if leaf.kind != section && f.elem == nil {
			f.setMin(sf.Tag.Get("min"), f)
		}
		if e := sf.Tag.Get("enum"); e != "" {
			leaf.enum = strings.Split(e, ",")
		}
		leaf.path = sf.Tag.Get("path") == "true"
		if leaf.format = sf.Tag.Get("format"); leaf.format != "" {
			if _, ok := formats[leaf.format]; !ok {
				panic("config: unknown format " + leaf.format)
			}
		}
		s.fields = append(s.fields, f)
	}
}

func (s *spec) setMin(tag string, at *spec) {
	if tag == "" {
		return
	}
	n, err := strconv.ParseInt(tag, 10, 64)
	if err != nil {
		panic("config: bad min of " + s.name)
	}
	at.min = &n
}

// field returns the spec of a name within a section.
func (s *spec) field(name string) *spec {
	for _, f := range s.fields {
		if f.name == name {
			return f
		}
	}
	return nil
}

// names returns the names within a section, in order.
func (s *spec) names() []string {
	var names []string
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	return names
}

// paths calls yield with the dotted path of every key below s that is not in a table.
func (s *spec) paths(prefix string, yield func(path string, f *spec)) {
	for _, f := range s.fields {
		yield(prefix+f.name, f)
		f.paths(prefix+f.name+".", yield)
	}
}

// settable reports whether a key holds a value of its own.
func (s *spec) settable() bool { return s.kind != section }
