"""The command line: help without torch, verbs, stdout and stderr, exit codes, messages a user can act on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from sciinv.cli import main

VERBS = [
    "reconstruct",
    "demo",
    "info",
    "validate",
    "simulate",
    "methods",
    "certify",
    "train",
    "priors",
    "report",
    "resume",
    "doctor",
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.install(monkeypatch)
    return tiny.make(tmp_path / "a.tny")


def call(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_help_is_quick_and_imports_no_torch() -> None:
    script = (
        "import sys; from sciinv.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'pydantic', 'h5py', 'rich'} & set(sys.modules);"
        "sys.exit(code or bool(heavy) and str(heavy))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent <= 0.4 * float(os.environ.get("SCIINV_SLOW_MACHINE", "1")), spent


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys, verb: str) -> None:
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0 and out.startswith("Usage: sciinv")


def test_version_says_research_use(capsys) -> None:
    code, out, _ = call(capsys, "--version")
    assert code == 0 and "sciinv" in out and "Research use only" in out


def test_results_on_stdout_and_the_rest_on_stderr(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["reconstruct", file, "-o", out, "--samples", "2", "--set", "anneal=2", "--set", "stationary=0"]
    code, stdout, stderr = call(capsys, *words)
    assert code == 0
    assert [Path(line).is_file() for line in stdout.splitlines()] == [True] * len(stdout.splitlines())
    assert str(out / "report.html") in stdout
    assert "chi2/dof" in stderr and "not calibrated" in stderr and "Research use only" in stderr
    code, stdout, stderr = call(capsys, *words, "--json", "-q")
    assert code == 0 and json.loads(stdout)["status"] == "SUCCESS" and stderr == ""
    assert [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()][-1] == "info"
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code, stdout, _ = call(capsys, "report", out)
    assert code == 0 and stdout.strip() == str(out / "report.html")
    assert len((out / "report.html").read_bytes()) == pytest.approx(len(before), rel=0.05)


def test_demo_prints_the_report_and_is_resumable(tmp_path: Path, capsys, monkeypatch) -> None:
    tiny.install(monkeypatch)
    words = ["demo", "-o", tmp_path / "demo", "--samples", "2", "--set", "anneal=2", "--set", "stationary=0", "-q"]
    for _ in range(2):
        code, stdout, stderr = call(capsys, *words)
        assert code == 0, stderr
        assert stdout.splitlines() == [str(tmp_path / "demo" / "result" / "report.html")]


def test_files_verbs(file: Path, tmp_path: Path, capsys) -> None:
    code, stdout, _ = call(capsys, "info", file, "--json")
    assert code == 0 and json.loads(stdout) == {"domain": "tiny", "reader": "tiny", "images": 2}
    assert call(capsys, "info", file)[1].splitlines()[0].split() == ["domain", "tiny"]
    assert call(capsys, "validate", file)[0] == 0
    made = tmp_path / "made.tny"
    assert call(capsys, "simulate", "tiny", "phantom", "-o", made, "--seed", "3")[0] == 0 and made.is_file()
    code, _, stderr = call(capsys, "simulate", "tiny", "phantom", "-o", made)
    assert code == 2 and "--overwrite" in stderr


def test_methods_come_from_the_registry(capsys) -> None:
    from sciinv.samplers import METHODS

    _, stdout, _ = call(capsys, "methods", "--json")
    cards = json.loads(stdout)
    assert set(cards) == set(METHODS)
    for card in cards.values():
        assert card["claims"] and card["paper"] and card["fields"]
        assert all(field["about"] for field in card["fields"].values()), card["name"]
    yes = {k: {n for n, card in cards.items() if card[k]} for k in ("nonlinear", "noise", "backward")}
    assert {"pnpdm", "dps", "dsg"} <= yes["nonlinear"] and not {"mmps", "ddrm", "smcdiff"} & yes["nonlinear"]
    assert {"pnpdm", "mmps", "ddnm_plus"} <= yes["noise"] and not {"ddnm", "repaint", "mcg"} & yes["noise"]
    assert {"pnpdm", "mmps", "dps", "mcg"} <= yes["backward"] and not {"dds", "ddrm", "daps"} & yes["backward"]
    assert cards["mmps"]["measured"]["outcome"] == "held" and cards["mmps"]["measured"]["network_calls"] == 100
    code, stdout, _ = call(capsys, "methods", "pnpdm")
    assert code == 0 and "rho_min=" in stdout and "paper" in stdout
    assert all(name in call(capsys, "methods")[1] for name in METHODS)
    code, _, stderr = call(capsys, "methods", "magic")
    assert code == 2 and "pnpdm" in stderr


def test_priors_and_doctor(capsys) -> None:
    code, stdout, _ = call(capsys, "priors", "list", "--json")
    assert code == 0 and "brain_mri" in json.loads(stdout)
    code, stdout, _ = call(capsys, "priors", "card", "brain_mri")
    assert code == 0 and "known failures" in stdout and "licence" in stdout
    assert call(capsys, "priors", "card", "nothing")[0] == 2
    code, stdout, stderr = call(capsys, "doctor", "--json")
    facts = json.loads(stdout)
    assert facts["packages"]["torch"] and facts["prior brain_mri"] == "intact", stderr
    assert code == 0


def test_doctor_finds_a_damaged_prior(capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sciinv.priors.checkpoint", fromlist=["x"]).EMBEDDED, "brain_mri", "0" * 64)
    code, _, stderr = call(capsys, "doctor", "--json")
    assert code == 6 and "damaged" in stderr


def test_train_makes_a_prior_that_loads(tmp_path: Path, capsys) -> None:
    from sciinv.priors.checkpoint import load_prior

    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.random.default_rng(0).random((4, 24, 24), np.float32))
    words = ["train", tmp_path / "images", "-o", tmp_path / "out", "--steps", "2", "--batch", "2", "--crop", "16"]
    code, stdout, stderr = call(capsys, *words, "--widths", "8,8", "--progress", "none")
    assert code == 0, stderr
    assert load_prior(stdout.strip()).space.shape == (2, 16, 16)
    assert call(capsys, *words, "--widths", "8,x")[0] == 2


def broken_npz(file: Path) -> Path:
    bad = file.with_name("bad.tny")
    bad.write_bytes(file.read_bytes()[:100])
    return bad


def yaml(file: Path, text: str) -> Path:
    path = file.with_name("run.yaml")
    path.write_text(text)
    return path


def run(file: Path) -> list[object]:
    return ["reconstruct", file, "-o", file.parent / "o"]


# each line: words after the verb, exit code, what the message must contain (where, expected, found, hint)
MESSAGES: list[tuple[str, Callable[[Path], list[object]], int, list[str]]] = [
    ("missing file", lambda f: run(f.with_name("no.tny")), 3, ["no.tny", "not found", "Try"]),
    ("not a known format", lambda f: ["info", yaml(f, "a: 1")], 3, ["run.yaml", "expected one of: tiny", "--format"]),
    ("broken file", lambda f: run(broken_npz(f)), 3, ["bad.tny", "expected", "found", "Try"]),
    ("missing prior", lambda f: [*run(f), "--prior", "x.safetensors"], 3, ["x.safetensors", "Try"]),
    ("file that is no prior", lambda f: [*run(f), "--prior", f], 3, ["a.tny", "expected", "found"]),
    ("unknown method", lambda f: [*run(f), "--method", "x"], 2, ["expected pnpdm", "found x", "Try"]),
    ("unknown domain", lambda f: [*run(f), "--domain", "x"], 2, ["expected tiny", "found x"]),
    ("misspelt setting", lambda f: [*run(f), "--set", "rho_mn=1"], 2, ["rho_mn", "Try: rho_min"]),
    ("setting of the wrong type", lambda f: [*run(f), "--set", "anneal=x"], 2, ["anneal", "integer"]),
    ("misspelt option", lambda f: [*run(f), "--set", "tiny.nose=1"], 2, ["nose", "Try: noise"]),
    ("no such slice", lambda f: [*run(f), "--slices", "7"], 2, ["expected 0 to 1", "found 7", "Try"]),
    ("bad slices", lambda f: [*run(f), "--slices", "a-b"], 2, ["--slices", "expected", "found a-b"]),
    ("too few samples", lambda f: [*run(f), "--samples", "0"], 2, ["samples", "greater"]),
    ("unknown key in the file", lambda f: [*run(f), "--config", yaml(f, "sample: 3")], 2, ["sample", "Try: samples"]),
    ("YAML that runs code", lambda f: [*run(f), "--config", yaml(f, "a: !!python/name:os.system")], 3, ["run.yaml",
    "expected"]),
    ("unknown progress", lambda f: [*run(f), "--progress", "x"], 2, ["--progress", "expected auto", "found x"]),
    ("unknown flag", lambda f: [*run(f), "--sample", "3"], 2, ["--sample", "Try"]),
    ("resume of nothing", lambda f: ["resume", f.parent], 2, ["expected plan.json", "Try"]),
    ("report of nothing", lambda f: ["report", f.parent], 3, ["report.safetensors", "Try"]),
    ("unfitting option", lambda f: [*run(f), "--calib-lines", "8"], 2, ["calib_lines", "Try"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code", "words"), [m[1:] for m in MESSAGES], ids=[m[0] for m in MESSAGES])
def test_messages_say_what_where_expected_found_and_what_to_try(
    file: Path, capsys, make: Callable[[Path], list[object]], code: int, words: list[str]
) -> None:
    found, stdout, stderr = call(capsys, *make(file))
    assert found == code, stderr
    assert stdout == "" and "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("sciinv: ") and len(last) < 600
    for word in words:
        assert word in last


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_one_clear_error(file: Path, tmp_path: Path, capsys) -> None:
    code, _, stderr = call(capsys, "reconstruct", file, "-o", tmp_path / "out", "--device", "cuda")
    assert code == 6 and stderr.count("\n") == 1
    assert "there is no CUDA device" in stderr and "expected a GPU" in stderr and "--device cpu" in stderr
    assert not (tmp_path / "out").exists()


def test_environment_and_flags(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("SCIINV_SAMPLES", "3")
    monkeypatch.setenv("SCIINV_SEED", "11")
    words = [
        "reconstruct",
        file,
        "-o",
        tmp_path / "out",
        "--seed",
        "12",
        "--set",
        "anneal=2",
        "--set",
        "stationary=0",
        "-q",
    ]
    assert call(capsys, *words)[0] == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (plan["samples"], plan["seed"], plan["sampler"]["anneal"]) == (3, 12, 2)
