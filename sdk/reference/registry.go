package reference

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// newest is the operator set version up to which each domain is known. What a
// later one means is not known, so it is refused.
var newest = map[string]int64{
	graph.DomainONNX:      28,
	graph.DomainMicrosoft: 1,
	graph.DomainAccel:     1,
	graph.DomainPreview:   1,
	graph.DomainTraining:  1,
	graph.DomainML:        5,
}

// spec is a row of the operator tables: what one implementation computes.
type spec struct {
	name string
	// versions are all since_versions of the ONNX operator that mean the same, or
	// that the implementation tells apart by Operator.Version.
	versions []int64
	// sig is the signature: "A T:float, B? T, rest... i64|i32 -> Y T". A capital
	// letter binds an element type; without one each value is on its own.
	sig string
	// attrs are the attributes: "axis int=-1, perm ints, to int!, mode string=a|b".
	// "!" marks a required one; the first of several strings is the default.
	attrs string
	eval  func(*call) error
}

func since(v ...int64) []int64 { return v }

// Operator is one version of one operator.
type Operator struct {
	Domain  string
	Name    string
	Version int64 // since_version

	inputs, outputs []param
	attrs           map[string]attrSpec
	eval            func(*call) error
}

// typeSet is a set of element types, by ONNX number.
type typeSet uint32

func setOf(types ...tensor.DType) typeSet {
	s := typeSet(0)
	for _, t := range types {
		s |= 1 << t
	}
	return s
}

func (s typeSet) has(d tensor.DType) bool { return s>>d&1 == 1 }

func (s typeSet) String() string {
	var names []string
	for d := tensor.Undefined + 1; d.Valid(); d++ {
		if s.has(d) {
			names = append(names, d.String())
		}
	}
	return strings.Join(names, ", ")
}

var typeNames = map[string]typeSet{
	"f32": setOf(tensor.Float32), "f64": setOf(tensor.Float64), "f16": setOf(tensor.Float16), "bf16": setOf(tensor.BFloat16),
	"i8": setOf(tensor.Int8), "i16": setOf(tensor.Int16), "i32": setOf(tensor.Int32), "i64": setOf(tensor.Int64),
	"u8": setOf(tensor.Uint8), "u16": setOf(tensor.Uint16), "u32": setOf(tensor.Uint32), "u64": setOf(tensor.Uint64),
	"i4": setOf(tensor.Int4), "u4": setOf(tensor.Uint4), "i2": setOf(tensor.Int2), "u2": setOf(tensor.Uint2),
	"f4": setOf(tensor.Float4E2M1), "e8m0": setOf(tensor.Float8E8M0),
	"bool": setOf(tensor.Bool), "string": setOf(tensor.String),
	"float": floatTypes, "int": intTypes, "num": floatTypes | intTypes, "f8": float8Types,
	"idx":    setOf(tensor.Int32, tensor.Int64),
	"narrow": setOf(tensor.Int4, tensor.Uint4, tensor.Int2, tensor.Uint2, tensor.Float4E2M1),
	"any":    1<<(tensor.Int2+1) - 2,
}

var (
	floatTypes  = setOf(tensor.Float16, tensor.BFloat16, tensor.Float32, tensor.Float64)
	float8Types = setOf(tensor.Float8E4M3, tensor.Float8E4M3UZ, tensor.Float8E5M2, tensor.Float8E5M2UZ)
	intTypes    = setOf(tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64, tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64)
)

// kindSet is a set of graph.TypeKind.
type kindSet uint16

const (
	tensorKind   kindSet = 1 << graph.KindTensor
	sequenceKind kindSet = 1 << graph.KindSequence
	optionalKind kindSet = 1 << graph.KindOptional
)

var kindNames = map[string]kindSet{
	"seq":   sequenceKind,
	"opt":   optionalKind,
	"value": tensorKind | sequenceKind | optionalKind,
}

// param is an input or output of a signature.
type param struct {
	name     string
	optional bool
	variadic bool
	bind     string // type variable, or empty
	types    typeSet
	kinds    kindSet
}

// attrSpec is an attribute of an operator.
type attrSpec struct {
	kind     graph.AttrKind
	required bool
	def      *graph.Attr
	allowed  []string // for strings; nil: any
}

func parseSignature(s string) (in, out []param) {
	left, right, ok := strings.Cut(s, "->")
	if !ok {
		panic("reference: signature without an arrow: " + s)
	}
	binds := map[string]param{}
	return parseParams(left, binds), parseParams(right, binds)
}

func parseParams(s string, binds map[string]param) []param {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil
	}
	var ps []param
	for _, one := range strings.Split(s, ",") {
		name, typ, ok := strings.Cut(strings.TrimSpace(one), " ")
		if !ok {
			panic("reference: parameter without a type: " + one)
		}
		p := param{}
		p.name, p.optional = strings.CutSuffix(name, "?")
		p.name, p.variadic = strings.CutSuffix(p.name, "...")
		bind, names, hasNames := strings.Cut(typ, ":")
		switch {
		case hasNames:
			p.bind = bind
			p.types, p.kinds = parseTypes(names)
			binds[bind] = p
		case bind[0] >= 'A' && bind[0] <= 'Z':
			first, ok := binds[bind]
			if !ok {
				panic("reference: type variable without types: " + s)
			}
			p.bind, p.types, p.kinds = bind, first.types, first.kinds
		default:
			p.types, p.kinds = parseTypes(bind)
		}
		ps = append(ps, p)
	}
	return ps
}

