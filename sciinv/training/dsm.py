"""Denoising score matching: train a network prior on clean images.

Minimises ``E lambda(sigma) |D(x_0 + sigma z, sigma) - x_0|^2`` with ``lambda = (sigma^2 + s^2) / (sigma s)^2``
(Karras et al., NeurIPS 2022, equation 2 and table 1; Vincent, Neural Computation 23, 2011), noise levels from a
log-normal and, for a share of the images, log-uniform over the whole range. AdamW, cosine decay, an exponential moving
average.

Every draw is keyed by (seed, step, image of the global batch): a resumed run repeats what an uninterrupted one does,
and two processes under ``torchrun`` do what one does with the same global batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sciinv.errors import UsageError
from sciinv.operator import column
from sciinv.priors.network import precondition
from sciinv.training.loop import fit

HELD_OUT_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class TrainConfig:
    """What a training run depends on besides its data.

    ``batch`` counts the images of all processes together. ``minutes``, if set, ends the run (and the cosine) early by
    the clock: such a run is not repeatable to the bit. Noise levels are in units of the data; ``levels`` are those of
    the held-out errors. A batch is computed in ``accumulate`` parts; ``patience`` evaluations (one every ``save_every``
    steps) without a better sum of held-out errors end the run, none if zero.
    """

    steps: int = 20000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    sigma_data: float = 0.25
    sigma_min: float = 3e-3
    sigma_max: float = 5.0
    log_mean: float = -2.3
    log_std: float = 1.3
    uniform_share: float = 0.25
    minutes: float | None = None
    levels: tuple[float, ...] = HELD_OUT_LEVELS
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    accumulate: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.log_every, self.save_every, self.accumulate)
        if (
            min(counts) < 1
            or not 0 < self.sigma_min < self.sigma_max
            or not self.sigma_data > 0
            or not 0 <= self.ema < 1
        ):
            raise UsageError(
                "training settings are out of range",
                expected="counts >= 1; 0 < sigma_min < sigma_max; sigma_data > 0; 0 <= ema < 1",
                found=str(self),
            )


class Source(Protocol):
    """Where clean images come from."""

    def image(self, generator: torch.Generator) -> Tensor:
        """One image ``(channel, height, width)``, always of one size, chosen and augmented by the generator."""


def keyed(*key: int) -> torch.Generator:
    """A host generator that depends on all the numbers of its key (mixed as in splitmix64)."""
    state = 0
    for number in key:
        state = (state ^ (number & (2**63 - 1))) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)


def noise_levels(config: TrainConfig, generator: torch.Generator) -> Tensor:
    """One noise level, 0-dim: log-normal, or log-uniform over the range for a share of the draws."""
    pick, u = torch.rand(2, generator=generator)
    low, high = math.log(config.sigma_min), math.log(config.sigma_max)
    normal = config.log_mean + config.log_std * torch.randn((), generator=generator)
    return torch.where(pick < config.uniform_share, low + u * (high - low), normal.clamp(low, high)).exp()


def draw_batch(source: Source, config: TrainConfig, step: int, rows: range) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, noise levels and unit noise for these rows of the global batch of a step."""
    clean, sigma, noise = [], [], []
    for row in rows:
        generator = keyed(config.seed, step, row)
        clean.append(source.image(generator))
        sigma.append(noise_levels(config, generator))
        noise.append(torch.randn(clean[-1].shape, generator=generator))
    return torch.stack(clean), torch.stack(sigma), torch.stack(noise)


@torch.no_grad()
def held_out_error(network: nn.Module, images: Tensor, config: TrainConfig, chunk: int = 16) -> dict[str, float]:
    """Root-mean-square denoising error per real component at each level, over ``(n, channel, height, width)``."""
    noise = torch.randn(images.shape, generator=keyed(config.seed, 2**40)).to(images.device)
    errors = {}
    for level in config.levels:
        total = images.new_zeros((), dtype=torch.float64)
        for clean, z in zip(images.split(chunk), noise.split(chunk), strict=True):
            sigma = clean.new_full((len(clean),), level)
            total += (
                (precondition(network, clean + level * z, sigma, config.sigma_data) - clean).double().square().sum()
            )
        errors[f"{level:g}"] = float((total / images.numel()).sqrt())
    return errors


@dataclass(frozen=True)
class DenoisingScoreMatching:
    """Denoising score matching on the images of a source; an `Objective`.

    Attributes
    ----------
    source : where clean images come from.
    config : noise levels and their weights.
    images : held-out images ``(n, channel, height, width)``, or ``None``.
    """

    source: Source
    config: TrainConfig
    images: Tensor | None = None

    def loss(self, network: nn.Module, step: int, rows: range) -> Tensor:
        """Weighted mean square error of these rows; on a GPU the forward pass runs in bfloat16."""
        device, s = next(network.parameters()).device, self.config.sigma_data
        batch = draw_batch(self.source, self.config, step, rows)
        clean, sigma, noise = (t.to(device, non_blocking=True) for t in batch)
        level = column(sigma, clean)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            estimate = precondition(network, clean + level * noise, sigma, s)
        weight = (level.square() + s**2) / (level * s).square()
        return (weight * (estimate.float() - clean).square()).mean()

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """`held_out_error` of the held-out images."""
        if self.images is None:
            return {}
        return held_out_error(network, self.images.to(next(network.parameters()).device), self.config)


def train(
    network: nn.Module,
    source: Source,
    config: TrainConfig,
    out: Path,
    *,
    held_out: Tensor | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train on clean images; return the averaged network and its held-out errors. See `sciinv.training.loop.fit`."""
    return fit(network, DenoisingScoreMatching(source, config, held_out), config, out, progress)
