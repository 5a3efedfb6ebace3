"""Known laws and the distance to them, shared by the tests of the exact samplers."""

from __future__ import annotations

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

    def floor(self, n: int, repeats: int = 8) -> float:
        """Mean distance between two exact samples of size n."""
        return sum(sliced_w1(self.draw(n, 2 * r), self.draw(n, 2 * r + 1)) for r in range(repeats)) / repeats

    def distance(self, x: Tensor, repeats: int = 8) -> float:
        """Mean distance of a sample to exact ones of its size."""
        return sum(sliced_w1(x, self.draw(len(x), 100 + r)) for r in range(repeats)) / repeats
