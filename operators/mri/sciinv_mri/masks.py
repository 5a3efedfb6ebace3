"""Sampling patterns, the calibration region of an arbitrary one, and retrospective undersampling.

Accelerations are net: places that the scanner could have measured (``KSpace.ky_range``) over places kept, calibration
included.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv_mri.io.kspace import KSpace

Bools = NDArray[np.bool_]
Kind = Literal["random", "equispaced", "poisson", "elliptical"]


def random_lines(
    n: int, keep: int, calib: int, seed: int, *, power: float = 2.0, window: tuple[int, int] | None = None
) -> Bools:
    """Variable-density random lines: ``keep`` of ``n``, the central ``calib`` among them.

    Outside the centre a line at relative distance r from it is drawn, without replacement, with weight ``(1 -
    r)^power + 0.05``.
    """
    mask, outside = _with_centre(n, calib, window)
    r = np.abs(outside - n // 2) / max(n // 2, 1)
    weight = (1 - r).clip(0) ** power + 0.05
    extra = _extra(keep, calib, len(outside))
    chosen = np.random.default_rng(seed).choice(outside, extra, replace=False, p=weight / weight.sum(), shuffle=False)
    mask[chosen] = True
    return mask


def equispaced_lines(n: int, keep: int, calib: int, seed: int, *, window: tuple[int, int] | None = None) -> Bools:
    """Equally spaced lines with a random offset plus the central ``calib``; exactly ``keep`` in total."""
    mask, outside = _with_centre(n, calib, window)
    extra = _extra(keep, calib, len(outside))
    step = len(outside) / max(extra, 1)
    start = np.random.default_rng(seed).uniform(0, step)
    mask[outside[np.floor(start + step * np.arange(extra)).astype(int).clip(max=len(outside) - 1)]] = True
    return mask


def elliptical(shape: tuple[int, int]) -> Bools:
    """The ellipse inscribed in k-space: the shutter of 3-D scans, which leaves the corners out."""
    ky, kx = (((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in shape)
    return ky[:, None] + kx <= 1.0


def poisson_disc(shape: tuple[int, int], acceleration: float, calib: int, seed: int) -> Bools:
    """Variable-density Poisson-disc points inside the ellipse, by sigpy; acceleration within about 10 %."""
    from sigpy.mri import poisson  # an import of a second, wanted only here

    mask = poisson(shape, acceleration, calib=(calib, calib), dtype=bool, seed=seed, tol=0.1)
    return np.asarray(mask, dtype=bool)


def undersample(
    data: KSpace, acceleration: float, calib_lines: int = 8, kind: Kind = "random", seed: int = 0
) -> KSpace:
    """Keep a part of fully sampled data.

    Parameters
    ----------
    data : k-space; only places that were measured can be kept.
    acceleration : net acceleration, at least 1; ignored by ``elliptical``.
    calib_lines : fully sampled central lines (edge of the central square for ``poisson``).
    kind : ``random`` or ``equispaced`` whole readouts, ``poisson`` points or an ``elliptical`` shutter.
    seed : of the pattern; the same for every slice.

    Returns
    -------
    KSpace
        With zeros and a False mask where nothing is kept, and the pattern recorded in ``meta``.
    """
    if kind not in get_args(Kind):
        raise UsageError("unknown sampling pattern", expected=", ".join(get_args(Kind)), found=str(kind))
    if acceleration < 1:
        raise UsageError("acceleration", expected="at least 1", found=str(acceleration))
    *_, rows, columns = data.kspace.shape
    left, right = data.ky_range
    if kind in ("random", "equispaced"):
        lines = random_lines if kind == "random" else equispaced_lines
        keep = round((right - left) / acceleration)
        pattern = lines(columns, keep, calib_lines, seed, window=data.ky_range)[None]
    else:
        pattern = (
            elliptical((rows, columns))
            if kind == "elliptical"
            else poisson_disc((rows, columns), acceleration, calib_lines, seed)
        )
    mask = data.mask & pattern
    meta = {
        **data.meta,
        "retrospective": {"kind": kind, "acceleration": acceleration, "calib_lines": calib_lines, "seed": seed},
    }
    kspace = np.where(mask[:, None], data.kspace, np.zeros((), data.kspace.dtype))
    return dc.replace(data, kspace=kspace, mask=mask, meta=meta)


def calibration_region(mask: Bools) -> tuple[slice, slice]:
    """The largest fully sampled rectangle around the centre of a ``(kx or 1, ky)`` mask, as slices.

    A mask of whole readouts (first axis of length 1) gives ``slice(None)`` there: the whole readout calibrates.
    """
    if mask.shape[0] == 1:
        left, right = _run(mask[0], mask.shape[1] // 2)
        return slice(None), slice(left, right)
    rows, columns = (n // 2 for n in mask.shape)
    top, bottom = _run(mask[:, columns], rows)
    if bottom <= top:
        return slice(rows, rows), slice(columns, columns)
    runs = np.array([_run(row, columns) for row in mask[top:bottom]])
    middle = rows - top
    # limits that hold for every row between this one and the middle
    lefts = np.concatenate(
        [np.maximum.accumulate(runs[middle::-1, 0])[::-1], np.maximum.accumulate(runs[middle:, 0])[1:]]
    )
    rights = np.concatenate(
        [np.minimum.accumulate(runs[middle::-1, 1])[::-1], np.minimum.accumulate(runs[middle:, 1])[1:]]
    )
    lo, hi = np.arange(middle + 1)[:, None], np.arange(middle, len(runs))[None]
    width = np.minimum(rights[lo], rights[hi]) - np.maximum(lefts[lo], lefts[hi])
    a, b = np.unravel_index(np.argmax((hi - lo + 1) * width), width.shape)
    b += middle
    return slice(top + int(a), top + int(b) + 1), slice(int(max(lefts[a], lefts[b])), int(min(rights[a], rights[b])))


def centred(region: slice, n: int) -> slice:
    """The largest part of ``region`` whose own centre is that of an axis of length ``n``, as `crop_centre` counts."""
    if region == slice(None):
        return region
    before, after = n // 2 - region.start, region.stop - n // 2
    return slice(n // 2 - min(before, after), n // 2 + min(before + 1, after))


def calibration_or_error(mask: Bools, least: int = 4, where: str = "") -> tuple[slice, slice]:
    """`calibration_region`, refused when it is smaller than ``least`` along either axis."""
    region = calibration_region(mask)
    size = [n if s == slice(None) else s.stop - s.start for s, n in zip(region, mask.shape, strict=True)]
    short = size[1] if mask.shape[0] == 1 else min(size)
    if short < least:
        raise InputError(
            "the centre of k-space is not fully sampled, so coil maps cannot be estimated", where=where,
            expected=f"at least {least} adjacent central lines", found=str(short),
            hint="data with calibration lines (ACS), or a larger --set calib when simulating",
        )  # fmt: skip
    return region


def _run(line: Bools, centre: int) -> tuple[int, int]:
    """The run of True around ``centre`` as ``[left, right)``; empty when the centre is False."""
    gaps = np.flatnonzero(~line)
    left = int(gaps[gaps <= centre].max(initial=-1)) + 1
    right = int(gaps[gaps >= centre].min(initial=len(line)))
    return left, max(left, right) if line[centre] else left


def _with_centre(n: int, calib: int, window: tuple[int, int] | None) -> tuple[Bools, NDArray[np.intp]]:
    left, right = window or (0, n)
    if not 0 <= calib <= right - left:
        raise UsageError("calibration lines", expected=f"0 to {right - left}", found=str(calib))
    mask = np.zeros(n, bool)
    start = n // 2 - calib // 2
    mask[max(start, left) : min(start + calib, right)] = True
    inside = np.arange(left, right)
    return mask, inside[~mask[inside]]


def _extra(keep: int, calib: int, available: int) -> int:
    if not calib <= keep <= calib + available:
        raise UsageError(
            "the calibration lines alone exceed the lines this acceleration keeps",
            expected=f"between {calib} and {calib + available} lines", found=str(keep),
            hint="fewer calibration lines or less acceleration",
        )  # fmt: skip
    return keep - calib
