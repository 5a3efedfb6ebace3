"""Two hundred damaged files of each VLBI format, and FITS headers that lie about sizes."""

import numpy as np
import pytest
from hostile import read_or_validate, refused, survives_mutations
from sciinv_vlbi import io
from vlbi_files import crescent, track

from sciinv.io.safe_fits import open_fits, scan_fits


def original(folder, name):
    obs = crescent(track(hours=2, step=1200))
    if name == "csv":
        rows = [f"{t},S{a},S{b},{u},{v},{abs(z)},{np.angle(z, deg=True)},{s}" for t, a, b, u, v, z, s in
                zip(obs.time, obs.a, obs.b, obs.u, obs.v, obs.vis, obs.sigma, strict=True)]  # fmt: skip
        (folder / "a").write_text("#SRC:M87,DATE(MJD):57854,FREQ:227.0707GHz\n" + "\n".join(rows))
        return folder / "a"
    return {"uvfits": io.write_uvfits, "oifits": io.write_oifits}[name](folder / "a", obs)


@pytest.mark.parametrize("name", ["uvfits", "oifits", "csv"])
def test_two_hundred_mutations_raise_nothing_but_our_errors(tmp_path, name):
    data = original(tmp_path, name).read_bytes()
    form = "eht-csv" if name == "csv" else name
    survives_mutations(
        tmp_path / "b", data, read_or_validate(io, form), start=lambda index: (index * 977) % 8000 * (name != "csv")
    )


def edited(path, key, value):
    """The same file with one card replaced."""
    raw = bytearray(path.read_bytes())
    place = raw.index(key.ljust(8).encode() + b"=")
    raw[place : place + 80] = f"{key:<8}= {value:>20}".ljust(80).encode()
    path.write_bytes(raw)


LIES = {
    "GCOUNT": ("999999999999", "shorter than its header says"),
    "PCOUNT": ("-1", "PCOUNT is impossible"),
    "NAXIS3": ("1099511627776", "shorter than its header says"),
    "BITPIX": ("17", "BITPIX is impossible"),
    "NAXIS": ("999", "NAXIS is impossible"),
    "GROUPS": ("F", "groups is missing"),
    "PSCAL1": ("1E300", "not finite"),
    "CRVAL4": ("'many'", "frequency is no number"),
}


@pytest.mark.parametrize("key", LIES)
def test_lying_headers_cost_nothing(tmp_path, key):
    path = original(tmp_path, "uvfits")
    edited(path, key, LIES[key][0])
    refused(lambda: io.read(path, format="uvfits"), LIES[key][1])


def test_the_opener_refuses_what_is_not_plain_fits(tmp_path):
    path = original(tmp_path, "uvfits")
    units = scan_fits(path)
    assert [u.kind for u in units] == ["groups", "bintable", "bintable"] and units[1].name == "AIPS AN"
    with open_fits(path) as (seen, opened):
        assert len(seen) == len(opened) == 3
    refused(lambda: scan_fits(path, max_bytes=1000), "more memory than allowed")
    raw = path.read_bytes()
    for data, sentence in (
        (b"\x1f\x8b" + raw, "compressed"), (b"nonsense" * 1000, "no FITS"), (raw[:2000], "no end"),
        (raw[: units[0].start + 100], "shorter"), (raw[: units[1].start - 100], "no end"),
        (b"SIMPLE  =                    T".ljust(80) + b" " * (3 << 20), "too long"),
    ):  # fmt: skip
        path.write_bytes(data)
        refused(lambda: scan_fits(path), sentence)
    small = b"".join(c.ljust(80) for c in (b"XTENSION= 'IMAGE   '", b"BITPIX  =  8", b"NAXIS   =  0", b"END")).ljust(
        2880
    )
    path.write_bytes(raw + small * 300)
    refused(lambda: scan_fits(path), "too many units")
