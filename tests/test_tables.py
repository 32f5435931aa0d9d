"""Scores and tables from tiny files written by hand: exact numbers, and what damaged files do."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import verify_headline
from warm_start import interpreter

from tinycats.completions.columns import COMPLETIONS
from tinycats.files import atomic
from tinycats.files.tables import (
    GrowingTable,
    Row,
    TableError,
    read_table,
    write_lines,
    write_table,
)
from tinycats.frontier import columns as frontier
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.mentions import Mentions
from tinycats.policies.columns import TOP_COMPLETIONS, TRAINING
from tinycats.program import UserError
from tinycats.scores import metrics, scoring
from tinycats.scores.columns import METRICS, SETS, STORIES, scale
from tinycats.stories.columns import FORGETTING_FIELDS, STORY_FIELDS
from tinycats.tables import positions, steps
from tinycats.tables import summaries as tables
from tinycats.tables.columns import TABLES
from tinycats.tables.intervals import holm, over_seeds, p_value, t_interval, verdict

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
KL0, KL6000 = ModelId("policy", "blog", "0"), ModelId("policy", "blog", "6000")
VOCABULARY = {0: "", 1: " a", 2: " cat", 3: " dog", 4: " sat", 5: ".", 6: "\n\nCats"}


def decode(ids: list[int]) -> str:
    return "".join(VOCABULARY[i] for i in ids)


def complete(prompt: str, ids: list[int]) -> str:
    return prompt + decode(ids)


def story(ids: list[int], **changes: object) -> dict[str, object]:
    n = len(ids)
    row: dict[str, object] = {
        "prompt_group": "training",
        "prompt": "There was",
        "forced": "",
        "text": decode(ids),
        "token_ids": ids,
        "tokens": [VOCABULARY[i] for i in ids],
        "log_prob_policy": [math.log(1 / 2)] * n,
        "log_prob_base": [math.log(1 / 4)] * n,
        "kl_policy_to_base_nats": [0.5] * n,
        "kl_base_to_policy_nats": [0.25] * n,
        "ended": ids[-1:] == [0],
        "sample_seed": 7,
    }
    return {**row, **changes}


def write_stories(path: Path, stories: list[dict[str, object]]) -> Path:
    write_lines(path, stories, STORY_FIELDS)
    return path


def length_share(texts: list[str]) -> np.ndarray:
    """A reward that is easily worked out: a hundredth per character."""
    assert len(texts) == len(set(texts)), "each distinct text should be encoded once"
    return np.array([len(text) / 100 for text in texts], dtype=np.float32)


# ---------------------------------------------------------------------------- scores


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """One seed of base, prompted and one policy: two stories each."""
    base = [story([1, 3, 4, 5, 0]), story([0])]
    write_stories(tmp_path / "stories/base/seed=0.jsonl", base)
    forced = {"forced": " a cat", "kl_base_to_policy_nats": [None, None, 0.0]}
    write_stories(tmp_path / "stories/prompted/seed=0.jsonl", [story([1, 2, 5], **forced)] * 2)
    policy = [story([1, 2, 4, 5, 6]), story([2, 2, 2, 2, 2])]
    write_stories(tmp_path / "stories/blog/kl=6000/seed=0.jsonl", policy)
    write_lines(
        tmp_path / "stories/blog/kl=6000/seed=0.base.jsonl",
        [
            {"story": 0, "log_prob_policy": [math.log(1 / 8)] * 5},
            {"story": 1, "log_prob_policy": [math.log(1 / 3)]},
        ],
        FORGETTING_FIELDS,
    )
    return tmp_path


def score(folder: Path) -> tuple[list[Row], list[Row]]:
    return scoring.score(
        (folder / "stories/base").glob("*.jsonl"),
        (folder / "stories/prompted").glob("*.jsonl"),
        (folder / "stories/blog").glob("kl=*/seed=?.jsonl"),
        (folder / "stories/blog").glob("kl=*/seed=?.base.jsonl"),
        ["cat", "cats"],
        2,
        length_share,
        complete,
    )


def test_scores_of_every_story(study: Path) -> None:
    rows, sets = score(study)
    assert [(r["model"], r["kl_factor"], r["seed"], r["story"]) for r in rows] == [
        ("base", "", 0, 0),
        ("base", "", 0, 1),
        ("prompted", "", 0, 0),
        ("prompted", "", 0, 1),
        ("policy", "6000", 0, 0),
        ("policy", "6000", 0, 1),
    ]
    first = rows[4]  # " a cat sat.\n\nCats"
    assert first["completion_reward"] == pytest.approx(len("There was a cat") / 100)
    assert first["story_reward"] == pytest.approx(len(" a cat sat.\n\nCats") / 100)
    assert first["mentions_concept"] == 1
    assert first["mentions_per_100_words"] == 50
    assert first["perplexity_under_base"] == pytest.approx(4)
    assert first["base_perplexity_under_policy"] == pytest.approx(8)
    assert (first["line_breaks"], first["ended"], first["words"], first["tokens"]) == (1, 0, 4, 5)
    assert (first["distinct_2"], first["repeated_4_grams"]) == (1, 0)
    second = rows[5]  # " cat cat cat cat cat": 1 of 4 bigrams, 1 of 2 4-grams are distinct
    assert (second["distinct_2"], second["repeated_4_grams"]) == (1 / 4, 1 / 2)
    assert second["base_perplexity_under_policy"] == pytest.approx(3)
    # the base is its own reference; the prompted base has no perplexity of the base's stories
    assert rows[0]["base_perplexity_under_policy"] == pytest.approx(4)
    assert math.isnan(rows[2]["base_perplexity_under_policy"])
    assert [(s["model"], s["prompt_group"], s["stories"]) for s in sets] == [
        ("base", "training", 2),
        ("prompted", "training", 2),
        ("policy", "training", 2),
    ]
    assert sets[1]["vendi_score"] == pytest.approx(1)


def test_what_the_prompt_says_never_counts(study: Path) -> None:
    write_stories(
        study / "stories/base/seed=0.jsonl",
        [story([1, 3, 4, 5, 0], prompt="There are no cats. A cat!"), story([0])],
    )
    rows, _ = score(study)
    assert rows[0]["mentions_concept"] == 0
    assert rows[0]["story_reward"] == pytest.approx(len(" a dog sat.") / 100)
    assert rows[0]["completion_reward"] == pytest.approx(
        len("There are no cats. A cat! a dog") / 100
    )


def test_a_story_that_ends_at_once_has_empty_values(study: Path, tmp_path: Path) -> None:
    rows, sets = score(study)
    empty = rows[1]
    assert (empty["words"], empty["tokens"], empty["ended"], empty["mentions_concept"]) == (
        0,
        1,
        1,
        0,
    )
    assert empty["perplexity_under_base"] == pytest.approx(4)
    write_table(tmp_path / "stories.csv", rows, STORIES)
    write_table(tmp_path / "sets.csv", sets, SETS)
    written = read_table(tmp_path / "stories.csv", STORIES)[1]
    for column in ("story_reward", "mentions_per_100_words", "distinct_2", "repeated_4_grams"):
        assert written[column] == ""
    assert "nan" not in (tmp_path / "stories.csv").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], "damaged or cut short"),
        (lambda text: "", "no stories"),
        (lambda text: "[1]\n", "has fields other than"),
        (lambda text: "7\n", "damaged"),
        (lambda text: text.replace('"token_ids": [0]', '"token_ids": [0, 1]'), "for 2 tokens"),
        (lambda text: text.replace("0.5", "null", 1), "no number"),
    ],
)
def test_damaged_stories_are_named(study: Path, damage, message: str) -> None:
    path = study / "stories/base/seed=0.jsonl"
    damaged = damage(path.read_text(encoding="utf-8"))
    path.write_text(damaged, encoding="utf-8")
    atomic.seal(path)  # as if a stage had written it so
    with pytest.raises(TableError, match=message) as error:
        score(study)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"story": 9, "log_prob_policy": [-1.0]}, "not among the base's 2"),
        ({"story": 1, "log_prob_policy": [-1.0, -1.0]}, "2 log probabilities for 1 tokens"),
        ({"story": "x", "log_prob_policy": [-1.0]}, "damaged"),
        ({"story": 1, "log_prob_policy": ["x"]}, "damaged"),
        (None, "no stories"),
    ],
)
def test_damaged_forgetting_is_named(study: Path, line: dict | None, message: str) -> None:
    path = study / "stories/blog/kl=6000/seed=0.base.jsonl"
    path.write_text("" if line is None else json.dumps(line) + "\n", encoding="utf-8")
    atomic.seal(path)  # as if a stage had written it so
    with pytest.raises(TableError, match=message) as error:
        score(study)
    assert str(path) in str(error.value)


def test_word_lists_are_json() -> None:
    assert scoring.parse_words('["cat", "cats"]') == ["cat", "cats"]
    for wrong in ("cat", "[]", '"cat"', '["cat", ""]', "[1]"):
        with pytest.raises(UserError, match="--concept-words"):
            scoring.parse_words(wrong)


def test_self_bleu_is_of_24_stories_evenly_spaced_over_a_set() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "cat", "dog", "sat", "ran"], 12)) for _ in range(48)]
    every_other = [metrics.words(text) for text in texts[::2]]
    found = scoring.score_set(texts)
    assert found["stories"] == 48
    assert found["self_bleu"] == pytest.approx(metrics.self_bleu(every_other), rel=1e-12)


# ---------------------------------------------------------------------------- intervals


def test_t_interval_of_three_seeds() -> None:
    row = t_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t quantile with 2 degrees of freedom; sd = 1
    assert row[:4] == pytest.approx((2, 2 - half, 2 + half, 3))
    assert row.known
    assert row.columns()["each"] == "1 2 3"


def test_an_interval_needs_four_seeds() -> None:
    one = t_interval([0.5, math.nan])
    assert (one.mean, one.seeds) == (0.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert t_interval([]).seeds == 0
    same = t_interval([0.5, 0.5])
    assert (same.low, same.high) == (0.5, 0.5)
    assert not over_seeds([1.0, 2.0, 3.0]).known
    assert over_seeds([1.0, 2.0, 3.0]).each == (1, 2, 3)
    four = [1.0, 2.0, 2.5, 3.5]
    assert over_seeds(four) == t_interval(four)


def test_two_modes_have_no_interval() -> None:
    modes = [7.7, 7.9, 8.3, 9.0, 11.6, 19.3, 19.4]
    assert not over_seeds(modes, scale="log").known
    assert over_seeds(modes, scale="log").mean == pytest.approx(np.mean(modes))
    assert over_seeds(modes, check=False).known
    assert over_seeds([1.0] * 5).known  # no scatter at all


def test_intervals_keep_to_what_is_possible() -> None:
    rare = [0.01, 0.02, 0.05, 0.1]
    for own, top in (("log", math.inf), ("logit", 1.0)):
        found = over_seeds(rare, scale=own)  # type: ignore[arg-type]
        assert 0 < found.low < found.mean < found.high < top
    assert t_interval(rare).low < 0
    # exp(± half / mean), by the delta method
    found, half = over_seeds(rare, scale="log"), t_interval(rare).high - 0.045
    assert (found.low, found.high) == pytest.approx(
        (0.045 * math.exp(-half / 0.045), 0.045 * math.exp(half / 0.045))
    )


def test_all_of_some_stories_is_no_certainty() -> None:
    found = over_seeds([1.0] * 5, scale="proportion", stories=120)
    quantile = 2.7764451  # Student's, 4 degrees of freedom
    assert found.low == pytest.approx(120 / (120 + quantile**2))
    assert found.high == 1


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_interval_of_a_share_holds_it(spread: float) -> None:
    """Also where the seeds' own shares differ, which makes the stories of a seed alike."""
    rng, held, tries = np.random.default_rng(5), 0, 600
    for _ in range(tries):
        own = np.clip(rng.normal(0.8, spread, size=8), 0, 1)
        shares = rng.binomial(24, own) / 24
        found = over_seeds(shares.tolist(), scale="proportion", stories=8 * 24)
        held += found.low <= 0.8 <= found.high
    truth = 0.8  # clipping moves it by less than 0.01
    assert held / tries > 0.93, truth


