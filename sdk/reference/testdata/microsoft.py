#!/usr/bin/env python3
"""Writes vectors of com.microsoft operators, as ONNX Runtime computes them.

usage: microsoft.py FOLDER    (with the packages onnx, onnxruntime and numpy)

Each case is one model file, FOLDER/OPERATOR/CASE.onnx: one node, its inputs as
initializers, and what ONNX Runtime's CPU kernels gave for its outputs as
initializers called want.NAME, which no node reads. NaN in those means that any
value is right there. Cases are drawn from a seed of their own name.

FOLDER/schemas.json has the signatures of these operators, as nodetests.py writes
those of ONNX.
"""
import json
import pathlib
import sys
import zlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state

F32, F16, I32, I64, U8, I8 = np.float32, np.float16, np.int32, np.int64, np.uint8, np.int8
CASES = []


class Rand:
    """Random tensors, few digits, so that sums differ little between kernels."""

    def __init__(self, name):
        self.r = np.random.default_rng(zlib.crc32(name.encode()))

    def f(self, *shape, t=F32, scale=1.0):
        return (self.r.standard_normal(shape) * scale).astype(t)

    def ints(self, lo, hi, *shape, t=I64):
        return self.r.integers(lo, hi, shape).astype(t)

    def u8(self, *shape, t=U8):
        return self.ints(np.iinfo(t).min, np.iinfo(t).max + 1, *shape, t=t)

    def table(self, rows, half):
        """Caches of cosines and sines."""
        angle = np.arange(rows)[:, None] * 10000.0 ** (-np.arange(half) / half)
        return np.cos(angle).astype(F32), np.sin(angle).astype(F32)


class Packed:
    """An initializer of a type that numpy lacks, as its bytes."""

    def __init__(self, elem, shape, raw):
        self.elem, self.shape, self.raw = elem, shape, bytes(raw)


def case(op, name, outputs=1, domain="com.microsoft", imports=17, unspecified=None, **attrs):
    """Decorates a function of Rand that gives the inputs of a case. outputs is
    their number or their names, "" for one that is not wanted."""

    def add(f):
        assert not any(c[:2] == (op, name) for c in CASES), f"{op}/{name} is there twice"
        CASES.append((op, name, f, outputs, domain, imports, unspecified, attrs))
        return f

    return add


def initializer(name, v):
    if isinstance(v, Packed):
        return TensorProto(name=name, data_type=v.elem, dims=v.shape, raw_data=v.raw)
    return numpy_helper.from_array(np.asarray(v), name)


def value(name):
    """An output, its type left open except where ONNX Runtime can't tell it."""
    if name == "qk":
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_empty_tensor_value_info(name)


def write(folder, op, name, f, outputs, domain, imports, unspecified, attrs):
    inputs = list(f(Rand(op + "/" + name)))
    while inputs and inputs[-1] is None:
        inputs.pop()
    ins = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    outs = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(op, ins, outs, name=op, domain=domain, **attrs)
    weights = [initializer(n, v) for n, v in zip(ins, inputs) if n]
    graph = helper.make_graph([node], name, [], [value(o) for o in outs if o], weights)
    opsets = [helper.make_opsetid("", imports)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    got = dict(zip([o for o in outs if o], session.run(None, {})))
    if unspecified:
        unspecified(got)
    for n, v in got.items():
        graph.initializer.append(numpy_helper.from_array(v, "want." + n))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="microsoft.py")
    path = folder / op / (name + ".onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return got


# Activations.

for op in ["Gelu", "QuickGelu", "FastGelu"]:
    case(op, "plain")(lambda r: [r.f(3, 17, scale=3)])
case("QuickGelu", "alpha", alpha=0.7)(lambda r: [r.f(3, 17, scale=3)])
case("QuickGelu", "silu", alpha=1.0)(lambda r: [r.f(2, 3, 5, scale=3)])
case("FastGelu", "bias")(lambda r: [r.f(2, 3, 9), r.f(9)])
case("BiasGelu", "rows")(lambda r: [r.f(2, 3, 9), r.f(9)])
case("BiasGelu", "vector")(lambda r: [r.f(9), r.f(9)])

# Norms.

for t, n in [(F32, "f32"), (F16, "f16")]:
    for axis in [-1, 1]:
        case("SimplifiedLayerNormalization", f"{n}_axis{axis}".replace("-", "m"), domain="", axis=axis, epsilon=1e-5)(
            lambda r, t=t, axis=axis: [r.f(2, 3, 8, t=t), r.f(*((8,) if axis == -1 else (3, 8)), t=t)])
    for op in ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"]:
        beta = [None] if op == "SkipSimplifiedLayerNormalization" else []
        case(op, n + "_plain", epsilon=1e-6)(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(2, 3, 8, t=t), r.f(8, t=t)])
        case(op, n + "_sum", ["y0", "", "", "y3"], epsilon=1e-5)(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(2, 3, 8, t=t), r.f(8, t=t)])
        if op == "SkipLayerNormalization":
            case(op, n + "_all", ["y0", "", "", "y3"])(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(2, 3, 8, t=t), r.f(8, t=t), r.f(8, t=t), r.f(8, t=t)])
        else:
            case(op, n + "_all", ["y0", "", "", "y3"])(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(2, 3, 8, t=t), r.f(8, t=t), r.f(8, t=t)])
        case(op, n + "_skip_one_batch")(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(1, 3, 8, t=t), r.f(8, t=t)])
        case(op, n + "_skip_2d")(lambda r, t=t: [r.f(2, 3, 8, t=t), r.f(3, 8, t=t), r.f(8, t=t)])
        case(op, n + "_rows")(lambda r, t=t: [r.f(3, 8, t=t), r.f(3, 8, t=t), r.f(8, t=t)])
case("SimplifiedLayerNormalization", "inverse", 2, domain="")(lambda r: [r.f(2, 3, 8), r.f(8)])
case("LayerNormalization", "opset16", 3, domain="", imports=16)(lambda r: [r.f(2, 3, 8), r.f(8), r.f(8)])
case("LayerNormalization", "opset12", domain="", imports=12, axis=1, epsilon=1e-3)(lambda r: [r.f(2, 3, 8), r.f(3, 8), r.f(3, 8)])


def embed(r, segments=True, mask=False, positions=None, n=4):
    x = [r.ints(0, 10, 2, n, t=I32), r.ints(0, 2, 2, n, t=I32) if segments else None, r.f(10, 8), r.f(6, 8),
         r.f(2, 8) if segments else None, r.f(8), r.f(8)]
    x.append(np.array([[1, 1, 1, 0], [1, 0, 1, 1]], I32) if mask else None)
    if positions is not None:
        x.append(r.ints(0, 6, positions, n, t=I32))
    return x


