package verify

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// TieUnits is how far apart two scores may be, in units in the last place of the
// larger one, for either to come first: what float32 noise moves scores by
// (decision 0010).
const TieUnits = 8

// Tie is a choice between scores that tie: TopK gave these rows in another order
// than was recorded, and the outputs agree in the recorded one.
type Tie struct {
	Test  string `json:"test,omitempty"`  // of several
	Node  string `json:"node"`            // the TopK
	Batch int    `json:"batch,omitempty"` // which list of scores, of several
	// Exchanged are cycles of rows, as TopK's indices count them in sdk/reference: each
	// is recorded where the next one stands, the last where the first does.
	Exchanged [][]int64 `json:"exchanged"`
	// Units is how far apart the scores of exchanged rows are at the most, as TieUnits
	// measures it, where sdk/reference computes them.
	Units   float64  `json:"units"`
	Outputs []string `json:"outputs"` // those that agree in the recorded order only
}

// settle looks for a TopK between whose scores there are ties, such that all outputs
// that missed agree once rows of tied scores change places: the same ones in every
// output that has these rows, those that agree already included. It returns nothing
// where there is none. Otherwise it puts into outs how the outputs then agree.
func settle(ctx context.Context, m *graph.Model, feeds map[string]graph.Datum, recorded []named, got map[string]graph.Datum, mask tensor.Tensor, outs []Output) ([]Tie, error) {
	if !slices.ContainsFunc(outs, func(o Output) bool { return !o.OK }) {
		return nil, nil
	}
	after := map[*graph.Node]map[string]bool{}
	var nodes []*graph.Node
	var wanted []string
	for _, n := range m.Graph.Nodes {
		if n.Domain != graph.DomainONNX || n.OpType != "TopK" || len(n.Outputs) < 2 || n.Outputs[1] == "" {
			continue
		}
		after[n] = following(m.Graph, n)
		explains := true
		for i, o := range outs {
			explains = explains && (o.OK || after[n][recorded[i].name])
		}
		if explains {
			nodes = append(nodes, n)
			wanted = append(wanted, n.Inputs[0], n.Outputs[1])
		}
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	p, err := reference.New(m, reference.Options{RoundLate: true})
	if err != nil {
		return nil, err
	}
	values, err := p.RunValues(ctx, feeds, wanted)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		c := newChoice(n, values[n.Inputs[0]].Tensor, values[n.Outputs[1]].Tensor)
		if c == nil {
			continue
		}
		if ties := c.settle(after[n], recorded, got, mask, outs); ties != nil {
			return ties, nil
		}
	}
	return nil, nil
}

// following are the values that depend on a node.
func following(g *graph.Graph, n *graph.Node) map[string]bool {
	after := map[string]bool{}
	for _, m := range g.Nodes {
		if m == n || slices.ContainsFunc(m.Inputs, func(v string) bool { return after[v] }) || slices.ContainsFunc(m.Captures(), func(v string) bool { return after[v] }) {
			for _, out := range m.Outputs {
				if out != "" {
					after[out] = true
				}
			}
		}
	}
	return after
}

// choice is what a TopK chose in sdk/reference: k rows from each of several lists.
type choice struct {
	node     string
	lists, k int
	rows     []int64   // [lists, k]
	scores   []float64 // of these rows
	double   bool      // the scores are float64
}

// newChoice is nil where scores have no noise or there is nothing to exchange, and
// where the lists of scores are not the rows of a matrix.
func newChoice(n *graph.Node, scores, indices tensor.Tensor) *choice {
	last := len(scores.Shape) - 1
	axis := n.AttrInt("axis", -1)
	if last < 0 || axis != -1 && axis != int64(last) || scores.DType != tensor.Float32 && scores.DType != tensor.Float64 {
		return nil
	}
	c := &choice{node: cmp.Or(n.Name, n.Label()), lists: 1, k: int(indices.Shape[last]), double: scores.DType == tensor.Float64}
	for i, d := range scores.Shape[:last] {
		if i == 0 {
			c.lists = int(d)
		} else if d != 1 {
			return nil
		}
	}
	if c.k < 2 || c.lists == 0 {
		return nil
	}
	c.rows = tensor.View[int64](indices.Aligned())
	all, length := floats(scores), int(scores.Shape[last])
	for i, row := range c.rows {
		c.scores = append(c.scores, all[i/c.k*length+int(row)])
	}
	return c
}

