"""Explicit approximations of the measurement score: one closed-form guess of ``p(y | x_t)`` a method."""

from sciinv.samplers.explicit.ambient_dps import AmbientDPS
from sciinv.samplers.explicit.ccdf import CCDF
from sciinv.samplers.explicit.daps import DAPS
from sciinv.samplers.explicit.ddnm import DDNM
from sciinv.samplers.explicit.ddnm_plus import DDNMPlus
from sciinv.samplers.explicit.ddrm import DDRM
from sciinv.samplers.explicit.dds import DDS
from sciinv.samplers.explicit.diffpir import DiffPIR
from sciinv.samplers.explicit.dps import DPS
from sciinv.samplers.explicit.dsg import DSG
from sciinv.samplers.explicit.ilvr import ILVR
from sciinv.samplers.explicit.implicit_denoiser import ImplicitDenoiser
from sciinv.samplers.explicit.lgd import LGD
from sciinv.samplers.explicit.mcg import MCG
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.samplers.explicit.mpgd import MPGD
from sciinv.samplers.explicit.pigdm import PiGDM
from sciinv.samplers.explicit.repaint import RePaint
from sciinv.samplers.explicit.repaint_pp import RePaintPP
from sciinv.samplers.explicit.score_ald import ScoreALD
from sciinv.samplers.explicit.score_sde import ScoreSDE
from sciinv.samplers.explicit.snips import SNIPS
from sciinv.samplers.explicit.tmpd import TMPD

__all__ = [
    "CCDF",
    "DAPS",
    "DDNM",
    "DDRM",
    "DDS",
    "DPS",
    "DSG",
    "ILVR",
    "LGD",
    "MCG",
    "MMPS",
    "MPGD",
    "SNIPS",
    "TMPD",
    "AmbientDPS",
    "DDNMPlus",
    "DiffPIR",
    "ImplicitDenoiser",
    "PiGDM",
    "RePaint",
    "RePaintPP",
    "ScoreALD",
    "ScoreSDE",
]
