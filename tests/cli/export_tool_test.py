"""launch/shardmix-export against files that were made to do harm. Pickles carry code that would leave a file behind; it must
not be there. Without PyTorch the files of torch.save are left out, and the pickles of torch.distributed.checkpoint remain."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import zipfile

TOOL = pathlib.Path(__file__).resolve().parents[2] / "launch/shardmix-export"
sys.path.insert(0, str(TOOL.parent))
from shardmix_export.main import main  # noqa: E402

HAS_TORCH = importlib.util.find_spec("torch") is not None
METADATA = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"


class Payload:
    """Runs when a pickle is read."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


class Writer(pickle._Pickler):  # the one in Python, whose methods can be replaced
    """Gives classes the names of other modules, which needn't be there."""

    def save_global(self, obj, name=None):
        for full, kind in NAMES.items():
            if obj is kind:
                self.write(b"c" + "\n".join(full.rsplit(".", 1)).encode() + b"\n")
                self.memoize(obj)
                return
        super().save_global(obj, name)

    dispatch = pickle._Pickler.dispatch | {types.FunctionType: save_global}


def pickled(value):
    file = io.BytesIO()
    Writer(file, 4).dump(value)
    return file.getvalue()


def plain(name):
    return type(name, (), {"__init__": lambda self, **values: self.__dict__.update(values)})


NAMES = {f"{METADATA}.{name}": plain(name) for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata",
                                                        "ChunkStorageMetadata", "MetadataIndex", "TensorProperties")}
NAMES[f"{FILESYSTEM}._StorageInfo"] = plain("_StorageInfo")


def made(name, **values):
    return next(kind for full, kind in NAMES.items() if full.endswith(f".{name}"))(**values)


def metadata(**change):
    """Of one tensor x of 2 x 3 in one part; `change` by path, as in part_sizes=(9, 9)."""
    stored = made("_StorageInfo", relative_path=change.get("file", "__0_0.distcp"), offset=change.get("offset", 0),
                  length=change.get("length", 100))
    chunk = made("ChunkStorageMetadata", offsets=change.get("part_offsets", (0, 0)), sizes=change.get("part_sizes", (2, 3)))
    chunks = [chunk] * change.get("parts", 1)
    tensor = made("TensorStorageMetadata", properties=change.get("properties", made("TensorProperties", dtype="x")),
                  size=change.get("size", (2, 3)), chunks=chunks)
    index = made("MetadataIndex", fqn=change.get("stored_name", "x"), offset=change.get("part_offsets", (0, 0)), index=0)
    return made("Metadata", state_dict_metadata=change.get("described", {"x": tensor}),
                storage_data=change.get("storage", {index: stored}), planner_data=change.get("planner"))


class Tool(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="export-tool-")
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name)
        self.harm = self.directory / "harm"

    def payloads(self):
        command = f"touch {self.harm}"
        yield Payload(os.system, command)
        yield Payload(eval, f"__import__('os').system({command!r})")
        yield Payload(exec, f"open({str(self.harm)!r}, 'w')")
        yield Payload(open, str(self.harm), "w")
        yield Payload(subprocess.check_call, ["touch", str(self.harm)])
        yield Payload(getattr(pathlib.Path, "touch"), Payload(pathlib.PosixPath, str(self.harm)))

    def tool(self, *arguments, code=1, says=""):
        """Ends with a sentence, and did no harm. In this process: there are hundreds of files."""
        out, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint), \
                unittest.mock.patch.object(sys, "argv", [str(TOOL), *map(str, arguments)]):
            self.assertEqual(main(), code, complaint.getvalue())
        self.assertFalse(self.harm.exists(), arguments)
        if code:
            self.assertEqual(complaint.getvalue().count("\n"), 1, complaint.getvalue())
            self.assertTrue(complaint.getvalue().startswith("shardmix-export: "), complaint.getvalue())
            self.assertIn(says, complaint.getvalue())
            self.assertEqual(list(self.directory.glob("out*")) + list(self.directory.glob(".out*")), [])
        return out.getvalue()


