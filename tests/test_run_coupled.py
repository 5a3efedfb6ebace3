"""Slices with common random numbers: each keeps its samples' law, neighbours differ only as their data do."""

import numpy as np
import tiny

from sciinv.config import RunConfig
from sciinv.run import reconstruct
from sciinv.run.plan import tasks


def test_seeds_of_coupled_items_are_those_of_the_first():
    free, coupled = tasks([0, 2], 5, 3), tasks([0, 2], 5, 3, coupled=True)
    assert [t.name for t in free] == [t.name for t in coupled]  # results of an item stay apart
    assert [t.keys for t in coupled] == [t.keys for t in free[:2]] * 2 and free[2].keys[1] == (2, 1)


def test_neighbours_of_a_coupled_volume_look_alike_and_the_first_is_what_it_was(tmp_path, monkeypatch):
    """Three slices: two with the same data, one with a little more noise in them."""
    tiny.install(monkeypatch)
    path = tiny.make(tmp_path / "a.tny", items=3)
    with np.load(path) as found:
        data = {key: found[key].copy() for key in found}
    extra = np.random.default_rng(0).normal(size=data["y"][0].shape)
    data["y"][1], data["y"][2] = data["y"][0], data["y"][0] + 0.01 * data["mask"] * extra
    with open(path, "wb") as file:
        np.savez(file, **data)
    settings = {"start": "noise", "anneal": 6, "stationary": 4}
    means = {}
    for coupled in (False, True):
        out = tmp_path / str(coupled)
        reconstruct(path, out, RunConfig(samples=4, seed=1, coupled=coupled, sampler=settings))
        means[coupled] = [
            np.frombuffer((out / f"mean{k}.bin").read_bytes(), np.complex64).reshape(tiny.SIZE, tiny.SIZE)
            for k in range(3)
        ]
    apart = [{k: np.linalg.norm(m[0] - m[k]) / np.linalg.norm(m[0]) for k in (1, 2)} for m in means.values()]
    assert np.array_equal(means[True][0], means[False][0])
    assert apart[1][1] == 0 < apart[1][2] < 0.2 * apart[0][2], apart
    assert "coupled" in (tmp_path / "True" / "plan.json").read_text()
