"""The order of keys in a config decides nothing, and random numbers belong to what they are for."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from test_frontier import Toy
from tiny_model import ROOT, write_model

from tinycats.completions.settings import CompletionsSettings
from tinycats.frontier.limit import known_base
from tinycats.frontier.policies import AgainstLimit, policy_rows
from tinycats.language_model.network import Network
from tinycats.models.folders import load_causal_lm
from tinycats.settings import as_json
from tinycats.stories.settings import StoriesSettings
from tinycats.stories.storytelling import requests, tell_stories
from tinycats.study import Study

CONFIG = {
    **yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")),
    "variants": {
        "loo": {"advantage": "leave_one_out", "kl": "policy_to_base"},
        "blog": {"advantage": "reward", "kl": "base_to_policy"},
        "a": {"advantage": "mean", "kl": "base_to_policy"},
    },
}


def shuffled(value: Any, order: random.Random) -> Any:
    """Every mapping in it in another order, and its lists of numbers."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], order) for key in order.sample(list(value), len(value))}
    if isinstance(value, list) and value and isinstance(value[0], int):
        return order.sample(value, len(value))
    return value


@pytest.mark.parametrize("seed", range(5))
def test_a_config_in_another_order_is_the_same_study(seed: int) -> None:
    plain, other = Study.check(CONFIG), Study.check(shuffled(CONFIG, random.Random(seed)))
    assert plain == other
    assert list(other.policies()) == list(plain.policies())
    assert list(other.variants) == ["blog", "a", "loo"]
    assert next(iter(other.evaluation.prompts)) == "training"
    for stage in (StoriesSettings, CompletionsSettings):
        assert as_json(other.stage(stage)) == as_json(plain.stage(stage))


def test_the_group_of_the_training_prompts_follows_from_them() -> None:
    config = shuffled(CONFIG, random.Random(0))
    config["training"]["prompts"] = ["One day there was"]
    study = Study.check(config)
    assert study.evaluation.prompts["training"] == ("One day there was",)
    assert Study.check(study.record) == study, "the record of a study is its config"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Any]:
    folder = write_model(tmp_path_factory.mktemp("model"))
    network, tokenizer = load_causal_lm(folder)
    return Network(network), tokenizer


PROMPTS = {"training": ["Once upon a time"], "more": ["A dog", "In a big forest there lived"]}
COUNT = {"training": 6, "more": 4, "new": 3}


def told(model: tuple[Network, Any], prompts: dict[str, list[str]]) -> dict[str, list[Any]]:
    """Each prompt's stories, as token ids and log-probabilities."""
    network, tokenizer = model
    asked = requests(tokenizer, prompts, COUNT, "", seed=3)
    found: dict[str, list[Any]] = {}
    for story in tell_stories(network, network, tokenizer, asked, 20):
        found.setdefault(story["prompt"], []).append((story["token_ids"], story["log_prob_policy"]))
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"more": PROMPTS["more"], "training": PROMPTS["training"]},
        {"training": PROMPTS["training"], "more": PROMPTS["more"][::-1]},
        {"training": PROMPTS["training"], "more": PROMPTS["more"][1:]},
        {"training": [*PROMPTS["training"], "Tom"], "new": ["A cat", "A"], "more": PROMPTS["more"]},
    ],
    ids=["groups turned", "prompts turned", "one less", "three more"],
)
def test_a_prompt_has_the_same_stories_whatever_the_others_are(
    model: tuple[Network, Any], change: dict[str, list[str]]
) -> None:
    before, after = told(model, PROMPTS), told(model, change)
    both = before.keys() & after.keys()
    assert len(both) >= 2
    for prompt in both:
        for (ids, log_p), (again, log_p_again) in zip(before[prompt], after[prompt], strict=True):
            assert ids == again
            assert log_p == pytest.approx(log_p_again, abs=1e-5)


def test_stories_of_one_prompt_and_of_two_seeds_differ(model: tuple[Network, Any]) -> None:
    _, tokenizer = model
    asked = [r for seed in (3, 4) for r in requests(tokenizer, PROMPTS, COUNT, "", seed)]
    assert len({r.sample_seed for r in asked}) == len(asked) == 2 * (6 + 2 * 4)


def test_a_prompt_in_two_groups_has_stories_of_its_own_in_each(model: tuple[Network, Any]) -> None:
    _, tokenizer = model
    asked = requests(tokenizer, {"training": ["A dog"], "more": ["A dog"]}, COUNT, "", 3)
    assert len({r.sample_seed for r in asked}) == len(asked) == 10


def test_another_policy_changes_no_policy_s_own_error() -> None:
    toy = Toy(2)
    policies = [toy.best(0.3), toy.best(0.1)]
    samples = toy.samples(policies, base_draws=500, draws=200)
    base, drawn = known_base(samples), toy.drawn(samples, policies)
    both = policy_rows(AgainstLimit(base, 20, 5), samples.models[1:], drawn)
    (one,) = policy_rows(AgainstLimit(base, 20, 5), samples.models[2:], drawn[1:])
    assert one == both[1]
