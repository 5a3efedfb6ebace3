"""Expected losses in closed form: for Gaussian data and a linear network a loss is quadratic in everything it draws.

The mean of a quadratic function of D standard normal numbers is its mean over the 2 D points ``+-sqrt(D) e_i``,
exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.operator import Space
from sciinv.training.ambient.items import Batch, DiagonalItems

F64 = torch.float64
D = 5
MEASURED: dict[str, float] = {}
"""What the tests measured, for `benchmarks/corrupted_priors.py`."""


def note(name: str, value: float) -> None:
    """Keep a number for the benchmark's table."""
    MEASURED[name] = float(value)


def covariance(seed: int = 3) -> Tensor:
    """A well-conditioned 5 x 5 covariance with strong correlations."""
    g = torch.Generator().manual_seed(seed)
    m = torch.randn(D, D, generator=g, dtype=F64)
    return 0.5 * (m @ m.T / D + 0.3 * torch.eye(D, dtype=F64))


def points(parts: int) -> list[Tensor]:
    """``parts`` standard normal vectors of length D as rows of exact cubature points, each ``(2 D parts, D)``."""
    n = D * parts
    eye = n**0.5 * torch.eye(n, dtype=F64)
    return list(torch.cat([eye, -eye]).split(D, 1))


def all_patterns() -> Tensor:
    """All 32 patterns, bool ``(32, 5)``."""
    return torch.tensor(list(itertools.product([False, True], repeat=D)))


def bernoulli(patterns: Tensor, keep: float) -> Tensor:
    """Probability of each pattern when entries are kept independently."""
    n = patterns.sum(1).double()
    return keep**n * (1 - keep) ** (D - n)


def pixels(y: Tensor, measured: Tensor, sigma: float = 1.0) -> Batch:
    """A batch of masked states ``(n, 1, 5)``; both arguments ``(n, 5)``."""
    space = Space((1, D), F64)
    operator = DiagonalItems(measured[:, None].to(F64), space, space)
    zero = torch.zeros((1, D), dtype=torch.bool)
    m = measured[:, None]
    return Batch((y * measured)[:, None], operator, m, torch.full((len(y),), sigma, dtype=F64), m, zero)


def minimiser(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The ``K`` ``(5, 5)`` of least norm that minimises a loss which is quadratic in it."""
    zero = torch.zeros(D, D, dtype=F64)
    gradient = torch.autograd.functional.jacobian(loss, zero).flatten()
    hessian = torch.autograd.functional.hessian(loss, zero).reshape(D * D, D * D)
    return -(torch.linalg.pinv(hessian, hermitian=True) @ gradient).view(D, D)


def oracle(cov: Tensor, kept: Tensor, sigma: float) -> Tensor:
    """``E[x_0 | kept part of x_0 + sigma n]`` as a matrix with zero columns where nothing is kept."""
    m = torch.diag(kept.to(F64))
    return cov @ m @ torch.linalg.pinv(m @ cov @ m + sigma**2 * m, hermitian=True)


def linear(k: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The network ``z -> K z`` on states ``(n, 1, 5)``."""
    return lambda z, sigma: z @ k.T
