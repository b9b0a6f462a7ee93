package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

const (
	hearingRounds = 3
	// pause is slept before each turn: the threads of OpenMP spin a while after their work is done.
	pause = 300 * time.Millisecond
)

// saying is a sound and what is said in it.
type saying struct {
	wav, text string
	seconds   float64
}

// speech are the sentences that `make bench` has had said; long is ten minutes of them.
func speech(b *testing.B) (sentences []saying, long saying) {
	b.Helper()
	dir, err := filepath.Abs(filepath.Join(repository(), "build", "bench", "speech"))
	if err != nil {
		b.Fatal(err)
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Skip("there is no speech; run `make bench`:", err)
		}
		return string(text)
	}
	sound := func(name, text string) saying {
		s := saying{wav: filepath.Join(dir, name), text: text}
		f, err := os.Stat(s.wav)
		if err != nil {
			b.Skip("there is no speech; run `make bench`:", err)
		}
		s.seconds = float64(f.Size()) / (2 * 16000)
		return s
	}
	for i, line := range strings.Split(strings.TrimSpace(read(filepath.Join("testdata", "speech.txt"))), "\n") {
		sentences = append(sentences, sound(fmt.Sprintf("%02d.wav", i+1), line))
	}
	return sentences, sound("long.wav", read(filepath.Join(dir, "long.txt")))
}

// hearing is what one side makes of a sound.
type hearing struct {
	seconds float64
	tokens  int
	text    string
}

// listener is one side. Warm asks it to try again at higher temperatures where a piece
// came out badly.
type listener interface {
	hear(b *testing.B, wav string, warm bool) hearing
}

type ownListener struct {
	e     *engine.Engine
	heard int
}

