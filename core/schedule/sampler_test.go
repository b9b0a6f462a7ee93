package schedule

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPhilox holds the generator against known answers (Random123's kat_vectors).
func TestPhilox(t *testing.T) {
	const ff = 0xffffffff
	for _, tt := range []struct {
		c    [4]uint32
		k    [2]uint32
		want [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{ff, ff, ff, ff}, [2]uint32{ff, ff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(tt.c, tt.k); got != tt.want {
			t.Errorf("philox(%x, %x) = %x, want %x", tt.c, tt.k, got, tt.want)
		}
	}
	seen := map[float64]string{}
	for seed := range uint64(8) {
		for choice := range 8 {
			for position := range 64 {
				u := uniform(seed<<30, choice, position)
				if who := fmt.Sprint(seed, choice, position); u < 0 || u >= 1 || seen[u] != "" {
					t.Fatalf("%s draws %v, as %q does", who, u, seen[u])
				} else {
					seen[u] = who
				}
			}
		}
	}
}

func TestExp(t *testing.T) {
	worst := 0.0
	for x := float32(0); x > -87; x -= 0.00137 {
		want := math.Exp(float64(x))
		worst = max(worst, math.Abs(float64(exp(x))-want)/want)
	}
	if worst > 3e-7 {
		t.Errorf("e^x is off by %g of it", worst)
	}
	for _, x := range []float32{-88, -1e30, float32(math.Inf(-1))} {
		if exp(x) != 0 {
			t.Errorf("exp(%v) = %v", x, exp(x))
		}
	}
	if exp(0) != 1 {
		t.Errorf("exp(0) = %v", exp(0))
	}
}

// distribution is what Sampling promises, written down plainly: what each token's probability is.
func distribution(s Sampling, row []float32, prompt, output []int64) []float64 {
	logits := make([]float64, len(row))
	for i, v := range row {
		logits[i] = float64(v)
		id := int64(i)
		said := 0
		for _, o := range output {
			if o == id {
				said++
			}
		}
		if s.RepetitionPenalty > 0 && (said > 0 || slices.Contains(prompt, id)) {
			if logits[i] > 0 {
				logits[i] /= s.RepetitionPenalty
			} else {
				logits[i] *= s.RepetitionPenalty
			}
		}
		if said > 0 {
			logits[i] -= s.PresencePenalty + float64(said)*s.FrequencyPenalty
		}
		logits[i] += s.LogitBias[id]
	}
	rank := make([]int, len(row))
	for i := range rank {
		rank[i] = i
	}
	slices.SortFunc(rank, func(a, b int) int { return cmp.Or(cmp.Compare(logits[b], logits[a]), a-b) })
	p := make([]float64, len(row))
	if s.Temperature == 0 {
		p[rank[0]] = 1
		return p
	}
	best := logits[rank[0]]
	if s.TopK > 0 {
		rank = rank[:min(s.TopK, len(rank))]
	}
	total := 0.0
	for _, i := range rank {
		p[i] = math.Exp((logits[i] - best) / s.Temperature)
		total += p[i]
	}
	if s.TopP > 0 && s.TopP < 1 {
		sum := 0.0
		for n, i := range rank {
			if sum >= s.TopP*total {
				for _, j := range rank[n:] {
					p[j] = 0
				}
				break
			}
			sum += p[i]
		}
	}
	total = 0
	for i := range p {
		if p[i] < s.MinP {
			p[i] = 0
		}
		total += p[i]
	}
	for i := range p {
		p[i] /= total
	}
	return p
}

func randomRow(r *rand.Rand, n int, spread float64) []float32 {
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(r.NormFloat64() * spread)
	}
	return row
}

// TestDistribution walks through all of u and counts what comes out.
func TestDistribution(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	flat := make([]float32, 200)
	peaked := randomRow(r, 200, 1)
	peaked[17] = 60
	never := randomRow(r, 200, 2)
	for i := 0; i < 200; i += 2 {
		never[i] = float32(math.Inf(-1))
	}
	rows := map[string][]float32{"narrow": randomRow(r, 200, 0.3), "usual": randomRow(r, 200, 3), "wide": randomRow(r, 200, 30),
		"flat": flat, "peaked": peaked, "half never": never, "one token": {3}, "two": {1, 1}}
	for _, s := range []Sampling{
		{},
		{Temperature: 1},
		{Temperature: 0.3},
		{Temperature: 5},
		{Temperature: 1e-38}, // greedy
		{Temperature: 1, TopK: 1},
		{Temperature: 1, TopK: 7},
		{Temperature: 1, TopK: 150},
		{Temperature: 1, TopK: 1000},
		{Temperature: 1, TopP: 0.5},
		{Temperature: 0.7, TopP: 0.95},
		{Temperature: 1, TopP: 1e-9},
		{Temperature: 1, TopP: 1},
		{Temperature: 1, MinP: 0.05},
		{Temperature: 1, MinP: 1},
		{Temperature: 0.8, TopK: 40, TopP: 0.9},
		{Temperature: 1.5, TopK: 40, TopP: 0.9, MinP: 0.1},
		{Temperature: 1, TopP: 0.9, MinP: 0.1},
		{Temperature: 1, RepetitionPenalty: 1.8},
		{RepetitionPenalty: 0.5},
		{Temperature: 1, PresencePenalty: 1.5, FrequencyPenalty: -0.4},
		{Temperature: 1, LogitBias: map[int64]float64{0: 5, 1: math.Inf(-1)}},
	} {
		for name, row := range rows {
			if s.Temperature == 1e-38 && (name == "flat" || name == "two") {
				continue // of equal ones the first comes
			}
			if s.LogitBias != nil && (len(row) < 3 || name == "half never") {
				continue // nothing would be left
			}
			prompt, output := []int64{0}, []int64{}
			if len(row) == 200 {
				prompt, output = []int64{17, 5, 5}, []int64{3, 9, 3, 3, 17}
			}
			want := distribution(s, row, prompt, output)
			c := newChooser(&Request{Prompt: prompt, Sampling: s}, 0, len(row))
			for _, id := range output {
				if err := c.accept(id, false); err != nil {
					t.Fatal(err)
				}
			}
			m := &sampler{}
			from := row
			if c.history != nil || s.LogitBias != nil {
				from = m.adjust(c, row, 1)
			}
			top, at, _ := scan(from)
			const n = 2000
			counts := make([]float64, len(row))
			for i := range n {
				if s.Temperature == 0 {
					counts[at]++
				} else {
					counts[m.draw(&s, from, top, (float64(i)+0.5)/n)]++
				}
			}
			for i := range counts {
				// A token's part of u is one stretch: the count is off by less than 2, beside rounding.
				if math.Abs(counts[i]-want[i]*n) > 2 || want[i] == 0 && counts[i] > 0 {
					t.Errorf("%+v, %s: token %d (%v) came %v times of %d, want %v", s, name, i, row[i], counts[i], n, want[i]*n)
					break
				}
			}
		}
	}
}

// TestKeys: what is drawn depends on seed, choice and position.
func TestKeys(t *testing.T) {
	row := make([]float32, 1000)
	draw := func(seed uint64, choice, position int) int64 {
		c := newChooser(&Request{Prompt: []int64{0}, Sampling: Sampling{Temperature: 1, Seed: seed}}, choice, len(row))
		token, err := (&sampler{}).choose(c, row, position, "fake:0")
		if err != nil {
			t.Fatal(err)
		}
		return token.ID
	}
	if a, b := draw(1, 2, 3), draw(1, 2, 3); a != b {
		t.Errorf("the same key drew %d and %d", a, b)
	}
	for _, other := range [][3]int{{2, 2, 3}, {1, 3, 3}, {1, 2, 4}} {
		if draw(1, 2, 3) == draw(uint64(other[0]), other[1], other[2]) {
			t.Errorf("keys 1,2,3 and %v draw the same", other)
		}
	}
}

func TestLogprobs(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	row := randomRow(r, 5000, 3)
	row[10], row[20] = 11, 11
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v))
	}
	s := Sampling{Logprobs: true, TopLogprobs: 5, LogitBias: map[int64]float64{7: 100}}
	token, err := (&sampler{}).choose(newChooser(&Request{Prompt: []int64{0}, Sampling: s}, 0, len(row)), row, 1, "fake:0")
	if err != nil {
		t.Fatal(err)
	}
	near := func(got float32, id int64) bool {
		return math.Abs(float64(got)-(float64(row[id])-math.Log(sum))) < 1e-5
	}
	if token.ID != 7 || !near(token.Logprob, 7) {
		t.Errorf("token %d with %v; the bias chose token 7, which the model gives %v", token.ID, token.Logprob, float64(row[7])-math.Log(sum))
	}
	rank := make([]int64, len(row))
	for i := range rank {
		rank[i] = int64(i)
	}
	slices.SortStableFunc(rank, func(a, b int64) int { return cmp.Compare(row[b], row[a]) })
	for i, top := range token.Top {
		if top.ID != rank[i] || !near(top.Logprob, top.ID) {
			t.Errorf("place %d: token %d with %v, want token %d", i, top.ID, top.Logprob, rank[i])
		}
	}
	if len(token.Top) != 5 {
		t.Errorf("%d of the most probable", len(token.Top))
	}
}

