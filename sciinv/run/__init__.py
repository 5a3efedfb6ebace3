"""One run: file in, posterior maps, samples, report and provenance out; killed at any moment, the same command goes on.

The order is in `flow`; the parts: `plan` (what will be computed), `tasks` (computing it, one atomic file at a time),
`reduce` (joining in order), `outputs` (writing), `signals` (stopping), `guard` (sizes).
"""

from __future__ import annotations

from sciinv.run.flow import Outcome, reconstruct, resume

__all__ = ["Outcome", "reconstruct", "resume"]
