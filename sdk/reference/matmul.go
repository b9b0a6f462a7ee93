package reference

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

var matmulOps = []spec{
	{"MatMul", since(1, 9, 13), "A T:num, B T -> Y T", "", matMul},
	{"Gemm", since(7, 9, 11, 13), "A T:num, B T, C? T -> Y T", "alpha float=1, beta float=1, transA int=0, transB int=0", gemm},
	{"MatMulInteger", since(10), "A T:i8|u8, B U:i8|u8, a_zero_point? T, b_zero_point? U -> Y i32", "", matMulInteger},
	{"Einsum", since(12, 28), "Inputs... T:num -> Output T", "equation string!", einsum},
	{"Det", since(11, 22), "X T:float -> Y T", "", det},
}

func matMul(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	out, err := c.make(0, a.DType, s.out)
	if err != nil {
		return err
	}
	if a.DType.IsInt() {
		return multiply(c, s, out, a, b, intLane, intLane, intLane)
	}
	return multiply(c, s, out, a, b, floatLane, floatLane, floatLane)
}

func gemm(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	if len(a.Shape) != 2 || len(b.Shape) != 2 {
		return fmt.Errorf("shapes %v and %v: matrices are wanted", a.Shape, b.Shape)
	}
	if !a.DType.IsInt() {
		return gemmOf(c, floatLane, c.float("alpha"), c.float("beta"))
	}
	alpha, beta := int64(c.float("alpha")), int64(c.float("beta"))
	if float64(alpha) != c.float("alpha") || float64(beta) != c.float("beta") {
		return fmt.Errorf("alpha %g and beta %g must be whole for integers", c.float("alpha"), c.float("beta"))
	}
	return gemmOf(c, intLane, alpha, beta)
}

func gemmOf[W number](c *call, l lane[W], alpha, beta W) error {
	a, b := c.tensor(0), c.tensor(1)
	transA, transB := c.flag("transA"), c.flag("transB")
	dims := func(s tensor.Shape, trans bool) (rows, cols int) {
		if trans {
			return int(s[1]), int(s[0])
		}
		return int(s[0]), int(s[1])
	}
	p := product[W]{batches: 1}
	p.m, p.k = dims(a.Shape, transA)
	var k int
	if k, p.n = dims(b.Shape, transB); k != p.k {
		return fmt.Errorf("shapes %v and %v do not fit: %d columns, %d rows", a.Shape, b.Shape, p.k, k)
	}
	s := tensor.Shape{int64(p.m), int64(p.n)}
	var bias tensor.Tensor
	var st []int
	if c.has(2) {
		bias = c.tensor(2)
		if got, err := broadcast(bias.Shape, s); err != nil || !got.Equal(s) {
			return badInput(2, "has shape %v, which does not broadcast to %v", bias.Shape, s)
		}
		st = broadcastStrides(bias.Shape, s)
	}
	out, err := c.make(0, a.DType, s)
	if err != nil {
		return err
	}
	p.rows = func(dst []W, _, lo, hi int) {
		if transA {
			loadCols(dst, l, a, 0, p.k, p.m, lo, hi)
		} else {
			loadRows(dst, l, a, 0, p.k, lo, hi)
		}
	}
	p.cols = func(dst []W, _, lo, hi int) {
		if transB {
			loadRows(dst, l, b, 0, p.k, lo, hi)
		} else {
			loadCols(dst, l, b, 0, p.k, p.n, lo, hi)
		}
	}
	p.store = func(block []W, _, rlo, rhi, clo, chi int) {
		w := chi - clo
		for i := rlo; i < rhi; i++ {
			row := block[(i-rlo)*w : (i-rlo+1)*w]
			for j := range row {
				row[j] *= alpha
				if st != nil {
					var one [1]W
					l.load(one[:], bias, i*st[0]+(clo+j)*st[1])
					row[j] += beta * one[0]
				}
			}
			l.store(out, i*p.n+clo, row)
		}
	}
	return p.run(c)
}

func matMulInteger(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	// A zero point for all, or for each row of A and column of B.
	la, err := c.shiftedLane(2, a.Shape, -2)
	if err != nil {
		return err
	}
	lb, err := c.shiftedLane(3, b.Shape, -1)
	if err != nil {
		return err
	}
	out, err := c.make(0, tensor.Int32, s.out)
	if err != nil {
		return err
	}
	return multiply(c, s, out, a, b, la, lb, intLane)
}

