package models

import "github.com/accelhq/accel/core/checkpoint"

// distilbert is DistilBERT (arXiv:1910.01108): BERT without token types and
// pooler, under names of its own.
var distilbert = &variant{
	prefix: "distilbert.",
	config: func(f checkpoint.Fields) encoderConfig {
		c := encoderConfig{
			vocab:     f.Int("vocab_size", 1, maxVocab),
			positions: f.Int("max_position_embeddings", 1, maxTokens),
			hidden:    f.Int("dim", 1, maxWidth),
			layers:    f.Int("n_layers", 1, maxLayers),
			heads:     f.Int("n_heads", 1, maxWidth),
			inner:     f.Int("hidden_dim", 1, maxInner),
			act:       activation(f, "activation", "gelu"),
			eps:       1e-12,
		}
		c.embedding = c.hidden
		c.common(f, "dim", "n_heads", 0)
		return c
	},
	layer: layerNames{
		q:             "transformer.layer.%d.attention.q_lin",
		k:             "transformer.layer.%d.attention.k_lin",
		v:             "transformer.layer.%d.attention.v_lin",
		out:           "transformer.layer.%d.attention.out_lin",
		attentionNorm: "transformer.layer.%d.sa_layer_norm",
		up:            "transformer.layer.%d.ffn.lin1",
		down:          "transformer.layer.%d.ffn.lin2",
		norm:          "transformer.layer.%d.output_layer_norm",
	},
	heads: map[string]func(*encoder){
		"DistilBertForMaskedLM": func(e *encoder) {
			e.vocabulary("logits", e.c.act, vocabularyNames{dense: "vocab_transform", norm: "vocab_layer_norm", decoder: "vocab_projector", bias: "vocab_projector.bias"})
		},
		"DistilBertForSequenceClassification": func(e *encoder) { e.classifyFirst("pre_classifier", "relu", "classifier") },
		"DistilBertForTokenClassification":    classifyTokens,
		"DistilBertForQuestionAnswering":      answer,
	},
}
