"""From k-space of one slice to a whitened `Problem`, using nothing but what an undersampled scan holds.

Steps: noise (whitening) -> coil compression -> readout crop -> ESPIRiT maps -> phase -> noise model with the map
error -> scale. The data that the sampler sees obey ``y = W F S x + n``, n white with one sigma per real part, ``|x|``
about one at its 99th percentile and ``|x| * scale`` in the file's root-sum-of-squares units.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sciinv.errors import InputError, UsageError
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator
from sciinv.problem import Problem
from sciinv_mri import coils, masks, noise_model, phase, scale
from sciinv_mri.decoupled import DecoupledSense
from sciinv_mri.espirit import espirit
from sciinv_mri.fft import crop_centre, fftc, ifftc
from sciinv_mri.io.kspace import KSpace
from sciinv_mri.sense import Sense

SENSE_STD = 0.1
"""Prior standard deviation (in units of the scale) behind the SENSE image that sets scale and support."""

MAP_COILS = 16
"""Virtual coils that maps are estimated from when the data are compressed further."""


@dc.dataclass(frozen=True)
class MRIOptions:
    """Knobs of the MRI domain; the fields are the ``--set`` keys.

    Attributes
    ----------
    coils : virtual coils to compress to; 0 keeps all.
    map_sets : ESPIRiT map sets; 2 for an object larger than the field of view.
    kernel, threshold : ESPIRiT patch edge and relative singular-value cut.
    crop, soft : eigenvalue below which maps are zero, and whether they fade there.
    calib : most calibration lines used.
    noise_model : ``thermal``, ``scalar`` or ``spectral`` (map error that follows the signal in k-space).
    phase : ``lowres`` removes the calibration image's phase from the unknown, ``none`` keeps it.
    solver : ``decoupled`` (whole readouts only), ``cg``, or ``auto``.
    acceleration : above 1, undersample fully sampled data first; its own full-data image becomes the reference.
    calib_lines, pattern, mask_seed : of that retrospective undersampling.
    """

    coils: int = 0
    map_sets: int = 1
    kernel: int = 4
    threshold: float = 0.005
    crop: float = 0.0
    soft: bool = False
    calib: int = 24
    noise_model: noise_model.Kind = "spectral"
    phase: Literal["lowres", "none"] = "lowres"
    solver: Literal["auto", "decoupled", "cg"] = "auto"
    acceleration: float = 0.0
    calib_lines: int = 8
    pattern: masks.Kind = "random"
    mask_seed: int = 0


@dc.dataclass(frozen=True)
class Prepared:
    """One slice, whitened; what operators and baselines are made of.

    Attributes
    ----------
    kspace : complex ``(coil, h, w)`` in units where ``y = F S x + n``, ``|x|`` about one, ``S`` about unit power.
    mask : bool ``(1 or h, w)``.
    maps : complex ``(sets, coil, h, w)``, phase folded in.
    sigma : standard deviation per real part, ``(1 or h, w)``; includes the map error.
    thermal, map_error : its parts, root mean squares in the same units.
    phase : ``exp(i theta)`` ``(sets, h, w)`` taken out of the image.
    scale : file units per unit of ``x``.
    matrix : ``(virtual, coil)``, takes coil data of the file to ``kspace``.
    sense : lightly regularised SENSE image ``([sets,] h, w)``.
    calibration : shape of the calibration region.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor
    sigma: Tensor
    thermal: float
    map_error: float
    phase: Tensor
    scale: float
    matrix: Tensor
    sense: Tensor
    calibration: tuple[int, int]
    prescan: bool

    @property
    def residual(self) -> float:
        """Map error over signal, both root mean squares over the measured samples."""
        signal = self.kspace[:, self.mask.expand(self.kspace.shape[1:])].abs().square().mean().sqrt() / 2**0.5
        return self.map_error / max(float(signal), 1e-30)

    def to_data(self, kspace: Tensor) -> Tensor:
        """Coil k-space of the file ``(coil, kx, ky)`` whitened, compressed, cropped and scaled like this slice."""
        return _crop_readout(coils.apply(self.matrix.to(kspace.dtype), kspace), self.maps.shape[-2])

    def combine(self, kspace: Tensor) -> Tensor:
        """Image ``([sets,] h, w)`` that fits fully sampled data of `to_data` best in every pixel."""
        s = self.maps.permute(2, 3, 1, 0)
        image = ifftc(kspace, (-2, -1)).permute(1, 2, 0)[..., None]
        gram = s.mH @ s
        eye = 1e-6 * torch.eye(gram.shape[-1], dtype=gram.dtype)
        x = torch.linalg.solve(gram + eye, s.mH @ image)[..., 0].permute(2, 0, 1)
        return x if len(x) > 1 else x[0]


