"""A model cut by pipeline parallelism, for import_ranks.py: DeepSpeed's engine trains two stages on two ranks each.
What the parts must come to is what the engine itself holds."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import torch

from import_deepspeed import config_of, convert
from import_models import STEPS, groups
from import_sliced import states_of


def batches(generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield tuple(torch.randn(4, width, generator=generator).bfloat16() for width in (12, 5))


def trained_pipeline(folder: pathlib.Path, generator: torch.Generator) -> None:
    import deepspeed
    from deepspeed.pipe import LayerSpec, PipelineModule

    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)  # takes what torch has
    torch.manual_seed(0)
    widths = (12, 7, 9, 8, 5)
    network = PipelineModule([LayerSpec(torch.nn.Linear, *pair) for pair in zip(widths, widths[1:])], num_stages=2,
                             loss_fn=torch.nn.functional.mse_loss, partition_method="uniform")
    network.trained = lambda: dict(network.named_parameters())
    engine, *_ = deepspeed.initialize(model=network, config=config_of("bf16", 1),
                                      optimizer=torch.optim.AdamW(groups(network.trained(), False), lr=1e-2))
    given = batches(generator)
    for _ in range(STEPS):
        engine.train_batch(data_iter=given)
    engine.save_checkpoint(str(folder / "saved"), tag="last")
    stages = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(stages, states_of(engine, network))
    if torch.distributed.get_rank() == 0:
        convert(folder)
        torch.save({name: states for stage in stages for name, states in stage.items()}, folder / "truth.pt")
