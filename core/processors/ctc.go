package processors

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
)

// CTC reads text out of what a model says of each frame of a sound, as transformers'
// Wav2Vec2CTCTokenizer does (Graves et al. 2006, "Connectionist Temporal
// Classification"): tokens that follow one another are one, and blanks, for which the
// padding token stands, are nothing.
type CTC struct {
	tokens    []string // by id
	silent    []bool   // by id: the blank, and what begins and ends texts
	blank     int
	delimiter int // the token between words; -1: there is none
	lower     bool
}

// ctcConfig is what tokenizer_config.json says of a CTC tokenizer.
type ctcConfig struct {
	Delimiter *tokenJSON `json:"word_delimiter_token"`
	Lower     bool       `json:"do_lower_case"`
	Language  *string    `json:"target_lang"`
	specialsJSON
}

// OpenCTC opens the vocab.json of a Hugging Face folder, and tokenizer_config.json and
// special_tokens_map.json where they are. Errors are as OpenTokenizer's.
func OpenCTC(dir string) (*CTC, error) {
	c, err := openCTC(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return c, nil
}

func openCTC(dir fs.FS) (*CTC, error) {
	data, err := readFile(dir, vocabFile)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, fmt.Errorf("tokenizer: there is no %s: save the tokenizer beside the model: %w", vocabFile, fs.ErrNotExist)
	}
	c := &compiler{file: vocabFile, vocab: newVocabulary()}
	var byLanguage map[string]map[string]json.RawMessage
	if json.Unmarshal(data, &byLanguage) == nil && len(byLanguage) > 0 {
		return nil, &UnsupportedError{vocabFile, "", "a vocabulary for each language"}
	}
	var vocab json.RawMessage
	if err := c.decode("", data, &vocab); err != nil {
		return nil, err
	}
	if err := c.vocab.readMap(vocab); err != nil {
		return nil, c.bad("", "%v", err)
	}
	if err := c.vocab.index(); err != nil {
		return nil, c.bad("", "%v", err)
	}
	var cfg ctcConfig
	var specials specialsJSON
	for _, f := range []struct {
		name string
		into any
	}{{configFile, &cfg}, {specialsFile, &specials}} {
		data, err := readFile(dir, f.name)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		if err := (&compiler{file: f.name}).decode("", data, f.into); err != nil {
			return nil, err
		}
	}
	id := func(given, other *tokenJSON, def string) int {
		if given == nil {
			given = other
		}
		if given != nil {
			def = given.Content
		}
		return int(c.vocab.get(def))
	}
	t := &CTC{tokens: c.vocab.tokens, silent: make([]bool, len(c.vocab.tokens)), lower: cfg.Lower}
	if t.blank = id(cfg.Pad, specials.Pad, "<pad>"); t.blank < 0 {
		return nil, c.bad("", "the padding token, which is CTC's blank, is not in the vocabulary")
	}
	t.delimiter = id(cfg.Delimiter, nil, "|")
	for _, special := range []int{t.blank, id(cfg.BOS, specials.BOS, "<s>"), id(cfg.EOS, specials.EOS, "</s>")} {
		if special >= 0 && special != t.delimiter {
			t.silent[special] = true
		}
	}
	return t, nil
}

// VocabSize is how many tokens there are, ids without a token included.
func (c *CTC) VocabSize() int { return len(c.tokens) }

// Blank is the id of the token that says nothing.
func (c *CTC) Blank() int { return c.blank }

// Between is what stands between words: nothing where the vocabulary has no token that
// delimits them, so that every token is a word.
func (c *CTC) Between() string {
	if c.delimiter < 0 {
		return ""
	}
	return " "
}

// CTCToken is a token and where it was heard.
type CTCToken struct {
	ID         int
	Start, End int64 // frames; End is the one after the last
}

// CTCWord is a word and where it was heard.
type CTCWord struct {
	Text       string
	Start, End int64 // frames; End is the one after the last
}

// CTCDecoder reads frame by frame. What it keeps does not grow with the frames as long
// as they agree on what came before.
type CTCDecoder interface {
	// Push takes the next frame's logits [VocabSize] and returns tokens that nothing
	// after it can change.
	Push(logits []float32) []CTCToken
	// Flush ends the sound and returns the tokens that are left.
	Flush() []CTCToken
}

