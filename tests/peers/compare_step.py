"""Compares the time of shardmix's whole step with that of its peers: two ranks of one thread each, on one host.

Timed is what follows when every rank has its gradients, until every rank has the new parameters: the gradients' mean,
the update, and whatever carries the parameters to all ranks. All contestants take turns as in compare.py; the ranks of
each start anew for each round. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from referee import (MPI, Contestant, Row, Shardmix, chosen, in_short, in_words, options_of, parser_of, print_table,
                     problem_cell, take_turns, write_json)
from step_peers import RANKS, STEP_PEERS, Ranks

EXAMPLES = """examples:
  build/peers-venv/bin/python tests/peers/compare_step.py --json build/peers-step.json
  build/peers-venv/bin/python tests/peers/compare_step.py --only Zero --only shardmix --rounds 7
  build/peers-venv/bin/python tests/peers/compare_step.py --parameters 4194304 --rounds 2 --verbose    # does it work?
"""
FULL = "shardmix AdEMAMix bf16"
COMPACT = "shardmix AdEMAMix bf16-compact"
ADAMW = "shardmix AdamW bf16"
LIBRARY = "shardmix AdEMAMix bf16 over MPI's own collectives"
# Row: the rule, the precision and the collectives of `shardmix bench step`.
SHARDMIX = {
    FULL: ("ademamix", "bf16", "auto"),
    COMPACT: ("ademamix", "bf16-compact", "auto"),
    ADAMW: ("adamw", "bf16", "auto"),
    LIBRARY: ("ademamix", "bf16", "library"),
}
RATIOS = [
    (LIBRARY, FULL),
    ("ZeroRedundancyOptimizer bf16", FULL),
    ("ZeroRedundancyOptimizer bf16", COMPACT),
    ("ZeroRedundancyOptimizer bf16", ADAMW),
    ("DeepSpeed ZeRO-1", FULL),
    ("DeepSpeed ZeRO-1", ADAMW),
    ("FSDP2", FULL),
    ("FSDP2", ADAMW),
]


def contestant(row: Row, options: argparse.Namespace) -> Contestant:
    if row.contestant in STEP_PEERS:
        return Ranks(row.contestant, options)
    rule, precision, collectives = SHARDMIX[row.contestant]
    command = ["mpirun", "-n", str(RANKS), str(options.shardmix), "bench", "step", "--json", "--rule", rule,
               "--precision", precision, "--threads", str(row.threads), "--parameters", str(options.parameters),
               "--rounds", str(options.steps)]
    if collectives != "auto":
        command += ["--collectives", collectives]
    return Shardmix(command, MPI)


def ratio(rows: list[Row], name: str, against: str) -> float | None:
    median = {row.contestant: row.median for row in rows}
    one, other = median.get(name), median.get(against)
    return one / other if one and other else None


def cells(rows: list[Row], row: Row) -> list[str]:
    name = row.contestant + (f" ({row.details['collectives']})" if "collectives" in row.details else "")
    if row.problem:
        return [name, problem_cell(row), "-", "-", "-", "-"]
    spread = f"{1e3 * min(row.rounds):.0f}-{1e3 * max(row.rounds):.0f}"
    bound = f"{1e3 * statistics.median(row.bounds):.0f}" if row.bounds else "-"
    return [name, f"{1e3 * (row.median or 0):.0f}", spread, bound, in_short(ratio(rows, row.contestant, FULL)),
            in_short(ratio(rows, row.contestant, COMPACT))]


def at_best(rows: list[Row], name: str, against: str) -> float | None:
    """The ratio, if the second one took no longer than the memory that it moves."""
    median = {row.contestant: row.median for row in rows}
    bounds = {row.contestant: statistics.median(row.bounds) for row in rows if row.bounds}
    one, other = median.get(name), bounds.get(against)
    return one / other if one and other else None


def print_results(rows: list[Row], options: argparse.Namespace) -> None:
    print(in_words(rows, {name: peer.package for name, peer in STEP_PEERS.items()}, options)
          + f"; {RANKS} ranks of 1 thread\n")
    print_table(["contestant", "ms a step", "min-max", "memory's bound, ms", "/ AdEMAMix bf16", "/ AdEMAMix bf16-compact"],
                [cells(rows, row) for row in rows])
    print_table(["ratio of times", "", "at the memory's bound"],
                [[f"{name} / {other}", in_short(ratio(rows, name, other)), in_short(at_best(rows, name, other))]
                 for name, other in RATIOS])


def main() -> int:
    options = options_of(parser_of(__doc__, EXAMPLES, parameters=1 << 26, rounds=5))
    rows = [Row(name, 1) for name in chosen([*STEP_PEERS, *SHARDMIX], options)]
    take_turns(rows, lambda row: contestant(row, options), "seconds", options.rounds, f"{RANKS} ranks")
    print_results(rows, options)
    if options.json:
        ratios = [{"contestant": name, "against": other, "ratio": ratio(rows, name, other)} for name, other in RATIOS]
        write_json(rows, ratios, "seconds", options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
