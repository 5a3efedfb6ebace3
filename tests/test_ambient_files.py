"""``sciinv train --method`` on real formats through a plugin: from k-space files to checkpoint, page and prior."""

from __future__ import annotations

import dataclasses as dc
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from ct_files import dxchange
from sciinv_mri.problem import problem
from sciinv_mri.sense import Sense
from sciinv_mri.simulate import simulate

from sciinv.cli import main
from sciinv.errors import MismatchError, Unsupported
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.plugins import domains, find_reader
from sciinv.prior import FULL, PARTIAL
from sciinv.priors.card import ModelCard
from sciinv.priors.checkpoint import load_prior, read_note
from sciinv.priors.partial import restore
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.training.ambient.em import expectation, held_out_density, misfit
from sciinv.training.ambient.further import Further
from sciinv.training.ambient.gaussian import field_draw
from sciinv.training.ambient.gaussian import fit as fit_gaussian
from sciinv.training.ambient.identify import identify
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.objective import Corrupted
from sciinv.training.dsm import TrainConfig, keyed
from sciinv.training.measured import Settings, read_measurements, train_from_measurements
from sciinv.training.page import read_curves, write_page

QUICK = ["--steps", "4", "--batch", "2", "--widths", "8", "--progress", "none", "--device", "cpu"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Twelve undersampled four-coil scans of one slice, each with lines of its own."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(12):
        simulate(
            "phantom", folder / f"s{seed:02d}.h5", acceleration=2.0, calib_lines=8, coils=4, seed=seed, slices=1,
            matrix=(24, 24), snr=60,
        )  # fmt: skip
    (folder / "notes.txt").write_text("no measurement")
    return folder


@pytest.fixture(scope="module")
def files(scans):
    return read_measurements(scans)


def test_lines_are_what_is_dropped_and_the_centre_is_spared(files):
    kept, held = files.split()
    assert len(kept) == 10 and len(held) == 2
    data = Measurements(kept)
    assert data.patterns[0].shape == (10, 1, 1, 24) and bool(data.always[0][0, 0, 8:16].all())
    assert data.channels == 2 and data.state_space().shape == (2, 24, 24)
    assert identify(data, Further(0.2)).regular
    assert not identify(data, Further(0.0)).regular


def poisoned(files, poison: float) -> list[Problem]:
    """Four scans with a number written wherever nothing was measured."""
    problems = []
    for p in files.problems[:4]:
        measured = p[0].operator(torch.randn(1, 24, 24, dtype=torch.complex64, generator=keyed(0)))[0].abs() > 0
        assert 0.2 < float(measured.float().mean()) < 0.8
        problems.append(dc.replace(p[0], y=torch.where(measured, p[0].y, torch.tensor(complex(poison, poison)))))
    return problems


@pytest.mark.parametrize("method", ["ambient", "ambient-noisy", "gsure"])
def test_what_the_scanner_did_not_measure_never_reaches_the_loss(files, method):
    losses = []
    for poison in (0.0, float("nan")):
        problems = poisoned(files, poison)
        # what two-fold undersampling by four coils shows least is hardly shown at all: gsure needs room above it
        config = TrainConfig(batch=2, sigma_data=0.4, sigma_max=1e4)
        task = Corrupted(method, Measurements(problems), config)
        net = UNet(channels=2 if method == "gsure" else 3, widths=(8,), blocks=(1,))
        net.initialise(keyed(1))
        losses.append(float(task.loss(net, 0, range(2)).detach()))
    assert losses[0] == losses[1] and math.isfinite(losses[0]) and losses[0] != 0


def test_what_the_scanner_did_not_measure_never_reaches_em(files):
    found = []
    for poison in (0.0, float("nan")):
        data = Measurements(poisoned(files, poison))
        prior = fit_gaussian(data, 0)
        draws = expectation(data, prior.__getitem__, MMPS(steps=3), 0, 0, items=[0, 1])
        density = held_out_density(data, prior.__getitem__, MMPS(steps=3), 0, items=[2], draws=2)
        found.append((draws.images[0], density, misfit(data, draws)))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1:] == found[1][1:]
    assert torch.isfinite(found[0][0]).all()


