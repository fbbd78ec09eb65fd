"""The checks, the most important first."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

from . import readers
from .machine import ROOT, Machine
from .results import Figure

Command = list[str]


def never(_: Machine) -> str:
    return ""


@dataclasses.dataclass(frozen=True)
class Check:
    name: str
    what: str
    program: str  # that is built for it
    commands: Callable[[Machine, pathlib.Path], list[Command]]  # may write to the folder, as they may
    read: Callable[[str, pathlib.Path], list[Figure]]  # what they printed, and the folder
    usual: int = 20   # seconds; with less left it isn't begun
    limit: int = 120  # seconds
    why_not: Callable[[Machine], str] = never  # a reason to skip it
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def on_ranks(ranks: int, *command: str) -> Command:
    return ["mpirun", "-n", str(ranks), *command]


def needs_gpus_tool(tool: str) -> Callable[[Machine], str]:
    def why_not(machine: Machine) -> str:
        if machine.emulated:
            return f"{tool} can't look into emulated GPUs"
        return "" if shutil.which(tool) else f"{tool} isn't on the PATH"
    return why_not


def needs_libtorch(machine: Machine) -> str:
    return "LibTorch can't use emulated GPUs" if machine.emulated else ""


def test(name: str, what: str, program: str, ranks: Callable[[Machine], int], collectives: str = "auto",
         why_not: Callable[[Machine], str] = never) -> Check:
    return Check(name, what, program, lambda machine, _: [on_ranks(ranks(machine), machine.program(program))], readers.tests,
                 usual=40, why_not=why_not, environment={"TEST_COLLECTIVES": collectives})


def sanitizer(tool: str, what: str) -> Check:
    def commands(machine: Machine, _: pathlib.Path) -> list[Command]:
        return [["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", machine.program("device_gpu_test"),
                 "--gtest_filter=-*AllMantissas*"]]  # of which each thread does the same
    return Check(tool, what, "device_gpu_test", commands, readers.sanitizer, why_not=needs_gpus_tool("compute-sanitizer"))


def bench(machine: Machine, kind: str, parameters: int, *more: str) -> Command:
    size = ["--parameters", "65536", "--rounds", "1"] if machine.emulated else ["--parameters", str(parameters)]
    return [machine.program("shardmix"), "bench", kind, "--device", "cuda", *size, *more]


def step(name: str, what: str, ranks: int, parameters: int, precisions: str, usual: int,
         why_not: Callable[[Machine], str] = never, bound: str = "memory") -> Check:
    def commands(machine: Machine, _: pathlib.Path) -> list[Command]:
        return [on_ranks(ranks, *bench(machine, "step", parameters, "--json", "--rule", "ademamix", "--precision", precisions,
                                        "--bound", bound))]
    return Check(name, what, "shardmix", commands, readers.steps, usual=usual, why_not=why_not)


def update_commands(machine: Machine, _: pathlib.Path) -> list[Command]:
    return [bench(machine, "update", 10**9, "--json", "--rule", "ademamix,adamw", "--precision", "fp32,bf16,bf16-compact,fp32-compact")]


BILLIONS = 3 * 10**9
BYTES_OF_STEP = 22  # of a bf16 parameter


def needs_memory(machine: Machine) -> str:
    needed = BYTES_OF_STEP * BILLIONS
    if machine.emulated or machine.memory >= needed:
        return ""
    return f"it needs {needed / 1e9:.0f} GB, and the GPU has {machine.memory / 1e9:.0f}"


def text(folder: pathlib.Path) -> str:
    """Something to train on: this repository's documents and sources."""
    file = folder / "text"
    sources = sorted(path for kind in ("*.md", "*.?pp") for path in ROOT.glob(f"[ditsR]*/**/{kind}"))
    file.write_bytes(b"".join(path.read_bytes() for path in sources))
    return str(file)


def train(machine: Machine, folder: pathlib.Path, run: str, *more: str) -> Command:
    return on_ranks(1, machine.program("shardmix"), "train", "--text", text(folder), "--out", str(folder / run),
                    "--eval-every", "0", "--eval-sequences", "0", "--checkpoint-every", "0", "--log-every", "20", *more)