case("EmbedLayerNormalization", "plain", ["y0", ""])(lambda r: embed(r))
case("EmbedLayerNormalization", "no_segments", ["y0", ""])(lambda r: embed(r, segments=False))
case("EmbedLayerNormalization", "mask", 2)(lambda r: embed(r, mask=True))
case("EmbedLayerNormalization", "no_mask_index", 2)(lambda r: embed(r))
case("EmbedLayerNormalization", "all", 3, epsilon=1e-5)(lambda r: embed(r, mask=True, positions=2))
case("EmbedLayerNormalization", "one_row_of_positions", ["y0", "", "y2"])(lambda r: embed(r, positions=1))

# Products.

case("FusedMatMul", "alpha", alpha=0.25)(lambda r: [r.f(3, 5), r.f(5, 4)])
for ta in (0, 1):
    for tb in (0, 1):
        case("FusedMatMul", f"trans{ta}{tb}", transA=ta, transB=tb, alpha=2.0)(
            lambda r, ta=ta, tb=tb: [r.f(2, *((5, 3) if ta else (3, 5))), r.f(2, *((4, 5) if tb else (5, 4)))])
        case("FusedMatMul", f"trans{ta}{tb}_broadcast", transA=ta, transB=tb)(
            lambda r, ta=ta, tb=tb: [r.f(2, 1, *((5, 3) if ta else (3, 5))), r.f(3, *((4, 5) if tb else (5, 4)))])
case("FusedMatMul", "vectors", transA=1, transB=1)(lambda r: [r.f(5), r.f(5)])
case("FusedMatMul", "vector_left", transA=1)(lambda r: [r.f(5), r.f(2, 5, 3)])
case("FusedMatMul", "vector_right", transB=1)(lambda r: [r.f(2, 3, 5), r.f(5)])
case("FusedMatMul", "transBatchA", transBatchA=1)(lambda r: [r.f(3, 2, 5), r.f(2, 5, 4)])
case("FusedMatMul", "transBatchB", transBatchB=1)(lambda r: [r.f(2, 3, 5), r.f(5, 2, 4)])
case("FusedMatMul", "transBatchA_transA", transBatchA=1, transA=1)(lambda r: [r.f(5, 2, 3), r.f(2, 5, 4)])
case("FusedMatMul", "transBatchB_transB", transBatchB=1, transB=1)(lambda r: [r.f(2, 3, 5), r.f(4, 2, 5)])
case("FusedMatMul", "transBatch_rank4", transBatchA=1, transBatchB=1)(lambda r: [r.f(4, 2, 3, 5), r.f(5, 2, 3, 6)])
case("TransposeMatMul", "trans", transA=1, transB=1, alpha=0.5)(lambda r: [r.f(5, 3), r.f(4, 5)])
for act, params in [("Relu", {}), ("LeakyRelu", dict(activation_alpha=0.1)), ("Sigmoid", {}), ("Tanh", {}), ("Elu", dict(activation_alpha=0.7)),
                    ("HardSigmoid", dict(activation_alpha=0.3, activation_beta=0.4)), ("Softplus", {}), ("Softsign", {}),
                    ("Selu", dict(activation_alpha=1.5, activation_gamma=1.1)), ("ThresholdedRelu", dict(activation_alpha=0.5))]:
    case("FusedGemm", act, activation=act, alpha=0.5, beta=1.5, transB=1, **params)(lambda r: [r.f(3, 5), r.f(4, 5), r.f(4)])
case("FusedGemm", "no_bias", activation="Relu", transA=1)(lambda r: [r.f(5, 3), r.f(5, 4)])
for act, params in [("Relu", None), ("Tanh", None), ("Sigmoid", None), ("LeakyRelu", [0.1]), ("Clip", [-0.5, 0.75]), ("HardSigmoid", [0.2, 0.5])]:
    case("FusedConv", act, activation=act, pads=[1, 1, 1, 1], **({"activation_params": params} if params else {}))(
        lambda r: [r.f(1, 2, 4, 5), r.f(3, 2, 3, 3), r.f(3)])
case("FusedConv", "sum", activation="Relu", strides=[2, 1])(lambda r: [r.f(1, 2, 5, 5), r.f(3, 2, 3, 3), r.f(3), r.f(1, 3, 2, 3)])
case("FusedConv", "sum_only", group=2)(lambda r: [r.f(1, 2, 5, 5), r.f(4, 1, 3, 3), None, r.f(1, 4, 3, 3)])

# Weights of few bits.


