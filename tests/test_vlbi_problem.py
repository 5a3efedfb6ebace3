"""From a file to a problem: units, options, calibration of chi-squared, degeneracies, samplers that run on it."""

import dataclasses as dc

import numpy as np
import pytest
import torch
from sciinv_vlbi import DOMAIN, gains
from sciinv_vlbi.averaging import average, scans
from sciinv_vlbi.closures import closures, whitening
from sciinv_vlbi.demo import demo
from sciinv_vlbi.io import read, write_image
from sciinv_vlbi.observation import MICRO_ARCSECOND
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import problem
from sciinv_vlbi.products import LogAmplitude, LogClosureAmplitude
from sciinv_vlbi.simulate import measure, phantom, read_array, simulate
from vlbi_files import FOV, SIDE, crescent, track

from sciinv.cli import main
from sciinv.config import build
from sciinv.errors import InputError, UsageError
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.reduced import CUTOFF
from sciinv.rng import Rng
from sciinv.samplers import METHODS
from sciinv.samplers.base import sample
from sciinv.samplers.exact.guide import LEVELS

SMALL = VLBIOptions(npix=SIDE, fov=FOV, flux=0.6, systematic=0.0, short="keep", snr_min=0.0)
PIXEL = FOV / SIDE * MICRO_ARCSECOND
TRUTH = 0.6 * phantom(SIDE, FOV)


def state(p, image=TRUTH):
    return torch.from_numpy((image / p.meta["scale"])[None, None].astype(np.float32))


PRODUCTS = [("vis",), ("vis", "flux"), ("amp", "cphase"), ("cphase", "logcamp"), ("bispectrum",),
            ("cphase", "logcamp", "flux", "centroid")]  # fmt: skip


@pytest.mark.parametrize("chosen", PRODUCTS, ids="-".join)
def test_the_truth_has_chi_squared_one(chosen):
    gain, phases = not {"vis", "amp", "bispectrum"} & set(chosen), "vis" not in chosen
    options = dc.replace(SMALL, products=chosen, centroid_error=20.0)
    ratio = []
    for seed in range(6):
        obs = crescent(track(tint=2000.0), seed=seed, gain=0.1 * gain, phases=phases)
        p = problem(obs, 0, options)
        ratio.append(float(p.chi2(state(p))[0]) / p.n_data)
    spread = 3 * np.sqrt(2 / (6 * p.n_data))
    # bispectra of one station set share baselines: their chi-squared has the right mean and more scatter
    assert np.mean(ratio) == pytest.approx(1.0, abs=spread * (3 if "bispectrum" in chosen else 1) + 0.03)
    assert p.meta["units"] == "Jy/pixel" and [*p.meta["products"]] == list(chosen)
    assert sum(b - a for a, b in p.meta["products"].values()) == len(p.y)


def test_the_likelihood_has_its_factor_one_half():
    p = problem(crescent(), 0, SMALL)
    x, far = state(p), state(p, 0.6 * phantom(SIDE, FOV, diameter=30.0))
    gap = p.log_likelihood(x) - p.log_likelihood(far)
    assert float(gap[0]) == pytest.approx(0.5 * float(p.chi2(far)[0] - p.chi2(x)[0]), rel=1e-5)


def test_closures_do_not_see_position_or_flux_and_pins_do():
    p = problem(crescent(), 0, dc.replace(SMALL, products=("cphase", "logcamp")))
    x = state(p)
    moved, brighter = x.roll((2, -1), (-2, -1)), 1.5 * x
    for other in (moved, brighter):
        assert float((p.operator(other) - p.operator(x)).abs().max()) < 0.3 < float(p.operator(x).abs().max())
    pinned = problem(crescent(), 0, dc.replace(SMALL, products=("cphase", "logcamp", "flux", "centroid")))
    assert float(pinned.chi2(moved) - pinned.chi2(x)) > 5 and float(pinned.chi2(brighter) - pinned.chi2(x)) > 20
    turned = x.flip((-2, -1))
    alone = problem(crescent(), 0, dc.replace(SMALL, products=("logcamp",)))
    assert float((alone.operator(turned) - alone.operator(x)).abs().max()) < 0.3  # amplitudes cannot tell; phases can
    assert float(p.chi2(turned)) > 2 * float(p.chi2(x))


