"""Operators: maps between declared spaces, composed with ``@``, with capabilities that are offered or refused.

An operator acts on ``(*batch, *domain.shape)`` and returns ``(*batch, *codomain.shape)``. Inner products are
``Re<u, v>``, so an operator from real images to complex data is linear over the reals and its adjoint satisfies
``Re<A x, y> = Re<x, A^H y>``.

Capabilities (``svd``, ``isometry``) raise `Unsupported` unless a class offers them exactly. The singular value
decomposition is *full*: ``A = U diag(s) V^H`` with ``V V^H = I`` on the whole domain, row space and null space, and
``s = 0`` on the null space. Then ``f(A^H A) = V f(s^2) V^H`` for every f, which is what samplers need.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from sciinv.errors import MismatchError, Unsupported

LARGEST = 1 << 24  # entries of a matrix that is decomposed


class Space(NamedTuple):
    """Shape (without batch) and dtype of one end of an operator."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def size(self) -> int:
        """Number of real degrees of freedom (a complex entry counts twice)."""
        return math.prod(self.shape) * (2 if self.dtype.is_complex else 1)

    def check(self, x: Tensor, where: str) -> None:
        """Raise `MismatchError` unless the trailing axes and the kind of number of ``x`` fit."""
        if tuple(x.shape[x.ndim - len(self.shape) :]) != self.shape or x.is_complex() != self.dtype.is_complex:
            raise MismatchError(
                "tensor does not fit the operator",
                where=where,
                expected=f"(*batch, {', '.join(map(str, self.shape))}) {self.dtype}",
                found=f"{tuple(x.shape)} {x.dtype}",
            )


def inner(u: Tensor, v: Tensor, ndim: int) -> Tensor:
    """``Re<u, v>`` over the last ``ndim`` axes; returns the batch shape."""
    if u.is_complex():
        u, v, ndim = torch.view_as_real(u.resolve_conj()), torch.view_as_real(v.resolve_conj()), ndim + 1
    return (u * v).flatten(u.ndim - ndim).sum(-1)


def power(z: Tensor) -> Tensor:
    """``|z|^2`` elementwise, real; ``z`` may be real or complex."""
    return z.real.square() + z.imag.square() if z.is_complex() else z.square()


def difference(a: Tensor, b: Tensor, ndim: int | None = None) -> Tensor:
    """``|a|^2 - |b|^2`` over the last ``ndim`` axes (all but the first by default), as a product: two large energies
    would cancel in single precision.
    """
    return inner(a - b, a + b, a.ndim - 1 if ndim is None else ndim)


def column(v: Tensor, like: Tensor) -> Tensor:
    """One number a sample, ``(n,)``, shaped to broadcast against ``like``, ``(n, ...)``."""
    return v.view(-1, *(1,) * (like.ndim - 1))


