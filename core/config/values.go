package config

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Secret is a value that is never shown: it prints and encodes as a mark. Use
// Reveal for what it holds.
type Secret string

const redacted = "[redacted]"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a mark, or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString keeps %#v from showing it.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText keeps encoders from showing it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a number of bytes. Files may say it with a unit: 20GiB, 512MB.
type Bytes int64

// Longer names first, so that "GiB" isn't taken for "B".
var byteUnits = []struct {
	name string
	size int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes reads a number of bytes with or without a unit.
func ParseBytes(s string) (Bytes, error) {
	num, size := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(num, u.name); ok {
			num, size = strings.TrimSpace(n), u.size
			break
		}
	}
	if n, err := strconv.ParseInt(num, 10, 64); err == nil {
		if n > math.MaxInt64/size || n < math.MinInt64/size {
			return 0, fmt.Errorf("%s is more bytes than can be counted", s)
		}
		return Bytes(n * size), nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || math.IsNaN(f) || size == 1 {
		return 0, fmt.Errorf("want a number of bytes such as 1048576, 512MB or 20GiB")
	}
	if f *= float64(size); math.Abs(f) >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is more bytes than can be counted", s)
	}
	return Bytes(f), nil
}

// String uses the largest binary unit that divides it.
func (b Bytes) String() string {
	for i := 3; i >= 0; i-- {
		if u := byteUnits[i]; b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes what ParseBytes reads.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

var (
	platformPattern  = regexp.MustCompile(`^[a-z][a-z0-9_-]*(:[A-Za-z0-9_.-]+)?$`)
	generatorPattern = regexp.MustCompile(`^(zeros|ones|random(:[0-9]+)?)$`)
	// formats are checks of texts that a type can't say, by the name in the tag.
	formats = map[string]format{
		"platform": {
			pattern: platformPattern.String(),
			check: func(s string) error {
				if !platformPattern.MatchString(s) {
					return fmt.Errorf("want a platform such as cpu, or a device such as simulation:static; `accel devices` lists those that there are")
				}
				return nil
			},
		},
		"generator": {
			pattern: generatorPattern.String(),
			check: func(s string) error {
				if !generatorPattern.MatchString(s) {
					return fmt.Errorf("want zeros, ones, random or random:SEED")
				}
				return nil
			},
		},
		"address": {check: func(s string) error {
			_, port, err := net.SplitHostPort(s)
			if err != nil {
				return fmt.Errorf("want an address with a port, such as 127.0.0.1:8399 or [::1]:8399")
			}
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return fmt.Errorf("want a port from 0 to 65535, not %q", port)
			}
			return nil
		}},
		"endpoint": {check: func(s string) error {
			u, err := url.Parse(s)
			if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/") {
				return fmt.Errorf("want an address such as https://huggingface.co, without a slash at the end")
			}
			return nil
		}},
		"origin": {check: func(s string) error {
			u, err := url.Parse(s)
			if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || s != u.Scheme+"://"+u.Host {
				return fmt.Errorf("want an origin such as https://app.example.com, without a path")
			}
			return nil
		}},
	}
)

type format struct {
	pattern string // for the schema; empty: none says it
	check   func(string) error
}
