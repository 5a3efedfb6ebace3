"""MCG, manifold constrained gradient (Chung et al. 2022): projection after a gradient step on the data residual.

``x' = ancestral(D) - alpha sqrt((1 + s^2)(1 + t^2)) grad_{x_t} |A^+ (y - A D(x_t))|``, then the noised data put in
place (`projection`). With ``e = A^+ y - P D`` the gradient is ``-J^T e / |e|``, ``J = dD/dx``: one vector-Jacobian
product. The factor turns the published rule, written for variance-preserving x, into variance-exploding form; the norm
is PER SAMPLE (the published code takes one over the batch).

Of the gradient only the part that the data do not see survives the projection. For a Gaussian prior with
``P C (I - P) = 0`` that part is zero and the method is `score_sde` without its corrector; so it is with ``alpha = 0``.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.explicit.projection import PROJECTED, Projected, replace
from sciinv.samplers.kernels import ancestral


@dc.dataclass(frozen=True)
class MCG(Projected):
    """Manifold constrained gradient; one network call and one vector-Jacobian product a level.

    Attributes
    ----------
    steps : number of noise levels.
    alpha : size of the gradient step; published are 0.1 for colour images and 1 for tomography.
    """

    name: ClassVar[str] = "mcg"
    paper: ClassVar[str] = "Chung, Sim, Ryu, Ye, NeurIPS 2022 (arXiv 2206.00941)"
    technique: ClassVar[str] = "gradient, projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless and fits them exactly; the gradient step has no noise level and a "
        "size of its own"
    )
    requires: ClassVar[frozenset[str]] = PROJECTED | {"differentiable"}

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise UsageError("mcg: no such step", expected="alpha >= 0", found=str(self.alpha))

    def predict(self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, rng: Rng) -> Tensor:
        d, pull = prior.denoise_vjp(x, t)
        e = replace(problem, d, 0.0, rng)[0] - d
        norm = torch.linalg.vector_norm(e.flatten(1), dim=1).clamp_min(torch.finfo(e.dtype).tiny)
        rate = self.alpha * math.sqrt((1 + s * s) * (1 + t * t))
        return ancestral(x, d, t, s, rng) + rate * pull(e / column(norm, e))
