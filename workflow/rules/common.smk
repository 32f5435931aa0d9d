# The study, checked before any job starts, and what every chapter uses.

import json
import shlex

from snakemake.exceptions import WorkflowError

from tinycats.dependencies import source_files
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


def per_policy(pattern):
    """A pattern of {variant}, {factor} and {seed} for every policy of the study."""
    return [pattern.format(variant=v, factor=f, seed=s) for v, f, s in STUDY.policies()]


def run_files():
    return per_policy(f"{POLICY}/run.json")


def story_files():
    return [
        f"{RESULTS}/stories/{name}/seed={seed}.jsonl"
        for name in ("base", "prompted")
        for seed in STUDY.seeds
    ] + per_policy(f"{RESULTS}/stories/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl")


def policy_weights():
    return per_policy(f"{POLICY}/model/model.safetensors")


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
    "endings",
    "first_token",
]


# What was run, as it was merged from config.yaml, --configfile and --config.
rule study_config:
    input:
        code=code(script="write_config"),
    output:
        f"{RESULTS}/config.yaml",
    log:
        f"logs/{STUDY.name}/study_config.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=json.dumps(
            {k: v for k, v in config.items() if k != "pretrain"}, ensure_ascii=False
        ),
    shell:
        "python workflow/scripts/write_config.py --config {params.config:q}"
        " --out {output:q} 2> {log:q}"
