"""Real synchrotron counts from few views, with the Poisson likelihood: ``ct_tooth.py --data DIR``.

DIR holds TomoPy's ``tooth.h5`` at any depth: 181 views of a tooth over half a turn. It is reconstructed from VIEWS of
them by filtered backprojection (Hann), total variation with the weight of a grid that is best for the PSNR, and as
posterior mean of the counts. Reference: the filtered backprojection of all views on the same pixels; PSNR inside the
circle that every view sees, coverage inside the object, of the range of the samples and of 90 % intervals (`ct_htc`).
"""

from __future__ import annotations

from _common import finish, options, table  # isort: skip - sets one thread before torch is imported

import argparse
import time
from pathlib import Path

import numpy as np
from ct_htc import ITERATIONS, circle, interval
from sciinv_ct import PNPDM, io
from sciinv_ct.baselines import tv
from sciinv_ct.options import CTOptions
from sciinv_ct.problem import baseline, problem

from sciinv.config import build
from sciinv.diagnostics.metrics import coverage, psnr
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import METHODS, sample

CENTRE, SIDE, VIEWS = 296.0, 320.0, 30  # cells; the axis of rotation is that of TomoPy's documentation
WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0)
SETTINGS = {"rho_max": 1.0, "anneal": 20, "stationary": 8, "kernel": "hmc", "inner": 4}
"""Views all round; the last sweeps are Metropolis steps on the counts."""


def main() -> None:
    """Reconstruct and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", default="ct_piecewise", help="name or file")
    parser.add_argument("--set", nargs="*", default=[], dest="words", help="key=value for pnpdm")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, help="file for the images as .npz")
    a = parser.parse_args()
    start = time.process_time()
    scan = io.read(next(iter(sorted(a.data.rglob("tooth.h5")))))
    p = problem(scan, 0, CTOptions(size=a.size, fov=SIDE, centre=CENTRE, views=VIEWS, noise="poisson"))
    reference, near = p.meta["reference"][0] / p.meta["scale"], p.linearised
    seen = circle(a.size)
    tried = {w: tv(near.linear, near.y, w, ITERATIONS).x[0] for w in WEIGHTS}
    weight = max(tried, key=lambda w: float(psnr(tried[w], reference, mask=seen)))
    settings = PNPDM | SETTINGS | options(a.words)
    out = sample(build(METHODS["pnpdm"], settings, "pnpdm"), p, load_prior(a.prior).at((a.size, a.size)), a.samples, 7)
    x, summary, inside = out.x[:, 0], out.summary(0.9), p.meta["support"][0]
    fields = {"FBP": baseline(p)[0], f"TV, weight {weight:g}": tried[weight], "posterior mean": x.mean(0)}
    db = {k: float(psnr(v, reference, mask=seen)) for k, v in fields.items()}
    table(["image", "dB"], [[k, v] for k, v in db.items()])
    fbp, best, mean = db.values()
    if a.out is not None:
        np.savez_compressed(a.out, reference=reference, fbp=fields["FBP"], tv=tried[weight], mean=x.mean(0), samples=x)
    figures = {
        "psnr_gain_over_best_baseline": mean - max(fbp, best), "psnr_fbp": fbp, "psnr_tv": best, "psnr_mean": mean,
        "chi2_per_datum": float(p.chi2(out.x).mean()) / p.n_data,
        "coverage_range": float(coverage(summary["lower"][0], summary["upper"][0], reference, inside)),
        "range_nominal": summary["coverage"], "coverage_90": float(coverage(*interval(x), reference, inside)),
        "samples": a.samples, "views": VIEWS, "cpu_s": time.process_time() - start,
    }  # fmt: skip
    finish(figures, mean > max(fbp, best))


if __name__ == "__main__":
    main()
