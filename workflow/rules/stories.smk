# What base and policies tell: long stories for evaluation, many short completions for the limit.

from tinycats.completions.settings import CompletionsSettings
from tinycats.stories.settings import BaseStoriesSettings, StoriesSettings

STORIES = f"{RESULTS}/stories"


# One job for all seeds of the base and the prompted base: the model is loaded once.
rule base_stories:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        manifest=f"{BASE_MODEL}/manifest.json",
        code=code(script="tell_stories"),
    output:
        base=expand(f"{STORIES}/base/seed={{seed}}.jsonl", seed=STUDY.seeds),
        prompted=expand(f"{STORIES}/prompted/seed={{seed}}.jsonl", seed=STUDY.seeds),
    log:
        f"logs/{STUDY.name}/stories/base.log",
    benchmark:
        f"{RESULTS}/benchmarks/stories/base.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(2 * len(STUDY.seeds) * story_work()),
        torch_threads=STUDY.threads,
        device=STUDY.device,
    params:
        base_model=subpath(input.weights, parent=True),
        folder=subpath(output[0], ancestor=2),
        settings=stage_settings(BaseStoriesSettings),
        seeds=STUDY.seeds,
    shell:
        "python workflow/scripts/tell_stories.py --base-model {params.base_model:q}"
        " --settings {params.settings:q} --seeds {params.seeds}"
        " --out {params.folder:q} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"


rule stories:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        policy=f"{POLICY}/model/model.safetensors",
        base=f"{STORIES}/base/seed={{seed}}.jsonl",
        code=code(script="tell_stories"),
    output:
        stories=f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl",
        forgetting=f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.base.jsonl",
    log:
        f"logs/{STUDY.name}/stories/{{variant}}/kl={{factor}}/seed={{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/stories/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(2 * story_work()),
        torch_threads=STUDY.threads,
        device=STUDY.device,
    params:
        base_model=subpath(input.weights, parent=True),
        policy=subpath(input.policy, parent=True),
        settings=stage_settings(StoriesSettings),
    shell:
        "python workflow/scripts/tell_stories.py --base-model {params.base_model:q}"
        " --policy {params.policy:q} --base-stories {input.base:q}"
        " --settings {params.settings:q} --seeds {wildcards.seed} --out {output.stories:q} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"


COMPLETIONS = f"{RESULTS}/completions"


# One job a study: the base's completions are rewarded once, and every completion is measured under
# every model.
rule completions:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        reference=rules.reference.output[0],
        policies=policy_weights(),
        code=code(script="sample_completions"),
    output:
        base=f"{COMPLETIONS}/base.csv",
        prompted=f"{COMPLETIONS}/prompted.csv",
        policies=per_policy(
            f"{COMPLETIONS}/{{variant}}/kl={{factor}}/seed={{seed}}.csv"
        ),
        first_token=f"{COMPLETIONS}/first_token.csv",
        log_probs=f"{COMPLETIONS}/log_probs.safetensors",
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
        torch_threads=STUDY.threads,
        device=STUDY.device,
    params:
        base_model=subpath(input.weights, parent=True),
        policies=spread(POLICY),
        encoder=subpath(input.encoder, parent=True),
        rewards=f"{RESULTS}/rewards",
        settings=stage_settings(CompletionsSettings),
        folder=subpath(output.first_token, parent=True),
    shell:
        "python workflow/scripts/sample_completions.py --base-model {params.base_model:q}"
        " --policies {params.policies} --encoder {params.encoder:q}"
        " --reference {input.reference:q} --rewards {params.rewards:q}"
        " --settings {params.settings:q} --out {params.folder:q}"
        " --device {resources.device} --threads {resources.torch_threads} 2> {log:q}"
