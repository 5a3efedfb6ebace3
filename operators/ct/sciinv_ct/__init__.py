"""Computed tomography: geometries, projectors, classical reconstructions, readers, posterior problems, writers.

`DOMAIN` is made when it is first asked for, and what it names is imported when it is first called: looking at a file
costs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciinv.plugins import Domain

    DOMAIN: Domain

__all__ = ["DOMAIN"]

PRIORS = {"1/mm": "ct_piecewise", "HU": "ct_body"}
"""The embedded prior for data of each unit."""


PNPDM = {
    "start": "noise", "rho_max": 5.0, "anneal": 60, "stationary": 4, "log_step": 0.7, "returns": "z",
}  # fmt: skip
"""Moment matching with a few conjugate-gradient steps is far from solved on projections, so the start is the annealed
one: high and slow, as what an arc does not show follows the data only by the width of a sweep. The data's side of the
coupling fits the data and carries the width that the intervals need."""


def __getattr__(name: str) -> Any:
    if name != "DOMAIN":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _domain()


@functools.cache
def _domain() -> Domain:
    from sciinv.plugins import Domain, Reader
    from sciinv_ct import io
    from sciinv_ct.options import CTOptions

    return Domain(
        name="ct",
        readers=tuple(Reader(name, r.sniff, r.read, r.spec) for name, r in io.READERS.items()),
        options=CTOptions,
        items=len,
        problem=_problem,
        write=_write,
        simulate=_simulate,
        demo=_demo,
        describe=io.describe,
        validate=io.validate,
        default_prior=PRIORS["1/mm"],
        suited=lambda data: PRIORS[data.units],
        baselines={"FBP": _fbp},
        method_settings=lambda method, options: PNPDM if method == "pnpdm" else {},
    )


def _problem(data: Any, item: int, options: Any) -> Any:
    from sciinv_ct.problem import problem

    return problem(data, item, options)


def _write(out: Path, data: Any, results: Any, context: Any) -> list[Path]:
    from sciinv_ct.write import write

    return write(out, data, results, context)


def _simulate(source: str, out: Path, options: Mapping[str, Any]) -> Path:
    from sciinv.config import keywords
    from sciinv_ct.simulate import simulate

    return simulate(source, out, **keywords(simulate, options, "settings of simulate ct"))


def _demo(folder: Path) -> Path:
    from sciinv_ct.demo import demo

    return demo(folder)


def _fbp(problem: Any) -> Any:
    from sciinv_ct.problem import baseline

    return baseline(problem)
