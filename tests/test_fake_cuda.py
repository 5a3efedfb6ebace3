"""Every operator, prior and sampler step on a pretend GPU; and the proof that a stray CPU tensor is caught."""

import pytest
import torch
from support import Plain

from sciinv.generic.blur import Blur
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.diagonal import Diagonal
from sciinv.generic.fourier import Fourier, FourierMask
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.generic.resample import BlockAverage
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator, Space
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior, anisotropic_gaussian
from sciinv.priors.mixture import MixturePrior, grid_mixture
from sciinv.priors.network import NetworkPrior
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS
from sciinv.testing import FakeCuda, check_operator, check_prior

C64 = torch.complex64
KEEP = torch.eye(4, 6) > 0


OPERATORS = {
    "codec": lambda: ChannelsToComplex((4, 6), 2.0),
    "mask": lambda: Mask(KEEP),
    "diagonal": lambda: Diagonal(torch.randn(4, 6, dtype=C64, generator=torch.Generator().manual_seed(0))),
    "fourier": lambda: Fourier((4, 6)),
    "fourier-real": lambda: Fourier((4, 6), real=True),
    "fourier-mask": lambda: FourierMask(KEEP),
    "fourier-mask-real": lambda: FourierMask(KEEP, real=True),
    "blur": lambda: Blur(torch.ones(3, 2), (4, 6)),
    "average": lambda: BlockAverage((4, 6), 2),
    "dense": lambda: Dense(torch.ones(2, 24), (4, 6)),
    "phase-retrieval": lambda: PhaseRetrieval((4, 6)),
    "product": lambda: FourierMask(KEEP) @ ChannelsToComplex((4, 6)),
    "chain": lambda: PhaseRetrieval((4, 6)) @ ChannelsToComplex((4, 6)),
}

