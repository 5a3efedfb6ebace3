"""Random brain slices: cuts of deformed heads, given random contrasts, coil shading, phase and finite resolution.

A slice is ``x = F^-1 C W F (m s exp(i p))``: magnitude m (tissue contrast), receive shading s, phase p, a crop C of the
k-space to the acquired matrix (Gibbs ringing is real ringing) under a random window W; last, the phase of a
low-resolution copy is removed, as the reconstruction does with its calibration lines, and the 99th percentile of the
magnitude is brought near one. All draws come from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from anatomy import TISSUE_NODES, Anatomy

Random = np.random.Generator


@dataclass(frozen=True)
class Cut:
    """Fine-grid values of one slice: intensity, brain distance, and the sampling pitch in millimetres."""

    intensity: torch.Tensor
    distance: torch.Tensor
    pitch: float
    has_head: bool


def _kernel(n: int, cell: float, coarse: int, offset: float) -> torch.Tensor:
    """Gaussian interpolation weights (n, coarse) from a grid ``cell`` points apart."""
    at = (torch.arange(n)[:, None] + offset) / cell + 2.0
    return torch.exp(-0.5 * ((at - torch.arange(coarse)[None]) / 0.6) ** 2)


def smooth_field(rng: Random, n: int, cell: float, count: int = 1) -> torch.Tensor:
    """``count`` random fields (count, n, n) of unit variance, correlated over ``cell`` grid points."""
    coarse = int(np.ceil(n / cell)) + 5
    noise = torch.from_numpy(rng.standard_normal((count, coarse, coarse), dtype=np.float32))
    rows, columns = (F.normalize(_kernel(n, cell, coarse, rng.uniform(0, cell)), dim=1) for _ in range(2))
    return rows @ noise @ columns.T


def blurred(x: torch.Tensor, width: float) -> torch.Tensor:
    """Gaussian blur of an n x n map, ``width`` grid points of standard deviation, edges renormalised."""
    at = torch.arange(x.shape[0], dtype=torch.float32)
    kernel = F.normalize(torch.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2), p=1, dim=1)
    return kernel @ x @ kernel.T


def _rotation(rng: Random, orientation: str) -> np.ndarray:
    """Columns: the two in-plane directions and the normal, in RAS; tilted and turned at random."""
    base = {"axial": np.eye(3), "coronal": np.eye(3)[:, [0, 2, 1]], "sagittal": np.eye(3)[:, [1, 2, 0]]}[orientation]
    angles = np.deg2rad(rng.normal(0.0, (8.0, 8.0, 10.0)))
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        rotate = np.eye(3)
        rotate[i, i], rotate[j, j], rotate[i, j], rotate[j, i] = c, c, -s, s
        turn = turn @ rotate
    return base @ turn


def cut(anatomy: Anatomy, rng: Random, n: int, pitch: float) -> Cut:
    """Cut one n x n slice at ``pitch`` millimetres through a randomly deformed head."""
    # a stripped brain gets its head drawn as shells, which is right above the skull base only
    shares = [0.75, 0.11, 0.14] if anatomy.has_head else [0.92, 0.08, 0.0]
    orientation = str(rng.choice(["axial", "coronal", "sagittal"], p=shares))
    span = {"axial": (-38.0 if anatomy.has_head else -12.0, 66.0), "coronal": (-85.0, 55.0), "sagittal": (-55.0, 55.0)}[
        orientation
    ]
    frame = _rotation(rng, orientation)
    centre = np.array([0.0, -18.0, 8.0]) + rng.normal(0.0, 4.0, 3)
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[orientation]
    centre[axis] = rng.uniform(*span)
    stretch = np.exp(rng.normal(0.0, 0.07, 3)) * np.exp(rng.normal(0.0, 0.05))
    grid = (np.arange(n) - n / 2) * pitch
    plane = torch.tensor(np.stack(np.broadcast_arrays(grid[:, None], grid[None, :])), dtype=torch.float32)
    thickness = rng.uniform(1.0, 5.0)
    layers = np.array([0.0]) if thickness < 1.6 else np.linspace(-0.5, 0.5, 3) * thickness * 0.75
    bend = torch.zeros(3, n, n)
    strength = rng.uniform(0.3, 1.1)
    for wavelength, size in ((100.0, 5.0), (45.0, 2.6), (22.0, 1.6), (12.0, 0.8)):
        bend += strength * size * rng.uniform(0.3, 1.0) * smooth_field(rng, n, wavelength / 3 / pitch, 3)
    points = []
    for layer in layers:
        flat = torch.cat([plane, torch.full((1, n, n), float(layer))])
        world = torch.tensordot(torch.tensor(frame * stretch[:, None], dtype=torch.float32), flat, 1)
        points.append(world + torch.tensor(centre, dtype=torch.float32)[:, None, None] + bend)
    world = torch.stack(points)
    size = anatomy.volume.shape[2:]
    origin = torch.tensor(anatomy.origin)[None, :, None, None]
    index = (world - origin) / (torch.tensor(size)[None, :, None, None] - 1) * 2 - 1
    found = F.grid_sample(
        anatomy.volume, index.permute(0, 2, 3, 1).flip(-1)[None], align_corners=True, padding_mode="border"
    )
    found = found[0].mean(1)
    if anatomy.has_head:
        edge = (index.abs() > 1).any(1).float().mean(0)
        found[0] = found[0] * (1 - edge)
    return Cut(found[0], found[1], pitch, anatomy.has_head)


def _curve(x: torch.Tensor, nodes: np.ndarray, values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.interp(x.numpy(), nodes, values).astype(np.float32))


def _contrast(rng: Random) -> dict[str, float]:
    """Random signal levels of the tissues, in families like those of clinical sequences."""
    u = rng.uniform
    family = str(rng.choice(["t1", "t2", "pd", "flair", "free"], p=[0.28, 0.2, 0.27, 0.1, 0.15]))
    if family == "t1":
        levels = {"csf": u(0.05, 0.45), "grey": u(0.5, 0.85), "white": u(0.85, 1.1)}
    elif family == "t2":
        levels = {"csf": u(0.9, 1.5), "grey": u(0.5, 0.8), "white": u(0.3, 0.6)}
    elif family == "pd":
        levels = {"csf": u(0.5, 1.2), "grey": u(0.85, 1.05), "white": u(0.6, 0.95)}
    elif family == "flair":
        levels = {"csf": u(0.0, 0.2), "grey": u(0.8, 1.0), "white": u(0.55, 0.85)}
    else:
        levels = {"csf": u(0.05, 1.2), "grey": u(0.2, 1.1), "white": u(0.2, 1.1)}
    fat = u(0.05, 0.5) if rng.random() < 0.4 else u(0.5, 1.8)
    return levels | {
        "fat": fat,
        "muscle": u(0.15, 0.8),
        "bone": u(0.0, 0.12),
        "marrow": u(0.1, 0.8) * fat,
        "skin": u(0.3, 1.2),
    }


def _refold(rng: Random, c: Cut) -> torch.Tensor:
    """Redraw the cortex: sulci along the zero lines of a band-passed field, an even ribbon about them."""
    n, pitch = c.intensity.shape[0], c.pitch
    cell = rng.uniform(8.0, 15.0) / pitch
    field = smooth_field(rng, n, cell)[0] + 0.35 * smooth_field(rng, n, cell / 2.2)[0]
    gx, gy = torch.gradient(field)
    sulcus = field.abs() / (torch.hypot(gx, gy) + 0.25 / cell) * pitch
    depth = -c.distance
    reach = rng.uniform(12.0, 24.0) + 4.0 * smooth_field(rng, n, 2 * cell)[0]
    gap = torch.minimum(depth, sulcus + F.relu(depth - reach) * rng.uniform(0.6, 1.2))
    width, ribbon = rng.uniform(0.3, 1.2), rng.uniform(2.2, 3.6)
    soft = rng.uniform(0.4, 0.9)
    _, csf, grey, white, _ = TISSUE_NODES
    value = (
        csf
        + (grey - csf) * torch.sigmoid((gap - width) / soft)
        + (white - grey) * torch.sigmoid((gap - width - ribbon) / soft)
    )
    deep = torch.sigmoid((depth - reach - ribbon - 3.0) / 2.0)
    return torch.where(depth > -2.0, value * (1 - deep) + c.intensity * deep, c.intensity)


def magnitude(c: Cut, rng: Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Tissue contrast of a cut; returns the magnitude (n, n) and maps (2, n, n) of fat and of all non-brain."""
    level, n = _contrast(rng), c.intensity.shape[0]
    mm = 1.0 / c.pitch
    intensity, distance = c.intensity, c.distance
    if rng.random() < (0.2 if c.has_head else 0.45):
        intensity = _refold(rng, c)
    nodes = np.array([0.0, 0.2, 0.27, 0.52, 0.57, 0.72, 0.8, 1.1])
    void = level["csf"] * rng.uniform(0.6, 1.0)
    bright = level["white"] * rng.uniform(0.8, 1.5)
    values = [void, level["csf"], level["csf"], level["grey"], level["grey"], level["white"], level["white"], bright]
    brain = _curve(intensity, nodes, np.array(values))
    for cell, size in ((1.0 * mm, 0.02), (2.5 * mm, 0.02), (12 * mm, 0.04)):
        brain = brain * (1 + rng.uniform(0, 1.5) * size * smooth_field(rng, n, max(cell, 1.0))[0])
    for _ in range(rng.poisson(1.0) if rng.random() < 0.3 else 0):
        centre, radius = rng.uniform(0.3, 0.7, 2) * n, rng.uniform(2.0, 14.0) * mm
        x = torch.arange(n, dtype=torch.float32)
        blob = (
            torch.hypot(x[:, None] - centre[0], x[None] - centre[1]) / radius + 0.25 * smooth_field(rng, n, radius)[0]
        )
        brain = brain + torch.sigmoid((1 - blob) * 5) * rng.uniform(-0.5, 0.8) * level["white"]
    if c.has_head and rng.random() < 0.6:
        outside, fat = _scalp_of(rng, c, level)
    else:
        outside, fat = _draw_head(rng, c, level)
    edge = rng.uniform(0.3, 2.0 if c.has_head else 1.0)
    inside = torch.sigmoid((edge - distance) / 0.6)
    if rng.random() < 0.7:
        outside = outside * (1 + rng.uniform(0, 0.5) * smooth_field(rng, n, rng.uniform(1.5, 6.0) * mm)[0])
    image = inside * brain + (1 - inside) * outside
    return _vessels(rng, image, distance, c.pitch).clamp_min(0), torch.stack((fat, torch.ones_like(fat))) * (1 - inside)


