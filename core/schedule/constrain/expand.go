package constrain

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	maxAlternatives = 4096 // of a schema
	maxMachines     = 512  // of them that are not constants: all run at once
)

// compiler turns schemas into rules. A rule is a goal: schemas that must hold
// together. It is expanded into alternatives, each a set of schemas' own keywords, and each
// type that an alternative allows becomes a machine.
type compiler struct {
	budget
	v        *Vocabulary
	machines []machine
	rules    []rule
	known    map[string]int32 // rules by goal
	goals    []goal           // by rule; those of keys have none
	checks   []*oneOf
	patterns map[string]*dfa
	lexemes  map[string]int32 // machines by what they match
	keys     map[string]int32 // rules by what they match
	objects  []*objectMachine
	arrays   []*arrayMachine
}

// goal is a set of schemas, ordered by id. loose: formats are annotations, as for validators
// that don't enforce them.
type goal struct {
	schemas []*node
	loose   bool
}

func newGoal(schemas []*node, loose bool) goal {
	schemas = slices.DeleteFunc(slices.Clone(schemas), func(n *node) bool {
		return !n.never && n.own == nil && n.also == nil && n.some == nil
	})
	slices.SortFunc(schemas, func(a, b *node) int { return int(a.id - b.id) })
	return goal{slices.Compact(schemas), loose}
}

func (g goal) never() bool {
	return slices.ContainsFunc(g.schemas, func(n *node) bool { return n.never })
}

func (g goal) path() string {
	if len(g.schemas) == 0 {
		return "#"
	}
	return g.schemas[0].path
}

// rule returns the number of a goal's rule.
func (c *compiler) rule(g goal) int32 {
	key := make([]byte, 0, 4*len(g.schemas)+1)
	for _, n := range g.schemas {
		key = binary.LittleEndian.AppendUint32(key, uint32(n.id))
	}
	if g.loose {
		key = append(key, 1)
	}
	id, ok := c.known[string(key)]
	if !ok {
		id = int32(len(c.rules))
		c.known[string(key)] = id
		c.rules = append(c.rules, rule{})
		c.goals = append(c.goals, g)
	}
	return id
}

// alternatives are sets of schemas with own keywords, one of which has to hold whole.
func (c *compiler) alternatives(n *node) ([][]*node, error) {
	const making, made = 1, 2
	switch n.state {
	case made:
		return n.alternatives, nil
	case making:
		return nil, &SchemaError{n.path, "refers to itself with no value between"}
	}
	n.state = making
	list := [][]*node{nil}
	switch {
	case n.never:
		list = nil
	case n.own != nil:
		list = [][]*node{{n}}
	}
	for _, m := range n.also {
		more, err := c.alternatives(m)
		if err != nil {
			return nil, err
		}
		if list, err = c.product(list, more, n.path); err != nil {
			return nil, err
		}
	}
	for _, branches := range n.some {
		var either [][]*node
		for _, m := range branches {
			more, err := c.alternatives(m)
			if err != nil {
				return nil, err
			}
			either = append(either, more...)
		}
		var err error
		if list, err = c.product(list, either, n.path); err != nil {
			return nil, err
		}
	}
	if n.one != nil {
		c.checks = append(c.checks, n.one)
	}
	n.alternatives, n.state = list, made
	return list, nil
}

// product joins every set of one list with every set of the other, less those that allow no type.
func (c *compiler) product(a, b [][]*node, path string) ([][]*node, error) {
	var list [][]*node
	seen := map[string]bool{}
	for _, x := range a {
		for _, y := range b {
			if err := c.spend(100 + 10*(len(x)+len(y))); err != nil {
				return nil, &SchemaError{path, err.Error()}
			}
			set := slices.Concat(x, y)
			slices.SortFunc(set, func(a, b *node) int { return int(a.id - b.id) })
			set = slices.Compact(set)
			key := make([]byte, 0, 4*len(set))
			for _, n := range set {
				key = binary.LittleEndian.AppendUint32(key, uint32(n.id))
			}
			if seen[string(key)] || typesOf(set) == 0 {
				continue
			}
			seen[string(key)] = true
			if list = append(list, set); len(list) > maxAlternatives {
				return nil, &SchemaError{path, fmt.Sprintf("more than %d alternatives", maxAlternatives)}
			}
		}
	}
	return list, nil
}

