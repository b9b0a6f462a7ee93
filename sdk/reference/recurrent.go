package reference

import (
	"fmt"
	"math"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

const (
	recurrentInputs = "X T:float, W T, R T, B? T, sequence_lens? i32, initial_h? T"
	recurrentAttrs  = "activation_alpha floats, activation_beta floats, activations strings, clip float, hidden_size int, "
	directions      = "direction string=forward|reverse|bidirectional"
)

var recurrentOps = []spec{
	{"RNN", since(1), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions + ", output_sequence int=0", rnn},
	{"RNN", since(7), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions, rnn},
	{"RNN", since(14, 22), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions + ", layout int=0", rnn},
	{"GRU", since(1), recurrentInputs + " -> Y? T, Y_h T", recurrentAttrs + "direction string=foward|forward|reverse|bidirectional, output_sequence int=0", gru},
	{"GRU", since(3), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions + ", linear_before_reset int=0, output_sequence int=0", gru},
	{"GRU", since(7), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions + ", linear_before_reset int=0", gru},
	{"GRU", since(14, 22), recurrentInputs + " -> Y? T, Y_h? T", recurrentAttrs + directions + ", linear_before_reset int=0, layout int=0", gru},
	{"LSTM", since(1), recurrentInputs + ", initial_c? T, P? T -> Y? T, Y_h? T, Y_c? T", recurrentAttrs + directions + ", input_forget int=0, output_sequence int=0", lstm},
	{"LSTM", since(7), recurrentInputs + ", initial_c? T, P? T -> Y? T, Y_h? T, Y_c? T", recurrentAttrs + directions + ", input_forget int=0", lstm},
	{"LSTM", since(14, 22), recurrentInputs + ", initial_c? T, P? T -> Y? T, Y_h? T, Y_c? T", recurrentAttrs + directions + ", input_forget int=0, layout int=0", lstm},
}

// recurrence is what RNN, GRU and LSTM have in common: rows of a batch walk over
// their sequences, each direction on its own. Gates and states are kept in
// float64; only the outputs are rounded.
//
// A row whose sequence is over keeps its state, which is what Y_h and Y_c give; its
// places in Y are zero. output_sequence of the first versions is a hint: Y is
// computed where it is used.
type recurrence struct {
	*call
	gates                           int
	seq, batch, input, hidden, dirs int
	batchFirst                      bool
	backward                        []bool                    // by direction
	lens                            []int                     // steps of each row
	functions                       [][]func(float64) float64 // by direction
	clip                            float64
	y, last                         tensor.Tensor // Y and Y_h, Undefined where not used

	h, hw, xw            []float64 // the state of all rows, and what it and the input give to the gates
	weights              []float64 // of the direction's R
	inputBias, stateBias []float64 // of the direction
}

// cell advances rows by a step: it computes the gates of the given rows from xw
// (of one step, [batch, gates*hidden]) and changes their states.
type cell func(dir int, xw []float64, rows []int) error

// activation is a function that recurrent operators name, with the defaults of
// its parameters where it has any.
type activation struct {
	alpha, beta       float64
	hasAlpha, hasBeta bool
	f                 func(x, alpha, beta float64) float64
}

var recurrentActivations = map[string]activation{
	"relu":     {f: func(x, _, _ float64) float64 { return max(x, 0) }},
	"tanh":     {f: func(x, _, _ float64) float64 { return math.Tanh(x) }},
	"sigmoid":  {f: func(x, _, _ float64) float64 { return sigmoid(x) }},
	"softsign": {f: func(x, _, _ float64) float64 { return x / (1 + math.Abs(x)) }},
	"softplus": {f: func(x, _, _ float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }},
	"affine":   {1, 0, true, true, func(x, a, b float64) float64 { return a*x + b }},
	"leakyrelu": {0.01, 0, true, false, func(x, a, _ float64) float64 {
		if x < 0 {
			return a * x
		}
		return x
	}},
	"thresholdedrelu": {1, 0, true, false, func(x, a, _ float64) float64 {
		if x > a {
			return x
		}
		return 0
	}},
	"scaledtanh":  {1, 1, true, true, func(x, a, b float64) float64 { return a * math.Tanh(b*x) }},
	"hardsigmoid": {0.2, 0.5, true, true, func(x, a, b float64) float64 { return min(max(a*x+b, 0), 1) }},
	"elu": {1, 0, true, false, func(x, a, _ float64) float64 {
		if x < 0 {
			return a * math.Expm1(x)
		}
		return x
	}},
}

// recurrentFunctions reads the activations of each direction; names are told apart
// without regard to case, as runtimes do. The parameters are lists from which each
// function that has one takes the next.
func (c *call) recurrentFunctions(dirs int, defaults ...string) ([][]func(float64) float64, error) {
	var names []string
	if a := c.attr("activations"); a != nil {
		names = a.Strings
	} else {
		for range dirs {
			names = append(names, defaults...)
		}
	}
	if len(names) != dirs*len(defaults) {
		return nil, fmt.Errorf("attribute activations has %d functions, wants %d", len(names), dirs*len(defaults))
	}
	parameters := func(name string) []float32 {
		if a := c.attr(name); a != nil {
			return a.Floats
		}
		return nil
	}
	alphas, betas := parameters("activation_alpha"), parameters("activation_beta")
	next := func(list *[]float32, def float64) float64 {
		if len(*list) == 0 {
			return def
		}
		v := (*list)[0]
		*list = (*list)[1:]
		return float64(v)
	}
	fs := make([][]func(float64) float64, dirs)
	for i, name := range names {
		a, ok := recurrentActivations[strings.ToLower(name)]
		if !ok {
			return nil, fmt.Errorf("attribute activations has %q, which is no known function", name)
		}
		alpha, beta := a.alpha, a.beta
		if a.hasAlpha {
			alpha = next(&alphas, alpha)
		}
		if a.hasBeta {
			beta = next(&betas, beta)
		}
		d := i / len(defaults)
		fs[d] = append(fs[d], func(x float64) float64 { return a.f(x, alpha, beta) })
	}
	if len(alphas)+len(betas) > 0 {
		return nil, fmt.Errorf("attributes activation_alpha and activation_beta have more numbers than the functions %v take", names)
	}
	return fs, nil
}

// newRecurrence checks shapes and attributes and makes the outputs Y and Y_h.
func (c *call) newRecurrence(gates int, activations ...string) (*recurrence, error) {
	x, w, rt := c.tensor(0).Shape, c.tensor(1).Shape, c.tensor(2).Shape
	r := &recurrence{call: c, gates: gates, backward: []bool{false}, clip: math.Inf(1)}
	switch c.str("direction") {
	case "reverse":
		r.backward = []bool{true}
	case "bidirectional":
		r.backward = []bool{false, true}
	}
	r.dirs = len(r.backward)
	if len(x) != 3 {
		return nil, badInput(0, "has shape %v, wants 3 dimensions", x)
	}
	if len(rt) != 3 || rt[0] != int64(r.dirs) || rt[1] != int64(gates)*rt[2] {
		return nil, badInput(2, "has shape %v, wants [%d,%d*hidden,hidden]", rt, r.dirs, gates)
	}
	if _, ok := c.op.attrs["layout"]; ok {
		r.batchFirst = c.flag("layout")
	}
	r.seq, r.batch, r.input, r.hidden = int(x[0]), int(x[1]), int(x[2]), int(rt[2])
	if r.batchFirst {
		r.seq, r.batch = r.batch, r.seq
	}
	if c.hasAttr("hidden_size") && c.int("hidden_size") != rt[2] {
		return nil, badInput(2, "has shape %v, attribute hidden_size is %d", rt, c.int("hidden_size"))
	}
	n := rt[1]
	if !w.Equal(tensor.Shape{int64(r.dirs), n, int64(r.input)}) {
		return nil, badInput(1, "has shape %v, wants [%d,%d,%d]", w, r.dirs, n, r.input)
	}
	if c.has(3) && !c.tensor(3).Shape.Equal(tensor.Shape{int64(r.dirs), 2 * n}) {
		return nil, badInput(3, "has shape %v, wants [%d,%d]", c.tensor(3).Shape, r.dirs, 2*n)
	}
	r.lens = make([]int, r.batch)
	for i := range r.lens {
		r.lens[i] = r.seq
	}
	if c.has(4) {
		lens, err := c.intsOf(4)
		if err != nil {
			return nil, err
		}
		if len(lens) != r.batch {
			return nil, badInput(4, "has %d entries for a batch of %d", len(lens), r.batch)
		}
		for i, v := range lens {
			if v < 0 || v > int64(r.seq) {
				return nil, badInput(4, "holds %d, there are %d steps", v, r.seq)
			}
			r.lens[i] = int(v)
		}
	}
	if c.hasAttr("clip") {
		if r.clip = c.float("clip"); !(r.clip >= 0) {
			return nil, fmt.Errorf("attribute clip is %g", r.clip)
		}
	}
	var err error
	if r.functions, err = c.recurrentFunctions(r.dirs, activations...); err != nil {
		return nil, err
	}
	if c.wants(0) {
		s := tensor.Shape{int64(r.seq), int64(r.dirs), int64(r.batch), int64(r.hidden)}
		if r.batchFirst {
			s = tensor.Shape{int64(r.batch), int64(r.seq), int64(r.dirs), int64(r.hidden)}
		}
		if r.y, err = c.make(0, c.tensor(0).DType, s); err != nil {
			return nil, err
		}
	}
	if c.wants(1) {
		if r.last, err = c.make(1, c.tensor(0).DType, r.stateShape()); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		to *[]float64
		n  int
	}{{&r.h, r.batch * r.hidden}, {&r.hw, r.batch * int(n)}, {&r.weights, int(n) * r.hidden}, {&r.inputBias, int(n)}, {&r.stateBias, int(n)}} {
		if *s.to, err = c.floats(s.n); err != nil {
			return nil, err
		}
	}
	return r, c.reserve(int64(r.batch) * n * 8) // blocks of hw
}

func (r *recurrence) stateShape() tensor.Shape {
	if r.batchFirst {
		return tensor.Shape{int64(r.batch), int64(r.dirs), int64(r.hidden)}
	}
	return tensor.Shape{int64(r.dirs), int64(r.batch), int64(r.hidden)}
}

// state is where the state of a row of a direction begins in Y_h, Y_c and the
// initial ones.
func (r *recurrence) state(dir, row int) int {
	if r.batchFirst {
		return (row*r.dirs + dir) * r.hidden
	}
	return (dir*r.batch + row) * r.hidden
}

// begin fills v with the initial states of a direction: input i, or zeros.
func (r *recurrence) begin(v []float64, i, dir int) error {
	clear(v)
	if !r.has(i) {
		return nil
	}
	t := r.tensor(i)
	if !t.Shape.Equal(r.stateShape()) {
		return badInput(i, "has shape %v, wants %v", t.Shape, r.stateShape())
	}
	for row := range r.batch {
		loadFloat(v[row*r.hidden:(row+1)*r.hidden], t, r.state(dir, row))
	}
	return nil
}

// end stores the states of a direction.
func (r *recurrence) end(t tensor.Tensor, v []float64, dir int) {
	if t.DType == tensor.Undefined {
		return
	}
	for row := range r.batch {
		storeFloat(t, r.state(dir, row), v[row*r.hidden:(row+1)*r.hidden])
	}
}

// place is the time that a row sees at a step.
func (r *recurrence) place(dir, row, step int) int {
	if r.backward[dir] {
		return r.lens[row] - 1 - step
	}
	return step
}

// direction walks over the sequences once. fused says that the bias of the state
// may be added to that of the input.
func (r *recurrence) direction(dir int, fused bool, step cell) error {
	n := r.gates * r.hidden
	loadFloat(r.weights, r.tensor(2), dir*n*r.hidden)
	if r.has(3) {
		loadFloat(r.inputBias, r.tensor(3), dir*2*n)
		loadFloat(r.stateBias, r.tensor(3), (dir*2+1)*n)
	}
	if fused {
		for i, b := range r.stateBias {
			r.inputBias[i] += b
		}
		clear(r.stateBias)
	}
	if err := r.begin(r.h, 5, dir); err != nil {
		return err
	}
	// What the input gives is a product of matrices, for as many steps at a time
	// as fit 8 MB.
	const size = 1 << 20
	span := min(max(1, size/max(1, r.batch*n)), max(1, r.seq))
	if r.xw == nil {
		var err error
		if r.xw, err = r.floats(span * r.batch * n); err != nil {
			return err
		}
	}
	rows := make([]int, 0, r.batch)
	for first := 0; first < r.seq; first += span {
		steps := min(span, r.seq-first)
		if err := r.inputs(dir, first, steps); err != nil {
			return err
		}
		for s := range steps {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			rows = rows[:0]
			for row, length := range r.lens {
				if first+s < length {
					rows = append(rows, row)
				}
			}
			if len(rows) == 0 {
				break
			}
			if err := step(dir, r.xw[s*r.batch*n:(s+1)*r.batch*n], rows); err != nil {
				return err
			}
			if r.y.DType == tensor.Undefined {
				continue
			}
			for _, row := range rows {
				at := (r.place(dir, row, first+s)*r.dirs+dir)*r.batch + row
				if r.batchFirst {
					at = (row*r.seq+r.place(dir, row, first+s))*r.dirs + dir
				}
				storeFloat(r.y, at*r.hidden, r.h[row*r.hidden:(row+1)*r.hidden])
			}
		}
	}
	r.end(r.last, r.h, dir)
	return nil
}

// inputs fills xw for some steps: x * transposed(W) + bias.
func (r *recurrence) inputs(dir, first, steps int) error {
	x, w, n := r.tensor(0), r.tensor(1), r.gates*r.hidden
	p := product[float64]{batches: 1, m: steps * r.batch, k: r.input, n: n}
	p.rows = func(dst []float64, _, lo, hi int) {
		for i := lo; i < hi; i++ {
			row, v := i%r.batch, dst[(i-lo)*r.input:(i-lo+1)*r.input]
			if s := first + i/r.batch; s < r.lens[row] {
				at := r.place(dir, row, s)*r.batch + row
				if r.batchFirst {
					at = row*r.seq + r.place(dir, row, s)
				}
				loadFloat(v, x, at*r.input)
			} else {
				clear(v)
			}
		}
	}
	p.cols = func(dst []float64, _, lo, hi int) { loadFloat(dst, w, (dir*n+lo)*r.input) }
	p.store = func(block []float64, _, rlo, rhi, clo, chi int) {
		for i := rlo; i < rhi; i++ {
			for j := clo; j < chi; j++ {
				r.xw[i*n+j] = block[(i-rlo)*(chi-clo)+j-clo] + r.inputBias[j]
			}
		}
	}
	return p.run(r.call)
}

// times is dst[batch,hi-lo] = v[batch,hidden] * transposed(rows [lo,hi) of R).
func (r *recurrence) times(dst, v []float64, lo, hi int) error {
	k, n := r.hidden, hi-lo
	return r.parallel(n, max(1, 1<<16/max(1, r.batch*k)), func(from, to int) error {
		w := r.weights[(lo+from)*k : (lo+to)*k]
		if r.batch == 1 {
			multiplyBlock(dst[from:to], v, w, 1, to-from, k)
			return nil
		}
		block := make([]float64, r.batch*(to-from))
		multiplyBlock(block, v, w, r.batch, to-from, k)
		for i := range r.batch {
			copy(dst[i*n+from:i*n+to], block[i*(to-from):])
		}
		return nil
	})
}

// gate is a function of a clipped sum.
func (r *recurrence) gate(dir, f int, x float64) float64 {
	return r.functions[dir][f](min(max(x, -r.clip), r.clip))
}

// directions walks over all directions.
func (r *recurrence) directions(fused bool, step cell) error {
	for dir := range r.dirs {
		if err := r.direction(dir, fused, step); err != nil {
			return err
		}
	}
	return nil
}

func rnn(c *call) error {
	r, err := c.newRecurrence(1, "Tanh")
	if err != nil {
		return err
	}
	return r.directions(true, func(dir int, xw []float64, rows []int) error {
		if err := r.times(r.hw, r.h, 0, r.hidden); err != nil {
			return err
		}
		for _, row := range rows {
			for i := row * r.hidden; i < (row+1)*r.hidden; i++ {
				r.h[i] = r.gate(dir, 0, xw[i]+r.hw[i])
			}
		}
		return nil
	})
}

// gru has the gates update, reset and hidden.
func gru(c *call) error {
	r, err := c.newRecurrence(3, "Sigmoid", "Tanh")
	if err != nil {
		return err
	}
	linear := false
	if _, ok := c.op.attrs["linear_before_reset"]; ok {
		linear = c.flag("linear_before_reset")
	}
	n := r.hidden
	reset, err := c.floats(r.batch * n)
	if err != nil {
		return err
	}
	hidden, err := c.floats(r.batch * n)
	if err != nil {
		return err
	}
	return r.directions(!linear, func(dir int, xw []float64, rows []int) error {
		bias := r.stateBias
		if err := r.times(r.hw[:r.batch*2*n], r.h, 0, 2*n); err != nil {
			return err
		}
		for _, row := range rows {
			x, w := xw[row*3*n:], r.hw[row*2*n:]
			for i := range n {
				reset[row*n+i] = r.gate(dir, 0, x[n+i]+w[n+i]+bias[n+i])
			}
		}
		v := r.h
		if !linear {
			v = reset
			for i := range reset {
				reset[i] *= r.h[i]
			}
		}
		if err := r.times(hidden, v, 2*n, 3*n); err != nil {
			return err
		}
		for _, row := range rows {
			x, w := xw[row*3*n:], r.hw[row*2*n:]
			for i := range n {
				k := row*n + i
				sum := hidden[k]
				if linear {
					sum = reset[k] * (sum + bias[2*n+i])
				}
				z, g := r.gate(dir, 0, x[i]+w[i]+bias[i]), r.gate(dir, 1, x[2*n+i]+sum)
				r.h[k] = (1-z)*g + z*r.h[k]
			}
		}
		return nil
	})
}

// lstm has the gates input, output, forget and cell. The state that the last
// function sees is not clipped: ONNX leaves open whether it is, runtimes do not.
func lstm(c *call) error {
	r, err := c.newRecurrence(4, "Sigmoid", "Tanh", "Tanh")
	if err != nil {
		return err
	}
	n := r.hidden
	cells, err := c.floats(r.batch * n)
	if err != nil {
		return err
	}
	peep, err := c.floats(3 * n)
	if err != nil {
		return err
	}
	if c.has(7) && !c.tensor(7).Shape.Equal(tensor.Shape{int64(r.dirs), int64(3 * n)}) {
		return badInput(7, "has shape %v, wants [%d,%d]", c.tensor(7).Shape, r.dirs, 3*n)
	}
	var last tensor.Tensor
	if c.wants(2) {
		if last, err = c.make(2, c.tensor(0).DType, r.stateShape()); err != nil {
			return err
		}
	}
	coupled := c.flag("input_forget")
	for dir := range r.dirs {
		if c.has(7) {
			loadFloat(peep, c.tensor(7), dir*3*n)
		}
		if err := r.begin(cells, 6, dir); err != nil {
			return err
		}
		err := r.direction(dir, true, func(dir int, xw []float64, rows []int) error {
			if err := r.times(r.hw, r.h, 0, 4*n); err != nil {
				return err
			}
			for _, row := range rows {
				x, w := xw[row*4*n:], r.hw[row*4*n:]
				for i := range n {
					k := row*n + i
					old := cells[k]
					in := r.gate(dir, 0, x[i]+w[i]+peep[i]*old)
					forget := 1 - in
					if !coupled {
						forget = r.gate(dir, 0, x[2*n+i]+w[2*n+i]+peep[2*n+i]*old)
					}
					now := forget*old + in*r.gate(dir, 1, x[3*n+i]+w[3*n+i])
					out := r.gate(dir, 0, x[n+i]+w[n+i]+peep[n+i]*now)
					cells[k] = now
					r.h[k] = out * r.functions[dir][2](now)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.end(last, cells, dir)
	}
	return nil
}
