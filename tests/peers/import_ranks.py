"""A rank of two that train on gloo and save as their library does, for import_cases.py.

    import_ranks.py deepspeed FOLDER STAGE DTYPE OPTIMIZER [round-robin] [universal]
    import_ranks.py fsdp FOLDER nested|flat
    import_ranks.py megatron FOLDER

What rank 0 writes into truth.pt comes from the library: DeepSpeed's own converter, or FSDP's gathered tensors.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import sys
from typing import Any

import torch

from import_cases import STEPS, groups, model

RANK = int(os.environ["RANK"])


def start(folder: pathlib.Path) -> torch.Generator:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=RANK, world_size=2,
                                         timeout=datetime.timedelta(minutes=5))
    return torch.Generator().manual_seed(RANK)


def batch(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 151, (4, 8), generator=generator)


def deepspeed(folder: pathlib.Path, stage: str, dtype: str, kind: str, *more: str) -> None:
    generator = start(folder)
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    network = model(extras=True)
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0,
                              "zero_optimization": {"stage": int(stage), "round_robin_gradients": "round-robin" in more}}
    if dtype != "fp32":
        config[dtype] = {"enabled": True}
    make = torch.optim.AdamW if kind == "torch" else DeepSpeedCPUAdam
    engine, *_ = deepspeed.initialize(model=network, optimizer=make(groups(network.trained(), False), lr=1e-2),
                                      config=config)
    for _ in range(STEPS):
        engine.backward(engine(batch(generator)))
        engine.step()
    engine.save_checkpoint(str(folder / "saved"), tag="last")
    torch.distributed.barrier()
    if RANK == 0:
        convert(folder, network)
    torch.distributed.barrier()


def convert(folder: pathlib.Path, network: Any) -> None:
    """By DeepSpeed's own converter, which reads the files in a way of its own."""
    import argparse

    from deepspeed.checkpoint import ds_to_universal

    arguments = argparse.Namespace(input_folder=str(folder / "saved/last"), output_folder=str(folder / "universal"),
                                   num_extract_workers=1, num_merge_workers=1, keep_temp_folder=False, strict=True,
                                   inject_missing_state=True)
    ds_to_universal.main(arguments)
    truth = {}
    for name, p in network.trained().items():
        at = folder / "universal" / "zero" / name

        def read(state: str) -> torch.Tensor:
            return torch.load(at / f"{state}.pt", weights_only=False)["param"].float().reshape(p.shape).clone()

        truth[name] = {"master": read("fp32"), "m1": read("exp_avg"), "v": read("exp_avg_sq")}
    torch.save(truth, folder / "truth.pt")


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
        network(batch(generator)).backward()
        optimizer.step()
    weights, states = get_state_dict(network, optimizer,
                                     options=StateDictOptions(flatten_optimizer_state_dict=form == "flat"))
    checkpoint.save({"model": weights, "optim": states}, checkpoint_id=folder / "saved")
    truth = {name: {"master": p.detach().full_tensor(), "m1": optimizer.state[p]["exp_avg"].full_tensor(),
                    "v": optimizer.state[p]["exp_avg_sq"].full_tensor()} for name, p in network.named_parameters()}
    if RANK == 0:
        torch.save(truth, folder / "truth.pt")
    torch.distributed.barrier()


def megatron(folder: pathlib.Path) -> None:
    """The names and files of Megatron-core's torch_dist, an optimizer saved by parameter, layers stacked. Its own writer
    needs CUDA: torch's, which it is built on, writes them here."""
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
    {"deepspeed": deepspeed, "fsdp": fsdp, "megatron": megatron}[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
    torch.distributed.destroy_process_group()
