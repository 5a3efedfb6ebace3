"""Does the prior know such a source, and is the ring the data's doing? What the verdict says about both.

The tests are those of `sciinv.diagnostics.misfit`: chi-squared of the samples, one product after the other, and how
improbable the network finds the samples among its own draws. Those draws also say what the prior alone expects of the
ring parameters and of the data.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sciinv.diagnostics import misfit
from sciinv.diagnostics.alarms import RHAT
from sciinv.operator import LinearOperator
from sciinv.prior import Prior
from sciinv.report.sections import Finding
from sciinv.rng import Rng
from sciinv_vlbi import science
from sciinv_vlbi.rings import RING, is_ring, ring_parameters

PINS = ("flux", "centroid")  # what the user said about the image, not what was measured
RARE = 0.05  # a share below which a kind of image is not counted
MOST = 0.95  # a share from which a thing is called true of all samples
RHAT_FEW = 1.2  # R-hat of few draws an island scatters, so that its alarm is further out than `RHAT`
PRODUCTS = {
    "vis": "visibilities", "amp": "amplitudes", "logamp": "log amplitudes", "bispectrum": "bispectra",
    "cphase": "closure phases", "logcamp": "log closure amplitudes", "flux": "total flux", "centroid": "centroid",
}  # fmt: skip


@dc.dataclass(frozen=True)
class Alone:
    """The prior without data: its draws' chi-squared of each product, ring parameters, and the p-value of the samples'
    improbability among them (``None`` where the prior's units do not allow it).
    """

    chi2: Mapping[str, Tensor]
    rings: Mapping[str, NDArray[np.float64]]
    rank_p: float | None

    @property
    def ring_share(self) -> float:
        """Share of the draws that are rings."""
        return float(is_ring(self.rings).mean())


def alone(
    prior: Prior,
    found: science.Fit,
    samples: Tensor,
    scale: float,
    pixel_uas: float,
    seed: int,
    count: int = misfit.DRAWS,
    blur: float = 0.0,
) -> Alone:
    """Ask the prior for images of its own.

    Parameters
    ----------
    samples : ``(n, 1, side, side)`` in Jy per pixel.
    scale : Jy per pixel of the problem's unit.
    count : draws from the prior.
    blur : standard deviation of the white noise, in the prior's units, that the sampler left in its samples: split
        Gibbs that returns z. The draws get the same before they are compared.
    """
    prior = prior.at(tuple(samples.shape[-2:]))
    draws = misfit.prior_draws(prior, count, seed)
    images = prior.to_physical(draws)
    p = None
    back = prior.to_physical
    if isinstance(back, LinearOperator) and back.isometry is not None:
        states = back.adjoint((samples / scale).to(images)) / back.isometry**2
        levels = misfit.default_levels(prior, draws)
        alike = draws + blur * Rng(seed, [(k, -5) for k in range(count)], draws.device).normal_like(draws)
        p = misfit.rank_p(*(misfit.improbability(prior, x, levels, seed=seed) for x in (states, alike)))
    return Alone(science.by_product(found.problem, images.cpu())[0], ring_parameters(images, pixel_uas), p)


def mismatch(found: science.Fit, prior: Alone | None) -> Finding:
    """Whether prior and noise can have made the data."""
    p = {PRODUCTS[name]: misfit.fit_p(chi2, found.count[name]) for name, chi2 in found.chi2.items() if name not in PINS}
    likely = "the samples' probability under the prior"
    if prior is not None and prior.rank_p is not None:
        p[likely] = prior.rank_p
    name, worst = misfit.smallest(p)
    said = f"p-values: {', '.join(f'{key} {_small(value)}' for key, value in p.items())}; "
    said += f"the smallest of them counts as {_small(worst)}."
    if worst >= misfit.LEVEL:
        text = f"{said} If prior, noise and sampler are right, it falls below {misfit.LEVEL} in at most 5 % of runs."
        return Finding("ok", "Nothing speaks against prior and noise", text)
    if name == likely:
        cause = (
            "The data pull the samples to where the prior's network hardly ever goes: the source is unlike what it was "
            "trained on, and what the samples add to the data cannot be trusted."
        )
        return Finding("caution", "The source is unlike the prior's images", f"{said} {cause}")
    cause = (
        f"The samples leave too much of the {name} unexplained: the source is unlike anything the prior makes, or the "
        "noise is larger than stated (--set vlbi.systematic), or the sampler has not found the images that fit. Do not "
        "read a shape, a ring least of all, from these samples."
    )
    return Finding("alarm", "The prior does not explain the data", f"{said} {cause}")


def _small(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-6 else "under 1e-6"


def modes_finding(kinds: NDArray[np.int64]) -> Finding:
    """Whether the samples are of one kind, by their kinds ``(n,)``."""
    share = np.bincount(kinds) / len(kinds)
    large = share[share >= RARE]
    if len(large) < 2:
        return Finding(
            "ok", "The samples are of one kind", f"{100 * share[0]:.0f} % look alike at {science.BEAM:.0f} µas."
        )
    parts = ", ".join(f"{100 * value:.0f} %" for value in large)
    text = f"{len(large)} kinds of image hold {parts} of them: their mean may look like none. See the table of kinds."
    return Finding("caution", "The samples are of several kinds", text)


def ring_finding(rings: Mapping[str, NDArray[np.float64]], prior: Alone | None) -> Finding:
    """Whether the samples are rings, and whether they had a choice."""
    share = float(is_ring(rings).mean())
    text = f"{100 * share:.0f} % of the samples are rings: a closed ridge around a darker middle, score at least {RING}"
    text += "." if prior is None else f"; of images drawn from the prior without data, {100 * prior.ring_share:.0f} %."
    if share < MOST:
        told = "Ring parameters are those of the samples that are." if share > 0 else "No ring parameters are given."
        return Finding(
            "caution", "Not every sample is a ring" if share else "The samples are no rings", f"{text} {told}"
        )
    if prior is not None and prior.ring_share >= MOST:
        told = "This prior hardly makes anything else, so the samples had no choice: a ring is no result here."
        return Finding("caution", "The prior makes only rings", f"{text} {told}")
    return Finding("ok", "The samples are rings", text)


def islands_finding(found: Mapping[str, Mapping[str, float]], several: bool) -> Finding:
    """Whether independent islands agree in diameter and width; `several` says that there are islands at all."""
    if not found:
        text = "Too few ring-like samples an island."
        if not several:
            text = "All samples come from one population or from chains of one draw each; sgs_smc has --set islands=4."
        return Finding("unknown", "Agreement of islands in the ring not computed", text)
    words = [
        f"{name} {part['lowest_mean']:.1f} to {part['highest_mean']:.1f} uas between the means of "
        f"{part['islands']:.0f} islands, {part['within_sd']:.1f} within one, R-hat {part['rhat']:.2f}"
        for name, part in found.items()
    ]
    text = "; ".join(words) + "."
    text = text[:1].upper() + text[1:]
    worst = max(part["rhat"] for part in found.values())
    if worst <= RHAT:
        return Finding("ok", "Islands agree in the ring", text)
    if worst <= RHAT_FEW:
        return Finding("caution", "Islands agree roughly in the ring", text)
    told = (
        "Each island found its own kind of ring: the pooled spread is a lower bound. More particles, or more islands."
    )
    return Finding("alarm", "Islands do not agree in the ring", f"{text} {told}")
