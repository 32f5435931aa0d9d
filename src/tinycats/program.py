"""What every command-line program of the workflow shares: logging and one-line errors."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Callable

log = logging.getLogger("tinycats")
#: how torch says it, of a GPU and of the CPU
_SHORT_OF_MEMORY = re.compile("out of memory|can't allocate memory")


class UserError(Exception):
    """Something the user can mend: one line that names the key or file and what would be right."""


def summary(doc: str | None) -> str:
    """The first line of a program's docstring; empty where Python leaves docstrings out (-OO)."""
    return (doc or "").partition("\n")[0]


def run(main: Callable[[], None], network: bool = False) -> None:
    """Run a program: messages to stderr; an error the user can mend is one line and exit code 1.

    Such are a :class:`UserError`, the operating system's errors and too little memory. Any other
    exception is a bug and shows its traceback; with ``TINYCATS_TRACEBACK=1`` all of them do. Only
    a program that says ``network=True`` may reach a model hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # its transfers are not bounded
    if not network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    for noisy in (
        "httpx",
        "httpx2",
        "sentence_transformers",
        "transformers",
        "urllib3",
        "matplotlib",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a story's letters
    try:
        if sys.flags.optimize > 1:
            raise UserError(
                "Python runs without docstrings (-OO or PYTHONOPTIMIZE=2), which transformers"
                " cannot do; unset PYTHONOPTIMIZE"
            )
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        line = _one_line(error)
        if line is None or os.environ.get("TINYCATS_TRACEBACK") == "1":
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None


def _one_line(error: Exception) -> str | None:
    """An error that the user can mend as one line; None for any other."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    if isinstance(error, UserError | OSError):
        return " ".join(lines)
    out_of_memory = isinstance(error, RuntimeError) and _SHORT_OF_MEMORY.search(str(error))
    if out_of_memory or isinstance(error, MemoryError):
        return (
            f"out of memory ({lines[0]}); make training.micro_batch, training.batch_size or the"
            " number of stories smaller, or use another device"
        )
    return None
