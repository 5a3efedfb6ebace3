"""The rules of the house that a parser can check, each with a control that a broken file is caught.

`sciinv` never imports a domain, domains never import each other, samplers import neither a domain nor ``io``, ``cli``,
``report``; nothing draws from a global generator; nothing prints; no file has more than 400 lines; ``sciinv --help`` is
quick because it does not import torch.
"""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
# what numpy.random offers without a hidden global state
NUMPY_OK = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
# torch functions that draw from the global generator unless they are given one
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
TORCH_DRAWS |= {"rand_like", "randn_like", "randint_like"}
TORCH_GLOBAL = {"manual_seed", "seed", "set_rng_state", "get_rng_state", "default_generator", "initial_seed"}
IN_PLACE = {"normal_", "uniform_", "exponential_", "bernoulli_", "random_", "cauchy_", "geometric_", "log_normal_"}


def sources(*folders: str) -> list[Path]:
    """Python files of the named folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name under which a file is imported."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "operators":
        parts = parts[2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, name: str, is_package: bool = False) -> set[str]:
    """Dotted names of everything a module imports anywhere in its body, relative imports resolved."""
    found: set[str] = set()
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def forbidden(source: str, name: str, is_package: bool = False) -> set[str]:
    """Imports that break the dependency rule for the module called ``name``."""
    found, top = imports(source, name, is_package), name.split(".")[0]
    bad = {i for i in found if re.match(r"sciinv_\w+", i) and i.split(".")[0] != top}
    if name.startswith("sciinv.samplers"):
        bad |= {i for i in found if re.match(r"sciinv\.(io|cli|report|plugins)(\.|$)", i)}
    return bad


def global_draws(source: str) -> list[str]:
    """Calls that draw from, or touch, a global random generator."""
    bad = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module in ("random", "numpy.random", "torch.random")):
            bad += [f"from {node.module} import {a.name}" for a in node.names if a.name not in NUMPY_OK]
        if isinstance(node, ast.Import):
            bad += [f"import {a.name}" for a in node.names if a.name == "random"]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call, name = ast.unparse(node.func), node.func.attr
        given = any(k.arg == "generator" for k in node.keywords)
        if re.fullmatch(r"(np|numpy)\.random\.\w+", call) and name not in NUMPY_OK:
            bad.append(call)
        elif re.match(r"torch\.(\w+\.)*\w+$", call) and (name in TORCH_GLOBAL or (name in TORCH_DRAWS and not given)):
            bad.append(call)
        elif name in IN_PLACE and not given and not re.match(r"(nn|torch\.nn|init)\.", call):
            bad.append(call)
        elif re.match(r"(torch\.)?nn\.init\.(?!zeros_|ones_|constant_|eye_|dirac_)", call) and not given:
            bad.append(call)
    return bad


def prints(source: str) -> list[int]:
    """Lines that call the built-in ``print``."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def each(*folders: str) -> Iterator[tuple[Path, str]]:
    for path in sources(*folders):
        yield path, path.read_text()


def test_imports_follow_the_rule() -> None:
    bad = {
        str(path.relative_to(ROOT)): found
        for path, text in each("sciinv", "operators")
        if (found := forbidden(text, module_name(path), path.name == "__init__.py"))
    }
    assert not bad


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sciinv.cli", "import sciinv_mri"),
        ("sciinv.report.page", "def f():\n    from sciinv_mri.io import fastmri"),
        ("sciinv.cli", "importlib.import_module('sciinv_mri')"),
        ("sciinv_ct.geometry", "from sciinv_mri import sense"),
        ("sciinv.samplers.exact.pnpdm", "from sciinv.io import checkpoint"),
        ("sciinv.samplers.base", "import sciinv.report.html"),
        ("sciinv.samplers.base", "from ..io import checkpoint"),
        ("sciinv.samplers.base", "from sciinv import cli"),
        ("sciinv.samplers.base", "from .. import io"),
    ],
)
def test_broken_imports_are_caught(name: str, line: str) -> None:
    assert forbidden(line, name)
    assert not forbidden("import torch\nfrom sciinv.operator import Operator\nfrom sciinv import errors", name)


def test_no_global_randomness() -> None:
    bad = {str(p.relative_to(ROOT)): found for p, text in each("sciinv", "operators") if (found := global_draws(text))}
    assert not bad


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "torch.randn(3)",
        "torch.rand_like(x)",
        "np.random.seed(0)",
        "numpy.random.normal(size=3)",
        "x.normal_()",
        "from numpy.random import randn",
        "import random",
        "nn.init.kaiming_normal_(w)",
        "torch.random.manual_seed(1)",
    ],
)
def test_global_randomness_is_caught(line: str) -> None:
    assert global_draws(line)


def test_own_generators_are_allowed() -> None:
    assert not global_draws("np.random.default_rng(0).normal()\ntorch.randn(3, generator=g)\nx.normal_(generator=g)")
    assert not global_draws("nn.init.zeros_(w)\ntorch.Generator('cpu').manual_seed(0)\nrng.normal((3,))")


def test_library_code_does_not_print() -> None:
    bad = {str(p.relative_to(ROOT)): found for p, text in each("sciinv", "operators") if (found := prints(text))}
    assert not bad
    assert prints("def f():\n    print('x')") == [2]
    assert not prints("console.print('x')")


def test_no_file_is_long() -> None:
    files = [*sources("sciinv", "operators", "tests", "benchmarks", "examples"), ROOT / "bootstrap.py"]
    assert not {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES}


HELP = """
import sys
from sciinv.cli import main
sys.argv = ["sciinv", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in ("torch", "scipy", "h5py", "nibabel", "matplotlib", "sigpy", "numpy") if name in sys.modules]
sys.stderr.write("heavy: %s" % ",".join(heavy))
"""


def test_help_is_light_and_quick() -> None:
    # the suite is measured on busy machines: the best CPU time of three tries says what the code costs
    seconds, environment = [], dict(os.environ, COLUMNS="100")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "torch" not in done.stderr.split("heavy: ")[-1], done.stderr
        assert "reconstruct" in done.stdout
    assert min(seconds) < 0.4, seconds
