"""MPGD: manifold preserving guided diffusion, in pixels (He et al. 2024): a gradient step on the denoised image.

* ``loss="squared"``: ``D_y = D + 2 rate alpha A^H r``, ``r = y - A(D)``, a step on ``|r|^2`` in units of its curvature
  along the gradient, ``alpha = |A^H r|^2 / |A A^H r|^2`` (``A`` linearised at D where it is nonlinear). A rate of one
  half goes to where the misfit along the gradient is least; if ``A A^H = c^2 I`` that is the projection of `ddnm`.
* ``loss="norm"``: the published code, ``D_y = D + rate sqrt(1 + t^2) A^H r / |r|``, a step as long as ``rate`` says.

Then a DDIM step with the prior's eps; no derivative of the network is needed. The noise of the data is ignored.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciinv.operator import column, inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided
from sciinv.samplers.explicit.parts import pull_of_data, push


@dc.dataclass(frozen=True)
class MPGD(Guided):
    """Manifold preserving guidance without an autoencoder.

    Attributes
    ----------
    loss : squared steps on the squared misfit, norm on the misfit itself.
    rate : size of the step; 0.5 goes to the least misfit for the squared loss. For loss=norm published values are 4 to
        17.5 on images in [-1, 1].
    """

    name: ClassVar[str] = "mpgd"
    paper: ClassVar[str] = "He, Murata, Lai, et al., ICLR 2024 (arXiv 2311.16424)"
    technique: ClassVar[str] = "gradient, optimisation"
    claims: ClassVar[str] = "approximate: fits the data at every level whatever their noise; biased mean and spread"
    requires: ClassVar[frozenset[str]] = frozenset({"differentiable", "gaussian"})
    eps_source: ClassVar[str] = "prior"

    eta: float = 0.5
    loss: Literal["squared", "norm"] = "squared"
    rate: float = 0.5

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        d = prior.denoise(x, t)
        back, norm2 = pull_of_data(problem, d)
        tiny = torch.finfo(d.dtype).tiny
        if self.loss == "norm":
            length = self.rate * math.sqrt(1 + t * t) * norm2.clamp_min(tiny).rsqrt()
        else:
            ahead = push(problem, d, back)
            curvature = inner(ahead, ahead, len(problem.operator.codomain.shape)).clamp_min(tiny)
            length = 2 * self.rate * inner(back, back, d.ndim - 1) / curvature
        return d + column(length, d) * back, d, {"residual2": norm2}