func (l *ownListener) hear(b *testing.B, wav string, warm bool) hearing {
	b.Helper()
	begun := time.Now()
	f, err := os.Open(wav)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	sound, err := audio.Open(f)
	if err != nil {
		b.Fatal(err)
	}
	// Each time another salt: what was encoded before is of no use.
	l.heard++
	req := tasks.TranscribeRequest{ID: "bench", Sound: sound, Language: "en", Salt: fmt.Sprint(l.heard)}
	if !warm {
		req.Temperatures = []float64{0}
	}
	var text strings.Builder
	res, err := l.e.Transcribe(b.Context(), "m", req, func(s tasks.Segment) error {
		text.WriteString(s.Text)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return hearing{time.Since(begun).Seconds(), res.Tokens, text.String()}
}

type peerListener struct{ *peer }

func startFasterWhisper(b *testing.B, dir, compute string, threads int) peerListener {
	b.Helper()
	return peerListener{startPython(b, "whisper_peer.py", dir, compute, strconv.Itoa(threads))}
}

func (l peerListener) hear(b *testing.B, wav string, warm bool) hearing {
	b.Helper()
	how := "hear"
	if warm {
		how = "hear_warm"
	}
	line := l.answer(b, how, wav)
	var h hearing
	if n, err := fmt.Sscan(line, &h.seconds, &h.tokens); n != 2 {
		b.Fatalf("the peer answered %q: %v", line, err)
	}
	_, h.text, _ = strings.Cut(line, " ")
	_, h.text, _ = strings.Cut(h.text, " ")
	return h
}

func TestWordErrors(t *testing.T) {
	for _, c := range []struct {
		said, heard string
		errors      int
	}{
		{"The train leaves at 7:15.", "the train leaves at 715", 0},
		{"One two three", "", 3},
		{"One two three", "one three", 1},
		{"One two three", "well, one to three four", 3},
		{"a b c d", "b c d a", 2},
	} {
		if errors, words := wordErrors(c.said, c.heard); errors != c.errors || words != len(strings.Fields(c.said)) {
			t.Errorf("%q heard as %q: %d errors in %d words, wanted %d", c.said, c.heard, errors, words, c.errors)
		}
	}
}

// whisperEngine serves a model whose pools have so many bytes; 0: as it comes.
func whisperEngine(b *testing.B, dir string, threads int, pools config.Bytes) *engine.Engine {
	b.Helper()
	return newEngine(b, b.TempDir(), func(c *config.Config) {
		c.Backends["cpu"] = config.Backend{Settings: map[string]any{"threads": threads}}
		c.KVCache.Memory = pools
		c.Models = map[string]config.Model{"m": {Path: dir, Task: "transcribe", Platform: "cpu", Fallback: "deny"}}
	})
}

// ownMemory is that of the backend's process and of this one, in bytes.
func ownMemory(b *testing.B, e *engine.Engine) (backend, self int64) {
	b.Helper()
	for _, h := range e.Hosts().Backends() {
		if h.PID > 0 {
			backend += pss(b, h.PID)
		}
	}
	return backend, pss(b, os.Getpid())
}

// processorSeconds is what processes have used of the processors.
func processorSeconds(b *testing.B, pids []int) float64 {
	b.Helper()
	const ticks = 100 // a second: USER_HZ
	sum := 0.0
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			b.Fatalf("/proc/%d/stat is %q", pid, stat)
		}
		for _, of := range f[11:13] { // of the process itself and of the system for it
			n, err := strconv.ParseInt(of, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += float64(n) / ticks
		}
	}
	return sum
}

// BenchmarkWhisper measures what is heard through the whole engine beside faster-whisper:
// the same folder, as many threads, greedy, with times. Its weights are of f16. Ours stay so
// in memory and are widened to f32 as they are read, and the KV cache is of f16; faster-whisper
// has all of it in f32, which it picks for this folder, or in int8.
func BenchmarkWhisper(b *testing.B) {
	dir, threads := testfiles.Model(b, "whisper-base"), runtime.NumCPU()
	computes := []string{"float32", "int8"}
	mib := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }

	// Twenty sentences: how many words come out, and how fast.
	b.Run("sentences", func(b *testing.B) {
		sentences, _ := speech(b)
		e := whisperEngine(b, dir, threads, 0)
		names, sides := []string{"accel"}, []listener{&ownListener{e: e}}
		var peers []peerListener
		for _, c := range computes {
			p := startFasterWhisper(b, dir, c, threads)
			peers, names, sides = append(peers, p), append(names, p.name), append(sides, p)
		}
		took, heard := make([][][]float64, len(sides)), make([][]hearing, len(sides))
		for range b.N {
			for i := range sides {
				took[i], heard[i] = make([][]float64, len(sentences)), make([]hearing, len(sentences))
				sides[i].hear(b, sentences[0].wav, false) // caches are cold
			}
			for round := range hearingRounds {
				for j, s := range sentences {
					for i := range sides {
						i = (i + round + j) % len(sides) // nobody is always the one after another
						time.Sleep(pause)
						h := sides[i].hear(b, s.wav, false)
						took[i][j] = append(took[i][j], h.seconds)
						if round > 0 && heard[i][j].text != h.text {
							b.Errorf("%s hears %q, and %q another time", names[i], h.text, heard[i][j].text)
						}
						heard[i][j] = h
					}
				}
			}
		}
		b.ReportMetric(0, "ns/op")
		length, seconds, errors := 0.0, make([]float64, len(sides)), make([]int, len(sides))
		words, tokens := 0, make([]int, len(sides))
		for j, s := range sentences {
			length += s.seconds
			_, n := wordErrors(s.text, "")
			words += n
			alike := true
			for i := range sides {
				wrong, _ := wordErrors(s.text, heard[i][j].text)
				errors[i] += wrong
				tokens[i] += heard[i][j].tokens
				seconds[i] += median(took[i][j])
				alike = alike && heard[i][j].text == heard[0][j].text
			}
			if !alike {
				for i := range sides {
					b.Logf("%02d %-28s%s", j+1, names[i], heard[i][j].text)
				}
			}
		}
		for i, name := range names {
			b.Logf("%-28s %3d of %d words wrong (%.1f %%), %.3f of real time (%.0f ms a sentence), %d tokens: speed of accel %.2f of it", name, errors[i], words,
				100*float64(errors[i])/float64(words), seconds[i]/length, 1e3*seconds[i]/float64(len(sentences)), tokens[i], seconds[i]/seconds[0])
		}
		backend, self := ownMemory(b, e)
		b.Logf("memory in MiB: backend %.0f and server %.0f; %s %.0f, %s %.0f", mib(backend), mib(self), peers[0].name, mib(pss(b, peers[0].pid)), peers[1].name, mib(pss(b, peers[1].pid)))
		b.ReportMetric(100*float64(errors[0])/float64(words), "wer-%")
		b.ReportMetric(length/seconds[0], "x-realtime")
		for i, c := range computes {
			b.ReportMetric(float64(errors[0])/float64(max(errors[1+i], 1)), "wer-of-"+c)
			b.ReportMetric(seconds[1+i]/seconds[0], "speed-of-"+c)
		}
	})

	// With one thread, in processor time, which holds on a machine that does other things too.
	b.Run("processor", func(b *testing.B) {
		sentences, _ := speech(b)
		sentences = sentences[:6]
		e := whisperEngine(b, dir, 1, 0)
		own := &ownListener{e: e}
		own.hear(b, sentences[0].wav, false)
		pids, names, sides := [][]int{{os.Getpid()}}, []string{"accel"}, []listener{own}
		for _, h := range e.Hosts().Backends() {
			if h.PID > 0 {
				pids[0] = append(pids[0], h.PID)
			}
		}
		for _, c := range computes {
			p := startFasterWhisper(b, dir, c, 1)
			p.hear(b, sentences[0].wav, false)
			pids, names, sides = append(pids, []int{p.pid}), append(names, p.name), append(sides, p)
		}
		used := make([]float64, len(sides))
		for range b.N {
			clear(used)
			for _, s := range sentences {
				for i := range sides {
					before := processorSeconds(b, pids[i])
					sides[i].hear(b, s.wav, false)
					used[i] += (processorSeconds(b, pids[i]) - before) / float64(len(sentences))
				}
			}
		}
		b.ReportMetric(0, "ns/op")
		for i, name := range names {
			b.Logf("%-28s %6.0f ms of a processor a sentence: speed of accel %.2f of it", name, 1e3*used[i], used[i]/used[0])
		}
		for i, c := range computes {
			b.ReportMetric(used[1+i]/used[0], "speed-of-"+c)
		}
	})

	// The two halves of it, apart: the encoder up to the first token, and tokens after it.
	b.Run("halves", func(b *testing.B) {
		sentences, _ := speech(b)
		const more = 64
		own := openSpeech(b, newEngine(b, b.TempDir()), dir, sentences[0].wav)
		names := []string{"accel"}
		runs := []func(int) float64{func(n int) float64 { return own.run(b, n) }}
		for _, c := range computes {
			p := startFasterWhisper(b, dir, c, threads)
			names = append(names, p.name)
			runs = append(runs, func(n int) float64 { return p.ask(b, "tokens", sentences[0].wav, n)[0] })
		}
		var first, rate [][]float64
		for range b.N {
			first, rate = make([][]float64, len(runs)), make([][]float64, len(runs))
			for round := range 1 + 3*hearingRounds {
				for i := range runs {
					i = (i + round) % len(runs)
					time.Sleep(pause)
					one, all := runs[i](1), runs[i](1+more)
					if round > 0 {
						first[i], rate[i] = append(first[i], 1e3*one), append(rate[i], more/(all-one))
					}
				}
			}
		}
		b.ReportMetric(0, "ns/op")
		for i, name := range names {
			b.Logf("%-28s encoder and first token %6.1f ms, then %6.1f tokens/s: accel %.2f and %.2f of its speed", name, median(first[i]), median(rate[i]),
				median(first[i])/median(first[0]), median(rate[0])/median(rate[i]))
		}
		b.ReportMetric(median(first[0]), "first-token-ms")
		b.ReportMetric(median(rate[0]), "tok/s")
		for i, c := range computes {
			b.ReportMetric(median(first[1+i])/median(first[0]), "first-speed-of-"+c)
			b.ReportMetric(median(rate[0])/median(rate[1+i]), "tok/s-of-"+c)
		}
	})

	// Ten minutes: bounded memory, and words to the end. What was encoded stays in the pools until the room is
	// needed, so that memory is flat once they are full: they are small here.
	b.Run("long", func(b *testing.B) {
		_, long := speech(b)
		e := whisperEngine(b, dir, threads, 128<<20)
		own := &ownListener{e: e}
		for range b.N {
			own.hear(b, long.wav, true)
			var backend, self []float64
			stop := sampled(func() {
				x, y := ownMemory(b, e)
				backend, self = append(backend, mib(x)), append(self, mib(y))
			})
			h := own.hear(b, long.wav, true)
			stop()
			wrong, words := wordErrors(long.text, h.text)
			b.Logf("%-28s %4d of %d words wrong (%.1f %%), %5.1f s for %.0f s", "accel", wrong, words, 100*float64(wrong)/float64(words), h.seconds, long.seconds)
			for _, m := range []struct {
				name string
				mib  []float64
			}{{"backend", backend}, {"server", self}} {
				half := len(m.mib) / 2
				b.Logf("%-28s at most %.0f MiB in the first half, %.0f in the second", m.name, slices.Max(m.mib[:half]), slices.Max(m.mib[half:]))
				if slices.Max(m.mib[half:]) > 1.1*slices.Max(m.mib[:half]) {
					b.Errorf("the memory of the %s grows with the sound", m.name)
				}
			}
			time.Sleep(pause)
			p := startFasterWhisper(b, dir, computes[0], threads)
			p.hear(b, long.wav, true)
			var other []float64
			stop = sampled(func() { other = append(other, mib(pss(b, p.pid))) })
			theirs := p.hear(b, long.wav, true)
			stop()
			wrong, words = wordErrors(long.text, theirs.text)
			b.Logf("%-28s %4d of %d words wrong (%.1f %%), %5.1f s: speed of accel %.2f of it; at most %.0f MiB", p.name, wrong, words, 100*float64(wrong)/float64(words), theirs.seconds,
				theirs.seconds/h.seconds, slices.Max(other))
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(h.seconds, "s")
			b.ReportMetric(theirs.seconds/h.seconds, "speed-of-"+computes[0])
			b.ReportMetric(slices.Max(backend)+slices.Max(self), "MiB")
			b.ReportMetric((slices.Max(backend)+slices.Max(self))/slices.Max(other), "MiB-of-"+computes[0])
		}
	})
}