// Greedy decodes by each frame's likeliest token.
func (c *CTC) Greedy() CTCDecoder { return &greedyCTC{c: c, last: c.blank} }

type greedyCTC struct {
	c     *CTC
	frame int64
	last  int   // token of the frame before
	since int64 // its first frame
}

// Push is CTCDecoder's.
func (g *greedyCTC) Push(logits []float32) []CTCToken {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	var out []CTCToken
	if best != g.last {
		out = g.Flush()
		g.last, g.since = best, g.frame
	}
	g.frame++
	return out
}

// Flush is CTCDecoder's.
func (g *greedyCTC) Flush() []CTCToken {
	if g.last == g.c.blank {
		return nil
	}
	t := CTCToken{g.last, g.since, g.frame}
	g.last = g.c.blank
	return []CTCToken{t}
}

// Beam decodes by the likeliest text, whatever frames its tokens are heard in, keeping
// width texts at a time (prefix beam search: Hannun et al. 2014, arXiv:1408.2873, without
// a language model).
func (c *CTC) Beam(width int) CTCDecoder {
	root := &ctcNode{id: -1}
	return &beamCTC{c: c, width: max(width, 1), root: root, live: []ctcPrefix{{node: root, blank: ctcPath{}, token: never}}}
}

// ctcNode is the last token of a text.
type ctcNode struct {
	parent   *ctcNode
	id       int
	depth    int
	children map[int]*ctcNode
}

func (n *ctcNode) child(id int) *ctcNode {
	if c := n.children[id]; c != nil {
		return c
	}
	c := &ctcNode{parent: n, id: id, depth: n.depth + 1}
	if n.children == nil {
		n.children = map[int]*ctcNode{}
	}
	n.children[id] = c
	return c
}

// above is the text's first depth tokens.
func (n *ctcNode) above(depth int) *ctcNode {
	for n.depth > depth {
		n = n.parent
	}
	return n
}

// ctcTimes are the frames of a text's last token, and of those before it.
type ctcTimes struct {
	before     *ctcTimes
	depth      int
	start, end int64
}

// ctcPath is a way to say a text: the logarithms of how likely all such ways are, and
// the likeliest alone, with its frames.
type ctcPath struct {
	all, best float64
	times     *ctcTimes
}

// ctcPrefix is a text with the ways to say it whose last frame is a blank, and its last
// token.
type ctcPrefix struct {
	node         *ctcNode
	blank, token ctcPath
}

var never = ctcPath{all: math.Inf(-1), best: math.Inf(-1)}

func (p *ctcPrefix) total() float64 { return logAdd(p.blank.all, p.token.all) }

// either is all ways.
func (p *ctcPrefix) either() ctcPath {
	path := p.blank
	path.add(p.token)
	return path
}

// add takes other ways to say the same.
func (p *ctcPath) add(q ctcPath) {
	p.all = logAdd(p.all, q.all)
	if q.best > p.best {
		p.best, p.times = q.best, q.times
	}
}

// then is the way with another frame.
func (p ctcPath) then(l float64) ctcPath {
	p.all += l
	p.best += l
	return p
}

