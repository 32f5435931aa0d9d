"""A setting is written in one place, arrives where it is used, and is refused in one line."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_model import ROOT, copy_tracked, encoder_folder, environment, program, write_model
from warm_start import Started, interpreter

from tinycats import settings
from tinycats.completions.settings import CompletionsSettings
from tinycats.frontier.settings import FrontierSettings
from tinycats.policies.settings import TrainingBlock, TrainingSettings
from tinycats.program import UserError
from tinycats.settings import setting
from tinycats.stories.settings import (
    BaseStoriesSettings,
    OpeningStoriesSettings,
    StoriesSettings,
)
from tinycats.study import EvaluationBlock, Study

# ---- from fields to checks and flags


@dataclass(frozen=True, kw_only=True)
class Kettle:
    litres: float = setting(1.5, "how much water", above=0, maximum=3)
    cups: int = setting(help="how many cups", minimum=1)
    whistle: bool = setting(True, "whether it whistles")
    colour: str = setting("red", "its colour", choices=("red", "blue"))
    owner: str | None = setting(None, "whose it is")
    tea: Mapping[str, tuple[str, ...]] = setting(help="pots by name")


TEA = {"tea": {"green": ["sencha"]}}


def from_flags(*words: str) -> Kettle:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, Kettle, whole=True)
    return settings.read_flags(parser.parse_args(words), Kettle)


def test_a_flag_wins_over_the_whole_and_the_whole_over_the_default(tmp_path: Path) -> None:
    whole = json.dumps({"cups": 2, "litres": 2, "owner": "Åse", **TEA})
    kettle = from_flags("--settings", whole, "--cups", "4", "--whistle", "false")
    assert asdict(kettle) == {
        "litres": 2.0,
        "cups": 4,
        "whistle": False,
        "colour": "red",
        "owner": "Åse",
        "tea": {"green": ("sencha",)},
    }
    path = tmp_path / "settings.json"
    path.write_text(settings.as_json(kettle), encoding="utf-8")
    assert from_flags("--settings", f"@{path}") == kettle
    assert from_flags("--cups", "2", "--tea", json.dumps(TEA["tea"])).owner is None
    assert from_flags("--settings", whole, "--owner", "null").owner is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cups", "0"), "--cups: 0 found, expected a whole number of at least 1"),
        (("--cups", "1.5"), '--cups: "1.5" found, expected a whole number of at least 1'),
        (("--litres", "0"), "--litres: 0.0 found, expected a number above 0 and at most 3"),
        (("--litres", "nan"), "--litres: NaN found, expected a finite number above 0"),
        (("--colour", "green"), '--colour: "green" found, expected one of red, blue'),
        (("--whistle", "maybe"), '--whistle: "maybe" found, expected true or false'),
        (
            ("--settings", '{"cups": 0, "tea": {"green": ["sencha"]}}'),
            "cups: 0 found, expected a whole number of at least 1",
        ),
        (("--settings", '{"cup": 1}'), "cup: unknown key; did you mean cups?"),
        (("--settings", "[1]"), "--settings: [1] found, expected a JSON object"),
        (("--settings", "{"), '"{" found, expected JSON'),
        (("--tea", '{"a b": ["x"]}'), '--tea: the name "a b" found, expected letters'),
        ((), "--cups: missing; expected a whole number of at least 1"),
    ],
)
def test_a_wrong_flag_is_one_line(words: tuple[str, ...], says: str) -> None:
    more = () if "--settings" in words or not words else ("--settings", json.dumps(TEA))
    with pytest.raises(UserError) as error:
        from_flags(*more, *words)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_names_are_those_of_one_block() -> None:
    """But for ``prompts``, of which a stage gets those whose class it inherits."""
    names = [f.name for block in (TrainingBlock, EvaluationBlock) for f in fields(block)]
    assert {name for name in names if names.count(name) > 1} == {"prompts"}
    study = Study.check(yaml.safe_load((ROOT / "config.yaml").read_text()))
    assert study.stage(CompletionsSettings).prompts == study.training.prompts
    assert study.stage(StoriesSettings).prompts == study.evaluation.prompts


# ---- settings arrive

UNUSUAL: dict[str, Any] = {
    "study": "unusual",
    "base_model": "someone/a-model",
    "base_model_revision": "{commit-1}",
    "tokenizer": "someone/a-tokenizer",
    "tokenizer_revision": "commit-2",
    "reward": "similarity",  # another form needs no encoder: tests/test_rewards.py
    "reward_encoder": "someone/an-encoder",
    "reward_encoder_revision": "commit-3",
    "reward_encoder_sources": ["hub", "a {folder}"],
    "concept": "dog {seed}",
    "concept_words": ["dog {seed}", "{dogs}"],
    "training": {
        "prompts": ['Once {seed} upon "a"'],
        "kl_factors": [7.5],
        "seeds": [11],
        "steps": 2,
        "batch_size": 13,
        "num_tokens": 40,
        "learning_rate": 3.25e-4,
        "weight_decay": 0.375,
        "precision": "bf16",
        "micro_batch": 77,
        "checkpoint_seconds": 17,
        "tensorboard": True,
        "snr_every": 1,
    },
    "variants": {
        "blog": None,
        "mine": {
            "advantage": "leave_one_out",
            "kl": "policy_to_base",
            "n": None,
            "updates_per_batch": 2,
            "clip": 0.3,
            "stop_at_kl": 50.5,
            "target_kl": 2.5,
            "horizon": 777,
            "kl_tokens": 0,  # more excludes several updates per batch
            "kl_stories": 7,
            "kl_states": "base",
            "prompts": 1,
            "steps": 3,
            "batch_size": 15,
            "learning_rate": 1.5e-4,
        },
    },
    "evaluation": {
        "prompts": {"more": ["The {variant} {"]},
        "prompted_with": " {factor}",
        "stories_per_training_prompt": 3,
        "stories_per_other_prompt": 5,
        "opening_stories": 2,
        "new_tokens": 19,
        "base_completions": 123,
        "policy_completions": 234,
        "search_rewards": 345,
        "bootstrap_samples": 29,
    },
    "judges": [{"concept": "a {variant} dog"}],
    "device": "cuda:7",
    "threads": 3,
}


def planned(folder: Path, config: dict, *words: str) -> list[list[str]]:
    """The commands of a dry run, each as its words."""
    done = snakemake(folder, config, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    mark = "Shell command: "
    return [shlex.split(line.removeprefix(mark)) for line in lines if line.startswith(mark)]


def snakemake(folder: Path, config: dict, *words: str) -> subprocess.CompletedProcess[str]:
    path = folder / "config/of-a-test.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    command = [interpreter(), "-m", "snakemake", "-n", "-p", "--forceall", "--nolock"]
    command += ["--cores", "1", "--configfile", str(path), *words]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def commands_of(commands: list[list[str]], script: str) -> list[list[str]]:
    return [words for words in commands if words[:2] == ["run_script", script]]


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tracked(tmp_path_factory.mktemp("copy") / "tinycats")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that give train_policy.py a tiny base model, the encoder and a concept."""
    from tinycats.models.folders import folder_identity, write_manifest
    from tinycats.reward.similarity import RewardEncoder, save_reference

    folder = tmp_path_factory.mktemp("models")
    base, encoder = write_model(folder / "tiny"), encoder_folder()
    write_manifest(base, {"source": "made in a test"})
    vector = RewardEncoder(encoder).embed(["cat"])[0]
    save_reference(folder / "cat.safetensors", "cat", vector, folder_identity(encoder))
    words = ["--base-model", base, "--encoder", encoder, "--reference", folder / "cat.safetensors"]
    return [*map(str, words), "--device", "cpu", "--threads", "1"]


