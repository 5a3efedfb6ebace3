"""Simulation-based calibration on the coverage of M87: ``vlbi_sbc.py --data DIR --prior FILE --out FILE``.

A truth is drawn from the network itself, observed with the baselines and noise of 2017 April 11 (both bands, scan
averages, 2 % systematic noise, log-normal gains of 10 %, uniform phases; total flux with an error of 10 %), and
imaged by independent chains. If the sampler draws from the posterior, the rank of any number of the truth
among those of the chains is uniform (Talts et al. 2018). ``u = (sum_i w_i [s_i < t] + U) / (sum_i w_i + 1)`` with
w = 1 for all chains, or the weights that `refute` left them; U is uniform and breaks ties.

Numbers: diameter (of whatever image: it is a statistic), flux in four quadrants, pixel values in the middle and on a
circle of 42 micro-arcseconds; not the total flux, which is the same in all images of the prior. Every observation is
appended to ``--out``: the same line goes on where it stopped.
"""

from __future__ import annotations

from _common import finish, options, table  # isort: skip - sets one thread before torch is imported

import argparse
import dataclasses as dc
import json
from pathlib import Path

import numpy as np
import torch
from sciinv_vlbi import DOMAIN, io
from sciinv_vlbi.averaging import average
from sciinv_vlbi.observation import Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import problem
from sciinv_vlbi.rings import ring_parameters
from scipy import stats
from torch import Tensor
from vlbi_heldout import FIELD, FLUX, PIXEL, SIDE, observe

from sciinv.config import build
from sciinv.prior import Counted
from sciinv.priors.checkpoint import load_prior
from sciinv.problem import Problem
from sciinv.reduced import Reduced
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample
from sciinv.samplers.kernels import prior_step

SEED, FINE = 20261122, 0.15
ANGLES = range(0, 360, 45)


def numbers(x: Tensor) -> dict[str, np.ndarray]:
    """What is ranked, of images ``(n, 1, SIDE, SIDE)``."""
    half, image = SIDE // 2, x[:, 0].double()
    found = {"diameter": ring_parameters(image.float(), PIXEL)["diameter"]}
    for name, rows, columns in (("NE", 0, 0), ("NW", 0, 1), ("SE", 1, 0), ("SW", 1, 1)):
        part = image[:, rows * half : (rows + 1) * half, columns * half : (columns + 1) * half]
        found[f"flux {name}"] = part.sum((1, 2)).numpy()
    found["centre"] = image[:, half, half].numpy()
    for angle in ANGLES:
        row = round(half - 0.5 - 21 / PIXEL * np.cos(np.deg2rad(angle)))
        column = round(half - 0.5 - 21 / PIXEL * np.sin(np.deg2rad(angle)))
        found[f"pixel {angle}"] = image[:, row, column].numpy()
    return found


def observed(night: Observation, truth: Tensor, chosen: VLBIOptions, seed: int) -> Problem:
    """The inverse problem of a truth ``(1, SIDE, SIDE)`` in the prior's units; its total flux is a datum too."""
    scale = problem(night, 0, chosen).meta["scale"]
    image = scale / FLUX * truth[0].double().numpy()
    data = problem(observe(night, image, seed), 0, chosen)
    first, last = data.meta["products"]["flux"]
    data.y[first:last] = data.operator(truth[None])[0, first:last] + Rng(seed, [0]).normal((last - first,))[0]
    return data


def place(low: np.ndarray, w: np.ndarray, u: float) -> float:
    """Randomised rank, uniform on (0, 1) where samples and truth are exchangeable."""
    return float((np.sum(w * low) + u) / (w.sum() + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first observation, to share the work")
    parser.add_argument("--chains", type=int, default=9)
    parser.add_argument("--method", default="pnpdm")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the method")
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="the first is written, all are summed up")
    given = parser.parse_args()
    files = [next(given.data.rglob(f"SR1_M87_2017_101_{band}_hops_netcal_StokesI.uvfits")) for band in ("lo", "hi")]
    night = average(io.join([io.read(file) for file in files]))
    chosen = build(VLBIOptions, {"flux": FLUX, "fov": FIELD, "systematic": 0.0, "snr_min": 4.0}, "vlbi")
    method = build(
        METHODS[given.method], {**DOMAIN.method_settings(given.method, {}), **options(given.set)}, given.method
    )
    prior = load_prior(given.prior).at((SIDE, SIDE))
    out = given.out[0]
    done = {json.loads(line)["k"] for line in out.read_text().splitlines()} if out.exists() else set()
    shared: Reduced | None = None
    for k in range(given.first, given.first + given.count):
        if k in done:
            continue
        rng = Rng(SEED, [k])
        x = prior.sigma_max * rng.normal((1, SIDE, SIDE))
        truth = prior_step(Counted(prior), x, prior.sigma_max, rng, FINE)[0]
        data = observed(night, truth, chosen, k)
        # all share the row space and the errors there, which cost more than the chains: only what is done with the
        # visibilities differs
        shared = data.reduced if shared is None else shared
        data.__dict__["reduced"] = dc.replace(shared, outer=data.operator.split()[0])
        samples = sample(method, data, prior, given.chains, SEED + k)
        log_w = torch.zeros(given.chains) if samples.log_w is None else samples.log_w
        w = log_w.double().exp().numpy()
        mine, real = numbers(samples.x), numbers(truth[None])
        ties = np.random.default_rng([SEED, k]).uniform(size=len(mine))
        low = {name: (mine[name] < real[name][0]) for name in mine}
        line = {
            "k": k, "kept": float(w.sum()), "chi2": float(data.chi2(samples.x).median()) / data.n_data,
            "own": float(data.chi2(truth[None])[0]) / data.n_data,
            "all": {name: place(low[name], np.ones(len(w)), u) for name, u in zip(mine, ties, strict=True)},
            "weighted": {name: place(low[name], w, u) for name, u in zip(mine, ties, strict=True)},
        }  # fmt: skip
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    lines = [json.loads(line) for file in given.out for line in file.read_text().splitlines()]
    figures: dict[str, float] = {"observations": len(lines)}
    rows = []
    for name in lines[0]["all"]:
        row: list[str | float] = [name]
        for kind in ("all", "weighted"):
            u = np.array([line[kind][name] for line in lines])
            row += [float(u.mean()), float(((u > 0.1) & (u < 0.9)).mean()), float(stats.kstest(u, "uniform").pvalue)]
        rows.append(row)
    table(("", "mean u", "in 80 %", "p", "weighted", "in 80 %", "p"), rows)
    for kind, at in (("all", 3), ("weighted", 6)):
        figures[f"least_p_{kind}"] = min(float(row[at]) for row in rows)
        figures[f"mean_in_80_{kind}"] = float(np.mean([row[at - 1] for row in rows]))
    figures |= {f"median_{name}": float(np.median([line[name] for line in lines])) for name in ("kept", "chi2", "own")}
    finish(figures, figures["least_p_weighted"] * len(rows) > 0.01)


if __name__ == "__main__":
    main()
