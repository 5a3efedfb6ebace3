"""What every operator must satisfy, tested on random vectors in double precision and against the dense matrix.

Adjoint: ``Re<A x, y> = Re<x, A^H y>``. Decomposition: ``V V^H = I``, ``A^H A = V s^2 V^H``,
``(I + A^H A) V (1 + s^2)^-1 V^H = I`` (so that functions of ``A^H A`` hold also in redundant coordinates),
``A = U s V^H``, and the four Moore-Penrose conditions.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from sciinv.errors import MismatchError, SciinvError, Unsupported
from sciinv.operator import LinearOperator, Operator, Space, inner
from sciinv.rng import Rng
from sciinv.testing.fake import FakeCuda

SINGLE, DOUBLE = 2e-5, 1e-9


def check_operator(
    op: Operator, *, seed: int = 0, batch: int = 3, dense_limit: int = 300, fake_cuda: bool = True
) -> None:
    """Check every promise of `sciinv.operator` that ``op`` makes.

    Parameters
    ----------
    op : the operator, on the CPU in single precision.
    seed, batch : of the random inputs.
    dense_limit : largest number of real unknowns and of real data for which the dense matrix is compared.
    fake_cuda : also run on a pretend GPU.
    """
    _Checker(op, seed, batch).run(dense_limit, fake_cuda)


class _Checker:
    def __init__(self, op: Operator, seed: int, batch: int):
        self.op, self.batch, self.name = op, batch, type(op).__name__
        self.double = promote(op)
        self.rng = functools.partial(Rng, seed)

    def run(self, dense_limit: int, fake_cuda: bool) -> None:
        self.spaces()
        if isinstance(self.op, LinearOperator):
            for op, tol in ((self.op, SINGLE), (self.double, DOUBLE)):
                assert isinstance(op, LinearOperator)
                self.linear(op, tol)
            assert isinstance(self.double, LinearOperator)
            if max(self.op.domain.size, self.op.codomain.size) <= dense_limit:
                self.dense(self.double)
            self.svd(self.double)
        else:
            self.derivative(self.double)
        if fake_cuda:
            self.fake()

    def draw(self, space: Space, key: int, double: bool, n: int | None = None) -> Tensor:
        dtype = precise(space.dtype) if double else space.dtype
        keys = [(key, i) for i in range(self.batch if n is None else n)]
        return self.rng(keys).normal(space.shape, dtype)

    def same(self, what: str, a: Tensor, b: Tensor, tol: float, scale: Tensor | None = None) -> None:
        close(f"{self.name}: {what}", a, b, tol, scale)

    def spaces(self) -> None:
        """Shapes, dtypes, batch axes, one item at a time."""
        for op, double in ((self.op, False), (self.double, True)):
            x = self.draw(op.domain, 0, double)
            y = op(x)
            dtype = precise(op.codomain.dtype) if double else op.codomain.dtype
            if y.shape != (self.batch, *op.codomain.shape) or y.dtype != dtype:
                raise AssertionError(
                    f"{self.name}: forward of {tuple(x.shape)} {x.dtype} gave {tuple(y.shape)} {y.dtype}, "
                    f"but the codomain is {op.codomain} (expected dtype {dtype})"
                )
        x = self.draw(self.op.domain, 0, False)
        y = self.op(x)
        tol = SINGLE
        self.same("batch differs from items one at a time", y, torch.stack([self.op(item) for item in x]), tol)
        self.same("two batch axes differ from one", y, self.op(x[:, None])[:, 0], tol)
        if isinstance(self.op, LinearOperator):
            back = self.op.adjoint(y)
            if back.shape != x.shape or back.dtype != x.dtype:
                raise AssertionError(
                    f"{self.name}: adjoint gave {tuple(back.shape)} {back.dtype}, domain {self.op.domain}"
                )
            one = torch.stack([self.op.adjoint(item) for item in y])
            self.same("adjoint of a batch differs from items one at a time", back, one, tol)

    def linear(self, op: LinearOperator, tol: float) -> None:
        """Dot test, linearity, vjp and normal against the adjoint, isometry."""
        double = tol == DOUBLE
        x, x2 = self.draw(op.domain, 0, double), self.draw(op.domain, 1, double)
        y = self.draw(op.codomain, 2, double)
        ax, aty = op(x), op.adjoint(y)
        nx, ny = len(op.domain.shape), len(op.codomain.shape)
        self.same("not linear, A(2x - 3u) against 2Ax - 3Au", op(2 * x - 3 * x2), 2 * ax - 3 * op(x2), tol)
        size = (norm(ax, ny) * norm(y, ny) + norm(x, nx) * norm(aty, nx)).max()
        self.same("adjoint dot test, Re<Ax, y> against Re<x, A^H y>", inner(ax, y, ny), inner(x, aty, nx), tol, size)
        self.same("vjp differs from the adjoint", op.vjp(x, y), aty, tol)
        self.same("normal differs from A^H A", op.normal(x), op.adjoint(ax), tol)
        c = op.isometry
        if c is not None:
            self.same(f"isometry {c}, but A^H A is not c^2 I", op.adjoint(ax), c**2 * x, tol)
            self.same(f"isometry {c}, but A A^H is not c^2 I", op(aty), c**2 * y, tol)
        apply = op.preconditioner(0.7)
        if apply is not None:
            left, right = inner(apply(x), x2, nx), inner(x, apply(x2), nx)
            self.same(
                "preconditioner is not symmetric", left, right, tol, norm(x, nx).max() * norm(apply(x2), nx).max()
            )
            if not bool((inner(apply(x), x, nx) > 0).all()):
                raise AssertionError(f"{self.name}: preconditioner is not positive definite")

    def dense(self, op: LinearOperator) -> None:
        """The matrix of the adjoint is the transpose of the matrix."""
        self.same("dense matrix of A^H is not the transpose", op.H.as_matrix(), op.as_matrix().T, DOUBLE)

    def svd(self, op: LinearOperator) -> None:
        """The decomposition, when there is one; the refusal, when there is none."""
        if not op.has_svd():
            try:
                op.svd()
            except Unsupported:
                return
            raise AssertionError(f"{self.name}: has_svd() is False, but svd() answers")
        x, y = self.draw(op.domain, 0, True), self.draw(op.codomain, 2, True)
        base, tol = op.svd(), DOUBLE
        s, v = base.s, base.V
        if not bool((s >= 0).all()):
            raise AssertionError(f"{self.name}: a singular value is negative")
        normal, vhx = op.adjoint(op(x)), v.adjoint(x)
        size = norm(normal, len(op.domain.shape)).max() + norm(x, len(op.domain.shape)).max()
        c = self.draw(v.domain, 3, True)
        left, right = inner(v(c), x, len(v.codomain.shape)), inner(c, vhx, len(v.domain.shape))
        self.same("V^H is not the adjoint of V", left, right, tol, size * norm(c, len(v.domain.shape)).max())
        self.same("V V^H is not the identity", v(vhx), x, tol)
        self.same("A^H A is not V s^2 V^H", base.apply(s**2, x), normal, tol, size)
        resolvent = base.apply(1 / (1 + s**2), x)
        self.same("V f(s^2) V^H is not f(A^H A) for f = 1/(1 + .)", resolvent + op.normal(resolvent), x, tol, size)
        if v.isometry is not None:
            self.same(f"V.isometry is {v.isometry}, but V^H V is not the identity", v.adjoint(v(c)), c, tol)
        self.same("A is not U s V^H", base.U(s * vhx), op(x), tol)
        self.same("s U^H is not V^H A^H", s * base.Uh(y), v.adjoint(op.adjoint(y)), tol)
        uc = inner(base.U(c), y, len(op.codomain.shape))
        self.same("U^H is not the adjoint of U", uc, inner(c, base.Uh(y), len(v.domain.shape)), tol, uc.abs().max() + 1)
        plus = base.pinv
        ax, z = op(x), plus(y)
        self.same("A A+ A is not A", op(plus(ax)), ax, tol)
        self.same("A+ A A+ is not A+", plus(op(z)), z, tol)
        y2, nx, ny = self.draw(op.codomain, 4, True), len(op.domain.shape), len(op.codomain.shape)
        self.same(
            "A A+ is not symmetric", inner(op(z), y2, ny), inner(y, op(plus(y2)), ny), tol, norm(y, ny).max() ** 2
        )
        x2 = self.draw(op.domain, 5, True)
        left, right = inner(plus(ax), x2, nx), inner(x, plus(op(x2)), nx)
        self.same("A+ A is not symmetric", left, right, tol, norm(x, nx).max() ** 2)

    def derivative(self, op: Operator) -> None:
        """The vector-Jacobian product against central differences."""
        x, h, v = self.draw(op.domain, 0, True), self.draw(op.domain, 1, True), self.draw(op.codomain, 2, True)
        step = 1e-5
        slope = (op(x + step * h) - op(x - step * h)) / (2 * step)
        measured = inner(slope, v, len(op.codomain.shape))
        claimed = inner(op.vjp(x, v), h, len(op.domain.shape))
        size = norm(slope, len(op.codomain.shape)).max() * norm(v, len(op.codomain.shape)).max()
        self.same("vjp differs from finite differences", claimed, measured, 1e-6, size)

    def fake(self) -> None:
        """No stray CPU tensor with all buffers on a GPU."""
        with FakeCuda() as gpu:
            op = gpu.put(self.op)
            x = torch.empty((self.batch, *op.domain.shape), dtype=op.domain.dtype, device=gpu.device)
            with gpu.guard(f"{self.name}.forward"):
                y = op(x)
                gpu.check(y, f"{self.name}.forward")
            with gpu.guard(f"{self.name}.vjp"):
                gpu.check(op.vjp(x, y), f"{self.name}.vjp")
            if isinstance(op, LinearOperator):
                with gpu.guard(f"{self.name}.adjoint"):
                    gpu.check(op.adjoint(y), f"{self.name}.adjoint")
                    gpu.check(op.normal(x), f"{self.name}.normal")
                if op.has_svd():
                    with gpu.guard(f"{self.name}.svd"):
                        base = op.svd()
                        gpu.check(base.apply(base.s**2, x), f"{self.name}.svd")
                        gpu.check(base.pinv(y), f"{self.name}.svd().pinv")


def promote(op: Operator) -> Operator:
    """A copy whose floating buffers and parameters are in double precision, complex ones included."""
    return copy.deepcopy(op)._apply(lambda t: t.to(precise(t.dtype)))


def precise(dtype: torch.dtype) -> torch.dtype:
    """The double-precision dtype of the same kind; integers and booleans unchanged."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def norm(x: Tensor, ndim: int) -> Tensor:
    """Euclidean norm over the last ``ndim`` axes."""
    return inner(x, x, ndim).sqrt()


def close(what: str, a: Tensor, b: Tensor, tol: float, scale: Tensor | None = None) -> None:
    """Raise `AssertionError` unless ``|a - b| <= tol * scale``; ``scale`` is by default the largest entry."""
    if a.shape != b.shape:
        raise AssertionError(f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if scale is None:
        scale = torch.maximum(a.abs().max(), b.abs().max())
    error = float((a - b).abs().max() / (scale + torch.finfo(scale.dtype).tiny)) if a.numel() else 0.0
    if not error <= tol:
        raise AssertionError(f"{what}: relative error {error:.2e}, allowed {tol:.0e}")


def expect_refusal(what: str, call: object) -> None:
    """Raise `AssertionError` unless calling raises `MismatchError`."""
    try:
        call()  # type: ignore[operator]
    except MismatchError:
        return
    except SciinvError as error:
        raise AssertionError(f"{what}: refused with {type(error).__name__}, not MismatchError") from error
    raise AssertionError(f"{what}: accepted, but must be refused before the first step")
