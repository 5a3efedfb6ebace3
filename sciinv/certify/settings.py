"""With which settings and at which budgets a method is measured.

Budgets grow by what a method says makes it better: the amount of work, whatever it is called (``steps``, ``sweeps``),
and the particles too where the samples are a population. Widths with units follow the reference: the shipped defaults
are made for images of standard deviation `IMAGE`, and are stretched by the prior's spread (first, widest levels) or by
that of one of its modes (last, finest levels). Everything else stays at the method's defaults.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from sciinv.certify.references import Reference
from sciinv.samplers.base import Sampler

IMAGE = 0.25
WIDE, FINE = ("rho_max", "eta_max", "sigma_start", "sigma_top"), ("rho_min", "eta_min", "sigma_end")
# the names under which methods count their work; all that a method has grow together
WORK = ("steps", "sweeps", "anneal", "stationary")
GROWTH = {True: (0.25, 1.0), False: (0.25, 1.0, 4.0)}  # of the default amount of work
STEPS_WITH_PARTICLES = (0.5, 1.0, 2.0)
PARTICLES = {True: (128, 512), False: (256, 1024, 4096)}
SAMPLES = {True: 500, False: 2000}


@dc.dataclass(frozen=True)
class Budget:
    """A method with its settings, and how many samples to draw."""

    label: str
    sampler: Sampler
    n: int


def is_population(method: type[Sampler]) -> bool:
    """Whether the samples of one run interact, so that their number is the method's accuracy."""
    return bool(getattr(method, "population", False))


def budgets(method: type[Sampler], ref: Reference, fast: bool) -> list[Budget]:
    """Two or three budgets, growing; one where a method has nothing that grows.

    The largest populations are left out in high dimension, where they would take hours.
    """
    fields: dict[str, Any] = {f.name: f.default for f in dc.fields(method)}
    fixed = {k: fields[k] * ref.scale / IMAGE for k in WIDE if k in fields}
    fixed |= {k: fields[k] * ref.detail / IMAGE for k in FINE if k in fields}
    if ref.kind == "nonlinear" and "start" in fields:
        fixed["start"] = "noise"  # the other start solves a linear system
    work = [k for k in WORK if k in fields]
    out = []
    if is_population(method):
        for n, growth in zip(PARTICLES[fast], STEPS_WITH_PARTICLES, strict=False):
            if n * len(ref.mean) <= 1 << 20:
                amount = {k: round(fields[k] * growth) for k in work}
                out.append(Budget(_label({"particles": n, **amount}), method(**(fixed | amount)), n))
        return out
    for growth in GROWTH[fast] if work else (1.0,):
        amount = {k: max(1, round(fields[k] * growth)) for k in work}
        out.append(Budget(_label(amount) or "defaults", method(**(fixed | amount)), SAMPLES[fast]))
    return out


def _label(amount: dict[str, int]) -> str:
    return ", ".join(f"{v} {k}" for k, v in amount.items())
