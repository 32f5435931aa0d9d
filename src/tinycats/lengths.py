"""The lengths of a study, held against its base model's tokenizer and context before anything runs."""

from __future__ import annotations

from pathlib import Path

from tinycats.files.text import read_json
from tinycats.language_model.text import check_context, with_front
from tinycats.program import UserError
from tinycats.settings import shown_in_line
from tinycats.study import Study


def check_lengths(study: Study, folder: Path) -> str:
    """Hold the config's lengths against the base model's tokenizer and context.

    Args:
        study: the checked config.
        folder: the base model; where it is not there yet, or its tokenizer or config.json cannot be
            read, the jobs that read it say so.

    Returns:
        What the study goes without, in words; or nothing.

    Raises:
        UserError: a length does not fit; names the key.
    """
    from tokenizers import Tokenizer

    training, evaluation = study.training, study.evaluation
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        context = read_json(folder / "config.json").get("max_position_embeddings")

        def prompt_tokens(text: str) -> int:
            whole, own = (tokenizer.encode(text, add_special_tokens=s).ids for s in (True, False))
            return len(with_front(whole, own))

        text = str(evaluation.prompted_with)
        forced = len(tokenizer.encode(text, add_special_tokens=False).ids)
        lengths = list(map(prompt_tokens, training.prompts))
        longest = max(prompt_tokens(p) for group in evaluation.prompts.values() for p in group)
    except Exception:  # the library raises nothing more specific
        return ""
    if not (context is None or type(context) is int):
        return ""
    prompt, total = max(lengths), training.num_tokens
    if total <= prompt:
        shown = shown_in_line(training.prompts[lengths.index(prompt)])
        raise UserError(
            f"config: training.num_tokens: {total} leaves no token to generate, since the prompt"
            f" {shown} has {prompt}; it must be larger"
        )
    for name, variant in study.variants.items():
        if (own := max(lengths[: variant.prompts])) < prompt:
            raise UserError(
                f"config: variants.{name}.prompts: the longest of these prompts has {own} tokens,"
                f" of all training.prompts {prompt}, so its completions would be longer; expected"
                f" a prompt of {prompt} tokens among the first {variant.prompts}"
            )
    check_context("config: training.num_tokens", total, 0, context)
    check_context("config: evaluation.new_tokens", evaluation.new_tokens, longest, context)
    if forced <= total - prompt:
        return ""
    return (
        f"evaluation.prompted_with: {shown_in_line(text)} has {forced} tokens, a completion has"
        f" {total - prompt}; so the prompted base is left out where completions are compared"
    )
