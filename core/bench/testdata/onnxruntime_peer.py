"""ONNX Runtime as a peer: the same BERT encoder, from the same safetensors, on the same number of threads.

usage: onnxruntime_peer.py MODEL_DIR THREADS

The encoder is written as exporters write it, and once more with ONNX's own Attention operator; where the transformers
optimizer that comes with ONNX Runtime can fuse the first, that is a third form. The fastest form is the peer. Then each line on
standard input "BATCH LENGTH RUNS" is answered by one line: the seconds of each run.
"""
import json
import os
import struct
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def weights(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        if t["dtype"] == "F32":
            out[name.removeprefix("bert.")] = np.frombuffer(data[begin:end], np.float32).reshape(t["shape"])
    return out


def encoder(config, w, attention):
    """The graph: input_ids, attention_mask, token_type_ids -> last_hidden_state."""
    heads, hidden, eps = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
    dim = hidden // heads
    nodes, inits, count = [], [], [0]

    def const(value, name=None):
        name = name or f"c{len(inits)}"
        inits.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def op(kind, *inputs, **attrs):
        count[0] += 1
        out = f"v{count[0]}"
        nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{count[0]}", **attrs))
        return out

    def linear(x, name):
        y = op("MatMul", x, const(w[name + ".weight"].T))
        return op("Add", const(w[name + ".bias"]), y)

    def norm(x, name):
        return op("LayerNormalization", x, const(w[name + ".weight"]), const(w[name + ".bias"]), epsilon=eps, axis=-1)

    words = op("Gather", const(w["embeddings.word_embeddings.weight"]), "input_ids")
    types = op("Gather", const(w["embeddings.token_type_embeddings.weight"]), "token_type_ids")
    length = op("Gather", op("Shape", "input_ids"), const(np.array(1, np.int64)), axis=0)
    positions = op("Unsqueeze", op("Range", const(np.array(0, np.int64)), length, const(np.array(1, np.int64))), const(np.array([0], np.int64)))
    places = op("Gather", const(w["embeddings.position_embeddings.weight"]), positions)
    x = norm(op("Add", op("Add", words, types), places), "embeddings.LayerNorm")
    if attention:
        mask = op("Unsqueeze", op("Cast", "attention_mask", to=TensorProto.BOOL), const(np.array([1, 2], np.int64)))
        # ONNX Runtime wants a row of the mask for each query.
        one = const(np.array([1], np.int64))
        rows = op("Unsqueeze", length, const(np.array([0], np.int64)))
        mask = op("Expand", mask, op("Concat", one, one, rows, one, axis=0))
    else:
        m = op("Cast", op("Unsqueeze", "attention_mask", const(np.array([1, 2], np.int64))), to=TensorProto.FLOAT)
        mask = op("Mul", op("Sub", const(np.array(1, np.float32)), m), const(np.array(-3.4028234663852886e38, np.float32)))
    shape_in, shape_out = const(np.array([0, 0, heads, dim], np.int64)), const(np.array([0, 0, hidden], np.int64))
    for i in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        q, k, v = (linear(x, p + "attention.self." + n) for n in ("query", "key", "value"))
        if attention:
            o = op("Attention", q, k, v, mask, q_num_heads=heads, kv_num_heads=heads)
        else:
            q = op("Transpose", op("Reshape", q, shape_in), perm=[0, 2, 1, 3])
            k = op("Transpose", op("Reshape", k, shape_in), perm=[0, 2, 3, 1])
            v = op("Transpose", op("Reshape", v, shape_in), perm=[0, 2, 1, 3])
            s = op("Div", op("MatMul", q, k), const(np.array(dim**0.5, np.float32)))
            s = op("Softmax", op("Add", s, mask), axis=-1)
            o = op("Reshape", op("Transpose", op("MatMul", s, v), perm=[0, 2, 1, 3]), shape_out)
        x = norm(op("Add", linear(o, p + "attention.output.dense"), x), p + "attention.output.LayerNorm")
        h = linear(x, p + "intermediate.dense")
        if attention:
            h = op("Gelu", h)
        else:
            e = op("Erf", op("Div", h, const(np.array(2**0.5, np.float32))))
            h = op("Mul", op("Mul", h, op("Add", e, const(np.array(1, np.float32)))), const(np.array(0.5, np.float32)))
        x = norm(op("Add", linear(h, p + "output.dense"), x), p + "output.LayerNorm")
    nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    ints = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    outs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", hidden])]
    model = helper.make_model(helper.make_graph(nodes, "bert", ints, outs, inits), opset_imports=[helper.make_opsetid("", 23 if attention else 17)])
    model.ir_version = 10
    return model


def feeds(config, batch, length):
    rng = np.random.default_rng(7)
    return {
        "input_ids": rng.integers(0, config["vocab_size"], (batch, length), dtype=np.int64),
        "attention_mask": np.ones((batch, length), np.int64),
        "token_type_ids": np.zeros((batch, length), np.int64),
    }


def timed(session, inputs, runs):
    out = []
    for _ in range(runs):
        begin = time.perf_counter()
        session.run(None, inputs)
        out.append(time.perf_counter() - begin)
    return out


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    w = weights(os.path.join(folder, "model.safetensors"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    forms = {}
    with tempfile.TemporaryDirectory() as tmp:
        for name, attention in (("exported", False), ("attention", True)):
            path = os.path.join(tmp, name + ".onnx")
            onnx.save(encoder(config, w, attention), path)
            forms[name] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        try:
            from onnxruntime.transformers import optimizer

            fused = optimizer.optimize_model(os.path.join(tmp, "exported.onnx"), model_type="bert",
                                             num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"], opt_level=0)
            path = os.path.join(tmp, "fused.onnx")
            fused.save_model_to_file(path)
            forms["fused"] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # the optimizer wants packages that ONNX Runtime itself does not
            print(f"no fused form: {e}", file=sys.stderr)
        sample = feeds(config, 1, 128)
        first = None
        speed = {}
        for name, session in forms.items():
            y = session.run(None, sample)[0]
            if first is None:
                first = y
            elif not np.allclose(first, y, atol=1e-3):
                sys.exit(f"the form {name} computes something else")
            speed[name] = min(timed(session, sample, 5))
        best = min(speed, key=speed.get)
        print(f"onnxruntime {ort.__version__} {best}", flush=True)
        for line in sys.stdin:
            batch, length, runs = map(int, line.split())
            print(*timed(forms[best], feeds(config, batch, length), runs), flush=True)


main()
