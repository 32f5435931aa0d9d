"""A reward that is a function in a file of the user's: a list of texts → a list of numbers.

The file is run as it was read, once, and the sha256 of its content is the reward's identity. It may
import what is installed, but no file beside it, since a change there would not be noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tinycats.program import UserError
from tinycats.reward.model import RewardError
from tinycats.reward.settings import check_function, function_file, function_label, source
from tinycats.settings import shown_in_line
from tinycats.source_code import digest

T = TypeVar("T")
log = logging.getLogger("tinycats")
MODULE = "reward_of_a_file"  # the name of the file's module


class PythonReward:
    """The function that ``path/to/file.py:function`` names.

    Raises:
        UserError: the file cannot be read, is not Python, raises, or has no such function.
    """

    bounds = (-math.inf, math.inf)
    by_text_alone = False  # what a user's function does is checked, not known

    def __init__(self, python: str) -> None:
        self.path, function = function_file(python)
        self.where = f"{self.path}:{function}"
        check_function(python)
        content = source(self.path)
        module = types.ModuleType(MODULE)
        module.__file__ = str(self.path)
        sys.modules[MODULE] = module  # dataclasses and typing look modules up there
        code = compile(content, str(self.path), "exec", dont_inherit=True)
        self._watched(lambda: exec(code, module.__dict__))
        self.function: Callable[[list[str]], Any] = getattr(module, function, None)  # type: ignore[assignment]
        if not callable(self.function):
            raise UserError(f"reward: {self.path}: {function} is no function")
        self.name = function_label(python)
        self.identity = {
            "reward_file_sha256": hashlib.sha256(content).hexdigest(),
            "reward_function": function,
        }
        self.computed_with = {
            "python": ".".join(map(str, sys.version_info[:3])),
            "code_sha256": digest("tinycats.reward.python"),
        }

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU.

        Raises:
            RewardError: the function raised, or did not return a finite number for each text.
        """
        if not texts:
            return torch.zeros(0)
        given = list(texts)
        found = self._watched(lambda: self._numbers(self.function(list(given)), len(given)))
        values = torch.tensor(found, dtype=torch.float64).to(torch.float32)
        for text, number, value in zip(given, found, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise RewardError(
                    f"reward: {self.where} returned {number} for {shown_in_line(text)}; expected a"
                    " finite number of float32"
                )
        return values

    def _numbers(self, found: Any, count: int) -> list[float]:
        """What the function returned as ``count`` floats."""
        expected = f"expected a list of {count} numbers, one for each text of the list that it is given"  # fmt: skip
        if isinstance(found, str | bytes | dict) or not hasattr(found, "__iter__"):
            raise RewardError(
                f"reward: {self.where} returned {shown_in_line(found)}, of type"
                f" {type(found).__name__}; {expected}"
            )
        values = list(found)
        if len(values) != count:
            raise RewardError(f"reward: {self.where} returned {len(values)} values; {expected}")
        numbers = []
        for value in values:
            try:
                if isinstance(value, str | bytes):
                    raise TypeError
                numbers.append(float(value))
            except (TypeError, ValueError, OverflowError):
                raise RewardError(
                    f"reward: {self.where} returned {shown_in_line(value)} among its values;"
                    f" {expected}"
                ) from None
        return numbers

    def _watched(self, work: Callable[[], T]) -> T:
        """Run the user's code; what it raises is one line, what it prints one line of the log."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                return work()
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            said = f"{type(error).__name__}: {text}" if text else type(error).__name__
            lines = [line for path, line in _frames(error) if path == str(self.path)]
            at = f", line {lines[-1]}" if lines else ""
            raise RewardError(f"reward: {self.path}{at}: {said[:300]}") from error
        finally:
            self._pass_on(printed.getvalue())

    def _pass_on(self, printed: str) -> None:
        lines = [line for line in printed.splitlines() if line.strip()]
        if lines:
            more = f" … and {len(lines) - 1} more lines" if len(lines) > 1 else ""
            log.info("%s says: %s%s", self.path, shown_in_line(lines[0].strip())[1:-1], more)


def _frames(error: BaseException) -> Iterator[tuple[str, int | None]]:
    """File and line of each call on the way to an error."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
