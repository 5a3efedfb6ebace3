"""Images that differ by a shift, put on top of each other before they are averaged; and how alike two images are.

Closures do not change when the image moves, so samples of one posterior may lie anywhere and their mean would be a
blur. The shift of an image against a reference is where their cross-correlation ``c(s) = sum_k x_(k+s) r_k`` is largest
(zero outside the image, so nothing comes round the edge), in whole pixels: a whole shift changes no closure and no
pixel value. The reference is the mean of the images, found again after each round.

A turn by 180 degrees is left alone unless asked for: closure phases change sign under it, so data that hold phases tell
the two apart. Amplitudes alone cannot; `turn` then takes the better of the two for each image.

Likeness is the normalised cross-correlation at the best shift (EHT Collaboration 2019, ApJL 875 L4, equation 15):
``max_s <(x(.+s) - <x>) (r - <r>)> / (std(x) std(r))``, cyclic, so that a moved copy of an image has likeness one, with
the shift in steps of 1/`FINE` pixel by trigonometric interpolation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 5
FINE = 4


def align(images: Tensor, limit: int, *, turn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Shift every image by whole pixels onto the common mean.

    Parameters
    ----------
    images : real, ``(n, side, side)``.
    limit : largest shift in pixels, each way.
    turn : also turn an image by 180 degrees where that fits better.

    Returns
    -------
    aligned : like `images`, zero where nothing moved in.
    shift : ``(n, 2)`` rows and columns that each image lay away from where it is put.
    turned : ``(n,)`` bool.
    """
    shift, moved = torch.zeros(len(images), 2, dtype=torch.long, device=images.device), images
    for _ in range(ROUNDS):
        found, turned = onto(images, moved.mean(0), limit, turn=turn)
        if turned.double().mean() > 0.5:  # all turned is none turned
            found, turned = -found, ~turned
        found = found - found.double().mean(0).round().long()  # the common place is that of the samples
        found = found.clamp(-limit, limit)
        moved, before, shift = move(turn_round(images, turned), -found), shift, found
        if torch.equal(before, shift):
            break
    return moved, shift, turned


def onto(images: Tensor, reference: Tensor, limit: int, *, turn: bool = False) -> tuple[Tensor, Tensor]:
    """How each image, turned where that is better and allowed, lies off `reference`: ``(n, 2)``, ``(n,)`` bool."""
    found, height = best_shift(images, reference, limit)
    if not turn:
        return found, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    other, taller = best_shift(images.flip(-2, -1), reference, limit)
    turned = taller > height * (1 + 1e-5)  # a symmetric image stays as it is
    return torch.where(turned[:, None], other, found), turned


def turn_round(images: Tensor, turned: Tensor) -> Tensor:
    """Images ``(n, side, side)``, those that are `turned` by 180 degrees."""
    return torch.where(turned[:, None, None], images.flip(-2, -1), images)


def best_shift(images: Tensor, reference: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Where the cross-correlation with `reference` ``(side, side)`` is largest, ``(n, 2)`` rows, columns; its value."""
    scores = _correlation(images, reference, limit)
    height, at = scores.flatten(1).max(1)
    side = 2 * limit + 1
    return torch.stack([at // side, at % side], 1) - limit, height


def move(images: Tensor, by: Tensor) -> Tensor:
    """Each image ``(n, side, side)`` moved by ``(n, 2)`` whole rows and columns; zeros come in."""
    index, inside = [], []
    for axis in (0, 1):
        side = images.shape[-2 + axis]
        source = torch.arange(side, device=images.device) - by[:, axis, None]
        inside.append((source >= 0) & (source < side))
        index.append(source.clamp(0, side - 1))
    one = torch.arange(len(images), device=images.device)[:, None, None]
    taken = images[one, index[0][:, :, None], index[1][:, None, :]]
    return taken * (inside[0][:, :, None] & inside[1][:, None, :])


def likeness(images: Tensor, truth: Tensor, pixel_uas: float, blur_uas: float = 0.0, limit_uas: float = 32.0) -> Tensor:
    """Normalised cross-correlation with `truth` ``(side, side)`` at the best shift, ``(n,)`` in [-1, 1].

    Parameters
    ----------
    blur_uas : full width at half maximum of a Gaussian that both are blurred with.
    limit_uas : largest shift.
    """
    x, r = (blur(v.to(torch.float64), pixel_uas, blur_uas) for v in (images, truth))
    x, r = (v - v.mean((-2, -1), keepdim=True) for v in (x, r))
    norm = x.flatten(1).norm(dim=1) * r.norm()
    side = r.shape[-1]
    limit = min(round(FINE * limit_uas / pixel_uas), FINE * (side - 1) // 2)
    spectrum = torch.fft.fftshift(torch.fft.fft2(x) * torch.fft.fft2(r).conj(), (-2, -1))
    room = (FINE - 1) * side
    before = FINE * side // 2 - side // 2  # so that frequency zero stays in the middle
    padded = functional.pad(spectrum, (before, room - before, before, room - before))
    fine = torch.fft.ifft2(torch.fft.ifftshift(padded, (-2, -1))).real * FINE**2
    return _near(fine, limit).flatten(1).amax(1) / norm.clamp_min(1e-300)


def blur(images: Tensor, pixel_uas: float, fwhm_uas: float) -> Tensor:
    """Images ``(..., side, side)`` times a Gaussian beam; flux that leaves the image is lost."""
    if fwhm_uas <= 0:
        return images
    sigma = fwhm_uas / math.sqrt(8 * math.log(2)) / pixel_uas
    for axis in (-2, -1):
        place = torch.arange(images.shape[axis], dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        images = torch.tensordot(images, kernel, ([axis], [0])).movedim(-1, axis)
    return images


def _correlation(images: Tensor, reference: Tensor, limit: int) -> Tensor:
    """``sum_k x_(k+s) r_k`` for shifts up to `limit` each way, ``(n, 2 limit + 1, 2 limit + 1)``."""
    size = [2 * s for s in images.shape[-2:]]
    spectrum = torch.fft.rfft2(images, size) * torch.fft.rfft2(reference, size).conj()
    return _near(torch.fft.irfft2(spectrum, size), limit)


def _near(correlation: Tensor, limit: int) -> Tensor:
    """The lags from minus to plus `limit` of a cyclic correlation, in order."""
    lags = torch.arange(-limit, limit + 1, device=correlation.device)
    return correlation[:, lags % correlation.shape[-2]][:, :, lags % correlation.shape[-1]]
