"""Profiles and rules agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from warm_start import interpreter

from tinycats.compute.devices import usable_cpus

ROOT = Path(__file__).parents[1]


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


def rules() -> dict[str, str]:
    """The text of each rule."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("workflow/rules/*.smk")))
    parts = re.split(r"^rule (\w+):\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", ["slurm", "multi-gpu"])
def test_a_profile_keeps_the_settings_of_the_default_that_it_replaces(name):
    default = profile("default")
    del default["resources"], default["cores"]  # what the others are there to change
    assert default.items() <= profile(name).items()


def test_slurm_sends_each_rule_that_asks_for_a_gpu_to_the_gpu_partition():
    asking = {name for name, text in rules().items() if "gpu=1" in text}
    assert len(asking) > 4
    named = profile("slurm")["set-resources"]
    assert named.keys() == asking
    assert {entry["slurm_partition"] for entry in named.values()} == {"gpu"}


def test_each_rule_of_a_study_is_local_or_says_what_it_needs():
    for name, text in rules().items():
        local = "localrule: True" in text or "shell:" not in text
        if not (local or name.startswith("pretrain")):
            assert "mem_mb=" in text, name
            assert "runtime=" in text, name


def test_a_group_shares_a_gpu_but_the_cluster_does_not():
    slurm = profile("slurm")
    assert slurm["resources"] == {"gpu": 1}
    assert slurm["set-resource-scopes"] == {"gpu": "local"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "multi-gpu"])
def test_snakemake_takes_the_profile(name):
    done = subprocess.run(
        [
            *(interpreter(), "-m", "snakemake", "-n", "--workflow-profile", f"profiles/{name}"),
            *("--configfile", "config/smoke.yaml", "--config", "study=profile", "--nolock"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^policy +4$", done.stdout + done.stderr, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "at_once"),
    [
        pytest.param(["--cores", "1"], 1, id="one job takes all cores"),
        pytest.param(["--cores", "2", "--resources", "gpu=2"], 2, id="two jobs share them"),
        pytest.param(["--cores", "4", "--resources", "gpu=4"], 4, id="four jobs share them"),
        pytest.param(["--cores", "9", "--resources", "gpu=1"], 1, id="one GPU job at a time"),
        pytest.param(["--executor", "cluster-generic", "--jobs", "9"], 1, id="on a cluster"),
    ],
)
def test_jobs_that_run_at_a_time_on_one_machine_share_its_cores(words, at_once):
    command = [interpreter(), "-m", "snakemake", "-n", "-p", "--nolock", *words]
    command += ["--configfile", "config/smoke.yaml", "--config", "study=shares"]
    if "--executor" in words:
        command += ["--cluster-generic-submit-cmd", "sh", "--workflow-profile", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"run_script (\w+) .*--threads (\d+)", done.stdout + done.stderr)
    # four policies, two seeds; three stages are one job each
    jobs = {"train_policy": 4, "tell_stories": 4, "tell_openings": 2}
    jobs |= dict.fromkeys(("sample_completions", "score", "judge"), 1)
    assert {script for script, _ in found} == jobs.keys()
    for script, threads in found:
        share = min(at_once, jobs[script])
        # 0: all that the program may use
        assert int(threads) == (max(1, usable_cpus() // share) if share > 1 else 0), script
