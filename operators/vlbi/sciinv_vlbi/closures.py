"""Closure phases and log closure amplitudes: which, with which errors.

``psi = arg V_ab + arg V_bc - arg V_ac`` and ``ln|V_ab| + ln|V_cd| - ln|V_ad| - ln|V_bc|`` do not change when each
station multiplies its signal by a complex gain. Both are ``D`` times the phases or log amplitudes of the visibilities,
D with entries 0, +1, -1, so to first order in ``sigma/|V|`` their covariance is ``C = D diag(sigma^2/|V|^2) D^T``, one
block a band and instant (Thompson, Moran, Swenson 2017, chapter 10; Blackburn et al. 2020).

A complete graph of N stations has (N-1)(N-2)/2 independent phases and N(N-3)/2 independent amplitudes. With missing
baselines no reference station serves every scan; here closures are taken in the order of their error while they raise
the rank (a greedy basis of a matroid, so of least total error).
"""

from __future__ import annotations

import dataclasses as dc
import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sciinv_vlbi.averaging import moments
from sciinv_vlbi.observation import Floats, Ints, Observation
from sciinv_vlbi.options import Count

Kind = Literal["phase", "amplitude"]


@dc.dataclass(frozen=True)
class Closures:
    """A set of closures.

    Attributes
    ----------
    kind : ``phase`` (three visibilities each) or ``amplitude`` (four).
    index : rows of the observation, ``(m, 3 or 4)``.
    sign : +1 or -1, ``(m, 3 or 4)``.
    stations : station indices round the triangle or quadrangle, ``(m, 3 or 4)``.
    block : number of the band and instant, growing, ``(m,)``.
    """

    kind: Kind
    index: Ints
    sign: Floats
    stations: Ints
    block: Ints

    def __len__(self) -> int:
        return len(self.index)

    def combine(self, values: NDArray[np.float64]) -> Floats:
        """``D`` times one number a row, ``(m,)``."""
        return np.asarray((values[self.index] * self.sign).sum(1))

    def values(self, vis: NDArray[np.complex128]) -> Floats:
        """The closures of visibilities ``(row,)``: radians in (-pi, pi], or natural logarithms."""
        if self.kind == "amplitude":
            return self.combine(np.log(np.abs(vis)))
        return np.asarray(np.angle(np.exp(1j * self.combine(np.angle(vis)))))

    def sigma(self, relative: Floats) -> Floats:
        """Standard deviations from ``sigma/|V|`` of each row."""
        return np.asarray(np.sqrt((relative[self.index] ** 2).sum(1)))

    def design(self, rows: int) -> Any:
        """``D`` as a sparse matrix ``(m, rows)``."""
        owner = np.repeat(np.arange(len(self)), self.index.shape[1])
        entries = (self.sign.reshape(-1), (owner, self.index.reshape(-1)))
        return sparse.csr_array(entries, shape=(len(self), rows))

    def covariance(self, relative: Floats) -> list[Floats]:
        """``D diag(sigma^2/|V|^2) D^T`` of each block, in order."""
        found = []
        for rows in np.split(np.arange(len(self)), np.flatnonzero(np.diff(self.block)) + 1):
            used, place = np.unique(self.index[rows], return_inverse=True)
            design = np.zeros((len(rows), len(used)))
            np.put_along_axis(design, place.reshape(len(rows), -1), self.sign[rows], 1)
            found.append((design * relative[used] ** 2) @ design.T)
        return found if len(self) else []


