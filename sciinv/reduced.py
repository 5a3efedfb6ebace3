"""Nonlinear data that see few directions: ``A(x) = g(B c + B_0 w)`` with c coordinates of a row space and w the rest.

An operator that splits into ``g @ S``, S linear, sees the row space of S only. With V its orthonormal basis (singular
values above a share `CUTOFF` of the largest) a state is ``x = V c + w``, ``c = V^T x``, ``V^T w = 0``, and
``S x = (S V) c + S w``. Nothing is neglected: S w, which the cut makes small, is carried along, so that the cut is a
matter of speed. What it drops is bounded by ``|S w| <= CUTOFF s_max |w|``.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sciinv.operator import LinearOperator, Operator, to_real
from sciinv.prior import Prior

CUTOFF = 3e-4
"""Singular values below this share of the largest do not count as seen (100 of 4,096 for the EHT of 2017)."""

AT_ONCE = 1 << 23  # numbers in one batch of Jacobians


@dc.dataclass(frozen=True, eq=False)
class Reduced:
    """A row space and what the operator makes of it.

    Attributes
    ----------
    outer, inner : ``g`` and ``S``.
    basis : V as rows, ``(r, d)``.
    seen : ``S V`` as real rows, ``(r, q)``.
    measured : what a method has measured once about a prior in these directions, by prior.
    """

    outer: Operator
    inner: LinearOperator
    basis: Tensor
    seen: Tensor
    measured: MutableMapping[Prior, Any] = dc.field(default_factory=WeakKeyDictionary)

    @staticmethod
    def of(operator: Operator, cutoff: float = CUTOFF) -> Reduced:
        """Split an operator and find its row space."""
        outer, inner = operator.split()
        rows, _ = inner.row_space(cutoff)
        return Reduced(outer, inner, rows.flatten(1), to_real(inner(rows), len(inner.codomain.shape)))

    @property
    def rank(self) -> int:
        """How many directions the data see."""
        return self.basis.shape[0]

    def coordinates(self, x: Tensor) -> Tensor:
        """``V^T x``, ``(n, r)``."""
        return x.flatten(1) @ self.basis.to(x.dtype).T

    def states(self, c: Tensor) -> Tensor:
        """``V c``, ``(n, *space)``."""
        return (c @ self.basis.to(c.dtype)).unflatten(-1, self.inner.domain.shape)

    def hidden(self, x: Tensor) -> Tensor:
        """``x - V V^T x``."""
        return x - self.states(self.coordinates(x))

    def seen_from(self, z: Tensor, x: Tensor) -> Tensor:
        """``x + V V^T (z - x)``: z in the row space and x beside it."""
        return x + self.states(self.coordinates(z - x))

    def linear(self, x: Tensor) -> Tensor:
        """``S x`` as real numbers, ``(n, q)``."""
        return to_real(self.inner(x), len(self.inner.codomain.shape))

    def of_coordinates(self, c: Tensor) -> Tensor:
        """``S V c``, ``(n, q)``."""
        return c @ self.seen.to(c.dtype)

    def data(self, s: Tensor) -> Tensor:
        """``g`` of real numbers ``(n, q)``."""
        return self.outer(self._native(s))

    def residual_and_pull(self, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """``r = y - g(s)`` and ``(S V)^T g'(s)^T r``, ``(n, r)``."""
        out, pull = self.outer.forward_vjp(self._native(s))
        r = y - out
        return r, to_real(pull(r), len(self.inner.codomain.shape)) @ self.seen.to(s.dtype).T

    def curvature(self, s: Tensor) -> Tensor:
        """``J^T J`` of ``J = g'(s) S V``, ``(n, r, r)`` in float64."""
        size = max(1, AT_ONCE // (self.rank * s.shape[1]))
        return torch.cat([self._curvature(part) for part in s.split(size)])

    def jacobian(self, s: Tensor) -> Tensor:
        """``g'(s) S V`` transposed, ``(n, r, *data)``, by forward differentiation along every direction."""
        shape = (len(s), self.rank, s.shape[1])
        with forward_ad.dual_level():
            point = self._native(s[:, None].expand(shape).reshape(-1, shape[2]))
            along = self._native(self.seen.to(s.dtype).expand(shape).reshape(-1, shape[2]))
            slope = forward_ad.unpack_dual(self.outer(forward_ad.make_dual(point, along))).tangent
        return slope.unflatten(0, shape[:2])

    def _curvature(self, s: Tensor) -> Tensor:
        j = self.jacobian(s).flatten(2).to(torch.float64)
        return j @ j.mT

    def _native(self, s: Tensor) -> Tensor:
        """Real numbers as what ``g`` takes."""
        space = self.inner.codomain
        if space.dtype.is_complex:
            return torch.view_as_complex(s.unflatten(-1, (*space.shape, 2)).contiguous())
        return s.unflatten(-1, space.shape).contiguous()
