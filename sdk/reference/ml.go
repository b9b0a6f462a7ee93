package reference

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

var mlOps = []spec{
	{"ArrayFeatureExtractor", since(1), "X T:f32|f64|i64|i32|string, Y i64 -> Z T", "", arrayFeatureExtractor},
	{"Binarizer", since(1), "X T:f32|f64|i64|i32 -> Y T", "threshold float=0", binarizer},
	{"LabelEncoder", since(1), "X string|i64 -> Y string|i64",
		"classes_strings strings, default_int64 int=-1, default_string string=_Unused", labelEncoder},
	{"LabelEncoder", since(2), "X string|i64|f32 -> Y string|i64|f32",
		"default_float float=-0, default_int64 int=-1, default_string string=_Unused, keys_floats floats, keys_int64s ints, keys_strings strings, " +
			"values_floats floats, values_int64s ints, values_strings strings", labelEncoder},
	{"LabelEncoder", since(4), "X string|i64|f32|i32|i16|f64 -> Y string|i64|f32|i32|i16|f64",
		"default_float float=-0, default_int64 int=-1, default_string string=_Unused, default_tensor tensor, keys_floats floats, keys_int64s ints, " +
			"keys_strings strings, keys_tensor tensor, values_floats floats, values_int64s ints, values_strings strings, values_tensor tensor", labelEncoder},
	{"TreeEnsemble", since(5), "X T:f16|f32|f64 -> Y T",
		"aggregate_function int=1, leaf_targetids ints!, leaf_weights tensor!, membership_values tensor, n_targets int, nodes_falseleafs ints!, " +
			"nodes_falsenodeids ints!, nodes_featureids ints!, nodes_hitrates tensor, nodes_missing_value_tracks_true ints, nodes_modes tensor!, " +
			"nodes_splits tensor!, nodes_trueleafs ints!, nodes_truenodeids ints!, post_transform int=0, tree_roots ints!", treeEnsemble},
}

// arrayFeatureExtractor takes entries of the last axis.
func arrayFeatureExtractor(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) == 0 {
		return badInput(0, "is a scalar")
	}
	axis := len(x.Shape) - 1
	index, err := c.indices(1, x.Shape[axis])
	if err != nil {
		return err
	}
	out, err := c.take(x, axis, index, tensor.Shape{int64(len(index))})
	if err != nil {
		return err
	}
	if axis == 0 {
		out = reshaped(out, tensor.Shape{1, int64(len(index))})
	}
	c.give(0, out)
	return nil
}

func binarizer(c *call) error {
	x, limit := c.tensor(0), c.float("threshold")
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	return c.parallel(x.Len(), 1<<14, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			if floatAt(x, i) > limit {
				storeNumber(out, i, 1)
			}
		}
		return nil
	})
}

// tensorAttr is a tensor among the attributes, Undefined where it is left out.
func (c *call) tensorAttr(name string) (tensor.Tensor, error) {
	a := c.attr(name)
	switch {
	case a == nil:
		return tensor.Tensor{}, nil
	case a.Tensor == nil:
		return tensor.Tensor{}, fmt.Errorf("attribute %s holds no tensor", name)
	}
	return a.Tensor.Tensor, a.Tensor.Tensor.Check()
}

// labels is the one list of keys or values that is given, as a tensor.
func (c *call) labels(prefix string) (list tensor.Tensor, err error) {
	found := 0
	set := func(t tensor.Tensor) { list, found = t, found+1 }
	if a := c.attr(prefix + "_strings"); a != nil {
		set(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(a.Strings))}, Strings: a.Strings})
	}
	if a := c.attr(prefix + "_int64s"); a != nil {
		set(tensor.Ints(tensor.Shape{int64(len(a.Ints))}, a.Ints...))
	}
	if a := c.attr(prefix + "_floats"); a != nil {
		set(tensor.Floats(tensor.Shape{int64(len(a.Floats))}, a.Floats...))
	}
	if name := prefix + "_tensor"; c.op.Version >= 4 && c.hasAttr(name) {
		t, err := c.tensorAttr(name)
		if err != nil {
			return t, err
		}
		set(t)
	}
	if found != 1 {
		return list, fmt.Errorf("%d lists of %s are given, wants one", found, prefix)
	}
	return list, nil
}

