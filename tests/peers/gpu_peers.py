"""The peers of compare_gpu.py, and the worker process that one of them lives in.

    gpu_peers.py NAME DEVICE PARAMETERS

says in a line of JSON that NAME can be measured, then answers each line of its input, a number of steps, with their
speed. Memory is held during an answer only, so that each contestant has the GPU for itself.
"""

from __future__ import annotations

import gc
import importlib
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from peers import DECAY, FUSED, PEERS, WARM_UP, Failed, check_update, pytorch_optimizer_ademamix, serve

COPY = "torch copy"
FOREACH = "pytorch_optimizer AdEMAMix foreach"
COMPILED = "pytorch_optimizer AdEMAMix compiled"
NO_WAITS = ", no waits"
WIDTH = 1280  # of the GPT whose tensors are updated: 1.6, 4.9 and 6.6 million elements
HEAD_START = 50_000_000  # cycles of the GPU: longer than the host takes to launch a step's kernels
SECONDS = 120  # A peer that takes longer for a start or a round hangs, and is killed.


@dataclass(frozen=True)
class GpuPeer:
    """How to make an optimizer of package for a list of parameters; whole: the list has just one."""

    package: str
    make: Callable[[list[Any]], Any]
    dtype: str = "float32"
    whole: bool = False


def bitsandbytes_adamw(bits: int) -> Callable[[list[Any]], Any]:
    return lambda parameters: importlib.import_module("bitsandbytes.optim").AdamW(
        parameters, weight_decay=DECAY, optim_bits=bits)


def compiled_ademamix(parameters: list[Any]) -> Any:
    optimizer = pytorch_optimizer_ademamix(parameters)
    optimizer._compile_foreach()  # what the package's create_optimizer(compile=True) calls
    return optimizer


def without_waits(peer: GpuPeer) -> GpuPeer:
    """bitsandbytes waits for the GPU after each tensor. Its kernels alone are what one could have of it."""

    def make(parameters: list[Any]) -> Any:
        importlib.import_module("bitsandbytes.optim.optimizer").sync_gpu = lambda _: None
        return peer.make(parameters)

    return replace(peer, make=make)


BITSANDBYTES = {
    "bitsandbytes AdamW": GpuPeer("bitsandbytes", bitsandbytes_adamw(32)),
    "bitsandbytes AdamW 8-bit": GpuPeer("bitsandbytes", bitsandbytes_adamw(8)),
    "bitsandbytes AdEMAMix": GpuPeer("bitsandbytes", PEERS["bitsandbytes AdEMAMix"].make),
    "bitsandbytes AdEMAMix 8-bit": GpuPeer("bitsandbytes", PEERS["bitsandbytes AdEMAMix 8-bit"].make),
    "bitsandbytes AdEMAMix 8-bit bf16": GpuPeer("bitsandbytes", PEERS["bitsandbytes AdEMAMix 8-bit"].make, "bfloat16"),
}
GPU_PEERS = {
    FUSED: GpuPeer("torch", PEERS[FUSED].make),
    "torch AdamW fused bf16": GpuPeer("torch", PEERS[FUSED].make, "bfloat16"),
    FOREACH: GpuPeer("pytorch_optimizer", pytorch_optimizer_ademamix),
    COMPILED: GpuPeer("pytorch_optimizer", compiled_ademamix, whole=True),
    **BITSANDBYTES,
    **{name + NO_WAITS: without_waits(peer) for name, peer in BITSANDBYTES.items()},
}


def views(flat: Any) -> list[Any]:
    """A flat tensor as the matrices of a GPT's layers; what doesn't fill the last one is a vector."""
    layer = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    found, begin = [], 0
    while begin < flat.numel():
        shape = layer[len(found) % len(layer)]
        end = begin + math.prod(shape)
        found.append(flat[begin:end].view(shape) if end <= flat.numel() else flat[begin:])
        begin = end
    return found


def time_on_host(step: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def time_on_gpu(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the GPU and, to launch it all, on the host, which has a head start: as after a backward pass."""
    cuda = importlib.import_module("torch").cuda
    before, after = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    cuda._sleep(HEAD_START)
    before.record()
    launch = time_on_host(step)
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3, launch


def figures(step: Callable[[], Any], steps: int, count: int, bytes_moved: int, device: str) -> dict[str, Any]:
    """Of the median step."""
    torch = importlib.import_module("torch")
    times = [time_on_gpu(step) if device == "cuda" else (time_on_host(step), 0.0) for _ in range(steps)]
    seconds, launch = map(statistics.median, zip(*times))
    return {"mparameters_per_second": count / seconds / 1e6, "bytes_per_parameter": bytes_moved / count,
            "launch_seconds": launch, "torch": torch.__version__,
            "device": "the CPU" if device == "cpu" else torch.cuda.get_device_name()}


def copy_round(count: int, device: str, steps: int) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    source = torch.randn(count, device=device)
    target = torch.zeros_like(source)
    for _ in range(WARM_UP):
        target.copy_(source)
    if not torch.equal(source, target):
        raise Failed("the copy differs")
    return figures(lambda: target.copy_(source), steps, count, 2 * source.nbytes, device)


def check_descent(before: Any, gradient: Any, after: Any) -> None:
    check_update(before, after)
    descended = ((before - after).sign() == gradient.sign()).float().mean().item()
    if descended < 0.9:
        raise Failed(f"the update took {descended:.1%} of the elements only against their gradients")


def bytes_to_move(optimizer: Any, flat: Any) -> int:
    """Parameters and states read and written, gradients read, each once."""
    torch = importlib.import_module("torch")
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    # Tensors share bitsandbytes' tables of codes, and torch counts steps in tensors of one element.
    states = {value.data_ptr(): value.nbytes for value in tensors if value.numel() > 1}
    return 3 * flat.nbytes + 2 * sum(states.values())


def update_round(peer: GpuPeer, count: int, device: str, steps: int) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    dtype = getattr(torch, peer.dtype)
    torch.manual_seed(1)
    # Of the size of a network's weights, so that a step of 1e-3 moves bf16 parameters too.
    flat = (0.02 * torch.randn(count, device=device)).to(dtype)
    gradient = torch.randn(count, device=device).to(dtype)
    parameters = []
    for view, its_gradient in zip(*[[whole] if peer.whole else views(whole) for whole in (flat, gradient)]):
        parameters.append(torch.nn.Parameter(view))
        parameters[-1].grad = its_gradient
    before = flat.clone()
    optimizer = peer.make(parameters)
    for _ in range(WARM_UP):
        optimizer.step()
    check_descent(before, gradient, flat)
    del before
    return {"tensors": len(parameters)} | figures(optimizer.step, steps, count, bytes_to_move(optimizer, flat), device)


def work(name: str, device: str, count: int) -> None:
    torch = importlib.import_module("torch")

    def measure(steps: int) -> dict[str, Any]:
        signal.alarm(SECONDS)
        found = (copy_round(count, device, steps) if name == COPY
                 else update_round(GPU_PEERS[name], count, device, steps))
        signal.alarm(0)
        gc.collect()
        torch.cuda.empty_cache()
        return found

    def start() -> Callable[[int], dict[str, Any]]:
        torch.zeros(1, device=device)  # The driver's part of the start, before anything is timed.
        signal.alarm(0)
        return measure

    signal.alarm(SECONDS)
    serve("torch" if name == COPY else GPU_PEERS[name].package, start)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