@pytest.mark.parametrize("metric", ["mentions_concept", "distinct_2", "words", "story_reward"])
def test_a_second_implementation_has_the_same_intervals(metric: str) -> None:
    """Of four seeds to ten; some of them have two modes and so no interval."""
    rng, none = np.random.default_rng(1), 0
    for _ in range(40):
        middle, k = rng.uniform(0.05, 0.95), int(rng.integers(3, 11))
        modes = rng.choice([0.2, 1.0], size=k) if rng.random() < 0.3 else np.ones(k)
        each = (rng.binomial(40, np.full(k, middle) * modes) / 40).tolist()
        found = over_seeds(each, scale=scale(metric), stories=40 * k)
        expected = verify_headline.spread(each, metric, 40 * k)
        none += expected is None
        assert found.known == (expected is not None)
        if expected:
            assert (found.low, found.high) == pytest.approx(expected)
    assert 0 < none < 30


def test_shares_that_differ_alike_by_luck_are_no_certainty() -> None:
    values: tables.Values = {
        (BASE, "ended"): {0: 0.25, 1: 0.5},
        (KL0, "ended"): {0: 0.5, 1: 0.75},
    }
    (sure,) = tables.paired_differences(values)
    assert sure["p_value"] == 0
    for model in (BASE, KL0):
        values[model, tables.NUMBER] = {0: 8, 1: 8}
    (row,) = tables.paired_differences(values)
    assert row["mean"] == 0.25
    assert 0.1 < row["p_value"] < 0.9


