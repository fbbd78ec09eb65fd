"""`shardmix import` on files made here. Oracles: the arrays that went in, and h5py, which reads what came out."""

import json
import os
import pathlib
import struct
import tempfile
import unittest
import zlib

import h5py
import numpy

from support import TrainCase, complaints, run

DTYPES = {"float32": "F32", "uint16": "BF16", "float16": "F16", "int64": "I64", "float64": "F64"}


def safetensors(path, tensors, metadata=None):
    """uint16 arrays are the bits of bf16 numbers."""
    header, values = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        array = numpy.asarray(array)
        header[name] = {"dtype": DTYPES[str(array.dtype)], "shape": array.shape,
                        "data_offsets": [len(values), len(values) + array.nbytes]}
        values += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def bf16(array):
    """Of numbers that bf16 holds exactly."""
    bits = numpy.asarray(array, "f4").view("u4")
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype("u2")


def widened(array):
    return (array.astype("u4") << 16).view("f4") if array.dtype == numpy.uint16 else array.astype("f4")


class Import(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="import-")
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name)
        random = numpy.random.default_rng(1)
        self.arrays = {"w": random.normal(size=(300, 7)).astype("f4"), "b": random.normal(size=11).astype("f4"),
                       "none": numpy.zeros((0, 3), "f4"), "s": numpy.full((), 0.5, "f4")}
        self.tensors = {}
        for name, array in self.arrays.items():
            self.tensors |= {name: array, f"{name}.m1": -array, f"{name}.v": numpy.square(array)}
        self.sidecar = {
            "format": "shardmix states", "format_version": 1, "source": "the test", "rule": "adamw", "step": 9,
            "files": [{"name": "states.safetensors"}],
            "groups": [{"lr": 0.001, "weight_decay": 0.1}, {"lr": 0.001, "weight_decay": 0}],
            "parameters": [{"name": name, "group": int(name == "b"), "weight": name, "m1": f"{name}.m1", "v": f"{name}.v"}
                           for name in self.arrays]}

    def write(self):
        safetensors(self.directory / "states.safetensors", self.tensors)
        path = self.directory / "states.json"
        path.write_text(json.dumps(self.sidecar))
        return path

    def run_import(self, *arguments, code=0, says=None):
        """`says` must be in the one complaint."""
        result = run("import", *arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        if says is None:
            self.assertEqual(result.stderr, "")
        else:
            said = complaints(result)
            self.assertEqual(len(said), 1, result.stderr)
            self.assertIn(says, said[0])
            self.assertEqual(result.stdout, "")
        return result.stdout

    def refused(self, says, *more, code=1):
        """Of what self.write() makes; nothing is left behind."""
        before = {"states.json", "states.safetensors", *os.listdir(self.directory)}
        self.run_import(self.write(), "--output", self.directory / "run", *more, code=code, says=says)
        self.assertEqual(set(os.listdir(self.directory)), before)

    def values(self, checkpoint, name, state):
        with h5py.File(checkpoint / "view.h5") as view:
            return view["parameters"][name][state][()]

    def assert_same(self, found, expected):
        self.assertEqual(found.dtype, numpy.float32)
        self.assertEqual(found.shape, expected.shape)
        self.assertEqual(found.tobytes(), numpy.asarray(expected, "f4").tobytes())


class FromASidecar(Import):
    def test_every_value_arrives(self):
        out = self.directory / "run"
        text = self.run_import(self.write(), "--output", out, "--ranks", 3, "--ranks-per-file", 2)
        for part in ("the test", "group 1", "weight_decay 0.0", "300 x 7", "m1 w.m1"):
            self.assertIn(part, text)
        checkpoint = out / "step_000000009"
        self.assertEqual(sorted(os.listdir(checkpoint)), ["manifest.json", "shard-00000-of-00002.h5",
                                                          "shard-00001-of-00002.h5", "view.h5"])
        self.assertEqual(os.readlink(out / "latest"), "step_000000009")
        for name, array in self.arrays.items():
            for state, expected in (("master", array), ("m1", -array), ("v", numpy.square(array))):
                self.assert_same(self.values(checkpoint, name, state), expected)
        self.assertIn("all good", run("checkpoint", "verify", out).stdout)
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        self.assertEqual([manifest[key] for key in ("step", "updates", "slow_step", "rule", "states")],
                         [9, 9, 0, "adamw", ["master", "m1", "v"]])
        self.assertEqual(manifest["hyper_parameters"]["weight_decay"], 0.1)

    def test_the_mapping_as_json(self):
        found = json.loads(self.run_import(self.write(), "--check", "--json"))
        self.assertIsNone(found["checkpoint"])
        self.assertEqual([p["name"] for p in found["parameters"]], list(self.arrays))
        self.assertEqual(found["parameters"][0]["tensors"]["v"], {"tensor": "w.v", "dtype": "F32"})
        self.assertEqual(found["groups"][1]["weight_decay"], 0)
        self.assertEqual(set(os.listdir(self.directory)), {"states.json", "states.safetensors"})

    def test_narrow_values_widen_exactly(self):
        exact = (numpy.arange(-128, 128) / 16).astype("f4")
        halves = numpy.array([0, 6e-8, -6e-8, 65504, 1 / 3, -2.5, 6.1e-5], "f2")
        self.tensors = {"x": bf16(exact), "x.m1": bf16(exact), "x.v": bf16(exact**2 * 0 + 2), "h": halves, "h.m1": halves,
                        "h.v": abs(halves)}
        self.sidecar["parameters"] = [{"name": n, "weight": n, "m1": f"{n}.m1", "v": f"{n}.v"} for n in "xh"]
        text = self.run_import(self.write(), "--output", self.directory / "run")
        self.assertIn("warning: 2 parameters have no master weights", text)
        checkpoint = self.directory / "run/latest"
        self.assert_same(self.values(checkpoint, "x", "m1"), exact)
        self.assert_same(self.values(checkpoint, "h", "master"), halves.astype("f4"))
        self.assert_same(self.values(checkpoint, "h", "v"), abs(halves).astype("f4"))
        dtypes = [p["dtype"] for p in json.loads((checkpoint / "manifest.json").read_text())["parameters"]]
        self.assertEqual(dtypes, ["bf16", "fp16"])

    def test_forms_of_a_step(self):
        self.tensors |= {"w.step": numpy.array(9, "f4"), "b.step": numpy.array([9], "i8")}
        for parameter, step in zip(self.sidecar["parameters"], ("w.step", "b.step", 9.0, 9)):
            parameter["step"] = step
        self.run_import(self.write(), "--check", "--step", 9)
        del self.sidecar["step"]
        self.run_import(self.write(), "--check")
        self.sidecar["parameters"][2]["step"] = 10.0
        self.refused("the step of the parameter 'w' is 9, but that of the parameter 'none' is 10")
        for wrong, says in ((9.5, "9.5"), (-1.0, "-1"), (-1, "-1"), ("x", "'x'"), (1e300, "1e+300"),
                            (True, "integer"), (None, "integer"), ([9], "integer"), (2**63, "integer")):
            self.sidecar["parameters"][2]["step"] = wrong
            self.refused(says)

    def test_names_from_a_list(self):
        for parameter in self.sidecar["parameters"]:
            del parameter["name"]
        names = self.directory / "names"
        names.write_text("one\ntwo.x\nthree\nfour\n")
        self.run_import(self.write(), "--output", self.directory / "run", "--names", names)
        self.assert_same(self.values(self.directory / "run/latest", "two.x", "m1"), -self.arrays["b"])
        names.write_text("one\ntwo\n")
        self.run_import(self.write(), "--check", "--names", names, code=1, says="2 names for 4 parameters")
        names.write_text("one\n\nthree\nfour\n")
        self.run_import(self.write(), "--check", "--names", names, code=1, says="line 2")

    def test_checksums(self):
        self.write()
        path = self.directory / "states.safetensors"
        self.sidecar["files"] = [{"name": path.name, "bytes": path.stat().st_size,
                                  "crc32": f"{zlib.crc32(path.read_bytes()):08x}"}]
        self.assertIn("its checksum is right", self.run_import(self.write(), "--check"))
        for place in (len(path.read_bytes()) - 1, len(path.read_bytes()) - 4000):
            data = bytearray(path.read_bytes())
            data[place] ^= 1
            path.write_bytes(data)
            self.run_import(self.directory / "states.json", "--check", code=1, says="its sidecar says")
            self.write()
        self.sidecar["files"][0]["bytes"] += 1
        self.refused("should have")

    def test_what_a_value_can_be(self):
        self.tensors["w.v"][299, 6] = -1e-8
        self.refused("element 2099 of the tensor 'w.v'")
        self.tensors["w.v"][299, 6] = numpy.nan
        self.refused("is nan")
        self.tensors["w.v"][:] = 0
        self.assertIn("warning: v is zero in every element of 1 parameters", self.run_import(self.write(), "--check"))

    def test_options_that_make_no_sense(self):
        path = self.write()
        self.run_import(path, code=2, says="--output")
        self.run_import(path, "--check", "--output", "x", code=2, says="--check")
        self.run_import("--check", code=2, says="needs a sidecar")
        self.run_import(path, path, "--check", code=2, says="a sidecar names its files itself")
        self.run_import(path, "--check", "--naming", "m1=NAME.x", code=2, says="--naming")
        self.run_import(path, "--check", "--rule", "ademamix", code=2, says="--rule")
        self.run_import(path, "--output", self.directory / "run", "--ranks", 0, code=2, says="ranks must be")
        self.run_import(path, "--output", self.directory / "run")
        self.run_import(path, "--output", self.directory / "run", code=2, says="is there already")
        self.assertIn("Examples:", run("import", "--help").stdout)
        self.assertEqual(run("help", "import").stdout, run("import", "--help").stdout)


class Hostile(Import):
    """Each ends in a sentence, and leaves nothing behind."""

    def test_sidecars(self):
        good = json.dumps(self.sidecar)
        path = self.write()

        def text(change, says):
            path.write_text(change)
            self.run_import(path, "--check", code=1, says=says)

        for cut in range(0, len(good), 150):
            text(good[:cut], "isn't JSON")
        text("[" * 100000, "nested")
        text('{"format": 1}', "isn't a text")
        text("[]", "isn't an object")
        text(good.replace("shardmix states", "states"), "format isn't")
        text(good.replace('"format_version": 1', '"format_version": 2'), "format version is 2")
        text(good.replace('"step": 9', '"step": 9, "step": 9'), "twice")
        text(good.replace('"step": 9', '"steps": 9'), "'steps', which isn't known")
        text(good.replace('"rule": "adamw"', '"rule": "sgd"'), "'sgd'")
        text(good.replace('"group": 1', '"group": 2'), "of group 2")
        text(good.replace('"group": 1', '"group": -1'), "negative")
        text(good.replace('"m1": "w.m1"', '"m1": "b.m1"'), "taken already")
        text(good.replace('"name": "b"', '"name": "w"'), "two parameters have the name 'w'")
        text(good.replace('"name": "b"', '"name": ""'), "empty name")
        text(good.replace('"weight_decay": 0.1', '"weight_decay": 1e999'), "beyond")
        text(good.replace('"weight_decay": 0.1', '"beta3": 0.1'), "beta3")
        text(good.replace('"parameters": [', '"parameters": [[], '), "parameter number 0 isn't an object")

    def test_paths(self):
        (self.directory / "deep").mkdir()
        safetensors(self.directory / "deep/x.safetensors", self.tensors)
        for name in ("deep/x.safetensors", "../x", "/etc/passwd", ".", "..", "", ".hidden", "a\0b"):
            self.sidecar["files"][0]["name"] = name
            self.refused("files lie beside their sidecar")
        for name, says in (("deep", "plain file"), ("missing", "missing")):
            self.sidecar["files"][0]["name"] = name
            self.refused(says)
        os.mkfifo(self.directory / "pipe")
        self.sidecar["files"][0]["name"] = "pipe"
        self.refused("plain file")
        os.unlink(self.directory / "pipe")

    def test_damaged_values(self):
        path = self.write()
        data = (self.directory / "states.safetensors").read_bytes()
        header = 8 + struct.unpack("<Q", data[:8])[0]
        for cut in (0, 7, 8, 100, header, header + 1, len(data) - 1):
            (self.directory / "states.safetensors").write_bytes(data[:cut])
            self.run_import(path, "--check", code=1, says="states.safetensors")
        for length in (2**63, 2**64 - 1, len(data), 10**8):
            (self.directory / "states.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
            self.run_import(path, "--check", code=1, says="header")
        # No flipped bit of the header may do harm; most are refused, and the rest change a name or a dtype of equal size.
        refused = 0
        for place in range(8, header, 37):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            (self.directory / "states.safetensors").write_bytes(damaged)
            result = run("import", path, "--check")
            self.assertIn(result.returncode, (0, 1))
            refused += result.returncode
            if result.returncode:
                self.assertEqual(len(complaints(result)), 1, result.stderr)
        self.assertGreater(refused, 0.8 * len(range(8, header, 37)))

    def test_shapes_and_types(self):
        self.tensors["w.m1"] = self.tensors["w.m1"].T.copy()
        self.refused("'w' has weights of shape (300, 7), but m1 of shape (7, 300)")
        self.tensors["w.m1"] = self.tensors["w.m1"].astype("f8")
        self.refused("F64")

    def test_names_that_a_terminal_would_obey(self):
        self.sidecar["source"] = "\x1b[2J"
        self.sidecar["parameters"][0]["name"] = "a\x1b]0;x\x07"
        text = self.run_import(self.write(), "--check")
        self.assertNotIn("\x1b", text)


class FromNames(Import):
    def test_several_files(self):
        moments = {key: value for key, value in self.tensors.items() if "." in key}
        weights = {key: value for key, value in self.tensors.items() if "." not in key}
        files = [safetensors(self.directory / "w.safetensors", weights),
                 safetensors(self.directory / "m.safetensors", moments, {"step": "9"})]
        self.run_import(*files, "--output", self.directory / "run")
        for name, array in self.arrays.items():
            self.assert_same(self.values(self.directory / "run/latest", name, "m1"), -array)
        self.run_import(*files, "--check", "--step", 8, code=1, says="--step is 8")
        self.run_import(files[0], "--check", "--step", 9, code=1, says="--without-moments")
        self.run_import(files[0], files[0], "--check", "--step", 9, code=1, says="two files have a tensor")

    def test_what_export_wrote_comes_back_in_every_bit(self):
        self.run_import(self.write(), "--output", self.directory / "run")
        there = self.directory / "all.safetensors"
        self.assertEqual(run("checkpoint", "export", self.directory / "run", "--output", there).returncode, 0)
        self.run_import(there, "--output", self.directory / "again")
        result = run("checkpoint", "diff", self.directory / "run", self.directory / "again", "--json")
        found = json.loads(result.stdout)
        self.assertEqual([name for name in found["information"] if name != "trainer_state"]
                         if "information" in found else [], [], found)
        for name, array in self.arrays.items():
            for state, expected in (("master", array), ("m1", -array), ("v", numpy.square(array))):
                self.assert_same(self.values(self.directory / "again/latest", name, state), expected)

    def test_numbers_for_names(self):
        tensors = {}
        for number, name in enumerate(("w", "b")):
            for state in ("", ".m1", ".v"):
                tensors[f"{number}{state}"] = self.tensors[name + state]
        path = safetensors(self.directory / "x.safetensors", dict(reversed(tensors.items())))
        names = self.directory / "names"
        names.write_text("weight\nbias\n")
        self.run_import(path, "--step", 3, "--names", names, "--output", self.directory / "run")
        self.assert_same(self.values(self.directory / "run/latest", "bias", "v"), numpy.square(self.arrays["b"]))

    def test_frozen_zero_and_skipped(self):
        tensors = {**self.tensors, "frozen": numpy.ones(5, "f4")}
        path = safetensors(self.directory / "x.safetensors", tensors)
        for choice, parameters in (("frozen", 5), ("zeros", 5), ("skip", 4)):
            out = self.directory / choice
            text = self.run_import(path, "--step", 3, "--without-moments", choice, "--output", out)
            self.assertIn("warning: 1 parameters have no moments", text)
            manifest = json.loads((out / "latest/manifest.json").read_text())
            self.assertEqual(len(manifest["parameters"]), parameters)
        self.assertFalse(self.values(self.directory / "zeros/latest", "frozen", "v").any())


@unittest.skipUnless("trainer ON" in run("--version").stdout, "this build has no trainer")
class Training(TrainCase):
    def test_a_run_goes_on_as_if_it_had_never_left(self):
        common = ("--steps", 6, "--checkpoint-every", 3, "--optimizer", "adamw", "--lr-schedule", "constant")
        self.train("whole", *common)
        there = self.directory / "there.safetensors"
        self.assertEqual(run("checkpoint", "export", self.directory / "whole/step_000000003", "--output", there).returncode, 0)
        for name in ("out", "elsewhere"):
            result = run("import", there, "--output", self.directory / name)
            self.assertEqual(result.returncode, 0, result.stderr)
        went_on = self.train("out", *common)
        self.assertIn("resumed after step 3", went_on.stdout + went_on.stderr)
        self.assertEqual(self.losses("out"), self.losses("whole")[3:])
        by_path = self.train("third", *common, "--resume", self.directory / "elsewhere")
        self.assertIn("resumed after step 3", by_path.stdout + by_path.stderr)
        self.assertEqual(self.losses("third"), self.losses("whole")[3:])
        switched = self.train("elsewhere", "--steps", 6, "--optimizer", "ademamix")
        self.assertIn("switched from adamw to ademamix at step 3", switched.stdout + switched.stderr)


if __name__ == "__main__":
    unittest.main()
