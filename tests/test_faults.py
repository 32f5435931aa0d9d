"""A study survives what happens to studies: killed, damaged, swapped, started twice, mistyped.

Everything goes through Snakemake, on a tiny study in a copy of the repository, with real models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import random_kills
import yaml
from random_kills import SIGNALS, send
from small_disk import small_disk
from tiny_model import ROOT, copy_tracked, environment, write_model
from warm_start import Started, interpreter

from tinycats.files.atomic import write_sealed
from tinycats.program import UserError
from tinycats.study import Study

pytestmark = pytest.mark.slow

STUDY = {
    "study": "tiny",
    "base_model": "nano" if (ROOT / "workflow/resources/nano").is_dir() else "models/tiny",
    "training": {
        "kl_factors": [0, 6000],
        "seeds": [0],
        "steps": 3,
        "batch_size": 50,
        "learning_rate": 1.0e-4,
        "checkpoint_seconds": 0,
    },
    "evaluation": {
        "prompts": {"other": ["One day, a bird"]},
        "stories_per_training_prompt": 2,
        "stories_per_other_prompt": 1,
        "new_tokens": 20,
        "base_completions": 200,
        "search_rewards": 100,
        "policy_completions": 100,
        "bootstrap_samples": 20,
    },
    "device": "cpu",
    "threads": 1,
}
RESULTS = "results/tiny"
POLICY = f"{RESULTS}/policies/blog/kl=6000/seed=0"
TARGETS = (f"{RESULTS}/tables/summary.csv", f"{RESULTS}/frontier/limit.csv")


def copy_repository(folder: Path) -> Path:
    """What git would hand out, with a tiny study in config/tiny.yaml."""
    copy_tracked(folder)
    (folder / "config/tiny.yaml").write_text(yaml.safe_dump(STUDY))
    if STUDY["base_model"] != "nano":
        write_model(folder / str(STUDY["base_model"]))
    return folder


def command(*words: str) -> list[str]:
    return [
        *(interpreter(), "-m", "snakemake", *words, "--cores", "1", "--resources", "gpu=1"),
        *("--configfile", "config/tiny.yaml"),
    ]


def snakemake(folder: Path, *words: str, ok: bool = True) -> str:
    """Run Snakemake in a copy; returns all it said."""
    done = subprocess.run(
        command(*words),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, said
    return said


@contextmanager
def configured(folder: Path, change: Mapping[str, object]) -> Iterator[None]:
    """The tiny study's configuration, changed for a while."""
    path = folder / "config/tiny.yaml"
    kept = path.read_text()
    path.write_text(yaml.safe_dump(merge(STUDY, change), allow_unicode=True))
    try:
        yield
    finally:
        path.write_text(kept)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(below.get(key), dict)
        both[key] = merge(below[key], value) if inner else value
    return both


