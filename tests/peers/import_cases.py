"""Real files of real libraries for import_peers.py, and what they must come to.

Each case writes what its library writes after a few steps into a folder, and returns where, the options that the export
needs, the truth (for each parameter the weights, master weights and moments as the library itself holds them), and the
weights after further steps.
"""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from import_models import STEPS, further_gradients, groups, model, random_gradients

HERE = pathlib.Path(__file__).resolve().parent
Truth = dict[str, dict[str, torch.Tensor]]
Weights = dict[str, torch.Tensor]


@dataclass
class Case:
    source: pathlib.Path
    truth: Truth  # of "master", "m1", "m2", "v"
    after: Weights  # of the library's own further steps
    options: list[str] = field(default_factory=list)
    group_of: dict[str, int] = field(default_factory=dict)  # where there are several


def take_steps(optimizer: Any, named: dict[str, torch.Tensor], gradients: list[dict[str, torch.Tensor]]) -> None:
    for step in gradients:
        for name, p in named.items():
            p.grad = step[name].to(p.dtype).clone()
        optimizer.step()


def trained(optimizer: Any, named: dict[str, torch.Tensor]) -> None:
    take_steps(optimizer, named, [random_gradients(named, seed, next(iter(named.values())).dtype)
                                  for seed in range(STEPS)])


def torch_adamw(dtype: torch.dtype, with_names: bool, many: bool) -> Callable[[pathlib.Path], Case]:
    def make(folder: pathlib.Path) -> Case:
        network = model(dtype)
        named = network.trained()
        plain = list(named.items()) if with_names else list(named.values())
        optimizer = torch.optim.AdamW(groups(named, with_names) if many else plain, lr=1e-2)
        trained(optimizer, named)
        torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pt")
        truth = {name: {"master": p.detach(), "m1": optimizer.state[p]["exp_avg"], "v": optimizer.state[p]["exp_avg_sq"]}
                 for name, p in named.items()}
        options = []
        if many and not with_names:
            order = [name for test in (lambda p: p.dim() > 1, lambda p: p.dim() <= 1)
                     for name, p in named.items() if test(p)]
            (folder / "names").write_text("".join(f"{name}\n" for name in order))
            options = ["--names", str(folder / "names")]

        before = copied(truth)
        # In bf16 torch rounds weights and moments to 8 bits in each step: what is compared is its AdamW in fp32 then.
        after = further(optimizer, named) if dtype == torch.float32 else in_fp32(before, dtype, many)
        return Case(folder / "checkpoint.pt", before, after, options,
                    {name: int(many and p.dim() <= 1) for name, p in named.items()})

    return make


def further(optimizer: Any, named: dict[str, torch.nn.Parameter], dtype: torch.dtype = torch.float32) -> Weights:
    take_steps(optimizer, named, further_gradients(named, dtype))
    return {name: p.detach().clone() for name, p in named.items()}


def in_fp32(truth: Truth, dtype: torch.dtype, many: bool) -> Weights:
    """torch's AdamW in fp32, from the states that are there, with gradients in `dtype`."""
    named = {name: torch.nn.Parameter(states["master"].float().clone()) for name, states in truth.items()}
    optimizer = torch.optim.AdamW(groups(named, False) if many else list(named.values()), lr=1e-2,
                                  weight_decay=0.1)
    for name, p in named.items():
        optimizer.state[p] = {"step": torch.tensor(float(STEPS)), "exp_avg": truth[name]["m1"].float().clone(),
                              "exp_avg_sq": truth[name]["v"].float().clone()}
    return further(optimizer, named, dtype)


def copied(truth: Truth) -> Truth:
    return {name: {state: value.detach().clone() for state, value in states.items()} for name, states in truth.items()}


