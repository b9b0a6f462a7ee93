package reference

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// randomGrid is a matrix in blocks, for tests, and the weights [n,k] that it means.
type randomGrid struct {
	bits, block, k, n int64
	scaleType         tensor.DType
	withMins          bool

	codes, scales, mins tensor.Tensor
	weights             []float64
}

// fill makes random codes, scales and mins.
func (g *randomGrid) fill(r *rand.Rand) error {
	stride, groups := (g.k*g.bits+7)/8, (g.k+g.block-1)/g.block
	g.scales = ofType(randomFloats(r, tensor.Shape{g.n, groups}), g.scaleType)
	if g.withMins {
		g.mins = ofType(randomFloats(r, tensor.Shape{g.n, groups}), g.scaleType)
	}
	var err error
	if g.codes, err = tensor.New(tensor.Uint8, tensor.Shape{g.n, stride}); err != nil {
		return err
	}
	g.weights = make([]float64, g.n*g.k)
	for row := range g.n {
		var bits strings.Builder // of the row, least significant first
		for col := range g.k {
			code := r.IntN(1 << g.bits)
			for b := range g.bits {
				bits.WriteByte('0' + byte(code>>b&1))
			}
			i := int(row*groups + col/g.block)
			w := floatAt(g.scales, i) * float64(code-1<<(g.bits-1))
			if g.withMins {
				w = floatAt(g.scales, i)*float64(code) + floatAt(g.mins, i)
			}
			g.weights[row*g.k+col] = w
		}
		for i, bit := range bits.String() {
			if bit == '1' {
				g.codes.Data[row*stride+int64(i/8)] += 1 << (i % 8)
			}
		}
	}
	return nil
}

// contractBody computes an operator of one output by its body.
func contractBody(op string, in []graph.Datum, attrs []*graph.Attr) ([]graph.Datum, error) {
	n := node(op, in, 1, attrs...)
	n.Domain = graph.DomainAccel
	return body(graph.ContractFunctionOf(n), n, in)
}

// blocksCase is a use of MatMulBlocks.
type blocksCase struct {
	bits, block, k, n int64
	m                 tensor.Shape
	a, scales         tensor.DType
	mins              bool
}

func (c blocksCase) try(r *rand.Rand) error {
	a := ofType(randomFloats(r, append(c.m.Clone(), c.k)), c.a)
	g := randomGrid{bits: c.bits, block: c.block, k: c.k, n: c.n, scaleType: c.scales, withMins: c.mins}
	if err := g.fill(r); err != nil {
		return err
	}
	attrs := []*graph.Attr{graph.IntAttr("bits", c.bits), graph.IntAttr("block", c.block), graph.IntAttr("K", c.k), graph.IntAttr("N", c.n), graph.IntAttr("accuracy_level", int64(r.IntN(5)))}
	in := values(a, g.codes, g.scales)
	if c.mins {
		in = append(in, tensorValue(g.mins))
	}
	for way, run := range map[string]func() ([]graph.Datum, error){
		"operator": func() ([]graph.Datum, error) { return evalOp(graph.DomainAccel, "MatMulBlocks", in, 1, attrs...) },
		"body":     func() ([]graph.Datum, error) { return contractBody("MatMulBlocks", in, attrs) },
	} {
		out, err := run()
		if err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
		y := out[0].Tensor
		if y.DType != c.a || !y.Shape.Equal(append(c.m.Clone(), c.n)) {
			return fmt.Errorf("%s: Y is %s", way, describeTensor(y))
		}
		tolerance := map[tensor.DType]float64{tensor.Float32: 2e-6, tensor.Float16: 1e-3, tensor.BFloat16: 8e-3}[c.a]
		for i := range y.Len() {
			want, size := 0.0, 0.0
			for x := range int(c.k) {
				p := floatAt(a, i/int(c.n)*int(c.k)+x) * g.weights[i%int(c.n)*int(c.k)+x]
				want += p
				size += math.Abs(p)
			}
			if got := floatAt(y, i); math.Abs(got-want) > tolerance*(size+1e-3) {
				return fmt.Errorf("%s: element %d is %g, want %g", way, i, got, want)
			}
		}
	}
	return nil
}

