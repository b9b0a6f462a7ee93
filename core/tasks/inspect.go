package tasks

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Inspection is what can be said of a graph without running it.
type Inspection struct {
	Graph           string            `json:"graph,omitempty"`
	IRVersion       int64             `json:"ir_version"`
	Producer        string            `json:"producer,omitempty"`
	ProducerVersion string            `json:"producer_version,omitempty"`
	Domain          string            `json:"domain,omitempty"`
	Version         int64             `json:"version,omitempty"`
	Doc             string            `json:"doc,omitempty"`
	Opsets          map[string]int64  `json:"opsets"` // ai.onnx for the default domain
	Metadata        map[string]string `json:"metadata,omitempty"`
	Inputs          []PortInfo        `json:"inputs"`
	Outputs         []PortInfo        `json:"outputs"`
	Symbols         []string          `json:"symbols"` // names of symbolic dimensions
	Nodes           int               `json:"nodes"`   // of the main graph
	Inner           int               `json:"inner_nodes"`
	Operators       []OperatorInfo    `json:"operators"`
	Functions       []FunctionInfo    `json:"functions,omitempty"`
	Parameters      int64             `json:"parameters"`
	WeightBytes     int64             `json:"weight_bytes"`
	Weights         []WeightInfo      `json:"weights"`
	Quantized       []QuantizedInfo   `json:"quantized,omitempty"`
	Files           []FileInfo        `json:"external_files,omitempty"`
	Cost            *CostInfo         `json:"cost,omitempty"` // nil: sizes are not known
}

// PortInfo is an input or output of a graph.
type PortInfo struct {
	Name string `json:"name"`
	Type string `json:"type"` // element type, or what kind of value it is
	// Shape holds numbers, names and expressions; ? is a size that is not known.
	// nil: not even the rank is.
	Shape []string `json:"shape"`
}

// OperatorInfo counts the uses of an operator, those in inner graphs and functions
// included.
type OperatorInfo struct {
	Domain string `json:"domain,omitempty"`
	Name   string `json:"name"`
	Count  int    `json:"count"`
}

// FunctionInfo is a model-local function.
type FunctionInfo struct {
	Domain string `json:"domain,omitempty"`
	Name   string `json:"name"`
	Nodes  int    `json:"nodes"`
	Calls  int    `json:"calls"`
}

// WeightInfo sums up the constants of one element type.
type WeightInfo struct {
	Type     string `json:"type"`
	Tensors  int    `json:"tensors"`
	Elements int64  `json:"elements"`
	Bytes    int64  `json:"bytes"`
}

// QuantizedInfo sums up weights that lie in blocks with scales of their own.
type QuantizedInfo struct {
	Bits          int64   `json:"bits"` // of a code
	Block         int64   `json:"block_size"`
	Tensors       int     `json:"tensors"`
	Weights       int64   `json:"weights"`
	Bytes         int64   `json:"bytes"` // codes, scales, and mins or zero points
	BitsPerWeight float64 `json:"bits_per_weight"`
}

// FileInfo is a file that weights lie in beside the model's own.
type FileInfo struct {
	Path    string `json:"path"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"bytes"` // that the model reads of it
	Size    int64  `json:"size"`  // of the file
}

// CostInfo is what one run costs at given sizes.
type CostInfo struct {
	Dims    map[string]int64 `json:"dims"`
	Assumed []string         `json:"assumed,omitempty"` // those of Dims that nobody said: 1
	FLOPs   int64            `json:"flops"`             // a multiply-add counts as two
	// Uncounted are nodes whose work only a run can tell, Unsized values whose size
	// it can: the cost is at least what is said.
	Uncounted int `json:"uncounted_nodes"`
	Unsized   int `json:"unsized_values"`
	// Activations is the most that values between nodes take at a time, each from
	// when it is computed to when it is read last. A backend may need less (views,
	// fusing) or more (workspace).
	Activations int64 `json:"activation_bytes"`
	Memory      int64 `json:"memory_bytes"` // with the weights
}

// Inspect describes a model. Where dims is empty and the inputs have symbolic
// dimensions, it has no Cost. Errors are *InvalidInputError and graph's.
func Inspect(m *graph.Model, dims map[string]int64) (*Inspection, error) {
	g := m.Graph
	x := &Inspection{Graph: g.Name, IRVersion: m.IRVersion, Producer: m.ProducerName, ProducerVersion: m.ProducerVersion,
		Domain: m.Domain, Version: m.Version, Doc: m.Doc, Metadata: m.Metadata, Opsets: map[string]int64{},
		Symbols: symbols(FeedInputs(g)), Nodes: len(g.Nodes)}
	for d, v := range m.Opsets {
		x.Opsets[domainName(d)] = v
	}
	for _, v := range FeedInputs(g) {
		x.Inputs = append(x.Inputs, port(v))
	}
	for _, v := range g.Outputs {
		x.Outputs = append(x.Outputs, port(v))
	}
	x.count(m)
	x.weigh(m)
	x.weighBlocks(m)
	if len(dims) == 0 && len(x.Symbols) > 0 {
		return x, nil
	}
	var err error
	x.Cost, err = cost(m, dims)
	if err == nil {
		x.Cost.Memory = x.WeightBytes + x.Cost.Activations
	}
	return x, err
}

