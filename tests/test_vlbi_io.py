"""Readers and writers of visibilities: every dialect, round trips, real files, refusals in one sentence."""

import dataclasses as dc

import numpy as np
import pytest
from hostile import refused
from sciinv_vlbi import io
from sciinv_vlbi.averaging import average
from sciinv_vlbi.closures import closures
from sciinv_vlbi.io.image import SkyImage, read_image, regrid, write_image
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation, join
from vlbi_files import antennas, crescent, raw_uvfits, rr_ll, track

from sciinv.errors import InputError, MismatchError

JD = 2457854.5


def close(a: Observation, b: Observation, uv=1e-6, vis=1e-6) -> None:
    assert len(a) == len(b) and [s.name for s in a.stations] == [s.name for s in b.stations]
    np.testing.assert_array_equal(a.a, b.a)
    np.testing.assert_array_equal(a.b, b.b)
    np.testing.assert_allclose(a.uv, b.uv, atol=uv * np.abs(a.uv).max())
    np.testing.assert_allclose(a.vis, b.vis, atol=vis * np.abs(a.vis).max())
    np.testing.assert_allclose(a.sigma, b.sigma, rtol=1e-6)
    np.testing.assert_allclose(a.time + 24 * a.mjd, b.time + 24 * b.mjd, atol=2e-6)
    np.testing.assert_allclose(a.tint, b.tint)


def two(path, tables=None, **how):
    """Two rows of baseline 1-2."""
    values, weights = how.pop("values", [[1 + 1j, 3 - 1j]] * 2), how.pop("weights", [[4.0, 1.0]] * 2)
    baselines = how.pop("baselines", [258.0, 258.0])
    days = how.pop("days", [[JD, JD], [0.25, 0.5]])
    uv = how.pop("uv", [[0.01, 0.02], [0.03, -0.01]])
    tables = [antennas([1, 2, 3])] if tables is None else tables
    return raw_uvfits(path, how.pop("data", rr_ll(values, weights)), baselines, uv, days, tables=tables, **how)


def test_stokes_i_time_and_wavelengths(tmp_path):
    obs = io.read(two(tmp_path / "a.uvfits"))
    np.testing.assert_allclose(obs.vis, 2.0)
    np.testing.assert_allclose(obs.sigma, 0.5 * np.sqrt(1 / 4 + 1))
    np.testing.assert_allclose(obs.u, [0.01 * 230e9, 0.03 * 230e9], rtol=1e-6)
    np.testing.assert_allclose(obs.v, [0.02 * 230e9, -0.01 * 230e9], rtol=1e-6)
    np.testing.assert_allclose(obs.time, [6, 12])
    assert obs.mjd == 57854 and obs.source == "TEST" and [s.name for s in obs.stations] == ["S1", "S2"]
    assert np.allclose(io.read(two(tmp_path / "b.uvfits"), conjugate=True).vis, obs.vis.conj())


@pytest.mark.parametrize(
    "dialect",
    [
        {"scale": 1 / 230e9},
        {"scale": 2.0, "zero": 0.5},
        {"names": ("UU---SIN", "VV---SIN", "WW---SIN")},
        {"names": ("UU-L-SIN", "VV-L-SIN", "WW-L-SIN")},
        {"dates": ("DATE", "_DATE")},
        {"dates": ("DATE",), "days": [[JD + 0.25, JD + 0.5]]},
        {"days": [[0.0, 0.0], [0.25, 0.5]]},
        {"days": [[-1e30, -1e30], [0.25, 0.5]]},
        {"baselines": [67586.0 + 0, 67586.0]},
        {"stokes": (-5, -1)},
    ],
    ids=["eht-scale", "zero", "sin", "ncp", "second-date", "one-date", "date-obs", "scrambled", "code-2048", "linear"],
)
def test_dialects_say_the_same(tmp_path, dialect):
    plain, other = io.read(two(tmp_path / "a.uvfits")), io.read(two(tmp_path / "b.uvfits", **dialect))
    day = 4e-3 if dialect.get("dates") == ("DATE",) else 1e-7  # one single-precision field holds a quarter of a day
    np.testing.assert_allclose(other.time, plain.time, atol=24 * day)
    np.testing.assert_allclose(other.uv, plain.uv, rtol=1e-5)
    np.testing.assert_allclose(other.vis, plain.vis)
    np.testing.assert_allclose(other.sigma, plain.sigma)
    assert [s.name for s in other.stations] == ["S1", "S2"] and other.mjd == plain.mjd


