"""Randomness: one generator per sample, keyed by (seed, item, sample), so results do not depend on batching.

``Rng(seed, [0, 1, 2])`` draws for samples 0..2 exactly what ``Rng(seed, [0])``, ``Rng(seed, [1])``, ... draw alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

Key = int | tuple[int, ...]


class Rng:
    """A batch of independent generators.

    Parameters
    ----------
    seed : root seed of the run.
    index : one key per sample: the sample number, or a tuple such as (slice, sample).
    device : where draws are wanted.
    mode : ``"cpu"`` draws on the host and moves (the same numbers on every device), ``"device"`` draws in place.
    """

    def __init__(self, seed: int, index: Sequence[Key], device: torch.device | str = "cpu", mode: str = "cpu"):
        self.seed, self.index, self.device = seed, list(index), torch.device(device)
        self._source = self.device if mode == "device" else torch.device("cpu")
        self._generators = [torch.Generator(self._source).manual_seed(_derive(seed, key)) for key in self.index]

    def __len__(self) -> int:
        return len(self.index)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws ``(n, *shape)``; a complex dtype has unit variance per real component."""
        real = {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)
        full = (*shape, 2) if dtype.is_complex else tuple(shape)
        out = torch.empty((len(self), *full), dtype=real, device=self._source)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        out = out.to(self.device)
        return torch.view_as_complex(out) if dtype.is_complex else out

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal draws with the shape and dtype of ``x``, whose first axis is the sample."""
        return self.normal(x.shape[1:], x.dtype)

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws on [0, 1), shape ``(n, *shape)``."""
        out = torch.empty((len(self), *shape), dtype=dtype, device=self._source)
        for i, generator in enumerate(self._generators):
            out[i] = torch.rand(tuple(shape), generator=generator, dtype=dtype, device=self._source)
        return out.to(self.device)

    def state(self) -> Tensor:
        """Generator states ``(n, bytes)``, for a checkpoint."""
        return torch.stack([g.get_state() for g in self._generators])

    def set_state(self, state: Tensor) -> None:
        """Restore what `state` returned."""
        for generator, row in zip(self._generators, state, strict=True):
            generator.set_state(row.clone())  # a fresh, aligned copy: set_state crashes on unaligned memory


def _derive(seed: int, key: Key) -> int:
    """A 63-bit generator seed from the root seed and a sample's key (SHA-256, so neighbours are unrelated)."""
    text = f"{seed}:" + ",".join(map(str, key if isinstance(key, tuple) else (0, key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
