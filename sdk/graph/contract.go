package graph

import "sync"

// ContractFunction is the meaning of an operator of ai.accel as a function of
// standard operators (opset 23), to attach to a model that uses it, or to inline
// for a device that does not take the operator; nil where name is none of the
// domain's. It is one and the same for all callers, who must not change it.
//
// PagedAttention and PagedWrite are those over plain pools (f32, bf16, f16), and
// PagedAttention has no bias; ContractFunctionOf has the other forms. MatMulBlocks
// and GatherBlocks compute in f32.
func ContractFunction(name string) *Function {
	f, ok := contractFunctions()[name]
	if !ok {
		return nil
	}
	return f
}

var contractFunctions = sync.OnceValue(func() map[string]*Function {
	return map[string]*Function{
		"PagedAttention": pagedFunction(pagedForm{op: "PagedAttention"}),
		"PagedWrite":     pagedFunction(pagedForm{op: "PagedWrite"}),
		"MatMulBlocks":   matMulBlocksBody(),
		"GatherBlocks":   gatherBlocksBody(),
	}
})

// functionBuilder writes a body node by node.
type functionBuilder struct{ f *Function }

func newFunction(name string, inputs, outputs, attrs []string, defaults ...*Attr) functionBuilder {
	return functionBuilder{&Function{
		Domain: DomainAccel, Name: name, Inputs: inputs, Outputs: outputs, Attrs: attrs, Defaults: defaults,
		Opsets: map[string]int64{DomainONNX: DefaultOpset},
	}}
}

// set adds a node that makes the value out.
func (b functionBuilder) set(out, op string, inputs []string, attrs ...*Attr) {
	b.f.Nodes = append(b.f.Nodes, &Node{Name: out, OpType: op, Inputs: inputs, Outputs: []string{out}, Attrs: attrs})
}

func (b functionBuilder) int(out string, v int64) {
	b.set(out, "Constant", nil, IntAttr("value_int", v))
}

func (b functionBuilder) ints(out string, v ...int64) {
	b.set(out, "Constant", nil, IntsAttr("value_ints", v...))
}

// attr makes an attribute of the call a value.
func (b functionBuilder) attr(out, name string) {
	b.set(out, "Constant", nil, RefAttr("value_int", AttrInt, name))
}
