"""What the gradient and proximal methods share: the data's gradient at an image, and two regularised solves.

With ``r = y - A(d)`` per sample: the pull ``A'(d)^H r``, minus half the gradient of ``|y - A(d)|^2``; the ridge step
``(A^H A + rho I)^-1 A^H r``, which takes d to ``argmin |y - A x|^2 + rho |x - d|^2``; the pseudo-inverse ``A^+ r``, its
limit for rho = 0. Solves use the decomposition where it is offered, else conjugate gradients; ``A`` is only asked for
``A^H y`` and ``A^H A``, so a problem kept in its quadratic form will do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.linalg import cg
from sciinv.operator import inner
from sciinv.problem import Info, Problem, QuadraticProblem

CUTOFF = 1e-12  # squared singular values below this part of the largest count as zero


def pull_of_data(problem: Problem, d: Tensor) -> tuple[Tensor, Tensor]:
    """``A'(d)^H (y - A(d))`` in the shape of ``d`` and ``|y - A(d)|^2``, ``(n,)``, for linear and nonlinear A."""
    a = problem.operator
    residual = problem.residual(d)
    norm2 = inner(residual, residual, len(a.codomain.shape))
    return problem.linear.adjoint(residual) if a.linear else a.vjp(d, residual), norm2


def push(problem: Problem, d: Tensor, v: Tensor) -> Tensor:
    """``A'(d) v``, in the shape of the data.

    For nonlinear operators the vector-Jacobian product is linear in its vector; its own transpose is what is wanted.
    """
    a = problem.operator
    if a.linear:
        return a(v)
    with torch.enable_grad():
        x = d.detach().requires_grad_()
        out = a(x)
        dual = torch.zeros_like(out, requires_grad=True)
        (back,) = torch.autograd.grad(out, x, dual, create_graph=True)
        (forward,) = torch.autograd.grad(back, dual, v)
    return forward


def ridge(problem: Problem | QuadraticProblem, d: Tensor, rho: float) -> tuple[Tensor, Info]:
    """``(A^H A + rho I)^-1 A^H (y - A d)`` and the solve's diagnostics."""
    back = problem.aty - problem.normal(d)
    if "svd" in problem.capabilities():
        v, s2 = problem.spectrum
        return v(v.adjoint(back) / (s2 + rho)), {}
    ratio = 1 / rho
    precondition = problem.linear.preconditioner(ratio) if isinstance(problem, Problem) else None
    out = cg(
        lambda x: x + ratio * problem.normal(x),
        ratio * back, tol=problem.cg_tol, max_iter=problem.cg_max_iter, precondition=precondition,
    )  # fmt: skip
    return out.x, {"cg_residual": out.residual}


def pseudo_inverse(problem: Problem | QuadraticProblem, d: Tensor) -> tuple[Tensor, Info]:
    """``A^+ (y - A d)``, the shortest of the least-squares steps, and the solve's diagnostics."""
    back = problem.aty - problem.normal(d)
    if "svd" in problem.capabilities():
        v, s2 = problem.spectrum
        keep = s2 > CUTOFF * s2.max()
        return v(torch.where(keep, v.adjoint(back) / s2.clamp_min(torch.finfo(s2.dtype).tiny), 0.0)), {}
    out = cg(problem.normal, back, tol=problem.cg_tol, max_iter=problem.cg_max_iter)
    return out.x, {"cg_residual": out.residual}
