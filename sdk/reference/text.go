package reference

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/tensor"
)

var textOps = []spec{
	{"StringConcat", since(20), "X T:string, Y T -> Z T", "", stringConcat},
	{"StringNormalizer", since(10), "X string -> Y string",
		"case_change_action string=NONE|LOWER|UPPER, is_case_sensitive int=0, locale string, stopwords strings", stringNormalizer},
	{"StringSplit", since(20), "X string -> Y string, Z i64", "delimiter string, maxsplit int", stringSplit},
	{"RegexFullMatch", since(20), "X string -> Y bool", "pattern string", regexFullMatch},
	{"TfIdfVectorizer", since(9), "X string|i32|i64 -> Y f32",
		"max_gram_length int!, max_skip_count int!, min_gram_length int!, mode string!=TF|IDF|TFIDF, ngram_counts ints!, ngram_indexes ints!, " +
			"pool_int64s ints, pool_strings strings, weights floats", tfIdf},
}

// textBytes is how much text strings hold.
func textBytes(list []string) int64 {
	n := int64(0)
	for _, s := range list {
		n += int64(len(s))
	}
	return n
}

func stringConcat(c *call) error {
	x, y := c.tensor(0), c.tensor(1)
	s, err := broadcast(x.Shape, y.Shape)
	if err != nil {
		return err
	}
	out, err := c.make(0, tensor.String, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	text := textBytes(x.Strings)*int64(out.Len()/x.Len()) + textBytes(y.Strings)*int64(out.Len()/y.Len())
	if err := c.mem.text(out, text); err != nil {
		return err
	}
	return lanes(c, out, textLane, textLane, each2(func(a, b string) string { return a + b }), x, y)
}

// stringNormalizer drops stop words and changes the case of the others. Letters are
// mapped one to one, by Unicode's rules; of the locales only those of Turkish and
// Azeri have rules of their own.
func stringNormalizer(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) < 1 || len(x.Shape) > 2 || len(x.Shape) == 2 && x.Shape[0] != 1 {
		return badInput(0, "has shape %v, wants [C] or [1,C]", x.Shape)
	}
	lower, upper := strings.ToLower, strings.ToUpper
	switch language, _, _ := strings.Cut(strings.ReplaceAll(c.str("locale"), "-", "_"), "_"); language {
	case "tr", "az":
		lower = func(s string) string { return strings.ToLowerSpecial(unicode.TurkishCase, s) }
		upper = func(s string) string { return strings.ToUpperSpecial(unicode.TurkishCase, s) }
	}
	same := func(s string) string { return s }
	fold, change := lower, same
	if c.flag("is_case_sensitive") {
		fold = same
	}
	switch c.str("case_change_action") {
	case "LOWER":
		change = lower
	case "UPPER":
		change = upper
	}
	stop := map[string]bool{}
	if a := c.attr("stopwords"); a != nil {
		for _, w := range a.Strings {
			stop[fold(w)] = true
		}
	}
	// A letter and its other case take up to 3 bytes for one.
	text := 3 * textBytes(x.Strings)
	if err := c.reserve(text + int64(x.Len())*stringBytes); err != nil {
		return err
	}
	var kept []string
	for _, w := range x.Strings {
		if len(stop) == 0 || !stop[fold(w)] {
			kept = append(kept, change(w))
		}
	}
	if len(kept) == 0 {
		kept = []string{""}
	}
	s := x.Shape.Clone()
	s[len(s)-1] = int64(len(kept))
	out, err := c.make(0, tensor.String, s)
	if err != nil {
		return err
	}
	copy(out.Strings, kept)
	return c.mem.text(out, textBytes(kept))
}

// cutText takes the first part off a string: up to a delimiter, or where that is
// empty, up to white space, which may also stand before it.
func cutText(s, delimiter string) (part, rest string, more bool) {
	if delimiter != "" {
		return strings.Cut(s, delimiter)
	}
	if i := strings.IndexFunc(s, unicode.IsSpace); i >= 0 {
		rest = strings.TrimLeftFunc(s[i:], unicode.IsSpace)
		return s[:i], rest, rest != ""
	}
	return s, "", false
}

// splitText calls f for the parts of a string. most bounds the cuts unless it is
// negative; the last part is then what is left, with the white space at its end.
func splitText(s, delimiter string, most int64, f func(part string)) {
	if delimiter == "" {
		if s = strings.TrimLeftFunc(s, unicode.IsSpace); s == "" {
			return
		}
	}
	for more := true; more; most-- {
		part := s
		if most == 0 {
			more = false
		} else {
			part, s, more = cutText(s, delimiter)
		}
		f(part)
	}
}

func stringSplit(c *call) error {
	x := c.tensor(0)
	delimiter, most := c.str("delimiter"), int64(-1)
	if c.hasAttr("maxsplit") {
		if most = c.int("maxsplit"); most < 0 {
			return fmt.Errorf("attribute maxsplit is %d", most)
		}
	}
	counts, err := c.make(1, tensor.Int64, x.Shape)
	if err != nil {
		return err
	}
	width := 0
	for i, s := range x.Strings {
		n := 0
		splitText(s, delimiter, most, func(string) { n++ })
		putInt(counts, i, int64(n))
		width = max(width, n)
	}
	// Parts are pieces of the input's text: they take no memory of their own.
	out, err := c.make(0, tensor.String, append(x.Shape.Clone(), int64(width)))
	if err != nil {
		return err
	}
	for i, s := range x.Strings {
		at := i * width
		splitText(s, delimiter, most, func(part string) {
			out.Strings[at] = part
			at++
		})
	}
	return c.ctx.Err()
}

