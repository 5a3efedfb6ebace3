"""Data specifications: one YAML a format says what a file must hold; all violations are reported at once.

A spec is checked against ``data_specs/schema.json`` and applied to a *header view* (shapes, dtypes, small values), so
no bulk data are read to say what is wrong. Named dimensions unify: ``ky`` of the mask must equal ``ky`` of the k-space.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.errors import InputError, UsageError
from sciinv.io.safe_yaml import load_yaml

_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "S": "text", "U": "text", "O": "text"}
_REAL = frozenset({"int", "uint", "float"})
_PAIRS = ({"real", "imag"}, {"r", "i"}, {"re", "im"})


@dataclass(frozen=True)
class FieldView:
    """What a header says about one field: its shape, its dtype class, and its value when it is small."""

    shape: tuple[int, ...]
    dtype: str
    value: Any = None


HeaderView = Mapping[str, FieldView]


@dataclass(frozen=True)
class Field:
    """One rule of a spec; `dims` are names, sizes, or names with ``?`` (optional)."""

    path: str
    dtype: tuple[str, ...] = ()
    dims: tuple[str | int, ...] | None = None
    required: bool = False
    pairs: bool = False
    range: tuple[float, float] | None = None
    units: str = ""
    about: str = ""


@dataclass(frozen=True)
class Spec:
    """A format: its container, where it is documented, the allowed sizes of its dimensions, and its fields."""

    format: str
    container: str
    version: int
    cite: str
    about: str
    sizes: Mapping[str, tuple[int, int]]
    fields: tuple[Field, ...]
    file: str


def dtype_class(dtype: np.dtype[Any]) -> str:
    """Name the class of a NumPy dtype as specs do; a compound of real and imaginary part counts as complex."""
    if dtype.names:
        return "complex" if {name.lower() for name in dtype.names} in _PAIRS else "table"
    return _KINDS.get(dtype.kind, "other")


def specs_folder() -> Path:
    """The folder of our own specs: inside the installed package, or at the root of a source tree."""
    inside = Path(__file__).parents[1] / "data_specs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "data_specs"


@functools.cache
def load_spec(name: str, folder: Path | None = None) -> Spec:
    """Load ``name.yaml`` from `folder` (default: our own specs) after checking it against the schema."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(
            f"{name!r} is no name of a data specification", expected="lower-case letters, digits and hyphens"
        )
    path = (folder or specs_folder()) / f"{name}.yaml"
    raw = load_yaml(path)
    schema = json.loads((specs_folder() / "schema.json").read_text("utf-8"))
    problems = schema_violations(raw, schema, schema, name)
    if problems:
        raise InputError("the data specification is malformed: " + "; ".join(problems), where=path.name)
    fields = tuple(_field(entry) for entry in raw["fields"])
    sizes = {key: (int(low), int(high)) for key, (low, high) in raw.get("sizes", {}).items()}
    return Spec(raw["format"], raw["container"], raw["version"], raw["cite"], raw["about"], sizes, fields, path.name)


def _field(entry: Mapping[str, Any]) -> Field:
    kinds, limits = entry.get("dtype", []), entry.get("range")
    return Field(
        path=entry["path"],
        dtype=(kinds,) if isinstance(kinds, str) else tuple(kinds),
        dims=tuple(entry["dims"]) if "dims" in entry else None,
        required=entry.get("required", False),
        pairs=entry.get("pairs", False),
        range=None if limits is None else (float(limits[0]), float(limits[1])),
        units=entry.get("units", ""),
        about=entry.get("about", ""),
    )