@contextmanager
def changed(path: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """A file, changed for a while; its time stamp stays that of the result."""
    kept, stat = path.read_bytes(), path.stat()
    change(path)
    try:
        yield
    finally:
        path.write_bytes(kept)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def change_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x01
    path.write_bytes(data)


def without_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that has its models and nothing else."""
    folder = copy_repository(tmp_path_factory.mktemp("models") / "tinycats")
    snakemake(folder, "models")
    return folder


@pytest.fixture(scope="module")
def study(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the tiny study has run undisturbed, up to its tables."""
    folder = tmp_path_factory.mktemp("study") / "tinycats"
    shutil.copytree(models, folder, symlinks=True)
    snakemake(folder, *TARGETS)
    return folder


def content(folder: Path) -> dict[str, object]:
    return random_kills.content(folder, "tiny")


# ---- killed, started twice -----------------------------------------------------------------------


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not there() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


def test_killed_in_several_stages_ends_as_if_undisturbed(
    models: Path, study: Path, tmp_path: Path
) -> None:
    """``tests/random_kills.py`` does so at random, over a larger study."""
    folder = tmp_path / "tinycats"
    shutil.copytree(models, folder)
    results, report = folder / RESULTS, f"{RESULTS}/report.html"
    for place in ("resources/models", "logs/models"):
        shutil.rmtree(folder / place)

    def job_of(stage: str) -> Callable[[], bool]:
        """Whether a stage's log exists: its program is at work."""
        return lambda: (
            any((folder / "logs/tiny").glob(f"{stage}*/**/*.log"))
            or any((folder / "logs/tiny").glob(f"{stage}.log"))
        )

    def obtaining() -> bool:
        return any((folder / "resources/models").glob("*/*"))

    points: list[tuple[Callable[[], bool], str]] = [
        (obtaining, TARGETS[0]),
        (job_of("reference"), f"{RESULTS}/reference/cat.safetensors"),
        (lambda: any(results.glob("policies/**/state.pt")), TARGETS[0]),
        (job_of("stories"), TARGETS[0]),
        (job_of("completions"), TARGETS[0]),
        (job_of("scores"), f"{RESULTS}/scores/stories.csv"),
        (job_of("frontier"), TARGETS[1]),
        (job_of("tables"), TARGETS[0]),
        (job_of("figures"), report),
        (job_of("report"), report),
    ]
    *ends, stop = SIGNALS
    for number, (point, target) in enumerate(points):
        process = start(folder, target)
        until(point, process)
        send(process, folder, ends[number % len(ends)] if (point, target) != points[-1] else stop)
        process.wait()
        if number == 0:  # the lock that a killed Snakemake leaves behind is said, and taken off
            said = snakemake(folder, *TARGETS, ok=False)
            assert "cannot be locked" in said
            assert "--unlock" in said
            snakemake(folder, "--unlock")
        shutil.rmtree(folder / ".snakemake/locks", ignore_errors=True)  # as --unlock, but at once
    for home in (study, folder):
        snakemake(home, *TARGETS, report)
        assert (home / report).read_text(encoding="utf-8").endswith("</html>")
    undisturbed, ours = content(study), content(folder)
    assert undisturbed.keys() == ours.keys()
    assert [name for name in ours if ours[name] != undisturbed[name]] == []
    assert not list(results.glob("**/state.pt*"))


def test_a_second_invocation_waits_its_turn(study: Path) -> None:
    """It ends with Snakemake's message and touches nothing; the first goes on to its end."""
    target = f"{RESULTS}/scores/stories.csv"
    before = content(study)
    locks = study / ".snakemake/locks"
    shutil.rmtree(locks, ignore_errors=True)  # of runs that were killed
    first = start(study, target, "--force")
    until(lambda: len([lock for lock in locks.glob("*.lock") if lock.stat().st_size]) == 2, first)
    stopped = list(random_kills.processes(study))
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)  # it must not be done before the second has looked
    try:
        said = snakemake(study, target, "--force", ok=False)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert "cannot be locked" in said
    assert first.communicate()[1] is not None
    assert first.returncode == 0
    assert content(study) == before


# ---- what a stage reads is what another wrote ----------------------------------------------------

DAMAGES: dict[str, tuple[str, Any, str, str]] = {
    "base model": (
        "resources/models/{base}/model.safetensors",
        change_one_byte,
        f"{RESULTS}/stories/base/seed=0.jsonl",
        "model.safetensors: wrong bytes (damaged, cut short or swapped)",
    ),
    "encoder": (
        "resources/models/sentence-transformers--all-MiniLM-L6-v2/model.safetensors",
        cut_short,
        f"{RESULTS}/scores/stories.csv",
        "all-MiniLM-L6-v2/model.safetensors: wrong bytes",
    ),
    "encoder's tokenizer": (
        "resources/models/sentence-transformers--all-MiniLM-L6-v2/tokenizer.json",
        lambda path: path.write_text("{}"),
        f"{RESULTS}/scores/stories.csv",
        "all-MiniLM-L6-v2/tokenizer.json: wrong bytes",
    ),
    "base model's config": (
        "resources/models/{base}/config.json",
        lambda path: path.write_text("[]"),
        f"{RESULTS}/stories/base/seed=0.jsonl",
        "config.json: wrong bytes",
    ),
    "reference": (
        f"{RESULTS}/reference/cat.safetensors",
        change_one_byte,
        f"{RESULTS}/scores/stories.csv",
        f"{RESULTS}/reference/cat.safetensors: not as it was written",
    ),
    "policy": (
        f"{POLICY}/model/model.safetensors",
        change_one_byte,
        f"{RESULTS}/stories/blog/kl=6000/seed=0.jsonl",
        f"{POLICY}: not a policy of this study: its run.json has policy_sha256",
    ),
    "stories swapped": (
        f"{RESULTS}/stories/blog/kl=6000/seed=0.jsonl",
        shutil.copyfile,
        f"{RESULTS}/scores/stories.csv",
        f"{RESULTS}/stories/blog/kl=6000/seed=0.jsonl: not as it was written",
    ),
    "completions": (
        f"{RESULTS}/completions/blog/kl=0/seed=0.csv",
        without_last_line,
        f"{RESULTS}/frontier/limit.csv",
        f"{RESULTS}/completions/blog/kl=0/seed=0.csv: not as it was written",
    ),
    "table": (
        f"{RESULTS}/tables/summary.csv",
        without_last_line,
        f"{RESULTS}/figures/scores_by_kl.svg",
        f"{RESULTS}/tables/summary.csv: not as it was written",
    ),
    "table cut short": (
        f"{RESULTS}/scores/stories.csv",
        cut_short,
        f"{RESULTS}/tables/summary.csv",
        f"{RESULTS}/scores/stories.csv: cut short",
    ),
}


