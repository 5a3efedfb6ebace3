"""Files of VLBI: readers (`READERS`), what is in a file (`describe`), what is wrong (`validate`), and writers."""

from __future__ import annotations

from sciinv.io.formats import Format, Formats
from sciinv_vlbi.io.eht_csv import read_csv, sniff_csv, view_csv
from sciinv_vlbi.io.image import SkyImage, read_image, regrid, write_image
from sciinv_vlbi.io.oifits import read_oifits, sniff_oifits, view_oifits
from sciinv_vlbi.io.oifits_out import write_oifits
from sciinv_vlbi.io.uvfits import read_uvfits, sniff_uvfits, view_uvfits
from sciinv_vlbi.io.uvfits_out import write_uvfits
from sciinv_vlbi.observation import Observation, Station, join

READERS: dict[str, Format] = {
    "uvfits": Format(sniff_uvfits, read_uvfits, "uvfits", view_uvfits),
    "oifits": Format(sniff_oifits, read_oifits, "oifits", view_oifits),
    "eht-csv": Format(sniff_csv, read_csv, "eht-csv", view_csv),
}
FORMATS = Formats(READERS)
find_reader, read, describe, validate = FORMATS.find_reader, FORMATS.read, FORMATS.describe, FORMATS.validate

__all__ = [
    "FORMATS",
    "READERS",
    "Observation",
    "SkyImage",
    "Station",
    "describe",
    "find_reader",
    "join",
    "read",
    "read_csv",
    "read_image",
    "read_oifits",
    "read_uvfits",
    "regrid",
    "validate",
    "write_image",
    "write_oifits",
    "write_uvfits",
]