def trained(script: list[str], out: Path, models: list[str], *words: str) -> dict:
    """run.json's settings of a run by hand."""
    started = Started([*script, *models, "--out", str(out), *words], environment())
    said = started.wait()
    assert started.returncode == 0, said
    return json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]


@pytest.mark.slow
def test_every_setting_arrives(checkout: Path, models: list[str], tmp_path: Path) -> None:
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    for block, known in ((UNUSUAL, default), *((UNUSUAL[k], default[k]) for k in ("training", "evaluation"))):  # fmt: skip
        assert [k for k in known if known[k] == block.get(k, known[k])] in ([], ["reward"]), (
            "not unusual"
        )
    commands = planned(checkout, UNUSUAL)
    training, evaluation = UNUSUAL["training"], dict(UNUSUAL["evaluation"])
    groups = {**default["evaluation"]["prompts"], **evaluation["prompts"]}
    groups["training"] = training["prompts"]
    variant = UNUSUAL["variants"]["mine"]
    mine = {**variant, "prompts": training["prompts"]}
    known = {**training, **evaluation, "kl_factor": 7.5, "seed": 11, **mine}
    told = {**known, "prompts": groups}

    (policy,) = commands_of(commands, "train_policy")
    (completions,) = commands_of(commands, "sample_completions")
    (frontier,) = commands_of(commands, "frontier")
    (openings,) = commands_of(commands, "tell_openings")
    base, one = sorted(commands_of(commands, "tell_stories"), key=lambda words: "--policy" in words)
    for words, cls in (
        (policy, TrainingSettings),
        (completions, CompletionsSettings),
        (base, BaseStoriesSettings),
        (one, StoriesSettings),
        (frontier, FrontierSettings),
        (openings, OpeningStoriesSettings),
    ):
        values = told if issubclass(cls, StoriesSettings) else known
        expected = {field.name: values[field.name] for field in fields(cls)}
        assert json.loads(after(words, "--settings")) == expected
    for words in (policy, completions, base, one, openings):
        assert (after(words, "--device"), after(words, "--threads")) == ("cuda:7", "3")
    assert float(after(policy, "--checkpoint-seconds")) == 17
    assert after(policy, "--tensorboard") == "true"
    assert after(base, "--seed") == after(one, "--seed") == "11"

    (judge,) = commands_of(commands, "judge")
    (scored,) = json.loads(after(judge, "--judges"))
    assert scored["name"] == "similarity to “a {variant} dog”"
    assert scored["concept"] == "a {variant} dog"
    assert (after(judge, "--device"), after(judge, "--threads")) == ("cuda:7", "3")

    model, encoder = sorted(commands_of(commands, "obtain_models"), key=lambda w: w[2] == "reward-encoder")  # fmt: skip
    assert after(model, "--model") == UNUSUAL["base_model"]
    assert f"--revision={UNUSUAL['base_model_revision']}" in model
    assert f"--tokenizer={UNUSUAL['tokenizer']}" in model
    assert f"--tokenizer-revision={UNUSUAL['tokenizer_revision']}" in model
    assert after(encoder, "--model") == UNUSUAL["reward_encoder"]
    assert f"--revision={UNUSUAL['reward_encoder_revision']}" in encoder
    place = encoder.index("--sources")
    assert encoder[place + 1 : place + 3] == UNUSUAL["reward_encoder_sources"]
    assert f"--concept={UNUSUAL['concept']}" in commands_of(commands, "embed_reference")[0]
    for script in ("score", "make_tables"):
        listed = after(commands_of(commands, script)[0], "--concept-words")
        assert json.loads(listed) == UNUSUAL["concept_words"]
    assert after(commands_of(commands, "make_tables")[0], "--batch-size") == "13"
    assert json.loads(after(commands_of(commands, "make_tables")[0], "--batch-size-of")) == {
        "mine": 15
    }
    record = json.loads(after(commands_of(commands, "write_config")[0], "--config"))
    assert record == {
        **UNUSUAL,
        "variants": {
            "mine": {key: value for key, value in variant.items() if value not in (None, 0)}
        },
        "evaluation": {**evaluation, "prompts": groups},
    }

    given = json.loads(after(policy, "--settings"))
    found = trained(
        program("train_policy"), tmp_path / "out", models, "--settings", json.dumps(given)
    )
    assert found == given


