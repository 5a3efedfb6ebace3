"""From a plan to finished tasks on disk: a file of samples and a note each, written atomically; finished ones are kept.

Disk is the truth: a task is done when its note names this plan and the hash of its samples matches. An unfinished
task continues from the loop's checkpoint, so that a killed run gives the samples of an uninterrupted one bit for bit.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinv.errors import InputError, MismatchError, NumericalError, SciinvError
from sciinv.io.atomic import write_bytes, write_json
from sciinv.io.checkpoint import FileStore, pack, unpack
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.progress import Log
from sciinv.run import guard
from sciinv.run.plan import Task
from sciinv.run.signals import Stop
from sciinv.samplers import Sampler, sample
from sciinv.samplers.base import check_requirements

TRACED = 4096  # numbers a sample and step beyond which a diagnostic stays in memory only


@dc.dataclass(frozen=True)
class Work:
    """What every task of a run shares."""

    folder: Path
    checkpoints: Path
    plan: str
    sampler: Sampler
    prior: Prior
    build: Callable[[int], Problem]
    baseline: Callable[[Problem], tuple[str, Tensor] | None]
    seed: int
    device: str
    checkpoint_seconds: float
    chunk: int


def execute(work: Work, todo: Sequence[Task], items: int, samples: int, log: Log, stop: Stop) -> None:
    """Run what is not finished; a failing item is noted and the others go on."""
    store = FileStore(work.checkpoints, work.plan)
    left = [task for task in todo if not finished(work, task)]
    log.event("tasks", total=len(todo), left=len(left))
    if len(left) < len(todo):
        log.info(f"resume  {len(todo) - len(left)} of {len(todo)} tasks are finished already")
    at: int | None = None
    problem: Problem | None = None
    failure: SciinvError | None = None
    stop.gentle = True
    try:
        with log.bar(len(todo), len(todo) - len(left)) as bar:
            for task in left:
                stop.check()
                if task.item != at:
                    at, problem, failure = task.item, None, None
                    try:
                        problem = _problem(work, task.item, log)
                        particles = len(task.keys) if work.sampler.population else 0
                        guard.check(
                            problem.domain.shape, samples, min(work.chunk, len(task.keys)), items, work.device,
                            work.folder, particles, problem.operator.codomain.size,
                        )  # fmt: skip
                    except (InputError, NumericalError) as error:
                        failure = error
                if problem is not None:
                    try:
                        _run(work, task, problem, store, stop, bar.step)
                    except NumericalError as error:
                        failure = error
                stop.check()
                if failure is not None:
                    _fail(work, task, failure)
                    log.warn(f"item {task.item}: {failure}")
                store.clear()
                bar.finished()
    finally:
        stop.gentle = False


def finished(work: Work, task: Task) -> bool:
    """Whether the task's samples are on disk and intact."""
    note = note_of(work.folder, task)
    if note is None or note.get("plan") != work.plan or note.get("status") != "done":
        return False
    try:
        data = (work.folder / f"{task.name}.safetensors").read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data).hexdigest() == note.get("sha256")


