"""launch/shardmix-export on DeepSpeed's checkpoints: partitions of ZeRO-1 and 2, and universal ones, written here by
torch.save with the names of DeepSpeed 0.19.8. tests/peers has DeepSpeed itself write them."""

import json
import struct
import sys
import types
import unittest
import unittest.mock

from export_tool_test import HAS_TORCH, Tool

FRAGMENT = "deepspeed.utils.tensor_fragment"
STATES = {"fp32": "", "exp_avg": ".m1", "exp_avg_sq": ".v"}
GROUPS = ({"a": (4, 6), "b": (6, 4)}, {"bias": (5,), "norm": (5,)})  # two of each have equally many elements


class Address:
    """DeepSpeed's fragment_address, where no DeepSpeed is."""

    def __init__(self, start, numel):
        self.start, self.numel = start, numel


Address.__module__, Address.__qualname__ = FRAGMENT, "fragment_address"


def known_modules():
    parts = FRAGMENT.split(".")
    modules = {".".join(parts[:end]): types.ModuleType("deepspeed") for end in (1, 2, 3)}
    modules[FRAGMENT].fragment_address = Address
    return unittest.mock.patch.dict(sys.modules, modules)


@unittest.skipUnless(HAS_TORCH, "needs PyTorch")
class DeepSpeed(Tool):
    GROUP = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "decoupled_weight_decay": True,
             "amsgrad": False}

    def setUp(self):
        super().setUp()
        import torch

        torch.manual_seed(0)
        self.truth = {name: {state: torch.randn(shape).square() for state in STATES}
                      for group in GROUPS for name, shape in group.items()}
        self.frozen = torch.randn(3, 2)
        self.folder = self.directory / "saved"
        self.folder.mkdir()

    def save(self, value, *path):
        import torch

        file = self.folder.joinpath(*path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with known_modules():
            torch.save(value, file)

    def weights(self, dtype):
        trained = {name: states["fp32"].to(dtype) for name, states in self.truth.items()}
        return trained | {"frozen": self.frozen.to(dtype)}

    def save_model(self, module, file="mp_rank_00_model_states.pt", **more):
        import torch

        shapes = [{name: torch.Size(shape) for name, shape in group.items()} for group in GROUPS]
        self.save({"module": module, "param_shapes": shapes, "buffer_names": [], "shared_params": {}, **more}, file)

    def save_partitions(self, names):
        """Of two ranks. In a group's partitions the parameters lie as in GROUPS; `names` is what the map calls each."""
        import torch

        for rank in range(2):
            flats, mappings = {state: [] for state in STATES}, []
            for group in GROUPS:
                whole = {state: torch.cat([self.truth[name][state].flatten() for name in group]) for state in STATES}
                half = (whole["fp32"].numel() + 1) // 2
                begin, end = rank * half, min((rank + 1) * half, whole["fp32"].numel())
                for state, values in whole.items():
                    flats[state].append(values[begin:end].clone())
                place, mapping = 0, {}
                for name in group:
                    last = place + self.truth[name]["fp32"].numel()
                    if max(place, begin) < min(last, end):
                        mapping[names[name]] = Address(max(place, begin) - begin, min(last, end) - max(place, begin))
                    place = last
                mappings.append(mapping)
            moments = {group: {state: flats[state][group] for state in list(STATES)[1:]} | {"step": torch.tensor(6.0)}
                       for group in range(len(GROUPS))}
            self.save({"optimizer_state_dict": {
                "base_optimizer_state": {"state": moments, "param_groups": [self.GROUP] * len(GROUPS)},
                "single_partition_of_fp32_groups": flats["fp32"], "param_slice_mappings": mappings,
                "partition_count": [2, 2]}}, f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")

    def save_universal(self, names, form=lambda value: {"param": value}, with_step=True):
        """A folder for each parameter; `names` is what the converter takes each for. ZeRO-3's tensors are bare."""
        for name, states in self.truth.items():
            for state, value in states.items():
                self.save(form(value), "zero", names[name], f"{state}.pt")
            if with_step:
                self.save(6, "zero", names[name], "step.pt")
        self.save({"param": self.frozen}, "zero", "frozen", "fp32.pt")  # which has no moments
        state = {} if with_step else {"optimizer_state_dict": {"state": {0: {"step": 6}}}}
        self.save({"param_groups": [self.GROUP] * len(GROUPS), **state}, "zero", "optimizer_state.pt")

    def called(self, **others):
        return {name: others.get(name, name) for name in self.truth}

    def wrong_names(self):
        """Those of round_robin_gradients: of two parameters of a group, one is taken for the other."""
        yield self.called(a="b", b="a")
        yield self.called(bias="norm", norm="bias")

    def require_exported(self, *frozen, dtype="bf16"):
        """Every bit, shape, group and step."""
        out = self.tool(self.folder, self.directory / "out", code=0)
        sidecar = json.loads((self.directory / "out.json").read_text())
        found = {parameter["name"]: parameter for parameter in sidecar["parameters"]}
        self.assertEqual(set(found), {*self.truth, *frozen})
        data = (self.directory / "out.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        for group, names in enumerate(GROUPS):
            for name in names:
                parameter = found[name]
                self.assertEqual([parameter[key] for key in ("group", "step", "dtype")], [group, 6, dtype], name)
                for state, ours in zip(self.truth[name].values(), ("master", "m1", "v")):
                    entry = header[parameter[ours]]
                    begin, end = (8 + length + offset for offset in entry["data_offsets"])
                    self.assertEqual(data[begin:end], state.numpy().tobytes(), (name, ours))
                    self.assertEqual(entry["shape"], list(state.shape), (name, ours))
        for made in self.directory.glob("out*"):
            made.unlink()
        return out

    def refused(self):
        self.tool(self.folder, self.directory / "out", says="DeepSpeed's map of its partitions is wrong")

    def test_partitions(self):
        import torch

        for dtype, ours in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
            self.save_model(self.weights(dtype))
            self.save_partitions(self.called())
            self.require_exported("frozen", dtype=ours)
            for names in self.wrong_names():
                self.save_partitions(names)
                self.refused()

    def test_universal(self):
        import torch

        for dtype, ours in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
            self.save_model(self.weights(dtype))
            self.save_universal(self.called())
            self.assertNotIn("warning", self.require_exported("frozen", dtype=ours))
            for names in self.wrong_names():
                self.save_universal(names)
                self.refused()

    def test_slices(self):
        """Two: of a columns, of b rows, of bias halves; norm is averaged."""
        def slices(dtype, at):
            whole = self.weights(dtype)
            return {"a": whole["a"].chunk(2, 1)[at], "b": whole["b"].chunk(2)[at], "frozen": whole["frozen"] + at,
                    "bias": whole["bias"].split((3, 2))[at], "norm": whole["norm"] + (1, -1)[at]}

        import torch

        for dtype, ours in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
            for at in range(2):
                self.save_model({name: value.clone() for name, value in slices(dtype, at).items()},
                                f"mp_rank_0{at}_model_states.pt")
            self.save_universal(self.called())
            self.assertIn("doesn't join what is frozen: frozen\n", self.require_exported(dtype=ours))
            for names in self.wrong_names():
                self.save_universal(names)
                self.refused()

    def test_zero3(self):
        """Flat tensors; the shapes are in the first rank's file, which has no weights, or those of small parameters."""
        import torch

        module = {name: torch.empty(0, dtype=torch.bfloat16) for name in self.truth}
        fragments = {"frozen": self.frozen.flatten()[:3].clone()}
        for rank in range(2):
            self.save_model(module, f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", frozen_param_fragments=fragments)
        self.save_universal(self.called(), form=lambda value: value.flatten(), with_step=False)
        self.assertIn("doesn't join what is frozen: frozen\n", self.require_exported())
        self.save(torch.ones(23), "zero", "a", "fp32.pt")
        self.tool(self.folder, self.directory / "out", says="shape (4, 6), but 23 elements")

    def test_pipeline(self):
        """The files of its stages have no weights, so the configuration tells the dtype."""
        for config, ours in (({"bf16": {"enabled": True}}, "bf16"), ({"fp16": {"enabled": False}}, "fp32")):
            for stage in range(2):
                self.save_model(None, f"mp_rank_0{stage}_model_states.pt", ds_config=config)
            self.save_universal(self.called())
            self.assertIn("warning: what is frozen is left out", self.require_exported(dtype=ours))
        self.save_model(None, ds_config={"zero_optimization": {"round_robin_gradients": True}})
        self.refused()


if __name__ == "__main__":
    unittest.main()
