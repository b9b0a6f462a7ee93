package models

import "github.com/accelhq/accel/core/checkpoint"

// roberta is RoBERTa (arXiv:1907.11692), XLM-RoBERTa (arXiv:1911.02116) and
// CamemBERT (arXiv:1911.03894): BERT's encoder with positions counted from the
// padding token's number, and heads of its own.
var roberta = &variant{
	prefix: "roberta.",
	config: func(f checkpoint.Fields) encoderConfig {
		c := bertFields(f, 1)
		c.countFromPad = true
		return c
	},
	layer: bertLayer,
	heads: robertaHeads("Roberta", "XLMRoberta", "Camembert"),
}

func robertaHeads(families ...string) map[string]func(*encoder) {
	heads := map[string]func(*encoder){}
	for _, family := range families {
		heads[family+"ForMaskedLM"] = func(e *encoder) {
			e.vocabulary("logits", "gelu", vocabularyNames{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias"})
		}
		heads[family+"ForSequenceClassification"] = func(e *encoder) { e.classifyFirst("classifier.dense", "tanh", "classifier.out_proj") }
		heads[family+"ForTokenClassification"] = classifyTokens
		heads[family+"ForQuestionAnswering"] = answer
	}
	return heads
}
