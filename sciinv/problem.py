"""An inverse problem ``y = A(x) + n`` and the exact Gaussian draw that split Gibbs samplers need.

The draw is from ``N(L^-1 b, L^-1)``, ``L = A^H A / sigma^2 + I / rho^2``, ``b = A^H y / sigma^2 + x / rho^2``: by the
full-basis decomposition ``V [ (V^H b) / l + l^-1/2 V^H xi ]``, ``l = s^2/sigma^2 + 1/rho^2``, else by perturb and solve,
``L z = A^H (y + sigma n1) / sigma^2 + (x + rho n2) / rho^2`` (Papandreou and Yuille 2010; Orieux et al. 2012), exact in law
when conjugate gradients have converged.
"""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinv.errors import MismatchError, Unsupported
from sciinv.linalg import cg
from sciinv.noise import Gaussian
from sciinv.operator import SVD, LinearOperator, Operator, Scaled, Space
from sciinv.rng import Rng

Info = Mapping[str, Tensor]


@dc.dataclass(frozen=True)
class Problem:
    """Data ``y`` of shape ``codomain.shape`` (or with a leading sample axis), operator, noise, and provenance in ``meta``."""

    y: Tensor
    operator: Operator
    noise: Gaussian
    meta: Mapping[str, Any] = dc.field(default_factory=dict)
    cg_tol: float = 1e-5
    cg_max_iter: int = 400

    def __post_init__(self) -> None:
        self.operator.codomain.check(self.y, "problem data y")

    @property
    def domain(self) -> Space:
        """The space of unknowns."""
        return self.operator.domain

    @property
    def n_data(self) -> int:
        """Number of real measurements that carry information (``meta['n_data']`` when some entries are never measured)."""
        return int(self.meta.get("n_data", self.operator.codomain.size))

    def capabilities(self) -> frozenset[str]:
        """What a sampler may require of this problem."""
        return self.operator.capabilities() | {"gaussian"}

    def pullback(self, inner_op: Operator) -> Problem:
        """The same data seen through another parametrisation, ``A -> A @ inner``."""
        return dc.replace(self, operator=self.operator @ inner_op)

    def chi2(self, x: Tensor) -> Tensor:
        """``|y - A x|^2 / sigma^2`` per sample."""
        return self.noise.chi2(self.y, self.operator(x), len(self.operator.codomain.shape))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """``log p(y | x)`` per sample, with its true factor one half."""
        return self.noise.log_prob(self.y, self.operator(x), len(self.operator.codomain.shape))

    def residual(self, x: Tensor) -> Tensor:
        """``y - A(x)``."""
        return self.y - self.operator(x)

    @property
    def linear(self) -> LinearOperator:
        """The operator, refused when it is not linear."""
        if not isinstance(self.operator, LinearOperator):
            raise Unsupported("the operator is not linear", found=type(self.operator).__name__, hint="a method for nonlinear data")
        return self.operator

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.linear.normal(x)

    @functools.cached_property
    def aty(self) -> Tensor:
        """``A^H y``."""
        return self.linear.adjoint(self.y)

    @functools.cached_property
    def svd(self) -> SVD:
        """Full-basis decomposition of the operator, computed once."""
        return self.linear.svd()

    @functools.cached_property
    def _spectral_aty(self) -> Tensor:
        return self.svd.V.adjoint(self.aty)

    def draw(self, x: Tensor, rho: float, rng: Rng) -> tuple[Tensor, Info]:
        """One exact draw of ``p(z | y, x) ~ N(y; A z, sigma^2) N(z; x, rho^2)`` per sample."""
        if self.linear.has_svd():
            return self._draw_spectral(x, rho, rng), {}
        return self._draw_cg(x, rho, rng)

    def _draw_spectral(self, x: Tensor, rho: float, rng: Rng) -> Tensor:
        v, precision = self.svd.V, self.noise.sigma**-2
        level = self.svd.s**2 * precision + rho**-2
        b = v.adjoint(x) * rho**-2 + self._spectral_aty * precision
        # a unitary V lets white noise be drawn in spectral coordinates; otherwise it must pass through V^H
        xi = rng.normal_like(b) if v.isometry is not None else v.adjoint(rng.normal_like(x))
        return v(b / level + xi * level.rsqrt())

    def _draw_cg(self, x: Tensor, rho: float, rng: Rng) -> tuple[Tensor, Info]:
        a, ratio = self.linear, (rho / self.noise.sigma) ** 2
        y = self.y.expand(x.shape[0], *a.codomain.shape)
        b = a.adjoint(y + self.noise.sigma * rng.normal_like(y)) * ratio + x + rho * rng.normal_like(x)
        out = cg(
            lambda v: v + ratio * a.normal(v),
            b,
            x0=x,
            tol=self.cg_tol,
            max_iter=self.cg_max_iter,
            precondition=a.preconditioner(ratio),
        )
        return out.x, {"cg_residual": out.residual, "cg_iterations": out.iterations}

    @staticmethod
    def stack(problems: Sequence[Problem], samples: int) -> Problem:
        """Problems of equal shape as one, ``samples`` states each (states of problem 0 first); data are whitened on the way."""
        if len({(p.operator.domain, p.operator.codomain) for p in problems}) != 1:
            raise MismatchError("only problems of equal shape stack", hint="group slices by size")
        y = torch.cat([(p.y / p.noise.sigma).expand(samples, *p.operator.codomain.shape) for p in problems])
        ops = [Scaled(p.linear, 1 / p.noise.sigma) for p in problems]
        return dc.replace(problems[0], y=y, operator=Stacked(ops, samples), noise=Gaussian(1.0))


class Stacked(LinearOperator):
    """One operator per group of ``samples`` consecutive states."""

    def __init__(self, ops: Sequence[LinearOperator], samples: int):
        super().__init__(ops[0].domain, ops[0].codomain)
        self.ops, self.samples = torch.nn.ModuleList(ops), samples
        if len({op.isometry for op in ops}) == 1:
            self.isometry = ops[0].isometry

    def _map(self, method: str, x: Tensor) -> Tensor:
        parts = x.split(self.samples)
        return torch.cat([getattr(op, method)(part) for op, part in zip(self.ops, parts, strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        return self._map("forward", x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._map("adjoint", y)

    def normal(self, x: Tensor) -> Tensor:
        return self._map("normal", x)

    def has_svd(self) -> bool:
        return all(op.has_svd() for op in self.ops)  # type: ignore[operator]

    def svd(self) -> SVD:
        parts = [op.svd() for op in self.ops]  # type: ignore[operator]
        shape = parts[0].V.domain.shape
        s = torch.cat([p.s.expand(self.samples, *shape) for p in parts])
        return SVD(self, s, Stacked([p.V for p in parts], self.samples))