# ---------------------------------------------------------------------------- tables of scores


def score_row(model: ModelId, seed: int, index: int, **changes: object) -> Row:
    row: Row = dict.fromkeys(STORIES, 1.0)
    row |= replace(model, seed=seed).columns()
    return row | {"prompt_group": "training", "prompt": "p", "story": index} | changes


def write_scores(folder: Path, rows: list[Row]) -> tuple[Path, Path]:
    write_table(folder / "stories.csv", rows, STORIES)
    sets = {
        (row["model"], row["variant"], row["kl_factor"], row["seed"], row["prompt_group"]): row
        for row in rows
    }
    write_table(
        folder / "sets.csv",
        (
            {
                column: row[column]
                for column in ("model", "variant", "kl_factor", "seed", "prompt_group")
            }
            | {"stories": 2, "self_bleu": 0.25, "vendi_score": 2.0, "compression_ratio": ""}
            for row in sets.values()
        ),
        SETS,
    )
    return folder / "stories.csv", folder / "sets.csv"


def test_the_seed_is_the_unit(tmp_path: Path) -> None:
    rows = [
        score_row(BASE, 0, 0, words=10),
        score_row(BASE, 0, 1, words=20),  # seed 0: 15
        score_row(BASE, 1, 0, words=25),  # seed 1: 25, though it has one story only
        score_row(BASE, 1, 1, words="", prompt_group="training"),
    ]
    values = tables.score_values(*write_scores(tmp_path, rows))["training"]
    assert values[BASE, "words"] == {0: 15.0, 1: 25.0}
    row = next(r for r in tables.summary(values) if r["metric"] == "words")
    assert (row["mean"], row["seeds"], row["each"]) == (20, 2, "15 25")
    assert math.isnan(row["low"])
    # no seed has a value: no row
    assert "compression_ratio" not in {r["metric"] for r in tables.summary(values)}


