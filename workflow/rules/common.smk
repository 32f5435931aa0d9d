# Checks the study before any job starts; names and functions shared by all rules.

import hashlib
import json
import os
import shlex
import shutil
import time

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import InputFiles

from tinycats import layout
from tinycats.columns import STUDY_TABLES
from tinycats.compute.devices import usable_cpus
from tinycats.files.atomic import checksum_file, write_text
from tinycats.kinds import OPENED
from tinycats.program import UserError
from tinycats.settings import as_json
from tinycats.source_code import digest
from tinycats.study import Study

try:
    STUDY = Study.check(config, workflow.config_settings.config)
except UserError as error:
    sys.exit(f"error: {error}")

STARTED = time.time()
RESULTS = STUDY.results
VARIANTS = list(STUDY.variants)
# with the wildcards {variant}, {factor} and {seed}
POLICY = f"{RESULTS}/{layout.POLICY_FOLDER.pattern()}"
STORIES = f"{RESULTS}/{layout.STORIES.pattern()}"
FORGETTING = f"{RESULTS}/{layout.FORGETTING.pattern()}"
COMPLETIONS = f"{RESULTS}/{layout.COMPLETIONS.pattern()}"
ENVIRONMENT = "../../envs/tinycats.yaml"


wildcard_constraints:
    variant="|".join(VARIANTS),
    factor="|".join(f.replace(".", r"\.") for f in STUDY.factors),
    seed=r"\d+",


# Where a run's files are in a storage (--default-storage-provider), files of the checkout and a user's
# own files stay where they are. A job then finds inputs and outputs in local copies: every path of a
# command has to come from `input` and `output`.
def shipped(path):
    """A file of the checkout; relative where the run is in the checkout itself."""
    return local(path if Path.cwd() == ROOT else str(ROOT / path))


def seals(*paths):
    """The checksum files of results, or of patterns of results, where they are in a storage.

    Elsewhere they need not be declared: planning a thousand policies takes half the time without them.
    """
    stored = workflow.storage_settings.default_storage_provider
    return [str(checksum_file(path)) for path in paths] if stored else []


# A rule's command calls a program as `run_script NAME`. Jobs import the library from src/. Without conda
# they use the interpreter that runs Snakemake, even if its virtual environment is not activated. The
# program takes the shell's place, so that signals reach it: it must come last in a command.
# PYTHONOPTIMIZE is unset, since transformers cannot be imported where Python leaves docstrings out.
# A thread of torch's that waits for another spins for some 0.2 ms instead of 5 ms and more, then sleeps: on
# a busy machine the one that it waits for gets the CPU (benchmarks/load.py).
_python = "python" if workflow.deployment_settings.deployment_method else sys.executable
_program = (
    f"PYTHONPATH={shlex.quote(str(ROOT / 'src'))} exec {shlex.quote(_python)}"
    f" {shlex.quote(str(ROOT / 'workflow/scripts'))}/$name.py"
)
_function = (
    "run_script() { local name=$1; shift; unset PYTHONOPTIMIZE;"
    f' export GOMP_SPINCOUNT="${{GOMP_SPINCOUNT:-10000}}"; {_program} "$@"; }}; '
)
_function = _function.replace("{", "{{").replace("}", "}}")  # Snakemake formats it
shell.prefix(f"set -euo pipefail; {_function}")


def code(*modules, script):
    """Digest of a stage's code as a parameter: a change of the code reruns the stage."""
    return lambda wildcards: digest(ROOT / f"workflow/scripts/{script}.py", *modules)


