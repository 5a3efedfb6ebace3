"""``sciinv demo DOMAIN``: how the domain is named, and whose settings win."""

from __future__ import annotations

import dataclasses as dc

import pytest
import tiny
import yaml

from sciinv import plugins
from sciinv.cli import main

QUICK = ("anneal=2", "stationary=0")


@pytest.fixture
def two(monkeypatch):
    """Two domains, the second with a demo of its own."""
    tiny.install(monkeypatch)
    other = dc.replace(tiny.DOMAIN, name="other", demo_flags={"samples": 3}, demo_settings=QUICK)
    known = {"tiny": tiny.DOMAIN, "other": other}
    monkeypatch.setattr(plugins, "domains", lambda: known)
    return known


def config(out):
    return yaml.safe_load((out / "result" / "config.yaml").read_text("utf-8"))


@pytest.mark.parametrize("named", [["other"], ["--domain", "other"], ["other", "--domain", "other"]])
def test_a_domain_by_word_or_by_option_and_its_own_settings(two, tmp_path, named):
    assert main(["demo", *named, "-o", str(tmp_path), "-q"]) == 0
    found = config(tmp_path)
    assert found["domain"] == "other" and found["samples"] == 3
    assert (found["sampler"]["anneal"], found["sampler"]["stationary"]) == (2, 0)


def test_the_user_wins(two, tmp_path):
    words = ["demo", "other", "-o", str(tmp_path), "-q", "--samples", "2", "--set", "anneal=3"]
    assert main(words) == 0
    found = config(tmp_path)
    assert found["samples"] == 2 and (found["sampler"]["anneal"], found["sampler"]["stationary"]) == (3, 0)


@pytest.mark.parametrize(
    ("words", "message"), [(["tiny", "--domain", "other"], "two domains"), (["galaxy"], "unknown domain")]
)
def test_names_that_make_no_sense(two, tmp_path, capsys, words, message):
    assert main(["demo", *words, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_first_domain_is_shown_without_a_name(two, tmp_path):
    assert main(["demo", "-o", str(tmp_path), "-q", "--samples", "2", *(w for q in QUICK for w in ("--set", q))]) == 0
    assert config(tmp_path)["domain"] == "tiny"


def test_a_domain_without_a_prior_asks_for_one(two, tmp_path, capsys):
    two["tiny"] = dc.replace(tiny.DOMAIN, default_prior="")
    assert main(["demo", "tiny", "-o", str(tmp_path), "-q"]) == 2
    assert "comes with no prior" in capsys.readouterr().err