def violations(view: HeaderView, spec: Spec) -> list[str]:
    """Every way in which a header view breaks a spec, as sentences; empty when it conforms."""
    found: list[str] = []
    bound: dict[str, tuple[int, str]] = {}
    for field in spec.fields:
        seen = view.get(field.path)
        if seen is None:
            if field.required:
                found.append(f"{field.path} is missing ({field.about or 'required'})")
            continue
        kind, shape = seen.dtype, seen.shape
        if field.pairs and kind in _REAL and shape[-1:] == (2,):
            kind, shape = "complex", shape[:-1]
        if field.dtype and kind not in field.dtype:
            found.append(f"{field.path} is {kind}, expected {' or '.join(field.dtype)}")
        if field.dims is not None:
            found += _check_dims(field, shape, spec, bound)
        if field.range is not None:
            found += _check_range(field, seen.value)
    return found


def _check_dims(field: Field, shape: tuple[int, ...], spec: Spec, bound: dict[str, tuple[int, str]]) -> list[str]:
    assert field.dims is not None
    dims = list(field.dims)
    while len(dims) > len(shape):
        optional = [i for i, dim in enumerate(dims) if str(dim).endswith("?")]
        if not optional:
            break
        # trailing optional axes (NIfTI's time) go from the right, leading ones (a coil axis) from the left
        del dims[optional[-1] if optional[-1] == len(dims) - 1 else optional[0]]
    if len(dims) != len(shape):
        wanted = ", ".join(map(str, field.dims))
        return [f"{field.path} has shape {shape}, expected the dimensions ({wanted})"]
    found = []
    for dim, size in zip(dims, shape, strict=True):
        name = str(dim).rstrip("?")
        if isinstance(dim, int):
            if size != dim:
                found.append(f"{field.path} has shape {shape}, where one size must be {dim}")
            continue
        low, high = spec.sizes.get(name, (1, 2**31))
        if not low <= size <= high:
            found.append(f"{field.path} has {name} = {size:,}, expected {low:,} to {high:,}")
        other, owner = bound.setdefault(name, (size, field.path))
        if other != size:
            found.append(f"{field.path} has {name} = {size}, but {owner} has {name} = {other}")
    return found


def _check_range(field: Field, value: Any) -> list[str]:
    assert field.range is not None
    low, high = field.range
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return [f"{field.path} is no number, expected {low:g} to {high:g} {field.units}".rstrip()]
    if not ((numbers >= low) & (numbers <= high)).all():
        shown = np.array2string(numbers, precision=4)[:80]
        return [f"{field.path} is {shown}, expected {low:g} to {high:g} {field.units}".rstrip()]
    return []


def check_spec(view: HeaderView, spec: Spec, *, where: str) -> None:
    """Raise one `InputError` that lists every violation."""
    found = violations(view, spec)
    if found:
        raise InputError(
            f"this is not a valid {spec.format} file (data_specs/{spec.file}): " + "; ".join(found),
            where=where,
            hint="see `sciinv validate` and the page of this format",
        )


_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def schema_violations(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> list[str]:
    """Check `value` against the part of JSON Schema that ``schema.json`` uses (RFC draft 2020-12, a dozen keywords)."""
    if "$ref" in schema:
        return schema_violations(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    if "anyOf" in schema:
        options = [schema_violations(value, option, root, path) for option in schema["anyOf"]]
        return [] if any(not option for option in options) else options[0]
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{path} must be of type {kind}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path} must be one of {', '.join(map(str, schema['enum']))}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path} must match {schema['pattern']}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{path} lacks {name}" for name in schema.get("required", []) if name not in value]
        extra = schema.get("additionalProperties", True)
        for name, child in value.items():
            if name in known:
                found += schema_violations(child, known[name], root, f"{path}.{name}")
            elif extra is False:
                found.append(f"{path} has the unknown key {name!r}")
            elif isinstance(extra, dict):
                found += schema_violations(child, extra, root, f"{path}.{name}")
    if isinstance(value, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems", 1 << 30)
        if not least <= len(value) <= most:
            found.append(f"{path} has {len(value)} items, expected {least} to {most}")
        for index, child in enumerate(value):
            found += schema_violations(child, schema.get("items", {}), root, f"{path}[{index}]")
    return found
