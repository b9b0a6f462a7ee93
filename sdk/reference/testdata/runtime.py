#!/usr/bin/env python3
"""Write runtime.json: what ONNX Runtime makes of nodes that ONNX has few tests of.

    runtime.py > runtime.json

Recurrent operators with clipping, ragged sequences in reverse, coupled gates,
peepholes in two directions and most activations; regions; n-grams; text; trees.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper

rng = np.random.default_rng(7)


def draw(*shape):
    return rng.normal(0, 0.6, shape).astype(np.float32)


def recurrent(op, attrs, has):
    """A case over ragged sequences; has names the optional inputs that are given."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    seq, batch, width, hidden = 5, 3, 2, 4
    dirs = 2 if attrs.get("direction") == "bidirectional" else 1
    inputs = {
        "X": draw(seq, batch, width),
        "W": draw(dirs, gates * hidden, width),
        "R": draw(dirs, gates * hidden, hidden),
        "B": draw(dirs, 2 * gates * hidden) if "B" in has else None,
        "sequence_lens": np.array([3, 5, 1], np.int32) if "L" in has else None,
        "initial_h": draw(dirs, batch, hidden) if "H" in has else None,
    }
    outputs = 2
    if op == "LSTM":
        inputs["initial_c"] = draw(dirs, batch, hidden) if "C" in has else None
        inputs["P"] = draw(dirs, 3 * hidden) if "P" in has else None
        outputs = 3
    return op, "", 14, {"hidden_size": hidden, **attrs}, inputs, outputs


