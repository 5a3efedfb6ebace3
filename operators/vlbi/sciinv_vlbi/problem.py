"""From an `Observation` to a whitened `Problem`.

Steps: average -> systematic noise -> short baselines -> closures and their covariance -> operators. The unknown is a
non-negative image ``(1, n, n)``, row 0 in the North, column 0 in the East, in units of `scale` Jy per pixel: one when
the compact flux is spread evenly over a square of `FILL` of the field of view, so that sources of any flux on any grid
are of order one.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator
from sciinv.problem import Problem
from sciinv_vlbi import averaging, closures, gains
from sciinv_vlbi.dft import CROSSOVER, visibility_operator
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.predict import Predict
from sciinv_vlbi.products import (
    Amplitude,
    Bispectrum,
    Centroid,
    ClosurePhase,
    LogAmplitude,
    LogClosureAmplitude,
    Product,
    TotalFlux,
    Visibility,
)

FILL = 0.3125


@dc.dataclass(frozen=True)
class Prepared:
    """What operators are made of.

    Attributes
    ----------
    obs : averaged, with systematic noise, short baselines treated.
    extended : visibilities of flux outside the image, or ``None``.
    flux, scale, pixel : Jy in the image, Jy per pixel of an image value of one, radians.
    notes : sentences for the user.
    """

    obs: Observation
    extended: NDArray[np.complex128] | None
    flux: float
    scale: float
    pixel: float
    notes: tuple[str, ...] = ()


def problem(data: Observation, item: int = 0, options: VLBIOptions | None = None) -> Problem:
    """The inverse problem of an observation.

    Returns
    -------
    Problem
        Unknown: real image ``(1, npix, npix)``. With ``vis`` alone the operator is linear, its data complex. ``meta``
        holds ``scale``, and in ``products`` the first and last datum of each product.
    """
    options = options or VLBIOptions()
    if item != 0:
        raise InputError("an observation is one item", where=data.label, expected="0", found=str(item))
    options.check()
    ready = prepare(data, options)
    if options.products == ("vis",):
        return _linear(ready, options)
    transform = visibility_operator(ready.obs.uv, options.npix, ready.pixel, pulse=options.pulse, scale=ready.scale)
    products, kept, notes = _products(ready, options, transform)
    rows: dict[str, tuple[LinearOperator, list[float]]] = {}
    if "flux" in options.products:
        sigma = options.flux_error * ready.flux
        rows["flux"] = TotalFlux(options.npix, ready.scale, sigma), [ready.flux / sigma]
    if "centroid" in options.products:
        side = options.fov / options.npix
        pin = Centroid(options.npix, side, ready.scale, ready.flux, options.centroid_error)
        rows["centroid"] = pin, [0.0, 0.0]
    operator = Predict(transform, list(products.values()), [op for op, _ in rows.values()], ready.extended)
    measured = [op.data for op in products.values()] + [torch.tensor(y) for _, y in rows.values()]
    ends = np.cumsum([len(y) for y in measured]).tolist()
    spans = {name: [end - len(y), end] for name, y, end in zip((*products, *rows), measured, ends, strict=True)}
    meta = _meta(ready, options) | kept | {"products": spans, "warnings": [*ready.notes, *notes]}
    return Problem(torch.cat(measured), operator, Gaussian(1.0), meta)


def prepare(data: Observation, options: VLBIOptions) -> Prepared:
    """Average, add systematic noise, treat the short baselines, fix the units."""
    obs = averaging.add_systematic(averaging.average(data, options.average, options.gap), options.systematic)
    below = options.short_uv * 1e9
    flux, notes = options.flux, list[str]()
    if flux == 0:
        near = averaging.short(obs, below).any()
        if near and options.short in ("scale", "component"):
            raise UsageError(
                "the share of the flux that lies in the image is not in the data", where=f"short={options.short}",
                expected="flux above 0", found="0", hint="--set vlbi.flux=0.6 (M87 in 2017)",
            )  # fmt: skip
        flux = averaging.zero_baseline(obs, below) if near else float(np.abs(obs.vis).max())
        source = (
            "the short baselines, which also see what is larger than the image" if near else "the largest amplitude"
        )
        notes.append(f"the flux in the image is taken as {flux:.3g} Jy from {source}: --set vlbi.flux=JANSKY")
    obs, extended = averaging.compact(obs, options.short, flux, below, options.extended_fwhm * MICRO_ARCSECOND)
    pixel = options.fov / options.npix * MICRO_ARCSECOND
    return Prepared(obs, extended, flux, flux / (FILL * options.npix) ** 2, pixel, tuple(notes))


def _linear(ready: Prepared, options: VLBIOptions) -> Problem:
    """Visibilities alone: whitened data, complex, and a linear operator that offers exact draws."""
    obs = ready.obs
    rows = obs.uv
    vis = obs.vis if ready.extended is None else obs.vis - ready.extended
    whitened = visibility_operator(rows, options.npix, ready.pixel, pulse=options.pulse, scale=ready.scale / obs.sigma)
    y = torch.from_numpy((vis / obs.sigma).astype(np.complex64))
    meta = _meta(ready, options) | {"products": {"vis": [0, len(obs)]}, "warnings": list(ready.notes)}
    return Problem(y, whitened, Gaussian(1.0), meta)


def _products(
    ready: Prepared, options: VLBIOptions, transform: LinearOperator
) -> tuple[dict[str, Product], dict[str, int], list[str]]:
    obs, vis = ready.obs, ready.obs.vis
    relative = obs.sigma / np.maximum(np.abs(vis), 1e-300)
    if options.sigma_image is not None:
        relative = obs.sigma / np.maximum(_model_amplitudes(ready, options, transform), 1e-300)
    made: dict[str, Product] = {}
    counts: dict[str, int] = {}
    notes: list[str] = []
    if "vis" in options.products:
        made["vis"] = Visibility(vis, obs.sigma)
    if "amp" in options.products:
        made["amp"] = Amplitude(vis, obs.sigma)
    if "logamp" in options.products:
        kept, covariance = gains.log_amplitude_covariance(
            obs, relative, gains.errors(obs, options.gain_error, options.gain_errors), options.snr_min, options.gap
        )
        made["logamp"] = LogAmplitude(vis, kept, closures.whitening(covariance))
        counts["logamp"] = len(kept)
    for name, kind in (("bispectrum", "phase"), ("cphase", "phase"), ("logcamp", "amplitude")):
        if name not in options.products:
            continue
        chosen = closures.closures(obs, kind, options.closures, options.snr_min, relative)  # type: ignore[arg-type]
        if not len(chosen):
            shape = "triangle" if kind == "phase" else "quadrangle"
            raise InputError(
                f"no {shape} of baselines is complete", where=obs.label,
                expected=f"{3 if kind == 'phase' else 4} stations with all its baselines",
                found=", ".join(s.name for s in obs.stations), hint="a lower snr_min, or products=[vis]",
            )  # fmt: skip
        counts[name] = len(chosen)
        if name == "bispectrum":
            made[name] = Bispectrum(vis, chosen, relative)
            continue
        roots = closures.whitening(chosen.covariance(relative), options.covariance == "full")
        made[name] = (
            ClosurePhase(vis, chosen, roots, options.phase)
            if name == "cphase"
            else LogClosureAmplitude(vis, chosen, roots)
        )
    weak = float((relative > 1 / 3).mean())
    if weak > 0.2 and options.snr_min < 3:
        notes.append(
            f"{100 * weak:.0f} % of the visibilities have a signal-to-noise ratio below 3: closure errors are rough"
        )
    return made, {f"n_{name}": count for name, count in counts.items()}, notes


def _model_amplitudes(ready: Prepared, options: VLBIOptions, transform: LinearOperator) -> NDArray[np.float64]:
    """``|V|`` of the model image, whose total flux is made that of the data."""
    from sciinv_vlbi.io.image import read_image, regrid

    assert options.sigma_image is not None
    image = regrid(read_image(options.sigma_image), options.npix, ready.pixel)
    image = image * (ready.flux / image.sum())
    x = torch.from_numpy(image[None].astype(np.float32) / np.float32(ready.scale))
    vis = transform(x).detach().numpy().astype(np.complex128)
    return np.asarray(np.abs(vis if ready.extended is None else vis + ready.extended))


def _meta(ready: Prepared, options: VLBIOptions) -> dict[str, Any]:
    obs = ready.obs
    return {
        "scale": ready.scale,
        "units": "Jy/pixel",
        "flux": ready.flux,
        "fov_uas": options.fov,
        "pixel_uas": options.fov / options.npix,
        "visibilities": len(obs),
        "transform": "direct" if len(obs) <= CROSSOVER else "nufft",
        "source": obs.source,
        "stations": [s.name for s in obs.stations],
    }