@pytest.fixture(scope="module")
def commands(study: Path) -> Callable[[str], str]:
    """The shell command of the job that makes a file: the one with the longest part of its path."""
    said = snakemake(study, "-n", "-p", "--forceall", *TARGETS, DAMAGES["table"][2])
    listed = re.findall(r"^Shell command: (.* --out (\S+).*)", said, re.M)
    by_place = {place: command for command, place in listed}

    def command(path: str) -> str:
        return by_place[max((p for p in by_place if path.startswith(p)), key=len)]

    return command


def failing(folder: Path, command: str) -> str:
    """Run a job's program without Snakemake; returns its messages."""
    words, mark, _ = command.partition(" 2> logs/")
    assert mark
    listed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True
    ).stdout
    function, name, *arguments = listed.split("\0")[:-1]
    assert function == "run_script"
    program = f"workflow/scripts/{name}.py"
    started = Started([sys.executable, program, *arguments], environment(), folder)
    said = started.wait()
    assert started.returncode == 1, said
    return said


@pytest.fixture
def spare(study: Path, tmp_path: Path) -> Iterator[Path]:
    """The study, put back as it was afterwards: a job that fails takes its outputs with it."""
    places = ("results", ".snakemake", "resources")
    for place in places:
        subprocess.run(["cp", "-a", study / place, tmp_path / place], check=True)
    yield study
    for place in places:
        shutil.rmtree(study / place)
        subprocess.run(["cp", "-a", tmp_path / place, study / place], check=True)


@pytest.mark.parametrize("what", list(DAMAGES))
def test_damage_is_named_by_the_stage_that_reads_it(
    spare: Path, commands: Callable[[str], str], what: str
) -> None:
    path, damage, target, says = DAMAGES[what]
    (base,) = {p.name for p in (spare / "resources/models").iterdir()} - {
        "sentence-transformers--all-MiniLM-L6-v2"
    }
    file = spare / path.format(base=base)
    if damage is shutil.copyfile:
        damage(spare / RESULTS / "stories/blog/kl=0/seed=0.jsonl", file)
    else:
        damage(file)
    said = failing(spare, commands(target))
    errors = {line for line in said.splitlines() if line.startswith("error: ")}
    assert len(errors) == 1, said
    assert says in errors.pop()
    assert "Traceback" not in said


