"""What the gradient and proximal methods share: the data's gradient at an image, and two regularised solves.

With ``r = y - A(d)`` per sample: the pull ``A'(d)^H r``, minus half the gradient of ``|y - A(d)|^2`` (of the noise's
own misfit where that is not Gaussian); the ridge step
``(A^H A + rho I)^-1 A^H r``, which takes d to ``argmin |y - A x|^2 + rho |x - d|^2``; the pseudo-inverse ``A^+ r``, its
limit for rho = 0. Solves use the decomposition where it is offered, else conjugate gradients; ``A`` is only asked for
``A^H y`` and ``A^H A``, so a problem kept in its quadratic form will do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.linalg import cg
from sciinv.problem import Info, Problem, QuadraticProblem

CUTOFF = 1e-12  # squared singular values below this part of the largest count as zero


def pull_of_data(problem: Problem, d: Tensor) -> tuple[Tensor, Tensor]:
    """``A'(d)^H r`` in the shape of ``d`` and the misfit, ``(n,)``, for linear and nonlinear A and any noise."""
    a, noise = problem.operator, problem.noise
    seen = a(d)
    residual, norm2 = noise.residual(problem.y, seen), noise.misfit(problem.y, seen, len(a.codomain.shape))
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
    if "svd" in problem.capabilities():
        v, s2, data = problem.spectrum
        return v((data - s2 * v.adjoint(d)) / (s2 + rho)), {}
    back = problem.aty - problem.normal(d)
    ratio = 1 / rho
    precondition = problem.linear.preconditioner(ratio) if isinstance(problem, Problem) else None
    out = cg(
        lambda x: x + ratio * problem.normal(x),
        ratio * back, tol=problem.cg_tol, max_iter=problem.cg_max_iter, precondition=precondition,
    )  # fmt: skip
    return out.x, {"cg_residual": out.residual}


def pseudo_inverse(problem: Problem | QuadraticProblem, d: Tensor) -> tuple[Tensor, Info]:
    """``A^+ (y - A d)``, the shortest of the least-squares steps, and the solve's diagnostics."""
    if "svd" in problem.capabilities():
        v, s2, data = problem.spectrum
        inverse = (s2 > CUTOFF * s2.max()) / s2.clamp_min(torch.finfo(s2.dtype).tiny)
        return v(inverse * data - (inverse > 0) * v.adjoint(d)), {}
    back = problem.aty - problem.normal(d)
    out = cg(problem.normal, back, tol=problem.cg_tol, max_iter=problem.cg_max_iter)
    return out.x, {"cg_residual": out.residual}