func domainName(d string) string {
	if d == graph.DomainONNX {
		return "ai.onnx"
	}
	return d
}

func port(v *graph.Value) PortInfo {
	p := PortInfo{Name: v.Name, Type: "?"}
	if v.Type == nil {
		return p
	}
	if v.Type.Kind != graph.KindTensor {
		p.Type = tensorfile.TypeText(v.Type)
		return p
	}
	p.Type = v.Type.Elem.String()
	if v.Type.HasShape {
		shape := tensorfile.ShapeText(v.Type)
		p.Shape = []string{}
		if len(v.Type.Dims) > 0 {
			p.Shape = strings.Split(shape[1:len(shape)-1], ",")
		}
	}
	return p
}

// count counts operators and functions.
func (x *Inspection) count(m *graph.Model) {
	uses := map[graph.FunctionID]int{}
	total := 0
	for _, n := range m.AllNodes() {
		uses[n.ID()]++
		total++
	}
	x.Inner = total - x.Nodes
	for _, f := range m.Functions {
		for _, n := range f.Nodes {
			uses[n.ID()]++
		}
	}
	for _, f := range m.Functions {
		x.Functions = append(x.Functions, FunctionInfo{Domain: f.Domain, Name: f.Name, Nodes: len(f.Nodes), Calls: uses[f.ID()]})
	}
	counts := map[OperatorInfo]int{}
	for id, n := range uses {
		counts[OperatorInfo{Domain: id.Domain, Name: id.Name}] += n
	}
	x.Operators = []OperatorInfo{}
	for op, n := range counts {
		op.Count = n
		x.Operators = append(x.Operators, op)
	}
	slices.SortFunc(x.Operators, func(a, b OperatorInfo) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Name, b.Name))
	})
}

// weigh sums up constants: initializers, and tensors of Constant nodes.
func (x *Inspection) weigh(m *graph.Model) {
	types := map[tensor.DType]*WeightInfo{}
	files := map[string]*FileInfo{}
	add := func(in *graph.Initializer) {
		t := in.Tensor
		n, err := t.Shape.Elements()
		if err != nil {
			return // Load refuses such shapes
		}
		bytes, err := tensor.ByteSize(t.DType, t.Shape)
		if err != nil {
			for _, s := range t.Strings {
				bytes += int64(len(s))
			}
		}
		w := types[t.DType]
		if w == nil {
			w = &WeightInfo{Type: t.DType.String()}
			types[t.DType] = w
		}
		w.Tensors, w.Elements, w.Bytes = w.Tensors+1, w.Elements+n, w.Bytes+bytes
		x.Parameters, x.WeightBytes = x.Parameters+n, x.WeightBytes+bytes
		if in.External != nil {
			f := files[in.External.Path]
			if f == nil {
				f = &FileInfo{Path: in.External.Path}
				if info, err := os.Stat(f.Path); err == nil {
					f.Size = info.Size()
				}
				files[f.Path] = f
			}
			f.Tensors, f.Bytes = f.Tensors+1, f.Bytes+in.External.Length
		}
	}
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			add(in)
		}
	}
	for _, n := range m.AllNodes() {
		if a := n.Attr("value"); n.OpType == "Constant" && n.Domain == graph.DomainONNX && a != nil && a.Tensor != nil {
			add(a.Tensor)
		}
	}
	x.Weights = []WeightInfo{}
	for _, t := range slices.Sorted(maps.Keys(types)) {
		x.Weights = append(x.Weights, *types[t])
	}
	slices.SortStableFunc(x.Weights, func(a, b WeightInfo) int { return cmp.Compare(b.Bytes, a.Bytes) })
	for _, path := range slices.Sorted(maps.Keys(files)) {
		f := *files[path]
		f.Path = filepath.Clean(f.Path)
		x.Files = append(x.Files, f)
	}
}

// blocksOf are the operators that take weights in blocks: which inputs these are, codes
// first, and what the attribute of the block's size is called.
var blocksOf = map[graph.FunctionID]struct {
	inputs []int
	block  string
}{
	{Domain: graph.DomainMicrosoft, Name: "MatMulNBits"}: {[]int{1, 2, 3}, "block_size"},
	{Domain: graph.DomainAccel, Name: "MatMulBlocks"}:    {[]int{1, 2, 3}, "block"},
	{Domain: graph.DomainAccel, Name: "GatherBlocks"}:    {[]int{0, 1, 2}, "block"},
}

