"""Denoising score matching: learns a known denoiser, resumes exactly, splits over processes, reads folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

from sciinv.errors import InputError, MismatchError, UsageError
from sciinv.priors.checkpoint import load_prior
from sciinv.priors.network import precondition
from sciinv.priors.unet import UNet
from sciinv.training.data import FolderSource, read_folder, read_images
from sciinv.training.dsm import TrainConfig, draw_batch, held_out_error, keyed, noise_levels, train
from sciinv.training.ema import Ema
from sciinv.training.folder import train_from_folder

SMALL = {"channels": 1, "widths": (8,), "blocks": (1,), "fold": 1, "embedding": 8}


class Constant:
    """Images that are one number in every pixel, N(0, s^2): the ideal denoiser averages the pixels."""

    def __init__(self, deviation: float = 0.5, size: int = 8):
        self.deviation, self.size = deviation, size

    def image(self, generator: torch.Generator) -> Tensor:
        return self.deviation * torch.randn((), generator=generator).expand(1, self.size, self.size).clone()


def small() -> UNet:
    network = UNet(**SMALL)
    network.initialise(keyed(5))
    return network


def config(**changes) -> TrainConfig:
    base = {"steps": 12, "batch": 4, "sigma_data": 0.5, "warmup": 2, "log_every": 4, "save_every": 4, "seed": 3}
    return TrainConfig(**base | changes)


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_learns_to_average(tmp_path):
    """After a short run the error at sigma = 0.5 is far below the per-pixel shrinkage it starts from."""
    network = UNet(channels=1, widths=(16, 16), blocks=(1, 1), fold=2, embedding=16)
    network.initialise(keyed(5))
    held = torch.stack([Constant().image(keyed(9, i)) for i in range(64)])
    settings = config(steps=250, batch=16, learning_rate=4e-3, ema=0.95, save_every=1000)
    before = held_out_error(network, held, settings)
    assert abs(before["0.5"] - 0.5 / 2**0.5) < 0.02  # white-noise shrinkage: s sigma / sqrt(s^2 + sigma^2)
    average, errors = train(network, Constant(), settings, tmp_path, held_out=held)
    assert errors["0.5"] < 0.5 * before["0.5"]
    assert held_out_error(average, held, settings) == errors
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"step", "loss", "gradient", "rate", "seconds"} <= set(lines[0]) and "held_out" in lines[-1]


def test_resume_repeats_the_uninterrupted_run(tmp_path):
    whole, _ = train(small(), Constant(), config(), tmp_path / "a")
    train(small(), Constant(), config(), tmp_path / "c")
    cut = small()

    class Stop(Exception):
        pass

    def interrupt(entry):
        if entry["step"] == 8:
            raise Stop

    with pytest.raises(Stop):
        train(cut, Constant(), config(), tmp_path / "b", progress=interrupt)
    again, _ = train(small(), Constant(), config(), tmp_path / "b")
    assert torch.equal(weights(whole), weights(again))
    assert not torch.equal(weights(whole), weights(small()))


def test_other_settings_or_network_do_not_resume(tmp_path):
    train(small(), Constant(), config(), tmp_path)
    with pytest.raises(MismatchError, match="other settings"):
        train(small(), Constant(), config(seed=4), tmp_path)
    with pytest.raises(MismatchError, match="another network"):
        train(UNet(**SMALL | {"widths": (16,)}), Constant(), config(), tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="training state"):
        train(small(), Constant(), config(), tmp_path)


def test_settings_are_checked():
    for bad in ({"steps": 0}, {"sigma_min": 2.0, "sigma_max": 1.0}, {"sigma_data": 0.0}, {"ema": 1.0}):
        with pytest.raises(UsageError, match="out of range"):
            config(**bad)


def test_rows_of_a_batch_do_not_depend_on_the_split():
    whole = draw_batch(Constant(), config(), 7, range(4))
    halves = [draw_batch(Constant(), config(), 7, r) for r in (range(2), range(2, 4))]
    for together, parts in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(together, torch.cat(parts))
    assert not torch.equal(whole[2], draw_batch(Constant(), config(), 8, range(4))[2])


def test_noise_levels_follow_the_settings():
    settings = config(uniform_share=0.25, log_mean=-2.0, log_std=0.5, sigma_min=1e-3, sigma_max=10.0)
    logs = torch.stack([noise_levels(settings, keyed(i)) for i in range(4000)]).log()
    assert logs.min() >= np.log(1e-3) - 1e-5 and logs.max() <= np.log(10) + 1e-5
    # the log-normal puts next to nothing above log 1 = 0; a quarter times a quarter of the log range lies there
    assert abs(float((logs > 0).float().mean()) - 0.25 * np.log(10) / np.log(1e4)) < 0.012


def test_average_follows_its_recursion():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(network, decay=0.5)
    m = float(ema.average.weight)
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        network.weight.data.fill_(value)
        ema.update(network, step)
        b = min(0.5, (1 + step) / (10 + step))
        m = b * m + (1 - b) * value
    assert abs(float(ema.average.weight) - m) < 1e-6


WORKER = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from test_training import Constant, config, small
from sciinv.training.dsm import train
train(small(), Constant(), config({extra}), Path({out!r}))
"""


