"""Classical reconstructions in 1/mm: filtered backprojection, SIRT, conjugate gradients, total variation.

SIRT (Gilbert, J. Theor. Biol. 36, 105, 1972) steps by ``C A^T R (y - A x)`` with R and C the inverse row and column
sums. CGLS (Hestenes and Stiefel 1952) solves ``min |y - A x|^2 + lam |x|^2`` and regularises by stopping early. TV
(Rudin, Osher and Fatemi 1992) is ``min |y - A x|^2 / 2 + lam sum |grad x|``, solved by the primal-dual method of
Chambolle and Pock (J. Math. Imaging Vis. 40, 120, 2011) with one step size for each of the two duals (Pock and
Chambolle, ICCV 2011): it converges when ``tau (s_A |A|^2 + s_G |grad|^2) <= 1``, and both norms are computed.
All take batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.linalg import cg, operator_norm
from sciinv.operator import LinearOperator, column, inner
from sciinv.rng import Rng
from sciinv_ct.fbp import fbp

__all__ = ["TV", "cgls", "fbp", "norm", "sirt", "tv"]


class TV(NamedTuple):
    """Image ``(*batch, *domain)``; ``|A^T (A x - y) + grad^T p| / |A^T y|``, zero at the optimum, ``(*batch)``."""

    x: Tensor
    residual: Tensor


def norm(op: LinearOperator, dtype: torch.dtype, device: torch.device, iterations: int = 50) -> Tensor:
    """``|A|``, the largest singular value, by power iteration; a 0-dim tensor, a touch low.

    The first singular vector of a matrix without negative entries has no sign change: starting from ones, it is found
    in a few steps. Some noise helps where that is not so.
    """
    start = 1 + 0.1 * Rng(0, [0]).normal(op.domain.shape, torch.float64).to(device, dtype)
    return operator_norm(op.normal, start, iterations)[0]


def cgls(op: LinearOperator, y: Tensor, iterations: int = 20, lam: float = 0.0) -> Tensor:
    """``iterations`` steps of conjugate gradients on ``(A^T A + lam) x = A^T y`` from zero; ``(*batch, *domain)``."""
    b, batch = _flat(op.adjoint(y), op)
    x = cg(lambda v: op.normal(v) + lam * v, b, tol=1e-7, max_iter=iterations).x
    return x.reshape(*batch, *op.domain.shape)


def sirt(op: LinearOperator, y: Tensor, iterations: int = 100, nonnegative: bool = True) -> Tensor:
    """``iterations`` steps of SIRT from zero; ``(*batch, *domain)``. Rows and pixels that see nothing stay zero."""
    rows, columns = op(y.new_ones(op.domain.shape)), op.adjoint(y.new_ones(op.codomain.shape))
    r, c = (torch.where(s > 1e-6 * s.max(), 1 / s, 0) for s in (rows, columns))
    x = y.new_zeros((*y.shape[: y.ndim - len(op.codomain.shape)], *op.domain.shape))
    for _ in range(iterations):
        x = x + c * op.adjoint(r * (y - op(x)))
        x = x.clamp_min(0) if nonnegative else x
    return x


def tv(
    op: LinearOperator, y: Tensor, lam: float, iterations: int = 300, *, space: int = 2, nonnegative: bool = True,
    balance: float | None = None,
) -> TV:  # fmt: skip
    """Total variation with non-negative pixels.

    Parameters
    ----------
    op : the projector (or a whitened one: ``lam`` then weighs against whitened data).
    y : ``(*batch, *codomain)``.
    lam : weight of the total variation.
    space : how many trailing axes of the image are space: 2 or 3.
    nonnegative : whether pixels may not fall below zero.
    balance : size that the image is expected to have; decides how primal and dual steps share, not the result.
    """
    size = norm(op, y.dtype, y.device) * 1.01  # the power iteration is low by less than that
    slope = 2 * math.sqrt(space)
    back, batch = _flat(op.adjoint(y), op)
    data = y.reshape(-1, *op.codomain.shape)
    scale = _largest(back) / size**2 if balance is None else balance
    # duals are of the size of the residual and of lam, the image of the size of `scale`
    tau = column(10 * scale / (size * _largest(data) + lam * slope).clamp_min(1e-30), back)
    s_a, s_g = 0.5 / (column(tau.flatten(), data) * size**2), 0.5 / (tau * slope**2)
    x = torch.zeros_like(back)
    ahead, q, p = x, torch.zeros_like(data), x.new_zeros((space, *x.shape))
    for _ in range(iterations):
        q = (q + s_a * (op(ahead) - data)) / (1 + s_a)
        p = p + s_g * gradient(ahead, space)
        p = p / (p.square().sum(0).sqrt() / lam).clamp_min(1) if lam > 0 else torch.zeros_like(p)
        new = x - tau * (op.adjoint(q) + divergence(p, space))
        new = new.clamp_min(0) if nonnegative else new
        ahead, x = 2 * new - x, new
    slack = op.adjoint(op(x) - data) + divergence(p, space)
    if nonnegative:  # at zero the gradient may point outwards
        slack = torch.where(x > 0, slack, slack.clamp_max(0))
    ndim = len(op.domain.shape)
    residual = (inner(slack, slack, ndim) / inner(back, back, ndim).clamp_min(1e-30)).sqrt()
    return TV(x.reshape(*batch, *op.domain.shape), residual.reshape(batch))


def gradient(x: Tensor, space: int) -> Tensor:
    """Forward differences along the last ``space`` axes, zero at the far edge; ``(space, *x.shape)``."""
    out = x.new_zeros((space, *x.shape))
    for k in range(space):
        n = x.shape[-1 - k]
        torch.sub(x.narrow(-1 - k, 1, n - 1), x.narrow(-1 - k, 0, n - 1), out=out[k].narrow(-1 - k, 0, n - 1))
    return out


def divergence(p: Tensor, space: int) -> Tensor:
    """The transpose of `gradient` (the negative divergence)."""
    out = torch.zeros_like(p[0])
    for k in range(space):
        n = out.shape[-1 - k]
        inside = p[k].narrow(-1 - k, 0, n - 1)
        out.narrow(-1 - k, 1, n - 1).add_(inside)
        out.narrow(-1 - k, 0, n - 1).sub_(inside)
    return out


def _largest(x: Tensor) -> Tensor:
    return x.abs().flatten(1).amax(1)


def _flat(x: Tensor, op: LinearOperator) -> tuple[Tensor, tuple[int, ...]]:
    batch = tuple(x.shape[: x.ndim - len(op.domain.shape)])
    return x.reshape(-1, *op.domain.shape), batch
