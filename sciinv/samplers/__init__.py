"""Samplers, one file a method; the file's stem is the method's name. `METHODS` is the registry."""

from sciinv.samplers.base import Guided, Sampler, State, sample
from sciinv.samplers.exact import DDSMC, FPS, FPSSMC, PMC, SGSSMC, TDS, DPnP, MCGDiff, PnPDM, SGSTempered, SMCDiff
from sciinv.samplers.explicit import DAPS, DPS, MMPS

METHODS: dict[str, type[Sampler]] = {
    cls.name: cls
    for cls in (
        PnPDM,
        SGSSMC,
        SGSTempered,
        DPnP,
        PMC,
        MCGDiff,
        TDS,
        DDSMC,
        FPSSMC,
        FPS,
        SMCDiff,
        MMPS,
        DPS,
        DAPS,
    )
}

__all__ = ["METHODS", "Guided", "Sampler", "State", "sample"]
