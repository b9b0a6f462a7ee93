package quantize

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/accelhq/accel/configs"
	"github.com/accelhq/accel/core/models"
)

// Roles that no scope names.
const (
	RoleEmbedding = "embedding"
	RoleOther     = "other"
)

// restKey stands for whatever a table of the policy does not name.
const restKey = "rest"

// Format is how a matrix is stored.
type Format struct {
	Name  string `yaml:"-"`
	Bits  int64  `yaml:"bits"`  // 16: a floating point type, which Name is
	Block int64  `yaml:"block"` // codes of a row that share a scale; 0 with 16 bits
	Mins  bool   `yaml:"mins"`  // blocks have a min too
}

// float16s are formats of 16 bits, which have no blocks.
var float16s = map[string]Format{"f16": {Name: "f16", Bits: 16}, "bf16": {Name: "bf16", Bits: 16}}

// BitsPerWeight counts scales and mins in.
func (f Format) BitsPerWeight() float64 {
	if f.Bits == 16 {
		return 16
	}
	per := 16.0
	if f.Mins {
		per = 32
	}
	return float64(f.Bits) + per/float64(f.Block)
}

// precision is what one --bits stands for.
type precision struct {
	Rest   string            `yaml:"rest"`
	Roles  map[string]string `yaml:"roles"`
	Ends   string            `yaml:"ends"`   // of the first and last layers; empty: as others
	Choose []string          `yaml:"choose"` // of a mixture that is measured
}

// Accepted is what the policy accepts of a precision, as parts: how much smaller than 16
// bits weights have to be, and how much worse a model may be.
type Accepted struct {
	Smaller float64 `yaml:"smaller" json:"smaller"`
	Loss    float64 `yaml:"loss" json:"loss"`
}

// policy is policy/precision.yaml.
type policy struct {
	Formats    map[string]Format            `yaml:"formats"`
	Roles      map[string][]string          `yaml:"roles"`
	Precisions map[string]precision         `yaml:"precisions"`
	Accepted   map[string]Accepted          `yaml:"accepted"`
	Classes    map[string]map[string]string `yaml:"classes"`
}

// precisionPolicy is the table that the program carries.
var precisionPolicy = sync.OnceValue(func() *policy {
	const name = "policy/precision.yaml"
	data, err := configs.Policy.ReadFile(name)
	if err != nil {
		panic("quantize: " + err.Error())
	}
	p, err := readPolicy(data)
	if err != nil {
		panic(fmt.Sprintf("quantize: %s: %v", name, err))
	}
	return p
})

// readPolicy reads the table and holds its names against one another.
func readPolicy(data []byte) (*policy, error) {
	p := &policy{}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if p.Formats == nil {
		return nil, fmt.Errorf("formats: there are none")
	}
	for name, f := range p.Formats {
		if f.Name = name; f.Bits < 2 || f.Bits > 8 || f.Block < 16 || f.Block&(f.Block-1) != 0 {
			return nil, fmt.Errorf("formats.%s: %d bits in blocks of %d", name, f.Bits, f.Block)
		}
		p.Formats[name] = f
	}
	maps.Copy(p.Formats, float16s)
	roles := map[string]bool{RoleEmbedding: true, RoleOther: true}
	for r := range p.Roles {
		roles[r] = true
	}
	for name, c := range p.Precisions {
		names := append([]string{c.Rest}, c.Choose...)
		if c.Ends != "" {
			names = append(names, c.Ends)
		}
		for role, f := range c.Roles {
			names = append(names, f)
			if !roles[role] {
				return nil, fmt.Errorf("precisions.%s.roles: %q is no role", name, role)
			}
		}
		for _, f := range names {
			if _, ok := p.Formats[f]; !ok {
				return nil, fmt.Errorf("precisions.%s: %q is no format", name, f)
			}
		}
	}
	for name := range p.Accepted {
		if _, ok := p.Precisions[name]; !ok {
			return nil, fmt.Errorf("accepted: %q is no precision", name)
		}
	}
	for class, components := range p.Classes {
		if components[restKey] == "" {
			return nil, fmt.Errorf("classes.%s: there is no rest", class)
		}
		for _, name := range components {
			if _, ok := p.Precisions[name]; !ok {
				return nil, fmt.Errorf("classes.%s: %q is no precision", class, name)
			}
		}
	}
	if p.Classes[restKey] == nil {
		return nil, fmt.Errorf("classes: there is no rest")
	}
	return p, nil
}

// PrecisionError says that a precision is not known.
type PrecisionError struct {
	Found string
	Known []string
}

func (e *PrecisionError) Error() string {
	return fmt.Sprintf("precision: found %q, wanted one of %s", e.Found, strings.Join(e.Known, ", "))
}

// Precision is the name of what --bits says: that of a precision, or its bits alone, as
// 8 or 4-mixed. The error is a *PrecisionError.
func Precision(bits string) (string, error) {
	p := precisionPolicy()
	for _, name := range []string{bits, "int" + bits, strings.ReplaceAll(bits, "_", "-")} {
		if _, ok := p.Precisions[name]; ok {
			return name, nil
		}
	}
	if bits == "16" {
		return "f16", nil
	}
	return "", &PrecisionError{bits, Precisions()}
}

// Precisions are the names of all.
func Precisions() []string { return slices.Sorted(maps.Keys(precisionPolicy().Precisions)) }

// AcceptedOf is what is accepted of a precision; ok: anything is said of it.
func AcceptedOf(name string) (a Accepted, ok bool) {
	a, ok = precisionPolicy().Accepted[name]
	return a, ok
}

// role is what a use of a matrix is for.
func (p *policy) role(u models.Use) string {
	if u.Lookup {
		return RoleEmbedding
	}
	scope := "." + strings.ReplaceAll(u.Scope(), "/", ".")
	for _, role := range slices.Sorted(maps.Keys(p.Roles)) {
		for _, end := range p.Roles[role] {
			if strings.HasSuffix(scope, "."+end) {
				return role
			}
		}
	}
	return RoleOther
}

// layerOf is the number behind "layer." in a scope, -1 where there is none, and what
// stands before it.
func layerOf(scope string) (stack string, layer int64) {
	stack, rest, ok := strings.Cut("."+scope, ".layer.")
	if !ok {
		return "", -1
	}
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return "", -1
	}
	return stack, n
}
