"""Sequential Monte Carlo in a few lines: weights, evidence, resampling, islands (Del Moral 2004; Chopin 2020).

A population of n particles with normalised log-weights is reweighted by ``r``: the evidence gains the factor
``sum_i w_i r_i`` and ``w_i <- w_i r_i / sum``. When the effective sample size ``1 / sum w_i^2`` falls under a share of
n, systematic resampling (one uniform number) copies particle i about ``n w_i`` times. Particles may form islands that
never exchange: their evidences and means then differ by the Monte Carlo error, which is how it is seen.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sciinv.diagnostics.alarms import SPREAD
from sciinv.errors import UsageError
from sciinv.problem import Info
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, Sampler, State


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size of log-weights over the last axis; they need not be normalised."""
    return (2 * log_w.logsumexp(-1) - (2 * log_w).logsumexp(-1)).exp()


def systematic(log_w: Tensor, u: Tensor, draws: int | None = None) -> Tensor:
    """Ancestors ``(islands, draws)`` for log-weights ``(islands, n)`` and one uniform number an island ``(islands,)``.

    Particle i is copied floor(m w_i) or ceil(m w_i) times, m w_i on average, in m draws (n unless told).
    """
    m = log_w.shape[-1] if draws is None else draws
    cdf = log_w.softmax(-1).cumsum(-1)
    points = (torch.arange(m, device=u.device, dtype=u.dtype) + u[..., None]) / m
    return torch.searchsorted(cdf / cdf[..., -1:], points, right=True).clamp_max(log_w.shape[-1] - 1)


def counted(log_w: Tensor) -> Tensor:
    """Log-weights with those that are not finite set to nothing: such a particle weighs nothing and is replaced."""
    return log_w.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def furthest(enough: Callable[[Tensor], Tensor], zero: Tensor, halvings: int) -> Tensor:
    """The largest share of the way, 0-dim in [0, 1], that keeps enough particles, by bisection; ``zero`` is a 0-dim 0.

    ``enough`` takes a share and returns a 0-dim bool. Zero means that none of the shares tried did.
    """
    low, high = zero, zero + 1
    for _ in range(halvings):
        middle = (low + high) / 2
        good = enough(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(enough(zero + 1), 1.0, low)


@dc.dataclass(frozen=True)
class Population(Sampler):
    """Methods whose samples are particles.

    Attributes
    ----------
    islands : independent populations that the particles are split into.
    resample_below : resample when the effective sample size is under this share of a population; 1 is always.
    """

    population: ClassVar[bool] = True
    islands: int = 1
    resample_below: float = 0.5

    def __post_init__(self) -> None:
        if self.islands < 1 or not 0 <= self.resample_below <= 1:
            raise UsageError(
                f"{self.name} settings are impossible", expected="islands >= 1, 0 <= resample_below <= 1",
                found=repr(self),
            )  # fmt: skip

    def start(self, x: Tensor, **aux: Tensor) -> State:
        """The first state: equal weights, evidence one, every particle its own ancestor."""
        n = len(x)
        if n % self.islands:
            raise UsageError(
                "particles do not divide into islands", expected=f"a multiple of {self.islands}", found=str(n)
            )
        zero = x.new_zeros(n, dtype=torch.float64)
        kept = {"log_z": zero, "ancestor": torch.arange(n, device=x.device), **aux}
        return State(x, zero - math.log(n // self.islands), kept)

    def keeps(self, state: State, log_ratio: Tensor, share: float) -> Tensor:
        """Whether `reweigh` by ``log_ratio`` would leave every island this share of effective particles; 0-dim bool."""
        assert state.log_w is not None
        size = ess(counted(state.log_w + log_ratio).view(self.islands, -1))
        return size.min() >= share * len(state.x) / self.islands

    def reweigh(
        self, state: State, log_ratio: Tensor, rng: Rng, resample_below: float | None = None
    ) -> tuple[State, Info]:
        """Multiply the weights by ``exp(log_ratio)`` ``(n,)``, account for the evidence, resample if that is due.

        Everything in ``aux`` follows its particle. The last weights of a run stay weights: ``resample_below=0``.
        """
        assert state.log_w is not None
        shape = (self.islands, len(state.x) // self.islands)
        log_w = counted(state.log_w + log_ratio).view(shape)
        gain = log_w.logsumexp(-1, keepdim=True)
        log_z = state.aux["log_z"] + gain.expand(shape).reshape(-1)
        log_w = log_w - gain
        size = ess(log_w)
        below = self.resample_below if resample_below is None else resample_below
        due = (size < below * shape[1])[:, None]
        stay = torch.arange(shape[1], device=log_w.device).expand(shape)
        # drawn whether it is needed or not: what is drawn must not depend on the weights
        u = rng.uniform((), torch.float64).view(shape)[:, 0]
        local = torch.where(due, systematic(log_w, u), stay)
        first = torch.arange(self.islands, device=log_w.device)[:, None] * shape[1]
        chosen = (local + first).view(-1)
        log_w = torch.where(due, -math.log(shape[1]), log_w).view(-1)
        aux = {k: v[chosen] for k, v in {**state.aux, "log_z": log_z}.items()}
        info = {
            "ess": size[:, None].expand(shape).reshape(-1),
            "log_z": log_z,
            "ancestor": aux["ancestor"],
            "resampled": due.expand(shape).reshape(-1),
        }
        return State(state.x[chosen], log_w, aux), info

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        if "ess" not in trace:
            return {}
        particles = trace["ess"].shape[1]
        found: dict[str, Any] = {
            "particles": particles,
            "ess_share_min": float(trace["ess"].min()) * self.islands / particles,
            "ancestors": int(trace["ancestor"][-1].unique().numel()),
            "resamplings": int(trace["resampled"].any(1).sum()),
        }
        if "log_z" not in trace:  # a method that does not know its constants
            return found
        log_z = trace["log_z"][-1].view(self.islands, -1)[:, 0]
        found["log_evidence"] = float(log_z.logsumexp(0) - math.log(self.islands))
        if self.islands > 1:
            spread = float(log_z.std())
            found |= {"log_evidence_spread": spread, "islands_pooled": "by evidence" if spread <= SPREAD else "equally"}
        return found

    def finish(self, problem: Any, prior: Any, state: State, rng: Rng) -> Tensor:
        """The particles; islands are pooled by evidence where its spread allows, else equally."""
        assert state.log_w is not None
        shape = (self.islands, -1)
        log_z = state.aux["log_z"].view(shape)
        spread = log_z[:, 0].std() if self.islands > 1 else log_z.new_zeros(())
        share = torch.where(spread <= SPREAD, log_z.log_softmax(0), -math.log(self.islands))
        state.log_w = (state.log_w.view(shape) + share).view(-1)
        return state.x


def shared(x: Tensor, islands: int) -> Tensor:
    """The first row of every island, given to all its particles: what one population has in common."""
    return x.unflatten(0, (islands, -1))[:, :1].expand(islands, len(x) // islands, *x.shape[1:]).flatten(0, 1)


@dc.dataclass(frozen=True)
class Descending(Leveled, Population):
    """Populations that walk down the prior's noise levels and weight a prior step at each.

    Attributes
    ----------
    steps : number of noise levels.
    order : 2 (multistep, `kernels.look_ahead`) or 1 (as published) prior step.
    """

    order: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2 or self.order not in (1, 2):
            raise UsageError(
                f"{self.name} settings are impossible", expected="steps >= 2, order 1 or 2", found=repr(self)
            )
