package jinja

import (
	"slices"
)

// parser reads tokens by the language's grammar, one function a rule.
type parser struct {
	source string
	tokens []lexed
	next   int
	nested int // expressions and blocks that are open
	loops  int // loops that are open, within the macro
}

func (p *parser) fail(at position, format string, args ...any) error {
	return newError(p.source, Syntax, at, format, args...)
}

func (p *parser) here() *lexed { return &p.tokens[p.next] }

// take returns the present token and goes on to the next one, but never past the end.
func (p *parser) take() lexed {
	t := p.tokens[p.next]
	if t.kind != tokenEnd {
		p.next++
	}
	return t
}

func (p *parser) is(kind tokenKind, text ...string) bool {
	t := p.here()
	return t.kind == kind && (len(text) == 0 || slices.Contains(text, t.text))
}

func (p *parser) isOperator(text ...string) bool { return p.is(tokenOperator, text...) }

func (p *parser) isName(text ...string) bool { return p.is(tokenName, text...) }

// skip takes the present token if it is that operator or name.
func (p *parser) skip(kind tokenKind, text string) bool {
	if !p.is(kind, text) {
		return false
	}
	p.next++
	return true
}

func (p *parser) expect(kind tokenKind, text string) error {
	if p.is(kind, text) {
		p.next++
		return nil
	}
	return p.unexpected(text)
}

// unexpected says what was found instead of what.
func (p *parser) unexpected(what string) error {
	t := p.here()
	found := t.text
	switch t.kind {
	case tokenEnd:
		found = "the end of the template"
	case tokenData:
		found = "text"
	case tokenVariable:
		found = "{{"
	case tokenVariableEnd:
		found = "}}"
	case tokenBlock:
		found = "{%"
	case tokenBlockEnd:
		found = "%}"
	case tokenString:
		found = "a string"
	case tokenNumber:
		found = "a number"
	}
	return p.fail(t.pos, "unexpected %s, expected %s", found, what)
}

func (p *parser) expectName() (string, error) {
	if !p.is(tokenName) {
		return "", p.unexpected("a name")
	}
	return p.take().text, nil
}

// enter bounds how deep things are nested. Each enter has a leave.
func (p *parser) enter() error {
	if p.nested++; p.nested > maxNested {
		return newError(p.source, Limit, p.here().pos, "it is nested more than %d deep", maxNested)
	}
	return nil
}

func (p *parser) leave() { p.nested-- }

// chain counts what stands one after another, which is as deep to evaluate.
func (p *parser) chain(n *int) error {
	if *n++; *n > maxChain {
		return newError(p.source, Limit, p.here().pos, "an expression goes on for more than %d operators", maxChain)
	}
	return nil
}

func (p *parser) template() ([]statement, error) {
	body, _, err := p.statements(nil)
	if err != nil {
		return nil, err
	}
	return body, nil
}

// statements reads until a block whose name is one of ends, of which it takes the opening and the name, or the end of the template.
func (p *parser) statements(ends []string) (body []statement, end string, err error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer p.leave()
	for {
		switch t := p.take(); t.kind {
		case tokenEnd:
			if ends != nil {
				return nil, "", p.fail(t.pos, "the template ends where {%% %s %%} is expected", ends[len(ends)-1])
			}
			return body, "", nil
		case tokenData:
			body = append(body, &data{t.pos, t.text})
		case tokenVariable:
			value, err := p.tuple()
			if err != nil {
				return nil, "", err
			}
			if !p.is(tokenVariableEnd) {
				return nil, "", p.unexpected("}}")
			}
			p.next++
			body = append(body, &output{t.pos, value})
		default: // a block: no other token begins something
			if p.isName(ends...) && ends != nil {
				return body, p.take().text, nil
			}
			s, err := p.statement()
			if err != nil {
				return nil, "", err
			}
			if err := p.blockEnd(); err != nil {
				return nil, "", err
			}
			body = append(body, s...)
		}
	}
}

func (p *parser) blockEnd() error {
	if !p.is(tokenBlockEnd) {
		return p.unexpected("%}")
	}
	p.next++
	return nil
}

// body reads the end of a block's opening, and statements until its end.
func (p *parser) body(ends ...string) ([]statement, string, error) {
	if err := p.blockEnd(); err != nil {
		return nil, "", err
	}
	return p.statements(ends)
}

func (p *parser) statement() ([]statement, error) {
	pos := p.here().pos
	keyword, err := p.expectName()
	if err != nil {
		return nil, err
	}
	var s statement
	switch keyword {
	case "if":
		s, err = p.branch(pos)
	case "for":
		s, err = p.loop(pos)
	case "set":
		s, err = p.set(pos)
	case "macro":
		s, err = p.macro(pos)
	case "call":
		s, err = p.callBlock(pos)
	case "filter":
		s, err = p.filterBlock(pos)
	case "with":
		s, err = p.with(pos)
	case "generation":
		var body []statement
		body, _, err = p.body("endgeneration")
		s = &with{position: pos, body: body}
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.fail(pos, "%s is not inside a loop", keyword)
		}
		s = &jump{pos, keyword == "break"}
	case "print":
		return p.print(pos)
	default:
		return nil, p.fail(pos, "there is no statement %q", keyword)
	}
	if err != nil {
		return nil, err
	}
	return []statement{s}, nil
}