func typesOf(set []*node) types {
	t := allTypes
	for _, n := range set {
		t &= n.own.types
	}
	return t
}

// expand makes a rule's machines.
func (c *compiler) expand(id int32) error {
	g := c.goals[id]
	list := [][]*node{nil}
	for _, n := range g.schemas {
		more, err := c.alternatives(n)
		if err != nil {
			return err
		}
		if list, err = c.product(list, more, n.path); err != nil {
			return err
		}
	}
	var texts []string
	var starts []start
	for _, set := range list {
		if len(starts) > maxMachines {
			return &SchemaError{g.path(), fmt.Sprintf("more than %d alternatives that are not constants", maxMachines)}
		}
		made, literal, err := c.build(set, g.loose)
		if err != nil {
			return wrap(err, g.path())
		}
		for _, s := range made {
			if !slices.ContainsFunc(starts, func(t start) bool { return t.frame == s.frame }) {
				starts = append(starts, s)
			}
		}
		texts = append(texts, literal...)
	}
	if len(texts) > 0 {
		d, err := literals(&c.budget, texts)
		if err != nil {
			return wrap(err, g.path())
		}
		distance := d.distances(&c.v.spelled)
		if err := c.v.shorten(&c.budget, d, distance); err != nil {
			return wrap(err, g.path())
		}
		starts = append(starts, c.lexeme(d, distance)...)
	}
	c.rules[id].starts = starts
	return nil
}

func wrap(err error, path string) error {
	if p, ok := err.(problem); ok {
		return &SchemaError{path, string(p)}
	}
	return err
}

// lexeme makes a machine of an automaton.
func (c *compiler) lexeme(d *dfa, distance []int32) []start {
	if d == nil {
		return nil
	}
	m := &lexeme{dfa: d, distance: distance}
	for _, far := range distance {
		if far < never {
			m.farthest = max(m.farthest, far)
		}
	}
	c.machines = append(c.machines, m)
	return c.begun(int32(len(c.machines) - 1))
}

// begun is the way to begin a lexeme.
func (c *compiler) begun(machine int32) []start {
	far := c.machines[machine].(*lexeme).distance[0]
	return []start{{frame: frame{machine: machine}, spelled: far < never, own: far}}
}

func (c *compiler) cachedLexeme(key string, build func() (*dfa, error)) ([]start, error) {
	id, ok := c.lexemes[key]
	if !ok {
		d, err := build()
		if err != nil {
			return nil, err
		}
		id = -1
		if s := c.lexeme(d, d.distances(&c.v.spelled)); s != nil {
			id = s[0].frame.machine
		}
		c.lexemes[key] = id
	}
	if id < 0 {
		return nil, nil
	}
	return c.begun(id), nil
}

// pattern is the automaton of a regular expression, made once.
func (c *compiler) pattern(source, path string) (*dfa, error) {
	d, ok := c.patterns[source]
	if !ok {
		var err error
		if d, err = pattern(&c.budget, source); err != nil {
			return nil, wrap(err, path)
		}
		c.patterns[source] = d
	}
	return d, nil
}

// build makes the machines of one alternative, and texts that are alternatives whole.
func (c *compiler) build(set []*node, loose bool) (starts []start, texts []string, err error) {
	add := func(s []start, e error) {
		starts = append(starts, s...)
		if err == nil {
			err = e
		}
	}
	allowed := typesOf(set)
	for _, n := range set {
		if n.own.enumerated != nil {
			texts, err = c.enumeration(set, n.own.enum, loose)
			return nil, texts, err
		}
	}
	if allowed&isNull != 0 {
		texts = append(texts, "null")
	}
	if allowed&isBoolean != 0 {
		texts = append(texts, "true", "false")
	}
	if allowed&(isInteger|isFraction) != 0 {
		var lo, hi *bound
		for _, n := range set {
			lo, hi = tighter(lo, n.own.lo, 1), tighter(hi, n.own.hi, -1)
		}
		integer := allowed&isFraction == 0
		key := fmt.Sprint("number ", integer)
		for _, b := range []*bound{lo, hi} {
			if b != nil {
				key += fmt.Sprintf(" %v", *b)
			} else {
				key += " -"
			}
		}
		add(c.cachedLexeme(key, func() (*dfa, error) { return numbers(&c.budget, lo, hi, integer) }))
	}
	if allowed&isString != 0 {
		add(c.strings(set, loose))
	}
	if allowed&isArray != 0 {
		add(c.array(set, loose))
	}
	if allowed&isObject != 0 {
		add(c.object(set, loose))
	}
	return starts, texts, err
}

