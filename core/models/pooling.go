package models

import (
	"math"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// pool makes one row a text of its tokens' rows, as sentence-transformers'
// modules Pooling and Normalize do: hidden [batch, sequence, width], mask
// [batch, sequence] int64 -> [batch, width * number of ways].
func (n net) pool(hidden, mask string, ways []checkpoint.Pooling, normalize bool) string {
	n = n.in("pooling")
	counted := n.cast(mask, tensor.Float32)
	var rows []string
	for _, way := range ways {
		rows = append(rows, poolings[way](n, hidden, counted))
	}
	y := rows[0]
	if len(rows) > 1 {
		y = n.Op("Concat", rows, graph.IntAttr("axis", -1))
	}
	if normalize {
		y = n.unit("normalize", y)
	}
	return y
}

// poolings are the ways; mask is [batch, sequence] float32 of 0 and 1.
var poolings = map[checkpoint.Pooling]func(n net, hidden, mask string) string{
	checkpoint.PoolCLS:  func(n net, hidden, mask string) string { return n.weighted(hidden, n.nth(mask, 0)) },
	checkpoint.PoolLast: func(n net, hidden, mask string) string { return n.weighted(hidden, n.nth(mask, 1)) },
	checkpoint.PoolMax: func(n net, hidden, mask string) string {
		there := n.Op("Unsqueeze", []string{n.cast(mask, tensor.Bool), n.Ints(-1)})
		x := n.Op("Where", []string{there, hidden, n.Float(-math.MaxFloat32)})
		return n.Op("ReduceMax", []string{x, n.Ints(1)}, graph.IntAttr("keepdims", 0))
	},
	checkpoint.PoolMean: func(n net, hidden, mask string) string {
		return n.Op("Div", []string{n.weighted(hidden, mask), n.total(mask)})
	},
	checkpoint.PoolMeanSqrtLen: func(n net, hidden, mask string) string {
		return n.Op("Div", []string{n.weighted(hidden, mask), n.Op("Sqrt", []string{n.total(mask)})})
	},
	checkpoint.PoolWeightedMean: func(n net, hidden, mask string) string {
		// 1, 2, 3, ... from the first token that counts.
		begun := n.cast(n.Op("Greater", []string{n.running(mask, 0), n.Float(0)}), tensor.Float32)
		w := n.Op("Mul", []string{mask, n.running(begun, 0)})
		return n.Op("Div", []string{n.weighted(hidden, w), n.total(w)})
	},
}

// running is the running sum over the sequence, from its end if reverse is 1.
func (n net) running(x string, reverse int64) string {
	return n.Op("CumSum", []string{x, n.Int(1)}, graph.IntAttr("reverse", reverse))
}

// nth is 1 at the first token that counts, or the last if reverse is 1, else 0.
func (n net) nth(mask string, reverse int64) string {
	is := n.Op("Equal", []string{n.running(mask, reverse), n.Float(1)})
	return n.Op("Mul", []string{mask, n.cast(is, tensor.Float32)})
}

// weighted is the sum over the sequence of hidden times weights [batch, sequence].
func (n net) weighted(hidden, weights string) string {
	x := n.Op("Mul", []string{hidden, n.Op("Unsqueeze", []string{weights, n.Ints(-1)})})
	return n.Op("ReduceSum", []string{x, n.Ints(1)}, graph.IntAttr("keepdims", 0))
}

// total is the sum of weights, [batch, 1], never 0.
func (n net) total(weights string) string {
	return n.atLeast(n.Op("ReduceSum", []string{weights, n.Ints(1)}, graph.IntAttr("keepdims", 1)), 1e-9)
}

func (n net) atLeast(x string, least float32) string {
	return n.Op("Max", []string{x, n.Float(least)})
}
