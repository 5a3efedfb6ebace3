"""The embedded measurement of ``sciinv demo``: two slices of the phantom, 8 coils, a quarter of the lines, noise."""

from __future__ import annotations

from pathlib import Path

from sciinv_mri.simulate import PHANTOM, simulate


def demo(folder: str | Path) -> Path:
    """Write a fastMRI-style file with its truth into ``folder`` and return its path; the same file every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "sub-phantom_T1w.h5"
    return simulate(PHANTOM, out, acceleration=4.0, calib_lines=10, coils=8, snr=40, seed=7, slices=2, matrix=(112, 96))
