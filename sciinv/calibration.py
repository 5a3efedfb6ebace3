"""How far to trust the bounds: coverage measured where a truth exists, factors where a study has learned them.

A calibration is learned on other data than those it is applied to, for one prior, method and level. It scales the half
width of a Gaussian interval: ``mean -+ factor * z * std`` with ``z`` the normal quantile of the level (the scaling of
Laves et al. 2020, "Well-calibrated regression uncertainty in medical imaging"). Used on another prior or method it
would be a guess, so it is not. The mean and std of n samples are themselves uncertain: n normal draws cover the next
one by ``mean -+ t_(n-1) sqrt(1 + 1/n) std``, so a factor learned with m samples is used on n times the ratio of both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import special
from torch import Tensor

from sciinv.diagnostics.alarms import MARGIN
from sciinv.diagnostics.metrics import coverage, error_correlation, psnr, ssim
from sciinv.errors import InputError
from sciinv.samples import Samples

STRETCH = 1.25  # a factor is used this far beyond the accelerations it was learned at
MAX_FILE = 1 << 20


class Calibration(BaseModel):
    """Content of a calibration file.

    Attributes
    ----------
    prior_sha256, method : what it was learned for.
    protocol : the measurement in words (contrast, coils, masks).
    level : nominal coverage.
    factors : factor by acceleration.
    learned_on : the data it was learned on, in words.
    pattern : the sampling pattern it holds for, as the domain names it in ``meta["pattern"]``; empty for any.
    samples : how many samples its mean and std came from.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    prior_sha256: str
    method: str
    protocol: str
    level: Annotated[float, Field(gt=0, lt=1)]
    factors: dict[float, Annotated[float, Field(gt=0, le=100)]]
    learned_on: str
    pattern: str = ""
    samples: Annotated[int, Field(gt=1)] = 20

    def misfit(self, prior_sha256: str, method: str, level: float) -> str:
        """Why it does not fit, or an empty string."""
        if prior_sha256 != self.prior_sha256:
            return "the calibration was learned with another prior"
        if method != self.method:
            return f"the calibration was learned with {self.method}"
        if abs(level - self.level) > 1e-9:
            return f"the calibration was learned at level {self.level:g}"
        return ""

    def bounds(self, summary: Mapping[str, Any], factor: float) -> tuple[Tensor, Tensor]:
        """``mean -+ factor * z * std`` for as many (effective) samples as there are; the magnitude of a complex image,
        and not below zero.
        """
        widen = _predictive(max(summary["ess"], 2.0), self.level) / _predictive(self.samples, self.level)
        half = factor * widen * NormalDist().inv_cdf((1 + self.level) / 2) * summary["std"]
        lower = summary["magnitude_mean"] - half
        return (lower.clamp_min(0) if summary["mean"].is_complex() else lower), summary["magnitude_mean"] + half

    def factor(self, acceleration: float | None, pattern: str = "") -> float | None:
        """The factor at this acceleration, linear between neighbours; ``None`` far from all that were studied."""
        known = sorted(self.factors)
        if pattern and self.pattern and pattern != self.pattern:
            return None
        if acceleration is None or not known[0] / STRETCH <= acceleration <= known[-1] * STRETCH:
            return None
        at = min(max(acceleration, known[0]), known[-1])
        for low, high in pairwise(known):
            if low <= at <= high:
                share = (at - low) / (high - low)
                return (1 - share) * self.factors[low] + share * self.factors[high]
        return self.factors[known[0]]


def load_calibration(path: Path) -> Calibration:
    """Read and check a calibration file."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError("larger than 1 MiB")
        found = Calibration.model_validate(json.loads(path.read_text("utf-8")))
        if not found.factors:
            raise ValueError("no factors")
    except (OSError, ValueError) as error:
        raise InputError(
            "the calibration file cannot be used",
            where=path.name,
            expected="JSON with prior_sha256, protocol, level, factors, learned_on",
            found=str(error).splitlines()[0][:200],
        ) from error
    return found


def _predictive(n: float, level: float) -> float:
    """Half width, in standard deviations of n normal draws, that covers the next one at this level."""
    return float(special.stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(1 + 1 / n)


def measure(
    samples: Tensor,
    summary: Mapping[str, Any],
    reference: Tensor,
    support: Tensor | None,
    calibrated: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """Compare with a truth inside `support`: coverage, corr(std, |error|), PSNR and SSIM of the mean and of one sample.

    Coverage is corrected for nothing: the raw interval is the order-statistic one of the summary, whose value for a
    perfect sampler is ``summary["coverage"]``. The summary may come from weighted samples, of which `samples` are equal
    draws.
    """
    truth = reference.abs() if reference.is_complex() else reference
    mean = summary["magnitude_mean"]
    out: dict[str, Any] = {
        "coverage": coverage(summary["lower"], summary["upper"], truth, support),
        "nominal": summary["coverage"],
        "corr_std_error": error_correlation(summary["std"], mean - truth, support),
    }
    if calibrated is not None:
        out["coverage_calibrated"] = coverage(*calibrated, truth, support)
    if truth.ndim == 3 and len(truth) == 1:  # a real image with its channel
        truth, mean, samples = truth[0], mean[0], samples[:, 0]
    if truth.ndim == 2:
        one = Samples(samples[:1]).summary()["magnitude_mean"]
        out["psnr_mean"], out["psnr_sample"] = psnr(mean, truth), psnr(one, truth)
        if min(truth.shape) >= 7:
            out["ssim_mean"], out["ssim_sample"] = ssim(mean, truth), ssim(one, truth)
    return {key: float(value) for key, value in out.items() if math.isfinite(float(value))}


def statement(
    level: float, nominal: float, calibration: Calibration | None, why_not: str, measured: Mapping[str, float],
    weighted: float | None = None,
) -> str:  # fmt: skip
    """The coverage statement of reports, sidecars and the terminal; `weighted` is the ESS of weighted samples."""
    text = f"bounds: order statistics that cover {100 * nominal:.1f} % for an exact sampler"
    if weighted is not None:
        text = (
            f"bounds: weighted order statistics that cover about {100 * nominal:.1f} % if the {weighted:.1f} effective "
            "particles were exact draws"
        )
    if calibration is None:
        text += f"; not calibrated ({why_not})" if why_not else "; not calibrated for this protocol"
    else:
        text += (
            f"; calibrated bounds at {100 * level:.0f} % learned on {calibration.learned_on} ({calibration.protocol})"
        )
    if "coverage" in measured:
        text += f"; measured against the reference: {100 * measured['coverage']:.1f} % raw"
        if "coverage_calibrated" in measured:
            text += f", {100 * measured['coverage_calibrated']:.1f} % calibrated"
            if measured["coverage_calibrated"] < level - MARGIN:
                text += " (too narrow here)"
        if measured["coverage"] < nominal - MARGIN:
            text += ": over-confident"
    return text


def pooled(parts: list[Mapping[str, float]]) -> dict[str, float]:
    """Plain means over items of what each has."""
    keys = set.intersection(*(set(part) for part in parts)) if parts else set()
    return {key: float(torch.tensor([part[key] for part in parts], dtype=torch.float64).mean()) for key in sorted(keys)}
