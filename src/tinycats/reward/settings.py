"""Settings of rewards: what a config says, and the files that a program is given."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from tinycats import settings
from tinycats.files.text import read_json
from tinycats.models.folders import kind_of, model_folder_name
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
    classifier: str | None = setting(
        None,
        "a Hub id or folder of transformers' AutoModelForSequenceClassification",
        longest=settings.LONGEST_TEXT,
    )
    label: str | None = setting(
        None, "the class whose probability counts", longest=settings.LONGEST_TEXT
    )
    revision: str | None = setting(
        None,
        "commit of a classifier on the Hub; null records the one found first in config/pins.yaml",
        longest=settings.LONGEST_TEXT,
    )

    @classmethod
    def read(cls, found: Any, key: str = "reward") -> Self:
        """A reward as a config says it.

        Raises:
            UserError: it is none.
        """
        return cls() if found == cls.SHORT else settings.check(cls, found, key)

    @property
    def form(self) -> str:
        """``similarity``, ``python`` or ``classifier``."""
        return "python" if self.python else "classifier" if self.classifier else "similarity"

    def check_itself(self) -> None:
        """What concerns two keys at once, or the disk.

        Raises:
            UserError: the key, what was found and what is expected.
        """
        given = self._forms()
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} are two rewards; expected one of them")
        if self.label and not self.classifier:
            raise UserError("label: belongs to classifier, which is missing")
        if self.revision and not (self.classifier or "encoder" in given):
            raise UserError("revision: belongs to a model, which is missing")
        if self.python:
            try:
                check_function(self.python)
            except UserError as error:
                raise UserError(f"python: {error}") from None
        if self.classifier:
            try:
                kind = kind_of(self.classifier)
            except UserError as error:
                raise UserError(f"classifier: {error}") from None
            if kind == "nano":
                raise UserError("classifier: nano writes stories, expected a classifier")
            if kind == "folder":
                label_index(labels(Path(self.classifier)), self.label, self.classifier)

    def _forms(self) -> list[str]:
        """The keys given that each are a reward."""
        return [key for key in ("python", "classifier") if getattr(self, key)]

    def name(self, concept: str) -> str:
        """What labels call it."""
        if self.python:
            return function_label(self.python)
        if self.classifier:
            return classifier_label(self.classifier, self.label)
        return similarity_label(concept)

    @property
    def source(self) -> str:
        """The function or the classifier, as the config names it."""
        return self.python or self.classifier or ""

    @property
    def unit(self) -> str:
        """Unit of its values, or nothing."""
        return "cosine" if self.form == "similarity" else ""

    @property
    def record(self) -> str | dict[str, str]:
        """As a config says it."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        return given or self.SHORT


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(RewardSettings):
    """A reward that is only measured. ``similarity`` in place of the block: that of the study."""

    encoder: str | None = setting(
        None,
        "similarity by another sentence encoder than reward_encoder: a Hub id or a folder",
        longest=settings.LONGEST_TEXT,
    )
    concept: str | None = setting(
        None, "similarity to another text than the study's concept", longest=settings.LONGEST_TEXT
    )

    def check_itself(self) -> None:
        super().check_itself()
        if self.concept and (self.python or self.classifier):
            raise UserError("concept: belongs to a similarity, expected no other reward beside it")
        if self.encoder:
            try:
                kind = kind_of(self.encoder)
            except UserError as error:
                raise UserError(f"encoder: {error}") from None
            if kind == "nano":
                raise UserError("encoder: nano writes stories, expected a sentence encoder")

    def _forms(self) -> list[str]:
        return [*super()._forms(), *(["encoder"] if self.encoder else [])]

    def name(self, concept: str) -> str:
        """What labels call it, given the study's concept."""
        if self.form != "similarity":
            return super().name(concept)
        by = f" by {_shortened(Path(self.encoder).name)}" if self.encoder else ""
        return similarity_label(self.concept or concept) + by


