package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// soakReport is what a soak measured. Times are in milliseconds, memory in bytes: what is a
// process's own or shared with others of its kind, files that it maps apart.
type soakReport struct {
	Verdict         string                    `json:"verdict"`
	Problems        []string                  `json:"problems"`
	Model           string                    `json:"model"`
	Clients         int                       `json:"clients"`
	Length          string                    `json:"length"`
	Seconds         float64                   `json:"seconds"` // until the last answer
	Requests        map[string]int            `json:"requests"`
	Kinds           map[string]map[string]int `json:"requests_by_kind"`
	Kills           int                       `json:"kills"`
	Restarts        float64                   `json:"restarts"`
	Replays         float64                   `json:"replays"`
	Fallbacks       float64                   `json:"fallbacks"`
	Preemptions     float64                   `json:"preemptions"`
	CachedTokens    float64                   `json:"cached_prompt_tokens"`
	Tokens          int                       `json:"tokens"` // generated
	TokensPerSecond float64                   `json:"tokens_per_second"`
	FirstToken      percentiles               `json:"first_token_ms"`
	BetweenTokens   percentiles               `json:"between_tokens_ms"`
	Memory          map[string][2]int64       `json:"memory_bytes"` // early and late, as judged
	Idle            [2]sample                 `json:"idle_before_and_after"`
	Samples         []sample                  `json:"samples"`
}

// sample is the state of the processes at one time.
type sample struct {
	Seconds    float64 `json:"seconds"`
	Server     int64   `json:"server_bytes"`
	Backend    int64   `json:"backend_bytes"`
	PID        int     `json:"backend_pid,omitempty"`
	Files      int     `json:"open_files"` // the server's
	Goroutines int     `json:"goroutines"`
	Pages      int     `json:"pages"`
	PagesUsed  int     `json:"pages_used"`
}

type percentiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Most  float64 `json:"max"`
}

func percentilesOf(values []float64) percentiles {
	if len(values) == 0 {
		return percentiles{}
	}
	slices.Sort(values)
	at := func(p float64) float64 { return values[int(p*float64(len(values)-1))] }
	return percentiles{len(values), at(0.5), at(0.9), at(0.99), at(1)}
}

func (r *soakReport) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// report adds up what clients saw.
func (k *soak) report(r *soakReport) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r.Kinds, r.Requests = k.outcomes, map[string]int{}
	for _, kind := range k.outcomes {
		for outcome, n := range kind {
			r.Requests[outcome] += n
		}
	}
	r.Tokens, r.TokensPerSecond = k.tokens, float64(k.tokens)/r.Seconds
	r.FirstToken, r.BetweenTokens = percentilesOf(k.first), percentilesOf(k.between)
	const most = 20
	r.Problems = append(r.Problems, k.problems[:min(most, len(k.problems))]...)
	if more := len(k.problems) - most; more > 0 {
		r.problem("and %d more requests that were lost or answered wrong", more)
	}
}

// judge finds what is left over, and what grew.
func (r *soakReport) judge() {
	before, after := r.Idle[0], r.Idle[1]
	if after.PagesUsed != 0 || after.Pages == 0 {
		r.problem("%d of %d pages are in use at the end", after.PagesUsed, after.Pages)
	}
	if after.Files > before.Files+moreFiles {
		r.problem("%d files are open at the end, %d were at the beginning", after.Files, before.Files)
	}
	if after.Goroutines > before.Goroutines+moreGoroutines {
		r.problem("there are %d goroutines at the end, %d were at the beginning", after.Goroutines, before.Goroutines)
	}
	if r.Requests["answered"] == 0 || r.Requests["cancelled"] == 0 || r.Kinds["deterministic"]["answered"] == 0 {
		r.problem("too few requests for a verdict: %v", r.Kinds)
	}
	if r.Kills < 3 || r.Restarts < float64(r.Kills) || r.Replays == 0 {
		r.problem("%d kills, %v restarts, %v replays: the backend was not disturbed as it should be", r.Kills, r.Restarts, r.Replays)
	}
	n := len(r.Samples)
	var server, backend [2]int64
	server[0], server[1] = medianServer(r.Samples[n/4:n/2]), medianServer(r.Samples[n*3/4:])
	var lives []int64 // the most that each had
	last := 0
	for _, s := range r.Samples {
		if s.PID == 0 {
			continue
		}
		if s.PID != last {
			lives, last = append(lives, 0), s.PID
		}
		lives[len(lives)-1] = max(lives[len(lives)-1], s.Backend)
	}
	if half := len(lives) / 2; half > 0 {
		backend[0], backend[1] = slices.Max(lives[:half]), slices.Max(lives[half:])
	}
	r.Memory = map[string][2]int64{"server": server, "backend": backend}
	for name, m := range r.Memory {
		more := int64(moreServer)
		if name == "backend" {
			more = moreBackend
		}
		if m[0] == 0 || m[1] > m[0]+m[0]/4+more {
			r.problem("the memory of the %s grew from %d to %d MiB", name, m[0]>>20, m[1]>>20)
		}
	}
}

func medianServer(samples []sample) int64 {
	list := make([]int64, len(samples))
	for i, s := range samples {
		list[i] = s.Server
	}
	if slices.Sort(list); len(list) == 0 {
		return 0
	}
	return list[len(list)/2]
}

// conclude writes the last line.
func (r *soakReport) conclude() {
	word := "passed"
	if len(r.Problems) > 0 {
		word = fmt.Sprintf("FAILED (%d problems, the first: %s)", len(r.Problems), r.Problems[0])
	}
	total := 0
	for _, n := range r.Requests {
		total += n
	}
	r.Verdict = fmt.Sprintf("soak %s: %s, %d requests (%d answered, %d cancelled, %d lost, %d wrong), %d kills, %.0f replays, %.0f fallbacks, %.0f tokens/s, first token p50 %.0f ms p99 %.0f ms, server %d to %d MiB",
		word, r.Length, total, r.Requests["answered"], r.Requests["cancelled"], r.Requests["lost"], r.Requests["wrong"], r.Kills, r.Replays, r.Fallbacks,
		r.TokensPerSecond, r.FirstToken.P50, r.FirstToken.P99, r.Memory["server"][0]>>20, r.Memory["server"][1]>>20)
}

// sample looks at the processes.
func (s *serving) sample(t *testing.T, at time.Duration) sample {
	t.Helper()
	m := s.metrics(t)
	out := sample{Seconds: at.Seconds(), Server: resident(s.Process.Pid), Goroutines: int(m["go_goroutines"]), Pages: int(m["accel_kv_pages"]), PagesUsed: int(m["accel_kv_pages_used"])}
	if pids := s.backends(t, "cpu"); len(pids) == 1 {
		out.PID, out.Backend = pids[0], resident(pids[0])
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	out.Files = len(files)
	return out
}

// idle is a sample while nobody asks for anything.
func (s *serving) idle(t *testing.T) sample {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	return s.sample(t, 0)
}

// resident is a process's anonymous and shared memory; 0: it is gone.
func resident(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	var sum int64
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(string(line), ":")
		if name != "RssAnon" && name != "RssShmem" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		sum += kib << 10
	}
	return sum
}

// metrics are all metrics, summed over their labels.
func (s *serving) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	resp, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		all[line[:strings.IndexAny(line, "{ ")]] += v
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// getJSON reads an answer, which must be right.
func (s *serving) getJSON(t *testing.T, path string, into any) {
	t.Helper()
	resp, err := http.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
}
