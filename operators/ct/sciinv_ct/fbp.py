"""Filtered backprojection, in 1/mm: parallel, fan (flat, curved) and circular cone (Feldkamp).

Kak and Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3; Feldkamp, Davis and Kress (JOSA A 1,
612, 1984). With s the detector coordinate scaled to the axis of rotation, each row is weighted by
``D / sqrt(D^2 + s^2 + t^2)``, or ``D cos gamma`` on an arc, convolved with the band-limited ramp, and drawn back with
linear interpolation and ``D^2 / depth^2``. A line that is measured from both sides is shared by smooth weights
``c / (c + c')`` (Noo et al., Phys. Med. Biol. 47, 2525, 2002): one half each in a full turn, as with Parker in a short
scan.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sciinv.errors import Unsupported, UsageError
from sciinv.operator import Space
from sciinv_ct.geometry import Floats, Geometry

Window = Literal["ram-lak", "hann"]
PAD = 2  # zeros beyond each end of the detector, where rays that miss it land
TAPER = math.radians(10)  # least width of the smooth ends of an arc


def fbp(geometry: Geometry, y: Tensor, window: Window = "ram-lak", cutoff: float = 1.0) -> Tensor:
    """The image ``(*batch, *grid)`` in 1/mm of line integrals ``(*batch, *geometry.shape)``.

    Parameters
    ----------
    geometry : the scan; its columns must be neighbours.
    y : line integrals without unit; zero where nothing was measured.
    window : ``ram-lak`` for the bare ramp, ``hann`` to roll it off.
    cutoff : highest frequency that is kept, of the detector's Nyquist frequency.
    """
    g = geometry
    check(g, window, cutoff)
    Space(g.shape).check(y, "fbp")
    batch = y.shape[: y.ndim - len(g.shape)]
    flat = y.reshape(-1, *g.shape)
    weight = torch.from_numpy(view_weights(g)[:, None] * redundancy(g))  # (views, columns)
    before = torch.from_numpy(obliquity(g))  # (rows, columns), or (columns,)
    weighted = flat * (before * (weight[:, None] if g.volume else weight)).to(y)
    x = draw_back(filtered(weighted, g, window, cutoff), g)
    return x.reshape(*batch, *g.grid.shape)


def check(g: Geometry, window: str, cutoff: float) -> None:
    """Refuse what this formula does not invert."""
    if g.feed:
        raise Unsupported("filtered backprojection of a helix", hint="cgls, sirt or tv")
    if g.columns is not None and list(g.columns) != list(range(g.columns[0], g.columns[-1] + 1)):
        raise Unsupported("filtered backprojection needs neighbouring detector columns", hint="cgls, sirt or tv")
    if window not in ("ram-lak", "hann") or not 0 < cutoff <= 1:
        raise UsageError(
            "no such filter", expected="ram-lak or hann, cutoff in (0, 1]", found=f"{window!r}, cutoff {cutoff:g}"
        )


def period(g: Geometry) -> float:
    """Angle after which the same lines come again, radians."""
    return math.pi if g.kind == "parallel" else 2 * math.pi


def spacing(g: Geometry) -> tuple[Floats, Floats, bool]:
    """Views in order, the gap after each (radians, round the circle), and whether they go all round."""
    turned = np.mod(g.angles, period(g))
    order = turned.argsort(kind="stable")
    gaps = np.diff(turned[order], append=turned[order][0] + period(g))
    usual = np.median(gaps)
    return order.astype(np.float64), gaps, bool(gaps.max() <= max(3 * usual, 1e-6) or len(gaps) == 1)


def view_weights(g: Geometry) -> Floats:
    """Angle that each view stands for: half the gap on both sides; the missing wedge counts as a usual gap."""
    order, gaps, closed = spacing(g)
    if not closed:
        gaps = np.minimum(gaps, np.median(gaps))
    out = np.empty(len(gaps))
    out[order.astype(int)] = (gaps + np.roll(gaps, 1)) / 2
    return out


def fan_angle(g: Geometry) -> Floats:
    """Angle of each column from the central ray, radians."""
    return g.u() / g.source_detector if g.kind == "fan_curved" else np.arctan2(g.u(), g.source_detector)


def redundancy(g: Geometry) -> Floats:
    """Weight of each ray ``(views, columns)``; those of the two ways to measure a line add up to one."""
    one = np.ones((len(g.angles), len(g.u())))
    if g.kind == "parallel":
        return one
    order, gaps, closed = spacing(g)
    if closed:
        return one / 2
    last = int(gaps.argmax())
    start = np.mod(g.angles, 2 * math.pi)[int(order[(last + 1) % len(gaps)])]
    beta = np.mod(g.angles - start + 1e-9, 2 * math.pi)[:, None]
    arc = float(beta.max())
    taper = max(arc - math.pi, TAPER) / 2

    def trust(at: Floats) -> Floats:
        ends = np.minimum(at, arc - at) + 1e-6
        return np.where(ends < 0, 0.0, np.sin(np.clip(ends / taper, 0, 1) * math.pi / 2) ** 2)

    # the same line from its other side: the ray -gamma of the view beta + pi - 2 gamma
    other = trust(np.mod(beta + math.pi - 2 * fan_angle(g)[None], 2 * math.pi))
    return np.asarray(trust(beta) / (trust(beta) + other))


def obliquity(g: Geometry) -> Floats:
    """The weight of each cell before the filter."""
    if g.kind == "parallel":
        return np.ones(len(g.u()))
    if g.kind == "fan_curved":
        return np.asarray(g.source_origin * np.cos(fan_angle(g)))
    u, v, far = g.u(), g.v()[:, None], g.source_detector
    weight = far / np.sqrt(far**2 + u**2 + (v**2 if g.volume else 0 * v))
    return np.asarray(weight if g.volume else weight[0])


def filtered(y: Tensor, g: Geometry, window: Window, cutoff: float) -> Tensor:
    """Every detector row convolved with the ramp, whose samples are exact: no offset at frequency zero."""
    n = y.shape[-1]
    size = 1 << (2 * n - 1).bit_length()
    k = np.minimum(np.arange(size), size - np.arange(size))
    if g.kind == "fan_curved":
        step = g.pitch_column / g.source_detector
        distance = np.sin(k * step)
    else:
        step = g.pitch_column * (1.0 if g.kind == "parallel" else g.source_origin / g.source_detector)
        distance = k * step
    ramp = np.zeros(size)
    odd = (k % 2 == 1) & (k < n)
    ramp[odd] = -1 / (math.pi * distance[odd]) ** 2
    ramp[0] = 1 / (4 * step**2)
    response = torch.from_numpy(np.fft.rfft(ramp).real * step).to(y)
    f = torch.linspace(0, 1, size // 2 + 1, dtype=y.dtype, device=y.device)
    if window == "hann":
        response = response * (0.5 + 0.5 * torch.cos(math.pi * f / cutoff))
    response = response * (f <= cutoff)
    return torch.fft.irfft(torch.fft.rfft(y, size) * response, size)[..., :n]


def draw_back(q: Tensor, g: Geometry) -> Tensor:
    """``sum_v q_v(u(pixel)) / depth^2`` by linear interpolation, ``(m, *grid)``; one view at a time."""
    x, y, z = (torch.from_numpy(t).to(q) for t in g.grid.axes())
    y, z = y[:, None], z[:, None, None]
    table = pad(q, (PAD, PAD, PAD, PAD) if g.volume else (PAD, PAD)).flatten(2)
    n, width = g.shape[-1], g.shape[-1] + 2 * PAD
    first = 0 if g.columns is None else g.columns[0]
    middle = (g.n_columns - 1) / 2 - g.offset / g.pitch_column - first
    out = q.new_zeros((q.shape[0], *g.grid.shape))
    far, source = g.source_detector, g.source_origin
    for view, (angle, height) in enumerate(zip(g.angles.tolist(), g.height().tolist(), strict=True)):
        cos, sin = math.cos(angle), math.sin(angle)
        across, depth = y * sin + x * cos, source + y * cos - x * sin
        if g.kind == "parallel":
            at = across.mul_(1 / g.pitch_column).add_(middle)
        elif g.kind == "fan_curved":
            at = torch.atan2(across, depth).mul_(far / g.pitch_column).add_(middle)
        else:
            at = (across / depth).mul_(far / g.pitch_column).add_(middle)
        low = at.floor()
        part, index = at.sub_(low), low.clamp_(-PAD, n).to(torch.int64).add_(PAD)
        rows = table[:, view]
        if g.volume:
            rise = ((z - height) / depth).mul_(far / g.pitch_row)
            rise = rise.add_((g.n_rows - 1) / 2 - g.offset_row / g.pitch_row)
            level = rise.floor()
            up = rise.sub_(level)
            index = index + level.clamp_(-PAD, g.n_rows).to(torch.int64).add_(PAD).mul_(width)
            value = torch.lerp(_lerp(rows, index, part), _lerp(rows, index + width, part), up)
        else:
            value = _lerp(rows, index, part)
        if g.kind == "fan_curved":  # the distance itself; the D of `obliquity` stands in the numerator
            value.div_(across.square() + depth.square())
        elif g.kind != "parallel":
            value.mul_((source / depth).square_())
        out.add_(value)
    return out


def _lerp(rows: Tensor, index: Tensor, part: Tensor) -> Tensor:
    """Between entries ``index`` and ``index + 1`` of every row of ``(m, n)``; ``(m, *index.shape)``."""
    flat = index.flatten()
    low, high = rows.index_select(1, flat), rows.index_select(1, flat.add(1))
    return torch.lerp(low, high, part.expand(index.shape).flatten()).view(-1, *index.shape)
