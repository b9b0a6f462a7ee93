package tasks

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// SpeechDecoder draws tokens of what is said in a source.
type SpeechDecoder interface {
	// Decode draws after a prompt until an end token or MaxTokens, and returns each choice's
	// tokens without the end token; it writes into d where it ran.
	Decode(ctx context.Context, d *route.Decision, req SpeechRequest) ([][]int64, error)
}

// SpeechRequest asks for tokens.
type SpeechRequest struct {
	ID          string
	Source      *schedule.Source
	Prompt      []int64
	MaxTokens   int
	N           int // choices
	Temperature float64
	Seed        uint64
	Salt        string
	Priority    int
	// Rule makes what each choice's tokens are drawn by; it is called for every choice, by
	// its number.
	Rule func(choice int) LogitsRule
}

// LogitsRule says what may come next, knowing how likely it is. It is used by one
// goroutine at a time.
type LogitsRule interface {
	// Adjust changes the logits [vocabulary] that the next token is drawn from.
	Adjust(logits []float32)
	// Accept takes the token that was drawn, an end token too.
	Accept(id int64)
}

// Whisper hears with a model of its kind (arXiv:2212.04356), in windows of 30 seconds as
// OpenAI's whisper/transcribe.py does: each window's segments say where they end, and the
// next window begins there.
type Whisper struct {
	Model     string
	Tokenizer *processors.Tokenizer
	Tokens    WhisperTokens
	Extractor audio.Extractor
	Rows      int // of the encoder's output of a window; one is the step of times
	Decoder   SpeechDecoder
	MaxTokens int // prompt and output together
}

// Thresholds of whisper/transcribe.py.
const (
	repetitive   = 2.4  // compression ratio of text that repeats itself
	unsure       = -1.0 // average logarithm of the probability of tokens that are guesses
	silent       = 0.6  // probability that nothing is said
	warm         = 0.5  // temperature above which text is no good as a prompt
	bestOf       = 5    // choices at temperatures above 0
	firstTime    = 1.0  // seconds into a window at which its first segment may begin
	temperatures = 6    // 0, 0.2 ... 1
)

// WhisperTokens are the tokens that mean something to Whisper.
type WhisperTokens struct {
	Start, End, Translate, Transcribe int64
	Previous, NoSpeech                int64            // -1: there is none
	NoTimes, Times                    int64            // Times is the first of those that say times
	Languages                         map[string]int64 // by code; empty: the model knows one language
	Suppress                          []int64          // never drawn
	SuppressFirst                     []int64          // not drawn first
}

// gpt2End is the end token of GPT-2's vocabulary.
const gpt2End = 50256

// NewWhisperTokens finds them in a tokenizer; generation_config.json, which may be nil,
// says which are not to be drawn.
func NewWhisperTokens(t *processors.Tokenizer, generation *checkpoint.Config) (WhisperTokens, error) {
	w := WhisperTokens{Languages: map[string]int64{}}
	var missing []string
	find := func(names ...string) int64 {
		for _, n := range names {
			if id, ok := t.TokenToID(n); ok {
				return id
			}
		}
		missing = append(missing, names[0])
		return -1
	}
	w.End, w.Start, w.NoTimes = find("<|endoftext|>"), find("<|startoftranscript|>"), find("<|notimestamps|>")
	required := missing
	w.Translate, w.Transcribe = find("<|translate|>"), find("<|transcribe|>")
	w.Previous, w.NoSpeech = find("<|startofprev|>"), find("<|nospeech|>", "<|nocaptions|>")
	if len(required) > 0 {
		return w, fmt.Errorf("the tokenizer has no token %s: it is not Whisper's", strings.Join(required, ", "))
	}
	w.Times = w.NoTimes + 1 // those that say times follow, whether the tokenizer names them or not
	for code := range whisperLanguages {
		if id, ok := t.TokenToID("<|" + code + "|>"); ok && id > w.Start && id < w.NoTimes {
			w.Languages[code] = id
		}
	}
	f := generation.Fields()
	w.Suppress, w.SuppressFirst = f.Ints("suppress_tokens", -1, math.MaxInt32), f.Ints("begin_suppress_tokens", 0, math.MaxInt32)
	multilingual := f.BoolOr("is_multilingual", w.End != gpt2End) && w.Translate >= 0 && w.Transcribe >= 0
	if err := f.Err(); err != nil {
		return w, err
	}
	// Old files have -1 for the list that the library made itself.
	w.Suppress = slices.DeleteFunc(w.Suppress, func(id int64) bool { return id < 0 })
	w.Suppress = append(w.Suppress, w.Start, w.Translate, w.Transcribe, w.Previous, w.NoSpeech, w.NoTimes)
	if id, ok := t.TokenToID("<|startoflm|>"); ok {
		w.Suppress = append(w.Suppress, id)
	}
	w.Suppress = append(w.Suppress, slices.Collect(maps.Values(w.Languages))...)
	w.Suppress = slices.DeleteFunc(w.Suppress, func(id int64) bool { return id < 0 })
	slices.Sort(w.Suppress)
	w.Suppress = slices.Compact(w.Suppress)
	if !multilingual {
		// Models of English alone have GPT-2's own vocabulary. Their tokenizers have the tokens of
		// languages all the same, which are nothing but noise to them.
		clear(w.Languages)
	}
	return w, nil
}

