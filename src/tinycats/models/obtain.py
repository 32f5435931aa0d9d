"""Obtaining the base model and the models of rewards: the ``models`` stage.

Whatever its source (:mod:`tinycats.models.sources`), a model ends up as one folder in ``resources/models``
that later stages read without a network: ``config.json``, ``model.safetensors``,
``tokenizer.json`` and ``manifest.json``, which says where it came from.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinycats.files.atomic import new_folder
from tinycats.files.text import read_json
from tinycats.models import encoder_probe
from tinycats.models.folders import (
    check_relative,
    check_weights,
    in_one_line,
    kind_of,
    load_tokenizer,
    write_manifest,
)
from tinycats.models.pins import Pins
from tinycats.models.sources import (
    WEIGHTS,
    Part,
    Unavailable,
    from_folder,
    from_hub,
    from_package,
)
from tinycats.program import UserError

log = logging.getLogger("tinycats")

#: what a folder is chosen as → the class of transformers that its weights are converted by
_CONVERTED_BY = {
    "both": "AutoModelForCausalLM",
    "encoder": "AutoModel",
    "classifier": "AutoModelForSequenceClassification",
}


def _finish(new: Path, what: str, where: str) -> None:
    """Make the folder uniform: one ``model.safetensors``, a ``tokenizer.json``; check both."""
    if not (new / WEIGHTS).exists():
        try:
            convert_weights(new, _CONVERTED_BY[what])
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    for path in sorted(new.glob("*_*/pytorch_model.bin")):
        try:
            _convert_layer(path)
        except Exception as error:  # of a pickle that is damaged, or more than tensors
            reason = f"{path.relative_to(new)} cannot be converted to safetensors"
            raise UserError(f"{where}: {reason}: {in_one_line(error)}") from error
    if not (new / "tokenizer.json").exists():
        tokenizer = load_tokenizer(new, writes=what == "both")
        scratch = new / "converted"
        tokenizer.save_pretrained(scratch)
        shutil.copyfile(scratch / "tokenizer.json", new / "tokenizer.json")
        shutil.rmtree(scratch)
    try:
        check_weights(new / WEIGHTS)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix(f'{new}/')}") from error
    for path in sorted(new.rglob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: {path.name} is not JSON: {error}") from error


def _convert_layer(path: Path) -> None:
    """Replace the pickled weights of one of an encoder's further layers by safetensors."""
    import torch
    from safetensors.torch import save_file

    weights = torch.load(path, map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path.with_name(WEIGHTS))  # fmt: skip
    path.unlink()


