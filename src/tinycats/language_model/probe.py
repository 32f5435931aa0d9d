"""A check that a model computes on a prefix tree what it computes by a plain forward pass.

transformers has hundreds of architectures. Whether one works here (its head, its cache, its masks
and positions) is measured and not read from a list: a few rows of varied tokens are computed as
training and stories compute them, and compared with the model's own forward pass.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tinycats.language_model.cache import growing_cache
from tinycats.language_model.head import Head, heads
from tinycats.program import UserError

#: Tokens that all rows share, tokens of each row after them, rows.
PROMPT, REST, ROWS = 4, 4, 4
#: log π may differ by this, in nats, and by this part of its size: rounding is some 1e-5.
ABSOLUTE, RELATIVE = 1e-3, 1e-4
#: No trained model has a log-probability below; one that diverged reaches −1e9.
LEAST_LOG_PROBABILITY = -1e4


def name_of(model: Any) -> str:
    """A model in messages: its folder, where it has one, and its class."""
    folder = getattr(model, "name_or_path", "")
    return f"{folder} ({type(model).__name__})" if folder else type(model).__name__


def check_parts(model: Any) -> nn.Linear:
    """The linear layer of the model's head, after checks that need no forward pass.

    Raises:
        UserError: the model keeps no keys and values of past tokens, or has no linear head.
    """
    parameters = inspect.signature(model.base_model.forward).parameters
    if getattr(model, "_is_stateful", False) or "past_key_values" not in parameters:
        raise UserError(
            f"{name_of(model)} does not read past tokens as keys and values alone (past_key_values),"
            " which completions with a common beginning share; only models that do are supported"
            " (GPT-2, GPT-Neo, Llama, Qwen3 …)"
        )
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise UserError(f"{name_of(model)} has no linear head from hidden states to logits")
    return linear


def probe_ids(model: Any, vocabulary: int) -> Tensor:
    """Fixed token ids ``(ROWS, PROMPT + REST)`` over the whole vocabulary, special ones among them.

    All rows begin alike, and each pair of rows shares one more token.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (ROWS, PROMPT + REST), generator=generator)
    config = model.config.get_text_config(decoder=True)
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    for column, name in enumerate(names):
        special = getattr(config, name, None)
        if isinstance(special, int) and 0 <= special < vocabulary:
            ids[0, column] = ids[1, PROMPT + 1 + column] = special
    ids[:, :PROMPT] = ids[0, :PROMPT]
    ids[1::2, PROMPT] = ids[::2, PROMPT]
    return ids


def check(network: Any) -> Head:
    """The network's head, after a comparison of every way it is used with the plain forward pass.

    Args:
        network: a :class:`~tinycats.language_model.network.Network` whose head is not known yet; the
            one found is set.

    Raises:
        UserError: log-probabilities differ, weights are not finite, the model reads later tokens,
            or it cannot be computed like this at all.
    """
    model, name = network.model, name_of(network.model)
    linear = check_parts(model)
    try:
        return _check(network, linear, name)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the code of any of transformers' models
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{name} cannot be computed on a tree of prefixes: {type(error).__name__}: {reason}"
        ) from error


@torch.inference_mode()
def _check(network: Any, linear: nn.Linear, name: str) -> Head:
    model, device = network.model, network.device
    vocabulary = min(linear.out_features, model.get_input_embeddings().weight.shape[0])
    ids = probe_ids(model, vocabulary).to(device)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % vocabulary
    plain, other_end = _plain(model, torch.cat([ids, changed])).chunk(2)
    _check_finite(model, plain, name)
    if not _close(other_end[:, :-1], plain[:, :-1]):
        raise UserError(
            f"{name} reads tokens after the one it predicts: not a causal model (a BERT needs"
            " is_decoder: true in config.json)"
        )
    hidden = network.forward(ids, [])[0]
    for head in heads(linear, model.config):
        if _close(torch.log_softmax(head(hidden).float(), -1), plain):
            break
    else:
        raise UserError(
            f"{name} has other logits than its output layer gives for its last hidden state; only a"
            " linear output layer, a constant scale and a soft cap (final_logit_softcapping) are"
            " supported"
        )
    network.head = head
    for way, found, expected in (
        ("on a tree of prefixes", _tree(network, ids), plain[:, PROMPT - 1 :]),
        ("with a growing cache", _growing(network, ids), plain[1:, PROMPT - 1 :]),
    ):
        if not _close(found, expected):
            error = float((found - expected).abs().max())
            raise UserError(
                f"{name} has other log-probabilities {way} than by its own forward pass, by up to"
                f" {error:.2g} nats; this architecture is not supported"
            )
    return head


def _plain(model: Any, ids: Tensor) -> Tensor:
    """log π at each token by the model's own forward pass, ``(rows, length, vocabulary)``."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return torch.log_softmax(logits.float(), dim=-1)


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE)


def _check_finite(model: Any, plain: Tensor, name: str) -> None:
    """Check that weights and log-probabilities are those of a model that did not diverge."""
    for parameter, value in model.named_parameters():
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{name}: weights that are not finite (NaN or infinite), the first in {parameter};"
                " the file is damaged, or training diverged (a smaller training.learning_rate helps)"
            )
    least = float(plain.min())
    if not least > LEAST_LOG_PROBABILITY:
        raise UserError(
            f"{name}: log-probabilities down to {least:.2g} nats; should be above"
            f" {LEAST_LOG_PROBABILITY:.0f}; training diverged (a smaller training.learning_rate"
            " helps)"
        )


def _tree(network: Any, ids: Tensor) -> Tensor:
    """log π from the prompt's last token on, by the levels of a tree: prompt, one token, the rest."""
    hidden = []
    first, prompt = network.forward(ids[:1, :PROMPT], [])
    hidden.append(first[:, -1:].expand(len(ids), -1, -1))
    pairs = ids[::2, PROMPT : PROMPT + 1]
    past = [tuple([part.expand(len(pairs), -1, -1, -1)] for part in block) for block in prompt]
    second, level = network.forward(pairs, past)
    parent = torch.arange(len(ids), device=ids.device) // 2
    hidden.append(second[parent])
    past = [
        tuple(
            [above.expand(len(ids), -1, -1, -1), below.index_select(0, parent)]
            for above, below in zip(*blocks, strict=True)
        )
        for blocks in zip(prompt, level, strict=True)
    ]
    hidden.append(network.forward(ids[:, PROMPT + 1 :], past)[0])
    return network.log_probabilities(torch.cat(hidden, dim=1))


def _growing(network: Any, ids: Tensor) -> Tensor:
    """The same of all rows but the first, token by token; the first row leaves after two."""
    cache = growing_cache(ids.shape[1])
    found = [network.next_log_probabilities(ids[:, :PROMPT], cache)[1:]]
    found.append(network.next_log_probabilities(ids[:, PROMPT : PROMPT + 1], cache)[1:])
    cache.batch_select_indices(torch.arange(1, len(ids), device=ids.device))
    for column in range(PROMPT + 1, ids.shape[1]):
        found.append(network.next_log_probabilities(ids[1:, column : column + 1], cache))
    return torch.stack(found, dim=1)
