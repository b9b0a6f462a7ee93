package lower

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// randomGraph has n nodes that read up to three earlier values, some of them
// sequences, which can't cross.
func randomGraph(rng *rand.Rand, n int, sequences bool) *graph.Graph {
	f32 := &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32, HasShape: true, Dims: []graph.Dim{graph.Known(2)}}
	g := &graph.Graph{Name: "random", Inputs: []*graph.Value{{Name: "x", Type: f32}},
		Initializers: []*graph.Initializer{{Name: "w", Tensor: tensor.Floats(tensor.Shape{2}, 1, 2)}}}
	values := []string{"x", "w"}
	for i := range n {
		node := &graph.Node{Name: fmt.Sprintf("n%d", i), OpType: "Sum", Outputs: []string{fmt.Sprintf("v%d", i)}}
		for range 1 + rng.IntN(3) {
			node.Inputs = append(node.Inputs, values[max(0, len(values)-1-rng.IntN(6))])
		}
		t := f32
		if sequences && rng.IntN(6) == 0 {
			t = &graph.Type{Kind: graph.KindSequence, Of: f32}
		}
		g.Nodes = append(g.Nodes, node)
		g.Values = append(g.Values, &graph.Value{Name: node.Outputs[0], Type: t})
		values = append(values, node.Outputs[0])
	}
	return g
}

// fewest is the least number of pieces that any order of the nodes makes, by trying
// all sets of nodes that can come first.
func fewest(f *flow, where []part) int {
	n := len(where)
	before := make([]uint, n)
	for _, e := range f.edges {
		before[e.to] |= 1 << e.from
	}
	const far = 1 << 30
	best := make([][3]int, 1<<n)
	for set := range best {
		best[set] = [3]int{far, far, far}
	}
	best[0][anywhere] = 0
	for set := range best {
		for i := range n {
			if set>>i&1 == 1 || before[i]&^uint(set) != 0 {
				continue
			}
			for last := range best[set] {
				pieces := best[set][last]
				if part(last) != where[i] {
					pieces++
				}
				to := &best[set|1<<i][where[i]]
				*to = min(*to, pieces)
			}
		}
	}
	all := best[len(best)-1]
	return min(all[device], all[rest])
}

func TestPartition(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for k := range 3000 {
		n := 1 + rng.IntN(10)
		f := newFlow(randomGraph(rng, n, k%2 == 1))
		where := make([]part, n)
		for i := range where {
			where[i] = []part{device, rest}[rng.IntN(2)]
		}
		asked := slices.Clone(where)
		pieces := partition(f, where)
		say := fmt.Sprintf("graph %d, asked %v, got %v: %v", k, asked, where, pieces)

		at := map[int]int{}
		for p, nodes := range pieces {
			for _, i := range nodes {
				if _, twice := at[i]; twice {
					t.Fatalf("%s: node %d stands twice", say, i)
				}
				at[i] = p
				if where[i] != where[nodes[0]] {
					t.Fatalf("%s: a piece has two targets", say)
				}
				if where[i] != asked[i] && where[i] == device {
					t.Fatalf("%s: the device got node %d, which it refuses", say, i)
				}
			}
		}
		if len(at) != n {
			t.Fatalf("%s: %d of %d nodes are placed", say, len(at), n)
		}
		reach := make([]uint, n) // what follows from a node
		for i := n - 1; i >= 0; i-- {
			for _, e := range f.edges {
				if e.from == i {
					reach[i] |= 1<<e.to | reach[e.to]
				}
			}
		}
		moved := false
		for _, e := range f.edges {
			if at[e.from] > at[e.to] {
				t.Fatalf("%s: %s is read before it is made", say, e.value)
			}
			if e.stays && (at[e.from] != at[e.to] || where[e.from] != rest) {
				t.Fatalf("%s: %s crosses", say, e.value)
			}
			moved = moved || e.stays
		}
		for u := range n {
			for v := range n {
				for w := range n {
					if reach[u]>>v&1 == 1 && reach[v]>>w&1 == 1 && at[u] == at[w] && at[v] != at[u] {
						t.Fatalf("%s: the path %d, %d, %d leaves its piece and comes back", say, u, v, w)
					}
				}
			}
		}
		if want := fewest(f, where); !moved && len(pieces) != want {
			t.Fatalf("%s: %d pieces, %d would do", say, len(pieces), want)
		}
	}
}

// TestPartitionOfPlainCases: what people would draw.
func TestPartitionOfPlainCases(t *testing.T) {
	chain := func(n int) *graph.Graph {
		g := randomGraph(rand.New(rand.NewPCG(1, 1)), n, false)
		for i, node := range g.Nodes {
			node.Inputs = []string{"x"}
			if i > 0 {
				node.Inputs = []string{fmt.Sprintf("v%d", i-1)}
			}
		}
		return g
	}
	D, R := device, rest
	for _, tt := range []struct {
		name  string
		graph *graph.Graph
		where []part
		want  string
	}{
		{"all the device's", chain(3), []part{D, D, D}, "[[0 1 2]]"},
		{"one refused in the middle", chain(5), []part{D, D, R, D, D}, "[[0 1] [2] [3 4]]"},
		{"refused at the ends", chain(4), []part{R, D, D, R}, "[[0] [1 2] [3]]"},
		{"by turns", chain(4), []part{D, R, D, R}, "[[0] [1] [2] [3]]"},
		{"two branches that are refused, one piece", func() *graph.Graph {
			g := chain(6) // x -> 0 -> {1 -> 2, 3 -> 4} -> 5
			g.Nodes[3].Inputs = []string{"v0"}
			g.Nodes[5].Inputs = []string{"v2", "v4"}
			return g
		}(), []part{D, R, D, R, D, D}, "[[0] [1 3] [2 4 5]]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(partition(newFlow(tt.graph), tt.where)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