func parseTypes(s string) (types typeSet, kinds kindSet) {
	for _, n := range strings.Split(s, "|") {
		if k, ok := kindNames[n]; ok {
			kinds |= k
			types |= typeNames["any"]
			continue
		}
		t, ok := typeNames[n]
		if !ok {
			panic("reference: unknown type name " + n)
		}
		types |= t
		kinds |= tensorKind
	}
	return types, kinds
}

var attrKinds = map[string]graph.AttrKind{
	"float": graph.AttrFloat, "int": graph.AttrInt, "string": graph.AttrString, "tensor": graph.AttrTensor,
	"graph": graph.AttrGraph, "floats": graph.AttrFloats, "ints": graph.AttrInts, "strings": graph.AttrStrings,
	"sparse": graph.AttrSparse, "type": graph.AttrType,
}

func parseAttrs(s string) map[string]attrSpec {
	attrs := map[string]attrSpec{}
	for _, one := range strings.Split(s, ",") {
		one = strings.TrimSpace(one)
		if one == "" {
			continue
		}
		name, typ, _ := strings.Cut(one, " ")
		typ, def, hasDef := strings.Cut(typ, "=")
		a := attrSpec{}
		typ, a.required = strings.CutSuffix(typ, "!")
		kind, ok := attrKinds[typ]
		if !ok {
			panic("reference: unknown attribute type in " + one)
		}
		a.kind = kind
		if hasDef {
			a.def = &graph.Attr{Name: name, Kind: kind}
			var err error
			switch kind {
			case graph.AttrInt:
				a.def.Int, err = strconv.ParseInt(def, 0, 64)
			case graph.AttrFloat:
				var f float64
				f, err = strconv.ParseFloat(def, 32)
				a.def.Float = float32(f)
			case graph.AttrString:
				a.def.String, _, _ = strings.Cut(def, "|")
				if strings.Contains(def, "|") {
					a.allowed = strings.Split(def, "|")
				}
			default:
				err = fmt.Errorf("no defaults for this kind")
			}
			if err != nil {
				panic("reference: bad default in " + one)
			}
		}
		attrs[name] = a
	}
	return attrs
}

type opKey struct{ domain, name string }

// registry holds the versions of each operator, newest first.
var registry map[opKey][]*Operator

func init() {
	registry = map[opKey][]*Operator{}
	for domain, tables := range map[string][][]spec{
		graph.DomainONNX:      onnxTables,
		graph.DomainMicrosoft: {microsoftOps},
		graph.DomainAccel:     {accelOps},
		graph.DomainPreview:   {previewOps},
		graph.DomainTraining:  {trainingOps},
		graph.DomainML:        {mlOps},
	} {
		for _, table := range tables {
			for _, s := range table {
				in, out := parseSignature(s.sig)
				attrs := parseAttrs(s.attrs)
				key := opKey{domain, s.name}
				for _, v := range s.versions {
					registry[key] = append(registry[key], &Operator{
						Domain: domain, Name: s.name, Version: v, inputs: in, outputs: out, attrs: attrs, eval: s.eval,
					})
				}
			}
		}
	}
	for key, ops := range registry {
		slices.SortFunc(ops, func(a, b *Operator) int { return int(b.Version - a.Version) })
		for i := 1; i < len(ops); i++ {
			if ops[i].Version == ops[i-1].Version {
				panic(fmt.Sprintf("reference: %s version %d is registered twice", opName(key.domain, key.name), ops[i].Version))
			}
		}
	}
}

// Lookup finds the version of an operator that an operator set uses.
func Lookup(domain, name string, opset int64) (*Operator, bool) {
	if opset > newest[domain] {
		return nil, false
	}
	for _, o := range registry[opKey{domain, name}] {
		if o.Version <= opset {
			return o, true
		}
	}
	return nil, false
}

// Supports reports as *UnsupportedError why a node can't be computed, or nil.
// types are those of the node's inputs as far as they are known: entries may be
// nil, the list may be short. Nodes inside subgraphs are not looked at.
func Supports(node *graph.Node, opset int64, types []*graph.Type) error {
	_, u := resolve(node, opset, types)
	if u != nil {
		return &UnsupportedError{Nodes: []UnsupportedNode{*u}}
	}
	return nil
}

