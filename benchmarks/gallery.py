"""Every method on five problems with the shipped brain prior: error, spread, coverage and time, and a page of pictures.

``gallery.py [--data DIR]``: one 96 x 96 slice, of the phantom (never seen in training) or of the real 16-coil brain
(its full-data reconstruction is the truth), behind a masked Fourier transform (a quarter of the lines), a blur,
3 x 3 block averages, a mask of 70 % of the pixels, and the modulus of an oversampled Fourier transform; noise `SIGMA`
of the 99th percentile. Settings are the defaults, levels and sweeps times ``--work``. A method that a problem cannot
serve is refused before its first step, with the reason. ``cover`` is the share of pixels of the head whose magnitude
lies within the samples' central bounds, ``level`` what an exact sampler's would hold.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses as dc
import time
from pathlib import Path
from typing import Any

import torch
from _common import finish, table
from torch import Tensor

from sciinv.certify.settings import WORK, is_population
from sciinv.diagnostics.metrics import coverage, psnr
from sciinv.errors import MismatchError, NumericalError
from sciinv.generic.blur import Blur
from sciinv.generic.fourier import FourierMask
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.generic.resample import BlockAverage
from sciinv.io.atomic import atomic_path
from sciinv.noise import Gaussian
from sciinv.prior import Prior
from sciinv.priors.checkpoint import load_prior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, Sampler, sample

SIZE, SIGMA = 96, 0.03
C64 = torch.complex64
Row = dict[str, Any]


def truth(data: Path | None) -> Tensor:
    """The magnitude of the slice, its 99th percentile at one; the prior knows images without their smooth phase."""
    if data is None:
        from sciinv_mri.phantom import head

        image = torch.from_numpy(head((SIZE, SIZE))[0])
    else:
        from mri_real import read, reference_image

        image = reference_image(read(data))
    return (image.abs() / torch.quantile(image.abs(), 0.99)).to(C64)


def problems(image: Tensor) -> dict[str, Problem]:
    """The five problems with their data."""
    from sciinv_mri.masks import random_lines

    shape, rng = tuple(image.shape), Rng(1, [0])
    lines = torch.as_tensor(random_lines(SIZE, SIZE // 4, 10, 0))
    pixels = rng.uniform(shape)[0] < 0.7
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 1.5) ** 2)
    kernel = line[:, None] * line / line.sum() ** 2
    operators = {
        "fourier": FourierMask(lines.expand(shape), shape), "blur": Blur(kernel, shape, C64),
        "super-resolution": BlockAverage(shape, 3, dtype=C64), "inpainting": Mask(pixels, shape, C64),
        "phase retrieval": PhaseRetrieval(shape, power=1),
    }  # fmt: skip
    out = {}
    for name, operator in operators.items():
        clean = operator(image)
        noise = SIGMA * Rng(2, [0]).normal_like(clean[None])[0]
        measured = torch.ones_like(clean.real)
        if name in ("fourier", "inpainting"):
            measured = (lines.expand(shape) if name == "fourier" else pixels).to(clean.real.dtype)
        meta = {"n_data": int(measured.sum()) * (2 if clean.is_complex() else 1)}
        out[name] = Problem(clean + noise * measured, operator, Gaussian(SIGMA), meta)
    return out


def worked(method: type[Sampler], work: float, linear: bool) -> Sampler:
    """The method with its default amount of work times ``work``; `pnpdm` by its only start for a nonlinear problem."""
    fields = {f.name: f.default for f in dc.fields(method)}
    less = {k: max(2, round(fields[k] * work)) for k in WORK if k in fields and isinstance(fields[k], int)}
    return method(**less, **({"start": "noise"} if "start" in fields and not linear else {}))


def run(sampler: Sampler, problem: Problem, prior: Prior, image: Tensor, n: int) -> tuple[Row, Tensor | None]:
    """One row of the table, and the posterior mean."""
    start = time.process_time()
    try:
        out = sample(sampler, problem, prior, n, seed=0)
    except (MismatchError, NumericalError) as error:
        return {"refused": str(error).split(";")[0]}, None
    cpu = time.process_time() - start
    s, support = out.summary(), image.abs() > 0.1
    mean = s["mean"]
    if not problem.operator.linear:  # the modulus does not see the phase of the whole image
        mean = s["magnitude_mean"].to(C64)
    return {
        "psnr": float(psnr(mean.abs(), image.abs())), "std": float(s["std"][support].mean()),
        "cover": float(coverage(s["lower"], s["upper"], image.abs(), support)), "level": s["coverage"],
        "chi2": float(problem.chi2(out.good).mean()) / problem.n_data, "ess": s["ess"],
        "calls": out.provenance["network_calls"], "vjps": out.provenance["network_vjps"], "cpu": cpu,
    }, mean  # fmt: skip


def picture(rows: list[Row], means: dict[tuple[str, str], Tensor], image: Tensor, path: Path) -> None:
    """Means in fixed units, a row a method, a column a problem; an empty cell was refused."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, kinds = (list(dict.fromkeys(row[k] for row in rows)) for k in ("method", "problem"))
    across = 3  # blocks of methods side by side
    deep = -(-len(names) // across)
    columns = across * (len(kinds) + 1)
    figure = Figure(figsize=(1.0 * columns, 1.12 * (deep + 1)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(deep + 1, columns, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    for panel in panels.flatten():
        panel.set_axis_off()
    for block in range(across):
        for j, kind in enumerate(kinds):
            panels[0, block * (len(kinds) + 1) + 1 + j].text(0.5, 0.1, kind, ha="center", fontsize=6.5)
    panels[0, 0].imshow(image.abs(), cmap="gray", vmin=0, vmax=1.1)
    panels[0, 0].set_title("truth", fontsize=7, pad=2)
    for i, name in enumerate(names):
        row, left = 1 + i % deep, (i // deep) * (len(kinds) + 1)
        panels[row, left].text(0.95, 0.5, name, ha="right", va="center", fontsize=7.5)
        for j, kind in enumerate(kinds):
            if (name, kind) in means:
                panels[row, left + 1 + j].imshow(means[name, kind].abs(), cmap="gray", vmin=0, vmax=1.1)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--data", type=Path, help="folder of real measurements, for the real brain")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--particles", type=int, default=16, help="samples of the methods that are populations")
    parser.add_argument("--work", type=float, nargs="+", default=[1.0])
    parser.add_argument("--out", type=Path, help="folder for gallery.csv and gallery.png")
    args = parser.parse_args()
    image = truth(args.data)
    prior = load_prior("brain_mri").eval().requires_grad_(False).at(tuple(image.shape))
    rows: list[Row] = []
    means: dict[tuple[str, str], Tensor] = {}
    for kind, problem in problems(image).items():
        if args.problems and kind not in args.problems:
            continue
        for name in args.methods:
            for work in args.work:
                n = args.particles if is_population(METHODS[name]) else args.samples
                row, mean = run(worked(METHODS[name], work, problem.operator.linear), problem, prior, image, n)
                rows.append({"problem": kind, "method": name, "work": work, **row})
                if mean is not None:
                    means[name, kind] = mean
            if args.out is not None:  # hours of work are kept as they are made
                fields = list(dict.fromkeys(k for row in rows for k in row))
                text = [fields, *([row.get(k, "") for k in fields] for row in rows)]
                with atomic_path(args.out / "gallery.csv") as temporary, temporary.open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(text)
    shown = ("psnr", "std", "cover", "level", "chi2", "calls", "vjps", "cpu", "refused")
    table(
        ["problem", "method", "work", *shown],
        [[r["problem"], r["method"], r["work"], *(r.get(k, "") for k in shown)] for r in rows],
    )
    if args.out is not None:
        picture(rows, means, image, args.out / "gallery.png")
    served = sum("psnr" in row for row in rows)
    finish({"served": served, "refused": len(rows) - served}, ok=served > 0)


if __name__ == "__main__":
    main()
