"""PyTorch's side of `raedit bench --compare-pytorch`: times the reference model on the processor, a turn at a time.

raedit starts it and keeps it alive through all rounds; between its turns it sleeps. Each side writes lines of JSON, one at a
time; what the reference or its libraries print goes to standard error. End of input ends it.

    -> {"part": "transformer|decoder|encoder", "config": {...}, "dtype": "bfloat16", "batch": 1, "threads": 2, "cold_bytes": 0,
        "seconds": 300}
    <- {"peers": [{"name": "PyTorch eager", "amx": false, "kernels": ["matmul brg_matmul:avx512_core_bf16"]},
                  {"name": "OpenVINO", "absent": "No module named 'openvino'"}], "versions": "torch 2.15.0, ...", "isa": "AVX512"}
    -> {"turn": "PyTorch eager", "warm": 1, "timed": 2}
    <- {"milliseconds": [901.2, 899.8]}

The model has random weights in the dtype that computes; all peers share the inputs. Compiled is torch.compile with frozen
weights, which lets it pack them; OpenVINO runs the same network exported with static shapes. What cannot be made ready within
`seconds` (together) is absent. `kernels` are the matrix products that oneDNN says it ran (its verbose output) or, for
OpenVINO, those of the compiled graph; amx is whether one of them used AMX. `cold_bytes` above 0: so many bytes are walked
before each timed forward, so that no cache holds weights.

Needs torch and the diffusers of pull request 13231; PYTHONPATH: see reference.py.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time

PR_SET_PDEATHSIG = 1


class OutOfTime(Exception):
    pass


@contextlib.contextmanager
def time_limit(seconds):
    def stop(*_):
        raise OutOfTime("not ready in time")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 1)  # again: whoever is interrupted may swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def unwritten_weights():
    """Modules are made without drawing their first weights, which takes long and is thrown away."""
    import torch

    saved = {}
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):
            saved[name] = getattr(torch.nn.init, name)
            setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in saved.items():
            setattr(torch.nn.init, name, function)


def randomize(model):
    """Weights that keep activations near 1; never zeros, on which processors are faster."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            inputs = parameter[0].numel() if parameter.dim() > 1 else 2500
            parameter.uniform_(-1, 1, generator=generator).mul_((3.0 / inputs) ** 0.5)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)


def whole(model, call):
    """A module of the forward alone, without keyword arguments and with a tensor as its result."""
    import torch

    class Forward(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            return call(self.model, *inputs)

    return Forward().eval()


def build(job):
    """(module, inputs) of one forward."""
    import torch

    dtype, batch = getattr(torch, job["dtype"]), job["batch"]
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    with unwritten_weights():
        if job["part"] == "transformer":
            from diffusers import RAEDiT2DModel

            model = RAEDiT2DModel(**job["config"])
            side = job["config"]["sample_size"]
            inputs = (randn(batch, job["config"]["in_channels"], side, side), torch.full((batch,), 0.5, dtype=dtype),
                      torch.arange(batch) % job["config"]["num_classes"])
            call = lambda m, x, t, y: m(x, timestep=t, class_labels=y, return_dict=False)[0]
        else:
            from diffusers import AutoencoderRAE

            vae = AutoencoderRAE(**job["config"])
            if job["part"] == "decoder":
                model = vae.decoder
                inputs = (randn(batch, vae.num_patches, job["config"]["encoder_hidden_size"]),)
                call = lambda m, x: m(x, return_dict=False)[0]
            else:
                model = vae.encoder
                inputs = (randn(batch, 3, vae.encoder_input_size, vae.encoder_input_size),)
                encode = vae._encoder_forward_fn
                call = lambda m, x: encode(m, x)
    model = model.to(dtype).eval().requires_grad_(False)
    randomize(model)
    return whole(model, call), inputs


def checked(output):
    import torch

    if not torch.isfinite(output).all() or not output.any():
        raise RuntimeError("the output is all zeros or not finite")


def products_of(call):
    """The matrix products that oneDNN says it runs in one call."""
    import torch

    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1)
        libc.fflush(None)
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                call()
        finally:
            libc.fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
        file.seek(0)
        found = set()
        for line in file.read().decode(errors="replace").splitlines():
            words = line.split(",")
            if words[0].startswith(("onednn_verbose", "dnnl_verbose")) and "exec" in words:
                kind, kernel = words[words.index("exec") + 2:][:2]
                if kind in ("matmul", "inner_product", "convolution"):
                    found.add(f"{kind} {kernel}")
    return sorted(found)


