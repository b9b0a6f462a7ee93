package jinja

import "slices"

// constants are names that stand for a value.
var constants = map[string]*constant{
	"true": {value: true}, "True": {value: true}, "false": {value: false}, "False": {value: false}, "none": {}, "None": {},
}

// expression reads an expression without commas.
func (p *parser) expression() (expression, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	value, err := p.or()
	if err != nil {
		return nil, err
	}
	for n := 0; p.isName("if"); {
		if err := p.chain(&n); err != nil {
			return nil, err
		}
		c := &conditional{position: p.take().pos, then: value}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.skip(tokenName, "else") {
			if c.otherwise, err = p.expression(); err != nil {
				return nil, err
			}
		}
		value = c
	}
	return value, nil
}

// tuple reads an expression or several with commas between them.
func (p *parser) tuple() (expression, error) { return p.tupleOf(p.expression) }

func (p *parser) tupleOf(item func() (expression, error)) (expression, error) {
	first, err := item()
	if err != nil || !p.isOperator(",") {
		return first, err
	}
	t := &list{first.at(), []expression{first}, true}
	for p.skip(tokenOperator, ",") {
		if p.is(tokenVariableEnd) || p.is(tokenBlockEnd) || p.isOperator(")", "=") || p.isName("in") {
			break
		}
		next, err := item()
		if err != nil {
			return nil, err
		}
		t.items = append(t.items, next)
	}
	return t, nil
}

func (p *parser) or() (expression, error)  { return p.logic("or", p.and) }
func (p *parser) and() (expression, error) { return p.logic("and", p.not) }

func (p *parser) logic(word string, operand func() (expression, error)) (expression, error) {
	left, err := operand()
	for n := 0; err == nil && p.isName(word); {
		if err = p.chain(&n); err != nil {
			break
		}
		pos := p.take().pos
		var right expression
		right, err = operand()
		left = &logic{pos, word == "or", left, right}
	}
	return left, err
}

