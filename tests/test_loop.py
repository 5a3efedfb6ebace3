"""The one loop: contract of every registered method, refusals, non-finite guard, memory back-off, early stop."""

from pathlib import Path

import pytest
import torch
from support import gaussian_problem

import sciinv.samplers
from sciinv.errors import MismatchError, NumericalError, ResourceError
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.noise import Gaussian
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample
from sciinv.testing import check_sampler

QUICK = {
    "pnpdm": {"anneal": 3, "stationary": 4, "rho_min": 0.2},
    "sgs_smc": {"rungs": 6, "rho_min": 0.2},
    "sgs_tempered": {"rungs": 3, "sweeps": 6, "rho_min": 0.2},
    "dpnp": {"sweeps": 6, "eta_min": 0.2},
    "pmc": {"anneal": 4, "stationary": 4},
    "mcgdiff": {"steps": 8},
    "tds": {"steps": 8},
    "ddsmc": {"steps": 8},
    "fps_smc": {"steps": 8},
    "fps": {"steps": 8},
    "smcdiff": {"steps": 8},
    "mmps": {"steps": 8},
    "dps": {"steps": 8},
    "daps": {"steps": 8},
    "pigdm": {"steps": 8},
    "tmpd": {"steps": 8},
    "dsg": {"steps": 8},
    "lgd": {"steps": 8},
    "mpgd": {"steps": 8},
    "dds": {"steps": 8},
    "diffpir": {"steps": 8},
    "implicit_denoiser": {"steps": 8},
    "score_ald": {"steps": 4, "inner": 2},
    "score_sde": {"steps": 8},
    "repaint": {"steps": 6, "jump_length": 2, "repeats": 2},
    "repaint_pp": {"steps": 6, "repeats": 2},
    "ilvr": {"steps": 8},
    "mcg": {"steps": 8},
    "snips": {"steps": 4, "inner": 2},
    "ddrm": {"steps": 8},
    "ddnm": {"steps": 8, "travel_length": 2, "travel_repeats": 2, "travel": "denoised"},
    "ddnm_plus": {"steps": 8},
    "ccdf": {"steps": 12, "sigma_start": 2.0},
    "ambient_dps": {"steps": 8},
}


@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str) -> None:
    problem, prior = gaussian_problem()
    if "mask" in METHODS[name].requires:
        mask = Mask(torch.tensor([[True, False, True, True, False, False]])).double()
        problem = Problem(mask(prior.draw(Rng(0, [0])))[0], mask, problem.noise)
    check_sampler(METHODS[name](**QUICK[name]), problem, prior)


@pytest.mark.parametrize("name", METHODS)
def test_registry_names_its_file_and_says_what_it_claims(name: str) -> None:
    cls = METHODS[name]
    assert cls.__module__.rsplit(".", 1)[1] == cls.name == name
    assert cls.paper and cls.claims
    assert (Path(sciinv.samplers.__file__).parent / Path(*cls.__module__.split(".")[2:])).with_suffix(".py").is_file()


def test_nonlinear_problem_is_refused_with_the_methods_that_fit() -> None:
    _, prior = gaussian_problem()
    operator = PhaseRetrieval((1, 4, 4), dtype=torch.float32)
    problem = Problem(torch.zeros(operator.codomain.shape), operator, Gaussian(1.0))
    with pytest.raises(MismatchError, match=r"linear.*dps"):
        sample(METHODS["mmps"](), problem, prior, 1, seed=0)


def test_all_samples_failing_is_a_numerical_error() -> None:
    problem, prior = gaussian_problem()
    prior.denoise = lambda x, sigma: x * float("nan")  # type: ignore[method-assign]
    with pytest.raises(NumericalError):
        sample(METHODS["mmps"](steps=30), problem, prior, 3, seed=0)


def test_memory_back_off_halves_the_batch_and_keeps_the_samples() -> None:
    problem, prior = gaussian_problem()
    sampler = METHODS["dps"](steps=5)
    want = sample(sampler, problem, prior, 5, seed=1).x
    real = prior.denoise

    def tight(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("simulated")
        return real(x, sigma)

    prior.denoise = tight  # type: ignore[method-assign]
    assert torch.allclose(sample(sampler, problem, prior, 5, seed=1).x, want, atol=1e-9)

    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("simulated")

    prior.denoise = never  # type: ignore[method-assign]
    with pytest.raises(ResourceError):
        sample(sampler, problem, prior, 5, seed=1)


def test_on_step_can_stop_early() -> None:
    problem, prior = gaussian_problem()
    out = sample(METHODS["dps"](steps=50), problem, prior, 2, seed=0, on_step=lambda done, total, info: done < 3)
    assert out.provenance["network_calls"] == 3
