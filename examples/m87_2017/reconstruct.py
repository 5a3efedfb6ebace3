"""M87 in April 2017, both bands: ``reconstruct.py DATA OUT [--day 101] [words of sciinv reconstruct]``.

DATA holds the EHT's ``SR1_M87_2017_DAY_{lo,hi}_hops_netcal_StokesI.uvfits`` at any depth. The two bands are written as
one file, ``OUT.uvfits``; then one command does the rest, which is printed before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from sciinv_vlbi.io import join, read, write_uvfits

from sciinv.cli import main

# 0.6 Jy is the compact flux of the EHT's first paper on the image (ApJL 875, L4): the short baselines see twice that
SETTINGS = ("--set", "vlbi.flux=0.6", "--samples", "64")


def both_bands(data: Path, day: str, out: Path) -> Path:
    """Write low and high band as one file with two IFs; closures never mix them."""
    found = []
    for band in ("lo", "hi"):
        name = f"SR1_M87_2017_{day}_{band}_hops_netcal_StokesI.uvfits"
        path = next(data.rglob(name), None)
        if path is None:
            sys.exit(f"{name} is not under {data}: see README.md for where it comes from")
        found.append(read(path))
    return write_uvfits(out, join(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--day", default="101", choices=("095", "096", "100", "101"))
    given, more = parser.parse_known_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    file = both_bands(given.data, given.day, given.out.with_name(given.out.name + ".uvfits"))
    words = ["reconstruct", str(file), "-o", str(given.out), *SETTINGS, *more]
    sys.stderr.write(f"sciinv {shlex.join(words)}\n")
    sys.exit(main(words))
