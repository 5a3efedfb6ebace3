"""Measure every registered method against known Gaussian posteriors; ``--write`` stores what the CLI and reports print.

Two problems: a 6-D anisotropic Gaussian behind a dense 3 x 6 operator (sigma 0.3), and the scale of the shipped image
priors, a 6-D Gaussian of standard deviations 0.28 to 0.045 behind a mask with sigma 0.05. Affine methods get their
exact law (no Monte Carlo), the others 1000 samples, settings scaled with the prior. ``coverage`` is the probability
that the truth lies in the method's central 90 % interval, averaged over coordinates.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import importlib.util
import json
from pathlib import Path

import torch

from sciinv.certify.settings import FINE, IMAGE, WIDE
from sciinv.errors import MismatchError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.samplers import METHODS, sample
from sciinv.testing import affine_law, mean_cov_error

F64 = torch.float64
AFFINE = {"pnpdm", "mmps"}


def problems() -> dict[str, tuple[Problem, GaussianPrior]]:
    """The two reference problems, fixed seeds."""
    out = {}
    for name, eigenvalues, sigma, observed in (
        ("anisotropic", (2.0, 1.2, 0.8, 0.5, 0.2, 0.05), 0.3, 3),
        ("image-scale", (0.08, 0.04, 0.02, 0.01, 0.005, 0.002), 0.05, 3),
    ):
        g = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=F64)).Q
        prior = GaussianPrior(
            torch.zeros(6, dtype=F64), basis @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ basis.T, dtype=F64
        )
        prior.sigma_min, prior.sigma_max = 0.005, 20.0
        matrix = (
            torch.randn(observed, 6, generator=g, dtype=F64)
            if name == "anisotropic"
            else torch.eye(6, dtype=F64)[:observed]
        )
        y = matrix @ torch.randn(6, generator=g, dtype=F64) * eigenvalues[2] ** 0.5
        out[name] = (Problem(y, Dense(matrix), Gaussian(sigma)), prior)
    return out


def coverage(mean: torch.Tensor, cov: torch.Tensor, true_mean: torch.Tensor, true_cov: torch.Tensor) -> float:
    """Mean over coordinates of P(truth in mean -/+ 1.645 std) when the truth follows the true posterior."""
    normal = torch.distributions.Normal(0.0, 1.0)
    half, shift, spread = 1.6449 * cov.diag().sqrt(), mean - true_mean, true_cov.diag().sqrt()
    return float((normal.cdf((shift + half) / spread) - normal.cdf((shift - half) / spread)).mean())


def measure(name: str, monte_carlo: int = 1000, only: str = "") -> dict[str, dict[str, float]]:
    """Errors of one method on both problems."""
    out = {}
    for label, (problem, prior) in problems().items():
        if only not in ("", label):
            continue
        scale = float(prior.cov.diag().mean().sqrt())
        fields = {f.name: f.default for f in dc.fields(METHODS[name])}
        sampler = METHODS[name](**{k: fields[k] * scale / IMAGE for k in (*WIDE, *FINE) if k in fields})
        try:
            drawn = sample(sampler, problem, prior, 1 if name in AFFINE else monte_carlo, seed=0)
        except MismatchError:
            continue  # a method for masks only
        calls = drawn.provenance
        if name in AFFINE:
            mean, cov = affine_law(sampler, problem, prior)
        else:
            w = drawn.weights.to(F64)
            mean = w @ drawn.x
            cov = (w[:, None] * (drawn.x - mean)).T @ (drawn.x - mean)
        truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
        mean_error, cov_error = mean_cov_error(mean, cov, *truth)
        out[label] = {
            "mean_error": round(float(mean_error), 4),
            "cov_error": round(float(cov_error), 4),
            "coverage_90": round(coverage(mean, cov, *truth), 3),
            "network_calls": calls["network_calls"],
            "network_vjps": calls["network_vjps"],
        }
    return out


def words(by: dict[str, dict[str, float]]) -> str:
    """The measurement as the CLI and the reports print it."""
    parts = [
        f"{label} Gaussian: mean off by {r['mean_error']:.2g} posterior std, "
        f"covariance by {100 * r['cov_error']:.2g} %, a 90 % interval covers {100 * r['coverage_90']:.0f} % "
        f"({r['network_calls']} network calls)"
        for label, r in by.items()
    ]
    return "; ".join(parts) or "not measured on these problems: see `sciinv certify`"


def store() -> Path:
    """Where the engine reads the stored result."""
    spec = importlib.util.find_spec("sciinv.samplers")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "measured.json"


def main() -> None:
    """Print the table; with ``--write`` store it."""
    from _common import finish, table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    result = {name: measure(name) for name in METHODS}
    rows = [[name, label, *map(str, r.values())] for name, by in result.items() for label, r in by.items()]
    table(["method", "problem", "mean error", "cov error", "coverage of 90 %", "calls", "vjps"], rows)
    if args.write:
        cards = {name: {"text": words(by), **by} for name, by in result.items()}
        store().write_text(json.dumps(cards, indent=1) + "\n")
    finish({f"{n}_{p}_coverage_90": r["coverage_90"] for n, by in result.items() for p, r in by.items()}, ok=True)


if __name__ == "__main__":
    main()
