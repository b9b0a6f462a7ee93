"""ONNX Runtime behind Accel's backend protocol: docs/backends.md goes through it."""
import ctypes, fcntl, gc, itertools, json, mmap, os, queue, signal, sys, tempfile, threading, time

HANDSHAKE = os.fdopen(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3), "w")
os.dup2(2, 1)  # stdout belongs to the handshake: what libraries print goes to stderr

import grpc, numpy as np, onnx, onnxruntime as ort
from concurrent import futures
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status
from onnx import helper
from accel.backend.v1 import backend_pb2 as pb, backend_pb2_grpc as service

DEVICE, EPOCH = "cpu", time.time_ns()  # an epoch that no other process has
MAX_MESSAGE, MAX_INLINE, CHUNK = 16 << 20, 8 << 20, 1 << 20
CAPACITY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
T = onnx.TensorProto
TYPES = [T.FLOAT, T.DOUBLE, T.FLOAT16, T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64, T.BOOL]
DENIED = {"MatMulInteger": "its products saturate on processors without VNNI", "RotaryEmbedding": "it takes no positions below zero"}
STATUS = {pb.CODE_UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED, pb.CODE_OUT_OF_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
          pb.CODE_BAD_STATE: grpc.StatusCode.FAILED_PRECONDITION, pb.CODE_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
          pb.CODE_CANCELLED: grpc.StatusCode.CANCELLED, pb.CODE_INTERNAL: grpc.StatusCode.INTERNAL}

class Fault(Exception):
    """An error with its typed detail."""
    def __init__(self, code, message, **more): self.error = pb.Error(code=code, message=message, **more)

def invalid(argument, message, **more): return Fault(pb.CODE_INVALID, message, argument=argument, **more)
def bad_state(message): return Fault(pb.CODE_BAD_STATE, message)
def as_error(e): return e.error if isinstance(e, Fault) else pb.Error(code=pb.CODE_INTERNAL, message=f"{type(e).__name__}: {e}")
def need(ok, fault):
    if not ok: raise fault

def call(f):
    """A call whose errors travel as details of the gRPC status."""
    def wrapped(self, request, context):
        try: return f(self, request, context)
        except Exception as e:
            error, detail = as_error(e), any_pb2.Any()
            detail.Pack(error)
            context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=STATUS[error.code].value[0], message=error.message, details=[detail])))
    return wrapped

class Memory:
    """A buffer of the device, or a region that the core allocated: bytes in an array."""
    def __init__(self, data, kind, writable=True): self.data, self.kind, self.writable = data, kind, writable
    def part(self, offset, length, argument, align=1):
        need(offset + length <= len(self.data), invalid(argument, f"{length} bytes at {offset} do not fit {len(self.data)}"))
        need(offset % align == 0, invalid(argument, f"offset {offset} is not aligned to {align} bytes"))
        return self.data[offset:offset + length]

def kind_of(t): return np.dtype(helper.tensor_dtype_to_np_dtype(t))

class Executable:
    def __init__(self, model, path, options):
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        constants = {i.name for i in model.graph.initializer}
        self.inputs = {v.name: v.type.tensor_type for v in model.graph.input if v.name not in constants}
        self.outputs = {v.name: v.type.tensor_type for v in model.graph.output}
    def run(self, arrays, options=None):
        try: return dict(zip(self.outputs, self.session.run(list(self.outputs), arrays, options)))
        except Exception as e:
            need("terminate" not in str(e), Fault(pb.CODE_CANCELLED, "the run was cancelled"))
            raise invalid("inputs", str(e))  # the graph compiled, so the values are to blame

def describe(name, t):
    dims = [pb.Dim(size=-1 if not d.HasField("dim_value") else d.dim_value, symbol=d.dim_param) for d in t.shape.dim]
    return pb.ValueInfo(name=name, element_type=t.elem_type, dims=dims, unranked=not t.HasField("shape"))

