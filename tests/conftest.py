"""Shared switches of the suite: one thread, no display, real data and long runs only where asked for.

`realdata` tests read the measurements at ``$SCIINV_DATA``, else at ``../shared/data`` beside the project, and are
skipped with that reason where there are none. `slow` tests run with ``--run-slow`` only.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# timing-based failures and run-to-run differences would make the suite lie on a loaded machine
hypothesis.settings.register_profile("sciinv", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sciinv")
torch.set_num_threads(1)


def data_dir() -> Path:
    """Where real measurements would be, whether or not they are there."""
    return Path(os.environ.get("SCIINV_DATA") or ROOT.parent / "shared" / "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run long statistical tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_data = pytest.mark.skip(reason=f"no real data at {data_dir()} (set SCIINV_DATA)")
    no_slow = pytest.mark.skip(reason="long statistical run (give --run-slow)")
    have_data = data_dir().is_dir()
    for item in items:
        if "realdata" in item.keywords and not have_data:
            item.add_marker(no_data)
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(no_slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's source tree, also when the installed wheel is what is tested."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real measurements; for tests marked `realdata`."""
    return data_dir()
