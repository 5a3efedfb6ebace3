"""Samplers, one file a method; the file's stem is the method's name. `METHODS` is the registry."""

from sciinv.samplers.base import Guided, Sampler, State, sample
from sciinv.samplers.exact import DDSMC, FPS, FPSSMC, SGSSMC, TDS, MCGDiff, PnPDM, SMCDiff
from sciinv.samplers.explicit import DPS, MMPS

METHODS: dict[str, type[Sampler]] = {
    cls.name: cls
    for cls in (
        PnPDM,
        SGSSMC,
        MCGDiff,
        TDS,
        DDSMC,
        FPSSMC,
        FPS,
        SMCDiff,
        MMPS,
        DPS,
    )
}

__all__ = ["METHODS", "Guided", "Sampler", "State", "sample"]