// regexFullMatch uses Go's expressions, which are RE2's but for \C.
func regexFullMatch(c *call) error {
	if !c.hasAttr("pattern") {
		return errors.New("attribute pattern is missing")
	}
	pattern := c.str("pattern")
	if _, err := regexp.Compile(pattern); err != nil {
		return fmt.Errorf("attribute pattern: %w", err)
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return fmt.Errorf("attribute pattern: %w", err)
	}
	x := c.tensor(0)
	for i, s := range x.Strings {
		if !utf8.ValidString(s) {
			return badInput(0, "string %d is no UTF-8", i)
		}
	}
	out, err := c.make(0, tensor.Bool, x.Shape)
	if err != nil {
		return err
	}
	return lanes(c, out, boolLane, textLane, each1(whole.MatchString), x)
}

// tfIdf counts the n-grams of each row.
func tfIdf(c *call) error {
	switch x := c.tensor(0); {
	case x.DType == tensor.String:
		if c.hasAttr("pool_int64s") || !c.hasAttr("pool_strings") {
			return badInput(0, "is of strings, attribute pool_strings alone is wanted")
		}
		return tfIdfOf(c, c.attr("pool_strings").Strings, x.Strings)
	case c.hasAttr("pool_strings") || !c.hasAttr("pool_int64s"):
		return badInput(0, "is of integers, attribute pool_int64s alone is wanted")
	default:
		if err := c.reserve(int64(x.Len()) * 8); err != nil {
			return err
		}
		v := make([]int64, x.Len())
		loadInt(v, x, 0)
		return tfIdfOf(c, c.ints("pool_int64s"), v)
	}
}

// grams is a tree of n-grams, an item a level. place is where the n-gram that ends
// here is counted, -1 if none does.
type grams[K comparable] struct {
	place int64
	next  map[K]*grams[K]
}

func (g *grams[K]) add(items []K, place int64) {
	for _, k := range items {
		if g.next == nil {
			g.next = map[K]*grams[K]{}
		}
		if g.next[k] == nil {
			g.next[k] = &grams[K]{place: -1}
		}
		g = g.next[k]
	}
	g.place = place
}

// readGrams puts the n-grams of the wanted lengths into a tree: pool holds those of
// one item, then those of two and so on, each length from an entry of ngram_counts
// on. width is the number of places.
func readGrams[K comparable](c *call, pool []K) (root *grams[K], width int64, err error) {
	counts, places := c.ints("ngram_counts"), c.ints("ngram_indexes")
	for _, p := range places {
		if p < 0 {
			return nil, 0, fmt.Errorf("attribute ngram_indexes holds %d", p)
		}
		width = max(width, p+1)
	}
	root = &grams[K]{place: -1}
	total := 0
	for i, from := range counts {
		to := int64(len(pool))
		if i+1 < len(counts) {
			to = counts[i+1]
		}
		n := i + 1
		if from < 0 || to < from || to > int64(len(pool)) || (to-from)%int64(n) != 0 {
			return nil, 0, fmt.Errorf("attribute ngram_counts is %v, which does not divide a pool of %d", counts, len(pool))
		}
		for part := range slices.Chunk(pool[from:to], n) {
			if total == len(places) {
				return nil, 0, fmt.Errorf("attribute ngram_indexes has %d places, the pool has more n-grams", len(places))
			}
			if int64(n) >= c.int("min_gram_length") && int64(n) <= c.int("max_gram_length") {
				root.add(part, places[total])
			}
			total++
		}
	}
	if total < len(places) {
		return nil, 0, fmt.Errorf("attribute ngram_indexes has %d places, the pool has %d n-grams", len(places), total)
	}
	return root, width, nil
}

// tfIdfOf counts n-grams whose items lie 1, 2, ... max_skip_count+1 items apart; one
// item alone counts once. Weights stand by place of the output, as runtimes have
// it: ONNX's text has them by n-gram of the pool, which differs only where
// ngram_indexes is not in order.
func tfIdfOf[K comparable](c *call, pool, items []K) error {
	x := c.tensor(0).Shape
	shortest, longest, skips := c.int("min_gram_length"), c.int("max_gram_length"), c.int("max_skip_count")
	if len(x) > 2 {
		return badInput(0, "has shape %v, wants [C] or [N,C]", x)
	}
	if shortest < 1 || longest < shortest || skips < 0 {
		return fmt.Errorf("n-grams of %d to %d items with up to %d left out are not defined", shortest, longest, skips)
	}
	root, width, err := readGrams(c, pool)
	if err != nil {
		return err
	}
	var weights []float32
	if a := c.attr("weights"); a != nil && c.str("mode") != "TF" && len(a.Floats) > 0 {
		if weights = a.Floats; int64(len(weights)) < width {
			return fmt.Errorf("attribute weights has %d numbers for %d places", len(weights), width)
		}
	}
	s := tensor.Shape{width}
	if len(x) == 2 {
		s = tensor.Shape{x[0], width}
	}
	out, err := c.make(0, tensor.Float32, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	if err := c.reserve(width * 8); err != nil {
		return err
	}
	rows := out.Len() / int(width)
	length := len(items) / rows
	return c.parallel(rows, 1, func(row, _ int) error {
		counts := make([]float64, width)
		line := items[row*length : (row+1)*length]
		for apart := 1; apart <= length && int64(apart) <= skips+1; apart++ {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			for first := range line {
				g, n := root, 0
				for at := first; at < length; at += apart {
					if g = g.next[line[at]]; g == nil {
						break
					}
					if n++; g.place >= 0 && (n > 1 || apart == 1) {
						counts[g.place]++
					}
				}
			}
		}
		for i, n := range counts {
			if c.str("mode") == "IDF" {
				counts[i] = min(n, 1)
			}
			if weights != nil {
				counts[i] *= float64(weights[i])
			}
		}
		storeFloat(out, row*int(width), counts)
		return nil
	})
}
