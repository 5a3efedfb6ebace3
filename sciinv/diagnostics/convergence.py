"""Have the chains mixed? Split R-hat and effective sample size, for many quantities at once.

Chains are split in halves (so a trend within a chain shows), with N draws in each of the M half-chains. Between-chain
variance ``B / N = Var_m(mean_m)``, within-chain variance ``W = mean_m(var_m)``, ``V = (N-1)/N W + B/N``:
``R-hat = sqrt(V / W)``. With ``rho_t = 1 - (W - mean_m acov_m(t)) / V`` and Geyer's pairs
``P_k = rho_2k + rho_2k+1``, cut at the first negative one and made monotone, ``tau = -1 + 2 sum_k P_k`` and
``ESS = M N / tau`` (Gelman et al. 2013, section 11; Geyer 1992; Vehtari et al. 2021 without rank normalisation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinv.errors import UsageError


def split_rhat(draws: Tensor) -> Tensor:
    """Split R-hat of real ``draws``, per quantity.

    Parameters
    ----------
    draws : real, ``(draws, chains, *quantities)``, at least 4 draws; an odd first draw is dropped.

    Returns
    -------
    ``quantities``-shaped; near 1 when mixed, 1 for a constant, infinite when chains are stuck at different constants.
    """
    x, constant = _halves(draws)
    _, within, total = _variances(x)
    rhat = torch.where(within > 0, (total / within).sqrt(), math.inf)
    return torch.where(constant, 1.0, rhat).to(draws.dtype)


def ess(draws: Tensor) -> Tensor:
    """Effective number of independent draws for the mean, per quantity.

    Parameters
    ----------
    draws : real, ``(draws, chains, *quantities)``, at least 4 draws; an odd first draw is dropped.

    Returns
    -------
    ``quantities``-shaped, at most ``S log10(S)`` for S draws in all (antithetic chains exceed S); S for a constant.
    """
    x, constant = _halves(draws)
    n, size = len(x), x.shape[0] * x.shape[1]
    centred, within, total = _variances(x)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    acov = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n
    # the biased autocovariance at lag 0 is (n-1)/n W, so rho_0 = 1 - W/(n V) is set to its true value 1
    rho = 1 - (within - acov) / total.clamp_min(torch.finfo(total.dtype).tiny)
    rho[0] = 1.0
    pairs = rho[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).to(pairs.dtype).cumprod(0)
    monotone = (pairs * positive).cummin(0).values
    tau = (2 * monotone.sum(0) - 1).clamp_min(1 / math.log10(max(size, 10)))
    return torch.where(constant, float(size), size / tau).to(draws.dtype)


def _halves(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Half-chains ``(n, 2 chains, *quantities)`` in double precision, and which quantities never change."""
    if draws.ndim < 2 or draws.is_complex() or len(draws) < 4:
        raise UsageError(
            "convergence needs a trace",
            expected="real (draws, chains, ...) with at least 4 draws",
            found=f"{tuple(draws.shape)} {draws.dtype}",
            hint="more stationary sweeps",
        )
    x = draws[len(draws) % 2 :].to(torch.float64)
    eps = torch.finfo(draws.dtype).eps if draws.is_floating_point() else 0.0
    flat = x.flatten(0, 1)
    # rounding alone must not look like a chain
    constant = (flat.amax(0) - flat.amin(0)) <= 2 * eps * flat.abs().amax(0)
    return torch.cat(x.chunk(2, 0), 1), constant


def _variances(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws minus their chain's mean, within-chain variance W, pooled variance V."""
    n, m = x.shape[:2]
    mean = x.mean(0, keepdim=True)
    centred = x - mean
    within = centred.square().sum(0).mean(0) / (n - 1)
    between = (mean[0] - mean[0].mean(0)).square().sum(0) / (m - 1)
    return centred, within, within * (n - 1) / n + between