func (c *compiler) enumeration(set []*node, values []value, loose bool) ([]string, error) {
	var texts []string
values:
	for _, v := range values {
		if err := c.spend(100 * len(set)); err != nil {
			return nil, err
		}
		for _, n := range set {
			if ok, err := c.ownAdmits(n, v, loose, 0); err != nil {
				return nil, wrap(err, n.path)
			} else if !ok {
				continue values
			}
		}
		texts = append(texts, string(v.append(nil)))
	}
	return texts, nil
}

func (c *compiler) strings(set []*node, loose bool) ([]start, error) {
	minimum, maximum := int64(0), int64(-1)
	var sources []string
	for _, n := range set {
		k := n.own
		minimum = max(minimum, k.minLength)
		if k.maxLength >= 0 && (maximum < 0 || k.maxLength < maximum) {
			maximum = k.maxLength
		}
		if k.pattern != "" {
			sources = append(sources, k.pattern)
		}
		if k.format != "" && !loose {
			sources = append(sources, formats[k.format])
		}
	}
	if maximum >= 0 && minimum > maximum {
		return nil, nil
	}
	if len(sources) == 0 {
		f := frame{machine: stringMachineID, kind: inQuote, a: int32(minimum), b: int32(maximum)}
		far := stringMachine{}.rest(c.v, f)
		return []start{{frame: f, spelled: far < never, own: far}}, nil
	}
	slices.Sort(sources)
	sources = slices.Compact(sources)
	key := fmt.Sprintf("string %d %d %q", minimum, maximum, sources)
	return c.cachedLexeme(key, func() (*dfa, error) {
		include := make([]*dfa, len(sources))
		for i, source := range sources {
			d, err := c.pattern(source, set[0].path)
			if err != nil {
				return nil, err
			}
			include[i] = d
		}
		return characters(&c.budget, include, nil, minimum, maximum, false)
	})
}

func (c *compiler) array(set []*node, loose bool) ([]start, error) {
	m := &arrayMachine{max: -1}
	length := 0
	for _, n := range set {
		k := n.own
		length = max(length, len(k.prefix))
		m.min = max(m.min, int32(k.minItems))
		if k.maxItems >= 0 && (m.max < 0 || int32(k.maxItems) < m.max) {
			m.max = int32(k.maxItems)
		}
	}
	if m.max >= 0 && m.min > m.max {
		return nil, nil
	}
	if m.max >= 0 {
		length = min(length, int(m.max))
	}
	// One more than the prefix: what all others are.
	for i := range length + 1 {
		var schemas []*node
		for _, n := range set {
			switch {
			case i < len(n.own.prefix):
				schemas = append(schemas, n.own.prefix[i])
			case n.own.items != nil:
				schemas = append(schemas, n.own.items)
			}
		}
		g := newGoal(schemas, loose)
		if g.never() {
			m.max = int32(i)
			break
		}
		m.items = append(m.items, item{rule: c.rule(g)})
	}
	if m.max >= 0 && m.min > m.max {
		return nil, nil
	}
	s := start{container: true, spelled: c.v.spells("[]") && (m.min < 2 || c.v.spells(","))}
	for i := range min(int(m.min), len(m.items)) {
		s.needs = append(s.needs, m.items[i].rule)
	}
	s.own, s.repeats = 2+max(0, m.min-1), int64(m.min)-int64(len(m.items))
	s.frame.machine = int32(len(c.machines))
	c.machines = append(c.machines, m)
	c.arrays = append(c.arrays, m)
	return []start{s}, c.spend(100 * (1 + len(m.items)))
}

