"""The playground: one offline page in which a study's base model and policies tell stories.

The page holds the models themselves (:mod:`tinycats.report.packed_model`) and runs them in
JavaScript. It loads nothing from anywhere, like the report. Template, style and scripts:
workflow/report/playground*.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from tinycats.layout import BLOG_FACTOR, TEMPLATES
from tinycats.report import packed_model as packed

LIMIT = 16_000_000  # bytes of the page: what a browser opens and a mail attachment holds

#: Texts at whose every token the packed models are compared with the exact ones.
MEASURED_ON = (
    "Once upon a time there was a little cat named Tom. He lived in a big house with a girl called"
    " Lily. One day, Tom saw a bird in the garden. He wanted to play, but the bird flew away. Tom"
    ' was sad. "Do not be sad," said Lily. "We can play with the ball." They played all day.',
    "There are no cats in this story. In a big forest there lived a bear who liked honey. He found"
    ' a hole in a tree, and in it was a lot of honey. A bee said, "Please do not take it all!"',
    "Tom and Lily were playing in the park when it began to rain.",
)


def why_none(base: Path) -> str | None:
    """Why there can be no playground for a base model, in one sentence, or None."""
    config = packed.read_json(base / "config.json")
    if config.get("model_type") != "gpt_neo":
        return (
            "The playground runs GPT-Neo models only; this study's base model is"
            f" {config.get('model_type')}."
        )
    if config.get("activation_function") not in packed.ACTIVATIONS:
        return (
            f"The playground supports the activation functions {' and '.join(packed.ACTIVATIONS)};"
            f" this study's base model uses {config.get('activation_function')}."
        )
    if not config.get("tie_word_embeddings", True):
        return "The playground needs tied input and output embeddings, which this base model lacks."
    if (base / "model.safetensors").stat().st_size > 4 * LIMIT:  # 4 bytes a weight, at most
        return _too_large((base / "model.safetensors").stat().st_size, "weights")
    return _unsupported_tokenizer(packed.read_json(base / "tokenizer.json"))


def _unsupported_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Only what GPT-2 and GPT-Neo use: byte-level BPE and nothing around it."""
    model, pre = tokenizer["model"], tokenizer.get("pre_tokenizer") or {}
    plain = (
        model.get("type") == "BPE"
        and pre.get("type") == "ByteLevel"
        and pre.get("use_regex", True)
        and not pre.get("add_prefix_space")
        and not tokenizer.get("normalizer")
        and not any(model.get(key) for key in ("dropout", "ignore_merges", "byte_fallback"))
        and not any(
            token[flag]
            for token in tokenizer.get("added_tokens", [])
            for flag in ("single_word", "lstrip", "rstrip")
        )
    )
    if plain:
        return None
    return (
        "The playground needs a byte-level BPE tokenizer as GPT-2 has; this base model's differs."
    )


def _too_large(size: int, what: str) -> str:
    return (
        f"The playground holds its models in the page, at most {LIMIT / 1e6:.0f} MB; this study's"
        f" {what} take {size / 1e6:.0f} MB."
    )


def tokenizer_tables(folder: Path) -> dict[str, Any]:
    """What the page encodes with: ``vocabulary`` by id, ``merges`` as left, right and merged id,
    flat and in order of rank, and ``added`` tokens, which text may hold literally, with their ids."""
    from tokenizers import Tokenizer

    tokenizer = packed.read_json(folder / "tokenizer.json")
    ids: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    vocabulary = [""] * (max(ids.values()) + 1)
    for token, number in ids.items():
        vocabulary[number] = token
    merges: list[int] = []
    for merge in tokenizer["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges += [ids[left], ids[right], ids[left + right]]
    return {
        "vocabulary": vocabulary,
        "merges": merges,
        "added": {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])},
    }


def pack_models(base: Path, policies: Mapping[str, Path]) -> tuple[dict[str, Any], list[str]]:
    """The models' description for the page, and base64 of each: the base, then every policy.

    Args:
        base: folder of the base model.
        policies: folder of each policy by its KL factor.
    """
    from tokenizers import Tokenizer

    config = packed.read_json(base / "config.json")
    attention = packed.attention_layers(config)
    vectors, matrices = packed.tensor_names(len(attention))
    exact_base = packed.read_weights(base, [*vectors, *matrices])
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    texts = [tokenizer.encode(text).ids for text in MEASURED_ON]
    texts = [ids[: config["max_position_embeddings"]] for ids in texts]

    def predict(weights: packed.Weights) -> Any:
        return np.concatenate([packed.log_probabilities(weights, config, ids) for ids in texts])

    codes, base_weights = packed.quantise_base(exact_base, matrices)
    packs = [packed.pack(base_weights, codes, vectors, 8)]
    exact, rounded = predict(exact_base), predict(base_weights)
    measured = [packed.tolerance(exact, rounded, exact, rounded)]
    for folder in policies.values():
        policy = packed.read_weights(folder, [*vectors, *matrices])
        codes, weights = packed.quantise_policy(policy, exact_base, base_weights, matrices)
        packs.append(packed.pack(weights, codes, vectors, 4))
        measured.append(packed.tolerance(predict(policy), predict(weights), exact, rounded))
    about = {
        "config": {
            "attention": attention,
            "heads": config["num_heads"],
            "width": config["hidden_size"],
            "context": config["max_position_embeddings"],
            "window": config.get("window_size", 256),
            "epsilon": config["layer_norm_epsilon"],
            "activation": config["activation_function"],
            "end": config.get("eos_token_id", 50256),
        },
        "vectors": [[name, len(exact_base[name])] for name in vectors],
        "matrices": [[name, *exact_base[name].shape] for name in matrices],
        "factors": list(policies),
        "tolerance": measured,
        "states": len(exact),
        "parameters": sum(weight.size for weight in exact_base.values()),
    }
    return about, [base64.b64encode(pack).decode() for pack in packs]


def first_factor(factors: Sequence[str]) -> str:
    """The KL factor shown first: the post's, else the smallest positive one, else the first."""
    positive = [factor for factor in factors if float(factor) > 0]
    return BLOG_FACTOR if BLOG_FACTOR in factors else (positive or list(factors))[0]


def render(
    study: str,
    prompt: str,
    base: Path,
    policies: Mapping[str, Path],
    report: str = "report.html",
) -> str:
    """The page, complete; where the models cannot run in it, a page that says why.

    Args:
        study: the study's name.
        prompt: what the prompt field holds at first.
        base: folder of the base model, shown by its name.
        policies: folder of each policy by its KL factor, smallest first; one at least.
        report: address of the study's report, for a link.
    """
    # a Hub model's folder is named organisation--name
    base_model, reason = base.resolve().name.replace("--", "/"), why_none(base)
    heading = {"study": study, "base_model": base_model, "report": report}
    if reason:
        return _page(**heading, reason=reason)
    about, packs = pack_models(base, policies)
    about |= tokenizer_tables(base) | {"first": first_factor(about["factors"])}
    names = ["base", *(f"KL {factor}" for factor in policies)]
    page = _page(
        **heading,
        reason=None,
        prompt=prompt,
        about=about,
        packs=packs,
        tolerance=list(zip(names, about["tolerance"], strict=True)),
        texts=MEASURED_ON,
    )
    size = len(page.encode())
    if size > LIMIT:
        return _page(**heading, reason=_too_large(size, "models, packed,"))
    return page


def _page(**values: Any) -> str:
    def read(*names: str) -> str:
        return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)

    script = read("playground_model.js", "playground.js")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("playground.html.j2").render(
        **values,
        style=Markup(read("report.css", "playground.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
