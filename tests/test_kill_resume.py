"""A run killed at any moment and started again gives the samples of an uninterrupted one; signals have documented
codes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from sciinv.io.checkpoint import pack, unpack

SCRIPT = Path(__file__).with_name("tiny.py")
# a forked child of a process that has differentiated cannot differentiate: moment matching would fail here
ARGS = ["--samples", "6", "--chunk", "3", "--set", "start=noise", "--set", "anneal=6", "--set", "stationary=4"]
FORK = multiprocessing.get_context("fork")  # torch is imported already: a run costs a second, not five


class Run:
    """The command line in a child process of its own, whose output is kept in files."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path):
        self._files = [log.with_suffix(suffix) for suffix in (".stdout", ".stderr")]
        self._process = FORK.Process(target=self._main, args=(words, env))
        self._process.start()

    def _main(self, words: list[str], env: dict[str, str]) -> None:
        from sciinv.cli import main

        os.environ.update(env)
        for number, path in enumerate(self._files, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)
        tiny.install()
        code = main(words)
        sys.stdout.flush()
        os._exit(code)

    @property
    def over(self) -> bool:
        return self._process.exitcode is not None

    def send(self, number: int) -> None:
        if not self.over:
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 300.0) -> int:
        self._process.join(seconds)
        assert self.over, "the run did not end"
        return self._process.exitcode

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()


def start(file: Path, out: Path, *more: str, delay: float = 0.0, every: float = 0.0) -> Run:
    env = {"TINY_DELAY": str(delay), "SCIINV_CHECKPOINT_SECONDS": str(every)}
    words = ["reconstruct", str(file), "-o", str(out), "--json", "--progress", "none", *ARGS, *more]
    return Run(words, env, out.with_name(f"{out.name}-{random.random()}"))


def run(file: Path, out: Path, *more: str) -> dict:
    process = start(file, out, *more)
    assert process.wait() == 0, process.stderr
    assert "Traceback" not in process.stderr
    return json.loads(process.stdout)


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run did not get there"
        time.sleep(0.005)


def whole(folder: Path) -> list[str]:
    """Visible files that are not whole."""
    bad = []
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            if path.suffix == ".json":
                json.loads(data)
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in data.decode().splitlines()]
            elif path.suffix in (".safetensors", ".checkpoint", ".item"):
                unpack(data)
            elif path.suffix == ".html":
                assert data.rstrip().endswith(b"</html>")
            else:
                assert data
        except Exception as error:
            bad.append(f"{path.name}: {error!r}")
    return bad


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The input and the hash of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    file = tiny.make(folder / "a.tny")
    return file, run(file, folder / "out")["samples_sha256"]


def test_sigkill_at_random_moments(reference, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    file, expected = reference
    chance, kills = random.Random(7), 50 if pytestconfig.getoption("--run-slow") else 6
    spent, number, interrupted = 0, 0, 0
    while spent < kills:
        out = tmp_path / f"out{number}"
        number += 1
        # several kills hit one run, so that resumed runs are killed as well
        for _ in range(chance.randint(1, 3)):
            process = start(file, out, delay=0.005)
            time.sleep(chance.uniform(0.0, 3.0))
            interrupted += not process.over
            process.send(signal.SIGKILL)
            process.wait()
            spent += 1
            assert whole(out) == []
        assert run(file, out)["samples_sha256"] == expected
        assert not list(out.rglob("*.partial"))
        assert (out / "SUCCESS").exists() and not (out / "work").exists() and not (out / ".lock").exists()
    assert interrupted > 0


def test_resume_continues_inside_a_chunk_and_does_not_start_again(reference, tmp_path: Path) -> None:
    file, expected = reference
    out, tampered = tmp_path / "out", tmp_path / "tampered"
    process = start(file, out, delay=0.02)
    second = out / "work" / "unfinished" / "chunk-0-3-3.checkpoint"
    wait_for(second.exists)
    process.send(signal.SIGKILL)
    process.wait()
    before = (out / "work" / "i0000_c000.safetensors").stat().st_mtime_ns
    shutil.copytree(out, tampered)
    tensors, note = unpack(second.read_bytes())
    tensors["x"] += 1.0  # a resumed run that ignored the checkpoint would not see this
    (tampered / second.relative_to(out)).write_bytes(pack(tensors, note))
    assert run(file, tampered)["samples_sha256"] != expected
    assert run(file, out, "--keep-work")["samples_sha256"] == expected
    assert (out / "work" / "i0000_c000.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["truncated", "of another plan", "noise"])
def test_a_useless_checkpoint_is_not_used(reference, tmp_path: Path, damage: str) -> None:
    file, expected = reference
    out = tmp_path / "out"
    process = start(file, out, delay=0.02)
    first = out / "work" / "unfinished" / "chunk-0-0-3.checkpoint"
    wait_for(first.exists)
    process.send(signal.SIGKILL)
    process.wait()
    data = first.read_bytes()
    tensors, note = unpack(data)
    tensors["x"] += 1.0
    bad = {"truncated": data[:-9], "of another plan": pack(tensors, {**note, "plan": "0"}), "noise": b"\xff" * 100}
    first.write_bytes(bad[damage])
    assert run(file, out)["samples_sha256"] == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_resume_verb_goes_on(reference, tmp_path: Path, number: int, code: int) -> None:
    file, expected = reference
    out = tmp_path / "out"
    process = start(file, out, delay=0.05, every=1000.0)  # no checkpoint by the clock: the signal must save
    wait_for((out / "work" / "i0000.item").exists)
    time.sleep(0.5)
    process.send(number)
    assert process.wait() == code, process.stderr
    assert "Traceback" not in process.stderr
    assert list((out / "work" / "unfinished").glob("*.checkpoint"))
    assert not any((out / marker).exists() for marker in ("SUCCESS", "PARTIAL", "FAILED"))
    done = Run(["resume", str(out), "--json"], {}, tmp_path / "resume")
    assert done.wait() == 0, done.stderr
    assert json.loads(done.stdout)["samples_sha256"] == expected


def test_a_second_interrupt_stops_at_once(reference, tmp_path: Path) -> None:
    file, _ = reference
    process = start(file, tmp_path / "out", delay=1000.0)
    wait_for((tmp_path / "out" / "work" / "i0000.item").exists)
    time.sleep(0.5)
    for _ in range(2):
        process.send(signal.SIGINT)
        time.sleep(0.3)
    assert process.wait() == 130, process.stderr


def test_two_processes_do_not_share_an_output_folder(reference, tmp_path: Path) -> None:
    file, _ = reference
    out = tmp_path / "out"
    first = start(file, out, delay=1000.0)
    wait_for((out / "work" / "i0000.item").exists)
    second = start(file, out)
    assert second.wait() == 2 and "another process" in second.stderr
    first.send(signal.SIGKILL)
    first.wait()


def test_the_real_command_ends_with_the_exit_code_of_the_signal(reference, tmp_path: Path) -> None:
    file, _ = reference
    out = tmp_path / "out"
    env = {**os.environ, "TINY_DELAY": "0.05", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(SCRIPT), "reconstruct", str(file), "-o", str(out), *ARGS]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    wait_for((out / "work" / "i0000.item").exists)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr and "resume" in stderr
