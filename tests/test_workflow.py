"""The whole chain as a user runs it: the smoke study in a copy of the repository, with real models."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import verify_headline
import verify_study
import yaml
from test_source_code import reworded
from tiny_model import copy_tracked
from warm_start import interpreter

pytestmark = pytest.mark.slow


def snakemake(folder: Path, *words: str) -> str:
    """Snakemake as the README says, with the interpreter's own environment on no PATH."""
    command = [
        *(interpreter(), "-m", "snakemake", *words, "--cores", "1", "--resources", "gpu=1"),
        *("--configfile", "config/smoke.yaml", "--config", "threads=1"),
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = "/usr/bin:/bin"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder: Path) -> dict[str, int]:
    """Jobs by rule that Snakemake would run now."""
    return jobs_in(snakemake(folder, "-n"))


def jobs_in(out: str) -> dict[str, int]:
    """Jobs by rule in the output of a dry run."""
    if "Nothing to be done" in out:
        return {}
    table = out.split("Job stats:")[1].split("total")[0]
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", table, re.M) if m[1] != "all"}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A copy of the repository in which the smoke study has run once."""
    folder = tmp_path_factory.mktemp("copy") / "tinycats"
    copy_tracked(folder)
    started = time.monotonic()
    said = snakemake(folder, "--verbose")
    print(f"smoke study: {time.monotonic() - started:.0f} s")
    (folder / "said.txt").write_text(said)
    return folder


def test_snakemake_looks_for_jobs_only_when_one_has_ended(study):
    """Left alone, it looks once a second for each job that has started, which takes a core."""
    said = (study / "said.txt").read_text()
    jobs = said.count("Finished jobid")
    assert jobs > 30
    assert said.count("Ready jobs:") < 3 * jobs


def test_report_shows_the_numbers_of_this_run(study):
    page = (study / "results/smoke/report.html").read_text()
    rows = list(csv.DictReader((study / "results/smoke/tables/summary.csv").open()))
    base = next(r for r in rows if r["model"] == "base" and r["metric"] == "completion_reward")
    assert 0.10 <= float(base["mean"]) <= 0.20, "the base's reward is not the post's"
    assert f"{float(base['mean']):.3f}" in page or f"{float(base['mean']):.2f}" in page


def test_an_independent_program_finds_the_same_numbers(study):
    assert verify_study.main(study / "results/smoke", study / "resources/models") == 0


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("training", "learning_rate", 5e-5),
        ("training", "weight_decay", 1e-4),
        ("training", "steps", 5),
        ("training", "batch_size", 99),
        ("training", "seeds", [0, 2]),
        ("training", "kl_factors", [0, 6001]),
        ("evaluation", "base_completions", 200),
        ("evaluation", "policy_completions", 1000),
        ("evaluation", "stories_per_training_prompt", 1),
        ("evaluation", "new_tokens", 59),
    ],
)
def test_the_independent_program_notices_another_setting(study, block, key, value):
    config = yaml.safe_load((study / "results/smoke/config.yaml").read_text(encoding="utf-8"))
    wrong = verify_study.Disagreements()
    for changed in (config, {**config, block: {**config[block], key: value}}):
        assert wrong.number == 0
        verify_study.check_settings(study / "results/smoke", changed, wrong)
        verify_study.check_counts(study / "results/smoke", changed, " a cat", wrong)
    assert wrong.number > 0


