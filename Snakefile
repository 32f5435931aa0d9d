# tinycats: fine-tunes a small story model by REINFORCE to write stories about a concept.
#
#     models ─► reference ─► policies (variant × KL factor × seed) ─► stories ─► scores ─► tables ─► figures ─► report
#                                  └─► completions ─► frontier (the limit) ────────┘
#
# Rules, logs and results folders are named after the stage.

import sys
from pathlib import Path

import yaml
from snakemake.utils import min_version, update_config

min_version("9.20")

# The checkout with code and shipped files; a run's files are in the working directory (--directory).
ROOT = Path(str(workflow.current_basedir))
if odd := sorted(set("{}:") & set(str(ROOT))):
    sys.exit(
        f"error: the checkout's folder {ROOT} has {' '.join(odd)} in its path, which Snakemake or"
        " Python's search path cannot hold; move or rename it"
    )
sys.path.insert(0, str(ROOT / "src"))


configfile: str(ROOT / "config.yaml")


# A workflow that uses this one as a module gives the keys that differ: the rest is as in config.yaml.
_defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
update_config(_defaults, config)
config.update(_defaults)


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/model_files.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/policies.smk"
include: "workflow/rules/stories.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/frontier.smk"
include: "workflow/rules/figure_files.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/pretrain.smk"


onstart:
    # Snakemake limits how many jobs start in a second: each that has started makes it look at all waiting
    # jobs again, every second, to the end. After 50 jobs this takes a core. On one machine nothing needs
    # the limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    print(last_words(), end="", file=sys.stderr)


rule all:
    default_target: True
    input:
        f"{RESULTS}/{layout.PAGE}",
        f"{RESULTS}/{layout.MARKDOWN}",
        f"{RESULTS}/{layout.PLAYGROUND}",
    message:
        f"The study is complete: {RESULTS}"


rule policies:
    input:
        run_files(),
    message:
        f"The policies are trained: {RESULTS}/policies"
