"""VLBI for sciinv: readers, closures with their covariance, visibility operators, simulation.

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

SETTLED = {
    "rho_max": 0.3, "rho_min": 0.04, "anneal": 24, "settle": 30, "inner": 2, "returns": "seen", "refute": 1e-3,
    "tries": 6,
}  # fmt: skip
"""What split Gibbs needs on closures (docs/vlbi.md, Inference)."""

ISLANDS = {"rho_min": 0.04, "returns": "seen", "ess_target": 0.7, "islands": 4}
"""What `sgs_smc` needs on closures."""


def __getattr__(name: str) -> Any:
    if name != "DOMAIN":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _domain()


@functools.cache
def _domain() -> Domain:
    from sciinv.plugins import Domain, Reader
    from sciinv_vlbi import io
    from sciinv_vlbi.options import VLBIOptions

    return Domain(
        name="vlbi",
        readers=tuple(Reader(name, r.sniff, r.read, r.spec) for name, r in io.READERS.items()),
        options=VLBIOptions,
        items=lambda data: 1,
        problem=_problem,
        write=_write,
        simulate=_simulate,
        demo=_demo,
        describe=io.describe,
        validate=io.validate,
        default_prior="vlbi_64",
        demo_settings=("vlbi.flux=0.6",),
        method_settings=_method_settings,
        align=_align,
        sections=_sections,
    )


def _method_settings(method: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    # visibilities alone are linear: they have one mode, and no few directions to split off
    linear = [*options.get("products", ())] == ["vis"]
    if method == "pnpdm":
        return SETTLED | {"returns": "z", "tries": 1} if linear else SETTLED
    return ISLANDS if method == "sgs_smc" and not linear else {}


def _problem(data: Any, item: int, options: Any) -> Any:
    from sciinv_vlbi.problem import problem

    return problem(data, item, options)


def _write(out: Path, data: Any, results: Any, context: Any) -> list[Path]:
    from sciinv_vlbi.write import write

    return write(out, data, results, context)


def _align(x: Any, meta: Mapping[str, Any]) -> Any:
    from sciinv_vlbi.science import centred

    return centred(x, meta)


def _sections(data: Any, results: Any, context: Any) -> Any:
    from sciinv_vlbi.pages import sections

    return sections(data, results, context)


def _simulate(source: str, out: Path, options: Mapping[str, Any]) -> Path:
    from sciinv.config import keywords
    from sciinv_vlbi.simulate import simulate

    return simulate(source, out, **keywords(simulate, options, "settings of simulate vlbi"))


def _demo(folder: Path) -> Path:
    from sciinv_vlbi.demo import demo

    return demo(folder)
