"""What it means that a file is refused: one sentence, its exit code, little time and memory; and damaged files."""

from __future__ import annotations

import struct
import time
import tracemalloc

import numpy as np
import pytest

from sciinv.errors import InputError, SciinvError


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


def mutated(data: bytes, index: int) -> bytes:
    """The same bytes with damage that depends on the index alone."""
    rng = np.random.default_rng([20240, index])
    raw = bytearray(data)
    kind = index % 5
    head = min(len(raw), 600 if index % 2 else len(raw))  # half of the damage goes to the header
    if kind == 0:  # a few bytes changed
        for place in rng.integers(0, head, rng.integers(1, 9)):
            raw[place] = int(rng.integers(0, 256))
    elif kind == 1:  # cut short
        raw = raw[: int(rng.integers(1, len(raw)))]
    elif kind == 2:  # a number replaced by an extreme one
        place = int(rng.integers(0, max(1, head - 8)))
        word = [
            b"\xff" * 8,
            b"\x00" * 8,
            struct.pack("<q", 2**62),
            struct.pack("<i", -1) * 2,
            struct.pack("<d", float("nan")),
        ]
        raw[place : place + 8] = word[rng.integers(0, len(word))]
    elif kind == 3:  # a piece moved over another
        size = int(rng.integers(1, 65))
        a, b = (int(place) for place in rng.integers(0, max(1, len(raw) - size), 2))
        raw[a : a + size] = raw[b : b + size]
    else:  # one bit
        place = int(rng.integers(0, head))
        raw[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(raw)


def survives_mutations(target, data: bytes, attempt, start=lambda index: 0, least: int = 30) -> None:
    """Two hundred damaged copies of a file raise nothing but our errors, some of them, and quickly.

    ``attempt(path, index)`` may return whether it found errors itself; half of the damage of `mutated` goes to the
    first 600 bytes, and ``start(index)`` shifts it.
    """
    bad, errors, slowest = [], 0, 0.0
    for index in range(200):
        first = start(index)
        target.write_bytes(data[:first] + mutated(data[first:], index))
        begin = time.process_time()
        try:
            errors += bool(attempt(target, index))
        except SciinvError as error:
            errors += 1
            assert error.exit_code in (2, 3) and "\n" not in str(error)
        except Exception as error:
            bad.append((index, repr(error)))
        slowest = max(slowest, time.process_time() - begin)
    assert not bad
    assert errors > least, "the mutations are too mild to test anything"
    assert slowest < 5


def read_or_validate(io, form: str):
    """An attempt that validates every other file and reads the others."""

    def attempt(path, index: int) -> bool:
        if index % 2:
            return bool(io.validate(path, format=form))
        io.read(path, format=form).info()
        if index % 8 == 0:
            assert all(isinstance(reader.sniff(path), bool) for reader in io.READERS.values())
        return False

    return attempt
