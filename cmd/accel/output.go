package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/tensor"
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
		return writeVectors(w, e.vectors)
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

// writeVectors writes an array of float32 [inputs, dimensions].
func writeVectors(w io.Writer, vectors [][]float32) error {
	columns := 0
	if len(vectors) > 0 {
		columns = len(vectors[0])
	}
	return tensorfile.WriteNPY(w, tensor.Floats(tensor.Shape{int64(len(vectors)), int64(columns)}, slices.Concat(vectors...)...))
}
