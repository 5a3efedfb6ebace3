"""Training on measurements: what was not measured never counts, runs resume, processes share, checkpoints say what they
predict.
"""

from __future__ import annotations

import dataclasses as dc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sciinv.errors import InputError, MismatchError
from sciinv.generic.dense import Dense
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.operator import Identity, Space
from sciinv.prior import PARTIAL
from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import load_prior, read_note, save_prior
from sciinv.priors.network import NetworkPrior, precondition
from sciinv.priors.partial import PartialPrior, precondition_partial, restore
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.samplers import METHODS, sample
from sciinv.samplers.explicit.ambient_dps import AmbientDPS
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.testing import FakeCuda
from sciinv.training.ambient.consistency import consistency, descend
from sciinv.training.ambient.em import expectation, held_out_density, same
from sciinv.training.ambient.further import Further, side
from sciinv.training.ambient.gaussian import fit as fit_gaussian
from sciinv.training.ambient.gsure import gsure, signs
from sciinv.training.ambient.items import Batch, Measurements
from sciinv.training.ambient.laps import Laps, train_em
from sciinv.training.ambient.losses import ambient, ambient_noisy, tweedie
from sciinv.training.ambient.objective import Corrupted, level_above
from sciinv.training.dsm import TrainConfig, keyed
from sciinv.training.loop import fit

SIZE = 8


def config(**changes) -> TrainConfig:
    base = {"steps": 8, "batch": 4, "sigma_data": 0.5, "warmup": 2, "log_every": 2, "save_every": 4, "seed": 3}
    return TrainConfig(**base | changes)


def network(channels: int) -> UNet:
    made = UNet(channels=channels, widths=(8,), blocks=(1,), fold=1, embedding=8)
    made.initialise(keyed(5))
    return made


def problems(missing: float = 0.4, n: int = 6, poison: float = 0.0, sigma: float = 0.05) -> list[Problem]:
    """Masked noisy images ``(1, 8, 8)`` with ``poison`` where nothing was measured."""
    out = []
    for i in range(n):
        g = keyed(1, i)
        x = 0.5 * torch.randn((), generator=g).expand(1, SIZE, SIZE)
        mask = torch.rand(1, SIZE, SIZE, generator=g) >= missing
        y = x + sigma * torch.randn(1, SIZE, SIZE, generator=g)
        out.append(Problem(torch.where(mask, y, torch.tensor(poison)), Mask(mask), Gaussian(sigma)))
    return out


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def objective(method: str, poison: float = 0.0, **changes) -> Corrupted:
    missing = 0.0 if method == "tweedie" else 0.4
    data = Measurements(problems(missing, poison=poison))
    extra = {"coefficient": 1.0} if method == "tweedie" else {}
    return Corrupted(method, data, config(**changes), others=data, **extra)


METHOD_NAMES = ("ambient", "ambient-noisy", "tweedie", "gsure")


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_was_not_measured_never_reaches_the_loss(method):
    made = network(2 if method.startswith("ambient") else 1)
    with torch.no_grad():
        made.leave.weight.normal_(std=0.1, generator=keyed(2))
    losses = [float(objective(method, poison).loss(made, 0, range(4)).detach()) for poison in (0.0, float("nan"), 1e9)]
    assert losses[0] == losses[1] == losses[2] and losses[0] > 0


def test_em_never_sees_what_was_not_measured():
    found = []
    for poison in (0.0, float("nan")):
        data = Measurements(problems(poison=poison))
        prior = fit_gaussian(data, 0)
        draws = expectation(data, prior.__getitem__, MMPS(steps=6), 0, 0)
        density = held_out_density(data, prior.__getitem__, MMPS(steps=6), 0, items=[0, 1, 2], draws=4)
        found.append((draws.images[0], density))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert torch.isfinite(found[0][0]).all()


def test_nan_where_it_was_measured_is_refused():
    bad = problems()
    y = bad[2].y.clone()
    y[(bad[2].operator.diagonal > 0).nonzero()[0].unbind()] = float("nan")
    bad[2] = dc.replace(bad[2], y=y)
    with pytest.raises(MismatchError, match=r"item 2.*NaN"):
        Measurements(bad)


