"""What is checked before training on measurements, and what is scored while it goes on."""

from __future__ import annotations

import pytest
import torch
from test_ambient_training import SIZE, config, network, problems

from sciinv.errors import MismatchError
from sciinv.generic.diagonal import Diagonal
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.problem import Problem
from sciinv.training.ambient.identify import identify
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.objective import Corrupted, predicts_full, taught_above
from sciinv.training.dsm import keyed


def test_the_held_out_error_counts_items_of_every_size():
    def mixed(*noise: float) -> Measurements:
        g, items = keyed(9), []
        for size, extra in zip((8, 12), noise, strict=True):
            for _ in range(3):
                y = torch.randn(1, size, size, generator=g) + extra
                items.append(Problem(y, Mask(torch.ones(1, size, size, dtype=torch.bool)), Gaussian(0.1)))
        return Measurements(items)

    made, data = network(1), mixed(0, 0)
    scores = [
        Corrupted("tweedie", data, config(), others=mixed(*noise)).held_out(made)["loss"]
        for noise in ((0, 0), (3, 0), (0, 3))
    ]
    assert scores[1] > 2 * scores[0] and scores[2] > 2 * scores[0]


def test_gsure_starts_above_the_noise_of_the_weakest_coordinate():
    weak = torch.ones(1, SIZE, SIZE)
    weak[0, 0] = 0.1
    items = [Problem(torch.zeros(1, SIZE, SIZE), Diagonal(weak, (1, SIZE, SIZE)), Gaussian(s)) for s in (0.05, 0.02)]
    data = Measurements(items)
    assert abs(taught_above("gsure", data) - 1.05 * 0.5) < 1e-6
    assert abs(taught_above("ambient-noisy", data) - 1.05 * 0.05) < 1e-6
    assert predicts_full("gsure", data) and not predicts_full("gsure", Measurements(problems()))
    with pytest.raises(MismatchError, match="noisier than the noisiest level"):
        Corrupted("gsure", data, config(sigma_max=0.5))
    Corrupted("gsure", data, config(sigma_max=0.6))


def test_lines_that_few_items_measure_are_found_among_many():
    """Every second item is looked at; what only the others measure must not be taken for missing."""
    size, items = 26, []
    for i in range(64):
        mask = torch.ones(1, size, size, dtype=torch.bool)
        mask[..., -1] = i == 1
        items.append(Problem(torch.zeros(1, size, size), Mask(mask), Gaussian(0.1)))
    assert identify(Measurements(items), None).regular
    assert not identify(Measurements(items[2:]), None).regular