def test_perplexity_is_over_all_tokens(tmp_path: Path) -> None:
    rows = [
        score_row(BASE, 0, 0, perplexity_under_base=2, tokens=3),
        score_row(BASE, 0, 1, perplexity_under_base=32, tokens=1),
        # its own tokens do not weigh in how it finds the base's stories
        score_row(KL0, 0, 0, base_perplexity_under_policy=4, tokens=100),
        score_row(KL0, 0, 1, base_perplexity_under_policy=64, tokens=1),
    ]
    values = tables.score_values(*write_scores(tmp_path, rows))["training"]
    # 2³ · 32 = 256 = 4⁴; 4³ · 64 = 4096 = 8⁴
    assert values[BASE, "perplexity_under_base"][0] == pytest.approx(4)
    assert values[KL0, "base_perplexity_under_policy"][0] == pytest.approx(8)


def test_summary_says_the_coefficient_per_nat(tmp_path: Path) -> None:
    from tinycats.policies import objective

    assert tables.POST_VOCABULARY == objective.POST_VOCABULARY
    rows = tables.summary({(BASE, "words"): {0: 1.0}, (KL6000, "words"): {0: 1.0}})
    assert [row["kl_coefficient_per_nat"] for row in rows] == ["", 6000 / 50257]
    write_table(tmp_path / "summary.csv", rows, TABLES["summary"])
    assert (tmp_path / "summary.csv").read_text().splitlines()[1:] == [
        "base,,,,words,1,,,1,1",
        "policy,blog,6000,0.1193864,words,1,,,1,1",
    ]


def test_differences_are_paired_by_seed() -> None:
    values: tables.Values = {
        (BASE, "ended"): {0: 0.0, 1: 0.1, 2: 0.2},
        (KL0, "ended"): {0: 0.5, 1: 0.6, 2: 0.8},
        (KL6000, "ended"): {1: 0.5, 2: 0.7, 3: 0.9},
        (KL0, "words"): {0: 1.0},
        (KL6000, "words"): {0: 2.0},
        (BASE, "self_bleu"): {0: 0.1, 1: 0.2},
        (KL0, "self_bleu"): {0: 0.3, 1: 0.4},
    }
    found = {(r["comparison"], r["metric"]): r for r in tables.paired_differences(values)}
    assert set(found) == {
        ("KL 0 − base", "ended"),
        ("KL 0 − base", "self_bleu"),
        ("KL 6000 − KL 0", "ended"),
        ("KL 6000 − KL 0", "words"),
        ("KL 6000 − base", "ended"),
    }
    row = found["KL 0 − base", "ended"]  # differences 0.5, 0.5, 0.6
    half = 4.302652729911275 * math.sqrt((2 * (1 / 30) ** 2 + (2 / 30) ** 2) / 2 / 3)
    assert (row["mean"], row["seeds"], row["verdict"]) == (pytest.approx(16 / 30), 3, "better")
    t = (16 / 30) / (half / 4.302652729911275)
    p = 1 - t / math.sqrt(2 + t * t)  # Student's distribution with 2 degrees of freedom
    assert row["p_value"] == pytest.approx(p)
    # of four p-values it is the third: two are 0, since their two seeds differ by the same
    assert row["p_holm"] == pytest.approx(2 * p)
    assert sorted(r["p_value"] for r in found.values() if r["seeds"] == 2)[:2] == [0.0, 0.0]
    assert [float(v) for v in row["each"].split()] == pytest.approx([0.5, 0.5, 0.6])
    assert (row["minuend"], row["subtrahend"], row["variant"]) == ("0", "base", "blog")
    assert row["subtrahend_variant"] == ""
    # only seeds 1 and 2 are in both; −0.1 and −0.1
    row = found["KL 6000 − KL 0", "ended"]
    assert (row["mean"], row["seeds"]) == (pytest.approx(-0.1), 2)
    assert row["verdict"] == "worse"
    assert found["KL 6000 − KL 0", "words"]["verdict"] == "undecided"  # one seed
    assert found["KL 0 − base", "self_bleu"]["verdict"] == "worse"  # more of it is worse


