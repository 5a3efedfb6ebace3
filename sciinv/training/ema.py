"""Exponential moving average of weights, the network that is kept.

``m <- b m + (1 - b) w`` with ``b = min(decay, (1 + t) / (10 + t))``: the first steps do not weigh on the average.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Keeps ``average``, a frozen copy of ``network`` that follows it."""

    def __init__(self, network: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.average = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network after optimiser step ``step`` (counted from zero)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in network.parameters()], weight)
