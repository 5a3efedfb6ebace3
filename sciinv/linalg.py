"""Batched conjugate gradients with a per-sample stop (Hestenes and Stiefel 1952).

Solves ``M x = b`` for symmetric positive definite ``M`` acting on ``(n, *shape)``, every sample on its own: a sample
that has converged is frozen, so its result does not depend on what else is in the batch. A direction of no positive
curvature (the Jacobian of a network is only nearly symmetric) freezes a sample too: its iterate stays the last good
one and ``residual`` says how good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.operator import column, inner


class CGResult(NamedTuple):
    """Solution ``(n, *shape)``, relative residual and iterations used ``(n,)``, and ``b - M x`` by the recursion."""

    x: Tensor
    residual: Tensor
    iterations: Tensor
    r: Tensor


def cg(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    *,
    tol: float = 1e-5,
    max_iter: int = 200,
    precondition: Callable[[Tensor], Tensor] | None = None,
    check_every: int = 10,
) -> CGResult:
    """Solve ``matvec(x) = b`` per sample to ``|M x - b| <= tol |b|``.

    The host asks whether all samples are done only every ``check_every`` iterations; frozen samples stay bit for bit
    fixed.
    """
    ndim = b.ndim - 1
    wide = (-1,) + (1,) * ndim

    def solve(v: Tensor) -> Tensor:
        return v if precondition is None else precondition(v)

    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - matvec(x)
    z = solve(r)
    p = z.clone()
    rz = inner(r, z, ndim)
    goal = inner(b, b, ndim) * tol**2
    rr = inner(r, r, ndim)
    used = torch.zeros_like(goal)
    tiny = torch.finfo(goal.dtype).tiny
    for k in range(max_iter):
        active = rr > goal
        if k % check_every == 0 and not bool(active.any()):
            break
        mp = matvec(p)
        curvature = inner(p, mp, ndim)
        active = active & (curvature > 0)
        used = used + active
        alpha = torch.where(active, rz / curvature.clamp_min(tiny), 0.0).view(wide)
        x = x + alpha * p
        r = r - alpha * mp
        if k == max_iter - 1:  # no direction follows
            rr = torch.where(active, inner(r, r, ndim), rr)
            break
        z = solve(r)
        rz_new = inner(r, z, ndim)
        beta = torch.where(active, rz_new / rz.clamp_min(tiny), 0.0).view(wide)
        p = torch.where(active.view(wide), z + beta * p, p)
        rz = torch.where(active, rz_new, rz)
        rr = torch.where(active, inner(r, r, ndim), rr)
    norm = inner(b, b, ndim).clamp_min(tiny)
    return CGResult(x, (rr / norm).sqrt(), used, r)


@torch.no_grad()
def operator_norm(normal: Callable[[Tensor], Tensor], start: Tensor, steps: int = 12) -> Tensor:
    """Largest singular value a row, ``(n,)``, of the A in ``normal = A^H A``, by ``steps`` of the power method from
    ``start`` ``(n, *domain)``; a touch low (a few per cent after twelve).

    An operator that stacks one for each row gets the norm of each.
    """
    ndim, x, found = start.ndim - 1, start, start.new_zeros(len(start)).real
    for _ in range(steps):
        length = inner(x, x, ndim).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        x = normal(x / column(length, x))
        found = inner(x, x, ndim).sqrt()
    return found.sqrt()
