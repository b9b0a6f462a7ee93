package reference

import (
	"fmt"
	"runtime"

	"github.com/accelhq/accel/sdk/tensor"
)

// product multiplies batches of matrices, C[m,n] = A[m,k] * B[k,n]. Where the
// numbers come from and go to is the operator's: quantised weights are widened,
// patches of pictures gathered a block at a time.
//
// Each element is summed over k in order, in W: results depend neither on the
// blocks nor on the number of goroutines.
type product[W number] struct {
	batches, m, k, n int
	// rows fills dst [hi-lo,k] with rows of A.
	rows func(dst []W, batch, lo, hi int)
	// cols fills dst [hi-lo,k] with columns of B, one after another.
	cols func(dst []W, batch, lo, hi int)
	// store takes rows [rlo,rhi) and columns [clo,chi) of C.
	store func(block []W, batch, rlo, rhi, clo, chi int)
}

// blockCols is how many columns are multiplied at a time; rows are as many as
// keep the block of A at about 8 MB.
const (
	blockCols = 96
	blockSize = 1 << 20
)

func (p *product[W]) run(c *call) error {
	if p.batches == 0 || p.m == 0 || p.n == 0 {
		return nil
	}
	blockRows := min(max(blockSize/max(p.k, 1), 4), 256, p.m)
	width := min(blockCols, p.n)
	down := (p.m + blockRows - 1) / blockRows
	across := (p.n + width - 1) / width
	items := p.batches * down * across
	scratch := 8 * (int64(p.k)*int64(blockRows+width) + int64(blockRows*width)) * int64(min(items, runtime.GOMAXPROCS(0)))
	if err := c.reserve(scratch); err != nil {
		return err
	}
	defer c.unreserve(scratch)
	// Small products are handed out several at a time.
	grain := max(1, 1<<16/max(1, blockRows*width*p.k))
	return c.parallel(items, grain, func(lo, hi int) error {
		a := make([]W, blockRows*p.k)
		b := make([]W, width*p.k)
		block := make([]W, blockRows*width)
		for i := lo; i < hi; i++ {
			batch := i / (down * across)
			rlo := i / across % down * blockRows
			clo := i % across * width
			rhi, chi := min(rlo+blockRows, p.m), min(clo+width, p.n)
			h, w := rhi-rlo, chi-clo
			p.rows(a[:h*p.k], batch, rlo, rhi)
			p.cols(b[:w*p.k], batch, clo, chi)
			multiplyBlock(block, a, b, h, w, p.k)
			p.store(block[:h*w], batch, rlo, rhi, clo, chi)
		}
		return nil
	})
}

// multiplyBlock is dst[h,w] = a[h,k] * b[w,k] transposed. Two rows and three columns
// at a time are what fits the registers of a scalar unit: with more, Go spills.
func multiplyBlock[W number](dst, a, b []W, h, w, k int) {
	j := 0
	for ; j+3 <= w; j += 3 {
		b0, b1, b2 := b[j*k:][:k], b[(j+1)*k:][:k], b[(j+2)*k:][:k]
		i := 0
		for ; i+2 <= h; i += 2 {
			x, y := a[i*k:][:k], a[(i+1)*k:][:k]
			var c00, c01, c02, c10, c11, c12 W
			for p, u := range x {
				v := y[p]
				t := b0[p]
				c00 += u * t
				c10 += v * t
				t = b1[p]
				c01 += u * t
				c11 += v * t
				t = b2[p]
				c02 += u * t
				c12 += v * t
			}
			d0, d1 := dst[i*w+j:], dst[(i+1)*w+j:]
			d0[0], d0[1], d0[2] = c00, c01, c02
			d1[0], d1[1], d1[2] = c10, c11, c12
		}
		for ; i < h; i++ {
			var c0, c1, c2 W
			for p, u := range a[i*k:][:k] {
				c0 += u * b0[p]
				c1 += u * b1[p]
				c2 += u * b2[p]
			}
			d := dst[i*w+j:]
			d[0], d[1], d[2] = c0, c1, c2
		}
	}
	for ; j < w; j++ {
		for i := range h {
			dst[i*w+j] = dot(a[i*k:][:k], b[j*k:][:k])
		}
	}
}

func dot[W number](a, b []W) W {
	s := W(0)
	b = b[:len(a)]
	for p, u := range a {
		s += u * b[p]
	}
	return s
}

