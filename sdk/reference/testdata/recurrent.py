#!/usr/bin/env python3
"""Write recurrent.json: what ONNX Runtime makes of RNN, GRU and LSTM nodes.

    recurrent.py > recurrent.json

ONNX's node tests leave out clipping, ragged sequences in reverse, coupled gates,
peepholes in two directions and most activations.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
SEQ, BATCH, INPUT, HIDDEN = 5, 3, 2, 4

CASES = [
    ("RNN", {}, "BLH"),
    ("RNN", {"direction": "reverse", "clip": 0.4}, "BLH"),
    ("RNN", {"direction": "bidirectional", "activations": ["Affine", "LeakyRelu"],
             "activation_alpha": [0.5, 0.1], "activation_beta": [0.25]}, "BL"),
    ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]}, "B"),
    ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.7], "activation_beta": [1.5]}, "BH"),
    ("RNN", {"activations": ["Elu"], "activation_alpha": [0.5]}, "H"),
    ("RNN", {"activations": ["Softsign"]}, "H"),
    ("RNN", {"activations": ["Softplus"]}, "H"),
    ("GRU", {"direction": "bidirectional"}, "BLH"),
    ("GRU", {"direction": "bidirectional", "linear_before_reset": 1}, "BLH"),
    ("GRU", {"direction": "reverse", "linear_before_reset": 1, "activations": ["HardSigmoid", "Relu"],
             "activation_alpha": [0.3], "activation_beta": [0.4]}, "BL"),
    ("GRU", {"clip": 0.3}, "BH"),
    ("LSTM", {"direction": "bidirectional"}, "BLHCP"),
    ("LSTM", {"direction": "reverse", "input_forget": 1}, "BLHC"),
    ("LSTM", {"clip": 0.3}, "BHCP"),
    ("LSTM", {"direction": "bidirectional",
              "activations": ["HardSigmoid", "Softsign", "Tanh", "Sigmoid", "Relu", "Elu"],
              "activation_alpha": [0.25, 0.5], "activation_beta": [0.45]}, "BL"),
]


def case(op, attrs, has, rng):
    dirs = 2 if attrs.get("direction") == "bidirectional" else 1
    n = GATES[op] * HIDDEN
    draw = lambda *s: rng.normal(0, 0.6, s).astype(np.float32)
    inputs = {
        "X": draw(SEQ, BATCH, INPUT),
        "W": draw(dirs, n, INPUT),
        "R": draw(dirs, n, HIDDEN),
        "B": draw(dirs, 2 * n) if "B" in has else None,
        "sequence_lens": np.array([3, 5, 1], np.int32) if "L" in has else None,
        "initial_h": draw(dirs, BATCH, HIDDEN) if "H" in has else None,
    }
    outputs = ["Y", "Y_h"]
    if op == "LSTM":
        inputs["initial_c"] = draw(dirs, BATCH, HIDDEN) if "C" in has else None
        inputs["P"] = draw(dirs, 3 * HIDDEN) if "P" in has else None
        outputs.append("Y_c")
    names = [k if v is not None else "" for k, v in inputs.items()]
    given = {k: v for k, v in inputs.items() if v is not None}
    node = helper.make_node(op, names, outputs, hidden_size=HIDDEN, **attrs)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * (4 if k == "Y" else 3)) for k in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    flat = lambda v: None if v is None else {"shape": list(v.shape), "data": [float(f"{x:.8g}") for x in v.ravel()]}
    return {
        "op": op, "attrs": attrs,
        "inputs": [flat(v) for v in inputs.values()],
        "outputs": [flat(v) for v in session.run(outputs, given)],
    }


def main():
    rng = np.random.default_rng(7)
    json.dump([case(*c, rng) for c in CASES], sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
