"""A model cut by tensor parallelism, for import_ranks.py: DeepSpeed's engine trains it on two ranks that hold different
slices, or on four, two copies of them, and its converter joins the slices by patterns.

Which elements a slice has is written down once, as `cut`. What the parts must come to follows from the places that the
same cut gives to each element, not from DeepSpeed's joining.
"""

from __future__ import annotations

import pathlib
from typing import Any

import torch

from import_deepspeed import config_of, convert, take, whole
from import_models import STEPS, further_gradients, groups, random_gradients

SLICES = 2
VOCABULARY = 151  # odd: it is padded
PARTS = (16, 8, 8)  # of qkv, in rows
SHAPES = {"embedding": (VOCABULARY, 12), "qkv": (sum(PARTS), 12), "projection": (12, 16), "gate_and_up": (44, 12),
          "down": (12, 22), "up_bias": (44,), "bias": (12,), "norm": (12,)}
FROZEN = {"frozen": (6, 3)}  # which must be left out: the converter takes the first slice for the whole
PATTERNS = {
    "universal_checkpoint_version": 0.4, "original_vocab_size": VOCABULARY,
    "vocabulary_parameter_patterns": ["embedding"], "tp_replicated_parameter_patterns": ["^bias$"],
    "parameter_to_average_patterns": ["norm"], "parameter_with_row_parallelism_patterns": ["projection", "down"],
    "parameter_with_2_sub_params_cat_dim_0": ["gate_and_up", "up_bias"],
    "parameter_with_sub_params": [{"patterns": ["qkv"], "shape": [PARTS, 12], "partition_dim": 0}],
    "sub_param_shard_widths": {"qkv": [[rows // SLICES] * SLICES for rows in PARTS]}}


def cut(name: str, value: torch.Tensor, at: int, padding: float = 0) -> torch.Tensor:
    """A slice of a parameter."""
    if name == "embedding":
        value = torch.cat([value, torch.full((-len(value) % SLICES, *value.shape[1:]), padding, dtype=value.dtype)])
    if name in ("bias", "norm"):
        return value
    if name in ("projection", "down"):
        return value.chunk(SLICES, 1)[at]
    pieces = {"qkv": PARTS, "gate_and_up": (22, 22), "up_bias": (22, 22)}.get(name, len(value))
    return torch.cat([piece.chunk(SLICES)[at] for piece in value.split(pieces)])


def joined(name: str, slices: list[torch.Tensor]) -> torch.Tensor:
    """By the places that a slice's elements have in the parameter; -1 is padding."""
    shape = torch.Size(SHAPES[name])
    places, value = torch.arange(shape.numel()).reshape(shape), torch.full((shape.numel(),), torch.nan)
    for at, values in enumerate(slices):
        own = cut(name, places, at, padding=-1)
        value[own[own >= 0]] = values[own >= 0]
    return value.reshape(shape)


class Sliced(torch.nn.Module):
    def __init__(self, at: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in (SHAPES | FROZEN).items():
            value = cut(name, torch.randn(shape, generator=generator), at).clone()
            self.register_parameter(name, torch.nn.Parameter(value, requires_grad=name in SHAPES))

    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def forward(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """A loss that has the given gradients."""
        return sum((p * given[name]).sum() for name, p in self.trained().items())


class Ranks:
    """Which ranks hold the same slice, and which together a whole model: what DeepSpeed calls an mpu."""

    def __init__(self, rank: int, world: int) -> None:
        self.slice, self.copy = rank % SLICES, rank // SLICES
        copies = world // SLICES
        models = [torch.distributed.new_group(list(range(first, first + SLICES))) for first in range(0, world, SLICES)]
        peers = [torch.distributed.new_group(list(range(first, world, SLICES))) for first in range(SLICES)]
        for name, answers in {"model_parallel": (self.slice, SLICES, models[self.copy]),
                              "data_parallel": (self.copy, copies, peers[self.slice])}.items():
            for what, answer in zip(("rank", "world_size", "group"), answers):
                setattr(self, f"get_{name}_{what}", lambda answer=answer: answer)


def states_of(engine: Any, network: Sliced) -> dict[str, dict[str, torch.Tensor]]:
    from deepspeed.utils import safe_get_full_optimizer_state

    # DeepSpeed links states after the first group's first step, when the second one has none yet.
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()
    masters = whole(network.trained())
    return {name: {"master": masters[name], "m1": safe_get_full_optimizer_state(p, "exp_avg").clone(),
                   "v": safe_get_full_optimizer_state(p, "exp_avg_sq").clone()} for name, p in network.trained().items()}


def on_rank_0(thing: Any) -> list[Any]:
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, thing)
    return found[:SLICES]


def trained_slices(folder: pathlib.Path, stage: str, dtype: str, *more: str) -> None:
    import deepspeed

    rank = torch.distributed.get_rank()
    mpu = Ranks(rank, torch.distributed.get_world_size())
    network = Sliced(mpu.slice)
    network.universal_checkpoint_info = PATTERNS
    engine, *_ = deepspeed.initialize(model=network, mpu=mpu,
                                      config=config_of(dtype, int(stage), round_robin_gradients="round-robin" in more),
                                      optimizer=torch.optim.AdamW(groups(network.trained(), False), lr=1e-2))
    shapes = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    kind = next(network.parameters()).dtype

    def step(gradients: dict[str, torch.Tensor]) -> None:
        given = {name: cut(name, value, mpu.slice) for name, value in gradients.items()}
        take(engine, lambda: engine(given))

    for seed in range(STEPS):
        step(random_gradients(shapes, seed, kind))
    engine.save_checkpoint(str(folder / "saved"), tag="last")
    before = on_rank_0(states_of(engine, network))
    if rank == 0:
        convert(folder)
        torch.save({name: {state: joined(name, [states[name][state] for states in before])
                           for state in ("master", "m1", "v")} for name in SHAPES}, folder / "truth.pt")
    for gradients in further_gradients(shapes, kind):
        step(gradients)
    after = on_rank_0(whole(network.trained()))
    if rank == 0:
        torch.save({name: joined(name, [weights[name] for weights in after]) for name in SHAPES}, folder / "after.pt")
