package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

var errOverflow = errors.New("the result is not an integer of 64 bits")

// negate applies a sign, or "not".
func negate(operator string, v any) (any, error) {
	if operator == "not" {
		return !truth(v), nil
	}
	if u, ok := v.(undefined); ok {
		return nil, errors.New(u.what)
	}
	i, f, isInt, ok := number(v)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s has no sign", typeName(v))
	case operator == "+":
		if isInt {
			return i, nil
		}
		return f, nil
	case !isInt:
		return -f, nil
	case i == math.MinInt64:
		return nil, errOverflow
	}
	return -i, nil
}

func (e *evaluator) arithmetic(operator string, left, right any) (any, error) {
	for _, v := range [2]any{left, right} {
		if u, ok := v.(undefined); ok {
			return nil, errors.New(u.what)
		}
	}
	i, f, isInt, ok := number(left)
	j, g, bothInt, both := number(right)
	switch {
	case ok && both && isInt && bothInt:
		return integers(operator, i, j)
	case ok && both:
		return floats(operator, f, g)
	}
	switch operator {
	case "+":
		switch a := left.(type) {
		case string:
			if b, ok := right.(string); ok {
				return a + b, e.grow(len(a) + len(b))
			}
		case *List:
			if b, ok := right.(*List); ok && a.tuple == b.tuple {
				return &List{items: slices.Concat(a.items, b.items), tuple: a.tuple}, e.grow(slot * (len(a.items) + len(b.items)))
			}
		}
	case "*":
		if ok && isInt {
			left, j, bothInt = right, i, true
		}
		if bothInt {
			return e.repeat(left, j)
		}
	case "%":
		if format, ok := left.(string); ok {
			return e.printf(format, right)
		}
	}
	return nil, fmt.Errorf("%s %s %s is not possible", typeName(left), operator, typeName(right))
}

// repeat repeats a text or a list.
func (e *evaluator) repeat(v any, n int64) (any, error) {
	n = max(n, 0)
	size := func(unit int) error {
		if high, low := bits.Mul64(uint64(unit), uint64(n)); high > 0 || low > maxBytes {
			return errBytes
		}
		return e.grow(unit * int(n))
	}
	switch v := v.(type) {
	case string:
		if err := size(len(v)); err != nil || v == "" {
			return "", err
		}
		return strings.Repeat(v, int(n)), nil
	case *List:
		if err := size(slot * len(v.items)); err != nil {
			return nil, err
		}
		if len(v.items) == 0 {
			return v, nil
		}
		return &List{items: slices.Repeat(v.items, int(n)), tuple: v.tuple}, nil
	}
	return nil, fmt.Errorf("%s can't be repeated", typeName(v))
}

var errZero = errors.New("division by zero")

// integers calculates as Python does: quotients of // and remainders go with the divisor's sign.
func integers(operator string, i, j int64) (any, error) {
	switch operator {
	case "+":
		if sum := i + j; (sum > i) == (j > 0) {
			return sum, nil
		}
	case "-":
		if difference := i - j; (difference < i) == (j > 0) {
			return difference, nil
		}
	case "*":
		if i == 0 || j == 0 {
			return int64(0), nil
		}
		if product := i * j; product/j == i && !(i == -1 && j == math.MinInt64) && !(j == -1 && i == math.MinInt64) {
			return product, nil
		}
	case "/":
		if j == 0 {
			return nil, errZero
		}
		return float64(i) / float64(j), nil
	case "//", "%":
		if j == 0 {
			return nil, errZero
		}
		if j == -1 {
			if operator == "%" {
				return int64(0), nil
			}
			return negate("-", i)
		}
		quotient, rest := i/j, i%j
		if rest != 0 && (rest < 0) != (j < 0) {
			quotient, rest = quotient-1, rest+j
		}
		if operator == "%" {
			return rest, nil
		}
		return quotient, nil
	case "**":
		if j < 0 {
			return floats(operator, float64(i), float64(j))
		}
		return integerPower(i, j)
	}
	return nil, errOverflow
}

func integerPower(base, exponent int64) (any, error) {
	result := int64(1)
	for ; exponent > 0; exponent >>= 1 {
		if exponent&1 == 1 {
			product, err := integers("*", result, base)
			if err != nil {
				return nil, err
			}
			result = product.(int64)
		}
		if exponent > 1 {
			square, err := integers("*", base, base)
			if err != nil {
				return nil, err
			}
			base = square.(int64)
		}
	}
	return result, nil
}

func floats(operator string, f, g float64) (any, error) {
	switch operator {
	case "+":
		return f + g, nil
	case "-":
		return f - g, nil
	case "*":
		return f * g, nil
	case "**":
		if f == 0 && g < 0 {
			return nil, errZero
		}
		r := math.Pow(f, g)
		if math.IsInf(r, 0) && !math.IsInf(f, 0) && !math.IsInf(g, 0) || math.IsNaN(r) && !math.IsNaN(f) && !math.IsNaN(g) {
			return nil, errors.New("the result is not a float")
		}
		return r, nil
	}
	if g == 0 {
		return nil, errZero
	}
	if operator == "/" {
		return f / g, nil
	}
	rest := math.Mod(f, g)
	quotient := (f - rest) / g
	if rest != 0 && (rest < 0) != (g < 0) {
		rest += g
		quotient--
	}
	if operator == "%" {
		return rest, nil
	}
	return math.Round(quotient), nil
}

func (e *evaluator) compare(operator string, left, right any) (bool, error) {
	switch operator {
	case "in", "not in":
		ok, err := e.contains(right, left)
		return ok == (operator == "in"), err
	case "==", "!=":
		same, err := e.equal(left, right, 0)
		return same == (operator == "=="), err
	}
	for _, v := range [2]any{left, right} {
		if u, ok := v.(undefined); ok {
			return false, errors.New(u.what)
		}
	}
	order, err := e.order(left, right, 0)
	if err != nil {
		return false, err
	}
	switch operator {
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	}
	return order >= 0, nil
}

// contains says whether something is in a list, a key of a mapping, or a part of a string.
func (e *evaluator) contains(in, v any) (bool, error) {
	switch in := in.(type) {
	case string:
		part, ok := v.(string)
		if !ok {
			return false, fmt.Errorf("%s can't be in a string", typeName(v))
		}
		return strings.Contains(in, part), e.scan(len(in))
	case *Dict:
		if !hashable(v) {
			return false, fmt.Errorf("%s can't be a key", typeName(v))
		}
		_, ok := in.Get(v)
		return ok, nil
	}
	items, err := e.elements(in)
	if err != nil {
		return false, err
	}
	for _, item := range items {
		if same, err := e.equal(item, v, 0); same || err != nil {
			return same, err
		}
	}
	return false, nil
}
