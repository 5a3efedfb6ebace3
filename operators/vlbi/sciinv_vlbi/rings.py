"""Ring parameters of images, a batch at a time (after REx: EHT Collaboration 2019, ApJL 875 L4, section 9).

Around a centre, ``I(r, theta)`` has its ridge at ``r_pk(theta) = argmax_r I``. The centre is where the spread of the
ridge relative to its mean is smallest. Then, with theta from North through East,

* diameter ``d = 2 <r_pk>``, and its spread ``2 std(r_pk)``,
* width ``w = <FWHM_r of I(r, theta) - floor>``, ``floor = <I(RMAX, theta)>``,
* over ``r`` in ``[(d - w)/2, (d + w)/2]``: position angle ``arg <e_r>`` and asymmetry ``<|e_r|>`` with
  ``e_r = int I exp(i theta) dtheta / int I dtheta``,
* central brightness ``<I(r < 5 uas)> / <I(d/2, theta)>``.

Any image has such numbers, a ring or not; `ringness` says whether to look at them: the share of the circle whose ridge
is an inner maximum near ``d/2`` of at least `FAINT` of the brightest, times one minus the square of the central
brightness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

RMIN, RMAX = 5.0, 50.0  # uas: where a ridge is looked for
FAINT, NEAR = 0.1, 0.3  # a ridge counts above this share of its maximum, this close to d/2 (relative)
RING = 0.7  # ringness from which an image is called a ring
FINER = 3  # points a pixel of the interpolated image
REACH = 16.0  # uas: how far from the centroid the centre is looked for
_CHUNK = 16  # images at a time: bounds memory, not the result

PARAMETERS = ("diameter", "width", "position_angle", "asymmetry", "central_brightness")


def ring_parameters(images: Tensor | NDArray[np.floating], pixel_uas: float) -> dict[str, NDArray[np.float64]]:
    """Ring parameters of every image.

    Parameters
    ----------
    images : ``(n, side, side)`` or ``(n, 1, side, side)``, row 0 in the North, column 0 in the East, any unit.
    pixel_uas : micro-arcseconds.

    Returns
    -------
    dict
        ``(n,)`` arrays: ``diameter``, ``diameter_spread``, ``width``, ``x`` (East) and ``y`` (North) of the centre in
        micro-arcseconds, ``position_angle`` in degrees East of North in [0, 360), ``asymmetry``,
        ``central_brightness``, ``ringness`` in [0, 1].
    """
    x = torch.as_tensor(images).detach().to(torch.float32)
    x = x.reshape(-1, *x.shape[-2:])
    made = [_batch(part, pixel_uas) for part in x.split(_CHUNK)]
    return {key: torch.cat([part[key] for part in made]).double().cpu().numpy() for key in made[0]}


def is_ring(parameters: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Which images are rings, ``(n,)``."""
    return np.asarray(parameters["ringness"] >= RING)


def _batch(x: Tensor, pixel: float) -> dict[str, Tensor]:
    side = x.shape[-1]
    fine = functional.interpolate(
        x[:, None], size=[FINER * (s - 1) + 1 for s in x.shape[-2:]], mode="bicubic", align_corners=True
    )
    half = pixel * (side - 1) / 2  # from the middle to the outermost pixel's centre
    rmax = min(RMAX, half)
    centre = _centroid(x, pixel)
    for reach, step, angles, spacing in ((REACH, 3.2, 24, 2.0), (3.2, 1.07, 36, 1.0), (0.8, 0.4, 48, 1.0)):
        centre = _search(fine, half, rmax, centre, reach, step, angles, spacing)
    theta = torch.arange(180, device=x.device) * (2 * math.pi / 180)
    r = torch.arange(0, rmax + 0.25, 0.5, device=x.device)
    polar = _polar(fine, half, centre[:, None], theta, r)[:, 0]  # (n, theta, r)
    peak, height, inner = _ridge(polar, r)
    radius = peak.mean(-1)
    floor = polar[..., -1].mean(-1)
    width = _fwhm(polar - floor[:, None, None], r).mean(-1)
    annulus = (r >= radius[:, None] - width[:, None] / 2) & (r <= radius[:, None] + width[:, None] / 2)
    turn = torch.exp(1j * theta)[:, None]
    total = polar.sum(1)
    moment = (polar * turn).sum(1) / torch.maximum(total, 1e-3 * total.amax(-1, keepdim=True)).clamp_min(1e-20)
    moment = (moment * annulus).sum(-1) / annulus.sum(-1).clamp_min(1)
    disc = (r < RMIN) * r  # ring area grows with r
    central = (polar.mean(1) * disc).sum(-1) / disc.sum() / _at(polar, r, radius).clamp_min(1e-20)
    bright = height > FAINT * height.amax(-1, keepdim=True)
    near = (peak - radius[:, None]).abs() < NEAR * radius[:, None]
    closed = (inner & bright & near).float().mean(-1)
    return {
        "diameter": 2 * radius,
        "diameter_spread": 2 * peak.std(-1, correction=0),
        "width": width,
        "x": centre[:, 0],
        "y": centre[:, 1],
        "position_angle": torch.rad2deg(moment.angle()) % 360,
        "asymmetry": moment.abs(),
        "central_brightness": central,
        "ringness": closed * (1 - central.clamp(0, 1) ** 2),
    }