def worker(out: Path, extra: str = "", **environment: str) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parent)
    code = WORKER.format(path=[root], out=str(out), extra=extra)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, stderr=subprocess.PIPE
    )


def test_two_processes_do_what_one_does(tmp_path):
    single, _ = train(small(), Constant(), config(), tmp_path / "one")
    port = str(29500 + os.getpid() % 2000)
    both = [
        worker(tmp_path / "two", WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]
    for process in both:
        _, stderr = process.communicate(timeout=400)
        assert process.returncode == 0, stderr.decode()[-2000:]
    resumed, _ = train(small(), Constant(), config(), tmp_path / "two")
    assert float((weights(resumed) - weights(single)).abs().max()) < 1e-5


def test_sigterm_saves_and_ends_with_143(tmp_path):
    process = worker(tmp_path, "steps=10**6, save_every=10**6")
    log = tmp_path / "log.jsonl"
    for _ in range(4000):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 143, stderr.decode()[-2000:]
    assert (tmp_path / "state.safetensors").exists()


def folder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    base = np.hypot(*np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36))) < 0.8
    np.save(path / "a.npy", (base * np.exp(1j * 0.1 * rng.standard_normal(base.shape))).astype(np.complex64) * 300)
    volume = np.stack([base * (1 + k) for k in range(3)], -1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path / "b.nii.gz")
    with h5py.File(path / "c.h5", "w") as file:
        file["reconstruction_rss"] = np.stack([base] * 2).astype(np.float32) * 1e-5
        file["kspace"] = np.zeros((2, 3, 4), np.complex64)
    (path / "notes.txt").write_text("not an image")
    return path


def test_folder_is_read_and_scaled(tmp_path):
    paths, volumes = read_folder(folder(tmp_path))
    assert [p.name for p in paths] == ["a.npy", "b.nii.gz", "c.h5"]
    assert [tuple(v.shape) for v in volumes] == [(1, 2, 36, 40), (3, 2, 36, 40), (2, 2, 36, 40)]
    for v in volumes:
        assert abs(float(torch.hypot(v[:, 0], v[:, 1]).flatten().quantile(0.99)) - 1) < 0.01
    assert volumes[0][:, 1].abs().max() > 0.05 and volumes[1][:, 1].abs().max() == 0
    assert read_images(tmp_path / "a.npy", complex_pair=False).shape == (1, 1, 36, 40)
    source = FolderSource(volumes, 48)
    crops = torch.stack([source.image(keyed(i)) for i in range(20)])
    assert crops.shape == (20, 2, 48, 48) and torch.equal(crops[3], source.image(keyed(3)))
    assert len({float(c.sum()) for c in crops}) > 10


@pytest.mark.parametrize(
    "content", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.zeros(3), np.array([["a", "b"]]), b"\x80\x04N."]
)
def test_bad_images_are_one_sentence(tmp_path, content):
    path = tmp_path / "bad.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(InputError, match=r"bad\.npy"):
        read_folder(tmp_path)


def test_empty_folder_and_ambiguous_hdf5(tmp_path):
    with pytest.raises(InputError, match="no images to train on"):
        read_folder(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["u"], file["v"] = np.ones((4, 4)), np.ones((4, 4))
    with pytest.raises(InputError, match="which dataset"):
        read_folder(tmp_path)


def test_train_from_folder_ends_in_a_checkpoint_that_loads(tmp_path):
    (tmp_path / "data").mkdir()
    seen = []
    path = train_from_folder(
        folder(tmp_path / "data"), tmp_path / "out", steps=60, batch=2, crop=32, widths=(8, 8), blocks=(1, 1),
        name="tiny", progress=seen.append,
    )  # fmt: skip
    prior = load_prior(path)
    page = (tmp_path / "out" / "card.html").read_text("utf-8")
    assert "E[x0|x_t]" in page and "tiny" in page
    assert prior.card["name"] == "tiny" and len(prior.card["held_out_error"]) == 8 and seen[-1]["step"] == 50
    x = torch.randn(1, 2, 20, 20, generator=keyed(1))
    level = torch.tensor(0.5)
    assert torch.isfinite(precondition(prior.network, x, level, prior.sigma_data)).all()
    assert 0 < prior.sigma_data < 1
    again = train_from_folder(
        tmp_path / "data", tmp_path / "out", steps=60, batch=2, crop=32, widths=(8, 8), blocks=(1, 1), name="tiny"
    )
    assert load_prior(again).card["held_out_error"] == prior.card["held_out_error"]
    with pytest.raises(UsageError, match="multiple of 4"):
        train_from_folder(tmp_path / "data", tmp_path / "out", crop=30, widths=(8, 8), blocks=(1, 1))
