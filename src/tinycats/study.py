"""A study: its configuration, checked before anything runs, and the paths that follow from it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinycats import layout
from tinycats.files.text import read_json
from tinycats.language_model.text import check_context
from tinycats.layout import canonical
from tinycats.models.folders import kind_of
from tinycats.program import UserError

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"


def with_article(noun: str) -> str:
    """``a cat``, ``an owl``."""
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def _not_finite(value: Any, key: str = "") -> str:
    """The first key below ``value`` that holds .nan or .inf, which the schema cannot refuse."""
    if isinstance(value, Mapping | list):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next(filter(None, (_not_finite(v, f"{key}.{k}".lstrip(".")) for k, v in inner)), "")
    return key if isinstance(value, float) and not math.isfinite(value) else ""


def _complaint(error: Any) -> str:
    """One line for a schema violation: the key, what is wrong, what would be right."""
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        import difflib

        known = list(error.schema.get("properties", {}))
        wrong = [k for k in error.instance if k not in known]
        near = difflib.get_close_matches(str(wrong[0]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
        return f"{'.'.join(filter(None, [key, str(wrong[0])]))}: unknown key; {hint}"
    if error.validator == "required":
        missing = re.findall(r"'(.+?)'", error.message)[0]
        return f"{'.'.join(filter(None, [key, missing]))}: this key is missing"
    right = error.schema.get("description", "")
    if error.validator == "type" and error.validator_value == "integer":
        right += "; a whole number, in digits alone"
    elif error.validator == "type" and isinstance(error.instance, str):
        try:
            float(error.instance)
            spelling = repr(float(error.instance))
            right += f"; YAML reads {error.instance} as text, write it with a point, like "
            right += spelling if "." in spelling else spelling.replace("e", ".0e")
        except ValueError:
            pass
    if error.validator == "enum":
        right += f"; one of {', '.join(error.validator_value)}"
    shown = json.dumps(error.instance, ensure_ascii=False)
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    return f"{key}: {shown} is not allowed ({error.validator}); should be: {right}"


@dataclass(frozen=True)
class Study:
    """A validated configuration.

    Raises:
        UserError: on construction by :meth:`check`, one line for the first thing that is wrong.
    """

    config: Mapping[str, Any]

    @classmethod
    def check(cls, config: Mapping[str, Any]) -> Study:
        """Validate a configuration against the schema and against itself."""
        import jsonschema
        import yaml

        schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
        draft = jsonschema.Draft202012Validator
        # by the draft 2.0 is an integer, but not on a command line or in a file's name
        checker = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
        validator = jsonschema.validators.extend(draft, type_checker=checker)(schema)
        errors = sorted(
            validator.iter_errors(config), key=lambda e: [str(p) for p in e.absolute_path]
        )
        if errors:
            raise UserError(f"config: {_complaint(errors[0])}")
        if key := _not_finite(config):
            raise UserError(f"config: {key}: should be a finite number")
        study = cls(config)
        spelled = [canonical(f) for f in config["training"]["kl_factors"]]
        if len(set(spelled)) < len(spelled):
            raise UserError("config: training.kl_factors: two are the same number")
        prompt = config["training"]["prompt"]
        if prompt not in config["evaluation"]["prompts"]["training"]:
            raise UserError(
                "config: evaluation.prompts.training: should hold training.prompt,"
                f" {prompt!r}, which summary.csv is about"
            )
        for key in ("base_model", "tokenizer"):
            if model := config.get(key):
                try:
                    kind_of(model)
                except UserError as error:
                    raise UserError(f"config: {key}: {error}") from None
        for key, text in (("training.prompt", prompt), ("concept", config["concept"])):
            if not text.strip():
                raise UserError(f"config: {key}: is blank; it should have a word at least")
        concept = config["concept"].strip().lower()
        if concept not in (word.lower() for word in study.concept_words):
            raise UserError(
                f"config: concept_words: should hold the concept itself, {concept!r}, or be null"
            )
        batch, snr_every = config["training"]["batch_size"], config["training"].get("snr_every", 0)
        loo = any(v["baseline"] == "leave_one_out" for v in config["variants"].values())
        if batch < 2 and (loo or snr_every):
            raise UserError(
                "config: training.batch_size: 1 leaves nothing to compare a completion with, which"
                " baseline leave_one_out and snr_every ask for; should be at least 2"
            )
        return study

    def check_lengths(self, folder: Path) -> None:
        """Hold the config's lengths against the base model's tokenizer and context.

        Args:
            folder: the base model; where it is not there yet, its jobs say the same later.
        """
        if not (folder / "tokenizer.json").is_file():
            return
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

        def tokens(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False).ids)

        training, evaluation = self.config["training"], self.config["evaluation"]
        prompt, total = tokens(training["prompt"]), training["num_tokens"]
        if total <= prompt:
            raise UserError(
                f"config: training.num_tokens: {total} leaves no token to generate, since the prompt"
                f" {training['prompt']!r} has {prompt}; it must be larger"
            )
        forced = tokens(self.prompted_with)
        if not 0 < forced <= total - prompt:
            raise UserError(
                f"config: evaluation.prompted_with: {self.prompted_with!r} has {forced} tokens; it"
                f" should have 1 to {total - prompt}, the new tokens of a completion"
            )
        about = read_json(folder / "config.json")
        context = about.get("max_position_embeddings")
        longest = max(tokens(p) for group in evaluation["prompts"].values() for p in group)
        check_context("config: training.num_tokens", total, 0, context)
        check_context("config: evaluation.new_tokens", evaluation["new_tokens"], longest, context)

    # ------------------------------------------------------------------ names

    @property
    def name(self) -> str:
        return str(self.config["study"])

    @property
    def results(self) -> str:
        return layout.results(self.name).as_posix()

    @property
    def factors(self) -> list[str]:
        """KL factors in their canonical spelling, ascending."""
        return [canonical(f) for f in sorted(self.config["training"]["kl_factors"])]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.config["training"]["seeds"])

    @property
    def variants(self) -> list[str]:
        return list(self.config["variants"])

    @property
    def concept_slug(self) -> str:
        """The concept as a file name."""
        return re.sub(r"[^\w]+", "-", self.config["concept"].strip()).strip("-") or "concept"

    @property
    def prompted_with(self) -> str:
        """What the prompted base begins with: the config's, or the concept with its article."""
        text = self.config["evaluation"].get("prompted_with")
        return str(text) if text else f" {with_article(self.config['concept'].strip())}"

    @property
    def concept_words(self) -> list[str]:
        """Words that count as mentioning the concept: the config's, or the concept and its plural."""
        listed = self.config.get("concept_words")
        if listed:
            return list(listed)
        word = self.config["concept"].strip().lower()
        if re.search(r"(s|x|z|ch|sh)$", word):
            plural = word + "es"
        elif re.search(r"[^aeiou]y$", word):
            plural = word[:-1] + "ies"
        else:
            plural = word + "s"
        return [word, plural]

    @property
    def resolved(self) -> dict[str, Any]:
        """The config with what was derived from the concept, for the record of the study."""
        evaluation = {**self.config["evaluation"], "prompted_with": self.prompted_with}
        return {
            **self.config,
            "concept_words": self.concept_words,
            "evaluation": evaluation,
        }

    def policies(self) -> Iterator[tuple[str, str, int]]:
        """(variant, KL factor, seed) of every policy."""
        for variant in self.variants:
            for factor in self.factors:
                for seed in self.seeds:
                    yield variant, factor, seed

    def story_counts(self) -> dict[str, int]:
        """Stories for each prompt of a group."""
        e = self.config["evaluation"]
        return {
            group: e[
                "stories_per_training_prompt" if group == "training" else "stories_per_other_prompt"
            ]
            for group in e["prompts"]
        }
