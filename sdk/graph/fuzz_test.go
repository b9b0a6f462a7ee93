package graph

import (
	"bytes"
	"testing"
)

func FuzzParse(f *testing.F) {
	data, err := Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(modelWire(wire(nil).bytes(5, tensorWire(6, 2).bytes(5, packedInts(-1, 2))))))
	f.Add([]byte(externalModel("w.bin", "4")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, WithLimits(Limits{Dense: 1 << 16}))
		if err != nil {
			return
		}
		first, err := Marshal(m)
		if err != nil {
			// External data that leads outside is read, but not written.
			return
		}
		again, err := Parse(first)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		second, err := Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Error("written twice, the bytes differ")
		}
		_ = m.Check()
		c := m.Clone()
		if c.Graph.Sort() == nil && c.Check() == nil {
			c.Prune()
		}
	})
}

func FuzzParseTensor(f *testing.F) {
	f.Add([]byte(tensorWire(1, 2).bytes(9, packedFloats(1, -2))))
	f.Add([]byte(tensorWire(6, 2).int(5, 1, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		name, v, err := ParseTensor(data)
		if err != nil {
			return
		}
		out, err := AppendTensor(nil, name, v)
		if err != nil {
			t.Fatal(err)
		}
		name2, v2, err := ParseTensor(out)
		if err != nil || name2 != name || v2.DType != v.DType || !v2.Shape.Equal(v.Shape) || !bytes.Equal(v2.Data, v.Data) {
			t.Fatalf("%+v came back as %+v, %v", v, v2, err)
		}
		_, _, _ = ParseDatum(data, KindSequence)
		_, _, _ = ParseDatum(data, KindOptional)
	})
}
