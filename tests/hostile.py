"""What it means that a file is refused: one sentence, its exit code, little time and little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from sciinv.errors import InputError


def refused(action, *parts: str) -> str:
    """The action raises an InputError that names the file and allocates little; returns the message."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(InputError) as caught:
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert caught.value.exit_code == 3 and caught.value.where and "\n" not in message
    for part in parts:
        assert part in message, message
    assert peak < 64 << 20 and time.process_time() - start < 5
    return message
