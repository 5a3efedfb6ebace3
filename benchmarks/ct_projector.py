"""CT projection and its transpose on one CPU thread against ASTRA and deepinv; parallel beam, one image and sixteen.

Without `--size` and `--views`: 256 x 256 from 180 views and 512 x 512 from 720. ASTRA's linear kernel is checked to
compute the same thing first; it has no batch, so sixteen images cost it sixteen calls. deepinv interpolates rotated
images, which is another discretisation; sixteen images take it 6 GB and a minute, and the larger size as long, so both
only with `--full`.

`batch16_per_image_vs_astra` and `batch1_vs_astra` are the smallest of the forward and adjoint ratios over all sizes.
"""

from __future__ import annotations

from _common import finish, need, race, table  # isort: skip - sets one thread before torch is imported

import argparse
import functools
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch
from sciinv_ct.backends import AstraProjector
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.projector import Projector

BATCH = 16


def scan(size: int, views: int) -> Geometry:
    """The parallel scan of the reference study: a cell a pixel, as many as the diagonal is long."""
    return Geometry(
        "parallel", np.arange(views) * np.pi / views, int(np.ceil(size * 2**0.5)), 1.0, Grid((size, size), 1.0)
    )


def memory() -> float:
    """Peak resident memory so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def adjoint_error(p: Projector, generator: torch.Generator) -> float:
    """``|<Ax, y> - <x, A^T y>| / (|Ax| |y|)`` of white noise in float64."""
    x = torch.randn(p.domain.shape, dtype=torch.float64, generator=generator)
    y = torch.randn(p.codomain.shape, dtype=torch.float64, generator=generator)
    ax = p(x)
    return float(((ax * y).sum() - (x * p.adjoint(y)).sum()).abs() / (ax.norm() * y.norm()))


def deepinv_of(g: Geometry):
    """The `Tomography` of deepinv with the same views, its adjoint by backpropagation (its default)."""
    import deepinv

    return deepinv.physics.Tomography(
        angles=torch.rad2deg(torch.tensor(g.angles)).float(),
        img_width=g.grid.columns,
        circle=False,
        normalize=False,
    )


def measure(size: int, views: int, batches: Sequence[int], repeats: int) -> dict[str, float]:
    """Race one size, deepinv with the given batches; returns the ratios."""
    g, generator = scan(size, views), torch.Generator().manual_seed(0)
    start = time.process_time()
    ours = Projector(g)
    build = time.process_time() - start
    built = memory()
    astra = AstraProjector(g)
    x = torch.rand(BATCH, *g.grid.shape, generator=generator)
    y = torch.rand(BATCH, *g.shape, generator=generator)
    for mine, wanted in ((ours(x[:1]), astra(x[:1])), (ours.adjoint(y[:1]), astra.adjoint(y[:1]))):
        gap = float((mine - wanted).norm() / wanted.norm())
        assert gap < 1e-4, f"ASTRA computes something else: relative difference {gap:.1e}"
    with torch.no_grad():
        ms = race(
            {
                "A astra, 1": lambda: astra(x[:1]),
                "A ours, 1": lambda: ours(x[:1]),
                "A ours, 16": lambda: ours(x),
                "A^T astra, 1": lambda: astra.adjoint(y[:1]),
                "A^T ours, 1": lambda: ours.adjoint(y[:1]),
                "A^T ours, 16": lambda: ours.adjoint(y),
            },
            repeats=repeats,
        )
    if batches:
        theirs = deepinv_of(g)
        for count in batches:
            sinogram = theirs.A(x[:count, None])
            calls = {
                f"A deepinv, {count}": functools.partial(theirs.A, x[:count, None]),
                f"A^T deepinv, {count}": functools.partial(theirs.A_adjoint, sinogram),
            }
            ms |= race(calls, 3 if count == 1 and size < 400 else 1, warm_up=0)
    rows = [
        [f"{size}^2 x {views}", name, value, value / (BATCH if name.endswith("16") else 1)]
        for name, value in ms.items()
    ]
    table(["scan", "call", "CPU ms", "an image"], rows)
    print(
        f"build {build:.1f} CPU s, matrix pair {ours.rows.nbytes / 1e9:.2f} GB "
        f"({'stored' if ours.stored else 'computed on the way'}, {len(ours.plan.angles)} views of {views}), "
        f"peak memory {built:.2f} GB after the build, {memory():.2f} GB in all\n"
    )
    key = f"_{size}"
    figures = {
        f"relative_to_astra{key}": gap,
        f"adjoint_error{key}": adjoint_error(ours, generator),
        f"peak_gb{key}": memory(),
    }
    for name in ("A", "A^T"):
        short = "forward" if name == "A" else "adjoint"
        figures[f"{short}_batch1{key}"] = ms[f"{name} astra, 1"] / ms[f"{name} ours, 1"]
        figures[f"{short}_batch16{key}"] = BATCH * ms[f"{name} astra, 1"] / ms[f"{name} ours, 16"]
        for count in batches:
            figures[f"{short}_vs_deepinv_{count}{key}"] = ms[f"{name} deepinv, {count}"] / ms[f"{name} ours, {count}"]
    return figures


def main() -> None:
    """Race and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, help="image side; with --views, instead of both standard sizes")
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--no-deepinv", action="store_true", help="race ASTRA only")
    parser.add_argument("--full", action="store_true", help="deepinv also with sixteen images, and at the larger size")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    need("astra", *([] if options.no_deepinv else ["deepinv"]))
    sizes = [(options.size, options.views)] if options.size else [(256, 180), (512, 720)]
    found: dict[str, float] = {}
    for k, (size, views) in enumerate(sizes):
        batches = [] if options.no_deepinv or (k and not options.full) else [1]
        if options.full and not k:
            batches.append(BATCH)
        found |= measure(size, views, batches, options.repeats if size < 400 else 3)

    def worst(what: str) -> float:
        return min(v for name, v in found.items() if f"_{what}_" in name)

    figures = {
        "batch16_per_image_vs_astra": worst("batch16"),
        "batch1_vs_astra": worst("batch1"),
        "adjoint_error_fp64": max(v for name, v in found.items() if name.startswith("adjoint_error")),
    }
    goals = {
        "batch16_per_image_vs_astra": "at least 10",
        "batch1_vs_astra": "at least 1",
        "adjoint_error_fp64": "at most 1e-10",
    }
    table(["figure", "value", "goal"], [[name, value, goals[name]] for name, value in figures.items()])
    ok = figures["batch16_per_image_vs_astra"] >= 10 and figures["batch1_vs_astra"] >= 1
    # finish() rounds to six digits, which an error of 1e-16 does not survive
    error = figures["adjoint_error_fp64"]
    finish(found | figures | {"adjoint_error_fp64": f"{error:.1e}"}, ok and error <= 1e-10)


if __name__ == "__main__":
    main()
