"""The repository keeps its promises: exact versions, no private names, documents that are current."""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from mutation_run import read_list

from tinycats.columns import markdown

ROOT = Path(__file__).parents[1]


def tracked() -> list[Path]:
    """Files of the repository, or all of an unpacked archive of it."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        skipped = {"results", "logs", ".snakemake", ".venv"}
        paths = [p for p in ROOT.rglob("*") if not skipped & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    assert "README.md" in found
    return found


def versions(name: str) -> dict[str, str]:
    """Package (in canonical spelling) → version of a lock file and what it includes."""
    found: dict[str, str] = {}
    for line in (ROOT / "envs" / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= versions(line[3:])
        elif line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
            assert match, f"{name}: not an exact version: {line}"
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def imported(folders: tuple[str, ...]) -> dict[str, str]:
    """Top-level module → a file that imports it, third-party ones only."""
    own = {path.stem for path in tracked() if path.suffix == ".py"} | {"tinycats"}
    found: dict[str, str] = {}
    for path in tracked():
        relative = path.relative_to(ROOT)
        if path.suffix != ".py" or relative.parts[0] not in folders:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in own and top not in sys.stdlib_module_names:
                    found[top] = str(relative)
    return found


@pytest.mark.parametrize(
    ("lock", "folders"),
    [
        ("requirements.lock", ("src", "workflow", "ladder")),
        ("requirements-dev.lock", ("src", "workflow", "ladder", "tests")),
    ],
)
def test_lock_covers_what_is_imported(lock: str, folders: tuple[str, ...]) -> None:
    locked = versions(lock)
    packages = importlib.metadata.packages_distributions()
    modules = imported(folders)
    assert "torch" in modules
    for module, where in modules.items():
        names = {re.sub(r"[-_.]+", "-", n).lower() for n in packages.get(module, [module])}
        assert names & set(locked), f"{where} imports {module}, which envs/{lock} does not have"


def test_lock_has_everything_that_its_packages_need() -> None:
    from packaging.requirements import Requirement

    locked = versions("requirements-dev.lock")
    for name in locked:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another Python version or platform
        for text in needs:
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            wanted = re.sub(r"[-_.]+", "-", need.name).lower()
            if wanted in ("triton", "setuptools") or wanted.startswith(("nvidia-", "cuda-")):
                continue  # torch names these exactly, for GPUs and by Python version
            assert wanted in locked, f"{name} needs {wanted}"
            assert need.specifier.contains(locked[wanted], prereleases=True), f"{name}: {need}"


def test_torch_has_no_build_and_every_dependency_is_in_range() -> None:
    from packaging.requirements import Requirement

    locked = versions("requirements-dev.lock")
    assert locked["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        need = Requirement(text)
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        assert need.specifier.contains(locked[name]), f"{text}: locked {locked[name]}"


@pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
def test_containers_use_the_same_lock(name: str) -> None:
    text = (ROOT / "envs" / name).read_text(encoding="utf-8")
    assert "pip install --no-cache-dir -r /requirements.lock" in text
    assert "envs/requirements.lock /requirements.lock" in text
    assert re.search("(?i)^from:? python:3.11", text, re.M)  # as in CI


def test_conda_uses_the_same_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs/tinycats.yaml").read_text())
    assert {"pip": ["-r requirements.lock"]} in environment["dependencies"]


def test_no_path_of_one_machine_and_no_registry() -> None:
    slash = "/"  # so that this file passes its own test
    forbidden = re.compile(
        "|".join(
            [
                *(re.escape(slash + f + slash) for f in ("work", "root", "home", "opt", "Users")),
                re.escape(slash + "tmp" + slash) + r"(?!\$|\{)",
                "pypi" + r"\.org",
                "pytho" + r"nhosted\.org",
                "index" + "-url",
                "find" + "-links",
            ]
        )
    )
    for name, text in texts().items():
        for number, line in enumerate(text.splitlines(), start=1):
            line = re.sub(r"[A-Za-z0-9+/=]{200,}", "", line)  # base64, which may hold any word
            found = forbidden.search(line)
            assert not found, f"{name}:{number}: names {found[0]}"


def test_files_are_small_and_modules_readable_in_one_sitting() -> None:
    for path in tracked():
        relative = path.relative_to(ROOT)
        assert path.stat().st_size < 20_000_000, relative
        if path.suffix in (".py", ".smk") and relative.parts[0] != "tests":
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, relative


def test_columns_are_documented() -> None:
    written = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m tinycats.columns > docs/files.md"


def test_readme_links_and_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(links) > 5
    for link in links:
        if not link.startswith("https://"):
            assert (ROOT / link).exists(), f"README.md links to {link}"
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert any("pip install" in b and "snakemake --cores 1 --resources gpu=1" in b for b in blocks)
    assert any(
        "pip install" in b and b.strip().endswith("pytest -n 4 --dist loadfile") for b in blocks
    )
    for name in re.findall(r"(?:envs|config|profiles)/[\w.-]*\w", " ".join(blocks)):
        assert (ROOT / name).exists() or name == "config/dragons.yaml", name
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    assert "\npytest -n 4 --dist loadfile\n" in (ROOT / ".ci/run").read_text()


def test_programs_explain_themselves() -> None:
    """Every stage's --help works by hand, in a plain interpreter."""
    scripts = sorted((ROOT / "workflow/scripts").glob("*.py"))
    assert scripts
    waiting = [
        subprocess.Popen(
            [sys.executable, str(script), "--help"],
            env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HOME": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script in scripts
    ]
    for script, process in zip(scripts, waiting, strict=True):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{script.name}: {err}"
        assert out.startswith("usage: "), script.name


def test_the_reference_study_resembles_the_published_curves() -> None:
    """The committed means over ten seeds against the published points, each one run."""
    with open(ROOT / "docs/ten-seed-study/tables/training.csv", encoding="utf-8") as file:
        means = {
            (row["metric"], row["kl_factor"], int(row["step"])): float(row["mean"])
            for row in csv.DictReader(file)
        }
    with open(ROOT / "workflow/resources/published_curves.csv", encoding="utf-8") as file:
        published = {
            (row["kl_factor"], int(row["step"])): float(row["reward"])
            for row in csv.DictReader(line for line in file if not line.startswith("#"))
        }
    for factor in ("0", "6000"):
        for step in (20, 40, 80):
            ours = means["reward_mean", factor, step]
            assert abs(ours - published[factor, step]) < 0.10, (factor, step, ours)
    last = {factor: means["reward_mean", factor, 100] for factor in ("0", "1500", "6000", "24000")}
    assert sorted(last.values(), reverse=True) == list(last.values()), "more KL, less reward"
    assert 0.10 <= means["reward_mean", "0", 1] <= 0.20
    assert 0.5 <= means["kl_base_to_policy_nats", "6000", 100] <= 2.5
    assert means["distinct_completions", "0", 80] >= 30


def test_every_rule_says_what_it_does() -> None:
    """Without ``message:`` a run prints a rule's files, hundreds of them for some."""
    for path in (ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))):
        text = path.read_text(encoding="utf-8")
        for rule in re.finditer(r"^( *)rule (\w+):\n((?:\1 +.*\n|\n)*)", text, flags=re.M):
            assert "message:" in rule[3], f"{path.name}: rule {rule[2]}"


def test_committed_svgs_have_a_white_background() -> None:
    """On a dark page, text in black ink would otherwise not be seen."""
    for path in sorted(ROOT.glob("docs/**/*.svg")):
        beginning = path.read_text(encoding="utf-8")[:3000]
        assert "#ffffff" in beginning, path


def test_every_mistake_of_the_mutation_run_has_its_place_and_its_tests():
    texts_of_files = texts()
    for mutant in read_list():
        assert texts_of_files[mutant.file].count(mutant.code) == 1, mutant.place
        assert mutant.code != mutant.mutant, mutant.place
        for test in mutant.tests:
            name, _, function = test.partition("::")
            wanted = rf"^def {re.escape(function.partition('[')[0])}\("
            assert not function or re.search(wanted, texts_of_files[name], re.M), mutant.place
        assert mutant.tests or mutant.equivalent, mutant.place