// only allows some tokens, and refuses one when it comes.
type only struct {
	allowed []int64
	refused int64
	taken   []int64
	left    []int // tokens, at each mask
}

func (o *only) Mask(allowed []uint32, left int) {
	o.left = append(o.left, left)
	clear(allowed)
	for _, id := range o.allowed {
		allowed[id/32] |= 1 << (id % 32)
	}
}

func (o *only) Accept(id int64) error {
	if id == o.refused {
		return errors.New("not this one")
	}
	o.taken = append(o.taken, id)
	return nil
}

func (o *only) Clone() Constraint { c := *o; return &c }

func TestConstraint(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	row := randomRow(r, 1000, 3)
	for _, s := range []Sampling{{}, {Temperature: 1}, {Temperature: 1, TopK: 2}, {Temperature: 1, TopP: 0.9}, {Temperature: 1, MinP: 0.01}} {
		o := &only{allowed: []int64{0, 31, 32, 500, 999}, refused: -1}
		c := newChooser(&Request{Prompt: []int64{0}, Sampling: s, Constraint: func() Constraint { return o }}, 0, len(row))
		m := &sampler{}
		for position := range 50 {
			token, err := m.choose(c, row, position, "fake:0")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(o.allowed, token.ID) {
				t.Fatalf("%+v: token %d is not allowed", s, token.ID)
			}
			if err := c.accept(token.ID, token.ID == 999); err != nil {
				t.Fatal(err)
			}
		}
		if slices.Contains(o.taken, 999) {
			t.Error("an end token was shown to the constraint")
		}
	}
	var refused *ConstraintError
	c := newChooser(&Request{Prompt: []int64{0}, Constraint: func() Constraint { return &only{refused: -1} }}, 3, len(row))
	if _, err := (&sampler{}).choose(c, row, 0, "fake:0"); !errors.As(err, &refused) || refused.Token >= 0 || refused.Choice != 3 {
		t.Errorf("nothing is allowed: %v", err)
	}
}

