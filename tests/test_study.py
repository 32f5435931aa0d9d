"""The study's configuration: every mistake is one line that names the key and what would be right."""

from __future__ import annotations

import copy
import datetime
import shutil
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import jsonschema
import pytest
import yaml

from tinycats.layout import canonical
from tinycats.lengths import check_lengths
from tinycats.policies.settings import VariantSettings
from tinycats.program import UserError
from tinycats.settings import as_mapping
from tinycats.study import Study, phrase_of, schema_text

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
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
            "training.kl_factors.1: -1 found, expected a number from 0 to 1e+12",
        ),
        (
            "training.kl_factors",
            [],
            "training.kl_factors: [] found, expected a list of one or more",
        ),
        ("training.kl_factors", [6000, 6000.0], "no two equal"),
        ("training.kl_factors", [1.0e308], "1e+308 found, expected a number from 0 to 1e+12"),
        ("training.kl_factors", [10**400], "found, expected a finite number"),
        ("training.seeds", [1, 1], "training.seeds: [1, 1] found, expected a list"),
        ("training.seeds", [0.5], "training.seeds.0"),
        ("training.seeds", [0.0], "training.seeds.0: 0.0 found, expected a whole number"),
        ("training.steps", 0, "training.steps: 0 found, expected a whole number of at least 1"),
        ("training.steps", 2.0, "a whole number of at least 1; in digits alone"),
        ("training.steps", "1e3", "a whole number of at least 1; in digits alone"),
        ("training.steps", "4", '"4" found, expected a whole number of at least 1; without quotes'),
        ("training.steps", True, "a whole number of at least 1; in digits alone"),
        ("training.steps", None, "training.steps: null found, expected a whole number"),
        ("training", None, "training: null found, expected a block of keys"),
        ("concept_words", ["cat", " "], 'concept_words.1: " " found, expected text, not blank'),
        ("evaluation.prompted_with", " ", "evaluation.prompted_with"),
        ("evaluation.prompts.other openings", ["One day", " "], "evaluation.prompts: the name"),
        ("evaluation.prompts.other", ["One day", " "], "evaluation.prompts.other.1"),
        ("evaluation.base_completions", 99, "99 found, expected a whole number of at least 100"),
        ("device", "mps", "expected auto, cpu, cuda or"),
        ("training.batch_size", 0, "0 found, expected a whole number of at least 1"),
        ("training.learning_rate", 0, "expected a number above 0"),
        ("training.prompts", [""], "training.prompts.0"),
        ("training.prompts", [], "training.prompts: [] found, expected a list of one or more"),
        ("training.prompts", ["a b", "a b"], "training.prompts: "),
        ("training.prompt", "Another", "training.prompt: unknown key; it is now prompts, a list"),
        ("evaluation.prompts.training", ["x"], "evaluation.prompts.training: other prompts than"),
        (
            "variants",
            {"mine": {"prompts": 2}},
            "variants.mine.prompts: 2 found, but training.prompts has 1",
        ),
        ("training.precision", "fp8", "expected one of fp32, bf16"),
        (
            "variants",
            {"mine": {"baseline": "mean"}},
            "variants.mine.baseline: unknown key; it is now",
        ),
        ("variants", {"mine": {"num_tokens": 12}}, "variants.mine.num_tokens: unknown key; all"),
        ("variants", {"mine": {"batch_size": 0}}, "variants.mine.batch_size: 0 found, expected"),
        ("variants", {"mine": 3}, "variants.mine: 3 found, expected a block of keys"),
        (
            "variants",
            {"mine": {"advantage": "leave_one_out", "batch_size": 1}},
            "variants.mine: batch_size: 1 leaves nothing to compare",
        ),
        (
            "variants",
            {"mine": {"advantage": "tilt"}},
            "variants.mine: kl: base_to_policy found with advantage tilt, expected none",
        ),
        ("variants", {"mine": {"kl": "none"}}, "kl: none found with advantage reward, expected"),
        (
            "variants",
            {"mine": {"advantage": "tilt", "kl": "none"}},
            "variants.mine: advantage: tilt found with KL factor 0, expected factors above 0",
        ),
        (
            "variants",
            {"mine": {"advantage": "best_of_n"}},
            "n: null found with advantage best_of_n",
        ),
        (
            "variants",
            {"mine": {"advantage": "best_of_n", "n": 4, "updates_per_batch": 2}},
            "updates_per_batch: 2 found with advantage best_of_n, expected 1",
        ),
        (
            "variants",
            {"mine": {"target_kl": 2}},
            "variants.mine: target_kl: 2 found with KL factor 0, expected factors above 0",
        ),
        ("variants", {"mine": {"stop_at_kl": 0}}, "stop_at_kl: 0 found, expected a number above 0"),
        ("variants", {"mine": {"n": 4}}, "n: 4 found with advantage reward, expected"),
        (
            "variants",
            {"mine": {"advantage": "best_of_n", "n": 3}},
            "variants.mine: n: 3 found, expected a divisor of batch_size = 1000",
        ),
        ("variants", {"../out": {"advantage": "mean", "kl": "base_to_policy"}}, "variants"),
        (
            "variants",
            {1: {"advantage": "reward", "kl": "base_to_policy"}},
            "variants: the name 1 found",
        ),
        ("variants", {False: {}}, "put it in quotes"),
        ("variants", {"blog": None}, "variants: nothing found, expected at least one"),
        ("study", "../elsewhere", "study:"),
        ("study", datetime.date(2024, 1, 1), "study: 2024-01-01 found"),
        ("study", "s" * 101, "at most 100 characters"),
        ("concept", "c\0t", "without NUL characters"),
        ("study", "a/b", "study:"),
        ("concept", " ", "concept"),
        (
            "training.learning_rate",
            float("nan"),
            "training.learning_rate: NaN found, expected a finite number above 0",
        ),
        (
            "training.kl_factors",
            [0, float("inf")],
            "training.kl_factors.1: Infinity found, expected a finite",
        ),
        (
            "concept",
            "dragon",
            'concept_words: should hold the concept itself, "dragon", or be null',
        ),
        ("training.batch_size", 1, "variants.blog: batch_size: 1 leaves nothing to compare"),
        ("reward_encoder", "nano", "reward_encoder: nano writes stories, expected a sentence"),
        ("reward_encoder", "all MiniLM", "reward_encoder: unknown model 'all MiniLM'"),
        ("base_model", "sentence-transformers/all-MiniLM-L6-v2", "writes stories, expected"),
    ],
)
def test_a_mistake_is_one_line(path, value, says):
    with pytest.raises(UserError) as error:
        Study.check(changed(path, value))
    message = str(error.value)
    assert says in message
    assert "\n" not in message
    assert message.startswith("config: ")


