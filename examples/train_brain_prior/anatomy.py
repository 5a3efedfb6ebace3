"""Head volumes the brain prior is drawn from: nilearn's MNI152 template and, if given, the Colin27 head.

Each becomes a small stack of 1 mm channels that a slice is cut from: an intensity (or tissue maps) and the signed
distance to the brain surface in millimetres, negative inside, from which skull and scalp are drawn.
Sources: MNI152 2009a (V. S. Fonov et al., NeuroImage 54, 2011) as shipped inside the nilearn wheel;
Colin27 (C. J. Holmes et al., JCAT 22, 1998), Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import torch
from scipy import ndimage

TISSUE_NODES = (0.10, 0.25, 0.55, 0.78, 1.0)
"""Normalised T1 intensities of (void, CSF, grey, white, bright) that both anatomies are brought to."""


@dataclass(frozen=True)
class Anatomy:
    """One head.

    Attributes
    ----------
    name : str
    volume : Tensor of shape (1, 2, x, y, z)
        Normalised T1 intensity with the nodes of `TISSUE_NODES` and the brain distance in millimetres, 1 mm voxels.
    origin : tuple of float
        World coordinate (RAS, millimetres) of voxel (0, 0, 0).
    has_head : bool
        Whether skull and scalp are real (else they must be drawn).
    """

    name: str
    volume: torch.Tensor
    origin: tuple[float, float, float]
    has_head: bool


def _distance(mask: np.ndarray) -> np.ndarray:
    return (ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)).astype(np.float32)


def _pack(intensity: np.ndarray, brain: np.ndarray, affine: np.ndarray, name: str, has_head: bool) -> Anatomy:
    stack = np.stack([intensity.astype(np.float32), _distance(brain)])[None]
    origin = tuple(float(v) for v in affine[:3, 3])
    return Anatomy(name, torch.from_numpy(stack), origin, has_head)  # type: ignore[arg-type]


def _template(kind: str) -> tuple[np.ndarray, np.ndarray]:
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    image = nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    return image.get_fdata(dtype=np.float32) / 255.0, np.asarray(image.affine)


def mni152() -> Anatomy:
    """The skull-stripped average brain; tissue maps become an intensity again, so their sharpness can be chosen."""
    (grey, affine), (white, _) = _template("gm"), _template("wm")
    t1, _ = _template("t1")
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(t1 > 0.05, iterations=2))
    total = np.clip(grey + white, 0.0, 1.0)
    share = white / np.maximum(grey + white, 1e-3)
    _, csf, gm, wm, _ = TISSUE_NODES
    intensity = csf + total * (gm - csf + share * (wm - gm))
    return _pack(np.where(brain, intensity, TISSUE_NODES[0]), brain, affine, "mni152", False)


def colin27(path: Path) -> Anatomy:
    """One subject's head, 27 averaged scans; its brain is found from the template's, grown along the intensities."""
    image = nibabel.load(path)
    t1, affine = image.get_fdata(dtype=np.float32), np.asarray(image.affine)
    (grey, reference), (white, _) = _template("gm"), _template("wm")
    shift = affine[:3, 3] - reference[:3, 3]
    prior = ndimage.affine_transform(grey + white, np.ones(3), offset=shift, output_shape=t1.shape, order=1) > 0.2
    prior = ndimage.binary_fill_holes(ndimage.binary_closing(prior, iterations=3))
    inside = t1[ndimage.binary_erosion(prior, iterations=8)]
    wm = float(np.percentile(inside, 85))
    gm = wm * TISSUE_NODES[2] / TISSUE_NODES[3] * 1.07
    core = ndimage.binary_opening(
        (t1 > 0.45 * wm) & (t1 < 1.25 * wm) & ndimage.binary_dilation(prior, iterations=5), iterations=3
    )
    label, _ = ndimage.label(core)
    core = label == np.argmax(np.bincount(label.ravel())[1:]) + 1
    grown = ndimage.binary_dilation(core, iterations=2) & (t1 > 0.35 * wm)
    brain = ndimage.binary_closing(np.pad(grown, 8), iterations=5)[8:-8, 8:-8, 8:-8]
    brain = ndimage.binary_fill_holes(brain)
    nodes = np.array([0.0, 0.12 * wm, 0.35 * wm, gm, wm, 1.3 * wm, 2.0 * wm])
    intensity = np.interp(t1, nodes, (0.0, 0.10, 0.25, 0.55, 0.78, 1.0, 1.4))
    return _pack(intensity, brain, affine, "colin27", True)