// labelKey is what equal elements have in common: strings and integers themselves,
// of numbers the bits. From version 4 on all NaN are one, and both zeros.
func (c *call) labelKey(t tensor.Tensor, i int) any {
	switch classOf(t.DType) {
	case classFloat:
		v := floatAt(t, i)
		if c.op.Version >= 4 {
			if v != v {
				v = math.NaN()
			}
			v += 0 // minus zero plus zero is zero
		}
		return math.Float64bits(v)
	case classNone:
		return t.Strings[i]
	}
	return intAt(t, i)
}

func labelEncoder(c *call) error {
	x := c.tensor(0)
	var keys, values, def tensor.Tensor
	var err error
	if c.op.Version == 1 {
		if !c.hasAttr("classes_strings") {
			return errors.New("attribute classes_strings is missing")
		}
		list := c.attr("classes_strings").Strings
		classes := tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(list))}, Strings: list}
		numbers := make([]int64, len(list))
		for i := range numbers {
			numbers[i] = int64(i)
		}
		keys, values = classes, tensor.Ints(classes.Shape, numbers...)
		if x.DType == tensor.Int64 {
			keys, values = values, keys
		}
	} else {
		if keys, err = c.labels("keys"); err != nil {
			return err
		}
		if values, err = c.labels("values"); err != nil {
			return err
		}
	}
	if c.op.Version >= 4 {
		if def, err = c.tensorAttr("default_tensor"); err != nil {
			return err
		}
	}
	if !c.op.outputs[0].types.has(values.DType) {
		return fmt.Errorf("values of type %s are not supported, only of %s", values.DType, c.op.outputs[0].types)
	}
	switch {
	case def.DType != tensor.Undefined:
		if def.DType != values.DType || def.Len() != 1 {
			return fmt.Errorf("attribute default_tensor is %s, wants one %s", describeTensor(def), values.DType)
		}
	case values.DType == tensor.String:
		def = tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{}, Strings: []string{c.str("default_string")}}
	default:
		if def, err = c.new(values.DType, nil); err != nil {
			return err
		}
		if values.DType.IsInt() {
			putInt(def, 0, c.int("default_int64"))
		} else {
			putFloat(def, 0, c.float("default_float"))
		}
	}
	switch {
	case keys.DType != x.DType:
		return badInput(0, "is of type %s, the keys are of %s", x.DType, keys.DType)
	case keys.Len() != values.Len():
		return fmt.Errorf("%d keys and %d values are given", keys.Len(), values.Len())
	}
	if err := c.reserve(int64(keys.Len()) * 64); err != nil {
		return err
	}
	at := make(map[any]int, keys.Len())
	for i := range keys.Len() {
		at[c.labelKey(keys, i)] = i
	}
	out, err := c.make(0, values.DType, x.Shape)
	if err != nil {
		return err
	}
	return c.parallel(x.Len(), 1<<12, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			if k, ok := at[c.labelKey(x, i)]; ok {
				move(out, i, values, k, 1)
			} else {
				move(out, i, def, 0, 1)
			}
		}
		return nil
	})
}

// Ways of comparing a feature with a node's split, as nodes_modes counts them.
const (
	branchLEQ = iota
	branchLT
	branchGTE
	branchGT
	branchEQ
	branchNEQ
	branchMember
)

// treeNode is an inner node; children[0] is where a comparison that does not hold
// leads to.
type treeNode struct {
	mode     int64
	feature  int64
	split    float64
	members  []float64
	missing  int // the child for NaN
	children [2]struct {
		at   int64
		leaf bool
	}
}

// forest is the ensemble that the attributes describe.
type forest struct {
	nodes   []treeNode
	targets []int64 // by leaf
	weights []float64
	roots   []int64
}