def test_units_do_not_depend_on_the_grid():
    values = []
    for n in (32, 64):
        p = problem(crescent(), 0, dc.replace(SMALL, npix=n))
        values.append(state(p, 0.6 * phantom(n, FOV)).max())
    assert float(values[0]) == pytest.approx(float(values[1]), rel=0.1) and 0.2 < float(values[0]) < 5


def test_extended_flux_and_short_baselines():
    obs = crescent(track(tint=2000.0), noise=1.0)
    wide = 250.0
    extra = 0.5 * np.exp(-((np.pi * wide * MICRO_ARCSECOND * obs.distance) ** 2) / (4 * np.log(2)))
    obs = dc.replace(obs, vis=obs.vis + extra)
    rules = {
        rule: problem(obs, 0, dc.replace(SMALL, short=rule, extended_fwhm=wide, products=("vis",)))
        for rule in ("keep", "drop", "component")
    }
    chi2 = {rule: float(p.chi2(state(p))[0]) / p.n_data for rule, p in rules.items()}
    assert chi2["keep"] > 10 and chi2["drop"] < 1.3 and chi2["component"] < 1.3
    assert len(rules["drop"].y) < len(rules["keep"].y)
    full = problem(obs, 0, dc.replace(SMALL, short="component", extended_fwhm=wide, products=("amp", "cphase")))
    assert float(full.chi2(state(full))[0]) / full.n_data < 1.3
    guess = problem(obs, 0, dc.replace(SMALL, flux=0.0, short="drop"))
    assert guess.meta["flux"] == pytest.approx(1.1, abs=0.02) and "short baselines" in guess.meta["warnings"][0]
    with pytest.raises(UsageError, match="share of the flux"):
        problem(obs, 0, dc.replace(SMALL, flux=0.0, short="scale"))


def test_sigma_from_a_model_image(tmp_path):
    obs = crescent(gain=0.3, phases=True)
    write_image(tmp_path / "model.fits", TRUTH, PIXEL)
    p, q = (problem(obs, 0, dc.replace(SMALL, sigma_image=image)) for image in (None, tmp_path / "model.fits"))
    clean = problem(crescent(noise=1e-4), 0, SMALL)
    assert len(p.y) == len(q.y) and not torch.allclose(p.y, q.y)
    # without gains in the errors the whitened noise is that of the clean observation up to its scale of noise
    assert clean.meta["n_cphase"] == q.meta["n_cphase"]


