package backend

import (
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// LoadModel reads and checks the model in a graph folder, as Assess and Compile
// receive one. What is wrong with the folder is CodeInvalid, argument graph_dir.
// The model's Close unmaps its weights.
func LoadModel(dir string) (*graph.Model, error) {
	m, err := graph.Load(dir)
	if err != nil {
		return nil, Invalid("graph_dir", "%v", err)
	}
	if err := m.Check(); err != nil {
		_ = m.Close() // read only; the check's error is the one to tell
		return nil, Invalid("graph_dir", "%v", err)
	}
	return m, nil
}

// Host is the value as a tensor in host memory: the tensor itself, or a copy of
// what the buffer holds.
func (v Value) Host() (tensor.Tensor, error) {
	if v.Kind != graph.KindTensor {
		return tensor.Tensor{}, Internal("%s is used as a tensor", describe(v.Datum))
	}
	if v.Buffer == nil {
		return v.Tensor, nil
	}
	t, err := tensor.New(v.Tensor.DType, v.Tensor.Shape)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return t, readAll(v.Buffer, t.Data, v.Offset)
}
