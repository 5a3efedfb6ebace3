"""The order of a run: read, plan, lock, compute, reduce, write, mark."""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sciinv import __version__
from sciinv import provenance as prov
from sciinv.calibration import Calibration, load_calibration, pooled, statement
from sciinv.config import RunConfig, as_dict, build, keywords, parse_slices
from sciinv.diagnostics.alarms import alarms
from sciinv.errors import InputError, NumericalError, PartialError, SciinvError, UsageError
from sciinv.io.atomic import write_json
from sciinv.io.runfolder import RunFolder, read_plan
from sciinv.plugins import Domain, find_reader
from sciinv.prior import Prior
from sciinv.progress import Log
from sciinv.report import Report
from sciinv.results import ItemResult, RunContext
from sciinv.run import outputs
from sciinv.run.plan import Task, document, fitted, method, prior_hash, resolve_device, tasks
from sciinv.run.reduce import Hash, reduce_item
from sciinv.run.signals import Interrupted, Stop
from sciinv.run.tasks import Work, describe, execute
from sciinv.samplers import Sampler

RESUME = "resume.json"  # in work/: where the input lies; removed with work/ when the run is complete


@dc.dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: exit code, files (in the output folder), the summary of ``--json``, and what failed."""

    exit_code: int
    out: Path
    paths: Sequence[Path]
    summary: Mapping[str, Any]
    error: SciinvError | None = None


@dc.dataclass(frozen=True)
class _Run:
    """Everything resolved; nothing computed yet."""

    config: RunConfig
    domain: Domain
    reader: str
    data: Any
    options: Any
    sampler: Sampler
    prior: Prior
    prior_facts: Mapping[str, Any]
    items: list[int]
    device: str
    label: str
    input_sha256: str
    document: dict[str, Any]

    @property
    def todo(self) -> list[Task]:
        chunk = self.drawn if self.sampler.population else self.document["chunk"]
        return tasks(self.items, self.drawn, chunk, self.config.coupled)

    @property
    def drawn(self) -> int:
        """What is drawn for an item: its samples, or the particles that they are drawn from."""
        return int(self.document.get("particles", self.config.samples))


def reconstruct(
    file: Path,
    out: Path,
    config: RunConfig,
    log: Log | None = None,
    *,
    overwrite: bool = False,
    argv: Sequence[str] | None = None,
) -> Outcome:
    """Reconstruct `file` into the folder `out`.

    Raises
    ------
    SciinvError : with the exit code that the command line passes on; finished tasks stay and are used the next time.
    Interrupted : after a signal, with the state saved.
    """
    log = log or Log(mode="none")
    file, out, started = Path(file), Path(out), prov.now()
    scrub = prov.Scrubber()
    with Stop() as stop:
        run = _prepare(file, config, log, scrub)
        scrub.hide(out, "OUT")
        with RunFolder(out, run.document, overwrite=overwrite) as folder:
            log.to_file(out / "log.jsonl", scrub)
            log.event("start", version=__version__, plan=folder.id, argv=prov.arguments(scrub, argv))
            if folder.complete:
                log.info("done    this run is complete already; nothing to do (--overwrite computes it again)")
                if not config.keep_work:
                    folder.drop_work()
                return _recorded(out)
            write_json(folder.work / RESUME, {"input": str(file.resolve()), "config": _resumable(config)})
            what = f"{run.drawn} particles" if run.sampler.population else f"{run.drawn} samples"
            log.info(f"plan    {len(run.items)} items x {what} = {len(run.todo)} tasks; plan {folder.id[:12]}")
            try:
                _compute(run, folder, log, stop)
                return _finish(run, folder, log, scrub, started, argv)
            except Interrupted as error:
                log.event("interrupted", signal=error.exit_code - 128)
                raise
            except SciinvError as error:
                log.event("error", error=type(error).__name__, message=str(error), exit_code=error.exit_code)
                raise
            except Exception as error:
                log.event("bug", error=type(error).__name__, traceback=describe(error))
                raise


def resume(
    out: Path, log: Log | None = None, *, file: Path | None = None, argv: Sequence[str] | None = None
) -> Outcome:
    """Continue the run in `out` with its own settings; `file` says where its input lies now."""
    out = Path(out)
    plan = read_plan(out)
    if plan is None:
        raise UsageError(
            "this folder holds no run", where=out.name, expected="plan.json", hint="sciinv reconstruct FILE -o OUT"
        )
    try:
        kept = json.loads((out / "work" / RESUME).read_text("utf-8"))
        config, found = RunConfig.model_validate(kept["config"]), Path(kept["input"])
    except (OSError, ValueError, KeyError, TypeError):
        if (out / "SUCCESS").exists():
            return _recorded(out)
        raise InputError(
            "it is not recorded where the input of this run lies",
            where=f"{out.name}/work/{RESUME}",
            hint="give the command again",
        ) from None
    return reconstruct(file or found, out, config, log, argv=argv)


def _prepare(file: Path, config: RunConfig, log: Log, scrub: prov.Scrubber) -> _Run:
    from sciinv.priors.checkpoint import load_prior

    method(config.method)  # an unknown name is refused before anything is read
    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.startswith("cuda"):  # the same draws and the same sums each time
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    log.info(
        f"sciinv {__version__} | torch {torch.__version__} | device {device} ({torch.get_num_threads()} threads) | "
        f"seed {config.seed}"
    )
    domain, reader = find_reader(file, config.domain, config.format)
    sampler = fitted(config, domain)
    stray = set(config.options) - {domain.name}
    if stray:
        raise UsageError("options of another domain were given", expected=domain.name, found=", ".join(sorted(stray)))
    short = {"acceleration": config.acceleration, "calib_lines": config.calib_lines}
    values = {
        **config.options.get(domain.name, {}),
        **{key: value for key, value in short.items() if value is not None},
    }
    options: Any = build(domain.options, values, f"options of {domain.name}")
    if not (config.prior or domain.default_prior):
        raise UsageError(f"{domain.name} comes with no prior", hint="--prior FILE; `sciinv train` makes one")
    named = load_prior(config.prior) if config.prior else None  # a wrong one is refused before data are read
    sha256 = prov.file_hash(file)
    label = prov.public_name(file, sha256, keep=config.record_names)
    scrub.hide(file, label)
    how = keywords(reader.read, config.input, f"options of the reader {reader.name}")
    data = reader.read(file, **how)
    prior_name = config.prior or (domain.suited(data) if domain.suited else domain.default_prior)
    prior = (named or load_prior(prior_name)).eval().requires_grad_(False)
    prior_facts = _prior_facts(prior, prior_name, config.record_names, scrub)
    items = parse_slices(config.slices, domain.items(data))
    log.info(f"input   {file.name}  {reader.name}  {domain.items(data)} items  sha256 {sha256[:12]}")
    for warning in getattr(data, "warnings", ()):
        log.warn(warning)
    log.info(
        f"prior   {prior_facts['name']}  {prior_facts['parameters']:,} parameters  sha256 {prior_facts['sha256'][:12]}"
    )
    plan = document(
        config, sampler, options, domain=domain.name, reader={"name": reader.name, **how}, items=items, device=device,
        input_file={"sha256": sha256, "size": file.stat().st_size}, prior_sha256=prior_facts["sha256"],
    )  # fmt: skip
    return _Run(
        config, domain, reader.name, data, options, sampler, prior, prior_facts, items, device, label, sha256, plan
    )


def _prior_facts(prior: Prior, name: str, keep: bool, scrub: prov.Scrubber) -> dict[str, Any]:
    """Name, hash and card; a checkpoint is known by its file's hash, an analytic prior by its tensors."""
    path, card = Path(name), dict(getattr(prior, "card", {}) or {})
    sha256 = str(card.get("sha256") or prior_hash(prior))
    public = prov.public_name(path, sha256, keep=keep).replace("input-", "prior-") if path.is_file() else name
    if path.is_file():
        scrub.hide(path, public)
    count = sum(p.numel() for p in prior.parameters())
    return {"name": public, "sha256": sha256, "parameters": count, "card": card}


