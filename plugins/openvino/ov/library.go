// Package ov binds OpenVINO's C interface without cgo. Its types are the runtime's
// objects; each that has a Close must be closed once, and after what was made of it.
package ov

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/accelhq/accel/sdk/vendorlib"
)

// Versions of OpenVINO that this package was tried with: the C interface's
// functions without variable arguments are of 2026, and a later year may change
// what conversions and properties mean.
var Versions = vendorlib.Range{Min: vendorlib.Version{2026, 4}, Below: vendorlib.Version{2027}}

// Library is the opened runtime.
type Library struct {
	path    string
	version string
	fn      functions
}

// functions are those of openvino/c. Pointers to the runtime's objects are uintptr:
// Go's collector has no part in them.
type functions struct {
	errorInfo    func(status int32) *byte
	lastError    func() *byte
	free         func(*byte)
	version      func(*version) int32
	versionFree  func(*version)
	coreCreate   func(*uintptr) int32
	coreFree     func(uintptr)
	coreDevices  func(uintptr, *deviceList) int32
	devicesFree  func(*deviceList)
	coreProperty func(core uintptr, device, key string, value **byte) int32
	coreRead     func(core uintptr, model, weights *byte, out *uintptr) int32
	coreCompile  func(core, model uintptr, device *byte, n uintptr, properties *property, out *uintptr) int32

	modelFree       func(uintptr)
	modelOutputs    func(uintptr, *uintptr) int32
	modelOutput     func(model, index uintptr, port *uintptr) int32
	portName        func(port uintptr, name **byte) int32
	portShape       func(port uintptr, shape *partialShape) int32
	portType        func(port uintptr, elem *int32) int32
	partialFree     func(*partialShape)
	portFree        func(uintptr)
	compiledFree    func(uintptr)
	compiledOutputs func(uintptr, *uintptr) int32
	compiledInputs  func(uintptr, *uintptr) int32
	compiledInput   func(compiled, index uintptr, port *uintptr) int32
	compiledOutput  func(compiled, index uintptr, port *uintptr) int32
	compiledRequest func(compiled uintptr, request *uintptr) int32
	compiledProp    func(compiled uintptr, key string, value **byte) int32

	requestFree      func(uintptr)
	requestSetInput  func(request, index, tensor uintptr) int32
	requestSetOutput func(request, index, tensor uintptr) int32
	requestGetOutput func(request, index uintptr, tensor *uintptr) int32
	requestStart     func(uintptr) int32
	requestWait      func(uintptr) int32
	requestCancel    func(uintptr) int32

	tensorFree  func(uintptr)
	tensorShape func(tensor uintptr, shape *shape) int32
	tensorType  func(tensor uintptr, elem *int32) int32
	tensorSize  func(tensor uintptr, elements *uintptr) int32
	tensorData  func(tensor uintptr, data *unsafe.Pointer) int32
	shapeFree   func(*shape) int32
	tensorOf    tensorOf
}

// The runtime's structs.
type (
	version struct {
		build *byte
		_     *byte // description
	}

	deviceList struct {
		names **byte
		size  uintptr
	}

	property struct{ key, value *byte }

	shape struct {
		rank int64
		dims *int64
	}

	dimension struct{ min, max int64 }

	partialShape struct {
		rank dimension
		dims *dimension
	}
)

