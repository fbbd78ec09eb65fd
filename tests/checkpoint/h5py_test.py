"""Reads a checkpoint with h5py alone, as docs/checkpoints.md describes the format, and checks every value."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import h5py
import numpy

MPIEXEC = os.environ["MPIEXEC"]
WRITER = os.path.join(os.environ["SHARDMIX_BINARY_DIR"], "bin", "write_checkpoint")


def bf16(values):
    """Rounds fp32 to bf16, ties away from zero."""
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x8000) & 0xFFFF0000).astype("<u4").view("<f4")


def hash_of(data, bits):
    """XXH3 by its own program."""
    said = subprocess.run(["xxhsum", "-H3" if bits == 64 else "-H2"], input=data, check=True, capture_output=True).stdout
    return re.search(rb"\b[0-9a-f]{%d}\b" % (bits // 4), said)[0].decode()


def check_hashes(path, file):
    data = path.read_bytes()
    assert hash_of(data, 128) == file["xxh3_128"]
    cuts = [0, *range(file["head_bytes"], len(data), 64 << 20), len(data)]
    assert [hash_of(data[begin:end], 64) for begin, end in zip(cuts, cuts[1:])] == file["blocks"]


def read(checkpoint):
    """Every parameter's arrays, put together from the shards."""
    text = (checkpoint / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert list(manifest)[-1] == "xxh3_128" and hash_of(text[:text.rindex(b",\n")], 128) == manifest["xxh3_128"]
    arrays = {}
    for number, parameter in enumerate(manifest["parameters"]):
        size = int(numpy.prod(parameter["shape"], dtype=numpy.int64))
        arrays[number] = {state: numpy.full(size, numpy.nan, "f4") for state in manifest["states"]}

    def scatter(index, dataset, state):
        assert dataset.dtype == "<f4" and dataset.chunks is None
        for parameter, offset, here, count in index:
            target = arrays[parameter][state][offset : offset + count]
            assert target.size == count and numpy.isnan(target).all()
            target[:] = dataset[here : here + count]

    for file in manifest["files"]:
        path = checkpoint / file["name"]
        assert path.stat().st_size == file["bytes"]
        check_hashes(path, file)
        with h5py.File(path) as shard:
            for array in file["arrays"]:  # what a loader without HDF5 goes by
                dataset = shard[array["name"]]
                assert dataset.nbytes == array["bytes"]
                assert dataset.nbytes == 0 or dataset.id.get_offset() == array["offset"]
            assert set(shard["state"]) == set(manifest["states"])
            for state in manifest["states"]:
                scatter(shard["index"][:], shard["state"][state], state)
            if "frozen" in shard:
                scatter(shard["frozen/index"][:], shard["frozen/value"], "master")
    return manifest, arrays


class H5py(unittest.TestCase):
    def check(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([MPIEXEC, "-n", str(ranks), WRITER, folder], check=True)
            manifest, arrays = read(pathlib.Path(folder) / "latest")
        self.assertEqual(manifest["world_size"], ranks)
        self.assertEqual(manifest["trainer_state"], "from the test")
        self.assertEqual((manifest["step"], manifest["updates"], manifest["slow_step"]), (1, 1, 1))
        self.assertEqual(len(manifest["parameters"]), 7)
        for number, parameter in enumerate(manifest["parameters"]):
            with self.subTest(parameter=parameter["name"], ranks=ranks):
                found = arrays[number]
                start = (number + numpy.arange(found["master"].size) / 1024).astype("f4")
                if parameter["dtype"] == "bf16":
                    start = bf16(start)
                numpy.testing.assert_array_equal(found["master"], start)
                if not parameter["trainable"]:
                    continue
                gradient = number + 1
                for state, value in (("m1", 0.1), ("m2", 0.01)):
                    numpy.testing.assert_allclose(found[state], value * gradient, rtol=1e-6)
                numpy.testing.assert_allclose(found["v"], 0.001 * gradient**2, rtol=1e-6)

    def test_one_rank(self):
        self.check(1)

    def test_three_ranks(self):
        self.check(3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
