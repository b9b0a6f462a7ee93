package vendorlib

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is the numbers of a version, the most significant first.
type Version []int64

// ParseVersion reads the first run of numbers with points between them in a text:
// "2026.4.1-22982-release" is 2026.4.1, "libx.so.12" is 12. What has none is empty,
// and less than any other.
func ParseVersion(text string) Version {
	start := strings.IndexAny(text, "0123456789")
	if start < 0 {
		return nil
	}
	var v Version
	for _, part := range strings.Split(text[start:], ".") {
		digits := part
		if end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			digits = part[:end]
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			break // no digits, or more than a number holds
		}
		v = append(v, n)
		if digits != part {
			break
		}
	}
	return v
}

// Compare is -1, 0 or 1 as v is less than, equal to or greater than w; what is
// left out is 0.
func (v Version) Compare(w Version) int {
	for i := range max(len(v), len(w)) {
		var a, b int64
		if i < len(v) {
			a = v[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if c := cmp.Compare(a, b); c != 0 {
			return c
		}
	}
	return 0
}

func (v Version) String() string {
	parts := make([]string, len(v))
	for i, n := range v {
		parts[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(parts, ".")
}

// Range is the versions of a library that a backend was written for: from Min, before
// Below. An empty bound bounds nothing.
type Range struct{ Min, Below Version }

// VersionError says that a library is of a version that the backend does not know.
type VersionError struct {
	Name, Found string
	Want        Range
}

func (e *VersionError) Error() string {
	s := fmt.Sprintf("%s is of version %s, wanted", e.Name, e.Found)
	if len(e.Want.Min) > 0 {
		s += " " + e.Want.Min.String() + " or later"
	}
	if len(e.Want.Below) > 0 {
		s += " before " + e.Want.Below.String()
	}
	return s
}

// Check holds a version, as the library words it, against the range. The error is
// *VersionError.
func (r Range) Check(name, found string) error {
	v := ParseVersion(found)
	if len(v) == 0 || v.Compare(r.Min) < 0 || len(r.Below) > 0 && v.Compare(r.Below) >= 0 {
		return &VersionError{Name: name, Found: found, Want: r}
	}
	return nil
}
