"""The unit of the image and where the object is, both from undersampled data.

A prior knows images whose 99th percentile is about one. The fully sampled percentile is not available to a user; that
of a lightly regularised SENSE image is within 10 % of it, nearer than the zero-filled image's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sciinv.linalg import cg
from sciinv.operator import LinearOperator


def tikhonov(operator: LinearOperator, y: Tensor, lam: float, max_iter: int = 60) -> Tensor:
    """``(A^H A + lam)^-1 A^H y``: exactly where the operator offers its decomposition, else by conjugate gradients."""
    b = operator.adjoint(y)
    if operator.has_svd():
        svd = operator.svd()
        return svd.apply(1 / (svd.s**2 + lam), b)
    out = cg(
        lambda v: v + operator.normal(v) / lam,
        b[None] / lam,
        tol=1e-5,
        max_iter=max_iter,
        precondition=operator.preconditioner(1 / lam),
    )
    return out.x[0]


def percentile(image: Tensor, q: float = 0.99) -> float:
    """The ``q`` quantile of ``|image|``, map sets combined by root sum of squares."""
    magnitude = image.abs() if image.ndim == 2 else image.abs().square().sum(0).sqrt()
    return float(np.quantile(magnitude.cpu().numpy(), q))


def support(image: Tensor, level: float = 0.12) -> Tensor:
    """Where the object is, bool ``(h, w)``: the largest region above ``level`` of the 99th percentile, filled."""
    magnitude: NDArray[np.float32] = (
        (image.abs() if image.ndim == 2 else image.abs().square().sum(0).sqrt()).cpu().numpy()
    )
    smooth = ndimage.gaussian_filter(magnitude, 1.5)
    inside = ndimage.binary_opening(smooth > level * np.quantile(magnitude, 0.99), iterations=2)
    labels, count = ndimage.label(inside)
    if count > 1:
        inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(inside, iterations=2))
    return torch.as_tensor(np.asarray(filled, dtype=bool))