// loadRows fills dst with rows [lo,hi) of a matrix of width n that begins at an
// element of t, row after row.
func loadRows[W number](dst []W, l lane[W], t tensor.Tensor, at, n, lo, hi int) {
	l.load(dst, t, at+lo*n)
}

// loadCols fills dst with columns [lo,hi) of a matrix [k,n] that begins at an
// element of t, column after column.
func loadCols[W number](dst []W, l lane[W], t tensor.Tensor, at, k, n, lo, hi int) {
	const deep = 8 // rows at a time, so that a line of the cache is written at once
	w := hi - lo
	rows := make([]W, deep*w)
	for p := 0; p < k; p += deep {
		d := min(deep, k-p)
		for q := range d {
			l.load(rows[q*w:(q+1)*w], t, at+(p+q)*n+lo)
		}
		for j := range w {
			col := dst[j*k+p:][:d]
			for q := range col {
				col[q] = rows[q*w+j]
			}
		}
	}
}

// matmulShape works out numpy's matmul of two shapes: leading dimensions broadcast,
// vectors are a row on the left and a column on the right.
type matmulShape struct {
	out     tensor.Shape
	m, k, n int
	batch   tensor.Shape
	a, b    []int // strides over batch, in elements
}

func newMatmulShape(a, b tensor.Shape) (*matmulShape, error) {
	if len(a) == 0 || len(b) == 0 {
		return nil, fmt.Errorf("shapes %v and %v: scalars can't be multiplied so", a, b)
	}
	a2, b2 := a, b
	if len(a) == 1 {
		a2 = tensor.Shape{1, a[0]}
	}
	if len(b) == 1 {
		b2 = tensor.Shape{b[0], 1}
	}
	p := &matmulShape{m: int(a2[len(a2)-2]), k: int(a2[len(a2)-1]), n: int(b2[len(b2)-1])}
	if b2[len(b2)-2] != int64(p.k) {
		return nil, fmt.Errorf("shapes %v and %v do not fit: %d columns, %d rows", a, b, p.k, b2[len(b2)-2])
	}
	var err error
	if p.batch, err = broadcast(a2[:len(a2)-2], b2[:len(b2)-2]); err != nil {
		return nil, err
	}
	scale := func(st []int, by int) []int {
		for i := range st {
			st[i] *= by
		}
		return st
	}
	p.a = scale(broadcastStrides(a2[:len(a2)-2], p.batch), p.m*p.k)
	p.b = scale(broadcastStrides(b2[:len(b2)-2], p.batch), p.k*p.n)
	p.out = p.batch.Clone()
	if len(a) > 1 {
		p.out = append(p.out, int64(p.m))
	}
	if len(b) > 1 {
		p.out = append(p.out, int64(p.n))
	}
	return p, nil
}

// offsets are where the matrices of a batch begin.
func (p *matmulShape) offsets(batch int) (ao, bo int) {
	for i := len(p.batch) - 1; i >= 0; i-- {
		d := int(p.batch[i])
		ao += batch % d * p.a[i]
		bo += batch % d * p.b[i]
		batch /= d
	}
	return ao, bo
}

// multiply computes a matmul of two tensors, read through a lane each.
func multiply[W number](c *call, s *matmulShape, out, a, b tensor.Tensor, la, lb, to lane[W]) error {
	if out.Len() == 0 {
		return nil
	}
	p := product[W]{batches: elements(s.batch), m: s.m, k: s.k, n: s.n}
	offsets := s.offsets
	if len(b.Shape) == 2 && p.batches > 1 {
		// One matrix on the right: the rows of all batches lie one after another.
		p.m, p.batches = p.m*p.batches, 1
		offsets = func(int) (int, int) { return 0, 0 }
	}
	p.rows = func(dst []W, batch, lo, hi int) {
		ao, _ := offsets(batch)
		loadRows(dst, la, a, ao, s.k, lo, hi)
	}
	p.cols = func(dst []W, batch, lo, hi int) {
		_, bo := offsets(batch)
		loadCols(dst, lb, b, bo, s.k, s.n, lo, hi)
	}
	p.store = func(block []W, batch, rlo, rhi, clo, chi int) {
		w := chi - clo
		for i := rlo; i < rhi; i++ {
			to.store(out, (batch*p.m+i)*s.n+clo, block[(i-rlo)*w:(i-rlo+1)*w])
		}
	}
	return p.run(c)
}
