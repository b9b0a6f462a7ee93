"""OpenVINO's own Python package as a peer for any ONNX model.

usage: openvino_model.py MODEL THREADS

It computes float32 as float32 and quantises nothing by itself, as Accel has it. Commands and answers are those of
onnxruntime_model.py.
"""
import glob
import os
import sys
import time

import onnx
import openvino
from onnx import numpy_helper


def read(path):
    t = onnx.TensorProto()
    with open(path, "rb") as f:
        t.ParseFromString(f.read())
    return t.name, numpy_helper.to_array(t)


def main():
    core = openvino.Core()
    model = core.compile_model(sys.argv[1], "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": sys.argv[2], "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"})
    request = model.create_infer_request()
    print(f"openvino {openvino.__version__}", flush=True)
    inputs = {}
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        if command == "open":
            folder = argument.strip()
            inputs = dict(read(path) for path in glob.glob(os.path.join(folder, "input_*.pb")))
            outputs = request.infer(inputs)
            for i, o in enumerate(model.outputs):
                with open(os.path.join(folder, f"peer_{i}.pb"), "wb") as f:
                    f.write(numpy_helper.from_array(outputs[o], o.any_name).SerializeToString())
            print(len(model.outputs), flush=True)
        elif command == "run":
            seconds = []
            for _ in range(int(argument)):
                begin = time.perf_counter()
                request.infer(inputs, share_inputs=True, share_outputs=True)
                seconds.append(time.perf_counter() - begin)
            print(*seconds, flush=True)
        else:
            sys.exit(f"unknown command {command!r}")


main()
