"""An inverse problem ``y = A(x) + n`` and the exact Gaussian draw that split Gibbs samplers need.

The draw is from ``N(L^-1 b, L^-1)``, ``L = A^H A / sigma^2 + I / rho^2``, ``b = A^H y / sigma^2 + x / rho^2``: by the
full-basis decomposition ``V [ (V^H b) / l + l^-1/2 V^H xi ]``, ``l = s^2/sigma^2 + 1/rho^2``, else by perturb and
solve, ``L z = A^H (y + sigma n1) / sigma^2 + (x + rho n2) / rho^2`` (Papandreou and Yuille 2010; Orieux et al. 2012),
exact in law when conjugate gradients have converged.
"""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinv.errors import MismatchError, Unsupported
from sciinv.generic.diagonal import Diagonal
from sciinv.linalg import cg
from sciinv.noise import Gaussian, Noise
from sciinv.operator import SVD, Identity, LinearOperator, Operator, Scaled, Space, inner
from sciinv.reduced import Reduced
from sciinv.rng import Rng
from sciinv.spectral import Observed, Spectral

Info = Mapping[str, Tensor]


@dc.dataclass(frozen=True)
class Problem:
    """Data ``y`` of shape ``codomain.shape`` (or with a leading sample axis), operator, noise, and provenance in
    ``meta``.
    """

    y: Tensor
    operator: Operator
    noise: Noise
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
    def device(self) -> torch.device:
        """Where the data live."""
        return self.y.device

    @property
    def n_data(self) -> int:
        """Number of real measurements that carry information (``meta['n_data']`` when some entries are never
        measured).
        """
        return int(self.meta.get("n_data", self.operator.codomain.size))

    def capabilities(self) -> frozenset[str]:
        """What a sampler may require of this problem."""
        return self.operator.capabilities() | ({"gaussian"} if self.noise.white else frozenset())

    def pullback(self, inner_op: Operator) -> Problem:
        """The same data seen through another parametrisation, ``A -> A @ inner``.

        The identity gives the problem itself, and with it what has been computed once.
        """
        if isinstance(inner_op, Identity) and inner_op.domain == self.domain:
            return self
        return dc.replace(self, operator=self.operator @ inner_op)

    def chi2(self, x: Tensor) -> Tensor:
        """``|y - A x|^2 / sigma^2`` per sample, or what stands for it with other noise."""
        return self.noise.chi2(self.y, self.operator(x), len(self.operator.codomain.shape))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """``log p(y | x)`` per sample, with its true factor one half."""
        return self.noise.log_prob(self.y, self.operator(x), len(self.operator.codomain.shape))

    def residual(self, x: Tensor) -> Tensor:
        """``y - A(x)``."""
        return self.y - self.operator(x)

    @functools.cached_property
    def linearised(self) -> Problem:
        """The problem with white Gaussian noise that comes nearest; the problem itself where the noise is that."""
        if self.noise.white:
            return self
        data, sigma = self.noise.linearised(self.y)
        weight = Diagonal(1 / sigma, tuple(self.operator.codomain.shape))
        return dc.replace(self, y=data / sigma, operator=weight @ self.operator, noise=Gaussian(1.0))

    @property
    def linear(self) -> LinearOperator:
        """The operator, refused when it is not linear."""
        if not isinstance(self.operator, LinearOperator):
            raise Unsupported(
                "the operator is not linear", found=type(self.operator).__name__, hint="a method for nonlinear data"
            )
        return self.operator

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.linear.normal(x)

    @functools.cached_property
    def aty(self) -> Tensor:
        """``A^H y``."""
        return self.linear.adjoint(self.y)

    @functools.cached_property
    def at_ones(self) -> Tensor:
        """``A^H 1``, one in every real component of the data; for row sums ``A J A^H 1``."""
        ones = torch.full_like(self.y, 1 + 1j) if self.y.is_complex() else torch.ones_like(self.y)
        return self.linear.adjoint(ones)

    @functools.cached_property
    def svd(self) -> SVD:
        """Full-basis decomposition of the operator, computed once."""
        return self.linear.svd()

    @functools.cached_property
    def spectrum(self) -> tuple[LinearOperator, Tensor, Tensor]:
        """``(V, s^2, V^H A^H y)`` with ``A^H A = V diag(s^2) V^H``."""
        return self.svd.V, self.svd.s**2, self.svd.V.adjoint(self.aty)

    @functools.cached_property
    def spectral(self) -> Spectral:
        """The data in spectral coordinates, computed once; needs a linear operator with a decomposition."""
        return Spectral.of(self.svd, self.y)

    @functools.cached_property
    def observed(self) -> Observed:
        """The data as exact observations of a diffused state, computed once; needs a decomposition."""
        return Observed.of(self.spectral, self.noise.sigma)

    @functools.cached_property
    def reduced(self) -> Reduced:
        """The few directions that nonlinear data see, computed once; needs an operator with ``split``."""
        return Reduced.of(self.operator)

    def draw(self, x: Tensor, rho: float, rng: Rng) -> tuple[Tensor, Info]:
        """One exact draw of ``p(z | y, x) ~ N(y; A z, sigma^2) N(z; x, rho^2)`` per sample."""
        if self.linear.has_svd():
            return _draw_spectral(self, x, rho, rng), {}
        y = self.y.expand(x.shape[0], *self.linear.codomain.shape)
        noisy = self.linear.adjoint(y + self.noise.sigma * rng.normal_like(y))
        return _draw_cg(self, noisy, x, rho, rng, self.linear.preconditioner((rho / self.noise.sigma) ** 2))

    @staticmethod
    def stack(problems: Sequence[Problem], samples: int) -> Problem:
        """Problems of equal shape as one, ``samples`` states each (states of problem 0 first); data are whitened on
        the way.
        """
        if len({(p.operator.domain, p.operator.codomain) for p in problems}) != 1:
            raise MismatchError("only problems of equal shape stack", hint="group slices by size")
        y = torch.cat([(p.y / p.noise.sigma).expand(samples, *p.operator.codomain.shape) for p in problems])
        ops = [Scaled(p.linear, 1 / p.noise.sigma) for p in problems]
        return dc.replace(problems[0], y=y, operator=Stacked(ops, samples), noise=Gaussian(1.0))


