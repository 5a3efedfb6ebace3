"""The VLBI part of the report, and the alarm for sources that the prior does not know."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import pytest
import torch
from sciinv_vlbi import checks, pages, plots, science, sources
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.problem import problem
from sciinv_vlbi.simulate import measure
from test_vlbi_products_out import FOV, OPTIONS, PIXEL, SIDE, context, result, rings
from vlbi_files import crescent, track

from sciinv.diagnostics.misfit import LEVEL
from sciinv.priors.mixture import MixturePrior
from sciinv.report import Report, render_report
from sciinv.run.outputs import report_item

VISIBILITIES = dc.replace(OPTIONS, products=("vis",), systematic=0.0)
SAMPLES, DRAWS = 12, 63


@pytest.fixture(scope="module")
def night() -> Observation:
    return crescent(track(tint=2000.0), seed=1, gain=0.1, phases=True)


def blobs(*places: tuple[float, float], fwhm: float = 16.0) -> np.ndarray:
    """Equal Gaussians at (East, North) in micro-arcseconds, of 0.6 Jy together."""
    place = ((SIDE - 1) / 2 - np.arange(SIDE)) * PIXEL
    image = sum(np.exp(-4 * np.log(2) * ((place - x) ** 2 + (place[:, None] - y) ** 2) / fwhm**2) for x, y in places)
    return 0.6 * image / image.sum()


def test_the_page_shows_sky_ring_and_fit(night):
    x = rings(12)
    found = result(x, night, group=torch.arange(12) % 3)
    parts = pages.sections(night, [found], context())
    assert [part.title for part in parts] == ["The source on the sky", "The ring", "Fit to the data"]
    page = render_report(Report("night", "Jy/pixel", [report_item(found)], sections=parts))
    assert page.count("data:image/png;base64") >= 3 and "East is left, North is up" in page
    for words in ("closure phases", "log closure amplitudes", "diameter / µas", "Agreement of islands", "AA"):
        assert words in page, words
    levels = {finding.title: finding.level for part in parts for finding in part.findings}
    assert levels["The samples are rings"] == "ok"
    # these samples were never fitted to the data: the verdict must say so
    assert levels["The prior does not explain the data"] == "alarm"


def test_one_sample_and_no_ring_still_make_a_page(night, monkeypatch):
    monkeypatch.setattr(plots, "data", lambda *_: plots.maps(np.eye(8), np.eye(8), np.eye(8)[None], PIXEL, 230e9))
    found = result(torch.from_numpy(blobs((14, 5), (-14, -5))[None, None]).float(), night)
    parts = pages.sections(night, [found], context())
    levels = {finding.title: finding.level for part in parts for finding in part.findings}
    assert levels["The samples are no rings"] == "caution" and not parts[1].tables


def test_brightness_temperature_follows_rayleigh_and_jeans():
    side = PIXEL * MICRO_ARCSECOND
    assert plots.kelvin(230e9, PIXEL) == pytest.approx(3.254e13 / (230e9 * side) ** 2 * 1e0, rel=1e-3)


def test_maps_have_east_on_the_left_and_north_on_top():
    image = blobs((30, 0))
    axis = plots.maps(image, 0.1 * image, image[None], PIXEL, 230e9).axes[0]
    left, right, bottom, top = axis.get_images()[0].get_extent()
    assert left > 0 > right and top > 0 > bottom
    row, column = np.unravel_index(np.argmax(axis.get_images()[0].get_array()), image.shape)
    assert left + (column + 0.5) / SIDE * (right - left) == pytest.approx(30, abs=PIXEL)
    assert axis.get_images()[0].origin == "upper" and abs(row - SIDE / 2) <= 1


class Family:
    """A prior of rings: a ball about each of many, of its own size; and its exact posterior for visibilities."""

    def __init__(self, count: int = 150):
        images, _ = sources.draw(count, seed=5, shares={"ring": 1.0}, npix=SIDE, fov=FOV)
        self.means = torch.from_numpy(images).double().flatten(1)
        self.tau = torch.logspace(-2, -1, count, dtype=torch.float64)[torch.randperm(count)]
        self.prior = MixturePrior(torch.ones(count), torch.from_numpy(images[:, None]), self.tau**2)
        self.prior.sigma_max, self.prior.sigma_min = 10.0, 5e-3

    def posterior(self, made, rng) -> torch.Tensor:
        """Exact samples ``(n, 1, side, side)``: a component by its evidence, then a Gaussian draw in it."""
        a, y = made.operator.as_matrix().double(), torch.view_as_real(made.y).flatten().double()
        s2, u = torch.linalg.eigh(a @ a.T)
        variance = 1 + self.tau[:, None] ** 2 * s2
        off = (y - self.means @ a.T) @ u
        evidence = -0.5 * (off**2 / variance + variance.log()).sum(1)
        k = torch.from_numpy(rng.choice(len(off), SAMPLES, p=torch.softmax(evidence, 0).numpy()))
        start = self.means[k] + self.tau[k, None] * torch.from_numpy(rng.normal(size=(SAMPLES, a.shape[1])))
        seen = start @ a.T + torch.from_numpy(rng.normal(size=(SAMPLES, len(a))))
        gain = ((y - seen) @ u / variance[k]) @ u.T
        return (start + self.tau[k, None] ** 2 * (gain @ a)).view(-1, 1, SIDE, SIDE).float()

    def draw(self, rng) -> np.ndarray:
        k = rng.integers(len(self.means))
        x = self.means[k] + self.tau[k] * torch.from_numpy(rng.normal(size=SIDE * SIDE))
        return x.view(SIDE, SIDE).numpy()


@pytest.fixture(scope="module")
def family() -> Family:
    return Family()


def finding(family: Family, image: np.ndarray, seed: int, network: bool = False):
    """The verdict on visibilities of an image in the prior's units."""
    obs = track(hours=3.0)
    scale = problem(crescent(obs, seed=0), 0, VISIBILITIES).meta["scale"]
    obs = measure(obs, scale * image, PIXEL * MICRO_ARCSECOND, seed=seed)
    made = problem(obs, 0, VISIBILITIES)
    x = family.posterior(made, np.random.default_rng(seed)) * made.meta["scale"]
    fit = science.fit(obs, x, VISIBILITIES)
    prior = checks.alone(family.prior, fit, x, made.meta["scale"], PIXEL, seed, DRAWS) if network else None
    return checks.mismatch(fit, prior), x, prior


