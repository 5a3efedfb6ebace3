"""Reference posteriors: problems whose answer is known exactly, with exact draws to compare with.

* ``gaussian``: 6-D anisotropic Gaussian behind a dense 3 x 6 matrix, noise 0.3.
* ``fourier``: power-law Gaussian random field behind a masked Fourier transform.
* ``mixture-dD-mM``: the 25-mode mixture of MCGDiff (Cardoso et al. 2024, section 4.1), spacing 8: isolated modes.
* ``overlap-dD-mM``: the same with spacing 2: modes that touch.
* ``inpaint-dD-m2``: that one behind a mask, for methods that need masks.
* ``ring``, ``banana``: nonlinear operators in two dimensions, by quadrature.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.certify.models import LinearMixture
from sciinv.certify.quadrature import Banana, Ring, quadrature
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator
from sciinv.prior import Prior
from sciinv.priors.gaussian import anisotropic_gaussian, symmetric_root
from sciinv.priors.mixture import MixturePrior, grid_mixture
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng

F64 = torch.float64


@dc.dataclass(frozen=True, eq=False)
class Reference:
    """A problem, its prior, and everything known about the posterior of the flattened state.

    Compared by identity, so that what is computed from one can be cached.

    Attributes
    ----------
    name, kind : what it is called; ``gaussian``, ``mixture`` or ``nonlinear``.
    mean, cov : ``(d,)`` and ``(d, d)``, float64.
    log_evidence : ``log p(y)``, normalised over the whole codomain as `Problem.log_likelihood` is.
    scale, detail : root mean square prior standard deviation of a coordinate, of the whole prior and of one mode;
        settings with units follow them.
    draw : ``(n, seed) -> (n, d)`` exact posterior draws, float64.
    weights, responsibilities : posterior weights of the modes and ``p(mode | x)``, where there are modes.
    """

    name: str
    kind: str
    problem: Problem
    prior: Prior
    mean: Tensor
    cov: Tensor
    log_evidence: float
    scale: float
    detail: float
    draw: Callable[[int, int], Tensor]
    weights: Tensor | None = None
    responsibilities: Callable[[Tensor], Tensor] | None = None


def gaussian_dense(sigma: float = 0.3, seed: int = 3) -> Reference:
    """The 6-D anisotropic Gaussian behind a dense 3 x 6 matrix; float64."""
    prior = anisotropic_gaussian(dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.005, 20.0
    operator = Dense(Rng(seed, [0]).normal((3, 6), F64)[0], (1, 6))
    model = LinearMixture.of(prior, operator, sigma)
    return _linear("gaussian", "gaussian", model, prior, operator, model.simulate(1, seed)[1][0])


def gaussian_fourier(size: int = 8, sigma: float = 0.1, fraction: float = 0.5, seed: int = 5) -> Reference:
    """A real random field of ``size`` x ``size`` pixels, a random ``fraction`` of its k-space measured; float64."""
    prior = RandomFieldPrior((size, size), dtype=F64)
    prior.sigma_min = 0.01
    mask = Rng(seed, [0]).uniform((size, size))[0] < fraction
    operator = FourierMask(mask, (1, size, size), ndim=2, real=True)
    y = operator(prior.draw(Rng(seed, [1])))
    problem = Problem(
        (y + sigma * Rng(seed, [2]).normal_like(y) * mask)[0], operator, Gaussian(sigma), {"n_data": operator.n_data}
    )
    law = prior.posterior(operator, problem.y, sigma)
    root = symmetric_root(law.cov)

    def draw(n: int, seed: int) -> Tensor:
        return law.mean + Rng(seed, [(5, n)]).normal((n, len(root)), F64)[0] @ root

    return Reference("fourier", "gaussian", problem, prior, law.mean, law.cov, float(law.log_evidence), 1.0, 1.0, draw)


def mixture(d: int = 8, m: int = 2, seed: int = 0, spacing: float = 8.0) -> Reference:
    """MCGDiff's mixture problem with its random operator, noise level and truth; all from ``seed``.

    ``A = U diag(s) V^T``, U and V from the decomposition of a standard normal ``(m, d)`` matrix, s uniform on (0, 1) in
    descending order, ``sigma_y = uniform(0, 1) max(s)``, ``y = A x* + sigma_y n``, x* from the prior; float32.
    """
    prior = grid_mixture(d, seed, spacing)
    rng = Rng(seed, [(d, m)])
    u, _, vh = torch.linalg.svd(rng.normal((m, d), F64)[0], full_matrices=False)
    s = rng.uniform((m,), F64)[0].sort(descending=True).values
    # a noise level of exactly zero has no likelihood
    sigma = float(rng.uniform((), F64)[0].clamp_min(1e-3) * s.max())
    operator = Dense((u * s) @ vh, (1, d)).to(prior.space.dtype)
    model = LinearMixture.of(prior, operator, sigma)
    # the spread along the two directions of the means grows with d: the first level must drown it
    prior.sigma_max = max(prior.sigma_max, 3 * float(_prior_cov(model).diagonal().sum().sqrt()))
    prior.sigma_min = 0.01
    name = "mixture" if spacing > 4 else "overlap"
    return _linear(f"{name}-d{d}-m{m}", "mixture", model, prior, operator, model.simulate(1, seed)[1][0])


def inpaint(d: int = 8, seed: int = 0, sigma: float = 0.5) -> Reference:
    """The overlapping mixture with its first and third coordinate measured: one index of the mode is, the other not."""
    prior = grid_mixture(d, seed, 2.0)
    mask = torch.zeros(1, d)
    mask[0, [0, 2]] = 1
    operator = Mask(mask)
    model = LinearMixture.of(prior, operator, sigma)
    prior.sigma_min = 0.01
    datum = mask.flatten() * model.simulate(1, seed)[1][0]
    return _linear(f"inpaint-d{d}-m2", "mixture", model, prior, operator, datum)


def ring(y: float = 2.0, sigma: float = 0.3) -> Reference:
    """``y = |x| + n`` with a five-mode mixture: the posterior is a ring with lumps; float64."""
    means = torch.tensor([[0.0, 0.0], [1.5, 1.5], [-1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]], dtype=F64)
    weights = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=F64)
    return _nonlinear("ring", MixturePrior(weights, means[:, None], 0.4, dtype=F64), Ring(), y, sigma)


def banana(y: float = 1.0, sigma: float = 0.3) -> Reference:
    """``y = x_1^2 + x_2 + n`` with a standard normal prior: a curved ridge; float64."""
    prior = MixturePrior(torch.ones(1, dtype=F64), torch.zeros(1, 1, 2, dtype=F64), 1.0, dtype=F64)
    return _nonlinear("banana", prior, Banana(), y, sigma)


def suite(fast: bool) -> dict[str, list[Reference]]:
    """The references of a certificate by name; several random problems of one name are averaged over."""
    seeds = range(2) if fast else range(4)
    found = [gaussian_dense(), gaussian_fourier(8 if fast else 16)]
    found += [mixture(8, 2, seed, spacing=2.0) for seed in seeds]
    shapes = [(8, 2)] if fast else [(d, m) for d in (8, 80, 800) for m in (1, 2, 4)]
    # one problem in 800 dimensions costs as much as a hundred in 8; the single ones keep several modes alive
    single = range(3, 4) if fast else range(1, 2)
    found += [mixture(d, m, seed) for d, m in shapes for seed in (single if fast or d >= 800 else seeds)]
    found += [inpaint(8, seed) for seed in seeds]
    found += [ring(), banana()]
    by: dict[str, list[Reference]] = {}
    for reference in found:
        by.setdefault(reference.name, []).append(reference)
    return by


def _linear(
    name: str, kind: str, model: LinearMixture, prior: Prior, operator: LinearOperator, datum: Tensor
) -> Reference:
    y = datum.to(prior.space.dtype)
    datum = y.to(F64)
    weights = model.log_weights(datum).softmax(-1)
    return Reference(
        name, kind, Problem(y.view(operator.codomain.shape), operator, Gaussian(model.sigma)), prior,
        model.posterior_mean(datum), model.posterior_cov(datum), float(model.log_evidence(datum)),
        float(_prior_cov(model).diagonal().mean().sqrt()), float(model.cov.diagonal().mean().sqrt()),
        lambda n, seed: model.draw(datum[None], n, seed)[0],
        weights if len(weights) > 1 else None, model.responsibilities if len(weights) > 1 else None,
    )  # fmt: skip


def _nonlinear(name: str, prior: MixturePrior, operator: Ring | Banana, y: float, sigma: float) -> Reference:
    problem = Problem(torch.tensor([y], dtype=F64), operator, Gaussian(sigma))
    prior.sigma_min, prior.sigma_max = 0.005, 20.0
    law = quadrature(problem, prior, extent=6.0)
    scale = float((prior.means.var(0, correction=0).mean() + prior.variances.mean()).sqrt())
    detail = float(prior.variances.mean().sqrt())
    return Reference(name, "nonlinear", problem, prior, law.mean, law.cov, law.log_evidence, scale, detail, law.draw)


def _prior_cov(model: LinearMixture) -> Tensor:
    centred = model.means - model.weights @ model.means
    return model.cov + (model.weights[:, None] * centred).T @ centred
