# Long stories for evaluation, and many short completions for the best achievable reward.


# One job for all seeds of the base model, prompted or not: the model is loaded once.
rule base_stories:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        manifest=f"{BASE_MODEL}/manifest.json",
    output:
        base=stories_of(layout.BASE),
        prompted=stories_of(layout.PROMPTED),
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
        policy=f"{POLICY}/{layout.WEIGHTS.name}",
        base=f"{RESULTS}/{layout.STORIES.pattern(layout.BASE.kind)}",
    output:
        stories=STORIES,
        forgetting=FORGETTING,
    log:
        f"logs/{STUDY.name}/{layout.STORIES.log}",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/{layout.STORIES.benchmark}"
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


# One job per study: rewards of the base model's completions are computed once, and log probabilities of
# every completion under every model.
rule completions:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        reference=rules.reference.output[0],
        policies=policy_weights(),
    output:
        base=f"{RESULTS}/{layout.COMPLETIONS.of(layout.BASE)}",
        prompted=f"{RESULTS}/{layout.COMPLETIONS.of(layout.PROMPTED)}",
        policies=per_policy(COMPLETIONS),
        first_token=f"{RESULTS}/{layout.FIRST_TOKEN}",
        log_probs=f"{RESULTS}/{layout.LOG_PROBS}",
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
        rewards=f"{RESULTS}/{layout.REWARDS}",
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
