"""Multi-coil MRI forward and adjoint, 8 x 320 x 320, against deepinv's `MultiCoilMRI` and sigpy's `Sense`.

One image, complex64, about 30 % of the lines. All contestants are checked to compute the same thing first.
"""

from __future__ import annotations

from _common import finish, need, race, table  # isort: skip - sets one thread before torch is imported

import torch
from sciinv_mri.masks import random_lines
from sciinv_mri.sense import Sense

COILS, SIZE = 8, 320


def maps_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random maps of unit power and a variable-density mask of whole lines."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    centre = torch.randn(COILS, 2, 1, 1, generator=g)
    magnitude = torch.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2))
    maps = torch.polar(magnitude, 3 * (centre[:, 1] * y - centre[:, 0] * x))
    maps = maps / maps.abs().square().sum(0).sqrt()
    return maps, torch.as_tensor(random_lines(SIZE, 98, 24, 0))


def main() -> None:
    """Race and report."""
    need("deepinv", "sigpy")
    import deepinv
    import sigpy.mri

    maps, lines = maps_and_mask()
    mask = lines.float().expand(SIZE, SIZE).contiguous()
    g = torch.Generator().manual_seed(1)
    x = torch.randn(SIZE, SIZE, dtype=torch.complex64, generator=g)
    y = torch.randn(COILS, SIZE, SIZE, dtype=torch.complex64, generator=g)
    ours = Sense(maps, lines)
    theirs = deepinv.physics.MultiCoilMRI(mask=mask[None, None], coil_maps=maps[None], img_size=(SIZE, SIZE))
    xd = torch.view_as_real(x).movedim(-1, 0)[None].contiguous()
    yd = torch.view_as_real(y).movedim(-1, 0)[None].contiguous()
    sig = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy())
    xs, ys = x.numpy(), y.numpy()
    adjoint = sig.H

    ax, aty = ours(x), ours.adjoint(y)
    pairs = (theirs.A(xd)[0], theirs.A_adjoint(yd)[0])
    found = {
        "deepinv": [torch.view_as_complex(v.movedim(0, -1).contiguous()) for v in pairs],
        "sigpy": [torch.as_tensor(sig(xs)), torch.as_tensor(adjoint(ys))],
    }
    for name, results in found.items():
        for result, wanted in zip(results, (ax, aty), strict=True):
            gap = float((result - wanted).norm() / wanted.norm())
            assert gap < 1e-4, f"{name} computes something else: relative difference {gap:.1e}"

    with torch.no_grad():
        ms = race(
            {
                "A ours": lambda: ours(x),
                "A deepinv": lambda: theirs.A(xd),
                "A sigpy": lambda: sig(xs),
                "A^H ours": lambda: ours.adjoint(y),
                "A^H deepinv": lambda: theirs.A_adjoint(yd),
                "A^H sigpy": lambda: adjoint(ys),
                "A^H A ours": lambda: ours.normal(x),
            },
            repeats=31,
            inner=3,
            warm_up=3,
        )
    table(["call", "CPU ms"], [[name, value] for name, value in ms.items()])
    figures = {
        "forward_vs_deepinv": ms["A deepinv"] / ms["A ours"],
        "adjoint_vs_deepinv": ms["A^H deepinv"] / ms["A^H ours"],
        "forward_vs_sigpy": ms["A sigpy"] / ms["A ours"],
        "adjoint_vs_sigpy": ms["A^H sigpy"] / ms["A^H ours"],
    }
    table(["figure", "ratio", "at least"], [[k, v, 2 if "deepinv" in k else 3] for k, v in figures.items()])
    ok = all(v >= (2 if "deepinv" in k else 3) for k, v in figures.items())
    finish(figures | {"forward_ms": ms["A ours"], "adjoint_ms": ms["A^H ours"]}, ok)


if __name__ == "__main__":
    main()
