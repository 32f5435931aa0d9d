# The reference embedding, and one policy for each variant, KL factor and seed.


REFERENCE = f"{RESULTS}/{layout.REFERENCE.format(concept=STUDY.concept_slug)}"


rule reference:
    input:
        encoder=rules.reward_encoder.output.weights,
        files=rules.reward_encoder.output,
    output:
        vector=REFERENCE,
        seals=seals(REFERENCE),
    log:
        f"logs/{STUDY.name}/reference.log",
    benchmark:
        f"{RESULTS}/benchmarks/reference.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="embed_reference"),
        encoder=subpath(input.encoder, parent=True),
        concept=as_it_is(STUDY.concept),
    message:
        "Embedding the concept: {params.concept}"
    shell:
        "run_script embed_reference --encoder {params.encoder:q}"
        " --concept={params.concept:q} --out {output.vector:q} 2> {log:q}"


# A killed job resumes from its checkpoint, which is no output: Snakemake would delete it.
rule policy:
    input:
        **reward_input(),
        weights=rules.base_model.output.weights,
        files=rules.base_model.output,
    output:
        weights=f"{POLICY}/{layout.WEIGHTS.name}",
        config=f"{POLICY}/model/config.json",
        tokenizer=f"{POLICY}/model/tokenizer.json",
        others=f"{POLICY}/model/{ARCHIVE}",
        manifest=f"{POLICY}/model/manifest.json",
        training=f"{POLICY}/{layout.TRAINING.name}",
        top=f"{POLICY}/{layout.TOP_COMPLETIONS.name}",
        run=f"{POLICY}/{layout.RUN.name}",
        seals=seals(
            *(
                f"{POLICY}/{file.name}"
                for file in (layout.TRAINING, layout.TOP_COMPLETIONS, layout.RUN)
            )
        ),
    log:
        f"logs/{STUDY.name}/{layout.POLICY_FOLDER.log.pattern()}",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/{layout.POLICY_FOLDER.benchmark.pattern()}"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=training_minutes,
        checkpoint_seconds=str(STUDY.training.checkpoint_seconds),
        tensorboard=str(STUDY.training.tensorboard).lower(),
        torch_threads=torch_threads(len(run_files())),
        device=STUDY.device,
    params:
        code=code(script="train_policy"),
        folder=subpath(output.run, parent=True),
        base_model=subpath(input.weights, parent=True),
        reward=reward_words,
        rewards=f"{RESULTS}/{layout.REWARDS}",
        settings=run_settings,
        size=training_size,
    message:
        f"Training: {WHO} ({{params.size}})"
    shell:
        "run_script train_policy --base-model {params.base_model:q}"
        " {params.reward:q} --out {params.folder:q}"
        " --variant {wildcards.variant} --settings {params.settings:q} --rewards {params.rewards:q}"
        " --checkpoint-seconds {resources.checkpoint_seconds}"
        " --tensorboard {resources.tensorboard} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"
