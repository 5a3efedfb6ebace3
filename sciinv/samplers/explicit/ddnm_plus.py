"""DDNM+ (Wang et al. 2023): the null-space step for noisy data, scaled so that no step is noisier than its level.

With ``o_i = x_i + tau_i n`` (`spectral`), from t to s, ``D_i <- D_i + lambda_i (o_i - D_i)`` and noise of variance
``phi_i``: ``lambda_i = 1, phi_i = s^2 - tau_i^2`` where ``tau_i <= s``, else ``lambda_i = sqrt(1 - eta^2) s / tau_i,
phi_i = eta^2 s^2``; what nothing sees moves as in `ddnm`, ``sqrt(1 - eta^2) s e_i + eta s xi_i``.

With this decomposition it is `ddrm` at ``eta_b = 1``, which came first: more steps fit noisy data ever closer, down to
``A^+ y``, and the spread goes. Its own are the time travel of `ddnm` and the start from noise alone. Data whose noise
lies under the prior's last level keep their value in the last step. The published simplified code scales a standard
deviation that is scaled already; it is not followed.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.explicit.ddnm import DDNM
from sciinv.samplers.explicit.projection import distance


@dc.dataclass(frozen=True)
class DDNMPlus(DDNM):
    """Null-space diffusion for noisy data; the settings of `DDNM`."""

    name: ClassVar[str] = "ddnm_plus"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: spread too small, and over-fits noisy data as steps grow; ddrm at eta_b = 1 but for its start"
    )

    def move(self, problem: Problem, x: Tensor, d: Tensor, t: float, s: float, rng: Rng) -> tuple[Tensor, Tensor]:
        seen, keep = problem.observed, math.sqrt(1 - self.eta**2)
        held = seen.tau <= s if s else seen.tau < t
        gap = seen.gap(d)
        gain = torch.where(held, 1.0, keep * s / seen.tau)
        move = torch.where(seen.tau.isfinite(), gain * gap, (keep * s / t) * seen.V.adjoint(x - d))
        if s:
            spread = torch.where(held, s * s - seen.tau.square(), (self.eta * s) ** 2).sqrt()
            move = move + spread * seen.V.adjoint(rng.normal_like(x))
        return d + seen.V(move), distance(gap, x)
