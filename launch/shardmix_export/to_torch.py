"""The way back: a checkpoint of shardmix as a file of torch.save, whose optimizer torch's own AdamW loads."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from .loading import load, torch
from .refused import Refused
from .states import MOST_HEADER, Output
from .torch_states import find, is_optimizer, slots_of

TARGETS = ("torch-adamw", "ademamix")


@dataclass(frozen=True)
class Export:
    """What `shardmix checkpoint export` wrote."""

    metadata: dict[str, str]
    tensors: dict[str, Any]

    def number(self, key: str) -> int:
        value = self.metadata.get(key, "")
        if not value.isascii() or not value.isdigit():
            raise Refused(f"the metadata has no {key}: the file isn't an export of shardmix")
        return int(value)


def read_safetensors(path: pathlib.Path) -> Export:
    """Of a file of fp32 tensors; they stay in it until they are used."""
    module = torch()
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MOST_HEADER, size - 8):
                raise Refused(f"'{path}' would have a header of {length} bytes: it is cut short, or no safetensors file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        values = module.from_file(str(path), shared=False, size=size, dtype=module.uint8)
        tensors = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if entry["dtype"] != "F32" or end - begin != 4 * math.prod(entry["shape"]) or not 8 + length <= begin <= end <= size:
                raise Refused(f"'{path}' has a tensor '{name}' that isn't fp32, or that lies elsewhere")
            # from an address that is a multiple of 4 or not
            tensors[name] = values[begin:end].clone().view(module.float32).reshape(entry["shape"])
    except Refused:
        raise
    except Exception as error:  # any damage
        raise Refused(f"'{path}' can't be used as a safetensors file ({type(error).__name__}: {str(error)[:200]})") from None
    return Export(metadata, tensors)


def program() -> str:
    """shardmix itself: as SHARDMIX says, beside this tool, in the build tree, or on the path."""
    here = pathlib.Path(sys.argv[0]).resolve().parent
    for path in (os.environ.get("SHARDMIX"), here / "shardmix", here.parent / "build/release/bin/shardmix",
                 shutil.which("shardmix")):
        if path and os.access(path, os.X_OK):
            return str(path)
    raise Refused("the program shardmix isn't found, which reads and verifies checkpoints: set SHARDMIX to it, or give a file "
                  "of `shardmix checkpoint export`")


def exported(source: pathlib.Path) -> Export:
    if not source.is_dir():
        return read_safetensors(source)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "state.safetensors"
        result = subprocess.run([program(), "checkpoint", "export", str(source), "--output", str(path)],
                                capture_output=True, text=True, check=False)
        if result.returncode:
            raise Refused(result.stderr.strip().removeprefix("shardmix: ") or "checkpoint export failed")
        return read_safetensors(path)


def names_in(export: Export) -> tuple[list[str], list[str]]:
    """The parameters with moments, and the frozen ones, in the checkpoint's order."""
    moments = {f"{name}.{state}" for name in export.tensors for state in ("m1", "m2", "v")
               if f"{name}.v" in export.tensors}
    names = [name for name in export.tensors if name not in moments]
    trained = [name for name in names if f"{name}.v" in export.tensors]
    return trained, [name for name in names if name not in trained]


def group_of(export: Export, target: str) -> dict[str, Any]:
    try:
        numbers = json.loads(export.metadata.get("hyper_parameters", "{}"))
        if not numbers:
            numbers = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        lr = numbers["lr"]["peak"] if isinstance(numbers["lr"], dict) else numbers["lr"]
        common = {"lr": lr, "eps": numbers["eps"], "weight_decay": numbers["weight_decay"]}
        if target == "torch-adamw":
            return common | {"betas": (numbers["beta1"], numbers["beta2"]), "amsgrad": False, "maximize": False,
                             "foreach": None, "capturable": False, "differentiable": False, "fused": None,
                             "decoupled_weight_decay": True}
        return common | {"betas": (numbers["beta1"], numbers["beta2"], numbers["beta3"]), "alpha": numbers["alpha"],
                         "alpha_warmup": numbers["alpha_steps"] or None, "beta3_warmup": numbers["beta3_steps"] or None}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"the metadata's hyper_parameters aren't those of {target} ({type(error).__name__}: {error}): was the "
                      f"checkpoint written by {export.metadata.get('rule', 'another rule')}?") from None


def state_of(export: Export, name: str, target: str, step: int) -> dict[str, Any]:
    keys = {"m1": "exp_avg", "v": "exp_avg_sq"}
    if target == "ademamix":
        keys = {"m1": "exp_avg_fast", "m2": "exp_avg_slow", "v": "exp_avg_sq"}
    missing = [state for state in keys if f"{name}.{state}" not in export.tensors]
    if missing and not (target == "ademamix" and missing == ["m1"]):  # beta1 0: the reference keeps none either
        raise Refused(f"the parameter '{name}' has no {', '.join(missing)}: {target} needs it. Export all states, of a "
                      "checkpoint of that rule")
    step_value = torch().tensor(float(step)) if target == "torch-adamw" else step
    return {"step": step_value, **{theirs: export.tensors[f"{name}.{ours}"] for ours, theirs in keys.items()
                                   if ours not in missing}}


def groups_like(like: pathlib.Path, names: list[str]) -> list[dict[str, Any]]:
    """The groups of an optimizer's own state_dict that has names, with all their numbers."""
    optimizer = find(load(like), is_optimizer, None, f"optimizer in '{like}'", "another file")
    theirs = slots_of(optimizer)
    if any(slot.name is None for slot in theirs):
        raise Refused(f"the optimizer in '{like}' has no param_names: make it of model.named_parameters() (PyTorch 2.6)")
    if sorted(str(slot.name) for slot in theirs) != sorted(names):
        odd = sorted(set(names) ^ {str(slot.name) for slot in theirs})
        raise Refused(f"the optimizer in '{like}' and the checkpoint have different parameters: {', '.join(odd[:5])}")
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer["param_groups"]]
    for number, group in enumerate(groups):
        group["param_names"] = [str(slot.name) for slot in theirs if slot.group == number]
    return groups


def to_torch(source: pathlib.Path, out: pathlib.Path, target: str, like: pathlib.Path | None, force: bool) -> list[str]:
    """Writes {"model": ..., "optimizer": ...}. Returns lines to print."""
    if target not in TARGETS:
        raise Refused(f"--to is '{target}', but must be one of {', '.join(TARGETS)}")
    if out.exists() and not force:
        raise Refused(f"'{out}' is there already; --force replaces it")
    export = exported(source)
    trained, frozen = names_in(export)
    step, slow = export.number("updates"), export.number("slow_step")
    groups = groups_like(like, trained) if like else [group_of(export, target) | {"param_names": trained}]
    state, place = {}, 0
    for group in groups:
        group["params"] = list(range(place, place + len(group["param_names"])))
        for name in group["param_names"]:
            state[place] = state_of(export, name, target, step)
            place += 1
    model = {name: export.tensors[name] for name in [*trained, *frozen]}
    with Output(out, force) as output:
        torch().save({"model": model, "optimizer": {"state": state, "param_groups": groups}}, output.file)
    lines = [f"{out}: step {step}, {len(trained)} parameters in {len(groups)} groups, {len(frozen)} frozen ones"]
    if target == "torch-adamw" and any(f"{name}.m2" in export.tensors for name in trained):
        lines.append("warning: m2 is left out, which AdamW hasn't")
    if target == "ademamix" and slow != step:
        lines.append(f"warning: the schedules stood at {slow}, but the reference has one clock, which is {step}")
    return lines
