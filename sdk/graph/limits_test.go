package graph

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/accelhq/accel/sdk/tensor"
)

// field is one field of bytes.
func field(n protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
}

func varint(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

// inGraph is a model whose graph is b.
func inGraph(b ...[]byte) []byte { return field(7, bytes.Join(b, nil)) }

// inAttr is a model of a node with an attribute.
func inAttr(b ...[]byte) []byte {
	return inGraph(field(1, append(field(4, []byte("Op")), field(5, bytes.Join(append(b, field(1, []byte("a"))), nil))...)))
}

// TestEachLimit: for each limit a model just within it, and the same a little past it.
func TestEachLimit(t *testing.T) {
	node := field(1, field(4, []byte("Op")))
	value := field(11, field(1, []byte("x")))
	constant := field(5, bytes.Join([][]byte{varint(1, 0), varint(2, 1)}, nil))
	nested := func(n int) []byte {
		g := []byte{}
		for range n {
			g = field(1, field(5, append(field(1, []byte("g")), append(varint(20, 5), field(6, g)...)...)))
		}
		return inGraph(g)
	}
	deepType := func(n int) []byte {
		typ := field(1, varint(1, 1))
		for range n {
			typ = field(4, field(1, typ))
		}
		return inGraph(field(11, field(2, typ)))
	}
	dims := bytes.Repeat([]byte{1}, 5)
	for _, tt := range []struct {
		name   string
		data   []byte
		limits Limits // that the model is just within
		less   Limits
		what   string
	}{
		{"bytes", inGraph(node), Limits{Bytes: 8}, Limits{Bytes: 7}, "bytes"},
		{"nodes", inGraph(node, node, node), Limits{Nodes: 3}, Limits{Nodes: 2}, "nodes"},
		{"values", inGraph(value, value), Limits{Values: 2}, Limits{Values: 1}, "values"},
		{"initializers", inGraph(constant, constant), Limits{Initializers: 2}, Limits{Initializers: 1}, "initializers"},
		{"items", inGraph(value, value), Limits{Items: 3}, Limits{Items: 2}, "items"},
		{"graphs in graphs", nested(5), Limits{Depth: 6}, Limits{Depth: 5}, "levels of nesting"},
		{"types in types", deepType(3), Limits{Depth: 5}, Limits{Depth: 4}, "levels of nesting"},
		{"rank of a tensor", inGraph(field(5, bytes.Join([][]byte{field(1, dims), varint(2, 1), field(9, make([]byte, 4))}, nil))), Limits{Rank: 5}, Limits{Rank: 4}, "dimensions"},
		{"integers", inAttr(field(8, make([]byte, 9))), Limits{List: 9}, Limits{List: 8}, "elements in one attribute"},
		{"integers one by one", inAttr(varint(8, 1), varint(8, 1<<40), varint(8, 1)), Limits{List: 3}, Limits{List: 2}, "elements in one attribute"},
		{"floats", inAttr(field(7, make([]byte, 12))), Limits{List: 3}, Limits{List: 2}, "elements in one attribute"},
		{"a name", inGraph(field(1, append(field(3, []byte("four")), field(4, []byte("Op"))...))), Limits{Name: 4}, Limits{Name: 3}, "bytes in one name"},
		{"a string attribute", inAttr(field(4, []byte("text"))), Limits{Text: 4}, Limits{Text: 3}, "bytes in one text"},
		{"documentation", inGraph(field(10, []byte("text"))), Limits{Text: 4}, Limits{Text: 3}, "bytes in one text"},
		{"copied integers", inAttr(field(8, make([]byte, 100))), Limits{Decoded: 803}, Limits{Decoded: 799}, "bytes decoded"},
		{"narrowed integers", inGraph(field(5, bytes.Join([][]byte{field(1, []byte{100, 1}), varint(2, 7), field(7, make([]byte, 100))}, nil))), Limits{Decoded: 900}, Limits{Decoded: 799}, "bytes decoded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "narrowed integers" {
				// [100, 1] are two dimensions.
				tt.limits.Rank = 2
			}
			if _, err := Parse(tt.data, WithLimits(tt.limits)); err != nil {
				t.Errorf("within the limit: %v", err)
			}
			var le *LimitError
			if _, err := Parse(tt.data, WithLimits(tt.less)); !errors.As(err, &le) || !strings.Contains(le.What, tt.what) || le.Found <= le.Limit {
				t.Errorf("past the limit: %v", err)
			}
		})
	}
}