// Transcribe is Transcriber's.
func (w *Whisper) Transcribe(ctx context.Context, req TranscribeRequest, emit func(Segment) error) (TranscribeResult, error) {
	var res TranscribeResult
	t := &transcription{w: w, req: &req, res: &res, emit: emit, temperatures: req.Temperatures}
	if err := t.begin(); err != nil {
		return res, err
	}
	rate, size := w.Extractor.Rate(), w.Extractor.MostSamples()
	win, err := newWindow(req.Sound, rate, size)
	if err != nil {
		return res, err
	}
	for len(win.samples) > 0 {
		if err := ctx.Err(); err != nil {
			return res, context.Cause(ctx)
		}
		n, err := t.window(ctx, win)
		if err != nil {
			return res, err
		}
		if n <= 0 || n > len(win.samples) {
			n = len(win.samples)
		}
		if err := win.advance(n); err != nil {
			return res, err
		}
	}
	res.Duration = seconds(win.at, rate)
	return res, nil
}

// transcription is a request under way.
type transcription struct {
	w            *Whisper
	req          *TranscribeRequest
	res          *TranscribeResult
	emit         func(Segment) error
	temperatures []float64
	task         []int64 // what follows Start: language and task; nil: not known yet
	said         []int64 // what was said, with its times; it prompts the next window
	next         int     // segment's ID
}

func (t *transcription) begin() error {
	invalid := func(field, problem, remedy string) error {
		return &InvalidInputError{Field: field, Input: -1, Problem: problem, Remedy: remedy}
	}
	w := t.w
	if t.req.Words {
		return invalid("timestamp_granularities", fmt.Sprintf("model %q tells the times of segments, not of words", w.Model), "ask for segments")
	}
	if len(t.temperatures) == 0 {
		for i := range temperatures {
			t.temperatures = append(t.temperatures, float64(i)/5)
		}
	}
	for _, c := range t.temperatures {
		if !(c >= 0 && c <= 1) {
			return invalid("temperature", fmt.Sprintf("it is %v", c), "give one from 0 to 1")
		}
	}
	if len(w.Tokens.Languages) == 0 {
		if t.req.Translate {
			return invalid("translate", fmt.Sprintf("model %q hears one language and does not translate", w.Model), "")
		}
		if t.req.Language != "" && languageCode(t.req.Language) != "en" {
			return invalid("language", fmt.Sprintf("model %q hears English alone, and %q was asked for", w.Model, t.req.Language), "")
		}
		t.task, t.res.Language = []int64{}, "en"
	} else if t.req.Language != "" {
		code := languageCode(t.req.Language)
		if _, ok := w.Tokens.Languages[code]; !ok {
			return invalid("language", fmt.Sprintf("model %q does not know %q", w.Model, t.req.Language), "give a code such as \"en\", or leave it out to have it found out")
		}
		t.speak(code)
	}
	if p := strings.TrimSpace(t.req.Prompt); p != "" {
		e, err := w.Tokenizer.Encode(" "+p, processors.EncodeOptions{NoSpecial: true})
		if err != nil {
			return invalid("prompt", err.Error(), "")
		}
		t.said = e.IDs
	}
	return nil
}

// speak settles the language.
func (t *transcription) speak(code string) {
	task := t.w.Tokens.Transcribe
	if t.req.Translate {
		task = t.w.Tokens.Translate
	}
	t.res.Language, t.task = code, []int64{t.w.Tokens.Languages[code], task}
}

// before is what a window's prompt begins with, up to Start.
func (t *transcription) before() []int64 {
	w := t.w
	var p []int64
	if most := w.MaxTokens/2 - 1; len(t.said) > 0 && w.Tokens.Previous >= 0 && most > 0 {
		p = append(append(p, w.Tokens.Previous), t.said[max(0, len(t.said)-most):]...)
	}
	return append(p, w.Tokens.Start)
}

