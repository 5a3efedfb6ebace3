"""Real discs of the Helsinki Tomography Challenge from few views: ``ct_htc.py --data DIR``.

DIR holds ``htc2022_*_full.mat`` (and ``*_recon_fbp_seg.mat`` where there is one) at any depth. The scan of the solid
disc gives the curve of beam hardening (`sciinv_ct.hardening`), with which the line integrals of the others are
straightened for every method alike (``--as-measured`` leaves them). Every disc is
reconstructed on SIZE pixels from arcs of 90, 60 and 30 degrees (one view a degree) and from 30 views of the full turn,
by filtered backprojection, by total variation with the weight of a grid that is best for each figure, and as posterior
mean. Scores are those of the challenge (Matthews correlation of the image segmented by Otsu's threshold, on 512 pixels)
and PSNR against the filtered backprojection of all 721 views (straightened, on 512 pixels, averaged over those of the
image), inside the circle that every view sees (beyond it that image is wrong). ``vote`` segments every sample and
takes the pixels that are material in more than half of them: the estimate that posterior probabilities ask for.
Coverage against that image, inside the object and raw: of the range of the samples, which would be (n - 1)/(n + 1) for
n exact ones; of 90 % intervals, mean and standard deviation times the quantile of Student's predictive law; and of
those with the noise of the reference in them, half the root mean square difference of two references of half the views
each. Wedge: posterior variance a Fourier coefficient among directions that no view sees, over that among directions
that are seen.
"""

from __future__ import annotations

from _common import finish, options, table  # isort: skip - sets one thread before torch is imported

import argparse
import time
from pathlib import Path

import numpy as np
import scipy.io
import scipy.stats
import torch
import torch.nn.functional as F
from sciinv_ct import DOMAIN, io
from sciinv_ct.baselines import fbp, tv
from sciinv_ct.geometry import Geometry
from sciinv_ct.hardening import of_disc
from sciinv_ct.options import CTOptions
from sciinv_ct.prepare import readings
from sciinv_ct.problem import baseline, problem
from torch import Tensor

from sciinv.config import build
from sciinv.diagnostics.metrics import coverage, error_correlation, psnr
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import METHODS, sample

SIDE, OFFICIAL = 75.941, 512  # mm and pixels of the challenge's images
CASES = {
    "arc 90": {"arc": 90.0, "views": 90}, "arc 60": {"arc": 60.0, "views": 60}, "arc 30": {"arc": 30.0, "views": 30},
    "30 views": {"views": 30},
}  # fmt: skip
WEIGHTS = (5.0, 12.0, 30.0, 60.0)
ITERATIONS = 300


def otsu(image: np.ndarray) -> np.ndarray:
    """The image above Otsu's threshold (IEEE Trans. SMC 9, 62, 1979), 256 levels."""
    counts, edges = np.histogram(image, 256)
    middle, below = 0.5 * (edges[1:] + edges[:-1]), counts.cumsum()
    above, first = below[-1] - below, (counts * middle).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (first / below - (first[-1] - first) / above) ** 2
    return image > middle[np.nanargmax(between)]


def matthews(found: np.ndarray, truth: np.ndarray) -> float:
    """Matthews correlation coefficient of two binary images, the challenge's score."""
    a, b = found.ravel().astype(float), truth.ravel().astype(float)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def segmented(image: Tensor) -> np.ndarray:
    """An image ``(n, n)`` above its threshold, on the challenge's pixels."""
    fine = F.interpolate(image[None, None], size=(OFFICIAL, OFFICIAL), mode="bilinear", align_corners=False)[0, 0]
    return otsu(fine.numpy())


def score(image: Tensor, truth: np.ndarray) -> float:
    """Score of an image ``(n, n)`` after interpolation to the challenge's pixels."""
    return matthews(segmented(image), truth)


def circle(n: int) -> Tensor:
    """Where every view sees, ``(n, n)``."""
    c = (torch.arange(n) + 0.5) * 2 / n - 1
    return torch.hypot(c, c[:, None]) < 1


