"""From one slice of a `Scan` to a `Problem`: readings, units, operator and noise.

The unknown is ``(1, rows, columns)``, attenuation in units of ``meta["scale"]`` (1/mm). With Gaussian noise the data
are line integrals over their standard deviation, white; with Poisson noise they are photons and the operator gives bare
line integrals.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinv.errors import InputError, UsageError
from sciinv.noise import Gaussian, PoissonTransmission
from sciinv.operator import LinearOperator
from sciinv.problem import Problem
from sciinv_ct.fbp import fbp
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.io.scan import Scan
from sciinv_ct.operator import LineIntegrals
from sciinv_ct.options import CTOptions
from sciinv_ct.prepare import (
    FEW_PHOTONS,
    LARGEST,
    Readings,
    readings,
    resampled,
    scan_of_image,
    simulated,
    squared,
    unit_of,
)
from sciinv_ct.projector import Projector

SHADOW = 0.02
"""Part of the largest line integral below which a ray is taken to miss the object."""


def problem(data: Scan, item: int, options: CTOptions | None = None) -> Problem:
    """The inverse problem of slice ``item``.

    Returns
    -------
    Problem
        ``meta`` holds ``scale``, the facts of the scan, ``support`` (where no view sees past the object) and, where
        there is one, ``reference`` in 1/mm: the image that was projected, or the filtered backprojection of all views
        when some were left out.
    """
    options = options or CTOptions()
    options.check()
    if not 0 <= item < len(data):
        raise InputError("no such slice", where=data.label, expected=f"0 to {len(data) - 1}", found=str(item))
    ready = prepare(data, item, options)
    scale = options.scale or (data.mu_water if data.units == "HU" else unit_of(ready))
    projector = Projector(ready.geometry, memory=options.memory)
    poisson = ready.photons is not None and (
        options.noise == "poisson"
        or (options.noise == "auto" and float(np.quantile(ready.photons, 0.01)) < FEW_PHOTONS)
    )
    if options.noise == "poisson" and ready.photons is None:
        raise InputError("the file holds no counts", where=data.label, expected="counts and blank scans",
                         found="line integrals", hint="--set ct.noise=gaussian")  # fmt: skip
    if options.hardening is not None and (poisson or data.is_image):
        raise UsageError(
            "hardening straightens measured line integrals", expected="noise=gaussian and projections", found=(
                "simulated projections, which have none" if data.is_image else "counts, whose likelihood is Poisson's"
            ), hint="--set ct.noise=gaussian",
        )  # fmt: skip
    meta = _facts(ready, options, projector, scale, item) | {
        "noise_model": "poisson" if poisson else "gaussian", "data_units": data.units, "mu_water": data.mu_water,
    }  # fmt: skip
    if poisson:
        assert ready.photons is not None and ready.blank is not None and ready.electronic is not None
        noise = PoissonTransmission(_tensor(ready.blank)[0], electronic=_tensor(ready.electronic))
        return Problem(_tensor(ready.photons), LineIntegrals(projector, scale), noise, meta)
    weight = torch.from_numpy((1 / ready.sigma).astype(np.float32))
    y = _tensor(ready.lines / ready.sigma)
    return Problem(y, LineIntegrals(projector, scale, weight), Gaussian(1.0), meta, cg_tol=1e-3, cg_max_iter=300)


def prepare(data: Scan, item: int, options: CTOptions) -> Readings:
    """Measured or simulated readings of one slice."""
    data = data.select([item])
    if not data.is_image:
        found = readings(data, options)
        grid, truth = found.geometry.grid, data.reference
        if truth is None or abs(truth.shape[-1] * data.reference_pixel / (grid.pixel * grid.rows) - 1) > 1e-3:
            return found
        return dc.replace(found, truth=resampled(truth[0].astype(np.float64), grid.rows))
    assert data.place is not None
    image, pixel = squared(data.values[0].astype(np.float64), data.place.pixel)
    fine = scan_of_image(image.shape, pixel, options)
    lines = Projector(fine, memory=options.memory)(torch.from_numpy(image.astype(np.float32))).double().numpy()
    size = options.size or min(LARGEST, len(image))
    step = max(1, round(len(image) / size))
    grid = Grid((size, size), pixel * len(image) / size)
    coarse, lines = _binned(fine, lines, step)
    wide = dc.replace(options, photons=options.photons * step, electronic=options.electronic * step**0.5)
    made = simulated(lines, coarse.on(grid), wide, item)
    notes = list(made.notes)
    if size == len(image):
        notes.append("the projections were simulated on the reconstruction's own grid, which flatters it")
    return dc.replace(made, truth=resampled(image, size), notes=tuple(notes))


def _binned(g: Geometry, lines: np.ndarray, step: int) -> tuple[Geometry, np.ndarray]:
    """Transmissions averaged over ``step`` cells, as a coarser detector sees them."""
    if step == 1:
        return g, lines
    cells = math.ceil(g.n_columns / step)
    wide = cells * step
    padded = np.pad(lines, ((0, 0), (0, wide - g.n_columns)))
    mean = -np.log(np.exp(-padded).reshape(len(lines), cells, step).mean(2))
    offset = g.offset + 0.5 * (wide - g.n_columns) * g.pitch_column
    return dc.replace(g, cells=cells, pitch=g.pitch_column * step, offset=offset), mean


def _facts(ready: Readings, options: CTOptions, projector: LinearOperator, scale: float, item: int) -> dict[str, Any]:
    g = ready.geometry
    span = float(np.rad2deg(g.angles.max() - g.angles.min()))
    seen = ready.lines[ready.lines > SHADOW * float(ready.lines.max())]
    meta: dict[str, Any] = {
        "scale": scale,
        "units": "1/mm",
        "beam": g.kind,
        "views": len(g.angles),
        "cells": g.shape[1],
        "arc_degrees": span,
        "pixel_mm": g.grid.pixel,
        "line_std": float(np.median(ready.sigma)),
        "signal": float(np.median(seen)) if seen.size else 0.0,
        "model_error": options.model_error,
        "gain": ready.gain,
        "n_data": math.prod(g.shape),
        "slice": item,
        "support": hull(projector, ready.lines)[None],
        "warnings": list(ready.notes),
    }
    if ready.photons is not None:
        meta["photons_least"] = float(np.quantile(ready.photons, 0.01))
    if ready.truth is not None:
        meta["reference"] = torch.from_numpy(ready.truth.astype(np.float32))[None]
    elif ready.full is not None:
        meta["views_full"] = len(ready.full.geometry.angles)
        meta["reference"] = fbp(*whole_rows(ready.full.geometry, _tensor(ready.full.lines)))
    return meta


def baseline(problem: Problem) -> Tensor:
    """Filtered backprojection (Hann) of a problem's own data, ``(1, rows, columns)`` in its units."""
    lines = problem.operator
    assert isinstance(lines, LineIntegrals)
    data = problem.noise.linearised(problem.y)[0]
    if lines.weight is not None:
        data = data * lines.scale / lines.weight
    return fbp(*whole_rows(lines.projector.geometry, data), "hann") / lines.scale


