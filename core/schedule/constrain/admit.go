package constrain

import "unicode/utf8"

const maxAdmitDepth = 1000

// admits says whether a schema's enumerated value is valid by a schema.
// loose: formats are annotations.
func (c *compiler) admits(n *node, v value, loose bool, depth int) (bool, error) {
	if depth > maxAdmitDepth {
		return false, &SchemaError{n.path, "nested too deep, or refers to itself with no value between"}
	}
	if err := c.budget.spend(20); err != nil {
		return false, &SchemaError{n.path, err.Error()}
	}
	if n.never {
		return false, nil
	}
	if n.own != nil {
		if ok, err := c.ownAdmits(n, v, loose, depth); !ok || err != nil {
			return false, err
		}
	}
	for _, m := range n.also {
		if ok, err := c.admits(m, v, loose, depth+1); !ok || err != nil {
			return false, err
		}
	}
	for _, branches := range n.some {
		admitted := false
		for _, m := range branches {
			ok, err := c.admits(m, v, loose, depth+1)
			if err != nil {
				return false, err
			}
			if admitted = admitted || ok; admitted {
				break // of oneOf too: others exclude it, as is checked
			}
		}
		if !admitted {
			return false, nil
		}
	}
	return true, nil
}

// ownAdmits judges by a schema's own keywords.
func (c *compiler) ownAdmits(n *node, v value, loose bool, depth int) (bool, error) {
	k := n.own
	if k.enumerated != nil && !k.enumerated[v.key()] {
		return false, nil
	}
	switch v.kind {
	case null:
		return k.types&isNull != 0, nil
	case boolean:
		return k.types&isBoolean != 0, nil
	case number:
		d, err := parseDecimal(v.text)
		if err != nil {
			return false, &SchemaError{n.path, err.Error()}
		}
		if d.integer() && k.types&isInteger == 0 || !d.integer() && k.types&isFraction == 0 {
			return false, nil
		}
		if k.lo != nil {
			if s := d.compare(k.lo.decimal); s < 0 || s == 0 && k.lo.exclusive {
				return false, nil
			}
		}
		if k.hi != nil {
			if s := d.compare(k.hi.decimal); s > 0 || s == 0 && k.hi.exclusive {
				return false, nil
			}
		}
		return true, nil
	case text:
		length := int64(utf8.RuneCountInString(v.text))
		if k.types&isString == 0 || length < k.minLength || k.maxLength >= 0 && length > k.maxLength {
			return false, nil
		}
		sources := []string{k.pattern}
		if !loose {
			sources = append(sources, formats[k.format])
		}
		for _, source := range sources {
			if source == "" {
				continue
			}
			d, err := c.pattern(source, n.path)
			if err != nil {
				return false, err
			}
			if !d.matches(appendCharacters(nil, v.text)) {
				return false, nil
			}
		}
		return true, nil
	case array:
		length := int64(len(v.list))
		if k.types&isArray == 0 || length < k.minItems || k.maxItems >= 0 && length > k.maxItems {
			return false, nil
		}
		for i, item := range v.list {
			m := k.items
			if i < len(k.prefix) {
				m = k.prefix[i]
			}
			if m == nil {
				continue
			}
			if ok, err := c.admits(m, item, loose, depth+1); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	if k.types&isObject == 0 {
		return false, nil
	}
	if err := c.spend(len(k.required) * len(v.names)); err != nil {
		return false, &SchemaError{n.path, err.Error()}
	}
	for _, name := range k.required {
		if _, ok := v.member(name); !ok {
			return false, nil
		}
	}
	for i, name := range v.names {
		schemas, err := c.schemasFor(n, name)
		if err != nil {
			return false, err
		}
		for _, m := range schemas {
			if ok, err := c.admits(m, v.list[i], loose, depth+1); !ok || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// schemasFor are the schemas of a property's value.
func (c *compiler) schemasFor(n *node, name string) ([]*node, error) {
	var schemas []*node
	if i, ok := n.own.index[name]; ok {
		schemas = append(schemas, n.own.properties[i].schema)
	}
	if err := c.spend(len(n.own.patterns) * (10 + len(name))); err != nil {
		return nil, &SchemaError{n.path, err.Error()}
	}
	for _, p := range n.own.patterns {
		d, err := c.pattern(p.name, n.path)
		if err != nil {
			return nil, err
		}
		if d.matches(appendCharacters(nil, name)) {
			schemas = append(schemas, p.schema)
		}
	}
	if schemas == nil && n.own.additional != nil {
		schemas = append(schemas, n.own.additional)
	}
	return schemas, nil
}