func (c *compiler) object(set []*node, loose bool) ([]start, error) {
	m := &objectMachine{}
	s := start{container: true, spelled: c.v.spells(`{}`), own: 2}
	at := map[string]int{}
	var names []string
	add := func(name string) {
		if _, ok := at[name]; !ok {
			at[name] = len(names)
			names = append(names, name)
		}
	}
	for _, n := range set {
		for _, p := range n.own.properties {
			add(p.name)
		}
	}
	required := map[string]bool{}
	for _, n := range set {
		for _, name := range n.own.required {
			add(name)
			required[name] = true
		}
	}
	var texts []string
	for _, name := range names {
		var schemas []*node
		for _, n := range set {
			list, err := c.schemasFor(n, name)
			if err != nil {
				return nil, err
			}
			schemas = append(schemas, list...)
		}
		g := newGoal(schemas, loose)
		if g.never() && required[name] {
			return nil, nil
		}
		text := string(appendCharacters(nil, name)) + `"`
		texts = append(texts, text)
		p := member{spelled: !g.never() && c.v.spells(`":`) && c.v.spells(text), required: required[name]}
		if !g.never() {
			p.rule = c.rule(g)
		}
		if p.spelled {
			var err error
			if p.tails, err = c.v.cover(&c.budget, text); err != nil {
				return nil, err
			}
		}
		if p.required {
			if len(s.needs) > 0 {
				s.own++ // the comma
			}
			s.own = plus(s.own, 1, p.tail(0), 1)
			s.needs = append(s.needs, p.rule)
			s.spelled = s.spelled && p.spelled && (len(m.members) == 0 || c.v.spells(","))
		}
		m.members = append(m.members, p)
	}
	if err := m.index(&c.budget, texts); err != nil {
		return nil, err
	}
	if err := c.classes(m, set, names, loose); err != nil {
		return nil, err
	}
	s.frame.machine = int32(len(c.machines))
	c.machines = append(c.machines, m)
	c.objects = append(c.objects, m)
	return []start{s}, c.spend(100 * (1 + len(m.members)))
}

const maxPatterns = maxConjuncts - 1

// classes adds the members that are not declared: by which of the patterns their names match.
func (c *compiler) classes(m *objectMachine, set []*node, names []string, loose bool) error {
	var sources []string
	for _, n := range set {
		for _, p := range n.own.patterns {
			sources = append(sources, p.name)
		}
	}
	slices.Sort(sources)
	sources = slices.Compact(sources)
	if len(sources) > maxPatterns {
		return problem(fmt.Sprintf("%d patterns of properties, more than the %d supported", len(sources), maxPatterns))
	}
	declared := make([]string, len(names))
	for i, name := range names {
		declared[i] = string(appendCharacters(nil, name))
	}
	slices.Sort(declared)
	var known *dfa
	for chosen := range 1 << len(sources) {
		var schemas []*node
		for _, n := range set {
			matched := false
			for _, p := range n.own.patterns {
				if i, _ := slices.BinarySearch(sources, p.name); chosen>>i&1 != 0 {
					schemas = append(schemas, p.schema)
					matched = true
				}
			}
			if !matched && n.own.additional != nil {
				schemas = append(schemas, n.own.additional)
			}
		}
		g := newGoal(schemas, loose)
		if g.never() {
			continue
		}
		key := fmt.Sprintf("%d %q %q", chosen, sources, declared)
		id, ok := c.keys[key]
		if !ok {
			var err error
			if known == nil {
				if known, err = literals(&c.budget, declared); err != nil {
					return err
				}
			}
			include, exclude := []*dfa{}, []*dfa{known}
			for i, source := range sources {
				d, err := c.pattern(source, set[0].path)
				if err != nil {
					return err
				}
				if chosen>>i&1 != 0 {
					include = append(include, d)
				} else {
					exclude = append(exclude, d)
				}
			}
			d, err := characters(&c.budget, include, exclude, 0, -1, true)
			if err != nil {
				return err
			}
			id = -1
			if starts := c.lexeme(d, d.distances(&c.v.spelled)); starts != nil {
				id = int32(len(c.rules))
				c.rules = append(c.rules, rule{starts: starts})
				c.goals = append(c.goals, goal{})
			}
			c.keys[key] = id
		}
		if id >= 0 {
			spelled := c.rules[id].starts[0].spelled && c.v.spells(`":`)
			m.classes = append(m.classes, class{key: id, member: member{rule: c.rule(g), spelled: spelled}})
		}
	}
	return nil
}
