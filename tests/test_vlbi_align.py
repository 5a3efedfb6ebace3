"""Alignment: known shifts come back, turns only when asked for, likeness is one for a moved copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sciinv_vlbi.align import align, best_shift, blur, likeness, move
from sciinv_vlbi.simulate import phantom

TRUTH = torch.from_numpy(phantom(32, 128.0)).float()


def scattered(n: int = 12, spread: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Moved, noisy copies of one image, and their shifts."""
    g = torch.Generator().manual_seed(seed)
    by = torch.randint(-spread, spread + 1, (n, 2), generator=g)
    images = TRUTH.expand(n, -1, -1) + 0.02 * TRUTH.max() * torch.randn(n, 32, 32, generator=g)
    return move(images, by), by


def test_moving_is_what_it_says():
    point = torch.zeros(1, 8, 8)
    point[0, 3, 4] = 1.0
    assert move(point, torch.tensor([[2, -1]]))[0, 5, 3] == 1
    assert move(point, torch.tensor([[6, 0]])).sum() == 0  # out of the image, not round its edge
    assert best_shift(move(point, torch.tensor([[2, -1]])), point[0], 4)[0].tolist() == [[2, -1]]


def test_scattered_copies_fall_on_top_of_each_other():
    images, by = scattered()
    aligned, shift, turned = align(images, 8)
    away = shift - by
    assert (away == away[0]).all() and not turned.any()
    assert (shift.double().mean(0).abs() <= 0.5).all()  # the whole does not wander off
    sharp, blurred = aligned.mean(0).max(), images.mean(0).max()
    assert sharp > 0.9 * TRUTH.max() > 1.2 * blurred


def test_the_shift_is_limited():
    images, _ = scattered(spread=6)
    assert align(images, 2)[1].abs().max() <= 2


def test_images_that_agree_are_not_touched():
    images = TRUTH.expand(4, -1, -1) * torch.tensor([1.0, 1.1, 0.9, 1.0])[:, None, None]
    aligned, shift, _ = align(images, 8)
    assert torch.equal(aligned, images) and not shift.any()


@pytest.mark.parametrize("turn", [False, True])
def test_a_turn_is_undone_only_when_asked_for(turn):
    images, _ = scattered()
    images[:4] = images[:4].flip(-2, -1)
    aligned, _, turned = align(images, 8, turn=turn)
    assert turned.tolist() == ([True] * 4 + [False] * 8 if turn else [False] * 12)
    alike = likeness(aligned, aligned[-1], 4.0, blur_uas=20.0, limit_uas=8.0)
    assert bool(alike.min() > 0.97) == turn


def test_likeness_is_one_for_a_moved_copy_and_less_for_another_image():
    moved = move(TRUTH[None], torch.tensor([[3, -2]]))
    assert float(likeness(moved, TRUTH, 4.0)) == pytest.approx(1.0, abs=1e-5)
    assert float(likeness(3 * moved + 1, 5 * TRUTH, 4.0, limit_uas=0.0)) < 0.9
    other = torch.from_numpy(phantom(32, 128.0, diameter=60.0)).float()
    raw, soft = (float(likeness(other[None], TRUTH, 4.0, blur_uas=b)) for b in (0.0, 20.0))
    assert raw < 0.75 < soft < 0.95
    assert float(likeness(-TRUTH[None], TRUTH, 4.0, limit_uas=0.0)) == pytest.approx(-1.0, abs=1e-6)


def test_blurring_keeps_the_flux_and_widens():
    point = torch.zeros(65, 65, dtype=torch.float64)
    point[32, 32] = 1.0
    soft = blur(point, 2.0, 20.0)
    assert float(soft.sum()) == pytest.approx(1.0, abs=1e-6)
    line = soft[32] / soft[32].max()
    assert np.interp(0.5, line[32:].flip(0).numpy(), 2.0 * np.arange(32, -1, -1)) == pytest.approx(10.0, abs=0.3)
    assert blur(point, 2.0, 0.0) is point


def test_likeness_finds_shifts_of_a_fraction_of_a_pixel():
    k = 2 * np.pi * torch.fft.fftfreq(32, dtype=torch.float64)
    turn = torch.exp(-1j * (1.25 * k[:, None] - 2.5 * k))
    moved = torch.fft.ifft2(torch.fft.fft2(TRUTH.double()) * turn).real
    assert float(likeness(moved[None], TRUTH.double(), 4.0)) == pytest.approx(1.0, abs=1e-3)
    assert float(likeness(moved[None], TRUTH.double(), 4.0, limit_uas=4.0)) < 0.99
