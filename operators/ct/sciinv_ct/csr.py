"""The projection matrix and its explicit transpose as compressed sparse rows with 32-bit indices.

Both are stored because a product with the transpose of CSR scatters, which is 5 to 100 times slower than a product that
gathers; 32-bit indices because 64-bit ones make the product 4 times slower. Rays are cut into strips of some `STRIP`
steps, strip after strip: what neighbouring rays read then stays in the cache, twice as fast for many images. The
transpose holds the same numbers, so the adjoint is exact to rounding.

Images and data are tables here, one row a pixel or a ray, one column an image.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from sciinv.errors import ResourceError
from sciinv.io.atomic import atomic_path
from sciinv_ct.geometry import Grid
from sciinv_ct.joseph import Lines, entries, steps_inside

BYTES = 16  # an entry: index and value, twice
STRIP = 64  # steps
WIDE = 32  # columns from which the kernel of embeddings is faster on the host
CHUNK = 1 << 21  # candidate entries computed at a time
NAMES = ("crow", "col", "val", "crow_t", "col_t", "val_t")


class CsrRows(nn.Module):
    """The matrix of some rays, ``(rows, pixels)``.

    Parameters
    ----------
    parts : ``crow, col, val`` of the matrix, whose rows are (strip, ray), and of its transpose, whose columns are rays.
    strips : into how many each ray is cut.
    """

    def __init__(self, *parts: Tensor, strips: int):
        super().__init__()
        self.strips = strips
        for name, part in zip(NAMES, parts, strict=True):
            self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, m)`` of images ``(pixels, m)``."""
        y = _product(self.crow, self.col, self.val, x)
        return y if self.strips == 1 else y.unflatten(0, (self.strips, -1)).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        """``(pixels, m)`` of data ``(rows, m)``."""
        return _product(self.crow_t, self.col_t, self.val_t, y)

    @property
    def nbytes(self) -> int:
        """Memory of the pair."""
        return sum(b.numel() * b.element_size() for b in self.buffers())


def _product(crow: Any, col: Any, val: Any, x: Tensor) -> Tensor:
    val = val.to(x.dtype)
    if x.device.type == "cpu" and x.shape[1] >= WIDE and x.dtype == torch.float32:
        return embedding_bag(col, x, crow, mode="sum", per_sample_weights=val, include_last_offset=True)
    return _spmm()(crow, col, val, x)


@functools.cache
def _spmm() -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Sparse times dense as an operation that a pretend device can follow, too.

    Registered by hand, for ``torch.library.custom_op`` imports the compiler, which takes seconds.
    """
    torch.library.define("sciinv_ct::spmm", "(Tensor crow, Tensor col, Tensor val, Tensor x) -> Tensor")

    @torch.library.impl("sciinv_ct::spmm", "CompositeExplicitAutograd")
    def spmm(crow: Tensor, col: Tensor, val: Tensor, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says once a process that CSR is in beta
            a = torch.sparse_csr_tensor(crow, col, val, (crow.numel() - 1, x.shape[0]), check_invariants=False)
        return (a @ x[:, 0])[:, None] if x.shape[1] == 1 else a @ x

    @torch.library.register_fake("sciinv_ct::spmm")
    def _(crow: Tensor, col: Tensor, val: Tensor, x: Tensor) -> Tensor:
        return x.new_empty((crow.numel() - 1, x.shape[1]))

    return torch.ops.sciinv_ct.spmm  # type: ignore[no-any-return]


def entry_bound(rays: Lines, grid: Grid, volume: bool) -> int:
    """Upper bound of the number of entries, a few per cent high."""
    return int(steps_inside(rays, grid).sum()) * (4 if volume else 2)


def build(rays: Lines, wanted: Tensor | None, grid: Grid, volume: bool) -> CsrRows:
    """The pair for all rays; rows that are not ``wanted`` (bool, one a ray) stay empty.

    Peak memory is about 1.5 times that of the pair.
    """
    n, longest = len(rays.a), max(grid.rows, grid.columns)
    rows = torch.arange(n) if wanted is None else wanted.nonzero().reshape(-1)
    kept = rays if wanted is None else rays.pick(rows)
    size = entry_bound(kept, grid, volume)
    col, val = torch.empty(size, dtype=torch.int32), torch.empty(size)
    strips = max(1, round(longest / STRIP))
    cuts = [longest * k // strips for k in range(strips + 1)]
    count = torch.zeros(strips, n, dtype=torch.int64)
    step = max(1, CHUNK // (-(-longest // strips) * (4 if volume else 2)))
    end = 0
    for strip in range(strips):
        for k in range(0, len(rows), step):
            part = entries(kept.pick(slice(k, k + step)), grid, volume, cuts[strip], cuts[strip + 1])
            index, weight = (t.flatten(1) for t in part)
            keep = weight > 0
            count[strip, rows[k : k + step]] = keep.sum(1)
            index, weight = index[keep], weight[keep]
            col[end : end + len(index)], val[end : end + len(index)] = index, weight
            end += len(index)
    if end >= 2**31 - 1:
        raise ResourceError("the projection matrix has more entries than 32-bit indices count", found=f"{end:.3g}")
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), count.flatten().cumsum(0)]).to(torch.int32)
    col, val = col[:end], val[:end]
    shape = (strips * n, grid.slices * grid.rows * grid.columns)
    flipped = scipy.sparse.csr_matrix((val.numpy(), col.numpy(), crow.numpy()), shape, copy=False).tocsc()
    ray = flipped.indices % np.int32(n)
    other = (flipped.indptr.astype(np.int32), ray.astype(np.int32), flipped.data)
    return CsrRows(crow, col, val, *(torch.from_numpy(t) for t in other), strips=strips)


def cached(folder: str | os.PathLike[str] | None, key: str, make: Callable[[], CsrRows]) -> CsrRows:
    """``make()``, or what an earlier call left under ``folder``; a damaged file is made again.

    The file is safetensors, which runs no code when it is read, and is written atomically.
    """
    if folder is None:
        return make()
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    path = Path(folder) / f"projector-{key[:32]}.safetensors"
    try:
        with safe_open(str(path), "pt") as file:
            found, _, cut = (file.metadata() or {}).get("key", "").partition(" ")
            if found == key and set(file.keys()) == set(NAMES):
                parts, strips = [file.get_tensor(name) for name in NAMES], int(cut)
                rows = (len(parts[0]) - 1) // max(strips, 1)
                if strips > 0 and _sound(parts[:3], len(parts[3]) - 1) and _sound(parts[3:], rows):
                    return CsrRows(*parts, strips=strips)
    except (OSError, SafetensorError, ValueError):
        pass  # no such file, or half of one
    made = make()
    with atomic_path(path) as temporary:
        save_file({name: getattr(made, name) for name in NAMES}, temporary, {"key": f"{key} {made.strips}"})
    return made


def _sound(parts: list[Tensor], columns: int) -> bool:
    """Whether a product with these cannot read beyond its arrays."""
    crow, col, val = parts
    n = len(col)
    kinds = crow.dtype == col.dtype == torch.int32 and val.dtype == torch.float32 and val.shape == (n,)
    return bool(
        kinds
        and crow[0] == 0
        and crow[-1] == n
        and (crow[1:] >= crow[:-1]).all()
        and (n == 0 or (col.min() >= 0 and col.max() < columns))
    )
