"""Imports real files of real libraries into shardmix: every weight and moment must arrive in every bit. Then ten steps
with given gradients, shardmix's beside the library's own: the largest difference of a weight, in units in the last
place of its tensor's largest weight, must be within a bound. Exits with 1 if a case fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
from typing import Any

import torch

from import_cases import CASES, HERE, Case
from import_models import FURTHER, STEPS, further_gradients

ROOT = HERE.parent.parent
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run(*command: Any) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        raise RuntimeError(f"{command[0]} ended with {result.returncode}: {result.stdout[-500:]}{result.stderr[-1500:]}")
    return result.stdout


def read_safetensors(path: pathlib.Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return found


def require_same_bits(exported: dict[str, torch.Tensor], case: Case) -> None:
    for name, states in case.truth.items():
        for state, expected in states.items():
            found = exported[name if state == "master" else f"{name}.{state}"]
            if found.shape != expected.shape or not torch.equal(found.view(torch.int32),
                                                                expected.float().view(torch.int32)):
                raise RuntimeError(f"'{name}' has other bits of {state} than the library")
    found = {name for name in exported if not re.search(r"\.(m1|m2|v)$", name)}
    if found != set(case.truth):
        raise RuntimeError(f"the parameters differ: {found ^ set(case.truth)}")


def ours_after(case: Case, folder: pathlib.Path, report: dict[str, Any], program: pathlib.Path,
               shardmix: pathlib.Path) -> dict[str, torch.Tensor]:
    """The weights after further steps of shardmix."""
    (dtype,) = {DTYPES[p["dtype"]] for p in report["parameters"] if p["trainable"]}
    steps = further_gradients({name: case.truth[name]["master"] for name in case.after}, dtype)
    with open(folder / "gradients", "wb") as file:
        for step in steps:
            for parameter in report["parameters"]:
                if parameter["trainable"]:
                    file.write(step[parameter["name"]].float().numpy().tobytes())
    (folder / "report.json").write_text(json.dumps(report))
    run(program, folder / "run", folder / "report.json", folder / "gradients", FURTHER, folder / "later")
    run(shardmix, "checkpoint", "export", folder / "later", "--output", folder / "later.safetensors")
    return read_safetensors(folder / "later.safetensors")


def require_close(case: Case, ours: dict[str, torch.Tensor], bound: str) -> str:
    """By tensors, the largest difference of a weight."""
    differences = []
    for name, theirs in case.after.items():
        if bound.endswith("%"):
            unit = 0.01 * (theirs - case.truth[name]["master"]).abs().max().item()
        else:
            unit = 2.0 ** (math.floor(math.log2(theirs.abs().max().item())) - 23)
        differences.append((ours[name] - theirs).abs().max() / unit)
    found = float(torch.stack(differences).max())  # nan if any is
    what = "% of the tensor's largest update" if bound.endswith("%") else " ulp of the tensor's largest weight"
    if not found <= float(bound.rstrip("%")):
        raise RuntimeError(f"after {FURTHER} steps {found:.1f}{what}, more than {bound}")
    return f"{found:.1f}{what} (of {bound.rstrip('%')})"


def require_way_back(case: Case, folder: pathlib.Path, tool: pathlib.Path) -> None:
    """What --to writes loads into torch's own AdamW, and has the same bits."""
    run(sys.executable, tool, "--to", "torch-adamw", folder / "run", folder / "back.pt")
    back = torch.load(folder / "back.pt", weights_only=True)
    names = back["optimizer"]["param_groups"][0]["param_names"]
    named = [(name, torch.nn.Parameter(back["model"][name])) for name in names]
    optimizer = torch.optim.AdamW(named)
    optimizer.load_state_dict(back["optimizer"])
    for name, p in named:
        state = optimizer.state[p]
        for key, ours in (("exp_avg", "m1"), ("exp_avg_sq", "v")):
            if not torch.equal(state[key].view(torch.int32), case.truth[name][ours].float().view(torch.int32)):
                raise RuntimeError(f"the way back changed {ours} of '{name}'")
        if not torch.equal(p.detach(), case.truth[name]["master"].float()) or int(state["step"]) != STEPS:
            raise RuntimeError(f"the way back changed '{name}' or its step")
    optimizer.step()


def try_case(name: str, folder: pathlib.Path, options: argparse.Namespace) -> str:
    make, bound = CASES[name]
    case = make(folder)
    tool, shardmix = ROOT / "launch/shardmix-export", options.build / "bin/shardmix"
    if bound == "refused":
        try:
            run(sys.executable, tool, case.source, folder / "states", *case.options)
        except RuntimeError as error:
            if "DeepSpeed's map of its partitions is wrong" in str(error):
                return "refused: DeepSpeed's own map of its partitions is wrong"
            raise
        raise RuntimeError("was not refused")
    run(sys.executable, tool, case.source, folder / "states", *case.options)
    report = json.loads(run(shardmix, "import", folder / "states.json", "--output", folder / "run", "--ranks", 3, "--json"))
    run(shardmix, "checkpoint", "export", folder / "run", "--output", folder / "all.safetensors")
    require_same_bits(read_safetensors(folder / "all.safetensors"), case)
    for parameter in report["parameters"]:
        if parameter["trainable"] and parameter["group"] != case.group_of.get(parameter["name"], 0):
            raise RuntimeError(f"'{parameter['name']}' is in group {parameter['group']}")
    os.environ["SHARDMIX"] = str(shardmix)
    if report["rule"] == "adamw":
        require_way_back(case, folder, tool)
    difference = require_close(case, ours_after(case, folder, report, options.build / "bin/continue_import", shardmix), bound)
    return f"bits equal; after {FURTHER} steps {difference}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: import_peers.py --only DeepSpeed")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/dev", help="with shardmix and continue_import")
    parser.add_argument("--only", default="", help="cases that have this in their names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    for name in [name for name in CASES if options.only in name]:
        with tempfile.TemporaryDirectory(prefix="import-peers-") as folder:
            try:
                result = try_case(name, pathlib.Path(folder), options)
            except Exception as error:  # of any library: the table goes on
                failed += 1
                result = f"FAILED: {type(error).__name__}: {error}"
        print(f"{name:<40} {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
