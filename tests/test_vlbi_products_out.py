"""Files of a VLBI run: images with a celestial frame, ring tables, numbers as JSON; and what they are made of."""

from __future__ import annotations

import csv
import dataclasses as dc
import json
from typing import Any

import numpy as np
import pytest
import torch
from sciinv_vlbi import checks, science
from sciinv_vlbi.align import move
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import problem
from sciinv_vlbi.rings import ring_parameters
from sciinv_vlbi.simulate import measure, phantom
from sciinv_vlbi.write import write
from vlbi_files import FOV, SIDE, crescent, track

from sciinv.results import ItemResult, RunContext
from sciinv.samples import Samples

OPTIONS = VLBIOptions(npix=SIDE, fov=FOV, flux=0.6, systematic=0.0, short="keep", snr_min=0.0)
PIXEL = FOV / SIDE


def rings(n: int = 12) -> torch.Tensor:
    """Crescents of 0.6 Jy of growing diameter, ``(n, 1, side, side)``."""
    made = [0.6 * phantom(SIDE, FOV, diameter=38.0 + 8.0 * k / max(n - 1, 1), width=16.0) for k in range(n)]
    return torch.from_numpy(np.stack(made)[:, None]).float()


def result(x: torch.Tensor, data: Observation, options: VLBIOptions = OPTIONS, **how: Any) -> ItemResult:
    made = problem(data, 0, options)
    chi2 = made.chi2(x / made.meta["scale"]) / made.n_data
    return ItemResult(0, x, Samples(x).summary(), chi2, meta=made.meta, **how)


def context(options: Any = OPTIONS, network: Any = None) -> RunContext:
    return RunContext("night", "0" * 64, "pnpdm", {}, 0.9, "", 0, "p", options=options, network=network)


@pytest.fixture(scope="module")
def night() -> Observation:
    return crescent(track(tint=2000.0), seed=1, gain=0.1, phases=True)


def test_images_have_a_celestial_frame_and_units(tmp_path, night):
    from astropy.io import fits
    from astropy.wcs import WCS

    x = rings()
    paths = write(tmp_path, night, [result(x, night)], context())
    assert [p.name for p in paths] == [
        "mean.fits", "std.fits", "lower.fits", "upper.fits", "samples.fits", "rings.csv", "rings.fits", "science.json",
    ]  # fmt: skip
    with fits.open(tmp_path / "mean.fits") as (unit,):
        header = unit.header
        assert header["BUNIT"] == "JY/PIXEL" and header["CUNIT1"] == header["CUNIT2"] == "deg"
        assert unit.data.sum() == pytest.approx(0.6, rel=1e-4)
        np.testing.assert_allclose(unit.data[::-1], x.mean(0)[0].numpy(), rtol=1e-5)
        sky = WCS(header)
        middle = sky.pixel_to_world((SIDE - 1) / 2, (SIDE - 1) / 2)
        assert middle.ra.deg == pytest.approx(night.ra) and middle.dec.deg == pytest.approx(night.dec)
        north, east = sky.pixel_to_world((SIDE - 1) / 2, SIDE - 1), sky.pixel_to_world(0, (SIDE - 1) / 2)
        assert north.dec.deg > night.dec and east.ra.deg > night.ra
        step = sky.pixel_to_world(0, 0).separation(sky.pixel_to_world(0, 1)).rad
        assert step == pytest.approx(PIXEL * MICRO_ARCSECOND, rel=1e-3)
    with fits.open(tmp_path / "samples.fits") as (unit,):
        assert unit.data.shape == (12, SIDE, SIDE) and unit.header["CTYPE3"] == "SAMPLE"


