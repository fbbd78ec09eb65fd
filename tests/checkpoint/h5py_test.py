"""Reads a checkpoint with h5py alone, as docs/checkpoints.md describes the format, and checks every value: from the shards,
through the view, and by the examples of that page."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy

MPIEXEC = os.environ["MPIEXEC"]
SHARDMIX = os.environ["SHARDMIX"]
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "checkpoints.md"
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


def write(folder, ranks, *words):
    subprocess.run([MPIEXEC, "-n", str(ranks), WRITER, str(folder), *words], check=True)


def export(folder, output):
    subprocess.run([SHARDMIX, "checkpoint", "export", str(folder), "--output", str(output)], check=True, stdout=subprocess.DEVNULL)


def same_bits(found, expected):
    numpy.testing.assert_array_equal(numpy.asarray(found).view("u4"), numpy.asarray(expected).view("u4"))


class H5py(unittest.TestCase):
    def check(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, ranks)
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


class View(unittest.TestCase):
    """Of a model of hard shapes and names, which 1, 2, 3 and 5 ranks cut at other places."""

    LEFT_OUT = ["ä/m1", "x//y"]

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="shardmix-view-")
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.directory = pathlib.Path(folder.name)

    def write(self, ranks, name="run"):
        write(self.directory / name, ranks, "shapes")
        return self.directory / name / "step_000000001"

    def check_values(self, path, manifest, arrays):
        """Every parameter that has its place in the view at `path` is in it, bit for bit."""
        with h5py.File(path) as view:
            names = set()
            view["parameters"].visititems(lambda name, item: names.add(name) if isinstance(item, h5py.Dataset) else None)
            self.assertEqual(json.loads(view.attrs["left_out"]), self.LEFT_OUT)
            expected = set()
            for number, parameter in enumerate(manifest["parameters"]):
                if parameter["name"] in self.LEFT_OUT:
                    continue
                group = view["parameters"][parameter["name"]]
                self.assertEqual(group.attrs["dtype"], parameter["dtype"])
                for state in manifest["states"] if parameter["trainable"] else ["master"]:
                    expected.add(f"{parameter['name']}/{state}")
                    dataset = group[state]
                    self.assertEqual((dataset.dtype, dataset.is_virtual, dataset.shape),
                                     ("<f4", True, tuple(parameter["shape"])))
                    self.assertTrue(numpy.isnan(dataset.fillvalue))
                    with self.subTest(array=dataset.name):
                        same_bits(dataset[()], arrays[number][state].reshape(parameter["shape"]))
            self.assertEqual(names, expected)

    def test_every_value(self):
        for ranks in (1, 2, 3, 5):
            checkpoint = self.write(ranks)
            manifest, arrays = read(checkpoint)
            self.assertEqual(len({tuple(a["master"]) for a in arrays.values() if a["master"].size}), 13)  # none is another's
            view = (checkpoint / manifest["view"]["name"]).read_bytes()
            self.assertEqual((len(view), hash_of(view, 128)), (manifest["view"]["bytes"], manifest["view"]["xxh3_128"]))
            self.check_values(checkpoint / "view.h5", manifest, arrays)
            shutil.rmtree(self.directory / "run")

    def test_slices(self):
        checkpoint = self.write(3)
        manifest, arrays = read(checkpoint)
        number = next(i for i, p in enumerate(manifest["parameters"]) if p["name"] == "h.0/four")
        whole = arrays[number]["m1"].reshape(3, 5, 7, 59)
        with h5py.File(checkpoint / "view.h5") as view:
            m1 = view["parameters/h.0/four/m1"]
            for key in (numpy.s_[1], numpy.s_[:, 2], numpy.s_[..., 58], numpy.s_[2, 4, 6, 58], numpy.s_[0:3:2, 1:4, ::3, 5:50:7]):
                same_bits(m1[key], whole[key])

    def test_in_any_place_from_any_directory(self):
        checkpoint = self.write(2)
        manifest, arrays = read(checkpoint)
        other = self.directory / "other"
        shutil.copytree(checkpoint, other)
        for file in manifest["files"]:  # whose files have the same names
            (other / file["name"]).write_bytes(b"another checkpoint's")
        moved = self.directory / "moved"
        checkpoint.rename(moved)
        os.chdir(self.directory)
        self.check_values("moved/view.h5", manifest, arrays)
        os.chdir(moved)
        self.check_values("view.h5", manifest, arrays)
        os.chdir(other)
        self.check_values(moved / "view.h5", manifest, arrays)
        self.check_values("../moved/view.h5", manifest, arrays)
        (self.directory / "link").symlink_to(moved)
        self.check_values("../link/view.h5", manifest, arrays)

    def test_what_is_missing_is_not_a_number(self):
        checkpoint = self.write(3)
        manifest, arrays = read(checkpoint)
        self.assertTrue(all(numpy.isfinite(a[s]).all() for i, a in arrays.items() for s in a
                            if manifest["parameters"][i]["trainable"] or s == "master"))
        lost = checkpoint / manifest["files"][1]["name"]
        with h5py.File(lost) as shard:
            for parameter, offset, _, count in shard["index"][:]:
                for state in manifest["states"]:
                    arrays[parameter][state][offset : offset + count] = numpy.nan
            for parameter, offset, _, count in shard["frozen/index"][:]:
                arrays[parameter]["master"][offset : offset + count] = numpy.nan
        self.assertTrue(any(numpy.isnan(a["master"]).any() for a in arrays.values()))
        os.truncate(lost, 1000)
        try:  # later versions of HDF5 than 1.10 find an error
            with h5py.File(checkpoint / "view.h5") as view:
                view["parameters/prime/m2"][()]
        except OSError:
            lost.unlink()
        self.check_values(checkpoint / "view.h5", manifest, arrays)
        lost.unlink(missing_ok=True)
        self.check_values(checkpoint / "view.h5", manifest, arrays)

    def test_says_the_same_as_an_export(self):
        run = self.directory / "run"
        write(run, 3)
        export(run, self.directory / "all.h5")
        with h5py.File(run / "latest" / "view.h5") as view, h5py.File(self.directory / "all.h5") as all_of_it:
            names = []
            all_of_it.visit(names.append)
            seen = []
            view.visit(seen.append)
            self.assertEqual(seen, names)
            for name in names:
                if isinstance(all_of_it[name], h5py.Dataset):
                    self.assertEqual(view[name].shape, all_of_it[name].shape)
                    same_bits(view[name][()], all_of_it[name][()])
            attributes = dict(view.attrs)
            self.assertEqual(json.loads(attributes.pop("left_out")), [])
            self.assertEqual(attributes, dict(all_of_it.attrs) | {"format": "shardmix view"})


class Examples(unittest.TestCase):
    def test_of_the_docs(self):
        """Each example in Python runs, in a directory with the checkpoints and the export that they name."""
        examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
        self.assertGreaterEqual(len(examples), 6)
        with tempfile.TemporaryDirectory(prefix="shardmix-docs-") as folder:
            run = pathlib.Path(folder) / "run"
            write(run, 2, "shapes")
            for name in set(re.findall(r"step_\d{9}", "".join(examples))):
                shutil.copytree(run / "step_000000001", run / name)
            write(pathlib.Path(folder) / "plain", 2)  # names that an export can have
            export(pathlib.Path(folder) / "plain", pathlib.Path(folder) / "all.h5")
            with h5py.File(pathlib.Path(folder) / "all.h5", "r+") as all_of_it:
                all_of_it.move("parameters/embedding", "parameters/embedding.weight")
            for example in examples:
                if "torch" in example and not importlib.util.find_spec("torch"):
                    continue
                with self.subTest(example=example):
                    subprocess.run([sys.executable, "-c", example], cwd=folder, check=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