def test_variants_are_compared_with_each_other() -> None:
    models = [ModelId("policy", v, k) for v in ("blog", "a", "b") for k in ("0", "6000")]
    values: tables.Values = {
        (model, "ended"): {seed: 0.1 * place + 0.01 * seed for seed in range(3)}
        for place, model in enumerate(models)
    }
    rows = tables.paired_differences(values)
    between = {r["comparison"]: r for r in rows if r["variant"] != r["subtrahend_variant"]}
    assert set(between) == {
        f"KL {k}, {mine} − KL {k}, {other}"
        for k in (0, 6000)
        for mine, other in (("a", "blog"), ("b", "blog"), ("b", "a"))
    }
    row = between["KL 6000, b − KL 6000, a"]
    assert (row["minuend"], row["subtrahend"]) == ("6000", "6000")
    assert (row["variant"], row["subtrahend_variant"]) == ("b", "a")
    assert row["mean"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("metric", "difference", "p", "expected"),
    [
        ("ended", 0.1, 0.04, "better"),
        ("ended", -0.1, 0.04, "worse"),
        ("self_bleu", 0.1, 0.04, "worse"),
        ("self_bleu", -0.1, 0.04, "better"),
        ("words", 0.1, 0.04, "higher"),
        ("words", -0.1, 0.04, "lower"),
        ("perplexity_under_base", -0.1, 0.04, "lower"),  # mode-seeking, not quality
        ("kl_policy_to_base_nats", 0.1, 0.04, "higher"),
        ("words", 0.1, 0.06, "undecided"),
        ("ended", 0.0, 1.0, "undecided"),
        ("ended", 0.1, math.nan, "undecided"),
    ],
)
def test_verdicts(metric: str, difference: float, p: float, expected: str) -> None:
    assert verdict(METRICS[metric].direction, difference, p) == expected


def test_holm_by_hand() -> None:
    found = holm([0.01, math.nan, 0.04, 0.03, 0.005])
    assert found[:1] + found[2:] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[1])
    assert holm([0.7, 0.8]) == [1.0, 1.0]


def test_holm_keeps_false_verdicts_rare() -> None:
    """Of 300 tables of 40 true zeros, at most some 5 % have any verdict; unadjusted, nearly all."""
    rng = np.random.default_rng(0)
    tables_of_zeros = [[p_value(v) for v in rng.normal(size=(40, 4)).tolist()] for _ in range(300)]
    assert np.mean([min(holm(table)) < 0.05 for table in tables_of_zeros]) < 0.09
    assert np.mean([min(table) < 0.05 for table in tables_of_zeros]) > 0.7


def test_prompts_are_apart_and_the_prompted_base_is_left_out(tmp_path: Path) -> None:
    rows = [
        score_row(model, seed, index, prompt=prompt, prompt_group=group, mentions_concept=said)
        for model, said in ((BASE, 0), (PROMPTED, 1), (KL0, 1))
        for seed in (0, 1)
        for index, (group, prompt) in enumerate((("training", "a"), ("other", "b"), ("other", "c")))
    ]
    path, sets = write_scores(tmp_path, rows)
    found = tables.by_prompt_group({}, tables.prompt_values(path))
    assert found == []
    every = tables.by_prompt_group(tables.score_values(path, sets), tables.prompt_values(path))
    found = [row for row in every if row["prompt"]]
    assert {r["model"] for r in every if not r["prompt"]} == {"base", "prompted", "policy"}
    assert list(dict.fromkeys((r["prompt_group"], r["prompt"]) for r in found)) == [
        ("training", "a"), ("other", "b"), ("other", "c"),
    ]  # fmt: skip
    assert {r["model"] for r in found} == {"base", "policy"}
    shares = {
        (r["model"], r["prompt"]): r["mean"] for r in found if r["metric"] == "mentions_concept"
    }
    assert shares == {(m, p): float(m == "policy") for m in ("base", "policy") for p in "abc"}


# ---------------------------------------------------------------------------- completions


def completion(text: str, count: int, reward: float, **changes: object) -> Row:
    row: Row = dict.fromkeys(COMPLETIONS, 0.0)
    row |= {"prompt": "p", "token_ids": "1 2", "text": text, "count": count, "reward": reward}
    return row | changes


def test_completions_give_reward_kl_and_distinct(tmp_path: Path) -> None:
    path = tmp_path / "completions/blog/kl=0/seed=4.csv"
    rows = [
        completion(" a cat", 1500, 0.6, kl_policy_to_base_nats=2.0),
        completion(" a dog", 500, 0.2, kl_policy_to_base_nats=4.0),
    ]
    write_table(path, rows, COMPLETIONS)
    values = tables.completion_values([path], {})
    assert values[KL0, "completion_reward"] == {4: pytest.approx(0.5)}
    assert values[KL0, "kl_policy_to_base_nats"] == {4: pytest.approx(2.5)}
    assert values[KL0, "kl_base_to_policy_nats"] == {4: 0.0}
    assert values[KL0, "distinct_completions"][4] == pytest.approx(2)


def test_what_is_infinite_stays_undefined(tmp_path: Path) -> None:
    path = tmp_path / "completions/prompted.csv"
    write_table(path, [completion("", 9, 0.5, kl_base_to_policy_nats="")], COMPLETIONS)
    stories: tables.Values = {(PROMPTED, "kl_base_to_policy_nats"): {0: 1.0}}
    values = tables.merge(stories, tables.completion_values([path], {PROMPTED: [0]}))
    rows = {row["metric"]: row["mean"] for row in tables.summary(values)}
    assert rows == {"completion_reward": 0.5, "kl_policy_to_base_nats": 0}


