"""Asymptotically exact samplers: the law tends to the posterior as steps, sweeps or particles grow."""

from sciinv.samplers.exact.ddsmc import DDSMC
from sciinv.samplers.exact.dpnp import DPnP
from sciinv.samplers.exact.fps import FPS
from sciinv.samplers.exact.fps_smc import FPSSMC
from sciinv.samplers.exact.mcgdiff import MCGDiff
from sciinv.samplers.exact.pmc import PMC
from sciinv.samplers.exact.pnpdm import PnPDM
from sciinv.samplers.exact.sgs_smc import SGSSMC
from sciinv.samplers.exact.sgs_tempered import SGSTempered
from sciinv.samplers.exact.smcdiff import SMCDiff
from sciinv.samplers.exact.tds import TDS

__all__ = ["DDSMC", "FPS", "FPSSMC", "PMC", "SGSSMC", "TDS", "DPnP", "MCGDiff", "PnPDM", "SGSTempered", "SMCDiff"]