def test_many_antennas_and_subarrays(tmp_path):
    numbers = [3, 300]
    obs = io.read(two(tmp_path / "a.uvfits", [antennas(numbers)], baselines=[2048 * 3 + 300 + 65536.0] * 2))
    assert [s.name for s in obs.stations] == ["S3", "S300"]
    tables = [antennas([1, 2]), antennas([1, 2], ["X", "Y"], 2)]
    obs = io.read(two(tmp_path / "b.uvfits", tables, baselines=[258.0, 258.01]))
    assert [obs.stations[i].name for i in obs.a] == ["S1", "X"]
    named = [("ANTENNA1", [1, 2]), ("ANTENNA2", [2, 3]), ("SUBARRAY", [1, 1])]
    obs = io.read(two(tmp_path / "c.uvfits", baselines=[0.0, 0.0], extra=named))
    assert [(obs.stations[a].name, obs.stations[b].name) for a, b in zip(obs.a, obs.b, strict=True)] == [
        ("S1", "S2"), ("S2", "S3"),
    ]  # fmt: skip


def test_flags_single_hands_and_what_is_not_a_baseline(tmp_path):
    values = [[1, 3], [1, 3], [1, 3], [np.nan, 3], [1, 3], [1, 3]]
    weights = [[4, 0], [-1, 1], [np.inf, 4], [1, np.nan], [0, 0], [1, 1]]
    baselines = [258.0] * 5 + [257.0]
    days = [[JD] * 6, np.arange(6) / 10]
    uv = np.full((6, 2), 0.01)
    obs = io.read(two(tmp_path / "a.uvfits", values=values, weights=weights, baselines=baselines, days=days, uv=uv))
    np.testing.assert_allclose(obs.vis, [1, 3, 3])
    np.testing.assert_allclose(obs.sigma, [0.5, 1, 0.5])
    text = " ".join(obs.warnings)
    assert "one parallel hand" in text and "autocorrelation" in text and "flagged" in text


def test_bands_and_axes_in_another_order(tmp_path):
    from astropy.io import fits

    data = np.zeros((2, 1, 1, 2, 3, 1, 3))
    data[..., 0], data[..., 2] = np.arange(6).reshape(2, 3, 1), 1
    table = fits.BinTableHDU.from_columns(
        [fits.Column("FRQSEL", "1J", array=[1]), fits.Column("IF FREQ", "2D", array=[[0.0, 1e9]])], name="AIPS FQ"
    )
    tables = [antennas([1, 2]), table]
    obs = io.read(two(tmp_path / "a.uvfits", tables, data=data, stokes=(1, 1)))
    np.testing.assert_allclose(obs.frequency, 230e9 + np.array([0, 1e8, 2e8, 1e9, 1.1e9, 1.2e9]))
    np.testing.assert_allclose(obs.vis[:6], np.arange(6))
    np.testing.assert_allclose(obs.u[:6], 0.01 * np.array(obs.frequency), rtol=1e-6)
    turned = np.moveaxis(data, 3, 4)  # IF faster than FREQ
    axes = ("COMPLEX", "STOKES", "IF", "FREQ", "RA", "DEC")
    close(io.read(two(tmp_path / "b.uvfits", tables, data=turned, stokes=(1, 1), axes=axes)), obs)


def test_uvfits_round_trip(tmp_path):
    obs = crescent(gain=0.1, phases=True)
    back = io.read(io.write_uvfits(tmp_path / "a.uvfits", obs))
    close(back, obs)
    assert io.validate(tmp_path / "a.uvfits") == [] and io.find_reader(tmp_path / "a.uvfits") == "uvfits"
    assert back.stations == obs.stations and back.frequency == obs.frequency and back.ra == pytest.approx(obs.ra)
    high = dc.replace(obs, frequency=(229.0707e9,), u=obs.u * 229.0707 / 227.0707, v=obs.v * 229.0707 / 227.0707)
    both = join([obs, high])
    again = io.read(io.write_uvfits(tmp_path / "b.uvfits", both))
    order = np.lexsort((both.band, both.b, both.a, both.time))
    close(again.rows(np.lexsort((again.band, again.b, again.a, again.time.round(6)))), both.rows(order))
    assert len(closures(again, "phase")) == 2 * len(closures(obs, "phase"))
    with pytest.raises(MismatchError, match="twice"):
        io.write_uvfits(tmp_path / "c.uvfits", obs.rows(np.r_[0, 0]))
    with pytest.raises(MismatchError, match="different sources"):
        join([obs, dc.replace(obs, source="other")])


