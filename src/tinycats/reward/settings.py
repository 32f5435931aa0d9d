"""Settings of rewards: what a config says, and the files that a program is given."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tinycats import settings
from tinycats.program import UserError
from tinycats.settings import setting

#: a relative path is looked for in the working directory, then here
CHECKOUT = Path(__file__).resolve().parents[3]
LONGEST_NAME = 40  # characters of what labels call a reward


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """One reward. ``similarity`` in place of the block: to the concept, by the study's encoder."""

    SHORT: ClassVar[str] = "similarity"

    python: str | None = setting(
        None,
        "a function that is given a list of texts and returns a list of as many numbers",
        pattern=r".*\.py:[^\W\d]\w*",
        spelled="path/to/file.py:function",
        longest=settings.LONGEST_TEXT,
    )

    @classmethod
    def read(cls, found: Any, key: str = "reward") -> RewardSettings:
        """A reward as a config says it.

        Raises:
            UserError: it is none.
        """
        return cls() if found == cls.SHORT else settings.check(cls, found, key)

    @property
    def form(self) -> str:
        """``similarity`` or ``python``."""
        return "python" if self.python else "similarity"

    def check_itself(self) -> None:
        """What concerns two keys at once, or the disk.

        Raises:
            UserError: the key, what was found and what is expected.
        """
        if self.python:
            try:
                check_function(self.python)
            except UserError as error:
                raise UserError(f"python: {error}") from None

    def name(self, concept: str) -> str:
        """What labels call it."""
        if self.python:
            return function_label(self.python)
        return similarity_label(concept)

    @property
    def unit(self) -> str:
        """Unit of its values, or nothing."""
        return "cosine" if self.form == "similarity" else ""

    @property
    def record(self) -> str | dict[str, str]:
        """As a config says it."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        return given or self.SHORT


def similarity_label(concept: str) -> str:
    return f"similarity to “{_shortened(concept.strip())}”"


def function_label(python: str) -> str:
    """``words counted`` for ``rewards/words.py:words_counted``."""
    return _shortened(python.rpartition(":")[2].replace("_", " ").strip() or python)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


# ---------------------------------------------------------------------------- a function in a file


def function_file(python: str) -> tuple[Path, str]:
    """File and name of the function that ``path/to/file.py:function`` is."""
    path, _, function = python.rpartition(":")
    if not Path(path).is_file() and (CHECKOUT / path).is_file():
        return CHECKOUT / path, function
    return Path(path), function


def check_function(python: str) -> None:
    """Check that a file can be read and has a function, without running any of it.

    Raises:
        UserError: one line with the file, and what is wrong.
    """
    path, function = function_file(python)
    names: list[str] = []
    for node in ast.walk(ast.parse(source(path), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    if function not in names and "*" not in names:
        near = difflib.get_close_matches(function, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names[:5]) or 'none'}"
        raise UserError(f"{path}: no function {function} found; {hint}")


def source(path: Path) -> bytes:
    """The content of a Python file.

    Raises:
        UserError: it cannot be read, or is not Python.
    """
    try:
        content = path.read_bytes()
        compile(content, str(path), "exec", dont_inherit=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:  # no right to read it, a folder
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: not Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not Python: {error}") from None
    return content


# ---------------------------------------------------------------------------- of a program


@dataclass(frozen=True, kw_only=True)
class RewardFiles:
    """The files of one reward, as a program is given them: of one form."""

    encoder: str | None = setting(None, "similarity: folder of the sentence encoder")
    reference: str | None = setting(None, "similarity: embedding of the concept")
    python: str | None = setting(None, "python: path/to/file.py:function")

    def check_combination(self) -> None:
        """Refuse flags of two forms, or half of one.

        Raises:
            UserError: names the flags.
        """
        similarity = (self.encoder is not None) + (self.reference is not None)
        if (similarity == 2) == (self.python is not None) or similarity == 1:
            raise UserError(
                "the reward should be given by --encoder and --reference together, or by --python"
            )