def whole_rows(g: Geometry, data: Tensor) -> tuple[Geometry, Tensor]:
    """Geometry and line integrals with straight lines over dead cells: filtered backprojection wants neighbours."""
    if g.columns is None or len(g.columns) == g.columns[-1] - g.columns[0] + 1:
        return g, data
    kept, every = np.array(g.columns), np.arange(g.columns[0], g.columns[-1] + 1)
    flat = data.reshape(-1, len(kept)).cpu().numpy()
    filled = np.stack([np.interp(every, kept, row) for row in flat]).astype(np.float32)
    filled = filled.reshape(*data.shape[:-1], len(every))
    return dc.replace(g, columns=tuple(int(k) for k in every)), torch.from_numpy(filled).to(data)


def hull(projector: LinearOperator, lines: np.ndarray) -> Tensor:
    """Pixels that no measured ray sees as empty, bool ``(rows, columns)``."""
    p = torch.from_numpy(lines.astype(np.float32))
    empty = (p < SHADOW * p.max()).to(torch.float32)
    all_rays = projector.adjoint(torch.ones_like(p))
    return (projector.adjoint(empty) < 0.5 / len(p) * all_rays.clamp_min(1e-9)) & (all_rays > 0)


def _tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_2d(a).astype(np.float32))[None]
