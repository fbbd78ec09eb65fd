"""What the comparisons share: contestants that take turns, the rows that they fill, and how those are shown."""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from peers import Failed

SHARDMIX = pathlib.Path(__file__).resolve().parents[2] / "build/release/bin/shardmix"
# Open MPI: as many ranks as asked for, wherever the system lets them run, as the peers' ranks.
MPI = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
       "OMPI_MCA_orte_execute_quiet": "1", "OMP_WAIT_POLICY": "passive"}
if os.geteuid() == 0:
    MPI |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class Contestant(Protocol):
    """Starts once and then measures one round whenever it is asked to. Raises Failed."""

    def start(self) -> dict[str, Any]: ...
    def round(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


@dataclass
class Row:
    """What one contestant did on one number of threads. Without rounds, problem says why."""

    contestant: str
    threads: int
    rounds: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)  # seconds that memory takes at least, where a round tells
    details: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.rounds) if self.rounds else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Shardmix:
    """Runs a command of shardmix anew for each round: it sets up, warms up and gives the median of its rounds."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.command = command
        self.environment = os.environ | (environment or {})

    def start(self) -> dict[str, Any]:
        return {}

    def round(self) -> dict[str, Any]:
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, env=self.environment)
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


def attempt(row: Row, contestant: Contestant, figure: str, what: str) -> None:
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
        row.rounds.append(details[figure])
        row.bounds += [details["bound_seconds"]] if details.get("bound_seconds") else []
        if not 0.6 < details.get("cores", row.threads) / row.threads < 1.1:
            say(f"  {row.contestant}: kept {details['cores']:.1f} cores busy with {row.threads} threads")


def take_turns(rows: list[Row], make: Callable[[Row], Contestant], figure: str, rounds: int, where: str,
               until: float = math.inf) -> None:
    """Sets a contestant up for each row, then fills the rows with the figure of each round.

    After the first one, no round begins that would end after until.
    """
    pairs: list[tuple[Row, Contestant]] = []
    try:
        for row in rows:  # One after the other: starting takes every core.
            say(f"{where}: setting up {row.contestant}")
            pairs.append((row, make(row)))
            attempt(*pairs[-1], figure, "start")
        took = 0.0
        for number in range(rounds):
            begin = time.monotonic()
            if number and begin + took > until:
                say(f"{where}: {number} of {rounds} rounds in the time given")
                break
            say(f"{where}: round {number + 1} of {rounds}")
            # Another first one each time, so that nobody always follows the same neighbour's heat or cache.
            first = number % len(pairs)
            for pair in pairs[first:] + pairs[:first]:
                attempt(*pair, figure, "round")
            took = time.monotonic() - begin
    finally:
        for _, contestant in pairs:
            contestant.close()


def print_table(head: list[str], lines: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("".join("| " + " | ".join(line) + " |\n" for line in lines))


def in_short(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "-"


def problem_cell(row: Row) -> str:
    return row.problem.replace("|", "\\|")


def machine() -> dict[str, Any]:
    def read(path: str) -> str:
        return pathlib.Path(path).read_text() if pathlib.Path(path).exists() else ""

    models = [line.split(":")[1] for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {"processor": models[0].strip() if models else "unknown", "cores": len(os.sched_getaffinity(0)),
            "transparent_huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled").strip()}


def in_words(rows: list[Row], packages: dict[str, str], options: argparse.Namespace) -> str:
    """Where and what was measured; packages tells a row's package, if it is a peer's."""
    here = machine()
    versions = {f"{packages[row.contestant]} {row.details['version']}": None for row in rows if "version" in row.details}
    return (f"{here['processor']}, {here['cores']} cores, transparent huge pages {here['transparent_huge_pages']}"
            f"{' (peers with --huge-pages)' if options.huge_pages else ''}; {options.parameters} parameters; rounds: "
            f"{options.rounds}, steps a round: {options.steps}; {', '.join(versions) or 'no peer'}")


def write_json(rows: list[Row], ratios: list[dict[str, Any]], unit: str, options: argparse.Namespace) -> None:
    results = [{"contestant": row.contestant, "threads": row.threads, "median": row.median, "rounds": row.rounds,
                "bounds": row.bounds, "details": row.details, "problem": row.problem} for row in rows]
    what = {"machine": machine(), "parameters": options.parameters, "steps": options.steps,
            "huge_pages_for_peers": options.huge_pages, "unit": unit}
    options.json.write_text(json.dumps(what | {"results": results, "ratios": ratios}, indent=1) + "\n")


def chosen(names: list[str], options: argparse.Namespace) -> list[str]:
    """Those that --only asks for; all without it."""
    return [name for name in names if not options.only or any(text in name for text in options.only)]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)


def parser_of(description: str | None, examples: str, parameters: int, rounds: int,
              on_host: bool = True) -> argparse.ArgumentParser:
    """The options that every comparison has."""
    parser = argparse.ArgumentParser(description=description, epilog=examples,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shardmix", type=pathlib.Path, metavar="PATH", default=SHARDMIX,
        help="the program to measure (default: build/release/bin/shardmix of this checkout)")
    add("--parameters", type=positive, metavar="N", default=parameters, help="elements (default: %(default)s)")
    add("--rounds", type=positive, metavar="N", default=rounds, help="rounds of each contestant (default: %(default)s)")
    add("--steps", type=positive, metavar="N", default=5, help="timed steps a round (default: %(default)s)")
    add("--only", action="append", metavar="TEXT", help="just contestants whose names hold TEXT; may be repeated")
    if on_host:
        add("--huge-pages", action="store_true", help="the peers too ask for transparent huge pages")
    parser.set_defaults(huge_pages=False)
    add("--json", type=pathlib.Path, metavar="FILE", help="also write every round, the versions and the machine there")
    add("--verbose", action="store_true", help="show what the peers print")
    return parser


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    if not os.access(options.shardmix, os.X_OK):
        say(f"{parser.prog}: there is no program {options.shardmix}; build the release preset or give --shardmix PATH")
        sys.exit(2)
    return options
