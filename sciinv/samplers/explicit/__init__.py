"""Explicit approximations of the measurement score: one closed-form guess of ``p(y | x_t)`` a method."""

from sciinv.samplers.explicit.daps import DAPS
from sciinv.samplers.explicit.dps import DPS
from sciinv.samplers.explicit.mmps import MMPS

__all__ = ["DAPS", "DPS", "MMPS"]