def test_oifits_round_trip_and_sign(tmp_path):
    from astropy.io import fits

    obs = crescent()
    path = io.write_oifits(tmp_path / "a.oifits", obs)
    close(io.read(path), obs, vis=1e-9)
    assert io.find_reader(path) == "oifits" and io.validate(path) == []
    with fits.open(path) as file:
        table, three = file["OI_VIS"].data, file["OI_T3"].data
        # OIFITS: exp(-2 pi i (u x + v y)) with u from the first station to the second; the same V
        np.testing.assert_allclose(table["UCOORD"] * obs.frequency[0] / 299792458.0, -obs.u)
        assert len(three) == len(closures(obs, "phase", "all"))
        phase = np.deg2rad(three["T3PHI"])
    np.testing.assert_allclose(
        np.exp(1j * phase), np.exp(1j * closures(obs, "phase", "all").values(obs.vis)), atol=1e-9
    )
    with fits.open(path) as file:
        fits.HDUList([h for h in file if h.name != "OI_VIS"]).writeto(tmp_path / "b.oifits")
    assert "no complex visibilities" in refused(lambda: io.read(tmp_path / "b.oifits"))
    with pytest.raises(InputError, match="which target"):
        io.read_oifits(path, target="NGC") if (double := _two_targets(path)) is None else io.read_oifits(double)


def _two_targets(path):
    from astropy.io import fits

    with fits.open(path) as file:
        rows = np.concatenate([file["OI_TARGET"].data, file["OI_TARGET"].data])
        rows["TARGET"][1] = "OTHER"
        file["OI_TARGET"].data = rows
        file.writeto(path.with_name("double.oifits"))
    return path.with_name("double.oifits")


def test_csv(tmp_path):
    text = (
        "#SRC:M87,DATE(MJD):57854,FREQ:227.0707GHz\n#time(UTC),T1,T2,U(lambda),V(lambda),Iamp(Jy),Iphase(d),Isigma(Jy)\n"
        "00.5,AA,PV,-4.0e9,-4.5e9,0.5,90.0,0.01\n00.5,AA,AP,1e6,0,1.0,0.0,0.02\n"
    )
    (tmp_path / "a.csv").write_text(text)
    obs = io.read(tmp_path / "a.csv")
    np.testing.assert_allclose(obs.vis, [0.5j, 1.0], atol=1e-12)
    assert obs.mjd == 57854 and obs.frequency == (227.0707e9,) and obs.ra is None
    assert io.validate(tmp_path / "a.csv") == []
    head, rest = text.splitlines()[0], text.splitlines()[1:]
    (tmp_path / "a.csv").write_text("\n".join([head, *(line.replace(",", "  ") for line in rest)]))
    assert len(io.read(tmp_path / "a.csv")) == 2
    (tmp_path / "a.csv").write_text(text + "1,2,3\n")
    assert "wrong number of values" in refused(lambda: io.read(tmp_path / "a.csv"))


def test_images_keep_north_up_and_flux(tmp_path):
    image = np.zeros((6, 8))
    image[0, 0], image[5, 2] = 2.0, 1.0  # north-east, south
    write_image(tmp_path / "a.fits", image, 2 * MICRO_ARCSECOND, ra=187.7, dec=12.4)
    back = read_image(tmp_path / "a.fits")
    np.testing.assert_allclose(back.data, image)
    assert back.pixel == pytest.approx(2 * MICRO_ARCSECOND) and (back.ra, back.dec) == (187.7, 12.4)
    from astropy.wcs import WCS

    wcs = WCS(str(tmp_path / "a.fits"))
    ra, dec = wcs.pixel_to_world_values(0, 5)  # FITS row 5 is the northern one
    assert dec > 12.4 and ra > 187.7
    fine = regrid(SkyImage(image, 1.0), 16, 0.5)
    assert fine.sum() == pytest.approx(3.0) and fine[2:4, :2].sum() == pytest.approx(2.0)
    np.save(tmp_path / "a.npy", image)
    np.testing.assert_allclose(read_image(tmp_path / "a.npy").data, image)
    np.save(tmp_path / "a.npy", image * np.nan)
    refused(lambda: read_image(tmp_path / "a.npy"), "NaN")


