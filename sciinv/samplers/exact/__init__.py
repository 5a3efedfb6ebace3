"""Asymptotically exact samplers: the law tends to the posterior as steps, sweeps or particles grow."""

from sciinv.samplers.exact.pnpdm import PnPDM

__all__ = ["PnPDM"]
