package hosts

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	rest := backoff{Restart: Restart{Base: time.Second, Max: 10 * time.Second, Quiet: time.Minute, Loop: 4}}
	for i, want := range []struct {
		wait    time.Duration
		looping bool
	}{{0, false}, {1, false}, {2, false}, {4, true}, {8, true}, {10, true}, {10, true}} {
		full := want.wait * time.Second
		if got := rest.died(time.Second); got > full || got < full*3/4 {
			t.Errorf("death %d: waits %v, want 3/4 to all of %v", i+1, got, full)
		}
		if rest.looping() != want.looping {
			t.Errorf("death %d: looping is %v", i+1, rest.looping())
		}
	}
	for range 200 { // no overflow
		if got := rest.died(0); got > rest.Max || got < rest.Max*3/4 {
			t.Fatalf("waits %v after %d deaths", got, rest.deaths)
		}
	}
	if got := rest.died(time.Minute); got != 0 || rest.looping() {
		t.Errorf("after a quiet life it waits %v, looping is %v", got, rest.looping())
	}
}
