"""The peers of compare_step.py, the process of one of their ranks, and the handle of all ranks of one.

    step_peers.py NAME RANK PARAMETERS RENDEZVOUS

sets rank RANK of NAME up, which meets the others at the file RENDEZVOUS, and says so in a line of JSON, then answers
each line of its input, a number of steps, with the time of one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peers import DECAY, WARM_UP, Failed, PeerProcess, check_update, deepspeed_adamw, serve, torch_adamw

RANKS = 2
LEARNING_RATE = 1e-3
BUCKET = 25 << 20  # bytes that are reduced at once: DistributedDataParallel's default
TIMEOUT = datetime.timedelta(minutes=5)


def descended(before: Any, mean: Any, value: Any) -> Any:
    """Which elements a step has taken against the mean of the ranks' gradients."""
    return (before - value).sign() == mean.sign()


def averaged(_: Any, mean: Any, value: Any) -> Any:
    return (value - mean).abs() <= 0.01 * mean.abs()


@dataclass
class Training:
    """How one rank takes a step. Every call is made by all ranks at once."""

    step: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None  # not timed; its result is step's argument
    values: Callable[[], list[Any]] | None = None  # what a step leaves on every rank; None: the network's parameters
    expected: Callable[[Any, Any, Any], Any] = descended


@dataclass(frozen=True)
class StepPeer:
    """How to make the training of a network, and the types of its parameters and gradients."""

    package: str
    make: Callable[[Any], Training]
    dtype: str = "bfloat16"
    gradient_dtype: str = "bfloat16"


def given_gradients() -> Any:
    return importlib.import_module("given_gradients")


