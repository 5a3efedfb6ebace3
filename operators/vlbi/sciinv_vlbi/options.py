"""Knobs of the VLBI domain; nothing here imports torch."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Literal

from sciinv.errors import UsageError

Name = Literal["vis", "amp", "logamp", "bispectrum", "cphase", "logcamp", "flux", "centroid"]
Pulse = Literal["triangle", "rect", "delta"]
Short = Literal["drop", "scale", "component", "keep"]
Count = Literal["minimal", "all"]
PhaseNoise = Literal["wrapped", "von_mises"]
SAME = ({"vis", "amp"}, {"vis", "bispectrum"}, {"vis", "cphase"}, {"vis", "logcamp"}, {"amp", "logcamp"},
        {"amp", "bispectrum"}, {"bispectrum", "cphase"}, {"bispectrum", "logcamp"}, {"logamp", "vis"},
        {"logamp", "amp"}, {"logamp", "bispectrum"}, {"logamp", "logcamp"})  # fmt: skip
"""Products that say the same thing twice: a likelihood of both would be too sharp."""


@dc.dataclass(frozen=True)
class VLBIOptions:
    """Knobs of the VLBI domain; the fields are the ``--set`` keys.

    Attributes
    ----------
    products : what is compared: vis, amp, logamp (logarithms with the station gains marginalised), bispectrum, cphase,
        logcamp, flux (total), centroid (pins the position).
    npix, fov : image side in pixels, and in micro-arcseconds.
    pulse : shape of a pixel: triangle, rect or delta.
    average : ``scan``, ``none``, or seconds.
    gap : seconds of silence that end a scan.
    systematic : noise as a fraction of each visibility.
    short : what to do with baselines below `short_uv`: drop, scale (to `flux`), component (a Gaussian), keep.
    short_uv : gigawavelengths.
    flux : Jy inside the image; 0 takes the short baselines' median amplitude, or the largest amplitude without any.
    flux_error : relative error of `flux`, for the product of that name.
    extended_fwhm : of the component, micro-arcseconds.
    gain_error : standard deviation of the logarithm of each station's gain in each scan, for logamp.
    gain_errors : the same for single stations, as in ``{LM: 1.0}``.
    centroid_error : micro-arcseconds, for the product of that name.
    closures : ``minimal`` (least noisy first) or ``all``.
    covariance : ``full`` or ``diagonal``.
    snr_min : visibilities below take no part in closures.
    phase : ``wrapped`` (Gaussian) or ``von_mises``.
    sigma_image : a model image (FITS or npy); closure errors are then sigma over its amplitudes instead of the
        measured ones, which residual gains bias (Lockhart and Gralla 2022).
    """

    products: tuple[Name, ...] = ("cphase", "logcamp", "flux")
    npix: int = 64
    fov: float = 128.0
    pulse: Pulse = "triangle"
    average: float | Literal["scan", "none"] = "scan"
    gap: float = 60.0
    systematic: float = 0.02
    short: Short = "drop"
    short_uv: float = 0.1
    flux: float = 0.0
    flux_error: float = 0.1
    extended_fwhm: float = 1000.0
    gain_error: float = 0.1
    gain_errors: dict[str, float] = dc.field(default_factory=dict)
    centroid_error: float = 2.0
    closures: Count = "minimal"
    covariance: Literal["full", "diagonal"] = "full"
    snr_min: float = 3.0
    phase: PhaseNoise = "wrapped"
    sigma_image: Path | None = None

    def check(self) -> None:
        """Refuse values out of range, and products that repeat each other."""
        chosen = set(self.products)
        both = [pair for pair in SAME if pair <= chosen]
        limits = (
            ("npix", self.npix, 4, 4096), ("fov", self.fov, 1e-3, 1e9), ("flux", self.flux, 0, 1e9),
            ("flux_error", self.flux_error, 1e-9, 1e3), ("short_uv", self.short_uv, 0, 1e3),
            ("extended_fwhm", self.extended_fwhm, 1e-3, 1e9), ("centroid_error", self.centroid_error, 1e-6, 1e9),
            ("snr_min", self.snr_min, 0, 1e6),
            *(("gain_error", value, 1e-6, 1e3) for value in (self.gain_error, *self.gain_errors.values())),
        )  # fmt: skip
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise UsageError(f"{name} is out of range", expected=f"{low} to {high}", found=str(value))
        if not chosen - {"flux", "centroid"} or len(chosen) < len(self.products) or both:
            raise UsageError(
                "the products do not make a likelihood",
                expected="vis; cphase and/or one of amp, logamp, logcamp; or bispectrum; and flux, centroid",
                found=", ".join(self.products),
                hint="what repeats itself would count the data twice" if both else "products=[cphase,logcamp]",
            )