// sampled calls f every half second, from now until what it returns is called.
func sampled(f func()) (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			f()
			select {
			case <-end:
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	})
	return func() {
		close(end)
		done.Wait()
	}
}

// speechTokens draws tokens of one sound.
type speechTokens struct {
	scheduler *schedule.Scheduler
	inputs    map[string]tensor.Tensor
	rows      int
	prompt    []int64
	never     map[int64]float64 // what would end a text
	count     int
}

// openSpeech places a model and takes a sound's features.
func openSpeech(b *testing.B, e *engine.Engine, dir, wav string) *speechTokens {
	b.Helper()
	fail := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	s, err := e.Open(dir, engine.SessionOptions{Models: models.Options{KV: models.KVTypes{Key: tensor.Float16, Value: tensor.Float16}}, Preferred: "cpu", Policy: route.Deny})
	fail(err)
	b.Cleanup(func() { s.Close() })
	d := s.Model.Decoder
	x, err := s.Decoder(engine.PoolOptions{PageSize: pageSize, Pages: 64, CrossPages: 2 + 2*d.Cross.MaxRows/pageSize})
	fail(err)
	t := &speechTokens{rows: int(d.Cross.Rows), never: map[int64]float64{}}
	t.scheduler, err = schedule.New(x, schedule.Options{Vocabulary: int(d.VocabSize), Sources: true, MaxLength: int(d.MaxPositions)})
	fail(err)
	b.Cleanup(func() {
		if err := t.scheduler.Close(); err != nil {
			b.Error(err)
		}
	})
	tok, err := processors.OpenTokenizer(s.Dir)
	fail(err)
	for _, name := range []string{"<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"} {
		id, ok := tok.TokenToID(name)
		if !ok {
			b.Fatalf("the tokenizer has no %s", name)
		}
		t.prompt = append(t.prompt, id)
	}
	for _, id := range d.EOS {
		t.never[id] = math.Inf(-1)
	}
	extractor, err := audio.OpenExtractor(s.Dir)
	fail(err)
	f, err := os.Open(wav)
	fail(err)
	defer f.Close()
	sound, err := audio.Open(f)
	fail(err)
	samples := make([]float32, extractor.MostSamples())
	n := 0
	for err == nil {
		var some int
		some, err = sound.Read(samples[n:])
		n += some
	}
	if err != io.EOF {
		b.Fatal(err)
	}
	t.inputs, err = extractor.Extract([][]float32{samples[:n]})
	fail(err)
	return t
}

// run is the seconds until n tokens are there, the encoder's work included.
func (t *speechTokens) run(b *testing.B, n int) float64 {
	b.Helper()
	t.count++
	begun := time.Now()
	// Each time another salt: nothing of the last time is of use.
	stream, err := t.scheduler.Submit(b.Context(), schedule.Request{ID: "bench", Prompt: t.prompt, Source: schedule.NewSource(t.inputs, t.rows), MaxTokens: n, N: 1,
		Salt: fmt.Sprint(t.count), Sampling: schedule.Sampling{LogitBias: t.never}})
	if err != nil {
		b.Fatal(err)
	}
	defer stream.Close()
	for got := 0; ; got++ {
		switch _, err := stream.Next(b.Context()); {
		case err == io.EOF && got == n:
			return time.Since(begun).Seconds()
		case err != nil:
			b.Fatalf("%d of %d tokens came: %v", got, n, err)
		}
	}
}
