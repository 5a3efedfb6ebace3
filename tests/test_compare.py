"""``sciinv compare`` on the tiny domain: the table, the refusals, the settings, and that nothing is computed twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from sciinv.cli import main
from sciinv.errors import UsageError
from sciinv.report.pictures import windows
from sciinv.run import outputs
from sciinv.run.compare import settings_for

QUICK = ["--samples", "4", "--progress", "none", "-q"]
PNPDM = [word for key in ("anneal=3", "stationary=4", "start=noise") for word in ("--set", f"pnpdm.{key}")]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.install(monkeypatch)
    return tiny.make(tmp_path / "a.tny", items=2)


def go(capsys, *words: object, code: int = 0) -> tuple[str, str]:
    found = main(["compare", *QUICK, "--set", "steps=30", *map(str, words)])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def test_each_method_is_a_run_and_a_row(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    text, _ = go(capsys, file, "-o", out, "--methods", "pnpdm,diffpir,mcgdiff", *PNPDM)
    record = json.loads((out / "compare.json").read_text())
    rows = {row["method"]: row for row in record["methods"]}
    assert list(rows) == ["pnpdm", "diffpir", "mcgdiff"]
    for name in ("pnpdm", "diffpir"):
        summary = json.loads((out / name / "provenance.json").read_text())["items"]
        numbers = rows[name]["numbers"]
        for ours, theirs in (("chi2_per_dof", "chi2_per_dof"), ("psnr", "psnr_mean"), ("coverage", "coverage")):
            assert numbers[ours] == pytest.approx(np.mean([item[theirs] for item in summary]))
        assert numbers["cpu_seconds"] == pytest.approx(sum(item["cpu_seconds"] for item in summary))
        std = [item.images["std"].mean() for item in outputs.load_report(out / name).items]
        assert numbers["mean_std"] == pytest.approx(np.mean(std), rel=1e-4)
        assert f"{numbers['chi2_per_dof']:.3g}" in text
    assert rows["diffpir"]["numbers"]["network_calls"] == 30
    table = list(csv.DictReader((out / "compare.csv").open()))
    assert [row["method"] for row in table] == list(rows)
    assert float(table[1]["psnr"]) == pytest.approx(rows["diffpir"]["numbers"]["psnr"], rel=1e-4)
    # the noiseless and the noisy method differ on the data, and the picture shows both in the same units
    assert (out / "compare.png").stat().st_size > 5000
    shared = windows([outputs.load_report(out / n).items[0] for n in ("pnpdm", "diffpir")], "a.u.")
    assert shared["std"].hi == shared["error"].hi


def test_a_method_that_does_not_fit_is_refused_and_the_others_go_on(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    text, _ = go(capsys, file, "-o", out, "--methods", "smcdiff,dps")
    rows = {row["method"]: row for row in json.loads((out / "compare.json").read_text())["methods"]}
    assert rows["smcdiff"]["status"] == "refused" and "mask" in rows["smcdiff"]["reason"]
    assert rows["smcdiff"]["numbers"]["psnr"] is None and rows["dps"]["status"] == "done"
    assert "refused" in text and "needs an operator with" in " ".join(text.split())
    error = go(capsys, file, "-o", tmp_path / "none", "--methods", "smcdiff", code=4)[1]
    assert "no method could be run" in error and (tmp_path / "none" / "compare.csv").exists()


def test_finished_methods_are_not_computed_again(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    go(capsys, file, "-o", out, "--methods", "dps")
    first = json.loads((out / "compare.json").read_text())["methods"]
    go(capsys, file, "-o", out, "--methods", "dps,mpgd")
    second = json.loads((out / "compare.json").read_text())["methods"]
    assert second[0] == first[0] and second[1]["method"] == "mpgd"
    monkeypatch.setattr("sciinv.run.flow.execute", None)  # would fail if it were called
    go(capsys, file, "-o", out, "--methods", "mpgd,dps")
    third = json.loads((out / "compare.json").read_text())["methods"]
    assert third == second[::-1]
    error = go(capsys, file, "-o", out, "--methods", "dps", "--seed", "7", code=2)[1]
    assert "another plan" in error


def test_a_failing_item_is_a_partial_row(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TINY_UNUSABLE", "0")
    out = tmp_path / "out"
    go(capsys, file, "-o", out, "--methods", "dps")
    (row,) = json.loads((out / "compare.json").read_text())["methods"]
    assert row["status"] == "partial" and "no signal" in row["reason"] and row["numbers"]["psnr"] > 0
    monkeypatch.setenv("TINY_UNUSABLE", "0,1")
    go(capsys, file, "-o", tmp_path / "two", "--methods", "dps", code=7)


def test_settings_go_to_the_methods_that_have_them() -> None:
    own, rest = settings_for(["dps", "pnpdm"], ["steps=9", "pnpdm.rho_min=0.1", "tiny.noise=0.2", "zeta=1"], ["tiny"])
    assert own == {"dps": ["steps=9", "zeta=1"], "pnpdm": ["rho_min=0.1"]} and rest == ["tiny.noise=0.2"]
    with pytest.raises(UsageError, match="none of these methods"):
        settings_for(["dps"], ["rho_min=0.1"], [])
    with pytest.raises(UsageError, match="not compared"):
        settings_for(["dps"], ["pnpdm.rho_min=0.1"], [])


def test_wrong_requests_are_refused_before_anything_runs(file: Path, tmp_path: Path, capsys) -> None:
    for words, message in (
        (["--methods", "dps,magic"], "unknown method"),
        (["--methods", ","], "no method is named"),
        (["--methods", "dps,mpgd", "--set", "mpgd.rate=fast"], "rate"),
    ):
        assert message in go(capsys, file, "-o", tmp_path / "out", *words, code=2)[1]
    assert not (tmp_path / "out").exists()
    assert "not found" in go(capsys, tmp_path / "no.tny", "-o", tmp_path / "out", "--methods", "dps", code=3)[1]