def test_snakemake_models_mends_what_is_damaged(models: Path) -> None:
    """Also where the Snakefile itself reads the file, and would refuse what it seems to say."""
    shutil.copytree(models / "workflow/resources/nano", models / "models/own")
    given = ("--config", "study=mended", "base_model=models/own")
    snakemake(models, "models", *given)
    (base,) = (models / "resources/models").glob("own-*")
    folders = (base, models / "resources/models/sentence-transformers--all-MiniLM-L6-v2")

    def content() -> list[dict[str, bytes]]:
        return [{str(p): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]

    before = content()
    cut_short(base / "tokenizer.json")
    (base / "config.json").write_text('{"max_position_embeddings": 3}')
    (base / "tokenizer_config.json").unlink()
    change_one_byte(folders[1] / "1_Pooling/config.json")
    assert "base_stories" in snakemake(models, "-n", *given)
    snakemake(models, "models", *given)
    assert content() == before
    assert "is as it was obtained" not in (models / "logs/models/models.log").read_text()
    snakemake(models, "models", *given)
    assert (models / "logs/models/models.log").read_text().count("is as it was obtained") == 2


def test_a_full_disk_is_one_line(
    spare: Path, commands: Callable[[str], str], tmp_path: Path
) -> None:
    """In every stage that reads and writes; test_training.py has training's."""
    results = spare / "results"
    shutil.rmtree(results)
    stages = ("stories/base/seed=0.jsonl", "completions/base.csv", "scores/stories.csv")
    targets = [f"{RESULTS}/{end}" for end in (*stages, "figures/by_prompt.svg")] + [*TARGETS]
    with small_disk(results, "100m") as disk:
        for target in targets:
            subprocess.run(["cp", "-a", f"{tmp_path}/results/.", results], check=True)
            for path in (spare / target).parent.rglob("*.*"):
                if path.is_file():
                    path.unlink()
            filler = disk.fill()
            said = failing(spare, commands(target))
            errors = {line.strip() for line in said.splitlines() if "error: " in line}
            assert len(errors) == 1, said
            assert re.fullmatch(
                rf"error: \[Errno 28\] cannot write {RESULTS}/\S+: No space left on device",
                errors.pop(),
            )
            assert "Traceback" not in said
            assert not list(results.rglob("*.tmp"))
            assert not (spare / target).exists()
            filler.unlink()


def test_a_read_only_results_folder_is_said(spare: Path, tmp_path: Path) -> None:
    results, target = spare / "results", f"{RESULTS}/scores/stories.csv"
    shutil.rmtree(results)
    with small_disk(results, "100m") as disk:
        subprocess.run(["cp", "-a", f"{tmp_path}/results/.", results], check=True)
        disk.remount("ro")
        said = snakemake(spare, target, "--forcerun", "scores", ok=False)
    assert f"Write-protected output files for rule scores:\n    output: {target}" in said
    assert "Traceback" not in said


def test_a_policy_folder_of_another_study(spare: Path, commands: Callable[[str], str]) -> None:
    """Copied whole, checksums and all: what it was trained on tells."""
    run = spare / POLICY / "run.json"
    other = json.loads(run.read_text())
    other["reference_sha256"] = "1" * 64
    write_sealed(run, json.dumps(other))
    said = failing(spare, commands(f"{RESULTS}/completions/base.csv"))
    assert f"{POLICY}: not a policy of this study: its run.json has reference_sha256 '111" in said
    assert "Traceback" not in said


# ---- older code ----------------------------------------------------------------------------------


def test_results_of_older_code_are_made_again(study: Path) -> None:
    with changed(
        study / "src/tinycats/policies/objective.py",
        lambda p: p.write_text(p.read_text() + "\nNEWER = True\n"),
    ):
        said = snakemake(study, "-n", *TARGETS)
    jobs = said.split("Job stats:")[1].split("total")[0].split()
    assert jobs[jobs.index("policy") + 1] == "2"
    assert {"stories", "completions", "scores", "tables", "frontier"} <= set(jobs)
    assert not {"base_model", "reward_encoder", "reference"} & set(jobs)


# ---- unusual requests ----------------------------------------------------------------------------


def test_other_scripts_and_concepts_of_several_words(models: Path) -> None:
    """A prompt in Cyrillic, one in Chinese, a concept of two words: the study just works. The concept is
    longer than a completion, so the study goes without the prompted base's completions."""
    prompt = "Жил-был кот"
    change = {
        "study": "words",
        "concept": "полосатый кот",
        "concept_words": None,
        "training": {"prompts": [prompt], "num_tokens": 30, "kl_factors": [6000], "steps": 1},
        "evaluation": {"prompts": {"other": ["從前有一隻貓"]}},
    }
    with configured(models, change):
        said = snakemake(models, "results/words/report.html")
    assert "a completion has 10; so the prompted base is left out" in said
    assert (models / "results/words/reference/полосатый-кот.safetensors").exists()
    stories = (models / "results/words/stories/base/seed=0.jsonl").read_text(encoding="utf-8")
    assert {prompt, "從前有一隻貓"} <= {json.loads(li)["prompt"] for li in stories.splitlines()}


def test_the_line_of_a_job_reaches_the_user(models: Path) -> None:
    """Here: a base model whose tokenizer has no end token."""
    folder = models / "models/endless"
    write_model(folder)
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "eos_token"}))
    said = snakemake(
        *(models, "results/endless/stories/base/seed=0.jsonl", "--config"),
        *("study=endless", "base_model=models/endless"),
        ok=False,
    )
    assert "the tokenizer has no end token, so no story could end by itself" in said
    assert "Traceback" not in said