def problem(data: KSpace, item: int, options: MRIOptions | None = None) -> Problem:
    """The inverse problem of slice ``item``.

    Returns
    -------
    Problem
        Unknown: complex image ``(h, w)`` (``(sets, h, w)`` with several map sets). ``meta`` holds what undoes the
        units (``scale``, ``phase``), the facts of the scan and of the preparation, ``support`` and, where a truth
        exists, ``reference`` in file units.
    """
    options = options or MRIOptions()
    if not 0 <= item < len(data.kspace):
        raise InputError("no such slice", where=data.label, expected=f"0 to {len(data.kspace) - 1}", found=str(item))
    data = data.select([item])
    full = None
    if options.acceleration > 1:
        full = torch.as_tensor(data.kspace[0])
        data = masks.undersample(data, options.acceleration, options.calib_lines, options.pattern, options.mask_seed)
    ready = prepare(data, options)
    operator, y, sigma = build(ready, options.solver)
    reference = _reference(data, ready, full)
    meta: dict[str, Any] = {
        "scale": ready.scale,
        "phase": ready.phase if len(ready.phase) > 1 else ready.phase[0],
        "units": "a.u.",
        "sigma": sigma,
        "noise_std": ready.thermal * ready.scale,
        "map_error": ready.map_error,
        "noise_model": options.noise_model,
        "noise_source": "prescan" if ready.prescan else "imaging data",
        "map_residual": ready.residual,
        "n_data": 2 * len(ready.kspace) * int(ready.mask.expand(ready.kspace.shape[1:]).sum()),
        "acceleration": data.acceleration,
        "pattern": "lines" if ready.mask.shape[0] == 1 else "samples",
        "coils": len(ready.kspace),
        "coils_measured": data.kspace.shape[1],
        "map_sets": len(ready.maps),
        "calibration": list(ready.calibration),
        "solver": "decoupled" if isinstance(operator, DecoupledSense) else "cg",
        "slice": item,
        "shape": list(operator.domain.shape),
        "target": list(data.target),
        "support": scale.support(ready.sense),
        "warnings": _warnings(ready, options),
    }  # fmt: skip
    if reference is not None:
        meta["reference"] = reference
    return Problem(y, operator, Gaussian(sigma), meta)


def build(ready: Prepared, solver: str = "auto") -> tuple[LinearOperator, Tensor, float]:
    """Operator, data and sigma of a prepared slice; weights ``min(sigma) / sigma(k)`` make its noise white."""
    sigma = float(ready.sigma[ready.mask.expand(ready.sigma.shape)].min())
    weight = ready.mask * (sigma / ready.sigma)
    maps = ready.maps if len(ready.maps) > 1 else ready.maps[0]
    lines = ready.mask.shape[0] == 1
    if solver == "decoupled" and not lines:
        raise UsageError(
            "the readout does not decouple", expected="whole readouts measured or missing (a 1-D mask)", 
            found="a 2-D mask", hint="--set solver=cg",
        )  # fmt: skip
    small = len(ready.maps) * ready.maps.shape[-1] <= 1024
    if lines and (solver == "decoupled" or (solver == "auto" and small)):
        return DecoupledSense(maps, weight), ifftc(ready.kspace, -2) * weight, sigma
    return Sense(maps, weight), ready.kspace * weight, sigma


