"""Train the demo brain prior on a pool of synthetic slices: ``train.py POOL OUT --minutes 100``.

Run ``make_pool.py`` first; the pool's last chunk is held out. A pool that still grows is read again every 200 steps
(the recorded run was made so). Running the same line again continues the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciinv.priors.unet import UNet
from sciinv.training.dsm import TrainConfig, keyed, train


class Pool:
    """Random crops of the pool's images, flipped, turned by quarter turns, conjugated and rescaled at random."""

    def __init__(self, folder: Path, crop: int, growing: bool, hold_out: int):
        self.folder, self.crop, self.growing, self.hold_out, self.calls = folder, crop, growing, hold_out, 0
        self.chunks: list[np.ndarray] = []

    def refresh(self) -> None:
        """Look at which chunks there are now."""
        paths = [p for p in sorted(self.folder.glob("chunk_*.npy")) if int(p.stem[6:]) != self.hold_out]
        if len(paths) != len(self.chunks):
            self.chunks = [np.load(p, mmap_mode="r", allow_pickle=False) for p in paths]

    def image(self, generator: torch.Generator) -> Tensor:
        """One training image (2, crop, crop)."""
        if not self.chunks or (self.growing and self.calls % 3200 == 0):
            self.refresh()
        self.calls += 1
        pick = torch.randint(2**31, (8,), generator=generator).tolist()
        block = self.chunks[pick[0] % len(self.chunks)]
        source = block[pick[1] % len(block)]
        room = source.shape[-1] - self.crop + 1
        i, j = pick[2] % room, pick[3] % room
        x = torch.from_numpy(source[:, i : i + self.crop, j : j + self.crop].astype(np.float32))
        x = torch.rot90(x, pick[4] % 4, (1, 2))
        if pick[5] % 2:
            x = x.flip(1)
        if pick[6] % 2:
            x = x * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
        return x.contiguous() * (1 + 0.1 * (2 * float(torch.rand((), generator=generator)) - 1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--hold-out", type=int, default=0, help="chunk kept for validation")
    parser.add_argument("--growing", action="store_true", help="the pool is still being written")
    arguments = parser.parse_args()
    network = UNet()
    network.initialise(keyed(0))
    network.to(memory_format=torch.channels_last)
    config = TrainConfig(
        steps=arguments.steps, minutes=arguments.minutes, sigma_data=0.27, log_every=20, save_every=250
    )
    held_out = np.load(arguments.pool / f"chunk_{arguments.hold_out:05d}.npy", allow_pickle=False)[:48, :, 8:104, 8:104]
    source = Pool(arguments.pool, arguments.crop, arguments.growing, arguments.hold_out)
    train(network, source, config, arguments.out, held_out=torch.from_numpy(held_out.astype(np.float32)))


if __name__ == "__main__":
    main()
