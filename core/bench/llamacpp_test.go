package bench

import (
	"math"
	"runtime"
	"testing"
)

// TestLlamaCpp holds the driver to what it says: a text that comes in two pieces, in
// another sequence, or beside others, has the logits of the text alone.
func TestLlamaCpp(t *testing.T) {
	l := startLlamaCpp(t, smolLM2(t), runtime.NumCPU(), 256, 3)
	text, other := []int64{504, 2, 198, 1780, 314, 260, 3575}, []int64{57, 5345, 253}
	all := []int64{325, 28, 198, 2}
	next, _ := l.prefill(t, 0, text)
	want := l.logits(t, 0, append(all, next)...)
	if want[len(all)] <= want[0] {
		t.Errorf("token %d is the likeliest, with logits %v", next, want)
	}
	check := func(how string, sequence int, got int64) {
		t.Helper()
		if got != next {
			t.Errorf("%s: the next token is %d, wanted %d", how, got, next)
		}
		for i, v := range l.logits(t, sequence, append(all, next)...) {
			if math.Abs(v-want[i]) > 0.25 { // activations are quantised, in other blocks
				t.Errorf("%s: logit %d is %g, wanted %g", how, i, v, want[i])
			}
		}
	}
	l.clear(t)
	l.prefill(t, 1, other)
	last := len(text) - 1
	l.prefill(t, 0, text[:last])
	l.prefill(t, 2, text[:2])
	l.prefill(t, 2, text[2:last])
	got, seconds := l.step(t, text[last], 9, text[last])
	if seconds <= 0 {
		t.Errorf("a step took %g s", seconds)
	}
	check("in two pieces", 0, got[0])
	check("in three pieces, as the third", 2, got[2])
}
