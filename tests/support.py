"""Problems with a known posterior, shared by the sampler tests."""

import torch

from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator
from sciinv.priors.gaussian import GaussianPrior, anisotropic_gaussian
from sciinv.problem import Problem


def gaussian_problem(sigma: float = 0.3) -> tuple[Problem, GaussianPrior]:
    """The 6-D anisotropic Gaussian seen through a dense 3 x 6 matrix."""
    prior = anisotropic_gaussian(dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    matrix = torch.randn(3, 6, generator=g, dtype=torch.float64)
    y = matrix @ torch.randn(6, generator=g, dtype=torch.float64)
    return Problem(y, Dense(matrix, (1, 6)), Gaussian(sigma)), prior


class Plain(LinearOperator):
    """Hides the decomposition, so that draws go through conjugate gradients."""

    def __init__(self, op):
        super().__init__(op.domain, op.codomain)
        self.op = op

    def forward(self, x):
        return self.op(x)
