"""What a report is made of: plain numpy arrays and mappings, so that every domain can fill it."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciinv.errors import InputError
from sciinv.report.sections import Section

DISCLAIMER = (
    "For research only. This is not a medical device; no regulator (such as the FDA, or under CE marking and the EU "
    "MDR) has cleared or approved it. Do not use it for diagnosis or treatment. The uncertainty maps hold only as far "
    "as the forward model, the noise model and the prior's training data hold: structures that were not in the "
    "training data can be missing or made up, and the maps can show low uncertainty there."
)

REQUIRED = ("mean", "std", "lower", "upper")
OPTIONAL = ("cov", "phase", "baseline", "reference", "error", "lower_calibrated", "upper_calibrated")


@dc.dataclass(frozen=True, eq=False)
class ReportItem:
    """One slice (or one image).

    Attributes
    ----------
    label : what to call it, e.g. ``slice 7``.
    images : 2-D float arrays of one shape, in the report's units (``phase`` in radians, ``cov`` a ratio); ``mean``,
        ``std``, ``lower`` and ``upper`` are compulsory, the other known names are in ``OPTIONAL``.
    samples : magnitudes ``(n, h, w)``, same units.
    stats : numbers about this slice; the report knows ``chi2_per_dof``, ``rhat_max``, ``rhat_median``, ``drift``,
        ``ess_min``, ``ess_median``, of weighted samples ``particles``, ``ess_weights``, ``ess_share_min``,
        ``ancestors``, ``resamplings``, ``log_evidence``, ``log_evidence_spread``, then ``failed``, ``n`` (samples
        drawn, where `samples` holds fewer), ``network_calls``, ``cpu_seconds``, ``psnr``, ``ssim``,
        ``coverage_measured``, ``coverage_calibrated``, ``corr_std_error`` and ``acceleration``, and shows whichever are
        present.
    warnings : sentences about this slice.
    mask : ``(h, w)``, true where there is signal; grey windows are set inside it.
    """

    label: str
    images: Mapping[str, np.ndarray]
    samples: np.ndarray
    stats: Mapping[str, Any] = dc.field(default_factory=dict)
    warnings: Sequence[str] = ()
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = f"report item {self.label!r}"
        missing = [key for key in REQUIRED if key not in self.images]
        unknown = [key for key in self.images if key not in REQUIRED + OPTIONAL]
        if missing or unknown:
            raise InputError(
                "the images of a report item have wrong names",
                where=where,
                expected=f"{', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}",
                found=f"missing {missing}, unknown {unknown}",
            )
        shape = np.shape(self.images["mean"])
        found = {key: np.shape(value) for key, value in self.images.items()}
        found |= {"samples": np.shape(self.samples)[1:]} | ({} if self.mask is None else {"mask": np.shape(self.mask)})
        wrong = {key: value for key, value in found.items() if value != shape}
        if len(shape) != 2 or 0 in shape or wrong or not len(self.samples):
            raise InputError(
                "the pictures of a report item do not fit together",
                where=where,
                expected=f"2-D images of one shape (the mean has {shape}) and samples (n, h, w) with n >= 1",
                found=f"{wrong or found}, {len(self.samples)} samples",
            )


@dc.dataclass(frozen=True, eq=False)
class Report:
    """Everything the page says.

    Attributes
    ----------
    title : heading of the page.
    units : of the magnitude pictures, e.g. ``a.u.``.
    items : the slices, at least one.
    input : facts about the input file; shown in the given order.
    prior : the prior's model card.
    method : the sampler: name, paper, claims, fields, measured error.
    coverage : ``level`` (nominal), ``exact`` (what the order statistics of n exact draws would cover), ``measured``,
        ``calibrated``, ``source`` (what the calibration was learned on), ``statement`` (the sentence to print) and
        ``over_confident`` (true, false, or ``None`` where nobody measured it). Fractions of one.
    warnings : sentences about the whole run.
    provenance : shown as a table and as JSON; ``trace`` (name -> numbers per step, or a list per chain) is drawn.
    disclaimer : research-use text.
    sections : what the field adds, shown before the pictures.
    """

    title: str
    units: str
    items: Sequence[ReportItem]
    input: Mapping[str, Any] = dc.field(default_factory=dict)
    prior: Mapping[str, Any] = dc.field(default_factory=dict)
    method: Mapping[str, Any] = dc.field(default_factory=dict)
    coverage: Mapping[str, Any] = dc.field(default_factory=dict)
    warnings: Sequence[str] = ()
    provenance: Mapping[str, Any] = dc.field(default_factory=dict)
    disclaimer: str = DISCLAIMER
    sections: Sequence[Section] = ()

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError("a report needs at least one slice", where=f"report {self.title!r}", found="no items")