def test_further_corruption_drops_an_exact_share_and_spares_what_all_have():
    pattern = torch.rand(50, 1, 20, generator=keyed(0)) < 0.5
    pattern[:, :, 8:12] = True
    always = pattern.all(0)
    uniform = torch.rand(pattern.shape, generator=keyed(1))
    keep = Further(0.3).keep(pattern, always, uniform)
    assert not (keep & ~pattern).any() and bool(keep[:, always].all())
    gone, droppable = (pattern & ~keep).flatten(1).sum(1), (pattern & ~always).flatten(1).sum(1)
    assert torch.equal(gone, (0.3 * droppable).round().clamp_min(1).long())
    one = pattern & ~Further(0.001).keep(pattern, always, uniform)
    assert bool((one.flatten(1).sum(1) == 1).all())
    assert not torch.equal(keep, Further(0.3).keep(pattern, always, torch.rand(pattern.shape, generator=keyed(2))))


def test_groups_are_what_was_acquired_together():
    lines = torch.rand(5, 1, 1, SIZE, generator=keyed(3)) < 0.5
    lines[:, :, :, 0] = True
    masks = [Mask(m.expand(1, SIZE, SIZE).clone()) for m in lines]
    data = Measurements([Problem(torch.zeros(1, SIZE, SIZE), m, Gaussian(0.1)) for m in masks])
    assert data.patterns[0].shape == (5, 1, 1, SIZE) and bool(data.always[0][0, 0, 0])
    told = side(data.batch([0, 1]), data.patterns[0][:2])
    assert torch.equal(told, lines[:2].expand(2, 1, SIZE, SIZE).float())


def test_dense_operators_train_too():
    g = keyed(4)
    shape = (1, 4, 4)
    items = [
        Problem(torch.randn(6, generator=g), Dense(3 * torch.randn(6, 16, generator=g), shape), Gaussian(0.3))
        for _ in range(5)
    ]
    data = Measurements(items)
    assert abs(float(torch.linalg.matrix_norm(data.problems[0].linear.as_matrix(), 2)) - 1) < 0.1
    task = Corrupted("ambient-noisy", data, config())
    assert torch.isfinite(task.loss(network(2), 0, range(4)))
    with pytest.raises(MismatchError, match="complete images"):
        Corrupted("tweedie", data, config())


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_run_that_is_cut_gives_the_same_weights(method, tmp_path):
    channels = 2 if method.startswith("ambient") else 1
    whole, errors = fit(network(channels), objective(method), config(), tmp_path / "a")
    assert set(errors) == {"loss"}

    class Stop(Exception):
        pass

    def interrupt(entry):
        if entry["step"] == 6:
            raise Stop

    with pytest.raises(Stop):
        fit(network(channels), objective(method), config(), tmp_path / "b", progress=interrupt)
    again, _ = fit(network(channels), objective(method), config(), tmp_path / "b")
    assert torch.equal(weights(whole), weights(again))
    assert not torch.equal(weights(whole), weights(network(channels)))
    parts, _ = fit(network(channels), objective(method), config(accumulate=2), tmp_path / "c")
    assert float((weights(whole) - weights(parts)).abs().max()) < 1e-5


def em(out: Path, progress=None) -> Tensor:
    """Weights after two short laps."""
    data = Measurements(problems())
    laps = Laps(laps=2, draws=1, sampler=MMPS(steps=4), scored=2)
    average, found = train_em(
        network(1), data, data, config(), laps, out, gaussian=fit_gaussian(data, 0), progress=progress
    )
    assert set(found) == {"misfit", "density"}
    return weights(average)


def test_em_that_is_cut_gives_the_same_weights(tmp_path):
    class Stop(Exception):
        pass

    def interrupt(entry):
        assert 0 <= entry["part"] <= 1 and ("loss" in entry or entry["drawn"] == entry["items"] == 6)
        if entry["lap"] == 1 and entry["step"] == 2:
            raise Stop

    whole = em(tmp_path / "a")
    with pytest.raises(Stop):
        em(tmp_path / "b", interrupt)
    first = (tmp_path / "b" / "lap-01" / "draws.safetensors").stat().st_mtime_ns
    assert torch.equal(whole, em(tmp_path / "b"))
    assert (tmp_path / "b" / "lap-01" / "draws.safetensors").stat().st_mtime_ns == first
    # no lap is scored twice, and the scores are those of the run that was not cut
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in "ab"]
    assert logs[0] == logs[1] and logs[0].count("density") == 2
    assert not torch.equal(whole, weights(network(1)))