def load(folder):
    """The model in a folder, or whose fault it is that there is none."""
    path = os.path.join(folder, "model.onnx")
    try:
        need(os.path.isabs(folder), ValueError("the path is not absolute"))
        model = onnx.load(path, load_external_data=False)
        try: onnx.checker.check_model(path)
        except onnx.checker.ValidationError as e: need("No Op registered" in str(e), e)  # which Assess says of the node
        for i in model.graph.initializer:
            at = {e.key: e.value for e in i.external_data}
            end = int(at.get("offset", 0)) + int(at.get("length", 0))
            need(not at or end <= os.path.getsize(os.path.join(folder, at["location"])), ValueError(f"the data of {i.name} is short"))
    except Exception as e: raise invalid("graph_dir", f"{folder}: {e}")
    return model, path

def judge(model, path):
    """A verdict a node: what ONNX Runtime makes a session of, alone where the whole model fails."""
    try: g = onnx.shape_inference.infer_shapes(model).graph
    except Exception: g = model.graph
    types = {i.name: helper.make_tensor_type_proto(i.data_type, list(i.dims)) for i in model.graph.initializer}
    types |= {v.name: v.type for v in [*g.value_info, *g.output, *g.input]}
    taken = lambda name: name not in types or types[name].HasField("tensor_type") and types[name].tensor_type.elem_type in TYPES + [0]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    def verdict(node):
        if node.op_type in DENIED: return pb.Verdict(refusal=pb.REFUSAL_OPERATOR, reason=DENIED[node.op_type])
        odd = [n for n in [*node.input, *node.output] if n and not taken(n)]
        if odd: return pb.Verdict(refusal=pb.REFUSAL_ELEMENT_TYPE, reason=f"{odd[0]} is of a type that this backend does not pass")
        if whole: return pb.Verdict(ok=True)
        names, constants = dict.fromkeys(n for n in node.input if n), {i.name: i for i in model.graph.initializer if not i.external_data}
        unknown = helper.make_tensor_type_proto(T.FLOAT, None)  # as of what a refused node gives
        graph = helper.make_graph([node], "one", [onnx.ValueInfoProto(name=n, type=types.get(n, unknown)) for n in names if n not in constants],
                                  [onnx.ValueInfoProto(name=o) for o in node.output if o], [constants[n] for n in names if n in constants])
        alone = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version)
        try: return pb.Verdict(ok=bool(ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])))
        except Exception as e:
            refusal = pb.REFUSAL_ELEMENT_TYPE if "Could not find an implementation" in str(e) else pb.REFUSAL_OPERATOR
            return pb.Verdict(refusal=refusal, reason=str(e))
    try: whole = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception: whole = None
    return [verdict(n) for n in model.graph.node]