func TestLogSumExp(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	never := float32(math.Inf(-1))
	for _, row := range [][]float32{{0}, {-3, 5}, {never, 2, never}, {1e30, 1e30}, randomRow(r, 1000, 1), randomRow(r, 51865, 4)} {
		most := float64(slices.Max(row))
		var sum float64
		for _, v := range row {
			sum += math.Exp(float64(v) - most)
		}
		if got, want := LogSumExp(row), most+math.Log(sum); math.Abs(got-want) > 1e-6*max(1, math.Abs(want)) {
			t.Errorf("of %d logits: %v, wanted %v", len(row), got, want)
		}
	}
	for _, row := range [][]float32{nil, {never, never}} {
		if got := LogSumExp(row); !math.IsInf(got, -1) {
			t.Errorf("of %v: %v", row, got)
		}
	}
}

func TestBadLogits(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, tt := range []struct {
		row   []float32
		token int
	}{
		{[]float32{1, 2, nan, 3}, 2},
		{[]float32{nan}, 0},
		{[]float32{1, inf, nan}, 1},
		{[]float32{-inf, -inf}, 0},
	} {
		for _, s := range []Sampling{{}, {Temperature: 1, TopP: 0.5}, {PresencePenalty: 1}} {
			c := newChooser(&Request{Prompt: []int64{0}, Sampling: s}, 0, len(tt.row))
			_, err := (&sampler{}).choose(c, tt.row, 0, "fake:7")
			var bad *LogitsError
			if !errors.As(err, &bad) || bad.Device != "fake:7" || bad.Token != tt.token {
				t.Errorf("%v: %v", tt.row, err)
			}
		}
	}
}

