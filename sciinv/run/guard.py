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


def need(shape: Sequence[int], samples: int, chunk: int, items: int) -> tuple[int, int]:
    """Bytes while sampling (on the device) and while reducing (in main memory)."""
    pixels = math.prod(shape)
    return 4 * ACTIVATIONS * pixels * chunk, 8 * COPIES * pixels * samples * items


def check(shape: Sequence[int], samples: int, chunk: int, items: int, device: str, out: Path) -> None:
    """Raise `ResourceError` when memory or disk clearly do not suffice."""
    sampling, reducing = need(shape, samples, chunk, items)
    free = available(device)
    if sampling > SHARE * free and chunk > 1:
        fits = max(1, int(chunk * SHARE * free / sampling))
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