def nbits(r, bits, m, k, n, block, t=F32, zero=None, g_idx=False, bias=False):
    blocks = -(-k // block)
    x = [r.f(*m, k, t=t), r.u8(n, blocks, block * bits // 8), r.f(n, blocks, t=t, scale=0.1)]
    z = {None: None, "packed": lambda: r.u8(n, -(-blocks * bits // 8)), "float": lambda: r.f(n, blocks, t=t, scale=3)}[zero]
    x.append(z() if z else None)
    x.append((np.arange(k) // block)[::-1].astype(I32) if g_idx else None)
    x.append(r.f(n, t=t) if bias else None)
    return x


for bits in (2, 4, 8):
    for zero in (None, "packed", "float")[:2 if bits == 8 else 3]:
        case("MatMulNBits", f"{bits}bits_zero_{zero}".lower(), K=80, N=3, bits=bits, block_size=32)(
            lambda r, bits=bits, zero=zero: nbits(r, bits, (2,), 80, 3, 32, zero=zero, bias=zero == "packed"))
    case("MatMulNBits", f"{bits}bits_f16", K=64, N=3, bits=bits, block_size=16)(
        lambda r, bits=bits: nbits(r, bits, (2, 2), 64, 3, 16, t=F16, zero="packed", bias=True))
    if bits < 8:
        case("MatMulNBits", f"{bits}bits_f16_zero_float", K=64, N=3, bits=bits, block_size=16)(
            lambda r, bits=bits: nbits(r, bits, (2,), 64, 3, 16, t=F16, zero="float"))
case("MatMulNBits", "block128", K=160, N=2, bits=4, block_size=128)(lambda r: nbits(r, 4, (1,), 160, 2, 128, zero="packed"))
case("MatMulNBits", "block16_odd", K=40, N=2, bits=4, block_size=16)(lambda r: nbits(r, 4, (3,), 40, 2, 16, zero="packed"))
for zero in (None, "float"):  # with packed zero points and g_idx the kernel takes no notice of the former
    case("MatMulNBits", f"g_idx_zero_{zero}".lower(), K=64, N=3, bits=4, block_size=16)(
        lambda r, zero=zero: nbits(r, 4, (2,), 64, 3, 16, zero=zero, g_idx=True))
case("MatMulNBits", "accuracy1", K=64, N=3, bits=4, block_size=32, accuracy_level=1)(lambda r: nbits(r, 4, (2,), 64, 3, 32))
case("MatMulNBits", "omitted", K=64, N=3, bits=4, block_size=32)(lambda r: [r.f(2, 64), np.zeros((0, 2, 16), U8), np.zeros((0, 2), F32)])
case("MatMulNBits", "omitted_bias", K=64, N=3, bits=4, block_size=32)(
    lambda r: [r.f(2, 64), np.zeros((3, 2, 0), U8), r.f(3, 2), None, None, r.f(3)])


def blocked(r, data, scales, zero=None, ids=None, t=F32, it=I64):
    x = [data, ids if ids is not None else r.ints(0, 5, 2, 3, t=it), r.f(*scales, t=t), zero]
    return x


def four(r, elem, *shape):
    return Packed(elem, shape, r.u8((int(np.prod(shape)) + 1) // 2))


G = "GatherBlockQuantized"
case(G, "int4", block_size=16, quantize_axis=1, gather_axis=0)(lambda r: blocked(r, four(r, TensorProto.INT4, 5, 32), (5, 2)))
case(G, "uint4_zero", block_size=16, quantize_axis=1, gather_axis=0)(
    lambda r: blocked(r, four(r, TensorProto.UINT4, 5, 40), (5, 3), four(r, TensorProto.UINT4, 5, 3)))
case(G, "uint4_axis0", block_size=16, quantize_axis=0, gather_axis=1)(
    lambda r: blocked(r, four(r, TensorProto.UINT4, 40, 5), (3, 5), four(r, TensorProto.UINT4, 3, 5), it=I32))
case(G, "int4_rank3", block_size=16, quantize_axis=2, gather_axis=1)(
    lambda r: blocked(r, four(r, TensorProto.INT4, 2, 5, 16), (2, 5, 1), four(r, TensorProto.INT4, 2, 5, 1)))
case(G, "int4_same_axis", block_size=16, quantize_axis=0, gather_axis=0)(
    lambda r: blocked(r, four(r, TensorProto.INT4, 40, 3), (3, 3), ids=r.ints(-40, 40, 7)))
case(G, "int4_f16", block_size=16)(lambda r: blocked(r, four(r, TensorProto.INT4, 5, 32), (5, 2), t=F16))
case(G, "out_of_range", block_size=16)(lambda r: blocked(r, four(r, TensorProto.INT4, 5, 16), (5, 1), ids=np.array([-1, -5, -6, 5, 100, 2], I64)))
for bits in (2, 4, 8):
    width = 32 * bits // 8
    case(G, f"uint8_{bits}bits", bits=bits, block_size=16)(lambda r, w=width: blocked(r, r.u8(5, w), (5, 2)))
    case(G, f"uint8_{bits}bits_zero", bits=bits, block_size=16, quantize_axis=-1)(
        lambda r, w=width, bits=bits: blocked(r, r.u8(5, w), (5, 2), r.u8(5, -(-2 * bits // 8))))
    case(G, f"uint8_{bits}bits_odd_blocks", bits=bits, block_size=16, quantize_axis=1)(
        lambda r, bits=bits: blocked(r, r.u8(5, 40 * bits // 8), (5, 3), r.u8(5, -(-3 * bits // 8)), t=F16))
finite = lambda r, *s: bytes(r.ints(0, 0x70, *s, t=U8).tobytes())
case(G, "fp8", block_size=16)(lambda r: blocked(r, Packed(TensorProto.FLOAT8E4M3FN, (5, 32), finite(r, 5, 32)), (5, 2)))
case(G, "fp8_row", block_size=0)(lambda r: blocked(r, Packed(TensorProto.FLOAT8E5M2, (5, 32), finite(r, 5, 32)), (5, 1)))
case(G, "fp8_tensor", block_size=0)(lambda r: blocked(r, Packed(TensorProto.FLOAT8E4M3FN, (5, 32), finite(r, 5, 32)), (1, 1)))
case(G, "fp4", block_size=16)(lambda r: blocked(r, Packed(TensorProto.FLOAT4E2M1, (5, 32), r.u8(80)), (5, 2)))

# Quantised operators.

one = lambda v, t=F32: np.array(v, t)
for b in (U8, I8):
    n = np.dtype(b).name
    case("DynamicQuantizeMatMul", n)(lambda r, b=b: [r.f(3, 16), r.u8(16, 4, t=b), one(0.02)])
    case("DynamicQuantizeMatMul", n + "_zero_bias")(lambda r, b=b: [r.f(2, 3, 16), r.u8(16, 4, t=b), one(0.02), one(3, b), r.f(4)])
    case("DynamicQuantizeMatMul", n + "_columns")(
        lambda r, b=b: [r.f(3, 16), r.u8(16, 4, t=b), np.abs(r.f(4)) * F32(0.1), r.ints(0, 9, 4, t=b), r.f(4)])
for a, b in [(U8, U8), (U8, I8), (I8, I8)]:
    n = np.dtype(a).name + "_" + np.dtype(b).name
    case("MatMulIntegerToFloat", n)(lambda r, a=a, b=b: [r.u8(3, 16, t=a), r.u8(16, 4, t=b), one(0.1), one(0.02)])
    case("MatMulIntegerToFloat", n + "_all")(lambda r, a=a, b=b: [
        r.u8(2, 3, 16, t=a), r.u8(16, 4, t=b), one(0.1), np.abs(r.f(4)) * F32(0.1), one(7, a), r.ints(0, 9, 4, t=b), r.f(4)])
for t in (U8, I8, np.int16, np.uint16):
    n = np.dtype(t).name
    z = 100 if t in (U8, np.uint16) else -5
    case("QuantizeLinear", n)(lambda r, t=t, z=z: [r.f(3, 7, scale=9), one(0.05), one(z, t)])
    case("QuantizeLinear", n + "_axis", axis=1)(lambda r, t=t, z=z: [r.f(3, 4, 5), np.array([.1, .2, .01, .03], F32), np.array([z, 0, 1, 2], t)])
    case("DequantizeLinear", n)(lambda r, t=t, z=z: [r.u8(3, 7, t=t), one(0.05), one(z, t)])
    case("DequantizeLinear", n + "_axis", axis=-2)(lambda r, t=t, z=z: [r.u8(3, 4, 5, t=t), np.array([.1, .2, .01, .03], F32), np.array([z, 0, 1, 2], t)])
for elem in (TensorProto.INT4, TensorProto.UINT4):
    case("DequantizeLinear", TensorProto.DataType.Name(elem).lower() + "_axis", axis=0)(
        lambda r, elem=elem: [four(r, elem, 3, 5), np.array([.1, .2, .3], F32), four(r, elem, 3)])
case("DequantizeLinear", "int32")(lambda r: [r.ints(-1000, 1000, 3, 7, t=I32), one(0.05)])
case("QuantizeLinear", "no_zero")(lambda r: [r.f(3, 7, scale=9), one(0.05)])
for t in (U8, I8):
    n, z = np.dtype(t).name, 120 if t == U8 else -3
    q = lambda s, z, t=t: [one(s), one(z, t)]  # of scales whose sums and products seldom lie half-way
    for op in ("QLinearAdd", "QLinearMul"):
        case(op, n)(lambda r, t=t, z=z, q=q: [r.u8(3, 17, t=t), *q(.1037, z), r.u8(3, 17, t=t), *q(.0719, z + 3), *q(.3011, z - 9)])
        case(op, n + "_broadcast")(lambda r, t=t, z=z, q=q: [r.u8(2, 1, 5, t=t), *q(.1037, z), r.u8(3, 1, t=t), *q(.0719, z + 3), *q(.3011, z - 9)])
        case(op, n + "_scalar")(lambda r, t=t, z=z, q=q: [one(7, t), *q(.1037, z), r.u8(3, 5, t=t), *q(.0719, z + 3), *q(.3011, z - 9)])
    case("QLinearSigmoid", n)(lambda r, t=t, z=z, q=q: [r.u8(3, 17, t=t), *q(.0523, z), *q(1 / 256, 0 if t == U8 else -128)])
    case("QLinearLeakyRelu", n, alpha=0.2)(lambda r, t=t, z=z, q=q: [r.u8(3, 17, t=t), *q(.0523, z), *q(.0419, z)])
    case("QLinearLeakyRelu", n + "_no_zeros")(lambda r, t=t: [r.u8(3, 17, t=t), one(.05), None, one(.04), one(0, t)])
    case("QLinearGlobalAveragePool", n)(lambda r, t=t, z=z, q=q: [r.u8(2, 3, 4, 5, t=t), *q(.0523, z), *q(.0213, z)])
    case("QLinearGlobalAveragePool", n + "_last", channels_last=1)(lambda r, t=t, z=z, q=q: [r.u8(2, 4, 5, 3, t=t), *q(.0523, z), *q(.0213, z)])
    case("QLinearAveragePool", n, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])(lambda r, t=t, z=z, q=q: [r.u8(1, 2, 5, 6, t=t), *q(.0523, z), *q(.0307, z)])
    case("QLinearAveragePool", n + "_include", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1, ceil_mode=1)(
        lambda r, t=t, z=z, q=q: [r.u8(1, 2, 5, 6, t=t), *q(.0523, z), *q(.0307, z)])
    case("QLinearAveragePool", n + "_last", kernel_shape=[3, 3], channels_last=1)(lambda r, t=t, z=z, q=q: [r.u8(1, 5, 6, 2, t=t), *q(.0523, z), *q(.0307, z)])
    case("QLinearConcat", n, axis=1)(lambda r, t=t, z=z, q=q: [*q(.1037, z), r.u8(2, 3, t=t), *q(.0523, z), r.u8(2, 4, t=t), *q(.2039, z + 4), r.u8(2, 1, t=t), *q(.1037, z)])
    case("QLinearConcat", n + "_last", axis=-1)(lambda r, t=t, z=z, q=q: [*q(.1037, z), r.u8(2, 3, 2, t=t), *q(.0523, z), r.u8(2, 3, 3, t=t), *q(.1037, z)])
    case("QLinearSoftmax", n, axis=-1, opset=13)(lambda r, t=t, z=z, q=q: [r.u8(3, 9, t=t), *q(.0523, z), *q(1 / 256, 0 if t == U8 else -128)])
    case("QLinearSoftmax", n + "_axis0", axis=0, opset=13)(lambda r, t=t, z=z, q=q: [r.u8(3, 9, t=t), *q(.0523, z), *q(1 / 256, 0 if t == U8 else -128)])
    case("QLinearSoftmax", n + "_opset12", axis=1, opset=12)(lambda r, t=t, z=z, q=q: [r.u8(2, 3, 3, t=t), *q(.0523, z), *q(1 / 256, 0 if t == U8 else -128)])
    case("QLinearWhere", n)(lambda r, t=t, z=z, q=q: [r.u8(3, 1) > 127, r.u8(3, 5, t=t), *q(.0523, z), r.u8(5, t=t), *q(.1037, z - 5), *q(.0811, z + 2)])
    case("NhwcMaxPool", n, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1])(lambda r, t=t: [r.u8(1, 5, 6, 3, t=t)])
    case("NhwcMaxPool", n + "_dilated", kernel_shape=[2, 2], dilations=[2, 1], ceil_mode=1)(lambda r, t=t: [r.u8(2, 5, 6, 2, t=t)])
    case("NhwcMaxPool", n + "_same", kernel_shape=[2, 3], auto_pad="SAME_UPPER", strides=[2, 2])(lambda r, t=t: [r.u8(1, 5, 6, 3, t=t)])
    case("QLinearConv", n + "_last", channels_last=1, pads=[1, 1, 1, 1], strides=[2, 2])(lambda r, t=t, z=z, q=q: [
        r.u8(1, 5, 6, 2, t=t), *q(.0523, z), r.u8(3, 2, 3, 3, t=t), np.array([.01, .02, .03], F32), np.array([0, 0, 0] if t == I8 else [9, 9, 9], t), *q(.6133, z), r.ints(-500, 500, 3, t=I32)])
    case("QLinearConv", n + "_first", group=2)(lambda r, t=t, z=z, q=q: [
        r.u8(1, 4, 5, 6, t=t), *q(.0523, z), r.u8(4, 2, 3, 3, t=t), one(.02), one(0 if t == I8 else 11, t), *q(.6133, z)])
    for bt in {U8: (U8, I8), I8: (I8,)}[t]:
        case("QGemm", f"{n}_{np.dtype(bt).name}", alpha=0.5, transB=1)(lambda r, t=t, z=z, q=q, bt=bt: [
            r.u8(3, 16, t=t), *q(.0523, z), r.u8(4, 16, t=bt), one(.02), one(0, bt), r.ints(-900, 900, 4, t=I32), *q(.4127, z)])
        case("QGemm", f"{n}_{np.dtype(bt).name}_float", transA=1)(lambda r, t=t, z=z, q=q, bt=bt: [
            r.u8(16, 3, t=t), *q(.0523, z), r.u8(16, 4, t=bt), np.abs(r.f(4)) * F32(.1), r.ints(0, 5, 4, t=bt), r.ints(-900, 900, 3, 1, t=I32)])
case("MatMulInteger16", "plain")(lambda r: [r.ints(-3000, 3000, 3, 5, t=np.int16), r.ints(-3000, 3000, 5, 4, t=np.int16)])
for qt in (0, 1):
    case("MatMulBnb4", ["fp4", "nf4"][qt], K=48, N=3, block_size=32, quant_type=qt)(lambda r: [r.f(2, 48), r.u8(72), np.abs(r.f(5))])

# Others.

for t in (F32, np.float64, I64):
    case("Trilu", "upper_" + np.dtype(t).name, upper=1)(lambda r, t=t: [r.ints(-9, 9, 2, 4, 5, t=t), np.array(1, I64)])
case("Trilu", "lower", upper=0)(lambda r: [r.f(4, 5), np.array(-1, I64)])
case("Trilu", "no_k")(lambda r: [r.f(4, 5)])
case("Trilu", "far", upper=0)(lambda r: [r.f(3, 4), np.array(9, I64)])
boxes = lambda: np.array([[0, 0, 1, 1], [.1, .2, .7, .9], [.9, .8, .2, .1], [-.2, 0, .5, 1.3]], F32)
for mode in ("bilinear", "nearest"):
    case("CropAndResize", mode, mode=mode, extrapolation_value=0.5)(
        lambda r: [r.f(2, 2, 6, 7), boxes(), np.array([0, 1, 0, 1], I32), np.array([3, 4], I32)])
case("CropAndResize", "one")(lambda r: [r.f(1, 1, 6, 7), boxes(), np.array([0, 0, 0, 0], I32), np.array([1, 1], I32)])
case("ExpandDims", "front")(lambda r: [r.f(2, 3), np.array(0, I32)])
case("ExpandDims", "back")(lambda r: [r.f(2, 3), np.array(-1, I32)])
case("UnfoldTensor", "last", size=3, step=2)(lambda r: [r.f(2, 3, 8)])
case("UnfoldTensor", "dim0", dim=0, size=2)(lambda r: [r.ints(0, 99, 5, 2)])

# Rotary embedding.


def rotary(r, shape, half, ids, rows=12, t=F32):
    cos, sin = r.table(rows, half)
    return [r.f(*shape, t=t), ids, cos.astype(t), sin.astype(t)]


ids2 = lambda r, n=5: r.ints(0, 12, 2, n)
for inter in (0, 1):
    n = "interleaved" if inter else "halves"
    case("RotaryEmbedding", n + "_3d", interleaved=inter)(lambda r: rotary(r, (2, 5, 16), 4, ids2(r)))
    case("RotaryEmbedding", n + "_4d", interleaved=inter)(lambda r: rotary(r, (2, 3, 5, 8), 4, ids2(r)))
    case("RotaryEmbedding", n + "_offset", interleaved=inter)(lambda r: rotary(r, (2, 5, 16), 4, np.array([3], I64)))
    case("RotaryEmbedding", n + "_part_3d", interleaved=inter, num_heads=2, rotary_embedding_dim=4)(lambda r: rotary(r, (2, 5, 16), 2, ids2(r)))
    case("RotaryEmbedding", n + "_part_4d", interleaved=inter, num_heads=3, rotary_embedding_dim=4)(lambda r: rotary(r, (2, 3, 5, 8), 2, ids2(r)))
    case("RotaryEmbedding", n + "_f16", interleaved=inter)(lambda r: rotary(r, (2, 5, 16), 4, ids2(r), t=F16))
case("RotaryEmbedding", "scale", scale=2.0)(lambda r: rotary(r, (2, 5, 16), 4, ids2(r)))
case("RotaryEmbedding", "packed_batching", is_packed_batching=1)(lambda r: rotary(r, (2, 5, 16), 4, ids2(r), rows=3 + 9))

# Attention. H heads of size D.


def mha(r, b=2, s=4, l=4, h=2, d=8, dv=None, form="3d", bias=False, mask=None, attention_bias=None, past=0, cross=False):
    dv = dv or d
    if form == "4d":
        x = [r.f(b, s, h * d), r.f(b, h, l, d), r.f(b, h, l, dv)]
    else:
        x = [r.f(b, s, h * d), r.f(b, l, h * d), r.f(b, l, h * dv)]
    x += [r.f(2 * h * d + h * dv) if bias else None, mask(r) if mask else None, r.f(*attention_bias) if attention_bias else None]
    if past:
        x += [r.f(b, h, past, d), r.f(b, h, past, dv)]
    return x


# Each row has a key that counts: of -10000 plus a score, float32 keeps few digits of the score.
mask3 = lambda r: np.maximum(r.ints(0, 2, 2, 4, 4, t=I32), np.eye(4, dtype=I32))
M = "MultiHeadAttention"
case(M, "plain", num_heads=2)(lambda r: mha(r))
case(M, "cross", num_heads=2)(lambda r: mha(r, s=3, l=5))
case(M, "values_of_other_size", num_heads=2)(lambda r: mha(r, dv=4, bias=True))
case(M, "bias", num_heads=2)(lambda r: mha(r, bias=True))
case(M, "key_4d", num_heads=2)(lambda r: mha(r, form="4d", s=3, l=5))
case(M, "scale", num_heads=2, scale=0.2)(lambda r: mha(r))
case(M, "unidirectional", num_heads=2, unidirectional=1)(lambda r: mha(r))
case(M, "unidirectional_past", 3, num_heads=2, unidirectional=1)(lambda r: mha(r, s=3, l=3, past=2))
case(M, "unidirectional_longer", num_heads=2, unidirectional=1)(lambda r: mha(r, s=3, l=5))
case(M, "mask_lengths", num_heads=2)(lambda r: mha(r, mask=lambda r: np.array([4, 2], I32)))
case(M, "mask_2d", num_heads=2)(lambda r: mha(r, l=5, mask=lambda r: np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], I32)))
case(M, "mask_2d_filter", num_heads=2, mask_filter_value=-3.0)(lambda r: mha(r, l=5, mask=lambda r: np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], I32)))
case(M, "mask_2d_of_none", num_heads=2, mask_filter_value=-9.0)(lambda r: mha(r, l=5, mask=lambda r: np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], I32)))
case(M, "mask_2d_total", 3, num_heads=2)(lambda r: mha(r, s=2, l=2, past=3, mask=lambda r: np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]], I32)))
case(M, "mask_3d", num_heads=2)(lambda r: mha(r, mask=mask3))
case(M, "mask_unidirectional", num_heads=2, unidirectional=1)(lambda r: mha(r, mask=lambda r: np.array([[1, 1, 1, 0], [0, 1, 1, 1]], I32)))
for i, s in enumerate([(2, 2, 4, 4), (1, 2, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]):
    case(M, f"attention_bias_{i}", num_heads=2)(lambda r, s=s: mha(r, attention_bias=s))
case(M, "attention_bias_mask", num_heads=2)(lambda r: mha(r, attention_bias=(2, 2, 4, 4), mask=lambda r: np.array([[1, 1, 1, 0], [0, 1, 1, 1]], I32)))
case(M, "past", 3, num_heads=2)(lambda r: mha(r, s=2, l=2, past=3))
case(M, "past_bias", 3, num_heads=2)(lambda r: mha(r, s=1, l=1, past=3, bias=True, attention_bias=(1, 2, 1, 4)))
case(M, "present", 3, num_heads=2)(lambda r: mha(r, bias=True))
case(M, "qk_mask", ["y0", "", "", "qk"], num_heads=2, unidirectional=1)(
    lambda r: mha(r, bias=True, attention_bias=(1, 2, 4, 4), mask=lambda r: np.array([[1, 1, 1, 0], [0, 1, 1, 1]], I32)))
case(M, "qk", ["y0", "y1", "y2", "qk"], num_heads=2)(lambda r: mha(r, s=2, l=2, past=3))


def attention(r, b=2, s=4, width=6, h=2, d=4, dv=None, bias=True, mask=None, past=0, attention_bias=None):
    n = 2 * h * d + h * (dv or d)
    x = [r.f(b, s, width), r.f(width, n), r.f(n) if bias else None, mask(r) if mask else None,
         r.f(2, b, h, past, d) if past else None, r.f(*attention_bias) if attention_bias else None]
    return x


A = "Attention"
case(A, "plain", num_heads=2)(lambda r: attention(r))
case(A, "no_bias", num_heads=2)(lambda r: attention(r, bias=False))
case(A, "scale", num_heads=2, scale=0.3)(lambda r: attention(r))
case(A, "unidirectional", num_heads=2, unidirectional=1)(lambda r: attention(r))
case(A, "sizes", num_heads=2, qkv_hidden_sizes=[8, 8, 12])(lambda r: attention(r, dv=6))
case(A, "mask_ends", num_heads=2)(lambda r: attention(r, mask=lambda r: np.array([4, 2], I32)))
case(A, "mask_ends_and_starts", num_heads=2)(lambda r: attention(r, mask=lambda r: np.array([4, 3, 1, 0], I32)))
case(A, "mask_2d", num_heads=2)(lambda r: attention(r, mask=lambda r: np.array([[1, 1, 0, 0], [0, 1, 1, 1]], I32)))
case(A, "mask_2d_filter", num_heads=2, mask_filter_value=-2.0)(lambda r: attention(r, mask=lambda r: np.array([[1, 1, 0, 0], [0, 1, 1, 1]], I32)))
case(A, "mask_3d", num_heads=2)(lambda r: attention(r, mask=mask3))
case(A, "mask_unidirectional", num_heads=2, unidirectional=1)(lambda r: attention(r, mask=lambda r: np.array([[1, 1, 0, 0], [0, 1, 1, 1]], I32)))
case(A, "present", 2, num_heads=2)(lambda r: attention(r))
case(A, "past", 2, num_heads=2)(lambda r: attention(r, s=2, past=3))
case(A, "past_unidirectional", 2, num_heads=2, unidirectional=1)(lambda r: attention(r, s=2, past=3))
case(A, "past_mask", 2, num_heads=2, unidirectional=1)(lambda r: attention(r, s=2, past=3, mask=lambda r: np.array([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]], I32)))
case(A, "past_empty", 2, num_heads=2)(lambda r: attention(r)[:4] + [np.zeros((2, 2, 2, 0, 4), F32)])
case(A, "attention_bias", num_heads=2)(lambda r: attention(r, attention_bias=(2, 2, 4, 4)))
case(A, "attention_bias_one", num_heads=2, unidirectional=1)(lambda r: attention(r, attention_bias=(1, 1, 4, 4)))


def qattention(r, t=U8, wt=I8, per_column=False, mask=None, past=0, b=2, s=3, width=6, h=2, d=4):
    n = 3 * h * d
    return [r.u8(b, s, width, t=t), r.u8(width, n, t=wt), r.f(n), one(.02), np.abs(r.f(n)) * F32(.02) if per_column else one(.01),
            mask(r) if mask else None, one(120, t), r.ints(0, 5, n, t=wt) if per_column else one(3, wt), r.f(2, b, h, past, d) if past else None]


case("QAttention", "plain", num_heads=2)(lambda r: qattention(r))
case("QAttention", "columns", num_heads=2, unidirectional=1)(lambda r: qattention(r, wt=U8, per_column=True))
case("QAttention", "mask_past", 2, num_heads=2)(lambda r: qattention(r, past=2, mask=lambda r: np.array([5, 3], I32)))

D = "DecoderMaskedMultiHeadAttention"
case(D, "shared_bias", 3, num_heads=2, past_present_share_buffer=1)(lambda r: [
    r.f(2, 1, 16), r.f(2, 1, 16), r.f(2, 1, 16), np.array([[1, 1, 1, 1], [0, 1, 1, 1]], I32), r.f(1, 2, 1, 4),
    r.f(2, 2, 6, 8), r.f(2, 2, 6, 8), np.array([3], I32), None, None, r.f(48)])
case(D, "cross", num_heads=2)(lambda r: [r.f(2, 1, 16), r.f(2, 2, 5, 8), r.f(2, 2, 5, 8)])
case(D, "cross_qk", ["y0", "", "", "qk"], num_heads=2, output_qk=1)(
    lambda r: [r.f(2, 1, 16), r.f(2, 2, 5, 8), r.f(2, 2, 5, 8), np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]], I32)])
case(D, "shared", 3, num_heads=2, past_present_share_buffer=1)(
    lambda r: [r.f(2, 1, 16), r.f(2, 1, 16), r.f(2, 1, 16), None, None, r.f(2, 2, 6, 8), r.f(2, 2, 6, 8), np.array([3], I32)])


def gqa(r, b=2, s=4, h=4, kv=2, d=None, totals=None, past=0, packed=False, rotary=False, positions=None, bias=None, sink=False, t=F32, half=None, total=None,
        cache=None, scales=None, lengths=None):
    d = d or (16 if rotary else 8)  # a multiple of 16 is wanted for rotation
    if packed:
        x = [r.f(b, s, (h + 2 * kv) * d, t=t), None, None]
    else:
        x = [r.f(b, s, h * d, t=t), r.f(b, s, kv * d, t=t), r.f(b, s, kv * d, t=t)]
    if cache:
        x += [cache(r), cache(r)]
    else:
        x += [r.f(b, kv, past, d, t=t), r.f(b, kv, past, d, t=t)] if past is not None else [None, None]
    totals = totals or [s] * b
    x += [np.array(totals, I32) - 1, np.array(total or max(totals), I32)]
    x += [v.astype(t) for v in r.table(24, half or d // 2)] if rotary else [None, None]
    x += [positions, r.f(*bias, t=t) if bias else None, r.f(h, t=t) if sink else None]
    if scales:
        x += scales
    if lengths:
        while len(x) < 16:
            x.append(None)
        x.append(np.array(lengths, I32))
    return x


def padded(*counts, s=None, cache=None):
    """Output rows past the valid ones of each sequence mean nothing, nor cache rows past its total."""
    def f(got):
        for b, n in enumerate(counts):
            got["y0"][b, n:] = np.nan
            for y in ("y1", "y2"):
                if cache and y in got:
                    got[y][b, :, cache[b]:] = np.nan
    return f


Q = "GroupQueryAttention"
N = dict(num_heads=4, kv_num_heads=2)
case(Q, "prompt", 3, **N)(lambda r: gqa(r))
case(Q, "prompt_no_past", 3, **N)(lambda r: gqa(r, past=None))
case(Q, "prompt_packed", 3, **N)(lambda r: gqa(r, packed=True))
case(Q, "prompt_padded", 3, unspecified=padded(4, 2, cache=[4, 2]), **N)(lambda r: gqa(r, totals=[4, 2]))
case(Q, "prompt_larger_buffer", 3, unspecified=padded(4, 4, cache=[4, 4]), **N)(lambda r: gqa(r, past=7, totals=[4, 4]))
case(Q, "one_kv_head", 3, num_heads=4, kv_num_heads=1)(lambda r: gqa(r, kv=1))
case(Q, "scale", 3, scale=0.5, **N)(lambda r: gqa(r))
case(Q, "decode", 3, **N)(lambda r: gqa(r, s=1, past=5, totals=[6, 6]))
case(Q, "decode_ragged", 3, unspecified=padded(1, 1, cache=[6, 3]), **N)(lambda r: gqa(r, s=1, past=5, totals=[6, 3]))
case(Q, "decode_buffer", 3, unspecified=padded(1, 1, cache=[6, 3]), **N)(lambda r: gqa(r, s=1, past=9, totals=[6, 3]))
case(Q, "chunk", 3, **N)(lambda r: gqa(r, b=1, s=3, past=4, totals=[7]))
case(Q, "chunk_window", 3, local_window_size=3, **N)(lambda r: gqa(r, b=1, s=3, past=4, totals=[7]))
case(Q, "window", 3, local_window_size=2, **N)(lambda r: gqa(r))
case(Q, "window_decode", 3, local_window_size=3, **N)(lambda r: gqa(r, s=1, past=5, totals=[6, 6]))
case(Q, "softcap", 3, softcap=1.5, **N)(lambda r: gqa(r))
case(Q, "smooth", 3, smooth_softmax=1, **N)(lambda r: gqa(r))
case(Q, "smooth_window", 3, smooth_softmax=1, local_window_size=2, **N)(lambda r: gqa(r))
case(Q, "sink", 3, **N)(lambda r: gqa(r, sink=True))
case(Q, "sink_softcap_decode", 3, softcap=1.5, **N)(lambda r: gqa(r, sink=True, s=1, past=5, totals=[6, 6]))
case(Q, "bias", 3, **N)(lambda r: gqa(r, bias=(2, 4, 4, 4)))
case(Q, "bias_one_softcap", 3, softcap=1.5, **N)(lambda r: gqa(r, bias=(1, 1, 4, 4)))
case(Q, "bias_decode", 3, **N)(lambda r: gqa(r, bias=(1, 4, 1, 6), s=1, past=5, totals=[6, 6]))
case(Q, "bias_window_sink", 3, local_window_size=2, **N)(lambda r: gqa(r, bias=(1, 4, 4, 4), sink=True))
for inter in (0, 1):
    n = "_interleaved" if inter else ""
    case(Q, "rotary" + n, 3, do_rotary=1, rotary_interleaved=inter, **N)(lambda r: gqa(r, rotary=True))
    case(Q, "rotary_packed" + n, 3, do_rotary=1, rotary_interleaved=inter, **N)(lambda r: gqa(r, rotary=True, packed=True))
    case(Q, "rotary_decode" + n, 3, do_rotary=1, rotary_interleaved=inter, unspecified=padded(1, 1, cache=[6, 3]), **N)(
        lambda r: gqa(r, rotary=True, s=1, past=5, totals=[6, 3]))
    case(Q, "rotary_chunk" + n, 3, do_rotary=1, rotary_interleaved=inter, **N)(lambda r: gqa(r, b=1, s=3, past=4, totals=[7], rotary=True))
case(Q, "rotary_part", 3, do_rotary=1, num_heads=2, kv_num_heads=1)(lambda r: gqa(r, h=2, kv=1, d=32, half=8, rotary=True))
case(Q, "rotary_positions", 3, do_rotary=1, **N)(lambda r: gqa(r, rotary=True, positions=np.array([[0, 2, 4, 6], [1, 3, 5, 7]], I64)))
case(Q, "rotary_positions_first", 3, do_rotary=1, **N)(lambda r: gqa(r, rotary=True, positions=np.array([[3, 4, 5, 6], [9, 8, 7, 6]], I64)))
case(Q, "rotary_positions_decode", 3, do_rotary=1, **N)(lambda r: gqa(r, rotary=True, s=1, past=5, totals=[6, 6], positions=np.array([[2], [11]], I64)))
case(Q, "rotary_positions_chunk", 3, do_rotary=1, **N)(lambda r: gqa(r, b=1, rotary=True, s=3, past=4, totals=[7], positions=np.array([[2, 11, 5]], I64)))
case(Q, "f16", 3, do_rotary=1, **N)(lambda r: gqa(r, rotary=True, t=F16))
case(Q, "f16_decode", 3, softcap=2.0, **N)(lambda r: gqa(r, s=1, past=5, totals=[6, 6], t=F16))
case(Q, "bidirectional", 3, causal=0, **N)(lambda r: gqa(r))
case(Q, "bidirectional_chunk", 3, causal=0, **N)(lambda r: gqa(r, b=1, s=3, past=4, totals=[7]))
case(Q, "qk_before", ["y0", "y1", "y2", "y3"], qk_output=1, softcap=1.5, **N)(lambda r: gqa(r))
case(Q, "qk_after", ["y0", "y1", "y2", "y3"], qk_output=2, **N)(lambda r: gqa(r))
case(Q, "qk_after_window_sink", ["y0", "y1", "y2", "y3"], qk_output=2, local_window_size=2, **N)(lambda r: gqa(r, sink=True, bias=(1, 4, 4, 4)))
for mode, shape in [("PER_TENSOR", (1,)), ("PER_CHANNEL", (1, 2, 1, 8))]:
    for bits, width, t in [(8, 8, I8), (4, 4, U8)]:
        for step, kw in [("prompt", dict(s=3)), ("decode", dict(s=1, totals=[5, 5]))]:
            past = 4 if step == "decode" else 0
            case(Q, f"cache_{bits}bits_{mode.lower()}_{step}", 3, k_quant_type=mode, v_quant_type=mode, kv_cache_bit_width=bits, **N)(
                lambda r, shape=shape, kw=kw, width=width, t=t, past=past, bits=bits: gqa(
                    r, cache=lambda r: r.u8(2, 2, past, width, t=t), scales=[np.abs(r.f(*shape)) * F32(2 / 2 ** bits) + F32(.01) for _ in "kv"], **kw))
case(Q, "lengths", 3, unspecified=padded(3, 1, cache=[5, 6]), do_rotary=1, **N)(lambda r: gqa(r, rotary=True, s=3, past=8, totals=[5, 6], total=8, lengths=[3, 1]))
case(Q, "lengths_idle", 3, unspecified=padded(2, 0, cache=[2, 4]), **N)(lambda r: gqa(r, s=3, past=8, totals=[2, 4], total=8, lengths=[2, 0]))


# Mixtures of experts: e experts, h hidden, i inner.


def moe(r, t=(4,), e=3, h=16, i=8, fused=1, fc3=False, bias=False):
    return [r.f(*t, h), r.f(int(np.prod(t)), e), r.f(e, fused * i, h, scale=.3), r.f(e, fused * i) if bias else None,
            r.f(e, h, i, scale=.3), r.f(e, h) if bias else None, r.f(e, i, h, scale=.3) if fc3 else None]


def qmoe(r, bits=4, t=(4,), e=3, h=32, i=16, fused=1, block=0, zeros=False, bias=False, router=False, dt=F32):
    def layer(n, k):
        shape = (e, n, k // block) if block else (e, n)
        z = (e, n, -(-(k // block) * bits // 8)) if block else (e, -(-n * bits // 8))
        return r.u8(e, n, k * bits // 8), np.abs(r.f(*shape, scale=.05 * 16 / 2 ** bits)).astype(dt), r.f(e, n, t=dt) if bias else None, r.u8(*z) if zeros else None
    w1, s1, b1, z1 = layer(fused * i, h)
    w2, s2, b2, z2 = layer(h, i)
    n = int(np.prod(t))
    return [r.f(*t, h, t=dt), r.f(n, e, t=dt), w1, s1, b1, w2, s2, b2, None, None, None, z1, z2, None, np.abs(r.f(n, e, t=dt)) if router else None]


for act in ("relu", "gelu", "silu", "identity"):
    case("MoE", act, activation_type=act, k=2)(lambda r: moe(r))
case("MoE", "top1_3d", k=1)(lambda r: moe(r, t=(2, 3), bias=True))
case("MoE", "normalised", k=2, normalize_routing_weights=1)(lambda r: moe(r, bias=True))
case("MoE", "swiglu_interleaved", activation_type="swiglu", swiglu_fusion=1, k=2, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=2.0)(lambda r: moe(r, fused=2, bias=True))
case("MoE", "swiglu_no_limit", activation_type="swiglu", swiglu_fusion=1, k=2)(lambda r: moe(r, fused=2))
for bits in (2, 4, 8):
    for block in (0, 16) if bits < 8 else (0,):  # for blocks of 8 bits kernels round the tokens to 8 bits too
        n = f"{bits}bits" + ("_blocks" if block else "")
        a = dict(expert_weight_bits=bits, k=2, **({"block_size": block} if block else {}))
        case("QMoE", n, activation_type="silu", **a)(lambda r, bits=bits, block=block: qmoe(r, bits, block=block))
        case("QMoE", n + "_swiglu_zeros", activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0, normalize_routing_weights=1, **a)(
            lambda r, bits=bits, block=block: qmoe(r, bits, block=block, fused=2, zeros=True, bias=True))
case("QMoE", "router_weights", activation_type="relu", expert_weight_bits=4, k=2)(lambda r: qmoe(r, router=True))
case("QMoE", "f16", activation_type="silu", expert_weight_bits=4, k=2)(lambda r: qmoe(r, dt=F16))


def schemas(names):
    """Signatures of operators of com.microsoft."""

    def params(ps):
        return [{"Name": p.name, "Type": p.typeStr, "Option": str(p.option).split(".")[-1]} for p in ps]

    def attribute(name, a):
        # Names of kinds are ONNX's, but for lists, which end in S.
        d = {"Name": name, "Type": str(a.type).split(".")[-1], "Required": a.required}
        if a._default_value:
            d["Default"] = helper.get_attribute_value(onnx.AttributeProto.FromString(a._default_value))
            if isinstance(d["Default"], bytes):
                d["Default"] = d["Default"].decode()
        return d

    return [
        {"Name": s.name, "Since": s.since_version, "Inputs": params(s.inputs), "Outputs": params(s.outputs),
         "Types": {t.type_param_str: sorted(t.allowed_type_strs) for t in s.type_constraints},
         "Attributes": [attribute(n, a) for n, a in sorted(s.attributes.items())]}
        for s in sorted(onnxruntime_pybind11_state.get_all_operator_schema(), key=lambda s: s.name)
        if s.domain == "com.microsoft" and s.name in names
    ]


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(s, separators=(",", ":")) for s in schemas({c[0] for c in CASES}))
    (folder / "schemas.json").write_text("[" + lines + "]\n")
    refused = 0
    for c in CASES:
        try:
            write(folder, *c)
        except Exception as e:
            refused += 1
            print(f"{c[0]}/{c[1]}: {' '.join(str(e).split())[:300]}")
    size = sum(p.stat().st_size for p in folder.rglob("*.onnx"))
    print(f"{len(CASES) - refused} of {len(CASES)} cases, {size} bytes")
    sys.exit(refused > 0)


if __name__ == "__main__":
    main()