def check_judges(
    judges: Sequence[JudgeSettings], reward: str, concept: str, base_model: str
) -> None:
    """Check each judge, and that the names differ.

    Args:
        judges: as the config lists them.
        reward: name of the reward that is trained on.
        concept, base_model: the study's.

    Raises:
        UserError: the key, what was found and what is expected.
    """
    names = [reward]
    for number, judge in enumerate(judges):
        key = f"judges.{number}"
        try:
            judge.check_itself()
        except UserError as error:
            raise UserError(f"{key}.{error}") from None
        if judge.encoder == base_model:
            raise UserError(f"{key}.encoder: {base_model} writes stories, expected an encoder")
        name = judge.name(concept)
        if name in names:
            whose = "the reward" if name == reward else f"judges.{names.index(name) - 1}"
            raise UserError(f"{key}: {name} found, as {whose} is; expected names that differ")
        names.append(name)


def similarity_label(concept: str) -> str:
    return f"similarity to “{_shortened(concept.strip())}”"


def function_label(python: str) -> str:
    """``words counted`` for ``rewards/words.py:words_counted``."""
    return _shortened(python.rpartition(":")[2].replace("_", " ").strip() or python)


def classifier_label(classifier: str, label: str | None) -> str:
    """``score of “POSITIVE”``; of a model with one class, its name."""
    return f"score of “{_shortened(label or Path(classifier).name)}”"


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


# ---------------------------------------------------------------------------- a classifier


def classifier_folder(classifier: str) -> str:
    """Name of its folder in ``resources/models``, never that of a base model or an encoder."""
    return f"{model_folder_name(classifier)}.classifier"


def labels(folder: Path) -> list[str]:
    """The classes of a classifier's folder, in the order of its outputs.

    Raises:
        UserError: config.json is missing or damaged.
    """
    path = folder / "config.json"
    about = read_json(path)
    names: Any = about.get("id2label")
    count = about.get("num_labels", 2)
    if names is None and type(count) is int:
        return [f"LABEL_{number}" for number in range(count)]  # transformers' own defaults
    try:
        return [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError, LookupError):
        raise UserError(
            f"{path}: id2label: {settings.shown_in_line(names)} found, expected numbers, each with"
            " the name of a class"
        ) from None


def label_index(names: list[str], label: str | None, classifier: str) -> int:
    """Which output of a classifier is the label's; a model with one class needs no label.

    Raises:
        UserError: there is no such class.
    """
    if label in names:
        return names.index(label)
    if label is None and len(names) == 1:
        return 0
    near = difflib.get_close_matches(str(label).lower(), [name.lower() for name in names], 1)
    hint = next((f"; did you mean {n}?" for n in names if n.lower() in near), "")
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    raise UserError(
        f"label: {settings.shown_in_line(label)} found, expected a class of {classifier}:"
        f" {shown}{hint}"
    )


# ---------------------------------------------------------------------------- of a program


@dataclass(frozen=True, kw_only=True)
class RewardFiles:
    """The files of one reward, as a program is given them: of one form."""

    encoder: str | None = setting(None, "similarity: folder of the sentence encoder")
    reference: str | None = setting(None, "similarity: embedding of the concept")
    concept: str | None = setting(None, "similarity: the concept, in place of its embedding")
    python: str | None = setting(None, "python: path/to/file.py:function")
    classifier: str | None = setting(None, "classifier: folder of the model")
    label: str | None = setting(None, "classifier: its class, if it has several")

    def check_combination(self) -> None:
        """Refuse flags of two forms, or half of one.

        Raises:
            UserError: names the flags.
        """
        given = {key for key, value in vars(self).items() if value is not None}
        forms = (
            {"encoder", "reference"}, {"encoder", "concept"}, {"python"}, {"classifier"},
            {"classifier", "label"},
        )  # fmt: skip
        if given not in forms:
            raise UserError(
                "the reward should be given by --encoder and --reference (or --concept) together, by"
                " --python, or by --classifier with --label"
            )
