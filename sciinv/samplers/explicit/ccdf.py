"""CCDF, come closer, diffuse faster (Chung et al. 2022): any method of the family, started from an image.

``x = x_init + sigma_start xi``, then the base method from there down: it walks those of its levels that lie below
``sigma_start`` only. A wrong start is forgotten by the prior alone at the rate ``c / (c + sigma_start^2)`` for each
direction of prior variance c (ancestral steps; ``sqrt`` of it for the probability-flow ODE), and the data do the rest;
so ``sigma_start`` must be wide against the error of the start, in every direction that the data do not see. At the
prior's widest level the start is forgotten and this is the base method.

The start is ``problem.meta["initial"]``, a physical image ``domain.shape`` (from another reconstruction, a network),
where there is one. Without it, it is the ridge solution, ``argmin |y - A x|^2 / sigma^2 + |x|^2 / sigma_start^2``.

On the command line: ``--method ccdf --set base=ddnm --set sigma_start=0.3 --set settings="{eta: 1.0}"``.
"""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from sciinv.config import build
from sciinv.errors import MismatchError, UsageError
from sciinv.linalg import cg
from sciinv.operator import LinearOperator
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State, check_requirements


@dc.dataclass(frozen=True)
class CCDF(Sampler):
    """Warm start of another method.

    Attributes
    ----------
    base : name of the method that is started.
    steps : noise levels of the base over its whole range; the part below ``sigma_start`` is walked.
    sigma_start : level at which it is started, in the prior's units.
    settings : further settings of the base.
    """

    name: ClassVar[str] = "ccdf"
    paper: ClassVar[str] = "Chung, Sim, Ye, CVPR 2022 (arXiv 2112.05146)"
    technique: ClassVar[str] = "its base's"
    claims: ClassVar[str] = (
        "approximate: the claims of its base at best; remembers the start where the prior is wider than sigma_start"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian"})

    base: str = "mmps"
    steps: int = 100
    sigma_start: float = 0.5
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.sigma_start > 0:
            raise UsageError("ccdf: no level to start from", expected="sigma_start > 0", found=str(self.sigma_start))

    @functools.cached_property
    def started(self) -> Sampler:
        """The base with its settings.

        Raises
        ------
        UsageError : there is no such method or setting, or it does not start from white noise at its first level.
        """
        from sciinv.samplers import METHODS

        cls = METHODS.get(self.base)
        fits = [k for k, m in METHODS.items() if m.init is Sampler.init and "steps" in {f.name for f in dc.fields(m)}]
        if cls is None or self.base not in fits:
            raise UsageError(
                "ccdf cannot start this method", expected=", ".join(fits), found=self.base,
                hint="a base walks noise levels down from white noise",
            )  # fmt: skip
        return build(cls, {"steps": self.steps, **(self.settings or {})}, f"settings of ccdf's base {self.base}")

    def grid(self, prior: Counted) -> Sequence[float]:
        levels = list(self.started.grid(prior))
        if any(a < b for a, b in pairwise(levels)):
            raise UsageError("ccdf: the base walks back up", found=self.base, hint="its settings without jumps")
        top = min(self.sigma_start, levels[0])
        return [top, *(level for level in levels if level < top)]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        check_requirements(self.started, problem)
        top = self.grid(prior)[0]
        return State(initial(problem, prior, top, like) + top * rng.normal_like(like))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        return self.started.step(problem, prior, state, t, s, rng)

    def finish(self, problem: Problem, prior: Counted, state: State, rng: Rng) -> Tensor:
        return self.started.finish(problem, prior, state, rng)

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        return self.started.diagnostics(trace)


def initial(problem: Problem, prior: Counted, width: float, like: Tensor) -> Tensor:
    """The start in the prior's units: the image in ``problem.meta["initial"]``, or the ridge solution of that width."""
    given = problem.meta.get("initial")
    if given is not None:
        codec = prior.to_physical
        if not isinstance(codec, LinearOperator) or codec.isometry is None:
            raise MismatchError(
                "ccdf cannot bring the start to the prior's units", expected="a codec that is a scaled isometry",
                found=type(codec).__name__,
            )  # fmt: skip
        codec.codomain.check(given, "problem.meta['initial']")
        return like + (codec.adjoint(given.to(like.device)) / codec.isometry**2).to(like.dtype)
    if problem.linear.has_svd():
        seen = problem.observed  # `parts.ridge` divides by s^2 + rho, which noiseless data drive to zero
        known = seen.tau.isfinite()
        return like + seen.V(torch.where(known, seen.o / (1 + (seen.tau / width).square()), 0.0))
    ratio = (width / problem.noise.sigma) ** 2
    b = (ratio * problem.aty).expand_as(like)
    return cg(lambda x: x + ratio * problem.normal(x), b, tol=problem.cg_tol, max_iter=problem.cg_max_iter).x