// window hears a window and returns how many samples of it are done with.
func (t *transcription) window(ctx context.Context, win *window) (int, error) {
	w := t.w
	inputs, err := w.Extractor.Extract([][]float32{win.samples})
	if err != nil {
		return 0, err
	}
	source := schedule.NewSource(inputs, w.Rows)
	before := t.before()

	// What comes after Start says whether anything is said, and in what language.
	look := &glance{speech: w.Tokens.NoSpeech, languages: w.Tokens.Languages}
	if _, err := t.decode(ctx, source, before, 1, 1, 0, func(int) LogitsRule { return look }); err != nil {
		return 0, err
	}
	if t.task == nil {
		t.speak(look.language)
	}
	best, err := t.try(ctx, source, slices.Concat(before, t.task), look.silence)
	if err != nil {
		return 0, err
	}
	if look.silence > silent && best.average() <= unsure {
		return len(win.samples), nil
	}
	return t.segments(win, best, look.silence)
}

// attempt is what was drawn of a window.
type attempt struct {
	tokens      []int64
	logprob     float64 // of all, the end token included
	temperature float64
	text        string
	ratio       float64 // compression ratio of text
}

// average is of a token.
func (a *attempt) average() float64 { return a.logprob / float64(len(a.tokens)+1) }

// try draws, warmer each time, until what comes is neither a guess nor repeats itself.
func (t *transcription) try(ctx context.Context, source *schedule.Source, prompt []int64, silence float64) (*attempt, error) {
	w := t.w
	var best *attempt
	for _, temperature := range t.temperatures {
		n := 1
		if temperature > 0 {
			n = bestOf
		}
		rules := make([]*whisperRule, n)
		for i := range rules {
			rules[i] = newWhisperRule(&w.Tokens, int(firstTime/t.step()))
		}
		drawn, err := t.decode(ctx, source, prompt, max(1, min(w.MaxTokens/2, w.MaxTokens-len(prompt))), n, temperature, func(i int) LogitsRule { return rules[i] })
		if err != nil {
			return nil, err
		}
		attempts := make([]*attempt, len(drawn))
		for i, tokens := range drawn {
			a := &attempt{tokens: tokens, logprob: rules[i].logprob, temperature: temperature}
			if a.text, err = w.text(tokens); err != nil {
				return nil, err
			}
			a.ratio = compressionRatio(a.text)
			t.res.Tokens += len(tokens)
			attempts[i] = a
		}
		best = slices.MaxFunc(attempts, func(a, b *attempt) int { return cmp.Compare(a.average(), b.average()) })
		bad := best.ratio > repetitive || best.average() < unsure
		if silence > silent && best.average() < unsure {
			bad = false // nothing is said, warm or cold
		}
		if !bad {
			break
		}
	}
	return best, nil
}

func (t *transcription) decode(ctx context.Context, source *schedule.Source, prompt []int64, most, n int, temperature float64, rule func(int) LogitsRule) ([][]int64, error) {
	drawn, err := t.w.Decoder.Decode(ctx, &t.res.Decision, SpeechRequest{ID: t.req.ID, Source: source, Prompt: prompt, MaxTokens: most, N: n, Temperature: temperature,
		Salt: t.req.Salt, Priority: t.req.Priority, Rule: rule})
	if err == nil && len(drawn) != n {
		err = fmt.Errorf("model %q: %d choices came, %d were asked for", t.w.Model, len(drawn), n)
	}
	return drawn, err
}

// step is the seconds from one time that can be said to the next.
func (t *transcription) step() float64 {
	return seconds(int64(t.w.Extractor.MostSamples()), t.w.Extractor.Rate()) / float64(t.w.Rows)
}

// segments gives out what a window holds and returns how many samples are done with:
// those up to the last time that was said, unless the rest is silence.
func (t *transcription) segments(win *window, a *attempt, silence float64) (int, error) {
	w := t.w
	rate := w.Extractor.Rate()
	step, begin := t.step(), seconds(win.at, rate)
	isTime := func(i int) bool { return i >= 0 && i < len(a.tokens) && a.tokens[i] >= w.Tokens.Times }
	at := func(i int) float64 { return float64(a.tokens[i]-w.Tokens.Times) * step }
	give := func(start, end float64, tokens []int64) error {
		text, err := w.text(tokens)
		if err != nil {
			return err
		}
		end = min(end, begin+seconds(int64(len(win.samples)), rate))
		if strings.TrimSpace(text) == "" || end <= start {
			return nil
		}
		s := Segment{ID: t.next, Start: start, End: end, Text: text, Detail: &SegmentDetail{Tokens: tokens, Seek: win.at * 100 / int64(rate), Temperature: a.temperature,
			AvgLogprob: a.average(), CompressionRatio: a.ratio, NoSpeech: silence}}
		t.next++
		t.said = append(t.said, tokens...)
		return t.emit(s)
	}

	// Two times, one after the other, are the end of a segment and the begin of the next.
	var ends []int
	for i := 1; i < len(a.tokens); i++ {
		if isTime(i-1) && isTime(i) {
			ends = append(ends, i)
		}
	}
	alone := isTime(len(a.tokens)-1) && !isTime(len(a.tokens)-2) // the last time: nothing is said after it
	done := len(win.samples)
	if len(ends) > 0 {
		if alone {
			ends = append(ends, len(a.tokens))
		}
		last := 0
		for _, end := range ends {
			if err := give(begin+at(last), begin+at(end-1), a.tokens[last:end]); err != nil {
				return 0, err
			}
			last = end
		}
		if !alone {
			done = int(math.Round(at(last-1) * float64(rate)))
		}
	} else {
		start, end := 0.0, seconds(int64(len(win.samples)), rate)
		if isTime(0) {
			start = at(0)
		}
		for i := len(a.tokens) - 1; i > 0; i-- {
			if isTime(i) {
				if a.tokens[i] != w.Tokens.Times {
					end = at(i)
				}
				break
			}
		}
		if err := give(begin+start, begin+end, a.tokens); err != nil {
			return 0, err
		}
	}
	switch most := w.MaxTokens / 2; {
	case a.temperature > warm:
		t.said = t.said[:0]
	case len(t.said) > most:
		t.said = slices.Clone(t.said[len(t.said)-most:])
	}
	return done, nil
}

