"""YAML as data only: 1 MiB, plain tags, no alias bomb, no repeated key, and no key that asks for code to be run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from sciinv.errors import InputError
from sciinv.io.limits import check_file

MAX_SIZE = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64
FORBIDDEN = frozenset({"_target_", "_partial_", "_args_"})  # "instantiate this dotted path" in other frameworks

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file into plain Python values (dict, list, str, int, float, bool, None, date)."""
    path = check_file(path)
    if path.stat().st_size > MAX_SIZE:
        raise InputError(
            "the file is too large for a configuration", where=path.name, expected=f"at most {MAX_SIZE:,} bytes"
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("the file is not text", where=path.name, expected="UTF-8 YAML") from None
    return parse_yaml(text, where=path.name)


def parse_yaml(text: str, *, where: str = "YAML") -> Any:
    """Parse YAML `text`; see the module's head for what is refused."""
    if len(text) > MAX_SIZE:
        raise InputError(
            "the text is too large for a configuration", where=where, expected=f"at most {MAX_SIZE:,} characters"
        )
    _refuse_depth(text, where)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, where, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except InputError:
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(
            f"the YAML cannot be read ({first})", where=where, expected="plain YAML without custom tags"
        ) from None


def _refuse_depth(text: str, where: str) -> None:
    """Refuse deep nesting before the composer, which recurses in C, sees it."""
    depth = 0
    for bracket in re.findall(r"[][{}]", text):  # the scanner's time grows with the square of this depth
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        if depth > 4 * MAX_DEPTH:
            raise InputError("the YAML is nested too deeply", where=where, expected=f"at most {MAX_DEPTH} levels")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise InputError("the YAML is nested too deeply", where=where, expected=f"at most {MAX_DEPTH} levels")
    except InputError:
        raise
    except Exception:
        return  # the syntax error is reported, with its line, by the real parse


def _measure(node: yaml.Node, where: str, sizes: dict[int, int], path: set[int]) -> int:
    """Count the nodes that aliases expand to; each distinct node is visited once, so the count itself is cheap."""
    key = id(node)
    if key in sizes:
        return sizes[key]
    if key in path:
        raise InputError("an alias contains itself", where=where, expected="a finite document")
    path.add(key)
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_measure(child, where, sizes, path) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, child in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in FORBIDDEN:
                    raise InputError(f"the key {name.value!r} asks for code to be run and is refused", where=where)
                if name.value in seen:
                    line = name.start_mark.line + 1
                    raise InputError(
                        f"the key {name.value!r} appears twice", where=f"{where}, line {line}", hint="keep one of them"
                    )
                seen.add(name.value)
            total += _measure(name, where, sizes, path) + _measure(child, where, sizes, path)
    path.discard(key)
    if total > MAX_NODES:
        raise InputError(
            "the document expands to too many values", where=where, expected=f"at most {MAX_NODES:,} values"
        )
    sizes[key] = total
    return total


def is_yaml(path: str | os.PathLike[str]) -> bool:
    """Say whether the name ends like YAML."""
    return Path(path).suffix.lower() in (".yaml", ".yml")