def _scalp_of(rng: Random, c: Cut, level: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    nodes = np.array([0.0, 0.05, 0.14, 0.32, 0.6, 0.95, 1.4])
    muscle, fat = level["muscle"], level["fat"]
    values = [0.0, 0.0, level["bone"], muscle, muscle * rng.uniform(0.7, 1.2), fat, fat * 1.1]
    return _curve(c.intensity, nodes, np.array(values)), ((c.intensity - 0.6) / 0.35).clamp(0, 1)


def _draw_head(rng: Random, c: Cut, level: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Meninges, skull with marrow, muscle, fat and skin as shells about the brain, of random uneven thickness."""
    n, mm = c.intensity.shape[0], 1.0 / c.pitch
    # the Euclidean distance to a folded surface is rounded off further out by blurring it
    shell = torch.where(c.distance < 3.0, c.distance, blurred(c.distance, 4.0 * mm))

    def thickness(low: float, high: float, cell: float = 35.0) -> torch.Tensor:
        return (rng.uniform(low, high) * (1 + 0.3 * smooth_field(rng, n, cell * mm)[0])).clamp_min(0.0)

    parts = [("csf", 0.2, 2.5), ("bone", 1.0, 2.5), ("marrow", 0.0, 4.0), ("bone", 1.0, 2.2), ("muscle", 0.0, 1.5),
             ("fat", 1.0, 6.0), ("skin", 1.0, 2.5)]  # fmt: skip
    outside, fat, outer = torch.zeros(n, n), torch.zeros(n, n), torch.zeros(n, n)
    wide = rng.random() < 0.2
    for name, low, high in parts:
        inner = outer
        outer = outer + thickness(low, high) * (2.0 if wide and name in ("muscle", "fat") else 1.0)
        share = torch.sigmoid((shell - inner) / 0.35) * torch.sigmoid((outer - shell) / 0.35)
        texture = 1 + rng.uniform(0, 0.25) * smooth_field(rng, n, rng.uniform(1.5, 6.0) * mm)[0]
        outside = outside + share * level[name] * texture
        fat = fat + share * (name in ("fat", "marrow"))
    return outside, fat


def _vessels(rng: Random, image: torch.Tensor, distance: torch.Tensor, pitch: float) -> torch.Tensor:
    """Dark or bright dots (vessels cut across) and winding lines (vessels and dura in the plane)."""
    n = image.shape[0]
    x = torch.arange(n, dtype=torch.float32)
    sign = -0.7 if rng.random() < 0.6 else 0.6
    head = torch.nonzero(distance < 3.0)
    for _ in range(int(rng.integers(0, 12)) if len(head) else 0):
        i, j = head[int(rng.integers(len(head)))].tolist()
        sx, sy = rng.uniform(0.5, 1.6, 2) / pitch
        dot = torch.exp(-0.5 * (((x[:, None] - i) / sx) ** 2 + ((x[None] - j) / sy) ** 2))
        image = image * (1 + sign * rng.uniform(0.3, 1.0) * dot)
    if rng.random() < 0.5:
        field = smooth_field(rng, n, rng.uniform(15.0, 40.0) / pitch)[0]
        gx, gy = torch.gradient(field)
        line = field.abs() / (torch.hypot(gx, gy) + 1e-3) * pitch
        where = torch.sigmoid(3 * smooth_field(rng, n, 20.0 / pitch)[0] - 2) * (distance < 2.0)
        image = image * (
            1 + sign * rng.uniform(0.2, 0.7) * torch.exp(-0.5 * (line / rng.uniform(0.4, 0.9)) ** 2) * where
        )
    return image


def _shading(rng: Random, n: int) -> torch.Tensor:
    """Root of sum of squares of a ring of surface coils, plus a smooth bias field."""
    x = torch.linspace(-1, 1, n)
    coils, radius, reach = int(rng.integers(4, 17)), rng.uniform(0.85, 1.5), rng.uniform(0.35, 1.2)
    angle = np.linspace(0, 2 * np.pi, coils, endpoint=False) + rng.uniform(0, np.pi)
    power = torch.zeros(n, n)
    ratio = rng.uniform(0.75, 1.3)
    for a in angle:
        gain = rng.uniform(0.6, 1.2)
        far = ((x[:, None] - radius * np.cos(a)) ** 2 + (x[None] - radius * ratio * np.sin(a)) ** 2) / reach**2
        power += gain * (1 + far) ** (-rng.uniform(1.5, 3.0))
    field = power.sqrt()
    field = (field / field.mean()) ** rng.choice([0.0, 0.5, 1.0], p=[0.25, 0.25, 0.5])
    return field * torch.exp(rng.uniform(0, 0.2) * smooth_field(rng, n, n / rng.uniform(1.0, 3.0))[0])


def _fft(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x), norm="ortho"))


def _ifft(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(x), norm="ortho"))


def acquire(image: torch.Tensor, outside: torch.Tensor, rng: Random, size: int) -> torch.Tensor:
    """Shade and phase a fine magnitude, acquire ``size`` x ``size`` k-space, demodulate and scale it."""
    n = image.shape[0]
    phase = rng.uniform(0.0, 1.6) * smooth_field(rng, n, n / rng.uniform(0.8, 3.0))[0]
    phase = phase + rng.uniform(0.0, 0.25) ** 1.5 * smooth_field(rng, n, n / rng.uniform(6.0, 20.0))[0]
    if rng.random() < 0.5:  # bone, air and scalp disturb the field near them
        phase = phase + outside[1] * rng.uniform(0.0, 0.8) * smooth_field(rng, n, n / rng.uniform(10.0, 50.0))[0]
    x = image * _shading(rng, n) * torch.exp(1j * phase)
    if rng.random() < 0.75:
        # fat precesses at another frequency: shifted along the readout by up to some pixels, with a phase of its own
        part = x * outside[0]
        step = int(rng.integers(-2 * n // size, 2 * n // size + 1))
        uneven = rng.uniform(0.0, 1.5) * smooth_field(rng, n, n / rng.uniform(8.0, 45.0))[0]
        x = x - part + torch.roll(part, step, int(rng.integers(2))) * torch.exp(1j * (rng.normal(0, 1.2) + uneven))
    k = _fft(x)
    low = (n - size) // 2
    k = k[low : low + size, low : low + size].clone()
    ramp = torch.linspace(-1, 1, size)
    if rng.random() < 0.45:
        sharp, width = rng.uniform(0.02, 0.15), rng.uniform(0.75, 1.1)
        fermi = torch.sigmoid((width - ramp.abs()) / sharp)
        disc = torch.sigmoid((width - torch.hypot(ramp[:, None], ramp[None])) / sharp)
        k = k * (fermi[:, None] * fermi[None] if rng.random() < 0.5 else disc)
    elif rng.random() < 0.25:
        k = k * (ramp.abs() < rng.uniform(0.7, 1.0))[None, :]
    x = _ifft(k)
    lines = rng.uniform(7.0, 28.0) / size
    window = torch.exp(-0.5 * (ramp / lines / 0.7) ** 2) * (ramp.abs() <= lines)
    other = window if rng.random() < 0.5 else torch.exp(-0.5 * (ramp / lines / rng.uniform(0.7, 4.0)) ** 2)
    smooth = _ifft(_fft(x) * window[None] * other[:, None])
    x = x * torch.exp(-1j * torch.angle(smooth))
    scale = torch.quantile(x.abs().flatten(), 0.99).clamp_min(1e-6)
    return x / scale * float(np.exp(rng.uniform(-0.12, 0.2)))


def draw(anatomies: list[Anatomy], rng: Random, out: int = 112, contrasts: int = 2) -> list[torch.Tensor]:
    """Images of one slice in some contrasts, float32 (2, out, out): the padded whole, or a crop of a finer one."""
    weights = np.array([0.65 if a.has_head else 0.35 for a in anatomies])
    anatomy = anatomies[int(rng.choice(len(anatomies), p=weights / weights.sum()))]
    whole = rng.random() < 0.75
    size = int(rng.integers(84, out + 1) if whole else rng.integers(120, 225))
    c = cut(anatomy, rng, 2 * size, rng.uniform(190.0, 260.0) / (2 * size))
    images: list[torch.Tensor] = []
    for _ in range(contrasts if float((c.distance < 0).float().mean()) > 0.08 else 0):
        full = torch.view_as_real(acquire(*magnitude(c, rng), rng, size)).permute(2, 0, 1)
        if whole:
            left, top = (int(v) for v in rng.integers(0, out - size + 1, 2))
            images.append(F.pad(full, (left, out - size - left, top, out - size - top)))
            continue
        corners = [tuple(int(v) for v in rng.integers(0, size - out + 1, 2)) for _ in range(4)]
        crops = [full[:, i : i + out, j : j + out].contiguous() for i, j in corners]
        images += [x for x in crops if float((x.abs().amax(0) > 0.1).float().mean()) > 0.35][:1]
    return images
