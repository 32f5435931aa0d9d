"""A program of the workflow in a process that has its libraries in memory.

A fresh interpreter takes seconds to import torch and transformers. Multiprocessing's fork server
imports them once; each program is a fork of it. For tests of what a program does, not of how its
interpreter starts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch",
        "numpy",
        "safetensors.torch",
        "transformers",
        "transformers.models.gpt_neo.modeling_gpt_neo",
        "transformers.models.bert.modeling_bert",
    ]
)


def _become(command: Sequence[str], environment: dict[str, str], folder: Path, stderr: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, os.devnull), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")


class Started:
    """Like ``subprocess.Popen`` with its standard error in a pipe, for a Python program.

    Args:
        command: interpreter (not used), program and arguments.
        environment: environment of the program. PYTHONPATH is not read: the library is that of
            the tests.
        folder: its working directory.
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        self._stderr = tempfile.NamedTemporaryFile()  # noqa: SIM115 (read after the end)
        self._process = SERVER.Process(
            target=_become,
            args=(command[1:], environment, folder or Path.cwd(), self._stderr.name),
            daemon=True,
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = 600) -> str:
        """Standard error, when the program has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            raise AssertionError(f"did not end within {timeout} s")
        return Path(self._stderr.name).read_text(encoding="utf-8")
