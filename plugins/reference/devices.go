package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
)

// profile is what a device pretends to be. What is left out does not limit it.
type profile struct {
	Name string `json:"name"`
	// StaticShapes: values have known dimensions only.
	StaticShapes bool `json:"static_shapes,omitempty"`
	// ElementTypes are those of inputs, outputs and what is computed between.
	ElementTypes []string `json:"element_types,omitempty"`
	// ConstantTypes are those that constants may have besides.
	ConstantTypes []string `json:"constant_types,omitempty"`
	// InterfaceTypes are those of the graph's inputs and outputs, where these are
	// fewer.
	InterfaceTypes []string `json:"interface_types,omitempty"`
	// DeniedOperators are not taken, AllowedOperators the only ones that are. Names
	// as in "Gelu" and "com.microsoft.MatMulNBits".
	DeniedOperators  []string `json:"denied_operators,omitempty"`
	AllowedOperators []string `json:"allowed_operators,omitempty"`
	// NoFunctions: neither functions of the model nor operators of ai.accel, which
	// are functions to others.
	NoFunctions bool `json:"no_functions,omitempty"`
	// Attention is how the device says it runs PagedAttention; empty: fused.
	Attention backend.AttentionWay `json:"attention,omitempty"`
	// DenseOnly: the graph's inputs and outputs are dense tensors, neither strings nor
	// sequences nor optionals.
	DenseOnly bool `json:"dense_only,omitempty"`
	// MemoryBytes is how much memory there is; 0: defaultMemory.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
}

// defaultMemory is the memory of a device that does not say.
const defaultMemory = 16 << 30

// profiles are the devices that are always there; the first stands for the
// platform.
var profiles = []profile{
	{Name: "plain"},
	{Name: "static", StaticShapes: true, DenseOnly: true, Attention: backend.AttentionBody},
	{
		Name:            "picky",
		StaticShapes:    true,
		ElementTypes:    []string{"float32", "int32", "bool"},
		ConstantTypes:   []string{"int64"},
		InterfaceTypes:  []string{"float32", "int32"},
		DeniedOperators: []string{"LayerNormalization", "RMSNormalization", "Attention", "Gelu", "RotaryEmbedding", "Swish"},
		NoFunctions:     true,
		Attention:       backend.AttentionRows,
		DenseOnly:       true,
		MemoryBytes:     1 << 30,
	},
}

const settingsSchema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "devices": {
      "type": "array",
      "description": "more pretending devices of the platform simulation",
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
          "name": {"type": "string", "pattern": "^[a-z][a-z0-9_-]*$", "description": "the device is simulation:NAME"},
          "static_shapes": {"type": "boolean", "description": "takes no symbolic dimension"},
          "element_types": {"type": "array", "items": {"type": "string"}, "description": "types of values, such as float32; empty: all"},
          "constant_types": {"type": "array", "items": {"type": "string"}, "description": "types that constants may have besides"},
          "interface_types": {"type": "array", "items": {"type": "string"}, "description": "types of the graph's inputs and outputs; empty: element_types"},
          "denied_operators": {"type": "array", "items": {"type": "string"}, "description": "operators that are not taken, such as Gelu or com.microsoft.MatMulNBits"},
          "allowed_operators": {"type": "array", "items": {"type": "string"}, "description": "the only operators that are taken; empty: all"},
          "no_functions": {"type": "boolean", "description": "takes neither functions of a model nor operators of ai.accel"},
          "attention": {"type": "string", "enum": ["fused", "rows", "body"], "description": "how ai.accel.PagedAttention is run; empty: fused"},
          "dense_only": {"type": "boolean", "description": "takes no strings, sequences and optionals as inputs and outputs"},
          "memory_bytes": {"type": "integer", "minimum": 0, "description": "0: 16 GiB"}
        }
      }
    }
  }
}`

// device is a profile ready to be asked, and its memory.
type device struct {
	profile
	types     typeSet // nil: all
	constants typeSet
	faces     typeSet
	memory    *memory
}

type typeSet map[tensor.DType]bool

// takes reports whether a type is in the set; nil takes all.
func (s typeSet) takes(d tensor.DType) bool { return s == nil || s[d] }

var deviceName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

func newDevice(p profile) (*device, error) {
	d := &device{profile: p}
	if !deviceName.MatchString(p.Name) {
		return nil, fmt.Errorf("device name %q: lower-case letters, digits, - and _ are wanted", p.Name)
	}
	for _, l := range []struct {
		names []string
		set   *typeSet
	}{{p.ElementTypes, &d.types}, {p.ConstantTypes, &d.constants}, {p.InterfaceTypes, &d.faces}} {
		for _, n := range l.names {
			t, err := tensor.ParseDType(n)
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", p.Name, err)
			}
			if *l.set == nil {
				*l.set = typeSet{}
			}
			(*l.set)[t] = true
		}
	}
	if d.constants != nil {
		for t := range d.types {
			d.constants[t] = true
		}
	} else {
		d.constants = d.types
	}
	switch d.Attention {
	case "":
		d.Attention = backend.AttentionFused
	case backend.AttentionFused, backend.AttentionRows, backend.AttentionBody:
	default:
		return nil, fmt.Errorf("device %s: attention %q: fused, rows or body is wanted", p.Name, p.Attention)
	}
	switch {
	case p.MemoryBytes < 0:
		return nil, fmt.Errorf("device %s: memory_bytes is %d", p.Name, p.MemoryBytes)
	case p.MemoryBytes == 0:
		d.memory = &memory{limit: defaultMemory}
	default:
		d.memory = &memory{limit: p.MemoryBytes}
	}
	return d, nil
}

// describe is the device as Watch reports it.
func (d *device) describe() backend.Device {
	total, free := d.memory.state()
	out := backend.Device{
		ID: d.Name, Platform: "simulation", Name: "reference operators in Go (" + d.Name + ")", Kind: backend.Simulated, Health: backend.Healthy,
		MemoryTotal: total, MemoryFree: free, StaticShapes: d.StaticShapes, Attention: d.Attention, RuntimeVersion: d.identity(),
	}
	if !d.DenseOnly {
		out.Features = []string{backend.FeatureStrings, backend.FeatureSequences, backend.FeatureOptionals}
	}
	for t := tensor.Float32; t.Valid(); t++ {
		if d.types.takes(t) {
			out.ElementTypes = append(out.ElementTypes, t)
		}
	}
	return out
}

// identity changes when the verdicts of the device may.
func (d *device) identity() string {
	rules, err := json.Marshal(d.profile)
	if err != nil {
		panic(err) // strings, numbers and bools
	}
	h := sha256.Sum256(rules)
	return version + " " + hex.EncodeToString(h[:4])
}

// parseSettings reads the profiles that a configuration adds.
func parseSettings(raw json.RawMessage) ([]profile, error) {
	var s struct {
		Devices []profile `json:"devices"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for i, p := range s.Devices {
		same := func(q profile) bool { return q.Name == p.Name }
		if slices.ContainsFunc(profiles, same) || slices.ContainsFunc(s.Devices[:i], same) {
			return nil, fmt.Errorf("device %q is there already", p.Name)
		}
	}
	return s.Devices, nil
}
