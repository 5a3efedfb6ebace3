"""LGD: loss-guided diffusion (Song et al. 2023): the likelihood averaged over draws around the denoised image.

``p(y | x_t)`` is replaced by ``mean_i p(y | D + r xi_i)``, ``r^2 = c t^2 / (c + t^2)``, with m draws a level.

* ``weight="official"``: the rule of `dps` with the root mean square misfit over the draws in place of the misfit (no
  code was published; this is what reproductions do). One norm per sample.
* ``weight="theory"``: the stated gradient, ``D_y = D + (t^2 / sigma_y^2) J^T sum_i w_i A^H (y - A x_i)``, ``w_i`` the
  draws' normalised likelihoods. Infinitely many draws make this `pigdm` (linear A). With few, and data that know many
  things, one draw takes all the weight.

Without spread (``prior_var = 0``) both are `dps`.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.explicit.dps import DPS
from sciinv.samplers.explicit.parts import pull_of_data


@dc.dataclass(frozen=True)
class LGD(DPS):
    """Loss-guided diffusion.

    Attributes
    ----------
    draws : m, Monte Carlo draws a level; each costs the operator and its adjoint, not the network.
    prior_var : c, the variance of one component of the image in the prior's units; 0 is no spread.
    """

    name: ClassVar[str] = "lgd"
    paper: ClassVar[str] = "Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat, ICML 2023"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = (
        "approximate: p(x_0 | x_t) as draws from a white Gaussian of assumed variance; ignores the noise level "
        "(official weight)"
    )

    draws: int = 8
    prior_var: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.draws >= 1 and self.prior_var >= 0):
            raise UsageError("lgd settings are impossible", expected="draws >= 1, prior_var >= 0", found=repr(self))

    def gradient(self, problem: Problem, d: Tensor, t: float, rng: Rng) -> tuple[Tensor, Tensor]:
        spread = t * math.sqrt(self.prior_var / (self.prior_var + t * t))
        xi = rng.normal((self.draws, *d.shape[1:]), d.dtype)
        parts = [pull_of_data(problem, d + spread * xi[:, i]) for i in range(self.draws)]
        backs, norms = torch.stack([p[0] for p in parts], 1), torch.stack([p[1] for p in parts], 1)
        if self.weight == "official":
            return backs.mean(1), norms.mean(1)
        weights = (-norms / (2 * problem.noise.sigma**2)).softmax(1)
        wide = weights.view(*weights.shape, *(1,) * (d.ndim - 1))
        return (wide * backs).sum(1), norms.mean(1)