// TestSizesThatOverflow: what no memory holds is refused before any is taken.
func TestSizesThatOverflow(t *testing.T) {
	huge := protowire.AppendVarint(nil, 1<<62)
	for _, data := range [][]byte{
		inGraph(field(5, bytes.Join([][]byte{field(1, append(huge, huge...)), varint(2, 1)}, nil))),
		inGraph(field(5, bytes.Join([][]byte{field(1, huge), varint(2, 1), field(9, make([]byte, 4))}, nil))),
		inGraph(field(5, bytes.Join([][]byte{varint(1, 1<<63), varint(2, 1)}, nil))),
	} {
		var fe *FormatError
		if _, err := Parse(data); !errors.As(err, &fe) {
			t.Errorf("got %v, want a format error", err)
		}
	}
	sparse := field(15, bytes.Join([][]byte{
		field(1, bytes.Join([][]byte{varint(1, 0), varint(2, 1)}, nil)), field(2, bytes.Join([][]byte{varint(1, 0), varint(2, 7)}, nil)), varint(3, 1<<40)}, nil))
	var le *LimitError
	if _, err := Parse(inGraph(sparse)); !errors.As(err, &le) || !strings.Contains(le.What, "sparse") {
		t.Errorf("a sparse tensor of a terabyte: %v", err)
	}
}

// TestFunctionsThatDouble: forty functions, each calling the one before twice, have
// a trillion nodes when expanded.
func TestFunctionsThatDouble(t *testing.T) {
	m := &Model{IRVersion: 10, Opsets: map[string]int64{"": 23, "f": 1}}
	for i := range 40 {
		name := func(i int) string { return "f" + string(rune('A'+i/26)) + string(rune('a'+i%26)) }
		f := &Function{Domain: "f", Name: name(i), Inputs: []string{"x"}, Outputs: []string{"z"}, Opsets: m.Opsets}
		op, domain := "Neg", ""
		if i > 0 {
			op, domain = name(i-1), "f"
		}
		f.Nodes = []*Node{
			{Domain: domain, OpType: op, Inputs: []string{"x"}, Outputs: []string{"y"}},
			{Domain: domain, OpType: op, Inputs: []string{"y"}, Outputs: []string{"z"}},
		}
		m.Functions = append(m.Functions, f)
		m.Graph = &Graph{Name: "g", Inputs: []*Value{{Name: "x", Type: TensorType(tensor.Float32, Known(1))}},
			Nodes: []*Node{{Domain: "f", OpType: f.Name, Inputs: []string{"x"}, Outputs: []string{"y"}}}, Outputs: []*Value{{Name: "y"}}}
	}
	var le *LimitError
	if err := Inline(m, nil); !errors.As(err, &le) {
		t.Errorf("inlining: %v", err)
	}
	if err := Infer(m); !errors.As(err, &le) {
		t.Errorf("inference: %v", err)
	}
	if _, err := FindFacts(m); !errors.As(err, &le) {
		t.Errorf("facts: %v", err)
	}
}

// TestGradientsThatDouble: each gradient of a gradient has about twice its nodes.
func TestGradientsThatDouble(t *testing.T) {
	gradients := func(op string, count int) *Model {
		m := modelOf(graphOf("x", "y", node(op+"(x)->y")))
		m.Graph.Inputs[0].Type = TensorType(tensor.Float32, Known(1))
		m.Opsets[DomainTraining] = 1
		for i := range count {
			m.Graph.Nodes = append(m.Graph.Nodes, &Node{Domain: DomainTraining, OpType: "Gradient", Inputs: []string{"x"}, Outputs: []string{"d" + strconv.Itoa(i)},
				Attrs: []*Attr{StringAttr("y", m.Graph.Outputs[0].Name), {Name: "xs", Kind: AttrStrings, Strings: []string{"x"}}}})
			m.Graph.Outputs = values("d" + strconv.Itoa(i))
		}
		return m
	}
	for _, tt := range []struct {
		name  string
		model *Model
		limit int64
		what  string // empty: within the limit
	}{
		{"eight of Tanh", gradients("Tanh", 8), 1 << 14, ""},
		{"eight of Tanh within less", gradients("Tanh", 8), 1 << 10, "nodes that gradients are written out as"},
		{"sixty-four of Tanh", gradients("Tanh", 64), 1 << 12, "nodes that gradients are written out as"},
		{"sixty-four of Relu", gradients("Relu", 64), 1 << 14, ""},
		{"one more", gradients("Relu", 65), 1 << 14, "gradients of gradients"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			count := len(tt.model.Graph.Nodes) - 1
			n, err := expandGradientsWithin(tt.model, tt.limit)
			var le *LimitError
			switch {
			case tt.what == "" && (err != nil || n != count):
				t.Errorf("%d of %d gradients, %v", n, count, err)
			case tt.what != "" && (!errors.As(err, &le) || !strings.Contains(le.What, tt.what) || le.Found <= le.Limit):
				t.Errorf("got %v, want a limit of %s", err, tt.what)
			}
		})
	}
}
