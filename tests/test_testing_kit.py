"""The contract kit can fail: every promise is broken once on purpose, and the kit must say which."""

import dataclasses as dc
from typing import ClassVar

import pytest
import torch

from sciinv.errors import Unsupported
from sciinv.generic.blur import Blur
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.operator import SVD, Identity, LinearOperator, Operator, Space
from sciinv.priors.gaussian import GaussianPrior, anisotropic_gaussian
from sciinv.priors.mixture import grid_mixture
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.testing import (
    affine_law,
    check_operator,
    check_prior,
    check_sampler,
    mean_cov_error,
    moments,
    sampling_floor,
)

F64 = torch.float64


def normal(*shape, key=0, dtype=torch.float32):
    return Rng(17, [key]).normal(shape, dtype)[0]


# --- operators -------------------------------------------------------------------------------------------------------


class Good(Dense):
    """A sound operator with every capability, to be broken one method at a time."""

    def __init__(self):
        super().__init__(normal(4, 6))


def broken(base=Good, **methods):
    return type("Broken", (base,), methods)()


def wrong_svd(change):
    def svd(self):
        return change(Dense.svd(self))

    return {"svd": svd}


class GoodMask(FourierMask):
    def __init__(self):
        super().__init__(normal(4, 6) > 0, real=True)


class GoodNonlinear(Operator):
    def __init__(self):
        super().__init__(Space((4,)), Space((4,)))

    def forward(self, x):
        return x**2 + x


BROKEN = {
    "adjoint dot test": broken(adjoint=lambda self, y: 1.1 * Dense.adjoint(self, y)),
    "not linear": broken(forward=lambda self, x: Dense.forward(self, x) + 0.1),
    "vjp differs from the adjoint": broken(vjp=lambda self, x, v: 2 * Dense.adjoint(self, v)),
    "normal differs": broken(normal=lambda self, x: x),
    "the codomain is": broken(forward=lambda self, x: Dense.forward(self, x)[..., None]),
    "expected dtype": broken(forward=lambda self, x: Dense.forward(self, x).float()),
    "adjoint gave": broken(adjoint=lambda self, y: Dense.adjoint(self, y).double()),
    "batch differs": broken(forward=lambda self, x: Dense.forward(self, x - (x.mean(0) if x.ndim > 1 else 0))),
    "isometry 1.0": broken(isometry=1.0),
    "preconditioner is not symmetric": broken(preconditioner=lambda self, r: lambda v: v.roll(1, -1)),
    "preconditioner is not positive": broken(preconditioner=lambda self, r: lambda v: -v),
    r"V V\^H is not the identity": broken(**wrong_svd(lambda b: b._replace(V=Dense(b.V.as_matrix()[:, :4].clone())))),
    r"A\^H A is not V": broken(**wrong_svd(lambda b: b._replace(s=b.s**2))),
    "singular value is negative": broken(**wrong_svd(lambda b: b._replace(s=-b.s))),
    "V.isometry is 1.0": broken(
        GoodMask, svd=lambda self: (lambda b: setattr(b.V, "isometry", 1.0) or b)(FourierMask.svd(self))
    ),
    "Broken: A": broken(GoodMask, svd=lambda self: SVD(self, self.power, self.spectrum.H)),  # M in place of its root
    "has_svd": broken(has_svd=lambda self: False),
    "finite differences": broken(GoodNonlinear, vjp=lambda self, x, v: 2 * x * v),
}


def test_the_unbroken_operators_pass():
    for op in (Good(), GoodMask(), GoodNonlinear()):
        check_operator(op, fake_cuda=False)


@pytest.mark.parametrize("message", BROKEN)
def test_check_operator_sees(message):
    with pytest.raises(AssertionError, match=message):
        check_operator(BROKEN[message], fake_cuda=False)


def test_half_masked_real_spectrum_needs_the_symmetric_power():
    """Using the mask itself as the power on real images is the published mistake; it is not A^H A."""
    op = GoodMask()
    mask = torch.fft.ifftshift(op.mask)
    lying = type("Lying", (GoodMask,), {"svd": lambda self: SVD(self, mask.double(), self.spectrum.H)})()
    with pytest.raises(AssertionError, match=r"f\(A\^H A\)|A\^H A is not"):
        check_operator(lying, fake_cuda=False)


# --- priors ----------------------------------------------------------------------------------------------------------


class GoodPrior(GaussianPrior):
    def __init__(self):
        super().__init__(normal(1, 4), torch.eye(4) + 0.3)


