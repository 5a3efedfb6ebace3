"""Asymptotically exact samplers: the law tends to the posterior as steps, sweeps or particles grow."""

from sciinv.samplers.exact.pnpdm import PnPDM
from sciinv.samplers.exact.sgs_smc import SGSSMC

__all__ = ["SGSSMC", "PnPDM"]