def convert_weights(folder: Path, kind: str) -> None:
    """Replace pickled or sharded weights in ``folder`` by one ``model.safetensors`` in float32.

    Pickles are read with ``weights_only``, which refuses anything but tensors.

    Args:
        folder: is changed.
        kind: name of the class of transformers that reads the weights.

    Raises:
        UserError: the weights cannot be read, or do not fit the model that config.json describes.
    """
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    old = sorted([*folder.glob("pytorch_model*"), *folder.glob("model*.safetensors*")])
    safe = any(path.suffix == ".safetensors" for path in old)
    for index in folder.glob("*.index.json"):
        weight_map = read_json(index).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{index.name}: should hold a weight_map from tensors to files")
        for name in sorted(set(names)):
            if not (folder / check_relative(name, index.name)).exists():
                raise UserError(f"{index.name} names {name}, which is not there")
    try:
        loaded: Any = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=safe,
            weights_only=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(
            f"{old[0].name}: weights cannot be converted to safetensors: {in_one_line(error)}"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        raise UserError(f"{old[0].name}: lacks the weights {sorted(info['missing_keys'])[:3]} …")
    scratch = folder / "converted"
    model.save_pretrained(scratch, max_shard_size="1000GB")
    os.replace(scratch / WEIGHTS, folder / WEIGHTS)
    shutil.rmtree(scratch)
    for path in old:
        path.unlink()
    log.info("converted %s to %s", old[0].name, WEIGHTS)


def obtain_base_model(
    model: str,
    out: str | Path,
    pins_file: str | Path,
    nano_folder: str | Path,
    revision: str | None = None,
    tokenizer: str | None = None,
    tokenizer_revision: str | None = None,
) -> dict[str, Any]:
    """Obtain the base model with its tokenizer into folder ``out`` and return its manifest.

    Args:
        model: ``nano``, a Hub id, or a folder.
        out: the model folder; replaced as a whole or not at all.
        pins_file: known commits and checksums; what was unknown is added to it.
        nano_folder: where the repository keeps ``nano``.
        revision: commit, branch or tag of a Hub model; None: the pinned one, or else ``main``.
        tokenizer: Hub id or folder, if the tokenizer is not the model's own.
        tokenizer_revision: likewise for the tokenizer.

    Raises:
        UserError: it is unavailable (with the reason), or its checksum is not the pinned one.
    """
    pins, nano = Pins(pins_file), Path(nano_folder)
    with new_folder(out) as new:
        part = _get("model" if tokenizer else "both", model, revision, new, pins, nano)
        about = {"name": model, **part.about()}
        parts = [part]
        if tokenizer:
            parts.append(_get("tokenizer", tokenizer, tokenizer_revision, new, pins, nano))
            about["tokenizer"] = parts[1].about()
        _finish(new, "both", model)
        manifest = write_manifest(new, about)
    for part in parts:
        if part.source == "hub":
            pins.record(part.place, part.revision, part.files)
    return manifest


def _get(
    what: str, name: str, commit: str | None, new: Path, pins: Pins, nano: Path | None = None
) -> Part:
    """Files of a model that has one source: ``nano``, a folder or the Hub."""
    kind = kind_of(name)
    try:
        if kind == "nano" and nano:
            return from_folder(nano, new, what, "repository", "nano")
        if kind == "folder":
            return from_folder(name, new, what)
        return from_hub(name, commit, new, what, pins)
    except Unavailable as error:
        raise UserError(f"{name} cannot be obtained: {kind}: {error}") from error


def obtain_classifier(
    model: str, out: str | Path, pins_file: str | Path, revision: str | None = None
) -> dict[str, Any]:
    """Obtain a classifier with its tokenizer into folder ``out`` and return its manifest.

    Args:
        model: a Hub id, or a folder.
        out, pins_file, revision: as for :func:`obtain_base_model`.

    Raises:
        UserError: it is unavailable (with the reason), or its checksum is not the pinned one.
    """
    pins = Pins(pins_file)
    with new_folder(out) as new:
        part = _get("both", model, revision, new, pins)
        _finish(new, "classifier", model)
        manifest = write_manifest(new, {"name": model, **part.about()})
    if part.source == "hub":
        pins.record(part.place, part.revision, part.files)
    return manifest


def obtain_reward_encoder(
    encoder: str,
    out: str | Path,
    pins_file: str | Path,
    sources: Sequence[str],
    revision: str | None = None,
) -> dict[str, Any]:
    """Obtain the reward encoder into folder ``out`` from the first source that has it.

    Args:
        encoder: Hub id of a sentence-transformers model, or a folder with one.
        out: the model folder; replaced as a whole or not at all.
        pins_file: known commit and checksums, the same whatever the source.
        sources: where to look for a Hub id, in this order: ``package``, ``hub``, or the path of a
            folder.
        revision: commit, branch or tag on the Hub; None: the pinned one, or else ``main``.

    Raises:
        UserError: a checksum is not the pinned one, or every source is unavailable (with each reason).
    """
    pins = Pins(pins_file)
    reasons = []
    own_folder = kind_of(encoder) == "folder"
    for source in [encoder] if own_folder else sources:
        try:
            with new_folder(out) as new:
                if source == "package":
                    part = from_package(encoder, new)
                elif source == "hub":
                    part = from_hub(encoder, revision, new, "encoder", pins)
                else:
                    part = from_folder(source, new, "encoder")
                for name, checksum in () if own_folder else part.files.items():
                    pins.check_file(encoder, name, checksum, f"{source}: {encoder}")
                _finish(new, "encoder", f"{source}: {encoder}")
                encoder_probe.write(new)
                manifest = write_manifest(new, {"name": encoder, **part.about()})
        except Unavailable as error:
            log.warning("%s not obtained from %s: %s", encoder, source, error)
            reasons.append(f"{source}: {error}")
            continue
        if not own_folder:
            commit = part.revision if source == "hub" else None
            pins.record(encoder, commit, part.files)
        return manifest
    raise UserError(f"{encoder} cannot be obtained from any source: " + "; ".join(reasons))
