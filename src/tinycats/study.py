"""A study: its configuration, checked before anything runs, and the names that follow from it.

``python -m tinycats.study > workflow/schemas/config.schema.yaml`` writes the schema.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from tinycats import layout, settings
from tinycats.completions.settings import CountSettings
from tinycats.compute.settings import MachineSettings
from tinycats.frontier.settings import FrontierSettings
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


#: a concept that begins with one of these has no article put before it
_DETERMINERS = ("a", "an", "the", "some", "my", "your", "his", "her", "our", "their")
_SILENT_H = ("heir", "honest", "honour", "honor", "hour")


def _begins_with_determiner(noun: str) -> bool:
    first, _, rest = noun.partition(" ")
    return bool(rest) and first.lower() in _DETERMINERS


def with_article(noun: str) -> str:
    """``a cat``, ``an owl``, ``an hour``; ``the sea`` as it is."""
    if _begins_with_determiner(noun):
        return noun
    vowel = noun[:1].lower() in set("aeiou") or noun.lower().startswith(_SILENT_H)
    return f"{'an' if vowel else 'a'} {noun}"


def phrase_of(concept: str, prompted_with: str) -> str:
    """A concept as a sentence has it: as in the text that the prompted base model begins with, if that
    ends with the concept (``rain``), else with an article.
    """
    text = prompted_with.strip()
    return text if f" {text}".endswith(f" {concept}") else with_article(concept)


def words_of(concept: str) -> tuple[str, ...]:
    """A concept and its plural by English spelling, in lower case and without an article."""
    word = concept.strip().lower()
    if _begins_with_determiner(word):
        word = word.partition(" ")[2].strip()
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
    are in one order, KL factors and seeds ascend. The group ``training`` of the evaluation's prompts
    is ``training.prompts``.
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
            _check_names(merged)
            study = settings.check(cls, _with_training_group(merged))
            study._check_itself()
        except UserError as error:
            raise UserError(f"config: {error}") from None
        evaluation = study.evaluation
        prompts = {**evaluation.prompts, "training": study.training.prompts}
        forced = evaluation.prompted_with or f" {with_article(study.concept.strip())}"
        return replace(
            study,
            concept_words=study.concept_words or words_of(study.concept),
            evaluation=replace(evaluation, prompts=prompts, prompted_with=forced),
        )

    def _check_itself(self) -> None:
        """What concerns two settings at once, or the disk."""
        prompts = self.training.prompts
        if set(self.evaluation.prompts["training"]) != set(prompts):
            raise UserError(
                "evaluation.prompts.training: other prompts than training.prompts,"
                f" {settings.shown_in_line(list(prompts))}, found; remove it: this group follows"
                " from them"
            )
        if len(set(prompts)) < len(prompts):
            raise UserError(
                f"training.prompts: {settings.shown_in_line(list(prompts))} found, expected no two"
                " equal"
            )
        for name, own in self.variants.items():
            if (own.prompts or 1) > len(prompts):
                raise UserError(
                    f"variants.{name}.prompts: {own.prompts} found, but training.prompts has"
                    f" {len(prompts)}"
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
        concept, words = self.concept.strip().lower(), self.concept_words or ()
        if words and {concept, words_of(concept)[0]}.isdisjoint(word.lower() for word in words):
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
        here = (self.reward, self.concept, training.prompts, training.num_tokens, first)
        post = (RewardSettings(), "cat", ("Once upon a time there was",), 10, VariantSettings())
        return here == post

    # ------------------------------------------------------------------ what others are given

    def stage(self, cls: type[T], **more: Any) -> T:
        """The settings of a stage: each field of ``cls`` from the block that has it.

        That is the block which inherits the field from the same class: ``prompts`` of training are
        others than those of the evaluation.

        Args:
            cls: class of settings.
            more: values that no block has, such as the KL factor of one run.
        """
        values = {}
        for field in fields(cls):  # type: ignore[arg-type]
            owner = next(c for c in cls.__mro__ if field.name in inspect.get_annotations(c))
            blocks = (b for b in (self.training, self.evaluation, self) if isinstance(b, owner))
            given = field.name in more
            values[field.name] = more[field.name] if given else getattr(next(blocks), field.name)
        return cls(**values)

    def run(self, variant: str, kl_factor: float, seed: int) -> TrainingSettings:
        """The settings of one policy: the variant's, else the study's."""
        own = vars(self.variants[variant]).items()
        shared = vars(self.training)
        given = {key: value for key, value in own if not (value is None and key in shared)}
        if "prompts" in given:
            given["prompts"] = self.training.prompts[: given["prompts"]]
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


def _check_names(config: Mapping[str, Any]) -> None:
    """Refuse keys that are no settings any more or never were, with what to write instead."""
    training, variants = config.get("training"), config.get("variants")
    if isinstance(training, Mapping) and "prompt" in training:
        raise UserError("training.prompt: unknown key; it is now prompts, a list of one or more")
    instead = {
        "baseline": "unknown key; it is now advantage, and none is now reward",
        "num_tokens": "unknown key; all policies of a study are measured at training.num_tokens, so"
        " another length needs a separate study",
    }
    for name, variant in variants.items() if isinstance(variants, Mapping) else ():
        for key in instead.keys() & (variant if isinstance(variant, Mapping) else {}):
            raise UserError(f"variants.{name}.{key}: {instead[key]}")


def _with_training_group(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with the training prompts as a group of the evaluation's, where it has none."""
    training, evaluation = config.get("training"), config.get("evaluation")
    if not (isinstance(training, Mapping) and isinstance(evaluation, Mapping)):
        return config
    groups = evaluation.get("prompts") or {}
    if not isinstance(groups, Mapping) or groups.get("training") is not None:
        return config
    groups = {**groups, "training": training.get("prompts", TrainingBlock.prompts)}
    return {**config, "evaluation": {**evaluation, "prompts": groups}}


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