// weighBlocks sums up weights in blocks, those that several nodes read once, and counts
// them as parameters instead of their codes and scales.
func (x *Inspection) weighBlocks(m *graph.Model) {
	type form struct{ bits, block int64 }
	forms := map[form]*QuantizedInfo{}
	for g := range m.Graphs() {
		bytes, elements := map[string]int64{}, map[string]int64{}
		for _, in := range g.Initializers {
			if n, err := tensor.ByteSize(in.Tensor.DType, in.Tensor.Shape); err == nil {
				bytes[in.Name] = n
				elements[in.Name], _ = in.Tensor.Shape.Elements() // they fit where the bytes do
			}
		}
		for _, n := range g.Nodes {
			op, ok := blocksOf[n.ID()]
			f := form{n.AttrInt("bits", 4), n.AttrInt(op.block, 0)}
			if !ok || f.bits <= 0 || len(n.Inputs) <= op.inputs[0] || bytes[n.Inputs[op.inputs[0]]] == 0 {
				continue
			}
			q := forms[f]
			if q == nil {
				q = &QuantizedInfo{Bits: f.bits, Block: f.block}
				forms[f] = q
			}
			weights := bytes[n.Inputs[op.inputs[0]]] * 8 / f.bits
			q.Tensors++
			q.Weights += weights
			x.Parameters += weights
			for _, i := range op.inputs {
				if i < len(n.Inputs) {
					q.Bytes += bytes[n.Inputs[i]]
					x.Parameters -= elements[n.Inputs[i]]
				}
			}
			bytes[n.Inputs[op.inputs[0]]] = 0
		}
	}
	for _, q := range forms {
		q.BitsPerWeight = 8 * float64(q.Bytes) / float64(q.Weights)
		x.Quantized = append(x.Quantized, *q)
	}
	slices.SortFunc(x.Quantized, func(a, b QuantizedInfo) int {
		return cmp.Or(cmp.Compare(b.Weights, a.Weights), cmp.Compare(a.Bits, b.Bits), cmp.Compare(a.Block, b.Block))
	})
}

// Sizes completes sizes of symbolic dimensions: those that nobody said are 1.
func Sizes(m *graph.Model, dims map[string]int64) (all map[string]int64, assumed []string, err error) {
	declared := FeedInputs(m.Graph)
	all, err = sizes(declared, InferRequest{Inputs: &tensorfile.Inputs{}, Dims: dims})
	if err != nil {
		return nil, nil, err
	}
	for _, name := range symbols(declared) {
		if _, ok := all[name]; !ok {
			all[name] = 1
			assumed = append(assumed, name)
		}
	}
	return all, assumed, nil
}

// cost binds a copy of the model and adds up.
func cost(m *graph.Model, dims map[string]int64) (*CostInfo, error) {
	all, assumed, err := Sizes(m, dims)
	if err != nil {
		return nil, err
	}
	c := m.Clone()
	defer c.Close()
	constant := len(c.Graph.Inputs) - len(FeedInputs(c.Graph))
	if constant == 0 {
		c.Graph.Inputs = named(c.Graph.Inputs)
	}
	if err := graph.Bind(c, all); err != nil {
		return nil, fmt.Errorf("fix the shapes of %s: %w", m.Graph.Name, err)
	}
	info := &CostInfo{Dims: all, Assumed: assumed}
	types := c.Graph.Types()
	for _, n := range c.Graph.Nodes {
		if f, ok := graph.FLOPs(n, types); ok {
			info.FLOPs += f
		} else {
			info.Uncounted++
		}
	}
	info.Activations, info.Unsized = activations(c.Graph, types)
	return info, nil
}

// activations is the peak of the bytes of all values that are alive: a graph's
// inputs and outputs throughout, others from the node that makes them to the last
// that reads them.
func activations(g *graph.Graph, types map[string]*graph.Type) (peak int64, unsized int) {
	size := func(name string) int64 {
		n, ok := types[name].Bytes()
		if !ok {
			unsized++
		}
		return n
	}
	last := map[string]int{}
	for i, n := range g.Nodes {
		for _, in := range n.Inputs {
			last[in] = i
		}
		for _, in := range n.Captures() {
			last[in] = i
		}
	}
	for _, v := range g.Outputs {
		last[v.Name] = len(g.Nodes)
	}
	now := int64(0)
	for _, v := range FeedInputs(g) {
		now += size(v.Name)
	}
	peak = now
	held := make([]int64, len(g.Nodes)+1) // bytes that are let go after a node
	for i, n := range g.Nodes {
		if n.OpType == "Constant" && n.Domain == graph.DomainONNX {
			continue // counted with the weights
		}
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			b := size(out)
			now += b
			held[max(i, last[out])] += b
		}
		peak = max(peak, now)
		now -= held[i]
	}
	return peak, unsized
}
