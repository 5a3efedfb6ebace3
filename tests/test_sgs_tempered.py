"""Replica exchange: every rung's law is invariant under sweeps and swaps; modes get their weights."""

import pytest
import torch
from known import Quadrature, Ring, sliced_w1
from support import Plain

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.mixture import MixtureLaw, MixturePrior
from sciinv.problem import Problem
from sciinv.samplers import PnPDM, State, sample
from sciinv.samplers.exact.sgs_tempered import SGSTempered
from sciinv.schedule import geometric
from sciinv.testing import check_sampler


def three_modes() -> tuple[Problem, MixturePrior]:
    """Three modes six widths apart; the data prefer the last, whose prior weight is the second."""
    means = torch.tensor([[[-3.0, -1.0]], [[0.0, 2.0]], [[3.0, -1.0]]], dtype=torch.float64)
    prior = MixturePrior(torch.tensor([0.6, 0.1, 0.3]), means, 0.25, dtype=torch.float64)
    prior.sigma_min = 0.01
    operator = Dense(torch.tensor([[0.3, 1.0]], dtype=torch.float64), (1, 2))
    return Problem(torch.tensor([0.5], dtype=torch.float64), operator, Gaussian(1.0)), prior


def ratio(x: torch.Tensor, law: MixtureLaw) -> float:
    """Mean distance to exact samples in units of their distance to each other."""
    n = len(x)
    draws = [law.draw(OneStream(900 + s, range(n))) for s in range(12)]
    floor = sum(sliced_w1(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)) / 6
    return sum(sliced_w1(x, d) for d in draws) / 12 / floor


class AlwaysSwaps(SGSTempered):
    """Negative control."""

    def _log_ratios(self, problem, xs, zs, rho):
        return 0 * super()._log_ratios(problem, xs, zs, rho)


@pytest.mark.parametrize("swap", ["collapsed", "joint", "never refused"])
def test_every_rung_keeps_its_law(swap: str) -> None:
    problem, prior = three_modes()
    cls = AlwaysSwaps if swap == "never refused" else SGSTempered
    fields = {"rungs": 4, "rho_max": 3.0, "rho_min": 0.3, "sweeps": 10, "log_step": 0.25}
    sampler = cls(**fields, swap=swap if swap != "never refused" else "auto")
    n = 500
    laws = [prior.posterior(problem.operator, problem.y, 1.0, rho) for rho in geometric(3.0, 0.3, 4)]
    ladder = torch.stack([law.draw(OneStream(100 + k, range(n))) for k, law in enumerate(laws)], 1)[:, :, None]
    state, rng = State(ladder[:, -1], aux={"ladder": ladder}), OneStream(0, range(n))
    for t in (4.0, 3.0, 2.0, 1.0):
        state, info = sampler.step(problem, Counted(prior), state, t, t - 1, rng)
    assert 0.1 < float(info["swap_accept"].mean())
    worst = max(ratio(state.aux["ladder"][:, k], law) for k, law in enumerate(laws))
    assert (worst < 1.6) == (swap != "never refused"), worst


def test_modes_get_their_weights() -> None:
    problem, prior = three_modes()
    law, n = prior.posterior(problem.operator, problem.y, 1.0), 250
    fields = {"rho_max": 4.0, "rho_min": 0.3, "log_step": 0.6}
    out = sample(SGSTempered(rungs=5, sweeps=40, **fields), problem, prior, n, 0, rng_factory=OneStream)
    assert ratio(out.x, law) < 2
    assert out.provenance["swap_min"] > 0.5 and out.provenance["rhat_max"] < 1.3
    # one chain annealed with more network calls freezes on the way
    alone = sample(
        PnPDM(start="noise", anneal=200, stationary=4, **fields), problem, prior, n, 0, rng_factory=OneStream
    )
    assert alone.provenance["network_calls"] > out.provenance["network_calls"]
    assert ratio(alone.x, law) > 2.5


@pytest.mark.slow
def test_nonlinear_posterior_by_quadrature() -> None:
    means = torch.tensor([[[1.3, 0.2]], [[-1.2, 0.3]]], dtype=torch.float64)
    prior = MixturePrior(torch.tensor([0.8, 0.2]), means, 0.08, dtype=torch.float64)
    prior.sigma_min, n = 0.02, 300
    problem = Problem(torch.tensor([1.0], dtype=torch.float64), Ring(), Gaussian(0.2))
    # with 40 sweeps the weight of the first mode, 0.77, is still at 0.69
    sampler = SGSTempered(rungs=5, rho_max=1.5, rho_min=0.15, sweeps=160, log_step=0.35, inner=3)
    out = sample(sampler, problem, prior, n, 0, rng_factory=OneStream)
    zero = torch.zeros((), dtype=torch.float64)
    law = Quadrature(lambda x: problem.log_likelihood(x) + prior.log_marginal(x, zero))
    assert law.distance(out.x) < 2 * law.floor(n), (law.distance(out.x), law.floor(n))
    assert law.distance(
        sample(PnPDM(start="noise", rho_max=0.15, rho_min=0.15), problem, prior, n, 0, rng_factory=OneStream).x
    ) > 4 * law.floor(n)


def test_swaps_that_the_problem_cannot_offer_are_refused() -> None:
    problem, prior = three_modes()
    hidden = Problem(problem.y, Plain(problem.linear), problem.noise)
    with pytest.raises(MismatchError, match="swap=joint"):
        sample(SGSTempered(swap="collapsed"), hidden, prior, 2, seed=0)
    ring = Problem(torch.tensor([1.0], dtype=torch.float64), Ring(), Gaussian(0.2))
    for case, fields in ((hidden, {}), (problem, {"swap": "joint"}), (ring, {"inner": 2})):
        sampler = SGSTempered(rungs=3, sweeps=4, rho_min=0.3, log_step=1.0, **fields)
        check_sampler(sampler, case, prior, n=4, chunks=(3,), kill_at=(2,), tol=1e-4)
