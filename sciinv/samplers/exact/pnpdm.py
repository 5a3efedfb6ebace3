"""PnP-DM: split Gibbs sampling with a diffusion prior (Wu et al. 2024; Coeurdoux et al. 2024), exact steps on both
sides.

Target ``pi_rho(x, z) ~ p(x) p(y | z) exp(-|x - z|^2 / (2 rho^2))``; a sweep draws
``z ~ p(y | z) N(z; x, rho^2)`` exactly (`Problem.draw`) and ``x ~ p(x_0 | x_0 + rho e = z)`` by the second-order prior
step from exactly rho. At fixed rho the x-marginal is ``p(x) N(y; A x, sigma^2 I + rho^2 A A^H)``, the posterior with
inflated noise; it tends to the posterior as rho -> 0. rho is annealed geometrically, then ``stationary`` sweeps run at
``rho_min``. A direction of prior variance c seen with singular value a contracts by
``c/(c + rho^2) * sigma^2/(sigma^2 + a^2 rho^2)`` a sweep, so a small rho mixes slowly: the annealing sets the spread
of what the data do not see, and R-hat over chains says whether it was slow enough.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from sciinv.diagnostics.convergence import ess, split_rhat
from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.kernels import prior_step
from sciinv.schedule import geometric

TRACED = 8  # summaries for R-hat: means over a TRACED x TRACED grid of blocks


@dc.dataclass(frozen=True)
class PnPDM(Sampler):
    """Split Gibbs with a diffusion prior; one chain a sample.

    Attributes
    ----------
    rho_max, rho_min : first and last coupling width, in the prior's units.
    anneal : sweeps from rho_max to rho_min.
    stationary : further sweeps at rho_min, over which R-hat and ESS are computed.
    log_step : mean step in log sigma inside the prior step.
    order : 2 (multistep) or 1 (ancestral) prior step.
    """

    name: ClassVar[str] = "pnpdm"
    paper: ClassVar[str] = (
        "Wu et al., NeurIPS 2024 (arXiv 2405.18782); Coeurdoux et al., IEEE TIP 2024 (arXiv 2304.11134)"
    )
    claims: ClassVar[str] = (
        "at fixed rho exact for the posterior with noise inflated by rho^2 A A^H; exact as rho -> 0 and sweeps grow"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian"})

    rho_max: float = 0.5
    rho_min: float = 0.02
    anneal: int = 14
    stationary: int = 8
    log_step: float = 0.35
    order: int = 2

    def __post_init__(self) -> None:
        if not (
            0 < self.rho_min <= self.rho_max and self.anneal >= 1 and self.stationary >= 0 and self.order in (1, 2)
        ):
            raise UsageError(
                "pnpdm settings are impossible", expected="0 < rho_min <= rho_max, anneal >= 1", found=repr(self)
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        levels = geometric(self.rho_max, self.rho_min, self.anneal) if self.anneal > 1 else [self.rho_min]
        return [*levels, *[self.rho_min] * self.stationary, 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        return State(self.rho_max * rng.normal_like(like))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        z, info = problem.draw(state.x, t, rng)
        x = prior_step(prior, z, t, rng, self.log_step, self.order)
        gap = (x - z).flatten(1).square().mean(1)
        return State(x), {"block_means": block_means(x), "gap_over_rho": gap.sqrt() / t, **info}

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        means = trace.get("block_means")
        # a run that was stopped early has not reached the stationary sweeps
        if self.stationary < 4 or means is None or len(means) < self.anneal + self.stationary or means.shape[1] < 2:
            return {}
        draws = means[-self.stationary :]
        rhat, size = split_rhat(draws), ess(draws)
        return {
            "rhat_median": float(rhat.median()), "rhat_max": float(rhat.max()),
            "ess_median": float(size.median()), "ess_min": float(size.min()),
        }  # fmt: skip


def block_means(x: Tensor) -> Tensor:
    """A few linear summaries of each state ``(n, channel, *space)``: means over blocks, ``(n, q)``."""
    spatial = x.ndim - 2
    if spatial not in (1, 2, 3):
        return x.flatten(1)
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[spatial - 1]
    return pool(x, [min(TRACED, k) for k in x.shape[2:]]).flatten(1)