def test_schema_is_that_of_the_fields():
    written = SCHEMA.read_text(encoding="utf-8")
    assert written == schema_text(), (
        "run: python -m tinycats.study > workflow/schemas/config.schema.yaml"
    )


def block_of(cls, config, where=""):
    """Each field of ``cls`` with its value in config.yaml, blocks within it too."""
    hints = get_type_hints(cls)
    assert {f.name for f in fields(cls)} - {"pretrain"} == set(config), where
    for field in fields(cls):
        assert field.metadata["help"], f"{where}{field.name} has no help"
        if field.name == "pretrain":
            continue
        if is_dataclass(hints[field.name]) and isinstance(config[field.name], dict):
            yield from block_of(hints[field.name], config[field.name], f"{field.name}.")
        else:
            yield f"{where}{field.name}", field, config[field.name]


def test_config_yaml_has_every_field_and_its_default():
    """config.yaml and the fields hold the same keys; a field's default is config.yaml's value."""
    values = list(block_of(Study, DEFAULT))
    assert len(values) > 25
    other = {}
    for key, field, value in values:
        default = field.default if field.default is MISSING else as_mapping(field.default)
        if default is not MISSING and default != value:
            other[key] = default
    assert other == {"concept_words": None}, "the kittens are the default study's alone"
    variant = DEFAULT["variants"]["blog"]
    assert VariantSettings().record == variant == VariantSettings(**variant).record
    text = (ROOT / "config.yaml").read_text()
    for field in fields(VariantSettings):
        assert f"{field.name}:" in text.replace("`", ""), f"{field.name} is not explained"


