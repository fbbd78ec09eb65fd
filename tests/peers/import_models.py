"""What import_cases.py and import_ranks.py train: a model, its groups, and gradients that every process can make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

STEPS = 6  # before the checkpoint
FURTHER = 10  # after it


class Model(torch.nn.Module):
    """Odd sizes, a tied weight, a frozen layer and a buffer; one parameter is large enough for 8-bit states."""

    def __init__(self, extras: bool = True) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(151, 61)
        self.linear = torch.nn.Linear(61, 17)
        self.norm = torch.nn.LayerNorm(61)
        if extras:
            self.frozen = torch.nn.Linear(3, 5).requires_grad_(False)
            self.register_buffer("buffer", torch.ones(4))

    def forward(self, x: torch.Tensor | None, given: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """A loss; or one whose gradients are the given ones, exactly."""
        if given is not None:
            return sum((self.get_parameter(name) * gradient).sum() for name, gradient in given.items())
        return self.linear(self.norm(self.embedding(x))).float().square().mean()

    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def model(dtype: torch.dtype = torch.float32, extras: bool = False) -> Model:
    torch.manual_seed(0)
    return Model(extras).to(dtype)


def groups(named: dict[str, Any], with_names: bool) -> list[dict[str, Any]]:
    """Decay for matrices alone, as usual."""
    def those(test: Callable[[torch.Tensor], bool]) -> list[Any]:
        return [(name, p) if with_names else p for name, p in named.items() if test(p)]

    return [{"params": those(lambda p: p.dim() > 1), "weight_decay": 0.1},
            {"params": those(lambda p: p.dim() <= 1), "weight_decay": 0.0, "lr": 5e-3}]


def random_gradients(named: dict[str, torch.Tensor], seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator).to(dtype) for name, p in named.items()}


def further_gradients(named: dict[str, torch.Tensor], dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    """Those of the steps after the checkpoint."""
    return [random_gradients(named, 100 + step, dtype) for step in range(FURTHER)]
