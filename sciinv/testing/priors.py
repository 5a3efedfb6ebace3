"""What every prior must satisfy.

The denoiser is a conditional expectation, ``D(x, sigma) = E[x_0 | x_t = x]``, so ``E[(x_0 - D(x_t)) h(x_t)] = 0`` for
every function h: tested by Monte Carlo where the prior can be drawn from. Its Jacobian is
``Cov[x_0 | x_t] / sigma^2``, hence symmetric and positive semidefinite.
"""

from __future__ import annotations

import torch

from sciinv.errors import Unsupported
from sciinv.operator import column, inner
from sciinv.prior import Counted, Prior
from sciinv.rng import Rng
from sciinv.testing.fake import FakeCuda
from sciinv.testing.operators import close


def check_prior(
    prior: Prior,
    *,
    sigmas: tuple[float, ...] = (0.1, 1.0, 10.0),
    draws: int = 2000,
    seed: int = 0,
    double: bool | None = None,
    fake_cuda: bool = True,
    z_max: float = 5.0,
) -> None:
    """Check every promise of `sciinv.prior` that ``prior`` makes.

    Parameters
    ----------
    sigmas : noise levels to test at.
    draws : size of the Monte-Carlo test of the denoiser, for priors with `draw`.
    double : whether to test double precision too; by default only for priors with `draw`, whose Jacobian is tested as
        well.
    fake_cuda : also run on a pretend GPU.
    z_max : largest allowed deviation in standard errors.
    """
    name = type(prior).__name__
    if prior.to_physical.domain.shape != prior.space.shape:
        raise AssertionError(f"{name}: to_physical starts from {prior.to_physical.domain}, the state is {prior.space}")
    exact = _offers_draw(prior)
    for dtype in (torch.float32, torch.float64) if (exact if double is None else double) else (torch.float32,):
        _batches(prior, name, dtype, sigmas, seed)
    if exact:
        _draws(prior, name, seed)
        for sigma in sigmas:
            _conditional_mean(prior, name, sigma, draws, seed, z_max)
            _jacobian(prior, name, sigma, seed)
    if fake_cuda:
        with FakeCuda() as gpu:
            there = gpu.put(prior)
            x = torch.empty((2, *prior.space.shape), device=gpu.device)
            with gpu.guard(f"{name}.denoise"):
                gpu.check(there.denoise(x, torch.ones((), device=gpu.device)), f"{name}.denoise")
                gpu.check(there.denoise(x, torch.ones(2, device=gpu.device)), f"{name}.denoise")
                gpu.check(there.to_physical(x), f"{name}.to_physical")
            with gpu.guard(f"{name}.denoise, backwards"):
                _, pull = Counted(there).denoise_vjp(x, 1.0)
                gpu.check(pull(x), f"{name}.denoise, backwards")


def _offers_draw(prior: Prior) -> bool:
    try:
        prior.draw(Rng(0, [0]))
    except Unsupported:
        return False
    return True


def _batches(prior: Prior, name: str, dtype: torch.dtype, sigmas: tuple[float, ...], seed: int) -> None:
    """Shape, dtype; the batch against items alone; 0-dim against ``(n,)`` noise levels."""
    sigma = torch.tensor([sigmas[i % len(sigmas)] for i in range(4)], dtype=dtype)
    tol = 1e-9 if dtype == torch.float64 else 2e-5
    with torch.no_grad():
        x = Rng(seed, range(4)).normal(prior.space.shape, dtype)
        x = x * (1 + column(sigma, x))
        together = prior.denoise(x, sigma)
        if together.shape != x.shape or together.dtype != dtype:
            raise AssertionError(
                f"{name}: denoise of {tuple(x.shape)} {dtype} gave {tuple(together.shape)} {together.dtype}"
            )
        alone = torch.cat([prior.denoise(x[i : i + 1], sigma[i]) for i in range(4)])
        close(f"{name}: a batch with its own noise levels differs from items alone", together, alone, tol)
        level = torch.as_tensor(sigmas[0], dtype=dtype)
        spread = prior.denoise(x, level.expand(4))
        close(f"{name}: 0-dim and (n,) noise levels differ", prior.denoise(x, level), spread, tol)


def _draws(prior: Prior, name: str, seed: int) -> None:
    together = prior.draw(Rng(seed, range(3)))
    if together.shape != (3, *prior.space.shape):
        raise AssertionError(f"{name}: draw gave {tuple(together.shape)}, expected (3, {prior.space.shape})")
    alone = torch.cat([prior.draw(Rng(seed, [i])) for i in range(3)])
    close(f"{name}: draws depend on the batch", together, alone, 2e-5)


def _conditional_mean(prior: Prior, name: str, sigma: float, draws: int, seed: int, z_max: float) -> None:
    """``E[(x_0 - D) h(x_t)] = 0`` along random directions, for h = 1, linear, and a saturating one."""
    rng = Rng(seed, range(draws))
    x0 = prior.draw(rng).to(torch.float64)
    xt = x0 + sigma * rng.normal(prior.space.shape, torch.float64)
    with torch.no_grad():
        error = (x0 - prior.denoise(xt, torch.tensor(sigma, dtype=torch.float64))).flatten(1)
    directions = Rng(seed + 1, range(6)).normal((error.shape[1],), torch.float64).T
    a, b = error @ directions, (xt - xt.mean(0)).flatten(1) @ directions
    b = b / b.std(0)
    for what, h in (("1", torch.ones_like(b)), ("a linear function", b), ("a saturating function", torch.tanh(3 * b))):
        product = a * h
        z = product.mean(0) / (product.std(0) / draws**0.5).clamp_min(1e-300)
        if not float(z.abs().max()) < z_max:
            raise AssertionError(
                f"{name}: denoise is not E[x_0 | x_t] at sigma = {sigma}: the error correlates with {what} of x_t, "
                f"{float(z.abs().max()):.1f} standard errors, allowed {z_max}"
            )


def _jacobian(prior: Prior, name: str, sigma: float, seed: int) -> None:
    """The Jacobian is symmetric and positive semidefinite."""
    rng, n = Rng(seed + 2, range(4)), len(prior.space.shape)
    x = prior.draw(rng).to(torch.float64) + sigma * rng.normal(prior.space.shape, torch.float64)
    u, v = rng.normal(prior.space.shape, torch.float64), rng.normal(prior.space.shape, torch.float64)
    _, pull = Counted(prior).denoise_vjp(x, sigma)
    ju, jv = pull(u), pull(v)
    size = (inner(ju, ju, n) * inner(v, v, n)).sqrt().max()
    close(
        f"{name}: Jacobian of denoise is not symmetric at sigma = {sigma}", inner(ju, v, n), inner(u, jv, n), 1e-8, size
    )
    if not bool((inner(u, ju, n) >= -1e-8 * size).all()):
        raise AssertionError(f"{name}: Jacobian of denoise is not positive semidefinite at sigma = {sigma}")
