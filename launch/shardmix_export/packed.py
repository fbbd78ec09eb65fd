"""Moments of bitsandbytes: fp32, or bytes that stand for entries of a table, scaled by blocks."""

from __future__ import annotations

from typing import Any

from .refused import Refused
from .states import Value, lazy

BLOCK = 256  # elements that share a scale


def tensor(state: dict[str, Any], key: str, name: str) -> Any:
    if not hasattr(state.get(key), "numel"):
        raise Refused(f"'{name}' has no tensor {key}")
    return state[key]


def unpacked(state: dict[str, Any], number: int, rows: int, name: str) -> Any:
    """A state of bitsandbytes in rows of the parameter's shape: fp32 as it is, or bytes that stand for entries of a
    table, scaled by blocks of a row."""
    import torch

    values = tensor(state, f"state{number}", name)
    if values.dtype != torch.uint8:
        return values.reshape(rows, *tensor(state, "state2", name).shape)
    table, scales = (tensor(state, f"{key}{number}", name) for key in ("qmap", "absmax"))
    elements = values.numel() // rows
    blocks = -(-elements // BLOCK)
    expected = (blocks,) if rows == 1 else (rows, blocks)
    if table.shape != (256,) or scales.shape != expected or {table.dtype, scales.dtype} != {torch.float32}:
        raise Refused(f"'{name}' has bytes for state{number}, but no table of 256 and {blocks} scales of blocks of {BLOCK} "
                      "elements (bitsandbytes' blockwise 8 bits)")
    numbers = table[values.reshape(rows, elements).long()]
    each = scales.reshape(rows, blocks).repeat_interleave(BLOCK, dim=-1)[:, :elements]
    return (numbers * each).reshape(rows, *tensor(state, "state2", name).shape)


def packed_moments(state: dict[str, Any], name: str, ademamix: bool) -> dict[str, Value]:
    """Those of bitsandbytes, which keeps AdEMAMix's m1 and m2 in one tensor."""
    import torch

    rows = 2 if ademamix else 1
    first, shape = tensor(state, "state1", name), tuple(tensor(state, "state2", name).shape)
    expected = (2, *shape) if ademamix else shape
    if tuple(first.shape) != expected:
        raise Refused(f"'{name}' has a state1 of shape {tuple(first.shape)} beside a state2 of shape {shape}: "
                      f"{'AdEMAMix has m1 and m2' if ademamix else 'AdamW has m1'} in it, {expected}; it is of another "
                      "optimizer")

    def row(ours: str, number: int, rows: int, at: int = 0) -> Value:
        return lazy(shape, torch.float32, lambda: unpacked(state, number, rows, name)[at], f"{ours} of '{name}'")

    unpacked(state, 1, rows, name), unpacked(state, 2, 1, name)  # refuses what won't do before anything is written
    return {"m1": row("m1", 1, rows), "v": row("v", 2, 1)} | ({"m2": row("m2", 1, 2, 1)} if ademamix else {})