def _compute(run: _Run, folder: RunFolder, log: Log, stop: Stop) -> None:
    def baseline(problem: Any) -> tuple[str, torch.Tensor] | None:
        for name, solve in run.domain.baselines.items():
            return name, solve(problem)
        return None

    work = Work(
        folder.work, folder.checkpoints, folder.id, run.sampler, run.prior,
        lambda item: run.domain.problem(run.data, item, run.options), baseline,
        run.config.seed, run.device, run.config.checkpoint_seconds, run.document["chunk"],
    )  # fmt: skip
    execute(work, run.todo, len(run.items), run.config.samples, log, stop)


def _calibration(run: _Run) -> tuple[Calibration | None, str]:
    path = run.domain.calibration
    if path is None or not path.is_file():
        return None, ""
    found = load_calibration(path)
    why = found.misfit(run.prior_facts["sha256"], run.sampler.name, run.config.level)
    return (None, why) if why else (found, "")


def _finish(
    run: _Run, folder: RunFolder, log: Log, scrub: prov.Scrubber, started: str, argv: Sequence[str] | None
) -> Outcome:
    out, config = folder.path, run.config
    calibration, why_not = _calibration(run)
    digest, results, status = Hash(), [], []
    for item in run.items:
        chunks = [task for task in run.todo if task.item == item]
        result, record = reduce_item(
            folder.work, item, chunks, run.sampler, config, calibration, digest, run.domain.align
        )
        status.append(record)
        results += [] if result is None else [result]
    good = [record for record in status if record["status"] == "done"]
    exit_code, marker = (
        (0, "SUCCESS") if len(good) == len(status) else (5, "PARTIAL") if results else (_worst(status), "FAILED")
    )
    paths: list[Path] = [outputs.write_config(out, scrub.tree(_public_config(run)))]
    measured = pooled([r.measured for r in results if r.measured])
    used = calibration if any(r.calibrated for r in results) else None
    if calibration is not None and used is None:
        why_not = "no factor was learned near this acceleration with this sampling pattern"
    sentence = ""
    if results:
        weighted = results[0].summary["ess"] if "ess_weights" in results[0].diagnostics else None
        sentence = statement(config.level, results[0].summary["coverage"], used, why_not, measured, weighted)
        context = RunContext(
            run.label, run.input_sha256, run.sampler.name, run.prior_facts, config.level, sentence, config.seed,
            folder.id, as_dict(run.sampler), {"fastmri": config.fastmri}, run.options, run.prior,
        )  # fmt: skip
        paths += run.domain.write(out, run.data, results, context)
        page = _report(run, results, sentence, measured, used, folder.id, digest.value, log, scrub)
        if run.domain.sections is not None:
            log.info(f"report  checks and figures of {run.domain.name}")
            page = dc.replace(page, sections=run.domain.sections(run.data, results, context))
        paths += outputs.save_report(out, page)
        for found in (finding for part in page.sections for finding in part.findings):
            if found.level in ("caution", "alarm"):  # the report has them in its verdict
                log.warn(f"{found.title}: {found.text}")
    for alarm in alarms({f"item {r.item}": r.diagnostics for r in results}):  # the report has them in its verdict
        log.warn(f"{alarm.title}: {alarm.text}")
    summary = {
        "status": marker, "exit_code": exit_code, "out": "OUT", "plan": folder.id, "samples_sha256": digest.value,
        "items": status, "measured": measured, "coverage": sentence, "warnings": scrub.tree(log.warnings),
    }  # fmt: skip
    record = {
        "schema": prov.SCHEMA, **summary, "argv": prov.arguments(scrub, argv), "config": _public_config(run),
        "input": {"name": run.label, "sha256": run.input_sha256, "size": run.document["input"]["size"],
        "reader": run.reader},
        "prior": {k: v for k, v in run.prior_facts.items() if k != "card"}, "seed": config.seed,
        "seed_rule": f"each sample: SHA-256 of seed, {0 if config.coupled else 'item'} and sample number",
        "environment": prov.environment(run.device),
        "started": started, "ended": prov.now(), "citations": outputs.citations(run.sampler, run.prior_facts["card"]),
        "outputs": [p.name for p in paths], "disclaimer": prov.DISCLAIMER,
    }  # fmt: skip
    paths.append(outputs.write_provenance(out, record, scrub))
    folder.mark(marker, f"{prov.now()} plan {folder.id}")
    log.event("end", marker=marker, exit_code=exit_code, samples_sha256=digest.value)
    _tell(log, results, status, sentence)
    outcome = Outcome(exit_code, out, paths, {**summary, "out": str(out), "files": [str(p) for p in paths]})
    if exit_code == 0:
        if not config.keep_work:
            folder.drop_work()
        return outcome
    failed = [record for record in status if record["status"] != "done"]
    text = "; ".join(
        f"{r['item']}: {r.get('message', str(r.get('failed_samples', '')) + ' samples failed')}" for r in failed[:5]
    )
    kind = PartialError if exit_code == 5 else NumericalError
    what = f"{len(failed)} of {len(status)} items failed" if results else "every item failed"
    hint = "log.jsonl has the details; the others are written"
    error = kind(f"{what} ({text})", where=out.name, exit_code=exit_code, hint=hint)
    return dc.replace(outcome, error=error)


