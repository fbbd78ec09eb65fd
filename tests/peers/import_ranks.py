"""A rank of those that train on gloo and save as their library does, for import_cases.py.

    import_ranks.py deepspeed FOLDER STAGE DTYPE OPTIMIZER [round-robin] [universal]
    import_ranks.py sliced FOLDER STAGE DTYPE [round-robin]
    import_ranks.py pipeline FOLDER
    import_ranks.py fsdp FOLDER nested|flat
    import_ranks.py megatron|imitated FOLDER

What rank 0 writes comes from the library: truth.pt holds weights and moments as they were saved, after.pt the weights
that the library itself came to in its next ten steps, with gradients that are the same on all ranks.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import sys

import torch

import import_deepspeed
import import_megatron
import import_pipeline
import import_sliced
from import_models import STEPS, further_gradients, groups, model

RANK = int(os.environ["RANK"])


def start(folder: pathlib.Path) -> torch.Generator:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=RANK,
                                         world_size=int(os.environ["WORLD_SIZE"]), timeout=datetime.timedelta(minutes=5))
    return torch.Generator().manual_seed(RANK)


def deepspeed(folder: pathlib.Path, *arguments: str) -> None:
    import_deepspeed.trained_engine(folder, start(folder), *arguments)


def sliced(folder: pathlib.Path, *arguments: str) -> None:
    start(folder)
    import_sliced.trained_slices(folder, *arguments)


def pipeline(folder: pathlib.Path) -> None:
    import_pipeline.trained_pipeline(folder, start(folder))


def fsdp(folder: pathlib.Path, form: str) -> None:
    generator = start(folder)
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network = model()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(groups(dict(network.named_parameters()), False), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        network(torch.randint(0, 151, (4, 8), generator=generator)).backward()
        optimizer.step()
    weights, states = get_state_dict(network, optimizer,
                                     options=StateDictOptions(flatten_optimizer_state_dict=form == "flat"))
    checkpoint.save({"model": weights, "optim": states}, checkpoint_id=folder / "saved")
    truth = {name: {"master": p.detach().full_tensor(), "m1": optimizer.state[p]["exp_avg"].full_tensor(),
                    "v": optimizer.state[p]["exp_avg_sq"].full_tensor()} for name, p in network.named_parameters()}
    for given in further_gradients(dict(network.named_parameters()), torch.float32):
        optimizer.zero_grad()
        network(None, given).backward()
        optimizer.step()
    after = {name: p.detach().full_tensor() for name, p in network.named_parameters()}
    if RANK == 0:
        torch.save(truth, folder / "truth.pt")
        torch.save(after, folder / "after.pt")


def megatron(folder: pathlib.Path) -> None:
    start(folder)
    import_megatron.trained_by_megatron(folder, RANK)


def imitated(folder: pathlib.Path) -> None:
    """The names and files of Megatron-core's torch_dist for a model in bf16, whose optimizer needs CUDA: saved by
    parameter, layers stacked. torch's writer, which Megatron's is built on, writes them here."""
    generator = start(folder)
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor, Shard

    generator.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    whole: dict[str, torch.Tensor] = {}
    truth = {}
    for name, shape in {"embedding.word_embeddings.weight": (15, 6), "decoder.layers.mlp.linear_fc1.weight": (3, 8, 6),
                        "decoder.final_layernorm.weight": (7,)}.items():
        master, m1, v = (torch.randn(shape, generator=generator) for _ in range(3))
        v = v.square()
        whole |= {name: master.bfloat16(), f"optimizer.state.fp32_param.{name}": master,
                  f"optimizer.state.exp_avg.{name}": m1, f"optimizer.state.exp_avg_sq.{name}": v}
        truth[name] = {"master": master, "m1": m1, "v": v}
    saved = folder / "saved"
    checkpoint.save({name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in whole.items()},
                    checkpoint_id=saved)
    if RANK == 0:
        import argparse

        group = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "step": STEPS, "params": [0, 1],
                 "bias_correction": True, "wd_mult": 1.0, "lr_mult": 1.0, "is_decoupled_lr": False}
        torch.save({"optimizer": {"optimizer": {"param_groups": [group]}}, "iteration": STEPS,
                    "args": argparse.Namespace(lr=1e-2)}, saved / "common.pt")
        torch.save(truth, folder / "truth.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    {"deepspeed": deepspeed, "sliced": sliced, "pipeline": pipeline, "fsdp": fsdp, "megatron": megatron,
     "imitated": imitated}[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
