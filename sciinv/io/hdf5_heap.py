"""Variable-length values of HDF5 read without the HDF5 library's conversion.

On disk such a value is a reference (length u32, collection address u64, object index u32) into a *global heap
collection* ("HDF5 File Format Specification" 3.0, section III.E). HDF5 allocates and clears what the length says before
it looks at the heap, so a 2 kB file can cost 16 GB and minutes; here a length counts only if the heap object exists and
is that long.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError

REFERENCE = 16  # bytes, with the 8-byte addresses that every HDF5 library of today writes


class Heap:
    """Global heap of one file, over a read-only memory map of it.

    Parameters
    ----------
    file
        The open file; used for its addressing, not to read values.
    path
        The file's path.
    """

    def __init__(self, file: h5py.File, path: str):
        self.name = path.rpartition("/")[2]
        if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
            raise self._refuse("variable-length values behind a user block are not read")
        with open(path, "rb") as stream:
            self.bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._collections: dict[int, dict[int, tuple[int, int]]] = {}
        self._budget = 64 + len(self.bytes) // 8  # overlapping collections cannot make the parse quadratic

    def close(self) -> None:
        self.bytes.close()

    def get(self, address: int, index: int, size: int) -> bytes:
        """Return the first `size` bytes of object `index` of the collection at `address`."""
        if size == 0:
            return b""
        objects = self._collections.get(address)
        if objects is None:
            objects = self._collections[address] = self._parse(address)
        start, length = objects.get(index, (0, -1))
        if size > length:
            raise self._refuse(
                "a variable-length value claims more than its heap holds",
                f"at most {max(length, 0):,} bytes",
                f"{size:,}",
            )
        return self.bytes[start : start + size]

    def _parse(self, address: int) -> dict[int, tuple[int, int]]:
        end_of_file = len(self.bytes)
        if not 0 < address <= end_of_file - 16 or self.bytes[address : address + 4] != b"GCOL":
            raise self._refuse("a variable-length value points at no heap", "a heap collection", f"address {address:,}")
        end = address + struct.unpack_from("<Q", self.bytes, address + 8)[0]
        if end > end_of_file:
            raise self._refuse("a heap is longer than the file", f"at most {end_of_file:,} bytes", f"{end:,}")
        objects: dict[int, tuple[int, int]] = {}
        place = address + 16
        while place + 16 <= end:
            index, size = struct.unpack_from("<H6xQ", self.bytes, place)
            if index == 0:  # the free space at the end
                break
            if place + 16 + size > end or self._budget <= 0:
                raise self._refuse("a heap is damaged")
            objects[index] = (place + 16, size)
            place += 16 + (size + 7 & ~7)
            self._budget -= 1
        return objects

    def elements(self, dataset: h5py.Dataset, path: str) -> NDArray[np.uint8]:
        """Raw on-disk bytes of every element, (element, byte); chunked or contiguous storage, no filter."""
        count, limit = int(dataset.size), len(self.bytes)
        # for text HDF5 reports the size of a pointer in memory, for a compound the size on disk
        width = REFERENCE if dataset.dtype.kind == "O" else dataset.id.get_type().get_size()
        plist = dataset.id.get_create_plist()
        if plist.get_nfilters() or dataset.ndim > 1:
            raise self._refuse(
                f"{path} is stored in a way that is not read", "one axis, no filter", hint="h5repack -f NONE"
            )
        out = np.zeros((count, width), np.uint8)
        if dataset.chunks is None:
            offset = dataset.id.get_offset()
            if offset is None or offset + count * width > limit:
                raise self._refuse(f"{path} is not stored inside the file")
            return np.frombuffer(self.bytes, np.uint8, count * width, offset).reshape(count, width)
        step = dataset.chunks[0]
        chunks: list[Any] = []

        def collect(info: Any) -> None:
            chunks.append(info)

        dataset.id.chunk_iter(collect)
        for info in chunks:
            first, offset, size = info.chunk_offset[0], info.byte_offset, info.size
            if size != step * width or offset is None or offset + size > limit or first >= count:
                raise self._refuse(f"a chunk of {path} lies outside the file")
            last = min(first + step, count)
            out[first:last] = np.frombuffer(self.bytes, np.uint8, (last - first) * width, offset).reshape(-1, width)
        return out

    def text_attribute(self, name: str) -> str | None:
        """Scalar text of the first attribute message called `name`, or None.

        The message (section IV.A.2.m) is looked for by its name; its sizes must fit together and its value must be in
        the heap.
        """
        key = name.encode() + b"\0"
        place = self.bytes.find(key)
        while place > 0:
            for version, back in ((1, 8), (3, 9)):
                start = place - back
                if start < 0 or self.bytes[start] != version:
                    continue
                sizes = struct.unpack_from("<3H", self.bytes, start + 2)
                round_up = 7 if version == 1 else 0
                value = place + sum(size + round_up & ~round_up for size in sizes)
                if sizes[0] != len(key) or max(sizes) > 256 or value + REFERENCE > len(self.bytes):
                    continue
                length, address, index = struct.unpack_from("<IQI", self.bytes, value)
                try:
                    return self.get(address, index, length).rstrip(b"\0").decode("utf-8", "replace")
                except InputError:
                    continue
            place = self.bytes.find(key, place + 1)
        return None

    def _refuse(self, what: str, expected: str = "", found: str = "", hint: str = "copy the file again") -> InputError:
        return InputError(what, where=self.name, expected=expected, found=found, hint=hint)