class Backend(service.BackendServicer):
    def __init__(self):
        self.objects, self.numbers, self.threads, self.state = {}, itertools.count(1), 0, "new"
        self.worker = futures.ThreadPoolExecutor(1)  # one command after another, which keeps every order that is promised

    def add(self, o):
        n = next(self.numbers)
        self.objects[n] = o
        return pb.Id(device=DEVICE, epoch=EPOCH, n=n)
    def find(self, id, kind):
        o = self.objects.get(id.n) if (id.device, id.epoch) == (DEVICE, EPOCH) else None
        need(isinstance(o, Executable) and kind == "executable" or isinstance(o, Memory) and o.kind in kind, bad_state(f"there is no {kind} {id.n}"))
        return o
    def used(self, device):
        need(device == DEVICE, invalid("device", f"there is no device {device!r}; there is {DEVICE}"))
        self.state = "used"
    @call
    def Describe(self, q, context):
        schema = {"type": "object", "properties": {"threads": {"type": "integer", "minimum": 1}}, "additionalProperties": False}
        library = pb.Library(name="onnxruntime", found=True, path=os.path.dirname(ort.__file__), version=ort.__version__)
        return pb.DescribeResponse(name="onnxruntime", version="0.1.0", api_min=1, api_max=1, config_schema=json.dumps(schema), libraries=[library])
    @call
    def Configure(self, q, context):
        try: settings = dict(json.loads(q.settings_json).items())
        except Exception as e: raise invalid("settings_json", f"it is no JSON object: {e}")
        for k, v in settings.items():
            need(k == "threads" and type(v) is int and v > 0, invalid("settings_json", f"{k}: {v}; there is threads, an integer of at least 1"))
        need(self.state == "new", bad_state("Configure comes once, and before any device is used"))
        self.threads, self.state = settings.get("threads", 0), "configured"
        return pb.ConfigureResponse()

    def Watch(self, q, context):
        self.used(DEVICE)
        yield pb.WatchResponse(devices=[pb.Device(id=DEVICE, epoch=EPOCH, platform="onnxruntime", name="ONNX Runtime's CPU provider",
            kind=pb.KIND_HARDWARE, health=pb.HEALTH_HEALTHY, memory_total=CAPACITY, memory_free=CAPACITY, element_types=TYPES,
            attention=pb.ATTENTION_WAY_BODY, runtime_version=ort.__version__)])
        gone = threading.Event()
        if context.add_callback(gone.set): gone.wait()  # nothing changes
    @call
    def Assess(self, q, context):
        self.used(q.device)
        return pb.AssessResponse(nodes=judge(*load(q.graph_dir)))

    def Compile(self, q, context):
        yield pb.CompileResponse(progress=pb.CompileProgress(stage="read", fraction=0))
        yield self.compile(q, context)
    @call
    def compile(self, q, context):
        self.used(q.device)
        model, path = load(q.graph_dir)
        for symbol, n in q.smoke_dims.items(): need(n >= 0, invalid("smoke_dims", f"dimension {symbol} can't be {n}"))
        verdicts = judge(model, path)
        refused = [n.name for n, v in zip(model.graph.node, verdicts) if not v.ok]
        need(not refused, Fault(pb.CODE_UNSUPPORTED, "; ".join(v.reason for v in verdicts if not v.ok)[:2000], nodes=refused))
        weights = sum(int(np.prod(i.dims, dtype=np.int64)) * kind_of(i.data_type).itemsize for i in model.graph.initializer)
        need(weights <= (q.memory_budget or CAPACITY), Fault(pb.CODE_OUT_OF_MEMORY, "the weights do not fit", needed=weights, free=q.memory_budget or CAPACITY))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        try: e = Executable(model, path, options)
        except Exception as x: raise Fault(pb.CODE_UNSUPPORTED, str(x), nodes=[n.name for n in model.graph.node])
        odd = [n for n, t in {**e.inputs, **e.outputs}.items() if t.elem_type not in TYPES]
        need(not odd, Fault(pb.CODE_UNSUPPORTED, f"{odd} are of types that this backend does not pass"))
        size = lambda d: d.dim_value if d.HasField("dim_value") else q.smoke_dims.get(d.dim_param, 1)
        zeros = {n: np.zeros([size(d) for d in t.shape.dim], kind_of(t.elem_type)) for n, t in e.inputs.items()}
        e.run(self.inputs(e, q.smoke_inputs, {}) if q.smoke_inputs else zeros)
        infos = [[describe(n, t) for n, t in values.items()] for values in (e.inputs, e.outputs)]
        return pb.CompileResponse(compiled=pb.Compiled(executable=self.add(e), memory=weights, inputs=infos[0], outputs=infos[1]))
    @call
    def Map(self, q, context):
        self.used(q.device)
        need(q.mode in (pb.MAP_MODE_READ, pb.MAP_MODE_READ_WRITE), invalid("mode", f"mode {q.mode} is neither read nor read-write"))
        writable = q.mode == pb.MAP_MODE_READ_WRITE
        try: f = open(q.locator, "r+b" if writable else "rb", buffering=0)
        except (OSError, ValueError) as e: raise invalid("locator", str(e))
        with f:
            name = os.readlink(f"/proc/self/fd/{f.fileno()}")  # a number may have become another file's
            need(name.startswith("/memfd:accel-region") or "/accel-region-" in name, invalid("locator", f"{name} is no region"))
            need(0 < q.length <= os.fstat(f.fileno()).st_size, invalid("length", f"the region has not {q.length} bytes"))
            m = mmap.mmap(f.fileno(), q.length, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        return pb.MapResponse(region=self.add(Memory(np.frombuffer(m, np.uint8), "region", writable)))
    @call
    def Alloc(self, q, context):
        self.used(q.device)
        need(0 < q.length < 1 << 63, invalid("length", f"a buffer of {q.length} bytes can't be"))
        need(q.length <= CAPACITY, Fault(pb.CODE_OUT_OF_MEMORY, "the buffer does not fit", needed=q.length, free=CAPACITY))
        return pb.AllocResponse(buffer=self.add(Memory(np.zeros(q.length, np.uint8), "buffer")))
    @call
    def Release(self, q, context):
        for id in q.ids:
            if (id.device, id.epoch) == (DEVICE, EPOCH): self.objects.pop(id.n, None)
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc would keep the memory
        return pb.ReleaseResponse()

    def inputs(self, e, bindings, chunks):
        arrays, symbols = {}, {}
        for b in bindings:
            t, place = e.inputs.get(b.name), b.WhichOneof("place")
            need(t is not None and b.name not in arrays, invalid(b.name, f"there is no input {b.name!r}, or it comes twice"))
            need(b.element_type == t.elem_type and len(b.dims) == len(t.shape.dim) and min([0, *b.dims]) >= 0,
                 invalid(b.name, f"input {b.name!r} is of type {b.element_type}, dims {b.dims}; wanted is {describe(b.name, t)}"))
            for n, d in zip(b.dims, t.shape.dim):
                want = d.dim_value if d.HasField("dim_value") else symbols.setdefault(d.dim_param, n) if d.dim_param else n
                need(n == want, invalid(b.name, f"input {b.name!r} has {n} as a dimension, wanted is {want}"))
            size = int(np.prod(b.dims, dtype=object)) * kind_of(t.elem_type).itemsize
            if place in ("region", "buffer"):
                at = getattr(b, place)
                data = self.find(at.id, place).part(at.offset, at.length, b.name, kind_of(t.elem_type).itemsize if place == "region" else 1)
            else:
                need(place, invalid(b.name, f"input {b.name!r} lies nowhere"))
                data = np.frombuffer(b.inline if place == "inline" else bytes(chunks.get(b.name, b"")), np.uint8)
            need(len(data) == size, invalid(b.name, f"input {b.name!r} has {len(data)} bytes, wanted are {size}"))
            if data.ctypes.data % kind_of(t.elem_type).itemsize: data = data.copy()
            arrays[b.name] = data.view(kind_of(t.elem_type)).reshape(b.dims)
        for n in e.inputs: need(n in arrays, invalid(n, f"input {n!r} is missing"))
        return arrays

    def Execute(self, requests, context):
        answers, cancels, chunks = queue.Queue(), {}, {}

        def answer(seq, error=None, **done): answers.put(pb.ExecuteResponse(seq=seq, **({"error": error} if error else {"done": pb.Done(**done)})))

        def later(seq, prepare):
            """Looks at the command now, does it in its turn, answers once."""
            came, do, problem, options = time.monotonic_ns(), None, None, ort.RunOptions()
            try: do = prepare(options)
            except Exception as e: problem = as_error(e)  # not e: it would hold on to what the command used
            cancels[seq] = options
            def work():
                begun, error, outputs = time.monotonic_ns(), problem, None
                try:
                    need(not options.terminate, Fault(pb.CODE_CANCELLED, "cancelled before it began"))
                    outputs = None if error else do()
                except Exception as e: error = as_error(e)
                cancels.pop(seq, None)
                answer(seq, error, outputs=outputs, timings=pb.Timings(queued_ns=begun - came, run_ns=time.monotonic_ns() - begun))
            self.worker.submit(work)

        def run(q, seq, given, options):
            e = self.find(q.executable, "executable")
            arrays, names = self.inputs(e, q.inputs, given), [b.name for b in q.outputs]
            for b in q.outputs:
                need(b.name in e.outputs and names.count(b.name) == 1, invalid(b.name, f"there is no output {b.name!r}, or it is wanted twice"))
                need(b.WhichOneof("place"), invalid(b.name, f"output {b.name!r} is wanted nowhere"))
            rooms = {b.name: self.room(b, e) for b in q.outputs}
            return lambda: [self.put(b, got[b.name], rooms[b.name], seq, answers) for got in [e.run(arrays, options)] for b in q.outputs]

        def copy(q, options):
            moves = []
            for r in q.ranges:
                a, b = self.find(getattr(r, "from"), "region buffer"), self.find(r.to, "region buffer")
                source, target = a.part(r.from_offset, r.length, "ranges"), b.part(r.to_offset, r.length, "ranges")
                need(b.writable and not (a is b and np.shares_memory(source, target)), invalid("ranges", "it is read-only, or copied onto itself"))
                moves.append((target, source))
            return lambda: [np.copyto(t, s) for t, s in moves] and None

        def read():
            opened = False
            try:
                for q in requests:
                    kind, refuse = q.WhichOneof("command"), lambda f: later(q.seq, lambda _: need(False, f))
                    given = chunks.pop(q.seq, {}) if kind != "chunk" else chunks.setdefault(q.seq, {})
                    if kind == "chunk": given.setdefault(q.chunk.name, bytearray()).extend(q.chunk.data)
                    elif (kind == "open") == opened: refuse(bad_state("Open is the first command, and comes once"))
                    elif kind == "open":
                        opened = q.open.device == DEVICE
                        later(q.seq, lambda _, q=q: self.used(q.open.device) or (lambda: None))
                    elif kind == "run": later(q.seq, lambda o, q=q, given=given: run(q.run, q.seq, given, o))
                    elif kind == "copy": later(q.seq, lambda o, q=q: copy(q.copy, o))
                    elif kind == "fence": later(q.seq, lambda _: lambda: None)
                    elif kind == "cancel":
                        if q.cancel.target in cancels: cancels[q.cancel.target].terminate = True
                        answer(q.seq)
                    else: refuse(invalid("command", "the command says nothing"))
            except Exception: pass  # the client is gone
            self.worker.submit(answers.put, None)  # half-closed: what is open is answered first
        context.add_callback(lambda: [setattr(o, "terminate", True) for o in list(cancels.values())])
        threading.Thread(target=read, daemon=True).start()
        yield from iter(answers.get, None)

    def room(self, b, e):
        place = b.WhichOneof("place")
        if place not in ("region", "buffer"): return None
        at, memory = getattr(b, place), self.find(getattr(b, place).id, place)
        need(memory.writable, invalid(b.name, "the region is for reading"))
        return memory.part(at.offset, at.length, b.name, kind_of(e.outputs[b.name].elem_type).itemsize if place == "region" else 1)

    def put(self, b, array, room, seq, answers):
        """Puts an output where it was asked for, and says so."""
        data, place = np.ascontiguousarray(array).reshape(-1).view(np.uint8), b.WhichOneof("place")
        out, limit = pb.Binding(name=b.name, element_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape), MAX_INLINE if room is None else len(room)
        need(place == "chunked" or len(data) <= limit, invalid(b.name, f"the output has {len(data)} bytes, there is room for {limit}", needed=len(data)))
        if room is not None:
            room[:len(data)] = data
            getattr(out, place).CopyFrom(pb.Slice(id=getattr(b, place).id, offset=getattr(b, place).offset, length=len(data)))
        elif place == "inline": out.inline = data.tobytes()
        for i in range(0, len(data) if place == "chunked" else 0, CHUNK):
            answers.put(pb.ExecuteResponse(seq=seq, chunk=pb.Chunk(name=b.name, data=data[i:i + CHUNK].tobytes())))
        if place == "chunked": out.chunked.length = len(data)
        return out

def main():
    if os.environ.get("ACCEL_BACKEND") != "5f2ec0dd-accel-backend": sys.exit("Accel starts this backend: accel backends install")
    limits = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
    server = grpc.server(futures.ThreadPoolExecutor(64), options=limits)
    end = lambda *_: os._exit(0)
    service.add_BackendServicer_to_server(Backend(), server)
    shutdown = grpc.unary_unary_rpc_method_handler(lambda q, c: threading.Timer(0.05, end).start() or b"", None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("plugin.GRPCController", {"Shutdown": shutdown})])
    path = os.path.join(tempfile.mkdtemp(prefix="plugin-dir", dir=os.environ["PLUGIN_UNIX_SOCKET_DIR"]), "plugin")
    server.add_insecure_port("unix:" + path)
    server.start()
    for s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, end)
    print(f"1|1|unix|{path}|grpc|", file=HANDSHAKE, flush=True)
    if pipe := os.environ.get("ACCEL_PARENT_PIPE"):  # ends when the host does
        threading.Thread(target=lambda: (os.read(int(pipe), 1), end()), daemon=True).start()
    while True: signal.pause()

main()
