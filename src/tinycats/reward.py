"""The reward: cosine similarity between the embeddings of a text and of the concept.

all-MiniLM-L6-v2 is a BERT encoder with mean pooling and unit length (Reimers & Gurevych 2019,
arXiv 1908.10084; Wang et al. 2020, arXiv 2002.10957). An embedding's last bits depend on what its
text is padded and batched with, so texts are encoded in blocks of fixed shape that depend on the
text's own length alone: a text's reward does not depend on its company, and each distinct text is
encoded once in the life of a :class:`RewardModel`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinycats import whole_files
from tinycats.devices import put
from tinycats.linear import fuse_gelu, use_onednn
from tinycats.program import UserError

ROWS_PER_BLOCK = {"cpu": 32, "elsewhere": 256}  # a GPU wants few and large operations
BLOCK_WIDTHS = (12, 16, 24, 32, 64, 96, 128, 160, 192, 224, 256)  # tokens, [CLS] and [SEP] counted
FUSED_ATTENTION_FROM = 64  # on a CPU narrower blocks are faster as plain matrix products


class RewardEncoder:
    """Sentence encoder of a folder in sentence-transformers' layout.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json.
        device: torch device of the encoder.

    Raises:
        UserError: the folder's encoder is not a BERT, or pools in another way than by the mean.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # it would report the pooler that we leave out
        transformers_logging.disable_progress_bar()
        folder = Path(folder)
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
        # older releases wrote a flag for each mode, newer ones write the mode's name
        mean = pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean")
        if not mean or pooling.get("pooling_mode_cls_token"):
            raise UserError(
                f"{folder}: this encoder does not pool by the mean, which is all we know"
            )
        about = json.loads((folder / "config.json").read_text())
        if about.get("model_type") != "bert":
            raise UserError(
                f"{folder}: reward_encoder: is a {about.get('model_type')}; we know only BERT encoders"
            )
        self.device, self.width = torch.device(device), int(about["hidden_size"])
        self.on_cpu = self.device.type == "cpu"
        self.rows = ROWS_PER_BLOCK["cpu" if self.on_cpu else "elsewhere"]
        model = BertModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
        # float32 throughout: in bfloat16 cosines of short stories move by up to 2e-3
        self.model = model.eval().to(self.device)
        use_onednn(self.model, frozen=True)
        for block in self.model.encoder.layer if about.get("hidden_act") == "gelu" else ():
            if fuse_gelu(block.intermediate.dense):
                block.intermediate.intermediate_act_fn = torch.nn.Identity()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(BLOCK_WIDTHS[-1])
        self.tokenizer.no_padding()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors ``(texts, width)``, float32; equal texts get equal bits whatever their company."""
        if not texts:
            return np.zeros((0, self.width), "float32")
        distinct = list(dict.fromkeys(texts))
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(distinct)]
        width = [next(w for w in BLOCK_WIDTHS if len(row) <= w) for row in ids]
        blocks: list[Tensor] = []
        order: list[int] = []  # which text each row of the blocks is
        for w in sorted(set(width)):
            fused = w >= FUSED_ATTENTION_FROM or not self.on_cpu
            self.model.set_attn_implementation("sdpa" if fused else "eager")
            members = [i for i, value in enumerate(width) if value == w]
            for begin in range(0, len(members), self.rows):
                block = members[begin : begin + self.rows]
                order += block
                blocks.append(self._encode_block([ids[i] for i in block], w))
        vectors: np.ndarray = torch.cat(blocks).cpu().numpy()  # fetched at once
        place = {distinct[i]: row for row, i in enumerate(order)}
        return vectors[[place[text] for text in texts]]

    def _encode_block(self, rows: list[list[int]], width: int) -> Tensor:
        # rows that only fill the block are one padding token
        padded = [row + [0] * (width - len(row)) for row in rows]
        padded += [[0] * width] * (self.rows - len(rows))
        length = torch.tensor([len(row) for row in rows] + [1] * (self.rows - len(rows)))
        mask = (torch.arange(width) < length[:, None]).long()
        ids = put(torch.tensor(padded), self.device)
        mask = put(mask, self.device)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].float()
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=1)[: len(rows)]

    def similarities(self, texts: Sequence[str], reference: np.ndarray) -> np.ndarray:
        """Cosine of each text with the unit vector ``reference`` (width,): ``(texts,)``, float32."""
        # a fixed-order float64 sum: a BLAS product's bits would depend on the number of texts
        products = self.embed(texts).astype(np.float64) * reference.astype(np.float64)
        return products.sum(axis=1).astype(np.float32)


class RewardModel:
    """Text → reward with a memo: only texts never seen before reach the encoder."""

    def __init__(self, encoder: RewardEncoder, reference: np.ndarray) -> None:
        self.encoder = encoder
        self.reference = reference
        self.memo: dict[str, np.float32] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self.memo]
        if new:
            self.memo.update(zip(new, self.encoder.similarities(new, self.reference), strict=True))
        return torch.from_numpy(np.array([self.memo[text] for text in texts], dtype=np.float32))


def save_reference(path: str | Path, concept: str, vector: np.ndarray, encoder_sha256: str) -> None:
    """Write the concept's unit vector with the concept and the encoder's checksum as metadata."""
    metadata = {"concept": concept, "encoder_sha256": encoder_sha256}
    whole_files.write_tensors(path, {"embedding": vector.astype(np.float32)}, metadata)


def load_reference(
    path: str | Path, concept: str | None = None, encoder_sha256: str | None = None
) -> np.ndarray:
    """The concept's unit vector, ``(width,)`` float32.

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
    if vector.ndim != 1 or abs(float(np.linalg.norm(vector)) - 1) > 1e-4:
        raise UserError(f"{path}: not a unit vector; delete it and rerun")
    if concept is not None and metadata.get("concept") != concept:
        raise UserError(
            f"{path}: embeds {metadata.get('concept')!r}, not {concept!r}; delete and rerun"
        )
    if encoder_sha256 is not None and metadata.get("encoder_sha256") != encoder_sha256:
        raise UserError(
            f"{path}: made by another encoder (sha256 {metadata.get('encoder_sha256')}, ours is"
            f" {encoder_sha256}); delete it and rerun"
        )
    if problem := whole_files.problem(path):
        raise UserError(problem)
    result: np.ndarray = vector
    return result
