"""The tools of `shardmix checkpoint`, on checkpoints of 1, 2 and 3 ranks. Oracles: what write_checkpoint put in, h5py, and
a reader of safetensors in ten lines."""

import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import tempfile
import unittest

import h5py
import numpy

from support import MPIEXEC, SHARDMIX, command, complaints, run

WRITER = os.path.join(os.environ["SHARDMIX_BINARY_DIR"], "bin", "write_checkpoint")
STATES = ("master", "m1", "m2", "v")
SHAPES = {"scalar": (), "empty": (0, 5), "prime": (7919,), "frozen": (300,), "matrix": (33, 65), "norm": (257,),
          "embedding": (64, 100)}


def write(directory, ranks, *change):
    subprocess.run([MPIEXEC, "-n", str(ranks), WRITER, directory, *map(str, change)], check=True)


def expected(name, state):
    """What write_checkpoint stores: a parameter's number and its elements' places give every value."""
    number = list(SHAPES).index(name)
    size = int(numpy.prod(SHAPES[name], dtype=int))
    if state != "master":
        gradient = numpy.float32(number + 1)
        value = {"m1": 0.1 * gradient, "m2": 0.01 * gradient, "v": 0.001 * gradient**2}[state]
        return numpy.full(SHAPES[name], value, "f4")
    values = (number + numpy.arange(size) / 1024).astype("f4")
    if name != "norm":  # the one in fp32; the others were rounded to bf16, ties away from zero
        values = ((values.view("u4") + 0x8000) & 0xFFFF0000).astype("u4").view("f4")
    return values.reshape(SHAPES[name])


def states_of(name):
    return ("master",) if name == "frozen" else STATES


