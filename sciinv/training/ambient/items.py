"""Measurements as training data: ``y = A x_0 + sigma_y n``, one `Problem` an item, an operator of its own each.

Nothing here knows a domain. Which data an item has is read off its operator, ``m_i = [(A z)_i != 0]`` for a random z
(a row that measures nothing is exactly zero); whatever the file holds elsewhere, NaN included, is replaced by zero and
never reaches a loss. Operators are divided by their norm, so that ``A^H y`` is of the size of an image for every
domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from sciinv.errors import MismatchError, Unsupported
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.diagonal import Diagonal
from sciinv.generic.mask import Mask
from sciinv.linalg import operator_norm
from sciinv.noise import Gaussian
from sciinv.operator import SVD, Identity, LinearOperator, Scaled, Space, column
from sciinv.problem import Problem, Stacked
from sciinv.rng import Rng


@dataclass(frozen=True)
class Batch:
    """Some observations, one a row.

    Attributes
    ----------
    y : ``(n, *codomain)``, zero where nothing is measured.
    operator : takes states ``(n, channel, *space)``, row i by the operator of item i.
    measured : bool ``(n, *codomain)``.
    sigma : noise level of each row per real component, ``(n,)``.
    pattern : ``measured`` on the grid of what is dropped together, bool ``(n, *grid)``, see `Measurements`.
    always : bool ``grid``: what every item measures.
    """

    y: Tensor
    operator: LinearOperator
    measured: Tensor
    sigma: Tensor
    pattern: Tensor
    always: Tensor


class DiagonalItems(LinearOperator):
    """A diagonal operator a row: ``(A x)_i = d_i x_i`` with ``d`` of shape ``(n, *shape)``."""

    def __init__(self, diagonal: Tensor, domain: Space, codomain: Space):
        super().__init__(domain, codomain)
        self.register_buffer("diagonal", diagonal)

    diagonal: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def adjoint(self, y: Tensor) -> Tensor:
        out = self.diagonal.conj() * y
        return out if self.domain.dtype.is_complex else out.real if out.is_complex() else out

    def svd(self) -> SVD:
        """``s = |d|``, ``V = I``."""
        return SVD(self, self.diagonal.abs(), Identity(self.domain))


def per_item(operators: Sequence[LinearOperator]) -> LinearOperator:
    """One operator a row of the batch; diagonal ones in a single product."""
    domain, codomain = operators[0].domain, operators[0].codomain
    plain = [op.op if isinstance(op, Scaled) else op for op in operators]
    if all(type(op) in (Diagonal, Mask) for op in plain):
        factors = [op.c if isinstance(op, Scaled) else 1.0 for op in operators]
        diagonals = [cast(Diagonal, op).diagonal.expand(domain.shape) for op in plain]
        rows = [c * d for c, d in zip(factors, diagonals, strict=True)]
        return DiagonalItems(torch.stack(rows), domain, codomain)
    return Stacked(operators, 1)


def stack(problems: Sequence[Problem], draws: int = 1) -> Problem:
    """`Problem.stack` of items, which share no facts; diagonal operators in a single product."""
    stacked = replace(Problem.stack(problems, draws), meta={})
    operator = per_item(list(cast(Stacked, stacked.operator).ops))  # type: ignore[arg-type]
    if not isinstance(operator, DiagonalItems):
        return stacked
    rows = operator.diagonal.repeat_interleave(draws, 0)
    return replace(stacked, operator=DiagonalItems(rows, operator.domain, operator.codomain))


class Measurements:
    """A data set of linear problems in the units of a prior.

    Entries that were acquired together are dropped together: axes of the data along which no item's sampling pattern
    varies (coils, the readout of a scan of whole lines) are one group. Where no axis varies, every entry is alone.

    Parameters
    ----------
    problems : one an item; a complex image becomes two channels, a real one keeps its channels.
    """

    def __init__(self, problems: Sequence[Problem]):
        if not problems:
            raise MismatchError("there are no measurements to train on", expected="at least one problem")
        self.codec = _codec(problems[0].domain)
        self.problems: list[Problem] = []
        for number, problem in enumerate(problems):
            if not problem.operator.linear:
                raise Unsupported(
                    "a prior is learned from linear measurements", where=f"item {number}",
                    found=type(problem.operator).__name__, hint="a linear product of the same data",
                )  # fmt: skip
            if not problem.noise.white:
                raise Unsupported(
                    "a prior is learned from data with white Gaussian noise", where=f"item {number}",
                    found=type(problem.noise).__name__,
                    hint="the domain's option for Gaussian noise, such as --set ct.noise=gaussian",
                )  # fmt: skip
            self.problems.append(_clean(problem, number))
        self.groups: list[list[int]] = []
        shapes: dict[tuple[Space, Space], int] = {}
        self._place: list[tuple[int, int]] = []
        for number, problem in enumerate(self.problems):
            if problem.domain.dtype.is_complex != problems[0].domain.dtype.is_complex:
                raise MismatchError("real and complex images cannot train one prior", where=f"item {number}")
            group = shapes.setdefault((problem.domain, problem.operator.codomain), len(shapes))
            if group == len(self.groups):
                self.groups.append([])
            self._place.append((group, len(self.groups[group])))
            self.groups[group].append(number)
        self.measured = [torch.stack([_measured(self.problems[i]) for i in group]) for group in self.groups]
        self.patterns = [_pattern(m) for m in self.measured]
        self.always = [_always(p) for p in self.patterns]

    def __len__(self) -> int:
        return len(self.problems)

    def to(self, device: torch.device | str) -> Measurements:
        """Move all data and operators to a device, in place."""
        self.problems = [replace(p, y=p.y.to(device), operator=p.operator.to(device)) for p in self.problems]
        for tensors in (self.measured, self.patterns, self.always):
            tensors[:] = [t.to(device) for t in tensors]
        return self

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self.codec(self.problems[0].domain).domain.shape[0]

    def state_space(self, item: int = 0) -> Space:
        """Space of the states of an item."""
        return self.codec(self.problems[item].domain).domain

    def batch(self, items: Sequence[int]) -> Batch:
        """Observations of items of one group."""
        places = [self._place[i] for i in items]
        group, rows = places[0][0], [row for _, row in places]
        if any(g != group for g, _ in places):
            raise MismatchError("items of different shapes cannot form a batch", found=str(list(items)))
        chosen = [self.problems[i] for i in items]
        operator = per_item([p.linear for p in chosen]) @ self.codec(chosen[0].domain)
        return Batch(
            torch.stack([p.y for p in chosen]), operator, self.measured[group][rows],
            torch.tensor([p.noise.sigma for p in chosen], dtype=chosen[0].y.real.dtype, device=chosen[0].device),
            self.patterns[group][rows], self.always[group],
        )  # fmt: skip

    def pick(self, choice: Tensor, rows: Tensor) -> list[int]:
        """Items of a batch from uniform numbers: the group by one ``choice`` (0-dim), the items by ``rows``
        ``(n,)``.
        """
        position, group = float(choice) * len(self), 0
        while position >= len(self.groups[group]) and group < len(self.groups) - 1:
            position -= len(self.groups[group])
            group += 1
        members = self.groups[group]
        return [members[min(int(u * len(members)), len(members) - 1)] for u in rows.tolist()]

    def least_squares_scale(self) -> float:
        """Standard deviation of white images that would give data of this size."""
        total = count = 0.0
        for group in self.groups:
            for i in group[:16]:
                problem = self.problems[i]
                white = problem.operator(_probe(problem.domain).to(problem.device)[None])
                total += float(problem.y.abs().double().square().sum())
                count += float(white.abs().double().square().sum())
        return math.sqrt(total / count)


def _codec(domain: Space):  # type: ignore[no-untyped-def]
    """The map from states to images of a space, as a function of the space."""
    if domain.dtype.is_complex:
        return lambda space: ChannelsToComplex(space.shape)
    return Identity


def _clean(problem: Problem, number: int) -> Problem:
    """Zero where nothing is measured, operator of norm one, finite."""
    measured = _measured(problem)
    if not bool(measured.any()):
        raise MismatchError("an item measures nothing", where=f"item {number}")
    y = torch.where(measured, problem.y, torch.zeros((), dtype=problem.y.dtype))
    if not bool(torch.isfinite(torch.view_as_real(y) if y.is_complex() else y).all()):
        raise MismatchError("the measurements hold NaN or infinity where they were measured", where=f"item {number}")
    if isinstance(problem.operator, Diagonal):
        norm = float(problem.operator.diagonal.abs().max())
    else:
        norm = float(operator_norm(problem.normal, _probe(problem.domain)[None].to(problem.device)))
    if abs(norm - 1) < 0.02:
        return Problem(y, problem.operator, problem.noise, problem.meta)
    return Problem(y / norm, Scaled(problem.linear, 1 / norm), Gaussian(problem.noise.sigma / norm), problem.meta)


def _probe(space: Space) -> Tensor:
    return Rng(0, [0]).normal(space.shape, space.dtype)[0]


def _measured(problem: Problem) -> Tensor:
    """Bool, in the shape of the data."""
    with torch.no_grad():
        return problem.operator(_probe(problem.domain).to(problem.device)[None])[0].abs() > 0


def _pattern(measured: Tensor) -> Tensor:
    """``measured`` ``(n, *codomain)`` with axes along which nothing varies reduced to one."""
    axes = range(1, measured.ndim)
    shared = [a for a in axes if bool((measured == measured.narrow(a, 0, 1)).all())]
    if len(shared) == measured.ndim - 1:
        return measured
    for a in shared:
        measured = measured.narrow(a, 0, 1)
    return measured


def _always(pattern: Tensor) -> Tensor:
    """What every item measures; nothing where all items measure the same."""
    every = pattern.all(0)
    return torch.zeros_like(every) if torch.equal(every, pattern.any(0)) else every


def rows_like(v: Tensor, like: Tensor) -> Tensor:
    """A number a row (or one for all), broadcast against ``like`` in its real precision."""
    return column(v.to(like.real.dtype), like)
