package reference

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

type schemaParam struct{ Name, Type, Option string }

type schema struct {
	Domain, Name    string
	Since           int64
	Deprecated      bool
	Inputs, Outputs []schemaParam
	Types           map[string][]string
	Attributes      []struct {
		Name, Type string
		Required   bool
		Default    any
	}
}

// narrower are operators that take fewer element types than ONNX lists.
var narrower = map[string]string{
	"Col2Im":        "adds, for which strings, bools and complex numbers are not made",
	"Erf":           "version 9 lists integers, of which no value is one",
	"GridSample":    "interpolates floating-point numbers: rounding to others is not defined",
	"QLinearMatMul": "8 bit floats have no linear grid",
	"Resize":        "interpolates numbers only",
	"Upsample":      "interpolates numbers only",
}

// TestSchemas compares the operator tables with ONNX's own schemas: of the default
// domain every version of every operator is known, of the others those from the
// oldest known on; signatures, attributes, defaults and types cover what ONNX says.
func TestSchemas(t *testing.T) {
	var schemas []schema
	readJSON(t, filepath.Join(testfiles.ONNX(t), "schemas.json"), &schemas)
	known := map[opKey]map[int64]bool{}
	for _, s := range schemas {
		key := opKey{s.Domain, s.Name}
		if known[key] == nil {
			known[key] = map[int64]bool{}
		}
		known[key][s.Since] = true
		all := registry[key]
		if s.Domain != graph.DomainONNX && (len(all) == 0 || s.Since < all[len(all)-1].Version) {
			continue
		}
		op, ok := Lookup(s.Domain, s.Name, s.Since)
		if !ok || op.Version != s.Since {
			t.Errorf("%s-%d is not registered", opName(s.Domain, s.Name), s.Since)
			continue
		}
		for _, why := range compareSchema(op, s) {
			t.Errorf("%s-%d: %s", opName(s.Domain, s.Name), s.Since, why)
		}
	}
	for key, ops := range registry {
		if key.domain == graph.DomainMicrosoft || key.domain == graph.DomainAccel {
			continue
		}
		for _, op := range ops {
			extra := key.domain == graph.DomainONNX &&
				slices.ContainsFunc(extraOps, func(s spec) bool { return s.name == op.Name && slices.Contains(s.versions, op.Version) })
			if !known[key][op.Version] && !extra {
				t.Errorf("%s-%d is registered, ONNX has no such version", opName(key.domain, key.name), op.Version)
			}
		}
	}
}

func compareSchema(op *Operator, s schema) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, a := range s.Attributes {
		ours, ok := op.attrs[a.Name]
		kind := attrKinds[map[string]string{"TYPE_PROTO": "type", "SPARSE_TENSOR": "sparse"}[a.Type]]
		if kind == 0 {
			kind = attrKinds[strings.ToLower(a.Type)]
		}
		switch {
		case !ok && a.Name == "sparse_value":
			// Made dense by the reader, or refused by it.
		case !ok:
			fault("attribute %s is not known", a.Name)
		case ours.kind != kind:
			fault("attribute %s is of kind %d, ONNX says %s", a.Name, ours.kind, a.Type)
		case ours.required && !a.Required:
			fault("attribute %s must be given, in ONNX it need not", a.Name)
		case a.Default != nil && !sameDefault(ours.def, a.Default):
			fault("attribute %s has another default than %v", a.Name, a.Default)
		}
	}
	for what, lists := range map[string]struct {
		theirs []schemaParam
		ours   []param
	}{"input": {s.Inputs, op.inputs}, "output": {s.Outputs, op.outputs}} {
		for i, p := range lists.theirs {
			ours, ok := paramAt(lists.ours, i)
			if !ok {
				fault("%s %s is not known", what, p.Name)
				continue
			}
			if ours.name != p.Name {
				fault("%s %d is called %s, in ONNX %s", what, i, ours.name, p.Name)
			}
			if p.Option == "Optional" && !ours.optional || p.Option == "Variadic" && !ours.variadic {
				fault("%s %s is %s in ONNX", what, p.Name, p.Option)
			}
			if _, ok := narrower[s.Name]; ok {
				continue
			}
			types := s.Types[p.Type]
			if types == nil {
				types = []string{p.Type}
			}
			for _, name := range types {
				if d, kind, ok := schemaType(name); ok && (ours.kinds>>kind&1 == 0 || kind == graph.KindTensor && !ours.types.has(d)) {
					fault("%s %s does not take %s", what, p.Name, name)
				}
			}
		}
	}
	return faults
}

func sameDefault(a *graph.Attr, want any) bool {
	switch v := want.(type) {
	case []any:
		return true // lists have no defaults in the tables: operators fill them in
	case string:
		return a != nil && a.String == v
	case float64:
		if a == nil {
			return false
		}
		if a.Kind == graph.AttrFloat {
			return math.Abs(float64(a.Float)-v) <= 1e-7*math.Abs(v)
		}
		return float64(a.Int) == v
	}
	return false
}

// schemaType reads a name as in "tensor(float)".
func schemaType(name string) (tensor.DType, graph.TypeKind, bool) {
	for prefix, kind := range map[string]graph.TypeKind{"seq(": graph.KindSequence, "optional(": graph.KindOptional} {
		if strings.HasPrefix(name, prefix) {
			return 0, kind, true
		}
	}
	name, ok := strings.CutPrefix(strings.TrimSuffix(name, ")"), "tensor(")
	if !ok {
		return 0, 0, false
	}
	switch name {
	case "float":
		name = "float32"
	case "double":
		name = "float64"
	}
	d, err := tensor.ParseDType(name)
	return d, graph.KindTensor, err == nil // types that Accel does not know: float6
}

// TestTables checks what the tables say about themselves.
func TestTables(t *testing.T) {
	for key, ops := range registry {
		for i, op := range ops {
			if op.eval == nil {
				t.Errorf("%s-%d computes nothing", opName(key.domain, key.name), op.Version)
			}
			if op.Version > newest[key.domain] {
				t.Errorf("%s-%d is newer than %d, the newest known", opName(key.domain, key.name), op.Version, newest[key.domain])
			}
			for k, p := range op.inputs {
				if p.variadic && k != len(op.inputs)-1 {
					t.Errorf("%s-%d: input %s is variadic, but not the last", opName(key.domain, key.name), op.Version, p.name)
				}
			}
			if i > 0 && ops[i-1].Version <= op.Version {
				t.Errorf("%s: versions are not in order", opName(key.domain, key.name))
			}
		}
	}
	if got := len(registry); got < 180 {
		t.Errorf("only %d operators are registered", got)
	}
	var names []string
	for key := range registry {
		names = append(names, opName(key.domain, key.name))
	}
	slices.Sort(names)
	t.Logf("%d operators: %s", len(names), strings.Join(names, " "))
}
