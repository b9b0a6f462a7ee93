package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// executable is a graph that the runtime has compiled.
type executable struct {
	lib      *ov.Library
	compiled *ov.Compiled
	info     backend.ExecutableInfo
	plain    bool     // without fused kernels, see fusesWrong
	feeds    []int    // the runtime's input of each of the graph's; -1: it needs none
	direct   []bool   // outputs that may be written where they are wanted
	request  *request // of the last run; nil: there was none
}

// request is a request of the runtime's and what it is bound to.
type request struct {
	*ov.Request
	inputs  []bound
	outputs []bound
	own     []tensor.Tensor // scratch memory of static outputs that nobody wants
}

// bound is memory that a request's input or output is bound to.
type bound struct {
	tensor *ov.Tensor
	data   *byte
	shape  tensor.Shape
}

// loadModel reads the model in a graph folder and infers its types. The shapes that its
// outputs declare are believed only where nothing follows from the graph.
func loadModel(dir string) (*graph.Model, error) {
	m, err := backend.LoadModel(dir)
	if err != nil {
		return nil, err
	}
	declared := map[*graph.Value]*graph.Type{}
	for _, v := range m.Graph.Outputs {
		if v.Type != nil && v.Type.Kind == graph.KindTensor {
			declared[v] = v.Type
			v.Type = &graph.Type{Kind: graph.KindTensor, Elem: v.Type.Elem}
		}
	}
	if err := graph.Infer(m); err != nil {
		_ = m.Close() // read only; the model's fault is the one to tell
		return nil, backend.Invalid("graph_dir", "%v", err)
	}
	for v, t := range declared {
		if !v.Type.HasShape {
			v.Type = t
		}
	}
	return m, nil
}

// describe reads from the graph what its inputs and outputs are.
func (x *executable) describe(dir string) error {
	m, err := loadModel(dir)
	if err != nil {
		return err
	}
	defer m.Close()
	x.plain = fusesWrong(m.Graph)
	solid := computed(m.Graph)
	constant := map[string]bool{}
	for _, in := range m.Graph.Initializers {
		constant[in.Name] = true
		if bytes, err := tensor.ByteSize(in.Tensor.DType, in.Tensor.Shape); err == nil {
			x.info.Memory += bytes
		}
	}
	for _, v := range m.Graph.Inputs {
		if !constant[v.Name] {
			x.info.Inputs = append(x.info.Inputs, graph.Value{Name: v.Name, Type: v.Type.Clone()})
		}
	}
	for _, v := range m.Graph.Outputs {
		x.direct = append(x.direct, solid[v.Name])
		x.info.Outputs = append(x.info.Outputs, graph.Value{Name: v.Name, Type: v.Type.Clone()})
	}
	return nil
}

// match finds the runtime's inputs and outputs of the graph's. Both have the graph's
// order; inputs that nothing needs are left out, and one that is an output too may go
// by the output's name.
func (x *executable) match() error {
	named := map[string]int{}
	for i, p := range x.compiled.Inputs {
		named[p.Name] = i
	}
	var nameless []int // of ours
	for i, v := range x.info.Inputs {
		at, ok := named[v.Name]
		if !ok {
			at = -1
			nameless = append(nameless, i)
		}
		delete(named, v.Name)
		x.feeds = append(x.feeds, at)
	}
	if left := slices.Sorted(maps.Values(named)); len(left) == len(nameless) {
		for k, i := range nameless {
			x.feeds[i] = left[k]
		}
	} else if len(left) > 0 {
		return backend.Unsupported("OpenVINO has made other inputs of the graph")
	}
	for i, v := range x.info.Inputs {
		if x.feeds[i] < 0 {
			continue
		}
		if why := unlike(v.Type, x.compiled.Inputs[x.feeds[i]].Type); why != "" {
			return backend.Unsupported("OpenVINO makes input " + v.Name + " " + why)
		}
	}
	if len(x.info.Outputs) != len(x.compiled.Outputs) {
		return backend.Unsupported("OpenVINO has made another number of outputs of the graph")
	}
	for i, v := range x.info.Outputs {
		if why := unlike(v.Type, x.compiled.Outputs[i].Type); why != "" {
			return backend.Unsupported("OpenVINO makes output " + v.Name + " " + why)
		}
	}
	return nil
}

// unlike says what a type is that can't be the other, or nothing.
func unlike(want, is *graph.Type) string {
	switch {
	case want == nil || want.Elem == tensor.Undefined:
		return ""
	case want.Kind != graph.KindTensor || is.Elem != want.Elem:
		return is.Elem.String()
	case !want.HasShape || !is.HasShape:
		return ""
	case len(is.Dims) != len(want.Dims):
		return fmt.Sprintf("of rank %d", len(is.Dims))
	}
	for i, d := range is.Dims {
		if w := want.Dims[i].Size; d.Size >= 0 && w >= 0 && d.Size != w {
			return fmt.Sprintf("%d at dimension %d", d.Size, i)
		}
	}
	return ""
}

// solidOperators are never left out as changing nothing.
var solidOperators = map[string]bool{
	"MatMul": true, "Gemm": true, "Conv": true, "ConvTranspose": true, "Softmax": true, "LayerNormalization": true, "RMSNormalization": true,
	"Attention": true, "MatMulNBits": true, "LSTM": true, "GRU": true, "RNN": true, "Erf": true, "Tanh": true, "Sigmoid": true, "Gelu": true,
}