// forest reads and checks the attributes.
func (c *call) forest(features, targets int64) (*forest, error) {
	t := &forest{targets: c.ints("leaf_targetids"), roots: c.ints("tree_roots")}
	modes, err := c.tensorAttr("nodes_modes")
	if err != nil {
		return nil, err
	}
	splits, err := c.tensorAttr("nodes_splits")
	if err != nil {
		return nil, err
	}
	leaves, err := c.tensorAttr("leaf_weights")
	if err != nil {
		return nil, err
	}
	members, err := c.tensorAttr("membership_values")
	if err != nil {
		return nil, err
	}
	numbers := c.op.inputs[0].types
	if modes.DType != tensor.Uint8 || !numbers.has(splits.DType) || !numbers.has(leaves.DType) || members.DType != tensor.Undefined && !numbers.has(members.DType) {
		return nil, fmt.Errorf("modes of type %s, splits of %s, leaves of %s and members of %s are not supported", modes.DType, splits.DType, leaves.DType, members.DType)
	}
	n := modes.Len()
	tracks := make([]int64, n)
	if c.hasAttr("nodes_missing_value_tracks_true") {
		tracks = c.ints("nodes_missing_value_tracks_true")
	}
	feature, yes, no := c.ints("nodes_featureids"), c.ints("nodes_truenodeids"), c.ints("nodes_falsenodeids")
	yesLeaf, noLeaf := c.ints("nodes_trueleafs"), c.ints("nodes_falseleafs")
	for _, l := range []int{splits.Len(), len(feature), len(yes), len(no), len(yesLeaf), len(noLeaf), len(tracks)} {
		if l != n {
			return nil, fmt.Errorf("the attributes of %d nodes have other lengths", n)
		}
	}
	if leaves.Len() != len(t.targets) {
		return nil, fmt.Errorf("%d weights and %d targets of leaves are given", leaves.Len(), len(t.targets))
	}
	for _, target := range t.targets {
		if target < 0 || target >= targets {
			return nil, fmt.Errorf("attribute leaf_targetids holds %d of %d targets", target, targets)
		}
	}
	if t.weights, err = c.widened(leaves); err != nil {
		return nil, err
	}
	var values []float64
	if members.DType != tensor.Undefined {
		if values, err = c.widened(members); err != nil {
			return nil, err
		}
	}
	if err := c.reserve(int64(n) * 96); err != nil {
		return nil, err
	}
	t.nodes = make([]treeNode, n)
	for i := range t.nodes {
		node := &t.nodes[i]
		node.mode, node.feature, node.split = intAt(modes, i), feature[i], floatAt(splits, i)
		if node.feature < 0 || node.feature >= features {
			return nil, badInput(0, "has %d features, node %d asks for %d", features, i, node.feature)
		}
		if node.mode > branchMember {
			return nil, fmt.Errorf("attribute nodes_modes holds %d", node.mode)
		}
		if node.mode == branchMember {
			end := slices.IndexFunc(values, func(v float64) bool { return v != v })
			if end < 0 {
				return nil, errors.New("attribute membership_values has fewer sets than nodes ask for")
			}
			node.members, values = values[:end], values[end+1:]
		}
		if tracks[i] != 0 {
			node.missing = 1
		}
		node.children[0].at, node.children[0].leaf = no[i], noLeaf[i] != 0
		node.children[1].at, node.children[1].leaf = yes[i], yesLeaf[i] != 0
		for _, child := range node.children {
			size := n
			if child.leaf {
				size = len(t.weights)
			}
			if child.at < 0 || child.at >= int64(size) {
				return nil, fmt.Errorf("node %d leads to %d of %d", i, child.at, size)
			}
		}
	}
	for _, r := range t.roots {
		if r < 0 || r >= int64(n) {
			return nil, fmt.Errorf("attribute tree_roots holds %d of %d nodes", r, n)
		}
	}
	return t, nil
}

