"""A tiny domain for tests of the machinery: masked Fourier data of 16 x 16 images, an exact random-field prior, no MRI.

``python tests/tiny.py ARGS`` is the command line with this domain installed. ``TINY_DELAY`` makes each denoiser call
slower and ``TINY_BAD`` lists items whose denoiser returns NaN, so that a test can interrupt a run or make a slice fail.
"""

from __future__ import annotations

import dataclasses as dc
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sciinv import plugins
from sciinv.errors import InputError

SIZE = 16


@dc.dataclass(frozen=True)
class TinyOptions:
    """Knobs of the tiny domain."""

    noise: float = 0.1
    acceleration: float | None = None
    mode: str = "plain"


@dc.dataclass(frozen=True)
class TinyData:
    y: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    warnings: tuple[str, ...] = ()

    def info(self) -> dict[str, Any]:
        return {"images": len(self.y)}


def make(path: Path, items: int = 2, seed: int = 0) -> Path:
    """Write a file of this domain."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, SIZE)
    truth = np.stack([(1 + k) * np.outer(np.sin(3 * ramp), ramp) + 0.2 for k in range(items)]).astype(np.complex64)
    mask = rng.random((SIZE, SIZE)) < 0.6
    mask[5:11, 5:11] = True
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(truth, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    noise = 0.1 * (rng.normal(size=k.shape) + 1j * rng.normal(size=k.shape))
    path = Path(path)
    with open(path, "wb") as file:
        np.savez(file, y=(mask * (k + noise)).astype(np.complex64), mask=mask, truth=truth)
    return path


def read(path: Path) -> TinyData:
    try:
        with np.load(path, allow_pickle=False) as found:
            return TinyData(found["y"], found["mask"], found["truth"])
    except Exception as error:
        raise InputError(
            "this is no tiny file", where=Path(path).name, expected="an npz of y, mask, truth",
            found=type(error).__name__,
            hint="tiny.make writes one",
        ) from error  # fmt: skip


def problem(data: TinyData, item: int, options: TinyOptions) -> Any:
    import torch

    from sciinv.generic.fourier import FourierMask
    from sciinv.noise import Gaussian
    from sciinv.problem import Problem

    if str(item) in os.environ.get("TINY_UNUSABLE", "").split(","):
        raise InputError(
            "this item holds no signal", where=f"item {item}", expected="signal", found="zeros", hint="leave it out"
        )
    operator = FourierMask(torch.from_numpy(data.mask), (SIZE, SIZE))
    truth = torch.from_numpy(data.truth[item])
    meta = {
        "n_data": operator.n_data, "scale": 2.0, "phase": torch.full((SIZE, SIZE), 1j, dtype=torch.complex64),
        "reference": 2 * truth.abs(), "support": torch.ones(SIZE, SIZE, dtype=torch.bool), "acceleration": 1.7,
        "warnings": ["a tiny warning"], "item": item,
    }  # fmt: skip
    return Problem(torch.from_numpy(data.y[item]), operator, Gaussian(options.noise), meta)


def write(out: Path, data: TinyData, results: Any, context: Any) -> list[Path]:
    from sciinv.io.atomic import write_bytes, write_json

    paths = []
    for result in results:
        paths.append(write_bytes(out / f"mean{result.item}.bin", result.summary["mean"].numpy().tobytes()))
    return [*paths, write_json(out / "tiny.json", {"statement": context.statement, "label": context.label})]


def simulate(source: str, out: Path, options: Any) -> Path:
    return make(out, seed=int(options.get("seed", 0)))


def demo(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return make(folder / "sub-tiny_T1w.tny", items=1)


def zero_filled(problem: Any) -> Any:
    return problem.aty


DOMAIN = plugins.Domain(
    name="tiny",
    readers=(plugins.Reader("tiny", lambda path: path.suffix == ".tny", read, "tiny"),),
    options=TinyOptions,
    items=lambda data: len(data.y),
    problem=problem,
    write=write,
    simulate=simulate,
    demo=demo,
    describe=lambda path, format=None: read(path).info(),
    validate=lambda path, format=None: [],
    default_prior="field",
    baselines={"zero-filled": zero_filled},
)


_real: Any = None


def load_prior(name: str) -> Any:
    """The prior of this domain, slowed or broken as the environment says."""
    import torch

    from sciinv.priors.random_field import RandomFieldPrior

    if name != "field":
        return _real(name)
    delay = float(os.environ.get("TINY_DELAY", "0"))
    bad = int(os.environ.get("TINY_BAD", "0"))

    class Field(RandomFieldPrior):
        def at(self, spatial: tuple[int, ...]) -> Any:
            return self

        def denoise(self, x: Any, sigma: Any) -> Any:
            time.sleep(delay)
            out = super().denoise(x, sigma)
            return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) < bad, torch.nan, out) if bad else out

    return Field((SIZE, SIZE), channels=2, std=0.5, corner=0.1)


def install(patch: Any = None) -> None:
    """Make this the only domain; `patch` is a ``monkeypatch`` to undo it."""
    global _real
    import sciinv.priors.checkpoint as checkpoint

    if _real is None:
        _real = checkpoint.load_prior
    known = lambda: {"tiny": DOMAIN}  # noqa: E731
    for target, name, value in ((plugins, "domains", known), (checkpoint, "load_prior", load_prior)):
        if patch is None:
            setattr(target, name, value)
        else:
            patch.setattr(target, name, value)


if __name__ == "__main__":
    import torch

    from sciinv.cli import main

    torch.set_num_threads(1)
    install()
    sys.exit(main())