@pytest.mark.parametrize(
    "change",
    [
        {"products": ("vis", "amp")}, {"products": ("flux",)}, {"products": ()}, {"products": ("cphase", "cphase")},
        {"products": ("bispectrum", "cphase")}, {"npix": 1}, {"flux_error": 0.0}, {"fov": float("nan")},
        {"snr_min": -1.0},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(change):
    with pytest.raises(UsageError):
        problem(crescent(), 0, dc.replace(SMALL, **change))


def test_options_come_from_the_command_line():
    options = build(VLBIOptions, {"products": ["amp", "cphase"], "average": 30, "short": "scale"}, "x")
    assert options.products == ("amp", "cphase") and options.average == 30.0
    with pytest.raises(UsageError, match="products"):
        build(VLBIOptions, {"products": ["phase"]}, "x")


def test_two_stations_have_no_closures():
    obs = crescent()
    pair = obs.rows((obs.a == 0) & (obs.b == 4))
    with pytest.raises(InputError, match="no triangle"):
        problem(pair, 0, SMALL)
    with pytest.raises(InputError, match="one item"):
        problem(obs, 1, SMALL)
    assert len(problem(pair, 0, dc.replace(SMALL, products=("vis",))).y) == len(pair)


SETTINGS = {
    "pnpdm": {"start": "noise", "anneal": 3, "stationary": 1, "inner": 2, "kernel": "mala"},
    "dps": {"steps": 4},
    "daps": {"steps": 3, "inner": 2, "ode_steps": 1, "kernel": "hmc"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_samplers_run_on_closures(name):
    p = problem(crescent(), 0, dc.replace(SMALL, npix=16))
    prior = RandomFieldPrior((16, 16), std=0.3)
    out = sample(METHODS[name](**SETTINGS[name]), p, prior, [0, 1], 5)
    assert out.x.shape == (2, 1, 16, 16) and bool(torch.isfinite(out.x).all())


@pytest.mark.parametrize("chosen", PRODUCTS, ids="-".join)
def test_the_settings_of_the_domain_fit_whatever_is_compared(chosen):
    p = problem(crescent(), 0, dc.replace(SMALL, npix=16, products=chosen))
    settings = {**DOMAIN.method_settings("pnpdm", {"products": list(chosen)}), "anneal": 3, "settle": 2}
    out = sample(METHODS["pnpdm"](**settings), p, RandomFieldPrior((16, 16), std=0.3), 2, 5)
    assert bool(torch.isfinite(out.x).all()) and out.provenance["refute"] > 0
    fields = {**DOMAIN.method_settings("sgs_smc", {"products": list(chosen)}), "rungs": 2, "inner": 1}
    out = sample(METHODS["sgs_smc"](**fields), p, RandomFieldPrior((16, 16), std=0.3), 8, 5)
    assert bool(torch.isfinite(out.x).all()) and out.provenance["islands"] == (1 if chosen == ("vis",) else 4)
    assert DOMAIN.method_settings("dps", {}) == {}


def test_the_errors_of_a_prior_are_measured_once_for_an_observation():
    p, prior = problem(crescent(), 0, dc.replace(SMALL, npix=16)), RandomFieldPrior((16, 16), std=0.3)
    first, again = (sample(METHODS["pnpdm"](anneal=3, stationary=1), p, prior, 2, s).provenance for s in (0, 1))
    assert again["network_calls"] < first["network_calls"] - LEVELS


def test_visibilities_alone_are_drawn_exactly():
    """The draw through the row space has the mean and the spread of the dense posterior."""
    # without systematic noise the largest signal-to-noise ratio is beyond single precision (docs/vlbi.md)
    p = problem(crescent(), 0, dc.replace(SMALL, npix=8, fov=96.0, products=("vis",), systematic=0.02))
    assert p.linear.has_svd()
    x = torch.zeros(4000, 1, 8, 8)
    z, _ = p.draw(x, 0.5, Rng(3, range(4000)))
    a = p.linear.as_matrix()
    precision = a.T @ a + torch.eye(64, dtype=a.dtype) / 0.25
    y = torch.view_as_real(p.y).flatten().double()
    mean, cov = torch.linalg.solve(precision, a.T @ y), torch.linalg.inv(precision)
    flat = z.flatten(1).double()
    assert float(((flat.mean(0) - mean) / cov.diagonal().sqrt()).abs().max()) < 6 / np.sqrt(4000) * 1.2
    assert float((torch.cov(flat.T) - cov).norm() / cov.norm()) < 0.1


def test_simulation_follows_its_settings(tmp_path):
    write_image(tmp_path / "a.fits", TRUTH, PIXEL)
    path = simulate(tmp_path / "a.fits", tmp_path / "a.uvfits", gain=0.0, phases=False, seed=3, npix=SIDE)
    obs = read(path)
    p = problem(obs, 0, dc.replace(SMALL, products=("vis",)))
    assert float(p.chi2(state(p))[0]) / p.n_data == pytest.approx(1.0, abs=0.2)
    again = read(simulate(tmp_path / "a.fits", tmp_path / "b.uvfits", coverage=path, seed=4, npix=SIDE, fov=FOV))
    np.testing.assert_allclose(again.uv, obs.uv, rtol=1e-6)
    assert not np.allclose(np.angle(again.vis), np.angle(obs.vis), atol=0.5)  # random phases
    table = tmp_path / "array.txt"
    table.write_text("#NAME X Y Z SEFD\nAA 2225060 -5440059 -2481681 74\nLM -768715 -5988507 2063354 4500\n")
    assert [s.name for s in read_array(table)] == ["AA", "LM"]
    assert len(read(simulate("phantom", tmp_path / "c.uvfits", array=table, hours=3.0)).stations) == 2
    table.write_text("AA 1 2\n")
    with pytest.raises(InputError, match="array table"):
        read_array(table)
    for bad in ({"gain": -1.0}, {"npix": 1}, {"array": table, "coverage": path}, {"dec": 91.0}):
        with pytest.raises(UsageError):
            simulate("phantom", tmp_path / "d.uvfits", **bad)


def test_thermal_noise_has_the_stated_level():
    obs = track()
    draws = np.array([measure(obs, TRUTH, PIXEL, seed=s).vis for s in range(200)])
    z = (draws - draws.mean(0)) / obs.sigma
    assert z.real.std() == pytest.approx(1, abs=0.02) and z.imag.std() == pytest.approx(1, abs=0.02)


def test_systematic_errors_are_a_share_of_the_amplitude_that_the_file_does_not_state():
    obs, clean = track(), measure(track(), TRUTH, PIXEL, noise=0.0)
    drawn = [measure(obs, TRUTH, PIXEL, noise=0.0, systematic=0.03, seed=s) for s in range(200)]
    z = (np.array([one.vis for one in drawn]) - clean.vis) / (0.03 * np.abs(clean.vis))
    assert z.real.std() == pytest.approx(1, abs=0.02) and z.imag.std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(drawn[0].sigma, clean.sigma)


def test_demo_and_command_line(tmp_path, capsys):
    path = demo(tmp_path)
    assert path.read_bytes() == demo(tmp_path / "again").read_bytes()
    assert main(["info", str(path), "--json"]) == 0 and '"domain": "vlbi"' in capsys.readouterr().out
    assert main(["validate", str(path)]) == 0
    assert main(["simulate", "vlbi", "phantom", "-o", str(tmp_path / "s.uvfits"), "--set", "vlbi.hours=2"]) == 0
    assert DOMAIN.items(read(path)) == 1


def test_real_night_reconstructs_to_files(tmp_path):
    """The writer, fed by hand: maps in Jy per pixel with a celestial frame."""
    from astropy.io import fits
    from sciinv_vlbi.write import write

    from sciinv.results import ItemResult

    obs = crescent()
    x = torch.rand(3, 1, 8, 8)
    summary = {"mean": x.mean(0), "std": x.std(0), "lower": x[0], "upper": x[1]}
    empty = {f.name: None for f in dc.fields(ItemResult)}
    result = ItemResult(**(empty | {"item": 0, "samples": x, "summary": summary, "meta": {"pixel_uas": 16.0}}))
    context = type("Context", (), {"method": "pnpdm"})()
    paths = write(tmp_path, obs, [result], context)
    assert [path.name for path in paths][:5] == ["mean.fits", "std.fits", "lower.fits", "upper.fits", "samples.fits"]
    with fits.open(tmp_path / "samples.fits") as file:
        assert file[0].data.shape == (3, 8, 8) and file[0].header["BUNIT"] == "JY/PIXEL"
        np.testing.assert_allclose(file[0].data[:, ::-1], x[:, 0].numpy())


@pytest.mark.realdata
def test_m87_is_a_problem(real_data):
    path = real_data / "vlbi" / "m87_2017" / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits"
    obs = read(path)
    p = problem(obs, 0, VLBIOptions(flux=0.6))
    assert len(average(obs)) == 216 and p.meta["visibilities"] == 189 and p.meta["n_cphase"] > 85
    image = 0.6 * phantom(64, 128.0)
    blob = 0.6 * phantom(64, 128.0, diameter=1.0, width=20.0)
    ring, point = (float(p.chi2(state(p, i))[0]) / p.n_data for i in (image, blob))
    assert ring < point


def test_log_amplitudes_with_gains_marginalised_are_a_dense_gaussian():
    obs = average(crescent(gain=0.2, phases=True, seed=3))
    errors = gains.errors(obs, 0.1, {obs.stations[0].name: 1.0})
    relative = obs.sigma / np.abs(obs.vis)
    kept, blocks = gains.log_amplitude_covariance(obs, relative, errors, 3.0)
    product = LogAmplitude(obs.vis, kept, whitening(blocks))
    model = obs.vis * np.exp(0.1 * np.random.default_rng(0).normal(size=len(obs)))
    # the whole covariance at once, from its definition: noise, and one shared gain a station and scan
    scan = scans(obs)[kept]
    same = scan[:, None] == scan
    dense = np.diag(relative[kept] ** 2)
    for number, error in enumerate(errors):
        member = (obs.a[kept] == number) | (obs.b[kept] == number)
        dense += error**2 * np.outer(member, member) * same
    off = np.log(np.abs(obs.vis / model))[kept]
    r = product.data - product(torch.from_numpy(model))
    assert float(r.square().sum()) == pytest.approx(off @ np.linalg.solve(dense, off), rel=1e-4)


def test_the_truth_has_chi_squared_one_under_unknown_gains_and_others_have_not():
    options = dc.replace(SMALL, products=("cphase", "logamp"), gain_error=0.15)
    ratio, blind = [], []
    for seed in range(8):
        p = problem(crescent(track(tint=2000.0), seed=seed, gain=0.15, phases=True), 0, options)
        a, b = p.meta["products"]["logamp"]
        r = (p.y - p.operator(state(p)))[0, a:b]
        ratio.append(float(r.square().mean()))
        naive = problem(crescent(track(tint=2000.0), seed=seed, gain=0.15, phases=True), 0,
                        dc.replace(options, gain_error=1e-6))  # fmt: skip
        blind.append(float((naive.y - naive.operator(state(naive)))[0, a:b].square().mean()))
    assert np.mean(ratio) == pytest.approx(1.0, abs=3 * np.sqrt(2 / (8 * (b - a))) + 0.03)
    assert np.mean(blind) > 5
    brighter = p.chi2(1.5 * state(p)) - p.chi2(state(p))
    assert float(brighter) > 5  # gains of 15 % leave the flux known


def test_free_gains_leave_what_closures_know():
    obs = average(crescent(gain=0.2, phases=True, seed=3))
    relative = obs.sigma / np.abs(obs.vis)
    kept, blocks = gains.log_amplitude_covariance(obs, relative, np.full(len(obs.stations), 300.0), 0.0)
    free = LogAmplitude(obs.vis, kept, whitening(blocks, cutoff=0.0))
    chosen = closures(obs, "amplitude")
    closed = LogClosureAmplitude(obs.vis, chosen, whitening(chosen.covariance(relative)))
    model = torch.from_numpy(obs.vis * np.exp(0.1 * np.random.default_rng(0).normal(size=len(obs))))
    one, other = (float((q.data - q(model)).square().sum()) for q in (free, closed))
    assert one == pytest.approx(other, rel=0.02)


def test_gains_of_unknown_stations_are_refused():
    with pytest.raises(UsageError, match="not in the data"):
        problem(crescent(), 0, dc.replace(SMALL, products=("logamp",), gain_errors={"NOWHERE": 1.0}))
    with pytest.raises(UsageError, match="likelihood"):
        problem(crescent(), 0, dc.replace(SMALL, products=("logamp", "logcamp")))
    assert build(VLBIOptions, {"gain_errors": {"LM": 1.0}}, "options").gain_errors == {"LM": 1.0}


def test_an_image_is_seen_through_its_row_space():
    p = problem(crescent(), 0, dc.replace(SMALL, products=("cphase", "logcamp", "flux", "centroid")))
    seen = p.reduced
    assert seen.rank < 0.5 * p.domain.size
    x = state(p)
    basis = seen.basis.double()
    assert float((basis @ basis.T - torch.eye(seen.rank)).abs().max()) < 1e-6
    # all of the flux and position, and all but CUTOFF of the visibilities, survive the projection
    w = seen.hidden(x)
    largest = p.operator.seen.transform.row_space(0.5)[1][0]
    vis = p.operator.seen.transform(w)
    assert float(vis.abs().square().sum().sqrt()) <= CUTOFF * float(largest) * float(w.norm()) * 1.01
    assert torch.allclose(seen.data(seen.linear(x)), p.operator(x), atol=1e-3)
