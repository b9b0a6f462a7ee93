package models

import "github.com/accelhq/accel/core/checkpoint"

// bert is BERT (arXiv:1810.04805), and what shares its model_type: MiniLM, most
// models of sentence-transformers.
var bert = &variant{
	prefix: "bert.",
	config: func(f checkpoint.Fields) encoderConfig { return bertFields(f, 0) },
	layer:  bertLayer,
	heads: map[string]func(*encoder){
		"BertForPreTraining": func(e *encoder) {
			e.vocabulary("prediction_logits", e.c.act, bertVocabulary)
			e.classifyPooled("seq_relationship_logits", "cls.seq_relationship")
		},
		"BertForMaskedLM":               func(e *encoder) { e.vocabulary("logits", e.c.act, bertVocabulary) },
		"BertForNextSentencePrediction": func(e *encoder) { e.classifyPooled("logits", "cls.seq_relationship") },
		"BertForSequenceClassification": func(e *encoder) { e.classifyPooled("logits", "classifier") },
		"BertForTokenClassification":    classifyTokens,
		"BertForQuestionAnswering":      answer,
	},
}

var bertLayer = layerNames{
	q:             "encoder.layer.%d.attention.self.query",
	k:             "encoder.layer.%d.attention.self.key",
	v:             "encoder.layer.%d.attention.self.value",
	out:           "encoder.layer.%d.attention.output.dense",
	attentionNorm: "encoder.layer.%d.attention.output.LayerNorm",
	up:            "encoder.layer.%d.intermediate.dense",
	down:          "encoder.layer.%d.output.dense",
	norm:          "encoder.layer.%d.output.LayerNorm",
}

var bertVocabulary = vocabularyNames{
	dense:   "cls.predictions.transform.dense",
	norm:    "cls.predictions.transform.LayerNorm",
	decoder: "cls.predictions.decoder",
	bias:    "cls.predictions.bias",
}
