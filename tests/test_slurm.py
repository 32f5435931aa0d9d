"""The study on a real Slurm of one node and one GPU, by the commands of docs/cluster.md."""

from __future__ import annotations

import csv
import fcntl
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import slurm_cluster as cluster
from warm_start import interpreter

ROOT = Path(__file__).parents[1]
WORKFLOW = (
    "Snakefile",
    "config.yaml",
    "config",
    "envs",
    "profiles",
    "src",
    "workflow",
    "tests/slurm_study.yaml",
)
CONFIGURATION = "config/smoke.yaml tests/slurm_study.yaml"
STEPS = 16
NUMBERS = ("completions", "frontier")
PATIENCE = 900  # seconds; a machine with nothing else to do needs a tenth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cluster.why_not()), reason=cluster.why_not() or "Slurm is there"),
]


DOCUMENT = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
LAPTOP = "snakemake --cores 2 --configfile config/smoke.yaml"
MODELS = "snakemake models --cores 1 --configfile config/sweep.yaml"
SWEEP = "snakemake --workflow-profile profiles/slurm --configfile config/sweep.yaml"
ARRAY = f"{SWEEP} --slurm-array-jobs policy,stories"
GROUP = f"{SWEEP} --groups policy=policies --group-components policies=5"
#: Snakemake, whose plugin for Slurm looks for ended jobs every two seconds
OFTEN = Path(__file__).with_name("snakemake_often.py")


def commands(heading: str = "") -> list[str]:
    """Lines of code in docs/cluster.md, or those under one heading."""
    section = DOCUMENT.split(heading, 1)[1].split("\n## ")[0] if heading else DOCUMENT
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.S | re.M)
    return "".join(blocks).splitlines()


class Run:
    """A command of docs/cluster.md, for a study that takes seconds, in the copy of the repository.

    Args:
        study: its name, which names its folder of results.
        target: what to make, if not the report.
        more: further arguments.
        over: a further configuration, over that of the tests.
        warm: whether programs start with libraries in memory. They are then not part of Slurm's jobs, so
            no run whose jobs are cancelled may.
    """

    all: ClassVar[list[subprocess.Popen]] = []

    def __init__(
        self,
        folder: Path,
        command: str,
        study: str,
        target: str = "",
        more: Sequence[str] = (),
        over: str = "",
        warm: bool = True,
    ) -> None:
        assert command in commands(), f"docs/cluster.md does not say: {command}"
        before, after = re.split(r"config/\w+\.yaml", command)
        first, *words = shlex.split(f"{before} {CONFIGURATION} {over} {after}")
        assert first == "snakemake"
        on_cluster = "profiles/slurm" in words
        program = [str(OFTEN)] if on_cluster else ["-m", first]
        words = [
            interpreter() if warm else sys.executable,
            *program,
            *target.split(),
            *words,
            *more,
        ]
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [*words, "--config", f"study={study}"],
            cwd=folder,
            stdout=self.out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # what a shell in the background ignores would be ignored by all it starts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

        Run.all.append(self.process)

    def text(self) -> str:
        self.out.seek(0)
        return self.out.read()

    def ended(self) -> int:
        """Exit code, when it has ended."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not end:\n{self.text()}\n{jobs()}") from None

    def succeeds(self) -> str:
        assert self.ended() == 0, self.text()
        return self.text()

    def until(self, happened, what: str):
        """What ``happened()`` returns once it is something; the command must still be running."""
        deadline = time.monotonic() + PATIENCE
        while not (found := happened()):
            assert self.process.poll() is None, f"ended before {what}:\n{self.text()}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.text()}\n{jobs()}"
            time.sleep(0.05)
        return found


def jobs(*words: str) -> list[dict[str, str]]:
    """Slurm's own records of the jobs whose comment has these words, in the order of submission."""
    done = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, check=True
    )
    records = [
        dict(re.findall(r"(\w+)=(.*?) *(?= \S+=|$)", line)) for line in done.stdout.split("\n")
    ]
    records = [r for r in records if all(w in r.get("Comment", "").split("_") for w in words)]
    return sorted((r for r in records if "JobId" in r), key=lambda r: int(r["JobId"]))


def gpus(job: dict[str, str]) -> bool:
    return "gpu" in job.get("TresPerJob", "") + job.get("TresPerNode", "")


def content(results: Path) -> dict[str, str]:
    """What runs must agree on to the byte: everything but clocks."""
    found: dict[str, str] = {}
    for pattern in ("stories/**/*.jsonl", *(f"{n}/**/*.csv" for n in NUMBERS)):
        found |= {str(p.relative_to(results)): p.read_text() for p in results.glob(pattern)}
    for path in results.glob("policies/**/training.csv"):
        rows = list(csv.DictReader(path.open()))
        for row in rows:
            del row["seconds"], row["samples_per_second"]
        found[str(path.relative_to(results))] = str(rows)
    for path in results.glob("policies/**/model.safetensors"):
        found[str(path.relative_to(results))] = path.read_bytes().hex()
    return found


