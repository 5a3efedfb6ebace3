"""DPnP: diffusion plug-and-play (Xu and Chi 2024), split Gibbs sampling with their stochastic denoising sampler.

The same two draws as `PnPDM`, ``z ~ p(y | z) N(z; x, eta^2)`` and ``x ~ p(x_0 | x_0 + eta e = z)``, with two
differences. The second draw is their DDS-DDPM step, an Euler-Maruyama step of the reverse diffusion,
``x_s = r x_t + (1 - r) D + sqrt(t^2 - s^2) xi``, ``r = (s/t)^2``: the variance is ``t^2 - s^2`` where the exact
Gaussian transition has ``r (t^2 - s^2)``, so it needs many more steps for the same error; the last step takes D. And
the widths follow their ladder: a fifth of the sweeps at ``eta_max``, then geometrically to ``eta_min``.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.exact.mcmc import Kernel, check_kernel, consistency
from sciinv.schedule import geometric


@dc.dataclass(frozen=True)
class DPnP(Sampler):
    """Diffusion plug-and-play; one chain a sample.

    Attributes
    ----------
    sweeps : alternations of the two draws.
    eta_max, eta_min : first and last coupling width, in the prior's units.
    hold : share of the sweeps spent at eta_max.
    log_step : mean step in log sigma inside the denoising sampler; its error falls in proportion.
    kernel : how z is drawn: exact (linear operators), mala, hmc or ula (biased); auto is exact if it can be, else mala.
    inner : steps of mala, hmc or ula a sweep; they are tuned in all but the last fifth of the sweeps.
    """

    name: ClassVar[str] = "dpnp"
    paper: ClassVar[str] = "Xu and Chi, NeurIPS 2024 (arXiv 2403.17042)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = (
        "at fixed eta exact for the posterior with noise inflated by eta^2 A A^H, as log_step -> 0; exact as eta -> 0 "
        "and sweeps grow; first-order denoising sampler"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian"})

    sweeps: int = 40
    eta_max: float = 0.5
    eta_min: float = 0.05
    hold: float = 0.2
    log_step: float = 0.1
    kernel: Kernel = "auto"
    inner: int = 10

    def __post_init__(self) -> None:
        if not (
            0 < self.eta_min <= self.eta_max and self.sweeps >= 1 and 0 <= self.hold < 1 and self.log_step > 0
            and self.inner >= 1
        ):  # fmt: skip
            raise UsageError(
                "dpnp settings are impossible", expected="0 < eta_min <= eta_max, sweeps >= 1, 0 <= hold < 1",
                found=repr(self),
            )  # fmt: skip

    def grid(self, prior: Counted) -> Sequence[float]:
        held = min(math.ceil(self.hold * self.sweeps), self.sweeps - 1)
        falling = geometric(self.eta_max, self.eta_min, self.sweeps - held)
        return [*[self.eta_max] * held, *falling, 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        check_kernel(self.name, self.kernel, problem)
        return super().init(problem, prior, rng, like)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        z, aux, info = consistency(
            problem, state.x, t, state.aux, rng,
            kernel=self.kernel, steps=self.inner, tuning=math.ceil(0.8 * self.sweeps),
        )  # fmt: skip
        x = denoising_sampler(prior, z, t, rng, self.log_step)
        gap = (x - z).flatten(1).square().mean(1)
        return State(x, aux=aux), {"gap_over_rho": gap.sqrt() / t, **info}


def denoising_sampler(prior: Counted, x: Tensor, eta: float, rng: Rng, log_step: float) -> Tensor:
    """DDS-DDPM: a draw of ``p(x_0 | x_0 + eta e = x)``, first order in ``log_step``."""
    low = min(eta, prior.sigma_min)
    for t, s in pairwise([*geometric(eta, low, 1 + math.ceil(math.log(eta / low) / log_step)), 0.0]):
        d = prior.denoise(x, t)
        if s == 0:
            return d
        x = torch.lerp(d, x, (s / t) ** 2).add_(rng.normal_like(x), alpha=math.sqrt(t * t - s * s))
    return x
