"""Megatron-core's optimizer and writer for import_ranks.py: two tensor-parallel ranks hold halves of the parameters in
fp32, and their own AdamW trains them.

Both ask for a GPU, and get the CPU: where a tensor of a flag or a scale should be, and what to wait for. What they
compute and write is theirs.
"""

from __future__ import annotations

import pathlib

import torch

from import_models import STEPS, further_gradients, random_gradients

SHAPES = {"embedding.word_embeddings.weight": (14, 6), "decoder.layers.mlp.linear_fc1.weight": (4, 8, 6),
          "decoder.layers.mlp.linear_fc2.bias": (10,)}


def half(value: torch.Tensor, rank: int) -> torch.Tensor:
    return value.chunk(2)[rank]


def trained_by_megatron(folder: pathlib.Path, rank: int) -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = lambda *_: None
    from megatron.core import dist_checkpointing
    from megatron.core.optimizer import optimizer as megatron
    from megatron.core.optimizer.optimizer_config import OptimizerConfig

    class OnCpu(megatron.FP32Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            megatron.MegatronOptimizer.__init__(self, inner, OptimizerConfig(clip_grad=0.0), lambda *_: None)
            self.is_stub_optimizer = False

    generator = torch.Generator().manual_seed(0)
    whole = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    named = {name: torch.nn.Parameter(half(value, rank).clone()) for name, value in whole.items()}
    optimizer = OnCpu(torch.optim.AdamW(list(named.values()), lr=1e-2, weight_decay=0.1))  # its choice without Apex

    def step(gradients: dict[str, torch.Tensor]) -> None:
        for name, p in named.items():
            p.main_grad = half(gradients[name], rank).clone()
        optimizer.step()

    for seed in range(STEPS):
        step(random_gradients(whole, seed, torch.float32))
    model = {name: dist_checkpointing.ShardedTensor.from_rank_offsets(name, p, (0, rank, 2)) for name, p in named.items()}
    if rank == 0:
        (folder / "saved").mkdir()
    torch.distributed.barrier()
    dist_checkpointing.save({"model": model, "optimizer": optimizer.sharded_state_dict(model), "iteration": STEPS},
                            str(folder / "saved"))
    states = {name: {"master": p.detach().clone()} |
              {ours: optimizer.optimizer.state[p][key].clone() for ours, key in (("m1", "exp_avg"), ("v", "exp_avg_sq"))}
              for name, p in named.items()}
    for gradients in further_gradients(whole, torch.float32):
        step(gradients)
    halves: list[object] = [None, None]
    torch.distributed.all_gather_object(halves, (states, {name: p.detach() for name, p in named.items()}))
    if rank == 0:
        torch.save({name: {state: torch.cat([states[name][state] for states, _ in halves]) for state in ("master", "m1", "v")}
                    for name in SHAPES}, folder / "truth.pt")
        torch.save({name: torch.cat([after[name] for _, after in halves]) for name in SHAPES}, folder / "after.pt")
