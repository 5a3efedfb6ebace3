"""A pretend GPU: run code on tensors that have a shape and a device but no data, and see every stray CPU tensor.

PyTorch's `FakeTensorMode` propagates shapes, dtypes and devices without computing. On a CUDA build the device is
``cuda``; a CPU build cannot differentiate fake ``cuda`` tensors (the process aborts in C++), so there a stand-in
device of PyTorch's Python backend is used, which follows the same rules. PyTorch counts devices at a process's first
backward pass, so the stand-in is registered when this module is imported.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sciinv.errors import Unsupported

T = TypeVar("T", bound=Tensor | nn.Module)


class FakeCuda:
    """Context manager inside which `put` moves tensors and modules to the pretend GPU.

    Attributes
    ----------
    device : its name.
    """

    def __init__(self) -> None:
        if DEVICE is None:
            raise Unsupported("the pretend GPU needs a CUDA build or PyTorch 2.9", found=torch.__version__)
        self.device = torch.device(DEVICE)
        self._mode, self._host = FakeTensorMode(), _HostReads()

    def __enter__(self) -> FakeCuda:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._mode)
        self._stack.enter_context(self._host)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def host_reads(self) -> int:
        """How often the host has waited for a value so far (``.item()``, ``bool(tensor)``)."""
        return self._host.count

    def put(self, thing: T) -> T:
        """A copy on the pretend GPU. Of a module, parameters and buffers move; any other tensor stays behind."""
        if isinstance(thing, Tensor):
            return self._blank(thing)  # type: ignore[return-value]
        moved: dict[int, Any] = {id(b): self._blank(b) for b in thing.buffers()}
        moved |= {id(p): nn.Parameter(self._blank(p), requires_grad=p.requires_grad) for p in thing.parameters()}
        # deepcopy takes what `moved` names and copies the rest, real tensors included, outside the fake mode
        with _disable_current_modes():
            return copy.deepcopy(thing, moved)

    def _blank(self, t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=self.device)

    def check(self, out: Tensor, what: str) -> None:
        """Raise `AssertionError` unless ``out`` is on the pretend GPU."""
        if out.device.type != self.device.type:
            raise AssertionError(f"{what}: input on a GPU, output on {out.device.type}")

    @contextlib.contextmanager
    def guard(self, what: str) -> Any:
        """Turn PyTorch's complaint about mixed devices into one about the code under test."""
        try:
            yield
        except AssertionError as error:
            if "FakeTensor" not in str(error):
                raise
            raise AssertionError(
                f"{what}: a tensor is kept outside buffers and parameters, so it stays on the CPU"
            ) from error
        except RuntimeError as error:
            if "device_ready_queues" in str(error):
                raise Unsupported(
                    "this process differentiated before the pretend GPU existed", hint="import sciinv.testing first"
                ) from error
            if "same device" not in str(error):
                raise
            raise AssertionError(f"{what}: a tensor is made on the CPU and mixed with GPU tensors ({error})") from error


class _HostReads(TorchDispatchMode):
    """Answer 1 to every value the host asks for, and count the questions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        return func(*args, **(kwargs or {}))


def _device() -> str | None:
    if torch.backends.cuda.is_built():
        return "cuda"
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        return None
    _setup_privateuseone_for_python_backend("fakecuda")
    return "fakecuda"


DEVICE = _device()