func TestMatMulBlocks(t *testing.T) {
	var cases []blocksCase
	for bits := int64(1); bits <= 8; bits++ {
		for _, mins := range []bool{false, true} {
			cases = append(cases,
				blocksCase{bits, 32, 64, 5, tensor.Shape{2}, tensor.Float32, tensor.Float32, mins},
				blocksCase{bits, 16, 48, 3, tensor.Shape{2, 3}, tensor.Float32, tensor.Float16, mins},
				blocksCase{bits, 16, 32, 3, tensor.Shape{1}, tensor.Float16, tensor.Float16, mins},
				blocksCase{bits, 64, 64, 2, tensor.Shape{}, tensor.BFloat16, tensor.Float16, mins},
				blocksCase{bits, 256, 512, 2, tensor.Shape{1}, tensor.Float32, tensor.Float16, mins},
				blocksCase{bits, 12, 29, 3, tensor.Shape{2}, tensor.Float32, tensor.Float32, mins}, // rows of parts of bytes and blocks
				blocksCase{bits, 8, 8, 1, tensor.Shape{0}, tensor.Float32, tensor.Float32, mins},
			)
		}
	}
	for i, c := range cases {
		if err := c.try(rand.New(rand.NewPCG(uint64(i), 15))); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestMatMulBlocksRefuses(t *testing.T) {
	a, codes, scales := randomTensor(2, 16), zeros(t, tensor.Uint8, tensor.Shape{3, 6}), randomTensor(3, 2)
	for _, tt := range []struct {
		name              string
		in                []graph.Datum
		bits, block, k, n int64
		input             int
	}{
		{"a wide A", values(randomTensor(2, 17), codes, scales), 3, 8, 16, 3, 0},
		{"a scalar A", values(randomTensor(), codes, scales), 3, 8, 16, 3, 0},
		{"few codes", values(a, zeros(t, tensor.Uint8, tensor.Shape{3, 5}), scales), 3, 8, 16, 3, 1},
		{"codes of other rows", values(a, zeros(t, tensor.Uint8, tensor.Shape{2, 6}), scales), 3, 8, 16, 3, 1},
		{"few scales", values(a, codes, randomTensor(3, 1)), 3, 8, 16, 3, 2},
		{"few mins", values(a, codes, scales, randomTensor(3, 1)), 3, 8, 16, 3, 3},
		{"mins of another type", values(a, codes, scales, ofType(scales, tensor.Float16)), 3, 8, 16, 3, 3},
		{"no bits", values(a, codes, scales), 0, 8, 16, 3, -1},
		{"nine bits", values(a, codes, scales), 9, 8, 16, 3, -1},
		{"no block", values(a, codes, scales), 3, 0, 16, 3, -1},
		{"no K", values(a, codes, scales), 3, 8, -16, 3, -1},
	} {
		_, err := evalOp(graph.DomainAccel, "MatMulBlocks", tt.in, 1, graph.IntAttr("bits", tt.bits), graph.IntAttr("block", tt.block),
			graph.IntAttr("K", tt.k), graph.IntAttr("N", tt.n))
		var n *NodeError
		if !errors.As(err, &n) || n.Input != tt.input {
			t.Errorf("%s: got %v, want input %d to be blamed", tt.name, err, tt.input)
		}
	}
}

// TestGatherBlocks: the operator and its body give the same rows, which are what the
// codes mean, whatever shape codes and ids have.
func TestGatherBlocks(t *testing.T) {
	const n, k = 5, 64
	for bits := int64(1); bits <= 8; bits++ {
		for _, withMins := range []bool{false, true} {
			for _, ids := range []tensor.Tensor{tensor.Ints(tensor.Shape{}, 3), tensor.Ints(tensor.Shape{4}, 4, 0, -1, 0), tensor.Ints(tensor.Shape{2, 1, 2}, 1, 2, -5, 4),
				tensor.Ints(tensor.Shape{0}), tensor.Of(tensor.Int32, tensor.Shape{2}, []int32{1, 4})} {
				g := randomGrid{bits: bits, block: 16, k: k, n: n, scaleType: []tensor.DType{tensor.Float16, tensor.Float32}[bits%2], withMins: withMins}
				if err := g.fill(rand.New(rand.NewPCG(uint64(bits), 16))); err != nil {
					t.Fatal(err)
				}
				deep := g.codes
				deep.Shape = tensor.Shape{n, k / 16, 2 * bits}
				attrs := []*graph.Attr{graph.IntAttr("bits", bits), graph.IntAttr("block", 16), graph.IntAttr("K", k)}
				for _, codes := range []tensor.Tensor{g.codes, deep} {
					in := values(codes, g.scales, g.mins, ids)
					for way, run := range map[string]func() ([]graph.Datum, error){
						"operator": func() ([]graph.Datum, error) { return evalOp(graph.DomainAccel, "GatherBlocks", in, 1, attrs...) },
						"body":     func() ([]graph.Datum, error) { return contractBody("GatherBlocks", in, attrs) },
					} {
						out, err := run()
						if err != nil {
							t.Fatalf("%s: %v", way, err)
						}
						rows := out[0].Tensor
						if rows.DType != tensor.Float32 || !rows.Shape.Equal(append(ids.Shape.Clone(), k)) {
							t.Fatalf("%s of ids %v: rows are %s", way, ids.Shape, describeTensor(rows))
						}
						for i := range rows.Len() {
							row := (intAt(ids, i/k) + n) % n
							// Products with float16 are exact in float32; the body rounds others.
							tolerance := 0.0
							if g.scaleType == tensor.Float32 {
								tolerance = 1e-4
							}
							if got, want := floatAt(rows, i), float64(float32(g.weights[int(row)*k+i%k])); math.Abs(got-want) > tolerance {
								t.Fatalf("%s: %d bits, element %d is %g, want %g", way, bits, i, got, want)
							}
						}
					}
				}
			}
		}
	}
}

func TestGatherBlocksRefuses(t *testing.T) {
	codes, scales, ids := zeros(t, tensor.Uint8, tensor.Shape{3, 6}), randomTensor(3, 2), tensor.Ints(tensor.Shape{1}, 0)
	none := tensor.Tensor{}
	for _, tt := range []struct {
		name           string
		in             []graph.Datum
		bits, block, k int64
		input          int
	}{
		{"few codes", values(zeros(t, tensor.Uint8, tensor.Shape{3, 5}), scales, none, ids), 3, 8, 16, 0},
		{"a row of codes", values(zeros(t, tensor.Uint8, tensor.Shape{6}), scales, none, ids), 3, 8, 16, 0},
		{"parts of blocks in three dimensions", values(zeros(t, tensor.Uint8, tensor.Shape{3, 2, 3}), scales, none, ids), 3, 8, 12, 0},
		{"few scales", values(codes, randomTensor(2, 2), none, ids), 3, 8, 16, 1},
		{"few mins", values(codes, scales, randomTensor(3, 1), ids), 3, 8, 16, 2},
		{"a row too far", values(codes, scales, none, tensor.Ints(tensor.Shape{2}, 2, 3)), 3, 8, 16, 3},
		{"a row before the first", values(codes, scales, none, tensor.Ints(tensor.Shape{1}, -4)), 3, 8, 16, 3},
		{"no bits", values(codes, scales, none, ids), 0, 8, 16, -1},
		{"nine bits", values(codes, scales, none, ids), 9, 8, 16, -1},
		{"no block", values(codes, scales, none, ids), 3, 0, 16, -1},
		{"no K", values(codes, scales, none, ids), 3, 8, 0, -1},
	} {
		_, err := evalOp(graph.DomainAccel, "GatherBlocks", tt.in, 1, graph.IntAttr("bits", tt.bits), graph.IntAttr("block", tt.block), graph.IntAttr("K", tt.k))
		var n *NodeError
		if !errors.As(err, &n) || n.Input != tt.input {
			t.Errorf("%s: got %v, want input %d to be blamed", tt.name, err, tt.input)
		}
	}
}
