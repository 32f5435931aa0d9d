"""Every example of README, docs and the programs' docstrings, as it is printed.

Commands of Snakemake are planned (``-n``) in a copy of the repository, configs are checked, and
programs must accept the flags. What another test runs, or cannot be run here, is listed with the reason.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from snakemake.utils import update_config
from tiny_model import ROOT, copy_tracked, environment
from warm_start import interpreter

from tinycats.policies.objective import Drawn
from tinycats.program import UserError
from tinycats.reward.python import PythonReward
from tinycats.study import Study

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "ladder/README.md",
    "docs/*.md",
    "docs/*-study/README.md",
)
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))

#: commands that are not planned here, by how they begin
ELSEWHERE = {
    "git clone": "installs",
    "cd tinycats": "installs",
    "python3 -m venv": "installs",
    ". .venv": "installs",
    "pip install": "installs; .ci/run does so",
    "pytest": "this suite; test_repository.py holds .ci/run against README.md",
    "tinycats tell": "test_cli.py",
    "tinycats watch": "test_watch.py",
    "sinfo": "test_slurm.py",
    "scontrol": "test_slurm.py",
    "srun": "test_slurm.py",
    "snakemake -n --workflow-profile profiles/slurm": "test_slurm.py",
    "snakemake --workflow-profile profiles/slurm": "test_slurm.py",
    "snakemake --unlock": "changes nothing but locks; test_faults.py",
    "snakemake pretrain": "needs a corpus; test_pretraining.py",
    "python tests/mutation_run.py": "takes minutes",
    "python tests/random_kills.py": "takes minutes; test_faults.py has a short version",
    "python tests/notebook_run.py": "test_notebook.py",
    "uv venv": "installs",
    "apptainer": "needs containers; docs/cluster.md says that they are untested",
    "docker": "needs containers; docs/cluster.md says that they are untested",
    "python -m tinycats.published": "test_published.py",
    "PYTHONPATH=src python benchmarks/": "takes minutes; test_benchmarks.py",
    "PYTHONPATH=src python -m tinycats.study": "test_study.py",
    "PYTHONPATH=src python -m tinycats.columns": "test_tables.py",
    "PYTHONPATH=src": "no command alone",
}


def documents() -> Iterator[tuple[str, str]]:
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.name not in ("results.md", "files.md"):  # generated from studies and columns
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(document, text) of every fenced block in these languages."""
    return [
        (name, found[3])
        for name, text in documents()
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```", text, re.S | re.M)
        if found[2] in languages
    ]


def commands() -> list[str]:
    """Every command in a block or between backticks, distinct, on one line each."""
    lines = [
        line.strip()
        for _, text in blocks("sh", "bash")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    for _, text in documents():
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
        inline = re.findall(r"`([^`]+)`", prose)
        starts = ("snakemake ", "PYTHONPATH=", "tinycats ", "pytest ", "python ")
        lines += [" ".join(code.split()) for code in inline if code.startswith(starts)]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


HERE = [line for line in commands() if not line.startswith(tuple(ELSEWHERE))]
PLANNED = [line for line in HERE if line.startswith("snakemake ")]
PROGRAMS = [line for line in HERE if "workflow/scripts/" in line]


def test_every_command_is_known() -> None:
    assert set(HERE) == {*PLANNED, *PROGRAMS}
    assert len(PLANNED) >= 5
    unused = [start for start in ELSEWHERE if not any(c.startswith(start) for c in commands())]
    assert not unused


# ---------------------------------------------------------------------------- Snakemake


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with the files that the examples say to write."""
    folder = tmp_path_factory.mktemp("examples") / "tinycats"
    copy_tracked(folder)
    for _, text in blocks("yaml"):
        if match := re.match(r"# (config/\S+)\n", text):
            (folder / match[1]).write_text(text, encoding="utf-8")
    (folder / "path/to").mkdir(parents=True)
    (folder / "path/to/tinycats").symlink_to(folder)
    return folder


def plan(folder: Path, line: str) -> str:
    """Output of the command as it is printed, as a dry run."""
    command = f"{interpreter()} -m {line} -n"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("line", PLANNED)
def test_a_command_of_snakemake(checkout: Path, line: str) -> None:
    if "--lint" in line:
        pytest.importorskip("snakemake")
    output = plan(checkout, line)
    if "--lint" not in line:
        assert "Job stats:" in output, output


def test_the_module_of_the_docs(checkout: Path) -> None:
    ((_, text),) = [block for block in blocks("python") if "module tinycats:" in block[1]]
    (checkout / "path/Snakefile").write_text(
        text.replace("path/to/tinycats", str(checkout)), encoding="utf-8"
    )
    target = "results/dogs/tables/summary.csv"
    output = plan(checkout / "path", f"snakemake {target} --cores 1 --resources gpu=1")
    assert re.search(r"^tinycats_policy +12$", output, re.M), output


# ---------------------------------------------------------------------------- configs and code


@pytest.mark.parametrize(("document", "text"), blocks("yaml"))
def test_a_config(document: str, text: str) -> None:
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    if set(config) == {"patience"}:
        return  # the new setting of docs/extending.md, which test_settings.py adds
    update_config(default, config)
    study = Study.check(default)
    assert study.record


def test_a_new_advantage() -> None:
    ((_, text),) = [block for block in blocks("python") if "drawn: Drawn" in block[1]]
    space: dict[str, object] = {"Tensor": torch.Tensor, "Drawn": Drawn}
    exec(text, space)  # the example of docs/extending.md
    below_best = space["below_best"]
    assert callable(below_best)
    drawn = Drawn(torch.tensor([1.0, 3.0]), torch.zeros(2), 0.1)
    assert below_best(drawn).tolist() == [-2.0, 0.0]


def test_the_rewards_of_the_docs() -> None:
    """The code that docs/extending.md prints is the shipped files', and does what it says."""
    printed = [text for _, text in blocks("python") if text.startswith('"""A reward: ')]
    shipped = sorted((ROOT / "config/rewards").glob("*.py"))
    assert printed == [path.read_text(encoding="utf-8") for path in shipped]
    configs = [yaml.safe_load(text) for _, text in blocks("yaml")]
    named = [
        config["reward"]["python"] for config in configs if "python" in config.get("reward", {})
    ]
    assert {python.partition(":")[0] for python in named} == {
        str(path.relative_to(ROOT)) for path in shipped
    }
    texts = ["Once upon a time there was a cat", "Two dogs and a frog", ""]
    assert {python: PythonReward(python)(texts).tolist() for python in dict.fromkeys(named)} == {
        "config/rewards/animals.py:animals_named": [1.0, 2.0, 0.0],
        "config/rewards/length.py:letters": pytest.approx([0.25, 0.15, 0.0]),
    }


# ---------------------------------------------------------------------------- programs


def by_hand() -> list[str]:
    """The commands in the programs' docstrings."""
    found = []
    for path in SCRIPTS:
        text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") + "\n\n"
        for match in re.finditer(
            r"PYTHONPATH=src (python workflow/scripts/.*?)(?=\n\n|\n *PYTHONPATH|$)", text, re.S
        ):
            found.append(" ".join(match[0].replace("\\\n", " ").split()))
    return found


def program(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("line", [*by_hand(), *PROGRAMS])
def test_a_program_takes_the_flags(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder it stops for want of its files, not because of a flag."""
    words = line.removeprefix("PYTHONPATH=src python ")
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], cwd=tmp_path, capture_output=True, text=True
    )
    script, *arguments = done.stdout.rstrip("\0").split("\0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    code = None
    try:
        program(ROOT / script).main()
    except (UserError, OSError):
        pass  # for want of a file
    except SystemExit as stopped:
        code = stopped.code
    assert code != 2, f"{line}: not the program's flags"


def test_docstrings_have_commands() -> None:
    assert len(by_hand()) >= 12
