"""Whole pieces of work in threads, instead of each operation divided among threads.

torch divides every operation among its threads, which then wait for one another. Where another
process keeps a core busy, each of these waits is a long one. Threads that take whole pieces of
work wait once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def run(function: Callable[[A], B], pieces: Iterable[A]) -> Iterator[B]:
    """``function`` of each piece, in order, in as many threads as torch has here.

    Each piece is computed by one thread, whatever their number, so the number changes no bit.
    Gradients and inference mode are those of a new thread: ``function`` has to set its own.
    """
    threads = torch.get_num_threads()
    return map(function, pieces) if threads == 1 else _pool(threads).map(function, pieces)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process, in each of which torch has one thread."""
    barrier = Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a new thread takes the number of the process at its first use
        torch.set_num_threads(1)  # of this thread, and of threads begun later
        barrier.wait()

    pool = ThreadPoolExecutor(threads, "work", begin)
    list(pool.map(int, range(threads)))  # each waits for the others to begin
    torch.set_num_threads(threads)
    return pool
