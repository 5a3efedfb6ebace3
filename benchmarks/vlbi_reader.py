"""Our UVFITS reader, averages and closure counts against eht-imaging on real files: ``vlbi_reader.py --data DIR``.

DIR holds ``*.uvfits`` of the Event Horizon Telescope's releases, at any depth. Rows are matched by time and baseline
(eht-imaging may swap a baseline's ends); times agree to the resolution of the files' single-precision day fractions.
In a scan average eht-imaging gives a baseline that joins late a time of its own, and counts closures at equal times:
the scans it splits are named, and our closures are counted with the same split too.
"""

from __future__ import annotations

from _common import finish, need, table  # isort: skip - sets one thread before torch is imported

import argparse
import contextlib
import dataclasses as dc
import io
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sciinv_vlbi.averaging import average
from sciinv_vlbi.closures import closures
from sciinv_vlbi.io import read_uvfits
from sciinv_vlbi.observation import Observation

LIMIT = 1e-6


def theirs(path: Path) -> tuple[Any, Any, float]:
    """eht-imaging's observation, its scan average, and the CPU seconds of loading."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ehtim

        start = time.process_time()
        obs = ehtim.obsdata.load_uvfits(str(path))
        seconds = time.process_time() - start
        obs.add_scans()
        return obs, obs.avg_coherent(0, scan_avg=True), seconds


def rows(obs: Any, names: list[str]) -> dict[tuple[int, int, int], tuple[complex, float, float, float]]:
    """Visibility, sigma, u, v by (time in tenths of a second, station a, station b), a before b."""
    found = {}
    for d in obs.data:
        a, b = names.index(str(d["t1"])), names.index(str(d["t2"]))
        vis, u, v = complex(d["vis"]), float(d["u"]), float(d["v"])
        if a > b:
            a, b, vis, u, v = b, a, vis.conjugate(), -u, -v
        found[round(float(d["time"]) * 36000), a, b] = (vis, float(d["sigma"]), u, v)
    return found


def compare(path: Path) -> dict[str, Any]:
    """Differences of one file."""
    start = time.process_time()
    ours = read_uvfits(path)
    mine = time.process_time() - start
    obs, averaged, seconds = theirs(path)
    names = [s.name for s in ours.stations]
    other = rows(obs, names)
    gaps = np.zeros(3)
    missing = abs(len(other) - len(ours))
    for i in range(len(ours)):
        key = round(ours.time[i] * 36000)
        a, b = int(ours.a[i]), int(ours.b[i])
        swap = a > b
        pair = (b, a) if swap else (a, b)
        hit = next((other[k, *pair] for k in (key, key - 1, key + 1) if (k, *pair) in other), None)
        if hit is None:
            missing += 1
            continue
        vis = ours.vis[i].conj() if swap else ours.vis[i]
        u, v = (-ours.u[i], -ours.v[i]) if swap else (ours.u[i], ours.v[i])
        gap = [
            abs(vis - hit[0]),
            abs(ours.sigma[i] / hit[1] - 1),
            np.hypot(u - hit[2], v - hit[3]) / ours.distance.max(),
        ]
        gaps = np.maximum(gaps, gap)
    scan = average(ours, "scan")
    split = len(np.unique(averaged.data["time"])) - len(np.unique(scan.time))
    counts = [len(closures(scan, kind, count)) for kind, count in KINDS]  # type: ignore[arg-type]
    return {
        "name": path.name, "rows": len(ours), "missing": missing, "dV": gaps[0], "dsigma": gaps[1], "duv": gaps[2],
        "averages": [len(scan), len(averaged.data)], "split": split, "counts": counts, "theirs": counted(averaged),
        "like_theirs": [len(closures(_split(ours, scan), kind, count)) for kind, count in KINDS],  # type: ignore[arg-type]
        "seconds": [mine, seconds],
    }  # fmt: skip


KINDS = (("phase", "minimal"), ("phase", "all"), ("amplitude", "minimal"), ("amplitude", "all"))


def counted(obs: Any) -> list[int]:
    """Closures that eht-imaging finds."""
    with contextlib.redirect_stdout(io.StringIO()):
        return [
            *(len(obs.c_phases(count=c)) for c in ("min", "max")),
            *(len(obs.c_amplitudes(count=c, ctype="logcamp")) for c in ("min", "max")),
        ]


def _split(obs: Observation, scan: Observation) -> Observation:
    """The average with each baseline at the time of its own first row, as eht-imaging has it."""
    first = np.empty(len(scan))
    middle = np.unique(scan.time)
    nearest = middle[np.abs(obs.time[:, None] - middle).argmin(1)]
    for i in range(len(scan)):
        pair = ((obs.a == scan.a[i]) & (obs.b == scan.b[i])) | ((obs.b == scan.a[i]) & (obs.a == scan.b[i]))
        first[i] = obs.time[pair & (nearest == scan.time[i])].min()
    return dc.replace(scan, time=first, tint=np.full(len(scan), 10.0))


def main() -> None:
    """Compare every file and report the worst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of UVFITS files")
    folder = parser.parse_args().data
    need("ehtim")
    results = [compare(path) for path in sorted(folder.rglob("*.uvfits"))]
    if not results:
        parser.error(f"no UVFITS file in {folder}")
    table(
        ["file", "rows", "missing", "max |dV|, Jy", "max dsigma/sigma", "averages", "CPU s ours, theirs"],
        [[r["name"][:40], r["rows"], r["missing"], r["dV"], r["dsigma"], r["averages"], r["seconds"]] for r in results],
    )
    table(
        ["file", "closures, ours", "eht-imaging's", "scans it splits", "ours, split alike"],
        [[r["name"][:40], r["counts"], r["theirs"], r["split"], r["like_theirs"]] for r in results],
    )
    ok = all(r["missing"] == 0 and max(r["dV"], r["dsigma"]) < LIMIT for r in results)
    same = all(r["counts"] == r["theirs"] for r in results if r["split"] == 0)
    figures = {
        "max_dvis_njy": 1e9 * max(r["dV"] for r in results), "max_dsigma_ppm": 1e6 * max(r["dsigma"] for r in results),
        "files": len(results), "rows": sum(r["rows"] for r in results), "counts_equal_where_not_split": same,
    }  # fmt: skip
    finish(figures, ok and same)


if __name__ == "__main__":
    main()