class Usage(Tool):
    def test_as_a_program(self):
        def run(*arguments):
            return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True,
                                  timeout=120, check=False)

        self.assertIn("examples:", run("--help").stdout)
        result = run(self.directory / "missing", "out")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, "^shardmix-export: there is no '.*missing'\n$")
        self.assertEqual(run("--kind", "x", "a", "b").returncode, 2)

    def test_what_is_no_source(self):
        self.tool(self.directory / "missing", self.directory / "out", says="there is no")
        self.tool(self.directory, self.directory / "out", says="no checkpoint that is known")
        (self.directory / "latest").write_text("../elsewhere")
        self.tool(self.directory, self.directory / "out", says="isn't a folder in it")
        (self.directory / "latest").write_text("../\x1b[31m\nred")
        self.tool(self.directory, self.directory / "out", says=r"'../\x1b[31m\nred'")  # no orders to the terminal

    @unittest.skipIf(HAS_TORCH, "PyTorch is here")
    def test_without_torch(self):
        (self.directory / "x.pt").write_bytes(b"x")
        self.tool(self.directory / "x.pt", self.directory / "out", says="needs PyTorch")


class Metadata(Tool):
    """Of torch.distributed.checkpoint."""

    def refused(self, data, says):
        (self.directory / ".metadata").write_bytes(data)
        self.tool(self.directory, self.directory / "out", says=says)

    def test_payloads_are_not_run(self):
        for payload in self.payloads():
            for value in (payload, [1, {"deep": (payload,)}], metadata(planner=payload), metadata(described={"x": payload}),
                          metadata(storage={payload: 1}), metadata(size=payload)):
                self.refused(pickled(value), "nothing of it was run")

    def test_names_under_torch_are_no_way_in(self):
        for name in ("torch.load", "torch.hub.load", "torch.ops.load_library", "torch.utils.cpp_extension.load",
                     "torch.distributed.checkpoint.metadata.os", "builtins.getattr", "os.path.join",
                     "torch.serialization.os.system", "collections.OrderedDict.__class__"):
            module, attribute = name.rsplit(".", 1)
            self.refused(f"c{module}\n{attribute}\n(S'x'\ntR.".encode(), "nothing of it was run")
        self.refused(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R.", "os.system")
        self.refused(b"Pstored elsewhere\n.", "outside of itself")

    def test_damage(self):
        good = pickled(metadata())
        for cut in range(0, len(good), 23):
            self.refused(good[:cut], "")
        random.seed(1)
        for _ in range(60):
            damaged = bytearray(good)
            damaged[random.randrange(len(good))] ^= 1 << random.randrange(8)
            (self.directory / ".metadata").write_bytes(damaged)
            self.tool(self.directory, self.directory / "out")
        self.refused(b"\x80\x05" + b"(" * 2_000_000, "")
        self.refused(b"", "damaged")
        # Lengths and places that would take all memory.
        self.refused(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "")
        self.refused(b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b".", "")
        self.refused(b"\x80\x05Nr" + struct.pack("<I", (1 << 32) - 1) + b".", "counts more objects")
        self.refused(b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", "memory of its own")

    def test_places_and_sizes(self):
        (self.directory / "__0_0.distcp").write_bytes(bytes(100))
        (self.directory / "deep").mkdir()
        for change, says in (({"file": "../__0_0.distcp"}, "isn't a file of the directory"),
                             ({"file": "/etc/passwd"}, "isn't a file of the directory"),
                             ({"file": "deep"}, "missing"), ({"file": "other"}, "missing"), ({"file": 1}, "relative_path"),
                             ({"offset": 1}, "cut short"), ({"offset": -1}, "cut short"), ({"length": 10**30}, "cut short"),
                             ({"part_offsets": (1, 0)}, "outside of its shape"), ({"part_sizes": (2,)}, "outside"),
                             ({"part_sizes": (1, 3)}, "3 elements together"), ({"parts": 2}, "12 elements together"),
                             ({"size": (10**9, 10**9), "part_sizes": (10**9, 10**9)}, "lie in 100 bytes"),
                             ({"stored_name": "y"}, "stored nowhere"), ({"size": "x"}, "no size"),
                             ({"described": [1]}, "state_dict_metadata"), ({}, "no state of AdamW")):
            with self.subTest(change=change):
                self.refused(pickled(metadata(**change)), says)


@unittest.skipUnless(HAS_TORCH, "needs PyTorch")
class TorchFiles(Tool):
    def good(self):
        import torch

        weight = torch.nn.Parameter(torch.ones(4, 5))
        optimizer = torch.optim.AdamW([("w", weight)])
        weight.grad = torch.ones(4, 5)
        optimizer.step()
        return {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict()}

    def refused(self, value, says, **how):
        import torch

        path = self.directory / "x.pt"
        torch.save(value, path, **how)
        self.tool(path, self.directory / "out", says=says)

    def test_payloads_are_not_run(self):
        for payload in self.payloads():
            self.refused(payload, "nothing of it was run")
            self.refused({**self.good(), "more": [{"deep": payload}]}, "nothing of it was run")
            self.refused(payload, "nothing of it was run", _use_new_zipfile_serialization=False)
            changed = self.good()
            changed["optimizer"]["state"][0]["step"] = payload
            self.refused(changed, "nothing of it was run")
            (self.directory / "x.pt").write_bytes(pickle.dumps(payload))
            self.tool(self.directory / "x.pt", self.directory / "out")

    def test_payloads_in_other_files(self):
        import torch

        payload = next(self.payloads())
        torch.save(self.good()["optimizer"], self.directory / "o.pt")
        torch.save(payload, self.directory / "m.pt")
        self.tool(self.directory / "o.pt", self.directory / "out", "--model", self.directory / "m.pt",
                  says="nothing of it was run")
        for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            torch.save(payload, self.directory / name)
        self.tool(self.directory, self.directory / "out", says="nothing of it was run")
        # A part of torch.distributed.checkpoint.
        data = io.BytesIO()
        torch.save(payload, data)
        (self.directory / "__0_0.distcp").write_bytes(data.getvalue())
        described = {"state.x.step": made("BytesStorageMetadata"),
                     **{f"state.x.{key}": made("BytesStorageMetadata") for key in ("exp_avg", "exp_avg_sq")},
                     "param_groups": made("BytesStorageMetadata")}
        storage = {made("MetadataIndex", fqn=name, offset=None, index=None):
                   made("_StorageInfo", relative_path="__0_0.distcp", offset=0, length=len(data.getvalue()))
                   for name in described}
        (self.directory / ".metadata").write_bytes(pickled(metadata(described=described, storage=storage)))
        self.tool(self.directory, self.directory / "out", says="nothing of it was run")

    def test_a_payload_behind_a_good_archive(self):
        import torch

        path = self.directory / "x.pt"
        torch.save(self.good(), path)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, pickle.dumps(next(self.payloads()), 2) if name.endswith("data.pkl") else data)
        self.tool(path, self.directory / "out", says="nothing of it was run")

    def test_damage(self):
        import torch

        path = self.directory / "x.pt"
        torch.save(self.good(), path)
        good = path.read_bytes()
        for cut in range(0, len(good), len(good) // 8):
            path.write_bytes(good[:cut])
            self.tool(path, self.directory / "out")

    def test_optimizers_that_are_others(self):
        def group(**change):
            checkpoint = self.good()
            checkpoint["optimizer"]["param_groups"][0] |= change
            return checkpoint

        self.refused(group(amsgrad=True), "amsgrad")
        self.refused(group(maximize=True), "maximize")
        self.refused(group(decoupled_weight_decay=False), "L2 mode")
        self.refused(group(betas=(0.9,)), "betas")
        self.refused(group(lr="fast"), "lr")
        self.refused(group(momentum_decay=1), "momentum_decay")
        for key in ("amsgrad", "decoupled_weight_decay"):
            changed = self.good()
            del changed["optimizer"]["param_groups"][0][key]
            self.refused(changed, "RAdam" if key == "amsgrad" else "--decoupled-weight-decay")
        for state, says in (({"exp_avg": 1}, "no tensor"), ({"max_exp_avg_sq": 1}, "amsgrad"),
                            ({"momentum_buffer": 1}, "another optimizer"), ({"step": 1.5}, "1.5"), ({"step": "x"}, "'x'")):
            changed = self.good()
            changed["optimizer"]["state"][0] |= state
            self.refused(changed, says)

    def test_shapes_and_names(self):
        import torch

        changed = self.good()
        changed["model"]["w"] = torch.ones(5, 4)
        self.refused(changed, "shape (5, 4), but m1 of shape (4, 5)")
        changed = self.good()
        del changed["optimizer"]["param_groups"][0]["param_names"]
        changed["model"]["buffer"] = torch.ones(3)
        self.refused(changed, "--names FILE")
        self.refused({"optimizer": self.good()["optimizer"]}, "--model FILE")
        self.refused({"a": self.good()["optimizer"], **self.good()}, "--optimizer-key")
        self.refused([1, 2], "no optimizer")
        changed = self.good()
        changed["model"] = {"\ud800": torch.ones(4, 5)}
        changed["optimizer"]["param_groups"][0]["param_names"] = ["\ud800"]
        self.refused(changed, "half of a character")

    def test_names_that_a_terminal_obeys(self):
        import torch

        changed = self.good()
        changed["model"]["\x1b[31m\n\u202e"] = torch.ones(1)
        torch.save(changed, self.directory / "x.pt")
        self.assertIn(r"hasn't them: \x1b[31m\n\u202e;", self.tool(self.directory / "x.pt", self.directory / "out", code=0))


@unittest.skipUnless(HAS_TORCH, "needs PyTorch")
class WayBack(Tool):
    """From a file such as `shardmix checkpoint export` writes."""

    def setUp(self):
        super().setUp()
        import torch

        torch.manual_seed(0)
        self.parameters = {"w": torch.randn(4, 5), "b": torch.randn(5), "none": torch.zeros(0, 2)}
        self.tensors = {"frozen": torch.ones(3)}
        for name, value in self.parameters.items():
            self.tensors |= {name: value, f"{name}.m1": -value, f"{name}.m2": 2 * value, f"{name}.v": value.square()}
        numbers = {"lr": {"shape": "constant", "peak": 0.5}, "beta1": 0.8, "beta2": 0.9, "beta3": 0.99, "alpha": 3.0,
                   "eps": 1e-6, "weight_decay": 0.25, "alpha_steps": 7, "beta3_steps": 0}
        self.metadata = {"step": "9", "updates": "8", "slow_step": "8", "rule": "ademamix",
                         "hyper_parameters": json.dumps(numbers)}
        self.path = self.directory / "all.safetensors"

    def write(self):
        header, values = {"__metadata__": self.metadata}, b""
        for name, tensor in self.tensors.items():
            data = tensor.numpy().tobytes()
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(values), len(values) + len(data)]}
            values += data
        text = json.dumps(header).encode()
        self.path.write_bytes(struct.pack("<Q", len(text)) + text + values)
        return self.path

    def back(self, target, *more):
        import torch

        self.tool("--to", target, self.write(), self.directory / "back.pt", "--force", *more, code=0)
        return torch.load(self.directory / "back.pt", weights_only=True)

    def assert_state(self, state, name, keys, step):
        import torch

        for key, ours in keys.items():
            self.assertTrue(torch.equal(state[key], self.tensors[f"{name}.{ours}"]), (name, key))
        self.assertEqual(float(state["step"]), step)

    def test_torchs_adamw_loads_it(self):
        import torch

        back = self.back("torch-adamw")
        named = [(name, torch.nn.Parameter(back["model"][name])) for name in self.parameters]
        optimizer = torch.optim.AdamW(named, lr=9)
        optimizer.load_state_dict(back["optimizer"])
        group = optimizer.param_groups[0]
        self.assertEqual([group[key] for key in ("lr", "betas", "eps", "weight_decay")], [0.5, (0.8, 0.9), 1e-6, 0.25])
        for name, parameter in named:
            self.assert_state(optimizer.state[parameter], name, {"exp_avg": "m1", "exp_avg_sq": "v"}, 8)
            self.assertTrue(torch.equal(parameter.detach(), self.parameters[name]))
        self.assertEqual(set(back["model"]), {*self.parameters, "frozen"})

    def test_in_the_groups_of_another_optimizer(self):
        import torch

        own = {name: torch.nn.Parameter(value.clone()) for name, value in self.parameters.items()}
        groups = [{"params": [("none", own["none"]), ("b", own["b"])], "weight_decay": 0.0}, {"params": [("w", own["w"])]}]
        optimizer = torch.optim.AdamW(groups, lr=0.125)
        torch.save(optimizer.state_dict(), self.directory / "like.pt")
        optimizer.load_state_dict(self.back("torch-adamw", "--like", self.directory / "like.pt")["optimizer"])
        for name, parameter in own.items():
            self.assert_state(optimizer.state[parameter], name, {"exp_avg": "m1", "exp_avg_sq": "v"}, 8)
        self.assertEqual([group["weight_decay"] for group in optimizer.param_groups], [0.0, 0.01])
        del self.tensors["b"], self.tensors["b.m1"], self.tensors["b.m2"], self.tensors["b.v"]
        self.tool("--to", "torch-adamw", self.write(), self.directory / "out", "--like", self.directory / "like.pt",
                  says="different parameters: b")

    def test_ademamix(self):
        back = self.back("ademamix")
        group = back["optimizer"]["param_groups"][0]
        self.assertEqual((group["betas"], group["alpha"], group["alpha_warmup"], group["beta3_warmup"]),
                         ((0.8, 0.9, 0.99), 3.0, 7, None))
        for place, name in enumerate(group["param_names"]):
            self.assert_state(back["optimizer"]["state"][place], name,
                              {"exp_avg_fast": "m1", "exp_avg_slow": "m2", "exp_avg_sq": "v"}, 8)

    def test_there_and_back(self):
        """What --to writes is a source that exports to the same numbers."""
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if "m2" not in name}
        self.back("torch-adamw", "--force")
        self.tool(self.directory / "back.pt", self.directory / "again", code=0)
        data = (self.directory / "again.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        for name in ("w", "w.m1", "w.v", "b.v"):
            begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
            self.assertEqual(data[begin:end], self.tensors[name].numpy().tobytes(), name)
        parameters = json.loads((self.directory / "again.json").read_text())["parameters"]
        self.assertEqual({parameter["step"] for parameter in parameters}, {8})

    def test_what_is_refused(self):
        good = self.write().read_bytes()
        out = self.directory / "out"
        for cut in (0, 7, 8, 100, len(good) - 1):
            self.path.write_bytes(good[:cut])
            self.tool("--to", "torch-adamw", self.path, out, says="all.safetensors")
        self.path.write_bytes(struct.pack("<Q", 2**63) + good[8:])
        self.tool("--to", "torch-adamw", self.path, out, says="header of")
        del self.tensors["w.m1"]
        self.tool("--to", "torch-adamw", self.write(), out, says="no m1")
        self.metadata["updates"] = "x"
        self.tool("--to", "torch-adamw", self.write(), out, says="no updates")
        self.metadata |= {"updates": "8", "hyper_parameters": '{"lr": 1}'}
        self.tool("--to", "torch-adamw", self.write(), out, says="hyper_parameters")


if __name__ == "__main__":
    unittest.main()
