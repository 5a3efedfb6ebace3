"""With which settings and at which budgets a method is measured.

Budgets grow by what a method says makes it better: particles where the samples are a population, otherwise the number
of steps (``steps``), sweeps or outer iterations, whatever the method calls them. Widths with units follow the prior's
scale, as the shipped defaults follow the scale of images. Everything else stays at the method's defaults.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from sciinv.samplers.base import Sampler

# the names under which methods count their work, in the order in which they are looked for
WORK = ("steps", "sweeps", "iterations", "anneal")
GROWTH = (0.25, 1.0, 4.0)  # of the default amount of work
PARTICLES = {True: (128, 512), False: (256, 1024, 4096)}
SAMPLES = {True: 256, False: 2000}


@dc.dataclass(frozen=True)
class Budget:
    """A method with its settings, and how many samples to draw."""

    label: str
    sampler: Sampler
    n: int


def is_population(method: type[Sampler]) -> bool:
    """Whether the samples of one run interact, so that their number is the method's accuracy."""
    return bool(getattr(method, "population", False))


def budgets(method: type[Sampler], scale: float, dimension: int, fast: bool) -> list[Budget]:
    """One to three budgets, growing.

    Parameters
    ----------
    method : the class of a sampler; its defaults are the middle budget.
    scale : root mean square prior standard deviation of the reference, in the prior's units.
    dimension : of the unknown; the largest populations are left out in high dimension, where they would take hours.
    """
    fixed = _scaled(method, scale)
    if is_population(method):
        counts = [n for n in PARTICLES[fast] if n * dimension <= 1 << 20]
        return [Budget(f"{n} particles", method(**fixed), n) for n in counts]
    fields: dict[str, Any] = {f.name: f.default for f in dc.fields(method)}
    work = next((name for name in WORK if name in fields), None)
    if work is None:
        return [Budget("defaults", method(**fixed), SAMPLES[fast])]
    out = []
    for growth in GROWTH[:2] if fast else GROWTH:
        amount = {work: max(1, round(int(fields[work]) * growth))}
        if work == "anneal" and "stationary" in fields:
            amount["stationary"] = round(int(fields["stationary"]) * growth * growth)
        out.append(Budget(f"{work}={amount[work]}", method(**(fixed | amount)), SAMPLES[fast]))
    return out


def _scaled(method: type[Sampler], scale: float) -> dict[str, Any]:
    """Settings in the prior's units: coupling widths from twice the prior's spread to 4 % of that."""
    names = {f.name for f in dc.fields(method)}
    widths = {"rho_max": 2 * scale, "rho_min": 0.08 * scale}
    return {k: v for k, v in widths.items() if k in names} if "rho_max" in names else {}