def cases():
    yield recurrent("RNN", {}, "BLH")
    yield recurrent("RNN", {"direction": "reverse", "clip": 0.4}, "BLH")
    yield recurrent("RNN", {"direction": "bidirectional", "activations": ["Affine", "LeakyRelu"],
                            "activation_alpha": [0.5, 0.1], "activation_beta": [0.25]}, "BL")
    yield recurrent("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]}, "B")
    yield recurrent("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.7], "activation_beta": [1.5]}, "BH")
    yield recurrent("RNN", {"activations": ["Elu"], "activation_alpha": [0.5]}, "H")
    yield recurrent("RNN", {"activations": ["Softsign"]}, "H")
    yield recurrent("RNN", {"activations": ["Softplus"]}, "H")
    yield recurrent("GRU", {"direction": "bidirectional"}, "BLH")
    yield recurrent("GRU", {"direction": "bidirectional", "linear_before_reset": 1}, "BLH")
    yield recurrent("GRU", {"direction": "reverse", "linear_before_reset": 1, "activations": ["HardSigmoid", "Relu"],
                            "activation_alpha": [0.3], "activation_beta": [0.4]}, "BL")
    yield recurrent("GRU", {"clip": 0.3}, "BH")
    yield recurrent("LSTM", {"direction": "bidirectional"}, "BLHCP")
    yield recurrent("LSTM", {"direction": "reverse", "input_forget": 1}, "BLHC")
    yield recurrent("LSTM", {"clip": 0.3}, "BHCP")
    yield recurrent("LSTM", {"direction": "bidirectional",
                             "activations": ["HardSigmoid", "Softsign", "Tanh", "Sigmoid", "Relu", "Elu"],
                             "activation_alpha": [0.25, 0.5], "activation_beta": [0.45]}, "BL")

    # Regions: inside, over the edge, beyond it, of no size, turned around.
    x = draw(2, 2, 6, 7)
    rois = np.array([[0.5, 1, 5, 4.5], [-3, -2, 3, 2.5], [4, 3, 10.8, 8.9], [2, 2, 2, 2], [20, 20, 25, 25]], np.float32)
    which = np.array([0, 1, 1, 0, 0], np.int64)
    for attrs in (
        {"output_height": 2, "output_width": 3},
        {"output_height": 2, "output_width": 2, "sampling_ratio": 3, "spatial_scale": 0.5},
        {"output_height": 3, "output_width": 2, "coordinate_transformation_mode": "output_half_pixel"},
        {"output_height": 2, "output_width": 2, "mode": "max", "sampling_ratio": 2, "coordinate_transformation_mode": "output_half_pixel"},
    ):
        yield "RoiAlign", "", 16, attrs, {"X": x, "rois": rois, "batch_indices": which}, 1
    boxes = np.concatenate([which[:, None].astype(np.float32), rois], axis=1)
    yield "MaxRoiPool", "", 13, {"pooled_shape": [2, 3]}, {"X": x, "rois": boxes}, 1
    yield "MaxRoiPool", "", 13, {"pooled_shape": [3, 2], "spatial_scale": 0.5}, {"X": x, "rois": boxes}, 1

    centers = np.abs(draw(2, 12, 4)) + 0.2
    scores = rng.integers(0, 5, (2, 3, 12)).astype(np.float32) / 4
    for most, iou, least in ((3, 0.3, 0.4), (100, 0.5, -1), (0, 0.5, 0)):
        yield "NonMaxSuppression", "", 11, {"center_point_box": 1}, {
            "boxes": centers, "scores": scores, "max_output_boxes_per_class": np.array([most], np.int64),
            "iou_threshold": np.array([iou], np.float32), "score_threshold": np.array([least], np.float32)}, 1

    words = np.array([["a", "b", "a", "c", "b", "a"], ["c", "c", "b", "x", "a", "b"]])
    grams = {"min_gram_length": 1, "max_gram_length": 3, "ngram_counts": [0, 3, 7],
             "ngram_indexes": [0, 1, 2, 3, 4, 5], "pool_strings": ["a", "b", "c", "a", "b", "b", "a", "a", "b", "a"]}
    weights = [0.5, 1.5, 2.0, 0.25, 3.0, 4.0]
    for mode in ("TF", "IDF", "TFIDF"):
        for skip in (0, 2):
            yield "TfIdfVectorizer", "", 9, {**grams, "mode": mode, "max_skip_count": skip, "weights": weights}, {"X": words}, 1
    yield "TfIdfVectorizer", "", 9, {**grams, "mode": "TF", "max_skip_count": 1, "min_gram_length": 2}, {"X": words[0]}, 1

    text = np.array(["Monday", "tuesday", "Wednesday", "monday"])
    for attrs in ({"case_change_action": "UPPER"}, {"case_change_action": "LOWER", "is_case_sensitive": 1}, {"is_case_sensitive": 1}):
        yield "StringNormalizer", "", 10, {"stopwords": ["monday", "WEDNESDAY"], "locale": "C", **attrs}, {"X": text}, 1
    # Not the empty string: the runtime splits it into nothing, ONNX into one part.
    spaced = np.array([" a  b c ", "  ", "one", " \t x y\n"])
    yield "StringSplit", "", 20, {"delimiter": "  "}, {"X": spaced}, 2
    yield "StringSplit", "", 20, {"delimiter": " ", "maxsplit": 1}, {"X": spaced}, 2
    yield "RegexFullMatch", "", 20, {"pattern": "a|ab|(?i)C+"}, {"X": np.array(["ab", "abc", "cC", "", "a\n"])}, 1

    squares = draw(2, 3, 4, 4)
    squares[0, 0] = 0
    yield "Det", "", 11, {}, {"X": squares}, 1

    ml = "ai.onnx.ml"
    yield "LabelEncoder", ml, 2, {"keys_floats": [1.0, 2.5, float("nan")], "values_strings": ["one", "more", "none"]}, {
        "X": np.array([[1, 2.5], [3, -1]], np.float32)}, 1
    yield "LabelEncoder", ml, 2, {"keys_strings": ["a", "b"], "values_floats": [0.5, 1.5], "default_float": -2.0}, {"X": words}, 1
    tree = {
        "n_targets": 2, "tree_roots": [0, 2],
        "nodes_modes": np.array([0, 3, 1, 2], np.uint8),
        "nodes_splits": np.array([0.1, -0.2, 0.3, 0.0], np.float32),
        "nodes_featureids": [0, 1, 2, 0],
        "nodes_truenodeids": [1, 0, 3, 3], "nodes_trueleafs": [0, 1, 0, 1],
        "nodes_falsenodeids": [2, 1, 5, 4], "nodes_falseleafs": [1, 1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 0, 1],
        "leaf_weights": np.array([0.5, -1.5, 2, 0.25, 1, -0.75], np.float32),
    }
    rows = draw(6, 3)
    # Not post_transform: the runtime takes 1 for the logistic function and 2 for
    # softmax, which ONNX counts the other way round.
    for extra in ({}, {"aggregate_function": 0}, {"aggregate_function": 2}, {"aggregate_function": 3}):
        yield "TreeEnsemble", ml, 5, {**tree, **extra}, {"X": rows}, 1


def flat(v):
    if v is None:
        return None
    kind = "string" if v.dtype.kind in "UO" else v.dtype.name
    data = [float(f"{x:.8g}") for x in v.ravel()] if v.dtype.kind == "f" else [x.item() if hasattr(x, "item") else x for x in v.ravel()]
    return {"type": kind, "shape": list(v.shape), "data": data}


def run(op, domain, opset, attrs, inputs, outputs):
    names = [k if v is not None else "" for k, v in inputs.items()]
    given = {k: v for k, v in inputs.items() if v is not None}
    made = [f"out{i}" for i in range(outputs)]
    as_attr = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
    node = helper.make_node(op, names, made, domain=domain, **as_attr)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(k, onnx.TensorProto.STRING if v.dtype.kind == "U" else helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
         for k, v in given.items()],
        [helper.make_empty_tensor_value_info(k) for k in made])
    opsets = [helper.make_opsetid("", 14 if domain else opset)] + ([helper.make_opsetid(domain, opset)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return {
        "op": op, "domain": domain, "opset": opset,
        "attrs": {k: flat(v) if isinstance(v, np.ndarray) else [str(x) if x != x else x for x in v] if isinstance(v, list) else v
                  for k, v in attrs.items()},
        "inputs": [flat(v) for v in inputs.values()],
        "outputs": [flat(np.asarray(v)) for v in session.run(made, given)],
    }


def main():
    sys.stdout.write("[\n" + ",\n".join(json.dumps(run(*c), separators=(",", ":"), ensure_ascii=False) for c in cases()) + "\n]\n")


if __name__ == "__main__":
    main()
