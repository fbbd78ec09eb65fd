"""What checks found, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tarfile


class Failed(Exception):
    """What a check found wrong, in a sentence."""


class Skipped(Exception):
    """Why a check couldn't be made."""


@dataclasses.dataclass(frozen=True)
class Figure:
    what: str
    target: str = ""  # none: nothing is asked of it
    met: bool | None = None

    @staticmethod
    def at_least(fraction: float, target: float, what: str) -> Figure:
        return Figure(f"{what}: {100 * fraction:.1f} %", f">= {100 * target:.0f} %", fraction >= target)


@dataclasses.dataclass(frozen=True)
class Result:
    name: str
    outcome: str  # passed, failed or skipped
    seconds: float
    reason: str = ""
    figures: tuple[Figure, ...] = ()


def rows_of(result: Result) -> list[tuple[str, ...]]:
    found = [(f.what, f.target and f"{f.target}, {'met' if f.met else 'missed'}") for f in result.figures]
    first, *more = [(result.reason, "")] * bool(result.reason) + found or [("", "")]
    return [(result.name, result.outcome, f"{result.seconds:.1f}", *first), *(("", "", "", *row) for row in more)]


def table(gpu: str, results: list[Result]) -> str:
    rows = [("check", "result", "seconds", "found", "target"), *(row for r in results for row in rows_of(r))]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.rjust(width) if column == 2 else cell.ljust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join([f"GPU: {gpu}", *lines]) + "\n"


def write(folder: pathlib.Path, gpu: str, emulated: bool, results: list[Result]) -> None:
    (folder / "table.txt").write_text(table(gpu, results), encoding="utf-8")
    everything = {"gpu": gpu, "emulated": emulated, "checks": [dataclasses.asdict(r) for r in results]}
    (folder / "results.json").write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def pack(folder: pathlib.Path, logs: list[pathlib.Path]) -> None:
    """Puts the logs into one file."""
    with tarfile.open(folder / "logs.tar.gz", "w:gz") as packed:
        for log in logs:
            packed.add(log, log.name)
    for log in logs:
        log.unlink()
