"""Real files of real libraries for import_peers.py, and what they must come to.

Each case writes what its library writes after a few steps into a folder, and returns where, the options that the export
needs, and the truth: for each parameter the weights, master weights and moments as the library itself holds them.
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

STEPS = 6
HERE = pathlib.Path(__file__).resolve().parent
Truth = dict[str, dict[str, torch.Tensor]]
GoOn = Callable[[list[dict[str, torch.Tensor]]], dict[str, torch.Tensor]]


@dataclass
class Case:
    source: pathlib.Path
    truth: Truth  # of "master", "m1", "m2", "v"
    options: list[str] = field(default_factory=list)
    group_of: dict[str, int] = field(default_factory=dict)  # where there are several
    # The library's own next steps, from given gradients of each step: the weights after them.
    go_on: GoOn | None = None


class Model(torch.nn.Module):
    """Odd sizes, a tied weight, a frozen layer and a buffer; one parameter is large enough for 8-bit states."""

    def __init__(self, extras: bool = True) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(151, 61)
        self.linear = torch.nn.Linear(61, 17)
        self.norm = torch.nn.LayerNorm(61)
        if extras:
            self.frozen = torch.nn.Linear(3, 5).requires_grad_(False)
            self.register_buffer("buffer", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.embedding(x))).float().square().mean()

    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def model(dtype: torch.dtype = torch.float32, extras: bool = False) -> Model:
    torch.manual_seed(0)
    return Model(extras).to(dtype)


def groups(named: dict[str, Any], with_names: bool) -> list[dict[str, Any]]:
    """Decay for matrices alone, as usual."""
    def those(test: Callable[[torch.Tensor], bool]) -> list[Any]:
        return [(name, p) if with_names else p for name, p in named.items() if test(p)]

    return [{"params": those(lambda p: p.dim() > 1), "weight_decay": 0.1},
            {"params": those(lambda p: p.dim() <= 1), "weight_decay": 0.0, "lr": 5e-3}]


def random_gradients(named: dict[str, torch.Tensor], seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator).to(dtype) for name, p in named.items()}


def take_steps(optimizer: Any, named: dict[str, torch.Tensor], gradients: list[dict[str, torch.Tensor]]) -> None:
    for step in gradients:
        for name, p in named.items():
            p.grad = step[name].to(p.dtype).clone()
        optimizer.step()


def trained(optimizer: Any, named: dict[str, torch.Tensor]) -> None:
    take_steps(optimizer, named, [random_gradients(named, seed, next(iter(named.values())).dtype)
                                  for seed in range(STEPS)])


def weights(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in named.items()}


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

        # In bf16 torch rounds weights and moments to 8 bits in each step: what is compared is its AdamW in fp32 then.
        go_on = in_fp32(copied(truth), many) if dtype != torch.float32 else further(optimizer, named)
        return Case(folder / "checkpoint.pt", copied(truth), options,
                    {name: int(many and p.dim() <= 1) for name, p in named.items()}, go_on)

    return make


def further(optimizer: Any, named: dict[str, torch.nn.Parameter]) -> GoOn:
    def go_on(gradients: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        take_steps(optimizer, named, gradients)
        return weights(named)

    return go_on


def in_fp32(truth: Truth, many: bool = True) -> GoOn:
    """torch's AdamW in fp32, from the states that are there."""
    named = {name: torch.nn.Parameter(states["master"].float().clone()) for name, states in truth.items()}
    optimizer = torch.optim.AdamW(groups(named, False) if many else list(named.values()), lr=1e-2,
                                  weight_decay=0.1)
    for name, p in named.items():
        optimizer.state[p] = {"step": torch.tensor(float(STEPS)), "exp_avg": truth[name]["m1"].float().clone(),
                              "exp_avg_sq": truth[name]["v"].float().clone()}
    return further(optimizer, named)


def copied(truth: Truth) -> Truth:
    return {name: {state: value.detach().clone() for state, value in states.items()} for name, states in truth.items()}


class PaperAdEMAMix(torch.optim.Optimizer):
    """The update as the paper has it, with the names of its reference code: m1 and v corrected, m2 not, eps outside of the
    root, decay decoupled, alpha growing linearly and beta3 linearly in its half-life."""

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

    return Case(folder / "optimizer.pt", copied(truth),
                ["--model", str(folder / "model.pt"), "--names", str(folder / "names")],
                {name: int(p.dim() <= 1) for name, p in named.items()}, further(optimizer, named))


