"""ONNX Runtime as a peer for any ONNX model.

usage: onnxruntime_model.py MODEL THREADS

Once the model is loaded a line names the version. Then each line on standard input is a command: "open DIR" reads DIR/input_*.pb, runs
the model once, writes its outputs to DIR/peer_*.pb and answers with how many there are; "run N" runs it N times on these inputs and
answers with the seconds of each run.
"""
import glob
import os
import sys
import time

import onnx
import onnxruntime as ort
from onnx import numpy_helper


def read(path):
    t = onnx.TensorProto()
    with open(path, "rb") as f:
        t.ParseFromString(f.read())
    return t.name, numpy_helper.to_array(t)


def main():
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2])
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    print(f"onnxruntime {ort.__version__}", flush=True)
    inputs = {}
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        if command == "open":
            folder = argument.strip()
            inputs = dict(read(path) for path in glob.glob(os.path.join(folder, "input_*.pb")))
            outputs = session.run(None, inputs)
            for i, (o, value) in enumerate(zip(session.get_outputs(), outputs)):
                with open(os.path.join(folder, f"peer_{i}.pb"), "wb") as f:
                    f.write(numpy_helper.from_array(value, o.name).SerializeToString())
            print(len(outputs), flush=True)
        elif command == "run":
            seconds = []
            for _ in range(int(argument)):
                begin = time.perf_counter()
                session.run(None, inputs)
                seconds.append(time.perf_counter() - begin)
            print(*seconds, flush=True)
        else:
            sys.exit(f"unknown command {command!r}")


main()
