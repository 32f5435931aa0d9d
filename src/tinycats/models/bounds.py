"""Bounds on what a hub may take: seconds of a request, bytes of an answer.

A hub may be slow, overloaded, or not what it says. huggingface_hub waits as long as it is asked to
(``Retry-After``) and reads as long as something arrives, be it a byte a second or many times what was
stated; its timeouts are of one read from the network.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: a request without a file: its time in seconds, and the largest answer in bytes
PATIENCE, LONGEST_ANSWER = 60, 32 << 20
#: bytes a second, below which the transfer of a file is given up
SLOWEST = 50_000


class OutOfBounds(Exception):
    """A hub's answer was too long or took too long."""


class _Expired(BaseException):
    """The time is over; no Exception, so that no library retries."""


@contextmanager
def bounded(size: int | None = None) -> Iterator[None]:
    """Bound the requests to a hub within the block, together in time and each in size.

    Time is bounded in the main thread only, by SIGALRM. Answers are asked for uncompressed, and
    compressed ones are refused, since their size is not that of the file.

    Args:
        size: bytes that the hub states of a file; None for a request without a file.

    Raises:
        OutOfBounds: says which bound was passed.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    most = max(size or 0, LONGEST_ANSWER if size is None else 1 << 16)  # a page that says why not
    seconds = PATIENCE + (size or 0) / SLOWEST

    def client() -> Any:
        made = default_client_factory()
        made.headers["accept-encoding"] = "identity"
        hooks = made.event_hooks
        made.event_hooks = {**hooks, "response": [*hooks["response"], lambda r: _bound(r, most)]}
        return made

    def expire(*_: object) -> None:
        raise _Expired

    set_client_factory(client)
    timed = threading.current_thread() is threading.main_thread()
    if timed:
        before = signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Expired:
        raise OutOfBounds(f"not done within {seconds:.0f} s") from None
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        set_client_factory(default_client_factory)


def _bound(response: Any, most: int) -> None:
    """Let a response raise an error at the first byte too many."""
    wait = response.headers.get("retry-after", "")
    if response.is_error and wait.isdigit() and int(wait) > PATIENCE:
        raise OutOfBounds(f"HTTP status {response.status_code}, to try again in {wait[:12]} s")
    if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
        raise OutOfBounds(f"sent as {encoding[:20]!a}, although it was asked for as it is")
    read = response.iter_raw

    def counted(chunk_size: int | None = None) -> Iterator[bytes]:
        received = 0
        for part in read(chunk_size):
            received += len(part)
            if received > most:
                raise OutOfBounds(f"more than the {most} bytes that it may have")
            yield part

    response.iter_raw = counted
