"""Retrospective low-dose study of real CT slices: ``ct_dicom.py --data DIR``.

DIR holds the DICOM files of `SLICES` at any depth. The projections of each slice are simulated from its own pixels (fan
beam, VIEWS views of a full turn, PHOTONS photons a cell of the finest detector, Poisson noise) and reconstructed on
fewer pixels by filtered backprojection (Hann), total variation with the weight of a grid that is best for the root mean
square error, and as posterior mean. Errors are in Hounsfield units against the slice averaged over the same pixels, by
tissue of the slice. Coverage: 90 % intervals, order statistics of 19 samples, which cover 90 % if they are exact; over
pixels inside the object, raw.
"""

from __future__ import annotations

from _common import finish, options, table  # isort: skip - sets one thread before torch is imported

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from ct_htc import ITERATIONS
from sciinv_ct import PNPDM, io
from sciinv_ct.baselines import tv
from sciinv_ct.options import CTOptions
from sciinv_ct.problem import baseline, problem
from torch import Tensor

from sciinv.config import build
from sciinv.diagnostics.metrics import coverage, error_correlation
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import METHODS, sample

SLICES = {
    "head": ("693_UNCR.dcm", 0, 128), "thorax": ("CT_small.dcm", 0, 96), "brain": ("eCT_Supplemental.dcm", 0, 128),
}  # fmt: skip
"""File, frame and pixels along a side; fewer than the file has, so that no model fits its own projections."""
TISSUES = {
    "air": (-2000, -900), "lung": (-900, -500), "fat": (-200, -30), "soft": (-30, 100), "bone": (300, 4000),
}  # fmt: skip
VIEWS, PHOTONS = 60, 2e4
SETTINGS = {"rho_max": 1.0, "rho_min": 0.03, "anneal": 20}
"""Views all round leave nothing open at the scale of the object: the sweeps may start lower than for an arc."""
WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
LEAST = 30
"""Pixels that a tissue needs to be in the table."""


def main() -> None:
    """Simulate, reconstruct, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", default="ct_body", help="name or file")
    parser.add_argument("--method", default="pnpdm")
    parser.add_argument("--set", nargs="*", default=[], dest="words", help="key=value for the method")
    parser.add_argument("--samples", type=int, default=19)
    parser.add_argument("--slices", nargs="*", default=list(SLICES))
    parser.add_argument("--out", type=Path, help="folder for the images as .npz, in Hounsfield units")
    a = parser.parse_args()
    settings = (PNPDM | SETTINGS if a.method == "pnpdm" else {}) | options(a.words)
    prior, method = load_prior(a.prior), build(METHODS[a.method], settings, a.method)
    rows, gains, covered = [], [], []
    for name in a.slices:
        file, frame, size = SLICES[name]
        start = time.process_time()
        scan = io.read(next(iter(sorted(a.data.rglob(file)))))
        p = problem(scan, frame, CTOptions(size=size, views=VIEWS, photons=PHOTONS))

        def hounsfield(x: Tensor, p=p) -> np.ndarray:
            """From the problem's unit, water at one."""
            return 1000 * (x.numpy() * p.meta["scale"] / p.meta["mu_water"] - 1)

        truth = hounsfield(p.meta["reference"][0] / p.meta["scale"])
        inside = p.meta["support"][0]
        linear = p.linearised
        tried = {w: hounsfield(tv(linear.linear, linear.y, w, ITERATIONS).x[0]) for w in WEIGHTS}
        weight = min(tried, key=lambda w: rms(tried[w] - truth))
        out = sample(method, p, prior.at((size, size)), a.samples, 7)
        x, summary = hounsfield(out.x[:, 0]), out.summary(0.9)
        fields = {"fbp": hounsfield(baseline(p)[0]), "tv": tried[weight], "mean": x.mean(0)}
        ends = tuple(torch.from_numpy(hounsfield(summary[k][0])) for k in ("lower", "upper"))
        classes = {k: torch.from_numpy((truth >= low) & (truth < high)) for k, (low, high) in TISSUES.items()}
        classes = {k: v for k, v in classes.items() if int(v.sum()) >= LEAST} | {"all": torch.ones_like(inside)}
        for tissue, where in classes.items():
            error = {k: (v - truth)[where.numpy()] for k, v in fields.items()}
            seen = where & inside
            rows.append(
                [name, tissue, int(where.sum()), *(float(error[k].mean()) for k in fields),
                 *(rms(error[k]) for k in fields),
                 float(coverage(*ends, torch.from_numpy(truth), seen)) if int(seen.sum()) >= LEAST else float("nan")]
            )  # fmt: skip
            print(*(f"{c:.4g}" if isinstance(c, float) else c for c in rows[-1]), flush=True)
        whole = rows[-1]
        gains.append(min(whole[6:8]) / whole[8])
        covered.append(whole[9])
        corr = float(error_correlation(torch.from_numpy(x.std(0)), torch.from_numpy(x.mean(0) - truth), inside))
        print(
            f"{name}: {p.meta['noise_model']} noise, chi-squared a datum {float(p.chi2(out.x).mean()) / p.n_data:.3g}, "
            f"TV weight {weight:g}, correlation of std and error {corr:.2f}, range of {a.samples} samples nominal "
            f"{summary['coverage']:.3f}, CPU {time.process_time() - start:.0f} s", flush=True,
        )  # fmt: skip
        if a.out is not None:
            a.out.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(a.out / f"{name}.npz", truth=truth, samples=x, inside=inside.numpy(), **fields)
    names = ("fbp", "tv", "mean")
    table(["slice", "tissue", "pixels", *(f"bias {k}" for k in names), *(f"rms {k}" for k in names), "90 %"], rows)
    figures = {
        "rms_gain_over_best_baseline": float(np.exp(np.mean(np.log(gains)))), "rms_gain_worst": min(gains),
        "coverage_90": float(np.mean(covered)), "samples": a.samples, "views": VIEWS, "photons": PHOTONS,
    }  # fmt: skip
    finish(figures, min(gains) > 1)


def rms(error: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(error).mean()))


if __name__ == "__main__":
    main()