class PaperAdEMAMix(torch.optim.Optimizer):
    """The update as the paper has it, with the names of its reference code: m1 and v corrected, m2 not, eps outside of
    the root, decay decoupled, alpha growing linearly and beta3 linearly in its half-life."""

    def __init__(self, params: Any, **numbers: Any) -> None:
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "beta3_warmup": None,
                                  "alpha_warmup": None, "eps": 1e-8, "weight_decay": 0.1} | numbers)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2, final = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state |= {key: torch.zeros_like(p) for key in ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")}
                state["step"] += 1
                t = state["step"]
                alpha, beta3 = group["alpha"], final
                if group["alpha_warmup"]:
                    alpha *= min(t / group["alpha_warmup"], 1)
                if group["beta3_warmup"] and t < group["beta3_warmup"]:
                    share = t / group["beta3_warmup"]
                    half_life = (1 - share) / math.log(beta1) + share / math.log(final)
                    beta3 = math.exp(1 / half_life)
                m1, m2, v = state["exp_avg_fast"], state["exp_avg_slow"], state["exp_avg_sq"]
                m1.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                m2.mul_(beta3).add_(p.grad, alpha=1 - beta3)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                update = (m1 / (1 - beta1**t) + alpha * m2) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
                p.add_(update + group["weight_decay"] * p, alpha=-group["lr"])


def ademamix(folder: pathlib.Path) -> Case:
    network = model()
    named = network.trained()
    optimizer = PaperAdEMAMix(groups(named, False), lr=1e-2, alpha_warmup=40, beta3_warmup=40)
    trained(optimizer, named)
    torch.save({"model": network.state_dict()}, folder / "model.pt")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    order = [name for group in groups(named, True) for name, _ in group["params"]]
    (folder / "names").write_text("".join(f"{name}\n" for name in order))
    truth = {name: {"master": p, "m1": optimizer.state[p]["exp_avg_fast"], "m2": optimizer.state[p]["exp_avg_slow"],
                    "v": optimizer.state[p]["exp_avg_sq"]} for name, p in named.items()}

    return Case(folder / "optimizer.pt", copied(truth), further(optimizer, named),
                ["--model", str(folder / "model.pt"), "--names", str(folder / "names")],
                {name: int(p.dim() <= 1) for name, p in named.items()})


def bitsandbytes(rule: str, bits: int) -> Callable[[pathlib.Path], Case]:
    def make(folder: pathlib.Path) -> Case:
        import bitsandbytes

        network = model()
        named = network.trained()
        optimizer = getattr(bitsandbytes.optim, rule)(list(named.values()), lr=1e-2, optim_bits=bits, weight_decay=0.1)
        trained(optimizer, named)
        torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pt")
        truth = {name: {"master": p} | unpacked(optimizer.state[p], p.shape) for name, p in named.items()}
        assert bits == 32 or any(optimizer.state[p]["state1"].dtype == torch.uint8 for p in named.values())
        return Case(folder / "checkpoint.pt", copied(truth), further(optimizer, named))

    return make


def unpacked(state: dict[str, Any], shape: torch.Size) -> dict[str, torch.Tensor]:
    """The moments of a parameter in bitsandbytes, by its own function where they have 8 bits."""
    from bitsandbytes.functional import dequantize_blockwise

    def number(which: int, part: Any) -> torch.Tensor:
        values = state[f"state{which}"][part]
        if values.dtype != torch.uint8:
            return values
        return dequantize_blockwise(values, absmax=state[f"absmax{which}"][part], code=state[f"qmap{which}"], blocksize=256)

    firsts = {"m1": number(1, 0), "m2": number(1, 1)} if state["state1"].shape != shape else {"m1": number(1, ...)}
    return firsts | {"v": number(2, ...)}


def ranks(kind: str, *arguments: str, count: int = 2) -> Callable[[pathlib.Path], Case]:
    """Processes that train on gloo: import_ranks.py."""
    def make(folder: pathlib.Path) -> Case:
        environment = {**os.environ, "WORLD_SIZE": str(count), "LOCAL_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo",
                       "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        processes = []
        for rank in range(count):
            with open(folder / f"log{rank}", "w", encoding="utf-8") as log:
                processes.append(subprocess.Popen(
                    [sys.executable, str(HERE / "import_ranks.py"), kind, str(folder), *arguments],
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log))
        codes = [process.wait(timeout=400) for process in processes]
        if any(codes):
            first = next(rank for rank, code in enumerate(codes) if code)
            raise RuntimeError(f"rank {first} ended with {codes[first]}: {(folder / f'log{first}').read_text()[-2000:]}")
        truth = torch.load(folder / "truth.pt", weights_only=True)
        many = kind not in ("megatron", "imitated")
        own = kind not in ("pipeline", "imitated")
        after = torch.load(folder / "after.pt", weights_only=True) if own else in_fp32(truth, torch.bfloat16, many)
        options = ["--decoupled-weight-decay"] if "cpu-adam" in arguments or kind == "imitated" else []
        universal = kind in ("sliced", "pipeline") or "universal" in arguments
        return Case(folder / ("universal" if universal else "saved"), truth, after, options,
                    {name: int(many and states["master"].dim() <= 1) for name, states in truth.items()})

    return make


# And how far the weights may be from the library's after its further steps: in ulp of the tensor's largest weight; or,
# with "%", in hundredths of its largest update; or that the export must refuse it.
CASES: dict[str, tuple[Callable[[pathlib.Path], Case], str]] = {
    "torch AdamW fp32, a group, names": (torch_adamw(torch.float32, True, False), "16"),
    "torch AdamW fp32, a group, no names": (torch_adamw(torch.float32, False, False), "16"),
    "torch AdamW fp32, 2 groups, names": (torch_adamw(torch.float32, True, True), "10"),
    "torch AdamW fp32, 2 groups, no names": (torch_adamw(torch.float32, False, True), "10"),
    "torch AdamW bf16, 2 groups, names": (torch_adamw(torch.bfloat16, True, True), "10"),
    "DeepSpeed ZeRO-1 bf16, torch AdamW": (ranks("deepspeed", "1", "bf16", "torch"), "8"),
    "DeepSpeed ZeRO-2 bf16, torch AdamW": (ranks("deepspeed", "2", "bf16", "torch"), "8"),
    "DeepSpeed ZeRO-2 bf16, CPUAdam": (ranks("deepspeed", "2", "bf16", "cpu-adam"), "16"),
    "DeepSpeed ZeRO-1 fp32, torch AdamW": (ranks("deepspeed", "1", "fp32", "torch"), "8"),
    "DeepSpeed ZeRO-2 fp32, CPUAdam": (ranks("deepspeed", "2", "fp32", "cpu-adam"), "16"),
    "DeepSpeed ZeRO-1 fp16, torch AdamW": (ranks("deepspeed", "1", "fp16", "torch"), "8"),
    "DeepSpeed ZeRO-2 fp16, CPUAdam": (ranks("deepspeed", "2", "fp16", "cpu-adam"), "16"),
    "DeepSpeed ZeRO-2 bf16, round robin": (ranks("deepspeed", "2", "bf16", "torch", "round-robin"), "refused"),
    "DeepSpeed universal": (ranks("deepspeed", "2", "bf16", "torch", "universal"), "8"),
    "DeepSpeed universal, round robin": (ranks("deepspeed", "2", "bf16", "torch", "round-robin", "universal"),
                                         "refused"),
    "DeepSpeed universal, ZeRO-3": (ranks("deepspeed", "3", "bf16", "torch", "universal"), "8"),
    "DeepSpeed universal, 2 slices": (ranks("sliced", "2", "fp32"), "10"),
    "DeepSpeed universal, 2 slices x 2": (ranks("sliced", "1", "bf16", count=4), "10"),
    "DeepSpeed universal, 2 stages x 2": (ranks("pipeline", count=4), "8"),
    "DeepSpeed universal, slices, round robin": (ranks("sliced", "2", "bf16", "round-robin", count=4), "refused"),
    "FSDP2, torch.distributed.checkpoint": (ranks("fsdp", "nested"), "8"),
    "FSDP2, flat names": (ranks("fsdp", "flat"), "8"),
    "Megatron-core fp32": (ranks("megatron"), "10"),
    "Megatron-core's names, torch's writer": (ranks("imitated"), "8"),
    "AdEMAMix of the paper": (ademamix, "8"),
    "bitsandbytes AdEMAMix 32 bits": (bitsandbytes("AdEMAMix", 32), "12"),
    "bitsandbytes AdEMAMix 8 bits": (bitsandbytes("AdEMAMix", 8), "5%"),
    "bitsandbytes AdamW 32 bits": (bitsandbytes("AdamW", 32), "12"),
    "bitsandbytes AdamW 8 bits": (bitsandbytes("AdamW", 8), "5%"),
}