// computed are the values that some operator has surely computed on every way from the
// graph's inputs. What the runtime finds to be an input after all, or a part of one, it
// does not write to where an output is wanted (2026.4).
func computed(g *graph.Graph) map[string]bool {
	solid := map[string]bool{}
	constant := map[string]bool{}
	for _, in := range g.Initializers {
		constant[in.Name] = true
	}
	for _, n := range g.Nodes {
		is := solidOperators[n.OpType]
		if !is {
			some := false
			is = true
			for _, name := range n.Inputs {
				if name == "" || constant[name] {
					continue
				}
				some, is = true, is && solid[name]
			}
			is = is && some
		}
		for _, name := range n.Outputs {
			solid[name] = is
			constant[name] = n.OpType == "Constant"
		}
	}
	return solid
}

func (x *executable) Info() backend.ExecutableInfo { return x.info }

func (x *executable) Close() error {
	if x.request != nil {
		x.request.close()
	}
	if x.compiled != nil {
		x.compiled.Close()
	}
	return nil
}

func (r *request) close() {
	r.Close()
	for _, list := range [][]bound{r.inputs, r.outputs} {
		for _, b := range list {
			if b.tensor != nil {
				b.tensor.Close()
			}
		}
	}
}

func (x *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if x.request == nil {
		r, err := x.compiled.NewRequest()
		if err != nil {
			return backend.Internal("%v", err)
		}
		n := len(x.info.Outputs)
		x.request = &request{Request: r, inputs: make([]bound, len(inputs)), outputs: make([]bound, n), own: make([]tensor.Tensor, n)}
	}
	r := x.request
	for i, v := range inputs {
		t, err := hostTensor(v)
		if err != nil {
			return err
		}
		if t.DType == tensor.Int64 {
			if v, ok := beyondInt32(tensor.View[int64](t)); ok {
				return backend.Invalid(x.info.Inputs[i].Name, "it holds %d, and OpenVINO computes int64 in 32 bits", v)
			}
		}
		at := x.feeds[i]
		if at < 0 {
			continue
		}
		if err := r.inputs[i].set(x.lib, t, func(t *ov.Tensor) error { return r.SetInput(at, t) }); err != nil {
			return backend.Internal("input %s: %v", x.info.Inputs[i].Name, err)
		}
	}
	placed := make([]bool, len(x.info.Outputs))
	for i := range x.info.Outputs {
		p := x.compiled.Outputs[i].Type
		shape, ok := static(p)
		if !ok || !x.direct[i] {
			continue // the runtime's own memory; its shape is known after the run
		}
		var t tensor.Tensor
		var err error
		if out.Wanted(i) {
			t, err = out.Place(i, p.Elem, shape)
			placed[i] = true
		} else if t = r.own[i]; t.Shape == nil {
			t, err = tensor.New(p.Elem, shape)
			r.own[i] = t
		}
		if err != nil {
			return err
		}
		if err := r.outputs[i].set(x.lib, t, func(t *ov.Tensor) error { return r.SetOutput(i, t) }); err != nil {
			return backend.Internal("output %s: %v", x.info.Outputs[i].Name, err)
		}
	}
	if err := r.run(ctx); err != nil {
		return err
	}
	for i := range x.info.Outputs {
		if placed[i] || !out.Wanted(i) {
			continue
		}
		t, err := r.Output(i)
		if err != nil {
			return backend.Internal("output %s: %v", x.info.Outputs[i].Name, err)
		}
		v, err := t.Value()
		if err == nil {
			err = out.Give(i, graph.TensorDatum(v))
		}
		t.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// run runs the request, and cancels it when ctx ends.
func (r *request) run(ctx context.Context) error {
	if err := r.Start(); err != nil {
		return backend.Internal("%s", brief(err))
	}
	if ctx.Done() != nil {
		cancelled := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(cancelled)
			_ = r.Cancel() // the run then ends as it would have
		})
		defer func() {
			if !stop() {
				<-cancelled // or it would cancel the next run
			}
		}()
	}
	err := r.Wait()
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if e := (*ov.Error)(nil); errors.As(err, &e) {
		// The graph was taken, so the values are to blame: an index out of range.
		return backend.Invalid("inputs", "%s", brief(err))
	}
	return err
}

// set binds memory, if it is not what is bound already.
func (b *bound) set(lib *ov.Library, t tensor.Tensor, set func(*ov.Tensor) error) error {
	data := unsafe.SliceData(t.Data)
	if b.tensor != nil && b.data == data && b.shape.Equal(t.Shape) {
		return nil
	}
	made, err := lib.TensorOf(t)
	if err != nil {
		return err
	}
	if err := set(made); err != nil {
		made.Close()
		return err
	}
	if b.tensor != nil {
		b.tensor.Close()
	}
	*b = bound{tensor: made, data: data, shape: t.Shape.Clone()}
	return nil
}

// static is the shape of a type without open dimensions.
func static(t *graph.Type) (tensor.Shape, bool) {
	if !t.HasShape {
		return nil, false
	}
	s := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		if d.Size < 0 {
			return nil, false
		}
		s[i] = d.Size
	}
	return s, true
}

// hostTensor is an input's memory; a buffer of this device is host memory too.
func hostTensor(v backend.Value) (tensor.Tensor, error) {
	t := v.Tensor
	if v.Buffer == nil {
		return t, nil
	}
	b, ok := v.Buffer.(*buffer)
	if !ok {
		return t, backend.Invalid("inputs", "a buffer of another device was bound")
	}
	n, err := tensor.ByteSize(t.DType, t.Shape)
	if err != nil || v.Offset < 0 || n > b.Size()-v.Offset {
		return t, backend.Invalid("inputs", "%s%v at %d reaches beyond a buffer of %d bytes", t.DType, t.Shape, v.Offset, b.Size())
	}
	t.Data = b.data[v.Offset : v.Offset+n : v.Offset+n]
	return t, nil
}
