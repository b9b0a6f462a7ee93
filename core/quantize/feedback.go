package quantize

import (
	"fmt"
)

// feedback carries errors of a row's first columns over to those that come after: with the
// Gram matrix of inputs H = (U+I) D (U+I)ᵀ, U strictly upper, column j is rounded from
// w_j + Σ e_k U_kj, where e_k is what column k is off by. What comes out of the matrix is
// then off by Σ D_j r_j², r_j being the rounding of column j alone (GPTQ, Frantar et al.
// 2022, arXiv:2210.17323, in the form of QuIP's LDLQ, arXiv:2307.13304).
type feedback struct {
	n int
	u []float32 // [n,n], rows k; only j > k counts
	d []float32
}

// damping is added to the diagonal, as a part of its mean.
const damping = 0.01

// factorBlock is how many rows are factored between two steps that run in parallel.
const factorBlock = 48

// newFeedback factors a Gram matrix [n,n], in its place.
func newFeedback(h []float32, n int) (*feedback, error) {
	var mean float64
	for i := range n {
		mean += float64(h[i*n+i])
	}
	mean /= float64(n)
	if !(mean > 0) {
		return nil, fmt.Errorf("its inputs are all zero")
	}
	f := &feedback{n, h, make([]float32, n)}
	for i := range n {
		h[i*n+i] += float32(damping * mean)
	}
	// Rows from the last to the first: U_ij D_j = H_ij - Σ_{l>j} U_il D_l U_jl. Until a row
	// is divided by D it holds U_ij D_j.
	for end := n; end > 0; end -= factorBlock {
		begin := max(end-factorBlock, 0)
		parallel(end-begin, func(k int) {
			row := h[(begin+k)*n : (begin+k+1)*n]
			for j := n - 1; j >= end; j-- {
				row[j] -= dot(row[j+1:], h[j*n+j+1:(j+1)*n])
			}
		})
		for i := end - 1; i >= begin; i-- {
			row := h[i*n : (i+1)*n]
			for j := end - 1; j > i; j-- {
				row[j] -= dot(row[j+1:], h[j*n+j+1:(j+1)*n])
			}
			d := row[i]
			for j := i + 1; j < n; j++ {
				u := row[j] / f.d[j]
				d -= u * row[j]
				row[j] = u
			}
			// Rounding may leave nothing of a direction that hardly occurs.
			f.d[i] = max(d, float32(damping*mean)/2)
		}
	}
	return f, nil
}

// dot is a sum of products.
func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	for len(a) >= 8 {
		x, y := a[:8], b[:8]
		s0 += x[0]*y[0] + x[4]*y[4]
		s1 += x[1]*y[1] + x[5]*y[5]
		s2 += x[2]*y[2] + x[6]*y[6]
		s3 += x[3]*y[3] + x[7]*y[7]
		a, b = a[8:], b[8:]
	}
	for i, x := range a {
		s0 += x * b[i]
	}
	return s0 + s1 + s2 + s3
}

// row rounds a row with feedback: its codes, and the line of each block. off is the room of
// the errors, [n]. It returns what comes out is off by, as a sum of squares.
func (f *feedback) row(ft *fitter, w []float32, codes []uint8, lines []line, off, adjusted []float32) float64 {
	block := len(w) / len(lines)
	adjusted = adjusted[:block]
	var sum float64
	for b := range lines {
		begin := b * block
		copy(adjusted, w[begin:begin+block])
		f.carry(off[:begin], begin, adjusted)
		l := ft.fit(adjusted, f.d[begin:begin+block], codes[begin:begin+block])
		lines[b] = l
		inv := float32(0)
		if l.s != 0 {
			inv = 1 / l.s
		}
		base, top := 0.5-l.m*inv, ft.top+0.5
		for j := range block {
			v := adjusted[j]
			t := v*inv + base
			if !(t > 0) {
				t = 0
			} else if t > top {
				t = top
			}
			c := int32(t)
			codes[begin+j] = uint8(c)
			q := l.s*float32(c) + l.m
			sum += float64((v - q) * (v - q) * f.d[begin+j])
			e := w[begin+j] - q
			off[begin+j] = e
			u := f.u[(begin+j)*f.n+begin+j+1 : (begin+j)*f.n+begin+block]
			rest := adjusted[j+1:][:len(u)]
			for i, x := range u {
				rest[i] += e * x
			}
		}
	}
	return sum
}

// carry adds what errors so far mean for the columns from begin on.
func (f *feedback) carry(off []float32, begin int, adjusted []float32) {
	n, block := f.n, len(adjusted)
	k := 0
	for ; k+4 <= len(off); k += 4 {
		e0, e1, e2, e3 := off[k], off[k+1], off[k+2], off[k+3]
		u0 := f.u[k*n+begin:][:block]
		u1 := f.u[(k+1)*n+begin:][:block]
		u2 := f.u[(k+2)*n+begin:][:block]
		u3 := f.u[(k+3)*n+begin:][:block]
		for j := range adjusted {
			adjusted[j] += e0*u0[j] + e1*u1[j] + e2*u2[j] + e3*u3[j]
		}
	}
	for ; k < len(off); k++ {
		e, u := off[k], f.u[k*n+begin:][:block]
		for j := range adjusted {
			adjusted[j] += e * u[j]
		}
	}
}
