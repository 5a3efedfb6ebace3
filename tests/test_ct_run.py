"""CT from a file to a folder of results with the shipped prior, on a small detector."""

import json

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import dicom, dxchange
from sciinv_ct import DOMAIN, io
from sciinv_ct.phantom import FAMILIES
from sciinv_ct.simulate import simulate

from sciinv.config import resolve
from sciinv.priors.checkpoint import load_prior
from sciinv.run import reconstruct

QUICK = ["anneal=4", "stationary=1", "rho_max=0.5", "log_step=1.0"]


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_counts_to_maps(tmp_path, noise):
    path = simulate("phantom", tmp_path / "a.h5", cells=32, views=20, photons=3e3, slices=2, seed=5)
    words = [*QUICK, f"ct.noise={noise}", "ct.size=32"] + (["kernel=hmc", "inner=2"] if noise == "poisson" else [])
    config = resolve({"samples": 2, "seed": 3}, settings=words, environ={}, domains=["ct"])
    out = reconstruct(path, tmp_path / "out", config)
    assert out.exit_code == 0
    mean = nib.load(tmp_path / "out" / "recon_mean.nii.gz")
    truth = np.asarray(nib.load(tmp_path / "out" / "recon_reference.nii.gz").dataobj)
    found = np.asarray(mean.dataobj)
    assert found.shape == (32, 32, 2) and np.allclose(mean.header.get_zooms()[:2], 76 / 32)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.9
    with h5py.File(tmp_path / "out" / "samples.h5") as file:
        assert file["samples"].shape == (2, 2, 32, 32) and file.attrs["units"] == b"1/mm"
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["config"]["sampler"]["start"] == "noise" and facts["status"] == "SUCCESS"
    assert (tmp_path / "out" / "report.html").is_file() and len(list((tmp_path / "out" / "dicom").iterdir())) == 8


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_shipped_priors_are_those_of_the_families_at_any_size(family):
    prior = load_prior(f"ct_{family}")
    assert prior.space.shape[0] == 1 and not prior.complex_pair
    for n in (64, 128, 192):
        images = [FAMILIES[family](np.random.default_rng([99, k]), n) for k in range(4)]
        clean = torch.from_numpy(np.stack(images))[:, None]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            error = (prior.at((n, n)).denoise(clean + 0.3 * noise, torch.tensor(0.3)) - clean).square().mean().sqrt()
        assert float(error) < 0.1, (n, error)  # a Gaussian with the family's variance would leave 0.26


def test_hounsfield_units_ask_for_the_prior_of_bodies(tmp_path):
    assert DOMAIN.suited(io.read(dicom(tmp_path / "a"))) == "ct_body"
    assert DOMAIN.suited(io.read(dxchange(tmp_path / "b"))) == DOMAIN.default_prior == "ct_piecewise"


def test_the_demo_is_the_same_file_every_time(tmp_path):
    one, two = DOMAIN.demo(tmp_path / "a"), DOMAIN.demo(tmp_path / "b")
    with h5py.File(one) as a, h5py.File(two) as b:
        assert np.array_equal(a["exchange/data"], b["exchange/data"]) and a["exchange/data"].shape == (32, 1, 128)


def test_phantoms_depend_on_their_seed_alone():
    for name, draw in FAMILIES.items():
        one, two, other = (draw(np.random.default_rng(s), 48) for s in (1, 1, 2))
        assert np.array_equal(one, two) and not np.array_equal(one, other), name
        assert one.shape == (48, 48) and one.dtype == np.float32 and one.min() > -1e-3 and 0.5 < one.max() < 3
