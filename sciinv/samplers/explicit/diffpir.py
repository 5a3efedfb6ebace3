"""DiffPIR: a proximal step of the data at every level (Zhu et al. 2023).

``D_y = argmin_x |y - A x|^2 + rho |x - D|^2``, ``rho = lambda sigma_y^2 / t^2``, then
``x_s = D_y + s (sqrt(1 - zeta) e + sqrt(zeta) xi)`` with the posterior's eps, ``e = (x_t - D_y) / t``: the generic step
with renoising, ``eta = sqrt(zeta)``. The proximal step is solved by the operator's decomposition, else by conjugate
gradients to the problem's tolerance.

The step pretends that ``p(x_0 | x_t)`` is white with variance ``t^2 / lambda``. That is exact for a flat prior with
lambda = 1, and for a white Gaussian prior of variance c with ``lambda = 1 + t^2 / c`` (set ``prior_var``), integrated
by ``solver="heun"``; renoising itself samples at temperature ``(1 + sqrt(1 - zeta)) / 2``, so the
spread is a lower bound.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided
from sciinv.samplers.explicit.parts import ridge


@dc.dataclass(frozen=True)
class DiffPIR(Guided):
    """Plug-and-play restoration with a diffusion prior.

    Attributes
    ----------
    eta : share of fresh noise, the square root of the published zeta (0.3; 0.1 to 1 in its settings).
    lam : lambda; larger trusts the data less (published: 1 to 8).
    prior_var : c, multiplies lambda by ``1 + t^2 / c``; none is the published rule.
    """

    name: ClassVar[str] = "diffpir"
    paper: ClassVar[str] = "Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool, CVPRW 2023 (arXiv 2305.08995)"
    technique: ClassVar[str] = "optimisation"
    claims: ClassVar[str] = "approximate: p(x_0 | x_t) as a white Gaussian of width t; the spread is a lower bound"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian"})
    noise_rule: ClassVar[str] = "renoise"

    eta: float = math.sqrt(0.3)
    lam: float = 1.0
    prior_var: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.lam > 0 and (self.prior_var is None or self.prior_var > 0)):
            raise UsageError("diffpir settings are impossible", expected="lam > 0, prior_var > 0", found=repr(self))

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        d = prior.denoise(x, t)
        narrower = 1.0 if self.prior_var is None else 1 + t * t / self.prior_var
        step, info = ridge(problem, d, self.lam * narrower * (problem.noise.sigma / t) ** 2)
        return d + step, d, info
