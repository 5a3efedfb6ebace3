"""Weighted methods through the real run: one population an item, weights kept to the maps, alarms when few count."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_kill_resume import Run, wait_for

from sciinv.cli import main
from sciinv.io.checkpoint import pack, unpack
from sciinv.run import guard
from sciinv.run.reduce import equal_draws
from sciinv.samplers import METHODS, sample

# noise as large as the signal: few rungs, so a run takes a second
SGS = ["--method", "sgs_smc", "--samples", "8", "--slices", "0", "--set", "tiny.noise=2.0", "--progress", "none"]
QUICK = ["--set", "ess_target=0.4", "--set", "log_step=2.0"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.install(monkeypatch)
    return tiny.make(tmp_path / "a.tny")


def go(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict:
    found = main(["reconstruct", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    assert "Traceback" not in err
    return {**(json.loads(out) if out else {}), "stderr": err}


def task(out: Path) -> dict[str, torch.Tensor]:
    """The one task of item 0."""
    (path,) = (out / "work").glob("i0000_c*.safetensors")
    return unpack(path.read_bytes())[0]


def mean_map(out: Path) -> np.ndarray:
    return np.frombuffer((out / "mean0.bin").read_bytes(), np.complex64).reshape(tiny.SIZE, tiny.SIZE)


def page(out: Path) -> str:
    return " ".join((out / "report.html").read_text().split())


def test_a_population_is_one_task_with_the_weights_of_a_direct_call(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    summary = go(capsys, file, "-o", out, *SGS, *QUICK, "--particles", "64", "--keep-work")
    found = task(out)
    problem = tiny.problem(tiny.read(file), 0, tiny.TinyOptions(noise=2.0))
    keys = [(0, k) for k in range(64)]
    method = METHODS["sgs_smc"](ess_target=0.4, log_step=2.0)
    direct = sample(method, problem, tiny.load_prior("field"), keys, 1905, chunk=8)
    assert torch.equal(found["x"], direct.x) and torch.equal(found["log_w"], direct.log_w)
    assert float(direct.weights.max()) > 1.2 / 64  # equal weights would hide their loss
    weighted = 2j * (direct.weights.view(-1, 1, 1) * direct.x).sum(0).numpy()  # scale 2 and phase i are put back
    assert np.allclose(mean_map(out), weighted, atol=1e-5 * np.abs(weighted).max())
    assert not np.allclose(mean_map(out), 2j * direct.x.mean(0).numpy(), atol=1e-2 * np.abs(weighted).max())
    (item,) = summary["items"]
    assert item["samples"] == 8 and item["particles"] == 64 and 0 < item["ess_share_min"] <= 0.41
    assert item["ess_weights"] == pytest.approx(1 / float(direct.weights.square().sum()))
    for key in ("log_evidence", "ancestors", "resamplings"):
        assert item[key] == pytest.approx(direct.provenance[key])
    assert item["resamplings"] >= 2 and item["ancestors"] >= 10
    said = page(out)
    for words in ("The weighted population held together", "64 weighted particles", f"{item['ess_weights']:.1f} equal",
                  f"{item['ancestors']} of the first particles have", f"{item['log_evidence']:.2f}",
                  "its error is not known", "average of 64 weighted particles",
                  "effective particles were exact draws"):  # fmt: skip
        assert words in said, words
    assert not [text for text in summary["warnings"] if "collapsed" in text]


def test_the_chunk_bounds_the_network_batch_only(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    found, sizes = {}, []
    real = sample

    def watched(sampler, problem, prior, *words, **named):
        denoise = prior.denoise
        prior.denoise = lambda x, sigma: (sizes.append(len(x)), denoise(x, sigma))[1]
        return real(sampler, problem, prior, *words, **named)

    monkeypatch.setattr("sciinv.run.tasks.sample", watched)
    for chunk in (1, 4, 16):
        sizes.clear()
        go(
            capsys,
            file,
            "-o",
            tmp_path / f"c{chunk}",
            *SGS,
            *QUICK,
            "--particles",
            "16",
            "--chunk",
            chunk,
            "--keep-work",
        )
        assert set(sizes) == {chunk}
        found[chunk] = task(tmp_path / f"c{chunk}")
        assert len(found[chunk]["x"]) == 16
    for chunk in (1, 4):
        for key in ("x", "log_w"):
            scale = found[16][key].abs().max()
            assert (found[chunk][key] - found[16][key]).abs().max() <= 1e-4 * scale, (chunk, key)
        assert torch.equal(found[chunk]["trace.ancestor"], found[16]["trace.ancestor"])


def test_a_killed_population_ends_with_the_same_hash(tmp_path: Path) -> None:
    file = tiny.make(tmp_path / "a.tny")
    words = ["reconstruct", str(file), *SGS, *QUICK, "--particles", "16", "--json", "-o"]
    env = {"SCIINV_CHECKPOINT_SECONDS": "0"}

    def finish(out: Path) -> str:
        process = Run([*words, str(out)], env, tmp_path / f"{out.name}-log")
        assert process.wait() == 0, process.stderr
        return json.loads(process.stdout)["samples_sha256"]

    expected = finish(tmp_path / "whole")
    out, tampered = tmp_path / "out", tmp_path / "tampered"
    kept = out / "work" / "unfinished" / "chunk-0-0-16.checkpoint"
    process = Run([*words, str(out)], {**env, "TINY_DELAY": "0.02"}, tmp_path / "log")
    wait_for(kept.exists)
    process.send(signal.SIGKILL)
    process.wait()
    assert kept.exists() and not (out / "work" / "i0000_c000.json").exists()
    shutil.copytree(out, tampered)
    tensors, note = unpack(kept.read_bytes())
    tensors["log_w"][3] += 1.0  # a resumed run that began again would not see this
    (tampered / kept.relative_to(out)).write_bytes(pack(tensors, note))
    assert finish(tampered) != expected
    assert finish(out) == expected


class Memory:
    """A store that keeps the last checkpoint."""

    def __init__(self) -> None:
        self.kept: dict = {}

    def save(self, name, tensors, meta) -> None:
        self.kept[name] = ({k: v.clone() for k, v in tensors.items()}, dict(meta))

    def load(self, name):
        return self.kept.get(name)


def test_a_ladder_that_has_ended_does_not_go_on_when_resumed(file: Path) -> None:
    problem, prior = tiny.problem(tiny.read(file), 0, tiny.TinyOptions(noise=2.0)), tiny.load_prior("field")
    method, store = METHODS["sgs_smc"](ess_target=0.4, log_step=2.0), Memory()
    whole = sample(method, problem, prior, 8, 0, store=store, checkpoint_every=0.0)
    (checkpoint,) = store.kept.values()
    assert checkpoint[1]["done"] == len(whole.trace["ess"]) < method.rungs
    again = sample(method, problem, prior, 8, 0, store=store)
    assert torch.equal(again.x, whole.x) and torch.equal(again.weights, whole.weights)
    assert len(again.trace["ess"]) == len(whole.trace["ess"])
    assert again.provenance["network_calls"] == whole.provenance["network_calls"]


def test_a_collapsed_population_is_an_alarm(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    summary = go(capsys, file, "-o", out, *SGS, "--set", "rungs=1", "--particles", "64")
    (warning,) = [text for text in summary["warnings"] if "the population collapsed" in text]
    assert "item 0" in warning and "limit 10 %" in warning and warning in summary["stderr"]
    assert summary["items"][0]["ess_share_min"] < 0.1
    said = page(out)
    assert "The population collapsed" in said and 'class="verdict alarm"' in said
    assert any(json.loads(line)["event"] == "warning" and "collapsed" in line for line in open(out / "log.jsonl"))


def test_islands_that_disagree_are_an_alarm(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = [*SGS, "--set", "ess_target=0.3", "--set", "log_step=2.0", "--set", "islands=4", "--set", "tiny.noise=0.5"]
    summary = go(capsys, file, "-o", out, *words, "--particles", "16")
    (item,) = summary["items"]
    assert item["log_evidence_spread"] > 1 and item["islands_pooled"] == "equally"
    assert [text for text in summary["warnings"] if "pooled equally, one is lost" in text]
    assert "Islands were pooled equally, one is lost" in page(out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "pnpdm", "--particles", "32"], "pnpdm draws independent samples"),
        (["--method", "sgs_smc", "--samples", "16", "--particles", "8"], "at least the 16 samples"),
        (["--method", "sgs_smc", "--particles", "34", "--set", "islands=4"], "multiple of 4 islands"),
    ],
)
def test_impossible_populations_are_refused(file: Path, tmp_path: Path, capsys, words, told: str) -> None:
    assert told in go(capsys, file, "-o", tmp_path / "out", *words, code=2)["stderr"]
    assert not (tmp_path / "out").exists()


def test_unless_asked_a_population_is_large_enough_for_its_samples_and_islands() -> None:
    from sciinv.config import RunConfig
    from sciinv.run.plan import population

    method = METHODS["sgs_smc"]
    assert population(RunConfig(samples=4), method()) == 64
    assert population(RunConfig(samples=100), method(islands=3)) == 102
    assert population(RunConfig(), METHODS["pnpdm"]()) is None


def test_particles_that_do_not_fit_are_refused_early(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(guard, "available", lambda device: 10_000_000)
    error = go(capsys, file, "-o", tmp_path / "out", *SGS, "--particles", "2000", code=6)["stderr"]
    assert "2000 particles of 16x16 do not fit" in error and "Try: --particles 2" in error
    few, many = (guard.need((320, 320), 16, 8, 4, particles, 2 * 16 * 320 * 320)[0] for particles in (64, 256))
    assert many > 3 * few


def test_corrected_chains_keep_their_weights(file: Path, tmp_path: Path, capsys) -> None:
    chains = ["--samples", "12", "--chunk", "5", "--slices", "0", "--set", "start=noise", "--set", "anneal=3",
              "--set", "rho_min=0.3", "--set", "tiny.noise=2.0", "--progress", "none", "--keep-work"]  # fmt: skip
    out, plain = tmp_path / "out", tmp_path / "plain"
    summary = go(capsys, file, "-o", out, *chains, "--set", "correct=true")
    go(capsys, file, "-o", plain, *chains)
    parts = [unpack(path.read_bytes())[0] for path in sorted((out / "work").glob("i0000_c*.safetensors"))]
    assert len(parts) == 3
    x, log_w = (torch.cat([part[key] for part in parts]) for key in ("x", "log_w"))
    w = log_w.softmax(0)
    wanted = 2j * (w.view(-1, 1, 1) * x).sum(0).numpy()
    assert np.allclose(mean_map(out), wanted, atol=1e-5 * np.abs(wanted).max())
    assert not np.allclose(mean_map(plain), wanted, atol=1e-3 * np.abs(wanted).max())
    (item,) = summary["items"]
    assert item["samples"] == item["particles"] == 12
    assert item["ess_weights"] == pytest.approx(1 / float(w.square().sum()))
    assert "final weights are worth" in page(out) and "R-hat" in page(out)
    assert "final weights are worth" not in page(plain)


def test_equal_draws_follow_the_weights_and_the_item() -> None:
    log_w = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64).log() + 7.0
    for item in range(3):
        counts = torch.bincount(equal_draws(log_w, 8, 1905, item), minlength=4)
        assert counts.tolist() == [4, 0, 2, 2]
    assert equal_draws(log_w, 8, 1905, 0).tolist() != equal_draws(log_w, 8, 1905, 1).tolist()
    first = torch.stack([equal_draws(log_w, 2, seed, 0) for seed in range(400)])
    assert 0.4 < float((first[:, 0] == 0).double().mean()) < 0.6  # the order tells nothing
