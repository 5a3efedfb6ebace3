"""The formats of a domain: found by content, read by name, and validated with the options that the view understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciinv.errors import InputError
from sciinv.io.formats import Format, Formats


def formats(seen: dict[str, object]) -> Formats:
    """One format that knows files starting with ``x`` and keeps the options its view and its reader are given."""

    def view(path, **options):
        seen["view"] = options
        raise InputError("nothing to see", where=Path(path).name)

    def read(path, **options):
        seen["read"] = options
        return Path(path).read_bytes()

    known = Format(lambda path: Path(path).read_bytes()[:1] == b"x", read, "uvfits", view, viewed=("dataset",))
    return Formats({"plain": known}, lambda path: f"rename {path.name}")


def test_a_file_is_found_by_its_content_and_a_stranger_gets_the_hint(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xyz")
    (tmp_path / "b").write_bytes(b"abc")
    one = formats({})
    assert one.find_reader(tmp_path / "a") == "plain" and one.read(tmp_path / "a") == b"xyz"
    with pytest.raises(InputError, match=r"expected plain.*Try: rename b"):
        one.find_reader(tmp_path / "b")
    with pytest.raises(InputError, match="no such format"):
        one.read(tmp_path / "a", format="other")


def test_validation_gives_the_view_only_the_options_that_it_takes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xyz")
    seen: dict[str, object] = {}
    assert formats(seen).validate(tmp_path / "a", dataset="k", axes="x,y") == ["a: nothing to see."]
    assert seen == {"view": {"dataset": "k"}}
    assert formats(seen).read(tmp_path / "a", axes="x,y") and seen["read"] == {"axes": "x,y"}
