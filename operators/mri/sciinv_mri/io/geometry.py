"""Where an image lies in the patient: from ISMRMRD positions and directions (LPS, mm) to a RAS affine.

The centre voxel ``N // 2`` of each in-plane axis sits at `position`; columns of the affine are direction times spacing;
RAS = diag(-1, -1, 1, 1) LPS. Indices are (column = phase, row = readout, slice), the reverse of the array's axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxel = tuple[float, float, float]


def slice_order(head: NDArray[Any], lines: NDArray[np.intp], notes: list[str]) -> list[int]:
    """Slice counters of the imaging `lines`, in the order of their positions in space when the file tells it."""
    numbers, first = np.unique(head["idx"]["slice"][lines], return_index=True)
    if len(numbers) > 2 and {"position", "slice_dir"} <= {*(head.dtype.names or ())}:
        along = head["position"][lines[first]].astype(np.float64) @ head["slice_dir"][lines[first[0]]].astype(
            np.float64
        )
        steps = np.diff(along)
        if np.isfinite(along).all() and len(np.unique(along)) == len(along) and (steps > 0).any() and (steps < 0).any():
            notes.append("the slice counters are not in spatial order: slices are sorted by position")
            numbers = numbers[np.argsort(along)]
    return [int(number) for number in numbers]


def geometry(
    head: NDArray[Any],
    first: NDArray[Any],
    spacing: NDArray[np.float64] | None,
    size: tuple[int, int],
    notes: list[str],
) -> tuple[NDArray[np.float64] | None, Voxel | None]:
    """Affine and voxel size (row, column, slice) of a stack of slices.

    Parameters
    ----------
    head
        Acquisition headers.
    first
        Index of one record of each slice, in the order of the volume.
    spacing
        (readout, phase, slice) spacing in mm; the slice value is the thickness, used for a single slice.
    size
        (rows, columns) of the image.
    notes
        Receives a sentence when the orientation is unknown or the slices are uneven.
    """
    if spacing is None:
        notes.append("no field of view: voxel size and orientation are unknown")
        return None, None
    voxel = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    if not {"position", "read_dir", "phase_dir", "slice_dir"} <= {*(head.dtype.names or ())}:
        return None, voxel
    axes = np.stack([head[name][first[0]].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], 1)
    positions = head["position"][first].astype(np.float64)
    usable = np.isfinite(axes).all() and np.isfinite(positions).all() and np.abs(positions).max() < 1e5
    if not usable or np.abs(axes.T @ axes - np.eye(3)).max() > 1e-2:
        notes.append("the directions in the file are not orthonormal: orientation unknown")
        return None, voxel
    normal, step = axes[:, 2], axes[:, 2] * voxel[2]
    if len(first) > 1:
        gaps = np.diff(positions, axis=0)
        along = gaps @ normal
        if np.abs(along).min() < 1e-3 or np.abs(gaps - gaps.mean(0)).max() > 0.05 * np.abs(along.mean()) + 1e-2:
            notes.append("the slices are not evenly spaced: orientation unknown")
            return None, voxel
        step = gaps.mean(0)
        voxel = (voxel[0], voxel[1], float(np.linalg.norm(step)))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = axes[:, 1] * voxel[1], axes[:, 0] * voxel[0], step
    lps[:3, 3] = positions[0] - lps[:3, 0] * (size[1] // 2) - lps[:3, 1] * (size[0] // 2)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, voxel
