package reference

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

// blockGrid is a matrix [N,K] of codes of any width, least significant bit first,
// straddling bytes: w = scale * (code - 2^(bits-1)), or scale * code + min. Rows begin
// at a byte; the last block may be a part of one.
type blockGrid struct {
	codes          []byte
	scales, mins   tensor.Tensor
	n, k           int64
	bits, block    int64
	stride, blocks int64 // bytes of a row, scales of a row
	withMins       bool
	offset         float64 // what is taken from codes
}

// blockGrid reads codes and scales at inputs i and i+1, and mins, where they are
// given, at i+2. n is 0 where the codes say it. Codes of rank 3, [N,blocks,bytes], are
// those of whole blocks one after another.
func (c *call) blockGrid(i int, n int64) (*blockGrid, error) {
	codes := c.tensor(i)
	g := &blockGrid{codes: codes.Data, scales: c.tensor(i + 1), mins: c.tensor(i + 2), withMins: c.has(i + 2),
		n: n, k: c.int("K"), bits: c.int("bits"), block: c.int("block")}
	wanted := fmt.Errorf("bits %d, block %d, K %d, N %d: 1 to 8 bits and positive sizes are wanted", g.bits, g.block, g.k, n)
	if g.bits < 1 || g.bits > 8 || g.block < 1 || g.k < 1 || g.block > maxSpatial || g.k > maxSpatial || n > maxSpatial || n < 0 {
		return nil, wanted
	}
	g.stride, g.blocks = (g.k*g.bits+7)/8, (g.k+g.block-1)/g.block
	if n == 0 && len(codes.Shape) > 0 {
		g.n = codes.Shape[0]
	}
	rows := tensor.Shape{g.n, g.stride}
	whole := tensor.Shape{g.n, g.blocks, g.block * g.bits / 8}
	if !codes.Shape.Equal(rows) && (n != 0 || !codes.Shape.Equal(whole) || g.k%g.block != 0 || g.block*g.bits%8 != 0) {
		return nil, badInput(i, "has shape %v, wants %v", codes.Shape, rows)
	}
	want := tensor.Shape{g.n, g.blocks}
	if !g.scales.Shape.Equal(want) {
		return nil, badInput(i+1, "has shape %v, wants %v", g.scales.Shape, want)
	}
	if g.withMins && !g.mins.Shape.Equal(want) {
		return nil, badInput(i+2, "has shape %v, wants %v", g.mins.Shape, want)
	}
	if !g.withMins {
		g.offset = float64(int64(1) << (g.bits - 1))
	}
	return g, nil
}

// row computes the weights of a row.
func (g *blockGrid) row(dst []float64, row int64) {
	line := g.codes[row*g.stride : (row+1)*g.stride]
	for col := range dst {
		at := int64(col) * g.bits
		word := uint(line[at/8])
		if at/8+1 < g.stride {
			word |= uint(line[at/8+1]) << 8
		}
		code := float64(word >> (at % 8) & (1<<g.bits - 1))
		i := int(row*g.blocks + int64(col)/g.block)
		dst[col] = (code - g.offset) * floatAt(g.scales, i)
		if g.withMins {
			dst[col] += floatAt(g.mins, i)
		}
	}
}

// matMulBlocks multiplies with a matrix in blocks. It computes exactly whatever
// accuracy_level allows.
func matMulBlocks(c *call) error {
	n := c.int("N")
	if n < 1 {
		return fmt.Errorf("attribute N is %d, a positive size is wanted", n)
	}
	g, err := c.blockGrid(1, n)
	if err != nil {
		return err
	}
	return c.matMulWeights(c.tensor(0), g.k, n, len(c.op.inputs), g.row)
}

// gatherBlocks gives rows of a table in blocks, [ids..., K].
func gatherBlocks(c *call) error {
	g, err := c.blockGrid(0, 0)
	if err != nil {
		return err
	}
	ids, err := c.indices(3, g.n)
	if err != nil {
		return err
	}
	out, err := c.make(0, tensor.Float32, append(c.tensor(3).Shape.Clone(), g.k))
	if err != nil {
		return err
	}
	return c.parallel(len(ids), max(1, 1<<12/int(g.k)), func(lo, hi int) error {
		row := make([]float64, g.k)
		for i := lo; i < hi; i++ {
			g.row(row, ids[i])
			storeFloat(out, i*int(g.k), row)
		}
		return nil
	})
}