BROKEN_PRIORS = {
    r"not E\[x_0": broken(GoodPrior, denoise=lambda self, x, s: 0.9 * GaussianPrior.denoise(self, x, s)),
    "items alone": broken(GoodPrior, denoise=lambda self, x, s: GaussianPrior.denoise(self, x, s.mean())),
    "noise levels": broken(
        GoodPrior, denoise=lambda self, x, s: GaussianPrior.denoise(self, x, s if s.ndim == 0 else 1.01 * s)
    ),
    "gave": broken(GoodPrior, denoise=lambda self, x, s: GaussianPrior.denoise(self, x, s).float()),
    "draws depend": broken(GoodPrior, draw=lambda self, r: GaussianPrior.draw(self, r) / len(r)),
    "symmetric": broken(
        GoodPrior,
        # right on average, but turned within the uncertainty of x_0
        denoise=lambda self, x, s: GaussianPrior.denoise(self, x, s) + 1e-3 * (x - self.mean.to(x.dtype)).roll(1, -1),
    ),
    "to_physical": broken(GoodPrior, to_physical=Identity(Space((2, 4)))),
}


@pytest.mark.parametrize("message", BROKEN_PRIORS)
def test_check_prior_sees(message):
    with pytest.raises(AssertionError, match=message):
        check_prior(BROKEN_PRIORS[message], fake_cuda=False)


def test_wrong_responsibilities_are_seen():
    """A mixture denoiser that forgets the noise in its responsibilities is wrong only between the modes."""
    good = grid_mixture(2, spacing=2.0)
    check_prior(good, fake_cuda=False)

    class Wrong(type(good)):
        def denoise(self, x, sigma):
            r = self.responsibilities(x, 0.3 * sigma)
            means = self.means.to(x.dtype)
            flat = x.flatten(1)[:, None]
            gain = 1 / (1 + sigma.to(x.dtype).square().reshape(-1, 1, 1))
            return torch.einsum("nk,nki->ni", r, means + gain * (flat - means)).view_as(x)

    wrong = grid_mixture(2, spacing=2.0)
    wrong.__class__ = Wrong
    with pytest.raises(AssertionError, match=r"not E\[x_0"):
        check_prior(wrong, fake_cuda=False)


# --- samplers --------------------------------------------------------------------------------------------------------


@dc.dataclass(frozen=True)
class Direct(Sampler):
    """Exact posterior draws in a few pretend steps: the state carries partial sums of noise."""

    name: ClassVar[str] = "direct"
    paper: ClassVar[str] = "none"
    claims: ClassVar[str] = "exact"
    requires: ClassVar[frozenset[str]] = frozenset({"linear"})
    steps: int = 5

    def grid(self, prior):
        return [float(k) for k in range(self.steps, -1, -1)]

    def step(self, problem, prior, state, t, s, rng):
        x = state.x + rng.normal_like(state.x)
        return State(x, aux={"last": x}), {"norm": x.flatten(1).norm(dim=1)}

    def init(self, problem, prior, rng, like):
        return State(like.clone())

    def finish(self, problem, prior, state, rng):
        law = prior.prior.posterior(problem.operator, problem.y, problem.noise.sigma)
        root = torch.linalg.cholesky(law.cov)
        return (law.mean + (state.x.flatten(1) / self.steps**0.5) @ root.T).view_as(state.x)


def setting():
    prior = anisotropic_gaussian(dtype=F64)
    op = Dense(normal(3, 6, dtype=F64), (1, 6))
    return Problem(normal(3, key=1, dtype=F64), op, Gaussian(0.3)), prior


def test_a_sound_sampler_passes():
    check_sampler(Direct(), *setting())


def sampler(**methods):
    return dc.dataclass(frozen=True)(type("Bad", (Direct,), methods))()


class Sticky:
    """Memory that a checkpoint does not hold."""

    count = 0


def global_noise(self, problem, prior, state, t, s, rng):
    return State(state.x + torch.randn_like(state.x)), {}


def batch_norm(self, problem, prior, state, t, s, rng):
    x = state.x + rng.normal_like(state.x)
    return State(x / (1 + 0.1 * x.norm())), {}


def forgetful(self, problem, prior, state, t, s, rng):
    Sticky.count = 0 if t == self.steps else Sticky.count + 1
    return State(state.x + (1 + Sticky.count) * rng.normal_like(state.x)), {}


def no_noise(self, problem, prior, state, t, s, rng):
    return State(state.x + 1.0), {}


def greedy(self, problem, prior, state, t, s, rng):
    problem.y.mul_(1.0001)
    return Direct.step(self, problem, prior, state, t, s, rng)


def leaky(self, problem, prior, state, t, s, rng):
    x = state.x + rng.normal_like(state.x)
    return State(torch.where(x.isnan().any(), torch.full_like(x, 3.0), x)), {}