def eager(module, inputs, job):
    return lambda: module(*inputs)


def compiled(module, inputs, job):
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._inductor.config.compile_threads = 1
    fast = torch.compile(module)
    return lambda: fast(*inputs)


class OpenVinoModel:
    """A module exported with the shapes of `inputs` and compiled for the processor; call it with inputs of those shapes."""

    def __init__(self, module, inputs, dtype, threads):
        import openvino as ov

        self.ov = ov
        graph = ov.convert_model(module, example_input=inputs, input=[list(x.shape) for x in inputs])
        self.model = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
                                                     "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                                                     "NUM_STREAMS": 1})
        self.request = self.model.create_infer_request()

    def set_inputs(self, inputs):
        import torch

        for index, value in enumerate(inputs):
            kind = self.model.input(index).get_element_type()
            if kind == self.ov.Type.bf16:
                tensor = self.ov.Tensor(kind, self.ov.Shape(list(value.shape)))
                tensor.data.view("int16")[...] = value.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
            else:
                array = value.float().numpy() if value.is_floating_point() else value.numpy()
                tensor = self.ov.Tensor(array.astype(kind.to_dtype()))
            self.request.set_input_tensor(index, tensor)

    def infer(self):
        self.request.infer()

    def output(self):
        """A copy of the first output, in float32."""
        import torch

        tensor = self.request.get_output_tensor(0)
        if tensor.get_element_type() == self.ov.Type.bf16:
            return torch.from_numpy(tensor.data.view("int16")).view(torch.bfloat16).float()
        return torch.from_numpy(tensor.data.astype("float32"))

    def kernels(self):
        """The products of the compiled graph and who computes them."""
        found = set()
        for node in self.model.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "layerType" in info and str(info["layerType"].astype(str)) in ("FullyConnected", "MatMul", "Convolution",
                                                                               "ScaledDotProductAttention", "LLMMLP",
                                                                               "QKVProjection"):
                found.add(f"{info['layerType'].astype(str)} {info['primitiveType'].astype(str)}")
        return sorted(found)


def openvino(module, inputs, job):
    model = OpenVinoModel(module, inputs, job["dtype"], job["threads"])
    model.set_inputs(inputs)

    def call():
        model.infer()

    call.kernels, call.output = model.kernels(), model.output
    return call


PEERS = {"PyTorch eager": eager, "OpenVINO": openvino, "PyTorch compiled": compiled}


def make_ready(job):
    """{name: call}, and what to say of every peer."""
    import torch

    end = time.monotonic() + job["seconds"]
    module, inputs = build(job)
    calls, said = {}, []
    for name, make in PEERS.items():
        try:
            with time_limit(end - time.monotonic()):
                call = make(module, inputs, job)
                output = call()
                if hasattr(call, "kernels"):
                    checked(call.output())
                    kernels = call.kernels
                else:
                    checked(output)
                    kernels = products_of(call)
            calls[name] = call
            said.append({"name": name, "amx": any("amx" in kernel for kernel in kernels), "kernels": kernels})
        except Exception as error:  # a peer that does not work is absent; the others are still worth a comparison
            words = str(error).split() or [type(error).__name__]
            said.append({"name": name, "absent": " ".join(words)[:300]})
    return calls, said


def versions():
    import diffusers
    import torch

    text = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    if "openvino" in sys.modules:
        text += f", openvino {sys.modules['openvino'].__version__.split('-')[0]}"
    return text


def take_turn(call, request, cold):
    times = []
    for index in range(request["warm"] + request["timed"]):
        if cold is not None:
            cold.add_(1)
        start = time.perf_counter()
        call()
        if index >= request["warm"]:
            times.append(1e3 * (time.perf_counter() - start))
    return times


def serve(answers):
    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    line = sys.stdin.readline()
    if not line:
        return
    job = json.loads(line)
    import torch

    torch.set_num_threads(job["threads"])
    with torch.inference_mode(False), torch.no_grad():
        calls, said = make_ready(job)
        cold = torch.zeros(job["cold_bytes"] // 8, dtype=torch.int64) if job["cold_bytes"] else None
        answer({"peers": said, "versions": versions(), "isa": torch.backends.cpu.get_cpu_capability()})
        for line in iter(sys.stdin.readline, ""):
            request = json.loads(line)
            answer({"milliseconds": take_turn(calls[request["turn"]], request, cold)})


def main():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # ends when raedit does, however that ends
    # Libraries print to standard output, too: the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    serve(answers)


if __name__ == "__main__":
    main()
