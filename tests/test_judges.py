"""Judges: what the config may list, what is scored, and what the figure says of it."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import ROOT, environment, program, write_model

from tinycats.completions.columns import COMPLETIONS
from tinycats.figures import judges as figure
from tinycats.figures import style
from tinycats.figures.reading import Tables
from tinycats.files.tables import TableError, read_table, write_lines, write_table
from tinycats.language_model.text import encode
from tinycats.layout import JUDGES
from tinycats.models.folders import load_tokenizer
from tinycats.program import UserError
from tinycats.reward.settings import JudgeSettings, check_judges
from tinycats.scores import columns, judging
from tinycats.stories.columns import STORY_FIELDS
from tinycats.tables.intervals import t_interval

PROMPT = "Once upon a time there was"


def check(*judges: Any, reward: str = "similarity to “cat”") -> list[str]:
    """The names of judges as a config lists them."""
    found = [JudgeSettings.read(judge, f"judges.{i}") for i, judge in enumerate(judges)]
    check_judges(found, reward, "cat", "nano")
    return [judge.name("cat") for judge in found]


def test_judges_have_the_forms_of_rewards_and_two_more() -> None:
    length = {"python": "config/rewards/length.py:letters"}
    encoder = {"encoder": "organisation/other-encoder", "revision": "abc"}
    classifier = {"classifier": "organisation/model", "label": "POSITIVE"}
    assert check(
        length, encoder, classifier, {"concept": "dog"}, {**encoder, "concept": "dog"}
    ) == [
        "letters",
        "similarity to “cat” by other-encoder",
        "score of “POSITIVE”",
        "similarity to “dog”",
        "similarity to “dog” by other-encoder",
    ]
    assert check("similarity", reward="letters") == ["similarity to “cat”"]


@pytest.mark.parametrize(
    ("judges", "says"),
    [
        (["similarity"], "judges.0: similarity to “cat” found, as the reward is"),
        ([{"concept": "dog"}] * 2, "judges.1: similarity to “dog” found, as judges.0 is"),
        ([{"python": "no.py:f"}], "judges.0.python: no.py: no such file"),
        ([{"encoder": "nano"}], "judges.0.encoder: nano writes stories"),
        ([{"encoder": "no/such/folder"}], "judges.0.encoder: unknown model"),
        (
            [{"encoder": "a/b", "classifier": "a/b"}],
            "judges.0.classifier and encoder are two rewards",
        ),
        ([{"concept": "dog", "classifier": "a/b"}], "judges.0.concept: belongs to a similarity"),
        ([{"concept": "dog", "revision": "abc"}], "judges.0.revision: belongs to a model"),
        (["similar"], 'judges.0: "similar" found, expected'),
        ([{"concpt": "dog"}], "judges.0.concpt: unknown key; did you mean concept?"),
    ],
)
def test_bad_judges_are_one_line(judges: list[Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        check(*judges)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Completions and stories of a base and a policy, with their rewards."""
    folder = tmp_path_factory.mktemp("study")
    tokenizer = load_tokenizer(write_model(folder / "model"))
    models = {
        "base": ("base.csv", "base/seed=0"),
        "blog/kl=0": ("blog/kl=0/seed=0.csv", "blog/kl=0/seed=0"),
    }
    scores = []
    for rank, (completions, stories) in enumerate(models.values()):
        rows = [
            {**dict.fromkeys(COMPLETIONS, 0.0), "prompt": PROMPT, "text": text, "count": count, "reward": reward + rank,
             "token_ids": " ".join(map(str, encode(tokenizer, text)))}
            for text, count, reward in ((" a cat", 3, 0.5), (" a dog", 1, 0.1))
        ]  # fmt: skip
        write_table(folder / "completions" / completions, rows, COMPLETIONS)
        told = []
        for index, (group, text) in enumerate((("training", " a cat."), ("other", "?"), ("training", " "), ("training", "Lily ran."))):  # fmt: skip
            told.append({**{field: [0.0] for field in STORY_FIELDS}, "prompt_group": group, "prompt": PROMPT,
                         "forced": "", "text": text, "ended": True, "sample_seed": 1})  # fmt: skip
            row: dict[str, Any] = dict.fromkeys(columns.STORIES, 1.0)
            policy = {"model": "policy", "variant": "blog", "kl_factor": "0"}
            row |= {"model": "base", "variant": "", "kl_factor": ""} if not rank else policy
            scores.append({**row, "seed": 0, "story": index, "prompt_group": group,
                           "story_reward": 0.2 * index + rank if text.strip() else float("nan")})  # fmt: skip
        write_lines(folder / f"stories/{stories}.jsonl", told, STORY_FIELDS)
    write_table(folder / "scores/stories.csv", scores, columns.STORIES)
    return folder


def run(study: Path, judges: Any, out: Path) -> subprocess.CompletedProcess[str]:
    words = [*program("judge"), "--completions", *map(str, study.glob("completions/**/*.csv"))]
    words += ["--stories", *map(str, study.glob("stories/**/*.jsonl"))]
    words += [
        "--story-scores",
        str(study / "scores/stories.csv"),
        "--tokenizer",
        str(study / "model"),
    ]
    words += [
        "--judges",
        json.dumps(judges),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    words += ["--rewards", str(out.parent / "rewards"), "--threads", "1"]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)


