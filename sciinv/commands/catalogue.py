"""``methods``, ``priors`` and ``doctor``: what there is and whether it works here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sciinv.commands.convert import convert
from sciinv.errors import ResourceError, UsageError

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DISK_FLOOR = 1 << 30  # a run of a few slices with its samples fits well below


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(methods)
    app.command()(doctor)
    priors = typer.Typer(no_args_is_help=True, help="Which priors there are, and what they were trained on.")
    priors.command("list")(priors_list)
    priors.command("card")(priors_card)
    priors.command("convert")(convert)
    app.add_typer(priors, name="priors")


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its settings.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the sampling methods: what they claim, what they need, how wrong they were measured to be."""
    from sciinv.run.plan import method
    from sciinv.samplers import METHODS

    cards = {key: describe(cls) for key, cls in METHODS.items() if name is None or cls is method(name)}
    if as_json:
        typer.echo(json.dumps(cards, ensure_ascii=False))
        return
    if name is not None:
        method(name)
        _detail(cards[name])
        return
    from rich.table import Table

    from sciinv.commands.console import console

    heads = "method family technique nonlinear noise backward calls covers claim what it claims".split(" ", 9)
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True  # a name is there to be copied
    for key, card in cards.items():
        answers = ("yes" if card[k] else "no" for k in ("nonlinear", "noise", "backward"))
        measured = card["measured"] or {}
        calls, covers = (_text(measured.get(k)) for k in ("network_calls", "coverage_90"))
        table.add_row(
            key, card["family"], card["technique"], *answers, calls, covers, measured.get("outcome", ""), card["claims"]
        )
    console().print(table)
    typer.echo(
        "\nAll work on pixels with a known operator: none is blind, latent or text-guided. noise: its level is used.\n"
        "backward: the network is differentiated, which takes several times the memory. calls, covers: network calls\n"
        "and coverage of a 90 % interval on the certificate's Gaussian (or touching modes); claim: what became of it.\n"
        "`sciinv methods NAME` lists a method's settings; give them with --set key=value."
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def describe(cls: type[Any]) -> dict[str, Any]:
    """All that is said of a method: class attributes, settings with their meaning, measured error."""
    import dataclasses as dc

    from sciinv.certify.store import card, headline

    about: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        about |= _attributes(base.__doc__ or "") if dc.is_dataclass(base) else {}
    fields = {
        f.name: {"type": str(f.type), "default": f.default, "about": about.get(f.name, "")} for f in dc.fields(cls)
    }
    measured = headline(cls.name)
    return {
        "name": cls.name, "family": cls.__module__.split(".")[-2], "technique": cls.technique, "paper": cls.paper,
        "claims": cls.claims, "requires": sorted(cls.requires), "nonlinear": "linear" not in cls.requires,
        "noise": "noiseless" not in cls.claims, "blind": False, "space": "pixel", "fields": fields,
        "backward": "differentiable" in cls.requires or bool(measured and measured.get("network_vjps")),
        "measured": measured, "measured_error": card(cls.name),
    }  # fmt: skip


def _attributes(doc: str) -> dict[str, str]:
    """Field descriptions from the ``Attributes`` section: ``a, b : text``."""
    out: dict[str, str] = {}
    current: list[str] = []
    _, _, section = doc.partition("Attributes")
    for line in section.splitlines()[2:]:
        names, colon, text = line.strip().partition(" : ")
        if colon:
            current = [n.strip() for n in names.split(",")]
            out |= dict.fromkeys(current, text)
        elif line.strip():
            out |= {n: f"{out[n]} {line.strip()}" for n in current}
    return out


def _detail(card: dict[str, Any]) -> None:
    for key in ("name", "paper", "claims"):
        typer.echo(f"{key:<9} {card[key]}")
    typer.echo(f"needs     {', '.join(card['requires']) or 'any problem'}")
    typer.echo(f"measured  {_words(card['measured_error'])}")
    typer.echo("settings")
    for name, field in card["fields"].items():
        typer.echo(f"  {name}={field['default']}  ({field['type']})  {field['about']}")


def _words(measured: Any) -> str:
    if measured is None:
        return "not measured yet"
    return "; ".join(f"{k} {v}" for k, v in measured.items()) if isinstance(measured, dict) else str(measured)


def priors_list(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the priors that come with the package."""
    from sciinv.priors.checkpoint import EMBEDDED, embedded_path, read_note

    found: dict[str, dict[str, Any]] = {}
    for name, sha256 in EMBEDDED.items():
        path = embedded_path(name)
        summary = read_note(path).card.summary if path.is_file() else "its file is missing: reinstall the package"
        found[name] = {"summary": summary, "sha256": sha256, "bytes": path.stat().st_size if path.is_file() else 0}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, entry in found.items():
        typer.echo(f"{name}  {entry['bytes'] / 1e6:.1f} MB  {entry['sha256'][:12]}  {entry['summary']}")


def priors_card(
    name: Annotated[str, typer.Argument(help="Name of a prior, or a .safetensors file.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the model card of a prior."""
    from sciinv.priors.checkpoint import EMBEDDED, embedded_path, read_note

    if name not in EMBEDDED and not Path(name).is_file():
        raise UsageError("there is no such prior", expected=f"a file, or one of {', '.join(EMBEDDED)}", found=name)
    note = read_note(embedded_path(name) if name in EMBEDDED else Path(name))
    card = {
        **note.card.model_dump(),
        "predicts": note.predicts,
        "architecture": note.architecture,
        "noise_levels": [note.sigma_min, note.sigma_max],
    }
    if as_json:
        typer.echo(json.dumps(card, ensure_ascii=False))
        return
    for key, value in card.items():
        typer.echo(f"{key.replace('_', ' ')}: {_words(value)}")


def doctor(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder whose disk is looked at.")] = Path(),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check this installation: versions, device, threads, disk, and that the embedded priors are intact."""
    import os
    import shutil

    from sciinv import provenance
    from sciinv.plugins import domains
    from sciinv.priors.checkpoint import EMBEDDED, embedded_path
    from sciinv.run.guard import available, size
    from sciinv.run.plan import resolve_device

    device = resolve_device("auto")
    facts = provenance.environment(device)
    free = shutil.disk_usage(out.resolve()).free
    facts |= {
        "memory_free": size(available("cpu")), "disk_free": size(free),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "domains": sorted(domains()),
    }  # fmt: skip
    faults = [f"less than {size(DISK_FLOOR)} of disk is free"] if free < DISK_FLOOR else []
    if not facts["domains"]:
        faults.append("no domain is installed")
    for name, sha256 in EMBEDDED.items():
        path = embedded_path(name)
        state = "missing" if not path.is_file() else "intact" if provenance.file_hash(path) == sha256 else "damaged"
        facts[f"prior {name}"] = state
        if state != "intact":
            faults.append(f"the prior {name} is {state}")
    if as_json:
        typer.echo(json.dumps({**facts, "faults": faults}))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            typer.echo(f"{key:<{width}}  {_words(value) if isinstance(value, dict) else value}")
        typer.echo("all is well" if not faults else "")
    if faults:
        raise ResourceError("; ".join(faults), where="doctor", hint="reinstall the package or free some space")