def losses_commands(machine: Machine, folder: pathlib.Path) -> list[Command]:
    return [train(machine, folder, device, "--model", "nano", "--steps", "100", "--device", device) for device in ("cuda", "host")]


RULES_BATCH, RULES_CONTEXT = 64, 1024  # as in the AdEMAMix paper, for 110M parameters


def rules_commands(machine: Machine, folder: pathlib.Path) -> list[Command]:
    return [train(machine, folder, rule, "--model", "110m", "--context", str(RULES_CONTEXT), "--batch", str(RULES_BATCH), "--dtype",
                  "bf16", "--steps", "30", "--device", "cuda", "--optimizer", rule) for rule in ("adamw", "ademamix")]


KERNELS = ["ademamix fp32", "ademamix bf16", "adamw bf16", "ademamix bf16-compact"]
SECTIONS = ["SpeedOfLight", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats", "Occupancy", "LaunchStats"]


def counters_commands(machine: Machine, _: pathlib.Path) -> list[Command]:
    sections = [part for section in SECTIONS for part in ("--section", section)]
    return [["ncu", *sections, "--kernel-name", "regex:update_kernel", "--launch-skip", "1", "--launch-count", "1",
             *bench(machine, "update", 2**26, "--rounds", "1", "--rule", rule, "--precision", precision)]
            for rule, precision in (kernel.split() for kernel in KERNELS)]


CHECKS = [
    test("bits", "the kernels give the host's bits", "device_gpu_test", lambda _: 1),
    test("one-rank", "the optimizer on one rank", "optimizer_test", lambda _: 1, "shared"),
    test("two-ranks", "two ranks read and write each other's memory through CUDA IPC", "optimizer_test", lambda _: 2, "shared"),
    test("four-ranks", "four ranks do", "optimizer_test", lambda _: 4, "shared"),
    test("nccl", "NCCL on one rank", "optimizer_test", lambda _: 1, "nccl"),
    test("nccl-gpus", "NCCL on as many ranks as there are GPUs", "optimizer_test", lambda machine: len(machine.gpus), "nccl",
         lambda machine: "" if len(machine.gpus) > 1 else "there is one GPU alone"),
    test("hierarchical", "two ranks add for other nodes, of which there are none", "optimizer_test", lambda _: 2, "hierarchical"),
    test("staged", "MPI on two ranks, with staging on the host", "optimizer_test", lambda _: 2, "mpi"),
    test("checkpoint", "checkpoints of two ranks, saves in the background too", "checkpoint_test", lambda _: 2),
    sanitizer("memcheck", "no kernel leaves its memory"),
    sanitizer("racecheck", "no kernel races for shared memory"),
    sanitizer("initcheck", "no kernel reads what wasn't written"),
    sanitizer("synccheck", "no kernel's barriers are wrong"),
    Check("update", "the update's speed, with a billion parameters", "shardmix", update_commands, readers.update, usual=60, limit=180),
    step("step", "a step of one rank, with half a billion parameters", 1, 2**29, "fp32,bf16,bf16-compact", 40),
    step("step-shared", "a step of two ranks that share a GPU", 2, 2**28, "bf16", 20),
    step("step-3b", "a step of one rank, with three billion bf16 parameters", 1, BILLIONS, "bf16", 30, needs_memory, "none"),
    Check("losses", "a training run has the host's losses", "shardmix", losses_commands, readers.losses, usual=40,
          why_not=needs_libtorch),
    Check("rules", "AdEMAMix's time a step against AdamW's, in training 110m", "shardmix", rules_commands,
          readers.rules(RULES_BATCH * RULES_CONTEXT), usual=40, why_not=needs_libtorch),
    Check("counters", "ncu's counters of the update kernels", "shardmix", counters_commands, readers.counters(KERNELS), usual=40,
          why_not=needs_gpus_tool("ncu")),
]
