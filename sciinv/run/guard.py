"""Refuse early what cannot fit: an estimate from sizes alone, before hours are spent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from sciinv.errors import ResourceError

ACTIVATIONS = (
    200  # floats a pixel and sample that a small U-Net and the Gaussian step hold at once (measured: 60 to 150)
)
COPIES = 4  # of all samples, while maps are made and written
PARTICLE_COPIES = 8  # of the images and the data of a population, which meet the operator together
SHARE = 0.9


def available(device: str) -> int:
    """Free bytes on the device; a large number where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 60


def need(
    shape: Sequence[int], samples: int, chunk: int, items: int, particles: int = 0, data: int = 0
) -> tuple[int, int]:
    """Bytes while sampling (on the device) and while reducing (in main memory); `data` are real numbers an item."""
    pixels = math.prod(shape)
    crowd = 4 * PARTICLE_COPIES * (2 * pixels + data) * particles
    drawn = samples * items + particles
    return 4 * ACTIVATIONS * pixels * chunk + crowd, 8 * COPIES * pixels * drawn


def check(
    shape: Sequence[int], samples: int, chunk: int, items: int, device: str, out: Path, particles: int = 0,
    data: int = 0,
) -> None:  # fmt: skip
    """Raise `ResourceError` when memory or disk clearly do not suffice."""
    sampling, reducing = need(shape, samples, chunk, items, particles, data)
    crowd = need(shape, samples, 0, items, particles, data)[0]
    free = available(device)
    if crowd > SHARE * free:
        raise ResourceError(
            f"{particles} particles of {'x'.join(map(str, shape))} do not fit in memory together",
            expected=f"about {size(crowd)}",
            found=f"{size(free)} free",
            hint=f"--particles {max(2, int(particles * SHARE * free / crowd))}, or a method of independent samples",
        )
    if sampling > SHARE * free and chunk > 1:
        fits = max(1, int(chunk * (SHARE * free - crowd) / (sampling - crowd)))
        raise ResourceError(
            f"{chunk} samples of {'x'.join(map(str, shape))} do not fit in memory at once",
            expected=f"about {size(sampling)}",
            found=f"{size(free)} free",
            hint=f"--chunk {fits}",
        )
    main = available("cpu")
    if reducing > SHARE * main:
        raise ResourceError(
            f"{samples} samples of {items} items do not fit in memory together",
            expected=f"about {size(reducing)}",
            found=f"{size(main)} free",
            hint="fewer --samples, or some --slices at a time",
        )
    disk, wanted = shutil.disk_usage(out).free, reducing // COPIES * 2
    if wanted > disk:
        raise ResourceError(
            "the disk is too small for the samples", where=out.name, expected=f"about {size(wanted)}",
            found=f"{size(disk)} free",
            hint="another output folder with -o",
        )  # fmt: skip


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