def _worst(status: Sequence[Mapping[str, Any]]) -> int:
    """Exit code when nothing worked: the common cause if there is one, else numerical failure."""
    codes = {record.get("exit_code", 7) for record in status}
    return codes.pop() if len(codes) == 1 else 7


def _report(
    run: _Run, results: Sequence[ItemResult], sentence: str, measured: Mapping[str, float], used: Calibration | None,
    plan: str, digest: str, log: Log, scrub: prov.Scrubber,
) -> Report:  # fmt: skip
    nominal = results[0].summary["coverage"]
    over = None if "coverage" not in measured else "over-confident" in sentence
    coverage = {
        "level": run.config.level, "exact": nominal, "measured": measured.get("coverage"),
        "calibrated": measured.get("coverage_calibrated"), "source": "" if used is None else used.learned_on,
        "statement": sentence, "over_confident": over,
    }  # fmt: skip
    facts = {"name": run.label, "format": run.reader, "sha256": run.input_sha256, "items": len(run.items)}
    if run.config.acceleration:
        facts["undersampled_to"] = run.config.acceleration
    about = getattr(run.data, "info", None)
    extra = (
        {k: v for k, v in about().items() if k not in ("input", "sha256", "warnings", "format")}
        if callable(about)
        else {}
    )
    environment = prov.environment(run.device)
    return Report(
        title=f"{run.domain.name} reconstruction: {run.label}",
        units=str(results[0].meta.get("units", "a.u.")),
        items=[outputs.report_item(result) for result in results],
        input=scrub.tree({**facts, **extra}),
        prior={**run.prior_facts["card"], "name": run.prior_facts["name"], "sha256": run.prior_facts["sha256"]},
        method=outputs.method_card(run.sampler),
        coverage=coverage,
        warnings=scrub.tree([text for text in log.warnings if not text.startswith("item ")]),  # items carry their own
        provenance={
            "sciinv": __version__, "plan": plan, "samples_sha256": digest, "seed": run.config.seed,
            "options": as_dict(run.options), **environment,
        },
    )  # fmt: skip


