"""A field's own part of the report: shown, stored, in the verdict and in the log; and samples aligned before means."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from sciinv import plugins
from sciinv.cli import main
from sciinv.errors import InputError
from sciinv.report import Report, ReportItem, render_report
from sciinv.report.sections import Finding, Plate, Section, Table, dump, load, plate
from sciinv.run.outputs import load_report

HOSTILE = "<script>alert(1)</script>\u202e"


def picture() -> Plate:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=40)
    figure.subplots().plot([0, 1], [1, 0])
    return plate(figure, f"A line {HOSTILE}", 'falls "steeply"')


def section(level: str = "alarm") -> Section:
    return Section(
        title=f"Rings {HOSTILE}",
        text=["Forty samples."],
        plates=[picture()],
        tables=[Table("Numbers", ("name", "value", "none"), [("diameter", 41.23456, None), (HOSTILE, "x", 1.0)])],
        findings=[Finding(level, "Two rings", f"They differ {HOSTILE}.")],
    )


def page(*parts: Section) -> str:
    flat = np.ones((8, 8))
    item = ReportItem("one", {k: flat for k in ("mean", "std", "lower", "upper")}, flat[None], {"chi2_per_dof": 1.0})
    return render_report(Report("t", "Jy", [item], sections=parts))


def test_a_section_is_on_the_page_and_its_finding_leads() -> None:
    text = page(section())
    assert "data:image/png;base64," in text and "41.23" in text and "Forty samples." in text and ">–<" in text
    assert text.index("Two rings") < text.index("Forty samples.") < text.index('id="viewer"')
    assert "Do not rely on these maps" in text and "Do not rely" not in page(section("ok"))
    assert "<script>alert" not in text and "\u202e" not in text
    assert text == page(section())


def test_sections_are_stored_without_loss() -> None:
    notes, pictures = dump([section(), Section("empty")])
    again = load(json.loads(json.dumps(notes)), pictures)
    assert page(*again) == page(section(), Section("empty"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Table("t", ("a", "b"), [("only one",)]),
        lambda: Plate(b"GIF89a", "c", "a"),
        lambda: Finding("red", "t", "x"),
    ],
)
def test_what_does_not_fit_is_refused(make) -> None:
    with pytest.raises(InputError):
        make()


def test_a_run_shows_logs_and_keeps_the_section_and_aligns_first(tmp_path: Path, monkeypatch, capsys) -> None:
    tiny.install(monkeypatch)
    seen = {}

    def sections(data, results, context):
        seen["context"], seen["results"] = context, results
        return [section()]

    def align(x: torch.Tensor, meta) -> torch.Tensor:
        seen["meta"] = meta
        return torch.zeros_like(x) + 3

    domain = dc.replace(tiny.DOMAIN, sections=sections, align=align)
    monkeypatch.setattr(plugins, "domains", lambda: {"tiny": domain})
    out = tmp_path / "out"
    words = ["--samples", "8", "--particles", "8", "--method", "tds", "--set", "steps=4", "--set", "islands=2"]
    code = main(["reconstruct", str(tiny.make(tmp_path / "a.tny", items=1)), "-o", str(out), *words])
    told = capsys.readouterr().err
    assert code == 0, told
    assert "Two rings: They differ" in told
    (result,) = seen["results"]
    assert (result.summary["mean"] == 3).all() and seen["meta"]["item"] == 0
    assert (result.samples != 3).any()  # as drawn
    assert sorted(set(result.group.tolist())) in ([0], [1], [0, 1]) and len(result.group) == len(result.samples)
    assert isinstance(seen["context"].options, tiny.TinyOptions)
    assert seen["context"].network.space.shape == (2, tiny.SIZE, tiny.SIZE)
    stored = (out / "report.html").read_text()
    again = load_report(out)
    assert "Forty samples." in stored and "Forty samples." in render_report(again)
    assert again.sections[0].plates[0].png == picture().png
    warnings = json.loads((out / "provenance.json").read_text())["warnings"]
    assert any(text.startswith("Two rings") for text in warnings)