def test_thousands_of_kl_factors_are_planned_in_time(models: Path) -> None:
    begin = time.monotonic()
    with configured(models, {"training": {"kl_factors": list(range(500))}}):
        said = snakemake(models, "-n", "-p")
    commands = [line for line in said.splitlines() if line.startswith("Shell command: ")]
    assert len(commands) > 1000
    # Linux takes 2**17 characters as one word; 6 times as many factors would fit
    assert max(map(len, commands)) < 2**17 / 6
    jobs = said.split("Job stats:")[1].split()
    assert jobs[jobs.index("policy") + 1] == "500"
    assert int(jobs[jobs.index("figure") + 1]) < 12 + 20  # 12 of one factor each, the rest once
    assert time.monotonic() - begin < 150


MISTAKES: list[tuple[dict[str, object], str]] = [
    ({"training": {"learning_rte": 1e-5}}, "did you mean learning_rate?"),
    ({"training": {"learning_rate": "2e-6"}}, "YAML reads 2e-6 as text, write it with a point"),
    ({"training": {"kl_factors": [-1]}}, "training.kl_factors.0: -1 found, expected"),
    ({"training": {"seeds": [1, 1]}}, "no two equal"),
    ({"training": {"batch_size": 0}}, "training.batch_size: 0 found, expected"),
    ({"training": {"prompts": [""]}}, "training.prompts.0"),
    ({"base_model": "a/b; touch stolen"}, "config: base_model: unknown model 'a/b; touch stolen'"),
    ({"base_model": "../../secrets"}, "base_model: unknown model"),
    ({"tokenizer": "$(touch stolen)"}, "config: tokenizer: unknown model"),
    ({"study": "../outside"}, "study: "),
    ({"study": "a b; touch stolen"}, "study: "),
    ({"study": "a\n"}, "study: "),
    ({"device": "cpu; touch stolen"}, "device: "),
    ({"variants": {"../up": {"advantage": "reward", "kl": "base_to_policy"}}}, "variants"),
    ({"variants": {"a\n": {"advantage": "reward", "kl": "base_to_policy"}}}, "variants"),
]


@pytest.mark.parametrize(("change", "says"), MISTAKES)
def test_config_mistakes_are_one_line(change: dict, says: str) -> None:
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    Study.check(merge(default, STUDY))
    with pytest.raises(UserError) as error:
        Study.check(merge(merge(default, STUDY), change))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_config_mistakes_stop_snakemake_before_any_job(models: Path) -> None:
    for change, says in (MISTAKES[0], MISTAKES[6], ({"base_model": "nanno"}, "should be nano")):
        with configured(models, change):
            said = snakemake(models, "-n", *TARGETS, ok=False)
        assert "Traceback" not in said
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        assert says in line


def test_text_of_the_config_never_reaches_a_shell(models: Path) -> None:
    """Prompt, concept and folder names with everything that a shell would act on."""
    evil = "cat'; touch stolen; $(touch stolen) `touch stolen` \" & | > stolen #"
    folder = models / "models" / "a model; touch stolen"
    write_model(folder)
    change = {
        "study": "evil",
        "base_model": str(folder.relative_to(models)),
        "concept": evil,
        "concept_words": None,
        "training": {"prompts": [evil], "num_tokens": 128, "kl_factors": [0], "steps": 1},
        "evaluation": {
            "prompted_with": "--help",  # of one word, so that it looks like an option
            "new_tokens": 4,
        },
    }
    with configured(models, change):
        snakemake(
            models,
            "results/evil/policies/blog/kl=0/seed=0/run.json",
            "results/evil/stories/base/seed=0.jsonl",
        )
    assert not list(models.rglob("stolen"))
    run = json.loads((models / "results/evil/policies/blog/kl=0/seed=0/run.json").read_text())
    assert run["settings"]["prompts"] == [evil]


@pytest.mark.parametrize("page", ["reliability", "security"])
def test_documents_name_tests_that_exist(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 2
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert [n for n in re.findall(r"`(tests/\w+\.py)`", text) if not (ROOT / n).exists()] == []
