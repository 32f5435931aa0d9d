"""A study: its configuration, checked before anything runs, and the names that follow from it.

``python -m tinycats.study > workflow/schemas/config.schema.yaml`` writes the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tinycats import layout, settings
from tinycats.completions.settings import CountSettings
from tinycats.compute.settings import MachineSettings
from tinycats.files.text import read_json
from tinycats.frontier.settings import FrontierSettings
from tinycats.language_model.text import check_context, with_front
from tinycats.layout import canonical
from tinycats.models.folders import kind_of
from tinycats.policies.settings import TrainingBlock, TrainingSettings, VariantSettings
from tinycats.program import UserError
from tinycats.reward.settings import JudgeSettings, RewardSettings, check_judges
from tinycats.schema import schema
from tinycats.settings import setting
from tinycats.stories.settings import BaseStoriesSettings, OpeningCountSettings

T = TypeVar("T")
LONGEST_WORDS = 10_000  # characters of all concept words: they become part of a command
LONGEST_SLUG = 50  # characters: at most 200 bytes of the 255 that a file's name may have


def with_article(noun: str) -> str:
    """``a cat``, ``an owl``."""
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def words_of(concept: str) -> tuple[str, ...]:
    """A concept and its plural by English spelling, in lower case."""
    word = concept.strip().lower()
    if re.search(r"(s|x|z|ch|sh)$", word):
        plural = word + "es"
    elif re.search(r"[^aeiou]y$", word):
        plural = word[:-1] + "ies"
    else:
        plural = word + "s"
    return word, plural


@dataclass(frozen=True, kw_only=True)
class EvaluationBlock(FrontierSettings, CountSettings, OpeningCountSettings, BaseStoriesSettings):
    """The config's block ``evaluation``: the settings of the stages that measure."""


