"""The command line, and the checks one after the other."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

from . import readers, results
from .checks import CHECKS, Check
from .machine import ROOT, Machine, this_machine
from .results import Failed, Figure, Result, Skipped

EPILOG = """examples:
  launch/gpu-check                          everything, in at most 9 minutes; build/gpu-check/table.txt tells
  launch/gpu-check --only bits,memcheck     these alone
  launch/gpu-check --emulated               the same without a GPU, as far as that goes
  launch/gpu-check --list                   the checks

The environment's GPU_CMAKE_ARGS are arguments more for CMake. Where the PATH's python3 has a torch with CUDA, the trainer
is built with it. Exit status: 0 if no check failed, 1 if one did or there is no GPU, 2 for bad usage.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gpu-check", description="Builds, and checks on this machine's GPUs what only they can show: "
                                   "bits, transports, sanitizers, speed, training, counters.",
                                   epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=pathlib.Path, metavar="DIR", default=ROOT / "build" / "gpu-check",
                      help="for a log of each check, table.txt and results.json; default: build/gpu-check")
    made.add_argument("--build", type=pathlib.Path, metavar="DIR", help="where to build; default: build/release, or build/dev if emulated")
    made.add_argument("--no-build", action="store_true", help="the programs are there")
    made.add_argument("--emulated", action="store_true", help="on emulated GPUs (tests/emulation)")
    made.add_argument("--only", type=checks_named, metavar="NAMES", default=CHECKS, help="these checks, with commas")
    made.add_argument("--list", action="store_true", help="list the checks, and end")
    made.add_argument("--limit", type=seconds, metavar="SECONDS", help="of everything; default: 540, or 1800 if emulated")
    made.add_argument("--pack", action="store_true", help="put the logs into logs.tar.gz")
    return made


def checks_named(names: str) -> list[Check]:
    known = {check.name: check for check in CHECKS}
    for name in names.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no check '{name}'; expected some of {', '.join(known)}")
    return [known[name] for name in known if name in names.split(",")]


def seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of seconds above 0")
    return int(text)


def end(process: subprocess.Popen) -> None:
    """Lets mpirun end its ranks; then ends what is left of the command's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(commands: list[list[str]], log: pathlib.Path, limit: float, environment: dict[str, str]) -> None:
    """Throws Failed unless all end with 0 in time."""
    deadline = time.monotonic() + limit
    with log.open("w", encoding="utf-8") as out:
        for command in commands:
            print("$", shlex.join(command), file=out, flush=True)
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True)
            try:
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise Failed(f"not done after {limit:.0f} s") from None
            finally:
                if process.poll() is None:
                    end(process)
            if status != 0:
                raise Failed(f"exit status {status}, see {log.name}")


class Checker:
    def __init__(self, machine: Machine, output: pathlib.Path, limit: float) -> None:
        self.machine = machine
        self.output = output
        self.deadline = time.monotonic() + limit
        self.environment = machine.environment()
        self.results: list[Result] = []
        self.logs: list[pathlib.Path] = []

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def add(self, name: str, work) -> None:
        """The result of work(), which is written at once."""
        print(f"gpu-check: {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        outcome, reason, figures = "passed", "", ()
        try:
            figures = tuple(work())
        except (Failed, Skipped) as what:
            outcome, reason = ("failed" if isinstance(what, Failed) else "skipped"), str(what)
        except (OSError, LookupError, TypeError, ValueError) as error:  # a tool isn't there; a log is not as expected
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        self.results.append(Result(name, outcome, time.monotonic() - begin, reason, figures))
        results.write(self.output, self.machine.name, self.machine.emulated, self.results)

    def log(self, name: str) -> pathlib.Path:
        self.logs.append(self.output / f"{name}.log")
        return self.logs[-1]

    def build(self, programs: list[str]) -> list[Figure]:
        run(self.machine.build_commands(programs), self.log("build"), self.left(), self.environment)
        return []

    def check(self, check: Check) -> list[Figure]:
        if self.results and self.results[0].name == "build" and self.results[0].outcome != "passed":
            raise Skipped("the build failed")
        if reason := check.why_not(self.machine):
            raise Skipped(reason)
        if self.left() < check.usual:
            raise Skipped(f"no time: it takes about {check.usual} s, and {max(0.0, self.left()):.0f} s were left")
        log = self.log(check.name)
        limit = min(check.limit * (10 if self.machine.emulated else 1), self.left())
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
            try:
                run(check.commands(self.machine, pathlib.Path(folder)), log, limit, {**self.environment, **check.environment})
            except Failed:
                readers.refuse_missing(log.read_text(encoding="utf-8", errors="replace"))
                raise
            found = check.read(log.read_text(encoding="utf-8", errors="replace"), pathlib.Path(folder))
        # Of emulated GPUs no speed is asked.
        return [Figure(figure.what) for figure in found] if self.machine.emulated else found


def main() -> int:
    options = parser().parse_args()
    if options.list:
        for check in CHECKS:
            print(f"{check.name:<12} {check.what}")
        return 0
    machine = this_machine(options.build, options.emulated)
    if not machine.gpus:
        print("gpu-check: nvidia-smi shows no GPU; --emulated does without", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(1))  # ends what runs
    checker = Checker(machine, options.output.resolve(), options.limit or (1800 if options.emulated else 540))
    if not options.no_build:
        checker.add("build", lambda: checker.build(sorted({check.program for check in options.only})))
    for check in options.only:
        checker.add(check.name, lambda: checker.check(check))
    if options.pack:
        results.pack(checker.output, checker.logs)
    print(results.table(machine.name, checker.results), end="")
    return 1 if any(result.outcome == "failed" for result in checker.results) else 0
