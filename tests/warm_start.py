"""Programs of the workflow in processes that have its libraries in memory.

A fresh interpreter takes seconds to import torch and transformers. Here a server imports them once, and each
program is a fork of it. For tests of what a program does, not of how its interpreter starts: a program
that needs other values of variables that libraries read when they are imported needs its own interpreter.

``Started`` starts one program. ``interpreter`` is the path of an executable that takes Python's place on a
command line; Snakemake, started by it, starts its jobs by it too.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "numpy",
    "safetensors.torch",
    "transformers",
    "transformers.models.gpt_neo.modeling_gpt_neo",
    "transformers.models.bert.modeling_bert",
    "scipy.stats",
    "matplotlib.pyplot",
    "snakemake.cli",
)
NUMBER = struct.Struct("q")  # a length, a process id or an exit code

_folders: dict[tuple[str, ...], tempfile.TemporaryDirectory[str]] = {}  # of this process's servers


# ---- the side of the tests -----------------------------------------------------------------------


def _address(before: tuple[str, ...] = ()) -> str:
    """Socket of this process's server, which is started by the first call and ends with the process."""
    if before not in _folders:
        import subprocess

        _folders[before] = tempfile.TemporaryDirectory(prefix="tinycats-warm-")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        server = subprocess.Popen(
            [*before, sys.executable, __file__, "server", f"{_folders[before].name}/socket"],
            env={**environment, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")},
            stdin=subprocess.PIPE,  # its end is this process's end
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        atexit.register(server.kill)
    return f"{_folders[before].name}/socket"


def interpreter(*before: str) -> str:
    """Path of an executable that runs ``-m module`` or ``program.py`` as a fork of this process's server.

    ``before`` are words before the server's command, such as ``unshare --net``: what they take away, its
    forks do not have either.
    """
    address = _address(before)
    path = Path(address).with_name("python")
    if not path.exists():
        words = [sys.executable, "-SE", os.path.abspath(__file__), "client", address, str(path)]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return str(path)


class Started:
    """Like ``subprocess.Popen`` with its standard error in a pipe, for a Python program.

    The program is a child of the server; it is killed when this process ends.

    Args:
        command: interpreter (only its path is used, as ``sys.executable``), program and arguments.
        environment: environment of the program, PYTHONPATH included.
        folder: its working directory.
        address: socket of the server, if not this process's own.
        streams: descriptors of its standard streams; without them, standard error is kept for
            ``wait`` and the others are empty.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None = None,
        address: str | None = None,
        streams: Sequence[int] = (),
    ) -> None:
        task = {"command": list(command), "environment": dict(environment)}
        data = json.dumps({**task, "folder": str(folder or Path.cwd())}).encode()
        self._stderr = None if streams else tempfile.TemporaryFile("w+b")  # noqa: SIM115 (read after the end)
        self._end = b""
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address or _address())
        null = os.open(os.devnull, os.O_RDWR)
        kept = [null, null, self._stderr.fileno()] if self._stderr else list(streams)
        socket.send_fds(self._server, [NUMBER.pack(len(data))], kept)
        os.close(null)
        self._server.sendall(data)
        (self.pid,) = NUMBER.unpack(_receive(self._server, NUMBER.size))

    @property
    def returncode(self) -> int | None:
        """Exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._read(0)

    def poll(self) -> int | None:
        return self.returncode

    def _read(self, timeout: float) -> int | None:
        if not self._end and select.select([self._server], [], [], timeout)[0]:
            self._end = _receive(self._server, NUMBER.size)
        return NUMBER.unpack(self._end)[0] if self._end else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = 600) -> str:
        """Standard error, when the program has ended."""
        if self._read(timeout) is None:
            self.send_signal(signal.SIGKILL)
            raise AssertionError(f"did not end within {timeout} s")
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return self._stderr.read().decode()


def _client(address: str, path: str, *words: str) -> int:
    """A process that stands for a program: it passes signals on and ends as the program ends."""
    command = [path, *words]
    program = Started(command, os.environ, address=address, streams=[0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: program.send_signal(number))
    program.wait(timeout=1e6)
    code = program.returncode
    assert code is not None
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


# ---- the side of the server ----------------------------------------------------------------------


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the server of programs has ended")
        data += more
    return data


def _serve(address: str) -> tuple[dict[str, Any], list[int]]:
    """Returns in each new fork only: what to run, and its standard streams."""
    for name in LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):  # the stages' programs run without Snakemake
            importlib.import_module(name)
    gc.freeze()  # what all forks share is not looked through again
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers leave nothing behind
    while True:
        if 0 in select.select([0, listener.fileno()], [], [])[0]:
            os._exit(0)  # the process of the tests has ended
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Keep a program: report its end, and kill it when whoever started it has ended."""
    head, streams, *_ = socket.recv_fds(connection, NUMBER.size, 3)
    task = json.loads(_receive(connection, *NUMBER.unpack(head)))
    pid = os.fork()
    if pid == 0:
        connection.close()
        return task, streams
    for stream in streams:
        os.close(stream)
    connection.sendall(NUMBER.pack(pid))
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if select.select([connection], [], [], 0.005)[0]:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
    try:
        connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
    finally:
        os._exit(0)


def _become(task: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Run a program with its folder, environment, streams and arguments, as ``python`` would, and end."""
    import runpy
    import threading
    import traceback

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.executable, program, *arguments = task["command"]
    module = arguments.pop(0) if program == "-m" else None
    sys.argv = [module or program, *arguments]
    of_program = os.getcwd() if module else os.path.dirname(os.path.abspath(program))
    more = os.environ.get("PYTHONPATH", "")
    sys.path[0:1] = [of_program, *filter(None, more.split(os.pathsep))]
    ended_by, code = 0, 0
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        traceback.print_exc()
        code = 1
        ended_by = signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0
    # not sys.exit: to take the libraries apart takes as long as to import them
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if ended_by:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        sys.exit(_client(*sys.argv[2:]))
    _become(*_serve(sys.argv[2]))