@pytest.mark.parametrize("poison", [float("nan"), 1e4])
def test_the_plugin_makes_the_same_problem_whatever_lies_between_the_lines(scans, poison):
    path = scans / "s00.h5"
    _, reader = find_reader(path)
    data = reader.read(path)
    kspace = np.where(data.mask[:, None], data.kspace, np.complex64(poison))
    clean, dirty = problem(data, 0), problem(dc.replace(data, kspace=kspace), 0)
    assert torch.equal(clean.y, dirty.y) and clean.noise.sigma == dirty.noise.sigma
    assert torch.equal(clean.operator.maps, dirty.operator.maps) and clean.meta["scale"] == dirty.meta["scale"]


def test_ambient_to_prior(scans, tmp_path, capsys):
    out = tmp_path / "ambient"
    assert main(["train", str(scans), "-o", str(out), "--method", "ambient-noisy", *QUICK, "--patience", "3"]) == 0
    assert capsys.readouterr().out.strip().endswith("prior.safetensors")
    note = read_note(out / "prior.safetensors")
    assert (
        note.predicts == PARTIAL and note.card.method == "ambient-noisy" and "% of the entries" in note.card.corruption
    )
    assert {"loss", "least_eigenvalue", "sigma_data"} <= set(note.card.measured)
    page = (out / "card.html").read_text()
    assert "E[x0|A~ x_t, A~]" in page and "<script" not in page
    scan = read_measurements(scans / "s00.h5").problems[0][0]
    assert restore(load_prior(out / "prior.safetensors").at((24, 24)), scan).shape == (24, 24)
    made, prior = tmp_path / "prior", str(out / "prior.safetensors")
    refused = ["reconstruct", str(scans / "s00.h5"), "-o", str(tmp_path / "r"), "--prior", prior,
               "--samples", "2", "--progress", "none"]  # fmt: skip
    assert main(refused) != 0
    assert "needs a prior, and this network is none" in capsys.readouterr().err
    assert main([*refused, "--method", "ambient_dps", "--set", "steps=5", "--overwrite"]) == 0
    convert = ["priors", "convert", str(out / "prior.safetensors"), str(scans), "-o", str(made), "--steps", "4",
               "--laps", "2", "--batch", "2", "--set", "steps=3", "--progress", "none"]  # fmt: skip
    assert main(convert) == 0
    note = read_note(made / "prior.safetensors")
    assert note.predicts == FULL and note.card.method == "em" and {"misfit", "density"} <= set(note.card.measured)
    # the partial denoiser ends at the noise of its data; the prior goes on below it
    assert note.sigma_min == TrainConfig.sigma_min < read_note(out / "prior.safetensors").sigma_min
    capsys.readouterr()
    assert main([*convert, "--progress", "loud"]) == 2 and "unknown kind of progress" in capsys.readouterr().err
    assert main([*convert[:2], str(made / "prior.safetensors"), *convert[3:5], str(tmp_path / "x")]) == 2
    assert "a prior already" in capsys.readouterr().err
    # the same command goes on from what is there: nothing is drawn or trained again
    first = (made / "lap-00" / "draws.safetensors").stat().st_mtime_ns
    log = (made / "log.jsonl").read_text()
    assert main(convert) == 0 and (made / "lap-00" / "draws.safetensors").stat().st_mtime_ns == first
    assert (made / "log.jsonl").read_text() == log
    assert len(read_curves(made / "log.jsonl")["held out: density"]) == 2


def test_a_fixed_pattern_is_refused(scans, tmp_path):
    one = read_measurements(scans / "s00.h5").problems[0][0]
    mask = Mask(torch.tensor([[[True, False] * 4] * 8]))
    problems = [Problem(torch.ones(1, 8, 8) * mask.entries, mask, Gaussian(0.1))] * 4
    files = read_measurements(scans / "s00.h5")
    fixed = dc.replace(files, names=["a"], problems=[problems])
    for method in ("em", "ambient"):
        with pytest.raises(MismatchError, match=r"cannot determine the prior.*no information at \(0, 1\)|\(0, 0, 1\)"):
            train_from_measurements(fixed, tmp_path / method, TrainConfig(steps=2), Settings(method))
    with pytest.raises(MismatchError, match="complete images"):
        train_from_measurements(
            fixed, tmp_path / "t", TrainConfig(steps=2), Settings("tweedie", allow_undetermined=True)
        )
    with pytest.raises(MismatchError, match="gsure on incomplete"):
        train_from_measurements(fixed, tmp_path / "g", TrainConfig(steps=2), Settings("gsure", allow_undetermined=True))
    assert one.operator.linear