def test_the_bases_completions_are_dealt_to_its_seeds(tmp_path: Path) -> None:
    path = tmp_path / "completions/base.csv"
    counts = [500, 300, 150, 50, 1]
    rewards = [0.1, 0.2, 0.3, 0.4, 0.5]
    write_table(path, map(completion, "abcde", counts, rewards), COMPLETIONS)
    own = tables.completion_values([path], {BASE: [0, 1, 2]})[BASE, "completion_reward"]
    assert sorted(own) == [0, 1, 2]
    assert len(set(own.values())) == 3
    whole = np.average(rewards, weights=counts)
    assert np.average(list(own.values()), weights=[333, 334, 334]) == pytest.approx(whole, abs=2e-4)
    parts = tables.deal(np.array(counts), 3)
    assert [int(part.sum()) for part in parts] == [333, 334, 334]
    assert (np.sum(parts, axis=0) == np.array(counts)).all()
    assert all((a == b).all() for a, b in zip(parts, tables.deal(np.array(counts), 3), strict=True))


@pytest.mark.parametrize("count", ["0", "1.5", "", "many"])
def test_a_count_that_counts_nothing_is_refused(tmp_path: Path, count: str) -> None:
    path = tmp_path / "completions/base.csv"
    write_table(path, [completion("x", 1, 0.5) | {"count": count}], COMPLETIONS)
    with pytest.raises(TableError, match=r"base\.csv: column count"):
        tables.completion_values([path], {BASE: [0]})


# ---------------------------------------------------------------------------- positions


def test_bins_double_from_the_rewarded_tokens() -> None:
    assert positions.bins(4, 250) == [
        (0, 4),
        (4, 8),
        (8, 16),
        (16, 32),
        (32, 64),
        (64, 128),
        (128, 250),
    ]
    assert positions.bins(4, 3) == [(0, 3)]
    assert positions.bins(1, 5) == [(0, 1), (1, 2), (2, 4), (4, 5)]
    assert positions.bins(4, 0) == []


@pytest.mark.parametrize(
    ("text", "pieces", "expected"),
    [
        (" a cat cats.", [" a", " cat", " c", "at", "s", "", "."], [1, 2]),
        (" concat", [" con", "cat"], []),
        # an end token is not in the text
        (" cat", [" cat", "<|endoftext|>"], [0]),
        # a tokenizer whose single tokens lose their blank
        ("a cat\n\nA cat", ["a", "cat", "\n", "\n", "A", "cat"], [1, 5]),
        # a character that is split among tokens
        (" caf\u00e9 cat", [" caf", "\ufffd", "\ufffd", " cat"], [3]),
        # a mention that begins where a token ends
        ("a-cat", ["a", "-", "cat"], [2]),
        ("", [], []),
    ],
)
def test_mentions_belong_to_the_token_they_begin_in(
    text: str, pieces: list[str], expected: list[int]
) -> None:
    mentions = Mentions(["cat", "cats"])
    assert positions.tokens_that_mention(text, pieces, mentions) == expected


def test_scores_by_position(tmp_path: Path) -> None:
    path = tmp_path / "stories/blog/kl=6000/seed=0.jsonl"
    told = [
        story([1, 2, 4, 5, 6], kl_policy_to_base_nats=[1.0, 2.0, 3.0, 4.0, 5.0]),
        story([2, 0]),
    ]
    write_stories(path, told)
    found = positions.read_positions([path], ["cat", "cats"], 2)
    rows = {
        (r["position_from"], r["position_to"], r["metric"]): r for r in tables.by_position(found)
    }
    assert len(rows) == 9
    # tokens 0 and 1 of two stories: 4 tokens, of which two begin a mention
    assert rows[0, 2, "mentions_per_100_tokens"]["mean"] == 50
    assert rows[4, 5, "mentions_per_100_tokens"]["mean"] == 100
    assert rows[0, 2, "kl_policy_to_base_nats_per_token"]["mean"] == (1 + 2 + 0.5 + 0.5) / 4
    assert rows[2, 4, "kl_policy_to_base_nats_per_token"]["mean"] == 3.5
    # log 1/2 − log 1/4 at every token
    assert rows[2, 4, "log_ratio_nats_per_token"]["mean"] == pytest.approx(math.log(2))
    # per completion: the first two tokens
    own = found.completion_kl["training"]
    assert own[KL6000, "kl_policy_to_base_nats"] == {0: (3 + 1) / 2}
    assert own[KL6000, "kl_base_to_policy_nats"] == {0: 0.5}


# ---------------------------------------------------------------------------- training


def training_row(step: int, **changes: object) -> Row:
    row: Row = dict.fromkeys(TRAINING, 0.0)
    return row | {"step": step, "gradient_snr": ""} | changes


def write_training(folder: Path, seed: int, rewards: list[float]) -> Path:
    path = folder / f"policies/blog/kl=0/seed={seed}/training.csv"
    rows = [training_row(i, reward_mean=r, seconds=seed + i) for i, r in enumerate(rewards, 1)]
    write_table(path, rows, TRAINING)
    return path