func (p *parser) print(pos position) ([]statement, error) {
	var all []statement
	for !p.is(tokenBlockEnd) {
		if all != nil {
			if err := p.expect(tokenOperator, ","); err != nil {
				return nil, err
			}
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		all = append(all, &output{pos, value})
	}
	return all, nil
}

func (p *parser) branch(pos position) (statement, error) {
	b := &branch{position: pos}
	for {
		condition, err := p.tupleOf(p.expression)
		if err != nil {
			return nil, err
		}
		body, end, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		b.tests, b.bodies = append(b.tests, condition), append(b.bodies, body)
		switch end {
		case "endif":
			return b, nil
		case "else":
			b.otherwise, _, err = p.body("endif")
			return b, err
		}
	}
}

func (p *parser) loop(pos position) (statement, error) {
	l := &loop{position: pos}
	var err error
	if l.target, err = p.target(false); err != nil {
		return nil, err
	}
	if err := p.expect(tokenName, "in"); err != nil {
		return nil, err
	}
	// Conditional expressions are none here, for the "if" is the loop's.
	if l.over, err = p.tupleOf(p.or); err != nil {
		return nil, err
	}
	if p.skip(tokenName, "if") {
		if l.test, err = p.expression(); err != nil {
			return nil, err
		}
	}
	l.recursive = p.skip(tokenName, "recursive")
	p.loops++
	body, end, err := p.body("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	l.body = body
	if end == "else" {
		l.otherwise, _, err = p.body("endfor")
	}
	return l, err
}

func (p *parser) set(pos position) (statement, error) {
	target, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.skip(tokenOperator, "=") {
		value, err := p.tuple()
		return &set{pos, target, value}, err
	}
	filters, err := p.filters(nil)
	if err != nil {
		return nil, err
	}
	body, _, err := p.body("endset")
	return &setBlock{pos, target, filters, body}, err
}

// signature reads the parameters of a macro, of which the last have defaults.
func (p *parser) signature(m *macro) error {
	if err := p.expect(tokenOperator, "("); err != nil {
		return err
	}
	for !p.skip(tokenOperator, ")") {
		if m.parameters != nil {
			if err := p.expect(tokenOperator, ","); err != nil {
				return err
			}
		}
		pos := p.here().pos
		parameter, err := p.expectName()
		if err != nil {
			return err
		}
		if constants[parameter] != nil || slices.Contains(m.parameters, parameter) {
			return p.fail(pos, "%s can't be a parameter", parameter)
		}
		m.parameters = append(m.parameters, parameter)
		if p.skip(tokenOperator, "=") {
			value, err := p.expression()
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, value)
		} else if m.defaults != nil {
			return p.fail(pos, "parameter %s has no default, but stands behind one that has", parameter)
		}
	}
	return nil
}

func (p *parser) macro(pos position) (statement, error) {
	m := &macro{position: pos}
	var err error
	if m.name, err = p.expectName(); err != nil {
		return nil, err
	}
	if err := p.signature(m); err != nil {
		return nil, err
	}
	return m, p.macroBody(m, "endmacro")
}

func (p *parser) macroBody(m *macro, end string) error {
	loops := p.loops
	p.loops = 0
	var err error
	m.body, _, err = p.body(end)
	p.loops = loops
	for _, s := range m.body {
		m.catches.values = m.catches.values || mentions(s, "varargs")
		m.catches.keywords = m.catches.keywords || mentions(s, "kwargs")
		m.catches.caller = m.catches.caller || mentions(s, "caller")
	}
	return err
}

func (p *parser) callBlock(pos position) (statement, error) {
	caller := &macro{position: pos, name: "caller"}
	if p.isOperator("(") {
		if err := p.signature(caller); err != nil {
			return nil, err
		}
	}
	value, err := p.expression()
	if err != nil {
		return nil, err
	}
	c, ok := value.(*call)
	if !ok {
		return nil, p.fail(pos, "a call block has to call something")
	}
	return &callBlock{pos, c, caller}, p.macroBody(caller, "endcall")
}

func (p *parser) filterBlock(pos position) (statement, error) {
	first, err := p.filter(nil)
	if err != nil {
		return nil, err
	}
	filters, err := p.filters([]*filter{first})
	if err != nil {
		return nil, err
	}
	body, _, err := p.body("endfilter")
	return &filterBlock{pos, filters, body}, err
}

// filters reads filters that apply to what a block makes.
func (p *parser) filters(list []*filter) ([]*filter, error) {
	for p.skip(tokenOperator, "|") {
		f, err := p.filter(nil)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

func (p *parser) with(pos position) (statement, error) {
	w := &with{position: pos}
	for !p.is(tokenBlockEnd) {
		if w.targets != nil {
			if err := p.expect(tokenOperator, ","); err != nil {
				return nil, err
			}
		}
		target, err := p.target(false)
		if err != nil {
			return nil, err
		}
		if err := p.expect(tokenOperator, "="); err != nil {
			return nil, err
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		w.targets, w.values = append(w.targets, target), append(w.values, value)
	}
	var err error
	w.body, _, err = p.body("endwith")
	return w, err
}

// target reads what is assigned to: a name, names, or, if so allowed, an attribute of a namespace.
func (p *parser) target(attributes bool) (expression, error) {
	t, err := p.tupleOf(func() (expression, error) {
		if attributes && p.is(tokenName) && p.tokens[p.next+1].kind == tokenOperator && p.tokens[p.next+1].text == "." {
			pos, object := p.here().pos, p.take().text
			p.next++
			attr, err := p.expectName()
			return &namespaceAttribute{pos, object, attr}, err
		}
		return p.primary()
	})
	if err != nil {
		return nil, err
	}
	return t, p.assignable(t)
}

func (p *parser) assignable(target expression) error {
	switch t := target.(type) {
	case *name, *namespaceAttribute:
		return nil
	case *list:
		for _, item := range t.items {
			if err := p.assignable(item); err != nil {
				return err
			}
		}
		if t.tuple && len(t.items) > 0 {
			return nil
		}
	}
	return p.fail(target.at(), "this can't be assigned to")
}
