package models

// llama is LLaMA (arXiv:2302.13971, 2307.09288, 2407.21783), and what is a
// configuration of it, such as SmolLM and TinyLlama.
var llama = &family{biasSettings: true}

// mistral is LLaMA whose layers look back over a window (arXiv:2310.06825).
var mistral = &family{window: oneWindow}
