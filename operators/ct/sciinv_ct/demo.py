"""The embedded measurement of ``sciinv demo --domain ct``: a disc with holes, 32 views, few photons."""

from __future__ import annotations

from pathlib import Path

from sciinv_ct.simulate import PHANTOM, simulate


def demo(folder: str | Path) -> Path:
    """Write a DXchange file with its truth into ``folder`` and return its path; the same file every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return simulate(PHANTOM, folder / "disc.h5", views=32, photons=1e4, cells=128, seed=22)
