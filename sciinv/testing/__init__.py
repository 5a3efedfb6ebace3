"""The contract kit: what every operator, prior and sampler must satisfy, ours and third parties' alike.

Each ``check_*`` returns ``None`` or raises `AssertionError` saying which promise was broken, by how much, and what
was allowed.
"""

from sciinv.testing.fake import FakeCuda
from sciinv.testing.laws import ProbeRng, affine_law, mean_cov_error, moments, sampling_floor
from sciinv.testing.operators import check_operator
from sciinv.testing.priors import check_prior
from sciinv.testing.samplers import MemoryStore, check_sampler

__all__ = [
    "FakeCuda",
    "MemoryStore",
    "ProbeRng",
    "affine_law",
    "check_operator",
    "check_prior",
    "check_sampler",
    "mean_cov_error",
    "moments",
    "sampling_floor",
]
