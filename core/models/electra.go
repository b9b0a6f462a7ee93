package models

import (
	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
)

// electra is ELECTRA (arXiv:2003.10555), discriminator and generator: BERT's
// encoder with embeddings that may be narrower, and without a pooler.
var electra = &variant{
	prefix: "electra.",
	config: func(f checkpoint.Fields) encoderConfig {
		c := bertFields(f, 0)
		c.embedding = f.Int("embedding_size", 1, maxWidth)
		return c
	},
	layer: bertLayer,
	heads: map[string]func(*encoder){
		"ElectraForPreTraining": func(e *encoder) {
			const dense, out = "discriminator_predictions.dense", "discriminator_predictions.dense_prediction"
			x := e.activate(dense, e.c.act, e.linear(dense, e.hidden, dense, e.c.hidden, e.c.hidden))
			x = e.linear(out, x, out, e.c.hidden, 1)
			e.output("logits", e.in(out).Op("Squeeze", []string{x, e.Ints(-1)}), graph.Sym(Sequence))
		},
		"ElectraForMaskedLM": func(e *encoder) {
			e.vocabulary("logits", "gelu", vocabularyNames{dense: "generator_predictions.dense", norm: "generator_predictions.LayerNorm", decoder: "generator_lm_head", bias: "generator_lm_head.bias"})
		},
		"ElectraForSequenceClassification": func(e *encoder) { e.classifyFirst("classifier.dense", "gelu", "classifier.out_proj") },
		"ElectraForTokenClassification":    classifyTokens,
		"ElectraForQuestionAnswering":      answer,
	},
}