def torch_threads(jobs):
    """The config's `threads`. For 0, jobs that run at a time on this machine share its cores; at most
    `jobs` do: as many as a stage has. A stage's only job, or one on a cluster, takes all that it may use,
    which is 0 for its program.
    """

    def threads(wildcards):
        if STUDY.threads or workflow.non_local_exec or workflow.remote_exec:
            return STUDY.threads
        given = [workflow.global_resources.get(name) for name in ("_cores", "gpu")]
        totals = [int(x.value) for x in given if x is not None and x.value is not None]
        at_once = min(jobs, *totals)
        return max(1, usable_cpus() // at_once) if at_once > 1 else 0

    return threads


# Memory and time of a job on a cluster: from the size of the models that it reads, times the number of
# the attempt. Measured: 33M parameters (274 MB) train in 4 GB, at 20 s for 1000 completions on two CPU
# cores; Python and CUDA take 2 GB.
def megabytes(input, *names):
    """Size of these inputs, also where they are in a storage."""
    found = [input[name] for name in names if name in input.keys()]
    lists = [[paths] if isinstance(paths, str) else paths for paths in found]
    files = InputFiles(path for paths in lists for path in paths)
    return files.size / 1e6


def mem_mb(wildcards, input, attempt):
    read = megabytes(input, "weights", *REWARD_WEIGHTS, "judges", "log_probs")
    return attempt * round(2000 + 12 * read)


def minutes(completions, *models):
    """Time limit in minutes of a job with this many completions and the model of these inputs."""

    def runtime(wildcards, input, attempt):
        size = megabytes(input, *(models or ("weights",)))
        return attempt * round(30 + completions * size / 4e5)

    return runtime


def run_of(wildcards):
    return STUDY.run(wildcards.variant, float(wildcards.factor), int(wildcards.seed))


# A policy in a rule's message.
WHO = "KL factor {wildcards.factor}, seed {wildcards.seed}"
if len(VARIANTS) > 1:
    WHO = f"{{wildcards.variant}}, {WHO}"


def training_size(wildcards):
    run = run_of(wildcards)
    return f"{run.steps} steps of {run.batch_size} completions"


# In completions of four tokens, as in the post. The 6 tokens of its prompt are subtracted.
def training_minutes(wildcards, input, attempt):
    run = run_of(wildcards)
    completions = run.steps * run.batch_size * run.updates_per_batch
    tokens = completions * max(4, run.num_tokens - 6)
    if run.kl_tokens:
        tokens += run.steps * run.kl_stories * (run.num_tokens + run.kl_tokens)
    work = tokens // 4
    return minutes(work)(wildcards, input, attempt)


# Stories of one seed, as the number of four-token completions with as many tokens.
def story_work():
    e = STUDY.evaluation
    counts = e.per_prompt()
    stories = sum(len(prompts) * counts[g] for g, prompts in e.prompts.items())
    return stories * e.new_tokens // 4


# Each model of the pool computes the log probabilities of the pool's completions, without a gradient; a
# tenth of them are distinct. Every policy samples its own.
def completions_work():
    e, policies = STUDY.evaluation, len(run_files())
    pool = min(policies, 64)
    measured = (pool + 1) * (e.base_completions + pool * e.policy_completions) // 10
    return measured + policies * e.policy_completions


def as_it_is(value):
    """A param or input that may hold text of the user: a plain one would have {...} expanded."""
    return lambda wildcards: value


def per_policy(pattern):
    """The pattern with {variant}, {factor} and {seed} filled in, for every policy of the study."""
    return [pattern.format(variant=v, factor=f, seed=s) for v, f, s in STUDY.policies()]


def of_seed(pattern):
    """The pattern with {variant} and {factor} filled in, for every policy of the wildcard {seed}."""
    policies = dict.fromkeys((v, f) for v, f, _ in STUDY.policies())
    return [pattern.format(variant=v, factor=f, seed="{seed}") for v, f in policies]


def home(paths):
    """What is before the study's results in a job's paths, for the shell: nothing, or the folder of
    a storage's copies."""
    found = (path.rpartition(f"{RESULTS}/") for path in map(str, paths))
    before = next(before for before, results, _ in found if results)
    return shlex.quote(before) if before else ""


def spread(pattern, seeds=None):
    """The same as bash brace expansions, which keep commands short for many policies."""

    def braces(values):
        values = [str(value) for value in values]
        return values[0] if len(values) == 1 else "{" + ",".join(values) + "}"

    spread_out = pattern.format(
        variant=braces(VARIANTS),
        factor=braces(STUDY.factors),
        seed=braces(seeds or STUDY.seeds),
    )
    return lambda wildcards, input: home(input) + spread_out


def run_files():
    return per_policy(f"{POLICY}/{layout.RUN.name}")


def stories_of(model):
    """The stories of the base or the prompted base, a file for each seed."""
    pattern = layout.STORIES.pattern(model.kind)
    return expand(f"{RESULTS}/{pattern}", seed=STUDY.seeds)


def base_story_files():
    return stories_of(layout.BASE) + stories_of(layout.PROMPTED)


def opening_story_files():
    """The stories of every seed that begin with another distribution's tokens."""
    beside = [
        per_policy(f"{RESULTS}/{layout.STORIES.pattern(kind)}") for kind in OPENED
    ]
    beside += [] if WITHOUT else [stories_of(layout.OPTIMAL_PROMPTED)]
    return sum(beside, [])


def opening_spread():
    """The same as bash brace expansions."""
    kinds = [*OPENED, *([] if WITHOUT else [layout.OPTIMAL_PROMPTED.kind])]
    patterns = [f"{RESULTS}/{layout.STORIES.pattern(kind)}" for kind in kinds]
    return lambda wildcards, input: " ".join(
        spread(p)(wildcards, input) for p in patterns
    )


def story_files():
    return base_story_files() + per_policy(STORIES) + opening_story_files()


def policy_files(folder):
    """What later stages read in a policy's folder besides its weights."""
    names = (
        "model/config.json",
        "model/tokenizer.json",
        f"model/{ARCHIVE}",
        "model/manifest.json",
        layout.RUN.name,
    )
    return [f"{folder}/{name}" for name in names] + seals(f"{folder}/{layout.RUN.name}")


def policy_weights():
    return per_policy(f"{POLICY}/{layout.WEIGHTS.name}")


def tables_below(*folders):
    """The study's documented tables in these folders of its results."""
    paths = [path for path in STUDY_TABLES if path.split("/")[0] in folders]
    return [f"{RESULTS}/{path}" for path in paths]


# What a program is given by --settings. Linux takes at most 128 KiB as one word of a command, so a
# longer text goes into a file, whose name changes with its content.
def argument(text):
    if len(text.encode()) < 100_000:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(f"logs/{STUDY.name}/settings/{digest}.json")
    if not path.exists():
        write_text(path, text)
    return f"@{path}"


def stage_settings(cls):
    """A stage's settings, as the param of a rule."""
    return as_it_is(argument(as_json(STUDY.stage(cls))))


def run_settings(wildcards):
    """The settings of one policy."""
    return argument(as_json(run_of(wildcards)))


# At most four KL factors, first and last among them: more would not fit into one page.
def playground_factors():
    last = len(STUDY.factors) - 1
    return [STUDY.factors[i] for i in sorted({round(n * last / 3) for n in range(4)})]


def study_command():
    """The command that regenerates this study, for its report."""
    words = ["snakemake", "--cores", "1", "--resources", "gpu=1"]
    snakefile = Path(workflow.main_snakefile)
    if snakefile != Path("Snakefile").absolute():
        words += ["--snakefile", os.path.relpath(snakefile)]
    if workflow.overwrite_configfiles:
        words += ["--configfile", *map(os.path.relpath, workflow.overwrite_configfiles)]
    if given := workflow.config_settings.config:
        words += ["--config", *(f"{key}={value}" for key, value in given.items())]
    return shlex.join(words)


def last_words():
    """What a run prints at its end if it made the report."""
    page, playground = (f"{RESULTS}/{n}" for n in (layout.PAGE, layout.PLAYGROUND))
    if not os.path.exists(page) or os.path.getmtime(page) < STARTED:
        return ""
    tell = f"tinycats tell --compare --study {STUDY.name} --kl {STUDY.factors[-1]}"
    if VARIANTS[0] != layout.FIRST_VARIANT:
        tell += f" --variant {VARIANTS[0]}"
    if STUDY.seeds[0] != 0:
        tell += f" --seed {STUDY.seeds[0]}"
    first = "" if shutil.which("tinycats") else "  (first: pip install -e . --no-deps)"
    without = f"\nNote: {WITHOUT}." if WITHOUT else ""
    return f"""{without}
The report of the study {STUDY.name}: {page}
Next:
  try the policies in a browser: {playground}
  or in the terminal: {tell}{first}
  change the concept, the KL factors or the method: README.md, "Change the study"
"""
