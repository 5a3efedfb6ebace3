"""What a run hands to a domain's writer and to the report: one `ItemResult` an item, one `RunContext` a run."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sciinv.prior import Prior


@dc.dataclass(frozen=True)
class ItemResult:
    """Posterior of one item (slice), in the units of the input file.

    Attributes
    ----------
    item : index in the input.
    samples : ``(n, *image)``, real or complex, equally weighted; samples that failed are left out.
    summary : `Samples.summary` of these samples (aligned, where the domain does), or of the weighted population that
        they are drawn from: mean,
        magnitude_mean, std, lower, upper, coverage, n, ess.
    chi2_per_dof : ``(n,)``, ``|y - A x|^2 / sigma^2`` per real measurement.
    diagnostics : R-hat and ESS over all chains of the item, or particles, their effective sizes, ancestors and
        log-evidence, where the method has them.
    failed : how many samples became non-finite.
    meta : the problem's facts (noise level, acceleration, warnings ...), JSON-ready values and tensors.
    provenance : seconds, network calls.
    baseline : a classical reconstruction ``(*image,)`` from the same data, and its name in ``baseline_name``.
    reference : fully sampled truth ``(*image,)`` where the file has one; never seen by the sampler.
    support : bool ``(*image,)``, where the object is; coverage is measured here.
    measured : coverage, corr(std, error), PSNR ... against `reference`; ``None`` without one.
    calibrated : calibrated ``(lower, upper)`` and the factor used, where a calibration fits.
    group : ``(n,)``, the number of the island that each sample comes from, where there are several.
    """

    item: int
    samples: Tensor
    summary: Mapping[str, Any]
    chi2_per_dof: Tensor
    diagnostics: Mapping[str, float] = dc.field(default_factory=dict)
    failed: int = 0
    meta: Mapping[str, Any] = dc.field(default_factory=dict)
    provenance: Mapping[str, Any] = dc.field(default_factory=dict)
    baseline: Tensor | None = None
    baseline_name: str = ""
    reference: Tensor | None = None
    support: Tensor | None = None
    measured: Mapping[str, Any] | None = None
    calibrated: Mapping[str, Any] | None = None
    group: Tensor | None = None


@dc.dataclass(frozen=True)
class RunContext:
    """What is the same for all items: names, settings, and the sentence that says how far to trust the bounds.

    Attributes
    ----------
    label : a name for the input that identifies nobody.
    method, prior : name and settings of the sampler; name, hash and card of the prior.
    level : nominal coverage of the bounds.
    statement : the coverage statement, printed beside every map.
    sampler : the method's fields.
    flags : further requests to the writer, such as ``fastmri``.
    options : the domain's options of this run.
    network : the prior itself, for checks that ask it something; ``None`` where only its results are at hand.
    """

    label: str
    input_sha256: str
    method: str
    prior: Mapping[str, Any]
    level: float
    statement: str
    seed: int
    plan: str
    sampler: Mapping[str, Any] = dc.field(default_factory=dict)
    flags: Mapping[str, Any] = dc.field(default_factory=dict)
    options: Any = None
    network: Prior | None = None
