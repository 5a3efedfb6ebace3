"""What every benchmark shares: one thread, CPU time, medians of interleaved runs, a table, one line of JSON at the end.

CPU time (not wall time) makes figures comparable on a busy machine; interleaving makes the contestants share its moods;
only ratios within one run are meant to be compared.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

torch.set_num_threads(1)
PACKAGES = ("sciinv", "torch", "numpy", "scipy", "deepinv", "azula", "sigpy", "astra-toolbox", "torchvision")


def options(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as settings."""
    from sciinv.io.safe_yaml import parse_yaml

    return {key: parse_yaml(text, where=key) for key, _, text in (word.partition("=") for word in words)}


def race(
    contestants: Mapping[str, Callable[[], Any]], repeats: int = 7, inner: int = 1, warm_up: int = 1
) -> dict[str, float]:
    """Median CPU milliseconds per call of each contestant; they take turns, ``inner`` calls at a time."""
    for _ in range(warm_up):
        for call in contestants.values():
            call()
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, call in contestants.items():
            start = time.process_time()
            for _ in range(inner):
                call()
            spent[name].append((time.process_time() - start) * 1e3 / inner)
    return {name: statistics.median(times) for name, times in spent.items()}


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; floats get four significant digits."""
    cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    for number, row in enumerate(cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def versions() -> dict[str, str]:
    """Python and the packages that took part."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def need(*modules: str) -> None:
    """End with one sentence when a peer is not installed."""
    missing = [name for name in modules if not metadata.packages_distributions().get(name)]
    if missing:
        sys.exit(f"{', '.join(missing)} missing: use the environment that benchmarks/requirements.txt describes")


def finish(figures: Mapping[str, Any], ok: bool) -> None:
    """Print the last line, one JSON object, and leave with exit code 1 when a budget is missed."""
    rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"figures": rounded, "ok": bool(ok), "versions": versions()}))
    sys.exit(0 if ok else 1)