BAD_SAMPLERS = {
    "same seed gave different bits": {"step": global_noise},
    "in chunks of 1 differ": {"step": batch_norm},
    "resumed, the samples differ": {"step": forgetful},
    "another seed gave the same": {"step": no_noise},
    "changed in place|different bits": {"step": greedy},
    "failed flags": {"step": leaky},
}


@pytest.mark.parametrize("message", BAD_SAMPLERS)
def test_check_sampler_sees(message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(sampler(**BAD_SAMPLERS[message]), *setting())


def test_a_sampler_that_asks_for_nothing_it_needs_is_seen():
    problem, prior = setting()
    with pytest.raises(AssertionError, match="accepted"):
        from sciinv.testing.operators import expect_refusal

        expect_refusal("x", lambda: None)
    check_sampler(sampler(requires=frozenset({"linear", "svd"})), problem, prior)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_affine_law_is_exact_for_an_exact_sampler():
    problem, prior = setting()
    law = prior.posterior(problem.operator, problem.y, 0.3)
    for chunk in (7, 512):
        mean, cov = affine_law(Direct(), problem, prior, chunk=chunk)
        assert max(mean_cov_error(mean, cov, law.mean, law.cov)) < 1e-9
    shifted = dc.replace(problem, y=problem.y + 0.3)
    assert mean_cov_error(*affine_law(Direct(), shifted, prior), law.mean, law.cov)[0] > 0.05


def test_affine_law_refuses_what_is_not_affine():
    problem, prior = setting()
    curved = sampler(
        step=lambda self, problem, prior, state, t, s, rng: (State(torch.tanh(state.x + rng.normal_like(state.x))), {})
    )
    with pytest.raises(AssertionError, match="not affine"):
        affine_law(curved, problem, prior)
    chancy = sampler(
        step=lambda self, problem, prior, state, t, s, rng: (State(state.x * rng.uniform()[:, None, None]), {})
    )
    with pytest.raises(AssertionError, match="uniform"):
        affine_law(chancy, problem, prior)


def test_affine_law_of_complex_noise_counts_both_parts():
    prior = RandomFieldPrior((2, 3), 2, dtype=F64)
    problem = Problem(
        torch.zeros(2, 3, dtype=torch.complex128), Identity(Space((2, 3), torch.complex64)), Gaussian(1.0)
    )

    complexly = sampler(
        step=lambda self, problem, prior, state, t, s, rng: (
            State(state.x + torch.view_as_real(rng.normal((2, 3), torch.complex128)).movedim(-1, 1)),
            {},
        ),
        finish=lambda self, problem, prior, state, rng: state.x,
    )
    mean, cov = affine_law(complexly, problem, prior)
    assert torch.equal(mean, torch.zeros(12, dtype=F64)) and torch.allclose(cov, 5 * torch.eye(12, dtype=F64))


def test_mean_cov_error_by_hand():
    ref = 4 * torch.eye(2, dtype=F64)
    errors = mean_cov_error(
        torch.tensor([2.0, 0.0], dtype=F64), 5 * torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), ref
    )
    assert errors == pytest.approx((2 / 8**0.5, 0.25))


def test_sampling_floor_falls_like_one_over_root_n():
    problem, prior = setting()
    law = prior.posterior(problem.operator, problem.y, 0.3)
    few, many = sampling_floor(law, 100), sampling_floor(law, 1600)
    assert few[0] == pytest.approx(0.1, rel=0.4) and many[0] == pytest.approx(0.025, rel=0.4)
    assert 2.5 < few[1] / many[1] < 6.5
    mean, cov = moments(law.draw(Rng(1, range(1600))))
    assert max(mean_cov_error(mean, cov, law.mean, law.cov)) < 2 * max(many)


def test_moments_of_complex_samples_interleave_parts():
    x = normal(5, 2, 2, dtype=torch.complex64)
    mean, cov = moments(x)
    flat = torch.view_as_real(x).reshape(5, 8).double()
    assert torch.allclose(mean, flat.mean(0)) and torch.allclose(cov, torch.cov(flat.T))


def test_unsupported_is_not_an_assertion():
    """Operators may refuse a capability; the kit accepts a refusal, not a wrong answer."""

    class Plain(LinearOperator):
        def __init__(self):
            super().__init__(Space((3, 4)), Space((3, 4)))
            self.op = Blur(normal(2, 2), (3, 4))

        def forward(self, x):
            return self.op(x)

    check_operator(Plain(), fake_cuda=False)
    with pytest.raises(Unsupported):
        Plain().svd()
    check_operator(Mask(torch.zeros(3, 4)), fake_cuda=False)
