"""Compares the speed of shardmix's update on a GPU with that of its peers, in one run on one GPU.

Peers update the matrices of a GPT, shardmix one flat range. Contestants take turns, a round of each and then the next,
and each has the memory for itself in its turn. Every step has gradients that are not zero, and it is checked that
it changes the parameters. A peer that fails is a row with the reason.

bitsandbytes waits for the GPU after each tensor; "no waits" are the same kernels without that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from compare import ratio
from gpu_peers import COMPILED, COPY, FOREACH, FUSED, GPU_PEERS, NO_WAITS
from peers import PeerProcess
from referee import (Contestant, Row, Shardmix, chosen, in_short, options_of, parser_of, positive, print_table,
                     problem_cell, say, take_turns, write_json)

EXAMPLES = """examples:
  python3 tests/peers/compare_gpu.py --json build/peers-gpu.json
  python3 tests/peers/compare_gpu.py --only copy --only AdEMAMix --parameters 268435456 --rounds 5
  python3 tests/peers/compare_gpu.py --device cpu --parameters 1048576 --rounds 2 --verbose    # does it work?
"""
SECONDS = "120"  # that one round of shardmix may take
# Row: the rule and the precision of `shardmix bench update`.
SHARDMIX = {f"shardmix {name} {precision}": (rule, precision)
            for name, rule in (("AdamW", "adamw"), ("AdEMAMix", "ademamix"))
            for precision in ("fp32", "bf16", "fp32-compact", "bf16-compact")}
RATIOS = [
    ("shardmix AdamW fp32", FUSED),
    ("shardmix AdamW fp32", "bitsandbytes AdamW"),
    ("shardmix AdamW fp32-compact", "bitsandbytes AdamW 8-bit"),
    ("shardmix AdEMAMix fp32", FOREACH),
    ("shardmix AdEMAMix fp32", COMPILED),
    ("shardmix AdEMAMix fp32", "bitsandbytes AdEMAMix"),
    ("shardmix AdEMAMix fp32-compact", "bitsandbytes AdEMAMix 8-bit"),
    ("shardmix AdEMAMix bf16-compact", "bitsandbytes AdEMAMix 8-bit bf16"),
    ("shardmix AdEMAMix bf16-compact", FUSED),
]


def contestant(name: str, options: argparse.Namespace) -> Contestant:
    if name not in SHARDMIX:
        return PeerProcess(["gpu_peers.py", name, options.device, str(options.parameters)], options.threads, options)
    rule, precision = SHARDMIX[name]
    return Shardmix(["timeout", SECONDS, str(options.shardmix), "bench", "update", "--json", "--rule", rule,
                     "--precision", precision, "--parameters", str(options.parameters), "--rounds", str(options.steps),
                     "--device", "cuda" if options.device == "cuda" else "host"])


def bytes_of(row: Row) -> float:
    return row.details["bytes_per_parameter"]


def cells(rows: list[Row], row: Row) -> list[str]:
    if row.problem or not row.median:
        return [row.contestant, problem_cell(row)[:200] or "no round in time", *["-"] * 5]
    milliseconds = [1e-3 * row.details["parameters"] / speed for speed in row.rounds]
    terabytes = row.median * bytes_of(row) / 1e6
    copy = next((other for other in rows if other.contestant == COPY and other.median), None)
    of_copy = f"{100 * terabytes / (copy.median * bytes_of(copy) / 1e6):.0f} %" if copy else "-"
    return [row.contestant, f"{bytes_of(row):.2f}", f"{statistics.median(milliseconds):.2f}",
            f"{min(milliseconds):.2f}-{max(milliseconds):.2f}", f"{row.median / 1e3:.2f}", f"{terabytes:.3f}", of_copy]


def details(rows: list[Row], key: str) -> str:
    return ", ".join(dict.fromkeys(str(row.details[key]) for row in rows if key in row.details and row.rounds))


def print_results(rows: list[Row], options: argparse.Namespace) -> None:
    versions = dict.fromkeys(f"{GPU_PEERS[row.contestant].package} {row.details['version']}" for row in rows
                             if row.contestant in GPU_PEERS and "version" in row.details)
    print(f"{details(rows, 'device')}; torch {details(rows, 'torch')}; {', '.join(versions)}; {options.parameters} "
          f"parameters, for peers in {details(rows, 'tensors')} tensor(s); steps a round: {options.steps}, rounds: "
          f"{', '.join(dict.fromkeys(str(len(row.rounds)) for row in rows if row.rounds))}; each alone in memory\n")
    print_table(["contestant", "bytes a parameter", "ms", "min-max", "Gparam/s", "TB/s", "of the copy"],
                [cells(rows, row) for row in rows])
    print_table(["ratio of speeds", "", "peer without its waits"],
                [[f"{name} / {other}", in_short(ratio(rows, options.threads, name, other)),
                  in_short(ratio(rows, options.threads, name, other + NO_WAITS))] for name, other in RATIOS])


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES, parameters=1_000_000_000, rounds=3, on_host=False)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda",
                        help="cpu: to try this script without a GPU (default: cuda)")
    parser.add_argument("--limit", type=positive, metavar="S", default=90,
                        help="seconds: after the first round, none begins that would take longer than that in all "
                             "(default: %(default)s)")
    parser.set_defaults(threads=1)
    options = options_of(parser)
    until = time.monotonic() + options.limit
    rows = [Row(name, options.threads) for name in chosen([COPY, *GPU_PEERS, *SHARDMIX], options)]
    say("the peers start, all at once")
    contestants = {row.contestant: contestant(row.contestant, options) for row in rows}
    take_turns(rows, lambda row: contestants[row.contestant], "mparameters_per_second", options.rounds, options.device,
               until)
    for row in rows:  # shardmix rounds to whole blocks.
        row.details.setdefault("parameters", options.parameters)
    print_results(rows, options)
    if options.json:
        pairs = [(name, other + suffix) for name, other in RATIOS for suffix in ("", NO_WAITS)
                 if other + suffix in GPU_PEERS]
        ratios = [{"contestant": name, "against": other, "ratio": ratio(rows, options.threads, name, other)}
                  for name, other in pairs]
        write_json(rows, ratios, "mparameters_per_second", options)
    return 0 if any(row.rounds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
