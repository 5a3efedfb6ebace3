"""What an astronomer asks of the samples: ring parameters with their spread, fit to each product, station by station.

Numbers only; `write` puts them into files and `pages` on the report.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv.problem import Problem
from sciinv_vlbi import align, closures
from sciinv_vlbi.dft import visibility_operator
from sciinv_vlbi.observation import Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import prepare, problem
from sciinv_vlbi.rings import PARAMETERS, is_ring, ring_parameters

Floats = NDArray[np.float64]
UNITS = {"diameter": "uas", "width": "uas", "position_angle": "deg", "asymmetry": "", "central_brightness": ""}
REACH = 0.25  # of the field of view: how far a sample may be moved
BEAM = 20.0  # uas: the nominal resolution of the EHT
APART = 0.1  # one minus the correlation at which two kinds of image are two
FEW = 4  # samples of an island without which its mean says nothing


@dc.dataclass(frozen=True)
class Fit:
    """How the samples compare with the data.

    Attributes
    ----------
    problem : the inverse problem of the run, built again.
    obs : averaged visibilities with systematic noise.
    model : visibilities of the samples in Jy, ``(n, row)``.
    chi2 : chi-squared of each product, ``(n,)`` each.
    count : real data of each product.
    """

    problem: Problem
    obs: Observation
    model: NDArray[np.complex128]
    chi2: Mapping[str, Tensor]
    count: Mapping[str, int]


def centred(x: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Samples ``(n, 1, side, side)`` moved on top of each other, unless phases of visibilities fix the position.

    Turned by 180 degrees too where no phase of any kind was used, because amplitudes cannot tell.
    """
    if fixed(meta) or len(x) < 2:
        return x
    return align.align(x[:, 0], int(REACH * x.shape[-1]), turn=blind(meta))[0][:, None]


def fixed(meta: Mapping[str, Any]) -> bool:
    """Whether the data fix the position."""
    return "vis" in meta.get("products", ())


def blind(meta: Mapping[str, Any]) -> bool:
    """Whether the data cannot tell an image from the same one turned by 180 degrees."""
    return not set(meta.get("products", ())) & {"vis", "cphase", "bispectrum"}


class Placed(NamedTuple):
    """Samples ``(n, 1, side, side)`` on their mean: `turned` ``(n,)``, then moved `by` rows, columns ``(n, 2)``."""

    x: Tensor
    by: Tensor
    turned: Tensor


def placed(x: Tensor, mean: Tensor, meta: Mapping[str, Any]) -> Placed:
    """Samples ``(n, 1, side, side)`` turned and moved onto `mean` ``(1, side, side)`` as far as the data allow.

    For pictures and comparisons of samples; flux that leaves the image is lost, so the data are compared with samples
    where they were drawn.
    """
    if fixed(meta):
        return Placed(x, torch.zeros(len(x), 2, dtype=torch.long), torch.zeros(len(x), dtype=torch.bool))
    away, turned = align.onto(x[:, 0], mean[0], int(REACH * x.shape[-1]), turn=blind(meta))
    return Placed(align.move(align.turn_round(x[:, 0], turned), -away)[:, None], -away, turned)


def fit(data: Observation, samples: Tensor, options: VLBIOptions) -> Fit:
    """Compare samples ``(n, 1, side, side)`` in Jy per pixel with the observation."""
    made, ready = problem(data, 0, options), prepare(data, options)
    x = (samples / ready.scale).to(torch.float32).cpu()
    transform = visibility_operator(ready.obs.uv, options.npix, ready.pixel, pulse=options.pulse, scale=ready.scale)
    with torch.no_grad():
        model = transform(x).numpy().astype(np.complex128)
    if ready.extended is not None:
        model = model + ready.extended
    chi2, count = by_product(made, x)
    return Fit(made, ready.obs, model, chi2, count)


@torch.no_grad()
def by_product(made: Problem, x: Tensor) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Chi-squared of each product at images ``(n, 1, side, side)`` in the problem's units, and its number of data."""
    off = made.residual(x)
    square, parts = off.abs().square().double(), 2 if off.is_complex() else 1
    spans: Mapping[str, Sequence[int]] = made.meta["products"]
    chi2 = {name: square[:, first:last].sum(1) for name, (first, last) in spans.items()}
    return chi2, {name: parts * (last - first) for name, (first, last) in spans.items()}