// units is how far apart the scores of two places of a list are.
func (c *choice) units(list, p, q int) float64 {
	a, b := c.scores[list*c.k+p], c.scores[list*c.k+q]
	larger := max(math.Abs(a), math.Abs(b))
	switch {
	case p == q:
		return 0
	case math.IsInf(larger, 0) || math.IsNaN(larger):
		return math.Inf(1) // no noise makes these
	}
	digits, least := 24, -149
	if c.double {
		digits, least = 53, -1074
	}
	_, e := math.Frexp(larger)
	return math.Abs(a-b) / math.Ldexp(1, max(e-digits, least))
}

// settle is the settling of one choice; after are the values that depend on it. outs
// change only where all outputs agree.
func (c *choice) settle(after map[string]bool, recorded []named, got map[string]graph.Datum, mask tensor.Tensor, outs []Output) []Tie {
	rows := map[int]*rowed{} // by output
	for i, o := range outs {
		if !after[recorded[i].name] {
			continue
		}
		if r := c.rowsOf(got[recorded[i].name], recorded[i].value, mask, o.Tolerance); r != nil {
			rows[i] = r
		} else if !o.OK {
			return nil
		}
	}
	var ties []Tie
	places := make([][]int, c.lists) // where each row is recorded
	for list := range places {
		places[list] = assign(c.k, func(p, q int) bool {
			if c.units(list, p, q) > TieUnits {
				return false
			}
			for _, r := range rows {
				if !r.same(list, p, q) {
					return false
				}
			}
			return true
		})
		if places[list] == nil {
			return nil
		}
		if t := c.tie(list, places[list]); t != nil {
			ties = append(ties, *t)
		}
	}
	if ties == nil {
		return nil
	}
	settled := slices.Clone(outs)
	var names []string
	for i, r := range rows {
		o := compareValues(graph.TensorDatum(r.ordered(places)), recorded[i].value, mask, outs[i].Tolerance)
		if !o.OK {
			return nil
		}
		if !outs[i].OK {
			o.Name, o.Tied = outs[i].Name, true
			settled[i] = o
		}
	}
	copy(outs, settled)
	for i, o := range outs {
		if o.Tied {
			names = append(names, recorded[i].name)
		}
	}
	for i := range ties {
		ties[i].Outputs = names
	}
	return ties
}

// tie says what rows of a list change places, nil where none does.
func (c *choice) tie(list int, places []int) *Tie {
	t := &Tie{Node: c.node, Batch: list}
	seen := make([]bool, c.k)
	for first := range places {
		var cycle []int64
		for p := first; !seen[p]; p = places[p] {
			seen[p] = true
			t.Units = max(t.Units, c.units(list, p, places[p]))
			cycle = append(cycle, c.rows[list*c.k+p])
		}
		if len(cycle) > 1 {
			t.Exchanged = append(t.Exchanged, cycle)
		}
	}
	if t.Exchanged == nil {
		return nil
	}
	return t
}

// String says what changes places, and why it may.
func (t Tie) String() string {
	text := ""
	for i, cycle := range t.Exchanged {
		if i > 0 {
			text += ", "
		}
		text += "rows "
		for j, row := range cycle {
			switch {
			case j == 0:
			case j == len(cycle)-1:
				text += " and "
			default:
				text += ", "
			}
			text += fmt.Sprint(row)
		}
	}
	if t.Batch > 0 {
		text += fmt.Sprintf(" of list %d", t.Batch)
	}
	return fmt.Sprintf("%s change places: their scores tie at %s, %.2g units in the last place apart of at most %d", text, t.Node, t.Units, TieUnits)
}
