"""The control: the same network on clean images of the same slices, as many optimiser steps: ``train_clean.py WORK``.

Everything but the images is that of the run in ``WORK/em``: settings, seed, initial weights, held-out slices. Running
the same line again continues the run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet
from sciinv.training.ambient.em import Draws
from sciinv.training.dsm import TrainConfig, keyed, train


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="those of all laps of EM together")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--widths", default="32,64,96")
    parser.add_argument("--sigma-min", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted((arguments.work / "clean_images").glob("*.npy"))
    images = torch.from_numpy(np.stack([np.load(p, allow_pickle=False) for p in paths]))
    held = [i for i in range(len(images)) if i % 10 == 9 or i == len(images) - 1]  # as `sciinv train` does
    kept = [i for i in range(len(images)) if i not in held]
    source = Draws([images[kept]])
    config = TrainConfig(steps=arguments.steps, batch=arguments.batch, seed=arguments.seed,
                         sigma_min=arguments.sigma_min, sigma_data=source.deviation())  # fmt: skip
    widths = tuple(int(w) for w in arguments.widths.split(","))
    spec = UNetSpec(channels=2, widths=widths, blocks=(1, *[2] * (len(widths) - 1)))
    network = UNet(**spec.model_dump())
    network.initialise(keyed(config.seed, 2**42))
    network.to(memory_format=torch.channels_last)
    start, out = time.process_time(), arguments.work / "clean"
    average, errors = train(network, source, config, out, held_out=images[held])
    prior = NetworkPrior(average, tuple(images.shape[2:]), config.sigma_data, config.sigma_min, config.sigma_max, 2)
    card = ModelCard(
        name="clean", summary="Control of examples/corrupted_mri: trained on clean images.",
        data=f"{len(kept)} synthetic slices, {len(held)} held out", licence="see examples/train_brain_prior",
        resolution="64 x 64, 3 to 4 mm", intensity="99th percentile of the magnitude at one", anatomy="adult heads",
        known_failures="Not examined.", training=f"{config.steps} steps of {config.batch}", seed=config.seed,
        held_out_error=errors,
    )  # fmt: skip
    save_prior(prior, spec, card, out / "prior.safetensors")
    print(json.dumps({"cpu_seconds": round(time.process_time() - start)}))


if __name__ == "__main__":
    main()