def by_station(found: Fit, options: VLBIOptions) -> list[dict[str, Any]]:
    """For each station, what its closures and amplitudes say: mean squares of residuals over their errors.

    ``gain`` is the median of data over model amplitude on its baselines: a station whose gain is off stands out, though
    closures do not care.
    """
    obs = found.obs
    relative = obs.sigma / np.maximum(np.abs(obs.vis), 1e-300)
    off = {kind: _residuals(found, options, kind, relative) for kind in ("phase", "amplitude")}
    ratio = np.median(np.abs(obs.vis) / np.maximum(np.abs(found.model), 1e-300), 0)
    rows = []
    for k, station in enumerate(obs.stations):
        row: dict[str, Any] = {"station": station.name}
        for kind, (members, square) in off.items():
            mine = (members == k).any(1)
            row |= {f"n_{kind}": int(mine.sum()), f"chi2_{kind}": float(square[:, mine].mean()) if mine.any() else None}
        on = ((obs.a == k) | (obs.b == k)) & (obs.snr >= options.snr_min)
        row["gain"] = float(np.median(ratio[on])) if on.any() else None
        rows.append(row)
    return rows


def _residuals(found: Fit, options: VLBIOptions, kind: Any, relative: Floats) -> tuple[Floats, Floats]:
    """Stations of each closure ``(m, 3 or 4)`` and its squared residual over its variance, ``(n, m)``."""
    chosen = closures.closures(found.obs, kind, options.closures, options.snr_min, relative)
    measured, sigma = chosen.values(found.obs.vis), chosen.sigma(relative)
    off = np.stack([chosen.values(vis) for vis in found.model]) - measured
    if kind == "phase":
        off = (off + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(chosen.stations), np.asarray((off / sigma) ** 2)


def summary(parameters: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Median, ends of the central 68 and 95 %, of the samples that are rings; empty when none is.

    Angles are counted from their mean direction, so that 1 and 359 degrees are neighbours.
    """
    ring = is_ring(parameters)
    if not ring.any():
        return {}
    out = {}
    for name in PARAMETERS:
        value = parameters[name][ring]
        value = unwrapped(value) if name == "position_angle" else value
        quantiles = np.quantile(value, (0.5, 0.16, 0.84, 0.025, 0.975))
        keys = ("median", "low68", "high68", "low95", "high95")
        out[name] = dict(zip(keys, map(float, quantiles), strict=True))
    return out


def unwrapped(angle: Floats) -> Floats:
    """Degrees within 180 of their mean direction, which lies in [0, 360)."""
    middle = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(angle)).mean())) % 360
    return np.asarray(middle + (angle - middle + 180) % 360 - 180)


def islands(parameters: Mapping[str, Floats], group: Tensor | None) -> dict[str, dict[str, float]]:
    """Agreement of islands in diameter and width; empty without at least two of `FEW` ring-like samples each.

    ``rhat = sqrt(V / W)``, W the mean variance within islands of mean size n, B that of their means,
    ``V = (1 - 1/n) W + B``: one where islands agree.
    """
    if group is None:
        return {}
    ring, label = is_ring(parameters), np.asarray(group)
    out = {}
    for name in ("diameter", "width"):
        value = parameters[name]
        parts = [value[ring & (label == k)] for k in np.unique(label)]
        parts = [part for part in parts if len(part) >= FEW]
        if len(parts) < 2:
            return {}
        within = float(np.mean([part.var(ddof=1) for part in parts]))
        means = np.array([part.mean() for part in parts])
        size = float(np.mean([len(part) for part in parts]))
        pooled = (1 - 1 / size) * within + float(means.var(ddof=1))
        out[name] = {
            "islands": len(parts), "lowest_mean": float(means.min()), "highest_mean": float(means.max()),
            "within_sd": within**0.5, "rhat": (pooled / max(within, 1e-12)) ** 0.5,
        }  # fmt: skip
    return out


def modes(samples: Tensor, pixel_uas: float) -> NDArray[np.int64]:
    """Kind of each aligned sample ``(n, 1, side, side)``, the most frequent one 0: ``(n,)``.

    Two images are as far apart as their correlation after a blur of `BEAM` falls short of one; kinds are joined while
    their members are closer than `APART` on average (average linkage).
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    flat = align.blur(samples[:, 0].double(), pixel_uas, BEAM).flatten(1)
    if len(flat) < 2:
        return np.zeros(len(flat), np.int64)
    likeness = torch.corrcoef(flat).nan_to_num().numpy()
    far = np.clip(1 - (likeness + likeness.T) / 2, 0, None)
    np.fill_diagonal(far, 0)
    found = fcluster(linkage(squareform(far, checks=False), "average"), APART, "distance")
    _, label, counts = np.unique(found, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return np.asarray(np.argsort(order)[label.reshape(-1)], np.int64)


def measure(samples: Tensor, turned: Tensor, meta: Mapping[str, Any]) -> dict[str, Floats]:
    """Ring parameters of samples ``(n, 1, side, side)``, `rings.ring_parameters`, `turned` as in `Placed`."""
    return ring_parameters(align.turn_round(samples[:, 0], turned)[:, None], float(meta["pixel_uas"]))
