"""Random numbers for measuring: one generator for a whole batch.

Many small states cost more in generators than in arithmetic. A certificate does not need what `Rng` gives up speed for,
that a sample's noise is independent of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciinv.rng import Key, Rng


class OneStream(Rng):
    """Draws for all rows from one generator, keyed by the root seed and the first row's key."""

    def __init__(self, seed: int, index: Sequence[Key], device: torch.device | str = "cpu", mode: str = "cpu"):
        super().__init__(seed, index, device, mode)
        self._one = Rng(seed, list(index)[:1], device, mode)
        self._generators = self._one._generators

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._one.normal((len(self), *shape), dtype)[0]

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        return self._one.uniform((len(self), *shape), dtype)[0]
