package main_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
)

var (
	soakLength = flag.Duration("soak", time.Minute, "how long TestSoak lasts")
	soakKills  = flag.Duration("soak.kill", 30*time.Second, "time between TestSoak's kills; at most a quarter of its length")
	soakModel  = flag.String("soak.model", "", "model that TestSoak serves (default: testdata/tiny/llama)")
	soakResult = flag.String("soak.result", "", "file that TestSoak's figures are written to, as JSON")
	soakSeed   = flag.Uint64("soak.seed", 1, "what TestSoak's requests are drawn by")
)

const (
	soakClients  = 64
	soakPatience = 5 * time.Minute // for one answer
)

// What may be there at the end, beside what was there at the beginning: files and goroutines
// are counted while nothing is asked, memory (what is the process's own, mapped weights apart) is the
// median of the last quarter of the time against that of the second, and of a backend, whose lives are short, the
// most that it had in the last half of its lives against the first.
const (
	moreFiles      = 8
	moreGoroutines = 8
	moreServer     = 32 << 20 // and a quarter
	moreBackend    = 64 << 20 // and a quarter
)

// soak is what clients share.
type soak struct {
	client openai.Client
	model  string
	room   int // tokens that the model takes
	known  []known

	mu       sync.Mutex
	outcomes map[string]map[string]int // by kind of request
	problems []string
	tokens   int
	first    []float64 // ms
	between  []float64
}

// TestSoak has 64 clients ask all kinds of things, and go away in the middle of some, while the
// backend is killed again and again: what was asked for and not given up is answered, and answered right, and
// in the end nothing is left of it all. `make soak` lets it last, with a real model.
func TestSoak(t *testing.T) {
	path := *soakModel
	if path == "" {
		path = tiny(t, "llama")
	}
	s := serve(t, map[string]any{"models": map[string]any{"m": map[string]any{"path": path}}, "log": map[string]any{"level": "warn"}})
	transport := &http.Transport{MaxIdleConnsPerHost: soakClients}
	k := &soak{model: "m", outcomes: map[string]map[string]int{},
		client: openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0), option.WithHTTPClient(&http.Client{Transport: transport}))}
	k.prepare(t, s)
	transport.CloseIdleConnections()

	r := &soakReport{Model: filepath.Base(path), Clients: soakClients, Length: soakLength.String()}
	r.Idle[0] = s.idle(t)
	begun := time.Now()
	end := begun.Add(*soakLength)
	var clients sync.WaitGroup
	for i := range soakClients {
		random := rand.New(rand.NewPCG(*soakSeed, uint64(i)))
		clients.Go(func() {
			for time.Now().Before(end) {
				k.ask(t.Context(), k.draw(random))
			}
		})
	}
	seen := s.disturb(t, r, begun, end)
	clients.Wait()
	r.Seconds = time.Since(begun).Seconds()
	transport.CloseIdleConnections()

	quiet := func() bool {
		r.Idle[1] = s.idle(t)
		return r.Idle[1].PagesUsed == 0 && r.Idle[1].Files <= r.Idle[0].Files+moreFiles && r.Idle[1].Goroutines <= r.Idle[0].Goroutines+moreGoroutines
	}
	for late := time.Now().Add(20 * time.Second); !quiet() && time.Now().Before(late); {
		time.Sleep(200 * time.Millisecond)
	}
	m := s.metrics(t)
	r.Replays, r.Fallbacks, r.Restarts = m["accel_replays_total"], m["accel_fallbacks_total"], m["accel_backend_restarts"]
	r.Preemptions, r.CachedTokens = m["accel_preemptions_total"], m["accel_cached_tokens_total"]
	k.report(r)
	r.judge()
	for _, pid := range s.stop(t, seen) {
		r.problem("process %d of a backend outlived the server", pid)
	}
	r.conclude()
	if *soakResult != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(*soakResult, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range r.Problems {
		t.Error(p)
	}
	t.Log(r.Verdict)
}

// disturb kills the backend again and again, and takes samples, until the end. It returns all
// processes of backends that it saw.
func (s *serving) disturb(t *testing.T, r *soakReport, begun, end time.Time) (seen []int) {
	every := min(*soakKills, end.Sub(begun)/4)
	next, killed := begun.Add(every), 0
	pace := max(250*time.Millisecond, end.Sub(begun)/600)
	for ; time.Now().Before(end); time.Sleep(pace) {
		pids := s.backends(t, "")
		for _, pid := range pids {
			if !slices.Contains(seen, pid) {
				seen = append(seen, pid)
			}
		}
		r.Samples = append(r.Samples, s.sample(t, time.Since(begun)))
		if time.Now().Before(next) || end.Sub(next) < every/2 {
			continue
		}
		pids = s.backends(t, "cpu")
		if len(pids) != 1 || pids[0] == killed {
			if time.Since(next) > soakPatience {
				t.Fatalf("after %v the backend is not back: processes %v, %d was killed", time.Since(next), pids, killed)
			}
			continue
		}
		killed = pids[0]
		if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.Kills++
		next = next.Add(every)
	}
	return seen
}

// stop ends the server politely and returns those of some processes that don't end with it.
func (s *serving) stop(t *testing.T, pids []int) (left []int) {
	t.Helper()
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(45 * time.Second):
		t.Fatal("the server does not end")
	}
	for late := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left = slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return syscall.Kill(pid, 0) != nil })
		if len(left) == 0 || time.Now().After(late) {
			return left
		}
	}
}

// ask sends a request and notes what became of it.
func (k *soak) ask(ctx context.Context, r *asked) {
	ctx, cancel := context.WithTimeout(ctx, soakPatience)
	defer cancel()
	a, err := k.answer(ctx, cancel, r)
	outcome := "answered"
	switch {
	case a.cancelled:
		outcome = "cancelled"
	case err != nil && r.refused == "":
		outcome = "lost"
	default:
		err = r.judge(a, err)
		if err != nil {
			outcome = "wrong"
		} else if r.refused != "" {
			outcome = "refused, as it had to be"
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.outcomes[r.kind] == nil {
		k.outcomes[r.kind] = map[string]int{}
	}
	k.outcomes[r.kind][outcome]++
	k.tokens += a.tokens
	if outcome == "lost" || outcome == "wrong" {
		k.problems = append(k.problems, fmt.Sprintf("%s, %s: %v", r.kind, outcome, err))
	}
	if a.first > 0 {
		k.first = append(k.first, a.first.Seconds()*1e3)
	}
	for _, d := range a.between {
		k.between = append(k.between, d.Seconds()*1e3)
	}
}
