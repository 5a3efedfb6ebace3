"""Train the prior of compact radio sources: ``train.py POOL RUN``; the same line again goes on where it stopped.

The images of `sciinv_vlbi.sources` are drawn once into the folder POOL (a minute); the 64 of the held-out errors come
from another seed. With ``--ring-free`` the population has no rings at all. ``--low RUN0`` goes on from the state of
RUN0 in RUN, with more of the low noise levels.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sciinv_vlbi.sources import RING_FREE, draw
from torch import Tensor

from sciinv.priors.card import UNetSpec
from sciinv.priors.unet import UNet
from sciinv.training.dsm import TrainConfig, keyed, train

SPEC = UNetSpec(channels=1, widths=(32, 64, 96), blocks=(1, 1, 3), fold=2)
SEED, HELD_OUT_SEED = 20261122, 77
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CONFIG = TrainConfig(
    steps=3000, batch=32, sigma_data=0.3, sigma_min=0.008, sigma_max=30.0, log_mean=-0.9, log_std=1.5,
    uniform_share=0.3, levels=LEVELS, log_every=20, save_every=250,
)  # fmt: skip


LOW = {"log_mean": -1.8, "log_std": 1.3, "uniform_share": 0.2}


def begin_low(run: Path, before: Path) -> None:
    """Copy the state of a run, to go on from it with other noise levels; nothing if this run has one of its own."""
    if not (run / "state.safetensors").exists():
        run.mkdir(parents=True, exist_ok=True)
        with safe_open(before / "state.safetensors", "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), **LOW})
        save_file(tensors, run / "state.safetensors", metadata)


def pool(folder: Path, count: int, ring_free: bool) -> np.ndarray:
    """The training images, float16 (count, 64, 64), from the folder or drawn into it."""
    path = folder / f"{'ring_free' if ring_free else 'all'}_{SEED}_{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, _ = draw(count, SEED, RING_FREE if ring_free else None)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, images.astype(np.float16))
        os.replace(temporary, path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class Pool:
    """Random images of the pool in one of the eight orientations of a square."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def image(self, generator: torch.Generator) -> Tensor:
        """One training image (1, 64, 64)."""
        index, turn, flip = torch.randint(2**31, (3,), generator=generator).tolist()
        x = torch.from_numpy(self.images[index % len(self.images)].astype(np.float32))[None]
        x = torch.rot90(x, turn % 4, (1, 2))
        return (x.flip(1) if flip % 2 else x).contiguous()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=32768)
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    parser.add_argument("--minutes", type=float, help="end, and the cosine with it, by the clock")
    parser.add_argument("--ring-free", action="store_true")
    parser.add_argument("--low", type=Path, help="finished run to go on from, with more of the low noise levels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = UNet(**SPEC.model_dump())
    network.initialise(keyed(0))
    network.to(memory_format=torch.channels_last)
    held_out, _ = draw(64, HELD_OUT_SEED, RING_FREE if arguments.ring_free else None)
    source = Pool(pool(arguments.pool, arguments.count, arguments.ring_free))
    config = dc.replace(CONFIG, steps=arguments.steps, minutes=arguments.minutes)
    if arguments.low:
        config = dc.replace(config, **LOW)
        begin_low(arguments.run, arguments.low)
    train(network, source, config, arguments.run, held_out=torch.from_numpy(held_out)[:, None])


if __name__ == "__main__":
    main()
