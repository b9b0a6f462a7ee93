package checkpoint

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/tensor"
)

// dataAlign is what headers are padded to, in bytes, so that data that starts the
// file is aligned for every kernel.
const dataAlign = 64

// SafetensorsPlan is a safetensors file to be written: its header, and where the
// tensors' data goes.
type SafetensorsPlan struct {
	Header []byte // with the 8 bytes of its length
	Size   int64  // bytes of the whole file
	order  []string
	at     map[string]int64
}

// Offset is where the data of a tensor begins, in bytes from the start of the file.
func (p *SafetensorsPlan) Offset(name string) int64 { return p.at[name] }

// PlanSafetensors lays out a file of tensors, of which only type and shape count.
// The header is padded so that data begins at a multiple of 64 bytes; tensors that
// keep to that, by their length, come first, then the others with the widest
// elements first, so that every one is aligned at least for its type.
func PlanSafetensors(tensors map[string]tensor.Tensor, metadata map[string]string) (*SafetensorsPlan, error) {
	rank := map[tensor.DType]int{}
	for i, t := range storedTypes {
		if t.dtype != tensor.Undefined {
			rank[t.dtype] = i
		}
	}
	p := &SafetensorsPlan{at: map[string]int64{}}
	sizes := map[string]int64{}
	for name, t := range tensors {
		if name == "__metadata__" || !utf8.ValidString(name) {
			return nil, fmt.Errorf("write safetensors: no tensor can be called %q", name)
		}
		if _, ok := rank[t.DType]; !ok {
			return nil, fmt.Errorf("write safetensors: tensor %q: the format has no type for %s", name, t.DType)
		}
		n, err := t.Shape.Elements()
		if err == nil {
			sizes[name], err = tensor.ByteSize(t.DType, t.Shape)
		}
		if err != nil {
			return nil, fmt.Errorf("write safetensors: tensor %q: %w", name, err)
		}
		if n*int64(t.DType.Bits())%8 != 0 {
			return nil, fmt.Errorf("write safetensors: tensor %q: %s%v ends within a byte, which the format can't hold", name, t.DType, t.Shape)
		}
		p.order = append(p.order, name)
	}
	ragged := func(name string) int { return min(int(sizes[name]%dataAlign), 1) }
	slices.SortFunc(p.order, func(a, b string) int {
		return cmp.Or(cmp.Compare(ragged(a), ragged(b)), cmp.Compare(rank[tensors[b].DType], rank[tensors[a].DType]), cmp.Compare(a, b))
	})

	header := append(make([]byte, 8), '{')
	member := func(key string, value any) error {
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if len(header) > 9 {
			header = append(header, ',')
		}
		header = append(append(append(header, k...), ':'), v...)
		return nil
	}
	if metadata != nil {
		if err := member("__metadata__", metadata); err != nil {
			return nil, err
		}
	}
	var offset int64
	for _, name := range p.order {
		t := tensors[name]
		shape := []int64(t.Shape)
		if shape == nil {
			shape = []int64{}
		}
		err := member(name, struct {
			DType   string   `json:"dtype"`
			Shape   []int64  `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}{storedTypes[rank[t.DType]].name, shape, [2]int64{offset, offset + sizes[name]}})
		if err != nil {
			return nil, err
		}
		p.at[name] = offset
		offset += sizes[name]
	}
	header = append(header, '}')
	for len(header)%dataAlign != 0 {
		header = append(header, ' ')
	}
	if len(header)-8 > maxHeader {
		return nil, fmt.Errorf("write safetensors: the header has %d bytes, more than the %d that readers take", len(header)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(header, uint64(len(header)-8))
	for name := range p.at {
		p.at[name] += int64(len(header))
	}
	p.Header, p.Size = header, int64(len(header))+offset
	return p, nil
}

// WriteSafetensors writes tensors as PlanSafetensors lays them out.
func WriteSafetensors(w io.Writer, tensors map[string]tensor.Tensor, metadata map[string]string) error {
	p, err := PlanSafetensors(tensors, metadata)
	if err != nil {
		return err
	}
	for name, t := range tensors {
		if err := t.Check(); err != nil {
			return fmt.Errorf("write safetensors: tensor %q: %w", name, err)
		}
	}
	if _, err := w.Write(p.Header); err != nil {
		return err
	}
	for _, name := range p.order {
		if _, err := w.Write(tensors[name].Data); err != nil {
			return err
		}
	}
	return nil
}