def bitsandbytes(bits: int) -> Callable[[pathlib.Path], Case]:
    def make(folder: pathlib.Path) -> Case:
        import bitsandbytes
        from bitsandbytes.functional import dequantize_blockwise

        network = model()
        named = network.trained()
        optimizer = bitsandbytes.optim.AdEMAMix(list(named.values()), lr=1e-2, optim_bits=bits, weight_decay=0.1)
        trained(optimizer, named)
        torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pt")

        def unpacked(values: torch.Tensor, state: dict[str, Any], number: int, part: Any) -> torch.Tensor:
            if values.dtype != torch.uint8:
                return values[part] if part is not None else values
            scales = state[f"absmax{number}"]
            return dequantize_blockwise(values[part] if part is not None else values,
                                        absmax=scales[part] if part is not None else scales,
                                        code=state[f"qmap{number}"], blocksize=256)

        truth = {}
        for name, p in named.items():
            state = optimizer.state[p]
            truth[name] = {"master": p, "m1": unpacked(state["state1"], state, 1, 0),
                           "m2": unpacked(state["state1"], state, 1, 1), "v": unpacked(state["state2"], state, 2, None)}
        assert bits == 32 or any(optimizer.state[p]["state1"].dtype == torch.uint8 for p in named.values())
        return Case(folder / "checkpoint.pt", copied(truth))  # its next steps decay and quantise in an order of their own

    return make


def ranks(kind: str, *arguments: str) -> Callable[[pathlib.Path], Case]:
    """Two processes that train on gloo: import_ranks.py."""
    def make(folder: pathlib.Path) -> Case:
        environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo",
                       "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        processes = []
        for rank in range(2):
            with open(folder / f"log{rank}", "w", encoding="utf-8") as log:
                processes.append(subprocess.Popen(
                    [sys.executable, str(HERE / "import_ranks.py"), kind, str(folder), *arguments],
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log))
        if any([process.wait(timeout=400) for process in processes]):
            raise RuntimeError((folder / "log0").read_text()[-2000:])
        truth = torch.load(folder / "truth.pt", weights_only=True)
        many = kind != "megatron"
        options = ["--decoupled-weight-decay"] if "cpu-adam" in arguments or kind == "megatron" else []
        return Case(folder / ("universal" if "universal" in arguments else "saved"), truth, options,
                    {name: int(many and states["master"].dim() <= 1) for name, states in truth.items()}, in_fp32(truth, many))

    return make


CASES = {
    "torch AdamW fp32, a group, names": torch_adamw(torch.float32, True, False),
    "torch AdamW fp32, a group, no names": torch_adamw(torch.float32, False, False),
    "torch AdamW fp32, 2 groups, names": torch_adamw(torch.float32, True, True),
    "torch AdamW fp32, 2 groups, no names": torch_adamw(torch.float32, False, True),
    "torch AdamW bf16, 2 groups, names": torch_adamw(torch.bfloat16, True, True),
    "DeepSpeed ZeRO-1 bf16, torch AdamW": ranks("deepspeed", "1", "bf16", "torch"),
    "DeepSpeed ZeRO-2 bf16, torch AdamW": ranks("deepspeed", "2", "bf16", "torch"),
    "DeepSpeed ZeRO-2 fp32, CPUAdam": ranks("deepspeed", "2", "fp32", "cpu-adam"),
    "DeepSpeed ZeRO-2 bf16, round robin": ranks("deepspeed", "2", "bf16", "torch", "round-robin"),
    "DeepSpeed universal": ranks("deepspeed", "2", "bf16", "torch", "universal"),
    "FSDP2, torch.distributed.checkpoint": ranks("fsdp", "nested"),
    "FSDP2, flat names": ranks("fsdp", "flat"),
    "Megatron-core's names, torch's writer": ranks("megatron"),
    "AdEMAMix of the paper": ademamix,
    "bitsandbytes AdEMAMix 32 bits": bitsandbytes(32),
    "bitsandbytes AdEMAMix 8 bits": bitsandbytes(8),
}
