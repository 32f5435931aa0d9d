"""The probe of an encoder: reference vectors that sentence-transformers computes for a few texts.

Six files of an encoder configure case, truncation, default prompts and pooling.
:mod:`tinycats.reward.encoder` is faster than sentence-transformers, and is used if it gives the same
vectors for these texts. Importing sentence-transformers takes several seconds, so the vectors are
computed once, when the encoder is obtained, and stored in its folder as ``probe.json``; those of the
default encoder come with this package. A ``probe.json`` has a digest of the encoder's files; if no
digest matches, the vectors are recomputed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tinycats.files.text import read_json, read_text
from tinycats.models.folders import sha256_file
from tinycats.models.sources import Unavailable, choose_files, in_one_line
from tinycats.program import UserError

PROBE = "probe.json"
#: the probe of the default encoder, so that a default study need not import sentence-transformers
SHIPPED = Path(__file__).with_name(PROBE)

#: Short, upper-case, accented, empty, in other scripts, with the names of special tokens, and longer
#: than 512 tokens, the longest that such encoders read.
TEXTS = (
    "cat",
    "Once upon a time there was a cat who loved",
    "ONE DAY A Girl Went To The PARK",
    "Élodie a mangé une crème brûlée à Zürich",
    "",
    " two  spaces\nand a line ",
    "a [SEP] b [MASK] c [CLS] <s> d </s>",
    "猫 и кот 🐈",
    " ".join(f"{word} {number}" for number in range(70) for word in ("cat", "Dog", "tree", "sea")),
)


def sentence_transformer(folder: str | Path, device: Any = "cpu") -> Any:
    """The sentence-transformers model in a folder, in float32; no code from the folder is run.

    Raises:
        UserError: it cannot be loaded, or is made of modules that are not sentence-transformers'.
    """
    import torch

    folder = Path(folder)
    path = folder / "modules.json"
    try:
        kinds = [module["type"] for module in json.loads(read_text(path))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: should hold a list of modules, each with its type") from error
    for kind in kinds:
        if not str(kind).startswith("sentence_transformers."):
            raise UserError(
                f"{path}: unsupported module {kind!r}; only those of sentence_transformers are"
                " supported"
            )
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
        ).eval()
    except Exception as error:  # the code of any of its modules
        raise UserError(f"{folder}: the encoder cannot be loaded: {in_one_line(error)}") from error


def digest(folder: str | Path) -> str:
    """sha256 of an encoder's files, by name and content, and of the probe's texts."""
    folder = Path(folder)
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    try:
        chosen = choose_files(names, "encoder")
    except Unavailable as error:
        raise UserError(f"{folder}: the encoder cannot be loaded: {error}") from error
    content = [[name, sha256_file(folder / name)] for name in chosen]
    return hashlib.sha256(json.dumps([content, TEXTS]).encode()).hexdigest()


def stored(folder: Path, wanted: str) -> np.ndarray | None:
    """The vectors in the folder's own or the package's probe, if it is of these bytes."""
    for path in (folder / PROBE, SHIPPED):
        if path.exists():
            probe = read_json(path)
            if probe.get("digest") == wanted:
                return np.array(probe["vectors"], "float32")
    return None


def expected(folder: str | Path) -> np.ndarray:
    """Unit vectors of :data:`TEXTS` by sentence-transformers, ``(texts, width)`` float32.

    Raises:
        UserError: the folder's encoder cannot be loaded.
    """
    found = stored(Path(folder), digest(folder))
    return _compute(folder) if found is None else found


def write(folder: str | Path) -> None:
    """Write ``probe.json`` into a new encoder folder, unless the package has its vectors.

    Raises:
        UserError: the folder's encoder cannot be loaded.
    """
    folder = Path(folder)
    wanted = digest(folder)
    if stored(folder, wanted) is None:
        write_to(folder / PROBE, folder, wanted)


def write_to(path: Path, folder: Path, wanted: str) -> None:
    """Write the probe of ``folder`` to ``path``."""
    vectors = [[round(float(x), 7) for x in vector] for vector in _compute(folder)]
    path.write_text(json.dumps({"digest": wanted, "vectors": vectors}) + "\n", encoding="utf-8")


def _compute(folder: str | Path) -> np.ndarray:
    model = sentence_transformer(folder)
    try:
        found = model.encode(
            list(TEXTS), batch_size=1, normalize_embeddings=True, show_progress_bar=False
        )
        vectors: np.ndarray = np.asarray(found, "float32")
    except Exception as error:  # the code of any of its modules
        raise UserError(f"{folder}: the encoder cannot be run: {in_one_line(error)}") from error
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise UserError(
            f"{folder}: the encoder gives vectors that are not finite numbers for the texts of the"
            " check; the weights are damaged"
        )
    return vectors