def test_null_takes_away_what_config_yaml_has():
    config = changed("evaluation.prompts.other_openings", None)
    config["variants"] = {"blog": None, "mine": {"advantage": "mean", "kl": "base_to_policy"}}
    study = Study.check(config)
    assert list(study.variants) == ["mine"]
    assert list(study.evaluation.prompts) == ["training", "other_subjects"]
    assert "blog" not in study.record["variants"]


def test_text_from_the_command_line_is_read_by_the_type_of_its_field():
    given = {
        "training": {"steps": "4", "learning_rate": "2e-6", "kl_factors": ["0", "1500"]},
        "variants": {"blog": "null", "mine": {"advantage": "mean", "steps": "7"}},
        "evaluation": {"prompted_with": "null", "prompts": {"other_subjects": "null"}},
    }
    study = Study.check(DEFAULT, given)
    assert study.training.steps == 4
    assert study.training.learning_rate == 2e-6
    assert study.run("mine", 1500, 0).steps == 7
    assert study.factors == ["0", "1500"]
    assert list(study.variants) == ["mine"]
    assert list(study.evaluation.prompts) == ["training", "other_openings"]
    assert study.evaluation.prompted_with == " a cat"
    with pytest.raises(UserError, match=r'training\.steps: "few" found, expected a whole number'):
        Study.check(DEFAULT, {"training": {"steps": "few"}})


def test_a_study_cannot_be_changed():
    study = Study.check(DEFAULT)
    with pytest.raises(FrozenInstanceError):
        study.training.steps = 5  # type: ignore[misc]


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
    config = merge(DEFAULT, over)
    Study.check(config)
    jsonschema.validate(config, yaml.safe_load(SCHEMA.read_text()))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("training.num_tokens", 6, "training.num_tokens: 6 leaves no token to generate"),
        ("evaluation.new_tokens", 510, "evaluation.new_tokens: 510 with a prompt of"),
        ("training.num_tokens", 600, "training.num_tokens: 600 is more than the model"),
    ],
)
def test_lengths_are_held_against_the_base_model_before_any_job(path, value, says):
    nano = ROOT / "workflow/resources/nano"
    check_lengths(Study.check(DEFAULT), nano)
    study = Study.check(changed(path, value))
    with pytest.raises(UserError) as error:
        check_lengths(study, nano)
    assert says in str(error.value)
    check_lengths(study, ROOT / "no such model yet")


def test_a_text_longer_than_a_completion_is_left_out_and_the_study_says_so():
    nano = ROOT / "workflow/resources/nano"
    assert check_lengths(Study.check(DEFAULT), nano) == ""
    # the prompt has six tokens, " a cat" has two
    assert check_lengths(Study.check(changed("training.num_tokens", 8)), nano) == ""
    for path, value in (
        ("training.num_tokens", 7),
        ("evaluation.prompted_with", " a cat with a very long tail"),
    ):
        without = check_lengths(Study.check(changed(path, value)), nano)
        assert "so the prompted base is left out where completions are compared" in without


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("tokenizer.json", text) for text in ("", "{}", "[]", '{"model": {"type": "BPE"}}')),
        *(("config.json", text) for text in ("", "[]", '{"max_position_embeddings": "9"}')),
    ],
)
def test_a_damaged_tokenizer_or_config_is_left_to_the_job_that_reads_it(tmp_path, name, text):
    for file in ("tokenizer.json", "config.json"):
        shutil.copyfile(ROOT / "workflow/resources/nano" / file, tmp_path / file)
    study = Study.check(changed("training.num_tokens", 3))
    with pytest.raises(UserError):
        check_lengths(study, tmp_path)
    (tmp_path / name).write_text(text)
    check_lengths(study, tmp_path)


