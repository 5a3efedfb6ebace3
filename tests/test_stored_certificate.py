"""The stored certificate is whole and current: its claims are today's, and cheap records measure the same again."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sciinv.certify import store
from sciinv.certify.measure import measure
from sciinv.certify.references import Reference, suite
from sciinv.certify.run import Certificate
from sciinv.certify.settings import budgets
from sciinv.samplers import METHODS

CHEAP = 2.0  # CPU seconds: what CI measures again
DOCS = Path(__file__).resolve().parents[1] / "docs"


@functools.cache
def references(fast: bool) -> dict[str, list[Reference]]:
    """Built once, and so are the floors that are cached by them."""
    return suite(fast)


def stale(name: str, body: dict) -> str:
    """Why the stored certificate of a method is not what its code does; empty when it is."""
    method = METHODS[name]
    if body["verdicts"][0]["claim"] != method.claims:
        return "its claim has changed"
    records = sorted(body["records"], key=lambda r: r["seconds"] * r["problems"])
    if not records or records[0]["seconds"] * records[0]["problems"] > CHEAP:
        return ""
    old, fast = records[0], "--fast" in body["command"]
    realisations = references(fast)[old["reference"]]
    budget = [b for b in budgets(method, realisations[0], fast) if b.label == old["budget"]]
    if not budget:
        return f"it has no budget {old['budget']!r} any more"
    new = measure(budget[0], realisations, old["exact_law"])
    # rounding moves an exact law in the last digits; a chain that decides by comparisons may part from itself
    tolerance = 1e-3 * old["error"] if old["exact_law"] else 0.3 * old["error"] + old["floor"]
    if abs(new.error - old["error"]) > tolerance or abs(new.network_calls - old["network_calls"]) > 0.5:
        return f"on {old['reference']}, {old['budget']}: {old['error']:.4g} was stored, {new.error:.4g} is measured"
    return ""


@pytest.mark.parametrize("name", METHODS)
def test_the_stored_certificate_is_current(name: str) -> None:
    stored = store.load()
    assert name in stored, f"run: sciinv certify {name} --store sciinv/certify/stored"
    assert stale(name, stored[name]) == ""


def test_a_changed_claim_or_error_is_noticed() -> None:
    body = json.loads(json.dumps(store.load()["mmps"]))
    assert stale("mmps", body) == ""
    for record in body["records"]:
        record["error"] *= 1.01
    assert "is measured" in stale("mmps", body)
    body["verdicts"][0]["claim"] = "exact"
    assert "claim" in stale("mmps", body)


def test_no_stored_claim_is_refuted() -> None:
    refuted = [name for name, body in store.load().items() for v in body["verdicts"] if v["outcome"] == "refuted"]
    assert not refuted


def test_saving_replaces_one_method_and_reads_back(tmp_path: Path) -> None:
    stored = store.load()["mmps"]
    assert store.save(Certificate([], [], {"mmps": {"ring": "needs linear"}}, 1.0), tmp_path, ["sciinv", "certify"])
    found = store.load(tmp_path)
    assert list(found) == ["mmps"] and found["mmps"]["skipped"] == {"ring": "needs linear"}
    assert found["mmps"]["command"] == "sciinv certify" and set(found["mmps"]) == set(stored)
    (tmp_path / "broken.json").write_text("{")
    store.load.cache_clear()
    assert list(store.load(tmp_path)) == ["mmps"]
    assert "no reference" in (store.card("mmps", tmp_path) or "")


def make_methods() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_methods", DOCS / "make_methods.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_methods"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not DOCS.is_dir(), reason="the docs lie in the source tree only")
def test_the_pages_are_what_the_certificate_says() -> None:
    wrong = [p.name for p, text in make_methods().written().items() if not p.exists() or p.read_text("utf-8") != text]
    assert not wrong, "run: python docs/make_methods.py"
