"""The network prior: preconditioning against its closed form, any size, and checkpoints against hostile files."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from sciinv.errors import InputError, MismatchError
from sciinv.priors import checkpoint
from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import EMBEDDED, embedded_path, load_prior, read_note, save_prior
from sciinv.priors.network import NetworkPrior, precondition
from sciinv.priors.unet import UNet
from sciinv.testing.fake import FakeCuda

SPEC = UNetSpec(widths=(8, 8), blocks=(1, 1), embedding=16)
CARD = ModelCard(
    name="test", summary="s", data="d", licence="MIT", resolution="r", intensity="i", anatomy="a", known_failures="k",
    training="t", seed=0, held_out_error={"0.1": 0.05},
)  # fmt: skip


def network(spec: UNetSpec = SPEC, seed: int = 0) -> UNet:
    net = UNet(**spec.model_dump())
    generator = torch.Generator().manual_seed(seed)
    net.initialise(generator)
    with torch.no_grad():  # a fresh network returns zero; make it say something
        net.leave.weight.normal_(0, 0.2, generator=generator)
    return net.eval().requires_grad_(False)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_preconditioning_is_exact_where_the_network_is_known():
    """A network that returns zero gives the posterior mean of white Gaussian data of standard deviation s."""
    s, x = 0.25, draw(3, 2, 8, 8)

    class Zero(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return torch.zeros_like(x)

    for sigma in (torch.tensor(0.3), torch.tensor([0.01, 0.3, 4.0])):
        level = sigma.expand(3).reshape(3, 1, 1, 1)
        torch.testing.assert_close(precondition(Zero(), x, sigma, s), x * s**2 / (s**2 + level**2))


def test_preconditioning_scales_inputs_outputs_and_noise():
    """Record what the network is fed: unit variance in, log(sigma)/4 as the noise number, c_out outside."""
    seen = {}

    class Probe(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            seen.update(x=x, noise=noise)
            return torch.ones_like(x)

    s, sigma = 0.25, torch.tensor([0.1, 2.0])
    clean = s * draw(2, 2, 64, 64)
    noisy = clean + sigma.reshape(2, 1, 1, 1) * draw(2, 2, 64, 64, seed=2)
    out = precondition(Probe(), noisy, sigma, s)
    assert abs(seen["x"].std(dim=(1, 2, 3)) - 1).max() < 0.05
    torch.testing.assert_close(seen["noise"], sigma.log() / 4)
    total = (s**2 + sigma**2).sqrt().reshape(2, 1, 1, 1)
    expected = (s / total) ** 2 * noisy + sigma.reshape(2, 1, 1, 1) * s / total
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("size", [(96, 96), (32, 48), (37, 53), (8, 8), (3, 5), (1, 1)])
def test_any_size(size):
    prior = NetworkPrior(network(), (16, 16)).at(size)
    assert prior.space.shape == (2, *size)
    x = draw(2, 2, *size)
    y = prior.denoise(x, torch.tensor(0.2))
    assert y.shape == x.shape and torch.isfinite(y).all()
    assert prior.to_physical(y).shape == (2, *size) and prior.to_physical(y).is_complex()


def test_padding_leaves_the_interior_alone():
    """Away from the border an image whose size the stride does not divide is treated as in a larger frame."""
    prior = NetworkPrior(network(), (64, 64))
    x = draw(1, 2, 64, 64)
    whole, part = prior.denoise(x, torch.tensor(0.2)), prior.denoise(x[..., :61, :63], torch.tensor(0.2))
    torch.testing.assert_close(whole[..., :24, :24], part[..., :24, :24])
    assert not torch.equal(whole[..., :61, :63], part)


def test_batch_and_sigma_shapes_do_not_change_the_answer():
    prior = NetworkPrior(network(), (16, 16))
    x, sigma = draw(4, 2, 16, 16), torch.tensor([0.02, 0.2, 0.2, 1.0])
    together = prior.denoise(x, sigma)
    alone = torch.cat([prior.denoise(x[i : i + 1], sigma[i]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(prior.denoise(x, sigma.flip(0)), together)


def test_wrong_sizes_are_refused():
    prior = NetworkPrior(network(), (16, 16))
    with pytest.raises(MismatchError, match="height and a width"):
        prior.at((4, 4, 4))
    with pytest.raises(MismatchError, match="two channels"):
        NetworkPrior(network(), (8, 8), channels=3)


def test_fake_cuda():
    prior, x, sigma = NetworkPrior(network(), (21, 20)), draw(2, 2, 21, 20), torch.tensor(0.1)
    with FakeCuda() as gpu:
        with gpu.guard("NetworkPrior"):
            y = gpu.put(prior).denoise(gpu.put(x), gpu.put(sigma))
        gpu.check(y, "NetworkPrior")
        assert gpu.host_reads == 0 and y.shape == x.shape


def saved(tmp_path, dtype=torch.float32):
    prior = NetworkPrior(network(), (24, 24), sigma_data=0.3, sigma_min=0.01, sigma_max=2.0)
    return prior, save_prior(prior, SPEC, CARD, tmp_path / "p.safetensors", dtype)


def test_round_trip(tmp_path):
    prior, path = saved(tmp_path)
    back = load_prior(path)
    x = draw(1, 2, 24, 24)
    torch.testing.assert_close(back.denoise(x, torch.tensor(0.1)), prior.denoise(x, torch.tensor(0.1)))
    assert (back.sigma_data, back.sigma_min, back.sigma_max) == (0.3, 0.01, 2.0)
    assert back.card["name"] == "test" and len(back.card["sha256"]) == 64 and back.space.shape == (2, 24, 24)


def test_half_precision_on_disk_is_close_and_loads_as_float32(tmp_path):
    prior, path = saved(tmp_path, torch.float16)
    back = load_prior(path)
    assert {p.dtype for p in back.network.parameters()} == {torch.float32}
    x = draw(1, 2, 24, 24)
    level = torch.tensor(0.1)
    torch.testing.assert_close(back.denoise(x, level), prior.denoise(x, level), atol=2e-3, rtol=0)


def edit(path, change):
    """Rewrite a checkpoint after ``change(tensors, note)``."""
    note = json.loads(read_note(path).model_dump_json())
    tensors = load(path.read_bytes())
    change(tensors, note)
    path.write_bytes(save(tensors, {"sciinv": json.dumps(note)}))


HOSTILE = {
    "missing tensor": lambda t, n: t.pop("enter.weight"),
    "extra tensor": lambda t, n: t.update(intruder=torch.zeros(2)),
    "wrong shape": lambda t, n: t.update({"enter.bias": torch.zeros(9)}),
    "not a number": lambda t, n: t["enter.bias"].fill_(float("nan")),
    "integers": lambda t, n: t.update({"enter.bias": torch.zeros(8, dtype=torch.int64)}),
    "architecture not allowed": lambda t, n: n.update(architecture="os.system"),
    "unknown setting": lambda t, n: n["hyperparameters"].update(evil=1),
    "huge network": lambda t, n: n["hyperparameters"].update(widths=[10**9], blocks=[1]),
    "large network": lambda t, n: n["hyperparameters"].update(widths=[1024] * 6, blocks=[16] * 6),
    "negative sigma": lambda t, n: n.update(sigma_data=-1),
    "infinite sigma": lambda t, n: n.update(sigma_max=float("inf")),
    "sigma range reversed": lambda t, n: n.update(sigma_min=3.0),
    "no card": lambda t, n: n.pop("card"),
    "other format": lambda t, n: n.update(format="sciinv-prior-99"),
    "card too long": lambda t, n: n["card"].update(data="x" * 70_000),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints(tmp_path, case):
    _, path = saved(tmp_path)
    load_prior(path)
    edit(path, HOSTILE[case])
    with pytest.raises(InputError) as caught:
        load_prior(path)
    assert len(str(caught.value)) < 600 and "p.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04N.", b"PK\x03\x04" + bytes(60), struct.pack("<Q", 2**62) + b"{}",
     struct.pack("<Q", 8) + b"notjson!", struct.pack("<Q", 2) + b"{}", bytes(64)],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_prior(path)


def test_missing_truncated_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_prior(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="folder"):
        load_prior(tmp_path)
    _, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError):
        load_prior(path)


def test_mutated_checkpoints_never_raise_anything_else(tmp_path):
    _, path = saved(tmp_path)
    good, generator = path.read_bytes(), torch.Generator().manual_seed(7)
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(3):
            where = int(torch.randint(600, (), generator=generator))
            bad[where] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(bytes(bad))
        try:
            load_prior(path)
        except InputError:
            pass


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_prior_is_the_shipped_one(name, monkeypatch):
    path = embedded_path(name)
    assert path.stat().st_size <= 4_000_000
    prior = load_prior(name)
    assert prior.card["sha256"] == EMBEDDED[name] and prior.card["known_failures"]
    x = 0.2 * draw(1, prior.channels, 30, 34).abs()
    assert torch.isfinite(prior.at((30, 34)).denoise(x, torch.tensor(0.1))).all()
    monkeypatch.setitem(checkpoint.EMBEDDED, name, "0" * 64)
    with pytest.raises(InputError, match="not the one that was shipped"):
        load_prior(name)


def test_embedded_brain_prior_removes_noise():
    """On a bright disc in air the error is well below the noise at every level the samplers use."""
    prior = load_prior("brain_mri").at((64, 64))
    axis = torch.linspace(-1, 1, 64)
    disc = torch.sigmoid((0.7 - torch.hypot(axis[:, None], axis[None])) * 40) * 0.7
    clean = torch.stack([disc, torch.zeros_like(disc)])[None]
    for level, share in ((0.02, 0.7), (0.05, 0.5), (0.2, 0.35), (0.5, 0.3)):
        noise = level * draw(1, 2, 64, 64)
        error = (prior.denoise(clean + noise, torch.tensor(level)) - clean).square().mean().sqrt()
        assert error < share * level, (level, float(error))
