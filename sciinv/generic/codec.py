"""Codecs: from a prior's real state to the image an operator sees.

``ChannelsToComplex``: ``x = c (u_0 + i u_1)`` for a state ``u`` of shape ``(2, *space)``. Under the real inner
product the map is ``c`` times a unitary one, so ``A^H A = A A^H = c^2 I`` (`isometry` is ``c``) and every
decomposition survives it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import SVD, Identity, LinearOperator, Space


class ChannelsToComplex(LinearOperator):
    """Two real channels (re, im) to one complex image, times a scale.

    Parameters
    ----------
    spatial_shape : shape of the image without the channel axis.
    scale : positive physical units per unit of the state.
    """

    unit: Tensor

    def __init__(self, spatial_shape: tuple[int, ...], scale: float = 1.0):
        if not 0 < scale < float("inf"):
            raise UsageError("codec scale must be positive and finite", found=str(scale))
        space = tuple(spatial_shape)
        super().__init__(Space((2, *space), torch.float32), Space(space, torch.complex64))
        self.scale = float(scale)
        self.isometry = self.scale
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        re, im = x.unbind(x.ndim - len(self.domain.shape))
        return torch.complex(re * self.scale, im * self.scale)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.stack((y.real, y.imag), y.ndim - len(self.codomain.shape)) * self.scale

    def svd(self) -> SVD:
        """``s`` is the constant scale; ``V`` is the identity on the state."""
        return SVD(self, self.unit * self.scale, Identity(self.domain))
