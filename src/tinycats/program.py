"""What every command-line program of the workflow shares: logging, progress, one-line errors."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("tinycats")
#: how torch says it, of a GPU and of the CPU
_SHORT_OF_MEMORY = re.compile("out of memory|can't allocate memory")


class UserError(Exception):
    """Something the user can mend: one line that names the key or file and what would be right."""


def run(main: Callable[[], None], network: bool = False) -> None:
    """Run a program: messages to stderr; an error the user can mend is one line and exit code 1.

    Only a program that says ``network=True`` may reach a model hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    for noisy in ("httpx", "sentence_transformers", "transformers", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except (UserError, ValueError, OSError) as error:
        if log.isEnabledFor(logging.DEBUG):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _SHORT_OF_MEMORY.search(str(error))):
            raise
        print(
            f"error: out of memory ({_first_line(error)}); make training.micro_batch,"
            " training.batch_size or the number of stories smaller, or use another device",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def progress(items: Iterable[T], total: int, what: str, every_seconds: float = 20.0) -> Iterator[T]:
    """Pass ``items`` on, with a bar on a terminal and an occasional line in a log."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, leave=False)
        return
    last = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= every_seconds or number == total:
            log.info("%s: %d of %d", what, number, total)
            last = time.monotonic()
