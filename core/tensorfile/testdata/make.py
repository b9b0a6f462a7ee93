"""Writes the .npy and .npz files beside it, as NumPy writes them, and expected.json, which says what
is in them: element type, shape, and each element as text in row-major order."""
import json, os
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
expected = {}


def text(v):
    if isinstance(v, (str, np.str_)):
        return str(v)
    if isinstance(v, bytes):
        return v.decode()
    if isinstance(v, (bool, np.bool_)):
        return "true" if v else "false"
    if isinstance(v, (np.integer, int)):
        return str(int(v))
    if isinstance(v, (np.complexfloating, complex)):
        return [float(v.real).hex(), float(v.imag).hex()]
    return float(v).hex()


def save(name, a, version=None):
    with open(os.path.join(here, name + ".npy"), "wb") as f:
        np.lib.format.write_array(f, a, version=version)
    kind = "string" if a.dtype.kind in "US" else a.dtype.newbyteorder("=").name
    expected[name] = {"type": kind, "shape": a.shape, "values": [text(v) for v in a.flatten(order="C")]}


grid = np.arange(6).reshape(2, 3) - 2
for t in "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 complex64 complex128".split():
    a = (np.abs(grid) % 2 if t == "bool" else np.abs(grid) if t[0] == "u" else grid * 1.5).astype(t)
    save(t, a)
    if np.dtype(t).itemsize > 1:
        save(t + "-big", a.astype(np.dtype(t).newbyteorder(">")))
save("fortran", np.asfortranarray(np.arange(24, dtype=np.int32).reshape(2, 3, 4)))
save("fortran-big", np.asfortranarray(np.arange(24).reshape(4, 3, 2).astype(">f4")))
save("scalar", np.float32(2.5).reshape(()))
save("vector", np.arange(3, dtype=np.int64))
save("empty", np.zeros((2, 0, 3), np.float32))
save("version2", np.arange(4, dtype=np.float32), (2, 0))
save("version3", np.arange(4, dtype=np.float32), (3, 0))
save("special", np.array([np.nan, np.inf, -np.inf, -0.0], np.float32))
save("text", np.array([["a", "\u00e9\U0001F600"], ["", "four"]]))
save("text-big", np.array(["ab", "c"]).astype(">U2"))
save("bytes", np.array([b"ab", b"c"]))
json.dump(expected, open(os.path.join(here, "expected.json"), "w"), indent=0)

refused = os.path.join(here, "refused")
os.makedirs(refused, exist_ok=True)
for name, a in {
    "pickle": np.array([{}, 1], object),
    "record": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "longdouble": np.zeros(2, np.longdouble),
    "datetime": np.zeros(2, "datetime64[s]"),
    "opaque": np.zeros(2, "V2"),
}.items():
    np.save(os.path.join(refused, name + ".npy"), a, allow_pickle=True)

np.savez(os.path.join(here, "named.npz"), ids=np.arange(6).reshape(2, 3), mask=np.ones((2, 3), np.int64))
np.savez_compressed(os.path.join(here, "packed.npz"), ids=np.arange(6).reshape(2, 3), mask=np.ones((2, 3), np.int64))
np.savez(os.path.join(here, "unnamed.npz"), np.arange(6).reshape(2, 3), np.ones((2, 3), np.int64))
