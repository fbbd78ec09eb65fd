"""A run of eight micro-batches a step is the same, to the last bit, on any power of two of ranks and on several hosts."""

import pathlib
import sys
import unittest

import h5py
import numpy

from support import SHARDMIX, TrainCase

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from cluster import Cluster  # noqa: E402
from namespaces import Unavailable  # noqa: E402

STEPS = 5
PLAN = ["--model", "nano", "--batch", "8", "--micro-batch", "1", "--steps", STEPS, "--threads", "1", "--eval-every", "0",
        "--eval-sequences", "8", "--warmup", "2"]
STATES = ("master", "m1", "m2", "v")


class WorldSizes(TrainCase):
    def arguments(self, out, *more):
        return ["train", "--text", self.text, "--out", self.directory / out, *PLAN, *more]

    def state(self, out):
        """Every state of every parameter, as the shard files have them."""
        whole = {}
        files = sorted((self.directory / out / f"step_{STEPS:09d}").glob("shard-*.h5"))
        self.assertTrue(files)
        for path in files:
            with h5py.File(path) as file:
                for parameter, offset, begin, count in file["index"][:]:
                    for state in STATES:
                        values = file["state"][state][begin:begin + count]
                        whole[state, int(parameter), int(offset)] = values.view(numpy.uint32)
        joined = {}
        for state, parameter, offset in sorted(whole):
            joined.setdefault((state, parameter), []).append(whole[state, parameter, offset])
        return {key: numpy.concatenate(parts) for key, parts in joined.items()}

    def assert_same(self, one, other):
        for alone, many in zip(self.metrics(one), self.metrics(other), strict=True):
            for key in ("loss", "gradient_norm"):
                self.assertEqual(alone[key], many[key], f"{key} of {one} and {other}")
            self.assertEqual(alone.get("held_out_loss"), many.get("held_out_loss"))
        expected, found = self.state(one), self.state(other)
        self.assertEqual(expected.keys(), found.keys())
        for key, values in expected.items():
            self.assertTrue(numpy.array_equal(values, found[key]), f"{key} of {one} and {other}")

    def test_one_two_four_and_eight_ranks(self):
        for dtype in ("fp32", "bf16"):
            for ranks in (1, 2, 4, 8):
                self.train(f"{dtype}-{ranks}", "--dtype", dtype, ranks=ranks)
            for ranks in (2, 4, 8):
                self.assert_same(f"{dtype}-1", f"{dtype}-{ranks}")

    def test_every_transport(self):
        self.train("alone")
        for transport in ("shared", "mpi", "hierarchical"):
            said = self.train(transport, "--collectives", transport, ranks=4).stderr
            self.assertIn(f"collectives {transport}, 4 ranks on one node", said)
            self.assert_same("alone", transport)

    def test_sharded_gradients(self):
        self.train("alone")
        for transport in ("shared", "mpi"):
            self.train(f"sharded-{transport}", "--gradients", "sharded", "--collectives", transport, ranks=4)
            self.assert_same("alone", f"sharded-{transport}")

    def test_two_hosts_of_two_ranks(self):
        try:
            with Cluster(hosts=2, rate="1gbit") as cluster:
                program = [SHARDMIX, *map(str, self.arguments("hosts"))]
                self.assertEqual(cluster.mpirun(program, ranks_per_host=2).wait(timeout=300), 0)
        except Unavailable as reason:
            self.skipTest(str(reason))
        self.train("alone")
        self.assert_same("alone", "hosts")


if __name__ == "__main__":
    unittest.main()