@pytest.fixture(scope="module")
def slurm():
    """A cluster, one at a time on this machine."""
    with open(Path(tempfile.gettempdir()) / "tinycats-slurm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(tempfile.mkdtemp(prefix="tinycats-slurm-"))
        try:
            cluster.start(folder)
            yield folder
        finally:
            for process in Run.all:  # those that a failed test has left
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            cluster.stop(folder)
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory, slurm) -> Path:
    """A copy of the repository, with the models that the login node obtained."""
    folder = tmp_path_factory.mktemp("copy")
    for name in WORKFLOW:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    Run(folder, MODELS, "models").succeeds()
    return folder


@pytest.fixture(scope="module")
def undisturbed(copy) -> dict[str, str]:
    """The numbers of the study's jobs with a GPU, from this machine alone."""
    stories = (f"stories/blog/kl=6000/seed={seed}.jsonl" for seed in (0, 1))
    target = " ".join(f"results/undisturbed/{end}" for end in (*stories, "frontier/limit.csv"))
    Run(copy, LAPTOP, "undisturbed", target, ["--resources", "gpu=2"]).succeeds()
    return content(copy / "results/undisturbed")


@pytest.fixture(scope="module")
def disturbed(copy) -> tuple[Path, str]:
    """The study on the cluster. In the midst of one policy the user stops it all and starts it again;
    in the midst of the other its job is cancelled. Then come the other stages. Returns results and the
    output since the user's new start."""
    results = copy / "results/disturbed"

    def in_training(but: Path | None = None) -> list[Path]:
        states = results.glob("policies/blog/kl=6000/seed=*/state.pt")
        return [state.parent for state in states if state.parent != but]

    run = Run(copy, SWEEP, "disturbed", warm=False)
    first = run.until(in_training, "policy in training")[0]
    run.process.send_signal(signal.SIGINT)
    assert run.ended() != 0
    alive = subprocess.run(
        ["squeue", "-h", "-t", "PENDING,RUNNING"], capture_output=True, text=True, check=True
    ).stdout
    assert alive == "", "jobs outlived the user's wish to stop"

    run = Run(copy, SWEEP, "disturbed", "policies", warm=False)
    second = run.until(lambda: in_training(but=first), "other policy in training")[0]
    cancelled = jobs("policy", second.name.removeprefix("seed="))[-1]
    subprocess.run(["scancel", cancelled["JobId"]], check=True)
    return results, run.succeeds() + Run(copy, SWEEP, "disturbed").succeeds()


@pytest.fixture(scope="module")
def others(copy) -> dict[str, Run]:
    """Three runs at a time, of policies alone: in a group, in an array, and one that must fail."""
    (copy / "short.yaml").write_text("training: {steps: 2}\n")
    (copy / "wrong.yaml").write_text("training: {learning_rate: 1.0e+30, seeds: [0]}\n")
    return {
        "grouped": Run(copy, GROUP, "grouped", "policies", over="short.yaml"),
        "array": Run(copy, ARRAY, "array", "policies", over="short.yaml"),
        "wrong": Run(copy, SWEEP, "wrong", "policies", ["--retries", "0"], over="wrong.yaml"),
    }


def test_the_checks_before_submitting(copy):
    checks = commands("## 4. Check before you submit")
    assert len(checks) == 5
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    outputs = []
    for line in checks[:4]:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=copy,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout + done.stderr)
    assert re.search(r"^gpu gpu:1 ", outputs[0], re.M), outputs[0]
    age = re.search(r"= (\d+) sec", outputs[1])
    assert age
    assert int(age[1]) >= 200
    assert "GPU: False" in outputs[2]  # it is /dev/null
    assert re.search(r"^policy +40$", outputs[3], re.M), outputs[3]


def test_every_job_with_a_gpu_went_through_slurm(disturbed, copy):
    results, output = disturbed
    assert "rule base_model" not in output, "the login node's models were not enough"
    submitted = re.findall(r"submitted with SLURM jobid (\d+)", output)
    done = [job for job in jobs() if job["JobId"] in submitted and job["JobState"] == "COMPLETED"]
    rules = sorted(job["Comment"].removeprefix("rule_").split("_wildcards")[0] for job in done)
    # base_stories ran before the interruption or after it
    assert [rule for rule in rules if rule != "base_stories"] == [
        *("completions", "frontier", "judges", "opening_stories", "opening_stories"),
        *("policy", "policy", "scores", "stories", "stories"),
    ]
    assert {job["Partition"] for job in done if gpus(job)} == {"gpu"}
    assert [job["Comment"] for job in done if not gpus(job)] == ["rule_frontier"]
    weights = (copy / "resources/models/nano/model.safetensors").stat().st_size / 1e6
    encoder = (
        copy / "resources/models/sentence-transformers--all-MiniLM-L6-v2/model.safetensors"
    ).stat().st_size / 1e6
    for job in jobs("policy"):
        asked = float(job["MinMemoryNode"].removesuffix("M"))
        attempts = asked / (2000 + 12 * (weights + encoder))
        assert attempts == pytest.approx(round(attempts), rel=0.01)
    assert (results / "report.html").exists()
    assert not list(results.rglob("state.pt"))