def prepare(data: KSpace, options: MRIOptions) -> Prepared:
    """Whiten, compress, calibrate and scale the first slice of ``data``."""
    raw, mask = torch.as_tensor(data.kspace[0]), torch.as_tensor(data.mask[0])
    raw = torch.where(mask, raw, torch.zeros((), dtype=raw.dtype))  # what was not measured has no say in anything
    averages = None if data.averages is None else torch.as_tensor(data.averages[0])
    if data.noise is not None:
        white = coils.whitening(torch.as_tensor(data.noise))
    else:
        white, averages = torch.diag(1 / coils.noise_levels(raw, mask)).to(raw.dtype), None
    region = _region(mask, options, data.label)
    k = coils.apply(white, raw)
    # maps come from more virtual coils than the data are compressed to, so that |x| keeps the intensities of the
    # whole array
    keep = options.coils or len(k)
    squeeze = coils.compression(k[:, region[0], region[1]], min(len(k), max(keep, MAP_COILS if options.coils else 0)))
    rows = data.target[0] if mask.shape[0] == 1 else k.shape[1]
    k = _crop_readout(coils.apply(squeeze, k), min(rows, k.shape[1]))
    maps = espirit(
        k[:, region[0], region[1]], (k.shape[1], k.shape[2]), kernel=options.kernel, threshold=options.threshold,
        noise=1.0, sets=options.map_sets, crop=options.crop, soft=options.soft,
    ).maps  # fmt: skip
    # maps of unit power in the file's own coil units make |x| the root-sum-of-squares image
    gain = torch.einsum("cv,mvhw->mchw", torch.linalg.pinv(squeeze @ white), maps).norm(dim=1, keepdim=True)
    typical = float(gain[gain > 0].square().mean().sqrt())
    matrix, k, maps = (squeeze @ white)[:keep], k[:keep], maps[:, :keep]
    calibration = k[:, masks.centred(region[0], k.shape[1]), masks.centred(region[1], k.shape[2])]
    maps = maps * phase.reference_phase(maps, calibration)[:, None]
    noise = noise_model.noise_model(options.noise_model, k, mask, maps, region, 0.5**0.5, averages)
    turn = torch.ones_like(maps[:, 0]) if options.phase == "none" else phase.lowres_phase(maps, calibration)
    maps = maps * turn[:, None] * torch.where(gain > 0, typical / gain.clamp_min(1e-12 * typical), 0)
    first = Prepared(
        kspace=k, mask=mask, maps=maps, sigma=noise.sigma, thermal=noise.thermal, map_error=noise.map_error, phase=turn,
        scale=typical, matrix=matrix, sense=k[0], prescan=data.noise is not None,
        calibration=(k[0, region[0]].shape[0], k[0, 0, region[1]].shape[0]),
    )  # fmt: skip
    return _scaled(first, options.solver)


def _scaled(ready: Prepared, solver: str) -> Prepared:
    """The slice in units where its SENSE image has 99th percentile one (twice: regularisation follows the scale)."""
    unit = scale.percentile(ready.combine(ready.kspace))
    for _ in range(2):
        operator, y, sigma = build(ready, solver)
        sense = scale.tikhonov(operator, y, (sigma / (SENSE_STD * unit)) ** 2)
        unit = scale.percentile(sense)
        if not unit > 0:
            raise InputError("the slice holds no signal", expected="a non-zero image", found="0")
    return dc.replace(
        ready, kspace=ready.kspace / unit, sigma=ready.sigma / unit, thermal=ready.thermal / unit,
        map_error=ready.map_error / unit, scale=ready.scale * unit, matrix=ready.matrix / unit, sense=sense / unit,
    )  # fmt: skip


def _region(mask: Tensor, options: MRIOptions, where: str) -> tuple[slice, slice]:
    """Calibration region, at most ``options.calib`` wide about the centre (the readout of a 1-D mask is used whole)."""
    kx, ky = masks.calibration_or_error(mask.cpu().numpy(), where=where)
    return (kx if kx == slice(None) else _narrow(kx, mask.shape[0], options.calib)), _narrow(
        ky, mask.shape[1], options.calib
    )


def _narrow(region: slice, n: int, most: int) -> slice:
    lo = max(region.start, n // 2 - most // 2)
    return slice(lo, min(region.stop, n // 2 - most // 2 + most))


def _crop_readout(kspace: Tensor, rows: int) -> Tensor:
    """Remove readout oversampling: crop the image along the readout, stay in k-space."""
    if kspace.shape[-2] == rows:
        return kspace
    hybrid = ifftc(kspace, -2)
    return fftc(crop_centre(hybrid, (rows, hybrid.shape[-1])), -2)


def _reference(data: KSpace, ready: Prepared, full: Tensor | None) -> Tensor | None:
    """Magnitude of the truth in file units on the image grid, if there is one."""
    if full is not None:
        image = ready.combine(ready.to_data(full)) * ready.scale
        return image.abs() if image.ndim == 2 else image.abs().square().sum(0).sqrt()
    if data.reference is None or data.reference.shape[1:] not in (tuple(ready.kspace.shape[1:]), data.target):
        return None
    return torch.as_tensor(np.asarray(data.reference[0]))


def _warnings(ready: Prepared, options: MRIOptions) -> list[str]:
    notes = []
    share = ready.residual
    if share > 0.1:
        notes.append(
            f"coil maps leave {100 * share:.0f} % of the calibration data unexplained: the object may exceed the field "
            "of view (try --set map_sets=2), or there is motion or too little calibration data"
        )
    if min(ready.calibration) < 8:
        notes.append(f"only {min(ready.calibration)} calibration lines: coil maps are uncertain")
    if not ready.prescan:
        notes.append("no noise scan in the file: the noise level was estimated from the imaging data")
    if options.noise_model == "thermal" and share > 0.01:
        notes.append("noise_model=thermal ignores the error of the coil maps: expect over-confident samples")
    return notes