func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(b, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

type beamCTC struct {
	c     *CTC
	width int
	frame int64
	root  *ctcNode // what was given out
	live  []ctcPrefix
}

const (
	// unlikely is the logarithm of how likely a token must be for a frame to be tried.
	unlikely = -10
	// ahead is how many tokens of the likeliest text may still change: what is said later
	// says nothing about what came long before.
	ahead = 24
)

// Push is CTCDecoder's.
func (b *beamCTC) Push(logits []float32) []CTCToken {
	sum, most := 0.0, float64(slices.Max(logits))
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	norm := most + math.Log(sum)
	blank := float64(logits[b.c.blank]) - norm

	next := map[*ctcNode]int{} // places in texts
	var texts []ctcPrefix
	at := func(n *ctcNode) *ctcPrefix {
		i, ok := next[n]
		if !ok {
			i = len(texts)
			next[n] = i
			texts = append(texts, ctcPrefix{n, never, never})
		}
		return &texts[i]
	}
	for _, p := range b.live {
		both := p.either()
		at(p.node).blank.add(both.then(blank))
		for id, v := range logits {
			l := float64(v) - norm
			if id == b.c.blank || l < unlikely {
				continue
			}
			from := both
			if id == p.node.id {
				// Again without a blank between is the same token; with one it is another.
				if again := p.token.then(l); again.times != nil {
					t := *again.times
					t.end = b.frame + 1
					again.times = &t
					at(p.node).token.add(again)
				}
				from = p.blank
			}
			if math.IsInf(from.all, -1) {
				continue
			}
			n := p.node.child(id)
			from.times = &ctcTimes{from.times, n.depth, b.frame, b.frame + 1}
			at(n).token.add(from.then(l))
		}
	}
	b.frame++
	slices.SortStableFunc(texts, func(p, q ctcPrefix) int { return cmp.Compare(q.total(), p.total()) })
	b.live = append(b.live[:0], texts[:min(len(texts), b.width)]...)
	out := b.settled()

	// Texts that were given up are forgotten, and likelihoods, which only matter to one
	// another, kept near 0, where they lose nothing.
	keep := map[*ctcNode]bool{}
	best := b.live[0].total()
	for i := range b.live {
		for n := b.live[i].node; n != nil && !keep[n]; n = n.parent {
			keep[n] = true
		}
		b.live[i].blank = b.live[i].blank.then(-best)
		b.live[i].token = b.live[i].token.then(-best)
	}
	for n := range keep {
		for id, c := range n.children {
			if !keep[c] {
				delete(n.children, id)
			}
		}
	}
	return out
}

// settled gives out what all texts begin with but for a last token, which may go on,
// and what the likeliest begins with if it is long enough.
func (b *beamCTC) settled() []CTCToken {
	best := b.live[0].node
	if settled := best.depth - ahead; settled > b.root.depth {
		to := best.above(settled)
		b.live = slices.DeleteFunc(b.live, func(p ctcPrefix) bool { return p.node.depth <= settled || p.node.above(settled) != to })
	}
	common := best.parent
	if common == nil {
		return nil
	}
	for _, p := range b.live[1:] {
		n := p.node
		if n.parent == nil {
			return nil
		}
		n = n.parent
		for n != common {
			if n.depth > common.depth {
				n = n.parent
			} else {
				common = common.parent
			}
		}
	}
	return b.give(common)
}

// give returns the tokens from the root down to a node, which becomes the root; their
// frames are those of the likeliest text.
func (b *beamCTC) give(to *ctcNode) []CTCToken {
	if to == b.root {
		return nil
	}
	path := b.live[0].either()
	t := path.times
	for t.depth > to.depth {
		t = t.before
	}
	var out []CTCToken
	for n := to; n != b.root; n, t = n.parent, t.before {
		out = append(out, CTCToken{n.id, t.start, t.end})
	}
	slices.Reverse(out)
	for _, p := range b.live {
		for _, path := range []ctcPath{p.blank, p.token} {
			for t := path.times; t != nil; t = t.before {
				if t.depth <= to.depth+1 {
					t.before = nil
				}
			}
		}
	}
	b.root = to
	to.parent = nil
	return out
}

// Flush is CTCDecoder's.
func (b *beamCTC) Flush() []CTCToken {
	out := b.give(b.live[0].node)
	b.live = append(b.live[:0], ctcPrefix{node: b.root, blank: ctcPath{}, token: never})
	return out
}

// CTCWords gathers tokens to words.
type CTCWords struct {
	c       *CTC
	pending CTCWord
}

// Words begins to gather.
func (c *CTC) Words() *CTCWords { return &CTCWords{c: c} }

// Add takes tokens and returns the words that they end.
func (w *CTCWords) Add(tokens []CTCToken) []CTCWord {
	var out []CTCWord
	for _, t := range tokens {
		if t.ID == w.c.delimiter {
			out = append(out, w.Flush()...)
			continue
		}
		if t.ID < 0 || t.ID >= len(w.c.tokens) || w.c.silent[t.ID] {
			continue
		}
		if w.pending.Text == "" {
			w.pending.Start = t.Start
		}
		w.pending.Text += w.c.tokens[t.ID]
		w.pending.End = t.End
		if w.c.delimiter < 0 {
			out = append(out, w.Flush()...)
		}
	}
	return out
}

// Flush returns the word that is not ended.
func (w *CTCWords) Flush() []CTCWord {
	p := w.pending
	w.pending = CTCWord{}
	if p.Text = strings.TrimSpace(p.Text); p.Text == "" {
		return nil
	}
	if w.c.lower {
		p.Text = strings.ToLower(p.Text)
	}
	return []CTCWord{p}
}