@dataclass(frozen=True, kw_only=True)
class Study(MachineSettings):
    """A checked configuration, as :meth:`check` makes it.

    ``concept_words`` and ``evaluation.prompted_with`` hold what follows from the concept where the
    config has null. The order of keys in the config decides nothing: variants and groups of prompts
    are in one order, KL factors and seeds ascend, and the training prompt is the first of its group.
    """

    study: str = setting(
        help="names the folder results/<study>/",
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*",
        spelled="letters, digits, dot, dash and underscore",
        longest=settings.LONGEST_NAME,
    )
    base_model: str = setting(
        help="nano (shipped), a Hub id such as roneneldan/TinyStories-33M, or a folder",
        longest=settings.LONGEST_TEXT,
    )
    base_model_revision: str | None = setting(
        None,
        "commit of a Hub model; null records the one found first in config/pins.yaml",
        longest=settings.LONGEST_TEXT,
    )
    tokenizer: str | None = setting(
        None,
        "Hub id or folder of the tokenizer; null for the base model's own",
        longest=settings.LONGEST_TEXT,
    )
    tokenizer_revision: str | None = setting(
        None, "commit of a Hub tokenizer", longest=settings.LONGEST_TEXT
    )
    reward: RewardSettings = setting(
        RewardSettings(),
        "what policies are trained on: similarity (to the concept, by reward_encoder), or a block",
    )
    judges: tuple[JudgeSettings, ...] | None = setting(
        None, "further rewards that are measured and not trained on; null for none"
    )
    reward_encoder: str = setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "the sentence encoder of the reward `similarity`, a Hub id or a folder",
        longest=settings.LONGEST_TEXT,
    )
    reward_encoder_revision: str | None = setting(
        None, "commit of the encoder on the Hub", longest=settings.LONGEST_TEXT
    )
    reward_encoder_sources: tuple[str, ...] = setting(
        ("package", "hub"),
        "where to look for the Hub id of the encoder, in order: package, hub, or a folder",
        longest=settings.LONGEST_TEXT,
    )
    concept: str = setting(
        help="what stories should be about, a word or a few", longest=settings.LONGEST_TEXT
    )
    concept_words: tuple[str, ...] | None = setting(
        None,
        "words that count as mentioning the concept; null for the concept and its plural",
        longest=settings.LONGEST_TEXT,
    )
    training: TrainingBlock = setting(help="how policies are trained")
    variants: Mapping[str, VariantSettings] = setting(
        help="training settings by name, each trained at every KL factor and seed",
        first=layout.FIRST_VARIANT,
    )
    evaluation: EvaluationBlock = setting(help="what is measured")
    device: str = setting(  # a study is tested on these alone; by hand, any device of torch
        "auto",
        "where to compute; auto: a free GPU if there is one, else the CPU",
        pattern=r"auto|cpu|cuda(:[0-9]+)?",
        spelled="auto, cpu, cuda or cuda:1",
    )
    pretrain: Any = setting(
        None, "the story model's own recipe (config/pretrain.yaml), used by pretrain alone"
    )

    @classmethod
    def check(cls, config: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Study:
        """Check a configuration against the fields and against itself.

        Args:
            config: as Snakemake merges it.
            given: the part of it from the command line, where values inside a block are texts.

        Raises:
            UserError: one line for the first thing that is wrong.
        """
        try:
            merged = _merged(config, settings.typed(cls, given or {}))
            _check_names(merged.get("variants"))
            study = settings.check(cls, merged)
            study._check_itself()
        except UserError as error:
            raise UserError(f"config: {error}") from None
        evaluation = study.evaluation
        prompts = dict(evaluation.prompts)
        prompts["training"] = tuple(
            sorted(prompts["training"], key=lambda text: text != study.training.prompt)
        )
        forced = evaluation.prompted_with or f" {with_article(study.concept.strip())}"
        return replace(
            study,
            concept_words=study.concept_words or words_of(study.concept),
            evaluation=replace(evaluation, prompts=prompts, prompted_with=forced),
        )

    def _check_itself(self) -> None:
        """What concerns two settings at once, or the disk."""
        training, prompts = self.training, self.evaluation.prompts
        if "training" not in prompts:
            raise UserError(
                "evaluation.prompts.training: this key is missing; expected prompts, among them"
                " training.prompt"
            )
        if training.prompt not in prompts["training"]:
            raise UserError(
                "evaluation.prompts.training: should hold training.prompt,"
                f" {settings.shown_in_line(training.prompt)}, which summary.csv is about"
            )
        for key in ("base_model", "tokenizer", "reward_encoder"):
            try:
                kind_of(getattr(self, key) or "nano")
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
        if self.reward_encoder in ("nano", self.base_model):
            raise UserError(
                f"reward_encoder: {self.reward_encoder} writes stories, expected a sentence encoder"
            )
        try:
            self.reward.check_itself()
        except UserError as error:
            raise UserError(f"reward.{error}") from None
        check_judges(self.judges or (), self.reward_name, self.concept, self.base_model)
        concept = self.concept.strip().lower()
        words = self.concept_words or ()
        if words and concept not in (word.lower() for word in words):
            raise UserError(
                "concept_words: should hold the concept itself,"
                f" {settings.shown_in_line(concept)}, or be null"
            )
        if (length := sum(map(len, words))) > LONGEST_WORDS:
            raise UserError(
                f"concept_words: {length} characters found, expected at most {LONGEST_WORDS} together"
            )
        for variant, factor, seed in self.policies():
            try:
                self.run(variant, float(factor), seed).check_combination()
            except UserError as error:
                raise UserError(f"variants.{variant}: {error}") from None

    def check_lengths(self, folder: Path) -> None:
        """Hold the config's lengths against the base model's tokenizer and context.

        Args:
            folder: the base model; where it is not there yet, or its tokenizer or config.json cannot
                be read, the jobs that read it say so.

        Raises:
            UserError: a length does not fit; names the key.
        """
        from tokenizers import Tokenizer

        training, evaluation = self.training, self.evaluation
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            context = read_json(folder / "config.json").get("max_position_embeddings")

            def prompt_tokens(text: str) -> int:
                whole, own = (
                    tokenizer.encode(text, add_special_tokens=s).ids for s in (True, False)
                )
                return len(with_front(whole, own))

            forced = str(evaluation.prompted_with)
            forced_tokens = len(tokenizer.encode(forced, add_special_tokens=False).ids)
            prompt = prompt_tokens(training.prompt)
            longest = max(prompt_tokens(p) for group in evaluation.prompts.values() for p in group)
        except Exception:  # the library raises nothing more specific
            return
        if not (context is None or type(context) is int):
            return
        total = training.num_tokens
        if total <= prompt:
            raise UserError(
                f"config: training.num_tokens: {total} leaves no token to generate, since the prompt"
                f" {settings.shown_in_line(training.prompt)} has {prompt}; it must be larger"
            )
        if not 0 < forced_tokens <= total - prompt:
            raise UserError(
                f"config: evaluation.prompted_with: {settings.shown_in_line(forced)} has"
                f" {forced_tokens} tokens; it should have 1 to {total - prompt}, the new tokens of a"
                " completion"
            )
        check_context("config: training.num_tokens", total, 0, context)
        check_context("config: evaluation.new_tokens", evaluation.new_tokens, longest, context)

    # ------------------------------------------------------------------ names

    @property
    def name(self) -> str:
        return self.study

    @property
    def results(self) -> str:
        return layout.results(self.name).as_posix()

    @property
    def factors(self) -> list[str]:
        """KL factors in their canonical spelling, ascending."""
        return [canonical(factor) for factor in sorted(self.training.kl_factors)]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.training.seeds)

    @property
    def concept_slug(self) -> str:
        """The concept as a file name."""
        slug = re.sub(r"[^\w]+", "-", self.concept.strip())[:LONGEST_SLUG]
        return slug.strip("-") or "concept"

    def policies(self) -> Iterator[tuple[str, str, int]]:
        """(variant, KL factor, seed) of every policy."""
        for variant in self.variants:
            for factor in self.factors:
                for seed in self.seeds:
                    yield variant, factor, seed

    @property
    def reward_name(self) -> str:
        """What labels call the reward."""
        return self.reward.name(self.concept)

    @property
    def beside_published(self) -> bool:
        """Whether the published curves are about this: reward, prompt, tokens and loss of the post."""
        training, first = self.training, next(iter(self.variants.values()))
        here = (self.reward, self.concept, training.prompt, training.num_tokens, first)
        post = (RewardSettings(), "cat", "Once upon a time there was", 10, VariantSettings())
        return here == post

    # ------------------------------------------------------------------ what others are given

    def stage(self, cls: type[T], **more: Any) -> T:
        """The settings of a stage: each field of ``cls`` from the block that has it.

        Args:
            cls: class of settings.
            more: values that no block has, such as the KL factor of one run.
        """
        values = {**vars(self), **vars(self.training), **vars(self.evaluation), **more}
        return cls(**{field.name: values[field.name] for field in fields(cls)})  # type: ignore[arg-type]

    def run(self, variant: str, kl_factor: float, seed: int) -> TrainingSettings:
        """The settings of one policy: the variant's, else the study's."""
        own = vars(self.variants[variant]).items()
        shared = vars(self.training)
        given = {key: value for key, value in own if not (value is None and key in shared)}
        return self.stage(TrainingSettings, kl_factor=kl_factor, seed=seed, **given)

    @property
    def record(self) -> dict[str, Any]:
        """The config with what was derived from the concept, for the record of the study."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [plain(inner) for inner in value]
            return int(value) if isinstance(value, float) and value.is_integer() else value

        config = plain(settings.as_mapping(self))
        config["reward"] = self.reward.record
        config["judges"] = [judge.record for judge in self.judges or ()] or None
        for name, variant in self.variants.items():
            config["variants"][name] = plain(variant.record)
        del config["pretrain"]
        machine = {field.name: config.pop(field.name) for field in fields(MachineSettings)}
        return {**config, **machine}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, block by block."""
    both = dict(below)
    for key, value in above.items():
        inner = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = _merged(both[key], value) if inner else value
    return both


def _check_names(variants: Any) -> None:
    """Refuse keys of a variant that are no settings, with what to write instead."""
    instead = {
        "baseline": "unknown key; it is now advantage, and none is now reward",
        "num_tokens": "unknown key; all policies of a study are measured at training.num_tokens, so"
        " another length needs a separate study",
    }
    for name, variant in variants.items() if isinstance(variants, Mapping) else ():
        for key in instead.keys() & (variant if isinstance(variant, Mapping) else {}):
            raise UserError(f"variants.{name}.{key}: {instead[key]}")


def schema_text() -> str:
    """The text of workflow/schemas/config.schema.yaml."""
    import yaml

    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tinycats study",
        "description": "Every key of config.yaml; unknown keys are refused.",
        **schema(Study),
    }
    head = "# Generated by `python -m tinycats.study` from the settings' fields; do not edit.\n"
    return head + yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    print(schema_text(), end="")
