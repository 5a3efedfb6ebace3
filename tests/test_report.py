"""The report page: complete, truthful about coverage, safe against hostile strings, the same every time, and small."""

from __future__ import annotations

import base64
import dataclasses as dc
import hashlib
import html
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import sciinv.report.html as page_module
from sciinv.errors import InputError
from sciinv.report import DISCLAIMER, Report, ReportItem, render_report, summary_png, write_report
from sciinv.report.figures import trace_svg
from sciinv.report.pictures import Window, block_mean, colours, enlarge, indices, nice_ceiling, strip_height, windows

VOID = {"meta", "link", "img", "input", "br", "hr"}
SIDE = 40 * enlarge(40)  # small pictures are stored enlarged so that their strip can be read
STATEMENT = "bounds: order statistics; measured against the reference: 71.0 % raw: over-confident"


class Page(HTMLParser):
    """Tags with their attributes; raises on tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def find(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and css in [*(a.get("class") or "").split(), ""]]


def item(number: int = 1, size: int = 40, n: int = 4, optional: bool = True, **changes) -> ReportItem:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    mask = x**2 + 1.3 * y**2 < 0.7
    truth = mask * (300 + 150 * np.sin(5 * x + number) * np.cos(4 * y) + 90 * (x**2 + y**2 < 0.1))
    samples = np.abs(truth + (mask * 30 + 3) * rng.normal(size=(n, size, size)))
    mean, std = samples.mean(0), samples.std(0)
    images = {"mean": mean, "std": std, "lower": samples.min(0), "upper": samples.max(0)}
    if optional:
        images |= {
            "reference": truth, "baseline": 0.9 * truth, "error": mean - truth, "cov": std / (mean + 1),
            "phase": 0.5 * x + 0.2 * number, "lower_calibrated": mean - std, "upper_calibrated": mean + std,
        }  # fmt: skip
    stats = {"chi2_per_dof": 1.02, "rhat_max": 1.03, "rhat_median": 1.002, "ess_min": 55, "psnr": 31.25, "n": n}
    return dc.replace(ReportItem(f"slice {number}", images, samples, stats, (), mask), **changes)


def report(count: int = 2, **changes) -> Report:
    fields = {
        "title": "phantom, x4", "units": "a.u.", "items": [item(k + 1) for k in range(count)],
        "input": {"name": "k.h5", "coils": 4}, "prior": {"name": "demo", "limits": ["a", "b", "c", "no pathology"]},
        "method": {"name": "pnpdm", "measured_error": "2.1 % on a Gaussian", "fields": {"rho": 0.3}},
        "coverage": {"level": 0.9, "exact": 0.882, "measured": 0.71, "statement": STATEMENT, "over_confident": True},
        "warnings": ["domain differs"], "provenance": {"seed": 1905, "trace": {"chi2": [3.0, 1.5, 1.0]}},
    } | changes  # fmt: skip
    return Report(**fields)


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.text).split())


def test_page_holds_every_slice_map_and_sample():
    text = render_report(report(3))
    page = Page(text)
    assert len(page.find("article", "slice")) == 3
    assert len(page.find("figure", "panel")) == 3 * 12
    pictures = [a for a in page.find("img") if "lut" not in (a.get("class") or "")]
    assert len(pictures) == 3 * (11 + 4)
    assert len({a["src"] for a in pictures}) == len(pictures)  # each embedded once
    assert all(a["alt"] for a in pictures)
    said = text_of(page)
    for wanted in ("31.25", "Chi-squared per degree of freedom is 1.02", "no pathology", "2.1 % on a Gaussian", "1905",
                   "domain differs", DISCLAIMER, "RESEARCH USE ONLY", "How to read these maps"):  # fmt: skip
        assert wanted in said, wanted
    assert page.find("svg") and '"trace"' not in text
    assert ("html", {"lang": "en"}) in page.tags
    labels = {a["for"] for a in page.find("label")}
    assert {a["id"] for a in page.find("input")} | {a["id"] for a in page.find("select")} == labels


def test_pictures_are_faithful_in_one_fixed_window():
    reports = report(2)
    view = windows(reports.items, "a.u.")
    page = Page(render_report(reports))
    sources = [a for a in page.find("img") if (a.get("alt") or "").startswith("Posterior mean")]
    for source, entry in zip(sources, reports.items, strict=True):
        grey = decode(source["src"])[..., 0]
        assert grey.shape == (SIDE + strip_height(SIDE, SIDE), SIDE) == (int(source["height"]), int(source["width"]))
        shown = grey[:SIDE][:: enlarge(40), :: enlarge(40)] / 255 * view["grey"].hi
        clipped = np.clip(entry.images["mean"], 0, view["grey"].hi)
        assert np.abs(shown - clipped).max() <= view["grey"].hi / 510 + 1e-6
    figures = page.find("figure", "panel")
    assert len({(f["data-lo"], f["data-hi"]) for f in figures if f["data-kind"] == "grey"}) == 1
    assert {f["data-hi"] for f in figures if f["data-kind"] == "std"} == {
        f["data-hi"] for f in figures if f["data-kind"] == "error"
    }


CASES = {
    "over-confident": ({"measured": 0.71, "over_confident": True, "statement": STATEMENT},
                       "may be over-confident", True),
    "unmeasured": ({"over_confident": None, "statement": "not calibrated for this protocol"},
                   "has not been measured", True),
    "calibrated": ({"over_confident": None, "source": "36 synthetic slices", "statement": "calibrated bounds at 90 %"},
                   "Bounds were calibrated on other data", True),
    "both": ({"measured": 0.71, "calibrated": 0.88, "over_confident": True, "source": "study", "statement": "a <b>"},
             "may be over-confident", True),
    "narrow": ({"measured": 0.5, "calibrated": 0.73, "level": 0.9, "over_confident": False, "source": "study",
                "statement": "held 73 %"}, "less often than they should", False),
    "good": ({"measured": 0.89, "over_confident": False, "statement": "held 89 %"}, "as often as they should", False),
    "none": ({}, "Nobody has measured how often", True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_coverage_statement_and_burned_in_warning(case):
    coverage, wanted, burned = CASES[case]
    page = Page(render_report(report(1, coverage=coverage)))
    said = text_of(page)
    assert wanted in said
    assert coverage.get("statement", "") in said
    std = next(a for a in page.find("img") if (a.get("alt") or "").startswith("Standard deviation"))
    good = Page(render_report(report(1, coverage=CASES["good"][0])))
    clean = next(a for a in good.find("img") if (a.get("alt") or "").startswith("Standard deviation"))
    ours, theirs = decode(std["src"]), decode(clean["src"])
    assert np.array_equal(ours[:SIDE], theirs[:SIDE])  # never over the anatomy
    amber = (ours[SIDE:, :, 0] > 150) & (ours[SIDE:, :, 2] < 120)
    assert bool(amber.sum() > 100) is burned
    assert ("marked" in std["alt"]) is burned
    assert 'verdict alarm"' not in said
    level = next(a["class"] for a in page.find("section", "verdict"))
    assert level == {"over-confident": "verdict alarm"}.get(case, "verdict caution")


CROWD = {
    "chi2_per_dof": 1.0, "n": 4, "particles": 100, "ess_weights": 70.5, "ess_share_min": 0.4, "ancestors": 31,
    "resamplings": 8, "log_evidence": -12.25, "log_evidence_spread": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("stats", "level", "words"),
    [
        ({"chi2_per_dof": 1.0, "rhat_max": 1.02, "rhat_median": 1.001, "ess_min": 90}, "ok", "chains agree"),
        ({"chi2_per_dof": 1.4, "rhat_max": 1.02}, "alarm", "leave out something"),
        ({"chi2_per_dof": 0.8, "rhat_max": 1.02}, "caution", "closer than the noise"),
        ({"chi2_per_dof": 1.0, "rhat_max": 1.9}, "alarm", "chains still differ"),
        ({"chi2_per_dof": 1.0, "rhat_max": 1.9, "drift": 2.0}, "alarm", "chains still differ"),
        ({"chi2_per_dof": 1.0, "rhat_max": 1.9, "drift": 0.1}, "caution", "moved by at most 0.10"),
        ({"chi2_per_dof": float("nan")}, "caution", "nobody checked the fit"),
        ({"chi2_per_dof": 1.0, "rhat_max": 1.0, "failed": 3, "n": 4}, "alarm", "3 of 4 samples became non-finite"),
        (
            CROWD,
            "ok",
            "31 of the first particles have descendants. Log-evidence of the data -12.25 (islands differ by 0.50).",
        ),
        ({**CROWD, "ancestors": 9}, "alarm", "All particles descend from 9 (limit 10), in slice 1"),
        ({**CROWD, "ess_share_min": 0.05}, "alarm", "The population collapsed"),
        ({**CROWD, "log_evidence_spread": 2.0}, "alarm", "Islands were pooled equally, one is lost"),
        ({**CROWD, "rhat_max": 1.9}, "alarm", "chains still differ"),
    ],
)
def test_verdict_follows_the_numbers(stats, level, words):
    changed = report(1, items=[item(stats=stats)], coverage=CASES["good"][0], warnings=[])
    page = Page(render_report(changed))
    assert page.find("section", "verdict")[0]["class"] == f"verdict {level}"
    assert words in text_of(page)


def test_hostile_strings_stay_text():
    evil = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}\x00\x1b[31m\u202e\ud800"
    nasty = {evil: evil, "deep": {"x": [{evil: evil}]}, "long": "x" * 100_000}
    changed = report(
        1, title=evil, units=evil, items=[item(label=evil, warnings=[evil])], input=nasty, prior=nasty, method=nasty,
        coverage={"statement": evil, "source": evil}, warnings=[evil],
        provenance={**nasty, "trace": {evil: [1.0, 2.0]}}, disclaimer=evil,
    )  # fmt: skip
    text = render_report(changed)
    page = Page(text)
    assert len(page.find("script")) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert all((a["src"] or "").startswith("data:image/") for a in page.find("img"))
    assert "{{7*7}}" in html.unescape(text) and "x" * 5000 not in text
    assert not re.search("[\x00\x1b\u202e\ud800]", text)
    text.encode()


def test_page_needs_no_network_and_runs_only_its_own_script():
    text = render_report(report())
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), attributes
        assert "style" not in attributes
    assert not re.search(r"https?:|//[a-z]+\.|@import|\beval\(|new Function|fetch\(|XMLHttp", text)
    policy = next(a["content"] for a in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("script", "style"):
        body = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_same_report_gives_the_same_bytes(tmp_path):
    first, second = write_report(tmp_path / "a.html", report()), write_report(tmp_path / "b.html", report())
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]
    one, two = (summary_png(tmp_path / name, item(), "a.u.") for name in ("1.png", "2.png"))
    assert one.read_bytes() == two.read_bytes()
    assert Image.open(one).width > 1500


def test_bare_report_and_odd_values_are_fine(tmp_path):
    bare = item(size=7, n=1, optional=False, stats={}, mask=None)
    broken = dc.replace(bare, images={k: np.full((7, 7), np.nan) for k in bare.images})
    text = render_report(Report("t", "", [bare, broken]))
    page = Page(text)
    assert len(page.find("figure", "panel")) == 2 * 5
    assert not [a for a in page.find("input") if a["id"] == "sample"]
    assert "196 values in the pictures of this slice are not finite" in text
    json.loads(re.search("<pre>(.*?)</pre>", text, re.S).group(1))
    summary_png(tmp_path / "s.png", bare, "a.u.")


def test_samples_left_out_are_counted():
    assert "average of 64 samples" in render_report(report(1, items=[item(stats={"n": 64})]))
    assert "Lower end of 88.2 % interval" in render_report(report(1))
    assert "; 4 of 64" in render_report(report(1, items=[item(stats={"n": 64})]))


def test_wrong_items_are_refused():
    good = item()
    with pytest.raises(InputError, match="wrong names"):
        dc.replace(good, images={k: v for k, v in good.images.items() if k != "std"})
    with pytest.raises(InputError, match="wrong names"):
        dc.replace(good, images={**good.images, "heat": good.images["std"]})
    with pytest.raises(InputError, match="do not fit"):
        dc.replace(good, samples=good.samples[:, 1:])
    with pytest.raises(InputError, match="at least one slice"):
        report(items=[])


@pytest.mark.parametrize("count", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_large_report_stays_small_and_says_how(count, monkeypatch):
    """16 slices with 16 samples of 256 x 256 stay under 8 MB; the quick case scales slices and budget down together."""
    monkeypatch.setattr(page_module, "BUDGET", page_module.BUDGET * count // 16)
    rng = np.random.default_rng(0)
    size, n = 256, 16
    samples = rng.uniform(100, 900, size=(n, size // 8, size // 8)).repeat(8, 1).repeat(8, 2)
    samples += 25 * rng.normal(size=(n, size, size))
    mean, std = samples.mean(0), samples.std(0)
    one = ReportItem("s", {"mean": mean, "std": std, "lower": samples.min(0), "upper": samples.max(0)}, samples)
    text = render_report(Report("big", "a.u.", [dc.replace(one, label=f"slice {k}") for k in range(count)]))
    assert len(text) < 8e6 * count / 16 + 5e4
    assert len(Page(text).find("img")) == count * (4 + n) + 2
    assert re.search(r"Single samples are (averaged over 2 x 2 pixels and )?compressed with loss \(WebP quality", text)


def test_shrinking_is_said(monkeypatch):
    assert "stored without loss at 8 bits and full resolution" in render_report(report(1))
    monkeypatch.setattr(page_module, "BUDGET", 1)
    text = render_report(report(1))
    assert "Maps are averaged over 2 x 2 pixels" in text
    mean = next(a for a in Page(text).find("img") if (a.get("alt") or "").startswith("Posterior mean"))
    assert decode(mean["src"]).shape[1] == 20 * enlarge(20)
    phase = next(a for a in Page(text).find("figure", "phase"))
    assert phase["data-rows"] == str(SIDE)


def test_levels_windows_and_blocks():
    window = Window(0.0, 2.0, "")
    assert indices(np.array([[-1, 0, 1, 2, 9, np.nan, np.inf]]), window, 255).tolist() == [
        [0, 0, 128, 255, 255, 0, 255]
    ]
    assert [nice_ceiling(v) for v in (0.0, 1.0, 1.01, 987.0, 0.0123, -3)] == [1.0, 1.0, 1.1, 990.0, 0.013, 1.0]
    assert block_mean(np.arange(6.0).reshape(2, 3), 2).tolist() == [[2.0, 3.5]]
    for kind in ("grey", "std", "cov"):  # a colour can be read back as one value, to one level
        table = {tuple(colour): level for level, colour in enumerate(colours(kind))}
        assert all(table[tuple(colour)] - level <= 1 for level, colour in enumerate(colours(kind)))
    zero = item(images={k: np.zeros((40, 40)) for k in ("mean", "std", "lower", "upper")})
    assert windows([zero], "")["grey"].hi == 1.0


def test_traces():
    assert trace_svg(None) == [] and trace_svg({"a": "text", "b": [], "c": [1]}) == []
    (name, svg), (_, flat) = trace_svg({"two_chains": [[1, 2, float("nan"), 3], [3, 2, 1]], "flat": np.ones(2000)})
    assert name == "two_chains" and str(svg).count("<polyline") == 2 and "nan" not in str(svg)
    assert str(flat).count(",") <= 401


def test_importing_the_package_loads_no_picture_library():
    code = "import sys, sciinv.report; print([m for m in ('matplotlib', 'PIL', 'jinja2', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
