"""One generator per sample: the same draws whatever the batch, the device mode, or a save in between."""

import math

import pytest
import torch

from sciinv.rng import Rng

SHAPE = (3, 4)


def test_draws_do_not_depend_on_the_batch():
    together = Rng(0, range(8))
    alone = [Rng(0, [k]) for k in range(8)]
    for draw in (
        lambda r: r.normal(SHAPE),
        lambda r: r.normal(SHAPE, torch.complex64),
        lambda r: r.uniform(SHAPE),
        lambda r: r.normal_like(torch.zeros(len(r), 2, dtype=torch.float64)),
    ):
        assert torch.equal(draw(together), torch.cat([draw(r) for r in alone]))


def test_order_of_keys_does_not_matter():
    assert torch.equal(Rng(0, [5, 2]).normal(SHAPE), Rng(0, [2, 5]).normal(SHAPE).flip(0))


def test_keys_seeds_and_slices_give_unrelated_numbers():
    keys = [0, 1, (0, 1), (1, 0), (1, 1), (2, 0), (0, 0, 1)]
    x = Rng(0, keys).normal((2000,))
    assert torch.equal(x[1], x[2])  # a bare number is a sample of slice 0
    x = torch.cat([x[[0, 1, 3, 4, 5, 6]], Rng(1, [0]).normal((2000,))])
    corr = torch.corrcoef(x) - torch.eye(len(x))
    assert corr.abs().max() < 5 / math.sqrt(2000)


def test_a_complex_draw_has_unit_variance_in_each_part():
    x = Rng(0, range(4)).normal((5000,), torch.complex64)
    parts = torch.view_as_real(x).flatten(0, 1)
    cov = torch.cov(parts.T)
    assert torch.allclose(cov, torch.eye(2), atol=0.04)
    assert abs(float(x.abs().square().mean()) - 2) < 0.06


def test_normal_and_uniform_have_the_right_law():
    x = Rng(3, range(20)).normal((1000,)).flatten().sort().values
    cdf = 0.5 * (1 + torch.erf(x.double() / math.sqrt(2)))
    ks = cdf - (torch.arange(len(x)) + 0.5) / len(x)
    assert ks.abs().max() < 1.63 / math.sqrt(len(x))
    u = Rng(3, range(20)).uniform((1000,)).flatten()
    assert 0 <= float(u.min()) and float(u.max()) < 1
    assert (u.sort().values - (torch.arange(len(u)) + 0.5) / len(u)).abs().max() < 1.63 / math.sqrt(len(u))


def test_a_saved_state_continues_with_the_same_bits():
    rng = Rng(0, [(1, 2), (3, 4)])
    rng.normal(SHAPE)
    state = rng.state()
    assert state.dtype == torch.uint8 and len(state) == 2
    ahead = [rng.normal(SHAPE), rng.uniform(SHAPE)]
    other = Rng(99, [7, 8])
    other.set_state(state)
    assert torch.equal(other.normal(SHAPE), ahead[0]) and torch.equal(other.uniform(SHAPE), ahead[1])


def test_a_saved_state_is_a_copy():
    rng = Rng(0, [0])
    state = rng.state()
    before = state.clone()
    rng.normal(SHAPE)
    assert torch.equal(state, before)


def test_states_of_another_batch_size_are_refused():
    with pytest.raises(ValueError):
        Rng(0, [0, 1]).set_state(Rng(0, [0]).state())


def test_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Rng(0, range(3)).normal(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Rng(0, range(3)).normal(SHAPE), first)


def test_device_mode_on_the_cpu_equals_cpu_mode():
    assert torch.equal(Rng(0, [1], mode="device").normal(SHAPE), Rng(0, [1], mode="cpu").normal(SHAPE))


def test_draws_are_the_same_in_every_process():
    # a change of these numbers breaks every stored run
    x = Rng(0, [0, (2, 1)]).normal((2,))
    assert torch.allclose(x, torch.tensor(EXPECTED), atol=1e-6), x.tolist()


EXPECTED = [[-1.197389, -0.226616], [-1.109633, -1.53221]]
