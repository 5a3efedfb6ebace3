"""The law of the generic step for dense matrices, written from the equations and sharing no code with the samplers.

``x_s = D_y + sqrt(s^2 - tau^2) (x_t - D*) / t + tau xi``, D* = D_y or D, with ``D = K x``, ``K = C (C + t^2)^-1`` for
the prior N(0, C) and ``D_y = D + G_t (y - A D)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem

Gain = Callable[[Tensor, float], Tensor]


def dense_law(
    problem: Problem, prior: GaussianPrior, levels: Sequence[float], gain: Gain, *, eta: float = 1.0,
    posterior_eps: bool = True, renoise: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean and covariance at the end of ``levels``; ``gain(J, t)`` is G, ``(d, m)``, from ``J = K`` (symmetric)."""
    a, y, c = problem.operator.as_matrix(), problem.y.flatten().double(), prior.cov
    eye = torch.eye(len(c), dtype=torch.float64)
    mean, cov = eye[0] * 0, levels[0] ** 2 * eye
    for t, s in pairwise(levels):
        k = c @ torch.linalg.inv(c + t * t * eye)
        g = gain(k, t)
        slope, shift = k - g @ a @ k, g @ y  # D_y = slope x + shift
        tau = eta * s * (1 if renoise else math.sqrt(1 - (s / t) ** 2))
        w = math.sqrt(max(s * s - tau * tau, 0)) / t
        f, b = (slope + w * (eye - slope), (1 - w) * shift) if posterior_eps else (slope + w * (eye - k), shift)
        mean, cov = f @ mean + b, f @ cov @ f.T + tau * tau * eye
    return mean, cov