@pytest.mark.slow
def test_rewards_of_every_form_arrive(checkout: Path) -> None:
    """A reward that is no similarity, and the models that it and judges need and no others."""
    classifier = {"classifier": "organisation/moods", "label": 'VERY "happy"'}
    encoder = {"encoder": "organisation/encoder", "revision": "a" * 40}
    happy = {
        "study": "happy",
        "reward": classifier,
        "judges": [encoder, {**classifier, "label": "SAD"}],
    }
    commands = planned(checkout, happy, "--", "results/happy/scores/judges.csv")
    obtained = {words[2]: words for words in commands_of(commands, "obtain_models")}
    assert [words[2] for words in commands_of(commands, "obtain_models")].count("classifier") == 1
    assert set(obtained) == {"base-model", "classifier", "reward-encoder"}
    assert after(obtained["classifier"], "--model") == "organisation/moods"
    folder = after(obtained["classifier"], "--out")
    assert after(obtained["reward-encoder"], "--model") == "organisation/encoder"
    assert f"--revision={'a' * 40}" in obtained["reward-encoder"]
    (scores,) = commands_of(commands, "score")
    for words in (*commands_of(commands, "train_policy"), scores):
        assert after(words, "--classifier") == folder
        assert f"--label={classifier['label']}" in words
        assert "--encoder" not in words
    (judge,) = commands_of(commands, "judge")
    assert json.loads(after(judge, "--judges")) == [
        {
            "name": "similarity to “cat” by encoder",
            "encoder": after(obtained["reward-encoder"], "--out"),
            "concept": "cat",
        },
        {"name": "score of “SAD”", "classifier": folder, "label": "SAD"},
    ]
    animals = {"study": "animals", "reward": {"python": "config/rewards/animals.py:animals_named"}}
    commands = planned(checkout, animals, "--", "results/animals/scores/stories.csv")
    assert [words[2] for words in commands_of(commands, "obtain_models")] == ["base-model"]
    for words in commands_of(commands, "train_policy"):
        assert "--python=config/rewards/animals.py:animals_named" in words