REFUSALS = {
    "no weights": ({"weights": [[0, 0], [0, 0]]}, "no usable visibility"),
    "moon": ({"uv": [[5.0, 1.0], [1.0, 1.0]]}, "longer than the way to the Moon"),
    "unknown antenna": ({"baselines": [263.0, 258.0]}, "not in the antenna table"),
    "cross hands only": ({"stokes": (-3, -1)}, "no parallel hands"),
    "no date": ({"days": [[1e9, 1e9], [1e9, 1e9]]}, "no Julian dates"),
    "no frequency": ({"frequency": 0.0}, "frequency is 0"),
    "two sources": ({"extra": [("SOURCE", [1, 2])]}, "several sources"),
    "twins": ({"tables": [antennas([1, 1])]}, "one number"),
    "huge": ({"values": [[1e20, 1e20]] * 2}, "impossibly bright"),
    "nan baseline": ({"uv": [[np.nan, 0.1], [0.1, 0.1]]}, "u is not finite"),
    "nan date": ({"days": [[JD, JD], [np.nan, 0.5]]}, "no Julian dates"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_lie_is_one_sentence(tmp_path, name):
    how, sentence = REFUSALS[name]
    path = two(tmp_path / "a.uvfits", **how)
    refused(lambda: io.read(path), sentence)
    assert len(io.validate(path)) == 1


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    refused(lambda: io.read(tmp_path / "a.txt"), "no reader recognises")
    write_image(tmp_path / "a.fits", np.ones((4, 4)), 1e-11)
    refused(lambda: io.read(tmp_path / "a.fits"), "no reader recognises")
    refused(lambda: io.read(tmp_path / "a.fits", format="uvfits"), "groups is missing")
    refused(lambda: io.read(tmp_path / "a.fits", format="oifits"), "OI_TARGET is missing")
    refused(lambda: io.read(tmp_path / "a.fits", format="x"), "no such format")


@pytest.mark.realdata
def test_real_files(real_data):
    folder = real_data / "vlbi" / "m87_2017"
    csv = io.read(folder / "SR1_M87_2017_101_lo_hops_netcal_StokesI.csv")
    obs = io.read(folder / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits")
    assert len(csv) == len(obs) == 7447 and "SR" not in [s.name for s in obs.stations]
    # the text holds 8 digits of amplitude and 4 of phase: an independent check of sign, units, sigma and order
    order, other = (
        np.lexsort((np.array([s.name for s in o.stations])[o.b], np.array([s.name for s in o.stations])[o.a],
                    np.round(o.time * 3600))) for o in (obs, csv)
    )  # fmt: skip
    np.testing.assert_allclose(obs.vis[order], csv.vis[other], atol=3e-6)
    np.testing.assert_allclose(obs.sigma[order], csv.sigma[other], atol=1e-7)
    np.testing.assert_allclose(obs.uv[order], csv.uv[other], atol=2e3)


COUNTS = {"095_hi": (168, 100, 171, 82, 285), "095_lo": (168, 100, 171, 82, 285), "101_hi": (223, 139, 268, 117, 594),
          "101_lo": (216, 134, 257, 113, 564)}  # fmt: skip


@pytest.mark.realdata
@pytest.mark.parametrize("name", COUNTS)
def test_closure_counts_of_real_nights(real_data, name):
    path = real_data / "vlbi" / "m87_2017" / f"SR1_M87_2017_{name}_hops_netcal_StokesI.uvfits"
    scan = average(io.read(path), "scan")
    found = [len(closures(scan, kind, count)) for kind in ("phase", "amplitude") for count in ("minimal", "all")]
    # day 101 as in eht-imaging; on day 095 it splits a scan in two and loses closures (benchmarks/vlbi_reader.py)
    assert (len(scan), *found) == COUNTS[name]


def test_info_is_plain(tmp_path):
    facts = io.describe(io.write_uvfits(tmp_path / "a.uvfits", crescent()))
    assert facts["source"] == "M87" and facts["visibilities"] == len(track()) and len(facts["stations"]) == 7
