package backendtest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Verdict is how a check ended.
type Verdict string

// Verdicts.
const (
	Passed  Verdict = "pass"
	Failed  Verdict = "fail"
	Skipped Verdict = "skip"
)

// Result is what became of one check.
type Result struct {
	Check    string   `json:"check"` // "describe", "device 0/bindings"
	Verdict  Verdict  `json:"verdict"`
	Reason   string   `json:"reason,omitempty"`   // why it was skipped
	Failures []string `json:"failures,omitempty"` // what did not hold
	Notes    []string `json:"notes,omitempty"`    // what it said beside
	Seconds  float64  `json:"seconds"`
}

// Check tests a backend as Run does, without package testing: each check whose name
// run matches (nil: all) is told to report before the next begins. That the backend
// starts and has a device to be tested (check "devices") is reported where run does not
// match it only if it does not hold. The error is the end of ctx.
func Check(ctx context.Context, target Target, run *regexp.Regexp, report func(Result)) error {
	s := newSuite(target)
	defer s.drop()
	s.walk(func(name string, do func(T)) {
		wanted := run == nil || run.MatchString(name)
		if ctx.Err() != nil || !wanted && name != devicesCheck {
			return
		}
		r := outside(ctx, name, do)
		if ctx.Err() == nil && (wanted || r.Verdict == Failed) {
			report(r)
		}
	})
	return context.Cause(ctx)
}

// CheckNames are the names of the checks that a backend with a device "ID" meets.
func CheckNames() []string {
	names := make([]string, 0, len(processChecks)+len(deviceChecks)+1)
	for _, c := range processChecks {
		names = append(names, c.name)
	}
	names = append(names, devicesCheck)
	for _, c := range deviceChecks {
		names = append(names, c.name)
	}
	return names
}

// outside runs a check where no test is.
func outside(ctx context.Context, name string, do func(T)) Result {
	ctx, cancel := context.WithCancel(ctx)
	t := &loose{ctx: ctx, result: Result{Check: name, Verdict: Passed}}
	begun := time.Now()
	// In a goroutine of its own, which Fatal and Skipf end.
	var done sync.WaitGroup
	done.Go(func() {
		defer t.cleanUp()
		defer cancel() // before the cleaning up, as in tests
		defer t.recover()
		do(t)
	})
	done.Wait()
	t.result.Seconds = time.Since(begun).Seconds()
	return t.result
}

// loose is a T without a test.
type loose struct {
	ctx context.Context

	mu      sync.Mutex
	result  Result
	cleanup []func()
}

func (t *loose) recover() {
	if p := recover(); p != nil {
		t.Errorf("the check panicked, which is the suite's fault: %v\n%s", p, debug.Stack())
	}
}

func (t *loose) cleanUp() {
	for {
		t.mu.Lock()
		n := len(t.cleanup)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		last := t.cleanup[n-1]
		t.cleanup = t.cleanup[:n-1]
		t.mu.Unlock()
		func() {
			defer t.recover()
			last()
		}()
	}
}

func (t *loose) fail(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Verdict = Failed
	t.result.Failures = append(t.result.Failures, text)
}

func (t *loose) Helper() {}

func (t *loose) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanup = append(t.cleanup, f)
}

func (t *loose) Context() context.Context { return t.ctx }

func (t *loose) TempDir() string {
	dir, err := os.MkdirTemp("", "accel-check-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *loose) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.result.Verdict == Failed
}

func (t *loose) Error(args ...any) { t.fail(fmt.Sprint(args...)) }

func (t *loose) Errorf(format string, args ...any) { t.fail(fmt.Sprintf(format, args...)) }

func (t *loose) Fatal(args ...any) {
	t.fail(fmt.Sprint(args...))
	runtime.Goexit()
}

func (t *loose) Fatalf(format string, args ...any) {
	t.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (t *loose) Logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Notes = append(t.result.Notes, fmt.Sprintf(format, args...))
}

func (t *loose) Skipf(format string, args ...any) {
	t.mu.Lock()
	if t.result.Verdict == Passed {
		t.result.Verdict, t.result.Reason = Skipped, fmt.Sprintf(format, args...)
	}
	t.mu.Unlock()
	runtime.Goexit()
}
