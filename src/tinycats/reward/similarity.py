"""The default reward: cosine similarity between the embeddings of a text and of the concept.

all-MiniLM-L6-v2 is a BERT encoder with mean pooling and unit length (Reimers & Gurevych 2019,
arXiv 1908.10084; Wang et al. 2020, arXiv 2002.10957). :mod:`tinycats.reward.encoder` is
batch-invariant, bit for bit; other encoders are run by sentence-transformers, one text at a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tinycats.compute.devices import arithmetic
from tinycats.files import atomic
from tinycats.files.text import read_json
from tinycats.language_model.sampling import chunks
from tinycats.models import encoder_probe
from tinycats.models.folders import folder_identity, sha256_file, verify_folder
from tinycats.models.sources import in_one_line
from tinycats.program import UserError
from tinycats.progress import EVERY_SECONDS, progress
from tinycats.reward.encoder import EMBEDDING, PackedBert
from tinycats.reward.settings import similarity_label
from tinycats.source_code import digest

log = logging.getLogger("tinycats")

#: Texts between two looks at the clock, of an encoder that takes one at a time.
TEXTS_AT_ONCE = 32
#: Components of unit vectors may differ by this between the fast encoder and sentence-transformers.
TOLERANCE = 1e-5


class FastEncoder:
    """A BERT encoder with mean pooling, by :class:`~tinycats.reward.encoder.PackedBert`.

    Args:
        folder: in sentence-transformers' layout.
        device: torch device.

    Raises:
        Unsuited: the folder asks for something that is not computed here.
    """

    name = "packed BERT"

    def __init__(self, folder: Path, device: torch.device) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel

        kind = read_json(folder / "config.json").get("model_type")
        if kind != "bert":
            raise Unsuited(f"its model_type is {kind!r}, not 'bert'")
        pooling = read_json(folder / "1_Pooling" / "config.json")
        # older releases wrote a flag for each mode, newer ones write the mode's name
        if not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
            raise Unsuited("it does not pool by the mean")
        model = BertModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        longest = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        self.tokenizer.enable_truncation(longest or model.config.max_position_embeddings)
        self.tokenizer.no_padding()
        # float32 throughout: in bfloat16 cosines of short stories move by up to 2e-3
        self.bert = PackedBert(model.eval(), device)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Unit vectors ``(texts, width)``, float32; batch-invariant, bit for bit."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        vectors: np.ndarray = nn.functional.normalize(self.bert(ids), dim=1).cpu().numpy()
        return vectors


class GeneralEncoder:
    """Any encoder of sentence-transformers, by sentence-transformers itself.

    It encodes one text at a time, without padding, so that the result is batch-invariant.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from sentence_transformers import __version__

        self.model = encoder_probe.sentence_transformer(folder, device)
        self.name = f"sentence-transformers {__version__}"

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Unit vectors ``(texts, width)``, float32; batch-invariant, bit for bit."""
        parts = list(chunks(len(texts), TEXTS_AT_ONCE))
        found = [
            self.model.encode(
                texts[part], batch_size=1, normalize_embeddings=True, show_progress_bar=False
            )
            for part in progress(parts, len(parts), EMBEDDING, after=EVERY_SECONDS)
        ]
        vectors: np.ndarray = np.concatenate(found).astype("float32")
        return vectors


class Unsuited(Exception):
    """The fast encoder does not serve a folder; sentence-transformers does."""


class RewardEncoder:
    """Sentence encoder of a folder in sentence-transformers' layout.

    :class:`FastEncoder` computes where it gives sentence-transformers' own vectors for the texts of
    the probe (:mod:`tinycats.models.encoder_probe`); elsewhere :class:`GeneralEncoder` does.

    Args:
        folder: holds modules.json, config.json, model.safetensors and tokenizer.json.
        device: torch device of the encoder.

    Raises:
        UserError: the folder's encoder cannot be loaded.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # it would report the pooler, which is not used
        transformers_logging.disable_progress_bar()
        folder, self.device = Path(folder), torch.device(device)
        expected = encoder_probe.expected(folder)
        self.width = expected.shape[1]
        self.encode: FastEncoder | GeneralEncoder
        try:
            self.encode = FastEncoder(folder, self.device)
            found = self.encode(list(encoder_probe.TEXTS))
            error = float(np.abs(found - expected).max())
            if not error <= TOLERANCE:
                raise Unsuited(f"its vectors differ by up to {error:.1g}")
        # other releases of transformers may name the parts of a BERT differently
        except (Unsuited, UserError, AttributeError, TypeError, ValueError, OSError) as reason:
            log.info(
                "%s: sentence-transformers encodes, one text at a time, which is slow; the fast"
                " encoder does not fit: %s",
                folder,
                in_one_line(reason),
            )
            self.encode = GeneralEncoder(folder, self.device)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors ``(texts, width)``, float32; batch-invariant, bit for bit."""
        if not texts:
            return np.zeros((0, self.width), "float32")
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        vectors = self.encode(list(place))
        return vectors[[place[text] for text in texts]]

    def similarities(self, texts: Sequence[str], reference: np.ndarray) -> np.ndarray:
        """Cosine of each text with the unit vector ``reference`` (width,): ``(texts,)``, float32."""
        # a fixed-order float64 sum: a BLAS product's bits would depend on the number of texts
        products = self.embed(texts).astype(np.float64) * reference.astype(np.float64)
        return products.sum(axis=1).astype(np.float32)


class Similarity:
    """The reward: cosine of a text's embedding with a unit vector, from −1 to 1.

    Args:
        encoder: embeds texts.
        reference: ``(width,)``, the embedding of the concept.
        concept: for the name.
        identity: of encoder and concept (:meth:`from_files`).
    """

    bounds = (-1.0, 1.0)
    by_text_alone = True

    def __init__(
        self,
        encoder: RewardEncoder,
        reference: np.ndarray,
        concept: str = "",
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.encoder, self.reference = encoder, reference
        self.name = similarity_label(concept)
        self.identity = identity or {}
        self.computed_with = {
            "encoding": encoder.encode.name,
            "code_sha256": digest("tinycats.reward.similarity"),
            "arithmetic": arithmetic(encoder.device),
        }

    @classmethod
    def from_files(
        cls, folder: str | Path, reference: str | Path, device: str | torch.device
    ) -> Similarity:
        """The reward of an encoder's folder and a file of :func:`save_reference`.

        Raises:
            UserError: a file is missing or damaged, or the reference is of another encoder.
        """
        verify_folder(folder)
        vector = load_reference(reference, encoder_identity=folder_identity(folder))
        encoder = RewardEncoder(folder, device)
        return cls(encoder, vector, concept_of(reference), _identity(folder, vector))

    @classmethod
    def to(cls, folder: str | Path, concept: str, device: str | torch.device) -> Similarity:
        """The reward of an encoder's folder and a concept, which is embedded here.

        Raises:
            UserError: a file is missing or damaged.
        """
        verify_folder(folder)
        encoder = RewardEncoder(folder, device)
        vector = encoder.embed([concept])[0]
        return cls(encoder, vector, concept, _identity(folder, vector))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU; batch-invariant, bit for bit."""
        return torch.from_numpy(self.encoder.similarities(texts, self.reference))


