package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// list makes a list, and counts it.
func (e *evaluator) list(items []any) (any, error) {
	return NewList(items...), e.grow(slot * len(items))
}

func reversed(items []any) []any {
	items = slices.Clone(items)
	slices.Reverse(items)
	return items
}

// path follows an attribute's name with dots, or an index. What is missing is the default, if there is one.
func (e *evaluator) path(v, attribute, otherwise any) (any, error) {
	steps := []any{attribute}
	if s, ok := attribute.(string); ok {
		steps = steps[:0]
		for _, part := range strings.Split(s, ".") {
			if i, err := strconv.ParseUint(part, 10, 31); err == nil {
				steps = append(steps, int64(i))
			} else {
				steps = append(steps, part)
			}
		}
	}
	for _, step := range steps {
		var err error
		if v, err = e.index(v, step); err != nil {
			return nil, err
		}
		if _, missing := v.(undefined); missing && otherwise != nil {
			v = otherwise
		}
	}
	return v, nil
}

// keys returns what items are ordered by: attributes of theirs, if so asked, letters of both cases alike, unless told otherwise.
func (e *evaluator) keys(items []any, attribute any, caseSensitive bool) ([]any, error) {
	if err := e.grow(slot * len(items)); err != nil {
		return nil, err
	}
	fold := func(v any) any {
		if s, ok := v.(string); ok && !caseSensitive {
			return lower(s)
		}
		return v
	}
	var attributes []string
	if s, ok := attribute.(string); ok {
		attributes = strings.Split(s, ",")
	}
	keys := make([]any, len(items))
	for i, item := range items {
		switch {
		case attribute == nil:
			keys[i] = fold(item)
		case len(attributes) > 1:
			t := newTuple()
			for _, a := range attributes {
				v, err := e.path(item, a, nil)
				if err != nil {
					return nil, err
				}
				t.items = append(t.items, fold(v))
			}
			keys[i] = t
		default:
			v, err := e.path(item, attribute, nil)
			if err != nil {
				return nil, err
			}
			keys[i] = fold(v)
		}
	}
	return keys, nil
}

// ordered sorts items by their keys. Equal ones keep their order.
func (e *evaluator) ordered(items, keys []any, reverse bool) ([]any, error) {
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	var failed error
	slices.SortStableFunc(order, func(i, j int) int {
		if failed != nil {
			return 0
		}
		var c int
		if c, failed = e.order(keys[i], keys[j], 0); reverse {
			c = -c
		}
		return c
	})
	sorted := make([]any, len(items))
	for i, at := range order {
		sorted[i] = items[at]
	}
	return sorted, failed
}

// sorted is a list of items in the order of what keys says of each.
func (e *evaluator) sorted(items []any, by any, caseSensitive, reverse bool) (any, error) {
	keys, err := e.keys(items, by, caseSensitive)
	if err != nil {
		return nil, err
	}
	ordered, err := e.ordered(items, keys, reverse)
	if err != nil {
		return nil, err
	}
	return e.list(ordered)
}

func sortFilter(e *evaluator, v any, a []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	return e.sorted(items, given(a[2], nil), truth(given(a[1], false)), truth(given(a[0], false)))
}

func dictsort(e *evaluator, v any, a []any) (any, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no mapping", typeName(v))
	}
	var at any
	switch by := given(a[1], "key"); by {
	case "key":
		at = int64(0)
	case "value":
		at = int64(1)
	default:
		return nil, errors.New(`it sorts by "key" or "value"`)
	}
	return e.sorted(pairsOf(d), at, truth(given(a[0], false)), truth(given(a[2], false)))
}

func groupby(e *evaluator, v any, a []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	values := make([]any, len(items))
	for i, item := range items {
		if values[i], err = e.path(item, a[0], given(a[1], nil)); err != nil {
			return nil, err
		}
	}
	keys, err := e.keys(values, nil, truth(given(a[2], false)))
	if err != nil {
		return nil, err
	}
	numbers := make([]any, len(items))
	for i := range numbers {
		numbers[i] = int64(i)
	}
	if numbers, err = e.ordered(numbers, keys, false); err != nil {
		return nil, err
	}
	var groups []any
	var last any
	for n, number := range numbers {
		i := number.(int64)
		same := false
		if n > 0 {
			if same, err = e.equal(keys[i], last, 0); err != nil {
				return nil, err
			}
		}
		if !same {
			group := newTuple(values[i], NewList())
			group.fields = []string{"grouper", "list"}
			groups = append(groups, group)
			last = keys[i]
		}
		group := groups[len(groups)-1].(*List).items[1].(*List)
		group.items = append(group.items, items[i])
	}
	return e.list(groups)
}

