# The concept's embedding, and one policy for each variant, KL factor and seed.


rule reference:
    input:
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        manifest=f"{REWARD_ENCODER}/manifest.json",
        code=code(script="embed_reference"),
    output:
        f"{RESULTS}/reference/{STUDY.concept_slug}.safetensors",
    log:
        f"logs/{STUDY.name}/reference.log",
    benchmark:
        f"{RESULTS}/benchmarks/reference.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        encoder=subpath(input.encoder, parent=True),
        concept=as_it_is(STUDY.concept),
    shell:
        "python workflow/scripts/embed_reference.py --encoder {params.encoder:q}"
        " --concept={params.concept:q} --out {output:q} 2> {log:q}"


# A killed job goes on from its state file, which is no output: Snakemake would delete it.
rule policy:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        manifest=f"{BASE_MODEL}/manifest.json",
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        reference=rules.reference.output[0],
        code=code(script="train_policy"),
    output:
        weights=f"{POLICY}/model/model.safetensors",
        config=f"{POLICY}/model/config.json",
        tokenizer=f"{POLICY}/model/tokenizer.json",
        manifest=f"{POLICY}/model/manifest.json",
        training=f"{POLICY}/training.csv",
        top=f"{POLICY}/top_completions.csv",
        run=f"{POLICY}/run.json",
    log:
        f"logs/{STUDY.name}/policies/{{variant}}/kl={{factor}}/seed={{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/policies/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(training_work()),
        checkpoint_seconds=str(STUDY.training.checkpoint_seconds),
        torch_threads=STUDY.threads,
        device=STUDY.device,
    params:
        folder=subpath(output.run, parent=True),
        base_model=subpath(input.weights, parent=True),
        encoder=subpath(input.encoder, parent=True),
        rewards=f"{RESULTS}/rewards",
        settings=run_settings,
    shell:
        "python workflow/scripts/train_policy.py --base-model {params.base_model:q}"
        " --encoder {params.encoder:q} --reference {input.reference:q} --out {params.folder:q}"
        " --variant {wildcards.variant} --settings {params.settings:q} --rewards {params.rewards:q}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"
