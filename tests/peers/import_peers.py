"""Imports real files of real libraries into shardmix: every weight and moment must arrive in every bit. Then ten steps with
given gradients, shardmix's beside the library's own: the largest difference of a weight, in units in the last place of that
weight (many, where it is close to zero) and of its tensor's largest one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
from typing import Any

import torch

from import_cases import CASES, HERE, Case, random_gradients

ROOT = HERE.parent.parent
STEPS = 10


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
    trained = {name for name in exported if f"{name}.v" in exported}
    if trained != set(case.truth):
        raise RuntimeError(f"the parameters differ: {trained ^ set(case.truth)}")


def ulps(a: torch.Tensor, b: torch.Tensor) -> int:
    """Between fp32 numbers: how many there are from one to the other."""
    def place(x: torch.Tensor) -> torch.Tensor:
        bits = x.float().contiguous().view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return int((place(a) - place(b)).abs().max()) if a.numel() else 0


def ten_steps(case: Case, folder: pathlib.Path, report: dict[str, Any], program: pathlib.Path,
              shardmix: pathlib.Path) -> tuple[int, float]:
    """The largest difference of a weight, in its own ulp and in those of its tensor's largest."""
    assert case.go_on is not None
    dtypes = {p["name"]: {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[p["dtype"]]
              for p in report["parameters"]}
    steps = [{name: value.to(dtypes[name]).float()
              for name, value in random_gradients({n: s["master"] for n, s in case.truth.items()}, 100 + step,
                                                  torch.float32).items()} for step in range(STEPS)]
    with open(folder / "gradients", "wb") as file:
        for step in steps:
            for parameter in report["parameters"]:
                if parameter["trainable"]:
                    file.write(step[parameter["name"]].numpy().tobytes())
    (folder / "report.json").write_text(json.dumps(report))
    run(program, folder / "run", folder / "report.json", folder / "gradients", STEPS, folder / "later")
    run(shardmix, "checkpoint", "export", folder / "later", "--output", folder / "later.safetensors")
    ours = read_safetensors(folder / "later.safetensors")
    theirs = case.go_on(steps)
    own, scaled = 0, 0.0
    for name, value in theirs.items():
        unit = 2.0 ** (math.floor(math.log2(value.abs().max().item())) - 23)
        own = max(own, ulps(ours[name], value))
        scaled = max(scaled, (ours[name] - value).abs().max().item() / unit)
    return own, scaled


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
        if not torch.equal(p.detach(), case.truth[name]["master"].float()) or int(state["step"]) != 6:
            raise RuntimeError(f"the way back changed '{name}' or its step")
    optimizer.step()


def try_case(name: str, folder: pathlib.Path, options: argparse.Namespace) -> str:
    case = CASES[name](folder)
    tool, shardmix = ROOT / "launch/shardmix-export", options.build / "bin/shardmix"
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
    if case.go_on is None:
        return "bits equal"
    own, scaled = ten_steps(case, folder, report, options.build / "bin/continue_import", shardmix)
    return f"bits equal; after {STEPS} steps {own} ulp at most, {scaled:.1f} of the tensor's largest weight"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
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
