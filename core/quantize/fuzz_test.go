package quantize

import (
	"bytes"
	"errors"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
)

// FuzzImport reads models and tokenizers of hostile metadata.
func FuzzImport(f *testing.F) {
	meta := func(more map[string]any) map[string]any {
		m := map[string]any{"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 1, "llama.embedding_length": 4,
			"llama.feed_forward_length": 4, "llama.context_length": 8, "llama.attention.layer_norm_rms_epsilon": 1e-5,
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": []string{"a", "b", "ab"}, "tokenizer.ggml.merges": []string{"a b"}}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	tensors := map[string]ggufTensor{"token_embd.weight": {typeF32, []int64{3, 4}, make([]byte, 48)}, "blk.0.attn_q.weight": {typeF16, []int64{4, 4}, make([]byte, 32)},
		ropeFactors: {typeF32, []int64{2}, []byte{0, 0, 128, 63, 0, 0, 0, 65}}}
	for _, more := range []map[string]any{nil, {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": []float32{0, 0, -1}, "tokenizer.ggml.token_type": []int32{1, 6, 2}},
		{"llama.attention.head_count_kv": []int32{1, 1}, "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.add_bos_token": true},
		{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0, "llama.rope.scaling.original_context_length": 4}} {
		f.Add((&ggufFile{meta(more), tensors}).bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := checkpoint.ParseGGUF("x", data)
		if err != nil {
			return
		}
		var wrong *checkpoint.Error
		m, err := readModel(g)
		if err != nil {
			if m != nil || !errors.As(err, &wrong) {
				t.Fatalf("found %v and %T: %v", m, err, err)
			}
		} else {
			for _, w := range m.weights {
				if w.layout != nil && w.quantized().K*w.quantized().N != w.info.Length/w.info.Type.Bytes*w.info.Type.Block {
					t.Fatalf("%s is %+v", w.stored, w.quantized())
				}
				for row := range min(w.rows(), 100) { // every row is one of the file's
					if w.row != nil && (w.row(row) < 0 || w.row(row) >= w.rows()) {
						t.Fatalf("%s: row %d is row %d", w.stored, row, w.row(row))
					}
				}
			}
		}
		if tok, err := readTokenizer(g); err != nil && (tok != nil || !errors.As(err, &wrong)) {
			t.Fatalf("found %v and %T: %v", tok, err, err)
		}
	})
}

// FuzzJournal reads what a killed run left: of another run nothing counts, and of the same
// one whole lines.
func FuzzJournal(f *testing.F) {
	f.Add([]byte("key\n{\"name\":\"a\",\"error\":0.5}\n{\"name\":\"b"))
	f.Add([]byte("other\n{\"name\":\"a\",\"error\":0.5}\n"))
	f.Add([]byte("key"))
	f.Fuzz(func(t *testing.T, data []byte) {
		j := &journal{done: map[string]Written{}}
		j.read(data, "key")
		first, rest, _ := bytes.Cut(data, []byte("\n"))
		if len(j.done) > 0 && string(bytes.TrimSuffix(first, []byte("\r"))) != "key" {
			t.Fatalf("%d tensors of another run", len(j.done))
		}
		if n := bytes.Count(rest, []byte("\n")) + 1; len(j.done) > n {
			t.Fatalf("%d tensors in %d lines", len(j.done), n)
		}
		for name, w := range j.done {
			if w.Name != name {
				t.Fatalf("%q is called %q", name, w.Name)
			}
		}
	})
}

// FuzzPolicy reads tables of precisions.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte("formats: {a: {bits: 4, block: 64}}\nroles: {head: [head]}\nprecisions: {x: {rest: a, ends: a}}\naccepted: {x: {loss: 1}}\nclasses: {rest: {rest: x}}"))
	f.Add([]byte("classes: {rest: {rest: x}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := readPolicy(data)
		if err != nil {
			return
		}
		for name, c := range p.Precisions {
			for _, format := range append([]string{c.Rest}, c.Choose...) {
				if p.Formats[format].Bits == 0 {
					t.Fatalf("%s has the format %q", name, format)
				}
			}
		}
	})
}
