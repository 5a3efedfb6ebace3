"""Beam hardening of objects of one material, taken out of line integrals by a polynomial (Herman, Phys. Med. Biol. 24,
81, 1979).

Through a length L of the material a beam of many energies shows ``p(L)``, which bends below its tangent ``mu L``: discs
look denser at the rim and their holes are not empty. ``q = p (1 + c_1 p + c_2 p^2 + ...)`` is straight again where the
coefficients suit tube, filter and material; noise grows by ``dq/dp``. They come from a scan of a solid disc (`of_disc`)
or of a wedge; objects of several materials have no such curve.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv_ct.fbp import fbp
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.io.scan import Scan

Floats = NDArray[np.float64]
PIXELS = 512
LEAST = 16
"""Radius of the smallest disc in pixels."""
SHORT = 0.1
"""Chords below this part of the radius are left out: they pass where the outline is not a circle to a pixel."""


def straight(p: Floats, coefficients: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Line integrals without hardening, and ``dq/dp``; readings below zero, which are noise, stay what they are."""
    curve = np.polynomial.Polynomial([0.0, 1.0, *coefficients])
    positive = np.maximum(p, 0.0)
    slope = curve.deriv()(positive)
    if not slope.min() > 0:
        raise InputError(
            "this hardening polynomial does not rise over all the line integrals", expected="coefficients of a curve "
            "measured to such depths", found=f"{coefficients} up to p = {p.max():.3g}", hint="--set ct.hardening=null",
        )  # fmt: skip
    return curve(positive) + np.minimum(p, 0.0), slope


def of_disc(scan: Scan, degree: int = 2, item: int = 0) -> tuple[float, ...]:
    """The coefficients from line integrals of a solid disc, all round.

    The disc is found in the filtered backprojection; its chords L then stand against the readings, and ``mu L`` is
    fitted by ``p (1 + c_1 p + ...)``, with ``degree`` coefficients and the radius of the disc, by least squares.
    """
    from scipy.optimize import minimize_scalar  # here: no run needs it

    beam, angles = scan.beam, scan.angles
    if scan.is_image or scan.counts is not None or beam is None or angles is None or beam.kind == "fan_curved":
        raise InputError("hardening is measured on line integrals of a flat detector", where=scan.label)
    p, cells = scan.values[item].astype(np.float64), scan.values.shape[2]
    reach = 0.5 * cells * beam.pitch
    if beam.source_origin:
        reach *= beam.source_origin / float(np.hypot(beam.source_detector, reach))
    grid = Grid((PIXELS, PIXELS), 2 * reach / PIXELS)
    g = Geometry(beam.kind, angles, cells, beam.pitch, grid, beam.source_origin, beam.source_detector, beam.offset)
    image = fbp(g, torch.from_numpy(p.astype(np.float32)), "hann").numpy()
    inside = image > 0.5 * np.quantile(image, 0.9)
    about = float(inside.sum() / np.pi) ** 0.5
    if about < LEAST:
        raise InputError("no disc is seen", where=scan.label, expected="a solid disc that every view sees whole")
    across, along, _ = (np.asarray(t) for t in g.grid.axes())
    x, y = float(across[inside.nonzero()[1]].mean()), float(along[inside.nonzero()[0]].mean())

    def fit(radius: float) -> tuple[Floats, float]:
        chord = chords(g, x, y, radius * grid.pixel)
        use = chord > SHORT * radius * grid.pixel
        powers = np.stack([p[use] ** (k + 1) for k in range(degree + 1)], 1)
        found = np.linalg.lstsq(powers, chord[use], rcond=None)[0]
        return found, float(np.square(powers @ found - chord[use]).mean())

    # half a pixel of the outline would bend the curve at short chords: the radius is fitted too
    radius = minimize_scalar(lambda r: fit(r)[1], bounds=(about - 2, about + 2), method="bounded").x
    found = fit(radius)[0]
    return tuple(float(c) for c in found[1:] / found[0])


def chords(g: Geometry, x: float, y: float, radius: float) -> Floats:
    """Length of every ray ``(views, columns)`` within a disc, mm."""
    sin, cos = np.sin(g.angles)[:, None], np.cos(g.angles)[:, None]
    u = g.u()[None]
    if g.kind == "parallel":
        distance = y * sin + x * cos - u
    else:
        slope = u / g.source_detector
        distance = (y * sin + x * cos - slope * (g.source_origin + y * cos - x * sin)) / np.hypot(1, slope)
    return np.asarray(2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None)))
