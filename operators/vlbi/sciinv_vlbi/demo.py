"""The embedded measurement of ``sciinv demo --domain vlbi``: a crescent seen by the Event Horizon Telescope of 2017."""

from __future__ import annotations

from pathlib import Path

from sciinv_vlbi.simulate import PHANTOM, simulate


def demo(folder: str | Path) -> Path:
    """Write a UVFITS file with thermal noise, errors of 2 % beside and corrupted gains; the same file every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return simulate(PHANTOM, folder / "crescent.uvfits", systematic=0.02, seed=7)