def _centroid(x: Tensor, pixel: float) -> Tensor:
    """East and north offset of the brightness centroid in uas, ``(n, 2)``."""
    x = x.clamp_min(0)
    place = [((s - 1) / 2 - torch.arange(s, device=x.device)) * pixel for s in x.shape[-2:]]
    total = x.sum((-2, -1)).clamp_min(1e-30)
    return torch.stack([(x.sum(-2) * place[1]).sum(-1) / total, (x.sum(-1) * place[0]).sum(-1) / total], -1)


def _polar(fine: Tensor, half: float, centres: Tensor, theta: Tensor, r: Tensor) -> Tensor:
    """``I(r, theta)`` about each centre ``(n, k, 2)``: ``(n, k, theta, r)``; zero outside the image."""
    east, north = theta.sin()[:, None] * r, theta.cos()[:, None] * r
    offset = torch.stack([east, north], -1)  # (theta, r, 2)
    grid = -(centres[:, :, None, None] + offset) / half  # columns run West, rows South
    n, k, t, q, _ = grid.shape
    return functional.grid_sample(fine, grid.reshape(n, k * t, q, 2), align_corners=True).reshape(n, k, t, q)


def _ridge(polar: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Radius and height of the maximum over ``r`` in [RMIN, last], refined by a parabola, and whether it is inside."""
    first = int((r < RMIN).sum())
    height, at = polar[..., first:].max(-1)
    at = at + first
    inside = (at > first) & (at < len(r) - 1)
    middle = at.clamp(1, len(r) - 2)
    low, top, high = (polar.gather(-1, (middle + d)[..., None])[..., 0] for d in (-1, 0, 1))
    curve = low - 2 * top + high
    shift = torch.where(curve < 0, 0.5 * (low - high) / curve.clamp_max(-1e-20), 0).clamp(-0.5, 0.5)
    return r[at] + torch.where(inside, shift, 0) * (r[1] - r[0]), height, inside


def _search(
    fine: Tensor, half: float, rmax: float, centre: Tensor, reach: float, step: float, angles: int, spacing: float
) -> Tensor:
    """The centre of least relative spread on a grid about `centre`, ``(n, 2)``."""
    theta = torch.arange(angles, device=fine.device) * (2 * math.pi / angles)
    r = torch.arange(RMIN - spacing, rmax + spacing / 2, spacing, device=fine.device)
    line = torch.arange(-reach, reach + step / 2, step, device=fine.device)
    tried = centre[:, None] + torch.cartesian_prod(line, line)
    peak, _, inside = _ridge(_polar(fine, half, tried, theta, r), r)
    # a ridge on the edge of the search is none: without this, the middle of a blob would have no spread at all
    cost = peak.std(-1, correction=0) / peak.mean(-1) + (~inside).float().mean(-1)
    return tried[torch.arange(len(tried), device=fine.device), cost.argmin(-1)]


def _fwhm(profile: Tensor, r: Tensor) -> Tensor:
    """Full width at half maximum about the maximum along the last axis, within the ends of `r`."""
    first = int((r < RMIN).sum())
    height, at = profile[..., first:].max(-1, keepdim=True)
    at = at + first
    index = torch.arange(len(r), device=r.device)
    below = profile < height / 2
    left = torch.where(below & (index < at), index, -1).amax(-1)
    right = torch.where(below & (index > at), index, len(r)).amin(-1)

    def crossing(low: Tensor, high: Tensor) -> Tensor:
        a, b = (profile.gather(-1, i.clamp(0, len(r) - 1)[..., None])[..., 0] for i in (low, high))
        share = ((height[..., 0] / 2 - a) / torch.where(a == b, 1, b - a)).clamp(0, 1)
        return (low + share) * (r[1] - r[0])

    inner = torch.where(left < 0, r[0], crossing(left, left + 1))
    outer = torch.where(right >= len(r), r[-1], crossing(right - 1, right))
    return outer - inner


def _at(polar: Tensor, r: Tensor, radius: Tensor) -> Tensor:
    """Mean over theta of I at `radius` ``(n,)``, linear in r."""
    mean = polar.mean(1)
    place = (radius / (r[1] - r[0])).clamp(0, len(r) - 1.001)
    low = place.long()
    a, b = (mean.gather(1, (low + d)[:, None])[:, 0] for d in (0, 1))
    return a + (place - low) * (b - a)