func pairsOf(d *Dict) []any {
	pairs := make([]any, 0, d.Len())
	for key, v := range d.All() {
		pairs = append(pairs, newTuple(key, v))
	}
	return pairs
}

func items(e *evaluator, v any, _ []any) (any, error) {
	switch v := v.(type) {
	case undefined:
		return NewList(), nil
	case *Dict:
		return NewList(pairsOf(v)...), e.grow(4 * slot * v.Len())
	}
	return nil, fmt.Errorf("%s is no mapping", typeName(v))
}

func toList(e *evaluator, v any, _ []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	return e.list(items)
}

// end returns the first or the last item.
func (e *evaluator) end(v any, first bool) (any, error) {
	if s, ok := v.(string); ok {
		if first {
			return character(s, 0), nil
		}
		return character(s, -1), nil
	}
	items, err := e.elements(v)
	switch {
	case err != nil:
		return nil, err
	case len(items) == 0:
		return undefined{"there are no items"}, nil
	case first:
		return items[0], nil
	}
	return items[len(items)-1], nil
}

func join(e *evaluator, v any, a []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	separator, err := e.str(given(a[0], ""))
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, item := range items {
		if attribute := given(a[1], nil); attribute != nil {
			if item, err = e.path(item, attribute, nil); err != nil {
				return nil, err
			}
		}
		text, err := e.str(item)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			text = separator + text
		}
		if err := e.grow(len(text)); err != nil {
			return nil, err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// mapFilter takes an attribute of each item, or applies a filter to each.
func mapFilter(e *evaluator, v any, a callArguments) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	var attribute, otherwise any
	if len(a.values) == 0 {
		bound, err := bind(a, 1, []string{"attribute", "default"})
		if err != nil {
			return nil, fmt.Errorf("filter map: %w", err)
		}
		attribute, otherwise = bound[0], given(bound[1], nil)
	}
	mapped := make([]any, len(items))
	for i, item := range items {
		if attribute != nil {
			mapped[i], err = e.path(item, attribute, otherwise)
		} else {
			name, ok := a.values[0].(string)
			if !ok {
				return nil, fmt.Errorf("filter map: %s is no name of a filter", typeName(a.values[0]))
			}
			mapped[i], err = e.applyFilter(name, item, callArguments{a.values[1:], a.keywords})
		}
		if err != nil {
			return nil, err
		}
	}
	return e.list(mapped)
}

// selected keeps the items that a test holds for, or does not; or that have an attribute which it holds for.
func (e *evaluator) selected(v any, a callArguments, attribute, holds bool) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	var by any
	if attribute {
		if len(a.values) == 0 {
			return nil, errors.New("the attribute is missing")
		}
		by, a.values = a.values[0], a.values[1:]
	}
	var kept []any
	for _, item := range items {
		v := item
		if attribute {
			if v, err = e.path(item, by, nil); err != nil {
				return nil, err
			}
		}
		ok := truth(v)
		if len(a.values) > 0 {
			name, isName := a.values[0].(string)
			if !isName {
				return nil, fmt.Errorf("%s is no name of a test", typeName(a.values[0]))
			}
			if ok, err = e.applyTest(name, v, callArguments{a.values[1:], a.keywords}); err != nil {
				return nil, err
			}
		}
		if ok == holds {
			kept = append(kept, item)
		}
	}
	return e.list(kept)
}

// size returns a count that is an argument.
func size(v any, least int64) (int, error) {
	n, _, isInt, _ := number(v)
	if !isInt || n < least || n > maxBytes {
		return 0, fmt.Errorf("a number from %d on is wanted, not %s", least, typeName(v))
	}
	return int(n), nil
}

// batch makes lists of so many items each.
func batch(e *evaluator, v any, a []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	n, err := size(a[0], 1)
	if err != nil {
		return nil, err
	}
	var rows []any
	for row := range slices.Chunk(items, n) {
		row = slices.Clone(row)
		if fill := given(a[1], nil); fill != nil {
			if err := e.grow(slot * n); err != nil {
				return nil, err
			}
			for len(row) < n {
				row = append(row, fill)
			}
		}
		rows = append(rows, NewList(row...))
	}
	return e.list(rows)
}

// slicesOf makes so many lists, the first ones longer if need be.
func slicesOf(e *evaluator, v any, a []any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	n, err := size(a[0], 1)
	if err != nil {
		return nil, err
	}
	if err := e.grow(4 * slot * n); err != nil {
		return nil, err
	}
	each, longer := len(items)/n, len(items)%n
	rows := make([]any, n)
	for i := range rows {
		count := each
		if i < longer {
			count++
		}
		row := slices.Clone(items[:count])
		items = items[count:]
		if fill := given(a[1], nil); fill != nil && i >= longer {
			row = append(row, fill)
		}
		rows[i] = NewList(row...)
	}
	return NewList(rows...), nil
}