def read_safetensors(path):
    """The metadata and the arrays, with what readers require of the places of the values."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert all(isinstance(value, str) for value in metadata.values())
    values = data[8 + length :]
    end = 0
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        assert entry["dtype"] == "F32" and entry["data_offsets"][0] == end
        end = entry["data_offsets"][1]
    assert end == len(values) and length % 8 == 0
    return metadata, {name: numpy.frombuffer(values[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
                      for name, entry in header.items()}


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def setUpModule():
    """Written once; who damages one takes a copy."""
    folder = tempfile.TemporaryDirectory(prefix="shardmix-tools-")
    unittest.addModuleCleanup(folder.cleanup)
    Tools.originals = pathlib.Path(folder.name)
    write(Tools.originals / "one", 1)
    write(Tools.originals / "three", 3)
    write(Tools.originals / "changed", 2, "norm", 200, 5.25)


class Tools(unittest.TestCase):
    originals = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="shardmix-tools-")
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name)

    def copy(self, name):
        return pathlib.Path(shutil.copytree(self.originals / name, self.directory / name, symlinks=True))

    def tool(self, *arguments, code=0, says=None):
        """Runs a tool; `says` must be the one complaint, as far as it goes."""
        result = run("checkpoint", *arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        if says is not None:
            said = complaints(result)
            self.assertEqual(len(said), 1, result.stderr)
            self.assertRegex(said[0], says)
        else:
            self.assertEqual(result.stderr, "")
        return result.stdout


class Help(Tools):
    def test_each_tool_has_help_with_examples(self):
        for tool in ("inspect", "verify", "diff", "export", "prune"):
            text = self.tool(tool, "--help")
            self.assertTrue(text.startswith(f"Usage: shardmix checkpoint {tool} "), text)
            self.assertIn(f"Examples:\n  shardmix checkpoint {tool} ", text)
            self.assertIn("--json", text)
            self.assertIn(f"checkpoint {tool} ", self.tool("--help"))

    def test_wrong_arguments(self):
        self.tool("verifi", "x", code=2, says="did you mean verify")
        for tool in ("verify", "export", "prune", "diff"):
            self.tool(tool, code=2, says=f"checkpoint {tool} needs")
        one = self.originals / "one"
        self.tool("verify", one, one, code=2, says="needs a checkpoint")
        self.tool("diff", one, code=2, says="two checkpoints")
        self.tool("verify", one, "--al", code=2, says="did you mean --all")
        self.tool("verify", one, "--all=yes", code=2, says="--all")
        self.tool("diff", one, one, "--top", "-1", code=2, says="--top")


class Verify(Tools):
    def damaged(self, path, *words):
        text = self.tool("verify", path, code=1, says=".*".join(words))
        self.assertIn("DAMAGED", text)

    def test_good_ones(self):
        for name, ranks in (("one", 1), ("three", 3)):
            text = self.tool("verify", self.originals / name)
            self.assertEqual(text.count("  good\n"), ranks + 1)  # and the view
            self.assertIn("all good", text)
            self.assertEqual(self.tool("verify", self.originals / name / "latest", "--quiet"), "")
            found = json.loads(self.tool("verify", self.originals / name, "--json"))
            self.assertTrue(found["good"])
            manifest = json.loads((self.originals / name / "latest" / "manifest.json").read_text())
            self.assertEqual([(file["name"], file["bytes"]) for file in found["checkpoints"][0]["files"]],
                             [(file["name"], file["bytes"]) for file in [*manifest["files"], manifest["view"]]])

    def test_a_flipped_bit_in_each_region(self):
        file = json.loads((self.originals / "three/latest/manifest.json").read_text())["files"][2]
        places = {array["name"]: array["offset"] + array["bytes"] // 2 for array in file["arrays"] if array["bytes"]}
        self.assertEqual(set(places), {"/index", "/frozen/index", "/frozen/value", *(f"/state/{s}" for s in STATES)})
        for name, offset in {**places, "superblock": 5, "last byte": file["bytes"] - 1}.items():
            with self.subTest(region=name):
                run_directory = self.copy("three")
                flip_bit(run_directory / "latest" / file["name"], offset)
                self.damaged(run_directory, file["name"], "checksum", "damaged")
                shutil.rmtree(run_directory)

    def test_sizes(self):
        for change in (-1, 1):
            run_directory = self.copy("three")
            path = run_directory / "latest/shard-00001-of-00003.h5"
            os.truncate(path, path.stat().st_size + change)
            self.damaged(run_directory, path.name, "bytes, but the manifest says")
            shutil.rmtree(run_directory)

    def test_missing_and_swapped_files(self):
        checkpoint = self.copy("three") / "latest"
        first, second, third = (checkpoint / f"shard-0000{i}-of-00003.h5" for i in range(3))
        third.rename(self.directory / "kept")
        self.damaged(checkpoint, third.name, "No such file")
        (self.directory / "kept").rename(third)
        self.tool("verify", checkpoint)
        first.rename(self.directory / "kept")
        second.rename(first)
        (self.directory / "kept").rename(second)
        result = run("checkpoint", "verify", checkpoint, "--json")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(complaints(result)), 2)
        files = json.loads(result.stdout)["checkpoints"][0]["files"]
        self.assertEqual([file["good"] for file in files], [False, False, True, True])
        self.assertIn(first.name, files[0]["damage"])

    def test_the_view(self):
        checkpoint = self.copy("three") / "latest"
        flip_bit(checkpoint / "view.h5", 1000)
        self.damaged(checkpoint, "view.h5", "checksum", "damaged")
        (checkpoint / "view.h5").unlink()
        self.damaged(checkpoint, "view.h5", "No such file")

    def test_the_manifest(self):
        checkpoint = self.copy("one") / "latest"
        flip_bit(checkpoint / "manifest.json", 40)
        self.damaged(checkpoint, "manifest", "checksum")
        (checkpoint / "manifest.json").unlink()
        self.tool("verify", checkpoint, code=1, says="is no checkpoint")
        self.tool("verify", self.directory / "nowhere", code=1, says="nowhere")

    def test_all_of_a_run(self):
        run_directory = self.copy("one")
        older = shutil.copytree(run_directory / "step_000000001", run_directory / "step_000000000")
        flip_bit(older / "shard-00000-of-00001.h5", 100000)
        self.tool("verify", run_directory)  # the newest
        found = run("checkpoint", "verify", run_directory, "--all", "--json")
        self.assertEqual(found.returncode, 1)
        found = json.loads(found.stdout)
        self.assertEqual([c["good"] for c in found["checkpoints"]], [True, False])
        self.assertEqual(self.tool("verify", run_directory, "--all", "--quiet", code=1, says="step_000000000/shard"), "")

    def test_progress_on_a_terminal(self):
        leader, follower = pty.openpty()
        result = subprocess.run([SHARDMIX, "checkpoint", "verify", str(self.originals / "one")], stdout=subprocess.PIPE,
                                stderr=follower, check=True)
        os.close(follower)
        said = os.read(leader, 65536).decode()
        os.close(leader)
        self.assertIn("verifying step_000000001: 100% of", said)
        self.assertTrue(said.endswith("\r\033[K"), said)
        self.assertIn(b"all good", result.stdout)


class Diff(Tools):
    def diff(self, a, b, code):
        return json.loads(self.tool("diff", a, b, "--json", code=code))

    def test_equal_from_one_and_three_ranks(self):
        for a, b in (("one", "three"), ("three", "one"), ("three", "three")):
            found = self.diff(self.originals / a, self.originals / b, 0)
            self.assertTrue(found["equal"])
            self.assertEqual((found["fields"], found["arrays"]), ([], []))
            self.assertEqual(found["arrays_compared"], 6 * 4 + 1)
            self.assertEqual(found["elements_compared"],
                             sum(len(states_of(n)) * int(numpy.prod(SHAPES[n], dtype=int)) for n in SHAPES))
        self.assertIn("equal in every bit", self.tool("diff", self.originals / "one", self.originals / "three"))

    def test_one_element(self):
        before = 5 + 200 / 1024
        for a, b in (("one", "changed"), ("three", "changed"), ("changed", "three")):
            found = self.diff(self.originals / a, self.originals / b, 1)
            self.assertEqual(found["fields"], [])
            self.assertEqual(len(found["arrays"]), 1)
            array = found["arrays"][0]
            self.assertEqual((array["parameter"], array["state"], array["elements"], array["different"]),
                             ("norm", "master", 257, 1))
            self.assertAlmostEqual(array["max_absolute"], 5.25 - before, places=12)
            self.assertAlmostEqual(array["max_relative"], (5.25 - before) / 5.25, places=12)
        text = self.tool("diff", self.originals / "one", self.originals / "changed", code=1)
        self.assertRegex(text, r"norm +master +257 +1 +0\.0547 +0\.0104")

    def test_values_that_are_not_finite(self):
        write(self.directory / "nan", 1, "norm", 3, "nan")
        found = self.diff(self.originals / "one", self.directory / "nan", 1)
        self.assertEqual([(a["different"], a["max_absolute"], a["max_relative"]) for a in found["arrays"]], [(1, None, None)])
        self.diff(self.directory / "nan", self.directory / "nan", 0)

    def test_top(self):
        write(self.directory / "first", 1, "prime", 0, -1.0)
        text = self.tool("diff", self.originals / "changed", self.directory / "first", "--top", "1", code=1)
        self.assertRegex(text, r"prime +master")  # relative difference 1.5, the larger one
        self.assertNotRegex(text, r"norm +master")
        self.assertIn("and 1 more", text)
        self.assertRegex(self.tool("diff", self.originals / "changed", self.directory / "first", "--top", "0", code=1),
                         r"prime.*\nnorm")

    def test_damage_and_missing_are_trouble(self):
        damaged = self.copy("three")
        flip_bit(damaged / "latest/shard-00002-of-00003.h5", 100000)
        self.tool("diff", self.originals / "one", damaged, code=2, says="shard-00002-of-00003.h5.*checksum")
        self.tool("diff", damaged, self.originals / "one", code=2, says="shard-00002-of-00003.h5.*checksum")
        self.tool("diff", self.originals / "one", self.directory / "none", code=2, says="none")


class Export(Tools):
    def test_hdf5(self):
        for name in ("one", "three"):
            path = self.directory / f"{name}.h5"
            self.tool("export", self.originals / name, "--output", path)
            with h5py.File(path) as file:
                self.assertEqual((file.attrs["step"], file.attrs["rule"]), (1, "ademamix"))
                self.assertEqual(json.loads(file.attrs["hyper_parameters"])["beta3"], 0.99)
                self.assertEqual(set(file["parameters"]), set(SHAPES))
                for parameter in SHAPES:
                    self.assertEqual(set(file["parameters"][parameter]), set(states_of(parameter)))
                    for state in states_of(parameter):
                        dataset = file[f"parameters/{parameter}/{state}"]
                        self.assertEqual((dataset.dtype, dataset.chunks, dataset.shape), ("<f4", None, SHAPES[parameter]))
                        numpy.testing.assert_allclose(dataset[()], expected(parameter, state), rtol=0 if state == "master" else 1e-6)
            self.assertEqual([p.name for p in self.directory.iterdir() if p.name.startswith(".")], [])
        self.assertEqual((self.directory / "one.h5").read_bytes(), (self.directory / "three.h5").read_bytes())

    def test_safetensors(self):
        path = self.directory / "all.safetensors"
        for name in ("one", "three"):
            self.tool("export", self.originals / name, "--output", path, "--force")
            metadata, tensors = read_safetensors(path)
            self.assertEqual((metadata["step"], metadata["rule"], metadata["format"]), ("1", "ademamix", "pt"))
            names = {parameter if state == "master" else f"{parameter}.{state}": (parameter, state)
                     for parameter in SHAPES for state in states_of(parameter)}
            self.assertEqual(set(tensors), set(names))
            for tensor, (parameter, state) in names.items():
                self.assertEqual(tensors[tensor].shape, SHAPES[parameter])
                numpy.testing.assert_allclose(tensors[tensor], expected(parameter, state), rtol=0 if state == "master" else 1e-6)

    def test_inspect_shows_safetensors(self):
        path = self.directory / "all.safetensors"
        self.tool("export", self.originals / "three", "--output", path)
        metadata, tensors = read_safetensors(path)
        found = json.loads(self.tool("inspect", path, "--json"))
        self.assertEqual((found["bytes"], found["metadata"]), (path.stat().st_size, metadata))
        self.assertEqual({t["name"]: (t["dtype"], tuple(t["shape"]), t["bytes"]) for t in found["tensors"]},
                         {name: ("F32", array.shape, array.nbytes) for name, array in tensors.items()})
        data = path.read_bytes()
        for tensor in found["tensors"]:
            self.assertEqual(data[tensor["offset"] :][: tensor["bytes"]], tensors[tensor["name"]].tobytes())
        text = self.tool("inspect", path)
        for part in ("matrix.m1 +F32 +33 x 65 +8.38 KiB", "scalar +F32 +scalar +4 B", "rule ademamix", f"tensors +{len(tensors)}"):
            self.assertRegex(text, part)
        link = self.directory / "link.safetensors"
        link.symlink_to(path)
        self.assertEqual(json.loads(self.tool("inspect", link, "--json"))["tensors"], found["tensors"])
        path.write_bytes(data[:-1])
        self.tool("inspect", path, code=1, says="all.safetensors' can't be used.*cut short")
        self.tool("inspect", self.directory / "none.safetensors", code=1, says="none.safetensors")

    def test_chosen_states(self):
        path = self.directory / "weights"
        found = json.loads(self.tool("export", self.originals / "three", "--output", path, "--format", "safetensors",
                                     "--states", "v,master", "--json"))
        _, tensors = read_safetensors(path)
        self.assertEqual(set(tensors), set(SHAPES) | {f"{name}.v" for name in SHAPES if name != "frozen"})
        self.assertEqual((found["arrays"], found["bytes"]), (len(tensors), path.stat().st_size))
        numpy.testing.assert_array_equal(tensors["matrix"], expected("matrix", "master"))

    def test_refusals_leave_nothing(self):
        path = self.directory / "file.h5"
        path.write_text("mine")
        one = self.originals / "one"
        self.tool("export", one, "--output", path, code=2, says="file.h5' is there already; --force")
        self.tool("export", one, code=2, says="--output")
        self.tool("export", one, "--output", self.directory / "x.npz", code=2, says="--format")
        self.tool("export", one, "--output", self.directory / "none/x.h5", code=2, says="no directory '.*none'")
        self.tool("export", one, "--output", self.directory / "x.h5", "--states", "m3", code=2, says="no state 'm3'.*master, m1, m2, v")
        self.assertEqual(path.read_text(), "mine")
        for region in (5, 20000, 100000, 250000):
            damaged = self.copy("one")
            flip_bit(damaged / "latest/shard-00000-of-00001.h5", region)
            for output in (path, self.directory / "x.safetensors"):
                self.tool("export", damaged, "--output", output, "--force", code=1, says="shard-00000-of-00001.h5.*checksum")
            shutil.rmtree(damaged)
        self.assertEqual([p.name for p in self.directory.iterdir()], ["file.h5"])
        self.assertEqual(path.read_text(), "mine")
        self.tool("export", one, "--output", path, "--force")
        with h5py.File(path) as file:
            self.assertEqual(file.attrs["step"], 1)


class Reshard(Tools):
    def test_as_other_ranks_would_have_written_it(self):
        run = self.copy("three")
        out = self.directory / "out"
        self.assertIn("as of 5 ranks, in 3 files", self.tool("reshard", run, "--output", out, "--ranks", 5, "--ranks-per-file", 2))
        self.assertEqual([p.name for p in out.iterdir() if p.name.startswith(".")], [])
        self.tool("verify", out)
        self.tool("diff", run, out)
        info = json.loads(self.tool("inspect", out, "--json"))
        self.assertEqual((info["world_size"], len(info["files"]), info["memory"]), (5, 3, []))
        self.tool("inspect", out)

    def test_refusals(self):
        run = self.copy("one")
        out = self.directory / "out"
        self.tool("reshard", run, "--ranks", 2, code=2, says="--output RUN")
        self.tool("reshard", run, "--output", out, code=2, says="--ranks N")
        self.tool("reshard", run, "--output", out, "--ranks", -1, code=2, says="but is -1")
        self.tool("reshard", run, "--output", out, "--ranks", 2, "--ranks-per-file", 3, code=2, says="from 1 to the 2 ranks")
        self.tool("reshard", run, "--output", run, "--ranks", 2, code=2, says="is there already")
        self.assertFalse(out.exists())


class Prune(Tools):
    def setUp(self):
        super().setUp()
        self.run = self.copy("one")
        for step in range(2, 7):
            shutil.copytree(self.run / "step_000000001", self.run / f"step_{step:09}")

    def steps(self):
        return sorted(int(path.name.removeprefix("step_")) for path in self.run.glob("step_*"))

    def prune(self, *arguments):
        found = json.loads(self.tool("prune", self.run, *arguments, "--json"))
        return [[int(pathlib.Path(c["directory"]).name.removeprefix("step_")) for c in found[key]] for key in ("removed", "kept")]

    def test_dry_run_removes_nothing(self):
        self.assertEqual(self.prune("--keep-last", 2, "--dry-run"), [[1, 2, 3, 4], [6, 5]])
        self.assertIn("would remove", self.tool("prune", self.run, "--keep-last", 2, "--dry-run"))
        self.assertEqual(self.steps(), [1, 2, 3, 4, 5, 6])

    def test_keeps_the_newest_and_every_so_many(self):
        self.assertEqual(self.prune("--keep-last", 2, "--keep-every", 3), [[1, 2, 4], [6, 5, 3]])
        self.assertEqual(self.steps(), [3, 5, 6])
        self.assertIn("2 checkpoint(s) removed", self.tool("prune", self.run, "--keep-last", 1))
        self.assertEqual(self.steps(), [6])
        self.assertEqual([p.name for p in self.run.iterdir() if p.name.startswith(".")], [])
        self.assertEqual(self.prune("--keep-last", 1), [[], [6]])

    def test_goes_on_where_one_cannot_be_removed(self):
        """Its directory may not be written; root, who may all the same, gives that up first."""
        stuck = self.run / "step_000000002"
        stuck.chmod(0o555)
        self.addCleanup(lambda: [path.chmod(0o755) for path in self.run.glob(".step_000000002.retired-*")])
        launcher = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
        if launcher and subprocess.run([*launcher, "true"], check=False, capture_output=True).returncode:
            self.skipTest("needs setpriv, or another user than root")
        done = subprocess.run([*launcher, *command(["checkpoint", "prune", self.run, "--keep-last", 2, "--json"])],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(len(complaints(done)), 1)
        self.assertRegex(complaints(done)[0], "can't remove '.*step_000000002.*': Permission denied")
        found = json.loads(done.stdout)
        names = {key: [pathlib.Path(c["directory"]).name for c in found[key]] for key in ("removed", "failed", "kept")}
        self.assertEqual(names, {"removed": ["step_000000001", "step_000000003", "step_000000004"],
                                 "failed": ["step_000000002"], "kept": ["step_000000006", "step_000000005"]})
        self.assertIn("Permission denied", found["failed"][0]["error"])
        self.assertEqual(self.steps(), [5, 6])

    def test_refusals(self):
        self.tool("prune", self.run, code=2, says="--keep-last N")
        for more, says in ((["--keep-last", 0], "at least 1"), (["--keep-last", 1, "--keep-every", -1], "--keep-every is -1")):
            self.tool("prune", self.run, *more, code=2, says=says)
        self.tool("prune", self.run / "step_000000003", "--keep-last", 1, code=2, says="is a checkpoint")
        self.tool("prune", self.directory, "--keep-last", 1, code=1, says="holds none")
        self.assertEqual(self.steps(), [1, 2, 3, 4, 5, 6])


if __name__ == "__main__":
    unittest.main()