def test_a_source_of_the_family_raises_few_alarms(family):
    rng = np.random.default_rng(1)
    alarms = [finding(family, family.draw(rng), seed)[0].level == "alarm" for seed in range(40)]
    assert np.mean(alarms) <= LEVEL


@pytest.mark.parametrize("name", ["double", "unequal"])
def test_a_source_outside_the_family_is_an_alarm(family, name):
    scale = problem(crescent(track(hours=3.0), seed=0), 0, VISIBILITIES).meta["scale"]
    image = {
        "double": blobs((16, 0), (-16, 0)),
        "unequal": blobs((12, 10), (12, 10), (-10, -9)),
    }[name] / scale
    said, _, _ = finding(family, image, seed=3)
    assert said.level == "alarm" and "the source is unlike anything the prior makes" in said.text


def test_a_prior_of_rings_alone_is_named_as_the_cause_of_rings(family):
    rng = np.random.default_rng(2)
    said, x, prior = finding(family, family.draw(rng), 4, network=True)
    assert said.level == "ok" and "probability under the prior" in said.text
    assert prior.ring_share > 0.8
    told = checks.ring_finding(checks.ring_parameters(x, PIXEL), dc.replace(prior, rings=_all(prior.rings)))
    assert told.title in ("The prior makes only rings", "Not every sample is a ring")


def _all(parameters):
    return parameters | {"ringness": np.ones(len(parameters["ringness"]))}


def test_samples_where_the_network_never_goes_are_a_caution(family, night):
    x = rings(8)
    fit = science.fit(night, x, OPTIONS)
    quiet = dc.replace(fit, chi2={name: torch.full((8,), float(n)) for name, n in fit.count.items()})
    prior = checks.Alone(fit.chi2, checks.ring_parameters(x, PIXEL), rank_p=0.001)
    said = checks.mismatch(quiet, prior)
    assert said.level == "caution" and said.title == "The source is unlike the prior's images"
    assert checks.mismatch(quiet, dc.replace(prior, rank_p=0.5)).level == "ok"
    assert checks.mismatch(quiet, None).level == "ok"


def test_doubles_are_improbable_for_a_prior_of_rings(family):
    obs = crescent(track(hours=3.0), seed=0)
    unit = problem(obs, 0, VISIBILITIES).meta["scale"]
    double = torch.from_numpy(blobs((16, 0), (-16, 0)))[None, None].float().expand(SAMPLES, -1, -1, -1)
    ring = torch.from_numpy(np.stack([family.draw(np.random.default_rng(k)) for k in range(SAMPLES)]))[:, None].float()
    fit = science.fit(obs, unit * ring, VISIBILITIES)
    inside, outside = (checks.alone(family.prior, fit, x, unit, PIXEL, 0, DRAWS).rank_p for x in (unit * ring, double))
    assert outside < LEVEL < 0.4 < inside


def test_noise_that_the_sampler_left_is_no_mismatch(family):
    obs = crescent(track(hours=3.0), seed=0)
    unit = problem(obs, 0, VISIBILITIES).meta["scale"]
    ring = torch.from_numpy(np.stack([family.draw(np.random.default_rng(k)) for k in range(SAMPLES)]))[:, None].float()
    noisy = ring + 0.2 * torch.randn(ring.shape, generator=torch.Generator().manual_seed(0))
    fit = science.fit(obs, unit * ring, VISIBILITIES)
    blind, told = (checks.alone(family.prior, fit, unit * noisy, unit, PIXEL, 0, DRAWS, b).rank_p for b in (0.0, 0.2))
    assert blind < LEVEL < 0.4 < told