PRIORS = {
    "gaussian": anisotropic_gaussian,
    "gaussian-complex": lambda: GaussianPrior(torch.zeros(2, 2, 2), torch.eye(8), ChannelsToComplex((2, 2))),
    "field": lambda: RandomFieldPrior((4, 6), mean=0.3),
    "field-complex": lambda: RandomFieldPrior((4, 6), 2),
    "mixture": lambda: grid_mixture(4),
    "mixture-dense": lambda: MixturePrior(torch.ones(2), torch.zeros(2, 1, 3), torch.eye(3)),
    "network": lambda: NetworkPrior(UNet(2, (8, 8), (1, 1)), (16, 16)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    check_operator(OPERATORS[name]())


@pytest.mark.parametrize("name", PRIORS)
def test_prior(name):
    prior = PRIORS[name]()
    with FakeCuda() as gpu, gpu.guard(name):
        there = gpu.put(prior)
        x = torch.empty((2, *prior.space.shape), device=gpu.device)
        for sigma in (torch.ones((), device=gpu.device), torch.ones(2, device=gpu.device)):
            gpu.check(there.denoise(x, sigma), f"{name}.denoise")
        _, pull = Counted(there).denoise_vjp(x, 0.5)
        gpu.check(pull(x), f"{name}.denoise_vjp")
        gpu.check(there.to_physical(x), f"{name}.to_physical")
        if name != "network":
            gpu.check(there.draw(Rng(0, [0, 1], gpu.device)), f"{name}.draw")


def pretend(gpu, op, sigma=0.3):
    y = torch.empty(op.codomain.shape, dtype=op.codomain.dtype, device=gpu.device)
    return Problem(y, gpu.put(op), Gaussian(sigma), cg_max_iter=2)  # fake data never converge


@pytest.mark.parametrize("name", [n for n in OPERATORS if n not in ("phase-retrieval", "chain")])
@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
def test_exact_draw(name, plain):
    op = OPERATORS[name]()
    with FakeCuda() as gpu, gpu.guard("Problem.draw"):
        problem = pretend(gpu, Plain(op) if plain else op)
        x = torch.empty((2, *op.domain.shape), dtype=op.domain.dtype, device=gpu.device)
        z, info = problem.draw(x, 0.5, Rng(0, [0, 1], gpu.device))
        gpu.check(z, "Problem.draw")
        gpu.check(problem.log_likelihood(x), "Problem.log_likelihood")
        assert all(v.device.type == gpu.device.type for v in info.values())


def test_stacked_draw():
    ops = [OPERATORS["product"](), OPERATORS["product"]()]
    with FakeCuda() as gpu, gpu.guard("Problem.stack"):
        problems = [pretend(gpu, op, s) for op, s in zip(ops, (0.1, 0.4), strict=True)]
        stack = Problem.stack(problems, 2)
        x = torch.empty(4, 2, 4, 6, device=gpu.device)
        gpu.check(stack.draw(x, 0.5, Rng(0, range(4), gpu.device))[0], "stacked draw")


@pytest.mark.parametrize("prior", ["field-complex", "network"])
@pytest.mark.parametrize("name", METHODS)
def test_sampler_step(name, prior):
    prior = PRIORS[prior]()
    shape = prior.space.shape[1:]
    sampler, op = METHODS[name](), FourierMask(torch.ones(shape))
    with FakeCuda() as gpu, gpu.guard(f"{name}.step"), torch.no_grad():
        counted = Counted(gpu.put(prior))
        problem = pretend(gpu, op).pullback(counted.to_physical)
        rng = Rng(0, [0, 1], gpu.device)
        t, s = sampler.grid(counted)[:2]
        like = torch.zeros((2, *prior.space.shape), device=gpu.device)
        state, info = sampler.step(problem, counted, sampler.init(problem, counted, rng, like), t, s, rng)
        gpu.check(state.x, f"{name}.step")
        gpu.check(sampler.finish(problem, counted, state, rng), f"{name}.finish")
        for key, value in info.items():
            gpu.check(value, f"{name}.step, {key}")
        # looks at the device: none but the rare ones of conjugate gradients
        assert gpu.host_reads <= 2


# --- it can fail -----------------------------------------------------------------------------------------------------


class Stray(LinearOperator):
    def __init__(self):
        super().__init__(Space((3,)), Space((3,)))
        self.weights = torch.arange(3.0)  # should be a buffer

    def forward(self, x):
        return self.weights * x


class Made(Stray):
    def forward(self, x):
        return torch.ones(3) * x  # should be made on the device of x


class Returned(Stray):
    def forward(self, x):
        return torch.zeros(x.shape)


class StrayAdjoint(Stray):
    def forward(self, x):
        return x

    def adjoint(self, y):
        return torch.ones(3) * y


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Stray, "Stray.forward: a tensor is kept outside buffers"),
        (Made, "Made.forward: a tensor is made on the CPU"),
        (StrayAdjoint, "StrayAdjoint.adjoint: a tensor is made on the CPU"),
    ],
)
def test_stray_cpu_tensors_are_caught(op, message):
    with pytest.raises(AssertionError, match=message):
        check_operator(op())


def test_output_on_the_wrong_device_is_caught():
    with FakeCuda() as gpu:
        x = torch.empty(2, 3, device=gpu.device)
        with pytest.raises(AssertionError, match="output on cpu"):
            gpu.check(gpu.put(Returned())(x), "Returned.forward")


def test_stray_tensor_in_a_prior_is_caught():
    class Bad(RandomFieldPrior):
        def denoise(self, x, sigma):
            return super().denoise(x, sigma) + torch.zeros(6)

    with pytest.raises(AssertionError, match="made on the CPU"):
        check_prior(Bad((4, 6)))


def test_host_reads_are_counted():
    with FakeCuda() as gpu:
        x = torch.empty(3, device=gpu.device)
        assert gpu.host_reads == 0 and bool((x > 0).any()) and x.sum().item() == 1.0
        assert gpu.host_reads == 2


def test_put_leaves_the_original_alone():
    op = Mask(KEEP)
    with FakeCuda() as gpu:
        assert gpu.put(op).entries.device.type == gpu.device.type
    assert op.entries.device.type == "cpu" and op.entries.sum() == 4
