"""The implicit prior of a denoiser (Kadkhodaie and Simoncelli 2021): stochastic coarse-to-fine ascent with constraint.

With P the projection on what the data see, ``d = (I - P)(D(x) - x) + A^+ y - P x``, effective noise
``sigma = |d| / sqrt(n)``, step k of

    ``h = h0 k / (1 + h0 (k - 1))``,   ``gamma^2 = [(1 - beta h)^2 - (1 - h)^2] sigma^2``,   ``x <- x + h d + gamma xi``

until ``sigma <= sigma_end``; the answer is D(x). P stands for the published ``M M^T`` with orthonormal columns.

* The published denoiser is blind. Here it is told the noise level: the effective noise of the step before.
* ``|d| / sqrt(n)`` is the true noise level only for a prior confined to few dimensions; for a prior of variance c it
  is too small by ``sqrt(mean(sigma^2 / (c + sigma^2)))``. Samples are sharp and too much alike.
* Each sample stops by itself; the host looks every `LOOK` steps whether all have.
* The published start is mid-grey plus unit noise; here the prior's mean, ``D(0, sigma_max)``, plus ``sigma_start``.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.explicit.projection import PROJECTED, replace

LOOK = 20


@dc.dataclass(frozen=True)
class ImplicitDenoiser(Sampler):
    """Denoiser ascent.

    Attributes
    ----------
    steps : steps at most, one network call each; usually fewer are needed.
    sigma_start : noise of the start, in the prior's units.
    sigma_end : effective noise at which a sample is done.
    h0 : first step; steps grow towards 1.
    beta : how much of the noise a step takes away for good; 1 adds none back, and the ascent is deterministic.
    """

    name: ClassVar[str] = "implicit_denoiser"
    paper: ClassVar[str] = "Kadkhodaie, Simoncelli, NeurIPS 2021 (arXiv 2007.13640)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless; high-probability images rather than posterior samples, spread too "
        "small"
    )
    requires: ClassVar[frozenset[str]] = PROJECTED

    steps: int = 1000
    sigma_start: float = 1.0
    sigma_end: float = 0.01
    h0: float = 0.01
    beta: float = 0.01

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 < self.sigma_end and 0 < self.sigma_start and 0 < self.h0 <= 1
                and 0 < self.beta <= 1):  # fmt: skip
            raise UsageError(
                "implicit_denoiser settings are impossible",
                expected="steps >= 1, sigma_start > 0, sigma_end > 0, 0 < h0 <= 1, 0 < beta <= 1",
                found=repr(self),
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        return [float(k) for k in range(self.steps, -1, -1)]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        x, _ = replace(problem, prior.denoise(like, prior.sigma_max), 0.0, rng)
        x = x + self.sigma_start * rng.normal_like(like)
        return State(x, aux={"sigma": x.new_full((len(x),), self.sigma_start)})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x, sigma = state.x, state.aux["sigma"]
        k = self.steps - t + 1
        h = self.h0 * k / (1 + self.h0 * (k - 1))
        target, _ = replace(problem, self._denoise(prior, x, sigma), 0.0, rng)
        d = target - x
        effective = torch.linalg.vector_norm(d.flatten(1), dim=1) / math.sqrt(d[0].numel())
        gamma = math.sqrt(max((1 - self.beta * h) ** 2 - (1 - h) ** 2, 0.0)) * effective
        moved = x + h * d + column(gamma, x) * rng.normal_like(x)
        running = ~(sigma <= self.sigma_end)  # NaN keeps running, and is seen
        sigma = torch.where(running, effective, sigma)
        out = State(torch.where(column(running, x), moved, x), aux={"sigma": sigma})
        out.done = int(k) % LOOK == 0 and bool((sigma <= self.sigma_end).all())
        return out, {"sigma": sigma}

    def finish(self, problem: Problem, prior: Counted, state: State, rng: Rng) -> Tensor:
        return self._denoise(prior, state.x, state.aux["sigma"])

    def _denoise(self, prior: Counted, x: Tensor, sigma: Tensor) -> Tensor:
        return prior.denoise(x, sigma.clamp(prior.sigma_min, prior.sigma_max))
