package ov

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Core is the runtime's registry of devices and readers. It may be used by several
// goroutines.
type Core struct {
	lib *Library
	at  uintptr
}

// NewCore makes a core.
func (l *Library) NewCore() (*Core, error) {
	c := &Core{lib: l}
	return c, l.check("ov_core_create", func() int32 { return l.fn.coreCreate(&c.at) })
}

// Close gives the core back.
func (c *Core) Close() { c.lib.fn.coreFree(c.at) }

// Devices are the names of the devices that are there: "CPU", "GPU.0", "NPU".
func (c *Core) Devices() ([]string, error) {
	var list deviceList
	if err := c.lib.check("ov_core_get_available_devices", func() int32 { return c.lib.fn.coreDevices(c.at, &list) }); err != nil {
		return nil, err
	}
	defer c.lib.fn.devicesFree(&list)
	var names []string
	for _, p := range unsafe.Slice(list.names, list.size) {
		names = append(names, text(p))
	}
	return names, nil
}

// Property is a device's property, in the runtime's text.
func (c *Core) Property(device, key string) (string, error) {
	var v *byte
	err := c.lib.check("ov_core_get_property", func() int32 { return c.lib.fn.coreProperty(c.at, device, key, &v) })
	if err != nil {
		return "", err
	}
	defer c.lib.fn.free(v)
	return text(v), nil
}

// Read reads the model in a file. Its weights in files are mapped, not copied.
func (c *Core) Read(path string) (*Model, error) {
	m := &Model{lib: c.lib}
	name := cstring(path)
	return m, c.lib.check("ov_core_read_model", func() int32 { return c.lib.fn.coreRead(c.at, name, nil, &m.at) })
}

