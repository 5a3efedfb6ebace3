"""Samplers, one file a method; the file's stem is the method's name. `METHODS` is the registry."""

from sciinv.samplers.base import Guided, Sampler, State, sample
from sciinv.samplers.exact import DDSMC, FPS, FPSSMC, PMC, SGSSMC, TDS, DPnP, MCGDiff, PnPDM, SGSTempered, SMCDiff
from sciinv.samplers.explicit import (
    CCDF,
    DAPS,
    DDNM,
    DDRM,
    DDS,
    DPS,
    DSG,
    ILVR,
    LGD,
    MCG,
    MMPS,
    MPGD,
    SNIPS,
    TMPD,
    AmbientDPS,
    DDNMPlus,
    DiffPIR,
    ImplicitDenoiser,
    PiGDM,
    RePaint,
    RePaintPP,
    ScoreALD,
    ScoreSDE,
)

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
        PiGDM,
        TMPD,
        DSG,
        LGD,
        MPGD,
        DDS,
        DiffPIR,
        ImplicitDenoiser,
        ScoreALD,
        ScoreSDE,
        RePaint,
        RePaintPP,
        ILVR,
        MCG,
        SNIPS,
        DDRM,
        DDNM,
        DDNMPlus,
        CCDF,
        AmbientDPS,
    )
}

__all__ = ["METHODS", "Guided", "Sampler", "State", "sample"]
