"""The stored measurement that the CLI and the reports print is current: the affine methods are measured again."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cards():
    spec = importlib.util.spec_from_file_location("method_cards", ROOT / "benchmarks" / "method_cards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_a_card(cards) -> None:
    stored = json.loads(cards.store().read_text())
    assert set(stored) == set(cards.METHODS)
    assert all(card["text"] for card in stored.values())


@pytest.mark.parametrize("name", ["pnpdm", "mmps"])
def test_stored_card_is_current(cards, name: str) -> None:
    stored, now = (
        json.loads(cards.store().read_text())[name]["image-scale"],
        cards.measure(name, only="image-scale")["image-scale"],
    )
    assert now.keys() == stored.keys()
    for key, value in now.items():
        assert stored[key] == pytest.approx(value, rel=0.02, abs=2e-3), key
