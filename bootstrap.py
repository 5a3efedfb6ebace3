#!/usr/bin/env python3
"""From a fresh clone to a result with nothing but Python: ``python3 bootstrap.py demo`` or ``... test``.

Makes ``.venv`` beside this file, installs PyTorch and then sciinv with pinned versions, and runs the demonstration or
the test suite. Arguments it does not know are handed on. A second call finds everything in place and starts at once.
The exit code is that of what it ran. Standard library only; the syntax is old enough for an old Python to reach the
message about itself.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "sciinv-stamp"
LOG = VENV / "bootstrap.log"
OLDEST = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DISK_GB = {"cpu": 3, "cuda": 9, "skip": 1}


class BootstrapError(Exception):
    """Something the user can put right; the text says how."""


def say(text):
    """One line to the user."""
    sys.stderr.write(f"[bootstrap] {text}\n")
    sys.stderr.flush()


def in_venv(name):
    """Path of a program inside the environment."""
    folder, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return str(VENV / folder / (name + suffix))


def check_machine(torch_choice):
    """Refuse early, with the remedy, what would fail late without one."""
    if sys.version_info < OLDEST:
        newer = [name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if shutil.which(name)]
        remedy = f"run it as: {newer[0]} bootstrap.py" if newer else "install a newer Python"
        raise BootstrapError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; {remedy}")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise BootstrapError(
            f"this Python cannot make environments (no ensurepip); on Debian and Ubuntu: apt install python3-venv (or "
            f"python3.{sys.version_info[1]}-venv)"
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if not STAMP.exists() and free < DISK_GB[torch_choice]:
        raise BootstrapError(f"{DISK_GB[torch_choice]} GB of free disk are needed at {ROOT}, {free:.1f} GB are left")


def reachable(url, seconds=3.0):
    """Whether a web address answers within a few seconds (proxies honoured); name look-ups cannot hang the caller."""
    answer = []

    def ask():
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answer.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answer)


def pip(what, *arguments):
    """Run pip inside the environment; its chatter goes to a log whose end is shown only when it fails."""
    say(what)
    command = [in_venv("python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with open(LOG, "ab") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=str(ROOT)).returncode
    if code:
        lines = LOG.read_text(errors="replace").splitlines()
        tail = [line for line in lines if not line.startswith("WARNING: Location")][-15:]
        raise BootstrapError(f"pip failed; the end of {LOG}:\n  " + "\n  ".join(tail))


def fingerprint(torch_choice):
    """Changes when anything that decides the installed packages changes."""
    digest = hashlib.sha256()
    for part in (ROOT / "pyproject.toml", ROOT / "constraints.txt"):
        digest.update(part.read_bytes())
    digest.update(f"{torch_choice} {sys.version_info[:2]} {ROOT}".encode())
    return digest.hexdigest()


def install(torch_choice):
    """Make or refresh the environment; nothing to do when the stamp fits."""
    want = fingerprint(torch_choice)
    if STAMP.exists() and STAMP.read_text() == want and os.path.exists(in_venv("sciinv")):
        return
    say(f"setting up {VENV} (about two minutes the first time)")
    make = [sys.executable, "-m", "venv", str(VENV)] + (["--system-site-packages"] if torch_choice == "skip" else [])
    if subprocess.run(make).returncode:
        raise BootstrapError(f"python -m venv failed; on Debian and Ubuntu: apt install python3-venv; or delete {VENV}")
    LOG.write_bytes(b"")
    pins = ROOT / "constraints.txt"
    if torch_choice == "skip":  # the torch that is already visible stays, so its pin must not apply
        kept = [line for line in pins.read_text().splitlines() if not line.startswith("torch==")]
        pins = VENV / "constraints-without-torch.txt"
        pins.write_text("\n".join(kept) + "\n")
    else:
        pin = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
        index = ["--extra-index-url", CPU_INDEX] if torch_choice == "cpu" and reachable(CPU_INDEX + "/torch/") else []
        # a step of its own: with an index that stops answering, every further package would wait for its retries
        pip(f"installing {pin} ({torch_choice})", *index, "-c", str(pins), pin)
    pip("installing sciinv and what it needs", "-c", str(pins), "-e", ".[test]")
    STAMP.write_text(want)


def run(command):
    """Run to the end and return the exit code as a shell would; Ctrl-C is the child's to handle."""
    child = subprocess.Popen(command, cwd=str(ROOT))
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description="Set up sciinv in .venv and run the demonstration or the tests.")
    parser.add_argument("what", choices=["demo", "test"])
    parser.add_argument(
        "--torch",
        choices=["cpu", "cuda", "skip"],
        default="cpu",
        help="cpu (default, 0.2 GB), cuda (from the package index, about 3 GB), skip (use the torch already installed)",
    )
    options, extra = parser.parse_known_args()
    start = time.monotonic()
    try:
        check_machine(options.torch)
        install(options.torch)
    except BootstrapError as error:
        say(f"error: {error}")
        return 6
    say(f"ready after {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    command = [in_venv("sciinv"), "demo"] if options.what == "demo" else [in_venv("python"), "-m", "pytest"]
    code = run(command + extra)
    say(f"{options.what} ended with exit code {code} after {time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
