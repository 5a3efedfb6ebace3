"""From a `Scan` to the readings of one slice on a grid: which views and cells, how noisy, in which unit.

Counts become photons ``(y - dark) / gain`` with the gain of the blank scans (variance over mean: photon transfer). A
line integral ``p = -log(y / I0)`` has variance ``(y + e^2) / y^2``; where only p is known the photons behind it follow
from the noise in air, ``sigma^2 exp(p)``. Beam hardening, scatter and the pixels leave an error that grows with p and
is no noise; it enters as ``model_error p``. Polychromatic models are out of scope; for one material a polynomial
straightens the line integrals (`hardening`).
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from sciinv.errors import InputError, UsageError
from sciinv_ct.geometry import Geometry, Grid, offset_of_centre
from sciinv_ct.hardening import straight
from sciinv_ct.io.scan import Counts, Scan
from sciinv_ct.options import CTOptions

Floats = NDArray[np.float64]
LARGEST = 256
FEW_PHOTONS = 200.0
"""Below as many photons behind the object the logarithm of a count is neither unbiased nor Gaussian."""


@dc.dataclass(frozen=True)
class Readings:
    """One slice: what was measured, and the image grid.

    Attributes
    ----------
    geometry : with the kept views and cells.
    photons, blank, electronic : counts in photons ``(view, cell)``, blank scan ``(cell,)``, noise beyond that of
        photons ``(view, cell)``: read-out and model error; ``None`` where only line integrals are known.
    lines, sigma : line integrals and their standard deviations ``(view, cell)``.
    full : readings of all views on the same grid, where the options left some out.
    truth : image ``(rows, columns)`` in 1/mm, of a retrospective study.
    """

    geometry: Geometry
    lines: Floats
    sigma: Floats
    photons: Floats | None = None
    blank: Floats | None = None
    electronic: Floats | None = None
    full: Readings | None = None
    truth: Floats | None = None
    gain: float = 1.0
    notes: tuple[str, ...] = ()


def readings(data: Scan, options: CTOptions) -> Readings:
    """The first slice of ``data`` as measured, thinned out and binned as the options say."""
    notes: list[str] = []
    beam, angles = data.beam, data.angles
    assert beam is not None and angles is not None
    cells = data.values.shape[2]
    live = np.ones(cells, bool)
    gain, counts = 1.0, None if data.counts is None else data.counts.select([0])
    if counts is not None:
        live = counts.white[0] > counts.dark[0]
        gain = _gain(counts, options, data.label, notes)
    if options.cells is not None:
        if options.cells[1] >= cells:
            raise UsageError("there are not so many cells", expected=f"up to {cells - 1}", found=str(options.cells))
        live[: options.cells[0]] = live[options.cells[1] + 1 :] = False
    if live.sum() < 2:
        raise InputError("no detector cell is left", where=data.label, expected="cells with white above dark")
    offset = beam.offset if options.centre < 0 else offset_of_centre(options.centre, cells, beam.pitch)
    reach = 0.5 * cells * beam.pitch - abs(offset)
    if beam.source_origin:
        angle = reach / beam.source_detector if beam.kind == "fan_curved" else math.atan2(reach, beam.source_detector)
        reach = beam.source_origin * math.sin(angle)
    if reach <= 0:
        raise InputError("the centre of rotation is off the detector", where=data.label, found=f"offset {offset:g} mm")
    fov = options.fov or 2 * reach
    size = options.size or min(LARGEST, max(16, round(fov * beam.magnification / beam.pitch)))
    grid = Grid((size, size), fov / size)
    step = options.bin or max(1, round(grid.pixel * beam.magnification / beam.pitch))
    step = min(step, cells // 2)
    kept = _views(angles, options)
    wide = (cells // step) * step  # cells beyond the last whole bin are dropped, and the detector's middle moves
    offset -= 0.5 * (cells - wide) * beam.pitch
    geometry = Geometry(
        beam.kind, angles, wide // step, beam.pitch * step, grid, beam.source_origin, beam.source_detector, offset
    )
    good, values = live[:wide], data.values[0, :, :wide].astype(np.float64)
    columns = np.flatnonzero(good.reshape(-1, step).any(1))
    geometry = geometry.subset(columns=columns)

    def pool(a: NDArray[Any], total: bool) -> Floats:
        """Sum or mean over the live cells of each bin."""
        a = np.where(good, a, 0).reshape(*a.shape[:-1], -1, step).sum(-1)[..., columns]
        return a if total else a / good.reshape(-1, step).sum(1)[columns]

    if counts is None:
        lines = pool(values, False)
        whole = Readings(geometry, *_straightened(lines, _spread(lines, kept, options), options), notes=tuple(notes))
    else:
        dark = counts.dark[0, :wide]
        photons, blank = pool((values - dark) / gain, True), pool((counts.white[0, :wide] - dark) / gain, True)
        noise = 0.0 * dark if counts.dark_variance is None else counts.dark_variance[0, :wide] / gain**2
        whole = _counted(geometry, photons, blank, np.sqrt(pool(noise, True)), options, gain, notes)
    if len(kept) == len(angles):
        return whole
    return dc.replace(thin(whole, kept), full=whole)


def thin(whole: Readings, views: NDArray[np.int64]) -> Readings:
    """Some of the views."""
    return dc.replace(
        whole, geometry=whole.geometry.subset(views=views), lines=whole.lines[views], sigma=whole.sigma[views],
        photons=None if whole.photons is None else whole.photons[views],
        electronic=None if whole.electronic is None else whole.electronic[views],
    )  # fmt: skip


def scan_of_image(shape: tuple[int, int], pixel: float, options: CTOptions) -> Geometry:
    """A scan that sees the whole image, a cell a pixel: what is simulated of images."""
    grid = Grid(shape, pixel)
    angles = np.deg2rad(options.full_arc) * np.arange(options.full_views) / options.full_views
    angles = angles[_views(angles, options)]
    if options.beam == "parallel":
        return Geometry("parallel", angles, math.ceil(2 * grid.radius / pixel), pixel, grid)
    near, far = options.source_origin, options.source_detector
    if not grid.radius < near < far:
        raise UsageError(
            "the source would move through the image", expected=f"source_origin from {grid.radius:.4g} mm on, below "
            "source_detector", found=f"{near:g}, {far:g} mm",
        )  # fmt: skip
    pitch = pixel * far / near
    half = far * grid.radius / math.sqrt(near**2 - grid.radius**2)
    return Geometry("fan", angles, math.ceil(2 * half / pitch), pitch, grid, near, far)


def simulated(lines: Floats, geometry: Geometry, options: CTOptions, item: int) -> Readings:
    """Counts behind the line integrals of an image, with noise."""
    rng = np.random.default_rng([options.seed, item, 41])
    rate = options.photons * np.exp(-lines)
    photons = rng.poisson(rate) + options.electronic * rng.normal(size=rate.shape)
    blank = np.full(lines.shape[1], float(options.photons))
    return _counted(geometry, photons, blank, np.full(lines.shape[1], options.electronic), options, 1.0, [])


def resampled(image: Floats, size: int) -> Floats:
    """A square image on ``size x size`` pixels over the same square: means over what a pixel covers."""
    n = len(image)
    if n == size:
        return image
    share = shares(n, size)
    return np.asarray(share @ image @ share.T)


def shares(n: int, size: int) -> Floats:
    """What of ``n`` equal cells each of ``size`` equal cells over the same length averages; ``(size, n)``."""
    edges = np.linspace(0, n, size + 1)
    share = np.clip(np.minimum(edges[1:, None], np.arange(1, n + 1)) - np.maximum(edges[:-1, None], np.arange(n)), 0, 1)
    return np.asarray(share / share.sum(1, keepdims=True))


def squared(image: Floats, pixel: tuple[float, float]) -> tuple[Floats, float]:
    """The image with square pixels on a square grid, air around it, and the side of a pixel."""
    if abs(pixel[0] / pixel[1] - 1) > 1e-3:
        small = min(pixel)
        image = np.asarray(zoom(image, (pixel[0] / small, pixel[1] / small), order=1))
        pixel = (small, small)
    n = max(image.shape)
    out = np.zeros((n, n))
    top, left = (n - image.shape[0]) // 2, (n - image.shape[1]) // 2
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out, pixel[0]


def unit_of(whole: Readings) -> float:
    """Attenuation of the object in 1/mm, from its shadows: line integrals over the chords of discs with such shadows.

    Exact for a homogeneous disc however few views there are; holes do not matter, as the 90th percentile is taken.
    """
    g = whole.geometry
    u = g.u()
    if g.source_origin:
        slope = u / g.source_detector
        s = g.source_origin * (np.sin(slope) if g.kind == "fan_curved" else slope / np.hypot(1, slope))
    else:
        s = u
    inside = whole.lines > 0.05 * float(np.quantile(whole.lines, 0.99))
    ratios = []
    for p, seen in zip(whole.lines, inside, strict=True):
        at = np.flatnonzero(seen)
        if len(at) < 4:
            continue
        low, high = s[at[0]], s[at[-1]]
        half, middle = 0.5 * (high - low) * len(at) / (len(at) - 1), 0.5 * (high + low)  # cells are not points
        place = (s - middle) / half
        use = np.abs(place) < 0.9
        ratios.append(p[use] / (2 * half * np.sqrt(1 - place[use] ** 2)))
    if not ratios:
        raise InputError("the projections show no object", expected="line integrals above zero",
                         found=f"at most {whole.lines.max():.3g}", hint="--set ct.scale=1/MM")  # fmt: skip
    return float(np.quantile(np.concatenate(ratios), 0.9))


def _views(angles: Floats, options: CTOptions) -> NDArray[np.int64]:
    """Indices of the views in the arc, thinned out evenly."""
    index = np.arange(len(angles))
    if options.arc:
        degrees = np.rad2deg(angles - angles[0]) - options.arc_start
        index = index[(degrees >= -1e-6) & (degrees <= options.arc + 1e-6)]
    if not len(index):
        raise UsageError("no view lies in the arc", found=f"{options.arc} degrees from {options.arc_start}")
    if options.views > len(index):
        raise UsageError("there are not so many views", expected=f"at most {len(index)}", found=str(options.views))
    if options.views:
        index = index[np.arange(options.views) * len(index) // options.views]
    return index


def _gain(counts: Counts, options: CTOptions, where: str, notes: list[str]) -> float:
    """Counts per photon."""
    given = options.gain or counts.gain or 0.0
    if given:
        return float(given)
    if counts.white_variance is None:
        notes.append("one blank frame shows no noise: a count is taken as a photon (--set ct.gain=COUNTS)")
        return 1.0
    dark = 0.0 if counts.dark_variance is None else counts.dark_variance[0]
    net = counts.white[0] - counts.dark[0]
    ratio = (counts.white_variance[0] - dark)[net > 0] / net[net > 0]
    found = float(np.median(ratio))
    if not found > 0:
        raise InputError("the blank scans show no photon noise", where=where, expected="variance above the dark one",
                         found=f"gain {found:.3g}", hint="--set ct.gain=COUNTS_PER_PHOTON")  # fmt: skip
    return found


def _counted(
    geometry: Geometry, photons: Floats, blank: Floats, electronic: Floats, options: CTOptions, gain: float,
    notes: list[str],
) -> Readings:  # fmt: skip
    if not blank.min() > 0 or not (photons > 0).any():
        raise InputError("the detector counted nothing", expected="photons in every cell of the blank scan")
    net = np.maximum(photons, 0.5)
    lines = -np.log(net / blank)
    variance = (np.maximum(photons, 1.0) + electronic**2) / net**2
    # the error of the model grows with the line integral; a mean over cells keeps its own noise out of the weights
    error = options.model_error * np.maximum(lines, 0)
    beyond = np.sqrt(electronic**2 + (error * net) ** 2)
    lines, sigma = _straightened(lines, np.sqrt(variance), options)
    return Readings(geometry, lines, sigma, photons, blank, beyond, gain=gain, notes=tuple(notes))


def _spread(lines: Floats, kept: NDArray[np.int64], options: CTOptions) -> Floats:
    """Noise of line integrals whose counts are not known, from the views that are kept."""
    air = options.sigma
    if not air:
        # what a parabola through neighbouring cells leaves; the readings in air know it better, where there is air
        p = lines[kept]
        rough = p[:, 2:-2] - (4 * (p[:, 1:-3] + p[:, 3:-1]) - p[:, :-4] - p[:, 4:]) / 6
        air = 1.4826 * float(np.median(np.abs(rough))) / math.sqrt(1 + (4 * 4 * 2 + 2) / 36)
        top = float(np.quantile(p, 0.99))
        empty = p[np.abs(p) < max(0.02 * top, 4 * air)]
        if len(empty) > 100:
            air = 1.4826 * float(np.median(np.abs(empty - np.median(empty))))
        air = max(air, 1e-4 * top, 1e-6)
    return np.asarray(air * np.exp(0.5 * np.clip(lines, 0, 20)))


def _straightened(lines: Floats, noise: Floats, options: CTOptions) -> tuple[Floats, Floats]:
    """Line integrals without hardening, and their standard deviation: noise and what the model leaves."""
    if options.hardening is not None:
        lines, slope = straight(lines, options.hardening)
        noise = noise * slope
    return lines, np.hypot(noise, options.model_error * np.maximum(lines, 0))
