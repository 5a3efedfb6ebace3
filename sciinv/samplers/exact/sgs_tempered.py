"""Tempered split Gibbs: replica exchange over the coupling width (ours).

Every sample owns a ladder of replicas, rung k a split-Gibbs chain (`PnPDM`) at ``rho_k`` with target
``p(x) p(y | z) exp(-|x - z|^2 / (2 rho_k^2))``; wide rungs move freely, the narrowest is the sample. After a sweep of
every rung neighbours swap states with probability ``min(1, r)``, which leaves all the laws invariant:

* joint, for any operator: ``log r = (|x_i - z_i|^2 - |x_j - z_j|^2) (1/rho_i^2 - 1/rho_j^2) / 2``; prior and likelihood
  cancel, but the distances grow with the dimension, so many dimensions need many rungs;
* collapsed, where z can be integrated out (linear operators with an svd): with the inflated-noise likelihood N_rho
  (`inflated`), ``r = N_rho_i(x_j) N_rho_j(x_i) / (N_rho_i(x_i) N_rho_j(x_j))``, which sees only what the data see.

The ladder is filled from the top: at sweep k rung j runs at ``rho_min(j, k)``, so that each chain is annealed to its
rung. At the bottom the law is that of `PnPDM` at rho_min.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sciinv.diagnostics.convergence import split_rhat
from sciinv.errors import MismatchError, UsageError
from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State, fitting
from sciinv.samplers.exact.inflated import inflated_residual
from sciinv.samplers.exact.mcmc import Kernel, check_kernel, consistency, resolve
from sciinv.samplers.exact.pnpdm import block_means
from sciinv.samplers.kernels import prior_step
from sciinv.schedule import geometric


@dc.dataclass(frozen=True)
class SGSTempered(Sampler):
    """Replica exchange over rho; one ladder a sample.

    Attributes
    ----------
    rungs : replicas a sample; network calls and memory grow with them.
    rho_max, rho_min : widths of the first and the last rung, equal ratios between; rho_max should span the modes.
    sweeps : sweeps of the whole ladder.
    swap : collapsed (linear operators with an svd), joint (any), or auto.
    log_step : mean step in log sigma inside the prior step.
    order : 2 (multistep) or 1 (ancestral) prior step.
    kernel : how z is drawn: exact (linear operators), row_hmc, row_mala (operators that split), mala, hmc or ula
        (biased); auto is exact if it can be, else row_hmc, else mala.
    inner : steps of mala, hmc or ula a sweep; tuned during the first half of the sweeps.
    """

    name: ClassVar[str] = "sgs_tempered"
    paper: ClassVar[str] = "sciinv (docs/design.md); replica exchange after Geyer 1991, split Gibbs as pnpdm"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = (
        "law of pnpdm at rho_min, with jumps between modes; exact as rho_min -> 0 and sweeps grow, if swap_min stays up"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian"})

    rungs: int = 8
    rho_max: float = 1.0
    rho_min: float = 0.05
    sweeps: int = 40
    swap: Literal["auto", "collapsed", "joint"] = "auto"
    log_step: float = 0.35
    order: int = 2
    kernel: Kernel = "auto"
    inner: int = 10

    def __post_init__(self) -> None:
        if not (
            0 < self.rho_min < self.rho_max and self.rungs >= 2 and self.sweeps >= 1 and self.inner >= 1
            and self.order in (1, 2) and self.swap in ("auto", "collapsed", "joint")
        ):  # fmt: skip
            raise UsageError(
                "sgs_tempered settings are impossible",
                expected="0 < rho_min < rho_max, rungs >= 2, sweeps >= 1",
                found=repr(self),
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        return [float(k) for k in range(self.sweeps, -1, -1)]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        check_kernel(self.name, self.kernel, problem)
        if self.swap == "collapsed" and not self._can_collapse(problem):
            raise MismatchError(
                "collapsed swaps need exact draws of z and an operator with svd",
                hint=f"swap=joint; methods for this problem: {fitting(problem)}",
            )
        ladder = self.rho_max * rng.normal((self.rungs, *like.shape[1:]), like.dtype)
        return State(ladder[:, -1], aux={"ladder": ladder})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        sweep, levels = self.sweeps - round(t), geometric(self.rho_max, self.rho_min, self.rungs)
        rho = [levels[min(k, sweep)] for k in range(self.rungs)]
        chains = {key: value for key, value in state.aux.items() if key != "ladder"}
        xs, zs, kept = [], [], []
        for k, width in enumerate(rho):
            chain = {key: value[:, k] for key, value in chains.items()}
            z, chain, _ = consistency(
                problem, state.aux["ladder"][:, k], width, chain, rng,
                kernel=self.kernel, steps=self.inner, tuning=self.sweeps // 2,
            )  # fmt: skip
            xs.append(prior_step(prior, z, width, rng, self.log_step, self.order))
            zs.append(z)
            kept.append(chain)
        log_r = self._log_ratios(problem, xs, zs, rho)
        accept = rng.uniform((self.rungs - 1,), torch.float64) < log_r.exp()
        for i in range(sweep % 2, self.rungs - 1, 2):
            yes = column(accept[:, i], state.x)
            for pair in (xs, zs):
                pair[i], pair[i + 1] = (
                    torch.where(yes, pair[i + 1], pair[i]), torch.where(yes, pair[i], pair[i + 1])
                )  # fmt: skip
        aux = {key: torch.stack([chain[key] for chain in kept], 1) for key in kept[0]}
        if aux:  # the chain goes with its state, the step size stays with its rung
            aux["z"] = torch.stack(zs, 1)
        aux["ladder"] = torch.stack(xs, 1)
        probability = log_r.clamp_max(0).exp().nan_to_num(0.0)
        return State(xs[-1], aux=aux), {"swap_accept": probability, "block_means": block_means(xs[-1])}

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        swaps, means = trace.get("swap_accept"), trace.get("block_means")
        if swaps is None or means is None or len(swaps) < self.sweeps:
            return {}
        late = slice(self.sweeps // 2, None)
        found = {"swap_min": float(swaps[late].mean((0, 1)).min())}
        if len(means[late]) >= 4 and means.shape[1] >= 2:
            rhat = split_rhat(means[late])
            found |= {"rhat_median": float(rhat.median()), "rhat_max": float(rhat.max())}
        return found

    def _can_collapse(self, problem: Problem) -> bool:
        """Whether z is drawn afresh and can be integrated out; data kept as a quadratic form have no residual."""
        return resolve(self.kernel, problem) == "exact" and {"svd", "differentiable"} <= problem.capabilities()

    def _log_ratios(self, problem: Problem, xs: list[Tensor], zs: list[Tensor], rho: list[float]) -> Tensor:
        """Logarithm of the acceptance ratio of each neighbouring pair, ``(n, rungs - 1)`` float64."""
        if self.swap != "joint" and self._can_collapse(problem):
            seen = [inflated_residual(problem, x) for x in xs]
            pairs = [b.log_ratio(r, q) - a.log_ratio(r, q) for a, b, r, q in zip(seen, seen[1:], rho, rho[1:])]  # noqa: B905
        else:
            gaps = [(x - z).flatten(1).square().sum(1, dtype=torch.float64) for x, z in zip(xs, zs, strict=True)]
            pairs = [0.5 * (a - b) * (r**-2 - q**-2) for a, b, r, q in zip(gaps, gaps[1:], rho, rho[1:])]  # noqa: B905
        return torch.stack(pairs, 1)
