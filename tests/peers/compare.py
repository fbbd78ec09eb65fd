"""Compares the speed of shardmix's host update with that of its peers, in one run on one machine.

Every contestant updates one flat parameter of the same size. For each number of threads all of them are set up, then
take turns: one round of each, then the next round, so that a disturbance of the machine hits all alike. A peer lives in
a process of its own that sleeps while others run. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import sys

from peers import FUSED, PEERS, PeerProcess
from referee import (Contestant, Row, Shardmix, chosen, in_short, in_words, options_of, parser_of, positive, print_table,
                     problem_cell, take_turns, write_json)

EXAMPLES = """examples:
  build/peers-venv/bin/python tests/peers/compare.py
  build/peers-venv/bin/python tests/peers/compare.py --threads 1 2 4 --json build/peers.json
  build/peers-venv/bin/python tests/peers/compare.py --parameters 1048576 --rounds 2 --verbose    # does it work?
"""
# Row: the rule and the precision of `shardmix bench update`, and the peer that it is measured against.
SHARDMIX = {
    "shardmix AdamW fp32": ("adamw", "fp32", FUSED),
    "shardmix AdamW bf16": ("adamw", "bf16", "torch AdamW fused bf16"),
    "shardmix AdEMAMix fp32": ("ademamix", "fp32", "pytorch_optimizer AdEMAMix"),
    "shardmix AdEMAMix bf16": ("ademamix", "bf16", "pytorch_optimizer AdEMAMix"),
    "shardmix AdEMAMix bf16-compact": ("ademamix", "bf16-compact", "bitsandbytes AdEMAMix 8-bit"),
}
AGAINST = {name: peer.against for name, peer in PEERS.items()} | {name: row[2] for name, row in SHARDMIX.items()}
RATIOS = [
    ("shardmix AdamW fp32", FUSED),
    ("shardmix AdamW fp32", "DeepSpeed CPUAdam"),
    ("shardmix AdEMAMix fp32", "pytorch_optimizer AdEMAMix"),
    ("shardmix AdEMAMix fp32", "bitsandbytes AdEMAMix"),
    ("shardmix AdEMAMix bf16-compact", FUSED),
]


def contestant(row: Row, options: argparse.Namespace) -> Contestant:
    if row.contestant in PEERS:
        return PeerProcess(["peers.py", row.contestant, str(row.threads), str(options.parameters)], row.threads, options)
    rule, precision, _ = SHARDMIX[row.contestant]
    return Shardmix([str(options.shardmix), "bench", "update", "--json", "--rule", rule, "--precision", precision,
                     "--threads", str(row.threads), "--parameters", str(options.parameters),
                     "--rounds", str(options.steps)])


def compare(threads: int, options: argparse.Namespace) -> list[Row]:
    rows = [Row(name, threads) for name in chosen(list(AGAINST), options)]
    take_turns(rows, lambda row: contestant(row, options), "mparameters_per_second", options.rounds,
               f"threads {threads}")
    return rows


def ratio(rows: list[Row], threads: int, name: str, against: str) -> float | None:
    median = {row.contestant: row.median for row in rows if row.threads == threads}
    one, other = median.get(name), median.get(against)
    return one / other if one and other else None


def cells(rows: list[Row], row: Row) -> list[str]:
    if row.problem:
        return [problem_cell(row), "-", "-"]
    spread = f"{min(row.rounds):.0f}-{max(row.rounds):.0f}"
    return [f"{row.median:.0f}", spread, in_short(ratio(rows, row.threads, row.contestant, AGAINST[row.contestant]))]


def print_results(rows: list[Row], options: argparse.Namespace) -> None:
    print(in_words(rows, {name: peer.package for name, peer in PEERS.items()}, options) + "\n")
    head = ["contestant", "measured against"]
    for threads in options.threads:
        head += [f"Mparam/s, {threads} threads" if threads != 1 else "Mparam/s, 1 thread", "min-max", "ratio"]
    lines = [[name, AGAINST[name]] + [cell for row in rows if row.contestant == name for cell in cells(rows, row)]
             for name in AGAINST if any(row.contestant == name for row in rows)]
    print_table(head, lines)
    print_table(["ratio"] + [f"threads {threads}" for threads in options.threads],
                [[f"{name} / {other}"] + [in_short(ratio(rows, threads, name, other)) for threads in options.threads]
                 for name, other in RATIOS])


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES, parameters=1 << 25, rounds=7)
    parser.add_argument("--threads", type=positive, metavar="T", nargs="+", default=[1, 2],
                        help="numbers of threads (default: 1 2)")
    options = options_of(parser)
    rows = [row for threads in options.threads for row in compare(threads, options)]
    print_results(rows, options)
    if options.json:
        ratios = [{"contestant": name, "against": other, "threads": threads,
                   "ratio": ratio(rows, threads, name, other)}
                  for name, other in RATIOS for threads in options.threads]
        write_json(rows, ratios, "mparameters_per_second", options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