class Operator(nn.Module, abc.ABC):
    """A map from ``domain`` to ``codomain``; may be nonlinear. Subclasses set both spaces and write ``forward``."""

    domain: Space
    codomain: Space
    linear = False

    def __init__(self, domain: Space, codomain: Space):
        super().__init__()
        self.domain, self.codomain = domain, codomain

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator to ``x`` of shape ``(*batch, *domain.shape)``."""

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``J(x)^H v`` under the real inner product, by autograd; shape of ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (g,) = torch.autograd.grad(self(x), x, v)
        return g

    def forward_vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``A(x)`` and the map ``v -> J(x)^H v``, from one forward pass."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self(x)
        return out.detach(), lambda v: torch.autograd.grad(out, x, v, retain_graph=True)[0]

    def split(self) -> tuple[Operator, LinearOperator]:
        """``(g, A)`` with ``self = g @ A`` and A linear, for a map that sees few directions of its domain."""
        raise Unsupported(
            f"{type(self).__name__} is not a map of few linear numbers", hint="a kernel on the whole space"
        )

    def has_split(self) -> bool:
        """Whether `split` is offered."""
        return type(self).split is not Operator.split

    def __matmul__(self, inner_op: Operator) -> Operator:
        """Composition ``(A @ B)(x) = A(B(x))``."""
        return Chain(self, inner_op)

    def capabilities(self) -> frozenset[str]:
        """Names a sampler may require: ``linear``, ``svd``, ``differentiable``, ``split``."""
        return frozenset({"differentiable"} | ({"split"} if self.has_split() else set()))


class Chain(Operator):
    """Composition where at least one factor is nonlinear."""

    def __init__(self, outer: Operator, inner_op: Operator):
        _check_chain(outer, inner_op)
        super().__init__(inner_op.domain, outer.codomain)
        self.outer, self.inner_op = outer, inner_op

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner_op(x))

    def has_split(self) -> bool:
        return self.outer.has_split() and isinstance(self.inner_op, LinearOperator)

    def split(self) -> tuple[Operator, LinearOperator]:
        if not isinstance(self.inner_op, LinearOperator):
            return super().split()
        outer, seen = self.outer.split()
        return outer, seen @ self.inner_op


class LinearOperator(Operator):
    """Linear over the reals. Subclasses write ``forward`` and, when faster, ``adjoint``, ``normal``, ``svd``."""

    linear = True
    isometry: float | None = None
    """``c`` when ``A^H A = A A^H = c^2 I`` exactly, else ``None``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``; by default the vector-Jacobian product of `forward` at zero."""
        batch = y.shape[: y.ndim - len(self.codomain.shape)]
        return self.vjp(y.new_zeros((*batch, *self.domain.shape), dtype=_like(self.domain.dtype, y.dtype)), y)

    def forward_vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self(x), self.adjoint

    def row_space(self, cutoff: float = 0.0) -> tuple[Tensor, Tensor]:
        """Orthonormal states ``(r, *domain.shape)`` that the data see, in float64, and their singular values, largest
        first; real states and small operators only.

        Parameters
        ----------
        cutoff : singular values at or below this fraction of the largest are left out.
        """
        if self.domain.dtype.is_complex or self.domain.size * self.codomain.size > LARGEST:
            raise Unsupported(
                f"{type(self).__name__} is too large for its row space", expected=f"real, at most {LARGEST} entries",
                found=f"{self.codomain.size} x {self.domain.size}", hint="a kernel on the whole space",
            )  # fmt: skip
        _, s, rows = torch.linalg.svd(self.as_matrix(), full_matrices=False)
        least = max(cutoff, max(self.domain.size, self.codomain.size) * torch.finfo(s.dtype).eps)
        # the rank decides a shape, so the host waits here, once a problem
        keep = len(s) if isinstance(s, FakeTensor) else int((s > least * s[0]).sum())
        return rows[:keep].unflatten(-1, self.domain.shape), s[:keep]

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.adjoint(self(x))

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return Adjoint(self)

    def svd(self) -> SVD:
        """Full-basis singular value decomposition, or `Unsupported`."""
        raise Unsupported(
            f"{type(self).__name__} has no exact singular value decomposition", hint="a method that needs no svd, or cg"
        )

    def has_svd(self) -> bool:
        """Whether `svd` is offered, without computing it."""
        return type(self).svd is not LinearOperator.svd

    def preconditioner(self, ratio: float) -> Callable[[Tensor], Tensor] | None:
        """An approximate inverse of ``I + ratio A^H A`` for conjugate gradients, or ``None``."""
        return None

    def as_matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Dense real matrix ``(codomain.size, domain.size)``; complex entries as (re, im). Tests and toy problems
        only.
        """
        d = _like(self.domain.dtype, dtype)
        basis = torch.eye(self.domain.size, dtype=dtype)
        if d.is_complex:
            basis = torch.view_as_complex(basis.reshape(-1, self.domain.size // 2, 2))
        out = self(basis.reshape(-1, *self.domain.shape).to(d))
        return to_real(out, len(self.codomain.shape)).T

    @overload
    def __matmul__(self, inner_op: LinearOperator) -> LinearOperator: ...

    @overload
    def __matmul__(self, inner_op: Operator) -> Operator: ...

    def __matmul__(self, inner_op: Operator) -> Operator:
        if isinstance(inner_op, Identity) and inner_op.domain == self.domain:
            return self
        return Compose(self, inner_op) if isinstance(inner_op, LinearOperator) else Chain(self, inner_op)

    def capabilities(self) -> frozenset[str]:
        return frozenset({"differentiable", "linear"} | ({"svd"} if self.has_svd() else set()))


class Adjoint(LinearOperator):
    """``A^H`` as an operator in its own right."""

    def __init__(self, op: LinearOperator):
        super().__init__(op.codomain, op.domain)
        self.op = op
        self.isometry = op.isometry

    def forward(self, x: Tensor) -> Tensor:
        return self.op.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op(y)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A v``: an adjoint that is itself a vector-Jacobian product cannot be differentiated again."""
        return self.op(v)

    @property
    def H(self) -> LinearOperator:
        return self.op


class Compose(LinearOperator):
    """``outer @ inner`` of linear operators; the decomposition survives an isometric factor on either side."""

    def __init__(self, outer: LinearOperator, inner_op: LinearOperator):
        _check_chain(outer, inner_op)
        super().__init__(inner_op.domain, outer.codomain)
        self.outer, self.inner_op = outer, inner_op
        if outer.isometry is not None and inner_op.isometry is not None:
            self.isometry = outer.isometry * inner_op.isometry

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner_op(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner_op.adjoint(self.outer.adjoint(y))

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^H v``, by the factors' own adjoints."""
        return self.adjoint(v)

    def normal(self, x: Tensor) -> Tensor:
        return self.inner_op.adjoint(self.outer.normal(self.inner_op(x)))

    def has_svd(self) -> bool:
        return (self.inner_op.isometry is not None and self.outer.has_svd()) or (
            self.outer.isometry is not None and self.inner_op.has_svd()
        )

    def svd(self) -> SVD:
        c = self.inner_op.isometry
        if c is not None and self.outer.has_svd():
            base = self.outer.svd()
            # every draw goes through V twice: an exact isometry needs no scaling pass
            unitary = self.inner_op.H if c == 1 else Scaled(self.inner_op.H, 1 / c)
            return SVD(self, base.s * c, unitary @ base.V)
        if self.outer.isometry is not None and self.inner_op.has_svd():
            base = self.inner_op.svd()
            return SVD(self, base.s * self.outer.isometry, base.V)
        return super().svd()


class Scaled(LinearOperator):
    """``c A`` for a real number ``c``."""

    def __init__(self, op: LinearOperator, c: float):
        super().__init__(op.domain, op.codomain)
        self.op, self.c = op, c
        self.isometry = None if op.isometry is None else abs(c) * op.isometry

    def forward(self, x: Tensor) -> Tensor:
        return self.c * self.op(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.c * self.op.adjoint(y)

    def has_svd(self) -> bool:
        return self.op.has_svd()

    def svd(self) -> SVD:
        base = self.op.svd()
        return SVD(self, base.s * abs(self.c), base.V)


class Identity(LinearOperator):
    """``A x = x``."""

    isometry = 1.0

    def __init__(self, domain: Space):
        super().__init__(domain, domain)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def svd(self) -> SVD:
        return SVD(self, torch.ones(()), self)


class SVD(NamedTuple):
    """``A = U diag(s) V^H`` in a full basis.

    ``V`` maps spectral coordinates to the domain with ``V V^H = I``; ``s >= 0`` broadcasts against them (zero on the
    null space). ``U`` is a partial isometry from the same coordinates, derived as ``A V / s``.
    """

    operator: LinearOperator
    s: Tensor
    V: LinearOperator

    def apply(self, f: Tensor, x: Tensor) -> Tensor:
        """``V diag(f) V^H x`` with ``f`` a function of ``s``, broadcast against spectral coordinates."""
        return self.V(f * self.V.adjoint(x))

    def inverse_s(self, cutoff: float = 1e-6) -> Tensor:
        """``1/s`` where ``s`` exceeds ``cutoff * max(s)``, else zero."""
        keep = self.s > cutoff * self.s.max()
        return torch.where(keep, 1 / self.s.clamp_min(torch.finfo(self.s.dtype).tiny), torch.zeros_like(self.s))

    def Uh(self, y: Tensor) -> Tensor:
        """``U^H y`` in spectral coordinates (zero on the null space)."""
        return self.inverse_s() * self.V.adjoint(self.operator.adjoint(y))

    def U(self, c: Tensor) -> Tensor:
        """``U c`` in the codomain."""
        return self.operator(self.V(self.inverse_s() * c))

    def pinv(self, y: Tensor) -> Tensor:
        """Moore-Penrose pseudo-inverse ``V s^+ U^H y``."""
        return self.V(self.inverse_s() * self.Uh(y))


def to_real(x: Tensor, ndim: int) -> Tensor:
    """Flatten the last ``ndim`` axes to real numbers; complex entries become adjacent (re, im)."""
    if x.is_complex():
        x, ndim = torch.view_as_real(x.resolve_conj()), ndim + 1
    return x.flatten(x.ndim - ndim)


def _like(dtype: torch.dtype, precision: torch.dtype) -> torch.dtype:
    """``dtype``'s kind (real or complex) at the precision of ``precision``."""
    double = precision in (torch.float64, torch.complex128)
    if dtype.is_complex:
        return torch.complex128 if double else torch.complex64
    return torch.float64 if double else torch.float32


def _check_chain(outer: Operator, inner_op: Operator) -> None:
    if (
        outer.domain.shape != inner_op.codomain.shape
        or outer.domain.dtype.is_complex != inner_op.codomain.dtype.is_complex
    ):
        raise MismatchError(
            f"cannot compose {type(outer).__name__} @ {type(inner_op).__name__}",
            expected=f"inner codomain {outer.domain}",
            found=str(inner_op.codomain),
        )
