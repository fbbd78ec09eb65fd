"""DeepSpeed's engine for import_ranks.py: it trains, saves, and takes further steps with given gradients.

What rank 0 writes comes from DeepSpeed: truth.pt from its own converter, after.pt from its master weights.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import Any

import torch

from import_models import STEPS, further_gradients, groups, model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FAR_AWAY = 1e6  # a norm that no gradient has: nothing is clipped


def config_of(dtype: str, stage: int, **zero: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": FAR_AWAY,
                              "zero_optimization": {"stage": stage, **zero}}
    if dtype == "fp16":  # loss scales that overflow at first: the engine skips steps, which Adam doesn't count
        config["fp16"] = {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}
    elif dtype == "bf16":
        config["bf16"] = {"enabled": True}
    return config


def allow_fp16() -> None:
    """DeepSpeed has fp16 on processors with fp16 arithmetic alone, but torch computes in it on any."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def take(engine: Any, loss: Callable[[], torch.Tensor]) -> None:
    """A step; again, as long as the engine skips it."""
    for _ in range(40):
        engine.backward(loss())
        engine.step()
        if engine.was_step_applied():
            return
    raise RuntimeError("the engine skips every step")


def whole(named: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """The master weights, of which each rank has a part."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p).clone() for name, p in named.items()}


def trained_engine(folder: pathlib.Path, generator: torch.Generator, stage: str, dtype: str, kind: str, *more: str) -> None:
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    if dtype == "fp16":
        allow_fp16()
    network = model(extras=True)
    frozen = {name: {"master": p.to(DTYPES[dtype]).float()} for name, p in network.named_parameters() if not p.requires_grad}
    shapes = {name: torch.empty(p.shape) for name, p in network.trained().items()}  # ZeRO-3 takes them away
    make = torch.optim.AdamW if kind == "torch" else DeepSpeedCPUAdam
    engine, *_ = deepspeed.initialize(model=network, optimizer=make(groups(network.trained(), False), lr=1e-2),
                                      config=config_of(dtype, int(stage), round_robin_gradients="round-robin" in more))
    for _ in range(STEPS):
        x = torch.randint(0, 151, (4, 8), generator=generator)
        take(engine, lambda: engine(x))
    engine.save_checkpoint(str(folder / "saved"), tag="last")
    torch.distributed.barrier()
    rank = int(os.environ["RANK"])
    if rank == 0:
        convert(folder)
        # Of ZeRO-3 the converter keeps no frozen parameters.
        torch.save(converted(folder, shapes) | ({} if stage == "3" else frozen), folder / "truth.pt")
    for given in further_gradients(shapes, DTYPES[dtype]):
        take(engine, lambda: engine(None, given))
    after = whole(network.trained())
    if rank == 0:
        torch.save(after, folder / "after.pt")


def convert(folder: pathlib.Path) -> None:
    """By DeepSpeed's own converter, which reads the files in a way of its own."""
    from deepspeed.checkpoint import ds_to_universal

    ds_to_universal.main(argparse.Namespace(
        input_folder=str(folder / "saved/last"), output_folder=str(folder / "universal"), num_extract_workers=1,
        num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True))


def converted(folder: pathlib.Path, named: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    def read(name: str, state: str) -> torch.Tensor:
        loaded = torch.load(folder / "universal" / "zero" / name / f"{state}.pt", weights_only=False)
        loaded = loaded["param"] if isinstance(loaded, dict) else loaded  # ZeRO-3
        return loaded.float().reshape(named[name].shape).clone()

    return {name: {ours: read(name, state) for ours, state in (("master", "fp32"), ("m1", "exp_avg"), ("v", "exp_avg_sq"))}
            for name in named}
