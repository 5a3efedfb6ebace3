"""A prior of radio sources from pictures with half of the pixels missing, by EM: ``run.py OUT``.

Every item is ``y = M (x + 0.1 n)`` with a mask M of its own; nothing clean is used. The control is the same network on
the clean pictures with as many optimiser steps, the floor a second set of true pictures. Compared are draws without
data (sliced Wasserstein-1 to true pictures) and inpainting of pictures that no training saw. The same line goes on
where it was cut.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from sciinv_vlbi.sources import draw
from torch import Tensor

from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.prior import Counted, Prior
from sciinv.priors.card import UNetSpec
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.base import sample
from sciinv.samplers.exact.pnpdm import PnPDM
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.samplers.kernels import prior_step
from sciinv.training.ambient.em import Draws
from sciinv.training.ambient.gaussian import deviation
from sciinv.training.ambient.gaussian import fit as fit_gaussian
from sciinv.training.ambient.identify import identify, require
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.laps import Laps, train_em
from sciinv.training.dsm import TrainConfig, keyed, train

SIDE, MISSING, NOISE = 32, 0.5, 0.1
ITEMS, HELD_OUT, TESTED, DRAWN, SAMPLES = 512, 32, 16, 256, 19
SPEC = UNetSpec(channels=1, widths=(32, 64), blocks=(1, 2), fold=2)


def pictures(count: int, seed: int) -> Tensor:
    """True pictures ``(count, 1, SIDE, SIDE)``."""
    return torch.from_numpy(draw(count, seed, npix=SIDE)[0])[:, None]


def measured(x: Tensor, seed: int) -> list[Problem]:
    """What is seen of them."""
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(x.shape, generator=g) >= MISSING
    y = (x + NOISE * torch.randn(x.shape, generator=g)) * masks
    return [Problem(v, Mask(m), Gaussian(NOISE)) for v, m in zip(y, masks, strict=True)]


def distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-1 over 256 directions."""
    u = torch.randn(a[0].numel(), 256, generator=torch.Generator().manual_seed(1))
    u /= u.norm(dim=0)
    return float(((a.flatten(1) @ u).sort(0).values - (b.flatten(1) @ u).sort(0).values).abs().mean())


def alone(prior: Prior) -> Tensor:
    """Draws without data."""
    rng = Rng(7, range(DRAWN))
    with torch.no_grad():
        x = prior.sigma_max * rng.normal((1, SIDE, SIDE))
        return prior_step(Counted(prior), x, prior.sigma_max, rng, 0.25)


def inpainting(prior: Prior, x: Tensor, problems: list[Problem]) -> dict[str, float]:
    """PSNR of the mean, of missing pixels alone, and coverage of the samples' 5 to 95 % range where the source is."""
    found: dict[str, list[float]] = {"psnr": [], "psnr_missing": [], "coverage": []}
    for k, (truth, problem) in enumerate(zip(x, problems, strict=True)):
        draws = sample(PnPDM(), problem, prior, SAMPLES, k).x.reshape(SAMPLES, 1, SIDE, SIDE)
        off, peak = (draws.mean(0) - truth).square(), float(truth.max())
        hidden = problem.operator(torch.ones_like(truth)[None])[0] == 0
        found["psnr"].append(10 * np.log10(peak**2 / float(off.mean())))
        found["psnr_missing"].append(10 * np.log10(peak**2 / float(off[hidden].mean())))
        # the range of 19 exact draws holds the truth with probability 0.9
        inside = (truth >= draws.amin(0)) & (truth <= draws.amax(0))
        found["coverage"].append(float(inside[truth > 0.1 * peak].double().mean()))
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500, help="of each network; EM shares them out over its laps")
    parser.add_argument("--laps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clean = pictures(ITEMS, 1)
    data, others = Measurements(measured(clean, 2)), Measurements(measured(pictures(HELD_OUT, 3), 4))
    require(identify(data, None), "em")
    gaussian = fit_gaussian(data, 0)
    config = TrainConfig(steps=arguments.steps, batch=32, sigma_data=deviation(gaussian.values()), sigma_max=20.0,
                         sigma_min=0.008, log_mean=-1.2, log_std=1.5, uniform_share=0.3, save_every=10**6)  # fmt: skip
    fresh, seconds = pictures(DRAWN, 5), dict[str, int]()

    def learn(name: str) -> Prior:
        start, network = time.process_time(), UNet(**SPEC.model_dump())
        network.initialise(keyed(0, 1))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        out = arguments.out / name
        if name == "em":
            laps = Laps(arguments.laps, 1, MMPS(steps=24))
            average, _ = train_em(network, data, others, config, laps, out, gaussian=gaussian)
        else:
            average, _ = train(network, Draws([clean]), config, out)
        seconds[name] = round(time.process_time() - start)
        side = (SIDE, SIDE)
        return NetworkPrior(average, side, config.sigma_data, config.sigma_min, config.sigma_max, 1, False).eval()

    priors: Mapping[str, Prior] = {"gaussian": gaussian[0], "em": learn("em"), "clean": learn("clean")}
    tested = pictures(TESTED, 8)
    unseen = measured(tested, 9)
    print(json.dumps({"true pictures": {"distance": round(distance(pictures(DRAWN, 6), fresh), 4)}}), flush=True)
    for name, prior in priors.items():
        prior.sigma_max = config.sigma_max
        row = {"distance": round(distance(alone(prior), fresh), 4), **inpainting(prior, tested, unseen)}
        print(json.dumps({name: row | ({"cpu_seconds": seconds[name]} if name in seconds else {})}), flush=True)


if __name__ == "__main__":
    main()
