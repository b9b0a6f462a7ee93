"""Writes a GGUF file of a LLaMA of any shape with random weights of Q4_0, its embedding
table in Q8_0 and tied, with the tokenizer of another file.

    random_gguf.py FROM.gguf TO.gguf layers hidden heads kv_heads inner
"""

import os
import sys

import gguf
import numpy as np

source, target = sys.argv[1:3]
layers, hidden, heads, kv_heads, inner = map(int, sys.argv[3:])
rng = np.random.default_rng(1)
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(target + ".part", "llama")
for field in reader.fields.values():
    if field.name.startswith("tokenizer."):
        kind = field.types[0]
        inside = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inside)
vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
writer.add_block_count(layers)
writer.add_context_length(8192)
writer.add_embedding_length(hidden)
writer.add_feed_forward_length(inner)
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_rope_dimension_count(hidden // heads)
writer.add_rope_freq_base(10000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(vocabulary)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)


def blocks(name, rows, columns, kind, code_bytes, scale):
    data = np.empty((rows, columns // 32, 2 + code_bytes), np.uint8)
    data[..., :2] = (scale * (0.5 + rng.random((rows, columns // 32, 1), np.float32))).astype(np.float16).view(np.uint8).reshape(rows, -1, 2)
    data[..., 2:] = rng.integers(0, 256, data[..., 2:].shape, np.uint8)
    writer.add_tensor(name, data.reshape(rows, -1), raw_dtype=kind)


def linear(name, out, into):
    blocks(name, out, into, gguf.GGMLQuantizationType.Q4_0, 16, 0.2 / into**0.5)


def norm(name):
    writer.add_tensor(name, np.ones(hidden, np.float32))


blocks("token_embd.weight", vocabulary, hidden, gguf.GGMLQuantizationType.Q8_0, 32, 0.01 / hidden**0.5)
for i in range(layers):
    p = f"blk.{i}."
    norm(p + "attn_norm.weight")
    linear(p + "attn_q.weight", hidden, hidden)
    linear(p + "attn_k.weight", hidden // heads * kv_heads, hidden)
    linear(p + "attn_v.weight", hidden // heads * kv_heads, hidden)
    linear(p + "attn_output.weight", hidden, hidden)
    norm(p + "ffn_norm.weight")
    linear(p + "ffn_gate.weight", inner, hidden)
    linear(p + "ffn_up.weight", inner, hidden)
    linear(p + "ffn_down.weight", hidden, inner)
norm("output_norm.weight")
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
os.rename(target + ".part", target)
