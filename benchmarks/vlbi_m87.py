"""The posterior of M87 on 2017 April 11, or April 5: ``vlbi_m87.py --data DIR --prior FILE``.

DIR holds the EHT's ``SR1_M87_2017_DAY_{lo,hi}_hops_netcal_StokesI.uvfits`` at any depth, and may hold images of peers
(``m87_DAY*.fits``) to compare with. Both bands are imaged together, as by ``sciinv reconstruct`` of one file of both.
Samples fall into islands by their number: R-hat of the ring parameters is taken over them.
"""

from __future__ import annotations

from _common import finish, options, table  # isort: skip - sets one thread before torch is imported

import argparse
import dataclasses as dc
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sciinv_vlbi import DOMAIN, io
from sciinv_vlbi.align import likeness
from sciinv_vlbi.observation import MICRO_ARCSECOND
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import problem
from sciinv_vlbi.rings import ring_parameters
from sciinv_vlbi.science import centred
from torch import Tensor

from sciinv.config import build
from sciinv.operator import power
from sciinv.priors.checkpoint import load_prior
from sciinv.problem import Problem
from sciinv.run.reduce import equal_draws
from sciinv.samplers import METHODS, sample
from sciinv.samplers.smc import ess
from sciinv.samples import Samples

FIELD = 128.0


def draw(data: Problem, prior: Path, method: str, settings: dict[str, Any], samples: int, seed: int) -> Samples:
    """Posterior samples, equally weighted."""
    network = load_prior(prior).at(tuple(data.domain.shape[1:]))
    settings = {**DOMAIN.method_settings(method, {"products": list(data.meta["products"])}), **settings}
    out = sample(build(METHODS[method], settings, method), data, network, samples, seed, chunk=32)
    if out.log_w is None:
        return out
    kept = equal_draws(out.log_w, samples, seed, 0)
    return dc.replace(out, x=out.x[kept], log_w=None, provenance={**out.provenance, "ess": float(ess(out.log_w))})


def by_product(data: Problem, x: Tensor) -> dict[str, Tensor]:
    """Mean squared whitened residual of each product, per sample."""
    r = data.y - data.operator(x)
    return {name: power(r[:, a:b]).mean(1) for name, (a, b) in data.meta["products"].items()}


def rhat(values: np.ndarray, islands: int) -> float:
    """Potential scale reduction of one summary over islands of independent samples."""
    part = values[: len(values) // islands * islands].reshape(islands, -1)
    within, between = part.var(1, ddof=1).mean(), part.mean(1).var(ddof=1)
    return float(np.sqrt((part.shape[1] - 1) / part.shape[1] + between / within))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--day", choices=("101", "095"), default="101", help="April 11, or April 5")
    parser.add_argument("--method", default="pnpdm")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--islands", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1905)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the method")
    parser.add_argument("--vlbi", nargs="*", default=[], help="options of the data, such as products=[cphase,logamp]")
    parser.add_argument("--out", type=Path, help="write the samples here (.npy)")
    given = parser.parse_args()
    names = [f"SR1_M87_2017_{given.day}_{band}_hops_netcal_StokesI.uvfits" for band in ("lo", "hi")]
    files = [next(given.data.rglob(name)) for name in names]
    night = io.join([io.read(file) for file in files])
    chosen = build(VLBIOptions, {"flux": 0.6, "fov": FIELD, **options(given.vlbi)}, "vlbi")
    start = time.process_time()
    data = problem(night, 0, chosen)
    out = draw(data, given.prior, given.method, options(given.set), given.samples, given.seed)
    seconds = time.process_time() - start
    if given.out:
        np.save(given.out, out.x.numpy())
    # both closures, whatever the likelihood was made of
    closed = problem(night, 0, dc.replace(chosen, products=("cphase", "logcamp")))
    chi2 = by_product(closed, out.x)
    images = centred(out.x, data.meta)[:, 0]
    rings = ring_parameters(images, FIELD / data.domain.shape[-1])
    table(
        ("ring", "16 %", "median", "84 %", "R-hat"),
        [(k, *np.percentile(v, [16, 50, 84]).tolist(), rhat(v, given.islands)) for k, v in rings.items()],
    )
    peers = {}
    for file in sorted(given.data.rglob(f"m87_{given.day}*.fits")):
        n = images.shape[-1]
        image = io.regrid(io.read_image(file), n, FIELD / n * MICRO_ARCSECOND)
        peers[f"ncc_{file.stem}"] = float(likeness(images.mean(0)[None], torch.from_numpy(image), FIELD / n)[0])
    figures = {
        "chi2_cphase": float(chi2["cphase"].mean()), "chi2_logcamp": float(chi2["logcamp"].mean()),
        "both_below_1.5": float(((chi2["cphase"] < 1.5) & (chi2["logcamp"] < 1.5)).double().mean()),
        "diameter_uas": float(np.median(rings["diameter"])), "diameter_sd": float(rings["diameter"].std()),
        "width_uas": float(np.median(rings["width"])),
        "position_angle": float(np.median(rings["position_angle"])),
        "rhat_diameter": rhat(rings["diameter"], given.islands), "rhat_width": rhat(rings["width"], given.islands),
        **peers, "samples": len(out.x), "effective": out.provenance.get("ess", len(out.x)), "cpu_seconds": seconds,
        "network_calls": out.provenance["network_calls"] + out.provenance["network_vjps"],
    }  # fmt: skip
    figures |= {k: v for k, v in out.provenance.items() if k.startswith(("log_evidence", "ancestors"))}
    good = figures["chi2_cphase"] <= 1.3 and figures["chi2_logcamp"] <= 1.3 and abs(figures["diameter_uas"] - 42) <= 3
    finish(figures, bool(good))


if __name__ == "__main__":
    main()
