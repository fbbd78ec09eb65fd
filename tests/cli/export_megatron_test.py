"""launch/shardmix-export on what Megatron-core leaves beside the tensors of torch.distributed.checkpoint: plans in .metadata,
and in common.pt the step of PyTorch's optimizers."""

import json
import pickle
import unittest

from export_tool_test import HAS_TORCH, Tool


@unittest.skipUnless(HAS_TORCH, "needs PyTorch")
class Megatron(Tool):
    GROUP = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "decoupled_weight_decay": True,
             "amsgrad": False}

    def saved(self, optimizer):
        import torch
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint import planner

        folder = self.directory / "iter_0000006"
        names = ["w", "optimizer.state.exp_avg.w", "optimizer.state.exp_avg_sq.w"]
        checkpoint.save({name: torch.full((2, 3), float(number)) for number, name in enumerate(names)}, checkpoint_id=folder,
                        no_dist=True)
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        index = next(iter(metadata.storage_data))
        tensor = metadata.state_dict_metadata["w"]
        data = planner.TensorWriteData(tensor.chunks[0], tensor.properties, tensor.size)
        metadata.all_local_plans = [planner.SavePlan([planner.WriteItem(index, planner.WriteItemType.SHARD, tensor_data=data)])]
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
        torch.save({"optimizer": optimizer, "iteration": 9}, folder / "common.pt")
        return folder

    def test_step_of_the_states(self):
        import torch

        for optimizer in ({"state": {"common_step": torch.tensor(6.0)}, "param_groups": [self.GROUP]},
                          {"optimizer": {"state": {}, "param_groups": [{**self.GROUP, "step": 6}]}}):
            self.tool(self.saved(optimizer), self.directory / "out", "--force", code=0)
            (parameter,) = json.loads((self.directory / "out.json").read_text())["parameters"]
            self.assertEqual((parameter["name"], parameter["step"]), ("w", 6))

    def test_no_step(self):
        self.tool(self.saved({"state": {}, "param_groups": [self.GROUP]}), self.directory / "out", code=0)
        self.assertNotIn("step", json.loads((self.directory / "out.json").read_text())["parameters"][0])


if __name__ == "__main__":
    unittest.main()
