"""The projection matrix and its explicit transpose as compressed sparse rows with 32-bit indices.

Both are stored because a product with the transpose of CSR scatters, which is 5 to 100 times slower than a product that
gathers; 32-bit indices because 64-bit ones make the product 4 times slower. Sixteen columns are multiplied at a time: a
pixel of sixteen images is one cache line. The transpose holds the same numbers, so the adjoint is exact to rounding.
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

from sciinv.errors import ResourceError
from sciinv.io.atomic import atomic_path
from sciinv_ct.geometry import Grid
from sciinv_ct.joseph import Lines, entries, steps_inside

BYTES = 16  # an entry: index and value, twice
BLOCK = 16  # columns multiplied at a time on the host
CHUNK = 1 << 21  # candidate entries computed at a time
NAMES = ("crow", "col", "val", "crow_t", "col_t", "val_t")


class CsrRows(nn.Module):
    """The matrix of some rays, ``(rows, pixels)``.

    Parameters
    ----------
    crow, col, val, crow_t, col_t, val_t : the matrix and its transpose.
    """

    def __init__(self, *parts: Tensor):
        super().__init__()
        for name, part in zip(NAMES, parts, strict=True):
            self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """``(m, rows)`` of images ``(m, pixels)``."""
        return _product(self.crow, self.col, self.val, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``(m, pixels)`` of data ``(m, rows)``."""
        return _product(self.crow_t, self.col_t, self.val_t, y)

    @property
    def nbytes(self) -> int:
        """Memory of the pair."""
        return sum(b.numel() * b.element_size() for b in self.buffers())


def _product(crow: Any, col: Any, val: Any, x: Tensor) -> Tensor:
    val = val.to(x.dtype)
    width = BLOCK if x.device.type == "cpu" else x.shape[0]
    out = x.new_empty((x.shape[0], crow.numel() - 1))
    for k in range(0, x.shape[0], width):
        out[k : k + width] = _spmm()(crow, col, val, x[k : k + width].T.contiguous()).T
    return out


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
    n = len(rays.a)
    rows = torch.arange(n) if wanted is None else wanted.nonzero().reshape(-1)
    kept = rays if wanted is None else rays.pick(rows)
    size = entry_bound(kept, grid, volume)
    col, val = torch.empty(size, dtype=torch.int32), torch.empty(size)
    count = torch.zeros(n, dtype=torch.int64)
    step = max(1, CHUNK // (max(grid.shape) * (4 if volume else 2)))
    end = 0
    for k in range(0, len(rows), step):
        index, weight = (t.flatten(1) for t in entries(kept.pick(slice(k, k + step)), grid, volume))
        keep = weight > 0
        count[rows[k : k + step]] = keep.sum(1)
        index, weight = index[keep], weight[keep]
        col[end : end + len(index)], val[end : end + len(index)] = index, weight
        end += len(index)
    if end >= 2**31 - 1:
        raise ResourceError("the projection matrix has more entries than 32-bit indices count", found=f"{end:.3g}")
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)]).to(torch.int32)
    col, val = col[:end], val[:end]
    pixels = grid.slices * grid.rows * grid.columns
    flipped = scipy.sparse.csr_matrix((val.numpy(), col.numpy(), crow.numpy()), (n, pixels), copy=False).tocsc()
    other = (flipped.indptr.astype(np.int32), flipped.indices.astype(np.int32), flipped.data)
    return CsrRows(crow, col, val, *(torch.from_numpy(t) for t in other))


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
            if (file.metadata() or {}).get("key") == key and set(file.keys()) == set(NAMES):
                parts = [file.get_tensor(name) for name in NAMES]
                if _sound(parts[:3], len(parts[3]) - 1) and _sound(parts[3:], len(parts[0]) - 1):
                    return CsrRows(*parts)
    except (OSError, SafetensorError):
        pass  # no such file, or half of one
    made = make()
    with atomic_path(path) as temporary:
        save_file({name: getattr(made, name) for name in NAMES}, temporary, {"key": key})
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