// Compile makes of a model what a device runs. The model can be closed after it.
func (c *Core) Compile(m *Model, device string, properties map[string]string) (*Compiled, error) {
	list := make([]property, 0, len(properties)+1)
	for k, v := range properties {
		list = append(list, property{cstring(k), cstring(v)})
	}
	p := unsafe.SliceData(append(list, property{}))
	x := &Compiled{lib: c.lib}
	name := cstring(device)
	err := c.lib.check("ov_core_compile_model", func() int32 {
		return c.lib.fn.coreCompile(c.at, m.at, name, uintptr(len(list)), p, &x.at)
	})
	if err != nil {
		return nil, err
	}
	x.Inputs, err = c.lib.ports(x.at, c.lib.fn.compiledInputs, c.lib.fn.compiledInput)
	if err == nil {
		x.Outputs, err = c.lib.ports(x.at, c.lib.fn.compiledOutputs, c.lib.fn.compiledOutput)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Model is a model as the runtime has read it.
type Model struct {
	lib *Library
	at  uintptr
}

// Outputs are the model's outputs.
func (m *Model) Outputs() ([]Port, error) {
	return m.lib.ports(m.at, m.lib.fn.modelOutputs, m.lib.fn.modelOutput)
}

// Close gives the model back.
func (m *Model) Close() { m.lib.fn.modelFree(m.at) }

// Port is an input or output: its place is its index.
type Port struct {
	Name string // one of the names that it has, which others may have too; empty: none
	Type *graph.Type
}

func (l *Library) ports(at uintptr, count func(uintptr, *uintptr) int32, get func(at, i uintptr, port *uintptr) int32) ([]Port, error) {
	var n uintptr
	if err := l.check("ports", func() int32 { return count(at, &n) }); err != nil {
		return nil, err
	}
	ports := make([]Port, n)
	for i := range ports {
		var p uintptr
		if err := l.check("port", func() int32 { return get(at, uintptr(i), &p) }); err != nil {
			return nil, err
		}
		var err error
		ports[i], err = l.port(p)
		l.fn.portFree(p)
		if err != nil {
			return nil, err
		}
	}
	return ports, nil
}

func (l *Library) port(at uintptr) (Port, error) {
	p := Port{Type: &graph.Type{Kind: graph.KindTensor}}
	var name *byte
	if l.check("ov_port_get_any_name", func() int32 { return l.fn.portName(at, &name) }) == nil {
		p.Name = text(name)
		l.fn.free(name)
	}
	var elem int32
	if err := l.check("ov_port_get_element_type", func() int32 { return l.fn.portType(at, &elem) }); err != nil {
		return p, err
	}
	p.Type.Elem = dtypes[elem]
	var s partialShape
	if err := l.check("ov_port_get_partial_shape", func() int32 { return l.fn.portShape(at, &s) }); err != nil {
		return p, err
	}
	defer l.fn.partialFree(&s)
	if s.rank.min != s.rank.max {
		return p, nil
	}
	p.Type.HasShape = true
	if s.rank.min == 0 {
		return p, nil
	}
	for _, d := range unsafe.Slice(s.dims, s.rank.min) {
		n := d.min
		if d.min != d.max {
			n = -1
		}
		p.Type.Dims = append(p.Type.Dims, graph.Dim{Size: n})
	}
	return p, nil
}

// Compiled is a model that a device runs.
type Compiled struct {
	lib             *Library
	at              uintptr
	Inputs, Outputs []Port // in the graph's order; inputs that nothing needs are left out
}

// Property is a property of the compiled model, in the runtime's text.
func (x *Compiled) Property(key string) (string, error) {
	var v *byte
	err := x.lib.check("ov_compiled_model_get_property", func() int32 { return x.lib.fn.compiledProp(x.at, key, &v) })
	if err != nil {
		return "", err
	}
	defer x.lib.fn.free(v)
	return text(v), nil
}

// Close gives the compiled model back.
func (x *Compiled) Close() { x.lib.fn.compiledFree(x.at) }

// Request is one run at a time of a compiled model, and the memory for it.
type Request struct {
	lib *Library
	at  uintptr
}

// NewRequest makes a request.
func (x *Compiled) NewRequest() (*Request, error) {
	r := &Request{lib: x.lib}
	return r, x.lib.check("ov_compiled_model_create_infer_request", func() int32 { return x.lib.fn.compiledRequest(x.at, &r.at) })
}

// Close gives the request back.
func (r *Request) Close() { r.lib.fn.requestFree(r.at) }

// SetInput has input i read where t lies.
func (r *Request) SetInput(i int, t *Tensor) error {
	return r.lib.check("ov_infer_request_set_input_tensor", func() int32 { return r.lib.fn.requestSetInput(r.at, uintptr(i), t.at) })
}

// SetOutput has output i written where t lies.
func (r *Request) SetOutput(i int, t *Tensor) error {
	return r.lib.check("ov_infer_request_set_output_tensor", func() int32 { return r.lib.fn.requestSetOutput(r.at, uintptr(i), t.at) })
}

// Output is output i of the last run, where the runtime has it until the next.
func (r *Request) Output(i int) (*Tensor, error) {
	t := &Tensor{lib: r.lib}
	return t, r.lib.check("ov_infer_request_get_output_tensor", func() int32 { return r.lib.fn.requestGetOutput(r.at, uintptr(i), &t.at) })
}

// Start begins a run.
func (r *Request) Start() error {
	return r.lib.check("ov_infer_request_start_async", func() int32 { return r.lib.fn.requestStart(r.at) })
}

// Wait waits for the run that Start began.
func (r *Request) Wait() error {
	return r.lib.check("ov_infer_request_wait", func() int32 { return r.lib.fn.requestWait(r.at) })
}

// Cancel asks the run to end; Wait then fails with StatusCancelled.
func (r *Request) Cancel() error {
	return r.lib.check("ov_infer_request_cancel", func() int32 { return r.lib.fn.requestCancel(r.at) })
}

// Tensor is a view of memory, the runtime's or the caller's.
type Tensor struct {
	lib  *Library
	at   uintptr
	data []byte // the caller's, which must outlive it
}

// TensorOf is a tensor of the caller's memory, which must not move: pin what is of
// Go's.
func (l *Library) TensorOf(v tensor.Tensor) (*Tensor, error) {
	elem, ok := elements[v.DType]
	if !ok {
		return nil, fmt.Errorf("OpenVINO has no element type %s", v.DType)
	}
	dims := append(slices.Clone([]int64(v.Shape)), 0)
	s := shape{rank: int64(len(v.Shape)), dims: &dims[0]}
	t := &Tensor{lib: l, data: v.Data}
	data := unsafe.Pointer(unsafe.SliceData(v.Data))
	if len(v.Data) == 0 {
		data = unsafe.Pointer(&nothing)
	}
	return t, l.check("ov_tensor_create_from_host_ptr", func() int32 { return l.fn.tensorOf.call(elem, s, data, &t.at) })
}

// nothing is where empty tensors lie: the runtime takes no null pointer.
var nothing [64]byte

// Close gives the tensor back, not the memory that it views.
func (t *Tensor) Close() { t.lib.fn.tensorFree(t.at) }

// Value is what the tensor holds, where it lies.
func (t *Tensor) Value() (tensor.Tensor, error) {
	var elem int32
	if err := t.lib.check("ov_tensor_get_element_type", func() int32 { return t.lib.fn.tensorType(t.at, &elem) }); err != nil {
		return tensor.Tensor{}, err
	}
	d, ok := dtypes[elem]
	if !ok {
		return tensor.Tensor{}, fmt.Errorf("OpenVINO's element type %d is not known", elem)
	}
	v := tensor.Tensor{DType: d, Shape: tensor.Shape{}}
	var s shape
	if err := t.lib.check("ov_tensor_get_shape", func() int32 { return t.lib.fn.tensorShape(t.at, &s) }); err != nil {
		// It makes no shape of rank 0.
		var elements uintptr
		if t.lib.check("ov_tensor_get_size", func() int32 { return t.lib.fn.tensorSize(t.at, &elements) }) != nil || elements != 1 {
			return tensor.Tensor{}, err
		}
	} else {
		if s.rank > 0 {
			v.Shape = slices.Clone(unsafe.Slice(s.dims, s.rank))
		}
		if err := t.lib.check("ov_shape_free", func() int32 { return t.lib.fn.shapeFree(&s) }); err != nil {
			return tensor.Tensor{}, err
		}
	}
	bytes, err := tensor.ByteSize(d, v.Shape)
	if err != nil || bytes == 0 {
		return v, err
	}
	var data unsafe.Pointer
	if err := t.lib.check("ov_tensor_data", func() int32 { return t.lib.fn.tensorData(t.at, &data) }); err != nil {
		return tensor.Tensor{}, err
	}
	v.Data = unsafe.Slice((*byte)(data), bytes)
	return v, nil
}