def test_what_the_prompted_base_begins_with_follows_the_concept():
    config = changed("concept", "owl")
    config["concept_words"] = None
    study = Study.check(config)
    assert study.evaluation.prompted_with == " an owl"
    assert study.record["evaluation"]["prompted_with"] == " an owl"
    assert study.record["concept_words"] == ["owl", "owls"]
    assert Study.check(DEFAULT).evaluation.prompted_with == " a cat"
    assert (
        Study.check(changed("evaluation.prompted_with", " the cat")).evaluation.prompted_with
        == " the cat"
    )


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
        "the sea": ["sea", "seas"],
    }.items():
        assert Study.check({**config, "concept": concept}).concept_words == tuple(words)
    assert "kitten" in (Study.check(DEFAULT).concept_words or ())


def test_a_concept_in_a_sentence():
    """Its article: none where it has one, and none where the prompted text does without."""
    for concept, forced, phrase in [
        ("cat", " a cat", "a cat"),
        ("owl", " an owl", "an owl"),
        ("hour", " an hour", "an hour"),
        ("the sea", " the sea", "the sea"),
        ("a big dog", " a big dog", "a big dog"),
        ("their", " a their", "a their"),
    ]:
        study = Study.check({**changed("concept_words", None), "concept": concept})
        assert study.evaluation.prompted_with == forced
        assert phrase_of(concept, forced) == phrase
    assert phrase_of("rain", " rain") == "rain"
    assert phrase_of("rain", " cats and rain") == "cats and rain"
    assert phrase_of("cat", " a bobcat") == phrase_of("cat", "") == "a cat"


def test_the_choices_are_what_the_objective_has():
    from tinycats.policies import objective

    choices = {f.name: f.metadata["choices"] for f in fields(VariantSettings)}
    assert choices["advantage"] == tuple(objective.ADVANTAGES)
    assert choices["kl"] == tuple(objective.KLS)


def test_a_variant_sets_what_others_leave_to_the_study():
    variants: dict[str, dict[str, float]] = {
        "fast": {"learning_rate": 5.0e-5, "steps": 7},
        "small": {"batch_size": 16},
    }
    study = Study.check(changed("variants", {**DEFAULT["variants"], **variants}))
    runs = {name: study.run(name, 6000.0, 2) for name in study.variants}
    shared = study.training
    for name, run in runs.items():
        own = variants.get(name, {})
        for key in ("learning_rate", "steps", "batch_size", "weight_decay", "num_tokens"):
            assert getattr(run, key) == own.get(key, getattr(shared, key))
        assert (run.kl_factor, run.seed) == (6000.0, 2)
    recorded = study.record["variants"]
    assert recorded["blog"] == DEFAULT["variants"]["blog"]
    assert recorded["fast"] == {"advantage": "reward", "kl": "base_to_policy", **variants["fast"]}


def test_the_controller_needs_as_many_completions_as_a_batch_has():
    config = changed("variants", {"mine": {"target_kl": 2, "horizon": 999}})
    config["training"]["kl_factors"] = [6000]
    with pytest.raises(UserError, match="horizon: 999 found, expected at least batch_size = 1000"):
        Study.check(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("concept", "dog"),
        ("training.prompts", ["Once upon a time there were"]),
        ("training.num_tokens", 12),
        ("variants", {"loo": {"advantage": "leave_one_out", "kl": "base_to_policy"}}),
    ],
)
def test_published_curves_stand_only_beside_what_they_are_about(path, value):
    assert Study.check(DEFAULT).beside_published
    config = changed(path, value)
    config["concept_words"] = None
    assert not Study.check(config).beside_published