def test_tweedie_states_where_it_ends(tmp_path, scans):
    g = keyed(3)
    files = read_measurements(scans / "s00.h5")
    whole = Mask(torch.ones(1, 8, 8, dtype=torch.bool))
    problems = [Problem(torch.randn(1, 8, 8, generator=g), whole, Gaussian(0.3)) for _ in range(8)]
    files = dc.replace(files, names=["a"], problems=[problems])
    for coefficient, lowest in ((0.0, 0.315), (1.0, 0.003)):
        path = train_from_measurements(
            files, tmp_path / str(coefficient), TrainConfig(steps=2, batch=2),
            Settings("tweedie", consistency=coefficient),
            widths=(8,),
        )  # fmt: skip
        assert abs(read_note(path).sigma_min - lowest) < 1e-6


def test_items_of_different_size_train_one_network():
    g = keyed(4)
    problems = []
    for size in (8, 12):
        for _ in range(4):
            mask = torch.rand(1, size, size, generator=g) < 0.7
            problems.append(Problem(torch.randn(1, size, size, generator=g) * mask, Mask(mask), Gaussian(0.1)))
    data = Measurements(problems)
    assert [len(group) for group in data.groups] == [4, 4]
    prior = fit_gaussian(data, 0)
    draws = expectation(data, prior.__getitem__, MMPS(steps=3), 0, 0)
    assert [x.tolist() for x in draws.items] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    twice = expectation(data, prior.__getitem__, MMPS(steps=3), 0, 0, draws=2, chunk=3)
    assert twice.items[1].tolist() == [4, 4, 5, 5, 6, 6, 7, 7] and torch.allclose(twice.images[1][::2], draws.images[1])
    shapes = {tuple(draws.image(keyed(i)).shape) for i in range(20)}
    assert [tuple(x.shape[1:]) for x in draws.images] == [(1, 8, 8), (1, 12, 12)] and shapes == {(1, 8, 8)}
    task = Corrupted("ambient-noisy", data, TrainConfig(batch=3, sigma_data=0.5))
    net = UNet(channels=2, widths=(8,), blocks=(1,), fold=1)
    net.initialise(keyed(1))
    assert all(torch.isfinite(task.loss(net, step, range(3))) for step in range(6))


def test_an_interferometer_trains_by_the_same_code_and_one_coverage_is_not_enough(tmp_path):
    path = domains()["vlbi"].demo(tmp_path)
    options = {"vlbi": {"products": ["vis"], "npix": 16, "flux": 1.0}}
    item = read_measurements(path, options=options).problems[0][0]
    data = Measurements([item, item])
    assert data.patterns[0].shape == (2, len(item.y)) and not data.always[0].any()
    verdict = identify(data, None)
    assert not verdict.regular and verdict.weakest < 1e-4
    task = Corrupted("ambient-noisy", data, TrainConfig(batch=2, sigma_data=0.3))
    net = UNet(channels=2, widths=(8,), blocks=(1,))
    net.initialise(keyed(1))
    task.loss(net, 0, range(2)).backward()
    assert float(net.leave.weight.grad.abs().max()) > 0


def dead_cell(folder: Path, poison: float) -> list[Problem]:
    """Two slices of a CT scan whose sixth cell is dead."""
    path = dxchange(folder / f"{poison}.h5", seed=1)
    with h5py.File(path, "r+") as file:
        file["exchange/data_white"][..., 5] = 100.0
        file["exchange/data_dark"][..., 5] = 100.0
        file["exchange/data"][..., 5] = poison
    return read_measurements(path, options={"ct": {"noise": "gaussian"}}).problems[0]


