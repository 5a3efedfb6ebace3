"""Whether the data can determine a prior: is ``E[A^T A | A~]`` regular for every ``A~`` that occurs?

Ambient Diffusion, theorem 4.2: what the network must guess is supervised only where another item, compatible with the
``A~`` at hand, measured it. Few sampling patterns are examined one by one, ``p_i = P(A measures i | A~)`` by Bayes'
rule over the patterns of the data set; of many patterns the set is a sample of what the scanner draws, and it must only
hide something and see everything. In both cases ``E[A^T A]`` itself must be regular, for EM and Tweedie too: its
smallest eigenvalue is found densely for small states, else by Lanczos (an upper bound).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.training.ambient.further import Further
from sciinv.training.ambient.items import Measurements

FEW, SHORT = 8, 12
"""So few patterns, or patterns of so few groups, are all that the scanner has; more are a sample of what it draws."""

_SUBSETS, _DRAWS, _DENSE, _LANCZOS, _ITEMS, _SHOWN = 10, 32, 600, 40, 32, 8
_SINGULAR = 1e-4


@dataclass(frozen=True)
class Conditional:
    """What is known of the rest from each further corrupted pattern.

    Attributes
    ----------
    kept : distinct ``A~``, bool ``(m, g)``.
    seen : ``P(A_ii = 1 | A~)``, ``(m, g)`` float64; a zero is a coordinate without supervision.
    posterior : probability of each pattern of the data set given ``A~``, ``(m, k)``.
    """

    kept: Tensor
    seen: Tensor
    posterior: Tensor

    @property
    def undetermined(self) -> Tensor:
        """Which ``A~`` leave a coordinate without supervision, bool ``(m,)``."""
        return (self.seen == 0).any(1)


@dataclass(frozen=True)
class Verdict:
    """Outcome of the check.

    Attributes
    ----------
    regular : whether the data determine the prior.
    reason : one sentence.
    coordinates : where they do not: groups of the data, or components of the state, as indices.
    weakest : smallest over largest eigenvalue of ``E[A^T A]``.
    """

    regular: bool
    reason: str
    coordinates: list[list[int]]
    weakest: float


def conditional(patterns: Tensor, weights: Tensor, always: Tensor, further: Further) -> Conditional:
    """Bayes' rule over the patterns ``(k, g)`` with probabilities ``weights`` ``(k,)``; ``always`` ``(g,)`` is kept.

    All subsets of patterns with few droppable groups are looked at, else draws.
    """
    kept = torch.unique(torch.cat([_subsets(row & ~always, row, further) for row in patterns]), dim=0)
    size = (patterns & ~always).sum(1)
    inside = ~(kept[:, None] & ~patterns[None]).any(2) & ~(always & patterns & ~kept[:, None]).any(2)
    gone = size - (kept & ~always).sum(1, keepdim=True)
    if further.exact:
        drop = torch.tensor([further.dropped(int(n)) for n in size])
        ways = torch.tensor([math.comb(int(n), int(d)) for n, d in zip(size, drop, strict=True)], dtype=torch.float64)
        chance = (gone == drop) / ways
    else:
        chance = (1 - further.share) ** (size - gone).double() * further.share ** gone.clamp_min(0).double()
    joint = weights.double() * chance * inside
    posterior = joint / joint.sum(1, keepdim=True)
    return Conditional(kept, posterior @ patterns.double(), posterior)


def _subsets(droppable: Tensor, pattern: Tensor, further: Further) -> Tensor:
    """What B can make of one pattern, ``(m, g)``."""
    places = droppable.nonzero()[:, 0].tolist()
    n = len(places)
    if further.share == 0:
        return pattern[None]
    sizes: Sequence[int] = [further.dropped(n)] if further.exact else range(n + 1)
    if n <= _SUBSETS:
        gone: list[Sequence[int]] = [c for size in sizes for c in itertools.combinations(places, size)]
    else:
        generator = torch.Generator().manual_seed(n)
        order = torch.rand(_DRAWS, n, generator=generator).argsort(1)[:, : further.dropped(n)]
        gone = [[places[j] for j in row] for row in order.tolist()]
    out = pattern.repeat(len(gone), 1)
    for row, places_gone in zip(out, gone, strict=True):
        row[list(places_gone)] = False
    return out


def identify(data: Measurements, further: Further | None) -> Verdict:
    """Check a data set; ``further`` for the methods that hide data again, ``None`` for EM, Tweedie and GSURE."""
    verdict = Verdict(True, "", [], 1.0)
    for number, group in enumerate(data.groups):
        verdict = min(verdict, _group(data, number, group, further), key=lambda v: (v.regular, v.weakest))
        if not verdict.regular:
            return verdict
    return verdict


def require(verdict: Verdict, method: str) -> None:
    """Raise `MismatchError` with the coordinates when the data cannot determine the prior."""
    if verdict.regular:
        return
    shown = ", ".join(str(tuple(c) if len(c) > 1 else c[0]) for c in verdict.coordinates[:_SHOWN])
    more = f" and {len(verdict.coordinates) - _SHOWN} more" if len(verdict.coordinates) > _SHOWN else ""
    raise MismatchError(
        f"these data cannot determine the prior by {method}: {verdict.reason}", expected="E[A^T A | A~] regular",
        found=f"no information at {shown or 'some combination'}{more}",
        hint="data with more varied sampling patterns, or --allow-undetermined to learn only what they show",
    )  # fmt: skip


def _group(data: Measurements, number: int, group: list[int], further: Further | None) -> Verdict:
    everything = torch.ones(len(group), dtype=torch.float64) / len(group)
    weakest, where = _weakest(data, number, everything)
    if weakest < _SINGULAR:
        return Verdict(False, "E[A^T A] over the items is singular", where, weakest)
    if further is None:
        return Verdict(True, "", [], weakest)
    shape = data.patterns[number].shape[1:]
    flat, always = data.patterns[number].flatten(1), data.always[number].flatten()
    patterns, member, counts = torch.unique(flat, dim=0, return_inverse=True, return_counts=True)
    if bool(flat.all()):
        return Verdict(True, "", [], weakest)
    if len(patterns) > FEW and flat.shape[1] > SHORT:
        if further.share == 0:
            return Verdict(False, "nothing is hidden again, so nothing hidden is ever supervised",
                           _unravel((~flat.all(0)).nonzero()[:, 0], shape), weakest)  # fmt: skip
        return Verdict(True, "", [], weakest)
    found = conditional(patterns, counts / counts.sum(), always, further)
    # coils may see what no other pattern does: only an operator's own rank decides
    for row in sorted(range(len(found.kept)), key=lambda r: -int((found.seen[r] == 0).sum()))[:4]:
        if not bool((found.seen[row] == 0).any()):
            break
        share = (found.posterior[row] / counts)[member]
        value, _ = _weakest(data, number, share)
        if value < _SINGULAR:
            bad = int(found.undetermined.sum())
            return Verdict(
                False, f"of {len(found.kept)} further corrupted patterns examined, {bad} leave something unsupervised",
                _unravel((found.seen[row] == 0).nonzero()[:, 0], shape), value,
            )  # fmt: skip
    return Verdict(True, "", [], weakest)


def _unravel(index: Tensor, shape: torch.Size) -> list[list[int]]:
    """Indices along the axes that are longer than one."""
    axes = [a for a, n in enumerate(shape) if n > 1] or [0]
    return [[int(v[a]) for a in axes] for v in zip(*torch.unravel_index(index, shape), strict=True)]


def _weakest(data: Measurements, number: int, share: Tensor) -> tuple[float, list[list[int]]]:
    """Smallest over largest eigenvalue of ``sum share_i A_i^T A_i``, and the state components of its null space."""
    group = data.groups[number]
    picked = [i for i in range(len(group)) if float(share[i]) > 0]
    if len(picked) > _ITEMS and data.state_space(group[0]).size > _DENSE:
        picked = _covering(data.patterns[number].flatten(1).cpu(), picked)
    problems = [data.problems[group[i]] for i in picked]
    space = data.state_space(group[0])
    codec = data.codec(problems[0].domain)
    weight = share[picked] / share[picked].sum()

    def mean_normal(x: Tensor) -> Tensor:
        physical = codec(x)
        parts = [float(w) * p.linear.normal(physical) for w, p in zip(weight, problems, strict=True)]
        return codec.adjoint(torch.stack(parts).sum(0))

    if space.size <= _DENSE:
        with torch.no_grad():
            eye = torch.eye(space.size).view(space.size, *space.shape)
            matrix = mean_normal(eye).flatten(1).double()
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        null = vectors[:, values < _SINGULAR * values[-1]].square().sum(1)
        return float(values[0] / values[-1]), _unravel((null > 0.5).nonzero()[:, 0], torch.Size(space.shape))
    value, vector = lanczos(mean_normal, torch.Size(space.shape))
    strong = vector.flatten().square()
    return value, _unravel((strong > 0.1 * strong.max()).nonzero()[:, 0], torch.Size(space.shape))


def _covering(patterns: Tensor, picked: list[int]) -> list[int]:
    """Some of the items, evenly spread, and those that measure what these leave out: all lines that any item has."""
    some = picked[:: -(-len(picked) // _ITEMS)]
    seen = patterns[some].any(0)
    for i in picked:
        if bool((patterns[i] & ~seen).any()):
            some.append(i)
            seen |= patterns[i]
    return some


@torch.no_grad()
def lanczos(apply: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[float, Tensor]:
    """Smallest over largest Ritz value and the Ritz vector of the smallest, with full orthogonalisation."""
    q = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    basis: list[Tensor] = []
    small = torch.zeros(_LANCZOS, _LANCZOS, dtype=torch.float64)
    for k in range(_LANCZOS):
        q = q / q.norm()
        basis.append(q)
        w = apply(q)
        for _ in range(2):
            for j, b in enumerate(basis):
                overlap = (b * w).sum()
                small[j, k] += float(overlap)
                w = w - overlap * b
        if float(w.norm()) < 1e-5:
            break
        q = w
    n = len(basis)
    t = small[:n, :n].triu()
    values, vectors = torch.linalg.eigh(t + t.triu(1).T)
    vector = torch.stack([float(c) * b for c, b in zip(vectors[:, 0], basis, strict=True)]).sum(0)
    return max(float(values[0] / values[-1]), 0.0), vector
