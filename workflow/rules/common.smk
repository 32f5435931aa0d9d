# The study, checked before any job starts, and what every chapter uses.

import json
import os
import shlex

from snakemake.exceptions import WorkflowError

from tinycats.source_code import source_files
from tinycats.program import UserError
from tinycats.study import Study

ROOT = Path(workflow.basedir)

try:
    STUDY = Study.check(config)
except UserError as error:
    sys.exit(f"error: {error}")

RESULTS = STUDY.results
POLICY = f"{RESULTS}/policies/{{variant}}/kl={{factor}}/seed={{seed}}"
ENVIRONMENT = "../../envs/tinycats.yaml"


wildcard_constraints:
    variant="|".join(STUDY.variants),
    factor="|".join(f.replace(".", r"\.") for f in STUDY.factors),
    seed=r"\d+",


# Jobs find the library in src/. Without conda they also use the interpreter that runs Snakemake,
# even if its virtual environment was not activated.
_path = f"export PYTHONPATH={shlex.quote(str(ROOT / 'src'))}; "
if not workflow.deployment_settings.deployment_method:
    _path += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
shell.prefix(f"set -euo pipefail; {_path}")


def code(*modules, script):
    """Source files of a stage as inputs: results follow the content of the code that made them."""
    return source_files(ROOT, script, *modules)


# What a job asks a cluster for: it follows the models that the job reads, whose size is known once
# they are there, and grows when the job is tried again. Measured: 33M parameters (274 MB) train in
# 4 GB, at 20 s for 1000 completions on two CPU cores; Python and CUDA take 2 GB.
def megabytes(path):
    return os.path.getsize(path) / 1e6


def mem_mb(wildcards, input, attempt):
    read = [input[n] for n in ("weights", "encoder", "log_probs") if n in input.keys()]
    return attempt * round(2000 + 12 * sum(map(megabytes, read)))


def minutes(completions, model="weights"):
    """Time limit of a job that trains on so many completions with the model of that name."""

    def runtime(wildcards, input, attempt):
        return attempt * round(30 + completions * megabytes(input[model]) / 4e5)

    return runtime


# In completions of four tokens, the post's. Its prompt has more tokens than what is left out here.
def training_work():
    t = config["training"]
    return t["steps"] * t["batch_size"] * max(4, t["num_tokens"] - 6) // 4


# A seed's stories: their tokens cost what as many tokens of completions do, four to each.
def story_work():
    e, counts = config["evaluation"], STUDY.story_counts()
    stories = sum(len(prompts) * counts[g] for g, prompts in e["prompts"].items())
    return stories * e["new_tokens"] // 4


# Each model of the pool measures its completions; a tenth of them are distinct, and nothing is
# differentiated. Every policy draws some.
def completions_work():
    e, policies = config["evaluation"], len(run_files())
    pool = min(policies, 64)
    measured = (
        (pool + 1) * (e["base_completions"] + pool * e["policy_completions"]) // 10
    )
    return measured + policies * e["policy_completions"]


def per_policy(pattern):
    """A pattern of {variant}, {factor} and {seed} for every policy of the study."""
    return [pattern.format(variant=v, factor=f, seed=s) for v, f, s in STUDY.policies()]


def spread(pattern):
    """The same for a shell, by bash's braces: a short command however many the policies are."""

    def braces(values):
        values = [str(value) for value in values]
        return values[0] if len(values) == 1 else "{" + ",".join(values) + "}"

    spread_out = pattern.format(
        variant=braces(STUDY.variants),
        factor=braces(STUDY.factors),
        seed=braces(STUDY.seeds),
    )
    return (
        lambda wildcards: spread_out
    )  # as plain text, Snakemake would look for wildcards


def run_files():
    return per_policy(f"{POLICY}/run.json")


def base_story_files():
    return expand(
        f"{RESULTS}/stories/{{name}}/seed={{seed}}.jsonl",
        name=["base", "prompted"],
        seed=STUDY.seeds,
    )


def story_files():
    return base_story_files() + per_policy(
        f"{RESULTS}/stories/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"
    )


def policy_weights():
    return per_policy(f"{POLICY}/model/model.safetensors")


# At most four KL factors, first and last among them: more would not fit into one page.
def playground_factors():
    factors = sorted(STUDY.factors, key=float)
    return [
        factors[i]
        for i in sorted({round(n * (len(factors) - 1) / 3) for n in range(4)})
    ]


def report_tables():
    return [
        f"{RESULTS}/{path}.csv"
        for path in (
            *(f"tables/{name}" for name in TABLES),
            "scores/stories",
            "scores/sets",
            "frontier/limit",
            "frontier/best_of_n",
            "frontier/policies",
            "frontier/prompted",
        )
    ]


TABLES = [
    "summary",
    "by_prompt_group",
    "by_position",
    "paired_differences",
    "training",
    "top_completions",
    "trajectories",
    "first_token",
]


def story_arguments():
    e = config["evaluation"]
    return (
        f"--prompts {shlex.quote(json.dumps(e['prompts'], ensure_ascii=False))}"
        f" --per-prompt {shlex.quote(json.dumps(STUDY.story_counts()))}"
        f" --new-tokens {e['new_tokens']}"
    )


def study_command():
    """The command that makes this study again, for its report."""
    words = ["snakemake", "--cores", "1", "--resources", "gpu=1"]
    if workflow.overwrite_configfiles:
        words += ["--configfile", *map(os.path.relpath, workflow.overwrite_configfiles)]
    if given := workflow.config_settings.config:
        words += ["--config", *(f"{key}={value}" for key, value in given.items())]
    return shlex.join(words)


# ---- figures

from tinycats.figures import registry as figures

FIGURE_NAMES = figures.figure_names(STUDY.factors, STUDY.variants)
FIGURE_CATEGORIES = {
    "question": "Question",
    "training": "Training",
    "scores": "Scores",
    "broke": "What broke",
    "transfer": "Transfer",
    "method": "Variants",
}


def figure_files():
    """The figures of the study, as the report embeds and describes them."""
    return expand(
        f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURE_NAMES, kind=["svg", "json"]
    )


def figure_tables(wildcards):
    paths = figures.figure_inputs(
        wildcards.name, STUDY.factors, STUDY.variants[0], str(STUDY.seeds[0])
    )
    return [f"{RESULTS}/{path}" for path in paths]


def figure_code(wildcards):
    return code(f"figures/{figure_module(wildcards)}", script="draw_figure")


def figure_category(wildcards):
    return FIGURE_CATEGORIES[figures.find(wildcards.name)[0].section]


def figure_module(wildcards):
    return figures.find(wildcards.name)[0].module


def figure_labels(wildcards):
    factor = figures.find(wildcards.name)[1] or "all"
    return {"figure": figure_module(wildcards), "KL factor": factor}


# ---- models

from tinycats.models.folders import model_folder_name
from tinycats.models.sources import local_files

BASE_MODEL = f"resources/models/{model_folder_name(config['base_model'])}"
REWARD_ENCODER = f"resources/models/{model_folder_name(config['reward_encoder'])}"
NANO = "workflow/resources/nano"

try:
    STUDY.check_lengths(Path(NANO if config["base_model"] == "nano" else BASE_MODEL))
except UserError as error:
    sys.exit(f"error: {error}")
