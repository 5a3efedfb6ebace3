"""The multistep rule of the prior step for methods that weight their steps.

``D`` is replaced by ``D + h / (2 h') (D - D')`` with the denoised image D' and log step h' of the step before
(`sciinv.samplers.kernels`). The chain stays Gaussian given its past, with another mean, so the weights stay exact; its
law is nearer the prior's at the same number of network calls.
"""

from __future__ import annotations

import math

from torch import Tensor

from sciinv.samplers.base import State


def look_ahead(state: State, d: Tensor, t: float, s: float, order: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The denoised image to step with from t to s, and what the next step needs (it goes into ``aux``)."""
    if order == 1 or s == 0:
        return d, {}
    h = math.log(t / s)
    kept = {"before": d, "h": d.new_full((len(d),), h)}
    if "before" not in state.aux:
        return d, kept
    gain = h / (2 * state.aux["h"])
    return d + gain.view(-1, *(1,) * (d.ndim - 1)) * (d - state.aux["before"]), kept