def gradient_buckets(network: Any) -> list[Any]:
    """The parameters' gradients as views of DDP's buckets (its gradient_as_bucket_view)."""
    for parameter, gradient in zip(network.parameters(), network.gradients, strict=True):
        parameter.grad = gradient
    return list(network.flat_gradient.split(BUCKET // network.flat_gradient.element_size()))


def all_reduce(buckets: list[Any], divide: bool) -> None:
    """As DDP does: a bucket after the other is divided by the ranks and set off."""
    distributed = importlib.import_module("torch.distributed")
    handles = []
    for bucket in buckets:
        if divide:
            bucket.div_(RANKS)
        handles.append(distributed.all_reduce(bucket, async_op=True))
    for handle in handles:
        handle.wait()


def gloo_all_reduce(network: Any) -> Training:
    buckets = gradient_buckets(network)
    return Training(prepare=lambda: [bucket.div_(RANKS) for bucket in buckets],
                    step=lambda _: all_reduce(buckets, divide=False), values=lambda: network.gradients,
                    expected=averaged)


def zero_redundancy(network: Any) -> Training:
    torch = importlib.import_module("torch")
    buckets = gradient_buckets(network)
    optimizer = importlib.import_module("torch.distributed.optim").ZeroRedundancyOptimizer(
        network.parameters(), torch.optim.AdamW, parameters_as_bucket_view=True, lr=LEARNING_RATE, weight_decay=DECAY,
        fused=True)

    def step(_: Any) -> None:
        all_reduce(buckets, divide=True)
        optimizer.step()

    return Training(step)


def deepspeed_zero(stage: int) -> Callable[[Any], Training]:
    def make(network: Any) -> Training:
        engine, *_ = importlib.import_module("deepspeed").initialize(
            model=network, optimizer=deepspeed_adamw(list(network.parameters())),
            config={"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "gradient_clipping": 0.0,
                    "zero_optimization": {"stage": stage, "reduce_bucket_size": BUCKET // 2}})

        def step(loss: Any) -> None:
            engine.backward(loss)
            engine.step()

        return Training(step, prepare=lambda: engine(given_gradients().token()))

    return make


def fsdp(network: Any) -> Training:
    torch = importlib.import_module("torch")
    package = importlib.import_module("torch.distributed.fsdp")
    how = {"reshard_after_forward": False,  # The parameters fit: gather them once a step.
           "mp_policy": package.MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
    for block in network.blocks:
        package.fully_shard(block, **how)
    package.fully_shard(network, **how)
    optimizer = torch_adamw(fused=True)(list(network.parameters()))

    def step(_: Any) -> None:
        network(given_gradients().token()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Training(step, values=lambda: [parameter.full_tensor() for parameter in network.parameters()])


STEP_PEERS = {
    "gloo all-reduce alone": StepPeer("torch", gloo_all_reduce),
    "ZeroRedundancyOptimizer bf16": StepPeer("torch", zero_redundancy),
    "ZeroRedundancyOptimizer fp32": StepPeer("torch", zero_redundancy, "float32", "float32"),
    "DeepSpeed ZeRO-1": StepPeer("deepspeed", deepspeed_zero(1)),
    "DeepSpeed ZeRO-2": StepPeer("deepspeed", deepspeed_zero(2)),
    "FSDP2": StepPeer("torch", fsdp, "float32"),
    "FSDP2 bf16": StepPeer("torch", fsdp),
}


# The worker's side.


def check_training(training: Training, network: Any, peer: StepPeer, count: int) -> None:
    """Steps changed the values, left them finite and equal on all ranks, and followed the mean of all gradients."""
    torch, given = importlib.import_module("torch"), given_gradients()
    for index, value in enumerate(training.values() if training.values else network.parameters()):
        value = value.detach()
        of_rank_0 = value.clone()
        torch.distributed.broadcast(of_rank_0, 0)
        if not torch.equal(value, of_rank_0):
            raise Failed("the step left other values on this rank than on rank 0")
        before = given.parameter(index, count, value.dtype)
        check_update(before, value)
        mean = sum(given.gradient(index, rank, count, getattr(torch, peer.gradient_dtype)).float()
                   for rank in range(RANKS)) / RANKS
        share = training.expected(before.float(), mean, value.float()).float().mean().item()
        if share < 0.9:  # One rank's own gradients alone would come to three quarters.
            raise Failed(f"the step followed the mean of the ranks' gradients in {share:.1%} of the elements only")


def start_training(peer: StepPeer, rank: int, count: int, rendezvous: str) -> Training:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS,
                                         timeout=TIMEOUT)
    network = given_gradients().Network(count, rank, getattr(torch, peer.dtype), getattr(torch, peer.gradient_dtype))
    training = peer.make(network)
    for _ in range(WARM_UP):
        training.step(training.prepare())
    check_training(training, network, peer, count)
    if torch.get_num_threads() != 1:
        raise Failed(f"the package set torch to {torch.get_num_threads()} threads instead of 1")
    return training


def time_steps(training: Training, steps: int) -> dict[str, float]:
    """The round's median step: from all ranks' start until the last one has the new parameters."""
    torch = importlib.import_module("torch")
    seconds, busy = [], 0.0
    for _ in range(1 + steps):  # The first one, not counted, finds caches and memory of another contestant.
        ready = training.prepare()
        torch.distributed.barrier()
        start, used = time.perf_counter(), time.process_time()
        training.step(ready)
        busy += time.process_time() - used
        last = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        torch.distributed.all_reduce(last, torch.distributed.ReduceOp.MAX)
        seconds.append(last.item())
    return {"seconds": statistics.median(seconds[1:]), "cores_of_rank_0": busy / sum(seconds)}


def work(name: str, rank: int, count: int, rendezvous: str) -> None:
    def start() -> Callable[[int], dict[str, Any]]:
        training = start_training(STEP_PEERS[name], rank, count, rendezvous)
        return lambda steps: time_steps(training, steps)

    serve(STEP_PEERS[name].package, start)


# The referee's side.


class Ranks:
    """Runs all ranks of one peer anew for each round: several peers at once would take too much memory. Options are
    those of compare_step.py."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options

    def start(self) -> dict[str, Any]:
        return {}

    def round(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="shardmix-peers-") as folder:
            ranks = [self.process(rank, pathlib.Path(folder) / "rendezvous") for rank in range(RANKS)]
            try:
                details = read(ranks)
                for rank in ranks:
                    rank.ask()
                return details | read(ranks)
            finally:
                for rank in ranks:  # All of them first: a rank may wait for another one's end.
                    rank.dismiss()
                for rank in ranks:
                    rank.close()

    def process(self, rank: int, rendezvous: pathlib.Path) -> PeerProcess:
        return PeerProcess(["step_peers.py", self.name, str(rank), str(self.options.parameters), str(rendezvous)], 1,
                           self.options, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS),
                           LOCAL_SIZE=str(RANKS), GLOO_SOCKET_IFNAME="lo")

    def close(self) -> None:
        pass


def read(ranks: list[PeerProcess]) -> dict[str, Any]:
    """Rank 0's answer, when all have answered. A rank that fails takes the others with it: all reasons, then."""
    answers, reasons = [], {}
    for rank in ranks:
        try:
            answers.append(rank.read())
        except Failed as error:
            reasons[str(error)] = None
    if reasons:
        raise Failed("; ".join(reasons))
    return answers[0]


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