def closures(
    obs: Observation, kind: Kind, count: Count = "minimal", snr: float = 0.0, relative: Floats | None = None
) -> Closures:
    """Closures of every band and instant.

    Parameters
    ----------
    obs : one row a baseline, band and instant (see `average`).
    kind : phases or log amplitudes.
    count : a ``minimal`` set of full rank, least noisy first, or ``all`` triangles (all quadrangles, three each; every
        one that its own baselines allow).
    snr : visibilities with ``|V|/sigma`` below it take no part: the first-order errors hold above about 3.
    relative : ``sigma/|V|`` that ranks the closures and that `snr` is compared with; from the data by default.
    """
    relative = obs.sigma / np.maximum(np.abs(obs.vis), 1e-300) if relative is None else relative
    usable = relative * snr <= 1.0
    instant = moments(obs)
    order = np.lexsort((instant, obs.band))
    cuts = np.flatnonzero((np.diff(obs.band[order]) != 0) | (np.diff(instant[order]) != 0)) + 1
    columns: list[tuple[list[int], list[int], list[int], int]] = []
    for block, rows in enumerate(np.split(order, cuts)):
        graph = {}
        for row in rows[usable[rows]]:
            graph[int(obs.a[row]), int(obs.b[row])] = (int(row), 1)
            graph[int(obs.b[row]), int(obs.a[row])] = (int(row), -1)
        found = _triangles(graph) if kind == "phase" else _quadrangles(graph)
        if count == "minimal":
            found.sort(key=lambda c: float((relative[c[0]] ** 2).sum()))
            found = _independent(found, _rank(graph, kind))
        columns += [(*closure, block) for closure in found]
    width = 3 if kind == "phase" else 4
    index, sign, stations = (np.array([c[i] for c in columns]).reshape(-1, width) for i in range(3))
    blocks = np.array([c[3] for c in columns], np.int64)
    return Closures(kind, index.astype(np.int64), sign.astype(np.float64), stations.astype(np.int64), blocks)


Graph = dict[tuple[int, int], tuple[int, int]]
Found = list[tuple[list[int], list[int], list[int]]]


def _triangles(graph: Graph) -> Found:
    sites = sorted({a for a, _ in graph})
    found: Found = []
    for a, b, c in itertools.combinations(sites, 3):
        edges = [(a, b), (b, c), (c, a)]
        if all(edge in graph for edge in edges):
            found.append(([graph[e][0] for e in edges], [graph[e][1] for e in edges], [a, b, c]))
    return found


def _quadrangles(graph: Graph) -> Found:
    sites = sorted({a for a, _ in graph})
    found: Found = []
    for w, x, y, z in itertools.combinations(sites, 4):
        for a, b, c, d in ((w, x, y, z), (w, y, x, z), (w, x, z, y)):
            edges = [(a, b), (c, d), (a, d), (b, c)]
            if all(edge in graph for edge in edges):
                found.append(([graph[e][0] for e in edges], [1, 1, -1, -1], [a, b, c, d]))
    return found


def _rank(graph: Graph, kind: Kind) -> int:
    """Most independent closures that the baselines could have: edges minus the rank of the gains' influence."""
    edges = [edge for edge in graph if edge[0] < edge[1]]
    if not edges:
        return 0
    gains = np.zeros((len(edges), max(max(e) for e in edges) + 1))
    for row, (a, b) in enumerate(edges):
        gains[row, a], gains[row, b] = 1, -1 if kind == "phase" else 1
    return len(edges) - int(np.linalg.matrix_rank(gains))


def _independent(found: Found, most: int) -> Found:
    """The first closures that are linearly independent, by elimination as they come."""
    kept: Found = []
    pivots: dict[int, dict[int, float]] = {}
    for closure in found:
        if len(kept) == most:
            break
        row = {i: float(s) for i, s in zip(closure[0], closure[1], strict=True)}
        while row:
            lead = min(row)
            if lead not in pivots:
                pivots[lead] = {i: value / row[lead] for i, value in row.items()}
                kept.append(closure)
                break
            factor = row[lead]
            for i, value in pivots[lead].items():
                rest = row.get(i, 0.0) - factor * value
                if abs(rest) > 1e-9:
                    row[i] = rest
                else:
                    row.pop(i, None)
    return kept


def whitening(covariance: list[Floats], full: bool = True, cutoff: float = 1e-9) -> list[Floats]:
    """``W`` of each block with ``W C W^T = 1``: eigenvectors of the correlation with a non-zero eigenvalue.

    A set that is not minimal has a singular C; the directions that carry no information are left out, so that it gives
    the likelihood of a minimal one. With `full` false the off-diagonal part of C is ignored.
    """
    roots = []
    for c in covariance:
        scale = np.sqrt(np.diag(c))
        if not full:
            roots.append(np.diag(1 / scale))
            continue
        values, vectors = np.linalg.eigh(c / scale[:, None] / scale)
        keep = values > cutoff * values[-1]
        roots.append((vectors[:, keep] / np.sqrt(values[keep])).T / scale)
    return roots
