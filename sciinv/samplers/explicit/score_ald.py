"""Score-ALD (Jalal et al. 2021): annealed Langevin dynamics with the data term damped by the noise level.

At each level t, ``inner`` times

    ``x <- x + a [(D - x) / t^2 + A^H (y - A x) / (sigma^2 + gamma_t^2)] + sqrt(2 a) xi``,   ``gamma_t = gamma t``.

For a Gaussian prior of covariance C the law at a fixed level has precision
``Pi = (C + t^2)^-1 + A^H A / (sigma^2 + gamma_t^2)`` and, with the steps' own error, covariance
``(Pi - a Pi^2 / 2)^-1``; as t falls to 0 slowly it tends to the posterior.

* ``weight="likelihood"``: the equation above. ``a = step / (1/t^2 + |A|^2 / (sigma^2 + gamma_t^2))`` is stable for
  every operator while step < 2; ``|A|^2`` comes from the decomposition or from power iterations.
* ``weight="norm-matched"``: what the published code runs. The data term is scaled to ``mse`` times the length of the
  prior's score, whatever the noise of the data is, and ``a = step t^2``.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import column, inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.schedule import geometric

POWER_ITERATIONS = 30


@dc.dataclass(frozen=True)
class ScoreALD(Sampler):
    """Annealed Langevin; ``steps * inner`` network calls.

    Attributes
    ----------
    steps : number of noise levels.
    inner : Langevin steps a level.
    step_size : relative to the stiffest direction; below 2, small steps are accurate ones.
    gamma : damping of the data term, in units of the noise level.
    weight : ``"likelihood"`` or ``"norm-matched"`` (published).
    mse : length of the data term over that of the prior's score, with ``"norm-matched"``.
    """

    name: ClassVar[str] = "score_ald"
    paper: ClassVar[str] = "Jalal, Arvinte, Daras, Price, Dimakis, Tamir, NeurIPS 2021 (arXiv 2108.01368)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = (
        "approximate: the damped data term is a guess at every level above zero; the last levels tend to the posterior "
        "as steps grow (weight likelihood)"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian"})

    steps: int = 200
    inner: int = 3
    step_size: float = 0.5
    gamma: float = 1.0
    weight: Literal["likelihood", "norm-matched"] = "likelihood"
    mse: float = 5.0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.inner >= 1 and 0 < self.step_size < 2 and self.gamma >= 0 and self.mse > 0):
            raise UsageError(
                "score_ald settings are impossible",
                expected="steps, inner >= 1; 0 < step_size < 2; gamma >= 0; mse > 0",
                found=repr(self),
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        levels = geometric(prior.sigma_max, prior.sigma_min, self.steps)
        return [*(level for level in levels for _ in range(self.inner)), 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        state = super().init(problem, prior, rng, like)
        return State(state.x, aux={"curvature": largest_eigenvalue(problem, like)})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x, curvature = state.x, state.aux["curvature"]
        score, residual = (prior.denoise(x, t) - x) / t**2, problem.residual(x)
        data = problem.linear.adjoint(residual)
        if self.weight == "likelihood":
            variance = problem.noise.sigma**2 + (self.gamma * t) ** 2
            data, rate = data / variance, self.step_size / (t**-2 + curvature / variance)
        else:
            tiny = torch.finfo(x.dtype).tiny
            data = column(self.mse * norm(score) / norm(data).clamp_min(tiny), x) * data
            rate = torch.full_like(curvature, self.step_size * t**2)
        rate = column(rate, x)
        x = x + rate * (score + data) + (2 * rate).sqrt() * rng.normal_like(x)
        return State(x, aux=state.aux), {"residual2": inner(residual, residual, len(problem.linear.codomain.shape))}


def norm(x: Tensor) -> Tensor:
    """Length of each sample, ``(n,)``."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def largest_eigenvalue(problem: Problem, like: Tensor) -> Tensor:
    """``|A|^2``, ``(n,)``: from the decomposition, else by power iterations from one fixed start."""
    if problem.linear.has_svd():
        return (problem.svd.s.max() ** 2).to(like.dtype).expand(len(like)).clone()
    x = Rng(0, [0] * len(like), like.device).normal_like(like)
    size = norm(x)
    for _ in range(POWER_ITERATIONS):
        x = problem.normal(x / column(size.clamp_min(torch.finfo(x.dtype).tiny), x))
        size = norm(x)
    return size
