package constrain

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// Grammar is a compiled schema. It serves any number of texts and goroutines.
type Grammar struct {
	vocabulary *Vocabulary
	machines   []machine
	rules      []rule
	walkers    sync.Pool
}

// What one Compile may use: well below a second, and some tens of MB.
const (
	compileWork   = 64 << 20
	compileStates = 60_000
)

// Compile makes a grammar of a JSON schema (2020-12). Texts that it lets end are valid by
// the schema.
//
// Supported are type, enum, const; properties, required, additionalProperties,
// patternProperties (up to 6 patterns together); items, prefixItems, minItems, maxItems;
// minLength, maxLength, pattern (without look-around, \b and back references), format (date, time,
// date-time, duration, uuid, email, hostname, ipv4, ipv6, uri; others are annotations); minimum,
// maximum, exclusiveMinimum, exclusiveMaximum; allOf, anyOf, oneOf whose branches can be shown to exclude
// each other, $ref within the schema, recursion included; true and false. What would narrow the
// values otherwise is refused with *SchemaError, as are malformed schemas and those that no value satisfies.
// *VocabularyError: the tokens can't write any value that does.
//
// Texts are compact: at most one space behind : and , and none elsewhere. Members come in the order of
// properties, then names that are required only, then others, whose names may repeat: the last
// one holds. At most 64 arrays and objects are open at once. Integers have at most 18 digits, other numbers 18 before the point, 17
// behind it and 2 in the exponent, which numbers with bounds don't have (bounds may ask for more digits). Strings are free;
// those with a pattern or format, and names, escape only what has to be.
func Compile(schema json.RawMessage, v *Vocabulary) (*Grammar, error) {
	if len(v.end) == 0 {
		return nil, &VocabularyError{"the vocabulary has no end token, without which no text can end"}
	}
	root, err := parseValue(schema)
	if err != nil {
		return nil, err
	}
	c := &compiler{
		budget: budget{work: compileWork, states: compileStates}, v: v, machines: []machine{stringMachine{}},
		known: map[string]int32{}, patterns: map[string]*dfa{}, lexemes: map[string]int32{}, keys: map[string]int32{},
	}
	_, top, err := readSchema(root, &c.budget)
	if err != nil {
		return nil, err
	}
	c.rule(newGoal([]*node{top}, false))
	var probes []probe
	for id, checked := 0, 0; id < len(c.rules); id++ {
		if c.rules[id].starts == nil {
			if err := c.expand(int32(id)); err != nil {
				return nil, err
			}
		}
		for ; checked < len(c.checks); checked++ {
			more, err := c.probe(c.checks[checked])
			if err != nil {
				return nil, err
			}
			probes = append(probes, more...)
		}
	}
	if err := c.settle(false); err != nil {
		return nil, wrap(err, "#")
	}
	for _, p := range probes {
		if c.rules[p.rule].need < never {
			return nil, &SchemaError{p.path, fmt.Sprintf("branches %d and %d may both hold, and oneOf allows one only; say anyOf, or make them exclude each other", p.first, p.second)}
		}
	}
	if c.rules[0].need > maxDepth {
		return nil, &SchemaError{"#", fmt.Sprintf("no value satisfies it, with at most %d arrays and objects open at once", maxDepth)}
	}
	if err := c.settle(true); err != nil {
		return nil, wrap(err, "#")
	}
	if c.rules[0].need > maxDepth {
		return nil, &VocabularyError{"no value that satisfies the schema can be written with the vocabulary's tokens of single bytes"}
	}
	if err := c.measure(); err != nil {
		return nil, wrap(err, "#")
	}
	if c.rules[0].rest == never {
		return nil, &SchemaError{"#", fmt.Sprintf("no value of fewer than %d characters satisfies it", never)}
	}
	c.finish()
	return &Grammar{vocabulary: v, machines: c.machines, rules: c.rules}, nil
}

// probe is a rule that must be impossible.
type probe struct {
	rule          int32
	path          string
	first, second int
}

