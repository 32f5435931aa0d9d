# What base and policies tell: long stories for evaluation, many short completions for the limit.

STORIES = f"{RESULTS}/stories"


# One job for all seeds of the base and the prompted base: the model is loaded once.
rule base_stories:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        manifest=f"{BASE_MODEL}/manifest.json",
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
        torch_threads=config["threads"],
        device=config["device"],
    params:
        code=code(script="tell_stories"),
        base_model=subpath(input.weights, parent=True),
        folder=subpath(output[0], ancestor=2),
        stories=story_arguments(),
        forced=STUDY.prompted_with,
        seeds=STUDY.seeds,
    shell:
        "python workflow/scripts/tell_stories.py --base-model {params.base_model:q}"
        " {params.stories} --forced={params.forced:q} --seeds {params.seeds}"
        " --out {params.folder:q} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"


rule stories:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        policy=f"{POLICY}/model/model.safetensors",
        base=f"{STORIES}/base/seed={{seed}}.jsonl",
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
        torch_threads=config["threads"],
        device=config["device"],
    params:
        code=code(script="tell_stories"),
        base_model=subpath(input.weights, parent=True),
        policy=subpath(input.policy, parent=True),
        stories=story_arguments(),
    shell:
        "python workflow/scripts/tell_stories.py --base-model {params.base_model:q}"
        " --policy {params.policy:q} --base-stories {input.base:q} {params.stories}"
        " --seeds {wildcards.seed} --out {output.stories:q} --device {resources.device}"
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
        torch_threads=config["threads"],
        device=config["device"],
    params:
        code=code(script="sample_completions"),
        base_model=subpath(input.weights, parent=True),
        policies=spread(POLICY),
        encoder=subpath(input.encoder, parent=True),
        rewards=f"{RESULTS}/rewards",
        prompt=config["training"]["prompt"],
        forced=STUDY.prompted_with,
        num_tokens=config["training"]["num_tokens"],
        base_count=config["evaluation"]["base_completions"],
        policy_count=config["evaluation"]["policy_completions"],
        micro_batch=config["training"]["micro_batch"],
        folder=subpath(output.first_token, parent=True),
    shell:
        "python workflow/scripts/sample_completions.py --base-model {params.base_model:q}"
        " --policies {params.policies} --encoder {params.encoder:q}"
        " --reference {input.reference:q} --rewards {params.rewards:q}"
        " --prompt={params.prompt:q} --forced={params.forced:q} --num-tokens {params.num_tokens}"
        " --base-count {params.base_count} --policy-count {params.policy_count}"
        " --micro-batch {params.micro_batch} --out {params.folder:q}"
        " --device {resources.device} --threads {resources.torch_threads} 2> {log:q}"
