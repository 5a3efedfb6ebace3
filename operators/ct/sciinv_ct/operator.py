"""The projector as the engine sees it: one channel, white noise of unit variance, prior units.

``x`` counts attenuation in units of ``scale`` (1/mm), the data are line integrals over their standard deviation:
``x -> weight * A (scale x)``.
"""

from __future__ import annotations

from torch import Tensor

from sciinv.operator import LinearOperator, Space
from sciinv_ct.projector import ProjectorBase


class LineIntegrals(LinearOperator):
    """``x (*batch, 1, rows, columns) -> weight * A(scale x)``, ``(*batch, 1, views, cells)``.

    Parameters
    ----------
    projector : images in 1/mm ``(rows, columns)`` to line integrals ``(views, cells)``.
    scale : 1/mm a unit of x.
    weight : one over the standard deviation of each line integral ``(views, cells)``, zero where nothing is known; or
        ``None`` for bare line integrals.
    """

    weight: Tensor | None
    projector: ProjectorBase

    def __init__(self, projector: ProjectorBase, scale: float, weight: Tensor | None = None):
        super().__init__(Space((1, *projector.domain.shape)), Space((1, *projector.codomain.shape)))
        self.projector, self.scale = projector, float(scale)
        self.register_buffer("weight", None if weight is None else (scale * weight))

    def forward(self, x: Tensor) -> Tensor:
        self.domain.check(x, "LineIntegrals")
        y = self.projector(x)
        return y * (self.scale if self.weight is None else self.weight)

    def adjoint(self, y: Tensor) -> Tensor:
        self.codomain.check(y, "LineIntegrals.adjoint")
        return self.projector.adjoint(y * (self.scale if self.weight is None else self.weight))

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^T v``."""
        return self.adjoint(v)
