#!/usr/bin/env python3
"""Figure 5(b) of the AdEMAMix paper in small: AdamW all the way against switches to AdEMAMix on the way.

For each seed AdamW trains a whole run and leaves checkpoints at a quarter, a half and three quarters of it. From each of
them AdEMAMix goes on: at once (alpha 2, as the paper switches) and with schedules (alpha to 8 and beta3 from beta1, over
what is left); with --from-m1 also from the half with m2 from m1. beta3 is 1 - 1/(0.2 T) of the T steps that are left.

Writes switch.csv (held-out losses), switch.svg, and a table in Markdown to standard output. What is done already is not
run again.

    docs/figures/switch.py --text quickstart/text
    docs/figures/switch.py --text quickstart/text --steps 400 --seeds 1 -- --layers 2
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

from line_plot import GREY, Line, Panel, svg

AT_ONCE = ["--alpha", "2", "--alpha-steps", "0", "--beta3-steps", "0"]
WAYS = {"at once": AT_ONCE, "schedules": [],
        "at once, m2 from m1": [*AT_ONCE, "--switch-m2", "from-m1"], "schedules, m2 from m1": ["--switch-m2", "from-m1"]}
DASHES = {"at once": "", "schedules": "6 3", "at once, m2 from m1": "2 2", "schedules, m2 from m1": "9 3 2 3"}
COLORS = {25: "#1f6fb4", 50: "#d0541b", 75: "#2f8f4e"}
EVALUATIONS = 20  # of the held-out loss, in a run


@dataclasses.dataclass(frozen=True)
class Run:
    percent: int = 0  # of the steps before the switch; 0: none
    way: str = ""

    def name(self) -> str:
        return f"{self.percent}-{self.way}".replace(", ", "-").replace(" ", "-") if self.way else "stay"

    def title(self) -> str:
        return f"switch at {self.percent} %, {self.way}" if self.way else "AdamW all the way"


STAY = Run()
SWITCHES = [Run(percent, way) for percent in (25, 50, 75) for way in WAYS if percent == 50 or "m1" not in way]

Losses = dict[int, float]  # by step


def read_losses(out: pathlib.Path) -> Losses:
    file = out / "metrics.jsonl"
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}


def train(options: argparse.Namespace, out: pathlib.Path, seed: int, more: list[str]) -> Losses:
    losses = read_losses(out)
    if options.steps in losses:
        return losses
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [options.program, "train", "--text", options.text, "--out", out, "--seed", seed, "--steps", options.steps,
               "--threads", 1, "--eval-every", options.steps // EVALUATIONS, *options.train, *more]
    with open(out / "log", "w", encoding="utf-8") as log:
        if subprocess.run([*map(str, command)], stdout=log, stderr=log, check=False).returncode:
            sys.exit(f"{out / 'log'}: {(out / 'log').read_text(encoding='utf-8').splitlines()[-1]}")
    return read_losses(out)


def run_seed(options: argparse.Namespace, seed: int) -> dict[Run, Losses]:
    where = options.out / f"seed-{seed}"
    stay = where / STAY.name()
    results = {STAY: train(options, stay, seed, ["--optimizer", "adamw", "--checkpoint-every", str(options.steps // 4),
                                                 "--keep-last", "0"])}
    for run in (run for run in SWITCHES if options.from_m1 or "m1" not in run.way):
        step = options.steps * run.percent // 100
        results[run] = train(options, where / run.name(), seed, ["--resume", str(stay / f"step_{step:09}"), "--switch-at",
                                                                 str(step), "--checkpoint-every", "0", *WAYS[run.way]])
    return results


def write_csv(path: pathlib.Path, seeds: list[dict[Run, Losses]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "switch_percent", "way", "step", "held_out_loss"])
        for number, results in enumerate(seeds, 1):
            for run, losses in results.items():
                writer.writerows([number, run.percent or "", run.way, step, f"{loss:.6f}"] for step, loss in losses.items())


def differences(seeds: list[dict[Run, Losses]], run: Run, step: int) -> list[float]:
    """To staying, of each seed: below 0 the switch is better."""
    return [results[run][step] - results[STAY][step] for results in seeds]


def table(seeds: list[dict[Run, Losses]]) -> str:
    last = max(seeds[0][STAY])
    stay = [results[STAY][last] for results in seeds]
    lines = ["| run | held-out loss at the end | less staying | of the seeds | worst on the way |", "|---|---|---|---|---|",
             f"| {STAY.title()} | {statistics.mean(stay):.4f} | | | |"]
    for run in list(seeds[0])[1:]:
        end = differences(seeds, run, last)
        worst = max(statistics.mean(differences(seeds, run, step)) for step in seeds[0][run])
        lines.append(f"| {run.title()} | {statistics.mean(stay) + statistics.mean(end):.4f} | {statistics.mean(end):+.4f} | "
                     f"{', '.join(f'{d:+.4f}' for d in end)} | {worst:+.4f} |")
    return "\n".join(lines + ["", f"Staying, of the seeds: {', '.join(f'{loss:.4f}' for loss in stay)}: "
                                  f"a spread of {max(stay) - min(stay):.4f}.", ""])


def mean_points(seeds: list[dict[Run, Losses]], run: Run) -> list[tuple[float, float]]:
    """From the switch on, where it is still the run that stays."""
    last = max(seeds[0][STAY])
    begin = [(step, STAY) for step in seeds[0][STAY] if run.way and step == last * run.percent // 100]
    return [(step, statistics.mean(results[of][step] for results in seeds))
            for step, of in begin + [(step, run) for step in seeds[0][run]]]


def difference_line(seeds: list[dict[Run, Losses]], run: Run, begin: int) -> Line:
    steps = list(seeds[0][run])
    every = {step: differences(seeds, run, step) for step in steps}
    start = [(float(begin), 0.0)]
    return Line(start + [(step, statistics.mean(every[step])) for step in steps], COLORS[run.percent], DASHES[run.way],
                (start + [(step, min(every[step])) for step in steps], start + [(step, max(every[step])) for step in steps]))


def plot(seeds: list[dict[Run, Losses]]) -> str:
    steps = max(seeds[0][STAY])
    shown = [run for run in list(seeds[0])[1:] if "m1" not in run.way]
    late = [y for run in (STAY, *shown) for x, y in mean_points(seeds, run) if x >= steps / 4]
    margin = 0.05 * (max(late) - min(late))
    losses = Panel("held-out loss, mean of the seeds (nats a byte)", "step",
                   [Line(mean_points(seeds, STAY), GREY)] +
                   [Line(mean_points(seeds, run), COLORS[run.percent], DASHES[run.way]) for run in shown],
                   (min(late) - margin, max(late) + margin), (steps / 4, steps))
    lines = [difference_line(seeds, run, steps * run.percent // 100) for run in shown]
    edges = [y for line in lines for edge in line.band or () for _, y in edge]
    margin = 0.05 * (max(edges) - min(edges))
    less = Panel("less that of staying: mean, and from the least to the most", "step",
                 [Line([(0, 0), (steps, 0)], GREY), *lines], (min(edges) - margin, max(edges) + margin), (steps / 4, steps),
                 [(steps * percent / 100, color) for percent, color in COLORS.items()])
    return svg([losses, less], [(STAY.title(), GREY, "")] +
               [(run.title(), COLORS[run.percent], DASHES[run.way]) for run in shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, required=True, help="what to train on")
    parser.add_argument("--program", type=pathlib.Path, default="build/release/bin/shardmix")
    parser.add_argument("--out", type=pathlib.Path, default="build/figures/switch", help="the runs, switch.csv and switch.svg")
    parser.add_argument("--steps", type=int, default=2000, help=f"of a run; a multiple of {EVALUATIONS}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--from-m1", action="store_true", help="also switches that start m2 from m1")
    parser.add_argument("train", nargs="*", help="after --: more options of shardmix train")
    options = parser.parse_args()
    if options.steps < EVALUATIONS or options.steps % EVALUATIONS:
        parser.error(f"--steps must be a multiple of {EVALUATIONS}, but is {options.steps}")
    seeds = [run_seed(options, seed) for seed in range(1, options.seeds + 1)]
    write_csv(options.out / "switch.csv", seeds)
    (options.out / "switch.svg").write_text(plot(seeds), encoding="utf-8")
    print(table(seeds))


if __name__ == "__main__":
    main()
