package models

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// rope is a rotary position embedding (arXiv:2104.09864): element i of the first
// half of a head's first dims elements turns with its partner in the second half by
// position * inverse[i].
type rope struct {
	dims    int64     // of a head that are turned
	inverse []float64 // dims/2 frequencies, radians a token
	scale   float64   // of cos and sin
	theta   float64

	// What follows depends on the length of a token's sequence, as it is in the step.
	original int64     // the length that the model was trained at
	long     []float64 // inverse for lengths beyond original; nil: the same
	growth   float64   // dynamic NTK's factor; 0: none
}

// byLength reports whether keys depend on how long their sequence was when they
// were written.
func (r *rope) byLength() bool { return r.long != nil || r.growth != 0 }

// ropeKinds are the ways to reach beyond the length of training, by rope_type, and
// the settings that each reads.
var ropeKinds = map[string]struct {
	settings []string
	read     func(f checkpoint.Fields, r *rope, c ropeConfig)
}{
	"default":  {nil, func(checkpoint.Fields, *rope, ropeConfig) {}},
	"linear":   {[]string{"factor"}, linearRope},
	"dynamic":  {[]string{"factor"}, dynamicRope},
	"yarn":     {[]string{"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}, yarnRope},
	"llama3":   {[]string{"factor", "low_freq_factor", "high_freq_factor"}, llama3Rope},
	"longrope": {[]string{"factor", "attention_factor", "long_factor", "short_factor"}, longRope},
}

// ropeConfig is what the kinds need of the config around them.
type ropeConfig struct {
	positions int64 // max_position_embeddings
	original  int64 // original_max_position_embeddings
}

// maxFactor bounds how far a context is stretched.
const maxFactor = 1 << 20

// readRope reads the settings in any of their spellings: rope_parameters with
// rope_type and rope_theta, or rope_scaling with type or rope_type and rope_theta
// beside it. It says too how many positions there are. What the kinds mean is as
// transformers computes it.
func readRope(f checkpoint.Fields, headDim, positions int64) (r rope, maxPositions int64) {
	config := (*checkpoint.Config)(nil)
	p, within := config.Fields(), ""
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		if f.Has(name) {
			p, within = f.Object(name), name
			break
		}
	}
	kind := p.StringOr("rope_type", p.StringOr("type", "default"))
	if kind == "su" { // its first name
		kind = "longrope"
	}
	k, ok := ropeKinds[kind]
	if !ok && f.Err() == nil {
		p.Fail("rope_type", "found "+strconv.Quote(kind), "one of "+strings.Join(slices.Sorted(maps.Keys(ropeKinds)), ", "), "")
	}
	known := append([]string{"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}, k.settings...)
	for _, name := range p.Names() {
		if !slices.Contains(known, name) {
			p.Fail(name, "it is no setting of rope_type "+strconv.Quote(kind)+" that is known", "one of "+strings.Join(known, ", "), "")
		}
	}
	const most = 1e12
	r.theta = p.FloatOr("rope_theta", f.FloatOr("rope_theta", 10000, 1, most), 1, most)
	part := p.FloatOr("partial_rotary_factor", f.FloatOr("partial_rotary_factor", 1, 0, 1), 0, 1)
	r.dims = int64(float64(headDim) * part)
	if f.Err() == nil && (r.dims < 2 || r.dims%2 != 0) {
		f.Fail("head_dim", fmt.Sprintf("%d of its %d elements would be turned", r.dims, headDim), "an even number of at least 2", "")
	}
	c := ropeConfig{positions: positions}
	c.original = p.IntOr("original_max_position_embeddings", positions, 1, maxTokens)
	// Beside the settings it counts before the one among them.
	c.original = f.IntOr("original_max_position_embeddings", c.original, 1, maxTokens)
	if f.Err() != nil {
		return r, positions
	}
	r.scale = 1
	for i := range r.dims / 2 {
		r.inverse = append(r.inverse, math.Pow(r.theta, -float64(2*i)/float64(r.dims)))
	}
	if within != "" {
		k.read(p, &r, c)
	}
	return r, stretched(kind, p, c)
}

// stretched is how many positions there are. Where factor stretches what
// max_position_embeddings was trained at, it counts; elsewhere the latter says it.
func stretched(kind string, p checkpoint.Fields, c ropeConfig) int64 {
	factor := p.FloatOr("factor", 1, 1, maxFactor)
	n := c.positions
	switch kind {
	case "linear", "dynamic":
		n = int64(float64(c.positions) * factor)
	case "yarn":
		n = max(n, int64(float64(c.original)*factor))
	}
	return min(n, maxTokens)
}

// linearRope is position interpolation (arXiv:2306.15595).
func linearRope(f checkpoint.Fields, r *rope, _ ropeConfig) {
	factor := f.Float("factor", 1, maxFactor)
	for i := range r.inverse {
		r.inverse[i] /= factor
	}
}

// dynamicRope is NTK-aware scaling of theta with the sequence's length.
func dynamicRope(f checkpoint.Fields, r *rope, c ropeConfig) {
	r.growth = f.Float("factor", 1, maxFactor)
	r.original = c.positions
	if f.Err() == nil && r.dims < 4 {
		f.Fail("rope_type", "found \"dynamic\" for heads that turn 2 elements", "at least 4", "")
	}
}

// llama3Rope leaves short waves, stretches long ones, and blends between.
func llama3Rope(f checkpoint.Fields, r *rope, c ropeConfig) {
	factor := f.Float("factor", 1, maxFactor)
	low, high := f.Float("low_freq_factor", 1e-6, maxFactor), f.Float("high_freq_factor", 1e-6, maxFactor)
	if f.Err() == nil && high <= low {
		f.Fail("high_freq_factor", fmt.Sprintf("found %g", high), fmt.Sprintf("more than low_freq_factor, which is %g", low), "")
	}
	original := float64(c.original)
	for i, w := range r.inverse {
		turns := original * w / (2 * math.Pi) // in the length of training
		switch {
		case turns < low:
			r.inverse[i] = w / factor
		case turns <= high:
			smooth := (turns - low) / (high - low)
			r.inverse[i] = (1-smooth)*w/factor + smooth*w
		}
	}
}

// yarnRope is YaRN (arXiv:2309.00071): interpolation that fades in from the
// elements that turn beta_fast times in the length of training to those that turn
// beta_slow times, and a temperature of the attention.
func yarnRope(f checkpoint.Fields, r *rope, c ropeConfig) {
	factor := f.FloatOr("factor", float64(c.positions)/float64(c.original), 1, maxFactor)
	or := func(name string, def float64) float64 { // 0 counts as left out
		if v := f.FloatOr(name, 0, 0, maxFactor); v != 0 {
			return v
		}
		return def
	}
	temperature := func(mscale float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*mscale*math.Log(factor) + 1
	}
	r.scale = temperature(1)
	if m, all := or("mscale", 0), or("mscale_all_dim", 0); m != 0 && all != 0 {
		r.scale = temperature(m) / temperature(all)
	}
	r.scale = f.FloatOr("attention_factor", r.scale, 1e-6, maxFactor)
	fast, slow := or("beta_fast", 32), or("beta_slow", 1)
	truncate := f.BoolOr("truncate", true)
	if f.Err() == nil && r.theta <= 1 {
		f.Fail("rope_theta", fmt.Sprintf("found %g", r.theta), "more than 1", "")
	}
	if f.Err() != nil {
		return
	}
	// element is the one that turns so often in the length of training.
	element := func(turns float64) float64 {
		return float64(r.dims) * math.Log(float64(c.original)/(turns*2*math.Pi)) / (2 * math.Log(r.theta))
	}
	low, high := element(fast), element(slow)
	if truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.dims-1))
	if low == high {
		high += 0.001
	}
	for i, w := range r.inverse {
		stretch := min(max((float64(i)-low)/(high-low), 0), 1)
		r.inverse[i] = w/factor*stretch + w*(1-stretch)
	}
}

// longRope is LongRoPE (arXiv:2402.13753): a factor an element, one list for
// sequences up to the length of training, one for longer ones.
func longRope(f checkpoint.Fields, r *rope, c ropeConfig) {
	factor := f.FloatOr("factor", float64(c.positions)/float64(c.original), 1e-6, maxFactor)
	r.scale = 1
	if factor > 1 && c.original > 1 {
		r.scale = math.Sqrt(1 + math.Log(factor)/math.Log(float64(c.original)))
	}
	r.scale = f.FloatOr("attention_factor", r.scale, 1e-6, maxFactor)
	stretched := func(name string) []float64 {
		list := f.Floats(name)
		if f.Err() == nil && len(list) != len(r.inverse) {
			f.Fail(name, fmt.Sprintf("it has %d numbers", len(list)), fmt.Sprintf("%d, one for two elements of a head", len(r.inverse)), "")
		}
		if f.Err() != nil {
			return nil
		}
		out := slices.Clone(r.inverse)
		for i, v := range list {
			if !(v > 0) || math.IsInf(v, 0) {
				f.Fail(name, fmt.Sprintf("found %g", v), "numbers above 0", "")
				return nil
			}
			out[i] /= v
		}
		return out
	}
	long, short := stretched("long_factor"), stretched("short_factor")
	r.inverse, r.long, r.original = short, long, c.original
}

// angles computes cos and sin [1, tokens, dims/2] for all layers, from the inputs
// positions, and lengths and starts where frequencies depend on them.
func (r *rope) angles(n net) (cos, sin string) {
	n = n.in("rope")
	row := func(v []float64) string {
		out := make([]float32, len(v))
		for i, x := range v {
			out[i] = float32(x)
		}
		return n.Const(tensor.Floats(tensor.Shape{1, int64(len(v))}, out...))
	}
	frequency := row(r.inverse)
	switch {
	case r.long != nil:
		beyond := n.Op("Greater", []string{n.tokenLengths(), n.Int(r.original)})
		frequency = n.Op("Where", []string{beyond, row(r.long), frequency})
	case r.growth != 0:
		// theta grows by g^(dims/(dims-2)), g = factor*length/original - (factor-1).
		length := n.Op("Max", []string{n.cast(n.tokenLengths(), tensor.Float32), n.Float(float32(r.original))})
		g := n.Op("Mul", []string{length, n.Float(float32(r.growth / float64(r.original)))})
		g = n.Op("Sub", []string{g, n.Float(float32(r.growth - 1))})
		exponents := make([]float64, r.dims/2)
		for i := range exponents {
			exponents[i] = -2 * float64(i) / float64(r.dims-2)
		}
		frequency = n.Op("Mul", []string{n.Op("Pow", []string{g, row(exponents)}), frequency})
	}
	position := n.Op("Unsqueeze", []string{n.cast("positions", tensor.Float32), n.Ints(1)})
	angle := n.Op("Mul", []string{position, frequency})
	turn := func(op string) string {
		x := n.Op(op, []string{angle})
		if r.scale != 1 {
			x = n.Op("Mul", []string{x, n.Float(float32(r.scale))})
		}
		return n.Op("Unsqueeze", []string{x, n.Ints(0)})
	}
	return turn("Cos"), turn("Sin")
}

// tokenLengths is the length of each token's sequence, [tokens, 1] int64: the
// sequence is how many have ended by then.
func (n net) tokenLengths() string {
	tokens := n.Op("Shape", []string{"positions"})
	count := n.Op("Squeeze", []string{tokens})
	token := n.Op("Unsqueeze", []string{n.Op("Range", []string{n.Int(0), count, n.Int(1)}), n.Ints(1)})
	ends := n.Op("Unsqueeze", []string{n.Op("Slice", []string{"starts", n.Ints(1), n.Ints(math.MaxInt64)}), n.Ints(0)})
	ended := n.cast(n.Op("GreaterOrEqual", []string{token, ends}), tensor.Int64)
	return n.Op("Gather", []string{"lengths", n.Op("ReduceSum", []string{ended, n.Ints(1)}, graph.IntAttr("keepdims", 1))})
}

// rotate turns heads by the angles: [tokens, heads, dim] or [tokens, heads*dim] ->
// [tokens, heads, dim].
func (n net) rotate(scope, x, cos, sin string, heads, dim int64, r *rope) string {
	n = n.in(scope)
	attrs := []*graph.Attr{graph.IntAttr("num_heads", heads)}
	if r.dims != dim {
		attrs = append(attrs, graph.IntAttr("rotary_embedding_dim", r.dims))
	}
	x = n.Op("RotaryEmbedding", []string{n.Op("Reshape", []string{x, n.Ints(1, -1, heads*dim)}), cos, sin}, attrs...)
	return n.Op("Reshape", []string{x, n.Ints(-1, heads, dim)})
}