def note_of(folder: Path, task: Task) -> dict[str, Any] | None:
    """The note of a task, if there is a readable one."""
    try:
        value = json.loads((folder / f"{task.name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def load_tensors(folder: Path, task: Task) -> dict[str, Tensor]:
    """The samples ``x``, ``failed``, ``chi2``, ``trace.*`` and, if weighted, ``log_w`` of a finished task."""
    path = folder / f"{task.name}.safetensors"
    return unpack(path.read_bytes(), where=path.name)[0]


def load_item(folder: Path, item: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and values of an item's problem, as `_problem` left them."""
    path = folder / f"i{item:04d}.item"
    return unpack(path.read_bytes(), where=path.name)


def _problem(work: Work, item: int, log: Log) -> Problem:
    """Build the problem of an item on the device and keep what the reduction needs of it."""
    start = time.process_time()
    problem = work.build(item)
    seconds = time.process_time() - start
    for warning in problem.meta.get("warnings", ()):
        log.warn(f"item {item}: {warning}")
    # moved before anything is computed: an operator may keep a decomposition, and that would stay where it was made
    place = work.device
    moved = dc.replace(
        problem, y=problem.y.to(place), operator=problem.operator.to(place), noise=problem.noise.to(place)
    )
    tensors, values = _split(problem.meta)
    found = work.baseline(moved)
    if found is not None:
        values["baseline_name"], tensors["baseline"] = found
    values |= {"n_data": problem.n_data, "prepare_cpu_seconds": round(seconds, 3)}
    write_bytes(work.folder / f"i{item:04d}.item", pack(tensors, values))
    log.detail(f"item {item}: prepared in {seconds:.1f} s of CPU")
    check_requirements(work.sampler, moved)
    return moved


def _run(
    work: Work, task: Task, problem: Problem, store: FileStore, stop: Stop, step: Callable[[int, int], None]
) -> None:
    prior = _bound(work.prior, problem)

    def on_step(done: int, total: int, info: Mapping[str, Tensor]) -> bool:
        step(done, total)
        return not stop.requested

    out = sample(
        work.sampler, problem, prior, list(task.keys), work.seed, chunk=work.chunk,
        store=store, checkpoint_every=work.checkpoint_seconds, on_step=on_step,
    )  # fmt: skip
    stop.check()  # the loop has saved its state and left early: what it returned is not a sample yet
    failed = out.failed if out.failed is not None else torch.zeros(len(out.x), dtype=torch.bool)
    with torch.no_grad():
        chi2 = torch.cat([problem.chi2(part) for part in out.x.split(work.chunk)])
    tensors = {"x": out.x, "failed": failed, "chi2": chi2}
    if out.log_w is not None:
        tensors["log_w"] = out.log_w
    for key, value in out.trace.items():
        if value[0, 0].numel() <= TRACED:
            tensors[f"trace.{key}"] = value
    data = pack(tensors, {"plan": work.plan, "task": task.name})
    write_bytes(work.folder / f"{task.name}.safetensors", data)
    note = {
        "plan": work.plan, "status": "done", "keys": [list(key) for key in task.keys],
        "sha256": hashlib.sha256(data).hexdigest(), "failed": int(failed.sum()), "device": work.device,
        "provenance": _values(out.provenance),
    }  # fmt: skip
    write_json(work.folder / f"{task.name}.json", note)


def _bound(prior: Prior, problem: Problem) -> Prior:
    """The prior at the size of the problem; a clear refusal when the two do not speak of the same image."""
    bound = prior.at(tuple(problem.domain.shape[-(len(prior.space.shape) - 1) :]))
    state = bound.to_physical.codomain
    if state.shape != problem.domain.shape or state.dtype.is_complex != problem.domain.dtype.is_complex:
        raise MismatchError(
            "the prior does not describe this kind of image",
            expected=f"{problem.domain.dtype} {tuple(problem.domain.shape)}",
            found=f"{state.dtype} {tuple(state.shape)}",
            hint="`sciinv priors list` shows what each prior was trained on",
        )
    return bound.to(problem.y.device)


def _fail(work: Work, task: Task, error: SciinvError) -> None:
    note = {
        "plan": work.plan,
        "status": "failed",
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "message": str(error),
    }
    write_json(work.folder / f"{task.name}.json", note)


def _split(meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    for key, value in meta.items():
        if isinstance(value, Tensor) and value.ndim > 0:
            tensors[key] = value
        elif isinstance(value, np.ndarray) and value.ndim > 0:
            tensors[key] = torch.from_numpy(np.ascontiguousarray(value))
    return tensors, _values({key: value for key, value in meta.items() if key not in tensors})


def _values(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready entries of a mapping: numbers (0-dim tensors too), text, and lists of them."""
    return {str(key): plain for key, value in mapping.items() if (plain := _value(value)) is not None}


def _value(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        if np.ndim(value) or np.iscomplexobj(value):
            return None
        value = value.item()
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_value(child) for child in value]
    return _values(value) if isinstance(value, Mapping) else None


def describe(error: BaseException) -> str:
    """A traceback as text, for the log file."""
    return "".join(traceback.format_exception(error))