// next is the child that a feature leads to.
func (n *treeNode) next(v float64) int {
	holds := false
	switch {
	case v != v:
		return n.missing
	case n.mode == branchLEQ:
		holds = v <= n.split
	case n.mode == branchLT:
		holds = v < n.split
	case n.mode == branchGTE:
		holds = v >= n.split
	case n.mode == branchGT:
		holds = v > n.split
	case n.mode == branchEQ:
		holds = v == n.split
	case n.mode == branchNEQ:
		holds = v != n.split
	default:
		holds = slices.Contains(n.members, v)
	}
	if holds {
		return 1
	}
	return 0
}

// leaf is the leaf of a tree that a row of features leads to.
func (t *forest) leaf(root int64, row []float64) (int64, error) {
	at := root
	for range t.nodes {
		child := t.nodes[at].children[t.nodes[at].next(row[t.nodes[at].feature])]
		if at = child.at; child.leaf {
			return at, nil
		}
	}
	return 0, fmt.Errorf("the tree of root %d leads in a circle", root)
}

// treeEnsemble adds up (or otherwise aggregates) what the trees say of each target.
// A target that no leaf speaks of is 0.
func treeEnsemble(c *call) error {
	const average, least, most = 0, 2, 3 // 1: the sum
	x, targets := c.tensor(0), c.int("n_targets")
	if len(x.Shape) != 2 {
		return badInput(0, "has shape %v, wants [N,features]", x.Shape)
	}
	transform, ok := map[int64]func([]float64){0: func([]float64) {}, 1: softmax, 2: logistic, 3: softmaxZero, 4: probit}[c.int("post_transform")]
	how := c.int("aggregate_function")
	if !ok || how < average || how > most {
		return fmt.Errorf("attributes post_transform %d and aggregate_function %d are not known", c.int("post_transform"), how)
	}
	if targets < 0 {
		return fmt.Errorf("attribute n_targets is %d", targets)
	}
	t, err := c.forest(x.Shape[1], targets)
	if err != nil {
		return err
	}
	out, err := c.make(0, x.DType, tensor.Shape{x.Shape[0], targets})
	if err != nil || out.Len() == 0 {
		return err
	}
	if err := c.reserve((x.Shape[1] + 2*targets) * 8); err != nil {
		return err
	}
	return c.parallel(int(x.Shape[0]), max(1, 1<<10/max(1, len(t.roots))), func(lo, hi int) error {
		row, y, spoken := make([]float64, x.Shape[1]), make([]float64, targets), make([]bool, targets)
		for i := lo; i < hi; i++ {
			loadFloat(row, x, i*len(row))
			clear(y)
			clear(spoken)
			for k, root := range t.roots {
				if k%4096 == 0 {
					if err := c.ctx.Err(); err != nil {
						return err
					}
				}
				leaf, err := t.leaf(root, row)
				if err != nil {
					return err
				}
				target, w := t.targets[leaf], t.weights[leaf]
				switch {
				case !spoken[target]:
					y[target] = w
				case how == least:
					y[target] = min(y[target], w)
				case how == most:
					y[target] = max(y[target], w)
				default:
					y[target] += w
				}
				spoken[target] = true
			}
			if how == average {
				for k := range y {
					y[k] /= float64(max(1, len(t.roots)))
				}
			}
			transform(y)
			storeFloat(out, i*len(y), y)
		}
		return nil
	})
}

func logistic(v []float64) {
	for i := range v {
		v[i] = sigmoid(v[i])
	}
}

// softmaxZero is the softmax of what is not zero.
func softmaxZero(v []float64) {
	var some []float64
	for _, x := range v {
		if x != 0 {
			some = append(some, x)
		}
	}
	softmax(some)
	for i, x := range v {
		if x != 0 {
			v[i], some = some[0], some[1:]
		}
	}
}

func probit(v []float64) {
	for i := range v {
		v[i] = math.Sqrt2 * math.Erfinv(2*v[i]-1)
	}
}
