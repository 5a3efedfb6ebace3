"""Other people's projectors behind the same contract: ASTRA and torch-radon, neither of which is a dependency.

Both are probed when asked for. ASTRA's CPU kernels and its transposes match to rounding and loop over a batch. Its 2-D
CUDA kernels and those of torch-radon pair a ray-driven projection with a pixel-driven backprojection: such an adjoint
is not exact, which conjugate gradients and exact draws do not forgive. So ASTRA is used on the host, and torch-radon
only where it is asked for by name; ``auto`` is the native projector.

torch-radon has two interfaces of one name: version 1 (``Radon``, ``RadonFanbeam``) and the fork 2 and later
(``ParallelBeam``, ``FanBeam``, ``ConeBeam``, conda-forge ``carterbox-torch-radon``). Its module imports without its
extension, so it is the extension that is looked for.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv.errors import Unsupported, UsageError
from sciinv_ct.geometry import Geometry
from sciinv_ct.projector import MEMORY, Projector, ProjectorBase

Backend = Literal["auto", "native", "astra", "torch_radon"]
BACKENDS: tuple[Backend, ...] = ("auto", "native", "astra", "torch_radon")


def projector(
    geometry: Geometry, mask: Tensor | NDArray[np.bool_] | None = None, *, backend: Backend = "auto",
    memory: int = MEMORY, cache: str | os.PathLike[str] | None = None,
) -> ProjectorBase:  # fmt: skip
    """A projector of the scan by the named backend.

    Parameters
    ----------
    geometry, mask, memory, cache : as in `sciinv_ct.projector.Projector`; the last two of the native one only.
    backend : ``auto`` (native), ``native``, ``astra`` (host) or ``torch_radon`` (CUDA, adjoint only approximate).

    Raises
    ------
    Unsupported
        The backend is not installed, or does not do this geometry.
    """
    if backend in ("auto", "native"):
        return Projector(geometry, mask, memory=memory, cache=cache)
    if backend == "astra":
        return AstraProjector(geometry, mask)
    if backend == "torch_radon":
        return TorchRadonProjector(geometry, mask)
    raise UsageError("no such backend", expected=", ".join(BACKENDS), found=repr(backend))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken build may raise anything while it loads its libraries
        hints = {
            "astra": "pip install astra-toolbox",
            "torch_radon": "conda install -c conda-forge carterbox-torch-radon (it is not on PyPI)",
            "torch_radon_cuda": "conda install -c conda-forge carterbox-torch-radon (it is not on PyPI)",
        }
        raise Unsupported(
            f"the backend needs {name}, which does not load", found=str(error), hint=hints[name]
        ) from error


def _plain(g: Geometry, backend: str, kinds: tuple[str, ...]) -> None:
    """Refuse what a backend does not do."""
    if g.kind not in kinds or g.feed:
        raise Unsupported(
            f"{backend} does no such geometry", expected=" or ".join(kinds), found=g.describe(), hint="native"
        )
    if g.columns is not None:
        raise Unsupported(f"{backend} keeps all detector columns", hint="a mask, or backend native")


class AstraProjector(ProjectorBase):
    """ASTRA's linear (parallel) or line-driven (fan) kernel on the host, image by image, in single precision.

    Parameters
    ----------
    geometry, mask : as in `ProjectorBase`.
    """

    def __init__(self, geometry: Geometry, mask: Tensor | NDArray[np.bool_] | None = None):
        super().__init__(geometry, mask)
        g, px = geometry, geometry.grid.pixel
        _plain(g, "astra", ("parallel", "fan"))
        astra = _module("astra")
        rows, columns = g.grid.shape
        x, y, _ = g.grid.centre
        half = columns * px / 2, rows * px / 2
        self.astra, self.volume = (
            astra,
            astra.create_vol_geom(rows, columns, x - half[0], x + half[0], y - half[1], y + half[1]),
        )
        # vectors, for they carry the offset of the detector
        e, n = (np.stack(v, -1) for v in ((np.cos(g.angles), np.sin(g.angles)), (np.sin(g.angles), -np.cos(g.angles))))
        start = -n if g.kind == "parallel" else g.source_origin * n
        centre = g.offset * e - (0 if g.kind == "parallel" else g.source_detector - g.source_origin) * n
        vectors = np.concatenate([start, centre, g.pitch_column * e], 1)
        self.scan = astra.create_proj_geom(
            "parallel_vec" if g.kind == "parallel" else "fanflat_vec", g.n_columns, vectors
        )
        self.kernel = "linear" if g.kind == "parallel" else "line_fanflat"

    def project(self, x: Tensor) -> Tensor:
        """Line integrals of a batch, computed on the host."""
        return self._run("FP", x, self.codomain.shape)

    def back(self, y: Tensor) -> Tensor:
        """The transpose, computed on the host."""
        return self._run("BP", y, self.domain.shape)

    def _run(self, direction: str, source: Tensor, shape: tuple[int, ...]) -> Tensor:
        astra, out = self.astra, np.zeros((len(source), *shape), np.float32)
        for item, result in zip(source.detach().cpu().float().contiguous().numpy(), out, strict=True):
            image, sinogram = (item, result) if direction == "FP" else (result, item)
            held: list[int] = []
            number = astra.create_projector(self.kernel, self.scan, self.volume)
            try:
                held.append(astra.data2d.link("-vol", self.volume, image))
                held.append(astra.data2d.link("-sino", self.scan, sinogram))
                keys = (
                    ("VolumeDataId", "ProjectionDataId")
                    if direction == "FP"
                    else ("ReconstructionDataId", "ProjectionDataId")
                )
                config = astra.astra_dict(direction) | {"ProjectorId": number} | dict(zip(keys, held, strict=True))
                run = astra.algorithm.create(config)
                astra.algorithm.run(run)
                astra.algorithm.delete(run)
            finally:
                astra.data2d.delete(held)
                astra.projector.delete(number)
        return torch.from_numpy(out).to(source)


@functools.cache
def torch_radon_version() -> int:
    """1 or 2, the interface of torch-radon that is installed; `Unsupported` where it cannot run."""
    _module("torch_radon_cuda")
    package = _module("torch_radon")
    if not torch.cuda.is_available():
        raise Unsupported("torch-radon runs on CUDA only", found="no CUDA device", hint="backend native")
    found = [version for version, name in ((2, "ParallelBeam"), (1, "Radon")) if hasattr(package, name)]
    if not found:
        raise Unsupported("torch_radon has neither of its known interfaces", expected="ParallelBeam or Radon")
    return found[0]


class TorchRadonProjector(ProjectorBase):
    """torch-radon on a CUDA device: fast, its adjoint only approximate.

    Lengths are in pixels there; results are scaled to mm. Square centred grids and centred detectors only; version 1
    also needs a side that is a multiple of 16.

    Parameters
    ----------
    geometry, mask : as in `ProjectorBase`.
    """

    def __init__(self, geometry: Geometry, mask: Tensor | NDArray[np.bool_] | None = None):
        super().__init__(geometry, mask)
        version, g = torch_radon_version(), geometry
        _plain(g, "torch_radon", ("parallel", "fan"))
        px, n = g.grid.pixel, g.grid.columns
        if g.grid.rows != n or g.grid.centre[:2] != (0.0, 0.0) or g.offset or (version == 1 and n % 16):
            raise Unsupported(
                "torch_radon wants a square centred image and a centred detector"
                + (", its side a multiple of 16" if version == 1 else ""),
                found=f"{g.grid.shape}, centre {g.grid.centre[:2]}, offset {g.offset:g}", hint="backend native",
            )  # fmt: skip
        package = _module("torch_radon")
        angles, pitch = g.angles.astype(np.float32), g.pitch_column / px
        far = {"src": g.source_origin / px, "det": (g.source_detector - g.source_origin) / px}
        if version == 2:
            volume = package.Volume2D()
            volume.set_size(n, n)
            self.inner = (
                package.ParallelBeam(g.n_columns, angles, pitch, volume)
                if g.kind == "parallel"
                else package.FanBeam(g.n_columns, angles, far["src"], far["det"], pitch, volume)
            )
        else:
            self.inner = (
                package.Radon(n, angles, det_count=g.n_columns, det_spacing=pitch)
                if g.kind == "parallel"
                else package.RadonFanbeam(
                    n, angles, far["src"], det_distance=far["det"], det_count=g.n_columns, det_spacing=pitch
                )
            )

    def project(self, x: Tensor) -> Tensor:
        """Line integrals in mm times 1/mm."""
        return self.inner.forward(x.contiguous()) * self.geometry.grid.pixel  # type: ignore[no-any-return]

    def back(self, y: Tensor) -> Tensor:
        """The approximate transpose, in mm."""
        return self.inner.backward(y.contiguous()) * self.geometry.grid.pixel  # type: ignore[no-any-return]
