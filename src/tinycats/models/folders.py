"""Model folders: plain Hugging Face folders with safetensors weights and a ``manifest.json``.

Each model of a study (base model, reward encoder, classifier, trained policy) has a separate folder, whose
manifest lists each file with its sha256. A folder is written under a temporary name, renamed when it
is complete, and checked against its manifest before it is used.
How the folders of base model and encoder are obtained: :mod:`tinycats.models.sources`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tinycats.files.atomic import new_folder
from tinycats.models.other_files import ARCHIVE, pack, unpack
from tinycats.program import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "manifest.json"
AGAIN = "obtain the model again (base model and encoder: snakemake models)"
#: embeddings are often padded to a round number of rows; beyond this it is another vocabulary
MAX_UNUSED_ROWS = 1024
_FLOATS = {"F64", "F32", "F16", "BF16"}
LONGEST_ID = 96  # characters of a Hub id
#: files that change no number: hidden ones, documents, pictures, what was measured of an encoder
_NO_NUMBERS = re.compile(
    r"(^|/)\.|\.(md|rst|svg|png|jpg|pdf)$|(^|/)(README|LICEN[CS]E|NOTICE)[^/]*$|^probe\.json$",
    re.IGNORECASE,
)


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_relative(name: str, where: str) -> str:
    """Return ``name`` if it is a plain relative path that stays below the folder it is put in.

    Raises:
        UserError: the name is absolute, climbs out with ``..``, is not in its plain spelling, or has
            control characters.
    """
    parts = name.split("/")
    odd = set("\\:") & set(name) or not name.isprintable()
    if odd or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{where}: refused file name {name!a}: it may lead out of the model folder")
    return name


def write_manifest(folder: str | Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the archive of further files, and ``manifest.json``: ``about``, then every file of the
    folder with sha256 and size."""
    folder = Path(folder)
    pack(folder)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    files = {
        PurePosixPath(path.relative_to(folder)).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }
    manifest = {**about, "files": files}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The folder's manifest: what is known of the model, and ``files``: path → sha256 and bytes.

    Raises:
        UserError: it cannot be read, or is not a manifest.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(entry["sha256"], str) for entry in manifest["files"].values()):
            raise ValueError("a checksum is not a text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest: {error!r}; {AGAIN}") from error
    return manifest


def verify_folder(folder: str | Path) -> dict[str, Any] | None:
    """Compare every file that the folder's manifest lists with its sha256.

    Returns:
        The manifest, or None if the folder has none.

    Raises:
        UserError: the folder or a file is missing, or a file has other bytes; names the file and
            both checksums.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    unpack(folder)
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        checksum = entry["sha256"]
        file = folder / check_relative(name, str(path))
        if not file.is_file():
            raise UserError(f"{file}: missing, although {path} lists it; {AGAIN}")
        found = sha256_file(file)
        if found != checksum:
            raise UserError(
                f"{file}: wrong bytes (damaged, cut short or swapped): sha256 is {found}, but"
                f" {MANIFEST} lists {checksum}; {AGAIN}"
            )
    return manifest


def undamaged(folder: str | Path, *names: str) -> bool:
    """Whether these files of a folder, without names all of them, are as its manifest lists them."""
    try:
        if not names:
            return verify_folder(folder) is not None
        listed = read_manifest(folder)["files"]
        return all(sha256_file(Path(folder) / n) == listed[n]["sha256"] for n in names)
    except (UserError, OSError, KeyError):
        return False


def folder_identity(folder: str | Path) -> str:
    """Identity of a model: sha256 over name and sha256 of each file that decides its numbers.

    Those are all files but manifest, archive, documents, pictures and hidden files: weights,
    ``config.json``, the tokenizer's files, and an encoder's ``modules.json``, pooling and so on.

    Raises:
        UserError: there is no such folder, or nothing is in it.
    """
    folder = Path(folder)
    unpack(folder)
    lines = [
        f"{name}\0{sha256_file(folder / name)}\n"
        for name in sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        if name not in (MANIFEST, ARCHIVE) and not _NO_NUMBERS.search(name)
    ]
    if not lines:
        raise UserError(f"{folder}: no model folder; {AGAIN}")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def kind_of(model: str) -> str:
    """What the config's ``base_model`` or ``tokenizer`` names: ``nano``, ``folder`` or ``hub``.

    Raises:
        UserError: it is neither an existing folder nor of the form of a Hub id.
    """
    if model == "nano":
        return "nano"
    try:
        if model and Path(model).is_dir():
            return "folder"
    except OSError as error:  # a name too long, a folder above that may not be read
        raise UserError(
            f"{model[:80]!r}: not a folder that can be read: {error.strerror}"
        ) from None
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) and len(model) <= LONGEST_ID:
        return "hub"
    raise UserError(
        f"unknown model {model[:80]!r}: should be nano, a Hub id (organisation/name) or an existing folder"
    )


def model_folder_name(model: str) -> str:
    """Name of a model's folder in ``resources/models``, another one for each model.

    ``nano``; ``organisation--name`` for a Hub id without ``--``; of a folder its own name and the
    beginning of the sha256 of its path as it is written.
    """
    digest = hashlib.sha256(os.path.normpath(model).encode()).hexdigest()[:8]
    if kind_of(model) != "folder":
        name = model.replace("/", "--")
        return f"{name}-{digest}" if "--" in model else name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).resolve().name)[:60].strip(".-")
    return f"{name or 'model'}-{digest}"


def check_weights(path: Path) -> None:
    """Check that a file of weights is whole and that its weights are plain floating-point numbers.

    Integers would be loaded as if they were the weights, without the scale that belongs to them.
    Buffers, such as positions and masks, may be integers.

    Raises:
        UserError: it is damaged, empty, or a weight has another type; names the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut short: {in_one_line(error)}") from error
    if not types:
        raise UserError(f"{path} is damaged or cut short: no tensors")
    for name, kind in types.items():
        if name.endswith("weight") and kind not in _FLOATS:
            raise UserError(
                f"{path}: {name} is of type {kind}, expected one of {', '.join(sorted(_FLOATS))}"
            )


