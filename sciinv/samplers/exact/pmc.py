"""PMC: plug-and-play Monte Carlo (Sun et al. 2023), Langevin sampling with the denoiser as the score of the prior.

With ``g(x) = |y - A x|^2 / (2 sigma_y^2)`` and the score ``S_sigma = (D(x, sigma) - x) / sigma^2`` (added: a published
code adds what its comment calls the negative score)

* RED: ``x += -gamma grad g(x) + gamma a S_sigma(x) + sqrt(2 gamma) xi``,
* PnP: ``z = x - gamma grad g(x)``, ``x = z + gamma a S_sigma(z) + sqrt(2 gamma) xi``.

Annealed: sigma falls geometrically to ``sigma_end`` with ``a = max(alpha sigma^2, 1)``; with their
``alpha = 1 / sigma_end^2`` the pull ``a S = (D - x) / sigma_end^2`` has one strength throughout, a tempered prior until
sigma has arrived and a = 1. Without annealing (``anneal = 0``) it is Langevin sampling at ``sigma_end``. Limit: the
posterior under the prior blurred by ``sigma_end``. The step is a share of ``1 / (L + 1 / sigma_end^2)``, L the largest
curvature of g; a mode of posterior variance c takes about c / gamma steps to forget its start.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciinv.errors import MismatchError, UsageError
from sciinv.linalg import operator_norm
from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State, fitting
from sciinv.samplers.exact.mcmc import prediction_and_gradient
from sciinv.schedule import geometric

POWER_ITERATIONS = 30


@dc.dataclass(frozen=True)
class PMC(Sampler):
    """Plug-and-play Monte Carlo; one chain a sample, one network call a step.

    Attributes
    ----------
    variant : ``red`` (both gradients at the same point) or ``pnp`` (prior after data).
    anneal : steps of the falling noise level; 0 starts at sigma_end (Langevin).
    stationary : further steps at sigma_end.
    sigma_end : last noise level of the score; the prior is blurred by it.
    size : gamma as a share of 1 / (curvature + 1 / sigma_end^2); unstable from 2 on, biased in proportion.
    curvature : largest curvature of |y - A(x)|^2 / (2 sigma_y^2); 0 computes it (linear operators only).
    """

    name: ClassVar[str] = "pmc"
    paper: ClassVar[str] = "Sun, Wu, Chen, Feng, Bouman, IEEE TCI 2024 (arXiv 2310.10835)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = (
        "exact as size and sigma_end -> 0 and steps grow; no Metropolis correction; slow on flat directions, does not "
        "cross between modes after the annealing"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian"})

    variant: Literal["red", "pnp"] = "red"
    anneal: int = 500
    stationary: int = 1500
    sigma_end: float = 0.05
    size: float = 0.5
    curvature: float = 0.0

    def __post_init__(self) -> None:
        if not (
            self.anneal >= 0 and self.stationary >= 1 and self.sigma_end > 0 and 0 < self.size < 2
            and self.curvature >= 0 and self.variant in ("red", "pnp")
        ):  # fmt: skip
            raise UsageError(
                "pmc settings are impossible", expected="stationary >= 1, sigma_end > 0, 0 < size < 2", found=repr(self)
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        falling = geometric(max(prior.sigma_max, self.sigma_end), self.sigma_end, self.anneal + 1)[:-1]
        return [*falling, *[self.sigma_end] * self.stationary, 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        found = problem.capabilities()
        if "linear" not in found and ("differentiable" not in found or not self.curvature):
            raise MismatchError(
                "pmc computes its step for linear operators only",
                hint=f"give curvature (differentiable operators); methods for this problem: {fitting(problem)}",
            )
        curvature = like.new_full((len(like),), self.curvature) if self.curvature else largest_curvature(problem, like)
        x = prior.sigma_max * rng.normal_like(like)
        if not self.anneal:
            x = prior.denoise(x, prior.sigma_max)
        return State(x, aux={"gamma": self.size / (curvature + self.sigma_end**-2)})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x = state.x
        gamma = column(state.aux["gamma"], x)
        z = x + gamma * _data_gradient(problem, x)
        pull = (prior.denoise(z, t) - z if self.variant == "pnp" else prior.denoise(x, t) - x) / self.sigma_end**2
        x = z + gamma * pull + (2 * gamma).sqrt() * rng.normal_like(x)
        return State(x, aux=state.aux), {"pull": pull.flatten(1).square().mean(1).sqrt()}


def largest_curvature(problem: Problem, like: Tensor) -> Tensor:
    """Largest eigenvalue of ``A^H A / sigma^2`` by power iteration from a fixed pattern, ``(n,)``."""
    size = like[0].numel()
    # no random start: the step must not depend on the sample
    pattern = torch.cos(torch.arange(size, dtype=like.dtype, device=like.device).square()).view(like.shape[1:])
    return (operator_norm(problem.normal, pattern.expand_as(like), POWER_ITERATIONS) / problem.noise.sigma).square()


def _data_gradient(problem: Problem, x: Tensor) -> Tensor:
    """``-grad g(x)``."""
    if "linear" in problem.capabilities():
        return (problem.aty - problem.normal(x)) / problem.noise.sigma**2
    return prediction_and_gradient(problem, x)[1]