def test_ring_tables_hold_every_sample(tmp_path, night):
    from astropy.io import fits

    x = rings()
    write(tmp_path, night, [result(x, night, group=torch.arange(12) % 3)], context())
    expected = ring_parameters(x, PIXEL)
    with open(tmp_path / "rings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["sample"]) for row in rows] == list(range(12)) and rows[4]["island"] == "1"
    with fits.open(tmp_path / "rings.fits") as units:
        table = units["RINGS"]
        assert table.columns["diameter"].unit == "uas" and table.columns["position_angle"].unit == "deg"
        for name in ("diameter", "width", "asymmetry", "ringness"):
            np.testing.assert_allclose(table.data[name], expected[name])
            np.testing.assert_allclose([float(row[name]) for row in rows], expected[name], rtol=1e-5)
    found = json.loads((tmp_path / "science.json").read_text())
    assert found["ring_share"] == 1.0 and found["rings"]["diameter"]["median"] == pytest.approx(42, abs=1.5)
    assert found["islands"]["diameter"]["islands"] == 3 and 0.8 < found["islands"]["diameter"]["rhat"] < 1.3
    assert set(found["chi2_per_datum"]) == {"cphase", "logcamp", "flux"}
    assert {row["station"] for row in found["stations"]} == {s.name for s in night.stations}


def test_chi_squared_of_the_truth_is_one_in_every_product_and_station(night):
    truth = torch.from_numpy(0.6 * phantom(SIDE, FOV)[None, None]).float()
    both = torch.cat([truth, rings(1)])
    fit = science.fit(night, both, OPTIONS)
    for name in ("cphase", "logcamp"):
        right, wrong = fit.chi2[name] / fit.count[name]
        assert float(right) == pytest.approx(1, abs=4 * (2 / fit.count[name]) ** 0.5) and wrong > 2
    total = sum(chi2[0] for chi2 in fit.chi2.values())
    assert float(total) == pytest.approx(float(fit.problem.chi2(truth / fit.problem.meta["scale"])[0]), rel=1e-5)
    # unwhitened residuals over their errors have mean square one too; gains of 10 % show in the amplitudes
    for row in science.by_station(science.fit(night, truth, OPTIONS), OPTIONS):
        assert row["chi2_phase"] == pytest.approx(1, abs=0.7) and 0.7 < row["gain"] < 1.4


def test_a_station_off_its_calibration_stands_out(night):
    truth = torch.from_numpy(0.6 * phantom(SIDE, FOV)[None, None]).float()
    at = night.stations[2].name
    touched = (night.a == 2) | (night.b == 2)
    off = dc.replace(night, vis=np.where(touched, 0.4 * night.vis, night.vis))
    rows = {row["station"]: row for row in science.by_station(science.fit(off, truth, OPTIONS), OPTIONS)}
    assert min(rows, key=lambda name: rows[name]["gain"]) == at and rows[at]["gain"] < 0.6
    assert rows[at]["chi2_amplitude"] < 2  # closures do not see it


def test_visibilities_alone_are_compared_as_complex_numbers(night):
    clean = crescent(track(tint=2000.0), seed=2)
    options = dc.replace(OPTIONS, products=("vis",))
    fit = science.fit(clean, torch.from_numpy(0.6 * phantom(SIDE, FOV)[None, None]).float(), options)
    assert fit.count["vis"] == 2 * len(fit.obs)
    assert float(fit.chi2["vis"]) / fit.count["vis"] == pytest.approx(1, abs=4 * (2 / fit.count["vis"]) ** 0.5)


def test_samples_are_aligned_where_the_data_do_not_fix_the_place(night):
    made = problem(night, 0, OPTIONS)
    x = rings(6)
    scattered = move(x[:, 0], torch.tensor([[1, 0], [-1, 2], [0, -2], [2, 1], [-2, 0], [0, -1]]))[:, None]
    aligned = science.centred(scattered, made.meta)
    assert aligned.mean(0).max() > 1.2 * scattered.mean(0).max()
    assert aligned.mean(0).max() == pytest.approx(float(x.mean(0).max()), rel=0.05)
    # the closures of a moved image are those of the image
    scale = made.meta["scale"]
    before, after = (science.by_product(made, s / scale)[0]["logcamp"] for s in (scattered, aligned))
    assert torch.allclose(before, after, rtol=1e-2)
    fixed = problem(night, 0, dc.replace(OPTIONS, products=("vis",))).meta
    assert science.centred(scattered, fixed) is scattered


def test_amplitudes_alone_leave_a_turn_open(night):
    x = rings(6)
    x[:2] = x[:2].flip(-2, -1)
    turned = science.centred(x, {"products": {"amp": [0, 1]}})
    told_apart = science.centred(x, {"products": {"cphase": [0, 1], "logcamp": [1, 2]}})
    angle = [ring_parameters(s, PIXEL)["position_angle"] for s in (turned, told_apart)]
    assert np.ptp(science.unwrapped(angle[0])) < 20 < 150 < np.ptp(angle[1])


def test_angles_are_averaged_across_north():
    assert np.ptp(science.unwrapped(np.array([359.0, 1.0, 3.0]))) == pytest.approx(4.0)
    p = {k: np.full(3, 1.0) for k in ("diameter", "width", "asymmetry", "central_brightness", "ringness")}
    median = science.summary(p | {"position_angle": np.array([359.0, 1.0, 3.0])})["position_angle"]["median"]
    assert median % 360 == pytest.approx(1.0, abs=0.1)
    assert science.summary(p | {"ringness": np.zeros(3), "position_angle": np.zeros(3)}) == {}


def test_islands_that_disagree_have_a_large_rhat():
    rng = np.random.default_rng(0)
    group = torch.arange(40) // 10
    p = {"ringness": np.ones(40), "width": rng.normal(12, 1, 40), "diameter": rng.normal(42, 1, 40)}
    p["diameter"][:10] += 6
    found = science.islands(p, group)
    assert found["diameter"]["rhat"] > 2 > 1.3 > found["width"]["rhat"]
    assert found["diameter"]["highest_mean"] - found["diameter"]["lowest_mean"] > 5
    assert science.islands(p, None) == {} == science.islands(p | {"ringness": np.zeros(40)}, group)


def test_eht_imaging_reads_the_files(tmp_path, night):
    eh = pytest.importorskip("ehtim")
    x = rings(2)
    write(tmp_path, night, [result(x, night)], context())
    image = eh.image.load_fits(str(tmp_path / "mean.fits"))
    assert image.total_flux() == pytest.approx(0.6, rel=1e-4)
    np.testing.assert_allclose(image.imarr(), x.mean(0)[0].numpy(), rtol=1e-5)
    assert image.psize == pytest.approx(PIXEL * MICRO_ARCSECOND) and image.ra * 15 == pytest.approx(night.ra)


def test_kinds_of_image_are_told_apart_and_the_larger_is_first():
    x = rings(10)
    x[3:6] = torch.from_numpy(0.6 * phantom(SIDE, FOV, diameter=4.0, width=18.0)[None, None]).float()
    assert science.modes(x, PIXEL).tolist() == [0] * 3 + [1] * 3 + [0] * 4
    assert not science.modes(rings(10), PIXEL).any() and science.modes(x[:1], PIXEL).tolist() == [0]
    said = checks.modes_finding(science.modes(x, PIXEL))
    assert said.level == "caution" and "70 %, 30 %" in said.text
    assert checks.modes_finding(np.zeros(10, np.int64)).level == "ok"


def test_samples_stay_as_drawn_and_the_table_says_how_they_were_moved(tmp_path, night):
    from astropy.io import fits

    by = torch.tensor([[1, 0], [-1, 2], [0, -2], [2, 1], [-2, 0], [0, -1]])
    x = move(rings(6)[:, 0], by)[:, None]
    meta = problem(night, 0, OPTIONS).meta
    found = dc.replace(result(x, night), summary=Samples(science.centred(x, meta)).summary())
    write(tmp_path, night, [found], context())
    with fits.open(tmp_path / "samples.fits") as (unit,), fits.open(tmp_path / "rings.fits") as units:
        np.testing.assert_allclose(unit.data[:, ::-1], x[:, 0].numpy())
        moved = np.stack([units["RINGS"].data["moved_y"], units["RINGS"].data["moved_x"]], 1)
    # rows run South and columns West: what lay two rows too far South was moved North
    np.testing.assert_allclose(moved - moved[0], PIXEL * (by - by[0]).numpy())


def test_amplitudes_alone_leave_a_turn_open_and_the_products_undo_it(tmp_path, night):
    from astropy.io import fits

    meta = problem(night, 0, dc.replace(OPTIONS, products=("logcamp", "flux"))).meta
    x = rings(6)
    turned = torch.tensor([True, False, False, True, False, False])
    drawn = torch.where(turned[:, None, None, None], x.flip(-2, -1), x)
    mean = science.centred(drawn, meta).mean(0)
    np.testing.assert_array_equal(science.placed(drawn, mean, meta).turned, turned)
    np.testing.assert_allclose(science.placed(drawn, mean, meta).x, science.placed(x, mean, meta).x)
    write(
        tmp_path, night, [dc.replace(result(drawn, night), meta=meta, summary={"mean": mean, **_zero(mean)})], context()
    )
    with fits.open(tmp_path / "rings.fits") as units:
        angles, said = units["RINGS"].data["position_angle"], units["RINGS"].data["turned"]
    np.testing.assert_array_equal(said, turned.double())
    assert np.ptp(science.unwrapped(angles)) < 40  # without the turn two of six lie on the other side


def _zero(mean):
    return {name: torch.zeros_like(mean) for name in ("std", "lower", "upper")}


def test_closure_phases_near_180_degrees_are_compared_the_short_way():
    place = ((SIDE - 1) / 2 - np.arange(SIDE)) * PIXEL
    image = sum(np.exp(-(((place - x) ** 2 + place[:, None] ** 2) / 60)) for x in (16, -16))  # phases of 0 and 180
    image = 0.6 * image / image.sum()
    obs = measure(track(tint=2000.0), image, PIXEL * MICRO_ARCSECOND, gain=0.1, phases=True, seed=2)
    options = dc.replace(OPTIONS, snr_min=5.0)
    fit = science.fit(obs, torch.from_numpy(image[None, None]).float(), options)
    rows = science.by_station(fit, options)
    assert np.average([r["chi2_phase"] for r in rows], weights=[r["n_phase"] for r in rows]) == pytest.approx(
        1, abs=0.5
    )
