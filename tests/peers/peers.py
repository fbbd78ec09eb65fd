"""The peers of compare.py, the worker process that one of them lives in, and the handle of such a process.

    peers.py NAME THREADS PARAMETERS

sets NAME up and says so in a line of JSON, then answers each line of its input, a number of steps, with their speed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
WARM_UP = 3
DECAY = 0.1
FUSED = "torch AdamW fused"


@dataclass(frozen=True)
class Peer:
    """How to make an optimizer of package for a list of one parameter, and the row that it is measured against."""

    package: str
    make: Callable[[list[Any]], Any]
    against: str
    dtype: str = "float32"


def torch_adamw(**how: bool) -> Callable[[list[Any]], Any]:
    return lambda parameters: importlib.import_module("torch").optim.AdamW(parameters, weight_decay=DECAY, **how)


def deepspeed_adamw(parameters: list[Any]) -> Any:
    adam = importlib.import_module("deepspeed.ops.adam")
    return adam.DeepSpeedCPUAdam(parameters, weight_decay=DECAY, adamw_mode=True)


def pytorch_optimizer_ademamix(parameters: list[Any]) -> Any:
    package = importlib.import_module("pytorch_optimizer")
    return package.AdEMAMix(parameters, weight_decay=DECAY, weight_decouple=True)


def bitsandbytes_ademamix(bits: int) -> Callable[[list[Any]], Any]:
    return lambda parameters: importlib.import_module("bitsandbytes.optim").AdEMAMix(
        parameters, weight_decay=DECAY, optim_bits=bits)


PEERS = {
    "torch AdamW for-loop": Peer("torch", torch_adamw(foreach=False, fused=False), FUSED),
    "torch AdamW foreach": Peer("torch", torch_adamw(foreach=True), FUSED),
    FUSED: Peer("torch", torch_adamw(fused=True), FUSED),
    "torch AdamW fused bf16": Peer("torch", torch_adamw(fused=True), FUSED, "bfloat16"),
    "DeepSpeed CPUAdam": Peer("deepspeed", deepspeed_adamw, FUSED),
    "pytorch_optimizer AdEMAMix": Peer("pytorch_optimizer", pytorch_optimizer_ademamix, "pytorch_optimizer AdEMAMix"),
    "bitsandbytes AdEMAMix": Peer("bitsandbytes", bitsandbytes_ademamix(32), "pytorch_optimizer AdEMAMix"),
    "bitsandbytes AdEMAMix 8-bit": Peer("bitsandbytes", bitsandbytes_ademamix(8), "bitsandbytes AdEMAMix"),
}


class Failed(Exception):
    """Why a contestant has no figure."""


# The worker's side.


def check_update(before: Any, after: Any) -> None:
    torch = importlib.import_module("torch")
    if not bool(torch.isfinite(after).all()):
        raise Failed("the update left values that are not finite")
    changed = (before != after).float().mean().item()
    if changed < 0.9:
        raise Failed(f"the update changed {changed:.1%} of the elements only")


def start_optimizer(peer: Peer, threads: int, count: int) -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    dtype = getattr(torch, peer.dtype)
    # Of the size of a network's weights, so that a step of 1e-3 moves bf16 parameters too.
    parameter = torch.nn.Parameter((0.02 * torch.randn(count)).to(dtype))
    parameter.grad = torch.randn(count).to(dtype)
    before = parameter.detach().clone()
    optimizer = peer.make([parameter])
    for _ in range(WARM_UP):
        optimizer.step()
    check_update(before, parameter.detach())
    if torch.get_num_threads() != threads:
        raise Failed(f"the package set torch to {torch.get_num_threads()} threads instead of {threads}")
    return optimizer


def time_steps(optimizer: Any, count: int, steps: int) -> dict[str, float]:
    """The round's median step in Mparam/s, and how many cores the steps kept busy."""
    seconds = []
    optimizer.step()  # Awake again: threads spread over the cores, caches without the last contestant's memory.
    busy = time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    busy = time.process_time() - busy
    return {"mparameters_per_second": count / statistics.median(seconds) / 1e6, "cores": busy / sum(seconds)}


def reason_of(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if not isinstance(error, Failed) else str(error)
    return text + (f" ({reason_of(error.__cause__)})" if error.__cause__ else "")


def serve(package: str, start: Callable[[], Callable[[int], dict[str, Any]]]) -> None:
    """Sets a peer of package up by start, says so, and answers each line of the input, a number of steps."""
    # Packages print to standard output as they please: keep the channel, and send theirs to standard error.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=channel, flush=True)

    try:
        importlib.import_module(package)
    except ImportError as error:
        return answer(error=f"not installed: {reason_of(error)}")
    try:
        measure = start()
        answer(version=importlib.metadata.version(package))
        for line in sys.stdin:
            answer(**measure(int(line)))
    except Exception as error:  # Whatever a package raises is a row of the table.
        answer(error=f"failed: {reason_of(error)}")


def work(name: str, threads: int, count: int) -> None:
    def start() -> Callable[[int], dict[str, Any]]:
        optimizer = start_optimizer(PEERS[name], threads, count)
        return lambda steps: time_steps(optimizer, count, steps)

    serve(PEERS[name].package, start)


# The referee's side.


def worker_environment(threads: int, huge_pages: bool) -> dict[str, str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # A worker that waits for its turn must not spin.
        "DS_ACCELERATOR": "cpu",  # DeepSpeed looks for a GPU otherwise.
        # What DeepSpeed compiles fits this machine alone: it belongs beside the packages, not in a shared home.
        "TORCH_EXTENSIONS_DIR": str(pathlib.Path(sys.prefix) / "torch_extensions"),
        # DeepSpeed's builder calls ninja, which the virtual environment has.
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    if huge_pages:
        environment |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # madvise, from glibc 2.35 on
    return environment


class PeerProcess:
    """The referee's handle of one worker: a script of this folder with its arguments. Options are compare.py's."""

    def __init__(self, arguments: list[str], threads: int, options: argparse.Namespace, **environment: str) -> None:
        self.steps = options.steps
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / arguments[0]), *arguments[1:]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=None if options.verbose else subprocess.DEVNULL,
            env=worker_environment(threads, options.huge_pages) | environment)
        assert self.process.stdin and self.process.stdout
        self.questions, self.answers = self.process.stdin, self.process.stdout

    def read(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line:
            raise Failed(f"failed: its process ended with status {self.process.wait()}; --verbose shows its output")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def start(self) -> dict[str, Any]:
        return self.read()

    def ask(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # Of a process that has ended: read() says so.
            print(self.steps, file=self.questions, flush=True)

    def round(self) -> dict[str, Any]:
        self.ask()
        return self.read()

    def dismiss(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.questions.close()

    def close(self) -> None:
        self.dismiss()
        self.process.wait()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