// bigRow is a row as models give it: most tokens are far below a few.
func bigRow(n int) []float32 {
	r := rand.New(rand.NewPCG(7, 8))
	row := randomRow(r, n, 2.5)
	for i := range 40 {
		row[r.IntN(n)] = 12 + float32(i)/8
	}
	return row
}

var ways = []struct {
	name string
	s    Sampling
}{
	{"greedy", Sampling{}},
	{"temperature", Sampling{Temperature: 0.8}},
	{"top-k", Sampling{Temperature: 0.8, TopK: 40}},
	{"top-p", Sampling{Temperature: 0.8, TopP: 0.95}},
	{"top-k and top-p", Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95}},
	{"min-p", Sampling{Temperature: 0.8, MinP: 0.05}},
	{"penalties", Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95, RepetitionPenalty: 1.1, FrequencyPenalty: 0.2}},
	{"greedy, logprobs", Sampling{Logprobs: true}},
}

// TestAllocations: once a sampler is warm, a token takes no memory.
func TestAllocations(t *testing.T) {
	row := bigRow(20000)
	for _, way := range ways {
		c := newChooser(&Request{Prompt: prompt(1, 50), Sampling: way.s}, 0, len(row))
		m := &sampler{}
		position := 0
		choose := func() {
			token, err := m.choose(c, row, position%16, "fake:0")
			if err == nil {
				err = c.accept(token.ID, false)
			}
			if err != nil {
				t.Fatal(err)
			}
			position++
		}
		for range 32 {
			choose()
		}
		if n := testing.AllocsPerRun(20, choose); n != 0 {
			t.Errorf("%s: %v allocations a token", way.name, n)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	for _, vocab := range []int{49152, 151936} {
		row := bigRow(vocab)
		for _, way := range ways {
			b.Run(fmt.Sprintf("%s/%d", way.name, vocab), func(b *testing.B) {
				c := newChooser(&Request{Prompt: prompt(1, 500), Sampling: way.s}, 0, vocab)
				m := &sampler{}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, err := m.choose(c, row, i, "fake:0"); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		flat := make([]float32, vocab)
		b.Run(fmt.Sprintf("top-p of a flat row/%d", vocab), func(b *testing.B) {
			c := newChooser(&Request{Prompt: prompt(1, 500), Sampling: Sampling{Temperature: 1, TopP: 0.5}}, 0, vocab)
			m := &sampler{}
			for i := 0; b.Loop(); i++ {
				if _, err := m.choose(c, flat, i, "fake:0"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
