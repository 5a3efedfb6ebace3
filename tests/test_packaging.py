"""What pip, CI and a newcomer rely on: entry points, data files, pins, the bootstrap script, the two commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import sciinv

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): number for name, number in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sciinv_bootstrap", ROOT / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_domain_folder_is_an_installed_entry_point() -> None:
    folders = {path.parent.name for path in (ROOT / "operators").glob("[a-z]*/sciinv_*")}
    found = {ep.name: ep.value for ep in entry_points(group="sciinv.domains") if ep.dist and ep.dist.name == "sciinv"}
    assert set(found) == folders
    for name, value in found.items():
        assert value == f"sciinv_{name}:DOMAIN"
        assert (ROOT / "operators" / name / f"sciinv_{name}" / "__init__.py").is_file()
    assert {f"operators/{name}/sciinv_{name}" for name in folders} < set(
        PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )


def test_version_is_one() -> None:
    assert version("sciinv") == PROJECT["project"]["version"] == sciinv.__version__
    assert f"## {sciinv.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_data_specs_are_found_in_both_kinds_of_install() -> None:
    from sciinv.io.spec import load_spec

    for path in sorted((ROOT / "data_specs").glob("*.yaml")):
        assert load_spec(path.stem).fields


def test_pins_satisfy_the_ranges_and_cover_them() -> None:
    known, extras = pins(), PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *(item for group in extras.values() for item in group)]:
        need = Requirement(line)
        name = need.name.lower().replace("_", "-")
        assert name in known, f"{name} is not pinned in constraints.txt"
        assert need.specifier.contains(known[name]), line
        assert "==" not in line  # ranges in the project, pins in constraints.txt only


def test_benchmark_peers_are_pinned() -> None:
    lines = (ROOT / "benchmarks" / "requirements.txt").read_text().splitlines()
    for peer in ("torch", "torchvision", "deepinv", "azula"):
        assert any(re.fullmatch(rf"{peer}==[\d.]+", line) for line in lines), peer


def test_readme_names_both_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "python3 bootstrap.py demo" in text and "python3 bootstrap.py test" in text


def test_bootstrap_uses_the_standard_library_only() -> None:
    names = re.findall(r"^(?:import|from) (\w+)", (ROOT / "bootstrap.py").read_text(), re.M)
    assert set(names) <= set(sys.stdlib_module_names)


def test_bootstrap_refuses_an_old_python_with_a_remedy(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (9, 0))
    with pytest.raises(bootstrap.BootstrapError, match=r"is needed, this is 3\."):
        bootstrap.check_machine("cpu")


def test_bootstrap_refuses_a_full_disk(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "none")
    monkeypatch.setattr(bootstrap, "DISK_GB", {"cpu": 10**9})
    with pytest.raises(bootstrap.BootstrapError, match="free disk"):
        bootstrap.check_machine("cpu")


def test_bootstrap_notices_changed_pins(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    first = bootstrap.fingerprint("cpu")
    assert first == bootstrap.fingerprint("cpu") != bootstrap.fingerprint("cuda")
    (tmp_path / "constraints.txt").write_text("torch==2.12.0\n")
    assert first != bootstrap.fingerprint("cpu")


def test_bootstrap_installs_nothing_twice(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stamp, calls = tmp_path / "stamp", []
    monkeypatch.setattr(bootstrap, "STAMP", stamp)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "log")
    monkeypatch.setattr(bootstrap, "in_venv", lambda name: sys.executable)
    monkeypatch.setattr(bootstrap, "reachable", lambda url: False)
    monkeypatch.setattr(bootstrap, "pip", lambda what, *arguments: calls.append(arguments))
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0))
    bootstrap.install("cpu")
    assert [any(a.startswith("torch==") for a in call) for call in calls] == [True, False]
    assert not any("--extra-index-url" in call for call in calls)
    bootstrap.install("cpu")
    assert len(calls) == 2
    bootstrap.install("skip")
    assert len(calls) == 3 and "torch==" not in (tmp_path / "constraints-without-torch.txt").read_text()


def test_bootstrap_asks_the_cpu_index_only_if_it_answers(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, ...]] = []
    for name in ("STAMP", "VENV", "LOG"):
        monkeypatch.setattr(bootstrap, name, tmp_path / name)
    monkeypatch.setattr(bootstrap, "reachable", lambda url: True)
    monkeypatch.setattr(bootstrap, "pip", lambda what, *arguments: calls.append(arguments))
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0))
    bootstrap.install("cpu")
    assert bootstrap.CPU_INDEX in calls[0] and bootstrap.CPU_INDEX not in calls[1]
    bootstrap.install("cuda")
    assert bootstrap.CPU_INDEX not in calls[2]


def test_bootstrap_passes_exit_codes_on(bootstrap: ModuleType) -> None:
    assert bootstrap.run([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    assert bootstrap.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]) == 143


def test_bootstrap_gives_up_on_a_silent_index(bootstrap: ModuleType) -> None:
    assert not bootstrap.reachable("http://127.0.0.1:9/", seconds=0.5)


def test_bootstrap_help_needs_no_installation() -> None:
    done = subprocess.run([sys.executable, "-S", str(ROOT / "bootstrap.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "demo" in done.stdout
