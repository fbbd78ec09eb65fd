"""A network that computes nothing: its backward pass hands out gradients that exist already.

What is timed is then what a library does with gradients. Autograd takes each of them over without a copy.
"""

from __future__ import annotations

from typing import Any

import torch

TENSORS = 64  # of one size, with 1024 columns: enough for buckets and for a partition by whole tensors
BLOCKS = 8  # what FSDP wraps, as the blocks of a transformer
COLUMNS = 1024


def random(index: int, seed: int, scale: float, count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * TENSORS + index)
    return (scale * torch.randn((count // TENSORS // COLUMNS, COLUMNS), generator=generator)).to(dtype)


def parameter(index: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Equal on all ranks, and of the size of a network's weights, so that steps of 1e-3 move bf16 parameters too."""
    return random(index, 0, 0.02, count, dtype)


def gradient(index: int, rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return random(index, 1 + rank, 1.0, count, dtype)


class Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: list[torch.Tensor], token: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        return token.clone()

    @staticmethod
    def backward(ctx: Any, token: torch.Tensor) -> Any:
        # A new view that nobody else holds is taken over; the gradient itself would be copied.
        return None, token, *[gradient.detach() for gradient in ctx.gradients]


class Block(torch.nn.Module):
    def __init__(self, values: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(value) for value in values)
        self.gradients = gradients

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return Given.apply(self.gradients, token, *self.weights)


class Network(torch.nn.Module):
    """The parameters of all ranks, and in one flat tensor the gradients of this one."""

    def __init__(self, count: int, rank: int, dtype: torch.dtype, gradient_dtype: torch.dtype) -> None:
        super().__init__()
        if count % (TENSORS * COLUMNS):
            raise ValueError(f"expected a multiple of {TENSORS * COLUMNS} parameters, found {count}")
        self.flat_gradient = torch.empty(count, dtype=gradient_dtype)
        shape = (TENSORS, count // TENSORS // COLUMNS, COLUMNS)
        self.gradients = list(self.flat_gradient.view(shape).unbind())
        for index, view in enumerate(self.gradients):
            view.copy_(gradient(index, rank, count, gradient_dtype))
        self.blocks = torch.nn.ModuleList()
        for first in range(0, TENSORS, TENSORS // BLOCKS):
            those = range(first, first + TENSORS // BLOCKS)
            self.blocks.append(Block([parameter(index, count, dtype) for index in those],
                                     [self.gradients[index] for index in those]))

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            token = block(token)
        return token


def token() -> torch.Tensor:
    """The network's input. It keeps autograd's chain from block to block."""
    return torch.zeros((), requires_grad=True)
