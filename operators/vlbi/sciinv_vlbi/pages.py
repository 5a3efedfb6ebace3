"""The field's part of the report: the sky, the ring, the fit to the data, and what the verdict says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sciinv.report.sections import Section, Table, plate
from sciinv.results import ItemResult, RunContext
from sciinv_vlbi import checks, plots, science
from sciinv_vlbi.observation import Observation
from sciinv_vlbi.rings import PARAMETERS, is_ring

Rings = Mapping[str, NDArray[np.float64]]


def sections(data: Observation, results: Sequence[ItemResult], context: RunContext) -> list[Section]:
    """Sky, ring and fit of the observation; what is wrong is in their findings."""
    (result,) = results
    pixel = float(result.meta["pixel_uas"])
    fit = science.fit(data, result.samples, context.options)
    placed = science.placed(result.samples, result.summary["mean"], result.meta)
    rings = science.measure(result.samples, placed.turned, result.meta)
    prior = None
    if context.network is not None:
        blur = float(context.sampler["rho_min"]) if context.sampler.get("returns") == "z" else 0.0
        scale = float(result.meta["scale"])
        prior = checks.alone(context.network, fit, result.samples, scale, pixel, context.seed, blur=blur)
    return [
        _sky(result, placed.x, rings, pixel, data.frequency[0]),
        _ring(rings, prior, result),
        _fit(fit, prior, context.options),
    ]


def _sky(result: ItemResult, moved: Tensor, rings: Rings, pixel: float, frequency: float) -> Section:
    mean, std, samples = (
        np.asarray(x.float().squeeze(-3)) for x in (result.summary["mean"], result.summary["std"], moved)
    )
    figure = plots.maps(mean, std, samples, pixel, frequency)
    where = "" if science.fixed(result.meta) else (
        " The data do not fix the position: samples were moved by whole pixels onto each other before averaging."
        + (" Nor do they tell an image from the same one turned by 180 degrees: samples were turned too."
           if science.blind(result.meta) else "")
    )  # fmt: skip
    caption = (
        f"East is left, North is up. Brightness temperature at {frequency / 1e9:.1f} GHz; 10⁹ K are "
        f"{1e12 / plots.kelvin(frequency, pixel):.3g} mJy per pixel of {pixel:.3g} µas. The circle is a beam of "
        f"{science.BEAM:.0f} µas. Deviation / mean is shown where the mean is above 5 % of its peak.{where}"
    )
    alt = f"Maps of the posterior mean, its deviation, and {min(4, len(samples))} samples, {len(mean)} pixels a side"
    kinds = science.modes(moved, pixel)
    rows: list[tuple[str | float | None, ...]] = [
        (f"kind {k + 1}", f"{100 * float((kinds == k).mean()):.0f} %",
         *(float(np.median(rings[name][kinds == k])) for name in ("diameter", "width", "ringness")))
        for k in range(min(6, int(kinds.max()) + 1))
    ]  # fmt: skip
    columns = ("", "share of samples", "diameter / µas", "width / µas", "ringness")
    words = f"Kinds of image (correlation of members below {1 - science.APART:.1f} at {science.BEAM:.0f} µas), medians"
    return Section(
        "The source on the sky", (), [plate(figure, caption, alt)], [Table(words, columns, rows)],
        [checks.modes_finding(kinds)],
    )  # fmt: skip


def _ring(rings: Rings, prior: checks.Alone | None, result: ItemResult) -> Section:
    numbers, found = science.summary(rings), science.islands(rings, result.group)
    findings = [checks.ring_finding(rings, prior)]
    tables, plates = [], []
    if numbers:
        findings.append(checks.islands_finding(found, result.group is not None))
        before = {} if prior is None else science.summary(prior.rings)
        tables.append(_quantiles(numbers, before))
        figure = plots.corner(rings, None if prior is None else prior.rings)
        ring = is_ring(rings)
        caption = (
            f"Ring parameters of {int(ring.sum())} of {len(ring)} samples; lines at 16, 50 and 84 %."
            + (" Grey: images drawn from the prior without data." if before else "")
        )  # fmt: skip
        said = "; ".join(f"{plots.LABELS[k]} {v['median']:.3g}" for k, v in numbers.items())
        plates.append(plate(figure, caption, f"Histograms and pairs of ring parameters, medians {said}"))
    if found:
        columns = ("", "islands", "lowest mean / µas", "highest mean / µas", "spread within / µas", "R-hat")
        keys = ("islands", "lowest_mean", "highest_mean", "within_sd", "rhat")
        rows: list[tuple[str | float, ...]] = [(name, *(part[key] for key in keys)) for name, part in found.items()]
        tables.append(Table("Agreement of islands", columns, rows))
    text = (
        "Each sample is measured by itself: the centre is where the spread of the ridge's radius is smallest; the "
        "width is the mean full width at half maximum above the floor at 50 µas; the position angle runs from North "
        "through East; the central brightness is that within 5 µas over that of the ridge. The files rings.csv and "
        "rings.fits hold every sample."
    )
    return Section("The ring", [text], plates, tables, findings)


def _quantiles(numbers: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]) -> Table:
    def span(q: Mapping[str, float] | None, width: str) -> str | None:
        return None if q is None else f"{q['low' + width]:.3g} to {q['high' + width]:.3g}"

    rows: list[tuple[str | float | None, ...]] = [
        (plots.LABELS[name], numbers[name]["median"], span(numbers[name], "68"), span(numbers[name], "95"),
         span(before.get(name), "68"))
        for name in PARAMETERS
    ]  # fmt: skip
    return Table("Ring parameters", ("", "median", "68 %", "95 %", "prior alone, 68 %"), rows)


def _fit(fit: science.Fit, prior: checks.Alone | None, options: Any) -> Section:
    rows: list[tuple[str | float | None, ...]] = []
    for name, chi2 in fit.chi2.items():
        each = chi2 / fit.count[name]
        alone = (None, None) if prior is None else tuple(
            float(value / fit.count[name]) for value in (prior.chi2[name].median(), prior.chi2[name].min())
        )  # fmt: skip
        rows.append((checks.PRODUCTS[name], fit.count[name], float(each.mean()), float(each.min()), float(each.max()),
                     *alone))  # fmt: skip
    columns = ("product", "data", "mean", "lowest", "highest", "prior alone: median", "prior alone: lowest")
    tables = [Table("Chi-squared per datum of the samples (1: as large as the noise)", columns, rows)]
    keys = ("n_phase", "chi2_phase", "n_amplitude", "chi2_amplitude", "gain")
    names = ("station", "triangles", "chi²", "quadrangles", "chi²", "amplitude: data / samples")
    stations = science.by_station(fit, options)
    tables.append(
        Table("By station: mean squares of residuals over their errors", names,
              [(row["station"], *(row[key] for key in keys)) for row in stations])
    )  # fmt: skip
    caption = (
        "Closure phases of the triangles followed longest, and amplitudes of all baselines. Points: data with their "
        "errors, systematic noise included; bands: 68 and 95 % of the samples. Amplitudes hold station gains, which "
        "closures do not see, so they may lie off the samples together."
    )
    alt = "Closure phases against time and amplitudes against baseline length, data and samples"
    return Section(
        "Fit to the data", (), [plate(plots.data(fit, options), caption, alt)], tables, [checks.mismatch(fit, prior)]
    )