func (f *functions) table() []vendorlib.Func {
	return []vendorlib.Func{
		{Name: "ov_get_error_info", To: &f.errorInfo},
		{Name: "ov_get_last_err_msg", To: &f.lastError},
		{Name: "ov_free", To: &f.free},
		{Name: "ov_get_openvino_version", To: &f.version},
		{Name: "ov_version_free", To: &f.versionFree},
		{Name: "ov_core_create", To: &f.coreCreate},
		{Name: "ov_core_free", To: &f.coreFree},
		{Name: "ov_core_get_available_devices", To: &f.coreDevices},
		{Name: "ov_available_devices_free", To: &f.devicesFree},
		{Name: "ov_core_get_property", To: &f.coreProperty},
		{Name: "ov_core_read_model", To: &f.coreRead},
		{Name: "ov_core_compile_model_props", To: &f.coreCompile},
		{Name: "ov_model_free", To: &f.modelFree},
		{Name: "ov_model_outputs_size", To: &f.modelOutputs},
		{Name: "ov_model_const_output_by_index", To: &f.modelOutput},
		{Name: "ov_port_get_any_name", To: &f.portName},
		{Name: "ov_port_get_partial_shape", To: &f.portShape},
		{Name: "ov_port_get_element_type", To: &f.portType},
		{Name: "ov_partial_shape_free", To: &f.partialFree},
		{Name: "ov_output_const_port_free", To: &f.portFree},
		{Name: "ov_compiled_model_free", To: &f.compiledFree},
		{Name: "ov_compiled_model_outputs_size", To: &f.compiledOutputs},
		{Name: "ov_compiled_model_inputs_size", To: &f.compiledInputs},
		{Name: "ov_compiled_model_input_by_index", To: &f.compiledInput},
		{Name: "ov_compiled_model_output_by_index", To: &f.compiledOutput},
		{Name: "ov_compiled_model_create_infer_request", To: &f.compiledRequest},
		{Name: "ov_compiled_model_get_property", To: &f.compiledProp},
		{Name: "ov_infer_request_free", To: &f.requestFree},
		{Name: "ov_infer_request_set_input_tensor_by_index", To: &f.requestSetInput},
		{Name: "ov_infer_request_set_output_tensor_by_index", To: &f.requestSetOutput},
		{Name: "ov_infer_request_get_output_tensor_by_index", To: &f.requestGetOutput},
		{Name: "ov_infer_request_start_async", To: &f.requestStart},
		{Name: "ov_infer_request_wait", To: &f.requestWait},
		{Name: "ov_infer_request_cancel", To: &f.requestCancel},
		{Name: "ov_tensor_free", To: &f.tensorFree},
		{Name: "ov_tensor_get_shape", To: &f.tensorShape},
		{Name: "ov_tensor_get_element_type", To: &f.tensorType},
		{Name: "ov_tensor_get_size", To: &f.tensorSize},
		{Name: "ov_tensor_data", To: &f.tensorData},
		{Name: "ov_shape_free", To: &f.shapeFree},
		{Name: "ov_tensor_create_from_host_ptr", To: &f.tensorOf},
	}
}

// Open loads the runtime at path, binds it and checks its version. Errors are
// vendorlib's and *Error.
func Open(path string) (*Library, error) {
	lib, err := vendorlib.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Library{path: path}
	// The version first: of a version that is not known, a function may be missing.
	table := l.fn.table()
	known := 0
	for i, f := range table {
		if f.Name == "ov_version_free" {
			known = i + 1
		}
	}
	if err := lib.Bind(table[:known]); err != nil {
		return nil, err
	}
	var v version
	if err := l.check("ov_get_openvino_version", func() int32 { return l.fn.version(&v) }); err != nil {
		return nil, err
	}
	l.version = text(v.build)
	l.fn.versionFree(&v)
	if err := Versions.Check("OpenVINO", l.version); err != nil {
		return nil, err
	}
	return l, lib.Bind(table[known:])
}

// Path is the file that was loaded.
func (l *Library) Path() string { return l.path }

// Version is the runtime's, as it words it.
func (l *Library) Version() string { return l.version }

// Status is what the runtime's functions return.
type Status int32

// Those statuses that somebody acts upon.
const (
	StatusNotImplemented Status = -2
	StatusCancelled      Status = -13
)

// Error is a call that the runtime refused.
type Error struct {
	Call    string
	Status  Status
	Message string // the runtime's
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Call, e.Message)
}

// check makes a call and turns its status into an error. The runtime keeps its last
// message by thread.
func (l *Library) check(name string, call func() int32) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := call()
	if status == 0 {
		return nil
	}
	e := &Error{Call: name, Status: Status(status)}
	if p := l.fn.lastError(); p != nil {
		e.Message = strings.TrimSpace(text(p))
		l.fn.free(p)
	}
	if e.Message == "" {
		e.Message = text(l.fn.errorInfo(status))
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("status %d", status)
	}
	return e
}

// text copies a C string.
func text(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

// cstring is s with the byte that ends it in C.
func cstring(s string) *byte {
	return &append([]byte(s), 0)[0]
}