def flagged(folder: Path, poison: float) -> list[Problem]:
    """An observation of which every third visibility is flagged."""
    path = folder / f"{poison}.uvfits"
    with fits.open(domains()["vlbi"].demo(folder / "demo")) as units:
        data = units[0].data.data
        data[::3, ..., :2], data[::3, ..., 2] = poison, 0
        units.writeto(path)
    return read_measurements(path, options={"vlbi": {"products": ["vis"], "npix": 16, "flux": 1.0}}).problems[0]


@pytest.mark.parametrize(("read", "poisons"), [(dead_cell, (0.0, 7e6)), (flagged, (0.0, float("nan"), 1e9))])
def test_dead_cells_and_flagged_visibilities_never_reach_the_loss(tmp_path, read, poisons):
    found = []
    for poison in poisons:
        data = Measurements(read(tmp_path, poison))
        net = UNet(channels=2, widths=(8,), blocks=(1,))
        net.initialise(keyed(1))
        config = TrainConfig(batch=2, sigma_data=0.4, sigma_max=50.0)
        numbers = [
            float(Corrupted(method, data, config).loss(net, 0, range(2)).detach())
            for method in ("ambient", "ambient-noisy")
        ]
        prior = fit_gaussian(data, 0)
        draws = expectation(data, prior.__getitem__, MMPS(steps=3), 0, 0, items=[0])
        found.append((numbers, draws.images[0]))
        with pytest.raises((MismatchError, Unsupported)):
            Corrupted("tweedie", data, config)
        with pytest.raises((MismatchError, Unsupported)):
            Corrupted("gsure", data, config)
    assert all(math.isfinite(v) and v > 0 for v in found[0][0]) and torch.isfinite(found[0][1]).all()
    for numbers, images in found[1:]:
        assert numbers == found[0][0] and torch.equal(images, found[0][1])


def test_counts_are_refused_with_a_way_out(tmp_path):
    path = dxchange(tmp_path / "few.h5", blank=20.0)
    with pytest.raises(Unsupported, match=r"Gaussian noise.*PoissonTransmission"):
        Measurements(read_measurements(path, options={"ct": {"noise": "poisson"}}).problems[0])


def test_the_page_shows_curves_and_escapes_what_files_say(tmp_path):
    lines = [{"step": k, "loss": 1 / k} for k in (1, 2, 3, 2, 3, 4)]
    lines += [{"step": k, "held_out": {"0.1": k}} for k in (2, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(entry) for entry in lines))
    curves = read_curves(tmp_path / "log.jsonl")
    assert curves["loss"] == [1, 1 / 2, 1 / 3, 1 / 4] and curves["held out: 0.1"] == [2, 4]
    text = dict.fromkeys(("name", "summary", "data", "licence", "resolution", "intensity", "anatomy", "known_failures",
                          "training"), "<script>alert(1)</script>")  # fmt: skip
    page = write_page(tmp_path, ModelCard(**text, seed=0), FULL).read_text("utf-8")
    assert page.count("<svg") == 2 and "<script" not in page and "&lt;script" in page


def test_the_field_that_em_starts_from_is_drawn_from_its_posterior():
    """A steep spectrum and precise data: what conjugate gradients on the plain equation leave far from done."""
    g, n, shape = keyed(6), 600, (12, 12)
    prior = RandomFieldPrior(shape, 2, slope=5.0, corner=0.02, std=0.3, mean=0.1)
    lines = torch.zeros(1, 12)
    lines[:, 4:8] = lines[:, 1] = 1.0
    maps = torch.randn(2, *shape, dtype=torch.complex64, generator=g)
    sense = Sense(maps / maps.norm(dim=0), lines)
    y = (sense @ prior.to_physical)(prior.draw(Rng(0, [7])))[0]
    y = (y + 0.003 * Rng(1, [0]).normal_like(y[None])[0]) * lines
    item = Measurements([Problem(y, sense, Gaussian(0.003))])
    drawn = field_draw(prior, item.batch([0] * n), Rng(2, range(n))).flatten(1).double()
    problem = item.problems[0]
    law = prior.posterior(problem.linear, problem.y, problem.noise.sigma)
    z = (drawn.mean(0) - law.mean) * (n / law.cov.diagonal()).sqrt()
    assert float(z.square().mean()) < 1.5
    assert float(((drawn.var(0) / law.cov.diagonal()).log()).abs().mean()) < 0.1