// shiftedLane loads integers of a tensor of shape s less their zero points, which
// are input i: none, one, or one for each entry of an axis (counted from the end;
// 1: from the front).
func (c *call) shiftedLane(i int, s tensor.Shape, axis int) (lane[int64], error) {
	if !c.has(i) {
		return intLane, nil
	}
	t := c.tensor(i)
	zeros := make([]int64, t.Len())
	loadInt(zeros, t, 0)
	if axis < 0 {
		axis += len(s)
	}
	step := 1
	if len(zeros) != 1 {
		if axis < 0 || int64(len(zeros)) != s[axis] || t.Len() != int(slices.Max(t.Shape)) {
			return intLane, badInput(i, "has shape %v, the operand has %v", t.Shape, s)
		}
		step = elements(s[axis+1:])
	}
	return lane[int64]{load: func(dst []int64, t tensor.Tensor, at int) {
		loadInt(dst, t, at)
		for k := range dst {
			dst[k] -= zeros[(at+k)/step%len(zeros)]
		}
	}}, nil
}

// einsum sums products over all indices that the output lacks.
func einsum(c *call) error {
	e, err := parseEinsum(c)
	if err != nil {
		return err
	}
	out, err := c.make(0, c.tensor(0).DType, e.out)
	if err != nil {
		return err
	}
	if out.DType.IsInt() {
		return einsumOf(c, e, out, intLane)
	}
	return einsumOf(c, e, out, floatLane)
}

// contraction is a parsed einsum: the dimensions of the output and of the sum, and
// the strides of each input over both.
type contraction struct {
	out, sum     tensor.Shape
	outSt, sumSt [][]int
}

// label is a letter, or a dimension of the ellipsis counted from its end.
type label struct {
	letter   rune
	ellipsis int
}

func parseEinsum(c *call) (*contraction, error) {
	equation := strings.ReplaceAll(c.str("equation"), " ", "")
	left, right, explicit := strings.Cut(equation, "->")
	terms := strings.Split(left, ",")
	if len(terms) != len(c.in) {
		return nil, fmt.Errorf("equation %q has %d terms for %d inputs", equation, len(terms), len(c.in))
	}
	size := map[label]int64{}
	counts := map[label]int{}
	widest := 0
	inputs := make([][]label, len(terms))
	for i, term := range terms {
		s := c.tensor(i).Shape
		labels, ellipsis, err := einsumLabels(term, len(s))
		if err != nil || len(labels) != len(s) {
			return nil, badInput(i, "has shape %v, equation %q gives it %q", s, equation, term)
		}
		widest = max(widest, ellipsis)
		inputs[i] = labels
		for k, l := range labels {
			counts[l]++
			old, seen := size[l]
			switch {
			case !seen || l.ellipsis > 0 && old == 1:
				size[l] = s[k]
			case old != s[k] && !(l.ellipsis > 0 && s[k] == 1):
				return nil, badInput(i, "has shape %v, which does not fit the others in %q", s, equation)
			}
		}
	}
	var out []label
	if explicit {
		var err error
		if out, _, err = einsumLabels(right, -1-widest); err != nil {
			return nil, err
		}
	} else {
		for i := widest; i > 0; i-- {
			out = append(out, label{ellipsis: i})
		}
		var once []label
		for l, n := range counts {
			if n == 1 && l.ellipsis == 0 {
				once = append(once, l)
			}
		}
		slices.SortFunc(once, func(a, b label) int { return int(a.letter - b.letter) })
		out = append(out, once...)
	}
	e := &contraction{}
	used := map[label]bool{}
	for _, l := range out {
		n, ok := size[l]
		if !ok || used[l] {
			return nil, fmt.Errorf("equation %q: an index of the output repeats or is in no input", equation)
		}
		used[l] = true
		e.out = append(e.out, n)
	}
	var summed []label
	for l := range size {
		if !used[l] {
			summed = append(summed, l)
		}
	}
	slices.SortFunc(summed, func(a, b label) int { return int(a.letter-b.letter)*64 + a.ellipsis - b.ellipsis })
	for _, l := range summed {
		e.sum = append(e.sum, size[l])
	}
	for i, labels := range inputs {
		s := c.tensor(i).Shape
		own := strides(s)
		along := func(of []label) []int {
			st := make([]int, len(of))
			for k, l := range of {
				for j, m := range labels {
					if l == m && s[j] != 1 {
						st[k] += own[j] // a repeated index walks the diagonal
					}
				}
			}
			return st
		}
		e.outSt = append(e.outSt, along(out))
		e.sumSt = append(e.sumSt, along(summed))
	}
	if _, err := append(e.out.Clone(), e.sum...).Elements(); err != nil {
		return nil, err
	}
	return e, nil
}

