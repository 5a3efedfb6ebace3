"""Learn how much too narrow the demo prior's intervals are on heads it was not trained on: ``calibrate.py OUT.json``.

For each acceleration, phantoms made from equations (`sciinv_mri.phantom`; other heads, contrasts, coils and noise than
the prior's synthetic training slices, and never the data a user brings) run through the whole path: file, reader,
maps, noise model, PnP-DM. The factor f makes ``mean -/+ f z std`` cover 90 % of the head's pixels on average over the
slices. The result is what `sciinv_mri/calibration.json` holds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import NormalDist

import torch
from sciinv_mri.io import READERS
from sciinv_mri.problem import problem
from sciinv_mri.simulate import simulate

from sciinv.diagnostics.metrics import coverage
from sciinv.io.atomic import write_json
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import PnPDM, sample

LEVEL = 0.9
LINES = {4.0: 10, 6.0: 9, 8.0: 8}
CONTRASTS = ("t1", "t2", "pd", "flair")


def scaled_errors(rate: float, head: int, prior, samples: int) -> tuple[torch.Tensor, float]:
    """``|error| / (z std)`` in one phantom's support, and the raw coverage there."""
    with tempfile.TemporaryDirectory() as folder:
        path = simulate(
            "phantom",
            Path(folder) / "k.h5",
            acceleration=rate,
            calib_lines=LINES[rate],
            coils=(8, 16)[head % 2],
            snr=(25.0, 50.0)[head // 2 % 2],
            seed=100 + head,
            slices=1,
            matrix=(96, 96),
            contrast=CONTRASTS[head % 4],
        )
        inverse = problem(READERS["fastmri"].read(path), 0)
    drawn = sample(PnPDM(), inverse, prior.at(inverse.domain.shape), [(head, k) for k in range(samples)], seed=1)
    s, truth, support = drawn.summary(LEVEL), inverse.meta["reference"] / inverse.meta["scale"], inverse.meta["support"]
    error = (s["magnitude_mean"] - truth).abs() / (NormalDist().inv_cdf((1 + LEVEL) / 2) * s["std"])
    return error[support], float(coverage(s["lower"], s["upper"], truth, support))


def factor(errors: list[torch.Tensor]) -> float:
    """Smallest f whose mean coverage over the slices reaches the level, by bisection."""
    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        inside = sum(float((e <= middle).float().mean()) for e in errors) / len(errors)
        low, high = (low, middle) if inside >= LEVEL else (middle, high)
    return high


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rates", type=float, nargs="+", default=list(LINES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    prior = load_prior("brain_mri")
    factors, raw = {}, {}
    for rate in args.rates:
        runs = [scaled_errors(rate, head, prior, args.samples) for head in range(args.heads)]
        factors[rate] = round(factor([errors for errors, _ in runs]), 3)
        raw[rate] = round(sum(covered for _, covered in runs) / len(runs), 3)
    record = {
        "prior_sha256": prior.card["sha256"],
        "method": "pnpdm",
        "level": LEVEL,
        "factors": factors,
        "protocol": "random phase-encoding lines, 8 or 16 coils, 96 x 96, 8 to 10 calibration lines",
        "learned_on": f"{args.heads} phantom heads made from equations an acceleration",
        "raw_coverage": raw,
    }
    write_json(args.out, record)


if __name__ == "__main__":
    main()
