package models

// qwen2 is Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on q, k and v, windows on
// some layers.
var qwen2 = &family{qkvBias: true, window: slidingLayers}

// qwen3 is Qwen3 (arXiv:2505.09388): q and k normalised by head, heads of a size of
// their own.
var qwen3 = &family{headDim: 128, headNorm: true, biasSettings: true, window: slidingLayers}
