"""Between sigpy's `Linop` (numpy, one sample) and our `LinearOperator` (torch, batched), both ways.

Complex operators agree as they are: sigpy's adjoint and ours are both that of ``<u, v>``, whose real part we use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sigpy import linop
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import LinearOperator, Space


class FromSigpy(LinearOperator):
    """A sigpy `Linop` on torch tensors; a batch is a loop, and gradients pass through by the adjoint."""

    def __init__(self, op: linop.Linop, dtype: torch.dtype = torch.complex64):
        super().__init__(Space(tuple(op.ishape), dtype), Space(tuple(op.oshape), dtype))
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """``op(x)``, host only."""
        return _Apply.apply(x, self.op, self.op.H)  # type: ignore[no-any-return]

    def adjoint(self, y: Tensor) -> Tensor:
        """``op.H(y)``."""
        return _Apply.apply(y, self.op.H, self.op)  # type: ignore[no-any-return]


class _Apply(torch.autograd.Function):
    """A linear map whose backward pass is its adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: linop.Linop, adjoint: linop.Linop) -> Tensor:
        ctx.pair = (adjoint, op)
        if x.device.type != "cpu":
            raise MismatchError(
                "a sigpy operator runs on the host", expected="a tensor on the cpu", found=str(x.device)
            )
        batch = x.shape[: x.ndim - len(op.ishape)]
        array = x.detach().resolve_conj().reshape(-1, *op.ishape).numpy()
        out = np.stack([np.asarray(op(part)) for part in array])
        return torch.from_numpy(out).to(x.dtype).reshape(*batch, *op.oshape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(grads[0], *ctx.pair), None, None


class ToSigpy(linop.Linop):  # type: ignore[misc]
    """One of our linear operators as a sigpy `Linop`, for sigpy's apps and solvers."""

    def __init__(self, op: LinearOperator):
        self.op = op
        super().__init__(list(op.codomain.shape), list(op.domain.shape))

    def _apply(self, x: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            return self.op(_tensor(x, self.op.domain.dtype)).numpy()

    def _adjoint_linop(self) -> linop.Linop:
        return ToSigpy(self.op.H)

    def _normal_linop(self) -> linop.Linop:
        return ToSigpy(_Normal(self.op))


class _Normal(LinearOperator):
    def __init__(self, op: LinearOperator):
        super().__init__(op.domain, op.domain)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op.normal(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.normal(y)


def _tensor(x: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