// text is what tokens say, without times.
func (w *Whisper) text(tokens []int64) (string, error) {
	words := make([]int64, 0, len(tokens))
	for _, id := range tokens {
		if id < w.Tokens.End {
			words = append(words, id)
		}
	}
	return w.Tokenizer.Decode(words, true)
}

// compressionRatio is how much smaller zlib makes a text.
func compressionRatio(text string) float64 {
	if text == "" {
		return 0
	}
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	// Writing to a buffer does not fail.
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return float64(len(text)) / float64(b.Len())
}

// glance looks at what may come after Start, and changes nothing.
type glance struct {
	speech    int64 // the token for silence; -1: there is none
	languages map[string]int64
	seen      bool
	silence   float64
	language  string
}

// Adjust is LogitsRule's.
func (g *glance) Adjust(logits []float32) {
	if g.seen {
		return
	}
	g.seen = true
	if g.speech >= 0 {
		g.silence = math.Exp(float64(logits[g.speech]) - schedule.LogSumExp(logits))
	}
	for code, id := range g.languages {
		if g.language == "" || logits[id] > logits[g.languages[g.language]] || logits[id] == logits[g.languages[g.language]] && code < g.language {
			g.language = code
		}
	}
}

// Accept is LogitsRule's.
func (*glance) Accept(int64) {}

// whisperRule has segments begin and end with times that don't go back, as
// whisper/decoding.py does.
type whisperRule struct {
	t        *WhisperTokens
	first    int // steps into the window at which the first segment may begin
	drawn    []int64
	row      []float32 // what the next token is drawn from
	norm     float64   // its log-sum-exp
	logprob  float64   // of what was drawn
	lastTime int64     // that was said; -1: none
}

func newWhisperRule(t *WhisperTokens, first int) *whisperRule {
	return &whisperRule{t: t, first: first, lastTime: -1}
}

// Adjust is LogitsRule's.
func (r *whisperRule) Adjust(logits []float32) {
	never := float32(math.Inf(-1))
	not := func(from, to int64) {
		for i := max(from, 0); i < min(to, int64(len(logits))); i++ {
			logits[i] = never
		}
	}
	t, all := r.t, int64(len(logits))
	for _, id := range t.Suppress {
		not(id, id+1)
	}
	n := len(r.drawn)
	if n == 0 {
		for _, id := range t.SuppressFirst {
			not(id, id+1)
		}
		not(0, t.Times) // a time comes first
		not(t.Times+int64(r.first)+1, all)
	} else {
		last := r.drawn[n-1] >= t.Times
		before := n < 2 || r.drawn[n-2] >= t.Times
		switch {
		case last && before:
			not(t.Times, all) // a segment began: text
		case last:
			not(0, t.End) // a segment ended: the next begins, or it is all
		}
		if r.lastTime >= 0 {
			from := r.lastTime + 1
			if last && !before {
				from = r.lastTime // the next segment may begin where the last one ended
			}
			not(t.Times, from)
		}
		// A time comes if times together are likelier than any one word.
		if text := logits[:min(t.Times, all)]; schedule.LogSumExp(logits[len(text):]) > float64(slices.Max(text)) {
			not(0, t.Times)
		}
	}
	r.row = append(r.row[:0], logits...)
	r.norm = schedule.LogSumExp(logits)
}

// Accept is LogitsRule's.
func (r *whisperRule) Accept(id int64) {
	r.logprob += float64(r.row[id]) - r.norm
	if id == r.t.End {
		return
	}
	r.drawn = append(r.drawn, id)
	if id >= r.t.Times {
		r.lastTime = id
	}
}