def _identity(folder: str | Path, vector: np.ndarray) -> dict[str, str]:
    return {
        "encoder_sha256": sha256_file(Path(folder) / "model.safetensors"),
        "encoder_identity": folder_identity(folder),
        "reference_sha256": vector_sha256(vector),
    }


def vector_sha256(vector: np.ndarray) -> str:
    """Identity of a reference embedding: sha256 of its values as little-endian float32."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def save_reference(
    path: str | Path, concept: str, vector: np.ndarray, encoder_identity: str
) -> None:
    """Write the concept's unit vector with the concept and the encoder's identity as metadata."""
    metadata = {"concept": concept, "encoder_identity": encoder_identity}
    atomic.write_tensors(path, {"embedding": vector.astype(np.float32)}, metadata)


def concept_of(path: str | Path) -> str:
    """What a reference embedding is of; empty if its file does not say so."""
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as file:
        return str((file.metadata() or {}).get("concept", ""))


def load_reference(
    path: str | Path, concept: str | None = None, encoder_identity: str | None = None
) -> np.ndarray:
    """The concept's unit vector, ``(width,)`` float32.

    Args:
        path: the file that :func:`save_reference` wrote.
        concept: what it should embed; None: anything.
        encoder_identity: :func:`tinycats.models.folders.folder_identity` of the encoder that
            should have made it; None: any.

    Raises:
        UserError: the file is damaged, not a unit vector, or of another concept or encoder.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            vector, metadata = file.get_tensor("embedding"), file.metadata() or {}
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"{path}: damaged reference embedding ({error}); delete it and rerun"
        ) from error
    if vector.ndim != 1 or not abs(float(np.linalg.norm(vector)) - 1) <= 1e-4:  # NaN fails, too
        raise UserError(f"{path}: not a unit vector; delete it and rerun")
    if concept is not None and metadata.get("concept") != concept:
        raise UserError(
            f"{path}: embeds {metadata.get('concept')!r}, not {concept!r}; delete and rerun"
        )
    found = metadata.get("encoder_identity")
    if encoder_identity is not None and found != encoder_identity:
        raise UserError(
            f"{path}: made by another encoder (identity {found}, ours is {encoder_identity});"
            " delete it and rerun"
        )
    atomic.verify(path)
    result: np.ndarray = vector
    return result