@pytest.mark.slow
def test_every_rule_is_given_its_own_files(checkout: Path) -> None:
    """Two variants, factors and seeds: which model's files each job reads and writes."""
    config = {
        "study": "files",
        "training": {"kl_factors": [0, 6000], "seeds": [3, 5]},
        "variants": {"loo": {"advantage": "leave_one_out", "kl": "policy_to_base"}},
    }
    commands = planned(checkout, config)
    results, models = "results/files", "resources/models"
    base, encoder = f"{models}/nano", f"{models}/sentence-transformers--all-MiniLM-L6-v2"
    reference = f"{results}/reference/cat.safetensors"
    who = [
        f"{variant}/kl={factor}/seed={seed}"
        for variant in ("blog", "loo")
        for factor in (0, 6000)
        for seed in (3, 5)
    ]

    def expanded(word: str) -> list[str]:
        """As bash expands {a,b}."""
        if not (found := re.search(r"\{([^{}]*)\}", word)):
            return [word]
        before, after_it = word[: found.start()], word[found.end() :]
        return [w for one in found[1].split(",") for w in expanded(before + one + after_it)]

    def listed(words: list[str], flag: str) -> list[str]:
        values = itertools.takewhile(
            lambda word: not word.startswith("--"), words[words.index(flag) + 1 :]
        )
        return [path for word in values for path in expanded(word)]

    trained_ones = commands_of(commands, "train_policy")
    assert sorted(after(words, "--out") for words in trained_ones) == [
        f"{results}/policies/{own}" for own in sorted(who)
    ]
    objectives = {"blog": ("reward", "base_to_policy"), "loo": ("leave_one_out", "policy_to_base")}
    for words in trained_ones:
        variant, factor, seed = after(words, "--out").split("/")[-3:]
        settings = json.loads(after(words, "--settings"))
        assert after(words, "--variant") == variant
        assert (settings["advantage"], settings["kl"]) == objectives[variant]
        assert f"kl={settings['kl_factor']:g}" == factor
        assert f"seed={settings['seed']}" == seed
        assert after(words, "--base-model") == base
        assert after(words, "--encoder") == encoder
        assert after(words, "--reference") == reference
        assert after(words, "--rewards") == f"{results}/rewards"

    told = commands_of(commands, "tell_stories")
    of_base = [words for words in told if "--policy" not in words]
    assert sorted(after(words, "--seed") for words in of_base) == ["3", "5"]
    assert {after(words, "--out") for words in of_base} == {f"{results}/stories"}
    of_policies = [words for words in told if "--policy" in words]
    assert len(of_policies) == len(who)
    for words in of_policies:
        own = after(words, "--out").removeprefix(f"{results}/stories/").removesuffix(".jsonl")
        assert own in who
        seed = own.partition("seed=")[2]
        assert after(words, "--policy") == f"{results}/policies/{own}/model"
        assert after(words, "--base-stories") == f"{results}/stories/base/seed={seed}.jsonl"
        assert after(words, "--seed") == seed
        assert after(words, "--base-model") == base

    def files(folder: str, end: str) -> list[str]:
        return sorted(f"{results}/{folder}/{own}{end}" for own in who)

    (completions,) = commands_of(commands, "sample_completions")
    assert sorted(listed(completions, "--policies")) == files("policies", "")
    assert after(completions, "--reference") == reference
    assert after(completions, "--out") == f"{results}/completions"
    (frontier,) = commands_of(commands, "frontier")
    for flag, name in (("--base", "base.csv"), ("--prompted", "prompted.csv")):
        assert after(frontier, flag) == f"{results}/completions/{name}"
    assert after(frontier, "--log-probs") == f"{results}/completions/log_probs.safetensors"
    (score,) = commands_of(commands, "score")
    for kind in ("base", "prompted"):
        expected = [f"{results}/stories/{kind}/seed={seed}.jsonl" for seed in (3, 5)]
        assert sorted(listed(score, f"--{kind}-stories")) == expected
    assert sorted(listed(score, "--policy-stories")) == files("stories", ".jsonl")
    assert sorted(listed(score, "--forgetting")) == files("stories", ".base.jsonl")
    assert after(score, "--tokenizer") == base
    (tables,) = commands_of(commands, "make_tables")
    assert after(tables, "--story-scores") == f"{results}/scores/stories.csv"
    assert after(tables, "--set-scores") == f"{results}/scores/sets.csv"
    assert sorted(listed(tables, "--training")) == files("policies", "/training.csv")
    assert sorted(listed(tables, "--top-completions")) == files("policies", "/top_completions.csv")
    both = [f"{results}/completions/{name}.csv" for name in ("base", "prompted")]
    assert sorted(listed(tables, "--completions")) == sorted([*both, *files("completions", ".csv")])
    assert after(tables, "--batch-size") == "1000"