def interval(x: Tensor, noise: float = 0.0, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """What the next one of n normal draws, with this much noise on it, lies in with this probability."""
    n = len(x)
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * ((1 + 1 / n) * x.var(0) + noise**2).sqrt()
    return x.mean(0) - half, x.mean(0) + half


def wedge(x: Tensor, g: Geometry) -> float:
    """Variance a coefficient in the directions that no view sees, over that in those seen."""
    n = x.shape[-1]
    power = torch.fft.fft2(x - x.mean(0)).abs().square().mean(0).numpy()
    ky, kx = np.meshgrid(-np.fft.fftfreq(n), np.fft.fftfreq(n), indexing="ij")
    direction = np.mod(np.arctan2(ky, kx), np.pi)
    radius = np.hypot(kx, ky)
    use = (radius > 3 / n) & (radius < 0.35)
    views = np.sort(np.mod(g.angles, np.pi))
    gap = np.abs(np.mod(direction[..., None] - views + np.pi / 2, np.pi) - np.pi / 2).min(-1)
    missing = gap > np.deg2rad(8)  # a fan sees a few degrees beyond its arc
    return float(power[use & missing].mean() / power[use & ~missing].mean()) if (use & missing).any() else float("nan")


def full_data(path: Path, size: int, hardening: tuple[float, ...] | None) -> tuple[np.ndarray, float, Tensor, float]:
    """Binary truth on the challenge's pixels, the score of the full data against the official one, the filtered
    backprojection of all views averaged over ``size x size`` pixels, and its noise.
    """
    scan = io.read(path)

    def on_fine_pixels(hardening: tuple[float, ...] | None, views: slice = slice(None)) -> Tensor:
        found = readings(scan.select([0]), CTOptions(size=OFFICIAL, fov=SIDE, bin=1, hardening=hardening))
        lines = torch.from_numpy(found.lines[views].astype(np.float32))
        return fbp(found.geometry.subset(views=np.arange(len(found.lines))[views]), lines, "hann")

    def averaged(image: Tensor) -> Tensor:
        return F.interpolate(image[None, None], (size, size), mode="area")[0, 0]

    seg = path.with_name(path.name.replace("_full.mat", "_full_recon_fbp_seg.mat"))
    ours = otsu(on_fine_pixels(None).numpy())  # as the challenge made its own
    halves = [averaged(on_fine_pixels(hardening, slice(k, 720, 2))) for k in (0, 1)]
    noise = 0.5 * float((halves[0] - halves[1])[circle(size)].square().mean().sqrt())
    image = averaged(on_fine_pixels(hardening))
    if not seg.is_file():
        return ours, float("nan"), image, noise
    official = scipy.io.loadmat(seg)["reconFullFbpSeg"] > 0
    return official, matthews(ours, official), image, noise


def picture(path: Path, folder: Path, shown: list[str]) -> None:
    """The images of these cases as a figure; `shown` names files of ``--out``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("all views, FBP", "FBP", "TV", "posterior mean", "sample", "sample", "std, 0 to 0.4")
    figure, axes = plt.subplots(len(shown), len(names), figsize=(14, 2.1 * len(shown)), squeeze=False)
    for row, name in zip(axes, shown, strict=True):
        with np.load(folder / f"{name}.npz") as z:
            x, one = z["samples"], np.quantile(z["reference"], 0.9)
            images = [z["reference"], z["fbp"], z["tv"], z["mean"], x[0], x[1], x.std(0)]
        for k, (axis, image, title) in enumerate(zip(row, images, names, strict=True)):
            last = k == len(names) - 1
            axis.imshow(image / one, vmin=0, vmax=0.4 if last else 1.2, cmap="magma" if last else "gray")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=9)
        row[0].set_ylabel(name.replace("_", " "), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    """Reconstruct, score, report."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", default="ct_piecewise", help="name or file")
    parser.add_argument("--method", default="pnpdm")
    parser.add_argument("--set", nargs="*", default=[], dest="words", help="key=value for the method")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--discs", nargs="*", default=["01a", "03a", "tb", "td"])
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path, help="folder for the images as .npz")
    parser.add_argument("--figure", type=Path, help="picture of one disc a case, of the images in --out")
    parser.add_argument("--as-measured", action="store_true", help="leave beam hardening in the data")
    a = parser.parse_args()
    settings = {**DOMAIN.method_settings(a.method, {}), **options(a.words)}
    prior = load_prior(a.prior).at((a.size, a.size))
    method = build(METHODS[a.method], settings, a.method)
    solid = sorted(a.data.rglob("htc2022_solid_disc_full.mat"))
    hardening = None if a.as_measured else of_disc(io.read(solid[0]))
    print("hardening", hardening, "settings", settings)
    rows, gains, votes, dbs, covered, official = [], [], [], [], [], {}
    for disc in a.discs:
        path = next(iter(sorted(a.data.rglob(f"htc2022_{disc}_full.mat"))))
        truth, official[disc], reference, noise = full_data(path, a.size, hardening)
        print(f"{disc}: noise of the reference {noise / float(reference.quantile(0.9)):.4f} of material", flush=True)
        scan = io.read(path)
        for name in a.cases:
            start = time.process_time()
            p = problem(scan, 0, CTOptions(size=a.size, fov=SIDE, hardening=hardening, **CASES[name]))
            scale, seen = p.meta["scale"], circle(a.size)
            fields = {"fbp": baseline(p)[0] * scale}
            tried = {w: tv(p.linear, p.y, w, ITERATIONS).x[0] * scale for w in WEIGHTS}
            by_score = max(tried, key=lambda w: score(tried[w], truth))
            by_psnr = max(tried, key=lambda w: float(psnr(tried[w], reference, mask=seen)))
            out = sample(method, p, prior, a.samples, 7)
            x = out.x[:, 0] * scale
            summary = out.summary(0.9)
            fields |= {"tv": tried[by_score], "mean": x.mean(0)}
            mcc = {k: score(v, truth) for k, v in fields.items()}
            share = np.mean([segmented(one) for one in x], 0)
            mcc["vote"] = matthews(share > 0.5, truth)
            db = {k: float(psnr(v, reference, mask=seen)) for k, v in fields.items()}
            db["tv"] = float(psnr(tried[by_psnr], reference, mask=seen))
            inside = p.meta["support"][0]
            cover = [
                float(coverage(*ends, reference, inside))
                for ends in (
                    (summary["lower"][0] * scale, summary["upper"][0] * scale),
                    interval(x),
                    interval(x, noise),
                )
            ]
            corr = float(error_correlation(x.std(0), x.mean(0) - reference, inside))
            chi2 = float(p.chi2(out.x).mean()) / p.n_data
            best = max(mcc["fbp"], mcc["tv"])
            gains.append(mcc["mean"] - best)
            votes.append(mcc["vote"] - best)
            dbs.append(db["mean"] - max(db["fbp"], db["tv"]))
            covered.append(cover)
            rows.append(
                [disc, name, *(mcc[k] for k in ("fbp", "tv", "mean", "vote")), *(db[k] for k in ("fbp", "tv", "mean")),
                 *cover, corr, wedge(x, p.operator.projector.geometry), chi2, f"{by_score:g}/{by_psnr:g}",
                 round(time.process_time() - start)]
            )  # fmt: skip
            print(*(f"{c:.4g}" if isinstance(c, float) else c for c in rows[-1]), flush=True)
            if a.out is not None:
                a.out.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(
                    a.out / f"{disc}_{name.replace(' ', '_')}.npz", truth=truth, reference=reference.numpy(),
                    samples=x.numpy(),
                    **{k: v.numpy() for k, v in fields.items()},
                )  # fmt: skip
    table(
        ["disc", "case", *(f"MCC {by}" for by in ("fbp", "tv", "mean", "vote")), "dB fbp", "dB tv", "dB mean", "range",
         "90 %", "with noise", "corr", "wedge", "chi2", "tv weight", "CPU s"],
        rows,
    )  # fmt: skip
    for disc, value in official.items():
        print(f"full data, {disc}: Matthews correlation of Otsu's segmentation against the official one {value:.4f}")
    if a.figure is not None and a.out is not None:
        pairs = zip(("tb", "03a", "01a", "tb"), CASES, strict=True)
        named = [f"{disc}_{case.replace(' ', '_')}" for disc, case in pairs]
        picture(a.figure, a.out, [name for name in named if (a.out / f"{name}.npz").is_file()])
    figures = {
        "mcc_gain_over_best_baseline": float(np.mean(gains)), "mcc_gain_worst": min(gains),
        "mcc_gain_of_vote": float(np.mean(votes)), "mcc_gain_of_vote_worst": min(votes),
        "psnr_gain_over_best_baseline": float(np.mean(dbs)), "psnr_gain_worst": min(dbs),
        "coverage_range": float(np.mean([c[0] for c in covered])), "range_nominal": (a.samples - 1) / (a.samples + 1),
        "coverage_90": float(np.mean([c[1] for c in covered])),
        "coverage_90_with_noise_of_reference": float(np.mean([c[2] for c in covered])),
        "samples": a.samples, "size": a.size, "straightened": hardening is not None,
    }  # fmt: skip
    finish(figures, float(np.mean(gains)) > 0 and float(np.mean(dbs)) > 0)


if __name__ == "__main__":
    main()