// probe asks whether two branches of a oneOf can hold together.
func (c *compiler) probe(one *oneOf) ([]probe, error) {
	var probes []probe
	allowed := make([]types, len(one.branches))
	for i, n := range one.branches {
		list, err := c.alternatives(n)
		if err != nil {
			return nil, err
		}
		for _, set := range list {
			allowed[i] |= typesOf(set)
		}
	}
	for j := range one.branches {
		for i := range j {
			if err := c.spend(100); err != nil {
				return nil, &SchemaError{one.path, err.Error()}
			}
			if a, b := one.branches[i].own, one.branches[j].own; allowed[i]&allowed[j] == 0 ||
				a != nil && b != nil && len(a.enum) == 1 && len(b.enum) == 1 && a.enum[0].key() != b.enum[0].key() {
				continue
			}
			g := newGoal([]*node{one.beside, one.branches[i], one.branches[j]}, true)
			probes = append(probes, probe{c.rule(g), one.path, i, j})
		}
	}
	return probes, nil
}

// settle works out what rules need: the least depth at which they can be finished, by tokens
// of single bytes if spelled.
func (c *compiler) settle(spelled bool) error {
	users := make([][]int32, len(c.rules))
	queue := make([]int32, 0, len(c.rules))
	queued := make([]bool, len(c.rules))
	for id := range c.rules {
		c.rules[id].need = never
		queue, queued[id] = append(queue, int32(id)), true
		for _, s := range c.rules[id].starts {
			for _, n := range s.needs {
				users[n] = append(users[n], int32(id))
			}
		}
	}
	for len(queue) > 0 {
		id := queue[0]
		queue, queued[id] = queue[1:], false
		r := &c.rules[id]
		least := int32(never)
		for i := range r.starts {
			s := &r.starts[i]
			s.need = 0
			for _, n := range s.needs {
				s.need = max(s.need, c.rules[n].need)
			}
			if s.container {
				s.need = min(s.need+1, never)
			}
			if spelled && !s.spelled {
				s.need = never
			}
			least = min(least, s.need)
			if err := c.spend(1 + len(s.needs)); err != nil {
				return err
			}
		}
		if least < r.need {
			r.need = least
			for _, user := range users[id] {
				if !queued[user] {
					queue, queued[user] = append(queue, user), true
				}
			}
		}
	}
	return nil
}

// finish leaves out ways that lead nowhere, and hands distances to those who use the rules.
func (c *compiler) finish() {
	for id := range c.rules {
		r := &c.rules[id]
		for i := range r.starts {
			r.starts[i].needs = nil
		}
		r.starts = slices.DeleteFunc(r.starts, func(s start) bool { return s.need > maxDepth })
	}
	needOf := func(m *member) {
		m.need, m.rest = never, never
		if m.spelled {
			m.need, m.rest = c.rules[m.rule].need, c.rules[m.rule].rest
		}
	}
	for _, m := range c.objects {
		for i := range m.members {
			needOf(&m.members[i])
		}
		for i := range m.classes {
			needOf(&m.classes[i].member)
			m.classes[i].keyRest = c.rules[m.classes[i].key].rest
		}
		m.classes = slices.DeleteFunc(m.classes, func(c class) bool { return c.need > maxDepth })
		m.measure()
	}
	for _, m := range c.arrays {
		for i := range m.items {
			r := &c.rules[m.items[i].rule]
			m.items[i].need, m.items[i].rest = r.need, r.rest
		}
		m.measure()
	}
}

// Start returns the constraint of a text that has not begun.
func (g *Grammar) Start() Constraint {
	t := &state{grammar: g}
	w := g.walker()
	w.begin(false)
	w.start(0, &call{root: true})
	t.configs, t.far = slices.Clone(w.out), w.far(w.out)
	g.walkers.Put(w)
	return t
}

func (g *Grammar) walker() *walker {
	if w, ok := g.walkers.Get().(*walker); ok {
		return w
	}
	return &walker{grammar: g}
}
