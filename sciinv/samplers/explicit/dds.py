"""DDS: decomposed diffusion sampling (Chung, Lee and Ye 2024), a few conjugate-gradient steps from the denoised image.

``D_y = CG_K[(I + gamma A^H A) x = D + gamma A^H y]`` started at D, one network call and no derivative of the network;
``x_s = D_y + sqrt(s^2 - tau^2) (x_t - D) / t + tau xi``, ``tau = eta s``: the prior's eps and fresh noise. Each sample
has its own conjugate gradients (the published code takes dot products over the batch), and the last step is the last
one of the ladder (the published code leaves the noise out one step early).

The published gamma is a constant, whatever the noise of the data; the default is what a white Gaussian prior of
variance c implies, ``gamma = r^2 / sigma_y^2``, ``r^2 = c t^2 / (c + t^2)`` (mean error on the 6-D test Gaussian with
200 steps: 0.16 posterior deviations against 0.30). Renoising makes a fine ladder a Langevin chain at temperature
``(1 + sqrt(1 - eta^2)) / 2``, so the spread is a lower bound.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar, Literal

from torch import Tensor

from sciinv.errors import UsageError
from sciinv.linalg import cg
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided


@dc.dataclass(frozen=True)
class DDS(Guided):
    """Decomposed diffusion sampling.

    Attributes
    ----------
    eta : share of fresh noise, ``tau = eta s``.
    weight : constant is gamma (published); matched follows the noise; noiseless fits the data alone, as if
        gamma were infinite.
    gamma : the constant weight of the data against the denoised image.
    prior_var : c of the matched weight, the variance of one component of the image.
    cg_iterations : K; as many as the rank of A make the exact proximal step.
    """

    name: ClassVar[str] = "dds"
    paper: ClassVar[str] = "Chung, Lee, Ye, ICLR 2024 (arXiv 2303.05754)"
    technique: ClassVar[str] = "optimisation"
    claims: ClassVar[str] = "approximate: a proximal step for white p(x_0 | x_t); the spread is a lower bound"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian"})
    eps_source: ClassVar[str] = "prior"
    noise_rule: ClassVar[str] = "renoise"

    steps: int = 50
    eta: float = 0.85
    weight: Literal["constant", "matched", "noiseless"] = "matched"
    gamma: float = 1.0
    prior_var: float = 1.0
    cg_iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.gamma > 0 and self.prior_var > 0 and self.cg_iterations >= 1):
            raise UsageError(
                "dds settings are impossible", expected="gamma > 0, prior_var > 0, cg_iterations >= 1",
                found=repr(self),
            )  # fmt: skip

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        d = prior.denoise(x, t)
        image, data = (0.0 if self.weight == "noiseless" else 1.0), 1.0
        if self.weight == "constant":
            data = self.gamma
        elif self.weight == "matched":
            data = self.prior_var * t * t / (self.prior_var + t * t) / problem.noise.sigma**2
        solved = cg(
            lambda v: image * v + data * problem.normal(v),
            image * d + data * problem.aty,
            x0=d, tol=problem.cg_tol, max_iter=self.cg_iterations, check_every=self.cg_iterations + 1,
        )  # fmt: skip
        return solved.x, d, {"cg_residual": solved.residual}
