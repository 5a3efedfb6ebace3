"""What stations do to visibilities: ``V'_ab = g_a conj(g_b) V_ab`` with complex gains, one a station and interval.

Closures do not see them. `corruption` makes the operator; `draw` makes gains: ``|g| = exp(s n)``, n normal, and phases
that are uniform (no phase reference survives the atmosphere at 1.3 mm) or zero. Log amplitudes see
``ln|V'_ab| = ln|V_ab| + s_a n_a + s_b n_b`` plus noise of ``sigma/|V|``, so that the gains are marginalised by adding
``G diag(s^2) G^T`` to their covariance, G with a one for each station of a row: exact for gains of that law, first
order in ``sigma/|V|``. As s grows this becomes the likelihood of log closure amplitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import MismatchError, UsageError
from sciinv.generic.diagonal import Diagonal
from sciinv_vlbi import averaging
from sciinv_vlbi.observation import Floats, Ints, Observation

Interval = Literal["scan", "integration", "constant"]
Gains = NDArray[np.complex128]


def intervals(obs: Observation, every: Interval = "scan", gap: float = 60.0) -> Ints:
    """Number of the interval in which the gains of each row are constant, ``(row,)``."""
    if every == "constant":
        return np.zeros(len(obs), np.int64)
    return averaging.scans(obs, gap) if every == "scan" else averaging.moments(obs)


def draw(
    obs: Observation, seed: int, *, amplitude: float = 0.1, phases: bool = True, every: Interval = "scan",
    gap: float = 60.0,
) -> Gains:  # fmt: skip
    """Random gains ``(interval, station)``.

    Parameters
    ----------
    amplitude : standard deviation of the logarithm of the amplitude.
    phases : uniform phases, else zero.
    every, gap : how long gains stay constant.
    """
    if not 0 <= amplitude < 10:
        raise UsageError("gain errors are out of range", expected="0 to 10", found=str(amplitude))
    rng = np.random.default_rng([seed, 31])
    shape = (int(intervals(obs, every, gap).max()) + 1, len(obs.stations))
    turn = rng.uniform(-np.pi, np.pi, shape) * phases
    return np.asarray(np.exp(amplitude * rng.normal(size=shape) + 1j * turn))


def corruption(obs: Observation, gains: Gains, every: Interval = "scan", gap: float = 60.0) -> Diagonal:
    """The operator ``(row,)`` to ``(row,)`` that applies gains ``(interval, station)``."""
    number = intervals(obs, every, gap)
    if gains.shape != (int(number.max()) + 1, len(obs.stations)):
        raise MismatchError(
            "the gains do not fit the observation", expected=f"{(int(number.max()) + 1, len(obs.stations))}",
            found=str(gains.shape),
        )  # fmt: skip
    factor = gains[number, obs.a] * gains[number, obs.b].conj()
    return Diagonal(torch.from_numpy(factor.astype(np.complex64)), dtype=torch.complex64)


def errors(obs: Observation, default: float, single: Mapping[str, float]) -> Floats:
    """Standard deviation of the log gain of every station, ``(station,)``."""
    names = [s.name for s in obs.stations]
    unknown = sorted(set(single) - set(names))
    if unknown:
        raise UsageError(
            "gain errors are given for stations that are not in the data", expected=", ".join(names),
            found=", ".join(unknown),
        )  # fmt: skip
    return np.array([single.get(name, default) for name in names])


def log_amplitude_covariance(
    obs: Observation, relative: Floats, gain: Floats, snr: float = 0.0, gap: float = 60.0
) -> tuple[Ints, list[Floats]]:
    """Rows that take part and the covariance of their log amplitudes, block by block in that order.

    Parameters
    ----------
    relative : ``sigma/|V|`` of each row.
    gain : standard deviation of the log gain of every station, one draw a scan, shared by the bands.
    snr : rows below take no part.
    """
    scan = averaging.scans(obs, gap)
    kept: list[Ints] = []
    blocks = []
    for number in np.unique(scan):
        rows = np.flatnonzero((scan == number) & (relative * snr <= 1.0))
        if not len(rows):
            continue
        design = np.zeros((len(rows), len(obs.stations)))
        design[np.arange(len(rows)), obs.a[rows]] = design[np.arange(len(rows)), obs.b[rows]] = 1
        kept.append(rows)
        blocks.append(np.diag(relative[rows] ** 2) + (design * gain**2) @ design.T)
    return np.concatenate(kept) if kept else np.zeros(0, np.int64), blocks