@pytest.mark.parametrize(
    ("table", "column", "change"),
    [
        ("frontier/policies.csv", "limit", 1.002),
        ("frontier/policies.csv", "limit_certified", 1.002),
        ("frontier/policies.csv", "limit_high", 0.9),
        ("frontier/policies.csv", "share_of_attainable_gain", 1.02),
        ("frontier/policies.csv", "best_of_n_reward", 1.001),
        ("frontier/policies.csv", "prompted_share", 1.01),
        ("frontier/best_of_n.csv", "reward", 1.001),
        ("frontier/best_of_n.csv", "kl_policy_to_base_nats", 1.001),
        ("tables/equal_kl.csv", "mean", -1),
        ("tables/equal_kl.csv", "p_holm", 0.5),
        ("tables/summary.csv", "mean", 1.001),
        ("tables/paired_differences.csv", "p_value", 0.5),
        ("tables/decomposition.csv", "mean", 1.01),
    ],
)
def test_the_independent_program_notices_another_headline(study, tmp_path, table, column, change):
    for folder in ("completions", "frontier", "tables", "scores"):
        shutil.copytree(study / "results/smoke" / folder, tmp_path / folder)
    wrong = verify_study.Disagreements()
    verify_headline.check_headline(tmp_path, wrong)
    assert wrong.number == 0
    with open(tmp_path / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row[column]:
            row[column] = str(float(row[column]) * change)
    with open(tmp_path / table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    verify_headline.check_headline(tmp_path, wrong)
    assert wrong.number > 0


def test_nothing_to_do_after_a_run_nor_after_touching_everything(study):
    assert planned(study) == {}
    for path in study.rglob("*"):
        if path.is_file() and not {"results", "resources", ".snakemake", "logs"} & set(
            path.relative_to(study).parts[:1]
        ):
            path.touch()
    for path in (study / "resources").rglob("*"):
        path.touch()
    assert planned(study) == {}


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """A source file with ``new`` in place of ``old``, for a while."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(before)


def test_edited_docstrings_comments_and_formatting_rerun_nothing(study):
    """Every module of the library and every program at once."""
    folders = (study / "src", study / "workflow/scripts")
    before = {path: path.read_text() for folder in folders for path in folder.rglob("*.py")}
    assert len(before) > 50
    for path, text in before.items():
        path.write_text(reworded(text))
    try:
        assert planned(study) == {}
    finally:
        for path, text in before.items():
            path.write_text(text)


def test_an_edited_objective_reruns_policies_and_what_follows(study):
    path = study / "src/tinycats/policies/objective.py"
    with edited(path, "return rewards - rewards.mean()", "return rewards.mean() - rewards"):
        out = snakemake(study, "-n", "--quiet", "host")
    jobs = jobs_in(out)
    policies = re.findall(r"^Job \d+: Training: .*\nReason: (.*)", out, re.M)
    assert len(policies) == jobs["policy"] == 4
    assert all(r.startswith("Params have changed since last execution") for r in policies)
    assert {"stories", "completions", "scores", "frontier", "tables", "figure", "report"} <= set(
        jobs
    )
    assert not {"base_model", "reward_encoder", "reference"} & set(jobs)


def test_an_edited_figure_is_redrawn_alone(study):
    path = study / "src/tinycats/figures/by_prompt.py"
    with edited(path, "\ndef draw(", "\nEDITED = True\n\n\ndef draw("):
        jobs = planned(study)
    assert jobs == {"figure": 1, "report": 1}


def test_a_changed_setting_reruns_what_it_touches(study):
    path = study / "config/smoke.yaml"
    before = path.read_text()
    path.write_text(before.replace("bootstrap_samples: 50", "bootstrap_samples: 60"))
    try:
        jobs = planned(study)
    finally:
        path.write_text(before)
    assert "frontier" in jobs
    assert "policy" not in jobs


def test_a_seed_or_a_factor_less_makes_no_policy_or_story_again(study):
    path = study / "config/smoke.yaml"
    for old, new in (("seeds: [0, 1]", "seeds: [1]"), ("kl_factors: [0, 6000]", "kl_factors: [0]")):
        with edited(path, old, new):
            jobs = planned(study)
        assert {"completions", "scores", "frontier", "tables", "figure", "report"} <= set(jobs)
        assert not {"reference", "policy", "base_stories", "stories"} & set(jobs)


def test_without_its_logs_a_study_can_be_changed_as_with_them(study):
    """logs/ may be deleted: nothing that is made again depends on it."""
    (study / "logs").rename(study / "away")
    try:
        found = jobs_in(snakemake(study, "-n", "--forcerun", "tables"))
    finally:
        (study / "away").rename(study / "logs")
    assert "tables" in found
    assert not found.keys() & {"base_model", "reward_encoder", "policy", "stories"}


def test_a_seed_more_makes_only_its_own_policies_and_stories(study):
    with edited(study / "config/smoke.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]"):
        jobs = planned(study)
    assert (jobs["policy"], jobs["base_stories"], jobs["stories"]) == (2, 1, 2)


@pytest.mark.parametrize(
    ("change", "made", "kept"),
    [
        (
            "variants: {blog: {}, other: {advantage: mean}}",
            {"policy": 4, "stories": 4},
            ("base_stories",),
        ),
        (
            "variants: {blog: null, other: {advantage: mean}}",
            {"policy": 4, "stories": 4},
            ("base_stories", "reference"),
        ),
        ("  prompts: {told_not_to: [No cats.]}", {"base_stories": 2, "stories": 4}, ("policy",)),
        ("  prompts: {other_openings: null}", {"base_stories": 2, "stories": 4}, ("policy",)),
        (
            "  prompts: {other_openings: null, renamed: [One day]}",
            {"base_stories": 2, "stories": 4},
            ("policy", "reference"),
        ),
    ],
)
def test_a_variant_or_prompts_more_less_or_renamed(study, change, made, kept):
    """Only what is new or changed is made again; then come scores, tables and the report."""
    path = study / "config/smoke.yaml"
    # the file ends with the keys of evaluation
    with edited(path, text := path.read_text(), f"{text}{change}\n"):
        jobs = planned(study)
    assert {name: jobs.get(name) for name in made} == made
    assert not set(kept) & set(jobs)
    assert {"scores", "tables", "report"} <= set(jobs)


def test_the_order_of_keys_and_numbers_reruns_nothing(study):
    path = study / "config/smoke.yaml"
    before = path.read_text()
    config = yaml.safe_load(before)

    def turned(value):
        """Every mapping in it in the opposite order, and the lists of numbers too."""
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
        return value[::-1] if numbers else value

    path.write_text(yaml.safe_dump(turned(config), sort_keys=False))
    try:
        assert planned(study) == {}
    finally:
        path.write_text(before)


def test_snakemake_s_own_report(study):
    snakemake(study, "--report", "snakemake-report.html")
    text = (study / "snakemake-report.html").read_text()
    assert "by_prompt" in text
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=[\"']https?://", text)
