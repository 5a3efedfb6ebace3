"""Limits of the diagnostics, and the sentences that a run and its report print when one is passed.

* Split R-hat above 1.05: chains of one length differ in mean more than chance allows.
* Effective sample size under a tenth of the particles at any step, or fewer than ten different ancestors: what those
  few did not hold cannot come back, and weighted means have the error of that many draws.
* Log-evidences of islands apart by more than one (standard deviation): they are pooled equally, and one is lost.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

RHAT = 1.05
ESS_SHARE = 0.1
ANCESTORS = 10
SPREAD = 1.0
MARGIN = 0.05  # measured coverage this far under the nominal one is called over-confident


@dc.dataclass(frozen=True)
class Alarm:
    """A limit that was passed: a short title and a sentence with the numbers."""

    title: str
    text: str


def unmixed(items: Mapping[str, Mapping[str, Any]]) -> Alarm | None:
    """Chains that differ; `items` are the diagnostics of a sampler by the name of the item."""
    bad = {name: value for name, found in items.items() if (value := found.get("rhat_max", 0.0)) > RHAT}
    if not bad:
        return None
    return Alarm("the chains had not mixed", f"R-hat is up to {max(bad.values()):.2f}, limit {RHAT}, in {_list(bad)}")


def collapsed(items: Mapping[str, Mapping[str, Any]]) -> Alarm | None:
    """Weighted samples of which few count."""
    bad, parts = {}, []
    share = {name: min(_share(found), found.get("ess_share_min", 1.0)) for name, found in items.items()}
    ancestors = {name: found.get("ancestors", ANCESTORS) for name, found in items.items()}
    few = {name: value for name, value in share.items() if value < ESS_SHARE}
    alone = {name: value for name, value in ancestors.items() if value < ANCESTORS}
    if few:
        parts.append(f"the effective sample size fell to {100 * min(few.values()):.2g} % of the particles "
                     f"(limit {100 * ESS_SHARE:g} %)")  # fmt: skip
    if alone:
        parts.append(f"all particles descend from {min(alone.values()):.0f} (limit {ANCESTORS})")
    bad = {**few, **alone}
    if not bad:
        return None
    text = f"{' and '.join(parts)}, in {_list(bad)}; the spread is too small and the mean is that of a few draws"
    return Alarm("the population collapsed", text)


def apart(items: Mapping[str, Mapping[str, Any]]) -> Alarm | None:
    """Islands that disagree."""
    bad = {name: value for name, found in items.items() if (value := found.get("log_evidence_spread", 0.0)) > SPREAD}
    if not bad:
        return None
    by = f"{max(bad.values()):.1f} (standard deviation, limit {SPREAD:g})"
    return Alarm("islands were pooled equally, one is lost", f"their log-evidences differ by {by}, in {_list(bad)}")


def alarms(items: Mapping[str, Mapping[str, Any]]) -> list[Alarm]:
    """Every limit that was passed, one alarm a kind."""
    return [alarm for check in (unmixed, collapsed, apart) if (alarm := check(items)) is not None]


def _share(found: Mapping[str, Any]) -> float:
    """Effective share of the final weights."""
    return found["ess_weights"] / found["particles"] if {"ess_weights", "particles"} <= set(found) else 1.0


def _list(names: Mapping[str, Any]) -> str:
    shown = list(names)[:8]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