def test_jobs_never_shared_the_gpu(disturbed):
    # a job that was cancelled before it began has no node
    spans = sorted(
        (job["StartTime"], job["EndTime"])
        for job in jobs()
        if gpus(job) and "node" in job["NodeList"]
    )
    assert len(spans) >= 9
    begun = {job["StartTime"]: job["SubmitTime"] for job in jobs() if gpus(job)}
    waited = [start for (_, end), (start, _) in itertools.pairwise(spans) if begun[start] < end]
    assert waited, "never were two jobs after the GPU at a time: this shows nothing"
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), spans


def test_a_cancelled_job_is_submitted_again_with_more(disturbed):
    _, output = disturbed
    assert "Trying to restart job" in output
    tries = {"0": jobs("policy", "0"), "1": jobs("policy", "1")}
    retried = [t for t in tries.values() if t[-1]["MinMemoryNode"] > t[-2]["MinMemoryNode"]]
    assert len(retried) == 1, tries
    before, after = retried[0][-2:]
    assert (before["JobState"], after["JobState"]) == ("CANCELLED", "COMPLETED")
    assert (before["TimeLimit"], after["TimeLimit"]) == ("00:30:00", "01:00:00")


def test_both_disturbed_policies_went_on_from_their_state(disturbed, copy):
    logs = sorted((copy / "logs/disturbed/policies").rglob("*.log"))
    assert len(logs) == 2
    for log in logs:
        resumed = re.search(rf"resuming after step (\d+) of {STEPS}", log.read_text())
        assert resumed, f"{log} started over:\n{log.read_text()}"
        assert 1 <= int(resumed[1]) < STEPS


def test_the_cluster_gives_what_one_machine_gives_to_the_byte(disturbed, undisturbed):
    results, _ = disturbed
    there = content(results)
    assert len(undisturbed) > 15
    assert there.keys() >= undisturbed.keys()
    assert [name for name in undisturbed if there[name] != undisturbed[name]] == []


def test_a_group_of_policies_is_one_job_with_one_gpu(others):
    output = others["grouped"].succeeds()
    numbers = re.findall(r"submitted with SLURM jobid (\d+)", output)
    assert len(numbers) == 1, output
    (job,) = [job for job in jobs() if job["JobId"] == numbers[0]]
    assert job["TresPerJob"].replace("/", ":") == "gres:gpu:1"
    assert job["TimeLimit"] == "01:00:00", "one after the other, they need the time of both"


def test_an_array_is_submitted_once(others, copy):
    output = others["array"].succeeds()
    (number,) = re.findall(r"Submitted array job with .* SLURM job ID (\d+)", output)
    tasks = [job for job in jobs() if job.get("ArrayJobId") == number]
    assert [job["JobState"] for job in tasks] == ["COMPLETED"] * 2
    others["grouped"].succeeds()
    found = content(copy / "results/array")
    assert len(found) == 4
    assert found == content(copy / "results/grouped")


def test_a_run_that_ends_leaves_the_folders_that_others_log_to(others, copy):
    assert [run.ended() == 0 for run in others.values()] == [True, True, False]
    assert (copy / "logs/slurm/group_policies_policy").is_dir()


def test_a_failing_job_says_why(others):
    run = others["wrong"]
    assert run.ended() != 0
    assert "error: training.learning_rate: 1e+30 gave a loss of nan" in run.text()
    (number,) = re.findall(r"submitted with SLURM jobid (\d+)", run.text())
    assert [job["JobState"] for job in jobs() if job["JobId"] == number] == ["FAILED"]


def test_the_switch_for_sites_that_only_accept_gres(copy):
    path = copy / "profiles/slurm/config.yaml"
    text = path.read_text()
    switch = re.search(r"# +only --gres is accepted: +(\{.*\})", text)
    assert switch
    path.write_text(text.replace("&gpu {slurm_partition: gpu}", f"&gpu {switch[1]}"))
    try:
        stories = "results/gres/stories/base/seed=0.jsonl"
        Run(copy, SWEEP, "gres", stories).succeeds()
    finally:
        path.write_text(text)
    job = jobs()[-1]
    assert job["Comment"].startswith("rule_base_stories")
    assert job["JobState"] == "COMPLETED"
    assert "gpu" in job["TresPerNode"]
    assert "TresPerJob" not in job
