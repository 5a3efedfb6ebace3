"""Batched conjugate gradients: right, independent of the batch, and honest about where it stopped."""

import pytest
import torch

from sciinv.linalg import cg
from sciinv.rng import Rng


def problem(n=5, d=12, condition=1e3, dtype=torch.float64):
    """One positive definite matrix per sample, so that they converge at different times."""
    x = Rng(0, range(n)).normal((d, d), torch.float64)
    q, _ = torch.linalg.qr(x)
    spread = torch.linspace(0, 1, n).double()[:, None] * torch.linspace(0, 1, d).double()
    m = (q * condition ** spread[:, None]) @ q.mT
    return m.to(dtype), Rng(1, range(n)).normal((d,), torch.float64).to(dtype)


def apply(m):
    return lambda v: torch.einsum("nij,nj->ni", m[: len(v)], v)


def test_solves_each_system():
    m, b = problem()
    out = cg(apply(m), b, tol=1e-11)
    assert torch.allclose(out.x, torch.linalg.solve(m, b[..., None])[..., 0], atol=1e-8)
    assert (out.residual <= 1e-11).all() and (out.iterations > 0).all()


def test_residual_and_iterations_are_honest():
    m, b = problem()
    out = cg(apply(m), b, tol=1e-4)
    true = (b - apply(m)(out.x)).norm(dim=1) / b.norm(dim=1)
    assert torch.allclose(out.residual, true, atol=1e-10) and (true <= 1e-4).all()
    assert out.iterations[0] < out.iterations[-1]  # the best conditioned stops first
    short = cg(apply(m), b, tol=1e-12, max_iter=3)
    assert (short.iterations[1:] == 3).all() and (short.residual[1:] > 1e-12).all()


@pytest.mark.parametrize("max_iter", [1, 3, 200])
def test_the_residual_vector_is_that_of_the_solution(max_iter):
    m, b = problem()
    m[0] = -m[0]  # no positive curvature: the sample is frozen at its start
    out = cg(apply(m), b, tol=1e-6, max_iter=max_iter)
    assert torch.allclose(out.r, b - apply(m)(out.x), atol=1e-9) and torch.equal(out.r[0], b[0])


@pytest.mark.parametrize("check_every", [1, 7, 50])
def test_a_sample_stops_on_its_own_in_any_batch(check_every):
    m, b = problem(dtype=torch.float32)
    together = cg(apply(m), b, tol=1e-3, check_every=check_every)
    for k in range(len(b)):
        alone = cg(apply(m[k : k + 1]), b[k : k + 1], tol=1e-3, check_every=check_every)
        assert torch.allclose(together.x[k], alone.x[0], rtol=1e-6, atol=1e-6)
        assert together.iterations[k] == alone.iterations[0]


def test_how_often_the_host_looks_does_not_change_a_bit():
    m, b = problem(dtype=torch.float32)
    often, seldom = cg(apply(m), b, tol=1e-3, check_every=1), cg(apply(m), b, tol=1e-3, check_every=100)
    assert torch.equal(often.x, seldom.x) and torch.equal(often.iterations, seldom.iterations)


def test_nan_in_one_sample_leaves_the_bits_of_the_others():
    m, b = problem(dtype=torch.float32)
    bad = b.clone()
    bad[1] = float("nan")
    clean, hit = cg(apply(m), b), cg(apply(m), bad)
    keep = [0, 2, 3, 4]
    assert torch.equal(clean.x[keep], hit.x[keep])


def test_a_zero_right_hand_side_gives_zero_and_no_iteration():
    m, b = problem()
    b[2] = 0
    out = cg(apply(m), b)
    assert (out.x[2] == 0).all() and out.iterations[2] == 0 and torch.isfinite(out.x).all()


def test_a_warm_start_at_the_solution_needs_nothing():
    m, b = problem()
    x = torch.linalg.solve(m, b[..., None])[..., 0]
    start = x.clone()
    out = cg(apply(m), b, x0=start, tol=1e-6)
    assert (out.iterations == 0).all() and torch.equal(out.x, x) and torch.equal(start, x)


def test_a_good_preconditioner_saves_iterations_and_keeps_the_solution():
    m, b = problem(condition=1e4)
    inverse = torch.linalg.inv(m) + 1e-6 * torch.eye(12)
    plain, fast = cg(apply(m), b, tol=1e-9), cg(apply(m), b, tol=1e-9, precondition=apply(inverse))
    assert fast.iterations.max() < plain.iterations.max() / 3
    assert torch.allclose(fast.x, plain.x, atol=1e-6)


def test_complex_hermitian_systems_of_images():
    a = Rng(0, [0]).normal((6, 6), torch.complex128)[0]
    m = a.conj().T @ a + torch.eye(6)
    b = Rng(1, range(3)).normal((2, 3), torch.complex128)
    out = cg(lambda v: (v.flatten(1) @ m.T).view_as(v), b, tol=1e-12)
    assert torch.allclose(out.x.flatten(1), torch.linalg.solve(m, b.flatten(1).T).T, atol=1e-9)
