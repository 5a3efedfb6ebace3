"""Split-Gibbs SMC: anneal the coupling of split Gibbs with weights (ours).

A split-Gibbs sweep at width rho leaves ``pi_rho(x) ~ p(x) N(y; A x, sigma^2 I + rho^2 A A^H)`` invariant (`PnPDM`). So
n prior draws (rho = infinity) are carried to the posterior (rho = 0) through falling widths: weights
``N_rho'(y; x) / N_rho(y; x)`` in closed form (`inflated`), resampling, one sweep at rho'. The next rho is the one at
which the effective sample size of those weights is a chosen share; when that share is reached with rho' = 0 the run
ends there. No prior density, no Jacobian of the network; the evidence ``p(y)`` comes for free; exact as n grows, for
any schedule, up to the prior step's own error.

Linear operators without a decomposition take the quadratic form ``r^H (sigma^2 I + rho^2 A A^H)^-1 r`` by conjugate
gradients; the determinant is the same for all particles and only the evidence misses it. Nonlinear data: `joint`.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciinv.errors import MismatchError, UsageError
from sciinv.linalg import cg
from sciinv.operator import inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.exact.inflated import inflated_residual
from sciinv.samplers.exact.joint import joint_start, joint_step
from sciinv.samplers.exact.mcmc import Kernel, check_kernel
from sciinv.samplers.kernels import prior_step
from sciinv.samplers.smc import Population, furthest


@dc.dataclass(frozen=True)
class SGSSMC(Population):
    """Split-Gibbs SMC.

    Attributes
    ----------
    ess_target : share of effective particles that each rung keeps; nearer one means more rungs and less noise.
    rho_min : smallest coupling width of a sweep, in the prior's units; from there the weights go to rho = 0.
    rungs : most rungs; a run that needs more ends with a jump to rho = 0, and its effective sample size says so.
    log_step : mean step in log sigma inside the prior step.
    order : 2 (multistep) or 1 (ancestral) prior step.
    rho_max : coupling width at which nonlinear data are let in.
    kernel, inner : Metropolis-corrected kernel on z for nonlinear data (auto is HMC, in the row space where the data
        see one) and its transitions a rung.
    returns : x, at rho = 0; or seen, for nonlinear data of an operator that splits: the law at rho_min with z in the
        row space and x beside it. The likelihood is the true one, the prior is blurred by rho_min in the row space.
    """

    name: ClassVar[str] = "sgs_smc"
    paper: ClassVar[str] = "sciinv (docs/design.md); split Gibbs after Coeurdoux et al. and Wu et al. 2024"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles grow; evidence of the discretised prior (a smaller log_step, less bias)"
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian", "differentiable"})

    resample_below: float = 1.0
    ess_target: float = 0.8
    rho_min: float = 0.01
    rungs: int = 200
    log_step: float = 0.32
    order: int = 2
    rho_max: float = 0.5
    kernel: Literal["auto", "mala", "hmc", "row_mala", "row_hmc"] = "auto"
    inner: int = 4
    returns: Literal["x", "seen"] = "x"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 < self.ess_target < self.resample_below and 0 < self.rho_min <= self.rho_max and self.rungs >= 1
            and self.order in (1, 2) and self.returns in ("x", "seen")
        ):  # fmt: skip
            raise UsageError(
                "sgs_smc settings are impossible",
                expected="0 < ess_target < resample_below, 0 < rho_min <= rho_max, rungs >= 1", found=repr(self),
            )  # fmt: skip

    def grid(self, prior: Counted) -> Sequence[float]:
        return [float(k) for k in range(self.rungs, -1, -1)]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        if self.returns == "seen" and (problem.operator.linear or "split" not in problem.capabilities()):
            raise MismatchError("returns=seen is for nonlinear data of an operator that splits", hint="returns=x")
        x = prior_step(prior, prior.sigma_max * rng.normal_like(like), prior.sigma_max, rng, self.log_step, self.order)
        if not problem.operator.linear:
            check_kernel(self.name, self.chosen(problem), problem)
            return joint_start(self, x, rng)
        return self.start(x, rho=torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device))

    def chosen(self, problem: Problem) -> Kernel:
        """The kernel for nonlinear data."""
        best: Kernel = "row_hmc" if "split" in problem.capabilities() else "hmc"
        return best if self.kernel == "auto" else self.kernel

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if not problem.operator.linear:
            return joint_step(self, problem, prior, state, s == 0, rng)
        spectral = problem.linear.has_svd()
        seen = inflated_residual(problem, state.x) if spectral else SolvedResidual(problem, state.x)
        here = state.aux["rho"][0]

        def log_ratio(rho: Tensor) -> Tensor:
            before = torch.where(here.isinf(), 0.0, seen.log_density(here.nan_to_num(posinf=1.0)))
            return seen.log_density(rho) - before

        rho = float(self._next(state, log_ratio, here, prior.sigma_max, 40 if spectral else 10)) if s > 0 else 0.0
        state, info = self.reweigh(state, log_ratio(torch.full_like(here, rho)), rng, None if rho else 0.0)
        state.aux["rho"] = torch.full_like(state.aux["rho"], rho)
        info = {**info, "rho": state.aux["rho"]}
        if not spectral:
            info.pop("log_z")
        if rho == 0:
            state.done = True
            return state, info
        z, _ = problem.draw(state.x, rho, rng)
        state.x = prior_step(prior, z, rho, rng, self.log_step, self.order)
        return state, info

    def _next(
        self, state: State, log_ratio: Callable[[Tensor], Tensor], here: Tensor, sigma_max: float, halvings: int
    ) -> Tensor:
        """The next rho, 0-dim: 0 when the weights allow it, else by bisection of the logarithm, at least rho_min."""
        zero, high = torch.zeros_like(here), torch.where(here.isinf(), 1e3 * sigma_max, here).log()
        span = math.log(self.rho_min) - high

        def enough(rho: Tensor) -> Tensor:
            return self.keeps(state, log_ratio(rho), self.ess_target)

        share = furthest(lambda share: enough((high + share * span).exp()), zero, halvings)
        finish = enough(zero) | (here <= self.rho_min * (1 + 1e-9))
        return torch.where(finish, 0.0, (high + share * span).exp())


class SolvedResidual:
    """``log N(y; A x, sigma^2 I + rho^2 A A^H)`` up to a constant of rho, by conjugate gradients."""

    def __init__(self, problem: Problem, x: Tensor):
        self.problem, self.residual = problem, problem.residual(x)

    def log_density(self, rho: Tensor) -> Tensor:
        """``-r^H (sigma^2 + rho^2 A A^H)^-1 r / 2``, ``(n,)`` float64."""
        a, sigma, r = self.problem.linear, self.problem.noise.sigma, self.residual
        ratio = (rho / sigma).square().to(r.real.dtype)
        solved = cg(
            lambda v: v + ratio * a(a.adjoint(v)), r, tol=self.problem.cg_tol, max_iter=self.problem.cg_max_iter
        )
        return -0.5 * inner(r, solved.x, r.ndim - 1).to(torch.float64) / sigma**2
