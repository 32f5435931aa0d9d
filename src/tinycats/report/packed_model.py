"""GPT-Neo weights small enough for a page, and what this costs in accuracy, in numpy alone.

The base model's matrices become int8 with one scale a row; of a policy, the difference to the base
is kept in 4 bits, likewise. A policy therefore shares the base's rounding, which mostly cancels in
log π − log p_base. Vectors (biases, layer norms) stay float32. ``workflow/report/playground_model.js``
unpacks the same bytes to the same float32 weights and computes the same forward pass.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
Codes = dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]]

ACTIVATIONS = ("gelu", "gelu_new")
_LAYER_VECTORS = (
    *("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"),
    *("attn.attention.out_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias"),
)
_LAYER_MATRICES = (
    *(f"attn.attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *("mlp.c_fc.weight", "mlp.c_proj.weight"),
)


def tensor_names(layers: int) -> tuple[list[str], list[str]]:
    """Names of a GPT-Neo's vectors and of its matrices, in the order in which they are packed."""
    blocks = range(layers)
    vectors = [f"h.{i}.{name}" for i in blocks for name in _LAYER_VECTORS]
    matrices = [f"h.{i}.{name}" for i in blocks for name in _LAYER_MATRICES]
    return [*vectors, "ln_f.weight", "ln_f.bias"], ["wte.weight", "wpe.weight", *matrices]


def attention_layers(config: Mapping[str, Any]) -> list[str]:
    """``global`` or ``local`` for each layer, from ``attention_types`` as transformers reads it."""
    types = config.get("attention_types") or [[["global", "local"], 12]]
    return [kind for kinds, times in types for _ in range(times) for kind in kinds]


def read_weights(folder: Path, names: Sequence[str]) -> Weights:
    """The tensors of ``folder/model.safetensors`` in float32, without the prefix ``transformer.``.

    Raises:
        ValueError: a tensor is missing.
    """
    from safetensors import safe_open

    path = folder / "model.safetensors"
    with safe_open(path, framework="np") as file:
        stored = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    bfloat16 = "BF16" in stored.values()  # which numpy lacks; torch is slow to import
    found = {}
    with safe_open(path, framework="pt" if bfloat16 else "np") as file:
        for name in names:
            key = f"transformer.{name}" if f"transformer.{name}" in stored else name
            if key not in stored:
                raise ValueError(f"{path}: no tensor {key}; expected the weights of a GPT-Neo")
            tensor = file.get_tensor(key)
            found[name] = np.asarray(tensor.float() if bfloat16 else tensor, dtype=np.float32)
    return found


def quantise(matrix: NDArray[np.float32], levels: int) -> tuple[NDArray[np.int8], Any]:
    """Codes in −levels … levels and one float32 scale a row: the row's largest value has the last code."""
    scales = np.abs(matrix).max(axis=1) / np.float32(levels)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.rint(matrix / divisors).astype(np.int8), scales.astype(np.float32)


def quantise_base(base: Weights, matrices: Sequence[str]) -> tuple[Codes, Weights]:
    """int8 codes of the base's matrices, and the weights that they stand for."""
    codes = {name: quantise(base[name], 127) for name in matrices}
    return codes, base | {name: q * scale[:, None] for name, (q, scale) in codes.items()}


def quantise_policy(
    policy: Weights, base: Weights, packed_base: Weights, matrices: Sequence[str]
) -> tuple[Codes, Weights]:
    """Codes in −5 … 5 of policy − base, and the weights: those of the packed base plus these.

    Four bits hold −8 … 7, but fewer levels deflate better, at hardly any loss of accuracy: the
    base's rounding outweighs that of the differences.
    """
    codes = {name: quantise(policy[name] - base[name], 5) for name in matrices}
    unpacked = {name: packed_base[name] + q * scale[:, None] for name, (q, scale) in codes.items()}
    return codes, policy | unpacked


def pack(weights: Weights, codes: Codes, vectors: Sequence[str], bits: int) -> bytes:
    """Deflated bytes: vectors, scales (float32, little-endian), then the codes of every matrix.

    8-bit codes are two's complement; 4-bit codes are stored plus 8, the first in the low half.
    """
    floats = [weights[name].ravel() for name in vectors] + [scale for _, scale in codes.values()]
    flat = np.concatenate([q.ravel() for q, _ in codes.values()])
    if bits == 4:
        halves = np.append(flat, np.zeros(flat.size % 2, np.int8)) + 8
        flat = (halves[::2] | halves[1::2] << 4).astype(np.uint8)
    return zlib.compress(np.concatenate(floats).astype("<f4").tobytes() + flat.tobytes(), 6)


def log_probabilities(
    weights: Weights, config: Mapping[str, Any], ids: Sequence[int]
) -> NDArray[np.float64]:
    """log p of every next token after each prefix of ``ids``: (len(ids), vocabulary), nats.

    GPT-Neo as transformers computes it: attention is not scaled by 1/√(head width), and a local
    layer sees the last ``window_size`` tokens.
    """
    length, heads = len(ids), config["num_heads"]
    width = config["hidden_size"]
    back = np.arange(length)[:, None] - np.arange(length)
    x = weights["wte.weight"][list(ids)] + weights["wpe.weight"][:length]

    def norm(values: NDArray[Any], name: str) -> NDArray[Any]:
        centred = values - values.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(values: NDArray[Any], name: str) -> NDArray[Any]:
        product = values @ weights[f"{name}.weight"].T
        return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product

    def by_head(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(length, heads, width // heads).transpose(1, 0, 2)

    for i, kind in enumerate(attention_layers(config)):
        y, block = norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.attention"
        q, k, v = (by_head(linear(y, f"{block}.{name}_proj")) for name in "qkv")
        reach = config["window_size"] if kind == "local" else length
        scores = np.where((back >= 0) & (back < reach), q @ k.transpose(0, 2, 1), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(length, width), f"{block}.out_proj")
        y = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        x = x + linear(_activate(y, config["activation_function"]), f"h.{i}.mlp.c_proj")
    logits = (norm(x, "ln_f") @ weights["wte.weight"].T).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _activate(x: NDArray[Any], function: str) -> NDArray[Any]:
    """GELU, exact (``gelu``) or by its tanh approximation (``gelu_new``)."""
    if function == "gelu":
        from scipy.special import erf

        return 0.5 * x * (1 + erf(x * 0.5**0.5))
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def tolerance(
    exact: NDArray[np.float64],
    packed: NDArray[np.float64],
    exact_base: NDArray[np.float64],
    packed_base: NDArray[np.float64],
    least: float = 0.01,
) -> dict[str, float]:
    """How far packed weights are off, over log-probabilities ``(states, vocabulary)``, nats.

    Returns:
        ``log_prob``: the largest difference of log π, of tokens that either gives ``least`` or more;
        ``log_prob_any``: the same of all tokens; ``log_ratio``: that of log π − log p_base, as
        ``log_prob``; ``top_probability``: the largest difference in the probability of the exact
        model's likeliest token; ``same_top``: share of states with the same likeliest token.
    """
    likely = np.maximum(exact, packed) >= np.log(least)
    difference = np.abs(exact - packed)
    ratio = np.abs((exact - exact_base) - (packed - packed_base))
    top = exact.argmax(1)
    states = np.arange(len(top))
    return {
        "log_prob": float(difference[likely].max()),
        "log_prob_any": float(difference.max()),
        "log_ratio": float(ratio[likely].max()),
        "top_probability": float(
            np.abs(np.exp(exact[states, top]) - np.exp(packed[states, top])).max()
        ),
        "same_top": float((packed.argmax(1) == top).mean()),
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
