"""Knobs of the CT domain; nothing here imports torch."""

from __future__ import annotations

import dataclasses as dc
from typing import Literal

from sciinv.errors import UsageError


@dc.dataclass(frozen=True)
class CTOptions:
    """Knobs of the CT domain; the fields are the ``--set ct.KEY`` keys.

    Attributes
    ----------
    size : side of the image in pixels; 0 takes one pixel a detector cell at the object, or the image's own side, at
        most 256.
    fov : side of the image in mm; 0 takes what every view sees, or the image's own.
    views : keep this many of the views (of those in the arc), evenly spaced; 0 keeps all.
    arc, arc_start : keep the views in this many degrees from there; 0 keeps all.
    bin : detector cells averaged into one; 0 takes as many as fit in a pixel.
    cells : first and last detector cell kept; what a truncated or damaged detector sees.
    centre : detector index on which the axis of rotation projects, 0-based; below 0 leaves the file's.
    noise : ``poisson`` (counts), ``gaussian`` (line integrals, weighted), or ``auto``: Poisson where counts are few.
    sigma : standard deviation of a line integral in air, where there are no counts; 0 estimates it.
    model_error : further standard deviation as a part of the line integral: beam hardening, scatter and pixels.
    hardening : coefficients c of ``p (1 + c_1 p + c_2 p^2 + ...)``, which straightens the line integrals of an object
        of one material (`sciinv_ct.hardening.of_disc` measures them on a solid disc); Gaussian noise only.
    gain : counts per photon; 0 takes the file's, or the variance of the blank scans over their mean.
    scale : attenuation in 1/mm that counts as one; 0 estimates it (mu_water for Hounsfield units).
    photons, electronic : of simulated projections of images: blank counts of a cell and read-out noise.
    beam, source_origin, source_detector, full_views, full_arc : the simulated scan of images, mm and degrees.
    seed : of simulated noise.
    memory : bytes that the projection matrix may take.
    """

    size: int = 0
    fov: float = 0.0
    views: int = 0
    arc: float = 0.0
    arc_start: float = 0.0
    bin: int = 0
    cells: tuple[int, int] | None = None
    centre: float = -1.0
    noise: Literal["auto", "poisson", "gaussian"] = "auto"
    sigma: float = 0.0
    model_error: float = 0.01
    hardening: tuple[float, ...] | None = None
    gain: float = 0.0
    scale: float = 0.0
    photons: float = 1e5
    electronic: float = 0.0
    beam: Literal["parallel", "fan"] = "fan"
    source_origin: float = 595.0
    source_detector: float = 1085.6
    full_views: int = 720
    full_arc: float = 360.0
    seed: int = 0
    memory: int = 1 << 30

    def check(self) -> None:
        """Refuse values out of range."""
        limits = (
            ("size", self.size, 0, 4096), ("fov", self.fov, 0, 1e6), ("views", self.views, 0, 100_000),
            ("arc", self.arc, 0, 720), ("arc_start", self.arc_start, -720, 720), ("bin", self.bin, 0, 1024),
            ("sigma", self.sigma, 0, 10), ("model_error", self.model_error, 0, 1), ("gain", self.gain, 0, 1e9),
            ("scale", self.scale, 0, 1e3), ("photons", self.photons, 1, 1e12), ("electronic", self.electronic, 0, 1e6),
            ("source_origin", self.source_origin, 1, 1e5), ("source_detector", self.source_detector, 1, 1e5),
            ("full_views", self.full_views, 2, 20_000), ("full_arc", self.full_arc, 1, 360),
            ("seed", self.seed, 0, 2**32), ("memory", self.memory, 0, 1 << 40),
        )  # fmt: skip
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise UsageError(f"{name} is out of range", expected=f"{low} to {high:g}", found=str(value))
        if 0 < self.size < 16:
            raise UsageError("the image is too small", expected="size from 16 on", found=str(self.size))
        if self.cells is not None and not 0 <= self.cells[0] < self.cells[1]:
            raise UsageError("cells are the first and last detector cell kept", found=str(self.cells))
