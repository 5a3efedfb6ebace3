"""HDF5 opened as if the sender were hostile.

HDF5 may, by design, hand out bytes of *other* files (external storage, external links, virtual datasets), load native
code (filter plugins) and claim any size. A scanner file needs none of that, so all of it is refused: every path
component is looked at as a link before it is followed (a link in the middle of a path is as bad as one at its end).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # read once by the HDF5 library: no plugin is ever loaded from disk

import h5py
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.hdf5_heap import Heap
from sciinv.io.limits import MAX_TEXT, SMALL, check_claim, check_file, default_max_bytes, reading
from sciinv.io.spec import FieldView, HeaderView, dtype_class

MAX_LINKS = 8
MAX_CHILDREN = 10_000
MAX_ATTRIBUTE = 1 << 20
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}


class Hdf5File:
    """A read-only HDF5 file whose links, storage, filters and sizes are checked before use; a context manager.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Largest array that may be read (default: the smaller of 16 GB and half of the memory).
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None):
        self.path = check_file(path)
        self.max_bytes = default_max_bytes() if max_bytes is None else max_bytes
        with reading(self.path, "HDF5"):
            self._file = h5py.File(self.path, "r", locking=False)
        self._heap: Heap | None = None

    def __enter__(self) -> Hdf5File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with reading(self.path, "HDF5"):
            self._file.close()
            if self._heap is not None:
                self._heap.close()

    def find(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """Return the object at an absolute `path` inside this file, or None; refuse any link out of the file."""
        with reading(self.path, "HDF5"):
            return self._walk(path.split("/"), 0)

    def _walk(self, parts: list[str], links: int) -> Any:
        node: Any = self._file
        done: list[str] = []
        for position, part in enumerate(parts):
            if part in ("", "."):
                continue
            if not isinstance(node, h5py.Group):
                return None
            link = node.get(part, default=None, getlink=True)
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                raise self._refuse(
                    "/".join(["", *done, part]), "a link into another file is refused", "data inside this file"
                )
            if isinstance(link, h5py.SoftLink):
                if links >= MAX_LINKS:
                    raise self._refuse(
                        "/".join(["", *done, part]), "links point in a circle", f"at most {MAX_LINKS} links"
                    )
                target = link.path.split("/")
                start = [] if link.path.startswith("/") else done
                return self._walk([*start, *target, *parts[position + 1 :]], links + 1)
            node = node[part]
            done.append(part)
        return node

    def children(self, path: str = "/") -> list[str]:
        """Names in a group, sorted; empty when `path` is no group."""
        group = self.find(path)
        if not isinstance(group, h5py.Group):
            return []
        with reading(self.path, "HDF5"):
            if len(group) > MAX_CHILDREN:
                raise self._refuse(
                    path, "the group holds too many objects", f"at most {MAX_CHILDREN:,}", f"{len(group):,}"
                )
            return sorted(group.keys())

    def dataset(self, path: str) -> h5py.Dataset:
        """Return the dataset at `path` after checking its storage, filters and size; raise `InputError` if absent."""
        node = self.find(path)
        if not isinstance(node, h5py.Dataset):
            found = "nothing" if node is None else "a group"
            raise self._refuse(
                path, "the dataset is missing", "a dataset", found, "check the format with `sciinv info`"
            )
        with reading(self.path, "HDF5"):
            self._check(node, path)
        return node

    def _check(self, dataset: h5py.Dataset, path: str) -> None:
        if dataset.shape is None:
            raise self._refuse(path, "the dataset is empty", "an array")
        if dataset.is_virtual:
            raise self._refuse(path, "a virtual dataset (data in other files) is refused", "data inside this file")
        if dataset.external:
            raise self._refuse(path, "external storage (bytes of another file) is refused", "data inside this file")
        plist = dataset.id.get_create_plist()
        for index in range(plist.get_nfilters()):
            code = plist.get_filter(index)[0]
            if code not in FILTERS:
                names = ", ".join(FILTERS.values())
                raise self._refuse(
                    path, "the compression filter is not allowed", names, f"filter {code}", "h5repack the file"
                )
        # python integers: h5py's own product overflows on a lying shape
        nbytes = math.prod(map(int, dataset.shape)) * dataset.dtype.itemsize
        where = f"{self.path.name}:{path}"
        stored, size = int(dataset.id.get_storage_size()), self.path.stat().st_size
        if stored > size:  # the index of chunks lies too, and HDF5 would allocate what it says
            raise self._refuse(
                path, "the dataset claims more storage than the file has", f"at most {size:,} bytes", f"{stored:,}"
            )
        check_claim(nbytes, stored, where=where, max_bytes=self.max_bytes)
        if dataset.chunks is not None:
            chunk = math.prod(map(int, dataset.chunks)) * dataset.dtype.itemsize
            if chunk > max(16 * SMALL, 4 * nbytes):
                raise self._refuse(
                    path, "one chunk is far larger than the dataset", f"at most {4 * nbytes:,} bytes", f"{chunk:,}"
                )

    def _check_chunks(self, dataset: h5py.Dataset, path: str) -> None:
        """Check the index of chunks: HDF5 2.0 reads out of bounds when a chunk is shorter than its own checksum."""
        if dataset.chunks is None:
            return
        size, full = self.path.stat().st_size, math.prod(dataset.chunks) * dataset.dtype.itemsize
        packed = dataset.id.get_create_plist().get_nfilters() > 0
        low, high = (8, full + full // 64 + 1024) if packed else (full, full)
        bad: list[Any] = []

        def look(info: Any) -> None:
            if not low <= info.size <= high or info.byte_offset is None or info.byte_offset + info.size > size:
                bad.append(info)

        dataset.id.chunk_iter(look)
        if bad:
            raise self._refuse(
                path, "the index of chunks is damaged", f"{low:,} to {high:,} bytes inside the file", str(bad[0].size)
            )

    def array(self, path: str, selection: Any = ()) -> NDArray[Any]:
        """Read a numeric dataset, or a part of it, as a NumPy array."""
        dataset = self.dataset(path)
        if dataset.dtype.hasobject:
            raise self._refuse(path, "the dataset holds variable-length values", "numbers", str(dataset.dtype))
        with reading(self.path, "HDF5"):
            if not sound_type(dataset.dtype, dataset.id.get_type()):
                raise self._refuse(
                    path, "the numbers are of no standard type", "integers, floats, complex", str(dataset.dtype)[:80]
                )
            self._check_chunks(dataset, path)
            return np.asarray(dataset[selection])

    def text(self, path: str, limit: int = MAX_TEXT) -> str:
        """Read one string (fixed or variable length) of at most `limit` bytes."""
        dataset = self.dataset(path)
        if dataset.size != 1 or dataset.dtype.kind not in "SO" or dataset.dtype.itemsize > limit:
            raise self._no_text(path, limit)
        with reading(self.path, "HDF5"):
            if dataset.dtype.kind == "S":
                if not sound_type(dataset.dtype, dataset.id.get_type()):
                    raise self._no_text(path, limit)
                self._check_chunks(dataset, path)
                raw = bytes(dataset[()] if dataset.shape == () else dataset[(0,) * dataset.ndim])
            else:
                length, address, index = struct.unpack("<IQI", self.heap.elements(dataset, path)[0].tobytes())
                if length > limit:
                    raise self._no_text(path, limit)
                raw = self.heap.get(address, index, length)
            return raw.rstrip(b"\0").decode("utf-8")

    def _no_text(self, path: str, limit: int) -> InputError:
        return self._refuse(path, "the dataset is not one string", f"a string of at most {limit:,} bytes")

    @property
    def heap(self) -> Heap:
        """Variable-length values of this file."""
        if self._heap is None:
            self._heap = Heap(self._file, str(self.path))
        return self._heap

    def attribute(self, path: str, name: str) -> Any:
        """Read a small attribute: a scalar (str, int, float) or a NumPy array; None when absent or unreadable."""
        node = self.find(path)
        if node is None:
            return None
        try:
            if name not in node.attrs:
                return None
            identity = node.attrs.get_id(name)
            if math.prod(map(int, identity.shape)) * identity.dtype.itemsize > MAX_ATTRIBUTE:
                return None
            if identity.dtype.hasobject:
                return self.heap.text_attribute(name) if identity.shape == () else None
            if not sound_type(identity.dtype, identity.get_type()):
                return None
            value = node.attrs[name]
        except Exception:  # an attribute is never essential: a broken one counts as absent
            return None
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return value.item() if isinstance(value, np.generic) else value

    def attribute_names(self, path: str) -> list[str]:
        """Names of the attributes at `path`, sorted, at most 1,000."""
        node = self.find(path)
        with reading(self.path, "HDF5"):
            return [] if node is None else sorted(node.attrs.keys())[:1000]

    def view(self, paths: Iterable[str]) -> HeaderView:
        """Shapes and dtypes at `paths` (``/group/data`` or ``/data@attribute``), read without bulk data."""
        view: dict[str, FieldView] = {}
        for path in paths:
            place, _, name = path.partition("@")
            if name:
                value = self.attribute(place or "/", name)
                if value is not None:
                    kind = "text" if isinstance(value, str) else dtype_class(np.asarray(value).dtype)
                    view[path] = FieldView(np.shape(value), kind, value)
                continue
            node = self.find(path)
            if isinstance(node, h5py.Group):
                view[path] = FieldView((), "group")
            elif isinstance(node, h5py.Dataset):
                with reading(self.path, "HDF5"):
                    view[path] = FieldView(tuple(node.shape or ()), dtype_class(node.dtype))
        return view

    def _refuse(self, path: str, what: str, expected: str = "", found: str = "", hint: str = "") -> InputError:
        hint = hint or "copy the file again from its source, and do not trust this one"
        return InputError(what, where=f"{self.path.name}:{path[:200]}", expected=expected, found=found, hint=hint)


def sound_type(dtype: np.dtype[Any], stored: Any) -> bool:
    """Say whether NumPy's reading of a stored type has the stored size and layout, all the way down.

    A float with a bent exponent is mapped to a long double; in a compound it then overlaps its neighbour, and h5py
    writes past the end of its buffer.
    """
    if dtype.names:
        if not isinstance(stored, h5py.h5t.TypeCompoundID) or stored.get_nmembers() != len(dtype.names):
            return False
        end = 0
        for index, name in enumerate(dtype.names):
            field, offset = dtype.fields[name][:2]  # type: ignore[index]
            if offset != stored.get_member_offset(index) or offset < end:
                return False
            if not sound_type(field, stored.get_member_type(index)):
                return False
            end = offset + field.itemsize
        return bool(end <= dtype.itemsize)
    sizes = {"c": (8, 16)}.get(dtype.kind, (1, 2, 4, 8))
    if dtype.kind == "c" and isinstance(stored, h5py.h5t.TypeCompoundID):
        half, members = dtype.itemsize // 2, range(stored.get_nmembers())
        parts = [(stored.get_member_offset(i), stored.get_member_type(i).get_size()) for i in members]
        return dtype.itemsize in sizes and parts == [(0, half), (half, half)]
    if dtype.kind in "biufc":
        return dtype.itemsize in sizes and stored.get_size() == dtype.itemsize
    return dtype.kind == "S" and stored.get_size() == dtype.itemsize


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Say whether the file carries the HDF5 signature at offset 0 or after a user block of 512 bytes; never raises."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(520)
    except (OSError, ValueError):
        return False
    return b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:520])