def _tell(log: Log, results: Sequence[ItemResult], status: Sequence[Mapping[str, Any]], sentence: str) -> None:
    log.info(f"done    {len(results)}/{len(status)} items")
    if results:
        chi2 = [float(r.chi2_per_dof.mean()) for r in results]
        rhat = [r.diagnostics["rhat_max"] for r in results if "rhat_max" in r.diagnostics]
        text = f"data residual chi2/dof {sum(chi2) / len(chi2):.3f} ({min(chi2):.3f}-{max(chi2):.3f})"
        log.info(f"check   {text}" + (f"  R-hat max {max(rhat):.3f}" if rhat else ""))
        _tell_weights(log, [r.diagnostics for r in results if "particles" in r.diagnostics])
        log.info(f"        {sentence}")
    log.info(prov.DISCLAIMER)


def _tell_weights(log: Log, found: Sequence[Mapping[str, Any]]) -> None:
    """The population in one line: worst item for each number."""
    if not found:
        return
    parts = [f"ESS of the weights at least {min(d['ess_weights'] for d in found):.1f} of {found[0]['particles']}"]
    ancestors = [d["ancestors"] for d in found if "ancestors" in d]
    parts += [f"ancestors at least {min(ancestors)}"] if ancestors else []
    evidence = [f"{d['log_evidence']:.2f}" for d in found if "log_evidence" in d]
    parts += ["log-evidence " + ", ".join(evidence[:4]) + " ..." * (len(evidence) > 4)] if evidence else []
    log.info(f"        {'; '.join(parts)}")


def _recorded(out: Path) -> Outcome:
    """The outcome of a complete run, from its provenance."""
    record = json.loads((out / "provenance.json").read_text("utf-8"))
    keys = ("status", "exit_code", "plan", "samples_sha256", "items", "measured", "coverage", "warnings")
    paths = [out / name for name in [*record["outputs"], "provenance.json"]]
    summary = {**{key: record[key] for key in keys}, "out": str(out), "files": [str(p) for p in paths]}
    return Outcome(int(record["exit_code"]), out, paths, summary)


def _public_config(run: _Run) -> dict[str, Any]:
    """The resolved settings, as a configuration file that `--config` reads."""
    out = run.config.model_dump(mode="json", exclude={"sampler", "options", "prior"})
    return {
        **out,
        "prior": run.prior_facts["name"],
        "sampler": as_dict(run.sampler),
        run.domain.name: as_dict(run.options),
    }


def _resumable(config: RunConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    if config.prior is not None and Path(config.prior).is_file():
        values["prior"] = str(Path(config.prior).resolve())
    return values
