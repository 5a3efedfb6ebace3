"""Settings of a run: defaults < file < environment ``SCIINV_*`` < command line, validated once, unknown keys refused.

The fields of a sampler's or a domain's frozen dataclass *are* its settings: `build` validates a mapping against
them, so the class, the ``--set`` keys, the YAML and the provenance cannot drift apart. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses as dc
import difflib
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from sciinv.errors import InputError, UsageError
from sciinv.io.safe_yaml import load_yaml, parse_yaml

T = TypeVar("T")
PREFIX = "SCIINV_"
GROUPS = ("sampler", "input")  # settings of the method, and of the reader
Device = Literal["auto", "cpu", "cuda"]


class RunConfig(BaseModel):
    """One ``sciinv reconstruct``; the keys of its YAML file. Each domain's options stand under the domain's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prior: str | None = Field(None, description="prior file or name; the domain's own if absent")
    method: str = Field("pnpdm", description="sampling method, see `sciinv methods`")
    samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    particles: Annotated[int, Field(ge=2, le=100_000)] | None = Field(
        None, description="size of the weighted population that the samples are drawn from, where the method has one"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1905
    device: Device = "auto"
    slices: str | None = Field(None, description='items to reconstruct, such as "0,3-5"; all if absent')
    chunk: Annotated[int, Field(ge=1)] | None = Field(None, description="samples per batch")
    domain: str | None = None
    format: str | None = None
    acceleration: Annotated[float, Field(ge=1)] | None = Field(
        None, description="undersample the data to this net acceleration"
    )
    calib_lines: Annotated[int, Field(ge=1)] | None = Field(None, description="central lines kept when undersampling")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    coupled: bool = Field(
        False,
        description="the same noise in every item: each keeps its law, but neighbours of a volume differ only as their "
        "data do",
    )
    keep_work: bool = Field(False, description="keep the per-task files after success")
    fastmri: bool = Field(False, description="also write a fastMRI-style `reconstruction` dataset")
    record_names: bool = Field(False, description="keep file names in the outputs; they may identify a person")
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    sampler: dict[str, Any] = Field(default_factory=dict, description="fields of the method")
    input: dict[str, Any] = Field(
        default_factory=dict, description="how to read the file, such as the names of its axes"
    )
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="options of each domain, by its name")


def resolve(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    settings: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    domains: Iterable[str] = (),
) -> RunConfig:
    """Merge the four sources into one validated configuration.

    Parameters
    ----------
    flags : what the command line gave; ``None`` means not given.
    file : YAML whose top-level keys are the fields of `RunConfig`; a key named as a domain holds that domain's options.
    settings : ``key=value`` words of ``--set``: a bare key is the method's field, ``input.key`` the reader's option,
        ``mri.key`` that domain's.
    domains : names of the installed domains.
    """
    names = set(domains)
    merged: dict[str, Any] = {**{group: {} for group in GROUPS}, "options": {}}
    if file is not None:
        loaded = load_yaml(file) or {}
        if not isinstance(loaded, dict):
            raise InputError("the configuration is not a mapping", where=Path(file).name, expected="key: value lines")
        for key, value in loaded.items():
            if key in names:
                merged["options"][key] = _mapping(value, f"{Path(file).name}: {key}")
            elif key in GROUPS:
                merged[key] = _mapping(value, f"{Path(file).name}: {key}")
            else:
                merged[str(key)] = value
    environ = os.environ if environ is None else environ
    for key in RunConfig.model_fields:
        text = environ.get(PREFIX + key.upper())
        if text is not None and key not in (*GROUPS, "options"):
            merged[key] = text
    for word in settings:
        group, key, value = parse_setting(word, names)
        target = merged[group] if group in GROUPS else merged["options"].setdefault(group, {})
        target[key] = value
    merged |= {key: value for key, value in flags.items() if value is not None}
    return validate(RunConfig, merged, "the configuration")


def parse_setting(word: str, domains: Iterable[str]) -> tuple[str, str, Any]:
    """Split one ``--set`` word into group (``sampler`` unless named), key and YAML value."""
    name, equals, text = word.partition("=")
    group, dot, key = name.rpartition(".")
    if not equals or not key:
        raise UsageError("--set cannot be understood", expected="key=value", found=word, hint="--set rho_min=0.02")
    known = [*GROUPS, *sorted(domains)]
    if dot and group not in known:
        raise UsageError(f"--set {name} names no group", expected=", ".join(known), found=group, hint="--set key=value")
    return (group or "sampler"), key, (parse_yaml(text, where=f"--set {name}") if text else "")


def build(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """An instance of the frozen dataclass `cls` from `values`, each checked and converted by the field's annotation."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {}
    for field in dc.fields(cls):  # type: ignore[arg-type]
        if not field.init:
            continue
        factory = field.default_factory
        default = Field(default_factory=factory) if factory is not dc.MISSING else field.default
        fields[field.name] = (hints[field.name], ... if default is dc.MISSING else default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    model = pydantic.create_model(cls.__name__, __config__=config, **fields)
    checked = validate(model, dict(values), what)
    return cls(**{name: getattr(checked, name) for name in fields})


def keywords(function: Callable[..., Any], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Keyword arguments of `function` from `values`, each checked and converted by its annotation; unknown ones
    refused.
    """
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    checked = validate(pydantic.create_model("Settings", __config__=config, **fields), dict(values), what)
    return {name: getattr(checked, name) for name in values}


def validate(model: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """Validate against a pydantic model; every violation becomes part of one sentence."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        known = list(model.model_fields)
        faults, hints = [], []
        for entry in error.errors():
            key = ".".join(map(str, entry["loc"]))
            if entry["type"] == "extra_forbidden":
                faults.append(f"there is no setting {key!r}")
                hints += difflib.get_close_matches(key, known, 1) or known
            else:
                faults.append(f"{key} is {str(entry['input'])[:60]} ({entry['msg'][0].lower()}{entry['msg'][1:]})")
        raise UsageError(
            f"{what}: " + "; ".join(faults),
            hint=("one of " if len(hints) > 1 else "") + ", ".join(dict.fromkeys(hints))
            if hints
            else "see `sciinv methods`",
        ) from None


def as_dict(value: Any) -> dict[str, Any]:
    """Fields of a dataclass as JSON-ready values; paths become names."""
    return {field.name: _plain(getattr(value, field.name)) for field in dc.fields(value) if field.init}


def parse_slices(text: str | None, count: int) -> list[int]:
    """Item numbers from ``"0,3-5"``; all of them when `text` is ``None``."""
    if text is None:
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise UsageError(
                "--slices cannot be understood", expected='numbers and ranges, such as "0,3-5"', found=text
            ) from None
        if not 0 <= low <= high < count:
            raise UsageError(
                "no such slice", expected=f"0 to {count - 1}", found=part.strip(), hint="`sciinv info FILE`"
            )
        chosen += range(low, high + 1)
    return sorted(set(chosen))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            "this key must hold settings", where=where, expected="key: value lines", found=type(value).__name__
        )
    return {str(key): child for key, child in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