@pytest.mark.slow
def test_the_study_of_methods_trains_each_of_them(checkout: Path) -> None:
    """config/methods.yaml as Snakemake plans it: every choice, at five strengths and five seeds."""
    config = yaml.safe_load((ROOT / "config/methods.yaml").read_text(encoding="utf-8"))
    runs = [
        json.loads(after(words, "--settings"))
        for words in commands_of(planned(checkout, config), "train_policy")
    ]
    assert len(runs) == len({json.dumps(run) for run in runs}) == 8 * 5 * 5
    for field in fields(TrainingSettings):
        if field.name in ("advantage", "kl"):
            assert {run[field.name] for run in runs} == set(field.metadata["choices"])
    assert {run["n"] for run in runs if run["advantage"] == "best_of_n"} == {4}
    clipped = [run for run in runs if run["updates_per_batch"] > 1]
    assert {run["steps"] * run["updates_per_batch"] for run in clipped} == {100}


@pytest.mark.slow
def test_values_from_the_command_line_and_text_too_long_for_it(checkout: Path) -> None:
    many = [f"Prompt {{seed}} number {n} of a very long list" for n in range(4000)]
    config = {"study": "many", "evaluation": {"prompts": {"more": many}}}
    commands = planned(
        *(checkout, config, "--config"),
        *("training={steps: 4, kl_factors: [0], seeds: [0]}", "evaluation={new_tokens: 30}"),
    )
    assert max(len(shlex.join(words)) for words in commands) < 2**17
    (policy,) = commands_of(commands, "train_policy")
    assert json.loads(after(policy, "--settings"))["steps"] == 4
    for words in commands_of(commands, "tell_stories"):
        path = after(words, "--settings").removeprefix("@")
        told = json.loads((checkout / path).read_text(encoding="utf-8"))
        assert told["new_tokens"] == 30
        assert told["prompts"]["more"] == many
    done = snakemake(checkout, config, "--config", "training={steps: few}")
    assert done.returncode == 1
    assert 'training.steps: "few" found, expected a whole number of at least 1' in done.stderr


# ---- a new one

KNOB = '    patience: float = setting(0.5, "a knob of this test", minimum=0, maximum=1)\n'


@pytest.mark.slow
def test_a_knob_is_a_field_and_a_line(tmp_path: Path, models: list[str]) -> None:
    """docs/extending.md: nothing else is touched."""
    folder = copy_tracked(tmp_path / "tinycats")
    for name, mark, line in (
        ("src/tinycats/policies/settings.py", "    steps: int = setting(", KNOB),
        ("config.yaml", "  steps: 100\n", "  patience: 0.25\n"),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(mark) == 1
        (folder / name).write_text(text.replace(mark, line + mark), encoding="utf-8")

    (command, *_) = commands_of(planned(folder, {}), "train_policy")
    assert json.loads(after(command, "--settings"))["patience"] == 0.25
    done = snakemake(folder, {"training": {"patience": 2}})
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line == "error: config: training.patience: 2 found, expected a number from 0 to 1"

    script = [sys.executable, str(folder / "workflow/scripts/train_policy.py")]
    by_hand = environment(PYTHONPATH=str(folder / "src"))
    told = subprocess.run([*script, "--help"], env=by_hand, capture_output=True, text=True)
    assert "--patience X" in told.stdout
    assert "a knob of this test (a number from 0 to 1; default: 0.5)" in " ".join(
        told.stdout.split()
    )
    words = [*script, *models, "--out", str(tmp_path / "out"), "--kl-factor", "6000"]
    words += ["--steps", "1", "--batch-size", "4", "--num-tokens", "40"]
    refused = subprocess.run(
        [*words, "--patience", "2"], env=by_hand, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert refused.stderr == "error: --patience: 2.0 found, expected a number from 0 to 1\n"
    subprocess.run([*words, "--patience", "0.75"], env=by_hand, check=True)
    run = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))
    assert run["settings"]["patience"] == 0.75
