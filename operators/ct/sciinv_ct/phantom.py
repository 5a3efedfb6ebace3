"""Two families of synthetic slices: objects of a few materials, and cross-sections of a body.

They train the shipped priors (examples/train_ct_prior) and are the phantoms of ``sciinv simulate ct``. Values are
attenuation over that of a reference material (1: acrylic, water); air is 0. Everything random comes from the generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sciinv_ct.shapes import (
    Array,
    Plane,
    blob,
    box,
    circle,
    coverage,
    ellipse,
    plane,
    polygon,
    smooth_field,
    turned,
)

Random = np.random.Generator


def over(image: Array, level: float | Array, distance: Array, pixel: float) -> Array:
    """Paint a shape of this level over the image."""
    share = coverage(distance, pixel)
    return image + share * (level - image)


def piecewise(rng: Random, n: int = 128) -> Array:
    """One object of the piecewise-smooth family, ``(n, n)``.

    Mostly a disc with holes, whole or seen closer; else a heap of overlapping shapes of several levels. Shading within
    a material (as beam hardening leaves it) is at most some per cent.
    """
    p, kind = plane(n), rng.uniform()
    zoom, pixel = 1.0, 2.0 / n
    if kind > 0.7:  # closer: details of a larger object
        zoom = float(rng.uniform(1.3, 3.5))
        centre = rng.uniform(-0.7, 0.7, 2) * (1 - 1 / zoom) * 1.2
        p, pixel = (
            (p[0] / np.float32(zoom) + np.float32(centre[0]), p[1] / np.float32(zoom) + np.float32(centre[1])),
            pixel / zoom,
        )
    image = _heap(rng, p, pixel) if rng.uniform() < 0.2 else _disc(rng, p, pixel)
    if rng.uniform() < 0.5:
        image *= 1 + np.float32(rng.uniform(0, 0.06)) * smooth_field(rng, p)
    blur = rng.uniform(0, 0.8)
    if blur > 0.3:
        image = gaussian_filter(image, blur)
    return np.ascontiguousarray(image, np.float32)


def _disc(rng: Random, p: Plane, pixel: float) -> Array:
    """A disc with holes of one of five kinds, sometimes with inserts of other materials in them."""
    radius = float(rng.uniform(0.7, 0.97))
    centre = (rng.uniform(-1, 1, 2) * min(0.08, 0.98 - radius)).tolist()
    p = turned(p, centre, float(rng.uniform(0, 2 * np.pi)))
    level = float(rng.uniform(0.85, 1.15))
    outer = circle(p, radius)
    image = np.float32(level) * coverage(outer, pixel)
    if rng.uniform() < 0.5:  # cupping
        image *= 1 - np.float32(rng.uniform(0, 0.12)) * np.clip(1 - (p[0] ** 2 + p[1] ** 2) / radius**2, 0, 1)
    kind = rng.choice(5, p=[0.2, 0.34, 0.24, 0.16, 0.06])
    inside = radius - rng.uniform(0.03, 0.15)
    if kind == 2:
        holes = _cells(rng, p, inside)
    elif kind == 4:
        holes = []
    else:
        holes = _scattered(rng, p, inside, ("circles", "mixed", "", "slots")[kind])
    fill = rng.uniform() < 0.15
    for hole in holes:
        image = over(image, float(rng.uniform(0, 1.6)) if fill and rng.uniform() < 0.7 else 0.0, hole, pixel)
    return image


def _scattered(rng: Random, p: Plane, room: float, kind: str) -> list[Array]:
    """Shapes that keep a distance from each other and from the rim."""
    count = int(rng.integers(1, 7) if kind == "circles" else rng.integers(2, 16))
    equal, taken, shapes = float(rng.uniform(0.06, 0.3)), list[tuple[float, float, float]](), list[Array]()
    gap = float(rng.uniform(0.01, 0.08))
    for _ in range(6 * count):
        r = equal if kind == "circles" and rng.uniform() < 0.9 else float(rng.uniform(0.05, 0.36))
        if r >= room:
            continue
        rho, angle = (room - r) * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
        c = (rho * np.cos(angle), rho * np.sin(angle))
        if any(np.hypot(c[0] - x, c[1] - y) < r + s + gap for x, y, s in taken):
            continue
        taken.append((*c, r))
        shapes.append(_shape(rng, turned(p, c, float(rng.uniform(0, 2 * np.pi))), r, kind))
        if len(shapes) == count:
            break
    return shapes


def _shape(rng: Random, q: Plane, r: float, kind: str) -> Array:
    """One random shape within a circle of radius r about the origin."""
    if kind == "circles":
        return circle(q, r)
    if kind == "slots":
        return box(q, r, r * rng.uniform(0.12, 0.4), r * rng.uniform(0, 0.12))
    pick = rng.integers(7)
    if pick == 0:
        return circle(q, r)
    if pick == 1:
        return ellipse(q, r, r * rng.uniform(0.3, 0.95))
    if pick == 2:
        a = rng.uniform(0.3, 1.25)
        return box(q, r * np.cos(a), r * np.sin(a), r * rng.uniform(0, 0.25))
    if pick == 3:
        m = int(rng.integers(3, 8))
        return polygon(q, _corners(rng.uniform(0, 0.3), rng, m, np.full(m, r)))
    if pick == 4:
        m = 2 * int(rng.integers(3, 7))
        reach = np.where(np.arange(m) % 2 == 0, r, r * rng.uniform(0.35, 0.75))
        return polygon(q, _corners(0.0, rng, m, reach))
    if pick == 5:
        waves = [(k, float(rng.uniform(0, 0.3 / k)), float(rng.uniform(0, 6.3))) for k in range(2, 6)]
        return blob(q, r * 0.75, waves)
    ring = np.abs(circle(q, r * 0.8)) - np.float32(r * rng.uniform(0.08, 0.2))
    return np.maximum(ring, -box((q[0] - r, q[1]), r, r * rng.uniform(0.1, 0.5))) if rng.uniform() < 0.5 else ring


def _corners(jitter: float, rng: Random, m: int, reach: NDArray[np.floating]) -> NDArray[np.floating]:
    angle = 2 * np.pi * (np.arange(m) + jitter * rng.uniform(-1, 1, m)) / m
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)


def _cells(rng: Random, p: Plane, room: float) -> list[Array]:
    """Voronoi cells with rounded corners between webs, a rim around them."""
    count, seeds = int(rng.integers(4, 18)), list[NDArray[np.floating]]()
    for candidate in rng.uniform(-room, room, (200, 2)):
        apart = [np.hypot(*(candidate - s)) for s in seeds]
        if np.hypot(*candidate) < room and min(apart, default=9.0) > 0.9 * room / count**0.5 and len(seeds) < count:
            seeds.append(candidate)
    web, soft = np.float32(rng.uniform(0.015, 0.05)), np.float32(rng.uniform(0.004, 0.03))
    squares = [(p[0] - np.float32(x)) ** 2 + (p[1] - np.float32(y)) ** 2 for x, y in seeds]
    cells = []
    for i, here in enumerate(seeds):
        if rng.uniform() < 0.1:
            continue
        # a soft maximum of the distances to the cell's walls rounds its corners
        walls = [circle(p, room) + web]
        for j, other in enumerate(seeds):
            if j != i:
                walls.append((squares[i] - squares[j]) / np.float32(2 * np.hypot(*(here - other))) + web)
        top = np.maximum.reduce(walls)
        total = np.zeros_like(top)
        for wall in walls:
            total += np.exp((wall - top) / soft)
        cells.append(top + soft * np.log(total))
    return cells


def _heap(rng: Random, p: Plane, pixel: float) -> Array:
    """Overlapping shapes of several levels over each other."""
    image = np.zeros(p[0].shape, np.float32)
    kinds: tuple[str, ...] = ("mixed", "mixed", "circles", "slots")
    for k in range(int(rng.integers(2, 12))):
        r = float(rng.uniform(0.3, 0.9) if k == 0 else rng.uniform(0.08, 0.5))
        room = 0.95 - r if k == 0 else 0.8 - r / 2
        q = turned(p, (rng.uniform(-1, 1, 2) * room).tolist(), float(rng.uniform(0, 2 * np.pi)))
        level = 0.0 if k and rng.uniform() < 0.3 else float(rng.uniform(0.2, 1.8))
        image = over(image, level, _shape(rng, q, r, kinds[rng.integers(4)]), pixel)
    return image


def body(rng: Random, n: int = 128) -> Array:
    """One slice of the body-like family, ``(n, n)``, water at 1: thorax, abdomen, pelvis-like or head.

    Outlines, organs, vessels and bones are drawn, not measured; textures are weak and smooth.
    """
    p, pixel = plane(n), 2.0 / n
    if rng.uniform() < 0.25:
        zoom = float(rng.uniform(1.2, 2.5))
        shift = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
        p, pixel = (p[0] / np.float32(zoom) + shift[0], p[1] / np.float32(zoom) + shift[1]), pixel / zoom
    p = turned(p, rng.uniform(-0.06, 0.06, 2).tolist(), float(rng.normal(0, 0.1)))
    image = _head(rng, p, pixel) if rng.uniform() < 0.3 else _trunk(rng, p, pixel)
    inside = image > 0.5
    image = image + inside * np.float32(rng.uniform(0, 0.012)) * smooth_field(rng, p, 8, float(rng.uniform(4, 25)))
    blur = rng.uniform(0.2, 0.9)
    return np.ascontiguousarray(gaussian_filter(image, blur), np.float32)


def _waves(rng: Random, size: float, first: int = 2, last: int = 6) -> list[tuple[int, float, float]]:
    return [(k, float(rng.normal(0, size / k)), float(rng.uniform(0, 6.3))) for k in range(first, last)]


def _stretched(q: Plane, a: float, b: float) -> Plane:
    """Coordinates in which an ellipse of half axes a and b is nearly the unit circle times the smaller of them."""
    m = np.float32(min(a, b))
    return q[0] * (m / np.float32(a)), q[1] * (m / np.float32(b))


def _organ(rng: Random, p: Plane, centre: tuple[float, float], a: float, b: float, wave: float = 0.12) -> Array:
    q = _stretched(turned(p, centre, float(rng.normal(0, 0.3))), a, b)
    return blob(q, min(a, b), _waves(rng, wave))


def _trunk(rng: Random, p: Plane, pixel: float) -> Array:
    image = np.zeros(p[0].shape, np.float32)
    a, b = float(rng.uniform(0.72, 0.96)), float(rng.uniform(0.45, 0.7))
    outline = _stretched(p, a, b)
    waves = _waves(rng, 0.05, 2, 6)
    skin = blob(outline, b, waves)
    fat, muscle = float(rng.normal(0.9, 0.015)), float(rng.normal(1.05, 0.012))
    image = over(image, fat, skin, pixel)
    layer = float(rng.uniform(0.02, 0.12))
    wall = skin + np.float32(layer)
    image = over(image, muscle, wall, pixel)
    cavity = wall + np.float32(rng.uniform(0.04, 0.08))
    thorax = rng.uniform() < 0.5
    image = over(image, float(rng.normal(0.92, 0.02)) if not thorax else muscle, cavity, pixel)
    if thorax:
        _thorax(rng, p, pixel, image, cavity, a, b)
    else:
        _abdomen(rng, p, pixel, image, cavity, a, b, muscle)
    bone = float(rng.uniform(1.25, 1.7))
    _ribs(rng, p, pixel, image, wall, bone)
    _spine(rng, p, pixel, image, b, bone)
    if rng.uniform() < 0.4:  # table under the patient
        y = -b - rng.uniform(0.02, 0.06)
        curve = p[1] - np.float32(y) - np.float32(rng.uniform(0, 0.12)) * p[0] ** 2
        image[:] = over(
            image, float(rng.uniform(0.15, 0.7)), np.maximum(np.abs(curve) - 0.012, np.abs(p[0]) - 0.7), pixel
        )
    return image


def _thorax(rng: Random, p: Plane, pixel: float, image: Array, cavity: Array, a: float, b: float) -> None:
    air = float(rng.uniform(0.12, 0.35))
    for side in (-1, 1):
        lung = _organ(
            rng,
            p,
            (side * a * rng.uniform(0.4, 0.48), rng.normal(0, 0.03)),
            a * rng.uniform(0.3, 0.42),
            b * rng.uniform(0.55, 0.8),
        )
        lung = np.maximum(lung, cavity)
        image[:] = over(image, air * (1 + np.float32(0.12) * smooth_field(rng, p, 6, 5.0)), lung, pixel)
        for _ in range(int(rng.integers(6, 30))):  # vessels
            c = (side * a * rng.uniform(0.2, 0.75), b * rng.uniform(-0.6, 0.6))
            q, r = turned(p, c, float(rng.uniform(0, 3.2))), float(rng.uniform(0.006, 0.03))
            vessel = np.maximum(box(q, r * rng.uniform(1, 6), r, r), lung + 0.02)
            image[:] = over(image, float(rng.uniform(0.8, 1.06)), vessel, pixel)
        if rng.uniform() < 0.15:
            node = circle(
                turned(p, (side * a * rng.uniform(0.3, 0.6), b * rng.uniform(-0.4, 0.4)), 0.0),
                float(rng.uniform(0.02, 0.08)),
            )
            image[:] = over(image, float(rng.uniform(0.9, 1.1)), node, pixel)
    heart = _organ(
        rng, p, (rng.normal(0.1, 0.05), rng.normal(0.08, 0.05)), rng.uniform(0.15, 0.32), rng.uniform(0.15, 0.28)
    )
    blood = float(rng.uniform(1.04, 1.3) if rng.uniform() < 0.4 else rng.normal(1.05, 0.01))
    image[:] = over(image, float(rng.normal(1.05, 0.01)), np.maximum(heart, cavity), pixel)
    image[:] = over(image, blood, np.maximum(heart + np.float32(0.04), cavity), pixel)
    image[:] = over(
        image, blood, circle(turned(p, (rng.normal(0.08, 0.03), -0.22), 0.0), float(rng.uniform(0.03, 0.07))), pixel
    )
    if rng.uniform() < 0.5:
        image[:] = over(image, 0.0, ellipse(turned(p, (0.0, rng.uniform(-0.1, 0.15)), 0.0), 0.04, 0.05), pixel)


def _abdomen(
    rng: Random, p: Plane, pixel: float, image: Array, cavity: Array, a: float, b: float, muscle: float
) -> None:
    for _ in range(int(rng.integers(4, 16))):
        c = (a * rng.uniform(-0.6, 0.6), b * rng.uniform(-0.55, 0.6))
        organ = np.maximum(_organ(rng, p, c, rng.uniform(0.05, 0.25), rng.uniform(0.05, 0.2), 0.25), cavity)
        image[:] = over(image, float(rng.normal(1.04, 0.02)), organ, pixel)
        if rng.uniform() < 0.25:  # bowel with gas or contrast
            image[:] = over(image, float(rng.choice([0.02, 1.35])), organ + np.float32(rng.uniform(0.03, 0.08)), pixel)
    if rng.uniform() < 0.7:
        liver = np.maximum(
            _organ(
                rng, p, (-a * rng.uniform(0.35, 0.5), b * rng.uniform(0.0, 0.25)), a * 0.42, b * rng.uniform(0.45, 0.65)
            ),
            cavity,
        )
        level = float(rng.normal(1.06, 0.012))
        image[:] = over(image, level, liver, pixel)
        for _ in range(int(rng.integers(0, 8))):
            c = (-a * rng.uniform(0.15, 0.7), b * rng.uniform(-0.2, 0.5))
            image[:] = over(
                image,
                level + float(rng.normal(0.0, 0.05)),
                np.maximum(circle(turned(p, c, 0.0), float(rng.uniform(0.01, 0.07))), liver),
                pixel,
            )
    for side in (-1, 1):
        if rng.uniform() < 0.7:
            kidney = _organ(rng, p, (side * a * rng.uniform(0.35, 0.5), -b * rng.uniform(0.2, 0.45)), 0.1, 0.13, 0.1)
            image[:] = over(image, float(rng.uniform(1.03, 1.25)), kidney, pixel)
        psoas = _organ(rng, p, (side * 0.16, -b * 0.5), 0.09, 0.1, 0.05)
        image[:] = over(image, muscle, psoas, pixel)
    image[:] = over(
        image, float(rng.uniform(1.04, 1.3)), circle(turned(p, (rng.normal(0, 0.03), -0.12), 0.0), 0.04), pixel
    )
    if rng.uniform() < 0.25:  # hip bones
        for side in (-1, 1):
            c = (side * a * rng.uniform(0.5, 0.65), -b * rng.uniform(0.0, 0.3))
            hip = np.abs(_organ(rng, p, c, 0.16, 0.22, 0.1)) - np.float32(0.02)
            image[:] = over(image, float(rng.uniform(1.4, 2.0)), hip, pixel)


def _ribs(rng: Random, p: Plane, pixel: float, image: Array, wall: Array, bone: float) -> None:
    shell = np.abs(wall + np.float32(rng.uniform(0.03, 0.05))) - np.float32(rng.uniform(0.012, 0.025))
    angle = np.arctan2(p[1], p[0])
    for _ in range(int(rng.integers(0, 14))):
        centre, half = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.25)
        off = np.abs(np.angle(np.exp(1j * (angle - centre)))).astype(np.float32)
        piece = np.maximum(shell, (off - np.float32(half)) * 0.5)
        image[:] = over(image, bone + 0.25, piece, pixel)
        image[:] = over(image, bone * 0.8, piece + np.float32(0.01), pixel)


def _spine(rng: Random, p: Plane, pixel: float, image: Array, b: float, bone: float) -> None:
    y = -b * rng.uniform(0.4, 0.6)
    q = turned(p, (float(rng.normal(0, 0.02)), y), 0.0)
    body_ = ellipse(q, float(rng.uniform(0.1, 0.15)), float(rng.uniform(0.08, 0.12)))
    image[:] = over(image, bone + 0.2, body_, pixel)
    image[:] = over(image, bone - 0.1, body_ + np.float32(0.018), pixel)
    arch = np.abs(circle((q[0], q[1] + np.float32(0.14)), 0.06)) - np.float32(0.018)
    image[:] = over(image, bone + 0.1, arch, pixel)
    image[:] = over(image, 1.03, circle((q[0], q[1] + np.float32(0.14)), 0.042), pixel)
    image[:] = over(
        image, bone, box((q[0], q[1] + np.float32(0.24)), 0.018, float(rng.uniform(0.03, 0.06)), 0.01), pixel
    )
    for side in (-1, 1):
        wing = box(turned(q, (side * 0.13, -0.14), side * 0.4), 0.07, 0.016, 0.01)
        image[:] = over(image, bone, wing, pixel)


def _head(rng: Random, p: Plane, pixel: float) -> Array:
    image = np.zeros(p[0].shape, np.float32)
    a, b = float(rng.uniform(0.55, 0.75)), float(rng.uniform(0.7, 0.95))
    skin = blob(_stretched(p, a, b), min(a, b), _waves(rng, 0.025))
    image = over(image, float(rng.normal(1.0, 0.05)), skin, pixel)
    skull, thick = skin + np.float32(rng.uniform(0.03, 0.08)), float(rng.uniform(0.03, 0.09))
    bone = float(rng.uniform(1.7, 2.4))
    image = over(image, bone, skull, pixel)
    if thick > 0.05:
        image = over(image, bone * 0.75, np.abs(skull + np.float32(thick / 2)) - np.float32(thick / 5), pixel)
    inside = skull + np.float32(thick)
    image = over(image, float(rng.normal(1.012, 0.004)), inside, pixel)
    grey = inside + np.float32(rng.uniform(0.005, 0.03))
    image = over(image, float(rng.normal(1.037, 0.003)), grey, pixel)
    white = blob(_stretched(p, a, b), min(a, b) * 0.62, _waves(rng, 0.12, 3, 12))
    image = over(image, float(rng.normal(1.027, 0.003)), np.maximum(white, grey + np.float32(0.04)), pixel)
    for side in (-1, 1):
        horn = _organ(
            rng,
            p,
            (side * rng.uniform(0.05, 0.12), rng.normal(0.05, 0.1)),
            rng.uniform(0.02, 0.07),
            rng.uniform(0.1, 0.25),
        )
        image = over(image, float(rng.normal(1.008, 0.004)), horn, pixel)
    if rng.uniform() < 0.3:
        mass = _organ(
            rng,
            p,
            (rng.uniform(-0.3, 0.3), rng.uniform(-0.4, 0.4)),
            rng.uniform(0.03, 0.15),
            rng.uniform(0.03, 0.15),
            0.2,
        )
        image = over(
            image, float(rng.choice([rng.uniform(1.05, 1.09), rng.uniform(1.0, 1.025)])), np.maximum(mass, grey), pixel
        )
    if rng.uniform() < 0.35:  # base of the skull: air cells, dense bone
        for _ in range(int(rng.integers(2, 12))):
            c = (a * rng.uniform(-0.6, 0.6), b * rng.uniform(-0.2, 0.7))
            cell = np.maximum(
                _organ(rng, p, c, rng.uniform(0.03, 0.15), rng.uniform(0.03, 0.12), 0.25), skull + np.float32(0.02)
            )
            image = over(image, float(rng.uniform(1.5, 2.3)), cell, pixel)
            image = over(
                image, 0.0 if rng.uniform() < 0.6 else 1.04, cell + np.float32(rng.uniform(0.012, 0.03)), pixel
            )
    return image


FAMILIES: dict[str, Callable[[Random, int], Array]] = {"piecewise": piecewise, "body": body}