func resolve(node *graph.Node, opset int64, types []*graph.Type) (*Operator, *UnsupportedNode) {
	no := &UnsupportedNode{Name: nodeName(node), Domain: node.Domain, OpType: node.OpType, Opset: opset, Cause: UnknownOperator}
	top, known := newest[node.Domain]
	switch {
	case !known:
		no.Reason = fmt.Sprintf("domain %q is not known", node.Domain)
		return nil, no
	case opset > top:
		no.Reason = fmt.Sprintf("the operator set is newer than version %d, the newest known", top)
		return nil, no
	}
	op, ok := Lookup(node.Domain, node.OpType, opset)
	if !ok {
		no.Reason = "the operator is not known"
		if all := registry[opKey{node.Domain, node.OpType}]; len(all) > 0 {
			no.Reason = fmt.Sprintf("the operator is known from operator set %d on", all[len(all)-1].Version)
		}
		return nil, no
	}
	if no.Cause, no.Reason = op.check(node, types); no.Reason != "" {
		return nil, no
	}
	return op, nil
}

// check compares a node with the signature. The reason is empty when it fits.
func (o *Operator) check(node *graph.Node, types []*graph.Type) (Cause, string) {
	for _, a := range node.Attrs {
		s, ok := o.attrs[a.Name]
		switch {
		case !ok:
			return WrongAttribute, fmt.Sprintf("attribute %q is not known", a.Name)
		case a.Ref != "":
			// Known once the function is called.
		case a.Kind != s.kind:
			return WrongAttribute, fmt.Sprintf("attribute %q is of kind %d, wants %d", a.Name, a.Kind, s.kind)
		case s.allowed != nil && !slices.Contains(s.allowed, a.String):
			return WrongAttribute, fmt.Sprintf("attribute %q is %q, wants one of %s", a.Name, a.String, strings.Join(s.allowed, ", "))
		}
	}
	for name, s := range o.attrs {
		if s.required && node.Attr(name) == nil {
			return WrongAttribute, fmt.Sprintf("attribute %q is missing", name)
		}
	}
	bound := map[string]tensor.DType{}
	for i, t := range types {
		if t == nil || i >= len(node.Inputs) || node.Inputs[i] == "" {
			continue
		}
		p, ok := o.input(i)
		if !ok {
			continue // eval and the plan complain about the number of inputs
		}
		if why := p.accepts(t.Kind, t.Elem, bound); why != "" {
			return WrongType, fmt.Sprintf("input %d (%s) %s", i, p.name, why)
		}
	}
	return "", ""
}

// input is the parameter that input i belongs to.
func (o *Operator) input(i int) (param, bool) { return paramAt(o.inputs, i) }

func paramAt(ps []param, i int) (param, bool) {
	if i < len(ps) {
		return ps[i], true
	}
	if n := len(ps); n > 0 && ps[n-1].variadic {
		return ps[n-1], true
	}
	return param{}, false
}

// accepts says why a value does not fit, or nothing. Element types of tensors
// are bound to the parameter's type variable.
func (p param) accepts(kind graph.TypeKind, d tensor.DType, bound map[string]tensor.DType) string {
	if p.kinds>>kind&1 == 0 {
		return fmt.Sprintf("is of kind %s, wants %s", kindName(kind), p.kindNames())
	}
	if kind != graph.KindTensor || d == tensor.Undefined {
		return ""
	}
	if !p.types.has(d) {
		return fmt.Sprintf("is of type %s, wants one of %s", d, p.types)
	}
	if p.bind == "" {
		return ""
	}
	if b, ok := bound[p.bind]; ok && b != d {
		return fmt.Sprintf("is of type %s, an earlier one of the same type variable is of %s", d, b)
	}
	bound[p.bind] = d
	return ""
}

func kindName(k graph.TypeKind) string {
	switch k {
	case graph.KindTensor:
		return "tensor"
	case graph.KindSequence:
		return "sequence"
	case graph.KindOptional:
		return "optional"
	}
	return fmt.Sprintf("kind %d", k)
}

func (p param) kindNames() string {
	var names []string
	for _, k := range []graph.TypeKind{graph.KindTensor, graph.KindSequence, graph.KindOptional} {
		if p.kinds>>k&1 == 1 {
			names = append(names, kindName(k))
		}
	}
	return strings.Join(names, " or ")
}

// arity says what is wrong with the number of inputs and outputs, or nothing.
func (o *Operator) arity(inputs, outputs []string) string {
	if why := arityOf("input", o.inputs, inputs); why != "" {
		return why
	}
	return arityOf("output", o.outputs, outputs)
}

func arityOf(what string, ps []param, names []string) string {
	for i, n := range names {
		p, ok := paramAt(ps, i)
		if !ok {
			return fmt.Sprintf("has %d %ss, at most %d are known", len(names), what, len(ps))
		}
		if n == "" && what == "input" && !p.optional && !p.variadic {
			return fmt.Sprintf("%s %d (%s) is left out", what, i, p.name)
		}
	}
	for i := len(names); i < len(ps); i++ {
		if p := ps[i]; !p.optional && !p.variadic {
			return fmt.Sprintf("%s %d (%s) is left out", what, i, p.name)
		}
	}
	return ""
}

// onnxTables are the operators of the default domain, a family each.
var onnxTables = [][]spec{
	elementwiseOps, castOps, movementOps, indexOps, generateOps, reduceOps, matmulOps,
	normalizationOps, attentionOps, nnOps, imageOps, signalOps, quantOps, controlOps, lossOps, recurrentOps, textOps, detectionOps, randomOps, decodeOps, olderOps,
	extraOps,
}
