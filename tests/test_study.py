"""The study's configuration: every mistake is one line that names the key and what would be right."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from tinycats.layout import canonical
from tinycats.program import UserError
from tinycats.study import SCHEMA, Study

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(path: str, value):
    config = copy.deepcopy(DEFAULT)
    if (path, value) == ("training.batch_size", 1):  # what it is not enough for
        config["training"]["snr_every"] = 1
    *parents, last = path.split(".")
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("training.learning_rte", 1e-5, "learning_rte: unknown key; did you mean learning_rate"),
        ("traning", {}, "traning: unknown key; did you mean training"),
        (
            "training.learning_rate",
            "2e-6",
            "YAML reads 2e-6 as text, write it with a point, like 2.0e-06",
        ),
        (
            "training.kl_factors",
            [0, -1],
            "training.kl_factors.1: -1 is not allowed (minimum); should be: a number in the post's"
            " unit, 0 or more",
        ),
        ("training.kl_factors", [], "training.kl_factors"),
        ("training.kl_factors", [6000, 6000.0], "no two equal"),
        ("training.seeds", [1, 1], "training.seeds: [1, 1] is not allowed"),
        ("training.seeds", [0.5], "training.seeds.0"),
        ("training.seeds", [0.0], "training.seeds.0: 0.0 is not allowed (type)"),
        ("training.steps", 2.0, "updates, at least 1; a whole number, in digits alone"),
        ("training.steps", "1e3", "updates, at least 1; a whole number, in digits alone"),
        ("training.steps", True, "updates, at least 1; a whole number, in digits alone"),
        ("concept_words", ["cat", " "], "concept_words.1"),
        ("evaluation.prompted_with", " ", "evaluation.prompted_with"),
        ("evaluation.prompts.other openings", ["One day", " "], "evaluation.prompts"),
        ("device", "mps", "should be: auto, cpu, cuda or cuda:1"),
        ("training.batch_size", 0, "training.batch_size: 0 is not allowed (minimum); should be"),
        ("training.prompt", "", "training.prompt"),
        ("training.prompt", "Another", "evaluation.prompts.training"),
        ("training.precision", "fp8", "training.precision"),
        ("variants", {"mine": {"baseline": "mean"}}, "variants.mine.kl: this key is missing"),
        ("variants", {"../out": {"baseline": "mean", "kl": "base_to_policy"}}, "variants"),
        ("study", "../elsewhere", "study:"),
        ("study", "a/b", "study:"),
        ("concept", " ", "concept"),
        ("evaluation.prompts", {"other": ["x"]}, "training"),
        (
            "training.learning_rate",
            float("nan"),
            "training.learning_rate: should be a finite number",
        ),
        ("training.kl_factors", [0, float("inf")], "training.kl_factors.1: should be a finite"),
        (
            "concept",
            "dragon",
            "concept_words: should hold the concept itself, 'dragon', or be null",
        ),
        ("training.batch_size", 1, "training.batch_size: 1 leaves nothing to compare"),
    ],
)
def test_a_mistake_is_one_line(path, value, says):
    with pytest.raises(UserError) as error:
        Study.check(changed(path, value))
    message = str(error.value)
    assert says in message
    assert "\n" not in message
    assert not re.search(r"should be: *(;|$)", message), "it does not say what would be right"
    assert message.startswith("config: ")


def test_every_key_is_described_and_commented():
    """Schema and config.yaml hold the same keys; each key of the schema says what is right."""
    schema = yaml.safe_load(SCHEMA.read_text())

    def walk(properties, config, where):
        for key, value in properties.items():
            assert value.get("description"), f"{where}{key} has no description"
            if key == "pretrain":
                continue
            assert key in config, f"config.yaml lacks {where}{key}"
            if "properties" in value and "additionalProperties" in value:
                inner = dict(value["properties"])
                walk(inner, config[key], f"{where}{key}.")

    walk(schema["properties"], DEFAULT, "")


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_study_is_valid(path):
    """Merged over config.yaml as Snakemake merges: dictionaries key by key."""

    def merge(base, over):
        return {
            **base,
            **{
                k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
                for k, v in over.items()
            },
        }

    over = yaml.safe_load(path.read_text()) or {}
    if path.stem == "pins":
        return
    Study.check(merge(DEFAULT, over))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("training.num_tokens", 6, "training.num_tokens: 6 leaves no token to generate"),
        ("evaluation.prompted_with", " a cat with a very long tail", "should have 1 to 4"),
        ("evaluation.new_tokens", 510, "evaluation.new_tokens: 510 with a prompt of"),
        ("training.num_tokens", 600, "training.num_tokens: 600 is more than the model"),
    ],
)
def test_lengths_are_held_against_the_base_model_before_any_job(path, value, says):
    nano = ROOT / "workflow/resources/nano"
    Study.check(DEFAULT).check_lengths(nano)
    study = Study.check(changed(path, value))
    with pytest.raises(UserError) as error:
        study.check_lengths(nano)
    assert says in str(error.value)
    study.check_lengths(ROOT / "no such model yet")


def test_what_the_prompted_base_begins_with_follows_the_concept():
    config = changed("concept", "owl")
    config["concept_words"] = None
    study = Study.check(config)
    assert study.prompted_with == " an owl"
    assert study.resolved["evaluation"]["prompted_with"] == " an owl"
    assert study.resolved["concept_words"] == ["owl", "owls"]
    assert Study.check(DEFAULT).prompted_with == " a cat"
    assert Study.check(changed("evaluation.prompted_with", " the cat")).prompted_with == " the cat"


def test_paths_have_one_spelling():
    assert [canonical(f) for f in (0, 6000, 6000.0, 6e3, 0.5, 0.50)] == [
        *("0", "6000", "6000", "6000", "0.5", "0.5")
    ]


def test_words_of_a_concept_are_derived():
    config = changed("concept_words", None)
    for concept, words in {
        "dragon": ["dragon", "dragons"],
        "fox": ["fox", "foxes"],
        "pony": ["pony", "ponies"],
    }.items():
        assert Study.check({**config, "concept": concept}).concept_words == words
    assert "kitten" in Study.check(DEFAULT).concept_words


def test_schema_offers_what_the_objective_knows():
    from tinycats.policies import objective

    variant = yaml.safe_load(SCHEMA.read_text())["properties"]["variants"]["additionalProperties"]
    assert variant["properties"]["baseline"]["enum"] == list(objective.BASELINES)
    assert variant["properties"]["kl"]["enum"] == list(objective.KL_DIRECTIONS)