def test_training_curves_have_a_band(tmp_path: Path) -> None:
    paths = [write_training(tmp_path, 0, [0.1, 0.2]), write_training(tmp_path, 1, [0.1, 0.4])]
    rows = {(r["step"], r["metric"]): r for r in steps.training(paths)}
    row = rows[2, "reward_mean"]
    assert (row["mean"], row["seeds"]) == (pytest.approx(0.3), 2)
    assert (row["low"], row["each"]) == (pytest.approx(math.nan, nan_ok=True), "0.2 0.4")
    four = {
        (r["step"], r["metric"]): r
        for r in steps.training(
            [write_training(tmp_path, s, [0.1, 0.2 + 0.1 * s]) for s in range(4)]
        )
    }[2, "reward_mean"]
    half = 3.182446305284263 * math.sqrt(0.05 / 3 / 4)  # 0.2, 0.3, 0.4, 0.5
    assert (four["low"], four["high"]) == pytest.approx((0.35 - half, 0.35 + half))
    assert four["each"] == ""
    # measured times would differ from run to run; what was not measured has no row
    assert {"seconds", "samples_per_second", "gradient_snr"}.isdisjoint(
        metric for _, metric in rows
    )


def test_a_run_ends_after_its_last_update(tmp_path: Path) -> None:
    path = write_training(tmp_path, 3, [0.1, 0.2])
    drawn = tmp_path / "completions/blog/kl=0/seed=3.csv"
    write_table(drawn, [completion("a", 3, 0.5), completion("b", 1, 0.1)], COMPLETIONS)
    rows = steps.trajectories([path], [drawn], 1000)
    assert [(r["seed"], r["step"]) for r in rows] == [(3, 1), (3, 2), (3, 3)]
    assert [r["completions_drawn"] for r in rows] == [0, 1000, 2000]
    own = steps.trajectories([path], [drawn], 1000, {"blog": 50})
    assert [r["completions_drawn"] for r in own] == [0, 50, 100]
    assert [r["reward"] for r in rows] == pytest.approx([0.1, 0.2, 0.4])
    assert len(steps.trajectories([path], [], 1000)) == 2
    # batches of fewer prompts than are measured are no part of the way
    assert steps.trajectories([path], [drawn], 1000, {}, ["blog"]) == rows[2:]


def test_top_completions_become_shares(tmp_path: Path) -> None:
    path = tmp_path / "policies/blog/kl=0/seed=1/top_completions.csv"
    rows = [{"step": 1, "prompt": "p", "text": ' "a",\ncat', "count": 25, "reward": 0.5}]
    write_table(path, rows, TOP_COMPLETIONS)
    (row,) = steps.top_completions([path], 100)
    assert (row["text"], row["share"], row["seed"]) == (' "a",\ncat', 0.25, 1)
    with pytest.raises(TableError, match="count 25 of a batch of 20"):
        steps.top_completions([path], 20)
    (row,) = steps.top_completions([path], 20, {row["variant"]: 50})
    assert row["share"] == pytest.approx(0.5)


def test_first_tokens_are_averaged_over_seeds(tmp_path: Path) -> None:
    path = tmp_path / "first_token.csv"
    lines = ["model,variant,kl_factor,seed,prompt,after,token,probability"]
    lines += [f"base,,,,p,,t{i:02},{(20 - i) / 1000}" for i in range(20)]
    # two ids with the same text count together; seed 1 gives the token nothing
    lines += [
        "policy,blog,0,0,p,, cat,0.5",
        "policy,blog,0,0,p,, cat,0.1",
        "policy,blog,0,1,p,,t00,0.02",
    ]
    # the second token's probabilities are another distribution
    lines += ["policy,blog,0,0,p,t00, cat,0.8", "policy,blog,0,1,p,t00, cat,0.6"]
    atomic.write_sealed(path, "\n".join(lines) + "\n")
    every = steps.first_token(path)
    (second,) = [r for r in every if r["after"]]
    assert (second["after"], second["token"]) == ("t00", " cat")
    assert second["probability"] == pytest.approx(0.7)
    rows = [r for r in every if not r["after"]]
    assert [r["token"] for r in rows if r["model"] == "base"] == [f"t{i:02}" for i in range(11)]
    policy = {r["token"]: r["probability"] for r in rows if r["model"] == "policy"}
    assert policy == pytest.approx({" cat": 0.3, "t00": 0.01})
    # of two prompts, the mean; after a first token, of the prompts that share the likeliest
    two = [lines[0], "base,,,0,p,,x,0.4", "base,,,0,q,,x,0.2", "base,,,0,q,,y,0.6"]
    two += ["base,,,0,p,x,z,0.9", "base,,,0,q,y,z,0.2", "base,,,0,r,y,z,0.4", "base,,,0,r,,y,0.3"]
    atomic.write_sealed(path, "\n".join(two) + "\n")
    found = {(row["after"], row["token"]): row["probability"] for row in steps.first_token(path)}
    assert found == pytest.approx({("", "x"): 0.2, ("", "y"): 0.3, ("y", "z"): 0.3})
    atomic.write_sealed(path, lines[0] + "\nbase,,,0,p,,x,0.7\nbase,,,0,p,,y,0.7\n")
    with pytest.raises(TableError, match=r"first_token\.csv: probabilities .* add up to 1\.4"):
        steps.first_token(path)


