"""Posterior samples with what is needed to trust them: weights, trace, failures, provenance."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sciinv.operator import column


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
        """Normalised weights of the good samples, float64."""
        if self.log_w is None:
            n = len(self.good)
            return torch.full((n,), 1 / max(n, 1), dtype=torch.float64, device=self.x.device)
        log_w = self.log_w if self.failed is None else self.log_w[~self.failed]
        return torch.softmax(log_w.to(torch.float64), 0)

    def summary(self, level: float = 0.9) -> dict[str, Any]:
        """Mean, std, credible bounds of the magnitude and their order-statistic coverage; sums in double precision.

        The std divides by ``1 - sum w^2``, the bounds are those of `order_bounds` or, with weights, of
        `weighted_bounds`; ``ess`` is ``1 / sum w^2``.
        """
        x, weights = self.good, self.weights
        n = len(x)
        value = x.abs() if x.is_complex() else x
        w = column(weights, x)
        mean, mean_value = (w * x).sum(0), (w * value).sum(0)
        share = weights.square().sum()
        # all the weight on one sample: no spread is known, and zero says so
        unbiased = (1 - share).clamp_min(torch.finfo(torch.float64).eps)
        std = ((w * (value - mean_value).square()).sum(0) / unbiased).sqrt()
        if self.log_w is None:
            lower, upper, coverage = order_bounds(value, level)
        else:
            lower, upper, coverage = weighted_bounds(value, weights, level)
        return {
            "mean": mean.to(x.dtype), "magnitude_mean": mean_value.to(value.dtype), "std": std.to(value.dtype),
            "lower": lower, "upper": upper, "coverage": coverage, "n": n, "ess": float(1 / share),
        }  # fmt: skip


def order_bounds(value: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor, float]:
    """Order statistics j and n+1-j over the first axis whose exact coverage is nearest ``level``; and that coverage.

    For an exact sampler they cover the truth with probability ``(n+1-2j)/(n+1)``.
    """
    n = len(value)
    j = max(1, min((n + 1) // 2, round((1 - level) * (n + 1) / 2)))
    ordered = value.sort(0).values
    return ordered[j - 1], ordered[n - j], (n + 1 - 2 * j) / (n + 1)


def weighted_bounds(value: Tensor, w: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor, float]:
    """Order statistics of weighted samples ``(n, *shape)`` nearest ``level``; and the mean of their coverages.

    Of n equal draws the j-th has ``j/(n+1)`` of the posterior below it on average; here the cumulative weight C takes
    the place of ``j/n`` and the effective size ``m = 1 / sum w^2`` that of n: ``C m/(m+1)``, never sought under
    ``1/(m+1)``. Equal weights give `order_bounds`.

    Parameters
    ----------
    value : real, ``(n, *shape)``.
    w : normalised weights ``(n,)``, float64.
    """
    ordered, order = value.sort(0)
    lower, below = _tail(ordered, w[order], (1 - level) / 2)
    upper, above = _tail(ordered.flip(0), w[order.flip(0)], (1 - level) / 2)
    return lower, upper, float(1 - (below + above).mean())


def _tail(ordered: Tensor, w: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """The sample that cuts off nearest `tail`, coming from the first one, and what it cuts off on average."""
    m = 1 / w.square().sum(0, keepdim=True)
    c = w.cumsum(0)
    wanted = torch.maximum(tail * (m + 1) / m, 1 / m)
    # the first whose C is nearer than what follows; a sample without weight never is
    k = (c + w / 2 >= wanted * (1 - 1e-12)).to(torch.uint8).argmax(0, keepdim=True)
    return ordered.gather(0, k)[0], (c.gather(0, k) * m / (m + 1))[0]
