"""Ladders of noise levels, as plain descending numbers (host side, so no step waits for the device)."""

from __future__ import annotations

import math

from sciinv.errors import UsageError


def karras(sigma_max: float, sigma_min: float, steps: int, power: float = 7.0) -> list[float]:
    """``steps`` levels from ``sigma_max`` to ``sigma_min`` (Karras et al. 2022, equation 5), then 0."""
    _check(sigma_max, sigma_min, steps)
    a, b = sigma_max ** (1 / power), sigma_min ** (1 / power)
    return [(a + (b - a) * i / max(steps - 1, 1)) ** power for i in range(steps)] + [0.0]


def geometric(sigma_max: float, sigma_min: float, steps: int) -> list[float]:
    """``steps`` levels, equal in ``log sigma``, from ``sigma_max`` to ``sigma_min``."""
    _check(sigma_max, sigma_min, steps)
    ratio = sigma_min / sigma_max
    return [sigma_max * ratio ** (i / max(steps - 1, 1)) for i in range(steps)]


def capped(rho: float, sigma_min: float, max_log_step: float) -> list[float]:
    """Levels from exactly ``rho`` down to ``sigma_min`` with log steps of at most ``max_log_step``, then 0."""
    if rho <= sigma_min:
        return [rho, 0.0]
    steps = max(1, math.ceil(math.log(rho / sigma_min) / max_log_step - 1e-9))
    return [*geometric(rho, sigma_min, steps + 1), 0.0]


def _check(sigma_max: float, sigma_min: float, steps: int) -> None:
    if not (0 < sigma_min <= sigma_max and steps >= 1):
        raise UsageError(
            "noise ladder is impossible", expected="0 < sigma_min <= sigma_max, steps >= 1", found=f"{sigma_max}, {sigma_min}, {steps}"
        )
