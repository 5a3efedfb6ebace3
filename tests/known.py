"""Known laws and the distance to them, shared by the tests of the exact samplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sciinv.operator import Operator, Space
from sciinv.rng import Rng


def sliced_w1(a: Tensor, b: Tensor, slices: int = 64) -> float:
    """Mean over random directions of the 1-D Wasserstein-1 distance of two samples of equal size, flattened."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    direction = Rng(11, [0]).normal((a.shape[1], slices), torch.float64)[0]
    direction /= direction.norm(dim=0)
    return float(((a @ direction).sort(0).values - (b @ direction).sort(0).values).abs().mean())


class Ring(Operator):
    """``A(x) = |x|`` of a state ``(1, 2)``: the data know the radius, the prior the angle."""

    def __init__(self) -> None:
        super().__init__(Space((1, 2)), Space((1,)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.square().flatten(-2).sum(-1, keepdim=True) + 1e-12).sqrt()


def blurred(log_likelihood: Callable[[Tensor], Tensor], x: Tensor, rho: float, order: int = 16) -> Tensor:
    """``log int p(y | z) N(z; x, rho^2) dz`` of 2-D states ``(n, 1, 2)`` by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    parts = []
    for a, u in zip(nodes, weights, strict=True):
        for b, v in zip(nodes, weights, strict=True):
            shift = rho * torch.tensor([[a, b]], dtype=x.dtype)
            parts.append(log_likelihood(x + shift) + math.log(u * v / (2 * math.pi)))
    return torch.stack(parts).logsumexp(0)


def radius_w1(a: Tensor, b: Tensor) -> float:
    """1-D Wasserstein-1 distance of the norms."""
    return float((a.flatten(1).norm(dim=1).sort().values - b.flatten(1).norm(dim=1).sort().values).abs().mean())


class Quadrature:
    """The posterior of a 2-D state on a grid: log prior plus log likelihood, and draws from it."""

    def __init__(self, log_density, half: float = 4.0, points: int = 400):
        line = torch.linspace(-half, half, points, dtype=torch.float64)
        self.step = float(line[1] - line[0])
        self.points = torch.cartesian_prod(line, line)
        self.weights = log_density(self.points[:, None]).flatten().softmax(0)

    def draw(self, n: int, seed: int) -> Tensor:
        """``(n, 1, 2)``, jittered within the cells."""
        g = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=g)
        jitter = torch.rand(n, 2, generator=g, dtype=torch.float64) - 0.5
        return (self.points[k] + self.step * jitter)[:, None]

    def floor(self, n: int, repeats: int = 8, metric: Callable[[Tensor, Tensor], float] = sliced_w1) -> float:
        """Mean distance between two exact samples of size n."""
        return sum(metric(self.draw(n, 2 * r), self.draw(n, 2 * r + 1)) for r in range(repeats)) / repeats

    def distance(self, x: Tensor, repeats: int = 8, metric: Callable[[Tensor, Tensor], float] = sliced_w1) -> float:
        """Mean distance of a sample to exact ones of its size."""
        return sum(metric(x, self.draw(len(x), 100 + r)) for r in range(repeats)) / repeats