def test_the_program_scores_what_the_reward_saw(study: Path, tmp_path: Path) -> None:
    length = {"name": "letters", "python": f"{ROOT}/config/rewards/length.py:letters"}
    animals = {"name": "animals", "python": f"{ROOT}/config/rewards/animals.py:animals_named"}
    done = run(study, [length, animals], tmp_path / "judges.csv")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "judges.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["judge"], r["texts"], r["count"]) for r in rows] == [
        (model, judge, texts, count)
        for judge in ("letters", "animals")
        for model in ("base", "policy")
        for texts, count in (("completions", "4"), ("stories", "2"))
    ]
    values = [(float(r["reward"]), float(r["score"])) for r in rows]
    letters = len(PROMPT.replace(" ", "")) + 4  # of either completion
    assert values[:2] == [
        pytest.approx((0.4, letters / 100)),
        pytest.approx((0.3, (4 + 7) / 2 / 100)),
    ]
    assert values[2] == pytest.approx((1.4, letters / 100))
    assert values[4:6] == [pytest.approx((0.4, 1.0)), pytest.approx((0.3, 0.5))]
    assert len(list((tmp_path / "rewards").glob("*.json"))) == 2  # a memo of each judge


def test_a_failing_judge_is_one_line(study: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(texts):\n    return [float('nan')] * len(texts)\n")
    done = run(study, [{"name": "bad", "python": f"{tmp_path}/bad.py:f"}], tmp_path / "judges.csv")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "bad.py:f returned nan for" in line
    assert not (tmp_path / "judges.csv").exists()
    for judges, says in (({}, "expected a list of objects"), ([{"name": "x"}], "the reward should be given")):  # fmt: skip
        assert says in run(study, judges, tmp_path / "judges.csv").stderr.splitlines()[-1]


def test_a_story_without_a_reward_is_refused(study: Path, tmp_path: Path) -> None:
    rows = read_table(study / "scores/stories.csv", columns.STORIES)
    write_table(tmp_path / "stories.csv", rows[:2], columns.STORIES)
    stories = sorted(study.glob("stories/**/*.jsonl"))
    with pytest.raises(TableError, match="has no story_reward"):
        judging.stories(stories, tmp_path / "stories.csv")


def test_one_judge_is_in_memory_at_a_time(study: Path) -> None:
    texts = judging.stories(study.glob("stories/**/*.jsonl"), study / "scores/stories.csv")
    events: list[str] = []

    def load(name: str) -> Any:
        def score(texts: list[str]) -> np.ndarray:
            events.append(f"use {name}")
            return np.zeros(len(texts))

        def loaded() -> Any:
            events.append(f"load {name}")
            return score

        return loaded

    judging.judge(texts, {"a": load("a"), "b": load("b")})
    assert events == ["load a", "use a", "load b", "use b"]


# ---------------------------------------------------------------------------- the figure


@pytest.mark.parametrize(
    ("change", "title", "ends"),
    [
        (-0.2, "A judge falls where the reward rises", "it falls while the reward rises."),
        (0.2, "What was not trained on rises with the reward", "it rises with the reward."),
        (0.0, "Judges that were not trained on", "it changes no more than between seeds."),
    ],
)
def test_the_figure_says_whether_a_judge_follows(
    tmp_path: Path, change: float, title: str, ends: str
) -> None:
    rows = []
    # one policy's seeds differ from the other's by −0.01, 0 and −0.02 besides the change
    seeds = {"": (0.3, 0.32, 0.34), "6000": (0.5, 0.51, 0.52), "0": (0.49, 0.51, 0.5)}
    for factor, reward in (("", 0.1), ("6000", 0.4), ("0", 0.6)):
        for seed, score in enumerate(seeds[factor]):
            who: dict[str, Any] = {
                "model": "policy" if factor else "base",
                "variant": "blog" if factor else "",
            }
            who |= {"kl_factor": factor, "judge": "letters", "count": 9, "reward": reward}
            score += change if factor == "0" else 0.0
            for texts in ("completions", "stories"):
                rows.append({**who, "seed": seed, "texts": texts, "score": score})
    write_table(tmp_path / JUDGES, rows, columns.JUDGES)
    style.apply("judges")
    drawing = figure.draw(Tables.read("judges", tmp_path, "cat", reward="animals named"))
    assert drawing.title.startswith(title)
    assert drawing.finding.endswith(ends)
    assert drawing.finding.startswith("From the base to KL factor 0 the reward of completions goes from 0.10 to 0.60 and letters from 0.32 to")  # fmt: skip
    assert drawing.figure.axes[-1].get_xlabel() == "reward: animals named"


def test_a_judge_with_one_seed_is_not_believed() -> None:
    assert figure._verdict(t_interval([-0.5])) == ("", "one seed does not tell whether it follows")
