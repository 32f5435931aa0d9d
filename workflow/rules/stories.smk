# Long stories for evaluation, and many short completions for the best achievable reward.

from tinycats.completions.settings import CompletionsSettings
from tinycats.stories.settings import (
    BaseStoriesSettings,
    OpeningStoriesSettings,
    StoriesSettings,
)


# The base model's stories of one seed, prompted or not. A job for each seed, so that another seed
# leaves these as they are.
rule base_stories:
    input:
        weights=rules.base_model.output.weights,
        files=rules.base_model.output,
    output:
        base=f"{RESULTS}/{layout.STORIES.pattern(layout.BASE.kind)}",
        prompted=f"{RESULTS}/{layout.STORIES.pattern(layout.PROMPTED.kind)}",
        seals=seals(
            f"{RESULTS}/{layout.STORIES.pattern(layout.BASE.kind)}",
            f"{RESULTS}/{layout.STORIES.pattern(layout.PROMPTED.kind)}",
        ),
    log:
        f"logs/{STUDY.name}/{layout.STORIES.log.pattern(layout.BASE.kind)}",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/{layout.STORIES.benchmark.pattern(layout.BASE.kind)}"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(2 * story_work()),
        torch_threads=torch_threads(len(run_files())),
        device=STUDY.device,
    params:
        code=code(script="tell_stories"),
        base_model=subpath(input.weights, parent=True),
        folder=subpath(output[0], ancestor=2),
        settings=stage_settings(BaseStoriesSettings),
    message:
        "Sampling stories: base model, alone and prompted, seed {wildcards.seed}"
    shell:
        "run_script tell_stories --base-model {params.base_model:q}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        " --out {params.folder:q} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"


rule stories:
    input:
        weights=rules.base_model.output.weights,
        policy=rules.policy.output.weights,
        files=[*rules.base_model.output, *policy_files(POLICY)],
        base=rules.base_stories.output.base,
        seals=rules.base_stories.output.seals,
    output:
        stories=STORIES,
        forgetting=FORGETTING,
        seals=seals(STORIES, FORGETTING),
    log:
        f"logs/{STUDY.name}/{layout.STORIES.log.pattern()}",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/{layout.STORIES.benchmark.pattern()}"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(2 * story_work()),
        torch_threads=torch_threads(len(run_files())),
        device=STUDY.device,
    params:
        code=code(script="tell_stories"),
        base_model=subpath(input.weights, parent=True),
        policy=subpath(input.policy, parent=True),
        settings=stage_settings(StoriesSettings),
    message:
        f"Sampling stories: {WHO}"
    shell:
        "run_script tell_stories --base-model {params.base_model:q}"
        " --policy {params.policy:q} --base-stories {input.base:q}"
        " --settings {params.settings:q} --seed {wildcards.seed} --out {output.stories:q}"
        " --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"


# One job per study: rewards of the base model's completions are computed once, and log probabilities of
# every completion under every model. When the study's models change it draws all completions again: the
# same ones, whose rewards it finds in the memo, since a model's random numbers follow from its name.
rule completions:
    input:
        **reward_input(),
        weights=rules.base_model.output.weights,
        policies=policy_weights(),
        files=[
            *rules.base_model.output,
            *(path for end in policy_files(POLICY) for path in per_policy(end)),
        ],
    output:
        base=f"{RESULTS}/{layout.COMPLETIONS.of(layout.BASE)}",
        prompted=f"{RESULTS}/{layout.COMPLETIONS.of(layout.PROMPTED)}",
        policies=per_policy(COMPLETIONS),
        first_token=f"{RESULTS}/{layout.FIRST_TOKEN}",
        log_probs=f"{RESULTS}/{layout.LOG_PROBS}",
        searched=f"{RESULTS}/{layout.SEARCHED}",
        seals=seals(
            *(
                f"{RESULTS}/{layout.COMPLETIONS.of(m)}"
                for m in (layout.BASE, layout.PROMPTED)
            ),
            *per_policy(COMPLETIONS),
            *(
                f"{RESULTS}/{path}"
                for path in (layout.FIRST_TOKEN, layout.LOG_PROBS, layout.SEARCHED)
            ),
        ),
    log:
        f"logs/{STUDY.name}/completions.log",
    benchmark:
        f"{RESULTS}/benchmarks/completions.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(completions_work()),
        torch_threads=torch_threads(1),
        device=STUDY.device,
    params:
        code=code(script="sample_completions"),
        base_model=subpath(input.weights, parent=True),
        policies=spread(POLICY),
        reward=reward_words,
        rewards=f"{RESULTS}/{layout.REWARDS}",
        settings=stage_settings(CompletionsSettings),
        folder=subpath(output.first_token, parent=True),
    message:
        f"Sampling completions: base model and {len(run_files())} policies"
    shell:
        "run_script sample_completions --base-model {params.base_model:q}"
        " --policies {params.policies} {params.reward:q} --rewards {params.rewards:q}"
        " --settings {params.settings:q} --out {params.folder:q}"
        " --device {resources.device} --threads {resources.torch_threads} 2> {log:q}"


# Stories that begin with tokens drawn from the optimal policy, from best-of-n, and from each policy, and
# are continued by the base model (docs/damage.md). A job for each seed: many of them are the same stories.
OPENING_STORIES = [
    path
    for kind in OPENED
    for path in of_seed(f"{RESULTS}/{layout.STORIES.pattern(kind)}")
] + [f"{RESULTS}/{layout.STORIES.pattern(layout.OPTIMAL_PROMPTED.kind)}"]


rule opening_stories:
    input:
        weights=rules.base_model.output.weights,
        files=rules.base_model.output,
        log_probs=rules.completions.output.log_probs,
        searched=rules.completions.output.searched,
        openings=f"{RESULTS}/{layout.FRONTIER['openings']}",
        policies=of_seed(STORIES),
        seals=seals(
            f"{RESULTS}/{layout.LOG_PROBS}",
            f"{RESULTS}/{layout.SEARCHED}",
            f"{RESULTS}/{layout.FRONTIER['openings']}",
            *of_seed(STORIES),
        ),
    output:
        OPENING_STORIES,
        seals=seals(*OPENING_STORIES),
    log:
        f"logs/{STUDY.name}/stories/openings/seed={{seed}}.log",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/stories/openings/seed={{seed}}.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(len(run_files()) * story_work()),
        torch_threads=torch_threads(len(STUDY.seeds)),
        device=STUDY.device,
    params:
        code=code(script="tell_openings"),
        base_model=subpath(input.weights, parent=True),
        policies=lambda wildcards, input: spread(STORIES, [wildcards.seed])(
            wildcards, input
        ),
        settings=stage_settings(OpeningStoriesSettings),
        folder=lambda wildcards, output: f"{home(output)}{RESULTS}/{layout.STORIES.stage}",
    message:
        "Sampling the base model's continuations of openings: seed {wildcards.seed}"
    shell:
        "run_script tell_openings --base-model {params.base_model:q}"
        " --log-probs {input.log_probs:q} --searched {input.searched:q} --openings {input.openings:q}"
        " --policy-stories {params.policies} --settings {params.settings:q}"
        " --seed {wildcards.seed} --out {params.folder} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"
