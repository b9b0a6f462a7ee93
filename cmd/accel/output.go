package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/tasks"
)

// row is one input and its vector, as json and jsonl write it.
type row struct {
	Index     int       `json:"index"`
	Text      string    `json:"text"`
	Embedding []float32 `json:"embedding"`
}

// format writes a run's outputs in the form that was asked for. width is the
// terminal's; 0: as wide as need be.
func (a *app) format(w io.Writer, o config.Output, e *embedding, width int) error {
	switch o.Format {
	case "json":
		rows := make([]row, len(e.vectors))
		for i, v := range e.vectors {
			rows[i] = row{i, e.texts[i], v}
		}
		return json.NewEncoder(w).Encode(struct {
			*embedding
			Pairs      []tasks.Pair `json:"pairs,omitempty"`
			Embeddings []row        `json:"embeddings"`
		}{e, tasks.NearestPairs(e.vectors, o.Pairs), rows})
	case "jsonl":
		enc := json.NewEncoder(w)
		for i, v := range e.vectors {
			if err := enc.Encode(row{i, e.texts[i], v}); err != nil {
				return err
			}
		}
		return nil
	case "npy":
		return writeNPY(w, e.vectors)
	}
	t := table{header: []string{"COSINE", "SENTENCE", "NEAREST"}, right: []bool{true}}
	for _, p := range tasks.NearestPairs(e.vectors, o.Pairs) {
		t.add(fmt.Sprintf("%.4f", p.Cosine), e.texts[p.A], e.texts[p.B])
	}
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, "There are no pairs: it takes two inputs, and output.pairs above 0.")
		return err
	}
	return t.write(w, styleOf(w, a.environ), width)
}

// writeNPY writes an array of float32 [inputs, dimensions] in NumPy's format 1.0:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
func writeNPY(w io.Writer, vectors [][]float32) error {
	columns := 0
	if len(vectors) > 0 {
		columns = len(vectors[0])
	}
	const preamble, align = 10, 64
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", len(vectors), columns)
	header += strings.Repeat(" ", align-1-(preamble+len(header))%align) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	b = append(b, header...)
	for _, v := range vectors {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	_, err := w.Write(b)
	return err
}
