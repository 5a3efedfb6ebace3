"""Visibilities, closures and their gradient against eht-imaging: batch 16 of 64 x 64 pixels, 216 visibilities.

The observation has the size of a scan-averaged night of the Event Horizon Telescope: seven stations, 216 visibilities,
a minimal set of closures with diagonal errors on both sides. Ours: one call for 16 images, single precision,
chi-squared and its gradient. eht-imaging: one image, direct transform, its chi-squared and gradient of closure phases
and of log closure amplitudes. Both are first checked to compute the same number and the same gradient. Also measured:
where the non-uniform FFT overtakes the matrix.
"""

from __future__ import annotations

from _common import finish, need, race, table  # isort: skip - sets one thread before torch is imported

import contextlib
import io
import sys
from typing import Any

import numpy as np
import torch
from sciinv_vlbi.averaging import average
from sciinv_vlbi.closures import closures
from sciinv_vlbi.coverage import EHT2017, observe
from sciinv_vlbi.dft import CROSSOVER, Dft, NonuniformDft
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import problem
from sciinv_vlbi.simulate import M87, measure, phantom

BATCH, SIDE, FOV, ROWS = 16, 64, 128.0, 216
AT_LEAST = 50.0


def observation() -> Observation:
    """216 visibilities of the crescent on a night of the 2017 array."""
    track = observe(EHT2017, *M87, step=420.0, tint=300.0, hours=7.5)
    pixel = FOV / SIDE * MICRO_ARCSECOND
    obs = measure(track.rows(np.arange(ROWS)), phantom(SIDE, FOV) * 0.6, pixel, gain=0.1, phases=True, seed=1)
    return average(obs, "none")


def theirs(obs: Observation) -> tuple[Any, Any]:
    """Chi-squared and gradient of one image by eht-imaging, on the closures that ours uses."""
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        from ehtim.imaging import imager_utils as iu
        from ehtim.observing.obs_helpers import ftmatrix
        from ehtim.observing.pulses import trianglePulse2D
    relative = obs.sigma / np.abs(obs.vis)
    pixel = FOV / SIDE * MICRO_ARCSECOND
    terms = []
    for kind, chi2, gradient in (
        ("phase", iu.chisq_cphase, iu.chisqgrad_cphase),
        ("amplitude", iu.chisq_logcamp, iu.chisqgrad_logcamp),
    ):
        chosen = closures(obs, kind, "minimal", relative=relative)  # type: ignore[arg-type]
        uv = [obs.uv[chosen.index[:, leg]] * (chosen.sign[:, leg, None] if kind == "phase" else 1) for leg in range(3)]
        if kind == "amplitude":
            uv.append(obs.uv[chosen.index[:, 3]])
        matrices = tuple(ftmatrix(pixel, SIDE, SIDE, points, pulse=trianglePulse2D) for points in uv)
        values, sigma = chosen.values(obs.vis), chosen.sigma(relative)
        if kind == "phase":
            values, sigma = np.rad2deg(values), np.rad2deg(sigma)
        terms.append((chi2, gradient, matrices, values, sigma))

    def value(image: np.ndarray) -> float:
        return float(sum(0.5 * len(v) * f(image, a, v, s) for f, _, a, v, s in terms))

    def both(image: np.ndarray) -> np.ndarray:
        value(image)
        return np.asarray(sum(0.5 * len(v) * g(image, a, v, s) for _, g, a, v, s in terms))

    return value, both


def main() -> None:
    """Race and report."""
    need("ehtim")
    obs = observation()
    settings = VLBIOptions(
        products=("cphase", "logcamp"), npix=SIDE, fov=FOV, average="none", systematic=0.0, short="keep", flux=0.6,
        snr_min=0.0, covariance="diagonal", phase="von_mises",
    )  # fmt: skip
    ours = problem(obs, 0, settings)
    scale = float(ours.meta["scale"])
    value, both = theirs(obs)
    rng = np.random.default_rng(0)
    images = phantom(SIDE, FOV, 40.0, 14.0) * 0.6 * rng.uniform(0.5, 1.5, (BATCH, SIDE, SIDE))
    x = torch.from_numpy((images / scale)[:, None].astype(np.float32))

    def mine() -> tuple[torch.Tensor, torch.Tensor]:
        z = x.detach().requires_grad_()
        loss = 0.5 * ours.chi2(z)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        return loss, gradient

    loss, gradient = mine()
    wanted, slope = value(images[0].ravel()), both(images[0].ravel())
    gap = abs(float(loss[0].detach()) / wanted - 1)
    turn = float(np.linalg.norm(gradient[0].numpy().ravel() / scale - slope) / np.linalg.norm(slope))
    print(f"chi2/2 of one image: {float(loss[0].detach()):.3f}, eht-imaging {wanted:.3f}; gradients: {turn:.1e} apart")
    if gap > 1e-3 or turn > 1e-3:
        sys.exit("the two do not compute the same thing")
    ms = race({"ours, 16 images": mine, "eht-imaging, 1 image": lambda: both(images[0].ravel())}, 31, 2, 3)
    per_image = ms["eht-imaging, 1 image"] / (ms["ours, 16 images"] / BATCH)
    table(["forward + closures + gradient", "CPU ms"], [[name, v] for name, v in ms.items()])
    found = crossover(x)
    figures = {
        "per_image_vs_ehtim": per_image, "batch_ms": ms["ours, 16 images"], "ehtim_ms": ms["eht-imaging, 1 image"],
        "visibilities": len(obs), "cphases": ours.meta["n_cphase"], "logcamps": ours.meta["n_logcamp"],
        "crossover": found, "crossover_used": CROSSOVER,
    }  # fmt: skip
    finish(figures, per_image >= AT_LEAST)


def crossover(x: torch.Tensor) -> int:
    """Visibilities where forward and adjoint of the non-uniform FFT begin to cost less than the matrix."""
    rng = np.random.default_rng(1)
    pixel = FOV / SIDE * MICRO_ARCSECOND
    rows, last = [], 0
    for count in (125, 250, 500, 1000, 2000, 4000):
        uv = rng.uniform(-8e9, 8e9, (count, 2))
        ops = {name: make(uv, SIDE, pixel) for name, make in (("matrix", Dft), ("nufft", NonuniformDft))}
        with torch.no_grad():
            ms = race({name: (lambda op=op: op.adjoint(op(x))) for name, op in ops.items()}, 5)
        rows.append([count, ms["matrix"], ms["nufft"]])
        if ms["matrix"] < ms["nufft"]:
            last = count
    table(["visibilities", "matrix, CPU ms", "nufft, CPU ms"], rows)
    return last


if __name__ == "__main__":
    main()