def _without_dropout(config: Any) -> None:
    """Set every dropout probability of a model's configuration to 0, nested ones too."""
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _without_dropout(value)


def load_tokenizer(folder: str | Path, writes: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder; that of a model that writes must have an end token.

    Raises:
        UserError: there is no readable tokenizer, or it has no end token.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(
            f"{folder}: the tokenizer cannot be loaded: {in_one_line(error)}"
        ) from error
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"{folder}/tokenizer_config.json: model_max_length: {tokenizer.model_max_length!r} found,"
            " expected a number"
        )
    if writes and tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end token, so no story could end by itself;"
            ' set "eos_token" in tokenizer_config.json'
        )
    return tokenizer


def load_causal_lm(
    folder: str | Path, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load any ``AutoModelForCausalLM`` and its tokenizer from a folder: float32, no dropout.

    The folder is checked against its manifest, if it has one. Only safetensors weights and code
    of the transformers library are used: no pickle, nothing from the model's own folder is run.

    Args:
        folder: a plain Hugging Face folder; nothing is looked for elsewhere.
        device: where the model is put.

    Returns:
        The model in eval mode with all dropout probabilities 0 whatever its file says (so that
        even ``train()`` brings none back), and the tokenizer.

    Raises:
        UserError: a file is missing or damaged (with both checksums), the tokenizer has no end
            token, or tokenizer and model have different vocabularies.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    model = _load(folder, AutoModelForCausalLM)
    tokenizer = load_tokenizer(folder)
    rows, tokens = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if tokens > rows or rows - tokens > MAX_UNUSED_ROWS:
        raise UserError(
            f"{folder}: tokenizer and model do not belong together: the tokenizer has {tokens}"
            f" tokens, the model {rows}; name the model's own tokenizer in the config (`tokenizer`)"
        )
    return model.to(device).eval(), tokenizer


def load_classifier(
    folder: str | Path, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load any ``AutoModelForSequenceClassification`` likewise; its tokenizer needs no end token.

    Raises:
        UserError: a file is missing or damaged, or the model has no output layer for classes.
    """
    from transformers import AutoModelForSequenceClassification

    model = _load(Path(folder), AutoModelForSequenceClassification)
    return model.to(device).eval(), load_tokenizer(folder, writes=False)


def _load(folder: Path, kind: Any) -> Any:
    """A model as one of transformers' ``AutoModel…`` classes: float32, without dropout."""
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verify_folder(folder)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: has no model.safetensors")
    for path in weights:
        check_weights(path)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _without_dropout(config)
        config.return_dict = True  # a file may turn it off; outputs are read by name here
        loaded: Any = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"{folder}: the model cannot be loaded: {in_one_line(error)}") from error
    model, info = loaded
    if info["missing_keys"]:
        raise UserError(f"{folder}: lacks the weights {sorted(info['missing_keys'])[:3]} …")
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Save a trained model as a plain Hugging Face folder with ``manifest.json``, whole or not.

    Raises:
        UserError: it cannot be written (a full disk, say).
    """
    from safetensors import SafetensorError

    try:
        with new_folder(folder) as new:
            model.save_pretrained(new, max_shard_size="1000GB")
            tokenizer.save_pretrained(new)
            write_manifest(new, {"source": "trained here"})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model cannot be written: {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """An error of a library as one line: many have the value that is wrong in their second."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else text[:300] + "…") or type(error).__name__