func (p *parser) not() (expression, error) {
	if !p.isName("not") {
		return p.comparison()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	pos := p.take().pos
	operand, err := p.not()
	return &unary{pos, "not", operand}, err
}

func (p *parser) comparison() (expression, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &comparison{position: first.at(), first: first}
	for {
		operator := p.here().text
		switch {
		case p.isOperator("==", "!=", "<", "<=", ">", ">="), p.isName("in"):
			p.next++
		case p.isName("not") && p.tokens[p.next+1].kind == tokenName && p.tokens[p.next+1].text == "in":
			operator = "not in"
			p.next += 2
		case c.operators == nil:
			return first, nil
		default:
			return c, nil
		}
		operand, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.operators, c.operands = append(c.operators, operator), append(c.operands, operand)
	}
}

func (p *parser) sum() (expression, error) { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() (expression, error) {
	first, err := p.product()
	if err != nil || !p.isOperator("~") {
		return first, err
	}
	c := &concat{first.at(), []expression{first}}
	for p.skip(tokenOperator, "~") {
		part, err := p.product()
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, part)
	}
	return c, nil
}

func (p *parser) product() (expression, error) { return p.binary(p.power, "*", "/", "//", "%") }

func (p *parser) power() (expression, error) {
	return p.binary(func() (expression, error) { return p.unary(true) }, "**")
}

func (p *parser) binary(operand func() (expression, error), operators ...string) (expression, error) {
	left, err := operand()
	for n := 0; err == nil && p.isOperator(operators...); {
		if err = p.chain(&n); err != nil {
			break
		}
		operator := p.take()
		var right expression
		right, err = operand()
		left = &binary{operator.pos, operator.text, left, right}
	}
	return left, err
}

// unary reads a sign and what it applies to. Filters apply to the whole of it, but for what stands under a sign.
func (p *parser) unary(filters bool) (expression, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var value expression
	var err error
	if p.isOperator("-", "+") {
		sign := p.take()
		var operand expression
		operand, err = p.unary(false)
		value = &unary{sign.pos, sign.text, operand}
	} else {
		value, err = p.primary()
	}
	if err == nil {
		value, err = p.postfix(value, filters)
	}
	return value, err
}

func (p *parser) primary() (expression, error) {
	t := p.here()
	switch {
	case t.kind == tokenName:
		p.next++
		if c := constants[t.text]; c != nil {
			return &constant{t.pos, c.value}, nil
		}
		return &name{t.pos, t.text}, nil
	case t.kind == tokenString:
		text := ""
		for p.is(tokenString) {
			text += p.take().text
		}
		return &constant{t.pos, text}, nil
	case t.kind == tokenNumber:
		p.next++
		return &constant{t.pos, t.value}, nil
	case p.skip(tokenOperator, "("):
		if p.skip(tokenOperator, ")") {
			return &list{t.pos, nil, true}, nil
		}
		value, err := p.tuple()
		if err != nil {
			return nil, err
		}
		return value, p.expect(tokenOperator, ")")
	case p.skip(tokenOperator, "["):
		l := &list{position: t.pos}
		err := p.items("]", func() error {
			item, err := p.expression()
			l.items = append(l.items, item)
			return err
		})
		return l, err
	case p.skip(tokenOperator, "{"):
		d := &dict{position: t.pos}
		err := p.items("}", func() error {
			key, err := p.expression()
			if err != nil {
				return err
			}
			if err := p.expect(tokenOperator, ":"); err != nil {
				return err
			}
			value, err := p.expression()
			d.keys, d.values = append(d.keys, key), append(d.values, value)
			return err
		})
		return d, err
	}
	return nil, p.unexpected("an expression")
}

// items reads things with commas between them, and what closes them. The last may have a comma too.
func (p *parser) items(closer string, item func() error) error {
	for n := 0; !p.skip(tokenOperator, closer); n++ {
		if n > 0 {
			if err := p.expect(tokenOperator, ","); err != nil {
				return err
			}
			if p.skip(tokenOperator, closer) {
				return nil
			}
		}
		if err := item(); err != nil {
			return err
		}
	}
	return nil
}

// postfix reads subscripts, calls and, if so asked, filters and tests.
func (p *parser) postfix(value expression, filters bool) (expression, error) {
	filtered := false
	for n := 0; ; {
		if err := p.chain(&n); err != nil {
			return nil, err
		}
		var err error
		pos := p.here().pos
		switch {
		case p.isOperator("(") && (!filtered || filters):
			c := &call{position: pos, function: value}
			c.arguments, err = p.arguments()
			value = c
		case !filtered && p.skip(tokenOperator, "."):
			if p.is(tokenNumber) {
				i := p.take()
				if _, ok := i.value.(int64); !ok {
					return nil, p.fail(i.pos, "a fraction is no index")
				}
				value = &index{pos, value, &constant{i.pos, i.value}}
				break
			}
			a := &attribute{position: pos, object: value}
			a.name, err = p.expectName()
			value = a
		case !filtered && p.skip(tokenOperator, "["):
			value, err = p.subscript(pos, value)
		case filters && p.skip(tokenOperator, "|"):
			filtered = true
			value, err = p.filter(value)
		case filters && p.isName("is"):
			filtered = true
			p.next++
			value, err = p.test(pos, value)
		default:
			return value, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) subscript(pos position, object expression) (expression, error) {
	var bounds [3]expression
	n := 0
	for {
		if p.skip(tokenOperator, ":") {
			if n++; n > 2 {
				return nil, p.fail(pos, "a slice has three parts at most")
			}
			continue
		}
		if p.skip(tokenOperator, "]") {
			break
		}
		if bounds[n] != nil {
			return nil, p.unexpected("]")
		}
		part, err := p.expression()
		if err != nil {
			return nil, err
		}
		bounds[n] = part
	}
	if n > 0 {
		return &slice{pos, object, bounds[0], bounds[1], bounds[2]}, nil
	}
	if bounds[0] == nil {
		return nil, p.fail(pos, "the index is missing")
	}
	return &index{pos, object, bounds[0]}, nil
}

// arguments reads those of a call: values, then names with values, then *values, then **names.
func (p *parser) arguments() (arguments, error) {
	var a arguments
	if err := p.expect(tokenOperator, "("); err != nil {
		return a, err
	}
	return a, p.items(")", func() error {
		pos := p.here().pos
		switch {
		case p.skip(tokenOperator, "*"):
			if a.moreValues != nil || a.moreKeywords != nil {
				return p.fail(pos, "*arguments stand once, before **arguments")
			}
			var err error
			a.moreValues, err = p.expression()
			return err
		case p.skip(tokenOperator, "**"):
			if a.moreKeywords != nil {
				return p.fail(pos, "**arguments stand once")
			}
			var err error
			a.moreKeywords, err = p.expression()
			return err
		case p.is(tokenName) && p.tokens[p.next+1].kind == tokenOperator && p.tokens[p.next+1].text == "=":
			key := p.take().text
			p.next++
			value, err := p.expression()
			if a.moreKeywords != nil || slices.ContainsFunc(a.keywords, func(k keyword) bool { return k.name == key }) {
				return p.fail(pos, "argument %s stands twice, or behind **arguments", key)
			}
			a.keywords = append(a.keywords, keyword{key, value})
			return err
		}
		value, err := p.expression()
		if a.keywords != nil || a.moreValues != nil || a.moreKeywords != nil {
			return p.fail(pos, "an argument without a name stands behind one with a name")
		}
		a.values = append(a.values, value)
		return err
	})
}

func (p *parser) filter(input expression) (*filter, error) {
	f := &filter{position: p.here().pos, input: input}
	var err error
	if f.name, err = p.expectName(); err != nil {
		return nil, err
	}
	if p.isOperator("(") {
		f.arguments, err = p.arguments()
	}
	return f, err
}

func (p *parser) test(pos position, input expression) (expression, error) {
	not := p.skip(tokenName, "not")
	t := &test{position: pos, input: input}
	var err error
	if t.name, err = p.expectName(); err != nil {
		return nil, err
	}
	switch {
	case p.isOperator("("):
		t.arguments, err = p.arguments()
	case p.isName("else", "or", "and"):
	case p.isName("is"):
		return nil, p.fail(p.here().pos, "tests can't be chained")
	case p.is(tokenName), p.is(tokenString), p.is(tokenNumber), p.isOperator("[", "{"):
		var argument expression
		if argument, err = p.primary(); err == nil {
			argument, err = p.postfix(argument, false)
		}
		t.values = []expression{argument}
	}
	if not {
		return &unary{pos, "not", t}, err
	}
	return t, err
}
