"""What the logs of checks say. Each reader throws Failed or Skipped, or returns figures."""

from __future__ import annotations

import json
import pathlib
import re
import statistics

from .results import Failed, Figure, Skipped

FULL, COMPACT, STEP = 0.92, 0.85, 0.95  # least fractions of their bounds
FIRST_LOSS, LAST_LOSSES = 1e-3, 0.02    # most relative differences between a GPU and a host
WARM_UP = 5                             # steps that aren't timed

# What programs say where something that they need isn't there.
MISSING = {"this LibTorch has no CUDA": "this LibTorch has no CUDA",
           "this build has no trainer": "this build has no trainer: LibTorch was not found",
           "ERR_NVGPUCTRPERM": "this user may not read the GPU's counters"}


def refuse_missing(log: str) -> None:
    for sentence, reason in MISSING.items():
        if sentence in log:
            raise Skipped(reason)


def tests(log: str, _: pathlib.Path) -> list[Figure]:
    passed = re.search(r"\[  PASSED  \] (\d+) test", log)
    if "no GPU is visible" in log or passed is None or passed[1] == "0":
        raise Failed("no test ran on a GPU")
    skipped = re.search(r"\[  SKIPPED \] (\d+) test", log)
    return [Figure(f"{passed[1]} tests" + (f", {skipped[1]} skipped" if skipped else ""))]


def sanitizer(log: str, folder: pathlib.Path) -> list[Figure]:
    if re.search(r"SUMMARY: 0 (errors|hazards)", log) is None:
        raise Failed("compute-sanitizer didn't say that it found nothing")
    return tests(log, folder)


def rows(log: str) -> list[dict]:
    found = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    if not found:
        raise Failed("the bench printed no figures")
    return found


def update(log: str, _: pathlib.Path) -> list[Figure]:
    figures = []
    for row in rows(log):
        what = f"{row['rule']} {row['precision']}, {row['mparameters_per_second'] / 1000:.3g} Gparam/s, of the bound"
        target = COMPACT if "compact" in row["precision"] else FULL
        figures.append(Figure.at_least(row["fraction_of_bound"], target, what))
    return figures


def steps(log: str, _: pathlib.Path) -> list[Figure]:
    figures = []
    for row in rows(log):
        what = f"{row['precision']}, {1000 * row['seconds']:.2f} ms, {row['collectives']}"
        fraction = row["fraction_of_bound"]
        if fraction is None:
            figures.append(Figure(what))
            continue
        what += ", of the bound"
        figures.append(Figure.at_least(fraction, STEP, what) if row["ranks"] == 1 else
                       Figure(f"{what}: {100 * fraction:.1f} %"))
    return figures


def metrics(run: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(_: str, folder: pathlib.Path) -> list[Figure]:
    host, cuda = ([row["loss"] for row in metrics(folder / name)] for name in ("host", "cuda"))
    for name, a, b, most in (("first loss", host[0], cuda[0], FIRST_LOSS),
                             ("mean of the last ten losses", statistics.fmean(host[-10:]), statistics.fmean(cuda[-10:]), LAST_LOSSES)):
        if not abs(a - b) <= most * a:
            raise Failed(f"the {name} is {b:.5f} on the GPU and {a:.5f} on the host")
    if not host[-1] < host[0]:
        raise Failed(f"the loss went from {host[0]:.4f} to {host[-1]:.4f}")
    return [Figure(f"{len(host)} steps, loss {cuda[0]:.4f} to {cuda[-1]:.4f}, on the host to {host[-1]:.4f}")]


def seconds_of_steps(run: pathlib.Path, tokens: int) -> float:
    return statistics.median(tokens / row["tokens_per_second"] for row in metrics(run)[WARM_UP:])


def rules(tokens: int):
    """AdEMAMix's step against AdamW's, of so many tokens."""
    def read(_: str, folder: pathlib.Path) -> list[Figure]:
        adamw, ademamix = (seconds_of_steps(folder / rule, tokens) for rule in ("adamw", "ademamix"))
        return [Figure(f"step of ademamix {1000 * ademamix:.1f} ms, of adamw {1000 * adamw:.1f} ms: {100 * ademamix / adamw:.1f} %")]
    return read


def counters(kernels: list[str]):
    """What ncu says of one launch of each kernel."""
    def read(log: str, _: pathlib.Path) -> list[Figure]:
        throughputs = re.findall(r"DRAM Throughput\s+%\s+([\d.,]+)", log)
        if len(throughputs) != len(kernels):
            raise Failed(f"ncu measured {len(throughputs)} kernels; expected {len(kernels)}")
        return [Figure(f"{kernel}, DRAM throughput: {found} %") for kernel, found in zip(kernels, throughputs)]
    return read
