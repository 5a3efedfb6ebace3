"""Write the averaged network of a run as a prior with its model card: ``export.py RUN WEIGHTS``.

Its held-out errors are measured here, on `HELD_OUT` images of a seed that the training never drew, beside those of the
best linear denoiser: the Wiener filter of a Gaussian with the mean and the covariance of the training population.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sciinv_vlbi.sources import FOV, NAMES, RING_FREE, SHARES, draw
from torch import Tensor
from train import LEVELS, SPEC

from sciinv.priors.card import ModelCard
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet
from sciinv.training.dsm import keyed

HELD_OUT, HELD_OUT_SEED, LINEAR, LINEAR_SEED = 256, 20270101, 8192, 20270102
MEAN = 0.3125**2  # of every image of `draw`


class Linear:
    """``E[x|y]`` of a Gaussian with mean and covariance of some images ``(n, p, p)`` in their eight orientations."""

    def __init__(self, images: np.ndarray):
        side = images.shape[-1]
        flat = torch.from_numpy(images).flatten(1)
        place = torch.arange(side * side).reshape(side, side)
        turns = [torch.rot90(place, k).flatten() for k in range(4)]
        turns += [torch.rot90(place.flip(0), k).flatten() for k in range(4)]
        mean = flat.mean(0)
        self.mean = torch.stack([mean[t] for t in turns]).mean(0)
        second = (flat - self.mean).T @ (flat - self.mean) / len(flat)
        self.covariance = sum(second[t][:, t] for t in turns) / len(turns)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Shapes as in `Prior.denoise`; one sigma for all. ``x - sigma^2 (C + sigma^2)^-1 (x - mean)``."""
        factor = torch.linalg.cholesky(self.covariance + sigma**2 * torch.eye(len(self.mean)))
        rest = torch.cholesky_solve((x.flatten(1) - self.mean).T, factor).T
        return x - sigma**2 * rest.reshape(x.shape)


@torch.no_grad()
def errors(prior: NetworkPrior | Linear, images: np.ndarray, seed: int, chunk: int = 32) -> dict[str, float]:
    """Root-mean-square error of denoising at each level."""
    clean = torch.from_numpy(images)[:, None]
    noise = torch.randn(clean.shape, generator=keyed(seed))
    found = {}
    for level in LEVELS:
        sigma = torch.tensor(level)
        guess = torch.cat([prior.denoise(part, sigma) for part in (clean + level * noise).split(chunk)])
        found[f"{level:g}"] = round(float((guess - clean).square().mean().sqrt()), 5)
    return found


def card(steps: int, minutes: float, found: dict[str, float], linear: dict[str, float], ring_free: bool) -> ModelCard:
    """What the training of this prior amounts to."""
    shares = RING_FREE if ring_free else SHARES
    kinds = ", ".join(f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in shares.items())
    worth = ", ".join(f"{level}: {error:.3g}" for level, error in linear.items())
    return ModelCard(
        name="vlbi_ring_free" if ring_free else "vlbi_64",
        summary="Compact radio sources without rings, to compare with vlbi_64."
        if ring_free
        else "Black holes and other compact radio sources at horizon scale, trained on images drawn from formulae.",
        data=f"Synthetic only, sciinv_vlbi.sources, 32,768 images in 8 orientations: {kinds}. Ring diameters 20-68 "
        "micro-arcseconds, widths 4-26; a quarter with a faint neighbour; blurred by 2.5-9 (FWHM); centroid within 5 "
        "of the middle. No simulation of accretion flows and no image of any telescope was used; the ranges were "
        "chosen knowing what was published on M87 and Sgr A*.",
        licence="MIT (weights and generator)",
        resolution=f"64 x 64 pixels over {FOV:g} micro-arcseconds; other grids and fields are outside the training",
        intensity="total of (0.3125 x 64)^2 = 400 in every image, which stands for the flux in the options of the "
        "data; what the network makes of an image is projected onto nonnegative images of that total",
        anatomy=f"{len(NAMES)} families: {', '.join(NAMES)}",
        known_failures="Most of the training images are rings: with poor data a ring is what comes out, so compare "
        "with other priors before believing one. Formulae are not accretion physics: turbulence is a random field, the "
        "lensed disc is approximate and thin. Not for scattering, polarisation, sources wider than about 90 or bright "
        "structure sharper than 3 micro-arcseconds, jets longer than the field, or sources off the middle.",
        training=f"{steps} steps of 32 images in {minutes:.0f} minutes on shared CPU cores, "
        "float32; AdamW 1e-3, cosine, average 0.999; noise 0.008 to 30, in the last steps more of the low levels; "
        "0.87 M parameters stored in float16. Error of "
        f"the best linear denoiser on the same held-out images: {worth}",
        seed=0,
        held_out_error=found,
    )


def network_of(run: Path) -> tuple[UNet, dict[str, str]]:
    """The averaged network of a run, rounded as it will be stored, and the run's metadata."""
    network = UNet(**SPEC.model_dump())
    with safe_open(run / "state.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("average.")]
        network.load_state_dict({name.removeprefix("average."): file.get_tensor(name).half() for name in names})
        return network, file.metadata()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--ring-free", action="store_true")
    parser.add_argument("--quick", action="store_true", help="32 held-out images and no linear denoiser: to look at")
    arguments = parser.parse_args()
    network, metadata = network_of(arguments.run)
    config, shares = json.loads(metadata["config"]), RING_FREE if arguments.ring_free else None
    side = (64, 64)
    prior = NetworkPrior(network.eval(), side, config["sigma_data"], config["sigma_min"], config["sigma_max"], 1, False,
                         mean=MEAN)  # fmt: skip
    held, _ = draw(32 if arguments.quick else HELD_OUT, HELD_OUT_SEED, shares)
    linear = {} if arguments.quick else errors(Linear(draw(LINEAR, LINEAR_SEED, shares)[0]), held, 0, len(held))
    text = card(
        int(metadata["step"]), float(metadata["seconds"]) / 60, errors(prior, held, 0), linear, arguments.ring_free
    )
    save_prior(prior, SPEC, text, arguments.weights)


if __name__ == "__main__":
    main()
