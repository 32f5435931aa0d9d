"""Text and token ids: one encoding of prompts, one decoding of the rewarded text, one length check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinycats.program import UserError


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that follows a prompt, such as a forced beginning: no special tokens."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts in front of a text.

    Llama's ``<s>`` is kept, as the post's ``tokenizer.encode(prompt)`` keeps it. A token that the
    tokenizer adds at the end (BERT's ``[SEP]``, T5's ``</s>``) is not: a completion goes on there.
    """
    return with_front(list(tokenizer(text).input_ids), encode(tokenizer, text))


def with_front(whole: Sequence[int], text: Sequence[int]) -> list[int]:
    """The tokens of ``text`` and those before them in ``whole``, which has special tokens around."""
    for front in range(len(whole) - len(text) + 1):
        if list(whole[front : front + len(text)]) == list(text):
            return list(whole[: front + len(text)])
    return list(text)  # the special tokens changed how the text itself is split


def decode(tokenizer: Any, ids: Sequence[int], special_tokens: bool = False) -> str:
    """Text of token ids as the model wrote it, spaces included; by default without special tokens."""
    return str(
        tokenizer.decode(
            list(ids),
            skip_special_tokens=not special_tokens,
            clean_up_tokenization_spaces=False,
        )
    )


def rewarded_texts(
    tokenizer: Any, prompt_ids: Sequence[int], completions: Sequence[Sequence[int]]
) -> list[str]:
    """:func:`rewarded_text` of each completion; one call where the tokenizer decodes as usual."""
    rows = [[*prompt_ids, *ids] for ids in completions]
    from transformers import PreTrainedTokenizerFast

    if getattr(type(tokenizer), "_decode", None) is not PreTrainedTokenizerFast._decode:
        return [decode(tokenizer, row) for row in rows]
    return list(tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=True))


def rewarded_text(tokenizer: Any, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> str:
    """The text that the reward and the scores read: prompt and new tokens, no special tokens."""
    return decode(tokenizer, [*prompt_ids, *new_ids])


def check_prompt(prompt: str) -> None:
    """Check that a prompt from the command line is text.

    Raises:
        UserError: it is empty, or has bytes that are not UTF-8.
    """
    if not prompt:
        raise UserError("the prompt is empty; it should have a word at least, such as Once")
    try:
        prompt.encode()
    except UnicodeEncodeError:  # Python reads such bytes as halves of surrogate pairs
        raise UserError(f"the prompt {prompt[:80]!a} is not UTF-8 text") from None


def check_context(key: str, value: int, prompt_tokens: int, context: float | None) -> None:
    """Check that a prompt and the tokens after it fit into a model's context window.

    Args:
        key: the setting or option, for the message.
        value: its value, the number of tokens after the prompt.
        prompt_tokens: tokens of the longest prompt.
        context: ``max_position_embeddings`` of the model; None if it has no limit.

    Raises:
        UserError: they do not fit.
    """
    if context is not None and prompt_tokens + value > context:
        prompt = f" with a prompt of {prompt_tokens} tokens" if prompt_tokens else ""
        most = context - prompt_tokens
        hint = f"at most {most} will do" if most > 0 else "the prompt must be shorter"
        raise UserError(
            f"{key}: {value}{prompt} is more than the model's context of {context} tokens; {hint}"
        )


def context_of(model: Any) -> int | None:
    """The most tokens that a transformers model can read, or None if its config has no limit.

    Raises:
        UserError: the config has something else than a number.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and type(context) is not int:
        raise UserError(
            f"max_position_embeddings in the model's config.json: {context!r} found, expected a"
            " whole number"
        )
    return context
