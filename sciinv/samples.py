"""Posterior samples with what is needed to trust them: weights, trace, failures, provenance."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@dc.dataclass(frozen=True)
class Samples:
    """Samples in physical units.

    Attributes
    ----------
    x : ``(n, *shape)``, real or complex.
    log_w : log-weights ``(n,)``, or ``None`` for equal weights.
    trace : per-step diagnostics, each ``(steps, n, ...)``.
    failed : ``(n,)`` True where a sample became non-finite; such samples are left out of every summary.
    provenance : seeds, network calls, times, sampler fields.
    """

    x: Tensor
    log_w: Tensor | None = None
    trace: Mapping[str, Tensor] = dc.field(default_factory=dict)
    failed: Tensor | None = None
    provenance: Mapping[str, Any] = dc.field(default_factory=dict)

    @property
    def good(self) -> Tensor:
        """The samples that did not fail."""
        return self.x if self.failed is None else self.x[~self.failed]

    @property
    def weights(self) -> Tensor:
        """Normalised weights of the good samples."""
        if self.log_w is None:
            return torch.full((len(self.good),), 1 / max(len(self.good), 1), device=self.x.device)
        return torch.softmax(self.log_w if self.failed is None else self.log_w[~self.failed], 0)

    def summary(self, level: float = 0.9) -> dict[str, Any]:
        """Mean, std, credible bounds of the magnitude and their exact order-statistic coverage.

        The bounds are order statistics j and n+1-j of n equally weighted samples; for an exact sampler they cover the
        truth with probability (n+1-2j)/(n+1), the number returned as ``coverage``.
        """
        x = self.good
        n = len(x)
        value = x.abs() if x.is_complex() else x
        w = self.weights.view(-1, *(1,) * (x.ndim - 1))
        mean, mean_value = (w * x).sum(0), (w * value).sum(0)
        unbiased = 1 - (w**2).sum() if n > 1 else torch.ones(())
        std = ((w * (value - mean_value) ** 2).sum(0) / unbiased).sqrt()
        if self.log_w is None:
            lower, upper, coverage = order_bounds(value, level)
        else:
            lower, upper = (_weighted_quantile(value, self.weights, q) for q in ((1 - level) / 2, (1 + level) / 2))
            coverage = level
        ess = 1 / (self.weights**2).sum()
        return {
            "mean": mean, "magnitude_mean": mean_value, "std": std, "lower": lower, "upper": upper,
            "coverage": coverage, "n": n, "ess": float(ess),
        }  # fmt: skip


def order_bounds(value: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor, float]:
    """Order statistics j and n+1-j over the first axis whose exact coverage is nearest ``level``; and that coverage."""
    n = len(value)
    j = max(1, min((n + 1) // 2, round((1 - level) * (n + 1) / 2)))
    ordered = value.sort(0).values
    return ordered[j - 1], ordered[n - j], (n + 1 - 2 * j) / (n + 1)


def _weighted_quantile(value: Tensor, w: Tensor, q: float) -> Tensor:
    ordered, order = value.sort(0)
    cdf = w[order].cumsum(0)
    k = (cdf < q).sum(0, keepdim=True).clamp(max=len(value) - 1)
    return ordered.gather(0, k)[0]
