"""Writes blocks.safetensors: of every GGUF type that is kept in blocks, a few rows of
random blocks, and what the gguf package (PyPI) says that they mean.

    python -m venv venv && venv/bin/pip install gguf==0.19.0 && venv/bin/python vectors.py
"""
import json
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType, dequantize
from gguf.constants import GGML_QUANT_SIZES

# Where in a block its float16 numbers stand.
HALVES = {"Q4_0": [0], "Q8_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(12)
tensors = {}
for name, halves in HALVES.items():
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    rows = rng.integers(0, 256, (3, 512 // block, size), dtype=np.uint8)
    for at in halves:
        # Of a K type they multiply integers: none must overflow.
        value = rng.normal(0, 0.02, rows.shape[:2]).astype(np.float16)
        rows[:, :, at : at + 2] = value[..., None].view(np.uint8)
    rows = rows.reshape(3, -1)
    tensors[name + ".blocks"] = rows
    tensors[name + ".values"] = dequantize(rows, kind)

header, data = {}, b""
for name, t in sorted(tensors.items(), key=lambda item: item[1].dtype == np.uint8):
    header[name] = {"dtype": {"float32": "F32", "uint8": "U8"}[str(t.dtype)], "shape": t.shape, "data_offsets": [len(data), len(data) + t.nbytes]}
    data += t.tobytes()
text = json.dumps(header).encode()
text += b" " * (-(len(text) + 8) % 64)
path = pathlib.Path(__file__).with_name("blocks.safetensors")
path.write_bytes(struct.pack("<Q", len(text)) + text + data)