@dc.dataclass(frozen=True)
class QuadraticProblem:
    """Gaussian data kept only as ``(A^H A, A^H y, y^H y)``: the form for data too large to keep.

    Attributes
    ----------
    normal_operator : the self-adjoint ``A^H A`` on the domain.
    aty : ``A^H y``.
    yty : ``|y|^2``.
    n_data : number of real measurements behind it.
    noise : white noise of one sigma per real component.
    root : an operator B with ``B^H B = A^H A``, needed to draw when ``normal_operator`` offers no svd.
    """

    normal_operator: LinearOperator
    aty: Tensor
    yty: float
    n_data: int
    noise: Gaussian
    root: LinearOperator | None = None
    meta: Mapping[str, Any] = dc.field(default_factory=dict)
    cg_tol: float = 1e-5
    cg_max_iter: int = 400

    @property
    def domain(self) -> Space:
        """The space of unknowns."""
        return self.normal_operator.domain

    @property
    def device(self) -> torch.device:
        """Where the data live."""
        return self.aty.device

    def capabilities(self) -> frozenset[str]:
        """What a sampler may require; there is no forward operator to call."""
        return frozenset({"linear", "gaussian"} | ({"svd"} if self.normal_operator.has_svd() else set()))

    def pullback(self, inner_op: Operator) -> QuadraticProblem:
        """The same data seen through another linear parametrisation."""
        if not isinstance(inner_op, LinearOperator):
            raise Unsupported(
                "the quadratic form needs a linear map from the prior's units", found=type(inner_op).__name__
            )
        return dc.replace(
            self,
            normal_operator=inner_op.H @ self.normal_operator @ inner_op,
            aty=inner_op.adjoint(self.aty),
            root=None if self.root is None else self.root @ inner_op,
        )

    @property
    def linearised(self) -> QuadraticProblem:
        """The problem itself, whose noise is white; see `Problem.linearised`."""
        return self

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.normal_operator(x)

    def chi2(self, x: Tensor) -> Tensor:
        """``|y - A x|^2 / sigma^2`` per sample, as ``x^H N x - 2 Re<x, A^H y> + y^H y``."""
        ndim = len(self.domain.shape)
        return (inner(x, self.normal(x) - 2 * self.aty, ndim) + self.yty) / self.noise.sigma**2

    @functools.cached_property
    def spectrum(self) -> tuple[LinearOperator, Tensor, Tensor]:
        """``(V, s^2, V^H A^H y)`` with ``A^H A = V diag(s^2) V^H``; the singular values of a positive operator are its
        eigenvalues.
        """
        svd = self.normal_operator.svd()
        return svd.V, svd.s, svd.V.adjoint(self.aty)

    def draw(self, x: Tensor, rho: float, rng: Rng) -> tuple[Tensor, Info]:
        """One exact draw of ``p(z | y, x)`` per sample."""
        if self.normal_operator.has_svd():
            return _draw_spectral(self, x, rho, rng), {}
        if self.root is None:
            raise Unsupported(
                "an exact draw from the quadratic form needs svd() or a root", hint="pass root with B^H B = A^H A"
            )
        shape = (x.shape[0], *self.root.codomain.shape)
        xi = rng.normal_like(x.new_empty(shape, dtype=self.root.codomain.dtype))
        return _draw_cg(self, self.aty + self.noise.sigma * self.root.adjoint(xi), x, rho, rng, None)


def _draw_spectral(problem: Problem | QuadraticProblem, x: Tensor, rho: float, rng: Rng) -> Tensor:
    v, s2, _ = problem.spectrum
    precision = problem.noise.sigma**-2
    level = s2 * precision + rho**-2
    b = v.adjoint(problem.aty * precision + x * rho**-2)
    # V V^H = I, so white noise in spectral coordinates has covariance V diag(1/level) V^H even where they are redundant
    xi = rng.normal_like(b)
    return v(b / level + xi * level.rsqrt())


def _draw_cg(
    problem: Problem | QuadraticProblem,
    noisy_aty: Tensor,
    x: Tensor,
    rho: float,
    rng: Rng,
    precondition: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Info]:
    ratio = (rho / problem.noise.sigma) ** 2
    b = noisy_aty * ratio + x + rho * rng.normal_like(x)
    out = cg(
        lambda v: v + ratio * problem.normal(v),
        b, x0=x, tol=problem.cg_tol, max_iter=problem.cg_max_iter, precondition=precondition,
    )  # fmt: skip
    return out.x, {"cg_residual": out.residual, "cg_iterations": out.iterations}


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
