"""Drives the built program: SHARDMIX and MPIEXEC in the environment say where it and mpiexec are."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

SHARDMIX = os.environ["SHARDMIX"]
MPIEXEC = os.environ.get("MPIEXEC", "mpiexec")
for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
             "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle"):
    os.environ.setdefault(name, "1")

# A model that takes milliseconds a step.
TINY = ["--width", "32", "--heads", "2", "--layers", "2", "--context", "32", "--batch", "6",
        "--eval-every", "0", "--eval-sequences", "8", "--threads", "1", "--log-every", "1"]

# Weights and state in as few bytes as there are; all of it rounded stochastically.
LEAST = ["--dtype", "bf16", "--master", "none", "--state", "compact"]
RULES = ("ademamix", "adamw", "simplified-ademamix", "lion")


def command(arguments, ranks=None):
    """The program's command line, under mpiexec where a number of ranks is given."""
    launcher = [] if ranks is None else [MPIEXEC, "-n", str(ranks)]
    return [*launcher, SHARDMIX, *map(str, arguments)]


def run(*arguments, ranks=None, timeout=120):
    return subprocess.run(command(arguments, ranks), capture_output=True, text=True, timeout=timeout)


def complaints(result):
    """The program's own error lines, without what mpiexec says to an exit code that isn't 0."""
    return [line for line in result.stderr.splitlines() if line.startswith("shardmix: ")]


class TrainCase(unittest.TestCase):
    """A test with a directory of its own, in which text.txt is a text to train on."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="shardmix-cli-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.text = self.directory / "text.txt"
        self.text.write_text("".join(f"{i} times {i} makes {i * i}, and then comes\n" for i in range(1500)))

    def arguments(self, out, *more):
        return ["train", "--text", self.text, "--out", self.directory / out, *TINY, *more]

    def train(self, out, *more, ranks=None, expect=0):
        result = run(*self.arguments(out, *more), ranks=ranks)
        self.assertEqual(result.returncode, expect, result.stdout + result.stderr)
        return result

    def metrics(self, out):
        with open(self.directory / out / "metrics.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def losses(self, out):
        return [line["loss"] for line in self.metrics(out)]

    def checkpoints(self, out):
        """The steps of the complete checkpoints."""
        found = (self.directory / out).glob("step_*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("step_")) for path in found)

    def inspect(self, path):
        result = run("checkpoint", "inspect", self.directory / path, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)
