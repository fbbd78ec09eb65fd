"""A checkpoint of any number of ranks loads on any other, and training goes on as if there had been none.

world_sizes_program compares what is in memory, bit for bit; this file runs it on each number of ranks, and compares what is
in the files."""

import collections
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import h5py
import numpy

from h5py_test import read

MPIEXEC = os.environ["MPIEXEC"]
SHARDMIX = os.environ["SHARDMIX"]
PROGRAM = os.path.join(os.environ["SHARDMIX_BINARY_DIR"], "bin", "world_sizes_program")
WORLDS = (1, 2, 3, 5, 8)
CASES = ("ademamix", "adamw", "switched", "compact", "least", "switched from m1", "back", "load switches",
         "load switches from m1", "load switches back")
# Updates since m2 began, in the checkpoint.
SLOW_STEPS = {"adamw": 0, "switched": 3, "switched from m1": 3, "back": 0, "load switches": 0, "load switches from m1": 0}


def run(ranks, *words):
    done = subprocess.run([MPIEXEC, "-n", str(ranks), PROGRAM, *map(str, words)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
    if done.returncode:
        raise AssertionError(f"{words} on {ranks} ranks:\n{done.stdout}")


class WorldSizes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="checkpoint-worlds-")
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        for ranks in WORLDS:
            run(ranks, "save", cls.directory)

    def in_memory(self, case, manifest):
        """What one rank held: world_sizes_program's write_arrays()."""
        values = numpy.fromfile(self.directory / f"{case}.f32", "<u4")
        arrays = collections.defaultdict(dict)
        at = 0
        for parameter in manifest["parameters"]:
            size = int(numpy.prod(parameter["shape"], dtype=numpy.int64))
            for state in manifest["states"] if parameter["trainable"] else ["master"]:
                arrays[parameter["name"]][state] = values[at:at + size]
                at += size
        self.assertEqual(at, values.size)
        return arrays

    def assert_same_bits(self, found, expected, what):
        self.assertTrue(numpy.array_equal(numpy.ravel(found).view("<u4"), expected), what)

    def test_loads_on_every_other(self):
        for ranks in WORLDS:
            with self.subTest(ranks=ranks):
                run(ranks, "load", self.directory, *WORLDS)

    def test_files_hold_what_one_rank_holds(self):
        for case in CASES:
            for ranks in WORLDS:
                with self.subTest(case=case, ranks=ranks):
                    manifest, arrays = read(self.directory / case / str(ranks) / "latest")
                    for number, (name, states) in enumerate(self.in_memory(case, manifest).items()):
                        for state, expected in states.items():
                            self.assert_same_bits(arrays[number][state], expected, f"{name} {state}")
                    self.assertEqual(manifest["world_size"], ranks)
                    self.assertEqual([manifest[key] for key in ("step", "updates", "slow_step")],
                                     [6, 5, SLOW_STEPS.get(case, 5)])
                    # It began at 8 and was halved by step 2; step 7 is the fifth one since then, and doubles it.
                    self.assertEqual((manifest["loss_scale"], manifest["usable_steps"]), (4.0, 4))

    def test_exports_are_the_same(self):
        for case in CASES:
            texts = set()
            for ranks in WORLDS:
                file = self.directory / f"{case}-{ranks}.h5"
                subprocess.run([SHARDMIX, "checkpoint", "export", self.directory / case / str(ranks), "--output", file],
                               stdout=subprocess.DEVNULL, check=True)
                texts.add(file.read_bytes())
            self.assertEqual(len(texts), 1, case)
            manifest = json.loads((self.directory / case / "1" / "latest" / "manifest.json").read_text())
            with h5py.File(file) as exported:
                for name, states in self.in_memory(case, manifest).items():
                    self.assertEqual(set(exported["parameters"][name]), set(states))
                    for state, expected in states.items():
                        self.assert_same_bits(exported["parameters"][name][state][()], expected, f"{case}: {name} {state}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
