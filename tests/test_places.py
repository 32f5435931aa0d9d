"""A run's files may lie outside the checkout: by --directory, in a workflow that uses this one,
and in a storage."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from warm_start import interpreter

ROOT = Path(__file__).parents[1]
STUDY = {
    "study": "elsewhere",
    "training": {"kl_factors": [0], "seeds": [0], "steps": 7},
    "device": "cpu",
    "threads": 1,
}
MADE = ("results/elsewhere/reference/cat.safetensors", "results/elsewhere/config.yaml")


@functools.cache
def without_network() -> list[str]:
    """Words before a command that take the network away, where the system allows that."""
    words = ["unshare", "--map-root-user", "--net"]
    return [] if shutil.which("unshare") is None or subprocess.call([*words, "true"]) else words


def snakemake(folder: Path, *arguments: str | Path, python: str = sys.executable) -> str:
    """Output of a run in this folder, which must succeed.

    As on a cluster's node: home cannot be written to, TMPDIR is a folder of the node, and there is no
    network. Snakemake has its cache in XDG_CACHE_HOME. ``python`` runs it and its jobs.
    """
    (folder / ".node").mkdir(exist_ok=True)
    command = [python, "-m", "snakemake", "--cores", "1", *map(str, arguments)]
    places = {"HOME": "/proc/home", "XDG_CACHE_HOME": folder / ".cache", "TMPDIR": folder / ".node"}
    done = subprocess.run(
        [*without_network(), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **{name: str(path) for name, path in places.items()}},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def checkout() -> set[str]:
    """Files and folders of the checkout that a run could have written; hidden ones are also of tools."""
    folders = (ROOT, ROOT / "config", ROOT / "results", ROOT / "logs", ROOT / "resources")
    found = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return {str(path) for path in found if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, with a blank in its name, in which the first stages were run."""
    folder = tmp_path_factory.mktemp("my run")
    (folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    before = checkout()
    # the config file's path counts from the folder in which the command is given
    snakemake(
        folder.parent,
        *("--directory", folder, "--snakefile", ROOT / "Snakefile"),
        *("--configfile", folder / "mine.yaml", "--resources", "gpu=1", "--", *MADE),
    )
    assert checkout() == before
    return folder


def test_a_run_is_in_its_directory(run: Path) -> None:
    assert all((run / path).stat().st_size for path in MADE)
    assert (
        run / "resources/models/sentence-transformers--all-MiniLM-L6-v2/model.safetensors"
    ).exists()
    assert (run / "logs/elsewhere/reference.log").exists()
    config = yaml.safe_load((run / MADE[1]).read_text())
    assert (config["training"]["steps"], config["training"]["batch_size"]) == (7, 1000)


def test_every_job_of_a_run_elsewhere(run: Path) -> None:
    output = snakemake(
        run,
        *("-n", "-p", "--snakefile", ROOT / "Snakefile", "--configfile", "mine.yaml"),
        *("--resources", "gpu=1", "--", "all"),
    )
    for rule in ("policy", "stories", "completions", "scores", "frontier", "figure", "report"):
        assert re.search(rf"^{rule} +\d+$", output, re.M)
    assert not re.search(r"^reference +\d+$", output, re.M)  # it is there already
    assert (
        f"--snakefile {os.path.relpath(ROOT / 'Snakefile', run)}" in output
    )  # the report's command


def test_a_module_of_another_workflow(run: Path) -> None:
    (run / "Snakefile").write_text(
        f"""
module tinycats:
    snakefile: {str(ROOT / "Snakefile")!r}
    config: {{**{STUDY!r}, "study": "within", "concept": "dog", "concept_words": None}}


use rule * from tinycats as tinycats_*


rule own:
    default_target: True
    input:
        "results/within/reference/dog.safetensors",
        "results/within/config.yaml",
    output:
        "own.txt",
    shell:
        "cat {{input[1]}} > {{output}}"
"""
    )
    snakemake(run, "--resources", "gpu=1")
    config = yaml.safe_load((run / "own.txt").read_text())
    assert (config["concept"], config["training"]["steps"]) == ("dog", 7)
    assert config["training"]["batch_size"] == 1000  # what is not given is as in config.yaml
    output = snakemake(run, "-n", "--resources", "gpu=1", "--", "results/within/report.html")
    assert re.search(r"^tinycats_policy +1$", output, re.M)


TINY = {
    "study": "stored",
    "training": {
        "kl_factors": [0, 6000], "seeds": [0], "steps": 2, "batch_size": 50, "checkpoint_seconds": 0,
    },
    "evaluation": {
        "prompts": {"training": ["Once upon a time there was"], "other_openings": ["One day"]},
        "stories_per_training_prompt": 2, "stories_per_other_prompt": 1, "new_tokens": 20,
        "base_completions": 200, "search_rewards": 100, "policy_completions": 100,
        "bootstrap_samples": 20,
    },
    "device": "cpu",
    "threads": 1,
}  # fmt: skip


@pytest.mark.slow
def test_a_study_whose_files_are_in_a_storage(tmp_path: Path) -> None:
    """Jobs find their inputs in local copies, which hold nothing that no rule declares."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed, with which the fs storage copies")
    run, store, here = (tmp_path / name for name in ("my run", "store", "local copies"))
    run.mkdir()
    (run / "mine.yaml").write_text(yaml.safe_dump(TINY))
    before = checkout()
    snakemake(
        run,
        *("--snakefile", ROOT / "Snakefile", "--configfile", "mine.yaml", "--resources", "gpu=1"),
        *("--default-storage-provider", "fs", "--default-storage-prefix", store),
        *("--local-storage-prefix", here, "--shared-fs-usage"),
        *("persistence", "software-deployment", "sources", "source-cache"),
        python=interpreter(*without_network()),
    )
    assert checkout() == before
    results = store / "results/stored"
    for name in ("report.html", "results.md", "playground.html", "tables/summary.csv"):
        assert (results / name).stat().st_size
    assert (store / "logs/stored/scores.log").exists()
    # a shared cache of rewards and what a resumed job needs are no results
    assert {path.name for path in run.glob("results/*/*")} <= {"rewards"}
    assert "other_files.zip" in {path.name for path in store.rglob("*.zip")}


@pytest.mark.parametrize("name", ["a {b}", "a:b"])
def test_a_checkout_where_it_cannot_run_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(ROOT)
    snakefile = str(tmp_path / name / "Snakefile")
    command = [interpreter(), "-m", "snakemake", "-n", "--snakefile", snakefile]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert str(tmp_path / name) in line
    assert "Traceback" not in done.stderr
