"""The shipped prior of compact radio sources: units, what it removes, where its card's numbers come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import vlbi_files
from sciinv_vlbi import DOMAIN
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import FILL, problem
from sciinv_vlbi.sources import RING_FREE, draw

from sciinv.cli import main
from sciinv.operator import Identity
from sciinv.priors.checkpoint import EMBEDDED, embedded_path, load_prior
from sciinv.training.dsm import keyed

NAME = "vlbi_64"
HELD_OUT_SEED = 20270101  # as in examples/train_vlbi_prior/export.py
LOG = Path(__file__).parents[1] / "examples" / "train_vlbi_prior" / "log.jsonl"


@pytest.fixture(scope="module")
def prior():
    return load_prior(NAME)


def error(denoise, clean: torch.Tensor, level: float, seed: int = 0) -> float:
    noise = torch.randn(clean.shape, generator=keyed(seed))
    with torch.no_grad():
        guess = torch.cat([denoise(part, torch.tensor(level)) for part in (clean + level * noise).split(32)])
    return float((guess - clean).square().mean().sqrt())


def test_it_is_the_domains_and_fits_its_problem(prior):
    assert DOMAIN.default_prior == NAME and NAME in EMBEDDED
    assert embedded_path(NAME).stat().st_size < 4_000_000
    options = VLBIOptions(flux=0.6)
    inverse = problem(vlbi_files.crescent(), 0, options)
    assert prior.space.shape == inverse.domain.shape == (1, options.npix, options.npix)
    assert isinstance(prior.to_physical, Identity) and not prior.complex_pair
    assert prior.sigma_min <= 0.01 and prior.sigma_max >= 30
    image = draw(1, 0)[0][0] * inverse.meta["scale"]
    assert abs(image.sum() - 0.6) < 1e-3  # an image of the population holds the flux in the image


def test_every_denoised_image_has_the_flux_and_no_deep_negatives(prior):
    """At any noise the posterior mean is a mean of images with a total of (FILL n)^2 and no negative value."""
    clean = torch.from_numpy(draw(12, 5)[0])[:, None]
    for level in (0.05, 0.5, 3.0, 20.0):
        noisy = clean + level * torch.randn(clean.shape, generator=keyed(1))
        with torch.no_grad():
            guess = prior.denoise(noisy, torch.tensor(level))
        total = guess.sum((1, 2, 3)) / (FILL * 64) ** 2
        assert (total - 1).abs().max() < 0.12 and abs(total.mean() - 1) < 0.04, level
        assert guess.min() > -0.25 and float(guess.clamp(max=0).square().mean().sqrt()) < 0.02, level


def test_it_beats_a_gaussian_on_images_it_has_not_seen(prior):
    """Wiener filter of the mean and covariance of 512 images, and of the variance that these leave in the held-out."""
    known = torch.from_numpy(draw(512, 8)[0]).flatten(1)
    clean = torch.from_numpy(draw(24, 9)[0])[:, None]
    mean = known.mean(0)
    _, s, vectors = torch.linalg.svd(known - mean, full_matrices=False)
    other = clean.flatten(1) - mean
    rest = float((other - other @ vectors.T @ vectors).square().mean())

    def wiener(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        y = x.flatten(1) - mean
        seen = y @ vectors.T
        power = s.square() / len(known)
        outside = (y - seen @ vectors) * (rest / (rest + sigma**2))
        return (mean + (seen * power / (power + sigma**2)) @ vectors + outside).reshape(x.shape)

    for level, share in ((0.05, 0.6), (0.2, 0.6), (0.5, 0.7), (1.0, 0.75), (2.0, 0.85)):
        ours, linear = error(prior.denoise, clean, level), error(wiener, clean, level)
        assert ours < share * linear, (level, ours, linear)
        assert ours < 0.4 * level


def test_sources_without_rings_are_denoised_too(prior):
    """Better than by shrinking pixels, although these are a sixth of the training images."""
    clean = torch.from_numpy(draw(32, 11, RING_FREE)[0])[:, None]
    power = float(clean.square().mean())
    for level in (0.1, 0.5, 2.0):
        assert error(prior.denoise, clean, level) < 0.35 * (power * level**2 / (power + level**2)) ** 0.5


def test_the_cards_errors_are_those_of_the_stored_weights(prior):
    """On the 256 held-out images the export measured; the levels are those of the training range."""
    card = prior.card["held_out_error"]
    assert [float(k) for k in card] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
    clean = torch.from_numpy(draw(256, HELD_OUT_SEED)[0])[:, None]
    for level in ("0.5", "5"):
        assert error(prior.denoise, clean, float(level)) == pytest.approx(card[level], rel=2e-3)
    linear = dict(re.findall(r"([\d.]+): ([\d.]+)", prior.card["training"].partition("best linear denoiser")[2]))
    assert linear.keys() == card.keys() and all(card[k] < float(linear[k]) for k in ("0.05", "0.5", "2", "5"))


def test_the_log_is_of_the_shipped_run(prior):
    lines = [json.loads(line) for line in LOG.read_text("utf-8").splitlines()]
    last = [line for line in lines if "held_out" in line][-1]
    assert prior.card["training"].startswith(f"{last['step']} steps of 32")
    found = prior.card["held_out_error"]
    assert all(np.isclose(last["held_out"][k], found[k], rtol=0.25) for k in found)


@pytest.mark.slow
def test_the_demo_finds_its_crescent(tmp_path):
    """A ring of 42 micro-arcseconds, brightest in the South, from closures alone, with everything at its default."""
    assert main(["demo", "vlbi", "-o", str(tmp_path), "-q", "--samples", "6"]) == 0
    found = json.loads((tmp_path / "result" / "science.json").read_text("utf-8"))
    assert abs(found["rings"]["diameter"]["median"] - 42) < 4
    assert abs(found["rings"]["position_angle"]["median"] - 180) < 25
    assert (tmp_path / "result" / "report.html").stat().st_size > 100_000
