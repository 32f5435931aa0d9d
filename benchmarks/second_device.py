"""A second torch device, simulated in Python, to test code for GPUs without one.

    python benchmarks/second_device.py WAITS.json workflow/scripts/train_policy.py … --device apart

Runs a program with a torch device ``apart`` whose tensors are separate from the CPU's, as a GPU's are:
using both in one operation is an error, as with CUDA, and values move only by copies. The arithmetic
runs on the CPU, so results must be equal except for the order of sums. Writes how often the program
synchronised with the device, by line of this repository's code. ``operations.py`` counts the operations
on the device.
"""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "apart"
OURS = Path(__file__).resolve().parents[1]
#: operations that synchronise: the host needs the size or value of the result
WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_dim",
    "unique_consecutive",
}
#: operations for which CUDA accepts an index on the CPU and copies it
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Apart(torch.Tensor):
    """A tensor of the device; ``here`` holds its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Apart:
        made: Apart = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Apart({self.here!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def storage(self) -> Any:
        return self.here.storage()

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(function, args, kwargs or {})


class Device(TorchDispatchMode):
    """While active, operations that only have the device as an argument also go to :func:`run`."""

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Tensors(TorchFunctionMode):
    """``torch.tensor(…, device=…)`` as a copy from the CPU, since a device written in Python cannot create it directly."""

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function is not torch.tensor or device is None or torch.device(device).type != NAME:
            return function(*args, **kwargs)
        return function(*args, **{**kwargs, "device": "cpu"}).to(device)


class Module:
    """The interface that torch requires of a device's module."""

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    is_in_bad_fork = _is_in_bad_fork = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    manual_seed_all = staticmethod(lambda seed: None)
    get_device_name = staticmethod(lambda device=None: NAME)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


#: called with each operation on the device, its arguments and its result
listeners: list[Callable[..., None]] = []
waits: Counter[str] = Counter()


def line_of_ours() -> str:
    """Line of this repository's code that called the current operation."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(OURS / "src") or path.is_relative_to(OURS / "workflow"):
            return f"{path.relative_to(OURS)}:{frame.lineno} {frame.line}"
    return "elsewhere"


def run(function: Any, args: Any, kwargs: Any) -> Any:
    """Run the operation on the values; the result is on the device of its arguments."""
    name = function.overloadpacket.__name__
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    apart = [x for x in tensors if isinstance(x, Apart)]
    there = bool(apart)
    device = kwargs.get("device")
    copies = name in ("_to_copy", "copy_")
    if device is not None:
        there = torch.device(device).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")} if there else kwargs
    elif name == "copy_":
        there = isinstance(args[0], Apart)
    if apart and not copies:
        self_is_here = name in INDEXED and not isinstance(args[0], Apart)
        mixed = [x for x in tensors if not isinstance(x, Apart) and x.dim()]
        if self_is_here or (mixed and name not in INDEXED):
            raise RuntimeError(f"{name}: tensors of the CPU and of {NAME} in one operation")
    if apart:
        mask = name in INDEXED and any(x.dtype is torch.bool for x in apart[1:])
        if name in WAITING or mask or (copies and not there):
            waits[f"{name} {line_of_ours()}"] += 1
    elif there and tensors and not kwargs.get("non_blocking") and name == "_to_copy":
        waits[f"{name} {line_of_ours()}"] += 1
    here = tree_map(lambda x: x.here if isinstance(x, Apart) else x, (args, kwargs))
    known = {id(x.here): x for x in apart}  # in-place operations return the same tensor
    result = function(*here[0], **here[1])
    for listener in listeners if there or apart else ():
        listener(function, *here, result)
    if not there:
        return result

    def put_there(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else Apart(value)

    return tree_map(put_there, result)


@contextmanager
def plugged_in() -> Iterator[None]:
    """Register the device for the rest of the process; it is active inside the block."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    # not supported by a device written in Python
    torch.inference_mode = lambda mode=True: (  # type: ignore[misc,assignment]
        torch.no_grad() if mode else torch.enable_grad()  # type: ignore[return-value]
    )
    # .to(device) keeps tied parameters tied, as with CUDA
    torch.__future__.set_swap_module_params_on_conversion(True)
    with Device(), Tensors():
        yield


def main() -> None:
    counts, program, *words = sys.argv[1:]
    sys.argv = [program, *words]
    sys.path[0] = str(Path(program).parent)
    with plugged_in():
        runpy.run_path(program, run_name="__main__")
    Path(counts).write_text(json.dumps(waits))


if __name__ == "__main__":
    main()