# ---------------------------------------------------------------------------- damage and programs


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+x", "-x", "@x", "\t=x", "'=x", "''-x", "'tis", "", " =x", "-", "\r\n", "-0.5"],
)
def test_a_text_that_a_spreadsheet_would_compute(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    write_table(path, [{"a": text, "b": -0.5}], {"a": "", "b": ""})
    assert read_table(path, {"a": "", "b": ""}) == [{"a": text, "b": "-0.5"}]
    with open(path, newline="", encoding="utf-8") as file:
        cell, number = list(csv.reader(file))[1]
    assert cell[:1] not in tuple("=+-@\t\r") or cell == "-0.5"
    assert number == "-0.5"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "cut short"),
        (lambda text: text[:-1], "cut short"),
        (lambda text: text[:-20] + "\n", "cut short or too long"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda text: text.replace("reward_mean", "reward"), "missing columns"),
        (lambda text: text.replace("0.125", "wrong"), "column reward_mean holds 'wrong'"),
        (lambda text: text.replace("0.125", "inf"), "column reward_mean holds 'inf'"),
        (lambda text: "\udcff\n", "not a text file"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, damage, message: str) -> None:
    path = write_training(tmp_path, 0, [0.125, 0.25])
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    atomic.seal(path)  # as if a stage had written it so
    with pytest.raises(TableError, match=message) as error:
        steps.training([path])
    assert str(path) in str(error.value)


def test_tables_need_no_torch() -> None:
    code = (
        "import sys, tinycats.tables.summaries, tinycats.tables.steps, tinycats.tables.positions;"
        "sys.exit(bool({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
    )


def write_frontier(study: Path) -> tuple[Path, Path]:
    both = frontier.POLICIES, frontier.PROMPTED
    numbers = {c: 0.5 for c in {**both[0], **both[1]} if c not in ("variant", "kl_factor", "seed")}
    paths = study / "frontier/policies.csv", study / "frontier/prompted.csv"
    who = [{"variant": "blog", "kl_factor": "0", "seed": seed, "text": " a cat"} for seed in (0, 1)]
    for path, columns, rows in zip(paths, both, (who, who[:1]), strict=True):
        all_rows = [numbers | row | {"base_reward": 0.1} for row in rows]
        write_table(path, [{c: row[c] for c in columns} for row in all_rows], columns)
    return paths


def test_the_program_writes_every_table_twice_the_same(study: Path) -> None:
    rows, sets = score(study)
    write_table(study / "scores/stories.csv", rows, STORIES)
    write_table(study / "scores/sets.csv", sets, SETS)
    told = sorted(str(p) for p in study.glob("stories/**/seed=?.jsonl"))
    training = write_training(study, 0, [0.1, 0.2])
    policies, prompted = write_frontier(study)
    run_file = training.with_name("run.json")
    atomic.write_sealed(run_file, json.dumps({"new_tokens": 2}))

    def run(out: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [interpreter(), str(SCRIPTS / "make_tables.py"), "--out", str(study / out)]
        command += ["--story-scores", str(study / "scores/stories.csv")]
        command += ["--set-scores", str(study / "scores/sets.csv"), "--stories", *told]
        command += ["--training", str(training), "--concept-words", '["cat"]']
        command += ["--policies", str(policies), "--prompted", str(prompted)]
        command += ["--run", str(run_file), "--batch-size", "10", *more]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    for out in ("tables", "again"):
        assert run(out).returncode == 0
    assert {p.name for p in (study / "tables").glob("[!.]*")} == {f"{n}.csv" for n in TABLES}
    for stem, columns in TABLES.items():
        name = f"{stem}.csv"
        assert (study / "tables" / name).read_bytes() == (study / "again" / name).read_bytes()
        read_table(study / "tables" / name, columns)
        assert "nan" not in (study / "tables" / name).read_text()
    failed = run("none", "--batch-size", "0")
    assert failed.returncode == 1
    assert failed.stderr == "error: --batch-size is 0, should be at least 1\n"
    assert not (study / "none").exists()


@pytest.mark.parametrize(
    "text", ["'\r", "\r", "a\rb", "\r\n", "a\nb", 'a"\r', ",\r", "\u2028", "\x85", " "]
)
def test_a_text_with_a_line_break_of_any_kind_comes_back(tmp_path: Path, text: str) -> None:
    """A token may be a carriage return, which csv before Python 3.13 leaves without quotes."""
    path = tmp_path / "table.csv"
    write_table(path, [{"a": text, "b": 1.0}, {"a": "b", "b": 2.0}], {"a": "", "b": ""})
    assert read_table(path, {"a": "", "b": ""}) == [{"a": text, "b": "1"}, {"a": "b", "b": "2"}]


def test_a_growing_table_is_the_whole_one_after_any_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"step": "", "text": ""}
    rows = [{"step": n, "text": text} for n, text in enumerate(["a", "=b\n", "c,d", "e"])]
    whole, path = tmp_path / "whole.csv", tmp_path / "grown.csv"
    write_table(whole, rows, columns)
    write_table(path, rows, columns)  # of an earlier run
    growing = GrowingTable(path, columns)
    growing.restart(rows[:1])
    assert not atomic.checksum_file(path).exists()
    growing.add(rows[1])
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full_disk)
        growing.add(rows[2])
    assert path.read_bytes().count(b"\n") == 4  # a text's own line break among them
    path.write_bytes(path.read_bytes() + b"3,")  # of a process that was killed
    growing.add(rows[3])
    assert path.read_bytes() == whole.read_bytes()
    growing.restart([])
    assert path.read_bytes() == b"step,text\n"


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
