package processors

import (
	"cmp"
	"slices"
	"strings"
)

// trie finds the keys that a text begins with. Nodes are numbered breadth first, so that the children of a node lie side by side,
// in the order of their labels, and those of the next node follow.
type trie struct {
	root  [256]int32 // child of the root by label; 0 if there is none
	first []int32    // the children of node n are first[n] to first[n+1]
	label []byte
	value []int32 // -1 where no key ends
}

// newTrie makes a trie of keys, none of them empty; values are not negative. The later of two equal keys wins.
func newTrie(keys []string, values []int32) *trie {
	sorted := make([]int, len(keys))
	for i := range sorted {
		sorted[i] = i
	}
	slices.SortFunc(sorted, func(a, b int) int { return cmp.Or(strings.Compare(keys[a], keys[b]), a-b) })

	// A group is the run of sorted keys that share the depth bytes that lead to a node.
	type group struct{ from, to, depth int }
	t := &trie{first: []int32{1}, label: []byte{0}, value: []int32{-1}}
	groups := []group{{0, len(sorted), 0}}
	for n := 0; n < len(groups); n++ {
		g := groups[n]
		for g.from < g.to && len(keys[sorted[g.from]]) == g.depth {
			t.value[n] = values[sorted[g.from]]
			g.from++
		}
		for g.from < g.to {
			c := keys[sorted[g.from]][g.depth]
			to := g.from + 1
			for to < g.to && keys[sorted[to]][g.depth] == c {
				to++
			}
			if n == 0 {
				t.root[c] = int32(len(groups))
			}
			groups = append(groups, group{g.from, to, g.depth + 1})
			t.label = append(t.label, c)
			t.value = append(t.value, -1)
			g.from = to
		}
		t.first = append(t.first, int32(len(groups)))
	}
	return t
}

// child returns the child of node n, which is not the root, by label c, or 0.
func (t *trie) child(n int32, c byte) int32 {
	lo, hi := t.first[n], t.first[n+1]
	for hi-lo > 8 {
		mid := int32(uint32(lo+hi) / 2)
		if t.label[mid] <= c {
			lo = mid
		} else {
			hi = mid
		}
	}
	for ; lo < hi; lo++ {
		if t.label[lo] == c {
			return lo
		}
	}
	return 0
}

// longest returns the value and the length of the longest key that s begins with; the length is 0 if there is none.
func (t *trie) longest(s []byte) (value int32, length int) {
	if len(s) == 0 {
		return 0, 0
	}
	n := t.root[s[0]]
	for i := 1; n != 0; i++ {
		if v := t.value[n]; v >= 0 {
			value, length = v, i
		}
		if i == len(s) {
			break
		}
		n = t.child(n, s[i])
	}
	return value, length
}
