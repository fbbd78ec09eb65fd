"""Compares the speed of shardmix's host update with that of its peers, in one run on one machine.

Every contestant updates one flat parameter of the same size. For each number of threads all of them are set up, then
take turns: one round of each, then the next round, so that a disturbance of the machine hits all alike. A peer lives in
a process of its own that sleeps while others run. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from peers import FUSED, PEERS, Failed, PeerProcess

HERE = pathlib.Path(__file__).resolve().parent
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


@dataclass
class Row:
    """What one contestant did on one number of threads. Without rounds, problem says why."""

    contestant: str
    threads: int
    rounds: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.rounds) if self.rounds else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Shardmix:
    """Runs `shardmix bench update` anew for each round: it sets up, warms up and gives the median of its rounds."""

    def __init__(self, name: str, threads: int, options: argparse.Namespace) -> None:
        rule, precision, _ = SHARDMIX[name]
        self.command = [str(options.shardmix), "bench", "update", "--json", "--rule", rule, "--precision", precision,
                        "--threads", str(threads), "--parameters", str(options.parameters),
                        "--rounds", str(options.steps)]

    def start(self) -> dict[str, Any]:
        return {}

    def round(self) -> dict[str, Any]:
        try:
            done = subprocess.run(self.command, capture_output=True, text=True)
        except OSError as error:
            raise Failed(f"failed: {error}") from error
        if done.returncode != 0:
            raise Failed(f"failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise Failed(f"failed: expected one JSON object, found {done.stdout[:200]!r}") from error

    def close(self) -> None:
        pass


Contestant = PeerProcess | Shardmix


def attempt(row: Row, contestant: Contestant, what: str) -> None:
    """Starts the contestant or runs a round of it; a failure ends its part in the comparison and no other's."""
    if row.problem:
        return
    try:
        details = contestant.start() if what == "start" else contestant.round()
    except Failed as error:
        row.problem, row.rounds = " ".join(str(error).split()), []
        return say(f"  {row.contestant}: {row.problem}")
    row.details |= details
    if what != "start":
        row.rounds.append(details["mparameters_per_second"])
        if not 0.6 < details.get("cores", row.threads) / row.threads < 1.1:
            say(f"  {row.contestant}: kept {details['cores']:.1f} cores busy with {row.threads} threads")


def compare(threads: int, options: argparse.Namespace) -> list[Row]:
    rows = [Row(name, threads) for name in AGAINST]
    pairs: list[tuple[Row, Contestant]] = []
    try:
        for row in rows:  # One after the other: starting takes every core.
            say(f"threads {threads}: setting up {row.contestant}")
            kind = PeerProcess if row.contestant in PEERS else Shardmix
            pairs.append((row, kind(row.contestant, threads, options)))
            attempt(*pairs[-1], "start")
        for number in range(options.rounds):
            say(f"threads {threads}: round {number + 1} of {options.rounds}")
            # Another first one each time, so that nobody always follows the same neighbour's heat or cache.
            first = number % len(pairs)
            for pair in pairs[first:] + pairs[:first]:
                attempt(*pair, "round")
    finally:
        for _, contestant in pairs:
            contestant.close()
    return rows


def ratio(rows: list[Row], threads: int, name: str, against: str) -> float | None:
    median = {row.contestant: row.median for row in rows if row.threads == threads}
    one, other = median[name], median[against]
    return one / other if one and other else None


def print_table(head: list[str], lines: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("".join("| " + " | ".join(line) + " |\n" for line in lines))


def in_short(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "-"


def cells(rows: list[Row], row: Row) -> list[str]:
    if row.problem:
        return [row.problem.replace("|", "\\|"), "-", "-"]
    spread = f"{min(row.rounds):.0f}-{max(row.rounds):.0f}"
    return [f"{row.median:.0f}", spread, in_short(ratio(rows, row.threads, row.contestant, AGAINST[row.contestant]))]


def machine() -> dict[str, Any]:
    def read(path: str) -> str:
        return pathlib.Path(path).read_text() if pathlib.Path(path).exists() else ""

    models = [line.split(":")[1] for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {"processor": models[0].strip() if models else "unknown", "cores": len(os.sched_getaffinity(0)),
            "transparent_huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled").strip()}


def print_results(rows: list[Row], options: argparse.Namespace) -> None:
    here = machine()
    versions = {f"{PEERS[row.contestant].package} {row.details['version']}": None
                for row in rows if "version" in row.details}
    print(f"{here['processor']}, {here['cores']} cores, transparent huge pages {here['transparent_huge_pages']}"
          f"{' (peers with --huge-pages)' if options.huge_pages else ''}; {options.parameters} parameters; rounds: "
          f"{options.rounds}, steps a round: {options.steps}; {', '.join(versions) or 'no peer'}\n")
    head = ["contestant", "measured against"]
    for threads in options.threads:
        head += [f"Mparam/s, {threads} threads" if threads != 1 else "Mparam/s, 1 thread", "min-max", "ratio"]
    lines = [[name, AGAINST[name]] + [cell for row in rows if row.contestant == name for cell in cells(rows, row)]
             for name in AGAINST]
    print_table(head, lines)
    print_table(["ratio"] + [f"threads {threads}" for threads in options.threads],
                [[f"{name} / {other}"] + [in_short(ratio(rows, threads, name, other)) for threads in options.threads]
                 for name, other in RATIOS])


def write_json(rows: list[Row], options: argparse.Namespace) -> None:
    results = [{"contestant": row.contestant, "threads": row.threads, "median": row.median, "rounds": row.rounds,
                "details": row.details, "problem": row.problem} for row in rows]
    ratios = [{"contestant": name, "against": other, "threads": threads, "ratio": ratio(rows, threads, name, other)}
              for name, other in RATIOS for threads in options.threads]
    what = {"machine": machine(), "parameters": options.parameters, "steps": options.steps,
            "huge_pages_for_peers": options.huge_pages, "unit": "mparameters_per_second"}
    options.json.write_text(json.dumps(what | {"results": results, "ratios": ratios}, indent=1) + "\n")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shardmix", type=pathlib.Path, metavar="PATH", default=HERE.parents[1] / "build/release/bin/shardmix",
        help="the program to measure (default: build/release/bin/shardmix of this checkout)")
    add("--parameters", type=positive, metavar="N", default=1 << 25, help="elements (default: %(default)s)")
    add("--threads", type=positive, metavar="T", nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    add("--rounds", type=positive, metavar="N", default=7, help="rounds of each contestant (default: %(default)s)")
    add("--steps", type=positive, metavar="N", default=5, help="timed steps a round (default: %(default)s)")
    add("--huge-pages", action="store_true", help="the peers too ask for transparent huge pages")
    add("--json", type=pathlib.Path, metavar="FILE", help="also write every round, the versions and the machine there")
    add("--verbose", action="store_true", help="show what the peers print")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if not os.access(options.shardmix, os.X_OK):
        say(f"compare.py: there is no program {options.shardmix}; build the release preset or give --shardmix PATH")
        return 2
    rows = [row for threads in options.threads for row in compare(threads, options)]
    print_results(rows, options)
    if options.json:
        write_json(rows, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