// einsumLabels reads one term. The ellipsis stands for what a tensor of that rank
// has besides letters; a negative rank -1-n says that it stands for n dimensions.
func einsumLabels(term string, rank int) (labels []label, ellipsis int, err error) {
	before, after, has := strings.Cut(term, "...")
	for _, r := range before + after {
		if r < 'A' || r > 'Z' && r < 'a' || r > 'z' {
			return nil, 0, fmt.Errorf("equation has %q", r)
		}
	}
	for _, r := range before {
		labels = append(labels, label{letter: r})
	}
	if has {
		ellipsis = rank - len(before) - len(after)
		if rank < 0 {
			ellipsis = -1 - rank
		}
		for i := ellipsis; i > 0; i-- {
			labels = append(labels, label{ellipsis: i})
		}
	}
	for _, r := range after {
		labels = append(labels, label{letter: r})
	}
	return labels, max(ellipsis, 0), nil
}

func einsumOf[W number](c *call, e *contraction, out tensor.Tensor, l lane[W]) error {
	terms := elements(e.sum)
	if out.Len() == 0 || terms == 0 {
		return nil
	}
	n := len(c.in)
	if err := c.reserve(int64(n*terms) * 8); err != nil {
		return err
	}
	// Offsets of the summed indices, the same for every output element.
	sums := make([][]int, n)
	for k := range sums {
		sums[k] = make([]int, terms)
	}
	inner := newWalk(e.sum, e.sumSt...)
	inner.each(0, inner.rows, func(row int, offs []int) {
		for k := range sums {
			for i := range inner.inner {
				sums[k][row*inner.inner+i] = offs[k] + i*inner.steps[k]
			}
		}
	})
	data := make([][]W, n)
	for k := range data {
		t := c.tensor(k)
		if err := c.reserve(int64(t.Len()) * 8); err != nil {
			return err
		}
		data[k] = make([]W, t.Len())
		l.load(data[k], t, 0)
	}
	outer := newWalk(e.out, append(e.outSt, strides(e.out))...)
	return c.parallel(outer.rows, max(1, 1<<14/(outer.inner*terms)), func(lo, hi int) error {
		outer.each(lo, hi, func(_ int, offs []int) {
			for i := range outer.inner {
				sum := W(0)
				for t := range terms {
					v := data[0][offs[0]+i*outer.steps[0]+sums[0][t]]
					for k := 1; k < n; k++ {
						v *= data[k][offs[k]+i*outer.steps[k]+sums[k][t]]
					}
					sum += v
				}
				l.store(out, offs[n]+i*outer.steps[n], []W{sum})
			}
		})
		return nil
	})
}

// det is the determinant of square matrices, by elimination with the largest pivot.
func det(c *call) error {
	x := c.tensor(0)
	rank := len(x.Shape)
	if rank < 2 || x.Shape[rank-1] != x.Shape[rank-2] {
		return badInput(0, "has shape %v, wants square matrices", x.Shape)
	}
	n := int(x.Shape[rank-1])
	out, err := c.make(0, x.DType, x.Shape[:rank-2])
	if err != nil {
		return err
	}
	if err := c.reserve(int64(n) * int64(n) * 8 * int64(runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	return c.parallel(out.Len(), max(1, 1<<14/max(1, n*n*n)), func(lo, hi int) error {
		a := make([]float64, n*n)
		for i := lo; i < hi; i++ {
			loadFloat(a, x, i*n*n)
			v := 1.0
			for k := range n {
				if err := c.ctx.Err(); err != nil {
					return err
				}
				pivot := k
				for r := k + 1; r < n; r++ {
					if math.Abs(a[r*n+k]) > math.Abs(a[pivot*n+k]) {
						pivot = r
					}
				}
				if pivot != k {
					for j := range n {
						a[k*n+j], a[pivot*n+j] = a[pivot*n+j], a[k*n+j]
					}
					v = -v
				}
				if v *= a[k*n+k]; v == 0 {
					break
				}
				for r := k + 1; r < n; r++ {
					f := a[r*n+k] / a[k*n+k]
					for j := k; j < n; j++ {
						a[r*n+j] -= f * a[k*n+j]
					}
				}
			}
			putFloat(out, i, v)
		}
		return nil
	})
}