WORKER = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from test_ambient_training import config, em, network, objective
from sciinv.training.loop import fit
for method in ("ambient-noisy", "gsure", "tweedie"):
    fit(network(2 if method == "ambient-noisy" else 1), objective(method), config(), Path({out!r}) / method)
em(Path({out!r}) / "em")
"""


def test_two_processes_do_what_one_does(tmp_path):
    root, port = str(Path(__file__).resolve().parent), str(31500 + os.getpid() % 2000)
    code = WORKER.format(path=[root], out=str(tmp_path / "two"))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": str(rank),
                              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in both:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr.decode()[-2000:]
    for method in ("ambient-noisy", "gsure", "tweedie"):
        channels = 2 if method == "ambient-noisy" else 1
        single, _ = fit(network(channels), objective(method), config(), tmp_path / "one" / method)
        shared, _ = fit(network(channels), objective(method), config(), tmp_path / "two" / method)
        assert float((weights(single) - weights(shared)).abs().max()) < 1e-5
    laps = em(tmp_path / "one" / "em"), em(tmp_path / "two" / "em")  # the second only reads what the two have made
    assert float((laps[0] - laps[1]).abs().max()) < 1e-5


def test_a_run_without_progress_stops_early(tmp_path):
    class Flat:
        def loss(self, net, step, rows):
            return 0.0 * sum(p.sum() for p in net.parameters())

        def held_out(self, net):
            return {"loss": 1.0}

    settings = config(steps=1000, save_every=2, log_every=1, patience=3)
    for _ in range(2):  # the same command again has nothing to do
        fit(network(1), Flat(), settings, tmp_path)
        assert sum('"rate"' in line for line in (tmp_path / "log.jsonl").read_text().splitlines()) == 8
    fit(network(1), Flat(), dc.replace(settings, patience=5), tmp_path)
    assert sum('"rate"' in line for line in (tmp_path / "log.jsonl").read_text().splitlines()) == 12


def test_levels_are_cut_and_not_piled_up_at_the_noise_of_the_data():
    settings = config(log_mean=-2.0, log_std=1.0, uniform_share=0.25)
    levels = torch.stack([level_above(settings, keyed(i), 0.2) for i in range(2000)])
    assert levels.min() >= 0.2 and float((levels < 0.201).float().mean()) < 0.02
    assert levels.max() <= settings.sigma_max
    with pytest.raises(MismatchError, match="noisier"):
        level_above(settings, keyed(0), 9.0)


def card() -> ModelCard:
    text = dict.fromkeys(("name", "summary", "data", "licence", "resolution", "intensity", "anatomy", "known_failures",
                          "training"), "x")  # fmt: skip
    return ModelCard(**text, seed=0, method="ambient", corruption="masks", measured={"loss": 0.5})


def partial_prior() -> PartialPrior:
    made = network(2)
    with torch.no_grad():
        made.leave.weight.normal_(std=0.1, generator=keyed(2))
    return PartialPrior(made.eval().requires_grad_(False), (SIZE, SIZE), 0.5, 0.01, 5.0, 1, False)


def test_a_checkpoint_says_what_it_predicts(tmp_path):
    spec = UNetSpec(channels=2, widths=(8,), blocks=(1,), fold=1, embedding=8)
    path = save_prior(partial_prior(), spec, card(), tmp_path / "p.safetensors", torch.float32)
    assert read_note(path).predicts == PARTIAL
    prior = load_prior(path)
    assert (
        isinstance(prior, PartialPrior) and prior.space.shape == (1, SIZE, SIZE) and prior.card["predicts"] == PARTIAL
    )
    assert prior.card["method"] == "ambient" and prior.card["measured"] == {"loss": 0.5}
    whole = NetworkPrior(network(1), (SIZE, SIZE), 0.5, 0.01, 5.0, 1, False)
    other = save_prior(whole, spec.model_copy(update={"channels": 1}), card(), tmp_path / "q.safetensors")
    assert type(load_prior(other)) is NetworkPrior
    text = path.read_bytes().replace(b"A~ x_t, A~]", b"B~ x_t, B~]")
    (tmp_path / "r.safetensors").write_bytes(text)
    with pytest.raises(InputError, match="card"):
        load_prior(tmp_path / "r.safetensors")


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if name != "ambient_dps"])
def test_every_other_sampler_refuses_a_partial_denoiser(name):
    problem = problems()[0]
    if METHODS[name].requires <= problem.capabilities():
        with pytest.raises(MismatchError, match="priors convert"):
            sample(METHODS[name](), problem, partial_prior(), 2, 0)


def test_ambient_dps_and_one_step_restoration_accept_it():
    prior, problem = partial_prior(), problems()[0]
    drawn = sample(AmbientDPS(steps=30), problem, prior, 3, 0)
    assert drawn.x.shape == (3, 1, SIZE, SIZE) and not drawn.failed.any()
    before = problem.chi2(torch.zeros(1, 1, SIZE, SIZE))
    assert bool((problem.chi2(drawn.x) < 0.5 * before).all())
    with pytest.raises(MismatchError, match="told A~"):
        prior.denoise(torch.zeros(1, 1, SIZE, SIZE), torch.tensor(0.5))
    image = restore(prior, problem)
    z, told = problem.y[None], problem.operator.diagonal[None]
    expected = precondition_partial(prior.network, z, told, torch.tensor(0.05), 0.5)[0]
    assert torch.allclose(image, expected, atol=1e-6)
    poisoned = dc.replace(problem, y=torch.where(problem.operator.diagonal > 0, problem.y, torch.tensor(float("nan"))))
    assert torch.equal(restore(prior, poisoned), image)


def test_a_denoiser_that_was_told_another_operator_keeps_it():
    prior, problem = partial_prior(), problems()[0]
    bound = prior.given(Identity(Space((1, SIZE, SIZE))))
    x = torch.randn(2, 1, SIZE, SIZE, generator=keyed(8))
    own = sample(AmbientDPS(steps=5), problem, prior, 2, 0).x
    other = sample(AmbientDPS(steps=5), problem, bound, 2, 0).x
    assert not torch.allclose(own, other)
    level = torch.tensor(0.3)
    hidden = prior.given(problem.operator)
    changed = x + (1 - problem.operator.diagonal)
    assert torch.equal(hidden.denoise(x, level), hidden.denoise(changed, level))
    assert not torch.equal(bound.denoise(x, level), bound.denoise(changed, level))


def test_same_binds_a_prior_to_every_size():
    prior = NetworkPrior(network(1), (4, 4), 0.5, 0.01, 5.0, 1, False)
    assert same(prior, Measurements(problems()))(0).space.shape == (1, SIZE, SIZE)


@pytest.mark.parametrize("method", [*METHOD_NAMES, "consistency"])
def test_losses_on_a_pretend_gpu(method):
    """No stray host tensor, and no wait for the device."""
    data = Measurements(problems(0.0 if method in ("tweedie", "consistency") else 0.4))
    host = data.batch([0, 1, 2])
    net = network(2 if method.startswith("ambient") else 1)
    with FakeCuda() as gpu, gpu.guard(method):
        batch = Batch(
            gpu.put(host.y), gpu.put(host.operator), gpu.put(host.measured), gpu.put(host.sigma),
            gpu.put(host.pattern), gpu.put(host.always),
        )  # fmt: skip
        there, sigma = gpu.put(net), torch.full((3,), 0.5, device=gpu.device)
        noise = torch.empty(3, 1, SIZE, SIZE, device=gpu.device)

        def whole(z, level):
            return precondition(there, z, level, 0.5)

        if method.startswith("ambient"):
            keep = Further(0.2).keep(batch.pattern, batch.always, noise)
            told = side(batch, keep)
            rule = ambient if method == "ambient" else ambient_noisy
            loss = rule(lambda z, level: precondition_partial(there, z, told, level, 0.5), batch, keep, sigma, noise)
        elif method == "tweedie":
            loss = tweedie(whole, batch.operator.adjoint(batch.y), batch.sigma, sigma, noise)
        elif method == "gsure":
            loss = gsure(whole, batch, sigma, noise, signs(noise))
        else:
            x = descend(whole, noise, [sigma, sigma / 2], [noise])
            loss = consistency(whole, x, sigma / 2, sigma / 3, noise, noise)
        loss.mean().backward()
        gpu.check(loss, method)
        gpu.check(there.leave.weight.grad, f"{method}, gradient")
        assert gpu.host_reads == 0
