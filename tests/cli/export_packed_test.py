"""launch/shardmix-export on optimizers of bitsandbytes, whose states are bytes that stand for entries of a table, scaled by
blocks of 256. What they must come to is looked up here element by element."""

import json
import random
import struct
import unittest

from export_tool_test import HAS_TORCH, Tool


def fp32(values):
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


@unittest.skipUnless(HAS_TORCH, "needs PyTorch")
class Packed(Tool):
    TABLE = fp32([i / 127 - 1 for i in range(256)])

    def row(self, count):
        """Bytes, the scales of their blocks, and the numbers that they stand for."""
        data = [self.random.randrange(256) for _ in range(count)]
        scales = fp32([self.random.random() for _ in range(-(-count // 256))])
        return data, scales, [struct.unpack("<f", struct.pack("<f", self.TABLE[byte] * scales[i // 256]))[0]
                              for i, byte in enumerate(data)]

    def checkpoint(self, rows, shapes):
        """Of parameters whose first state has so many rows, by AdamW or AdEMAMix; fp32 where there are few elements."""
        import torch

        self.random, self.truth = random.Random(1), {}
        states, model = {}, {}
        for key, (name, shape) in enumerate(shapes.items()):
            model[name] = torch.ones(shape)
            found = [self.row(model[name].numel()) for _ in range(rows + 1)]
            self.truth |= {f"{name}.{state}": row[2] for state, row in zip(["m1", "m2"][:rows] + ["v"], found)}
            first, last = [*shape] if rows == 1 else [rows, *shape], found[rows]
            if model[name].numel() < 8:
                states[key] = {"state1": torch.tensor([row[2] for row in found[:rows]]).reshape(first),
                               "state2": torch.tensor(last[2]).reshape(shape)}
            else:
                scales = [row[1] for row in found[:rows]]
                states[key] = {"state1": torch.tensor([row[0] for row in found[:rows]], dtype=torch.uint8).reshape(first),
                               "absmax1": torch.tensor(scales if rows > 1 else scales[0]), "qmap1": torch.tensor(self.TABLE),
                               "state2": torch.tensor(last[0], dtype=torch.uint8).reshape(shape),
                               "absmax2": torch.tensor(last[1]), "qmap2": torch.tensor(self.TABLE)}
            states[key]["step"] = 7
        group = {"lr": 1e-2, "betas": (0.9, 0.999, 0.9999)[:rows + 1], "eps": 1e-8, "weight_decay": 0.1,
                 "alpha": 5.0 if rows > 1 else 0.0, "t_alpha": None, "t_beta3": None, "params": list(range(len(shapes)))}
        return {"model": model, "optimizer": {"state": states, "param_groups": [group]}}

    def saved(self, checkpoint):
        import torch

        path = self.directory / "x.pt"
        torch.save(checkpoint, path)
        return path

    def test_every_element(self):
        for rows, rule, name in ((1, "adamw", "AdamW of bitsandbytes"), (2, "ademamix", "AdEMAMix of bitsandbytes")):
            path = self.saved(self.checkpoint(rows, {"w": (3, 211), "exact": (2, 256), "b": (7,), "one": (), "none": (0, 2)}))
            self.assertIn(f"{name}: 5 parameters", self.tool(path, self.directory / "out", code=0))
            sidecar = json.loads((self.directory / "out.json").read_text())
            self.assertEqual((sidecar["rule"], {p["step"] for p in sidecar["parameters"]}), (rule, {7}))
            data = (self.directory / "out.safetensors").read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8:8 + length])
            for tensor, expected in self.truth.items():
                begin, end = header[tensor]["data_offsets"]
                found = struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin:8 + length + end])
                self.assertEqual(list(found), expected, tensor)
            self.assertEqual(len(header.keys() - {"__metadata__"}), 5 * (rows + 2))
            for made in self.directory.glob("out*"):
                made.unlink()

    def test_what_is_of_another_optimizer(self):
        shapes = {"w": (3, 211)}

        def refused(rows, says, **change):
            checkpoint = self.checkpoint(rows, shapes)
            checkpoint["optimizer"]["state"][0] |= change.pop("state", {})
            checkpoint["optimizer"]["param_groups"][0] |= change
            self.tool(self.saved(checkpoint), self.directory / "out", says=says)

        import torch

        refused(1, "another optimizer", betas=(0.9, 0.999, 0.9999))
        refused(2, "another optimizer", betas=(0.9, 0.999))
        refused(1, "betas", betas=(0.9,))
        refused(1, "unorm_vec", state={"unorm_vec": torch.ones(1)})  # LAMB
        refused(1, "3 scales of blocks of 256", state={"absmax1": torch.ones(1)})  # blocks of 2048, up to 0.44
        refused(2, "3 scales of blocks of 256", state={"absmax1": torch.ones(3)})
        refused(1, "no table of 256", state={"qmap2": torch.ones(16)})
        refused(1, "no tensor qmap1", state={"qmap1": None})


if __name__ == "__main__":
    unittest.main()
