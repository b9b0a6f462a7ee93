#!/usr/bin/env python3
"""Write the tests and operator schemas of the onnx package to a folder.

    nodetests.py DIR

DIR/CASE/model.onnx and DIR/CASE/test_data_set_N/{input,output}_I.pb are in ONNX's
own test layout. DIR/cases.json lists the node tests with their tolerances and
operators. DIR/SET/CASE are the small models that the package carries, which
DIR/models.json lists in the same way. DIR/schemas.json has every version of every
operator.
"""

import json
import pathlib
import shutil
import sys
import warnings

import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases


def encode(value, kind):
    """A recorded value as the protobuf message of its type."""
    if isinstance(value, (onnx.TensorProto, onnx.SequenceProto, onnx.OptionalProto)):
        return value
    if kind == "tensor_type":
        return numpy_helper.from_array(value)
    if kind == "sequence_type":
        return numpy_helper.from_list(value)
    if kind == "optional_type":
        return numpy_helper.from_optional(value)
    raise ValueError(f"values of kind {kind} can't be written")


def write_cases(folder):
    cases = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    for case in sorted(collected, key=lambda c: c.name):
        if case.model is None:
            continue
        graph = case.model.graph
        ops = sorted({f"{n.domain}:{n.op_type}" for n in graph.node})
        entry = {"name": case.name, "rtol": case.rtol, "atol": case.atol, "sets": len(case.data_sets), "ops": ops}
        path = folder / case.name
        path.mkdir(parents=True, exist_ok=True)
        (path / "model.onnx").write_bytes(case.model.SerializeToString())
        for i, (inputs, outputs) in enumerate(case.data_sets):
            data = path / f"test_data_set_{i}"
            data.mkdir(exist_ok=True)
            for what, infos, values in (("input", graph.input, inputs), ("output", graph.output, outputs)):
                for j, (info, value) in enumerate(zip(infos, values)):
                    message = encode(value, info.type.WhichOneof("value"))
                    (data / f"{what}_{j}.pb").write_bytes(message.SerializeToString())
        cases.append(entry)
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


# The tolerances that ONNX's own runner compares the results of models with.
MODEL_RTOL, MODEL_ATOL = 1e-3, 1e-7
MODEL_SETS = ("pytorch-converted", "pytorch-operator", "simple")


def write_models(folder):
    cases = []
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    for name in MODEL_SETS:
        for source in sorted((data / name).iterdir()):
            shutil.copytree(source, folder / name / source.name, dirs_exist_ok=True)
            nodes = onnx.load(source / "model.onnx").graph.node
            cases.append({
                "name": f"{name}/{source.name}",
                "rtol": MODEL_RTOL,
                "atol": MODEL_ATOL,
                "sets": len(list(source.glob("test_data_set_*"))),
                "ops": sorted({f"{n.domain}:{n.op_type}" for n in nodes}),
            })
    (folder / "models.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def param(p):
    return {"name": p.name, "type": p.type_str, "option": p.option.name}


def attribute(a):
    out = {"name": a.name, "type": a.type.name, "required": a.required}
    if a.default_value.name:
        value = onnx.helper.get_attribute_value(a.default_value)
        out["default"] = value.decode() if isinstance(value, bytes) else value
    return out


def write_schemas(folder):
    schemas = []
    for s in onnx.defs.get_all_schemas_with_history():
        schemas.append({
            "domain": s.domain,
            "name": s.name,
            "since": s.since_version,
            "deprecated": s.deprecated,
            "inputs": [param(p) for p in s.inputs],
            "outputs": [param(p) for p in s.outputs],
            "types": {c.type_param_str: list(c.allowed_type_strs) for c in s.type_constraints},
            "attributes": [attribute(a) for a in s.attributes.values()],
        })
    schemas.sort(key=lambda s: (s["domain"], s["name"], s["since"]))
    (folder / "schemas.json").write_text(json.dumps(schemas, default=str))
    return len(schemas)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases, models, schemas = write_cases(folder), write_models(folder), write_schemas(folder)
    print(f"onnx {onnx.__version__}: {cases} cases, {models} models, {schemas} schemas in {folder}")


if __name__ == "__main__":
    main()
