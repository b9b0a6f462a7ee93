package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// parseFloat reads a float as Python does.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || math.IsInf(f, 0)
}

func toFloat(_ *evaluator, v any, a []any) (any, error) {
	if _, f, _, ok := number(v); ok {
		return f, nil
	}
	if s, ok := v.(string); ok {
		if f, ok := parseFloat(s); ok {
			return f, nil
		}
	}
	return given(a[0], 0.0), nil
}

func toInt(_ *evaluator, v any, a []any) (any, error) {
	base, _, isInt, _ := number(given(a[1], int64(10)))
	if !isInt || base < 0 || base == 1 || base > 36 {
		return nil, errors.New("the base is no number from 2 to 36")
	}
	fromFloat := func(f float64) any {
		if math.IsNaN(f) || math.Abs(f) >= 1<<63 {
			return given(a[0], int64(0))
		}
		return int64(f)
	}
	if i, f, isInt, ok := number(v); ok {
		if isInt {
			return i, nil
		}
		return fromFloat(f), nil
	}
	if s, ok := v.(string); ok {
		digits := strings.TrimFunc(s, isSpace)
		if prefix := map[int64]string{16: "0x", 8: "0o", 2: "0b"}[base]; prefix != "" && len(digits) > 2 && strings.EqualFold(digits[:2], prefix) {
			digits = digits[2:]
		}
		if i, err := strconv.ParseInt(digits, int(base), 64); err == nil {
			return i, nil
		}
		if f, ok := parseFloat(s); ok {
			return fromFloat(f), nil
		}
	}
	if b, ok := v.(bigNumber); ok {
		return b, nil
	}
	return given(a[0], int64(0)), nil
}

func round(_ *evaluator, v any, a []any) (any, error) {
	i, f, isInt, ok := number(v)
	if !ok {
		return nil, fmt.Errorf("%s can't be rounded", typeName(v))
	}
	precision, _, whole, _ := number(given(a[0], int64(0)))
	if !whole || precision < -300 || precision > 300 {
		return nil, errors.New("the precision is no number from -300 to 300")
	}
	if isInt {
		f = float64(i)
	}
	scale := math.Pow(10, float64(precision))
	switch method := given(a[1], "common"); method {
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	case "common":
		if isInt && precision >= 0 {
			return i, nil
		}
		if precision < 0 {
			f = math.RoundToEven(f*scale) / scale
		} else if !math.IsInf(f, 0) && !math.IsNaN(f) {
			var err error
			if f, err = strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(precision), 64), 64); err != nil {
				return nil, err
			}
		}
		if isInt {
			return int64(f), nil
		}
		return f, nil
	}
	return nil, errors.New(`the method is "common", "ceil" or "floor"`)
}
