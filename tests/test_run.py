"""Runs of the tiny domain inside this process: results, resumption rules, failing items, refusals, chunk invariance."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from sciinv.cli import main
from sciinv.io.checkpoint import unpack
from sciinv.io.runfolder import RunFolder
from sciinv.run import guard

# some of these runs are forked children, which cannot differentiate: they start from noise
FAST = ["--samples", "4", "--set", "start=noise", "--set", "anneal=3", "--set", "stationary=4", "--progress", "none"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.install(monkeypatch)
    return tiny.make(tmp_path / "a.tny")


def dead() -> int:
    """The number of a process that is gone."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def go(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    found = main(["reconstruct", *FAST, *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    assert "Traceback" not in err
    return json.loads(out) if out else {"stderr": err}


def test_a_wrong_prior_is_told_before_the_data_are_read(file: Path, tmp_path: Path, capsys) -> None:
    file.write_bytes(file.read_bytes()[:60])
    damaged = go(capsys, file, "-o", tmp_path / "a", code=3)["stderr"]
    assert "gone.safetensors" in go(capsys, file, "-o", tmp_path / "b", "--prior", "gone.safetensors", code=3)["stderr"]
    assert "gone.safetensors" not in damaged


def test_results_are_in_the_units_of_the_file(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    summary = go(
        capsys, file, "-o", out, "--samples", "12", "--keep-work", "--set", "anneal=12", "--set", "start=noise"
    )
    assert summary["status"] == "SUCCESS" and (out / "SUCCESS").exists()
    data = tiny.read(file)
    mean = np.frombuffer((out / "mean1.bin").read_bytes(), np.complex64).reshape(tiny.SIZE, tiny.SIZE)
    truth = 2j * data.truth[1]  # scale 2 and phase i are put back
    assert np.linalg.norm(mean - truth) < 0.5 * np.linalg.norm(truth)
    for item in summary["items"]:
        assert 0.8 < item["chi2_per_dof"] < 1.2
        assert item["samples"] == 12 and item["rhat_max"] > 0 and 0 < item["coverage"] <= 1
    tensors, note = unpack((out / "work" / "i0001.item").read_bytes())
    assert note["item"] == 1 and tensors["baseline"].shape == (tiny.SIZE, tiny.SIZE)


def test_outputs_are_complete_and_provenance_repeats_the_run(file: Path, tmp_path: Path, capsys) -> None:
    first = go(capsys, file, "-o", tmp_path / "one")
    record = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert record["samples_sha256"] == first["samples_sha256"] and record["exit_code"] == 0
    assert {"argv", "config", "input", "prior", "seed", "environment", "started", "ended", "items", "citations"} <= set(
        record
    )
    assert all((tmp_path / "one" / name).is_file() for name in record["outputs"])
    assert not (tmp_path / "one" / "work").exists()
    # the settings file alone gives the same samples
    config = tmp_path / "one" / "config.yaml"
    found = main(["reconstruct", str(file), "-o", str(tmp_path / "two"), "--config", str(config), "--json", "-q"])
    out, err = capsys.readouterr()
    assert found == 0, err
    assert json.loads(out)["samples_sha256"] == first["samples_sha256"]
    assert (
        main(
            ["reconstruct", str(file), "-o", str(tmp_path / "three"), "--config", str(config), "--seed", "1", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["samples_sha256"] != first["samples_sha256"]


def samples(out: Path) -> torch.Tensor:
    paths = sorted((out / "work").glob("*.safetensors"))
    return torch.cat([unpack(p.read_bytes())[0]["x"] for p in paths])


def test_the_chunk_does_not_change_the_samples(file: Path, tmp_path: Path, capsys) -> None:
    found = []
    for chunk in ("1", "4", "8"):
        go(capsys, file, "-o", tmp_path / chunk, "--samples", "8", "--chunk", chunk, "--keep-work")
        found.append(samples(tmp_path / chunk))
    scale = found[0].abs().max()
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= 1e-5 * scale


def test_a_complete_run_is_not_computed_again(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    first = go(capsys, file, "-o", out)
    before = (out / "report.html").stat().st_mtime_ns
    monkeypatch.setattr("sciinv.run.flow.execute", None)  # would fail if it were called
    assert go(capsys, file, "-o", out)["samples_sha256"] == first["samples_sha256"]
    assert (out / "report.html").stat().st_mtime_ns == before
    monkeypatch.undo()
    tiny.install(monkeypatch)
    (out / "report.html").unlink()
    assert go(capsys, file, "-o", out)["samples_sha256"] == first["samples_sha256"]
    assert (out / "report.html").exists()


def test_another_plan_is_refused_unless_overwritten(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    first = go(capsys, file, "-o", out)
    (out / "notes.txt").write_text("mine")
    error = go(capsys, file, "-o", out, "--seed", "7", code=2)["stderr"]
    assert "another plan" in error and "seed=1905" in error and "seed=7" in error and "--overwrite" in error
    second = go(capsys, file, "-o", out, "--seed", "7", "--overwrite")
    assert second["samples_sha256"] != first["samples_sha256"]
    assert (out / "notes.txt").read_text() == "mine"  # only the former run's files were replaced


def test_a_folder_with_other_things_is_refused(file: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert "not empty" in go(capsys, file, "-o", tmp_path / "out", code=2)["stderr"]
    assert "cannot be written" in go(capsys, file, "-o", file / "out", code=6)["stderr"]


def test_a_linked_work_folder_is_refused(file: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "work").symlink_to(tmp_path / "elsewhere")
    assert "link" in go(capsys, file, "-o", tmp_path / "out", "--overwrite", code=2)["stderr"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_failing_item_leaves_the_others(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TINY_UNUSABLE", "0")
    out = tmp_path / "out"
    summary = go(capsys, file, "-o", out, code=5)
    assert [item["status"] for item in summary["items"]] == ["failed", "done"]
    assert "no signal" in summary["items"][0]["message"]
    assert (out / "PARTIAL").exists() and (out / "mean1.bin").exists() and not (out / "mean0.bin").exists()
    # once the cause is gone the same command completes the run
    monkeypatch.delenv("TINY_UNUSABLE")
    whole = go(capsys, file, "-o", out)
    assert whole["status"] == "SUCCESS" and not (out / "PARTIAL").exists()
    assert whole["samples_sha256"] == go(capsys, file, "-o", tmp_path / "fresh")["samples_sha256"]


@pytest.mark.parametrize(("env", "value", "code"), [("TINY_UNUSABLE", "0,1", 3), ("TINY_BAD", "99", 7)])
def test_nothing_works(file: Path, tmp_path: Path, capsys, monkeypatch, env: str, value: str, code: int) -> None:
    monkeypatch.setenv(env, value)
    summary = go(capsys, file, "-o", tmp_path / "out", code=code)
    assert summary["status"] == "FAILED" and (tmp_path / "out" / "FAILED").exists()


def test_samples_that_diverge_are_left_out_and_reported(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TINY_BAD", "1")  # the first of each chunk
    summary = go(capsys, file, "-o", tmp_path / "out", "--chunk", "2", code=5)
    assert [item["failed_samples"] for item in summary["items"]] == [2, 2]
    assert [item["samples"] for item in summary["items"]] == [2, 2]
    assert np.isfinite(np.frombuffer((tmp_path / "out" / "mean0.bin").read_bytes(), np.complex64)).all()


def test_a_bug_is_one_line_with_the_traceback_in_the_log(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("sciinv.run.outputs.save_report", broken)
    error = go(capsys, file, "-o", tmp_path / "out", code=1)["stderr"]
    assert "unexpected ZeroDivisionError" in error
    assert "Traceback" in (tmp_path / "out" / "log.jsonl").read_text()
    main(["reconstruct", str(file), "-o", str(tmp_path / "out"), *FAST, "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_exit_6_and_leaves_whole_files(file: Path, tmp_path: Path) -> None:
    out, pid = tmp_path / "out", os.fork()
    if pid == 0:  # a file-size limit cannot be raised again, so a child bears it
        os.dup2(os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        os._exit(main(["reconstruct", str(file), "-o", str(out), *FAST, "-q"]))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 6, (tmp_path / "err").read_text()
    assert not list(out.rglob("*.partial")) and not (out / "SUCCESS").exists()
    assert not (out / "report.html").exists()  # it is larger than the limit
    assert main(["reconstruct", str(file), "-o", str(out), *FAST, "-q"]) == 0


def test_absurd_sizes_are_refused_early(file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(guard, "available", lambda device: 10_000_000)
    error = go(capsys, file, "-o", tmp_path / "one", "--samples", "1000", "--chunk", "1000", code=6)["stderr"]
    assert "do not fit in memory at once" in error and "Try: --chunk 4" in error
    error = go(capsys, file, "-o", tmp_path / "two", "--samples", "1000", code=6)["stderr"]
    assert "do not fit in memory together" in error and "--samples" in error
    assert not list((tmp_path / "two" / "work").glob("*.safetensors"))
    sampling, reducing = guard.need((320, 320), 32, 8, 16)
    assert 0.1e9 < sampling < 2e9 and 0.1e9 < reducing < 4e9


def test_a_stale_lock_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    from sciinv.errors import UsageError

    pid = dead()
    import socket

    (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "born": "1"}))
    with RunFolder(tmp_path, {"a": 1}):
        with pytest.raises(UsageError, match="another process"), RunFolder(tmp_path, {"a": 1}):
            pass
    assert not (tmp_path / ".lock").exists()
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "another-machine", "born": "1"}))
    with pytest.raises(UsageError, match="another-machine"), RunFolder(tmp_path, {"a": 1}):
        pass


def test_a_stale_lock_is_looked_at_and_replaced_by_one_process_at_a_time(tmp_path: Path) -> None:
    """While another process of this host is at it, a taker waits: the race below shows only now and then."""
    import fcntl
    import multiprocessing
    import socket

    pid = dead()
    (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "born": "1"}))
    context = multiprocessing.get_context("fork")
    inside = context.Event()

    def take() -> None:
        with RunFolder(tmp_path, {"a": 1}):
            inside.set()

    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    worker = context.Process(target=take)
    worker.start()
    assert not inside.wait(0.5)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == pid
    fcntl.flock(handle, fcntl.LOCK_UN)
    assert inside.wait(20)
    worker.join()
    os.close(handle)


def test_two_takers_of_a_stale_lock_do_not_both_win(tmp_path: Path) -> None:
    import multiprocessing
    import socket

    pid = dead()
    context = multiprocessing.get_context("fork")
    for _ in range(20):
        (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "born": "1"}))
        gate, held = context.Barrier(4), context.Value("i", 0)

        def take(gate=gate, held=held) -> None:
            gate.wait()
            try:
                with RunFolder(tmp_path, {"a": 1}):
                    with held.get_lock():
                        held.value += 1
                    gate.wait()
            except Exception:
                gate.wait()

        workers = [context.Process(target=take) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert held.value == 1


@pytest.mark.parametrize("writer", ["write_json", "_make"])
def test_a_folder_that_a_kill_left_while_it_was_made_is_taken_up_again(writer, tmp_path, monkeypatch) -> None:
    from sciinv.io import runfolder

    out, real, calls = tmp_path / "out", getattr(runfolder, writer), []

    def die(*words):
        calls.append(words)
        if writer == "write_json" or len(calls) == 2:  # the first folder is the output folder itself
            raise KeyboardInterrupt
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(runfolder, writer, die)
        with pytest.raises(KeyboardInterrupt), RunFolder(out, {"a": 1}):
            pass
    with RunFolder(out, {"a": 1}) as again:
        assert again.work.is_dir() and runfolder.read_plan(out) == {"a": 1}
