"""Classical reconstructions of a prepared slice, in the units of the sampler's images.

SENSE (Pruessmann et al. 1999) solves ``min |y - A x|^2 + lam |x|^2``; L1-wavelet (Lustig et al., MRM 58, 1182, 2007)
``min |y - A x|^2 / 2 + lam |Psi x|_1`` by sigpy's accelerated proximal gradient. Both see the data as they are,
without the map-error weights.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sciinv.diagnostics.metrics import psnr
from sciinv.problem import Problem
from sciinv_mri.problem import SENSE_STD, Prepared, build
from sciinv_mri.scale import tikhonov

SENSE_GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
L1_GRID = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)


def zero_filled(ready: Prepared) -> Tensor:
    """Coil combination with zeros where nothing was measured."""
    return ready.combine(ready.kspace)


def sense(ready: Prepared | Problem, lam: float | None = None) -> Tensor:
    """Tikhonov-regularised SENSE image ``([sets,] h, w)``; without ``lam`` the prior variance is ``SENSE_STD**2``.

    Of a `Problem`, its own weighted data are used.
    """
    if isinstance(ready, Problem):
        return tikhonov(ready.linear, ready.y, (ready.noise.sigma / SENSE_STD) ** 2 if lam is None else lam)
    if lam is None:
        return ready.sense
    operator, y, _ = build(unweighted(ready))
    return tikhonov(operator, y, lam)


def l1_wavelet(ready: Prepared, lam: float = 1e-3, max_iter: int = 200) -> Tensor:
    """L1-wavelet image ``(h, w)`` by sigpy (Daubechies 4), first map set."""
    import warnings

    from sigpy.mri.app import L1WaveletRecon

    y = ready.kspace.numpy()
    weights = np.ascontiguousarray(ready.mask.expand(ready.kspace.shape[1:]).numpy().astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pywavelets warns about the depth that sigpy chose
        x = L1WaveletRecon(y, ready.maps[0].numpy(), lam, weights=weights, max_iter=max_iter, show_pbar=False).run()
    return torch.as_tensor(np.asarray(x))


def best(
    method: Callable[[Prepared, float], Tensor], ready: Prepared, reference: Tensor, grid: Sequence[float]
) -> tuple[Tensor, float, float]:
    """Image, PSNR and ``lam`` at the ``lam`` of the grid that fits the reference best: for benchmarks only."""
    tried = [(method(ready, lam), lam) for lam in grid]
    scored = [(float(psnr(image.abs(), reference.abs())), lam, image) for image, lam in tried]
    value, lam, image = max(scored, key=lambda s: s[0])
    return image, value, lam


def unweighted(ready: Prepared) -> Prepared:
    """The same slice with one sigma everywhere: the data as a classical method sees them."""
    return dc.replace(ready, sigma=torch.full_like(ready.sigma, ready.thermal))
