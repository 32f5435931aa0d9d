"""Which device and how many threads a job uses."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tinycats.program import UserError

if TYPE_CHECKING:
    from torch import Tensor, device

log = logging.getLogger(__name__)

_held: list[IO[str]] = []  # a lock lives as long as its file stays open


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, which is also how Slurm confines a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> int:
    """Give torch ``threads`` CPU threads (0: :func:`usable_cpus`); returns the number."""
    import torch

    threads = threads or usable_cpus()
    torch.set_num_threads(threads)
    return threads


def gpu_names() -> list[str]:
    """A name of each GPU that this process may use, the same for every process of the machine.

    Jobs see the same index for different GPUs (in Slurm's cgroups, or with CUDA_VISIBLE_DEVICES) and
    different indices for the same GPU, but one UUID. The UUID of a part of a GPU (MIG) is in
    CUDA_VISIBLE_DEVICES; torch may state the whole GPU's.
    """
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(visible) == count and all(name.startswith("MIG-") for name in visible):
        return visible
    return [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(count)]


def claim_gpu(names: Sequence[str], folder: Path | None = None) -> int:
    """Index of a GPU that no other job on this host has claimed, held until this process ends.

    A claim is an advisory lock on a file, which the system releases however the process ends, so
    a killed job leaves no claim behind. If all GPUs are claimed, the first is shared, with a
    warning, since the scheduler allowed this job to run.

    Args:
        names: of the GPUs, by index (:func:`gpu_names`).
        folder: of the claims.

    Raises:
        UserError: another user made the folder of claims or a claim, or put a link there.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"tinycats-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: made by another user, expected a folder of your own; remove it")
    for index, name in enumerate(names):
        path = folder / f"gpu-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"  # MIG-GPU-…/7/0
        try:  # never through a link, and without emptying the file
            file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path}: cannot be locked: {error.strerror}; remove it") from None
        if os.fstat(file.fileno()).st_uid != os.getuid():
            file.close()
            raise UserError(f"{path}: made by another user, expected your own; remove it")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        return index
    log.warning("all %d GPUs are claimed by other jobs; sharing the first", len(names))
    return 0


def choose_device(name: str) -> str:
    """Torch device for the config's ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UserError: the device is not available.
    """
    import torch

    if name in ("auto", "cuda"):
        if torch.cuda.is_available():
            return f"cuda:{claim_gpu(gpu_names())}"
        if name == "cuda":
            raise UserError(
                "device: cuda is not available to torch; set auto or cpu to use the CPU"
            )
        return "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"device: {name!r} cannot be used here: {first_line}") from error
    return name


def gpu_name(where: str | device) -> str:
    """GPU model name, such as ``NVIDIA H200``."""
    import torch

    name: str = torch.get_device_module(where).get_device_name(where)
    return name


def arithmetic(where: str | device) -> dict[str, str]:
    """What rounding depends on besides code and threads: library, processor and its instructions."""
    import torch

    cpu = torch.device(where).type == "cpu"
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": "cpu" if cpu else gpu_name(where),
        "cpu_capability": torch.backends.cpu.get_cpu_capability() if cpu else "",
    }


def suited(sizes: dict[str, int], where: device) -> int:
    """Block size for a device: ``cpu`` fits its cache, ``elsewhere`` is larger, for GPUs."""
    return sizes["cpu" if where.type == "cpu" else "elsewhere"]


def put(values: Tensor, where: device) -> Tensor:
    """Copy a CPU tensor to a device without synchronising."""
    return values.to(where, non_blocking=True)
