"""Compares saves and loads of shardmix's checkpoints with those of torch.distributed.checkpoint: two ranks of one thread
each, on one host, the same state, by turns. torch's files are synced as ours are, and are not verified when they are
loaded. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from peers import Failed
from referee import MPI, SHARDMIX, in_short, machine, positive, print_table, say

EXAMPLES = """examples:
  build/peers-venv/bin/python tests/peers/compare_checkpoint.py --directory /scratch --json build/peers-checkpoint.json
  build/peers-venv/bin/python tests/peers/compare_checkpoint.py --parameters 4194304 --rounds 1    # does it work?
"""
RANKS = 2
STATES = ("master", "m1", "m2", "v")
TENSOR = 1 << 22
OPERATIONS = ("save", "cold load", "warm load")


def forget(directory: pathlib.Path) -> None:
    """The next read of its files comes from the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peer(rank: int, parameters: int, directory: pathlib.Path) -> None:
    """One rank of torch.distributed.checkpoint; rank 0 prints the seconds of the slowest rank."""
    import torch
    import torch.distributed
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank,
                                         world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    state = {f"{name}.{begin}": DTensor.from_local(torch.full((min(TENSOR, parameters - begin) // RANKS,), 0.5), mesh,
                                                   [Shard(0)])
             for begin in range(0, parameters, TENSOR) for name in STATES}
    saved = directory / "saved"

    def timed(work: Any) -> float:
        torch.distributed.barrier()
        start = time.perf_counter()
        work()
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        torch.distributed.all_reduce(seconds, torch.distributed.ReduceOp.MAX)
        return seconds.item()

    def load() -> None:
        checkpoint.load(state, storage_reader=checkpoint.FileSystemReader(saved))

    os.sync()
    times = {"save": timed(lambda: checkpoint.save(state, storage_writer=checkpoint.FileSystemWriter(saved)))}
    os.sync()
    torch.distributed.barrier()
    if rank == 0:
        forget(saved)
    times["cold load"] = timed(load)
    times["warm load"] = timed(load)
    value = state["v.0"].to_local()
    if not bool((value == 0.5).all()):
        raise SystemExit("the values that were loaded aren't those that were saved")
    if rank == 0:
        print(json.dumps(times | {"version": torch.__version__}))
    torch.distributed.destroy_process_group()


def run(commands: list[list[str]], environment: dict[str, str] | None = None) -> str:
    """Runs all at once; what the first one prints."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=os.environ | (environment or {})) for command in commands]
    said = [process.communicate() for process in processes]
    for process, (_, complaint) in zip(processes, said):
        if process.returncode != 0:
            raise Failed(complaint.strip() or f"exit status {process.returncode}")
    return said[0][0]


def torch_round(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="shardmix-peers-", dir=options.directory) as folder:
        return json.loads(run([[sys.executable, __file__, "--rank", str(rank), "--parameters", str(options.parameters),
                                "--directory", folder] for rank in range(RANKS)]))


def shardmix_round(options: argparse.Namespace) -> dict[str, Any]:
    said = run([["mpirun", "-n", str(RANKS), str(options.shardmix), "bench", "checkpoint", "--json", "--rounds", "1",
                 "--threads", "1", "--parameters", str(options.parameters), "--directory", str(options.directory)]],
               MPI)
    rows = {row["operation"]: row for row in map(json.loads, said.splitlines())}
    times = {name: row["seconds"] for name, row in rows.items()}
    plain = {f"plain {name}": row["bound_seconds"] for name, row in rows.items() if row["bound_seconds"]}
    return times | plain


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shardmix", type=pathlib.Path, metavar="PATH", default=SHARDMIX,
        help="the program to measure (default: build/release/bin/shardmix of this checkout)")
    add("--parameters", type=positive, metavar="N", default=1 << 28, help="of the model; 16 bytes each (%(default)s)")
    add("--rounds", type=positive, metavar="N", default=3, help="of each (%(default)s)")
    add("--directory", type=pathlib.Path, default=pathlib.Path("."), help="where files are written and removed (.)")
    add("--json", type=pathlib.Path, metavar="FILE", help="also write every round there")
    add("--rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = options_given()
    if options.rank is not None:
        peer(options.rank, options.parameters, options.directory)
        return 0
    rounds: dict[str, list[dict[str, Any]]] = {"shardmix": [], "torch": []}
    try:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            rounds["shardmix"].append(shardmix_round(options))
            rounds["torch"].append(torch_round(options))
    except Failed as error:
        say(f"failed: {error}")
        return 1

    def median(who: str, what: str) -> float:
        return statistics.median(times[what] for times in rounds[who])

    print(f"{machine()['processor']}, {16 * options.parameters / 1e9:.2f} GB from {RANKS} ranks of 1 thread; torch "
          f"{rounds['torch'][0]['version']}; medians of {options.rounds} rounds, seconds\n")
    lines = []
    for what in OPERATIONS:
        ours, theirs, plain = median("shardmix", what), median("torch", what), median("shardmix", f"plain {what}")
        lines.append([what, f"{ours:.2f}", f"{theirs:.2f}", in_short(theirs / ours), f"{plain:.2f}",
                      f"{100 * plain / ours:.0f} %"])
    print_table(["", "shardmix", "torch.distributed.checkpoint", "ratio", "plain files", "shardmix reaches of plain"],
                lines)
    stall, save = median("shardmix", "stall"), median("shardmix", "save")
    print(f"a save in the background holds the training up for {stall:.2f} s, {100 * stall / save:.0f} % of a save")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "parameters": options.parameters, "rounds": rounds},
                                           indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
